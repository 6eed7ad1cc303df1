//! What the gate costs a request: the same requests direct and proxied, in one run, as CPU time a request of all
//! parties together; the difference is the gate's. `cargo bench --bench end_to_end [requests]`
#![allow(clippy::print_stdout, reason = "it prints its figures")]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use wicketgate::app::App;
use wicketgate::demo::issuer::{Issuer, Resource, Settings, TokenRequest};
use wicketgate::policy::Listen;
use wicketgate::reload::Source;

const RESOURCE: &str = "https://api.weather.example";
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 5;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let requests: usize = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(20_000);
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let settings = Settings { resources: vec![Resource::new(RESOURCE, &[])], ..Settings::default() };
    let issuer = Issuer::start(loopback, settings).await?;
    let upstream = upstream(loopback).await?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("wicketgate.yaml");
    let yaml = format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nissuer: {}\nservices:\n  - name: weather\n    resource: {RESOURCE}\n    upstream: http://{upstream}\n    routes:\n      GET /forecast/{{city}}: read:weather\n      GET /public: public\n",
        issuer.url()
    );
    std::fs::write(&path, yaml)?;
    let source = Source::new(&path);
    let loaded = source.load()?;
    let app = App::start(source, loaded, None).await?;
    let Some(Listen::Tcp(gate)) = app.addresses().into_iter().next() else { return Err("no listener".into()) };
    let token =
        issuer.token(TokenRequest { resource: RESOURCE.to_owned(), scope: Some("read:weather".to_owned()), ..TokenRequest::default() });
    let token: Arc<str> = token.into();
    println!("{requests} requests a round over {CONNECTIONS} connections, {ROUNDS} rounds, CPU µs a request (all parties, one thread)");
    let mut least = [f64::MAX; 3];
    for round in 1..=ROUNDS {
        let direct = measure(upstream, "/forecast/oslo", &token, requests).await?;
        let public = measure(gate, "/public", &token, requests).await?;
        let scoped = measure(gate, "/forecast/oslo", &token, requests).await?;
        println!("round {round}: direct {direct:.1}  proxied, public {public:.1}  proxied, remembered token {scoped:.1}");
        for (least, found) in least.iter_mut().zip([direct, public, scoped]) {
            *least = least.min(found);
        }
    }
    let [direct, public, scoped] = least;
    println!(
        "least:   direct {direct:.1}  gate's share, public {:.1}  gate's share, remembered token {:.1}",
        public - direct,
        scoped - direct
    );
    Ok(())
}

/// A service that answers everything with a few bytes.
async fn upstream(address: SocketAddr) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let answer = service_fn(|_: Request<Incoming>| async {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{\"sky\":\"clear\"}"))))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok(address)
}

async fn measure(address: SocketAddr, target: &'static str, token: &Arc<str>, requests: usize) -> Result<f64, BoxError> {
    let before = cpu_microseconds()?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(tokio::spawn(client(address, target, token.clone(), requests / CONNECTIONS)));
    }
    for client in clients {
        client.await??;
    }
    Ok((cpu_microseconds()? - before) / requests as f64)
}

async fn client(address: SocketAddr, target: &'static str, token: Arc<str>, requests: usize) -> Result<(), BoxError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    for _ in 0..requests {
        let request =
            Request::get(target).header("host", "gate").header("authorization", format!("Bearer {token}")).body(Empty::<Bytes>::new())?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        if response.status() != 200 {
            return Err(format!("status {}", response.status()).into());
        }
        response.into_body().collect().await?;
    }
    Ok(())
}

/// CPU time of this process, user and system, in microseconds.
fn cpu_microseconds() -> Result<f64, BoxError> {
    const TICK_MICROSECONDS: f64 = 10_000.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) * TICK_MICROSECONDS)
}
