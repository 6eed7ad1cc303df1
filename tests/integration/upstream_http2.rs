//! HTTP/2 and TLS to endpoints: who is spoken to and how, what goes again and what never does.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, Version};
use tokio::sync::Barrier;

use super::support::*;

const ROUTES: &str = "\n      /u/**: public";

/// A gate with a service `u` whose upstream is written so, and files beside its configuration.
async fn gate_to(upstream: &str, files: &[(&str, &str)]) -> Gate {
    let (issuer, other) = (issuer().await, Upstream::friendly().await);
    let mut gate = gate(&issuer, &other).service("u", "https://u.example/u", upstream, ROUTES).in_service("    path: /u");
    for (name, text) in files {
        gate = gate.file(name, text);
    }
    gate.start().await
}

fn http2_at(upstream: &Upstream) -> String {
    format!("{{ url: '{}', protocol: http2 }}", upstream.url())
}

/// RFC 9113 §8.2.2, §8.3.1.
#[tokio::test]
async fn a_request_goes_on_in_the_form_of_http_2() {
    let seen: Arc<Mutex<Vec<Request<()>>>> = Arc::default();
    let heads = seen.clone();
    let upstream = http2_upstream(move |_, (request, mut respond)| {
        let heads = heads.clone();
        async move {
            let (head, mut body) = request.into_parts();
            heads.lock().unwrap().push(Request::from_parts(head, ()));
            let mut sent = Vec::new();
            while let Some(Ok(part)) = body.data().await {
                sent.extend_from_slice(&part);
            }
            assert_eq!(body.trailers().await.unwrap(), None);
            let head = Response::builder().header("trailer", "x-checksum").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(sent.into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", "abc".parse().unwrap());
            trailers.insert("x-auth-subject", "forged".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    })
    .await;
    let gate = gate_to(&http2_at(&upstream), &[]).await;

    let ask = gate.ask("POST", "/u/a?b=c").host(Some("u.example:8443")).header("TE: trailers\r\nConnection: TE, X-Hop\r\nX-Hop: 1");
    let answer = ask.header("Cookie: a=b; c=d\r\nKeep-Alive: timeout=5\r\nX-Auth-Subject: forged").body("body").send().await;

    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "body", true));
    assert_eq!(answer.trailers, [("x-checksum".to_owned(), "abc".to_owned())]);
    let request = seen.lock().unwrap().pop().unwrap();
    assert_eq!((request.version(), request.uri().to_string().as_str()), (Version::HTTP_2, "http://u.example:8443/u/a?b=c"));
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!((header("te").as_deref(), header("cookie").as_deref()), (Some("trailers"), Some("a=b; c=d")));
    for absent in ["host", "connection", "keep-alive", "transfer-encoding", "upgrade", "x-hop", "x-auth-subject"] {
        assert_eq!(header(absent), None, "{absent}");
    }
    assert_eq!(header("content-length").as_deref(), Some("4"));
}

/// As gRPC has them: behind a body that says nothing of them, and not those that are the gate's to set.
#[tokio::test]
async fn trailers_arrive_both_ways_whatever_the_client_speaks() {
    let seen: Arc<Mutex<Vec<(Bytes, HeaderMap)>>> = Arc::default();
    let arrived = seen.clone();
    let upstream = http2_upstream(move |_, (request, mut respond)| {
        let arrived = arrived.clone();
        async move {
            let mut body = request.into_body();
            let mut stream =
                respond.send_response(Response::builder().header("trailer", "x-sum, x-left").body(()).unwrap(), false).unwrap();
            let mut sent = Vec::new();
            while let Some(Ok(part)) = body.data().await {
                sent.extend_from_slice(&part);
            }
            let trailers = body.trailers().await.unwrap().unwrap_or_default();
            arrived.lock().unwrap().push((sent.into(), trailers.clone()));
            stream.send_data(Bytes::from_static(b"answer"), false).unwrap();
            let own = [("x-left", "1"), ("x-auth-subject", "mallory"), ("x-sum", trailers["x-sum"].to_str().unwrap())];
            stream.send_trailers(own.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()).unwrap();
        }
    })
    .await;
    let gate = gate_to(&http2_at(&upstream), &[]).await;
    let sent = [("x-sum", "abc"), ("x-auth-subject", "forged"), ("content-length", "3")];

    let mut http2 = Http2::open(gate.address()).await;
    let request = Request::post(format!("http://{}/u/a", gate.address())).header("te", "trailers").body(()).unwrap();
    let mut exchange = http2.begin(request, false).await;
    exchange.write("body");
    exchange.body.send_trailers(sent.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()).unwrap();
    let over_http2 = exchange.answer().await;
    let mut client = Connection::open(gate.address()).await;
    let head = gate.ask("POST", "/u/a").header("Transfer-Encoding: chunked\r\nTE: trailers").bytes("");
    let lines: String = sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    client.write(&[&head, format!("4\r\nbody\r\n0\r\n{lines}\r\n").as_bytes()].concat()).await;
    let over_http1 = client.answer("POST").await;

    for mut answer in [over_http2, over_http1] {
        assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "answer", true));
        answer.trailers.sort();
        assert_eq!(answer.trailers, [("x-left", "1"), ("x-sum", "abc")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let sum: HeaderMap = [("x-sum", "abc")].into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    assert_eq!(*seen.lock().unwrap(), [(Bytes::from_static(b"body"), sum.clone()), (Bytes::from_static(b"body"), sum)]);
}

#[tokio::test]
async fn requests_share_a_connection_and_the_next_one_takes_what_is_too_many() {
    let all_there = Arc::new(Barrier::new(5));
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (meet, count) = (all_there.clone(), seen.clone());
    let upstream = http2_upstream(move |connection, asked| {
        let (meet, count) = (meet.clone(), count.clone());
        async move {
            count.lock().unwrap().push(connection);
            meet.wait().await;
            answer_ok(asked, "ok").await;
        }
    })
    .await;
    let gate = gate_to(&format!("{{ url: '{}', protocol: http2, streams: 3 }}", upstream.url()), &[]).await;

    let answers = futures_util::future::join_all((0..5).map(|_| gate.get("/u/a").send())).await;

    assert!(answers.iter().all(|answer| answer.status == 200));
    let mut connections = seen.lock().unwrap().clone();
    connections.sort_unstable();
    assert_eq!(connections, [0, 0, 0, 1, 1]);
    assert_eq!(
        gate.metric(&format!("wicketgate_upstream_connections{{endpoint=\"{}\",service=\"u\"}}", upstream.address())).await,
        Some(2.0)
    );
}

/// RFC 9113 §8.7: a refused stream was not acted upon.
#[tokio::test]
async fn a_stream_that_was_refused_goes_again_and_one_that_was_reset_does_not() {
    for (reason, method, expected, tries) in [
        (Reason::REFUSED_STREAM, "GET", 200, 2),
        (Reason::REFUSED_STREAM, "DELETE", 200, 2),
        (Reason::CANCEL, "GET", 502, 1),
        (Reason::INTERNAL_ERROR, "DELETE", 502, 1),
    ] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let upstream = http2_upstream(move |_, mut asked| {
            let counted = counted.clone();
            async move {
                // The first is for a connection that has been used.
                match counted.fetch_add(1, Ordering::SeqCst) {
                    1 => asked.1.send_reset(reason),
                    _ => answer_ok(asked, "ok").await,
                }
            }
        })
        .await;
        let gate = gate_to(&http2_at(&upstream), &[]).await;
        assert_eq!(gate.get("/u/first").send().await.status, 200);

        let answer = gate.ask(method, "/u/a").send().await;

        assert_eq!((answer.status, count.load(Ordering::SeqCst)), (expected, 1 + tries), "{reason} {method}");
        assert_eq!(upstream.connections(), 1, "it refused a request, and does not close");
    }
}

/// What a GOAWAY does not name was not acted upon, either; what it names may have been.
#[tokio::test]
async fn a_connection_that_the_service_is_closing_costs_no_request() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let upstream = Upstream::by_hand(move |stream| {
        let counted = counted.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            let Some(Ok(asked)) = connection.accept().await else { return };
            counted.fetch_add(1, Ordering::SeqCst);
            // This one is answered, and it is the last of its connection.
            tokio::spawn(answer_ok(asked, "ok"));
            connection.graceful_shutdown();
            while let Some(Ok(_)) = connection.accept().await {}
        }
    })
    .await;
    let gate = gate_to(&http2_at(&upstream), &[]).await;

    for _ in 0..10 {
        assert_eq!(gate.get("/u/a").send().await.status, 200);
    }

    assert_eq!((count.load(Ordering::SeqCst), upstream.connections()), (10, 10));
}

