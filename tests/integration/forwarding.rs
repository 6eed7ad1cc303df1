//! What the gate lets through arrives as it was sent, and what only concerns one connection stays on it.

use super::support::*;

#[tokio::test]
async fn path_and_query_arrive_byte_for_byte() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let targets = [
        "/public/%F0%9F%98%80?a=%2f..%2F&b=%zz",
        "/public/caf%c3%a9/caf%C3%A9?caf%c3%a9",
        "/public/a%20b/?",
        "/public/(a)!$&'*+,=:@~-._?/?a=//b;c&&=[]|^{}",
        "/public",
        "/public/",
    ];

    for target in targets {
        assert_eq!(gate.get(target).send().await.status, 200, "{target}");
    }

    let lines: Vec<String> = upstream.received().into_iter().map(|request| request.line).collect();
    assert_eq!(lines, targets.map(|target| format!("GET {target} HTTP/1.1")));
}

#[tokio::test]
async fn lines_of_one_header_keep_their_order_both_ways() {
    let (issuer, upstream) = (
        issuer().await,
        Upstream::answering(
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nX-Other: x\r\nSet-Cookie: b=2\r\nSet-Cookie: a=3\r\nContent-Length: 0\r\n\r\n",
        )
        .await,
    );
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate.get("/public/a").header("X-Many: 2").header("Accept: */*").header("X-Many: 1, 3").header("X-Many: 2").send().await;

    let cookies: Vec<&str> = answer.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2", "a=3"]);
    assert_eq!(upstream.only().all("x-many"), ["2", "1, 3", "2"]);
}

/// RFC 9110 §7.6.1.
#[tokio::test]
async fn headers_of_one_connection_do_not_reach_the_upstream() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate
        .get("/public/a")
        .header("Connection: keep-alive, X-Hop , Upgrade,HTTP2-Settings, TE")
        .header("connection: x-other-hop")
        .header("X-Hop: 1")
        .header("X-Other-Hop: 1")
        .header("Keep-Alive: timeout=5")
        .header("TE: gzip;q=0.5")
        .header("Proxy-Authorization: Basic Zm9v")
        .header("Proxy-Connection: keep-alive")
        .header("Proxy: http://evil.example")
        .header("Upgrade: h2c")
        .header("HTTP2-Settings: AAMAAABkAAQAAP__")
        .header("X-Stays: 1")
        .send()
        .await;

    assert_eq!(answer.status, 200);
    let received = upstream.only();
    let gone = ["connection", "x-hop", "x-other-hop", "keep-alive", "te", "upgrade", "http2-settings", "proxy"];
    for name in gone.into_iter().chain(["proxy-authorization", "proxy-connection"]) {
        assert_eq!(received.one(name), None, "{name}");
    }
    assert_eq!(received.one("x-stays"), Some("1"));
}

#[tokio::test]
async fn headers_of_the_upstreams_connection_do_not_reach_the_client() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nProxy-Connection: x\r\n\
          Proxy-Authenticate: Basic\r\nTE: x\r\nX-Stays: 1\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let gate = gate(&issuer, &upstream).start().await;
    let mut connection = Connection::open(gate.address()).await;

    connection.write(&gate.get("/public/a").bytes("")).await;
    let answer = connection.answer("GET").await;

    for name in ["connection", "x-hop", "keep-alive", "upgrade", "proxy-connection", "proxy-authenticate", "te"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!((answer.header("x-stays").as_deref(), answer.text().as_str()), (Some("1"), "ok"));
}

#[tokio::test]
async fn the_upstream_learns_the_way_from_the_gate_and_not_from_the_client() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    gate.get("/public/a")
        .host(Some("api.weather.example:8443"))
        .header("X-Forwarded-For: 1.2.3.4")
        .header("X-Forwarded-Proto: https")
        .header("X_Forwarded_Host: evil.example")
        .header("X-Forwarded-Prefix: /admin")
        .header("Forwarded: for=1.2.3.4;proto=https")
        .header("X-Real-IP: 1.2.3.4")
        .header("X-Original-URL: /admin")
        .header("Via: 1.0 fred")
        .header("Via: 1.1 ginger")
        .send()
        .await;

    let received = upstream.only();
    assert_eq!(received.one("host"), Some("api.weather.example:8443"));
    assert_eq!(received.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(received.one("x-forwarded-proto"), Some("http"));
    assert_eq!(received.one("x-forwarded-host"), Some("api.weather.example:8443"));
    assert_eq!(received.one("forwarded"), Some("for=127.0.0.1;host=\"api.weather.example:8443\";proto=http"));
    for name in ["x_forwarded_host", "x-forwarded-prefix", "x-real-ip", "x-original-url"] {
        assert_eq!(received.one(name), None, "{name}");
    }
    let via = received.one("via").unwrap();
    assert!(via.starts_with("1.0 fred, 1.1 ginger, 1.1 wicketgate-") && !via.contains("127.0.0.1"), "{via}");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_the_way_is_kept_whole() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("trusted_proxies: [10.0.0.0/8, 127.0.0.1]").start().await;

    gate.get("/public/a")
        .host(Some("gate"))
        .header("X-Forwarded-For: 6.6.6.6")
        .header("X-Forwarded-For: 1.2.3.4")
        .header("X-Forwarded-Proto: https")
        .header("X-Forwarded-Host: api.weather.example")
        .header("Forwarded: for=6.6.6.6")
        .header("Forwarded: for=1.2.3.4;proto=https")
        .send()
        .await;

    let received = upstream.only();
    // A proxy may add its line below the client's: the last one is the one to believe.
    assert_eq!(received.one("x-forwarded-for"), Some("6.6.6.6, 1.2.3.4, 127.0.0.1"));
    assert_eq!(received.one("x-forwarded-proto"), Some("https"));
    assert_eq!(received.one("x-forwarded-host"), Some("api.weather.example"));
    let forwarded = "for=6.6.6.6, for=1.2.3.4;proto=https, for=127.0.0.1;host=\"gate\";proto=http";
    assert_eq!(received.one("forwarded"), Some(forwarded));
}

