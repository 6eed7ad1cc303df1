//! WeatherBot: another developer's agent, which knows a service only by its address and asks each user for access.
//!
//! Read `agent.rs` for how it gets an answer; what it keeps of a visitor is in `visit.rs`.

mod agent;
mod control;
mod question;
mod view;
mod visit;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use url::Url;

use super::event::event;
use super::issuer::Issuer;
use super::oauth_client::Client;
use super::page::{self, Form};
use super::server::{self, Reply, Server};
use super::session::{Sessions, Visitor};
use agent::Next;
use question::{QUESTION_CHARS_MAX, Question};
use visit::Visit;

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
        format!("http://{address}{CALLBACK}")
    }

    /// Where the issuer sends the browser after signing out.
    pub fn post_logout_redirect_uri(address: SocketAddr) -> String {
        format!("http://{address}/")
    }

    /// Starts on a loopback address.
    pub async fn start(address: SocketAddr, settings: WeatherBotSettings) -> io::Result<Self> {
        let WeatherBotSettings { client_id, client_secret, issuer, api, start_page, controls } = settings;
        let listener = server::bind(address).await?;
        let own = listener.local_addr()?;
        let api = Url::parse(&api).ok().filter(|api| api.has_host());
        let bot = Arc::new(Bot {
            own,
            client: Client::new(client_id, client_secret, issuer, Self::redirect_uri(own))?,
            api: api.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the API has no web address"))?,
            start_page,
            controls,
            sessions: Sessions::new("weatherbot_session"),
        });
        Server::start(listener, move |request| answer(bot.clone(), request)).map(Self)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Closes the port and all connections, and waits for it.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

const CALLBACK: &str = "/callback";

/// The agent's backend.
struct Bot {
    own: SocketAddr,
    client: Client,
    api: Url,
    start_page: String,
    controls: Option<Issuer>,
    sessions: Sessions<Visit>,
}

async fn answer(bot: Arc<Bot>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    if let Some(reply) = page::wrong_host(bot.own, &head.headers, target) {
        return reply;
    }
    match (&head.method, head.uri.path()) {
        (&Method::GET | &Method::HEAD, "/") => home(&bot, &head).await,
        (&Method::GET | &Method::HEAD, "/style.css") => page::style(),
        (&Method::GET, CALLBACK) => callback(&bot, &head).await,
        (&Method::POST, _) => act(&bot, &head, body).await,
        _ => server::reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", Bytes::from_static(b"nothing here\n")),
    }
}

async fn home(bot: &Bot, head: &Parts) -> Reply {
    let visitor = bot.sessions.find(&head.headers).unwrap_or_else(|| bot.sessions.begin());
    let visit = visitor.state.lock().await;
    let mut reply = view::home(bot, &visitor.form_secret, &visit);
    bot.sessions.name(&visitor, &mut reply);
    reply
}

/// Where the issuer sends the browser back to.
async fn callback(bot: &Bot, head: &Parts) -> Reply {
    let query = head.uri.query().unwrap_or_default();
    let url = Url::parse(&format!("http://{}{CALLBACK}?{query}", bot.own)).ok();
    let (Some(visitor), Some(url)) = (bot.sessions.find(&head.headers), url) else {
        return view::problem(bot, StatusCode::BAD_REQUEST, "This browser has no session here, so nothing was asked for it.");
    };
    let mut visit = visitor.state.lock().await;
    let next = agent::come_back(bot, &mut visit, &Form::parse(query.as_bytes()), &url).await;
    let next = match next {
        Ok(next) => next,
        Err(fault) => {
            event("WeatherBot", "a callback", "refused", &fault.to_string());
            return view::problem(bot, StatusCode::BAD_REQUEST, &fault.to_string());
        }
    };
    drop(visit);
    let mut reply = go(bot, next);
    bot.sessions.name(&bot.sessions.renew(&visitor), &mut reply);
    reply
}

/// A form of the page was sent.
async fn act(bot: &Bot, head: &Parts, body: Incoming) -> Reply {
    let form = match Form::read(body).await {
        Ok(form) => form,
        Err(status) => return view::problem(bot, status, "The form could not be read."),
    };
    let Some(visitor) = bot.sessions.find(&head.headers) else {
        return view::problem(bot, StatusCode::BAD_REQUEST, "Your session is over. Begin anew.");
    };
    if !page::same_secret(&visitor.form_secret, form.one("form_secret")) {
        return view::problem(bot, StatusCode::FORBIDDEN, "The form is not from this page, or from an earlier session. Nothing was done.");
    }
    let mut visit = visitor.state.lock().await;
    let next = match head.uri.path() {
        "/ask" => ask(bot, &mut visit, form.one("question").unwrap_or_default()).await,
        "/write" => agent::ask(bot, &mut visit, Question::report("Oslo"), true).await,
        "/step-up" => match visit.refused.take() {
            Some(Question { kind, .. }) => {
                let question = Question { text: "Go ahead and ask me for it.".to_owned(), kind };
                agent::ask(bot, &mut visit, question, true).await
            }
            None => Next::Stay,
        },
        "/sign-out" => {
            let next = control::sign_out(bot, &mut visit).await;
            drop(visit);
            return ended(bot, &visitor, next);
        }
        "/forget" => control::forget(bot, &mut visit).await,
        "/refresh" => control::refresh(bot, &mut visit).await,
        "/withdraw" => control::withdraw_consent(bot, &mut visit),
        "/rotate" => control::rotate_keys(bot, &mut visit),
        _ => return view::problem(bot, StatusCode::NOT_FOUND, "There is no such button."),
    };
    go(bot, next)
}

async fn ask(bot: &Bot, visit: &mut Visit, text: &str) -> Next {
    if text.chars().count() > QUESTION_CHARS_MAX {
        visit.say("note", format!("That is too long for me; {QUESTION_CHARS_MAX} characters are the most."));
        return Next::Stay;
    }
    match Question::understand(text) {
        Some(question) => agent::ask(bot, visit, question, false).await,
        None => {
            visit.asks(text);
            visit.say(
                "note",
                "I know about the weather alone. Try “Weather in Oslo?”, “Which cities did I save?” or “Report snow in Oslo.”",
            );
            Next::Stay
        }
    }
}

fn ended(bot: &Bot, visitor: &Visitor<Visit>, next: Next) -> Reply {
    bot.sessions.end(visitor);
    let mut reply = go(bot, next);
    bot.sessions.unname(&mut reply);
    reply
}

fn go(bot: &Bot, next: Next) -> Reply {
    match next {
        Next::Stay => page::see_other("/"),
        // The page's policy lets its forms lead to the issuer's origin; to another one, only a click of the user's leads.
        Next::Leave(url) if view::form_origins(bot).contains(&url.origin().ascii_serialization()) => page::see_other(url.as_str()),
        Next::Leave(url) => view::leave(bot, &url),
    }
}
