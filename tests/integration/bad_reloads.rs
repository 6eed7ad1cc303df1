//! A document that cannot be taken changes nothing, and says so.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use wicketgate::demo::Issuer;

use super::support::*;

const SUCCESSFUL: &str = "wicketgate_config_last_reload_successful";

/// The old policy in force: the scope that opens a route is that of the last good document.
async fn assert_in_force(gate: &Gate, issuer: &Issuer, scope: &str, what: &str) {
    for other in ["read:weather", "write:weather"] {
        let expected = if other == scope { 200 } else { 403 };
        assert_eq!(gate.get("/forecast/oslo").token(&token(issuer, other)).send().await.status, expected, "{what} {other}");
    }
    assert_eq!(gate.get("/public/page").send().await.status, 200, "{what}");
}

/// What is at the place is taken away, and something else put there.
fn replace(path: &Path, put: impl FnOnce(&Path)) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir(path);
    put(path);
}

#[tokio::test]
async fn a_bad_document_changes_nothing_and_says_so() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let builder = gate(&issuer, &upstream);
    let with = |scope: &str| builder.clone().routes(&format!("\n      /public/**: public\n      GET /forecast/{{city}}: {scope}"));
    let start = with("read:weather");
    let good = start.yaml();
    let bomb: String = (1..20).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "))).collect();
    let bomb = format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{bomb}{good}");
    let opened = good.replace("read:weather", "public");
    type Put<'a> = Box<dyn Fn(&Path) + 'a>;
    let write = |bytes: Vec<u8>| -> Put<'_> { Box::new(move |path| fs::write(path, &bytes).unwrap()) };
    let cases: Vec<(&str, Put<'_>, &str)> = vec![
        ("deleted", Box::new(|_| {}), "no such file"),
        ("a directory", Box::new(|path| fs::create_dir(path).unwrap()), "not a file"),
        ("a pipe", Box::new(|path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())), "not a file"),
        ("a link to nowhere", Box::new(|path| std::os::unix::fs::symlink("nowhere.yaml", path).unwrap()), "no such file"),
        ("100 MiB", Box::new(|path| fs::File::create(path).unwrap().set_len(100 << 20).unwrap()), "larger than"),
        ("empty", write(Vec::new()), "empty"),
        ("half-written", write(good.as_bytes()[..good.len() / 2].to_vec()), ""),
        ("not UTF-8", write([opened.as_bytes(), b"\n# \xff\n"].concat()), "not UTF-8"),
        ("an alias bomb", write(bomb.into_bytes()), "aliases"),
        ("an unknown key", write(format!("{opened}reload_often: true\n").into_bytes()), "reload_often"),
        ("a duplicate key", write(format!("{opened}issuer: {}\n", issuer.url()).into_bytes()), "twice"),
        ("a missing variable", write(opened.replace("weather\n", "${WICKETGATE_TEST_UNSET}\n").into_bytes()), "WICKETGATE_TEST_UNSET"),
        ("two documents", write(format!("{good}---\n{opened}").into_bytes()), ""),
    ];
    let mut gate = start.start().await;
    let mut in_force = "read:weather";
    for (i, (what, put, says)) in cases.iter().enumerate() {
        replace(&gate.path, put);
        gate.app.reload_if_changed().await;

        assert_eq!(gate.metric(SUCCESSFUL).await, Some(0.0), "{what}");
        let last = gate.status().await["last_reload"].clone();
        assert_eq!(last["successful"], false, "{what}");
        assert!(last["faults"].as_str().unwrap().contains(says), "{what}: {last}");
        assert_in_force(&gate, &issuer, in_force, what).await;
        // What did not change is not read again and again.
        let reloads = gate.status().await["reloads"].clone();
        gate.app.reload_if_changed().await;
        assert_eq!(gate.status().await["reloads"], reloads, "{what}");
        assert_eq!(gate.admin("/readyz").await.status, 200, "{what}");

        in_force = if i % 2 == 0 { "write:weather" } else { "read:weather" };
        replace(&gate.path, |path| fs::write(path, with(in_force).yaml()).unwrap());
        gate.app.reload_if_changed().await;

        assert_eq!(gate.metric(SUCCESSFUL).await, Some(1.0), "{what}");
        assert_eq!(gate.status().await["last_reload"]["changes"], "routes changed: weather GET /forecast/{city}", "{what}");
        assert_in_force(&gate, &issuer, in_force, what).await;
    }
    let refused = gate.metric("wicketgate_config_reloads_total{result=\"refused\"}").await;
    assert_eq!(refused, Some(cases.len() as f64));
}

#[tokio::test]
async fn all_faults_of_a_document_are_named_at_once_with_their_places() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let mut gate = gate(&issuer, &upstream).start().await;
    let yaml = "\
listen: 127.0.0.1:0
admin: 127.0.0.1:0
issuer: http://issuer.example
timeouts: { header: 5 }
services:
  - name: weather
    resource: https://api.weather.example
    upstream: 127.0.0.1:3000
    rotues: {}
    routes:
      /public/**: public
      /a/{x}: read:weather
      /a/{y}: write:weather
";
    gate.rewrite(yaml).await;

    let faults = gate.status().await["last_reload"]["faults"].as_str().unwrap().to_owned();
    let name = gate.path.display();
    let lines: Vec<&str> = faults.lines().collect();
    let expected = [
        "3:9: issuer[0]",
        "4:21: timeouts.header: '5'",
        "8:15: services[0].upstream",
        "9:5: services[0].rotues",
        "13:7: services[0].routes[/a/{y}]",
    ];
    assert_eq!(lines.len(), expected.len(), "{faults}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("{name}:{expected}")), "{expected} in {line}");
        // Place, reason, cure.
        assert!(line.contains("; "), "{line}");
    }
}

/// A document that is right and names a file that is not there yet, as when a Secret follows its ConfigMap.
#[tokio::test]
async fn a_refused_document_is_taken_once_the_file_that_it_lacked_is_there() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;
    let set = Ask::new(issuer.address(), "GET", "/oidc/jwks").send().await.text();
    let after = before.settings(&format!("issuer: {{ url: '{}', jwks_file: later.json }}", issuer.url()));

    gate.rewrite(&after.yaml()).await;
    assert_eq!(gate.status().await["last_reload"]["successful"], false);
    for (text, taken) in [("{", false), (set.as_str(), true)] {
        fs::write(gate.path.with_file_name("later.json"), text).unwrap();
        gate.app.reload_if_changed().await;
        assert_eq!(gate.status().await["last_reload"]["successful"], json!(taken), "{text}");
    }

    assert_eq!(gate.status().await["reloads"], 3);
    assert_eq!(gate.get("/me").token(&token(&issuer, "")).send().await.status, 200);
}

/// The first half of a document can be a document.
#[tokio::test]
async fn a_document_that_is_still_being_written_is_not_taken() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;
    let whole = before.routes("\n      /public/**: public\n      GET /public/secret: write:weather").yaml();
    let (half, _) = whole.split_once("      GET /public/secret").unwrap();
    let (path, address) = (gate.path.clone(), gate.address());

    fs::write(&path, half).unwrap();
    let finish = async { fs::write(&path, &whole).unwrap() };
    tokio::join!(gate.app.reload_if_changed(), finish);
    assert_eq!(gate.status().await["reloads"], 0);

    gate.app.reload_if_changed().await;
    assert_eq!(gate.status().await["reloads"], 1);
    assert_eq!(Ask::new(address, "GET", "/public/secret").send().await.status, 401);
}
