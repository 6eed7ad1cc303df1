//! The operator's listener: `/metrics`, `/livez`, `/readyz`, `/status`, which change nothing, and `/revocations`. It has a
//! thread of its own, so that it answers while all others are busy with clients.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use super::audit::AuditTrail;
use super::balance_metrics::ServiceStanding;
use super::health::{Check, Health};
use super::metrics::Metrics;
use super::{admin_drain, admin_revocations, admin_upstreams};
use crate::access::Snapshot;
use crate::policy::Route;
use crate::rate::Rates;
use crate::revocation::Revocations;
use crate::state::Shared;

/// Scrapers and probes are few.
const CONNECTIONS_MAX: usize = 128;
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// One question and its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error of `accept` (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the admin listener shows.
pub trait AdminView: Send + Sync + 'static {
    fn snapshot(&self) -> Arc<Snapshot>;
    fn health(&self) -> &Health;
    fn metrics(&self) -> &Metrics;
    fn rates(&self) -> &Rates;
    fn revocations(&self) -> &Revocations;
    fn audit(&self) -> &AuditTrail;
    /// How the endpoints of the services stand.
    fn standings(&self) -> Vec<ServiceStanding>;
    /// What instances share, if they share anything.
    fn shared(&self) -> Option<Arc<Shared>>;
}

pub struct Admin {
    address: SocketAddr,
    /// A copy, for the process that comes after this one.
    socket: OwnedFd,
    /// When this is dropped the listener goes, and the thread after its last connection.
    _lives: oneshot::Sender<()>,
}

impl Admin {
    /// Listens at this address, or goes on with a socket that another process bound there.
    pub async fn start(address: SocketAddr, inherited: Option<OwnedFd>, view: Arc<dyn AdminView>) -> std::io::Result<Self> {
        let listener = match inherited {
            Some(socket) => std::net::TcpListener::from(socket),
            None => TcpListener::bind(address).await?.into_std()?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let socket = listener.as_fd().try_clone_to_owned()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (lives, ends) = oneshot::channel::<()>();
        let serving = async move {
            // It was made by another runtime, and must be known to this one.
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            tokio::select! {
                () = accept(listener, address, view, room.clone()) => {}
                _ = ends => {}
            }
            // Who has asked gets an answer.
            let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, room.acquire_many(all)).await;
        };
        std::thread::Builder::new().name("admin".to_owned()).spawn(move || runtime.block_on(serving))?;
        Ok(Self { address, socket, _lives: lives })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A copy of its socket.
    pub fn socket(&self) -> std::io::Result<OwnedFd> {
        self.socket.try_clone()
    }
}

async fn accept(listener: TcpListener, address: SocketAddr, view: Arc<dyn AdminView>, room: Arc<Semaphore>) {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let view = view.clone();
        tokio::spawn(async move {
            serve(stream, CONNECTION_TIMEOUT, |request| answer(request, address, &*view)).await;
            drop(permit);
        });
    }
}

/// Answers one question. Whoever does not ask, or does not read the answer, may not keep others from theirs.
async fn serve<A: Future<Output = Response<Full<Bytes>>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    time_max: Duration,
    answer: impl Fn(Request<Incoming>) -> A,
) {
    let service = service_fn(|request| answer(request).map(Ok::<_, Infallible>));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
    builder.max_header_size(HEAD_BYTES_MAX).max_buf_size(HEAD_BYTES_MAX);
    let _ = tokio::time::timeout(time_max, builder.serve_connection(TokioIo::new(stream), service)).await;
}

