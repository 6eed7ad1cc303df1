//! The legacy service that the demo protects: it knows nothing of OAuth and believes the `X-Auth-*` headers it receives.

use std::io;
use std::net::SocketAddr;

use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::server::{self, Reply, Server};

const DAYS: [&str; 3] = ["today", "tomorrow", "the day after"];
const SKIES: [&str; 6] = ["clear", "cloudy", "fog", "rain", "snow", "storm"];
const CITIES: [&str; 6] = ["Bergen", "Kyoto", "Lima", "Nairobi", "Oslo", "Wellington"];

/// A running weather service. It ends when it is stopped or dropped.
pub struct Weather(Server);

impl Weather {
    /// Starts on a loopback address. Port 0 takes a free one.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        Ok(Self(Server::start(server::bind(address).await?, answer)?))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Closes the port and all connections, and waits for it.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

async fn answer(request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let (status, mut answer) = match (head.method.as_str(), path.as_slice()) {
        ("GET" | "HEAD", ["healthz"]) => return server::json(StatusCode::OK, &json!({ "status": "ok" })),
        ("GET" | "HEAD", ["forecast", city]) if !city.is_empty() => (StatusCode::OK, forecast(&decode(city))),
        ("POST", ["forecast", city]) if !city.is_empty() => match server::read_body(body).await {
            Ok(report) => add_report(&decode(city), &report),
            Err(status) => (status, json!({ "error": "the report could not be read" })),
        },
        ("GET" | "HEAD", ["me", "saved-cities"]) => (StatusCode::OK, saved_cities(&head.headers)),
        _ => (StatusCode::NOT_FOUND, json!({ "error": "nothing here" })),
    };
    answer["received_headers"] = received(&head.headers);
    server::json(status, &answer)
}

/// The same forecast for a city always, so that a demo can be told in words.
fn forecast(city: &str) -> Value {
    let days = (1..).zip(DAYS).map(|(i, day)| {
        let number = hash(city).rotate_left(9 * i);
        let high = i64::from(number % 30);
        let sky = SKIES[number as usize / 30 % SKIES.len()];
        json!({ "day": day, "sky": sky, "high_celsius": high, "low_celsius": high - 2 - i64::from(number % 7) })
    });
    json!({ "city": city, "forecast": days.collect::<Vec<_>>() })
}

/// Takes a report and keeps nothing of it. No body at all is a report without words.
fn add_report(city: &str, report: &[u8]) -> (StatusCode, Value) {
    let report = if report.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(report) };
    match report {
        Ok(report) => (StatusCode::CREATED, json!({ "city": city, "report": report })),
        Err(_) => (StatusCode::BAD_REQUEST, json!({ "error": "the report is no JSON" })),
    }
}

/// Whose cities they are is what the header says: this is why nobody but the gate may write it.
fn saved_cities(headers: &HeaderMap) -> Value {
    let subject = headers.get("x-auth-subject").map(|subject| String::from_utf8_lossy(subject.as_bytes()));
    let first = subject.as_deref().map_or(0, hash) as usize;
    let count = if subject.is_some() { 3 } else { 0 };
    let cities: Vec<&str> = (0..count).map(|i| CITIES[(first + i) % CITIES.len()]).collect();
    json!({ "subject": subject, "saved_cities": cities })
}

/// Every header as received; several of one name are joined as RFC 9110 §5.3 reads them, so that none is hidden.
fn received(headers: &HeaderMap) -> Value {
    let joined = |name| {
        let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        Value::from(values.join(", "))
    };
    Value::Object(headers.keys().map(|name| (name.as_str().to_owned(), joined(name))).collect::<Map<_, _>>())
}

fn decode(segment: &str) -> String {
    // In a path, unlike in a form, `+` and `&` mean themselves.
    let pair = format!("city={}", segment.replace('+', "%2B").replace('&', "%26"));
    form_urlencoded::parse(pair.as_bytes()).next().map(|(_, city)| city.into_owned()).unwrap_or_default()
}

/// FNV-1a, since the standard library does not promise to hash alike tomorrow.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> reqwest::Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        reqwest::Client::builder().no_proxy().build().unwrap()
    }

    async fn ask(request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        (response.status().as_u16(), serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    async fn start() -> (Weather, String) {
        let weather = Weather::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", weather.address());
        (weather, url)
    }

    #[tokio::test]
    async fn a_forecast_is_always_the_same_and_shows_the_headers_received() {
        let (_weather, url) = start().await;
        let get = || client().get(format!("{url}/forecast/S%C3%A3o%20Paulo"));
        let (status, first) = ask(get().header("X-Auth-Subject", "ada").header("X-Auth-Subject", "eve")).await;
        assert_eq!((status, &first["city"]), (200, &json!("São Paulo")));
        assert_eq!(first["received_headers"]["x-auth-subject"], "ada, eve");
        assert_eq!(ask(get()).await.1["forecast"], first["forecast"]);
        assert_ne!(ask(client().get(format!("{url}/forecast/Oslo"))).await.1["forecast"], first["forecast"]);
    }

    #[tokio::test]
    async fn a_report_is_taken_if_it_is_json() {
        let (_weather, url) = start().await;
        let post = |body: &'static str| client().post(format!("{url}/forecast/Oslo")).body(body);
        let (status, answer) = ask(post(r#"{"sky":"snow"}"#)).await;
        assert_eq!((status, &answer["report"]["sky"]), (201, &json!("snow")));
        assert_eq!(ask(post("")).await.0, 201);
        assert_eq!(ask(post("snow")).await.0, 400);
        let large = client().post(format!("{url}/forecast/Oslo")).body(vec![b' '; server::BODY_BYTES_MAX + 1]);
        assert_eq!(ask(large).await.0, 413);
    }

    #[tokio::test]
    async fn saved_cities_are_those_of_the_subject_in_the_header() {
        let (_weather, url) = start().await;
        let get = || client().get(format!("{url}/me/saved-cities"));
        let (_, of_ada) = ask(get().header("x-auth-subject", "ada")).await;
        assert_eq!((of_ada["subject"].as_str(), of_ada["saved_cities"].as_array().unwrap().len()), (Some("ada"), 3));
        assert_eq!(ask(get()).await.1["saved_cities"], json!([]));
    }

    #[tokio::test]
    async fn health_is_told_to_everyone_and_other_paths_are_not_there() {
        let (weather, url) = start().await;
        assert_eq!(ask(client().get(format!("{url}/healthz"))).await, (200, json!({ "status": "ok" })));
        for path in ["/", "/forecast", "/forecast/", "/forecast/a/b", "/me"] {
            assert_eq!(ask(client().get(format!("{url}{path}"))).await.0, 404, "{path}");
        }
        weather.stop().await;
        assert!(client().get(format!("{url}/healthz")).send().await.is_err());
    }
}
