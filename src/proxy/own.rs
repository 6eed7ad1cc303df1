//! The gate's own endpoints for client registration: reading what is sent there, and answering it. They have credentials of
//! their own; no token of a resource opens them, and none is asked for.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_TYPE, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::failure::Failure;
use super::gate::Gate;
use super::respond::{self, Asked};
use super::response_body::ResponseBody;
use super::rewrite::X_REQUEST_ID;
use crate::access::Snapshot;
use crate::oauth::registration::{Refusal, bearer, describe};
use crate::observe::Outcome;
use crate::policy::{OwnEndpoint, Policy};
use crate::rate::client_address;
use crate::registration::{Caller, Office};

/// A registration; more is none.
const BODY_BYTES_MAX: usize = 16 << 10;

/// How a request ended, for its record.
pub type Ended = (Outcome, Option<&'static str>, Cow<'static, str>);

/// Why there is no good answer.
enum Trouble {
    Refused(Refusal),
    Failed(Failure),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A good answer.
struct Good {
    status: StatusCode,
    body: Bytes,
}

pub async fn answer(
    gate: &Gate,
    snapshot: &Arc<Snapshot>,
    (endpoint, client): (OwnEndpoint, Option<String>),
    request: Request<Incoming>,
    asked: &Asked<'_>,
    peer: Option<IpAddr>,
) -> (Response<ResponseBody>, Ended) {
    let policy = &snapshot.policy;
    let good = match (*request.method() == Method::OPTIONS, gate.registrar.office()) {
        (true, _) => Ok(Good { status: StatusCode::NO_CONTENT, body: Bytes::new() }),
        // A reload took it away in between.
        (false, None) => Err(Refusal::LogtoAway { seconds: 1 }.into()),
        (false, Some(office)) => {
            let address = client_address(peer, request.headers(), &policy.trusted_proxies);
            let token = bearer(request.headers()).map(str::to_owned);
            let caller = Caller { address, request_id: asked.request_id.to_owned(), token };
            serve(&office, policy, endpoint, client.unwrap_or_default(), caller, request).await
        }
    };
    let (mut response, ended) = match good {
        Ok(good) => (responded(endpoint, good), (Outcome::Own, None, Cow::Borrowed(""))),
        Err(Trouble::Failed(failure)) => (respond::failed(failure, asked), (Outcome::Failed, Some(failure.row().code), Cow::Borrowed(""))),
        Err(Trouble::Refused(refusal)) => {
            (refused(refusal, asked), (Outcome::Denied, Some(refusal.row().code), Cow::Borrowed(refusal.detail())))
        }
    };
    let headers = response.headers_mut();
    // Programs in browsers register, too. No cookie counts here, so that no page can do it in a user's name.
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS"));
    // `*` does not stand for Authorization.
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, Content-Type, MCP-Protocol-Version"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("WWW-Authenticate, Retry-After, X-Request-Id"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    if let Ok(id) = HeaderValue::try_from(asked.request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    (response, ended)
}

async fn serve(
    office: &Arc<Office>,
    policy: &Policy,
    endpoint: OwnEndpoint,
    client: String,
    caller: Caller,
    request: Request<Incoming>,
) -> Result<Good, Trouble> {
    let good = |status: StatusCode, body: Vec<u8>| Ok(Good { status, body: body.into() });
    match (endpoint, request.method().as_str()) {
        (OwnEndpoint::IssuerMetadata, _) => {
            let copy = office.metadata.get(office.settings()).await?;
            Ok(Good { status: StatusCode::OK, body: Bytes::from_owner(copy) })
        }
        (OwnEndpoint::Register, _) => {
            let body = body(policy, request).await?;
            office.admits(caller.token.as_deref())?;
            good(StatusCode::CREATED, office.register(caller, &body).await?)
        }
        (OwnEndpoint::Client, "PUT") => {
            let body = body(policy, request).await?;
            good(StatusCode::OK, office.replace(caller, client, &body).await?)
        }
        (OwnEndpoint::Client, "DELETE") => {
            office.end(&caller, &client).await?;
            good(StatusCode::NO_CONTENT, Vec::new())
        }
        (OwnEndpoint::Client, _) => good(StatusCode::OK, office.show(&caller, &client).await?),
    }
}

/// The body: JSON (RFC 7591 §3.1), of bounded size, in bounded time. It is read before anything is refused: over HTTP/2 a body
/// that is dropped resets the stream, and some clients then lose the answer.
async fn body(policy: &Policy, request: Request<Incoming>) -> Result<Bytes, Trouble> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let json = content_type.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json"));
    let collected = timeout(policy.timeouts.body, Limited::new(request.into_body(), BODY_BYTES_MAX).collect()).await;
    match collected {
        Err(_) => Err(Trouble::Failed(Failure::BodyTooSlow)),
        Ok(Ok(_)) if !json => Err(Refusal::Metadata("Content-Type is not application/json").into()),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Trouble::Failed(Failure::BodyTooLarge)),
        Ok(Err(_)) => Err(Trouble::Failed(Failure::BodyBroken)),
    }
}

fn responded(endpoint: OwnEndpoint, good: Good) -> Response<ResponseBody> {
    let bare = good.status == StatusCode::NO_CONTENT;
    let mut response = Response::new(ResponseBody::own(good.body));
    *response.status_mut() = good.status;
    let headers = response.headers_mut();
    if !bare {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    match endpoint {
        OwnEndpoint::IssuerMetadata => drop(headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"))),
        // RFC 7591 §3.2.1.
        OwnEndpoint::Register | OwnEndpoint::Client => {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        }
    }
    response
}

/// RFC 7591 §3.2.2.
fn refused(refusal: Refusal, asked: &Asked<'_>) -> Response<ResponseBody> {
    let row = refusal.row();
    let mut response = Response::new(ResponseBody::own(describe(refusal, asked.request_id).to_string()));
    *response.status_mut() = row.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    // RFC 6750 §3: a challenge has a parameter at least, and an error only where a token was shown.
    let challenge = match row.challenge {
        None => None,
        Some(None) => Some("Bearer realm=\"client registration\"".to_owned()),
        Some(Some(error)) => Some(format!("Bearer error=\"{error}\", error_description=\"{}\"", row.title)),
    };
    headers.extend(challenge.and_then(|text| HeaderValue::try_from(text).ok()).map(|value| (WWW_AUTHENTICATE, value)));
    headers.extend(refusal.retry_after().map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds))));
    response
}
