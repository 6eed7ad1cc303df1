//! Listeners with settings of their own, which change without closing them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::support::*;

/// What is answered on a Unix socket.
async fn ask_unix(path: &std::path::Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    soon("an answer", stream.read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test]
async fn each_listener_has_settings_of_its_own() {
    let authority = Authority::new("servers");
    let party = authority.sign("gate", &["localhost"]);
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let directory = tempfile::tempdir().unwrap();
    let (plain, tls) = (directory.path().join("plain"), directory.path().join("tls"));
    let (secure, open) = (reserve(), reserve());
    let listen = format!(
        "listen:\n  - {}\n  - {{ address: '{}', tls: false }}\n  - unix:{}\n  - {{ address: 'unix:{}', tls: true }}\ntls: {{ certificate_file: tls.crt, key_file: tls.key }}",
        secure.address,
        open.address,
        plain.display(),
        tls.display()
    );
    let gate = gate(&issuer, &upstream).settings(&listen).file("tls.crt", &party.pem).file("tls.key", &party.key_pem).start().await;
    let ask = || http::Request::get("https://localhost/public/a").body(()).unwrap();

    let over_tls = Http2::over(authority.caller().connect(secure.address).await.unwrap()).await.send(ask()).await;
    let in_plain = Ask::new(open.address, "GET", "/public/a").send().await;
    let unix = ask_unix(&plain, b"GET /public/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let stream = authority.caller().connect_over(UnixStream::connect(&tls).await.unwrap()).await.unwrap();
    let unix_tls = Http2::over(stream).await.send(ask()).await;

    assert_eq!((over_tls.status, in_plain.status, unix_tls.status), (200, 200, 200));
    assert!(unix.starts_with("HTTP/1.1 200 "), "{unix}");
    let received = upstream.received();
    let told: Vec<_> = received.iter().map(|received| received.one("x-forwarded-proto").unwrap()).collect();
    assert_eq!(told, ["https", "http", "http", "https"]);
    assert_eq!(received[2].one("x-forwarded-for"), Some("unknown"));
    drop(gate);
}

#[tokio::test]
async fn a_listener_speaks_the_one_protocol_that_it_is_told_to() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let speaking = |protocol: &str| gate(&issuer, &upstream).settings(&format!("listen: {{ address: 127.0.0.1:0, protocol: {protocol} }}"));
    let (http1, http2) = (speaking("http1").start().await, speaking("http2").start().await);
    let ask = |gate: &Gate| http::Request::get(format!("http://{}/public/a", gate.address())).body(()).unwrap();

    assert_eq!(http1.get("/public/a").send().await.status, 200);
    assert_eq!(Http2::open(http2.address()).await.send(ask(&http2)).await.status, 200);
    assert_eq!(upstream.received().len(), 2);

    let mut connection = Connection::open(http1.address()).await;
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let answer = connection.rest().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut connection = Connection::open(http2.address()).await;
    connection.write(&http2.get("/public/a").bytes("")).await;
    assert!(!connection.rest().await.contains("HTTP/1"));
    assert_eq!(upstream.received().len(), 2);
}

#[tokio::test]
async fn a_unix_socket_has_the_permissions_that_are_written() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gate.sock");
    let with = |mode: &str| {
        let listen = format!("listen:\n  - 127.0.0.1:0\n  - {{ address: 'unix:{}', mode: '{mode}' }}", path.display());
        gate(&issuer, &upstream).settings(&listen)
    };
    let found = || {
        let metadata = std::fs::metadata(&path).unwrap();
        (metadata.permissions().mode() & 0o777, metadata.ino())
    };
    let mut gate = with("0620").start().await;
    let (mode, file) = found();
    assert_eq!(mode, 0o620);

    gate.rewrite(&with("600").yaml()).await;

    assert_eq!(found(), (0o600, file), "the same socket");
    let answer = ask_unix(&path, b"GET /public/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn plain_requests_are_sent_to_https_at_hosts_that_are_ours() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let redirecting = |to: &str| {
        let listen = format!("listen: {{ address: 127.0.0.1:0, redirect_to_https: {to} }}\ntrusted_proxies: [127.0.0.1]");
        gate(&issuer, &upstream).in_service("    hosts: [named.example]").settings(&listen)
    };
    let (gate, other_port) = (redirecting("true").start().await, redirecting("8443").start().await);

    let table = [
        ("GET", "named.example", "/public/a?b=c%20d", "https://named.example/public/a?b=c%20d"),
        ("POST", "Named.Example:8080", "/unknown//x", "https://named.example/unknown//x"),
        ("GET", "api.weather.example", "/.well-known/acme-challenge/x", "https://api.weather.example/.well-known/acme-challenge/x"),
        ("OPTIONS", "named.example", "*", "https://named.example/"),
    ];
    for (method, host, target, location) in table {
        let answer = gate.ask(method, target).host(Some(host)).send().await;
        assert_eq!((answer.status, answer.header("location").as_deref()), (308, Some(location)), "{method} {host} {target}");
    }
    let answer = other_port.get("/x").host(Some("named.example")).send().await;
    assert_eq!(answer.header("location").as_deref(), Some("https://named.example:8443/x"));
    for host in ["evil.example", "named.example.evil.example", "127.0.0.1"] {
        let answer = gate.get("/public/a").host(Some(host)).send().await;
        assert_eq!((answer.status, answer.code().as_str(), answer.header("location")), (421, "host_unknown", None), "{host}");
    }
    assert!(upstream.received().is_empty());

    // A load balancer that took TLS off is not sent in circles.
    let over_tls = gate.get("/public/a").host(Some("named.example")).header("X-Forwarded-Proto: https").send().await;
    assert_eq!(over_tls.status, 200);
    let answer = Http2::open(gate.address()).await.send(http::Request::get("http://named.example/x").body(()).unwrap()).await;
    assert_eq!((answer.status, answer.header("location").as_deref()), (308, Some("https://named.example/x")));
}

