//! WeatherBot: another developer's agent, which knows a service only by its address and asks each user for access.

use std::io;
use std::net::SocketAddr;

use askama::Template;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::issuer::Issuer;
use super::page;
use super::server::{self, Reply, Server};

/// What the developer of an agent has: a registration with an issuer, and the address of an API.
pub struct WeatherBotSettings {
    pub client_id: String,
    pub client_secret: String,
    /// The issuer where it is registered: the secret goes to no other.
    pub issuer: String,
    /// Where the API is: the gate's address. All else is discovered from there.
    pub api: String,
    /// Where the demo begins, for a link back.
    pub start_page: String,
    /// The demo's own issuer, if it is to be commanded from the page.
    pub controls: Option<Issuer>,
}

/// A running agent. It ends when it is stopped or dropped.
pub struct WeatherBot(Server);

impl WeatherBot {
    /// Where the issuer sends the browser back to: it must know this address beforehand.
    pub fn redirect_uri(address: SocketAddr) -> String {
        format!("http://{address}/callback")
    }

    /// Where the issuer sends the browser after signing out.
    pub fn post_logout_redirect_uri(address: SocketAddr) -> String {
        format!("http://{address}/")
    }

    /// Starts on a loopback address.
    pub async fn start(address: SocketAddr, settings: WeatherBotSettings) -> io::Result<Self> {
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
#[template(path = "weatherbot.html")]
struct View<'a> {
    start_page: &'a str,
}

fn answer(own: SocketAddr, settings: &WeatherBotSettings, request: &Request<Incoming>) -> Reply {
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