/// What was sent of a body is kept, so that the client need not have sent all of it.
#[tokio::test]
async fn a_body_that_has_begun_goes_again_with_a_stream_that_was_refused() {
    let count = Arc::new(AtomicUsize::new(0));
    let (told, mut asked_again) = tokio::sync::mpsc::unbounded_channel();
    let upstream = http2_upstream(move |_, (request, mut respond)| {
        let (number, told) = (count.fetch_add(1, Ordering::SeqCst), told.clone());
        async move {
            let mut body = request.into_body();
            let mut said = Vec::new();
            while let Some(Ok(piece)) = body.data().await {
                // The first is for a connection that has been used.
                match number {
                    1 => return respond.send_reset(Reason::REFUSED_STREAM),
                    _ => said.extend_from_slice(&piece),
                }
                told.send(number).unwrap();
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(said.into(), true).unwrap();
        }
    })
    .await;
    let gate = gate_to(&http2_at(&upstream), &[]).await;
    assert_eq!(gate.get("/u/first").send().await.status, 200);
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.ask("POST", "/u/a").header("Content-Length: 10").bytes("")).await;
    client.write(b"01234").await;
    assert_eq!(soon("the second try", asked_again.recv()).await, Some(2));
    client.write(b"56789").await;

    assert_eq!(client.answer("POST").await.text(), "0123456789");
}

