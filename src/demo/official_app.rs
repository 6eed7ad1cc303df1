//! The company's own weather app: it signs its users in with the issuer, and nobody is asked for consent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use askama::Template;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::Value;
use url::Url;

use super::event::event;
use super::forecast::{Day, days, saved_cities};
use super::oauth_client::{Answered, Client, IssuerMetadata, Pending, Person, Tokens, Trouble, check_callback};
use super::page::{self, Form};
use super::server::{self, Reply, Server};
use super::session::{Sessions, Visitor};
use super::wire::{Party, Wire};
use crate::clock;

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

const WHO: &str = "the official app";
const CALLBACK: &str = "/callback";
/// The first is shown to who chose none.
const CITIES: [&str; 6] = ["Oslo", "Bergen", "Kyoto", "Lima", "Nairobi", "Wellington"];

impl OfficialApp {
    /// Where the issuer sends the browser back to: it must know this address beforehand.
    pub fn redirect_uri(address: SocketAddr) -> String {
        format!("http://{address}{CALLBACK}")
    }

    /// Where the issuer sends the browser after signing out.
    pub fn post_logout_redirect_uri(address: SocketAddr) -> String {
        format!("http://{address}/")
    }

    /// Starts on a loopback address.
    pub async fn start(address: SocketAddr, settings: OfficialAppSettings) -> io::Result<Self> {
        let OfficialAppSettings { client_id, client_secret, issuer, api, resource, start_page } = settings;
        let listener = server::bind(address).await?;
        let own = listener.local_addr()?;
        let api = Url::parse(&api).ok().filter(|api| api.has_host());
        let app = Arc::new(App {
            own,
            client: Client::new(client_id, client_secret, issuer, Self::redirect_uri(own))?,
            api: api.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the API has no web address"))?,
            resource,
            start_page,
            sessions: Sessions::new("official_app_session"),
        });
        Server::start(listener, move |request| answer(app.clone(), request)).map(Self)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Closes the port and all connections, and waits for it.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

/// The app's backend.
struct App {
    own: SocketAddr,
    client: Client,
    api: Url,
    resource: String,
    start_page: String,
    sessions: Sessions<Visit>,
}

/// What the app keeps of a visitor.
#[derive(Default)]
struct Visit {
    pending: Option<Pending>,
    member: Option<Member>,
    /// Told once, on the next page.
    notice: Option<String>,
}

struct Member {
    person: Person,
    tokens: Tokens,
    issuer: Arc<IssuerMetadata>,
}

async fn answer(app: Arc<App>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    if let Some(reply) = page::wrong_host(app.own, &head.headers, target) {
        return reply;
    }
    match (&head.method, head.uri.path()) {
        (&Method::GET | &Method::HEAD, "/") => home(&app, &head).await,
        (&Method::GET | &Method::HEAD, "/style.css") => page::style(),
        (&Method::GET, CALLBACK) => callback(&app, &head).await,
        (&Method::POST, "/sign-in" | "/sign-out") => act(&app, &head, body).await,
        _ => server::reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", Bytes::from_static(b"nothing here\n")),
    }
}

async fn home(app: &App, head: &Parts) -> Reply {
    let visitor = app.sessions.find(&head.headers).unwrap_or_else(|| app.sessions.begin());
    let mut visit = visitor.state.lock().await;
    let query = Form::parse(head.uri.query().unwrap_or_default().as_bytes());
    let wanted = query.one("city").unwrap_or_default();
    let city = CITIES.into_iter().find(|city| *city == wanted).unwrap_or(CITIES[0]);
    let weather = match &visit.member {
        Some(member) => Some(weather(app, member, city).await),
        None => None,
    };
    if matches!(&weather, Some(Err(Refused::Token))) {
        // Without a refresh token, a new one takes a way past the issuer, where the user is still signed in.
        visit.member = None;
        visit.notice = Some("Your sign-in has ended. Sign in again to go on.".to_owned());
    }
    let problem = match &weather {
        Some(Err(Refused::Otherwise(reason))) => Some(reason.clone()),
        _ => None,
    };
    let view = Home {
        form_secret: &visitor.form_secret,
        start_page: &app.start_page,
        name: visit.member.as_ref().map(|member| member.person.name.as_deref().unwrap_or(&member.person.subject)),
        notice: visit.notice.as_deref(),
        problem,
        city,
        cities: CITIES.into_iter().map(|other| (other, other == city)).collect(),
        weather: weather.and_then(Result::ok),
    };
    let mut reply = page::html(StatusCode::OK, &view, &form_origins(app));
    app.sessions.name(&visitor, &mut reply);
    visit.notice = None;
    reply
}

struct Weather {
    days: Vec<Day>,
    saved: Vec<String>,
}

enum Refused {
    /// The token is no good any more.
    Token,
    Otherwise(String),
}

async fn weather(app: &App, member: &Member, city: &str) -> Result<Weather, Refused> {
    if member.tokens.is_expired(clock::unix_now()) {
        return Err(Refused::Token);
    }
    let forecast = call(app, member, &["forecast", city]).await?;
    let saved = call(app, member, &["me", "saved-cities"]).await?;
    Ok(Weather { days: days(&forecast), saved: saved_cities(&saved) })
}

async fn call(app: &App, member: &Member, path: &[&str]) -> Result<Value, Refused> {
    let mut url = app.api.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    let request = Request::get(url.as_str()).header(header::ACCEPT, "application/json");
    let request = request.header(header::AUTHORIZATION, format!("Bearer {}", member.tokens.access.expose())).body(Vec::new());
    let request = request.map_err(|_| Refused::Token)?;
    // Nobody looks at this app's wire.
    let answer = app.client.http.exchange(&mut Wire::default(), Party::Gate, "", request).await;
    let answer = answer.map_err(|trouble| Refused::Otherwise(trouble.to_string()))?;
    match answer.status {
        StatusCode::OK => Ok(answer.json().unwrap_or_default()),
        StatusCode::UNAUTHORIZED => Err(Refused::Token),
        StatusCode::FORBIDDEN => {
            Err(Refused::Otherwise("Your account may not see the weather. Its administrator can change that.".to_owned()))
        }
        status => Err(Refused::Otherwise(format!("The weather cannot be had now (status {}).", status.as_u16()))),
    }
}

async fn act(app: &App, head: &Parts, body: Incoming) -> Reply {
    let form = match Form::read(body).await {
        Ok(form) => form,
        Err(status) => return problem(status, "The form could not be read."),
    };
    let Some(visitor) = app.sessions.find(&head.headers) else {
        return problem(StatusCode::BAD_REQUEST, "Your session is over. Begin anew.");
    };
    if !page::same_secret(&visitor.form_secret, form.one("form_secret")) {
        return problem(StatusCode::FORBIDDEN, "The form is not from this page, or from an earlier session. Nothing was done.");
    }
    match head.uri.path() {
        "/sign-out" => sign_out(app, &visitor).await,
        _ => match sign_in(app, &mut *visitor.state.lock().await).await {
            Ok(url) => leave(app, &url),
            Err(trouble) => problem(StatusCode::BAD_GATEWAY, &format!("The sign-in cannot be reached. {trouble}")),
        },
    }
}

/// Where to send the browser. No prompt is asked for: who is signed in at the issuer comes straight back.
async fn sign_in(app: &App, visit: &mut Visit) -> Result<Url, Trouble> {
    let issuer = app.client.discover(&mut Wire::default()).await?;
    let scopes = ["openid", "profile"].into_iter().filter(|scope| issuer.knows_scope(scope)).chain(["read:weather"]);
    let pending = Pending::new(issuer.clone(), &app.resource, scopes.map(str::to_owned).collect());
    let url = app.client.authorization_url(&pending, None)?;
    visit.pending = Some(pending);
    event(WHO, "a user", "sent to sign in", "no consent is needed");
    Ok(url)
}

async fn callback(app: &App, head: &Parts) -> Reply {
    let Some(visitor) = app.sessions.find(&head.headers) else {
        return problem(StatusCode::BAD_REQUEST, "This browser has no session here, so nothing was asked for it.");
    };
    let mut visit = visitor.state.lock().await;
    let query = Form::parse(head.uri.query().unwrap_or_default().as_bytes());
    let answered = match check_callback(visit.pending.as_ref(), &query) {
        Ok(answered) => answered,
        Err(fault) => return problem(StatusCode::BAD_REQUEST, &fault.to_string()),
    };
    // From here on it is used up, whatever comes of it.
    let pending = visit.pending.take();
    match (answered, pending) {
        (Answered::Code(code), Some(pending)) => match app.client.exchange_code(&mut Wire::default(), &pending, &code).await {
            Ok((tokens, person)) => {
                event(WHO, "a user", "signed in", "nobody was asked for consent");
                visit.member = Some(Member { person, tokens, issuer: pending.issuer });
            }
            Err(trouble) => return problem(StatusCode::BAD_GATEWAY, &format!("The sign-in could not be finished. {trouble}")),
        },
        (Answered::Refused { error, description }, _) => {
            return problem(StatusCode::BAD_REQUEST, &format!("The issuer answered with an error: {error}. {description}"));
        }
        _ => visit.notice = Some("You did not sign in.".to_owned()),
    }
    drop(visit);
    let mut reply = page::see_other("/");
    app.sessions.name(&app.sessions.renew(&visitor), &mut reply);
    reply
}

/// Ends the session here and, if the issuer has a place for it, there.
async fn sign_out(app: &App, visitor: &Visitor<Visit>) -> Reply {
    let member = visitor.state.lock().await.member.take();
    app.sessions.end(visitor);
    let back_to = OfficialApp::post_logout_redirect_uri(app.own);
    let mut reply = match member.and_then(|member| app.client.end_session_url(&member.issuer, &back_to)) {
        Some(url) => leave(app, &url),
        None => page::see_other("/"),
    };
    app.sessions.unname(&mut reply);
    reply
}

/// Where forms may lead by way of redirects: to the issuer's sign-in.
fn form_origins(app: &App) -> Vec<String> {
    Url::parse(&app.client.issuer).map(|issuer| issuer.origin().ascii_serialization()).into_iter().collect()
}

/// The page's policy lets its forms lead to the issuer's origin; to another one, only a click of the user's leads.
fn leave(app: &App, url: &Url) -> Reply {
    if form_origins(app).contains(&url.origin().ascii_serialization()) {
        return page::see_other(url.as_str());
    }
    let view = Notice { title: "On to the sign-in", text: "It is at another address.", link: url.as_str(), link_text: "Continue" };
    page::html(StatusCode::OK, &view, &[])
}

fn problem(status: StatusCode, text: &str) -> Reply {
    page::html(status, &Notice { title: "That did not work", text, link: "/", link_text: "Back to the weather" }, &[])
}

#[derive(Template)]
#[template(path = "official_app.html")]
struct Home<'a> {
    form_secret: &'a str,
    start_page: &'a str,
    name: Option<&'a str>,
    notice: Option<&'a str>,
    problem: Option<String>,
    city: &'static str,
    /// Each with whether it is the one that is shown.
    cities: Vec<(&'static str, bool)>,
    weather: Option<Weather>,
}

#[derive(Template)]
#[template(path = "official_app_notice.html")]
struct Notice<'a> {
    title: &'a str,
    text: &'a str,
    link: &'a str,
    link_text: &'a str,
}
