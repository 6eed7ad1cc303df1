//! What the process writes: one line a request, never a token; and how much memory it takes.

use serde_json::{Value, json};
use wicketgate::demo::issuer::Fault;

use super::child::Process;
use super::support::*;

fn access(process: &Process) -> Vec<Value> {
    process.log().into_iter().filter(|line| line["target"] == "access").collect()
}

async fn lines(process: &Process, count: usize) -> Vec<Value> {
    until("the lines are written", || async { access(process).len() >= count }).await;
    let lines = access(process);
    assert_eq!(lines.len(), count);
    lines
}

#[tokio::test]
async fn every_request_has_one_line_that_says_who_where_and_why() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let process = Process::run(&gate(&issuer, &upstream).yaml()).await.ready().await;
    let token = token(&issuer, "read:weather");

    process.get("/forecast/oslo?secret=1").token(&token).header("X-Request-Id: from-the-client").send().await;
    let mut all = lines(&process, 1).await;
    process.get("/forecast/oslo").send().await;
    lines(&process, 2).await;
    Ask::new(process.address, "PUT", "/forecast/oslo").token(&token).body("{}").send().await;
    lines(&process, 3).await;
    process.get("/public/page").send().await;
    lines(&process, 4).await;
    process.get("/nowhere").header("X-Request-Id: two words").send().await;
    all.extend(lines(&process, 5).await.into_iter().skip(1));

    let pick = |line: &Value, names: &[&str]| names.iter().map(|name| line[name].clone()).collect::<Value>();
    let names = ["method", "path", "service", "route", "status", "decision", "reason", "subject", "client_id", "detail"];
    let (weather, city) = ("weather", "GET /forecast/{city}");
    let expected = [
        json!(["GET", "/forecast/oslo", weather, city, 200, "permitted", null, "alice", "weatherbot", null]),
        json!(["GET", "/forecast/oslo", weather, city, 401, "denied", "token_missing", null, null, null]),
        json!([
            "PUT",
            "/forecast/oslo",
            weather,
            "POST,PUT /forecast/{city}",
            403,
            "denied",
            "scope_missing",
            "alice",
            "weatherbot",
            "missing=write:weather"
        ]),
        json!(["GET", "/public/page", weather, "/public/**", 200, "public", null, null, null, null]),
        json!(["GET", "/nowhere", weather, "-", 404, "denied", "route_unknown", null, null, null]),
    ];
    for (line, expected) in all.iter().zip(expected) {
        assert_eq!(pick(line, &names), expected, "{line}");
        assert_eq!((&line["peer"], &line["version"]), (&json!("127.0.0.1"), &json!("HTTP/1.1")));
        assert!(line["duration_ms"].is_f64() && line["timestamp"].is_string() && line["level"] == "INFO", "{line}");
        let sent = line["decision"] == "permitted" || line["decision"] == "public";
        assert_eq!(line["upstream_ms"].is_f64(), sent, "{line}");
        assert_eq!(line["response_bytes"] == 2, sent, "{line}");
    }
    assert_eq!(all[0]["request_id"], "from-the-client");
    let mut made: Vec<&str> = all[1..].iter().map(|line| line["request_id"].as_str().unwrap()).collect();
    made.sort_unstable();
    made.dedup();
    // A UUID each, also for the one that had no sane one of its client's.
    assert!(made.len() == 4 && made.iter().all(|id| id.len() == 36), "{made:?}");
}

#[tokio::test]
async fn neither_a_token_nor_a_query_is_written_anywhere() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let process = Process::run(&gate(&issuer, &upstream).settings("log: { level: debug }").yaml()).await.ready().await;
    let good = token(&issuer, "read:weather");
    let short = issuer.sign(json!({ "alg": "ES384" }), json!({ "iss": "short" }));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let asks = [
        process.get("/forecast/oslo?query=hidden").token(&good),
        process.get(&format!("/forecast/oslo?access_token={good}")),
        process.get(&format!("/forecast/{good}")),
        process.get(&format!("/nowhere/{good}")),
        process.get("/forecast/oslo").token(&short),
        process.get("/forecast/oslo").token(&format!("{head}.{}", signature.chars().rev().collect::<String>())),
        process.get("/forecast/oslo").header(&format!("Authorization: Basic {signature}")),
        process.get("/forecast/oslo").token(&good).token(&good),
        process.get("/forecast/oslo").header(&format!("Authorization: {good}")),
        process.get("/forecast/oslo").header(&format!("Cookie: session={signature}")).header(&format!("X-Request-Id: {good}")),
    ];
    let count = asks.len();
    let mut answers = String::new();
    for ask in asks {
        answers.push_str(&format!("{:?}", ask.send().await));
    }
    lines(&process, count).await;

    let payload = good.split('.').nth(1).unwrap();
    let output = process.output() + &process.admin("/metrics").await.text() + &process.admin("/status").await.text() + &answers;
    for hidden in [payload, signature, short.rsplit('.').next().unwrap(), "query=hidden", "access_token="] {
        assert!(!output.contains(hidden), "{hidden} in {output}");
    }
}

