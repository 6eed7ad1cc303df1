//! Services and routes that are served over https alone: what comes in plain is sent there before its token is looked at.

use http::Request;

use super::support::*;

const ROUTES: &str = "
      GET,HEAD,POST /forecast/{city}: read:weather
      /any/**: public
      GET /ws: read:weather
      GET /other: { access: public, redirect_to_https: 8443 }
      GET /open: { access: public, redirect_to_https: false }
      GET /report: { scopes: read:weather, mode: report }";
/// Somebody is trusted, so that it is no fault; not these clients.
const OTHERS_TRUSTED: &str = "trusted_proxies: [192.0.2.0/24]";

fn location(answer: &Answer) -> (u16, Option<String>) {
    (answer.status, answer.header("location"))
}

fn sent_to(address: &str) -> (u16, Option<String>) {
    (308, Some(address.to_owned()))
}

#[tokio::test]
async fn what_comes_in_plain_is_sent_away_before_its_token_is_looked_at() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let service = "    hosts: [named.example, '[2001:db8::1]']\n    redirect_to_https: true";
    let gate = gate(&issuer, &upstream).routes(ROUTES).in_service(service).settings(OTHERS_TRUSTED).start().await;
    let good = token(&issuer, "read:weather");

    let table = [
        ("GET", "named.example", "/forecast/oslo?b=c%20d&e", "https://named.example/forecast/oslo?b=c%20d&e"),
        ("HEAD", "Named.Example:8080", "/forecast/caf%C3%A9", "https://named.example/forecast/caf%C3%A9"),
        ("POST", "named.example", "/forecast/oslo", "https://named.example/forecast/oslo"),
        ("GET", "[2001:db8::1]:8080", "/any/x?", "https://[2001:db8::1]/any/x?"),
        ("GET", "named.example", "/other", "https://named.example:8443/other"),
        ("GET", "[2001:db8::1]", "/other", "https://[2001:db8::1]:8443/other"),
        ("GET", "named.example", "/report", "https://named.example/report"),
    ];
    for (method, host, target, address) in table {
        for token in ["nonsense", &good] {
            // Nobody believes this client that TLS was taken off before it.
            let ask = gate.ask(method, target).host(Some(host)).token(token).header("X-Forwarded-Proto: https");
            let answer = ask.send().await;
            assert_eq!(location(&answer), sent_to(address), "{method} {host} {target}");
            assert_eq!((answer.header("cache-control").as_deref(), answer.header("www-authenticate")), (Some("no-store"), None));
        }
    }
    let over_http2 = Http2::open(gate.address()).await.send(Request::get("http://named.example/any/x").body(()).unwrap()).await;
    assert_eq!((over_http2.status, over_http2.code().as_str()), (308, "https_required"));
    assert!(upstream.received().is_empty());
    let counted = gate.metric("wicketgate_refusals_total{reason=\"https_required\",service=\"weather\"}").await;
    assert_eq!(counted, Some(15.0));

    let named = |target: &str| gate.get(target).host(Some("named.example"));
    assert_eq!(named("/open").send().await.status, 200);
    assert_eq!(named("/nowhere").send().await.status, 404);
    assert_eq!(named("/.well-known/oauth-protected-resource").send().await.status, 200, "no token goes there");
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test]
async fn a_websocket_does_not_open_and_a_call_of_grpc_gets_a_status() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let service = "    hosts: [named.example]\n    redirect_to_https: true";
    let gate = gate(&issuer, &upstream).routes(ROUTES).in_service(service).settings(OTHERS_TRUSTED).start().await;

    let ask = gate.get("/ws").host(Some("named.example")).token(&token(&issuer, "read:weather")).header("Upgrade: websocket");
    let mut client = Connection::open(gate.address()).await;
    client.write(&ask.bytes("Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")).await;
    assert_eq!(location(&client.answer("GET").await), sent_to("https://named.example/ws"));

    let call = Request::post("http://named.example/any/grpc").header("content-type", "application/grpc").body(()).unwrap();
    let answer = Http2::open(gate.address()).await.send(call).await;
    assert_eq!((location(&answer), answer.header("grpc-status").as_deref()), ((200, None), Some("9")));
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn nobody_is_led_to_a_host_that_is_not_the_services_own() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let service = "    redirect_to_https: true";
    let gate = gate(&issuer, &upstream).routes(ROUTES).in_service(service).settings(OTHERS_TRUSTED).start().await;

    let answer = gate.get("/any/x").host(Some("api.weather.example")).send().await;
    assert_eq!(location(&answer), sent_to("https://api.weather.example/any/x"));
    for host in ["evil.example", "api.weather.example.evil.example", "127.0.0.1", "[::1]"] {
        let answer = gate.get("/any/x").host(Some(host)).send().await;
        assert_eq!((location(&answer), answer.code().as_str()), ((421, None), "host_unknown"), "{host}");
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn the_word_of_a_trusted_proxy_counts_before_how_it_connected() {
    let authority = Authority::new("servers");
    let party = authority.sign("gate", &["localhost"]);
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (secure, open) = (reserve(), reserve());
    let with = |trusted: &str| {
        let listen = format!("listen:\n  - {}\n  - {{ address: '{}', tls: false }}", secure.address, open.address);
        let settings = format!("{listen}\ntls: {{ certificate_file: tls.crt, key_file: tls.key }}\n{trusted}");
        gate(&issuer, &upstream).routes(ROUTES).in_service("    hosts: [localhost]\n    redirect_to_https: true").settings(&settings)
    };
    let mut gate = with("trusted_proxies: [127.0.0.1]").file("tls.crt", &party.pem).file("tls.key", &party.key_pem).start().await;
    let plain = async |line: &str| Ask::new(open.address, "GET", "/any/x").host(Some("localhost")).header(line).send().await.status;
    let over_tls = async |name: &'static str, value: &str| {
        let request = Request::get("https://localhost/any/x").header(name, value).body(()).unwrap();
        Http2::over(authority.caller().connect(secure.address).await.unwrap()).await.send(request).await.status
    };

    let table = [
        ("X-Forwarded-Proto: https", 200),
        ("X-Forwarded-Proto: http", 308),
        ("Forwarded: for=192.0.2.1;proto=https", 200),
        ("Forwarded: proto=https, for=192.0.2.1;proto=http", 308),
        ("X-A: b", 308),
    ];
    for (line, status) in table {
        assert_eq!(plain(line).await, status, "{line}");
    }
    assert_eq!(over_tls("x-forwarded-proto", "http").await, 308);
    assert_eq!(over_tls("forwarded", "proto=http").await, 308);
    assert_eq!(over_tls("x-a", "b").await, 200);

    gate.rewrite(&with("trusted_proxies: [192.0.2.1]").yaml()).await;
    assert_eq!(plain("X-Forwarded-Proto: https").await, 308);
    assert_eq!(over_tls("x-forwarded-proto", "http").await, 200);
}

#[tokio::test]
async fn a_page_that_asks_in_plain_is_held_back_before_it_sends_its_token() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let service = "    hosts: [named.example]\n    redirect_to_https: true\n    cors: { origins: [https://app.example] }";
    let gate = gate(&issuer, &upstream).routes(ROUTES).in_service(service).settings(OTHERS_TRUSTED).start().await;
    let from_page = |method: &str| gate.ask(method, "/forecast/oslo").host(Some("named.example")).header("Origin: https://app.example");

    let preflight = from_page("OPTIONS").header("Access-Control-Request-Method: GET").send().await;
    let simple = from_page("GET").send().await;

    // Fetch §4.8: no redirect is followed for a preflight.
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (308, None));
    assert_eq!(location(&simple), sent_to("https://named.example/forecast/oslo"));
    assert_eq!(simple.header("access-control-allow-origin").as_deref(), Some("https://app.example"));
    assert!(upstream.received().is_empty());
}
