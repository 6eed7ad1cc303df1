//! What signals do to the process, and what clients notice of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::child::{Process, command};
use super::support::*;

/// How one request on a connection of its own went.
#[derive(Debug, PartialEq, Eq)]
pub enum Went {
    Answered,
    /// Nobody listened: the client goes elsewhere, and nothing is lost.
    Refused,
    Lost(String),
}

pub async fn once(address: std::net::SocketAddr, request: &[u8]) -> Went {
    let Ok(mut stream) = TcpStream::connect(address).await else { return Went::Refused };
    let mut answer = Vec::new();
    let outcome = async {
        stream.write_all(request).await?;
        stream.read_to_end(&mut answer).await
    };
    match outcome.await {
        Ok(_) if answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"ok") => Went::Answered,
        other => Went::Lost(format!("{other:?} {}", String::from_utf8_lossy(&answer))),
    }
}

/// Requests on one connection for as long as the gate keeps it. A client leaves when it is asked to.
async fn until_asked_to_leave(address: std::net::SocketAddr, request: &[u8], count: &AtomicUsize) {
    let mut connection = Connection::open(address).await;
    loop {
        connection.write(request).await;
        let answer = connection.answer("GET").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        count.fetch_add(1, Ordering::Relaxed);
        if answer.header("connection").as_deref() == Some("close") {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_no_request() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let yaml = gate(&issuer, &upstream).settings("shutdown: { delay: 300ms, deadline: 10s }\nlog: { access: false }").yaml();
    let mut process = Process::run(&yaml).await.ready().await;
    let (address, token, count) = (process.address, token(&issuer, "read:weather"), AtomicUsize::new(0));
    let ask = || process.get("/forecast/oslo").token(&token);
    let (single, kept) = (ask().bytes("Connection: close"), ask().bytes(""));
    let one_by_one = async || {
        loop {
            match once(address, &single).await {
                Went::Answered => count.fetch_add(1, Ordering::Relaxed),
                Went::Refused => return,
                lost @ Went::Lost(_) => panic!("{lost:?}"),
            };
        }
    };
    let end = async {
        until("the load is on", || async { count.load(Ordering::Relaxed) > 200 }).await;
        process.signal("TERM");
    };

    let clients = async {
        let keep_alive = (0..4).map(|_| until_asked_to_leave(address, &kept, &count));
        tokio::join!(join_all((0..4).map(|_| one_by_one())), join_all(keep_alive));
    };
    tokio::join!(clients, end);

    assert_eq!(process.ended().await, Some(0));
    assert_eq!(upstream.received().len(), count.load(Ordering::Relaxed));
    let down = process.line("down").unwrap();
    assert_eq!(down["in_time"], true, "{down}");
}

#[tokio::test]
async fn who_was_told_to_drain_does_not_wait_a_second_time() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let yaml = gate(&issuer, &upstream).settings("shutdown: { delay: 1s, deadline: 10s }").yaml();
    let mut process = Process::run(&yaml).await.ready().await;
    let admin = process.admin.to_string();

    let begun = Instant::now();
    assert_eq!(command(&["drain", "--admin", &admin], "").await.code, Some(0));
    assert!(begun.elapsed().as_secs_f64() >= 1.0);
    assert_eq!(process.admin("/readyz").await.status, 503);
    assert_eq!(command(&["drain", "--undo", "--admin", &admin], "").await.code, Some(0));
    assert_eq!(process.admin("/readyz").await.status, 200);
    let begun = Instant::now();
    assert_eq!(command(&["drain", "--no-wait", "--admin", &admin], "").await.code, Some(0));
    assert!(begun.elapsed().as_secs_f64() < 1.0);
    assert_eq!(command(&["drain", "--admin", &admin], "").await.code, Some(0));

    process.signal("TERM");
    assert_eq!(process.ended().await, Some(0));
    let took = |message: &str| process.line(message).unwrap()["timestamp"].as_str().unwrap().to_owned();
    let parse = |text: String| time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339).unwrap();
    assert!((parse(took("down")) - parse(took("going down"))).as_seconds_f64() < 1.0);
    assert_eq!(command(&["drain", "--admin", &admin], "").await.code, Some(69));
}