#[tokio::test]
async fn level_and_access_log_change_by_a_reload() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let with = |log: &str| gate(&issuer, &upstream).settings(&format!("log: {log}")).yaml();
    let process = Process::run(&with("{ level: info }")).await;
    let reload = async |log: &str, reloads: u64| {
        process.write(&with(log));
        process.signal("HUP");
        until("the reload is done", || async { process.admin("/status").await.json()["reloads"] == reloads }).await;
    };
    process.get("/public/page").send().await;
    lines(&process, 1).await;

    reload("{ level: error }", 1).await;
    // The access log is none of the level's business.
    process.get("/public/page").send().await;
    lines(&process, 2).await;

    reload("{ level: debug, access: false }", 2).await;
    let mut nonsense = Connection::open(process.address).await;
    nonsense.write(b"no HTTP at all\r\n\r\n").await;
    until("a line of that level", || async { process.log().iter().any(|line| line["level"] == "DEBUG") }).await;
    process.get("/public/page").send().await;

    reload("{ level: info }", 3).await;
    process.get("/public/page").send().await;
    lines(&process, 3).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_never_stops_sending_costs_no_memory() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let most = |process: &Process| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
        line.split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
    };
    let keys = "keys: { refresh: 1s, cooldown: 100ms }";
    let places = [keys.to_owned(), format!("{keys}\nissuer: {{ url: '{0}', jwks_uri: '{0}/jwks' }}", issuer.url())];
    for settings in places {
        issuer.misbehave(None);
        let process = Process::run(&gate(&issuer, &upstream).settings(&settings).yaml()).await.ready().await;
        let before = most(&process);

        issuer.misbehave(Some(Fault::Endless));
        let failures = || async { process.admin("/status").await.json()["key_sets"][0]["fetch_failures"].as_u64() };
        until("three fetches have failed", || async { failures().await >= Some(3) }).await;

        let grown = most(&process) - before;
        assert!(grown < 64, "{grown} MiB more");
    }
}

#[tokio::test]
async fn refused_credentials_are_an_error_in_the_log_and_neither_they_nor_the_token_are_shown() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let endpoint = Upstream::answering(b"HTTP/1.1 401 X\r\nContent-Length: 26\r\n\r\n{\"error\":\"invalid_client\"}").await;
    let settings = format!("    introspection: {{ client_id: gate, client_secret: hunter2, endpoint: '{}' }}", endpoint.url());
    let process =
        Process::run(&gate(&issuer, &upstream).in_service(&settings).settings("log: { level: debug }").yaml()).await.ready().await;

    for _ in 0..3 {
        assert_eq!(process.get("/me").token("BtznzKXCn4ufy4stb7G").send().await.status, 503);
    }

    let lines = lines(&process, 3).await;
    assert_eq!((&lines[0]["reason"], &lines[0]["decision"]), (&json!("introspection_unavailable"), &json!("denied")));
    assert_eq!(lines[0]["detail"], "the gate's own credentials were refused");
    let own: Vec<Value> = process.log().into_iter().filter(|line| line["target"] == "wicketgate::introspection").collect();
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!((&own[0]["level"], &own[0]["client_id"]), (&json!("ERROR"), &json!("gate")));
    assert_eq!(own[0]["detail"], "status 401 invalid_client");
    let all = process.log().iter().map(Value::to_string).collect::<String>();
    for hidden in ["hunter2", "BtznzKXCn4ufy4stb7G", "Z2F0ZTpodW50ZXIy"] {
        assert!(!all.contains(hidden), "{hidden}");
    }
}

fn audits(process: &Process) -> Vec<Value> {
    process.log().into_iter().filter(|line| line.get("audit").is_some()).collect()
}

