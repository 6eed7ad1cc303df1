//! A page in a browser can set no header when it opens a WebSocket: where a route says so, the token comes among the
//! subprotocols, and goes no further.

use super::support::*;

const ROUTES: &str = "
      GET /ws: { scopes: read:weather, websocket_token: true }
      GET /closed: read:weather
      GET /public/ws: public";

fn upgrade(gate: &Gate, target: &str, offered: &str) -> Ask {
    let ask = gate.get(target).header("Connection: Upgrade").header("Upgrade: websocket").header("Sec-WebSocket-Version: 13");
    let ask = ask.header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==");
    if offered.is_empty() { ask } else { ask.header(&format!("Sec-WebSocket-Protocol: {offered}")) }
}

fn answering(chosen: &'static str) -> impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static {
    move |request| {
        if request.one("upgrade").is_none() {
            return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
        }
        let chosen = if chosen.is_empty() { String::new() } else { format!("Sec-WebSocket-Protocol: {chosen}\r\n") };
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{chosen}\r\n").into_bytes()
    }
}

async fn answer(ask: Ask) -> Answer {
    let mut client = Connection::open(ask.address()).await;
    client.write(&ask.bytes("")).await;
    client.answer("GET").await
}

#[tokio::test]
async fn a_token_among_the_subprotocols_opens_the_route_that_says_so_and_is_not_forwarded() {
    let (issuer, upstream) = (issuer().await, Upstream::answering_each(answering("chat")).await);
    let gate = gate(&issuer, &upstream).routes(ROUTES).start().await;
    let token = token(&issuer, "read:weather");

    let opened = answer(upgrade(&gate, "/ws", &format!("chat, wicketgate.bearer.{token}, superchat"))).await;

    assert_eq!((opened.status, opened.header("sec-websocket-protocol").as_deref()), (101, Some("chat")));
    let received = upstream.only();
    assert_eq!(received.one("sec-websocket-protocol"), Some("chat, superchat"));
    assert_eq!(received.one("x-auth-subject"), Some("alice"));
    assert!(!format!("{received:?}").contains(&token), "{received:?}");
}

/// A browser gives up where it offered subprotocols and none was chosen (WHATWG WebSockets, "establish a WebSocket connection").
#[tokio::test]
async fn the_gate_chooses_its_own_subprotocol_where_it_was_offered_and_the_service_chose_none() {
    let issuer = issuer().await;
    let token = token(&issuer, "read:weather");
    for (chosen, offered, expected) in [
        ("", "wicketgate.bearer, ", Some("wicketgate.bearer")),
        ("chat", "chat, wicketgate.bearer, ", Some("chat")),
        ("", "chat, wicketgate.bearer, ", Some("wicketgate.bearer")),
        ("", "chat, ", None),
        ("", "", None),
    ] {
        let upstream = Upstream::answering_each(answering(chosen)).await;
        let gate = gate(&issuer, &upstream).routes(ROUTES).start().await;

        let opened = answer(upgrade(&gate, "/ws", &format!("{offered}wicketgate.bearer.{token}"))).await;

        assert_eq!((opened.status, opened.header("sec-websocket-protocol").as_deref()), (101, expected), "{offered}");
        let left = offered.contains("chat").then_some("chat");
        assert_eq!(upstream.only().one("sec-websocket-protocol"), left, "{offered}");
    }
}

#[tokio::test]
async fn it_counts_on_no_other_route_for_no_other_request_and_not_beside_another_token() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).routes(ROUTES).start().await;
    let good = token(&issuer, "read:weather");
    let offered = format!("chat, wicketgate.bearer.{good}");
    let no_upgrade = gate.get("/ws").header(&format!("Sec-WebSocket-Protocol: {offered}"));

    for (ask, status, code) in [
        (upgrade(&gate, "/closed", &offered), 401, "token_missing"),
        (no_upgrade, 401, "token_missing"),
        (upgrade(&gate, "/ws", &offered).token(&good), 400, "token_repeated"),
        (upgrade(&gate, "/closed", &offered).token(&good), 400, "token_repeated"),
        (upgrade(&gate, "/ws", &format!("{offered}, wicketgate.bearer.{good}")), 400, "token_repeated"),
        (upgrade(&gate, "/ws?access_token=x", &offered), 400, "token_repeated"),
        (upgrade(&gate, "/ws", "chat, wicketgate.bearer.abc"), 401, "token_opaque"),
        (upgrade(&gate, "/ws", &format!("wicketgate.bearer.{}", token(&issuer, "write:weather"))), 403, "scope_missing"),
        (upgrade(&gate, "/ws", "chat"), 401, "token_missing"),
    ] {
        let answer = answer(ask).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        assert!(!answer.text().contains(&good));
    }
    assert!(upstream.received().is_empty());

    // It is nobody's business on a public route, and goes no further there either.
    for line in [offered.clone(), format!("chat, WICKETGATE.bearer.{good}")] {
        answer(upgrade(&gate, "/public/ws", &line)).await;
        answer(gate.get("/public/ws").header(&format!("Sec-WebSocket-Protocol: {line}"))).await;
    }
    let received = upstream.received();
    assert_eq!(received.len(), 4);
    for request in received {
        assert_eq!(request.one("sec-websocket-protocol"), Some("chat"), "{request:?}");
    }
}

#[tokio::test]
async fn a_service_that_takes_tokens_gets_it_as_its_authorization() {
    let (issuer, upstream) = (issuer().await, Upstream::answering_each(answering("")).await);
    let gate = gate(&issuer, &upstream).routes(ROUTES).in_service("    forward_authorization: true").start().await;
    let token = token(&issuer, "read:weather");

    let opened = answer(upgrade(&gate, "/ws", &format!("wicketgate.bearer, wicketgate.bearer.{token}"))).await;
    let public = answer(upgrade(&gate, "/public/ws", &format!("wicketgate.bearer, wicketgate.bearer.{token}"))).await;

    assert_eq!((opened.status, public.status), (101, 101));
    let received = upstream.received();
    assert_eq!(received[0].one("authorization"), Some(format!("Bearer {token}").as_str()));
    assert_eq!((received[0].one("sec-websocket-protocol"), received[1].one("authorization")), (None, None));
}
