//! The ways in which the Management API can go wrong, played on demand.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;

use crate::demo::server::{self, Reply};

/// What is wrong with the answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManagementFault {
    /// 429 with `Retry-After`.
    TooManyRequests {
        retry_after_seconds: u64,
    },
    Status(u16),
    /// 200 with a web page.
    Html,
    /// The call is read and never answered, and nothing comes of it.
    Hang,
    /// The call is done, and the connection ends without a word about it.
    BreakOff,
}

impl ManagementFault {
    /// Whether the call is done all the same.
    pub fn takes_effect(self) -> bool {
        self == Self::BreakOff
    }
}

pub async fn answer(fault: ManagementFault) -> Reply {
    match fault {
        ManagementFault::TooManyRequests { retry_after_seconds } => {
            let mut reply = server::json(StatusCode::TOO_MANY_REQUESTS, &json!({ "message": "Too many requests." }));
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds));
            reply
        }
        ManagementFault::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            server::json(status, &json!({ "message": "Internal server error." }))
        }
        ManagementFault::Html => {
            server::reply(StatusCode::OK, "text/html; charset=utf-8", Bytes::from_static(b"<!doctype html><title>Welcome</title>"))
        }
        ManagementFault::Hang => std::future::pending().await,
        ManagementFault::BreakOff => {
            // A body that fails at once takes the buffered head with it: nothing of the answer is sent.
            let broken = stream::once(async { Err(io::Error::other("broken off on purpose")) });
            Reply::new(StreamBody::new(broken).boxed_unsync())
        }
    }
}
