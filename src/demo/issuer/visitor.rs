//! For tests: an issuer with everything in it, and a visitor whose browser keeps cookies and follows nothing by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderMap;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::{Application, ApplicationKind, Ceiling, Issuer, Lifetimes, Resource, Settings, User};

pub const WEATHER: &str = "https://api.weather.example";
pub const SECOND: &str = "https://api.second.example";
pub const CALLBACK: &str = "http://127.0.0.1:9999/callback";
pub const VERIFIER: &str = "a-verifier-of-the-least-length-that-is-allowed";

pub async fn start() -> Issuer {
    start_with(Lifetimes::default()).await
}

pub async fn start_with(lifetimes: Lifetimes) -> Issuer {
    let weather =
        Resource::new(WEATHER, &[("read:weather", "See the <forecast>"), ("write:weather", "Change the forecast")]).named("Weather");
    let second = Resource::new(SECOND, &[("read:second", "See the second")]);
    let read = weather.scope("read:weather").map(|scope| scope.id.clone()).into_iter().collect();
    let ceiling = Ceiling { user_scopes: vec!["profile".to_owned(), "email".to_owned()], resource_scopes: read };
    let public = |id: &str, third_party| Application {
        redirect_uris: vec![CALLBACK.to_owned()],
        third_party,
        ceiling: ceiling.clone(),
        ..Application::new(id, "", ApplicationKind::Spa)
    };
    let mut official = Application::first_party("official", "s3cret", CALLBACK);
    official.redirect_uris.push(format!("{CALLBACK}?tenant=a"));
    official.post_logout_redirect_uris.push("http://127.0.0.1:9999/bye".to_owned());
    let settings = Settings {
        resources: vec![weather, second],
        applications: vec![
            official,
            Application::third_party("weatherbot", "s3cret", CALLBACK, ceiling.clone()).named("Weather <Bot>"),
            Application::third_party("nothing", "s3cret", CALLBACK, Ceiling::default()),
            public("spa", true),
            public("own-spa", false),
            Application::machine("cron", "s3cret", &["read:weather"]),
        ],
        users: vec![
            User::new("alice", "Alice", "demo", &["read:weather", "write:weather", "read:second"]),
            User::new("bob", "Bob", "demo", &[]),
        ],
        lifetimes,
        ..Settings::default()
    };
    Issuer::start(SocketAddr::from(([127, 0, 0, 1], 0)), settings).await.unwrap()
}

pub fn client() -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

pub fn challenge() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()))
}

/// Names and values of a query or a form.
pub type Fields<'f> = &'f [(&'f str, &'f str)];

/// A browser.
pub struct Visitor {
    client: Client,
    origin: String,
    pub cookies: BTreeMap<String, String>,
}

/// What it was answered.
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Visitor {
    pub fn of(issuer: &Issuer) -> Self {
        Self { client: client(), origin: format!("http://{}", issuer.address()), cookies: BTreeMap::new() }
    }

    async fn send(&mut self, request: RequestBuilder) -> Page {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let response = request.header("cookie", cookies.join("; ")).send().await.unwrap();
        for cookie in response.headers().get_all("set-cookie") {
            let cookie = cookie::Cookie::parse(cookie.to_str().unwrap().to_owned()).unwrap();
            assert_eq!((cookie.http_only(), cookie.same_site()), (Some(true), Some(cookie::SameSite::Lax)));
            match cookie.value() {
                "" => self.cookies.remove(cookie.name()),
                value => self.cookies.insert(cookie.name().to_owned(), value.to_owned()),
            };
        }
        Page::of(response).await
    }

    /// A path of the issuer's.
    pub async fn get(&mut self, path: &str) -> Page {
        let request = self.client.get(format!("{}{path}", self.origin));
        self.send(request).await
    }

    pub async fn post(&mut self, path: &str, form: Fields<'_>) -> Page {
        let request = self.client.post(format!("{}{path}", self.origin));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(encoded(form));
        self.send(request).await
    }

    /// An application's question, with everything that is not said otherwise in order. An empty value leaves one out.
    pub async fn authorize(&mut self, client_id: &str, parameters: Fields<'_>) -> Page {
        self.get(&format!("/oidc/auth?{}", question(client_id, parameters))).await
    }

    /// Follows to the sign-in page and signs in there.
    pub async fn sign_in(&mut self, at: &Page, user: &str) -> Page {
        let page = self.get(at.location()).await;
        assert_eq!(page.status, 200, "{}", page.body);
        self.submit_sign_in(&page, user, "demo").await
    }

    pub async fn submit_sign_in(&mut self, page: &Page, user: &str, password: &str) -> Page {
        let (interaction, csrf) = (page.field("interaction"), page.field("csrf"));
        self.post("/sign-in", &[("interaction", &interaction), ("csrf", &csrf), ("user", user), ("password", password)]).await
    }

    /// Follows to the consent page and presses a button there.
    pub async fn consent(&mut self, at: &Page, decision: &str) -> Page {
        let page = self.get(at.location()).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let (interaction, csrf) = (page.field("interaction"), page.field("csrf"));
        self.post("/consent", &[("interaction", &interaction), ("csrf", &csrf), ("decision", decision)]).await
    }

    /// The whole way, with everything in order: the code.
    pub async fn code(&mut self, client_id: &str, user: &str, parameters: Fields<'_>) -> String {
        let mut page = self.authorize(client_id, parameters).await;
        if page.location().starts_with("/sign-in") {
            page = self.sign_in(&page, user).await;
        }
        if page.location().starts_with("/consent") {
            page = self.consent(&page, "allow").await;
        }
        page.answer("code").unwrap()
    }
}

