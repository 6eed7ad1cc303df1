//! The company's own weather app: it signs its users in with the issuer, and nobody is asked for consent.

use std::io;
use std::net::SocketAddr;

use askama::Template;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::page;
use super::server::{self, Reply, Server};

/// What the app knows by configuration, since it belongs to the company whose service it uses.
pub struct OfficialAppSettings {
    pub client_id: String,
    pub client_secret: String,
    /// The issuer identifier.
    pub issuer: String,
    /// Where the API is: the gate's address.
    pub api: String,
    /// The API's resource indicator.
    pub resource: String,
    /// Where the demo begins, for a link back.
    pub start_page: String,
}

/// A running app. It ends when it is stopped or dropped.
pub struct OfficialApp(Server);

impl OfficialApp {
    /// Where the issuer sends the browser back to: it must know this address beforehand.
    pub fn redirect_uri(address: SocketAddr) -> String {
        format!("http://{address}/callback")
    }

    /// Where the issuer sends the browser after signing out.
    pub fn post_logout_redirect_uri(address: SocketAddr) -> String {
        format!("http://{address}/")
    }

    /// Starts on a loopback address.
    pub async fn start(address: SocketAddr, settings: OfficialAppSettings) -> io::Result<Self> {
        let listener = server::bind(address).await?;
        let own = listener.local_addr()?;
        let settings = std::sync::Arc::new(settings);
        Server::start(listener, move |request| {
            let reply = answer(own, &settings, &request);
            async { reply }
        })
        .map(Self)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Closes the port and all connections, and waits for it.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

#[derive(Template)]
#[template(path = "official_app.html")]
struct View<'a> {
    start_page: &'a str,
}

fn answer(own: SocketAddr, settings: &OfficialAppSettings, request: &Request<Incoming>) -> Reply {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if let Some(reply) = page::wrong_host(own, request.headers(), path) {
        return reply;
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => page::html(StatusCode::OK, &View { start_page: &settings.start_page }, &[]),
        (&Method::GET | &Method::HEAD, "/style.css") => page::style(),
        _ => server::reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", bytes::Bytes::from_static(b"nothing here\n")),
    }
}
