//! Everything that can change while running does, for the next request and without losing one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::support::*;

#[tokio::test]
async fn a_tightened_route_counts_for_the_next_request_on_the_same_connection() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;
    let token = token(&issuer, "read:weather");
    let mut connection = Connection::open(gate.address()).await;
    let request = gate.get("/forecast/oslo").token(&token).bytes("");
    for _ in 0..2 {
        connection.write(&request).await;
        assert_eq!(connection.answer("GET").await.status, 200);
    }

    gate.rewrite(&before.routes("\n      GET /forecast/{city}: write:weather").yaml()).await;

    connection.write(&request).await;
    let answer = connection.answer("GET").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "scope_missing"));
    // The token was remembered all the while.
    assert_eq!(gate.metric("wicketgate_token_checks_total{cache=\"miss\"}").await, Some(1.0));
    assert_eq!(gate.metric("wicketgate_connections_open").await, Some(1.0));
}

#[tokio::test]
async fn upstreams_and_limits_change_for_the_next_request() {
    let (issuer, upstream, other) = (issuer().await, Upstream::friendly().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;
    gate.get("/public/page").send().await;

    let after = before.yaml().replace(&upstream.url(), &other.url());
    gate.rewrite(&format!("{after}limits: {{ uri_bytes: 256B }}\nlog: {{ level: debug }}\n")).await;

    assert_eq!(gate.status().await["last_reload"]["changes"], "service weather: upstream changed; limits changed; log changed");
    assert_eq!(gate.get("/public/page").send().await.status, 200);
    assert_eq!(gate.get(&format!("/public/{}", "x".repeat(300))).send().await.status, 414);
    assert_eq!((upstream.received().len(), other.received().len()), (1, 1));
}

#[tokio::test]
async fn sighup_reloads_at_once() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;
    fs::write(&gate.path, before.routes("\n      GET /new: public").yaml()).unwrap();

    gate.app.reload("SIGHUP").await;

    assert_eq!(gate.get("/new").send().await.status, 200);
    // What SIGHUP took is no change any more.
    gate.app.reload_if_changed().await;
    assert_eq!(gate.status().await["reloads"], 1);
}

/// As kubelet does it: the file is a link into a directory that is a link, and only the latter is swapped.
#[tokio::test]
async fn a_config_map_that_is_swapped_is_noticed_every_time() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().start().await;
    let directory = gate.path.parent().unwrap().to_owned();
    let publish = |version: &str, yaml: &str| {
        fs::create_dir(directory.join(version)).unwrap();
        fs::write(directory.join(version).join("wicketgate.yaml"), yaml).unwrap();
        symlink(version, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    publish("..v1", &builder.yaml());
    fs::remove_file(&gate.path).unwrap();
    symlink("..data/wicketgate.yaml", &gate.path).unwrap();
    gate.app.reload_if_changed().await;
    assert_eq!(gate.status().await["reloads"], 0);

    for (i, version) in ["..v2", "..v3", "..v4"].into_iter().enumerate() {
        let path = format!("/new/{i}");
        publish(version, &builder.clone().routes(&format!("\n      GET {path}: public")).yaml());
        gate.app.reload_if_changed().await;
        assert_eq!(gate.get(&path).send().await.status, 200, "{version}");
    }
    assert_eq!(gate.status().await["reloads"], 3);
}

async fn serves(address: std::net::SocketAddr) -> bool {
    Ask::new(address, "GET", "/public/page").send().await.status == 200
}

async fn refuses(address: std::net::SocketAddr) {
    until("nobody listens", || async { TcpStream::connect(address).await.is_err() }).await;
}

async fn over_unix(socket: &Path) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(b"GET /public/page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn listeners_come_move_and_go() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (one, two, admin) = (reserve(), reserve(), reserve());
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().settings(&format!("listen: {}", one.address)).start().await;
    let socket = gate.path.with_file_name("gate.sock");
    assert!(serves(one.address).await);

    gate.rewrite(&builder.clone().settings(&format!("listen: [{}, {}]", one.address, two.address)).yaml()).await;
    assert!(serves(one.address).await && serves(two.address).await);

    gate.rewrite(&builder.clone().settings(&format!("listen: [{}, 'unix:{}']", two.address, socket.display())).yaml()).await;
    assert!(serves(two.address).await);
    refuses(one.address).await;
    over_unix(&socket).await;

    // The socket stays where it is while everything else goes.
    let old = gate.app.admin_address();
    gate.rewrite(&builder.clone().settings(&format!("listen: 'unix:{}'\nadmin: {}", socket.display(), admin.address)).yaml()).await;
    refuses(two.address).await;
    refuses(old).await;
    assert_eq!((gate.app.admin_address(), gate.admin("/livez").await.status), (admin.address, 200));
    over_unix(&socket).await;

    gate.rewrite(&builder.clone().settings(&format!("listen: {}", one.address)).yaml()).await;
    assert!(serves(one.address).await);
    until("the socket is deaf", || async { UnixStream::connect(&socket).await.is_err() }).await;
}

#[tokio::test]
async fn an_address_that_is_taken_refuses_the_reload_and_keeps_what_was() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (one, free) = (reserve(), reserve());
    let other = std::net::TcpListener::bind(loopback()).unwrap();
    let taken = other.local_addr().unwrap();
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().settings(&format!("listen: {}", one.address)).start().await;
    let admin = gate.app.admin_address();
    let tries = [
        format!("listen: [{}, {taken}]", free.address),
        format!("listen: {}\nadmin: {taken}", free.address),
        format!("listen: [{}, 'unix:/nowhere/at/all.sock']", free.address),
    ];
    for settings in tries {
        gate.rewrite(&builder.clone().routes("\n      /**: public").settings(&settings).yaml()).await;

        let last = gate.status().await["last_reload"].clone();
        let faults = last["faults"].as_str().unwrap();
        assert!(faults.contains(&taken.to_string()) || faults.contains("/nowhere"), "{last}");
        assert!(serves(one.address).await, "{settings}");
        assert_eq!(gate.get("/me").send().await.status, 401, "{settings}");
        assert_eq!(gate.app.admin_address(), admin);
        // What was bound on the way is given back.
        refuses(free.address).await;
    }
    drop(other);
    gate.rewrite(&builder.settings(&format!("listen: [{}, {taken}]", one.address)).yaml()).await;
    assert!(serves(one.address).await && serves(taken).await);
}