/// RFC 9113 §8.1: `NO_ERROR` follows an answer that is whole, and is no end of one that is not.
#[tokio::test]
async fn an_answer_that_is_reset_in_the_middle_is_not_whole_for_the_client() {
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR] {
        let upstream = http2_upstream(move |_, (_, mut respond)| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"half"), false).unwrap();
            stream.reserve_capacity(1);
            // Not before the half is on its way.
            let _ = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            tokio::task::yield_now().await;
            stream.send_reset(reason);
        })
        .await;
        let gate = gate_to(&http2_at(&upstream), &[]).await;

        let mut client = Connection::open(gate.address()).await;
        client.write(&gate.get("/u/a").bytes("")).await;
        let answer = client.answer("GET").await;

        assert!((answer.status == 200 && !answer.complete) || answer.status == 502, "{reason}: {answer:?}");
        assert_eq!(client.rest().await, "");
        let broken = "wicketgate_refusals_total{reason=\"upstream_broken\",service=\"u\"}";
        until("it is counted", || async { gate.metric(broken).await == Some(1.0) }).await;
    }
}

/// A process that hangs acknowledges what it is sent, as its kernel does so.
#[tokio::test]
async fn a_connection_on_which_nothing_comes_any_more_gets_no_more_requests() {
    let count = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::by_hand(move |stream| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok(asked)) = connection.accept().await {
                if number == 0 && asked.0.uri().path() == "/u/last" {
                    return pending().await;
                }
                tokio::spawn(answer_ok(asked, "ok"));
            }
        }
    })
    .await;
    let (issuer, other) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &other).service("u", "https://u.example/u", &http2_at(&upstream), ROUTES).in_service("    path: /u");
    let gate = gate.settings("timeouts: { response: 300ms }").start().await;

    assert_eq!(gate.get("/u/first").send().await.status, 200);
    assert_eq!(gate.get("/u/last").send().await.status, 504);
    until("others go elsewhere", || async { gate.get("/u/next").send().await.status == 200 }).await;
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_resets_its_stream_alone() {
    let (told, mut resets) = tokio::sync::mpsc::unbounded_channel();
    let upstream = http2_upstream(move |_, mut asked| {
        let told = told.clone();
        async move {
            if asked.0.uri().path() == "/u/hangs" {
                told.send(None).unwrap();
                let reason = std::future::poll_fn(|cx| asked.1.poll_reset(cx)).await;
                told.send(reason.ok()).unwrap();
                return pending().await;
            }
            answer_ok(asked, "ok").await;
        }
    })
    .await;
    let gate = gate_to(&http2_at(&upstream), &[]).await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.get("/u/hangs").bytes("")).await;
    assert_eq!(soon("the request", resets.recv()).await.unwrap(), None);

    drop(client);

    assert_eq!(soon("the reset", resets.recv()).await.unwrap(), Some(Reason::CANCEL));
    assert_eq!(gate.get("/u/a").send().await.status, 200);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_websocket_is_refused_where_http_2_alone_is_spoken() {
    let upstream = http2_upstream(|_, asked| answer_ok(asked, "ok")).await;
    let gate = gate_to(&http2_at(&upstream), &[]).await;

    let ask = gate.get("/u/ws").header("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13");
    let answer = ask.header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").send().await;

    assert_eq!((answer.status, answer.code().as_str()), (501, "upgrade_unavailable"));
    assert_eq!(upstream.connections(), 0);
}

