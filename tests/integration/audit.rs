//! The audit trail: one record for each decision that is worth one, nothing secret in it, and none lost without a word.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, UdpSocket};
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::TokenRequest;

use super::support::*;

/// A place for a trail, and what is in it.
struct Trail {
    path: PathBuf,
    _directory: TempDir,
}

fn trail() -> Trail {
    let directory = tempfile::tempdir().unwrap();
    Trail { path: directory.path().join("audit.jsonl"), _directory: directory }
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))).collect()
}

fn accesses(path: &Path) -> Vec<Value> {
    read(path).into_iter().filter(|record| record["audit"] == "access").collect()
}

impl Trail {
    fn to(&self, more: &str) -> String {
        format!("audit: {{ to: {{ file: '{}' }}{more} }}", self.path.display())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}.{number}", self.path.display()))
    }

    /// The records of decisions, once there are so many.
    async fn accesses(&self, count: usize) -> Vec<Value> {
        until("the records are written", || async { accesses(&self.path).len() >= count }).await;
        let found = accesses(&self.path);
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }
}

fn picked(record: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| record[name].clone()).collect()
}

const LOST: [&str; 4] = ["queue_full", "write_failed", "too_long", "shutdown"];

async fn lost(gate: &Gate) -> f64 {
    let mut sum = 0.0;
    for reason in LOST {
        sum += gate.metric(&format!("wicketgate_audit_records_lost_total{{reason=\"{reason}\"}}")).await.unwrap();
    }
    sum
}

fn agents_token(issuer: &Issuer, scope: &str, act: Value) -> String {
    let mut claims = serde_json::Map::new();
    claims.insert("act".to_owned(), act);
    claims.insert("jti".to_owned(), json!("token-1"));
    claims.insert("email".to_owned(), json!("alice@example.com"));
    issuer.token(TokenRequest {
        subject: "alice".to_owned(),
        client_id: "weatherbot".to_owned(),
        scope: Some(scope.to_owned()),
        organization_id: Some("org-1".to_owned()),
        claims,
        ..TokenRequest::default()
    })
}

#[tokio::test]
async fn a_record_says_who_asked_through_whom_for_what_and_what_came_of_it() {
    let (issuer, upstream, trail) = (issuer().await, Upstream::friendly().await, trail());
    let gate = gate(&issuer, &upstream).settings(&trail.to("")).start().await;
    let hash = gate.status().await["config_hash"].clone();
    let act = json!({ "sub": "weatherbot", "name": "x", "act": { "sub": "planner", "iss": "https://other.example", "client_id": "p" } });
    let token = agents_token(&issuer, "write:weather openid", act);
    let ask = |method: &str, target: &str| gate.ask(method, target).token(&token).header("X-Request-Id: r-1");

    ask("PUT", "/forecast/oslo?why=secret").body("{}").send().await;
    trail.accesses(1).await;
    ask("GET", "/forecast/oslo").send().await;

    let mut found = trail.accesses(2).await;
    for record in &mut found {
        let time = record.as_object_mut().unwrap().remove("time").unwrap();
        let time = time.as_str().unwrap();
        assert!(time.len() == 27 && time.starts_with("20") && time.ends_with('Z'), "{time}");
    }
    let user = json!({ "sub": "alice", "iss": issuer.url() });
    let act = json!({ "sub": "weatherbot", "act": { "sub": "planner", "iss": "https://other.example", "client_id": "p" } });
    let expected = |method: &str, route: &str, required: &str| {
        json!({
            "audit": "access", "format": 1, "request_id": "r-1", "config_hash": hash, "service": "weather", "route": route,
            "method": method, "path": "/forecast/oslo", "peer": "127.0.0.1", "user": user, "agent": { "client_id": "weatherbot" },
            "act": act, "organization_id": "org-1", "jti": "token-1",
            "scopes": { "required": { "all": [required] }, "granted": ["write:weather", "openid"] },
        })
    };
    let mut written = expected("PUT", "POST,PUT /forecast/{city}", "write:weather");
    (written["decision"], written["status"]) = (json!("permitted"), json!(200));
    let mut refused = expected("GET", "GET /forecast/{city}", "read:weather");
    (refused["decision"], refused["status"], refused["reason"]) = (json!("denied"), json!(403), json!("scope_missing"));
    assert_eq!(found, [written, refused]);
}

