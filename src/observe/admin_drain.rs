//! `/drain` of the admin listener: the gate says that it is not ready, and serves all the same; or takes that back.

use bytes::Bytes;
use http::header::{ALLOW, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;

use super::admin::{AdminView, typed};

pub const PATH: &str = "/drain";

pub fn answer(request: &Request<Incoming>, view: &dyn AdminView) -> Response<Full<Bytes>> {
    let asked = match *request.method() {
        Method::POST => true,
        Method::DELETE => false,
        _ => {
            let mut response = typed(StatusCode::METHOD_NOT_ALLOWED, "application/json", json!({ "error": "POST and DELETE" }).to_string());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, DELETE"));
            return response;
        }
    };
    // A page of another site can make a browser send this, and the browser says so.
    if request.headers().contains_key(ORIGIN) {
        return typed(StatusCode::FORBIDDEN, "application/json", json!({ "error": "not from a browser" }).to_string());
    }
    let delay = view.snapshot().policy.shutdown_delay;
    if view.health().ask_to_drain(asked) {
        let message = if asked { "unready by word of the operator" } else { "ready again by word of the operator" };
        tracing::info!(target: "wicketgate::admin", message);
    }
    let shown = json!({ "draining": view.health().is_draining(), "delay_ms": u64::try_from(delay.as_millis()).unwrap_or(u64::MAX) });
    typed(StatusCode::OK, "application/json", shown.to_string())
}