/// What an upstream over TLS heard in each handshake.
type Handshakes = Arc<Mutex<Vec<(Option<String>, Option<String>, usize)>>>;

/// One that speaks what is chosen, and answers with the protocol.
async fn tls_upstream(signer: &Signer, name: &str, protocols: &[&str], asks: bool) -> (Upstream, Handshakes) {
    let (acceptor, heard) = (signer.acceptor(name, protocols, asks), Handshakes::default());
    let said = heard.clone();
    let upstream = Upstream::by_hand(move |stream| {
        let (acceptor, said) = (acceptor.clone(), said.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let handshake = handshake_of(&stream);
            let http2 = handshake.1.as_deref() == Some("h2");
            said.lock().unwrap().push(handshake);
            if http2 {
                return serve_http2(stream, |asked| answer_ok(asked, "h2")).await;
            }
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let Ok(count @ 1..) = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await else { return };
                seen.extend_from_slice(&buffer[..count]);
                if !seen.ends_with(b"\r\n\r\n") {
                    continue;
                }
                let answer: &[u8] = match String::from_utf8_lossy(&seen).to_lowercase().contains("upgrade: websocket") {
                    true => b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframe",
                    false => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh1",
                };
                seen.clear();
                if tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (upstream, heard)
}

#[tokio::test]
async fn an_endpoint_proves_its_name_and_the_gate_shows_its_certificate() {
    let signer = Signer::new();
    let (upstream, heard) = tls_upstream(&signer, "legacy.internal", &["h2", "http/1.1"], true).await;
    let own = signer.sign("gate");
    let files = [("ca.crt", signer.pem.as_str()), ("gate.crt", own.pem.as_str()), ("gate.key", own.key_pem.as_str())];
    let tls = "tls: { ca_file: ca.crt, certificate_file: gate.crt, key_file: gate.key, server_name: legacy.internal }";
    let gate = gate_to(&format!("{{ url: 'https://{}', {tls} }}", upstream.address()), &files).await;

    for _ in 0..3 {
        assert_eq!(gate.get("/u/a").send().await.text(), "h2");
    }

    assert_eq!(*heard.lock().unwrap(), [(Some("legacy.internal".to_owned()), Some("h2".to_owned()), 1)]);
}

#[tokio::test]
async fn the_protocol_is_what_the_operator_says_or_the_endpoint_chooses() {
    let signer = Signer::new();
    for (written, offered, expected) in [
        ("auto", &["h2", "http/1.1"][..], "h2"),
        ("auto", &["http/1.1"], "h1"),
        ("auto", &[], "h1"),
        ("http1", &["h2", "http/1.1"], "h1"),
        ("http2", &["h2", "http/1.1"], "h2"),
    ] {
        let (upstream, _) = tls_upstream(&signer, "localhost", offered, false).await;
        let written =
            format!("{{ url: 'https://{}', protocol: {written}, tls: {{ ca_file: ca.crt, server_name: localhost }} }}", upstream.address());
        let gate = gate_to(&written, &[("ca.crt", &signer.pem)]).await;
        assert_eq!(gate.get("/u/a").send().await.text(), expected, "{written} {offered:?}");
    }
}

#[tokio::test]
async fn an_endpoint_whose_certificate_does_not_count_is_a_502() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    for (ca, name, asks) in [(&stranger, "localhost", false), (&signer, "elsewhere.internal", false), (&signer, "localhost", true)] {
        let (upstream, _) = tls_upstream(&signer, name, &["http/1.1"], asks).await;
        let written = format!("{{ url: 'https://{}', tls: {{ ca_file: ca.crt, server_name: localhost }} }}", upstream.address());
        let gate = gate_to(&written, &[("ca.crt", &ca.pem)]).await;

        let answer = gate.get("/u/a").send().await;

        assert_eq!(answer.status, 502, "{name} {asks}");
        let failed = format!("wicketgate_upstream_connects_total{{endpoint=\"{}\",result=\"tls\",service=\"u\"}}", upstream.address());
        // With TLS 1.3 a client is refused after its handshake.
        assert!(asks || gate.metric(&failed).await == Some(1.0), "{name}");
    }
}

#[tokio::test]
async fn an_endpoint_that_never_finishes_its_handshake_is_a_502_in_time() {
    let (upstream, _calls) = Upstream::manual().await;
    let written = format!("{{ url: 'https://{}', timeouts: {{ connect: 200ms }} }}", upstream.address());
    let gate = gate_to(&written, &[]).await;

    let answer = gate.get("/u/a").send().await;

    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_refused"));
    let failed = format!("wicketgate_upstream_connects_total{{endpoint=\"{}\",result=\"timeout\",service=\"u\"}}", upstream.address());
    assert_eq!(gate.metric(&failed).await, Some(1.0));
}

#[tokio::test]
async fn a_websocket_takes_an_http_1_1_connection_of_its_own() {
    let signer = Signer::new();
    let (upstream, heard) = tls_upstream(&signer, "localhost", &["h2", "http/1.1"], false).await;
    let written = format!("{{ url: 'https://{}', tls: {{ ca_file: ca.crt, server_name: localhost }} }}", upstream.address());
    let gate = gate_to(&written, &[("ca.crt", &signer.pem)]).await;
    assert_eq!(gate.get("/u/a").send().await.text(), "h2");
    let mut client = Connection::open(gate.address()).await;

    let ask = gate.get("/u/ws").header("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13");
    client.write(&ask.header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").bytes("")).await;

    assert_eq!(client.answer("GET").await.status, 101);
    client.read_until("frame").await;
    let protocols: Vec<_> = heard.lock().unwrap().iter().map(|(_, protocol, _)| protocol.clone().unwrap_or_default()).collect();
    assert_eq!(protocols, ["h2", "http/1.1"]);
}

#[tokio::test]
async fn authorities_change_with_their_file_and_a_broken_one_changes_nothing() {
    let (signer, next) = (Signer::new(), Signer::new());
    let (upstream, _) = tls_upstream(&signer, "localhost", &["http/1.1"], false).await;
    let written = format!("{{ url: 'https://{}', tls: {{ ca_file: ca.crt, server_name: localhost }} }}", upstream.address());
    let mut gate = gate_to(&written, &[("ca.crt", &signer.pem)]).await;
    assert_eq!(gate.get("/u/a").send().await.text(), "h1");

    gate.rewrite_files(&[("ca.crt", "-----BEGIN CERTIFICATE-----\n")]).await;
    assert_eq!(gate.get("/u/a").send().await.text(), "h1");
    let refused = gate.status().await["last_reload"].to_string();
    assert!(refused.contains("services[1].upstream.tls"), "{refused}");

    gate.rewrite_files(&[("ca.crt", &next.pem)]).await;
    assert_eq!(gate.get("/u/a").send().await.status, 502);
    gate.rewrite_files(&[("ca.crt", &format!("{}{}", next.pem, signer.pem))]).await;
    assert_eq!(gate.get("/u/a").send().await.text(), "h1");
}

fn ask_websocket(gate: &Gate) -> Vec<u8> {
    let ask = gate.get("/u/ws").header("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13");
    ask.header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").bytes("")
}

#[tokio::test]
async fn a_websocket_takes_the_place_of_an_idle_connection_or_the_connection_itself() {
    let signer = Signer::new();
    for (speaks, expected) in [(&["h2", "http/1.1"][..], &["h2", "http/1.1"][..]), (&["http/1.1"], &["http/1.1"])] {
        let (upstream, heard) = tls_upstream(&signer, "localhost", speaks, false).await;
        let tls = "tls: { ca_file: ca.crt, server_name: localhost }";
        let written = format!("{{ url: 'https://{}', {tls}, connections: 1, pending: 0 }}", upstream.address());
        let gate = gate_to(&written, &[("ca.crt", &signer.pem)]).await;
        assert_eq!(gate.get("/u/a").send().await.status, 200);
        let idle = format!("wicketgate_upstream_connections{{endpoint=\"{}\",service=\"u\"}}", upstream.address());
        assert_eq!(gate.metric(&idle).await, Some(1.0), "it is kept");

        let mut client = Connection::open(gate.address()).await;
        client.write(&ask_websocket(&gate)).await;

        assert_eq!(client.answer("GET").await.status, 101, "{speaks:?}");
        let protocols: Vec<_> = heard.lock().unwrap().iter().map(|(_, protocol, _)| protocol.clone().unwrap_or_default()).collect();
        assert_eq!(protocols, expected);
        // Nothing is idle now.
        let mut another = Connection::open(gate.address()).await;
        another.write(&ask_websocket(&gate)).await;
        let refused = another.answer("GET").await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "upstream_overloaded"));
    }
}

#[tokio::test]
async fn a_websocket_waits_for_a_place_as_other_requests_do() {
    let signer = Signer::new();
    let (upstream, heard) = tls_upstream(&signer, "localhost", &["h2", "http/1.1"], false).await;
    let tls = "tls: { ca_file: ca.crt, server_name: localhost }";
    let written = format!("{{ url: 'https://{}', {tls}, connections: 1, pending: 1 }}", upstream.address());
    let gate = gate_to(&written, &[("ca.crt", &signer.pem)]).await;
    // The request is answered when its body has come.
    let mut busy = Connection::open(gate.address()).await;
    busy.write(&gate.ask("POST", "/u/a").header("Content-Length: 1").bytes("")).await;
    until("the connection is there", || async { heard.lock().unwrap().len() == 1 }).await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&ask_websocket(&gate)).await;
    let pending = format!("wicketgate_upstream_requests_pending{{endpoint=\"{}\",service=\"u\"}}", upstream.address());
    until("the WebSocket waits", || async { gate.metric(&pending).await == Some(1.0) }).await;

    let mut another = Connection::open(gate.address()).await;
    another.write(&ask_websocket(&gate)).await;
    assert_eq!(another.answer("GET").await.status, 503, "one may wait");
    busy.write(b"x").await;

    assert_eq!(busy.answer("POST").await.text(), "h2");
    assert_eq!(client.answer("GET").await.status, 101);
}

