//! The ways in which an issuer's documents can go wrong, played on demand.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::documents::Document;
use crate::demo::server::{self, Body, Reply};

/// What is wrong with the metadata and the key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 200 with a web page, as from a captive portal or a single-page app that answers every path.
    Html,
    Status(u16),
    /// To an address that has the right document: only who does not follow notices the fault.
    Redirect,
    /// The right document, a byte a second.
    SlowDrip,
    /// The right document, after more than 1 GiB of white space, which JSON allows.
    Endless,
    EmptyKeySet,
    /// The metadata is that of another issuer.
    WrongIssuer,
    /// The request is read and never answered.
    Hang,
    /// The connection breaks off in the middle of the document.
    Truncated,
}

/// The query that leads from a redirect to the right document.
pub const MOVED: &str = "moved";

const DRIP_PAUSE: Duration = Duration::from_secs(1);
const BLANK_BYTES: usize = 64 * 1024;
const ENDLESS_BYTES: usize = (1 << 30) + BLANK_BYTES;

/// Answers with the fault instead of the document. Faults of the content are in the document already.
pub async fn answer(fault: Fault, path: &str, asked: &HeaderMap, document: Document) -> Reply {
    let content_type = document.content_type;
    match fault {
        Fault::EmptyKeySet | Fault::WrongIssuer => document.reply(asked),
        Fault::Html => {
            server::reply(StatusCode::OK, "text/html; charset=utf-8", Bytes::from_static(b"<!doctype html><title>Welcome</title>"))
        }
        Fault::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            server::json(status, &json!({ "error": "server_error", "error_description": "something went wrong" }))
        }
        Fault::Redirect => {
            let mut reply = server::reply(StatusCode::FOUND, "text/plain; charset=utf-8", Bytes::new());
            let location = HeaderValue::from_str(&format!("{path}?{MOVED}"));
            reply.headers_mut().extend(location.ok().map(|location| (header::LOCATION, location)));
            reply
        }
        Fault::SlowDrip => with_body(content_type, drip(document.body)),
        Fault::Endless => with_body(content_type, after_blanks(document.body)),
        Fault::Hang => std::future::pending().await,
        Fault::Truncated => {
            let length = HeaderValue::from(document.body.len());
            let mut reply = with_body(content_type, half(document.body));
            reply.headers_mut().insert(header::CONTENT_LENGTH, length);
            reply
        }
    }
}

fn with_body(content_type: &'static str, body: Body) -> Reply {
    let mut reply = server::reply(StatusCode::OK, content_type, Bytes::new());
    *reply.body_mut() = body;
    reply
}

fn drip(body: Bytes) -> Body {
    let drops = stream::unfold(body, |mut rest| async {
        if rest.is_empty() {
            return None;
        }
        let drop = rest.split_to(1);
        Some((drop, rest))
    });
    let slow = drops.enumerate().then(|(i, drop)| async move {
        if i > 0 {
            sleep(DRIP_PAUSE).await;
        }
        Ok(Frame::data(drop))
    });
    StreamBody::new(slow).boxed_unsync()
}

fn after_blanks(body: Bytes) -> Body {
    // One buffer, sent again and again: what is endless for the reader costs the issuer nothing.
    let blank = Bytes::from(vec![b' '; BLANK_BYTES]);
    let blanks = stream::repeat(blank).take(ENDLESS_BYTES / BLANK_BYTES);
    StreamBody::new(blanks.chain(stream::iter([body])).map(|part| Ok(Frame::data(part)))).boxed_unsync()
}

fn half(mut body: Bytes) -> Body {
    let first = body.split_to(body.len() / 2);
    let broken = stream::once(async {
        // Gives the first half time to leave: an error drops what is still buffered.
        yield_now().await;
        Err(io::Error::other("broken off on purpose"))
    });
    StreamBody::new(stream::iter([Ok(Frame::data(first))]).chain(broken)).boxed_unsync()
}
