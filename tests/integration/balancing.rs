//! Which endpoint gets a request: by weights, by load, by who asks; and which is left alone, and comes back.

use std::time::Duration;

use super::support::*;
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::TokenRequest;

/// A gate before these endpoints, with more keys of `upstream`.
fn before(issuer: &Issuer, any: &Upstream, endpoints: &[String], more: &str) -> GateBuilder {
    gate(issuer, any).upstream(&format!("{{ endpoints: [{}], {more} }}", endpoints.join(", ")))
}

fn user(issuer: &Issuer, subject: &str) -> String {
    issuer.token(TokenRequest {
        subject: subject.to_owned(),
        client_id: "weatherbot".to_owned(),
        resource: RESOURCE.to_owned(),
        scope: Some("read:weather".to_owned()),
        ..TokenRequest::default()
    })
}

/// The state of the endpoint at this place, as `/status` shows it.
async fn state(gate: &Gate, endpoint: usize) -> String {
    gate.status().await["upstreams"][0]["endpoints"][endpoint]["state"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn requests_go_to_the_endpoints_by_their_weights() {
    let (issuer, a, b, c) = (issuer().await, Upstream::friendly().await, Upstream::friendly().await, Upstream::friendly().await);
    let endpoints = [a.url(), format!("{{ url: {}, weight: 2 }}", b.url()), c.url()];
    let gate = before(&issuer, &a, &endpoints, "balance: round_robin").start().await;

    for _ in 0..40 {
        assert_eq!(gate.get("/public/a").send().await.status, 200);
    }

    assert_eq!([a.received().len(), b.received().len(), c.received().len()], [10, 20, 10]);
}

#[tokio::test]
async fn a_busy_endpoint_gets_nothing_while_another_is_free() {
    let (issuer, (busy, permits), free) = (issuer().await, Upstream::held().await, Upstream::friendly().await);
    let gate = before(&issuer, &free, &[busy.url(), free.url()], "balance: least_requests").start().await;
    let mut stuck = Vec::new();
    while busy.received().is_empty() {
        let mut client = Connection::open(gate.address()).await;
        client.write(&gate.get("/public/stuck").bytes("")).await;
        let before = free.received().len();
        until("it has arrived", || async { !busy.received().is_empty() || free.received().len() > before }).await;
        stuck.push(client);
    }
    let before = free.received().len();

    for _ in 0..50 {
        assert_eq!(gate.get("/public/a").send().await.status, 200);
    }

    assert_eq!((busy.received().len(), free.received().len()), (1, before + 50));
    permits.add_permits(1);
}

#[tokio::test]
async fn a_user_stays_at_one_endpoint_over_reloads_and_users_are_spread() {
    let issuer = issuer().await;
    let upstreams = [Upstream::friendly().await, Upstream::friendly().await, Upstream::friendly().await];
    let endpoints: Vec<String> = upstreams.iter().map(Upstream::url).collect();
    let builder = before(&issuer, &upstreams[0], &endpoints, "balance: { hash: { claim: sub } }");
    let mut gate = builder.clone().start().await;
    let counts = || -> Vec<usize> { upstreams.iter().map(|upstream| upstream.received().len()).collect() };

    let alice = user(&issuer, "alice");
    for _ in 0..10 {
        assert_eq!(gate.get("/forecast/oslo").token(&alice).send().await.status, 200);
    }
    let home = counts().iter().position(|count| *count == 10).expect("all at one");
    gate.rewrite(&builder.clone().settings("log: { level: debug }").yaml()).await;
    gate.rewrite(&before(&issuer, &upstreams[0], &endpoints, "balance: { hash: { claim: sub } }, slow_start: 1s").yaml()).await;
    for _ in 0..10 {
        // Another token of hers is still her.
        gate.get("/forecast/oslo").token(&user(&issuer, "alice")).send().await;
    }
    assert_eq!(counts()[home], 20);

    // So many that luck with the ports, by which endpoints are placed, does not matter.
    for i in 0..200 {
        gate.get("/forecast/oslo").token(&user(&issuer, &format!("user-{i}"))).send().await;
    }
    assert!(counts().iter().all(|count| *count >= 8), "{:?}", counts());
    // Nobody to choose by: in turn.
    let before = counts();
    for _ in 0..9 {
        gate.get("/public/a").send().await;
    }
    assert_eq!(counts().iter().zip(&before).map(|(now, before)| now - before).collect::<Vec<_>>(), [3, 3, 3]);
}

#[tokio::test]
async fn one_value_of_a_header_stays_at_one_endpoint_and_goes_back_when_another_one_leaves() {
    let (issuer, a, b) = (issuer().await, Upstream::friendly().await, Upstream::friendly().await);
    let endpoints = [a.url(), b.url()];
    let mut gate = before(&issuer, &a, &endpoints, "balance: { hash: { header: X-Session } }").start().await;
    let ask = |gate: &Gate, i: usize| gate.get("/public/a").header(&format!("X-Session: s{i}"));
    let mut homes = Vec::new();
    for i in 0..20 {
        let before = a.received().len();
        ask(&gate, i).send().await;
        homes.push(a.received().len() > before);
    }
    assert!(homes.contains(&true) && homes.contains(&false));

    // One more endpoint draws some of them, and moves none between the others.
    let c = Upstream::friendly().await;
    let three = [a.url(), b.url(), c.url()];
    gate.rewrite(&before(&issuer, &a, &three, "balance: { hash: { header: X-Session } }, slow_start: 0s").yaml()).await;
    for (i, was_a) in homes.iter().enumerate() {
        let before = (a.received().len(), b.received().len());
        ask(&gate, i).send().await;
        let now = (a.received().len(), b.received().len());
        assert!(if *was_a { now.1 == before.1 } else { now.0 == before.0 }, "s{i} moved between the two");
    }
    assert!(!c.received().is_empty());
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_comes_back_slowly() {
    let (issuer, dies, stays) = (issuer().await, Mortal::start().await, Upstream::friendly().await);
    let more = "ejection: { failures: 2, time: 200ms, time_max: 200ms }, slow_start: 1h";
    let gate = before(&issuer, &stays, &[dies.url(), stays.url()], more).start().await;
    for _ in 0..10 {
        assert_eq!(gate.get("/public/a").send().await.status, 200);
    }
    assert_eq!((dies.taken(), stays.received().len()), (5, 5));

    let address = dies.kill().await;
    for _ in 0..10 {
        assert_eq!(gate.get("/public/a").send().await.status, 200, "the other one answers");
    }
    let ejections = format!("wicketgate_upstream_ejections_total{{endpoint=\"{address}\",service=\"weather\"}}");
    assert!(gate.metric(&ejections).await >= Some(1.0));
    assert!(gate.metric("wicketgate_upstream_retries_total{reason=\"connect\",service=\"weather\"}").await >= Some(1.0));

    let back = Mortal::start_at(address).await;
    until("it is in again", || async { state(&gate, 0).await == "healthy" }).await;
    let before = stays.received().len();
    for _ in 0..110 {
        assert_eq!(gate.get("/public/a").send().await.status, 200);
    }
    // A tenth of its weight at first: 10 of 110.
    assert!((8..=12).contains(&back.taken()), "{} of 110", back.taken());
    assert_eq!(stays.received().len() - before, 110 - back.taken());
}

#[tokio::test]
async fn a_single_endpoint_is_never_left_alone() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    let gate =
        before(&issuer, &upstream, &[upstream.url()], "ejection: { failures: 1, max_ejected: 100, time: 1h, time_max: 1h }").start().await;

    for _ in 0..5 {
        assert_eq!(gate.get("/public/a").send().await.status, 503);
    }

    assert_eq!((upstream.received().len(), state(&gate, 0).await.as_str()), (5, "healthy"));
}

#[tokio::test]
async fn what_is_known_of_an_endpoint_survives_a_reload() {
    let (issuer, good) = (issuer().await, Upstream::friendly().await);
    let bad = Upstream::answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    let more = "ejection: { failures: 1, time: 1h, time_max: 1h }";
    let endpoints = [bad.url(), good.url()];
    let mut gate = before(&issuer, &good, &endpoints, more).start().await;
    assert_eq!(gate.get("/public/a").send().await.status, 503);
    assert_eq!(state(&gate, 0).await, "ejected");

    // Another key of the upstream, another order of the endpoints, one more of them.
    let third = Upstream::friendly().await;
    let endpoints = [good.url(), third.url(), bad.url()];
    gate.rewrite(&before(&issuer, &good, &endpoints, &format!("{more}, retries: {{ attempts: 1 }}")).yaml()).await;

    assert_eq!(state(&gate, 2).await, "ejected");
    for _ in 0..20 {
        assert_eq!(gate.get("/public/a").send().await.status, 200);
    }
    assert_eq!(bad.received().len(), 1);
    assert!(!third.received().is_empty() && !good.received().is_empty());
    assert_eq!(gate.metric("wicketgate_upstream_endpoints{service=\"weather\",state=\"ejected\"}").await, Some(1.0));
    assert_eq!(gate.metric("wicketgate_upstream_endpoints{service=\"weather\",state=\"healthy\"}").await, Some(2.0));
}

/// Every request gets its answer while endpoints come and go by reloads.
#[tokio::test]
async fn endpoints_that_come_and_go_cost_no_request() {
    let (issuer, a, b) = (issuer().await, Mortal::start().await, Mortal::start().await);
    let any = Upstream::friendly().await;
    let (both, one) = ([a.url(), b.url()], [b.url()]);
    let mut gate = before(&issuer, &any, &both, "slow_start: 0s").start().await;
    let address = gate.address();
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(ask_steadily(address, 200))).collect();

    for round in 0..6 {
        let endpoints: &[String] = if round % 2 == 0 { &one } else { &both };
        gate.rewrite(&before(&issuer, &any, endpoints, "slow_start: 0s").yaml()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    for client in clients {
        assert_eq!(client.await.unwrap(), vec![200; 200]);
    }
    assert!(a.taken() > 0 && b.taken() > 0);
}

/// One client that asks again and again on one connection: the statuses that it got.
pub async fn ask_steadily(address: std::net::SocketAddr, times: usize) -> Vec<u16> {
    let mut client = Connection::open(address).await;
    let mut statuses = Vec::new();
    for _ in 0..times {
        client.write(&Ask::new(address, "GET", "/public/a").bytes("")).await;
        statuses.push(client.answer("GET").await.status);
    }
    statuses
}
