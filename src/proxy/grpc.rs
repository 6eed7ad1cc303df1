//! Step 10. What gRPC means beyond HTTP: a deadline over the whole call, streams that may be silent for long, and answers
//! that are a status.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::time::{Sleep, sleep};

use super::failure::Failure;
use super::progress::BodyProgress;
use super::response_body::ResponseBody;

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether a request or an answer is gRPC. gRPC-Web is not: its clients read HTTP statuses, and its trailers are in the body.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let rest = content_type.split_at_checked("application/grpc".len()).filter(|(start, _)| start.eq_ignore_ascii_case("application/grpc"));
    rest.is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with(['+', ';', ' ']))
}

/// An answer without a message: everything in the headers ("trailers-only").
pub fn trailers_only(status: StatusCode, title: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(""));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().extend(trailers(status, title));
    response
}

/// How a call ends that the gate ends.
pub fn trailers(status: StatusCode, message: &str) -> HeaderMap {
    let code = match status.as_u16() {
        // What is asked for has to come another way first; no client of gRPC follows a redirect.
        308 => "9",
        401 => "16",
        403 => "7",
        404 | 405 | 421 => "12",
        408 | 504 => "4",
        413 | 414 | 429 | 431 => "8",
        502 | 503 => "14",
        400 | 417 | 501 => "3",
        _ => "13",
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static(code));
    trailers.extend(HeaderValue::try_from(percent_encoded(message)).ok().map(|message| (GRPC_MESSAGE, message)));
    trailers
}

/// `Percent-Encoded` of gRPC over HTTP/2: printable ASCII but `%` stands for itself.
fn percent_encoded(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' => text.push_str("%25"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// How long the caller waits for the call as a whole; `None` without a readable `grpc-timeout`, which the service may judge.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    const DIGITS_MAX: usize = 8;
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Why the gate ends a call whose token still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// The caller's own deadline has passed.
    Deadline,
    /// Nothing moved in either direction for `timeouts.tunnel_idle`.
    Idle,
}

impl Overdue {
    pub fn failure(self) -> Failure {
        match self {
            Self::Deadline => Failure::DeadlineExceeded,
            Self::Idle => Failure::CallIdle,
        }
    }
}

/// A call's time: it runs from the request to the last trailer, whatever moves in between.
pub struct CallTime {
    deadline: Option<Pin<Box<Sleep>>>,
    idle: Duration,
    look: Pin<Box<Sleep>>,
    seen: u64,
    /// What the client sends.
    progress: Arc<BodyProgress>,
    /// Frames of the answer.
    answered: u64,
}

impl CallTime {
    /// That of a gRPC request on which so much time was spent before.
    pub fn of(headers: &HeaderMap, idle: Duration, progress: &Arc<BodyProgress>, spent: Duration) -> Option<Self> {
        is_grpc(headers).then(|| Self {
            deadline: timeout(headers).map(|timeout| Box::pin(sleep(timeout.saturating_sub(spent)))),
            idle,
            look: Box::pin(sleep(idle)),
            seen: 0,
            progress: progress.clone(),
            answered: 0,
        })
    }

    /// Why the client's side of the call broke off, if it did.
    pub fn failure(&self) -> Option<Failure> {
        self.progress.failure()
    }

    /// A frame of the answer has come.
    pub fn answered(&mut self) {
        self.answered += 1;
    }

    /// Ready when the call has had its time.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Overdue> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Overdue::Deadline);
        }
        while self.look.as_mut().poll(cx).is_ready() {
            let moved = self.answered + self.progress.moved();
            if moved == self.seen {
                return Poll::Ready(Overdue::Idle);
            }
            self.seen = moved;
            self.look = Box::pin(sleep(self.idle));
        }
        Poll::Pending
    }

    /// Waits for the head of the answer, and no longer than the call may take.
    pub async fn bound<T, E: From<(Failure, String)>>(&mut self, answer: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::select! {
            biased;
            answer = answer => answer,
            overdue = std::future::poll_fn(|cx| self.poll(cx)) => Err((overdue.failure(), String::new()).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_timeout_is_read_as_the_protocol_writes_it() {
        let table = [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("250m", Some(Duration::from_millis(250))),
            ("10u", Some(Duration::from_micros(10))),
            ("7n", Some(Duration::from_nanos(7))),
            ("0m", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("1 S", None),
            ("1.5S", None),
        ];
        for (text, expected) in table {
            assert_eq!(timeout(&headers(GRPC_TIMEOUT, text)), expected, "{text}");
        }
    }

    #[test]
    fn grpc_is_told_from_what_only_begins_like_it() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpc-web-text", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&headers(CONTENT_TYPE, text)), expected, "{text}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        assert_eq!(percent_encoded("50 % caf\u{e9}\n"), "50 %25 caf%C3%A9%0A");
        let denied = trailers_only(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too large");
        assert_eq!(
            (denied.status(), &denied.headers()[GRPC_STATUS], &denied.headers()[GRPC_MESSAGE]),
            (StatusCode::OK, &HeaderValue::from_static("8"), &HeaderValue::from_static("too large"))
        );
    }
}