#[tokio::test]
async fn what_is_said_of_an_open_listener_changes_without_closing_it() {
    let authority = Authority::new("servers");
    let party = authority.sign("gate", &["localhost"]);
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, reserve());
    let with = |more: &str| {
        let tls = "tls: { certificate_file: tls.crt, key_file: tls.key }\ntrusted_proxies: [127.0.0.1]";
        gate(&issuer, &upstream).settings(&format!("listen: {{ address: '{}'{more} }}\n{tls}", place.address))
    };
    let mut gate = with(", tls: false").file("tls.crt", &party.pem).file("tls.key", &party.key_pem).start().await;
    let mut open = Connection::open(place.address).await;
    let request = gate.get("/public/a").bytes("");
    open.write(&request).await;
    assert_eq!(open.answer("GET").await.status, 200);
    // Somebody who connects all the while, and must never be refused.
    let stop = Arc::new(AtomicBool::new(false));
    let connecting = tokio::spawn({
        let (stop, address) = (stop.clone(), place.address);
        async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                TcpStream::connect(address).await.expect("the listener was closed");
                count += 1;
                tokio::task::yield_now().await;
            }
            count
        }
    });

    gate.rewrite(&with(", tls: true").yaml()).await;
    let answer = Http2::over(authority.caller().connect(place.address).await.unwrap()).await;
    drop(answer);
    gate.rewrite(&with(", tls: false, proxy_protocol: true").yaml()).await;
    let mut balanced = Connection::open(place.address).await;
    balanced.write(&[b"PROXY TCP4 198.51.100.7 127.0.0.1 1 80\r\n", &request[..]].concat()).await;
    assert_eq!(balanced.answer("GET").await.status, 200);
    gate.rewrite(&with(", tls: false, redirect_to_https: true").yaml()).await;
    assert_eq!(gate.get("/x").host(Some("api.weather.example")).send().await.status, 308);
    assert_eq!(gate.status().await["last_reload"]["changes"], "listen changed");

    open.write(&request).await;
    assert_eq!(open.answer("GET").await.status, 200, "a connection keeps what it was accepted with");
    stop.store(true, Ordering::Relaxed);
    assert!(connecting.await.unwrap() > 10);
}

#[tokio::test]
async fn a_socket_that_was_not_passed_on_is_said_to_be_missing() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;

    gate.rewrite(&before.settings("listen: [127.0.0.1:0, 'fd:web']").yaml()).await;

    let faults = gate.status().await["last_reload"]["faults"].to_string();
    assert!(faults.contains("listen fd:web") && faults.contains("LISTEN_FDS"), "{faults}");
    assert_eq!(gate.get("/public/a").send().await.status, 200);
}