#[tokio::test]
async fn the_deadline_cuts_what_hangs_and_the_end_is_orderly_all_the_same() {
    let (issuer, (upstream, _permits)) = (issuer().await, Upstream::held().await);
    let yaml = gate(&issuer, &upstream).settings("shutdown: { delay: 1ms, deadline: 300ms }").yaml();
    let mut process = Process::run(&yaml).await;
    let mut hanging = Connection::open(process.address).await;
    hanging.write(&process.get("/public/page").bytes("")).await;
    until("the request is upstream", || async { upstream.received().len() == 1 }).await;

    process.signal("TERM");

    assert_eq!(process.ended().await, Some(0));
    let answer = hanging.answer("GET").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "going_down"));
    assert!(hanging.is_closed().await);
    assert_eq!(process.line("down").unwrap()["in_time"], false);
    let left = process.line("the deadline has passed: what was left was ended").unwrap();
    assert_eq!([&left["connections"], &left["requests"], &left["streams"], &left["cut"]], [1, 1, 0, 0], "{left}");
}

#[tokio::test]
async fn who_asks_twice_does_not_wait() {
    let (issuer, (upstream, _permits)) = (issuer().await, Upstream::held().await);
    for (first, second) in [("INT", "INT"), ("TERM", "INT")] {
        let yaml = gate(&issuer, &upstream).settings("shutdown: { delay: 1h, deadline: 1h }").yaml();
        let mut process = Process::run(&yaml).await;
        let mut hanging = Connection::open(process.address).await;
        let before = upstream.received().len();
        hanging.write(&process.get("/public/page").bytes("")).await;
        until("the request is upstream", || async { upstream.received().len() > before }).await;

        process.signal(first);
        until("it goes down", || async { process.line("going down").is_some() }).await;
        // A wish to reload is none to hurry.
        process.signal("HUP");
        assert_eq!(process.admin("/livez").await.status, 200);
        process.signal(second);

        assert_eq!(process.ended().await, Some(0));
        assert!(hanging.is_closed().await);
    }
}

#[tokio::test]
async fn sighup_and_a_changed_file_both_reload() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let builder = gate(&issuer, &upstream).settings("reload: { interval: 1h }");
    let process = Process::run(&builder.yaml()).await;
    let often = "reload: { interval: 100ms }";
    let with = |path: &str| gate(&issuer, &upstream).routes(&format!("\n      GET {path}: public")).settings(often).yaml();

    process.write(&with("/one"));
    assert_eq!(process.get("/one").send().await.status, 404);
    process.signal("HUP");
    until("the signal is heard", || async { process.get("/one").send().await.status == 200 }).await;

    process.write(&with("/two"));
    until("the change is noticed", || async { process.get("/two").send().await.status == 200 }).await;

    let causes: Vec<_> = process.log().into_iter().filter(|line| line["message"] == "configuration reloaded").collect();
    assert_eq!((&causes[0]["cause"], &causes[1]["cause"]), (&"SIGHUP".into(), &"content changed".into()));
    assert_eq!(causes[1]["changes"], "routes added: weather GET /two; routes removed: weather GET /one");
}

/// Not a promise, a number to look at: run with `--nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_from_start_to_the_first_request_is_printed() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let place = reserve();
    let yaml = gate(&issuer, &upstream).settings(&format!("listen: {}", place.address)).yaml();
    let request = Ask::new(place.address, "GET", "/forecast/oslo").token(&token(&issuer, "read:weather")).bytes("Connection: close");
    let begun = Instant::now();
    let first = async {
        while once(place.address, &request).await != Went::Answered {
            tokio::task::yield_now().await;
        }
        begun.elapsed()
    };
    let (process, took) = tokio::join!(Process::run(&yaml), soon("the first answer", first));
    println!("from start to the first protected request: {took:?}");
    drop(process);
}