#[tokio::test]
async fn the_audit_trail_on_standard_output_is_told_from_the_log() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let process = Process::run(&gate(&issuer, &upstream).settings("audit: { to: stdout }").yaml()).await.ready().await;
    for i in 0..50 {
        process.get("/nowhere").header(&format!("X-Request-Id: {i}")).send().await;
    }
    // Each line is whole, of the one kind or the other: `log` reads them as JSON.
    until("both are written", || async { audits(&process).len() == 51 && access(&process).len() == 50 }).await;
    let ids = |lines: Vec<Value>| lines.iter().map(|line| line["request_id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(audits(&process))[1..], ids(access(&process)));
    assert!(process.log().iter().all(|line| line.get("audit").is_some() != line.get("level").is_some()));
}

#[tokio::test]
async fn what_is_queued_at_the_end_is_written_before_the_process_ends() {
    let (issuer, (upstream, _permits)) = (issuer().await, Upstream::held().await);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let settings = format!("audit: {{ to: {{ file: '{}' }} }}\nshutdown: {{ delay: 1ms, deadline: 300ms }}", path.display());
    let mut process = Process::run(&gate(&issuer, &upstream).settings(&settings).yaml()).await.ready().await;
    for _ in 0..200 {
        process.get("/nowhere").send().await;
    }
    // One that waits until the deadline.
    let mut hanging = Connection::open(process.address).await;
    hanging.write(&Ask::new(process.address, "POST", "/public/page").body("").bytes("")).await;
    until("the request is upstream", || async { upstream.received().len() == 1 }).await;

    process.signal("TERM");

    assert_eq!(process.ended().await, Some(0));
    let text = std::fs::read_to_string(&path).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 202);
    let last = records.last().unwrap();
    assert_eq!((&last["decision"], &last["status"], &last["reason"]), (&json!("public"), &json!(503), &json!("going_down")));
}

#[tokio::test]
async fn what_waits_for_a_syslog_server_gets_a_last_chance_at_the_end() {
    let (issuer, upstream, place) = (issuer().await, Upstream::friendly().await, reserve());
    let settings = format!("audit: {{ to: {{ syslog: 'tcp://{}' }} }}", place.address);
    let mut process = Process::run(&gate(&issuer, &upstream).settings(&settings).yaml()).await.ready().await;
    for _ in 0..20 {
        process.get("/nowhere").send().await;
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(place.address).unwrap();
    let listener = socket.listen(1).unwrap();

    process.signal("TERM");

    assert_eq!(process.ended().await, Some(0));
    let mut text = String::new();
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    soon("its end", tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text)).await.unwrap();
    assert_eq!(text.matches("\"audit\":\"access\"").count(), 20, "{text}");
}

#[tokio::test]
async fn a_disk_that_fails_is_said_once_and_so_is_its_recovery() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let settings = format!("audit: {{ to: {{ file: '{}' }} }}\nlog: {{ access: false }}", path.display());
    let process = Process::run(&gate(&issuer, &upstream).settings(&settings).yaml()).await.ready().await;
    let said = || process.log().into_iter().filter(|line| line["target"] == "wicketgate::audit").collect::<Vec<_>>();
    for _ in 0..20 {
        process.get("/nowhere").send().await;
    }
    until("it is said", || async { !said().is_empty() }).await;

    std::fs::remove_file(&path).unwrap();
    process.signal("HUP");
    let written = || std::fs::read_to_string(&path).unwrap_or_default().lines().count();
    // The start, twenty requests, the reload.
    until("what waited is written", || async { written() == 22 && said().len() > 1 }).await;

    let said: Vec<String> = said().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(said, ["audit records cannot be written; they wait and are tried again", "audit records can be written again"]);
}

#[tokio::test]
async fn a_place_that_cannot_be_opened_keeps_the_gate_from_starting() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wicketgate.yaml");
    std::fs::write(&path, gate(&issuer, &upstream).settings("audit: { to: { file: /nowhere/at/all } }").yaml()).unwrap();
    let ended = super::child::command(&["run", "--config", path.to_str().unwrap()], "").await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains("audit: /nowhere/at/all: No such file"), "{ended:?}");
}

#[tokio::test]
async fn a_line_says_which_endpoint_answered_and_how_often_it_was_tried() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gone = reserve();
    let endpoints = format!("{{ endpoints: [http://{}, {}], ejection: {{ max_ejected: 0 }} }}", gone.address, upstream.url());
    let process = Process::run(&gate(&issuer, &upstream).upstream(&endpoints).yaml()).await.ready().await;

    for _ in 0..2 {
        process.get("/public/page").send().await;
    }

    let lines = lines(&process, 2).await;
    let there = json!(upstream.address().to_string());
    assert_eq!((&lines[0]["endpoint"], &lines[0]["tries"], &lines[0]["status"]), (&there, &json!(2), &json!(200)));
    assert_eq!((&lines[1]["endpoint"], &lines[1]["tries"]), (&there, &Value::Null));
}
