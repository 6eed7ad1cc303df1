//! What it costs to refuse a request for which there is no place, against serving one: CPU time a request of all parties
//! together, in one run. `cargo bench --bench shedding [requests]`
#![allow(clippy::print_stdout, reason = "it prints its figures")]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use wicketgate::app::App;
use wicketgate::demo::issuer::{Issuer, Resource, Settings, TokenRequest};
use wicketgate::policy::Listen;
use wicketgate::reload::Source;

const RESOURCE: &str = "https://api.weather.example";
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 5;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let requests: usize = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(20_000);
    let settings = Settings { resources: vec![Resource::new(RESOURCE, &[])], ..Settings::default() };
    let issuer = Issuer::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), settings).await?;
    let upstream = upstream().await?;
    let directory = tempfile::tempdir()?;
    let mut gates = Vec::new();
    for limits in ["{}", "{ requests: 1, request_queue: 0 }"] {
        let path = directory.path().join(format!("{}.yaml", gates.len()));
        std::fs::write(
            &path,
            format!(
                "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nissuer: {}\nlimits: {limits}\nservices:\n  - name: weather\n    resource: {RESOURCE}\n    upstream: http://{upstream}\n    routes:\n      GET /forecast/{{city}}: read:weather\n      GET /held: public\n",
                issuer.url()
            ),
        )?;
        let source = Source::new(&path);
        let loaded = source.load()?;
        gates.push(App::start(source, loaded, None).await?);
    }
    let addresses: Vec<SocketAddr> = gates.iter().flat_map(App::addresses).filter_map(tcp).collect();
    let [serving, full] = addresses[..] else { return Err("no listener".into()) };
    let token: Arc<str> = issuer
        .token(TokenRequest { resource: RESOURCE.to_owned(), scope: Some("read:weather".to_owned()), ..TokenRequest::default() })
        .into();
    let held = connect(full).await?.send_request(request("/held", &token)?);
    tokio::spawn(held);
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("{requests} requests a round over {CONNECTIONS} connections, {ROUNDS} rounds, CPU µs a request (all parties, one thread)");
    let mut least = [f64::MAX; 3];
    for round in 1..=ROUNDS {
        let direct = measure((upstream, StatusCode::OK), &token, requests).await?;
        let served = measure((serving, StatusCode::OK), &token, requests).await?;
        let refused = measure((full, StatusCode::SERVICE_UNAVAILABLE), &token, requests).await?;
        println!("round {round}: direct {direct:.1}  served {served:.1}  refused {refused:.1}");
        for (least, found) in least.iter_mut().zip([direct, served, refused]) {
            *least = least.min(found);
        }
    }
    let [direct, served, refused] = least;
    println!("least:   direct {direct:.1}  served {served:.1}  refused {refused:.1}");
    Ok(())
}

fn tcp(listen: Listen) -> Option<SocketAddr> {
    match listen {
        Listen::Tcp(address) => Some(address),
        Listen::Unix(_) | Listen::Inherited(_) => None,
    }
}

/// A service that answers everything with a few bytes, but for `/held`, to which it never answers.
async fn upstream() -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let answer = service_fn(|request: Request<Incoming>| async move {
                if request.uri().path() == "/held" {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{\"sky\":\"clear\"}"))))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok(address)
}

fn request(target: &str, token: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    Request::get(target).header("host", "gate").header("authorization", format!("Bearer {token}")).body(Empty::new())
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, BoxError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn measure(from: (SocketAddr, StatusCode), token: &Arc<str>, requests: usize) -> Result<f64, BoxError> {
    let before = cpu_microseconds()?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(tokio::spawn(client(from, token.clone(), requests / CONNECTIONS)));
    }
    for client in clients {
        client.await??;
    }
    Ok((cpu_microseconds()? - before) / requests as f64)
}

async fn client((address, expected): (SocketAddr, StatusCode), token: Arc<str>, requests: usize) -> Result<(), BoxError> {
    let mut sender = connect(address).await?;
    for _ in 0..requests {
        sender.ready().await?;
        let response = sender.send_request(request("/forecast/oslo", &token)?).await?;
        if response.status() != expected {
            return Err(format!("status {}", response.status()).into());
        }
        response.into_body().collect().await?;
    }
    Ok(())
}

/// CPU time of this process, user and system, in microseconds.
fn cpu_microseconds() -> Result<f64, BoxError> {
    const TICK_MICROSECONDS: f64 = 10_000.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) * TICK_MICROSECONDS)
}
