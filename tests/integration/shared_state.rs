//! The interface to what instances share, against a real Redis: `cargo test --test integration shared_state -- --ignored`,
//! with redis-server or valkey-server on the path (tests/redis/run.sh installs it).

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use wicketgate::config::Document;
use wicketgate::policy::compile;
use wicketgate::state::{Away, Event, Shared};

use super::support::*;

struct Server(Child);

impl Server {
    fn start(address: SocketAddr) -> Self {
        let arguments = ["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/"];
        let start = |program: &str| Command::new(program).args(arguments).stdout(Stdio::null()).spawn();
        Self(start("redis-server").or_else(|_| start("valkey-server")).expect("redis-server or valkey-server"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn shared(address: SocketAddr, prefix: &str) -> Arc<Shared> {
    let service = "services:\n  - { name: a, resource: 'https://a.example', upstream: 'http://127.0.0.1:1', routes: { /x: public } }";
    let state = format!("state: {{ redis: 'redis://{address}', prefix: '{prefix}', timeout: 1s }}");
    let document = Document::read(&format!("issuer: https://i.example\n{service}\n{state}\n"), &|_| None);
    let policy = compile(document.config.as_ref().unwrap(), String::new(), &|_| Err(String::new())).unwrap();
    Shared::follow(None, &policy).unwrap().unwrap()
}

#[tokio::test]
#[ignore = "needs a redis-server"]
async fn a_value_that_one_instance_sets_another_reads_until_it_goes_away() {
    let address = reserve().address;
    let _server = Server::start(address);
    let (one, two, stranger) = (shared(address, "a:"), shared(address, "a:"), shared(address, "b:"));
    until("all are connected", || async { one.is_up() && two.is_up() && stranger.is_up() }).await;

    one.set("revoked:x", "yes", Duration::from_secs(60)).await.unwrap();
    one.set("short", "yes", Duration::from_millis(50)).await.unwrap();

    assert_eq!(two.get("revoked:x").await, Ok(Some("yes".to_owned())));
    assert_eq!((two.get("revoked:y").await, stranger.get("revoked:x").await), (Ok(None), Ok(None)));
    until("the short one is gone", || async { two.get("short").await == Ok(None) }).await;
    assert_eq!((one.failures(), two.failures()), (0, 0));
}

#[tokio::test]
#[ignore = "needs a redis-server"]
async fn a_subscription_outlives_the_server_and_says_where_it_may_have_missed_something() {
    let address = reserve().address;
    let server = Server::start(address);
    let (one, two) = (shared(address, "a:"), shared(address, "a:"));
    let mut listening = two.subscribe("revocations");
    assert_eq!(soon("listening", listening.next()).await, Some(Event::Listening));
    until("the other is connected", || async { one.is_up() }).await;

    one.publish("revocations", "x").await.unwrap();
    one.publish("other", "y").await.unwrap();
    one.publish("revocations", "z").await.unwrap();
    for text in ["x", "z"] {
        assert_eq!(soon("a message", listening.next()).await, Some(Event::Message(text.to_owned())));
    }

    drop(server);
    until("it is away", || async { one.publish("revocations", "lost").await == Err(Away) && !one.is_up() }).await;
    let _server = Server::start(address);
    assert_eq!(soon("listening again", listening.next()).await, Some(Event::Listening));
    until("it is back", || async { one.is_up() }).await;
    one.publish("revocations", "after").await.unwrap();
    assert_eq!(soon("a message", listening.next()).await, Some(Event::Message("after".to_owned())));
}