#[tokio::test]
async fn connections_of_a_listener_that_goes_end_gracefully() {
    let (issuer, (upstream, permits)) = (issuer().await, Upstream::held().await);
    let (one, two) = (reserve(), reserve());
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().settings(&format!("listen: {}", one.address)).start().await;
    let request = gate.get("/public/page").bytes("");
    let (mut idle, mut busy) = (Connection::open(one.address).await, Connection::open(one.address).await);
    permits.add_permits(1);
    idle.write(&request).await;
    assert_eq!(idle.answer("GET").await.status, 200);
    busy.write(&request).await;
    until("the second request is upstream", || async { upstream.received().len() == 2 }).await;

    gate.rewrite(&builder.settings(&format!("listen: {}", two.address)).yaml()).await;

    assert!(soon("the idle connection is closed", idle.is_closed()).await);
    refuses(one.address).await;
    permits.add_permits(2);
    let answer = busy.answer("GET").await;
    assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
    assert!(answer.complete && busy.is_closed().await);
    assert!(serves(two.address).await);
}

#[tokio::test]
async fn no_request_is_lost_over_thirty_reloads() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().start().await;
    let (address, token, done) = (gate.address(), token(&issuer, "read:weather"), AtomicBool::new(false));
    let client = async |keeps_alive: bool| {
        let mut count = 0;
        let mut connection = Connection::open(address).await;
        while !done.load(Ordering::Relaxed) {
            let ask = Ask::new(address, "GET", "/forecast/oslo").token(&token);
            let answer = match keeps_alive {
                true => {
                    connection.write(&ask.bytes("")).await;
                    connection.answer("GET").await
                }
                false => ask.send().await,
            };
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
            count += 1;
        }
        count
    };
    let reloads = async {
        for i in 0..30 {
            let requirement = if i % 2 == 0 { "read:weather" } else { "{ any: [read:weather, write:weather] }" };
            let settings =
                format!("keys: {{ refresh: {}s }}\ntimeouts: {{ connect: {}s }}\nlimits: {{ streams: {} }}", 100 + i, 1 + i, 50 + i);
            let yaml = builder.clone().routes(&format!("\n      GET /forecast/{{city}}: {requirement}")).settings(&settings).yaml();
            fs::write(&gate.path, yaml).unwrap();
            gate.app.reload("SIGHUP").await;
            // Some requests under each.
            let before = upstream.received().len();
            until("requests go on", || async { upstream.received().len() > before + 4 }).await;
        }
        done.store(true, Ordering::Relaxed);
    };

    let (counts, ()) = tokio::join!(join_all([true, false, true, false].map(client)), reloads);

    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
    assert_eq!(gate.status().await["reloads"], 30);
    assert_eq!(gate.metric("wicketgate_config_reloads_total{result=\"taken\"}").await, Some(30.0));
    assert_eq!(upstream.received().len(), counts.iter().sum::<usize>());
}

#[tokio::test]
async fn fewer_connections_are_taken_after_a_reload_even_when_more_were_open() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;
    let (address, request) = (gate.address(), gate.get("/public/page").bytes(""));
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::open(address).await;
        connection.write(&request).await;
        connection.answer("GET").await;
        open.push(connection);
    }

    gate.rewrite(&before.settings("limits: { connections: 2 }").yaml()).await;
    open.clear();

    let connections = join_all((0..4).map(|_| Connection::open(address))).await;
    let mut most = 0.0;
    for mut connection in connections {
        connection.write(&request).await;
        assert_eq!(connection.answer("GET").await.status, 200);
        most = gate.metric("wicketgate_connections_open").await.unwrap().max(most);
    }
    assert_eq!(most, 2.0);
}