async fn answer(request: Request<Incoming>, address: SocketAddr, view: &dyn AdminView) -> Response<Full<Bytes>> {
    if !host_is_ours(&request, address) {
        return text(StatusCode::MISDIRECTED_REQUEST, "this listener answers to addresses, not to names\n");
    }
    if request.uri().path().strip_prefix(admin_revocations::PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return admin_revocations::answer(request, view).await;
    }
    if request.uri().path() == admin_drain::PATH {
        return admin_drain::answer(&request, view);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => ready(view, request.uri().query().is_some_and(|query| query.split('&').any(|key| key == "verbose"))),
        "/metrics" => {
            view.metrics().upstreams.balance.take(&view.standings());
            let text = view.metrics().render(&view.snapshot(), view.rates(), view.shared().as_deref());
            typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        "/status" => typed(StatusCode::OK, "application/json", status(view).to_string()),
        _ => text(StatusCode::NOT_FOUND, "/metrics /livez /readyz /status /revocations /drain\n"),
    }
}

/// On loopback a browser can be made to ask by a name that resolves here (DNS rebinding); it cannot by an address.
fn host_is_ours(request: &Request<Incoming>, address: SocketAddr) -> bool {
    if !address.ip().is_loopback() {
        return true;
    }
    let Some(host) = request.headers().get(HOST) else { return true };
    let Ok(authority) = host.to_str().unwrap_or("@").parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

fn ready(view: &dyn AdminView, verbose: bool) -> Response<Full<Bytes>> {
    let mut checks = view.health().checks(&view.snapshot());
    checks.extend(view.shared().map(|shared| Check::shared_state(&shared)));
    checks.extend(view.shared().map(|shared| Check::revocations(&shared, view.revocations().revoked().len())));
    checks.extend(admin_upstreams::checks(&view.standings()));
    let good = checks.iter().all(|check| check.good);
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = String::new();
    for check in checks.iter().filter(|check| verbose || !check.good) {
        let sign = if check.good { '+' } else { '-' };
        body.push_str(&format!("[{sign}] {}: {}\n", check.name, check.why));
    }
    body.push_str(if good { "ready\n" } else { "not ready\n" });
    text(status, &body)
}

fn status(view: &dyn AdminView) -> serde_json::Value {
    let snapshot = view.snapshot();
    let policy = &snapshot.policy;
    let (reloads, last_reload) = view.health().reloads();
    let services: Vec<_> = policy
        .services
        .iter()
        .filter(|service| !service.own)
        .map(|service| {
            let routes: Vec<_> = service.routes.iter().map(route_status).collect();
            json!({ "name": &*service.name, "resource": service.audiences, "upstream": service.upstream.to_string(), "routes": routes })
        })
        .collect();
    let issuers: Vec<_> = policy
        .issuers
        .iter()
        .zip(&snapshot.keyring.0)
        .map(|(issuer, state)| {
            let age = state.last_success.map(|last| crate::clock::instant_now().duration_since(last).as_secs());
            json!({ "issuer": issuer.url, "keys": state.keys.as_ref().map_or(0, |keys| keys.len()), "reachable": !state.unreachable,
                    "age_seconds": age, "fetch_failures": state.failures_total })
        })
        .collect();
    let last_reload = last_reload.map(|last| match last.result {
        Ok(changes) => json!({ "at": last.at, "successful": true, "changes": changes }),
        Err(faults) => json!({ "at": last.at, "successful": false, "faults": faults }),
    });
    let shared = view.shared().map(|shared| json!({ "redis": shared.name(), "up": shared.is_up() }));
    json!({
        "shared_state": shared, "version": env!("CARGO_PKG_VERSION"), "config_hash": policy.hash, "warnings": policy.warnings,
        "services": services, "upstreams": admin_upstreams::shown(&view.standings()), "key_sets": issuers, "reloads": reloads, "last_reload": last_reload,
    })
}

fn route_status(route: &Route) -> serde_json::Value {
    let mode = format!("{:?}", route.mode).to_lowercase();
    let mut shown = json!({ "route": &*route.key, "requirement": route.requirement.to_string(), "mode": mode });
    if let Some(rule) = &route.client_certificate {
        shown["client_certificate"] = json!(rule.to_string());
    }
    let limits: Vec<String> = route.rate_limits.list.iter().map(|limit| limit.to_string()).collect();
    if !limits.is_empty() {
        shown["rate_limits"] = json!(limits);
    }
    shown
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

pub(super) fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answer_is_given_up() {
        const ANSWER_BYTES: usize = 1 << 20;
        let (mut client, server) = duplex(1 << 10);
        client.write_all(b"GET / HTTP/1.1\r\nHost: gate\r\n\r\n").await.unwrap();

        let serving = serve(server, Duration::from_millis(100), |_| std::future::ready(text(StatusCode::OK, &"x".repeat(ANSWER_BYTES))));

        assert!(tokio::time::timeout(Duration::from_secs(20), serving).await.is_ok());
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert!(read.starts_with(b"HTTP/1.1 200") && read.len() < ANSWER_BYTES, "{}", read.len());
    }
}
