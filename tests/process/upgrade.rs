//! A new process takes over from a running one: nobody is refused, nothing is lost, and what fails changes nothing.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use http::Request;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use wicketgate::demo::Issuer;

use super::child::{Process, command};
use super::signals::{Went, once};
use super::support::*;

const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n";

/// Where two processes meet.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("upgrade.sock")
    }

    /// The keys that let a process be taken over from, and some more.
    fn settings(&self, more: &str) -> String {
        format!("upgrade: {{ socket: {}, timeout: 15s }}\nlog: {{ access: false }}\n{more}", self.socket().display())
    }
}

fn yaml(issuer: &Issuer, upstream: &Upstream, place: &Place) -> String {
    gate(issuer, upstream).settings(&place.settings("")).yaml()
}

/// Waits until a process has this line in its log.
async fn says(process: &Process, message: &str) -> serde_json::Value {
    until(message, || async { process.line(message).is_some() }).await;
    process.line(message).unwrap()
}

/// As many processes, one after the other, as there are upgrades and one.
async fn generations(first: Process, upgrades: usize) -> Process {
    let mut current = first;
    for _ in 0..upgrades {
        let next = current.another().serving().await;
        assert_eq!(current.ended().await, Some(0), "{}", current.output());
        assert_eq!(current.line("down").unwrap()["in_time"], true, "{}", current.output());
        current = next;
    }
    current
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_under_load_lose_no_request_and_refuse_nobody() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let unix = place.directory.path().join("gate.sock");
    let listen = format!("listen: [127.0.0.1:0, 'unix:{}']", unix.display());
    let yaml = gate(&issuer, &upstream).settings(&place.settings(&listen)).yaml();
    let process = Process::run(&yaml).await.ready().await;
    let (address, token, admin) = (process.address, token(&issuer, "read:weather"), process.admin);
    let (count, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let ask = || process.get("/forecast/oslo").token(&token);
    let (single, kept) = (ask().bytes("Connection: close"), ask().bytes(""));
    let goes_on = || !over.load(Ordering::Relaxed);
    let single_requests = async || {
        while goes_on() {
            assert_eq!(once(address, &single).await, Went::Answered);
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let kept_connections = async || {
        while goes_on() {
            on_one_connection(address, &kept, &count, &over).await;
        }
    };
    let http2 = async || {
        while goes_on() {
            over_http2(address, &token, &count, &over).await;
        }
    };
    let over_unix = async || {
        while goes_on() {
            assert_eq!(once_over_unix(&unix, &single).await, Went::Answered);
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let ready = async || {
        while goes_on() {
            assert_eq!(Ask::new(admin, "GET", "/readyz").send().await.status, 200);
        }
    };
    let upgrading = async {
        until("the load is on", || async { count.load(Ordering::Relaxed) > 200 }).await;
        let last = generations(process, 3).await;
        let before = count.load(Ordering::Relaxed);
        until("the load goes on", || async { count.load(Ordering::Relaxed) > before + 200 }).await;
        over.store(true, Ordering::Relaxed);
        last
    };

    let clients = async {
        let four = 0..4;
        tokio::join!(
            join_all(four.clone().map(|_| single_requests())),
            join_all(four.clone().map(|_| kept_connections())),
            join_all(four.clone().map(|_| http2())),
            join_all(four.map(|_| over_unix())),
            ready(),
        );
    };
    let ((), last) = tokio::join!(clients, upgrading);

    assert_eq!(upstream.received().len(), count.load(Ordering::Relaxed));
    assert_eq!((last.address, last.admin), (address, admin));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_systemd_passed_on_are_the_next_process_to_use_and_to_use_again() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let socket = std::net::TcpListener::bind(loopback()).unwrap();
    let address = socket.local_addr().unwrap();
    let with = |listen: &str| gate(&issuer, &upstream).settings(&place.settings(listen)).yaml();
    let (both, without) = (with("listen: [127.0.0.1:0, 'fd:web']"), with("listen: 127.0.0.1:0"));
    let answers = async || Ask::new(address, "GET", "/public/page").send().await.status;
    let reloaded = async |process: &Process, yaml: &str, count: u64| {
        process.write(yaml);
        process.signal("HUP");
        until("the reload", || async { process.admin("/status").await.json()["reloads"].as_u64() == Some(count) }).await;
    };
    let first = Process::spawn_activated(&both, "web", socket).serving().await.ready().await;
    assert_eq!(answers().await, 200);

    let mut second = generations(first, 2).await;
    assert_eq!(answers().await, 200);
    // It goes and comes back.
    reloaded(&second, &without, 1).await;
    reloaded(&second, &both, 2).await;
    assert_eq!(answers().await, 200);
    // It comes back under its number to a process that began without it.
    reloaded(&second, &without, 3).await;
    second = generations(second, 1).await;
    reloaded(&second, &with("listen: [127.0.0.1:0, 'fd:3']"), 1).await;
    assert_eq!(answers().await, 200);
}

/// Requests on one connection until the gate asks to leave it, or all is over.
async fn on_one_connection(address: std::net::SocketAddr, request: &[u8], count: &AtomicUsize, over: &AtomicBool) {
    let mut connection = Connection::open(address).await;
    while !over.load(Ordering::Relaxed) {
        connection.write(request).await;
        let answer = connection.answer("GET").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        count.fetch_add(1, Ordering::Relaxed);
        if answer.header("connection").as_deref() == Some("close") {
            return;
        }
    }
}

/// Requests on one HTTP/2 connection until the gate says GOAWAY, or all is over.
async fn over_http2(address: std::net::SocketAddr, token: &str, count: &AtomicUsize, over: &AtomicBool) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    while !over.load(Ordering::Relaxed) {
        // Who hears GOAWAY before it asks goes elsewhere; whoever has asked gets an answer.
        match sender.clone().ready().await {
            Ok(ready) => sender = ready,
            Err(error) => {
                assert!(error.is_go_away(), "{error}");
                break;
            }
        }
        let request = Request::get(format!("http://{address}/forecast/oslo")).header("authorization", format!("Bearer {token}"));
        let (answer, _) = match sender.send_request(request.body(()).unwrap(), true) {
            Ok(sent) => sent,
            Err(error) => {
                assert!(error.is_go_away(), "{error}");
                break;
            }
        };
        // What was queued when GOAWAY came never left the client; what the gate took is counted upstream.
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(error) => {
                assert!(error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR), "{error}");
                break;
            }
        };
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "ok");
        count.fetch_add(1, Ordering::Relaxed);
    }
    drop(sender);
    let _ = soon("the connection's end", connection).await;
}

async fn once_over_unix(path: &std::path::Path, request: &[u8]) -> Went {
    let Ok(mut stream) = UnixStream::connect(path).await else { return Went::Refused };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_goes_on_over_an_upgrade() {
    let (issuer, upstream, place, certificate) = (issuer().await, Upstream::friendly().await, Place::new(), Certificate::new());
    for (name, text) in [("cert.pem", &certificate.pem), ("key.pem", &certificate.key_pem)] {
        std::fs::write(place.directory.path().join(name), text).unwrap();
    }
    let at = |name: &str| place.directory.path().join(name).display().to_string();
    let tls = format!("tls: {{ certificate_file: {}, key_file: {} }}", at("cert.pem"), at("key.pem"));
    let first = Process::run(&gate(&issuer, &upstream).settings(&place.settings(&tls)).yaml()).await.ready().await;
    let (address, request) = (first.address, first.get("/public/page").bytes("Connection: close"));
    let (count, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let asking = async {
        while !over.load(Ordering::Relaxed) {
            let mut stream = connect_tls(address, &certificate, &[]).await.unwrap();
            stream.write_all(&request).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"ok"), "{}", String::from_utf8_lossy(&answer));
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let upgrading = async {
        until("somebody asks", || async { count.load(Ordering::Relaxed) > 5 }).await;
        let last = generations(first, 2).await;
        over.store(true, Ordering::Relaxed);
        last
    };
    tokio::join!(asking, upgrading);
}

#[tokio::test]
async fn what_is_in_flight_is_finished_by_the_old_process_and_the_new_one_serves_meanwhile() {
    let (issuer, (upstream, permits), place) = (issuer().await, Upstream::held().await, Place::new());
    let mut old = Process::run(&yaml(&issuer, &upstream, &place)).await.ready().await;
    let mut slow = Connection::open(old.address).await;
    slow.write(&old.get("/public/slow").bytes("")).await;
    until("the request is upstream", || async { upstream.received().len() == 1 }).await;

    let new = old.another().serving().await;
    says(&old, "handed over to a new process").await;
    permits.add_permits(1);
    // Whoever asks first gets the permit upstream: the slow one waited longer.
    assert_eq!(slow.answer("GET").await.status, 200);
    assert_eq!(old.ended().await, Some(0));
    permits.add_permits(1);
    assert_eq!(new.get("/public/page").send().await.status, 200);
    assert_eq!(old.line("down").unwrap()["in_time"], true);
}

#[tokio::test]
async fn a_websocket_stays_with_the_old_process_until_that_ends() {
    let (issuer, (upstream, mut calls), place) = (issuer().await, Upstream::manual().await, Place::new());
    let shutdown = "shutdown: { delay: 1h, deadline: 1s }";
    let mut old = Process::run(&gate(&issuer, &upstream).settings(&place.settings(shutdown)).yaml()).await.ready().await;
    let ask = old.get("/ws").token(&token(&issuer, "read:weather")).header("Connection: Upgrade").header("Upgrade: websocket");
    let ask = ask.header("Sec-WebSocket-Version: 13").header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==");
    let mut client = Connection::open(old.address).await;
    client.write(&ask.bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(UPGRADED).await;
    assert_eq!(client.answer("GET").await.status, 101);

    let _new = old.another().serving().await;
    says(&old, "handed over to a new process").await;
    assert!(!client.rest().await.contains("HTTP/1.1"));
    assert_eq!(old.ended().await, Some(0));
}

#[tokio::test]
async fn a_new_process_with_a_broken_configuration_leaves_the_old_one() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let good = yaml(&issuer, &upstream, &place);
    // An interval so long that the running process does not look.
    let good = good.replace("reload: { interval: 100ms }", "reload: { interval: 1h }");
    let old = Process::run(&good).await.ready().await;
    old.write(&good.replace("services:", "sevrices:"));
    let mut new = old.another();
    assert_eq!(new.ended().await, Some(64), "{}", new.output());
    assert_eq!(old.get("/public/page").send().await.status, 200);
    assert!(old.line("going down").is_none() && old.line("handed over to a new process").is_none());

    // One that is refused later on: a listener that is taken.
    let taken = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let listen = format!("listen: [127.0.0.1:0, '{}']", taken.local_addr().unwrap());
    old.write(&good.replace("listen: 127.0.0.1:0", &listen));
    let mut new = old.another();
    assert_eq!(new.ended().await, Some(69), "{}", new.output());
    assert_eq!(says(&old, "the new process did not take over; this one goes on").await["reason"], "it ended before it was ready");
    assert_eq!(old.get("/public/page").send().await.status, 200);

    old.write(&good);
    let last = generations(old, 1).await;
    assert_eq!(last.get("/public/page").send().await.status, 200);
}

#[tokio::test]
async fn a_new_process_without_keys_leaves_the_old_one_that_has_them() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let settings = place.settings("keys: { timeout: 200ms }").replace("timeout: 15s", "timeout: 1s");
    let old = Process::run(&gate(&issuer, &upstream).settings(&settings).yaml()).await.ready().await;
    let token = token(&issuer, "read:weather");
    drop(issuer);
    let mut new = old.another();
    assert_eq!(new.ended().await, Some(69));
    assert!(new.output().contains("no keys of http://127.0.0.1:"), "{}", new.output());
    let reason = says(&old, "the new process did not take over; this one goes on").await["reason"].to_string();
    assert!(reason.contains("no keys of"), "{reason}");
    assert_eq!(old.get("/forecast/oslo").token(&token).send().await.status, 200);
}

#[tokio::test]
async fn a_new_process_that_is_killed_before_it_serves_changes_nothing() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let old = Process::run(&yaml(&issuer, &upstream, &place)).await.ready().await;
    // It waits for the keys of an issuer that accepts and says nothing.
    let silent = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let waits = format!("[{}, 'http://{}']", issuer.url(), silent.local_addr().unwrap());
    let other = gate(&issuer, &upstream).settings(&place.settings(&format!("issuer: {waits}"))).yaml();
    std::fs::write(old.directory.path().join("other.yaml"), other).unwrap();
    let mut new = Process::spawn_in(old.directory.clone(), "other.yaml", &[]);
    says(&new, "a running gate hands over").await;
    let _asked = soon("the new process asks for keys", silent.accept()).await.unwrap();
    assert_eq!(old.get("/public/page").send().await.status, 200);
    new.signal("KILL");
    new.ended().await;
    says(&old, "the new process did not take over; this one goes on").await;
    for _ in 0..20 {
        assert_eq!(old.get("/public/page").send().await.status, 200);
    }
    let last = generations(old, 1).await;
    assert_eq!(last.get("/public/page").send().await.status, 200);
}

#[tokio::test]
async fn an_old_process_that_is_killed_in_the_middle_has_handed_over_all_the_same() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let mut old = Process::run(&yaml(&issuer, &upstream, &place)).await.ready().await;
    // The new process waits for keys of an issuer that nobody is; then it is alone, and waits no more.
    let later = reserve();
    let url = format!("http://{}/{}", later.address, issuer.url().splitn(4, '/').nth(3).unwrap_or_default());
    let other = gate(&issuer, &upstream).settings(&place.settings(&format!("issuer: [{}, {url}]", issuer.url()))).yaml();
    std::fs::write(old.directory.path().join("other.yaml"), other).unwrap();
    let new = Process::spawn_in(old.directory.clone(), "other.yaml", &[]);
    says(&new, "key set not fetched").await;
    let address = old.address;
    old.signal("KILL");
    old.ended().await;
    // Whoever connects meanwhile waits.
    let mut waiting = Connection::open(address).await;
    waiting.write(&Ask::new(address, "GET", "/public/page").bytes("")).await;
    let new = new.serving().await;
    assert_eq!(waiting.answer("GET").await.status, 200);
    assert_eq!(new.address, address);
    says(&new, "the old process died in the middle; this one goes on by itself").await;
    // The next one finds this one, and does not wait for keys that this one lacks.
    let next = Process::spawn_in(new.directory.clone(), "other.yaml", &[]).serving().await;
    assert_eq!(next.get("/public/page").send().await.status, 200);
}