#[tokio::test]
async fn a_websocket_takes_the_place_of_a_connection_that_was_made_ahead_of_need() {
    let signer = Signer::new();
    let (upstream, heard) = tls_upstream(&signer, "localhost", &["h2", "http/1.1"], false).await;
    let (address, may_shake) = (upstream.address(), Arc::new(tokio::sync::Semaphore::new(0)));
    let held = may_shake.clone();
    let way = Upstream::by_hand(move |mut stream| {
        let held = held.clone();
        async move {
            let _may = held.acquire().await.unwrap();
            let mut there = tokio::net::TcpStream::connect(address).await.unwrap();
            let _ended = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
        }
    })
    .await;
    let tls = "tls: { ca_file: ca.crt, server_name: localhost }";
    let written = format!("{{ url: 'https://{}', {tls}, connections: 1, pending: 1, warm: 1, idle: 1m }}", way.address());
    let gate = gate_to(&written, &[("ca.crt", &signer.pem)]).await;
    until("a connection is in the making", || async { way.connections() == 1 }).await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&ask_websocket(&gate)).await;
    let pending = format!("wicketgate_upstream_requests_pending{{endpoint=\"{}\",service=\"u\"}}", way.address());
    until("the WebSocket waits", || async { gate.metric(&pending).await == Some(1.0) }).await;

    may_shake.add_permits(2);

    assert_eq!(client.answer("GET").await.status, 101);
    let protocols: Vec<_> = heard.lock().unwrap().iter().map(|(_, protocol, _)| protocol.clone().unwrap_or_default()).collect();
    assert_eq!(protocols, ["h2", "http/1.1"]);
}
