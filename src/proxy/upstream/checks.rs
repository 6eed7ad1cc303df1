//! Asking endpoints how they are: one task each, over the connections that requests go over.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::answer::UpstreamBody;
use super::balanced::{Balanced, Placed};
use super::endpoint::{Endpoint, Patience};
use crate::balance::hash;
use crate::policy::{HealthCheck, Question};
use crate::proxy::failure::Failure;
use crate::proxy::kept::Replay;
use crate::proxy::progress::BodyProgress;
use crate::proxy::request_body::RequestBody;

/// Of an answer, at most: what is longer is no answer to such a question.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Of a question, which is the name of a service.
const QUESTION_BYTES_MAX: usize = 4 << 10;
const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";

/// The tasks that ask the endpoints of one service.
#[derive(Default)]
pub struct HealthTasks {
    check: Option<HealthCheck>,
    tasks: HashMap<u64, (Weak<Endpoint>, AbortHandle)>,
}

impl HealthTasks {
    /// Asks these endpoints by this check from now on. Those that are asked so already go on being asked.
    pub fn follow(&mut self, balanced: &Arc<Balanced>, check: Option<&HealthCheck>, endpoints: &[Arc<Placed>]) {
        if self.check.as_ref() != check {
            self.stop();
            self.check = check.cloned();
        }
        let Some(check) = check else { return };
        let mut before = std::mem::take(&mut self.tasks);
        for placed in endpoints {
            let id = hash(placed.name.as_bytes());
            let same = before.remove(&id).and_then(|(known, task)| match std::ptr::eq(known.as_ptr(), Arc::as_ptr(&placed.endpoint)) {
                true => Some(task),
                false => {
                    task.abort();
                    None
                }
            });
            let endpoint = Arc::downgrade(&placed.endpoint);
            let start = || tokio::spawn(watch(Arc::downgrade(balanced), endpoint.clone(), id, check.clone())).abort_handle();
            let task = same.unwrap_or_else(start);
            self.tasks.insert(id, (endpoint, task));
        }
        before.into_values().for_each(|(_, task)| task.abort());
    }

    fn stop(&mut self) {
        self.tasks.drain().for_each(|(_, (_, task))| task.abort());
    }
}

impl Drop for HealthTasks {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks an endpoint again and again, for as long as it is one of the service.
async fn watch(balanced: Weak<Balanced>, endpoint: Weak<Endpoint>, id: u64, check: HealthCheck) {
    loop {
        let Some(endpoint) = endpoint.upgrade() else { return };
        let answer = timeout(check.timeout, ask(&endpoint, &check)).await;
        let answer = answer.unwrap_or_else(|_| Some(Err(format!("nothing within {:?}", check.timeout))));
        let Some(balanced) = balanced.upgrade() else { return };
        if let Some(result) = answer {
            balanced.checked(&endpoint.key.label, id, result.is_ok(), result.as_ref().err().map_or("", String::as_str));
        }
        drop((balanced, endpoint));
        sleep(jittered(check.interval)).await;
    }
}

/// Give or take a tenth, so that many gates do not ask together.
fn jittered(interval: Duration) -> Duration {
    let chance = uuid::Uuid::new_v4().as_u64_pair().1 % 1001;
    interval.mul_f64(0.9 + chance as f64 / 5005.0)
}

/// Asks once. `None` when that could not be, for a reason of the gate's own.
async fn ask(endpoint: &Endpoint, check: &HealthCheck) -> Option<Result<(), String>> {
    let request = match question(endpoint, check) {
        Ok(request) => request,
        Err(error) => return Some(Err(error.to_string())),
    };
    let patience = Patience {
        progress: Arc::new(BodyProgress::default()),
        response: check.timeout,
        idle: check.timeout,
        deadline: None,
        keep_bytes_max: QUESTION_BYTES_MAX,
    };
    match endpoint.send(request, &patience).await {
        Ok(response) => Some(judge(response, &check.question).await),
        Err(attempt) if attempt.failure == Failure::UpstreamOverloaded => None,
        Err(attempt) => Some(Err(format!("{}: {}", attempt.failure.row().code, attempt.detail))),
    }
}

fn question(endpoint: &Endpoint, check: &HealthCheck) -> Result<Request<RequestBody>, http::Error> {
    let key = &endpoint.key;
    let own = key.authority();
    let host = check.host.clone().unwrap_or(HeaderValue::from_str(&own)?);
    let path = match &check.question {
        Question::Http { path, .. } => path.as_str(),
        Question::Grpc { .. } => GRPC_PATH,
    };
    let scheme = if key.tls.is_some() { "https" } else { "http" };
    let target = Uri::builder().scheme(scheme).authority(own).path_and_query(path).build()?;
    let request = Request::builder().uri(target).header(HOST, host);
    let request = request.header(USER_AGENT, concat!("wicketgate/", env!("CARGO_PKG_VERSION"), " health check"));
    let (request, body) = match &check.question {
        Question::Http { .. } => (request.method(Method::GET).header(ACCEPT, "*/*"), Bytes::new()),
        Question::Grpc { service } => {
            let request = request.method(Method::POST).header(CONTENT_TYPE, "application/grpc").header(TE, "trailers");
            (request, grpc_question(service))
        }
    };
    request.body(RequestBody::again(Replay::own(body), Arc::new(BodyProgress::default())))
}

async fn judge(response: Response<UpstreamBody>, question: &Question) -> Result<(), String> {
    let (head, mut body) = response.into_parts();
    let (mut bytes, mut trailers) = (Vec::new(), None);
    // Read to its end, so that the connection can be used again.
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("its answer broke off: {error}"))?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > ANSWER_BYTES_MAX => break,
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    match question {
        Question::Http { good, .. } if good.contains(&head.status) => Ok(()),
        Question::Http { .. } => Err(format!("status {}", head.status.as_u16())),
        Question::Grpc { .. } if head.status != StatusCode::OK => Err(format!("status {}", head.status.as_u16())),
        Question::Grpc { .. } => {
            let status = trailers.as_ref().unwrap_or(&head.headers).get("grpc-status").map(|status| status.as_bytes());
            match (status, grpc_answer(&bytes)) {
                (Some(b"0"), Some(1)) => Ok(()),
                (Some(b"0"), Some(state)) => Err(format!("serving status {state}")),
                (status, _) => Err(format!("grpc-status {}", String::from_utf8_lossy(status.unwrap_or(b"missing")))),
            }
        }
    }
}

/// `HealthCheckRequest { service }`, behind the five bytes that go before a message.
fn grpc_question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// The status of a `HealthCheckResponse`: 1 is SERVING; an empty message is 0, UNKNOWN.
fn grpc_answer(bytes: &[u8]) -> Option<u8> {
    let (head, message) = bytes.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    match (head[0], message) {
        (0, []) if length == 0 => Some(0),
        (0, [0x08, status]) if length == 2 => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_grpcs_health_protocol() {
        assert_eq!(&grpc_question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        assert_eq!(grpc_question(&"x".repeat(300))[5..8], [0x0a, 0xac, 2]);
        assert_eq!(grpc_answer(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(grpc_answer(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(grpc_answer(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [&[][..], &[0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0, 0, 2, 16, 1]] {
            assert_eq!(grpc_answer(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn checks_come_a_tenth_sooner_or_later() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_secs(10));
            assert!(wait >= Duration::from_secs(9) && wait <= Duration::from_secs(11), "{wait:?}");
        }
    }
}