#[tokio::test]
async fn what_is_revoked_stays_revoked_and_each_hears_of_the_other() {
    let (issuer, (upstream, permits), place) = (issuer().await, Upstream::held().await, Place::new());
    permits.add_permits(1000);
    let mut old = Process::run(&yaml(&issuer, &upstream, &place)).await.ready().await;
    let token = token(&issuer, "read:weather");
    let revoke = async |admin, body: &str| {
        let answer = Ask::new(admin, "POST", "/revocations").header("Content-Type: application/json").body(body).send().await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    // More than go into one piece.
    for i in 0..150 {
        revoke(old.admin, &format!("{{\"sub\":\"user{i}\"}}")).await;
    }
    let alice = revoke(old.admin, "{\"sub\":\"alice\"}").await;
    let mut kept = Connection::open(old.address).await;
    let ask = old.get("/forecast/oslo").token(&token).bytes("");
    kept.write(&ask).await;
    assert_eq!(kept.answer("GET").await.code(), "token_revoked");
    // A request that keeps the old process alive.
    permits.forget_permits(1000);
    let mut slow = Connection::open(old.address).await;
    slow.write(&old.get("/public/slow").bytes("")).await;
    until("the request is upstream", || async { upstream.received().len() == 1 }).await;

    let new = old.another().serving().await;
    says(&old, "handed over to a new process").await;
    let listed = Ask::new(new.admin, "GET", "/revocations").send().await.json();
    assert_eq!(listed["total"], 151);
    assert_eq!(new.get("/forecast/oslo").token(&token).send().await.code(), "token_revoked");

    // Lifted on the new one, then heard of on the old one, on a connection that it kept.
    assert_eq!(Ask::new(new.admin, "DELETE", &format!("/revocations/{alice}")).send().await.status, 200);
    permits.add_permits(1);
    assert_eq!(slow.answer("GET").await.status, 200);
    assert_eq!(old.ended().await, Some(0));
    permits.add_permits(1);
    assert_eq!(new.get("/forecast/oslo").token(&token).send().await.status, 200);
}

#[tokio::test]
async fn sigusr2_starts_the_new_process_with_the_same_command_line() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let mut old = Process::run(&yaml(&issuer, &upstream, &place)).await.ready().await;
    old.signal("USR2");
    let started = says(&old, "a new process was started").await;
    assert_eq!(says(&old, "handed over to a new process").await["pid"], started["pid"]);
    assert_eq!(old.ended().await, Some(0));
    // It writes into the same log.
    until("it says so", || async { old.log().iter().filter(|line| line["message"] == "serving").count() == 2 }).await;
    assert_eq!(old.get("/public/page").send().await.status, 200);
    let pid = started["pid"].as_u64().unwrap();
    let status = std::process::Command::new("sh").args(["-c", "kill -s TERM \"$0\"", &pid.to_string()]).status();
    assert!(status.unwrap().success());
    until("nobody listens", || async { TcpStream::connect(old.address).await.is_err() }).await;
    until("the last one takes the file away", || async { !place.socket().exists() }).await;
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let old = Process::run(&yaml(&issuer, &upstream, &place)).await.ready().await;
    assert_eq!(std::fs::metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    // Nonsense and silence end with themselves.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x02{}", b""] {
        let mut stream = UnixStream::connect(place.socket()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
    }
    let last = generations(old, 1).await;
    assert_eq!(std::fs::metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    drop(last);
    // A killed process leaves the file, which is in nobody's way.
    assert!(place.socket().exists());
    let next = Process::run(&yaml(&issuer, &upstream, &place)).await.ready().await;
    assert_eq!(next.get("/public/page").send().await.status, 200);
}

async fn run_as(program: &str, arguments: &[&str], user: u32) -> std::process::Output {
    let mut command = std::process::Command::new(program);
    command.args(arguments).uid(user);
    soon("a program of another user ends", tokio::task::spawn_blocking(move || command.output())).await.unwrap().unwrap()
}

/// Only root can be somebody else.
#[tokio::test]
async fn another_user_is_refused_even_where_the_mode_would_let_it_in() {
    const NOBODY: u32 = 65_534;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let old = Process::run(&yaml(&issuer, &upstream, &place)).await.ready().await;
    for path in [place.directory.path(), old.directory.path(), &place.socket()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let script = format!("import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); print(s.recv(1))", place.socket().display());
    let told = run_as("python3", &["-c", &script], NOBODY).await;
    assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), "b''", "{}", String::from_utf8_lossy(&told.stderr));
    assert_eq!(says(&old, "refused at the upgrade socket: another user").await["user"], NOBODY);

    // Nor does a gate of another user take what this one would give.
    let config = old.directory.path().join("wicketgate.yaml");
    let ended = run_as(env!("CARGO_BIN_EXE_wicketgate"), &["run", "--config", config.to_str().unwrap()], NOBODY).await;
    assert_eq!(ended.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("another user holds it"), "{}", String::from_utf8_lossy(&ended.stderr));
    let last = generations(old, 1).await;
    assert_eq!(last.get("/public/page").send().await.status, 200);
}

/// Killed at whatever moment, also while it begins to serve, a new process changes nothing for those who ask anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_processes_killed_at_any_moment_leave_the_service_to_somebody() {
    let (issuer, upstream, place, fixed) = (issuer().await, Upstream::friendly().await, Place::new(), reserve());
    let settings = place.settings(&format!("listen: {}", fixed.address));
    let mut current = Process::run(&gate(&issuer, &upstream).settings(&settings).yaml()).await.ready().await;
    let request = current.get("/public/page").bytes("Connection: close");
    let address = current.address;
    for delay in (0..20).map(|step| std::time::Duration::from_millis(5 * step)) {
        let mut new = current.another();
        tokio::time::sleep(delay).await;
        if current.line("handed over to a new process").is_some() {
            current = new.serving().await;
            continue;
        }
        new.signal("KILL");
        new.ended().await;
        // It may have been handed over just then, and nobody is left: then another one starts, and all goes on.
        let known = async {
            loop {
                let went = once(address, &request).await;
                if went == Went::Answered || current.line("handed over to a new process").is_some() {
                    return;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, known).await.is_err() {
            panic!("{delay:?}: {}\n{}", current.output(), new.output());
        }
        if current.line("handed over to a new process").is_some() {
            current = current.another().serving().await.ready().await;
        }
    }
    assert_eq!(once(address, &request).await, Went::Answered);
}

#[tokio::test]
async fn the_last_listeners_that_the_new_configuration_does_not_name_end_with_the_old_process() {
    let (issuer, upstream, place, one, two) = (issuer().await, Upstream::friendly().await, Place::new(), reserve(), reserve());
    let with = |listen: &str, admin: &str| gate(&issuer, &upstream).settings(&place.settings(&format!("{listen}\n{admin}"))).yaml();
    let unix = place.directory.path().join("gate.sock");
    let first = with(&format!("listen: [{}, 'unix:{}']", one.address, unix.display()), "reload: { interval: 1h }");
    let mut old = Process::run(&first).await.ready().await;
    old.write(&with(&format!("listen: {}", two.address), "reload: { interval: 1h }"));
    let new = old.another().serving().await;
    assert_eq!(old.ended().await, Some(0));
    assert_eq!(new.get("/public/page").send().await.status, 200);
    assert_eq!(new.address, two.address);
    assert!(TcpStream::connect(one.address).await.is_err());
    assert!(!unix.exists());
}

#[tokio::test]
async fn a_reload_in_the_middle_is_done_afterwards() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let good = yaml(&issuer, &upstream, &place).replace("reload: { interval: 100ms }", "reload: { interval: 1h }");
    let old = Process::run(&good).await.ready().await;
    let silent = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let waits = format!("issuer: [{}, 'http://{}']", issuer.url(), silent.local_addr().unwrap());
    std::fs::write(old.directory.path().join("other.yaml"), gate(&issuer, &upstream).settings(&place.settings(&waits)).yaml()).unwrap();
    let mut new = Process::spawn_in(old.directory.clone(), "other.yaml", &[]);
    let _asked = soon("the new process asks for keys", silent.accept()).await.unwrap();
    old.write(&good.replace("GET /me: authenticated", "GET /me: authenticated\n      GET /one: public"));
    old.signal("HUP");
    old.signal("HUP");
    assert_eq!(old.get("/one").send().await.status, 404);
    new.signal("KILL");
    new.ended().await;
    until("the reload is done", || async { old.get("/one").send().await.status == 200 }).await;
}

#[tokio::test]
async fn sigterm_in_the_middle_ends_both() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let mut old = Process::run(&yaml(&issuer, &upstream, &place)).await.ready().await;
    let silent = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let waits = format!("issuer: [{}, 'http://{}']", issuer.url(), silent.local_addr().unwrap());
    std::fs::write(old.directory.path().join("other.yaml"), gate(&issuer, &upstream).settings(&place.settings(&waits)).yaml()).unwrap();
    let mut new = Process::spawn_in(old.directory.clone(), "other.yaml", &[]);
    let _asked = soon("the new process asks for keys", silent.accept()).await.unwrap();
    old.signal("TERM");
    assert_eq!(old.ended().await, Some(0));
    assert_eq!(new.ended().await, Some(69), "{}", new.output());
    assert!(TcpStream::connect(old.address).await.is_err());
}