#[tokio::test]
async fn one_request_id_stands_in_the_request_the_response_and_the_problem() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate.get("/public/a").header("X-Request-Id: trace-1.a:b/c+d=@").send().await;
    let refused = gate.get("/me").header("X-Request-Id: trace-2").send().await;
    let made = gate.get("/me").send().await;

    assert_eq!(answer.header("x-request-id").as_deref(), Some("trace-1.a:b/c+d=@"));
    assert_eq!(upstream.only().one("x-request-id"), Some("trace-1.a:b/c+d=@"));
    assert_eq!((refused.header("x-request-id").as_deref(), refused.json()["request_id"].as_str()), (Some("trace-2"), Some("trace-2")));
    assert_eq!(made.header("x-request-id").as_deref(), made.json()["request_id"].as_str());
    assert_eq!(made.header("x-request-id").map(|id| id.len()), Some(36));
}

#[tokio::test]
async fn an_odd_request_id_is_replaced() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let odd = [String::new(), "a b".to_owned(), "a\"b".to_owned(), "\u{e9}".to_owned(), "x".repeat(129)];

    for id in &odd {
        let answer = gate.get("/public/a").header(&format!("X-Request-Id: {id}")).send().await;
        let made = answer.header("x-request-id").unwrap();
        assert_eq!(made.len(), 36, "{id:?} became {made:?}");
        assert_eq!(upstream.received().last().unwrap().one("x-request-id"), Some(made.as_str()));
    }
}

#[tokio::test]
async fn the_answer_to_head_has_a_length_and_no_body() {
    let (issuer, upstream) = (issuer().await, Upstream::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n").await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut connection = Connection::open(gate.address()).await;

    for _ in 0..2 {
        connection.write(&gate.ask("HEAD", "/forecast/oslo").token(&token(&issuer, "read:weather")).bytes("")).await;
        let answer = connection.answer("HEAD").await;
        assert_eq!((answer.status, answer.header("content-length").as_deref()), (200, Some("1234")));
        assert_eq!(answer.header("etag").as_deref(), Some("\"a\""));
    }

    assert!(upstream.received().iter().all(|request| request.line == "HEAD /forecast/oslo HTTP/1.1"));
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_step() {
    let issuer = issuer().await;
    let upstream = Upstream::answering_each(|request| match request.line.contains("/304") {
        true => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 204 No Content\r\nX-A: b\r\nContent-Length: 5\r\n\r\n".to_vec(),
    })
    .await;
    let gate = gate(&issuer, &upstream).start().await;
    let mut connection = Connection::open(gate.address()).await;

    for (path, status) in [("/public/204", 204), ("/public/304", 304), ("/public/204", 204)] {
        connection.write(&gate.get(path).bytes("")).await;
        let answer = connection.answer("GET").await;
        // RFC 9110 §8.6: a 204 has no length.
        assert!(answer.status == status && (status == 304 || answer.header("content-length").is_none()), "{answer:?}");
    }
}

#[tokio::test]
async fn options_is_a_method_like_any_other_and_the_asterisk_is_refused() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    let forwarded = gate.ask("OPTIONS", "/public/a").header("Max-Forwards: 3").send().await;
    let unnamed = gate.ask("OPTIONS", "/me").send().await;
    let asterisk = gate.ask("OPTIONS", "*").send().await;

    assert_eq!(forwarded.status, 200);
    assert_eq!((unnamed.status, unnamed.code().as_str()), (405, "method_unknown"));
    assert_eq!(unnamed.header("allow").as_deref(), Some("GET, HEAD"));
    assert_eq!((asterisk.status, asterisk.code().as_str()), (400, "path_ambiguous"));
    assert_eq!(upstream.only().one("max-forwards"), Some("2"));
}

/// RFC 9110 §7.6.2: with 0 the request must not be forwarded.
#[tokio::test]
async fn options_with_no_forward_left_is_answered_by_the_gate() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate.ask("OPTIONS", "/public/a").header("Max-Forwards: 0").send().await;

    assert_eq!((answer.status, answer.text().as_str()), (204, ""));
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn an_interim_answer_is_swallowed_and_the_final_one_is_whole() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let gate = gate(&issuer, &upstream).start().await;
    let mut connection = Connection::open(gate.address()).await;

    for _ in 0..2 {
        connection.write(&gate.get("/public/a").bytes("")).await;
        let head = connection.read_until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.to_lowercase().contains("link"), "{head}");
        assert_eq!(connection.read_until("ok").await, "ok");
    }
}