impl Page {
    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: String::from_utf8(response.bytes().await.unwrap().to_vec()).unwrap() }
    }

    pub fn location(&self) -> &str {
        assert_eq!(self.status, 303, "{}", self.body);
        self.headers["location"].to_str().unwrap()
    }

    /// The value of a hidden field.
    pub fn field(&self, name: &str) -> String {
        let start = format!(r#"name="{name}" value=""#);
        let rest = self.body.split(&start).nth(1).unwrap_or_else(|| panic!("no {name} in {}", self.body));
        rest.split('"').next().unwrap().to_owned()
    }

    /// A parameter that the browser brings back to the application.
    pub fn answer(&self, name: &str) -> Option<String> {
        let url = Url::parse(self.location()).unwrap();
        url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub fn encoded(form: Fields<'_>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}

pub fn question(client_id: &str, parameters: Fields<'_>) -> String {
    let challenge = challenge();
    let usual = [
        ("client_id", client_id),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid read:weather write:weather"),
        ("state", "a state"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("resource", WEATHER),
    ];
    let said = |name: &str| parameters.iter().any(|(known, _)| *known == name);
    let usual = usual.into_iter().filter(|(name, _)| !said(name));
    let all: Vec<(&str, &str)> = usual.chain(parameters.iter().copied()).filter(|(_, value)| !value.is_empty()).collect();
    encoded(&all)
}

/// Posts a form to an endpoint for programs, as a client; a public one has no secret.
pub async fn call(issuer: &Issuer, path: &str, client_id: &str, form: Fields<'_>) -> (u16, Value) {
    let request = client().post(format!("{}{path}", issuer.url())).header("content-type", "application/x-www-form-urlencoded");
    let request = match client_id.ends_with("spa") {
        true => request.body(encoded(&[form, &[("client_id", client_id)]].concat())),
        false => request.basic_auth(client_id, Some("s3cret")).body(encoded(form)),
    };
    let page = Page::of(request.send().await.unwrap()).await;
    assert_eq!(page.headers["access-control-allow-origin"], "*");
    (page.status, serde_json::from_str(&page.body).unwrap_or(Value::Null))
}

/// Exchanges a code as the client that it was given to, for the weather; an empty value leaves a parameter out.
pub async fn exchange(issuer: &Issuer, client_id: &str, code: &str, parameters: Fields<'_>) -> (u16, Value) {
    let usual = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
        ("resource", WEATHER),
    ];
    let said = |name: &str| parameters.iter().any(|(known, _)| *known == name);
    let usual = usual.into_iter().filter(|(name, _)| !said(name));
    let form: Vec<(&str, &str)> = usual.chain(parameters.iter().copied()).filter(|(_, value)| !value.is_empty()).collect();
    call(issuer, "/token", client_id, &form).await
}

pub async fn refresh(issuer: &Issuer, client_id: &str, token: &Value, parameters: Fields<'_>) -> (u16, Value) {
    let form = [&[("grant_type", "refresh_token"), ("refresh_token", token.as_str().unwrap())], parameters].concat();
    call(issuer, "/token", client_id, &form).await
}

/// A part of a JWT: 0 is its header, 1 its claims.
pub fn part(token: &Value, i: usize) -> Value {
    let part = token.as_str().unwrap().split('.').nth(i).unwrap_or_else(|| panic!("not a JWT: {token}"));
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}
