//! Who reaches the admin listener cannot keep Prometheus and the probes from it.

use std::time::Duration;

use super::support::*;

/// As many as the admin listener serves at a time.
const CONNECTIONS_MAX: usize = 128;
/// Above the 5 s that a client has for its question, and below the 10 s that it has altogether.
const SOON: Duration = Duration::from_secs(8);

/// Whether the gate closes the connection soon, without an answer.
async fn is_given_up(client: &mut Connection) -> bool {
    tokio::time::timeout(SOON, client.is_closed()).await.unwrap_or(false)
}

#[tokio::test]
async fn a_silent_client_is_closed_and_a_good_one_beside_it_is_answered() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut silent = Connection::open(gate.app.admin_address()).await;
    let mut halting = Connection::open(gate.app.admin_address()).await;
    halting.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Wait: ").await;
    let mut dripping = Connection::open(gate.app.admin_address()).await;
    dripping.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Drip: ").await;

    assert_eq!(gate.admin("/livez").await.status, 200);
    assert!(silent.is_silent() && halting.is_silent() && dripping.is_silent());

    // The pace of the client is what is tested: a byte is no reason to wait for longer.
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    let drip = async {
        loop {
            tokio::select! {
                closed = dripping.is_closed() => return closed,
                _ = pace.tick() => dripping.write(b"x").await,
            }
        }
    };
    let (silent, halting, drip) = tokio::join!(is_given_up(&mut silent), is_given_up(&mut halting), tokio::time::timeout(SOON, drip));
    assert_eq!((silent, halting, drip.unwrap_or(false)), (true, true, true));
}

#[tokio::test]
async fn silent_clients_that_take_every_place_give_it_back() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(Connection::open(gate.app.admin_address()).await);
    }

    let answer = gate.admin("/livez").await;

    assert_eq!(answer.status, 200);
    // There was no place for one more: it waited until the others were given up, which is about now.
    let closed = tokio::time::timeout(Duration::from_secs(1), silent[0].is_closed()).await;
    assert_eq!(closed.ok(), Some(true), "more than {CONNECTIONS_MAX} are served at a time");
}

#[tokio::test]
async fn a_question_has_a_size() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let asked = |lines: String| {
        let admin = gate.app.admin_address();
        async move {
            let mut client = Connection::open(admin).await;
            client.write(format!("GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n").as_bytes()).await;
            client.answer("GET").await.status
        }
    };

    assert_eq!(asked(format!("X-Long: {}\r\n", "x".repeat(15 << 10))).await, 200);
    assert_eq!(asked(format!("X-Long: {}\r\n", "x".repeat(16 << 10))).await, 431);
    assert_eq!(asked("X-Many: x\r\n".repeat(99)).await, 200);
    assert_eq!(asked("X-Many: x\r\n".repeat(100)).await, 431);
}
