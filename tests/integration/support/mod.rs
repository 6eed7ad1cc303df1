//! Builders that let a test read as prose: an issuer, an upstream, a gate between them, a client, the assertion.
//! Everything listens on loopback at a port that the system chose.

mod authority;
mod browser;
mod client;
mod gate;
mod http2;
mod http2_upstream;
pub mod logto;
mod mortal;
mod signer;
mod tls;
mod upstream;

pub use authority::{Authority, Caller, Party, TLS_1_2, TLS_1_3};
pub use browser::{Browser, Page};
pub use client::{Answer, Ask, Connection};
pub use gate::{Gate, GateBuilder, gate};
pub use http2::{Http2, Incoming, take_nothing_more};
pub use http2_upstream::{answer_ok, http2_upstream, serve_http2};
pub use mortal::Mortal;
pub use signer::{Signer, handshake_of};
pub use tls::{Certificate, connect_tls};
pub use upstream::{Calls, Received, Upstream, read_request};

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use wicketgate::demo::issuer::{Application, Issuer, Resource, Settings, TokenRequest};

/// The resource of every test service that names no other.
pub const RESOURCE: &str = "https://api.weather.example";

/// The longest that a test waits for anything: far above what it takes, so that only a hang meets it.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A port that nobody listens on, and that the system gives to nobody who asks for any while this lives. Whoever names
/// it can still bind it.
pub struct Reserved {
    _socket: socket2::Socket,
    pub address: SocketAddr,
}

pub fn reserve() -> Reserved {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&loopback().into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    Reserved { _socket: socket, address }
}

/// An issuer that behaves as Logto does, for [`RESOURCE`].
pub async fn issuer() -> Issuer {
    issuer_at(loopback()).await
}

/// The same at an address, for an issuer that comes back.
pub async fn issuer_at(address: SocketAddr) -> Issuer {
    // reqwest and the gate use the process's one provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = Settings {
        resources: vec![Resource::new(RESOURCE, &[("read:weather", "Read"), ("write:weather", "Write")])],
        applications: vec![Application::machine("agent", "secret", &["read:weather", "write:weather"])],
        ..Settings::default()
    };
    Issuer::start(address, settings).await.unwrap()
}

/// A token of Alice's for WeatherBot, with these scopes.
pub fn token(issuer: &Issuer, scope: &str) -> String {
    issuer.token(TokenRequest {
        subject: "alice".to_owned(),
        client_id: "weatherbot".to_owned(),
        resource: RESOURCE.to_owned(),
        scope: Some(scope.to_owned()).filter(|scope| !scope.is_empty()),
        ..TokenRequest::default()
    })
}

/// Waits for something with the patience of a test.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Asks again and again until the answer is yes. For states that have no event to wait for.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    soon(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