/// Every name that a record can have, with dots; lists and the inner actors are one.
fn names(record: &Value, path: &str, found: &mut BTreeSet<String>) {
    match record {
        Value::Object(object) if path != "act.act" => {
            for (name, value) in object {
                names(value, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, found);
            }
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

#[tokio::test]
async fn the_table_of_the_record_names_exactly_what_records_have() {
    let (issuer, upstream, trail) = (issuer().await, Upstream::friendly().await, trail());
    let routes = "\n      PUT /all: write:weather\n      PUT /any: { any: [write:weather, admin:weather] }";
    let before = gate(&issuer, &upstream).routes(routes).settings(&trail.to(""));
    let mut gate = before.clone().start().await;
    let mut act = json!({ "sub": "0", "iss": "https://i", "client_id": "c" });
    for i in 1..12 {
        act = json!({ "sub": i.to_string(), "iss": "https://i", "client_id": "c", "act": act });
    }
    let token = agents_token(&issuer, "read:weather", act);
    for target in ["/all", "/any"] {
        gate.ask("PUT", target).token(&token).body("{}").send().await;
    }
    gate.rewrite(&before.routes("\n      /x: public").yaml()).await;
    trail.accesses(2).await;
    until("the reload is recorded", || async { read(&trail.path).len() == 4 }).await;

    let mut found = BTreeSet::new();
    let records = read(&trail.path);
    records.iter().for_each(|record| names(record, "", &mut found));
    // An actor looks the same at every depth.
    let deepest = records.iter().find_map(|record| {
        let mut actor = record.get("act")?;
        while let Some(inner) = actor.get("act") {
            actor = inner;
        }
        Some(actor.clone())
    });
    names(&deepest.unwrap(), "act", &mut found);
    // Known only where consents are asked for: see `consent`.
    found.insert("agent.name".to_owned());
    // Of kinds of their own: see `registration` and `revocations`.
    found.extend(["change", "redirect_uris", "scope", "by", "id"].map(str::to_owned));

    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let table = docs.split("<!-- audit record: begin -->").nth(1).unwrap().split("<!-- audit record: end -->").next().unwrap();
    let first_cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let documented: BTreeSet<String> = first_cells.flat_map(|cell| cell.split('`').step_by(2)).map(str::to_owned).collect();
    assert_eq!(found, documented);
}

#[tokio::test]
async fn writes_and_refusals_are_recorded_and_reads_are_not() {
    let (issuer, upstream, trail) = (issuer().await, Upstream::friendly().await, trail());
    let routes = "
      /public/**: public
      /forecast/{city}: read:weather
      /try/**: { scopes: admin:weather, mode: report }
      /silent/**: { scopes: read:weather, audit: never }
      /loud/**: { scopes: read:weather, audit: always }";
    let gate = gate(&issuer, &upstream).routes(routes).settings(&trail.to("")).start().await;
    let token = token(&issuer, "read:weather");
    let expired = issuer.token(TokenRequest { expires_in: -3600, scope: Some("read:weather".to_owned()), ..TokenRequest::default() });
    let ask = |method: &str, target: &str| gate.ask(method, target).body("");
    let asks = [
        (ask("GET", "/forecast/a").token(&token), None),
        (ask("HEAD", "/forecast/a").token(&token), None),
        (ask("OPTIONS", "/forecast/a").token(&token), None),
        (ask("GET", "/public/a"), None),
        (ask("GET", "/.well-known/oauth-protected-resource"), None),
        (ask("PUT", "/silent/a").token(&token), None),
        (ask("GET", "/silent/a"), None),
        (ask("POST", "/forecast/a").token(&token), Some(json!(["permitted", 200, null, true]))),
        (ask("DELETE", "/forecast/a").token(&token), Some(json!(["permitted", 200, null, true]))),
        (ask("PURGE", "/forecast/a").token(&token), Some(json!(["permitted", 200, null, true]))),
        (ask("POST", "/public/a"), Some(json!(["public", 200, null, false]))),
        (ask("GET", "/loud/a").token(&token), Some(json!(["permitted", 200, null, true]))),
        (ask("GET", "/try/a").token(&token), Some(json!(["reported", 200, "scope_missing", true]))),
        (ask("GET", "/try/a"), Some(json!(["reported", 200, "token_missing", false]))),
        (ask("GET", "/forecast/a"), Some(json!(["denied", 401, "token_missing", false]))),
        (ask("GET", "/forecast/a").token(&expired), Some(json!(["denied", 401, "expired", false]))),
        (ask("GET", "/forecast/a").token(&format!("{token}x")), Some(json!(["denied", 401, "token_malformed", false]))),
        (ask("GET", "/nowhere").token(&token), Some(json!(["denied", 404, "route_unknown", false]))),
        (ask("GET", "/public/../x"), Some(json!(["denied", 400, "path_ambiguous", false]))),
        (ask("GET", "/public/a").host(Some("a b")), Some(json!(["failed", 400, "host_invalid", false]))),
        (ask("GET", "/public/a").header("Expect: wonders"), Some(json!(["failed", 417, "expectation_unknown", false]))),
    ];
    let mut expected = Vec::new();
    for (ask, record) in asks {
        ask.send().await;
        expected.extend(record);
        trail.accesses(expected.len()).await;
    }
    let shown = |record: &Value| json!([record["decision"], record["status"], record["reason"], record.get("user").is_some()]);
    let found: Vec<Value> = trail.accesses(expected.len()).await.iter().map(shown).collect();
    assert_eq!(found, expected);
    assert_eq!(gate.metric("wicketgate_audit_records_total{kind=\"access\"}").await, Some(expected.len() as f64));
}

#[tokio::test]
async fn a_refusal_by_a_rule_says_who_was_refused() {
    let (issuer, upstream, trail) = (issuer().await, Upstream::friendly().await, trail());
    let routes = "
      GET /scope: admin:weather
      GET /claim/{org}: { scopes: read:weather, claims: { organization_id: '{org}' } }
      GET /client: { scopes: read:weather, clients: [other] }
      GET /either: { any: [a:a, b:b] }";
    let gate = gate(&issuer, &upstream).routes(routes).settings(&trail.to("")).start().await;
    let token = agents_token(&issuer, "read:weather", json!({ "sub": "weatherbot" }));
    let mut count = 0;
    for (target, reason, required) in [
        ("/scope", "scope_missing", json!({ "all": ["admin:weather"] })),
        ("/claim/org-2", "claim_mismatch", json!({ "all": ["read:weather"] })),
        ("/client", "client_refused", json!({ "all": ["read:weather"] })),
        ("/either", "scope_missing", json!({ "any": ["a:a", "b:b"] })),
    ] {
        gate.get(target).token(&token).send().await;
        count += 1;
        let record = trail.accesses(count).await.pop().unwrap();
        assert_eq!(picked(&record, &["reason", "organization_id", "jti"]), json!([reason, "org-1", "token-1"]), "{record}");
        assert_eq!((&record["user"]["sub"], &record["act"]["sub"]), (&json!("alice"), &json!("weatherbot")));
        assert_eq!(record["scopes"], json!({ "required": required, "granted": ["read:weather"] }));
    }
}

#[tokio::test]
async fn what_was_permitted_stays_permitted_whatever_came_of_it() {
    let (issuer, (upstream, mut calls), trail) = (issuer().await, Upstream::manual().await, trail());
    let gate = gate(&issuer, &upstream).settings(&trail.to(", records: writes")).start().await;
    let token = token(&issuer, "read:weather write:weather");
    let put = || gate.ask("PUT", "/forecast/oslo").token(&token).body("{}");

    // A tunnel is recorded when it opens: it may stay open for days.
    let mut client = Connection::open(gate.address()).await;
    let upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
    let ask = upgrade.iter().fold(gate.get("/ws").token(&token), |ask, line| ask.header(line));
    client.write(&ask.bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 101);
    trail.accesses(1).await;

    // So is a stream: when it begins.
    let mut client = Connection::open(gate.address()).await;
    client.write(&put().bytes("")).await;
    let mut streaming = calls.next().await;
    streaming.read_until("\r\n\r\n").await;
    streaming.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin").await;
    client.read_until("begin").await;
    trail.accesses(2).await;

    // Its client leaves before the answer.
    let mut client = Connection::open(gate.address()).await;
    client.write(&put().bytes("")).await;
    let mut left = calls.next().await;
    left.read_until("\r\n\r\n").await;
    drop(client);
    trail.accesses(3).await;

    // The upstream breaks off.
    let mut client = Connection::open(gate.address()).await;
    client.write(&put().bytes("")).await;
    let mut broken = calls.next().await;
    broken.read_until("\r\n\r\n").await;
    drop(broken);
    assert_eq!(client.answer("PUT").await.status, 502);

    let found = trail.accesses(4).await;
    let found: Vec<Value> = found.iter().map(|record| picked(record, &["decision", "status", "reason"])).collect();
    let expected = [
        json!(["permitted", 101, null]),
        json!(["permitted", 200, null]),
        json!(["permitted", 499, "client_gone"]),
        json!(["permitted", 502, "upstream_broken"]),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn nothing_secret_is_recorded() {
    let (issuer, upstream, trail) = (issuer().await, Upstream::friendly().await, trail());
    let gate = gate(&issuer, &upstream).settings(&trail.to(", records: all")).start().await;
    let good = agents_token(&issuer, "read:weather", json!({ "sub": "a", "secret": "hidden-claim" }));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let asks = [
        gate.get("/forecast/oslo?query=hidden").token(&good),
        gate.get(&format!("/forecast/oslo?access_token={good}")),
        gate.get(&format!("/forecast/{good}")),
        gate.get(&format!("/nowhere/{good}")),
        gate.get("/forecast/oslo").token(&format!("{head}.{}", signature.chars().rev().collect::<String>())),
        gate.get("/forecast/oslo").header(&format!("Authorization: Basic {signature}")),
        gate.get("/forecast/oslo").token(&good).token(&good),
        gate.get("/forecast/oslo").header(&format!("Cookie: session={signature}")).header(&format!("X-Request-Id: {good}")),
    ];
    let count = asks.len();
    for ask in asks {
        ask.send().await;
    }
    trail.accesses(count).await;
    let text = std::fs::read_to_string(&trail.path).unwrap();
    for hidden in [good.split('.').nth(1).unwrap(), signature, "hidden", "access_token", "alice@example.com"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
}

#[tokio::test]
async fn a_full_file_is_rotated_and_no_record_is_lost_by_it() {
    let (issuer, upstream, trail) = (issuer().await, Upstream::friendly().await, trail());
    let to = format!("audit: {{ to: {{ file: '{}', rotate: 64KiB, keep: 2 }} }}", trail.path.display());
    let gate = gate(&issuer, &upstream).settings(&to).start().await;
    let mut connection = Connection::open(gate.address()).await;
    let long = format!("/nowhere/{}", "x".repeat(900));
    for i in 0..130 {
        connection.write(&gate.get(&long).header(&format!("X-Request-Id: {i}")).bytes("")).await;
        connection.answer("GET").await;
    }
    let all = || {
        let files = [trail.numbered(2), trail.numbered(1), trail.path.clone()];
        files.iter().flat_map(|path| accesses(path)).map(|record| record["request_id"].clone()).collect::<Vec<_>>()
    };
    until("all is written", || async { all().len() == 130 }).await;
    assert_eq!(all(), (0..130).map(|i| json!(i.to_string())).collect::<Vec<_>>());
    for path in [&trail.path, &trail.numbered(1), &trail.numbered(2)] {
        let found = std::fs::metadata(path).unwrap();
        assert!(found.len() <= 64 << 10, "{path:?} {found:?}");
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o777, 0o600);
    }
    assert!(!trail.numbered(3).exists());
}

#[tokio::test]
async fn sighup_leaves_a_renamed_file_behind_even_when_the_configuration_is_refused() {
    let (issuer, upstream, trail) = (issuer().await, Upstream::friendly().await, trail());
    let mut gate = gate(&issuer, &upstream).settings(&trail.to("")).start().await;
    gate.get("/one").send().await;
    trail.accesses(1).await;

    std::fs::rename(&trail.path, trail.numbered(1)).unwrap();
    gate.app.reload("SIGHUP").await;
    gate.get("/two").send().await;
    assert_eq!(trail.accesses(1).await[0]["path"], "/two");

    std::fs::rename(&trail.path, trail.numbered(2)).unwrap();
    std::fs::write(&gate.path, "nonsense: true\n").unwrap();
    gate.app.reload("SIGHUP").await;
    gate.get("/three").send().await;
    assert_eq!(trail.accesses(1).await[0]["path"], "/three");
    let reload = read(&trail.path).into_iter().find(|record| record["audit"] == "reload").unwrap();
    assert_eq!(picked(&reload, &["cause", "decision", "changes"]), json!(["SIGHUP", "refused", null]));
    assert_eq!(accesses(&trail.numbered(1)).len() + accesses(&trail.numbered(2)).len(), 2);
}

#[tokio::test]
async fn requests_go_on_while_the_disk_is_full_and_their_records_wait_for_another_place() {
    let (issuer, upstream, trail) = (issuer().await, Upstream::friendly().await, trail());
    let full = gate(&issuer, &upstream).settings("audit: { to: { file: /dev/full } }");
    let mut gate = full.clone().start().await;
    for _ in 0..20 {
        assert_eq!(gate.get("/nowhere").send().await.status, 404);
    }
    assert_eq!(gate.metric("wicketgate_audit_records_total{kind=\"access\"}").await.unwrap_or_default(), 0.0);

    gate.rewrite(&full.yaml().replace("/dev/full", trail.path.to_str().unwrap())).await;

    trail.accesses(20).await;
    assert_eq!(lost(&gate).await, 0.0);
    assert_eq!(gate.metric("wicketgate_audit_records_total{kind=\"access\"}").await, Some(20.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_place_and_rules_under_load_loses_no_record() {
    let (issuer, upstream, directory) = (issuer().await, Upstream::friendly().await, tempfile::tempdir().unwrap());
    let path = |i: usize| directory.path().join(format!("audit-{i}.jsonl"));
    let builder = gate(&issuer, &upstream).settings("audit: { to: { file: FILE }, records: RECORDS }");
    let with = |i: usize| {
        let records = if i.is_multiple_of(2) { "refusals" } else { "all" };
        builder.yaml().replace("FILE", path(i).to_str().unwrap()).replace("RECORDS", records)
    };
    let mut gate = gate(&issuer, &upstream).settings(&format!("audit: {{ to: {{ file: '{}' }} }}", path(0).display())).start().await;
    let (address, ask) = (gate.address(), gate.get("/nowhere").bytes(""));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (ask, stop) = (ask.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut connection, mut count) = (Connection::open(address).await, 0);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    connection.write(&ask).await;
                    assert_eq!(connection.answer("GET").await.status, 404);
                    count += 1;
                }
                count
            })
        })
        .collect();
    for i in 1..6 {
        gate.rewrite(&with(i)).await;
        let before = accesses(&path(i)).len();
        until("records come to the new place", || async { accesses(&path(i)).len() > before }).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut count = 0;
    for client in clients {
        count += client.await.unwrap();
    }
    let all = || (0..6).map(|i| accesses(&path(i)).len()).sum::<usize>();
    until("all is written", || async { all() >= count }).await;
    assert_eq!((all(), lost(&gate).await), (count, 0.0));
    let reloads: usize = (0..6).map(|i| read(&path(i)).iter().filter(|record| record["audit"] == "reload").count()).sum();
    assert_eq!(reloads, 6);
}

#[tokio::test]
async fn a_place_that_cannot_be_opened_is_refused_and_the_last_record_says_that_the_trail_ends() {
    let (issuer, upstream, trail) = (issuer().await, Upstream::friendly().await, trail());
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().settings(&trail.to("")).start().await;

    gate.rewrite(&builder.clone().settings("audit: { to: { file: /nowhere/at/all } }").yaml()).await;
    let status = gate.status().await;
    assert_eq!(status["last_reload"]["successful"], false);
    assert!(status["last_reload"]["faults"].as_str().unwrap().starts_with("audit: /nowhere/at/all: No such file"), "{status}");
    gate.get("/nowhere").send().await;
    trail.accesses(1).await;

    gate.rewrite(&builder.yaml()).await;
    gate.get("/nowhere").send().await;
    until("the end is recorded", || async { read(&trail.path).len() == 4 }).await;
    let last = read(&trail.path).pop().unwrap();
    assert_eq!(picked(&last, &["audit", "decision", "changes"]), json!(["reload", "taken", "audit changed"]));
    trail.accesses(1).await;

    // After that nothing comes there, not even the next reloads.
    let after = self::trail();
    gate.rewrite(&builder.clone().routes("\n      /x: public").yaml()).await;
    gate.rewrite(&builder.settings(&after.to("")).yaml()).await;
    until("the new trail begins", || async { read(&after.path).len() == 1 }).await;
    assert_eq!(read(&trail.path).len(), 4);
}

/// Header and record of a syslog message.
fn parsed(message: &str) -> (Vec<String>, Value) {
    let parts: Vec<&str> = message.splitn(8, ' ').collect();
    assert_eq!(parts.len(), 8, "{message}");
    (parts[..7].iter().map(|part| (*part).to_owned()).collect(), serde_json::from_str(parts[7]).unwrap())
}

#[tokio::test]
async fn syslog_gets_messages_of_rfc_5424_by_a_unix_socket_and_by_udp() {
    let (issuer, upstream, directory) = (issuer().await, Upstream::friendly().await, tempfile::tempdir().unwrap());
    let path = directory.path().join("log");
    let unix = UnixDatagram::bind(&path).unwrap();
    unix.set_read_timeout(Some(PATIENCE)).unwrap();
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().settings(&format!("audit: {{ to: {{ syslog: 'unix:{}' }} }}", path.display())).start().await;
    gate.get("/nowhere").header("X-Request-Id: by-unix").send().await;
    let mut buffer = vec![0; 65_536];
    let mut next = || {
        let count = unix.recv(&mut buffer).unwrap();
        parsed(std::str::from_utf8(&buffer[..count]).unwrap())
    };
    let (start, (header, record)) = (next(), next());
    assert_eq!((start.0[0].as_str(), start.0[5].as_str()), ("<86>1", "reload"));
    assert_eq!((header[0].as_str(), header[3].as_str(), header[5].as_str(), header[6].as_str()), ("<85>1", "wicketgate", "access", "-"));
    assert_eq!((&json!(header[1]), &json!(header[4])), (&record["time"], &json!(std::process::id().to_string())));
    assert_eq!(picked(&record, &["audit", "request_id", "reason"]), json!(["access", "by-unix", "route_unknown"]));

    let udp = UdpSocket::bind(loopback()).await.unwrap();
    let server = udp.local_addr().unwrap();
    gate.rewrite(&builder.settings(&format!("audit: {{ to: {{ syslog: 'udp://{server}', facility: local5 }} }}")).yaml()).await;
    let mut buffer = vec![0; 65_536];
    let count = soon("a datagram", udp.recv(&mut buffer)).await.unwrap();
    let (header, record) = parsed(std::str::from_utf8(&buffer[..count]).unwrap());
    assert_eq!((header[0].as_str(), &record["changes"]), ("<174>1", &json!("audit changed")));
}

async fn counted(reader: &mut BufReader<tokio::net::TcpStream>) -> Value {
    let mut count = Vec::new();
    soon("a message", reader.read_until(b' ', &mut count)).await.unwrap();
    let count: usize = std::str::from_utf8(&count).unwrap().trim().parse().unwrap();
    let mut message = vec![0; count];
    soon("its octets", reader.read_exact(&mut message)).await.unwrap();
    parsed(std::str::from_utf8(&message).unwrap()).1
}

#[tokio::test]
async fn a_syslog_server_that_comes_back_gets_what_waited_for_it() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let place = reserve();
    let server = format!("audit: {{ to: {{ syslog: 'tcp://{}' }} }}", place.address);
    // Nobody listens yet; that is no reason not to start.
    let gate = gate(&issuer, &upstream).settings(&server).start().await;
    gate.get("/one").send().await;

    let listen = || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(place.address).unwrap();
        socket.listen(8).unwrap()
    };
    let listener: TcpListener = listen();
    let mut reader = BufReader::new(soon("a connection", listener.accept()).await.unwrap().0);
    assert_eq!(counted(&mut reader).await["cause"], "start");
    assert_eq!(counted(&mut reader).await["path"], "/one");

    // The reader goes away while nothing is said: what is said next is not written into the void.
    drop((reader, listener));
    gate.get("/two").send().await;
    gate.get("/three").send().await;
    let listener = listen();
    let mut reader = BufReader::new(soon("a connection", listener.accept()).await.unwrap().0);
    assert_eq!(counted(&mut reader).await["path"], "/two");
    assert_eq!(counted(&mut reader).await["path"], "/three");
    assert_eq!(lost(&gate).await, 0.0);
}