/// systemd's end of `NOTIFY_SOCKET`, and what came there.
struct Manager {
    socket: Arc<tokio::net::UnixDatagram>,
    path: PathBuf,
}

impl Manager {
    fn at(path: PathBuf) -> Self {
        Self { socket: Arc::new(tokio::net::UnixDatagram::bind(&path).unwrap()), path }
    }

    async fn hears(&self, text: &str) {
        let mut bytes = [0; 4096];
        soon(text, async {
            loop {
                let count = self.socket.recv(&mut bytes).await.unwrap();
                if String::from_utf8_lossy(&bytes[..count]).lines().any(|line| line.starts_with(text)) {
                    return;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn systemd_hears_of_each_step() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, Place::new());
    let manager = Manager::at(place.directory.path().join("notify"));
    let directory = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(directory.path().join("wicketgate.yaml"), yaml(&issuer, &upstream, &place)).unwrap();
    let environment = [("NOTIFY_SOCKET", manager.path.to_str().unwrap()), ("WATCHDOG_USEC", "20000000")];
    let mut old = Process::spawn_in(directory, "wicketgate.yaml", &environment).serving().await;
    manager.hears("READY=1").await;
    manager.hears("WATCHDOG=1").await;
    old.signal("HUP");
    manager.hears("RELOADING=1").await;
    manager.hears("READY=1").await;
    old.signal("USR2");
    let started = says(&old, "a new process was started").await["pid"].as_u64().unwrap();
    manager.hears(&format!("MAINPID={started}")).await;
    manager.hears("READY=1").await;
    manager.hears("WATCHDOG=1").await;
    assert_eq!(old.ended().await, Some(0));
    let status = std::process::Command::new("sh").args(["-c", "kill -s TERM \"$0\"", &started.to_string()]).status();
    assert!(status.unwrap().success());
    manager.hears("STOPPING=1").await;
}

#[tokio::test]
async fn sigusr2_without_the_key_does_nothing() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let process = Process::run(&gate(&issuer, &upstream).yaml()).await;
    process.signal("USR2");
    says(&process, "SIGUSR2 without the key upgrade in the configuration: nothing to do").await;
    assert_eq!(process.get("/public/page").send().await.status, 200);
    assert_eq!(command(&["check", "--config", "/nonexistent"], "").await.code, Some(64));
}
