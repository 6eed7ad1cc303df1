//! Names of endpoints: each address is one, and what a name stands for may change at any time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::AbortHandle;

use super::support::*;

const ROUTES: &str = "\n      /u/**: public";

/// A server of names that answers every question for IPv4 addresses with the same ones.
struct Names {
    address: SocketAddr,
    /// `None` says that there is no such name.
    known: Arc<Mutex<Option<Vec<Ipv4Addr>>>>,
    asked: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Names {
    async fn start(known: Option<Vec<Ipv4Addr>>, ttl_seconds: u8) -> Self {
        let socket = UdpSocket::bind(loopback()).await.unwrap();
        let address = socket.local_addr().unwrap();
        let (known, asked) = (Arc::new(Mutex::new(known)), Arc::new(AtomicUsize::new(0)));
        let (now, count) = (known.clone(), asked.clone());
        let serve = async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer(&buffer[..length], now.lock().unwrap().as_deref(), ttl_seconds);
                socket.send_to(&answer, from).await.unwrap();
            }
        };
        Self { address, known, asked, task: tokio::spawn(serve).abort_handle() }
    }

    fn tell(&self, known: Option<Vec<Ipv4Addr>>) {
        *self.known.lock().unwrap() = known;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// RFC 1035 §4.1: the question comes back, and an A record for each address behind it.
fn answer(question: &[u8], known: Option<&[Ipv4Addr]>, ttl_seconds: u8) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let end = 12 + name + 4;
    let is_a = question[12 + name..end] == [0, 1, 0, 1];
    let addresses = if is_a { known.unwrap_or_default() } else { &[] };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, if known.is_some() { 0x80 } else { 0x83 }, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl_seconds, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// A service at this address of loopback, whose answers are its name.
async fn service_at(address: Ipv4Addr, port: u16, name: &'static str) -> (u16, AbortHandle) {
    let listener = TcpListener::bind((address, port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while read_request(&mut stream, &mut buffer).await.is_some() {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    };
    (port, tokio::spawn(serve).abort_handle())
}

async fn gate_to(names: &Names, port: u16, more: &str) -> Gate {
    let (issuer, other) = (issuer().await, Upstream::friendly().await);
    let dns = format!("dns: {{ servers: ['{}'], least: 100ms{more} }}", names.address);
    let written = format!("{{ url: 'http://app.internal:{port}', timeouts: {{ connect: 2s }}, {dns} }}");
    gate(&issuer, &other).service("u", "https://u.example/u", &written, ROUTES).in_service("    path: /u").start().await
}

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test]
async fn every_address_of_a_name_is_an_endpoint_and_they_change_with_the_name() {
    let (port, _one) = service_at(ONE, 0, "one").await;
    let _two = service_at(TWO, port, "two").await;
    let names = Names::start(Some(vec![ONE, TWO]), 1).await;
    let gate = gate_to(&names, port, "").await;
    let ask = || async { gate.get("/u/a").send().await.text() };

    let mut both = [ask().await, ask().await];
    both.sort();
    assert_eq!(both, ["one", "two"]);

    names.tell(Some(vec![TWO]));
    until("the first is gone", || async { ask().await == "two" && ask().await == "two" && ask().await == "two" }).await;
    let open = format!("wicketgate_upstream_connections{{endpoint=\"app.internal:{port}\",service=\"u\"}}");
    until("its connection is closed", || async { gate.metric(&open).await == Some(1.0) }).await;

    names.tell(Some(vec![ONE]));
    until("the other is gone", || async { ask().await == "one" && ask().await == "one" && ask().await == "one" }).await;
}

#[tokio::test]
async fn the_last_good_addresses_stay_while_a_name_cannot_be_resolved() {
    let (port, _one) = service_at(ONE, 0, "one").await;
    let names = Names::start(Some(vec![ONE]), 1).await;
    let gate = gate_to(&names, port, ", longest: 200ms").await;
    assert_eq!(gate.get("/u/a").send().await.text(), "one");

    names.tell(None);
    let failed = "wicketgate_upstream_resolutions_total{result=\"failed\",service=\"u\"}";
    until("it fails", || async { gate.metric(failed).await >= Some(2.0) }).await;

    assert_eq!(gate.get("/u/a").send().await.text(), "one");
}

#[tokio::test]
async fn a_name_that_never_was_is_a_502_and_serves_as_soon_as_it_is() {
    let (port, _one) = service_at(ONE, 0, "one").await;
    let names = Names::start(None, 1).await;
    let gate = gate_to(&names, port, ", longest: 200ms").await;

    let answer = gate.get("/u/a").send().await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_refused"));

    names.tell(Some(vec![ONE]));
    until("it serves", || async { gate.get("/u/a").send().await.status == 200 }).await;
}

#[tokio::test]
async fn an_answer_counts_for_as_long_as_it_says_and_the_operator_lets_it() {
    let (port, _one) = service_at(ONE, 0, "one").await;
    let (long, bounded) = (Names::start(Some(vec![ONE]), 200).await, Names::start(Some(vec![ONE]), 200).await);
    let (first, second) = (gate_to(&long, port, "").await, gate_to(&bounded, port, ", longest: 100ms").await);

    until("it was asked again and again", || async { bounded.asked() >= 10 }).await;

    // For both families, once.
    assert_eq!(long.asked(), 2);
    for gate in [first, second] {
        assert_eq!(gate.get("/u/a").send().await.text(), "one");
    }
}

/// Names that the system knows need no server.
#[tokio::test]
async fn localhost_is_reached_at_whichever_family_the_service_listens() {
    for host in ["127.0.0.1", "::1"] {
        let Ok(listener) = TcpListener::bind((host.parse::<IpAddr>().unwrap(), 0)).await else { continue };
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let upstream = TcpListener::bind((host.parse::<IpAddr>().unwrap(), port)).await.unwrap();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = upstream.accept().await.unwrap();
            let mut buffer = Vec::new();
            read_request(&mut stream, &mut buffer).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        });
        let (issuer, other) = (issuer().await, Upstream::friendly().await);
        let gate = gate(&issuer, &other).service("u", "https://u.example/u", &format!("http://localhost:{port}"), ROUTES);
        let gate = gate.in_service("    path: /u").start().await;

        assert_eq!(gate.get("/u/a").send().await.status, 200, "{host}");
        serve.await.unwrap();
    }
}
