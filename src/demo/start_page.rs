//! The page that the demo begins with: who takes part, where each of them is, and what to click in which order.

use std::io;
use std::net::SocketAddr;

use askama::Template;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::page;
use super::server::{self, Reply, Server};

/// Where everybody is: addresses without a slash at the end.
pub struct StartPageSettings {
    /// Without one, where the issuer knows no such app.
    pub official_app: Option<String>,
    pub weatherbot: String,
    pub gate: String,
    pub admin: String,
    /// The issuer identifier.
    pub issuer: String,
    /// Of the API, as tokens name it.
    pub resource: String,
    pub service: String,
    pub config_path: String,
    /// Not the demo's own issuer: then it has other people, and nobody here can command it.
    pub external_issuer: bool,
}

/// A running start page. It ends when it is stopped or dropped.
pub struct StartPage(Server);

impl StartPage {
    /// Starts on a loopback address. Port 0 takes a free one.
    pub async fn start(address: SocketAddr, settings: StartPageSettings) -> io::Result<Self> {
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
#[template(path = "start_page.html")]
struct View<'a> {
    at: &'a StartPageSettings,
}

fn answer(own: SocketAddr, settings: &StartPageSettings, request: &Request<Incoming>) -> Reply {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if let Some(reply) = page::wrong_host(own, request.headers(), path) {
        return reply;
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => page::html(StatusCode::OK, &View { at: settings }, &[]),
        (&Method::GET | &Method::HEAD, "/style.css") => page::style(),
        _ => server::reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", bytes::Bytes::from_static(b"nothing here\n")),
    }
}
