//! What an operator has changed on the way: behind the decision, in both directions, and told to nobody who should not know.

use http::Request;

use super::support::*;

const BEARER: &str = "Basic bGVnYWN5Omh1bnRlcjI=";

/// Lines of YAML for the service of these tests.
fn legacy(issuer: &wicketgate::demo::Issuer, upstream: &Upstream, lines: &str) -> GateBuilder {
    let routes = "
      /api/v1/**: read:weather
      GET /api/v1/open/**: public
      GET /api/v1/plain/**: { access: public, rewrite: {}, request_headers: {}, response_headers: {} }";
    gate(issuer, upstream).routes(routes).in_service(lines)
}

#[tokio::test]
async fn prefixes_are_exchanged_behind_the_decision_and_every_other_byte_stays() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = legacy(&issuer, &upstream, "    rewrite: { strip_prefix: /api/v1, add_prefix: /app }").start().await;
    let token = token(&issuer, "read:weather");
    let targets = [
        ("/api/v1/caf%c3%a9/a%20b/?a=%2f..%2F&b=//c", "/app/caf%c3%a9/a%20b/?a=%2f..%2F&b=//c"),
        ("/api/v1", "/app"),
        ("/api/v1?", "/app?"),
        ("/api/v1/", "/app/"),
        ("/api/v1/app/api/v1", "/app/app/api/v1"),
        ("/api/v1/open/x", "/app/open/x"),
        ("/api/v1/plain/x?y", "/api/v1/plain/x?y"),
    ];

    for (target, _) in targets {
        assert_eq!(gate.get(target).token(&token).send().await.status, 200, "{target}");
    }
    // The path of the upstream is none of the client's.
    for target in ["/app/x", "/open/x", "/x", "/api/v10/open/x"] {
        assert_eq!(gate.get(target).token(&token).send().await.code(), "route_unknown", "{target}");
    }
    for target in ["/api/v1/../x", "/api/v1//evil.example", "/api/v1/%2e%2e/x", "/api/v1/open/..%2f..%2fsecret"] {
        assert_eq!(gate.get(target).token(&token).send().await.code(), "path_ambiguous", "{target}");
    }
    assert_eq!(gate.get("/api/v1/x").send().await.code(), "token_missing");

    let received = upstream.received();
    let lines: Vec<&str> = received.iter().map(|request| request.line.as_str()).collect();
    assert_eq!(lines, targets.map(|(_, sent)| format!("GET {sent} HTTP/1.1")));
    assert_eq!(received[0].one("x-forwarded-prefix"), Some("/api/v1"));
    assert_eq!(received.last().unwrap().one("x-forwarded-prefix"), None);
}

#[tokio::test]
async fn a_stripped_prefix_never_leaves_an_empty_path() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = legacy(&issuer, &upstream, "    rewrite: { strip_prefix: /api/v1/open }")
        .routes("\n      GET /api/v1/open/**: public")
        .in_service("    request_headers: { remove: X-Debug }")
        .start()
        .await;

    for target in ["/api/v1/open", "/api/v1/open/", "/api/v1/open?q=1", "/api/v1/open/x"] {
        assert_eq!(gate.get(target).send().await.status, 200);
    }

    let lines: Vec<String> = upstream.received().into_iter().map(|request| request.line).collect();
    assert_eq!(lines, ["GET / HTTP/1.1", "GET / HTTP/1.1", "GET /?q=1 HTTP/1.1", "GET /x HTTP/1.1"]);
}

#[tokio::test]
async fn the_upstream_learns_the_prefix_from_the_gate_and_from_a_trusted_proxy_in_front() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let lines = "    rewrite: { strip_prefix: /api/v1 }";
    let trusting = legacy(&issuer, &upstream, lines).settings("trusted_proxies: [127.0.0.1]").start().await;
    let alone = legacy(&issuer, &upstream, lines).start().await;

    for said in ["/outer/", "/evil\u{e4}", "//evil", "/a;b"] {
        trusting.get("/api/v1/open/x").header(&format!("X-Forwarded-Prefix: {said}")).send().await;
    }
    trusting.get("/api/v1/plain/x").header("X-Forwarded-Prefix: /outer").send().await;
    alone.get("/api/v1/open/x").header("X-Forwarded-Prefix: /outer").header("X_Forwarded_Prefix: /outer").send().await;

    let received = upstream.received();
    let prefixes: Vec<Vec<&str>> = received.iter().map(|request| request.all("x-forwarded-prefix")).collect();
    let own = vec!["/api/v1"];
    assert_eq!(prefixes, [vec!["/outer/api/v1"], own.clone(), own.clone(), own.clone(), vec!["/outer"], own]);
    assert_eq!(received.last().unwrap().one("x_forwarded_prefix"), None);
}

#[tokio::test]
async fn the_host_is_the_clients_unless_the_operator_says_otherwise() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "
      GET /named: { access: public, rewrite: { host: legacy.internal:8080 } }
      GET /upstream: { access: public, rewrite: { host: upstream } }
      GET /preserve: { access: public, rewrite: { host: preserve } }
      GET /plain: public";
    let gate = gate(&issuer, &upstream).routes(routes).start().await;

    for target in ["/named", "/upstream", "/preserve", "/plain"] {
        assert_eq!(gate.get(target).host(Some("api.weather.example:8443")).send().await.status, 200);
    }

    let received = upstream.received();
    let hosts: Vec<Option<&str>> = received.iter().map(|request| request.one("host")).collect();
    let (client, own) = ("api.weather.example:8443", upstream.address().to_string());
    assert_eq!(hosts, [Some("legacy.internal:8080"), Some(own.as_str()), Some(client), Some(client)]);
    assert!(received.iter().all(|request| request.one("x-forwarded-host") == Some(client)));
}

#[tokio::test]
async fn each_of_several_endpoints_is_asked_by_its_own_name() {
    let issuer = issuer().await;
    let redirect = |request: &Received| {
        let host = request.one("host").unwrap().to_owned();
        format!("HTTP/1.1 302 Found\r\nLocation: http://{host}/next\r\nContent-Length: 0\r\n\r\n").into_bytes()
    };
    let (first, second) = (Upstream::answering_each(redirect).await, Upstream::answering_each(redirect).await);
    let routes = "\n      GET /x: { access: public, rewrite: { host: upstream } }";
    let several = format!("{{ endpoints: [{}, {}] }}", first.url(), second.url());
    let gate = gate(&issuer, &first).routes(routes).upstream(&several).start().await;

    for _ in 0..8 {
        let answer = gate.get("/x").host(Some("api.weather.example")).send().await;
        assert_eq!(answer.header("location").as_deref(), Some("/next"));
    }

    for upstream in [&first, &second] {
        let received = upstream.received();
        assert!(!received.is_empty());
        assert!(received.iter().all(|request| request.one("host") == Some(&upstream.address().to_string())), "{received:?}");
    }
}

#[tokio::test]
async fn what_is_set_or_removed_comes_from_no_client_in_no_spelling() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let lines = "    request_headers:
      set: { X-Tenant: acme, Accept-Language: de }
      add: { X-Seen-By: gate }
      remove: [Cookie, X-Debug]";
    let gate = legacy(&issuer, &upstream, lines).start().await;

    let answer = gate
        .get("/api/v1/open/x")
        .header("X-Tenant: evil")
        .header("X_Tenant: evil")
        .header("x.tenant: evil")
        .header("Accept-Language: en")
        .header("X-Seen-By: client")
        .header("Cookie: a=1")
        .header("X_DEBUG: 1")
        .header("X-Debug: 1")
        .header("X-Stays: 1")
        .header("Connection: X-Tenant, Accept-Language, X-Seen-By")
        .send()
        .await;
    gate.get("/api/v1/plain/x").header("X-Tenant: theirs").header("Cookie: a=1").send().await;

    assert_eq!(answer.status, 200);
    let received = upstream.received();
    assert_eq!((received[0].all("x-tenant"), received[0].all("accept-language")), (vec!["acme"], vec!["de"]));
    for name in ["x_tenant", "x.tenant", "cookie", "x-debug", "x_debug"] {
        assert_eq!(received[0].one(name), None, "{name}");
    }
    // The client's own line was nominated for its connection alone.
    assert_eq!((received[0].all("x-seen-by"), received[0].one("x-stays")), (vec!["gate"], Some("1")));
    assert_eq!((received[1].one("x-tenant"), received[1].one("cookie")), (Some("theirs"), Some("a=1")));
}

#[tokio::test]
async fn a_trailer_cannot_say_what_the_operator_sets() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = legacy(&issuer, &upstream, "    request_headers: { set: { X-Tenant: acme } }").start().await;
    let body = "3\r\nabc\r\n0\r\nX-Tenant: evil\r\nX_Tenant: evil\r\nX-Sum: 1\r\n\r\n";
    let ask = gate.ask("PUT", "/api/v1/x").token(&token(&issuer, "read:weather")).header("Transfer-Encoding: chunked");
    let mut connection = Connection::open(gate.address()).await;

    connection.write(&ask.header("Trailer: X-Tenant, X-Sum").header("TE: trailers").bytes("")).await;
    connection.write(body.as_bytes()).await;

    assert_eq!(connection.answer("PUT").await.status, 200);
    let received = upstream.only();
    let text = received.text().to_lowercase();
    assert!(text.contains("x-sum: 1") && !text.contains("evil"), "{text}");
    assert_eq!((received.one("x-tenant"), received.one("trailer")), (Some("acme"), Some("x-sum")));
}

#[tokio::test]
async fn credentials_for_the_upstream_come_from_a_file_and_are_shown_by_nothing() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let lines = "    request_headers: { set_file: { Authorization: legacy.secret }, set: { X-Api-Key: swordfish-1 } }";
    let builder = legacy(&issuer, &upstream, lines).file("legacy.secret", &format!("{BEARER}\n"));
    let mut gate = builder.start().await;
    let token = token(&issuer, "read:weather");

    gate.get("/api/v1/x").token(&token).send().await;
    gate.rewrite_files(&[("legacy.secret", "Basic bmV3\n")]).await;
    gate.get("/api/v1/x").token(&token).send().await;

    let received = upstream.received();
    let sent: Vec<Vec<&str>> = received.iter().map(|request| request.all("authorization")).collect();
    assert_eq!(sent, [vec![BEARER], vec!["Basic bmV3"]]);
    assert_eq!(received[0].one("x-api-key"), Some("swordfish-1"));
    // Whoever reads what the gate says of itself reads the names alone.
    let explained = cli(&gate, &["explain", "GET", "/api/v1/open/x"]);
    assert!(explained.contains("authorization: as request_headers say") && explained.contains("x-api-key: as"), "{explained}");
    let checked = cli(&gate, &["check"]);
    assert!(checked.contains("changes  sets x-api-key authorization"), "{checked}");
    let policy = wicketgate::reload::Source::new(&gate.path).load().unwrap().policy;
    let shown = [explained, checked, format!("{policy:?}"), gate.status().await.to_string(), gate.admin("/metrics").await.text()];
    for secret in ["bmV3", "bGVnYWN5", "swordfish"] {
        assert!(shown.iter().all(|text| !text.contains(secret)), "{secret}");
    }
}

/// A new secret is a change like any other, though it shows nothing of itself.
#[test]
fn a_secret_that_changed_is_named_as_a_change() {
    let policy = |secret: &str| {
        let text = format!(
            "issuer: https://i.example\nservices:\n  - name: a\n    resource: https://a.example\n    upstream: http://127.0.0.1:1\n    routes: {{ /x: {{ access: public, request_headers: {{ set: {{ X-Key: {secret} }} }} }} }}\n"
        );
        let document = wicketgate::config::Document::read(&text, &|_| None);
        wicketgate::policy::compile(document.config.as_ref().unwrap(), secret.to_owned(), &|_| Err(String::new())).unwrap()
    };
    assert_eq!(wicketgate::policy::changes(&policy("one"), &policy("two")), "routes changed: a /x");
}

/// What `wicketgate` prints for the gate's configuration.
fn cli(gate: &Gate, arguments: &[&str]) -> String {
    let run =
        std::process::Command::new(env!("CARGO_BIN_EXE_wicketgate")).args(arguments).arg("--config").arg(&gate.path).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[tokio::test]
async fn explain_shows_the_path_and_the_host_that_the_upstream_gets() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let lines = "    rewrite: { strip_prefix: /api/v1, add_prefix: /app, host: legacy.internal }\n    request_headers: { set: { X-Tenant: acme }, remove: Cookie }\n    cors: { origins: [https://app.example] }";
    let gate = legacy(&issuer, &upstream, lines).start().await;

    let explained = cli(&gate, &["explain", "GET", "/api/v1/open/x?q=1", "--origin", "https://app.example"]);
    gate.get("/api/v1/open/x?q=1").send().await;

    let received = upstream.only();
    assert_eq!((received.line.as_str(), received.one("host")), ("GET /app/open/x?q=1 HTTP/1.1", Some("legacy.internal")));
    for line in [
        "page       may call and read the answer",
        "upstream   GET /app/open/x?q=1\n",
        "upstream   host: legacy.internal\n",
        "upstream   x-forwarded-prefix: /api/v1\n",
        "upstream   x-tenant: as request_headers say",
        "removed    cookie\n",
    ] {
        assert!(explained.contains(line), "{line} in {explained}");
    }
    let checked = cli(&gate, &["check"]);
    let all = "changes  -/api/v1 +/app, host legacy.internal, sets x-tenant, removes cookie\ncors     pages of https://app.example\n";
    assert!(checked.contains(all) && checked.contains("  changes nothing\n"), "{checked}");
}

#[tokio::test]
async fn addresses_and_cookies_in_answers_are_led_back_to_what_the_client_knows() {
    let issuer = issuer().await;
    let upstream = Upstream::answering_each(|request| {
        let host = request.one("host").unwrap_or_default().to_owned();
        format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{host}/app/next?x=/app#f\r\nContent-Location: /app/this\r\n\
             Set-Cookie: a=1; Path=/app/; Domain=legacy.internal; HttpOnly\r\nSet-Cookie: __Host-b=2; Path=/; Secure\r\n\
             Set-Cookie: c=3\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    })
    .await;
    let lines = "    rewrite: { strip_prefix: /api/v1, add_prefix: /app, host: legacy.internal }";
    let led = legacy(&issuer, &upstream, lines).start().await;
    let left = legacy(&issuer, &upstream, &lines.replace(" }", ", location: false, cookies: false }")).start().await;

    let answer = led.get("/api/v1/open/x").send().await;
    let as_it_came = left.get("/api/v1/open/x").send().await;
    let unchanged = led.get("/api/v1/plain/x").host(Some("gate")).send().await;

    let cookies = |answer: &Answer| -> Vec<String> {
        answer.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.clone()).collect()
    };
    assert_eq!(answer.header("location").as_deref(), Some("/api/v1/next?x=/app#f"));
    assert_eq!(answer.header("content-location").as_deref(), Some("/api/v1/this"));
    assert_eq!(cookies(&answer), ["a=1; Path=/api/v1/; HttpOnly", "__Host-b=2; Path=/; Secure", "c=3"]);
    assert_eq!(as_it_came.header("location").as_deref(), Some("http://legacy.internal/app/next?x=/app#f"));
    assert_eq!(cookies(&as_it_came)[0], "a=1; Path=/app/; Domain=legacy.internal; HttpOnly");
    assert_eq!(unchanged.header("location").as_deref(), Some("http://gate/app/next?x=/app#f"));
}

#[tokio::test]
async fn response_headers_stand_on_the_upstreams_answer_and_on_refusals_alike() {
    let issuer = issuer().await;
    let upstream = Upstream::answering_each(|request| match request.line.contains("broken") {
        true => b"no HTTP\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 401 Unauthorized\r\nServer: legacy/1.0\r\nCache-Control: no-cache\r\nStrict-Transport-Security: max-age=1\r\n\
          Link: </a>\r\nWWW-Authenticate: Basic realm=\"legacy\"\r\nX-Auth-Subject: bob\r\nContent-Length: 0\r\n\r\n"
            .to_vec(),
    })
    .await;
    let lines = "    response_headers:
      set: { Strict-Transport-Security: max-age=31536000, Cache-Control: public }
      add: { Link: </terms> }
      remove: [Server, WWW-Authenticate]";
    let gate = legacy(&issuer, &upstream, lines).start().await;

    let passed = gate.get("/api/v1/open/x").send().await;
    let refused = gate.get("/api/v1/x").send().await;
    let unknown = gate.get("/nowhere").send().await;
    let plain = gate.get("/api/v1/plain/x").send().await;
    let failed = gate.get("/api/v1/open/broken").send().await;

    let all = |answer: &Answer, name: &str| -> Vec<String> {
        answer.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    };
    assert_eq!(passed.status, 401);
    assert_eq!(
        (all(&passed, "cache-control"), all(&passed, "link")),
        (vec!["public".to_owned()], vec!["</a>".to_owned(), "</terms>".to_owned()])
    );
    for name in ["server", "www-authenticate", "x-auth-subject"] {
        assert_eq!(all(&passed, name), Vec::<String>::new(), "{name}");
    }
    for (answer, code) in [(&refused, "token_missing"), (&unknown, "route_unknown"), (&failed, "upstream_broken")] {
        assert_eq!(answer.code(), code);
        // The gate's own word about caching and its challenge stay.
        assert_eq!((all(answer, "cache-control"), all(answer, "link")), (vec!["no-store".to_owned()], vec!["</terms>".to_owned()]));
    }
    for answer in [&passed, &refused, &unknown, &failed] {
        assert_eq!(all(answer, "strict-transport-security"), ["max-age=31536000"]);
    }
    assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer "));
    assert_eq!((all(&plain, "server").len(), plain.header("www-authenticate").as_deref()), (1, Some("Basic realm=\"legacy\"")));
}

#[tokio::test]
async fn compression_is_left_alone() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nETag: W/\"1\"\r\nVary: Accept-Encoding\r\nContent-Length: 3\r\n\r\n\x0b\x00\x80",
    )
    .await;
    let lines = "    rewrite: { strip_prefix: /api/v1, host: upstream }\n    response_headers: { set: { X-A: b } }";
    let gate = legacy(&issuer, &upstream, lines).start().await;

    let answer = gate.get("/api/v1/open/x").header("Accept-Encoding: br;q=1.0, gzip;q=0.5, *;q=0").send().await;

    assert_eq!(upstream.only().one("accept-encoding"), Some("br;q=1.0, gzip;q=0.5, *;q=0"));
    let said = ["content-encoding", "etag", "vary", "content-length"].map(|name| answer.header(name).unwrap_or_default());
    assert_eq!((said, &answer.body[..]), (["br", "W/\"1\"", "Accept-Encoding", "3"].map(str::to_owned), &b"\x0b\x00\x80"[..]));
}

#[tokio::test]
async fn a_tunnel_is_opened_with_the_changes_and_its_handshake_is_whole() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let lines = "    rewrite: { strip_prefix: /api/v1, host: legacy.internal }\n    request_headers: { set: { X-Tenant: acme }, remove: [Origin] }\n    response_headers: { set: { X-Served-By: gate }, remove: [Server] }\n    cors: { origins: [https://app.example] }";
    let gate = legacy(&issuer, &upstream, lines).start().await;
    let mut client = Connection::open(gate.address()).await;
    let ask = gate.get("/api/v1/open/ws").header("Connection: Upgrade").header("Upgrade: websocket").header("Origin: https://app.example");

    client.write(&ask.header("Sec-WebSocket-Version: 13").header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").bytes("")).await;
    let mut call = calls.next().await;
    let head = call.read_until("\r\n\r\n").await.to_lowercase();
    call.write(b"HTTP/1.1 101 Switching Protocols\r\nServer: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n").await;
    let answer = client.answer("GET").await;

    assert!(head.starts_with("get /open/ws http/1.1\r\n"), "{head}");
    for line in ["host: legacy.internal", "x-tenant: acme", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"] {
        assert_eq!(head.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {head}");
    }
    assert!(!head.contains("origin:"), "{head}");
    assert_eq!((answer.status, answer.header("x-served-by").as_deref(), answer.header("server")), (101, Some("gate"), None));
    assert_eq!(answer.header("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

#[tokio::test]
async fn an_http_2_request_is_changed_as_any_other() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let lines = "    rewrite: { strip_prefix: /api/v1, add_prefix: /app, host: legacy.internal }\n    request_headers: { set: { X-Tenant: acme }, remove: [Cookie] }\n    response_headers: { set: { X-Served-By: gate } }";
    let gate = legacy(&issuer, &upstream, lines).start().await;
    let mut client = Http2::open(gate.address()).await;
    let request = Request::get("http://api.weather.example/api/v1/open/x?q").header("cookie", "a=1").header("x-tenant", "evil");

    let answer = client.send(request.body(()).unwrap()).await;

    let received = upstream.only();
    assert_eq!((received.line.as_str(), received.one("host")), ("GET /app/open/x?q HTTP/1.1", Some("legacy.internal")));
    assert_eq!((received.one("x-tenant"), received.one("cookie")), (Some("acme"), None));
    assert_eq!((answer.status, answer.header("x-served-by").as_deref()), (200, Some("gate")));
}

#[tokio::test]
async fn a_reload_changes_the_next_request_and_not_the_one_that_has_begun() {
    let (issuer, (upstream, permits)) = (issuer().await, Upstream::held().await);
    let before = legacy(&issuer, &upstream, "    rewrite: { strip_prefix: /api/v1 }\n    response_headers: { set: { X-Policy: old } }");
    let after = legacy(&issuer, &upstream, "    rewrite: { add_prefix: /app }\n    response_headers: { set: { X-Policy: new } }").yaml();
    let mut gate = before.start().await;
    let mut begun = Connection::open(gate.address()).await;

    begun.write(&gate.get("/api/v1/open/x").bytes("")).await;
    until("the request is with the upstream", || async { upstream.received().len() == 1 }).await;
    gate.rewrite(&after).await;
    permits.add_permits(2);
    let (old, new) = (begun.answer("GET").await, gate.get("/api/v1/open/x").send().await);

    assert_eq!((old.header("x-policy").as_deref(), new.header("x-policy").as_deref()), (Some("old"), Some("new")));
    let lines: Vec<String> = upstream.received().into_iter().map(|request| request.line).collect();
    assert_eq!(lines, ["GET /open/x HTTP/1.1", "GET /app/api/v1/open/x HTTP/1.1"]);
}
