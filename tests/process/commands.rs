//! What each command prints, and the exit code by which a script can tell what happened.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::child::{Ended, Process, command};
use super::support::*;

/// A configuration on the disk.
struct Config {
    path: PathBuf,
    _directory: TempDir,
}

fn config(yaml: &str) -> Config {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wicketgate.yaml");
    std::fs::write(&path, yaml).unwrap();
    Config { path, _directory: directory }
}

async fn with_config(path: &Path, arguments: &[&str], stdin: &str) -> Ended {
    let path = path.to_str().unwrap();
    command(&[arguments, &["--config", path]].concat(), stdin).await
}

const FAULTY: &str = "\
issuer: ftp://issuer.example
services:
  - name: weather
    resource: https://api.weather.example
    upstream: nowhere
    routes:
      GET /a: []
      GET /b: authenticated
      GET /{x: authenticated
extra: 1
";

#[tokio::test]
async fn a_faulty_configuration_is_named_whole_and_nothing_is_started() {
    let file = config(FAULTY);
    for name in ["run", "check"] {
        let ended = with_config(&file.path, &[name], "").await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(64), ""), "{name}");
        let lines: Vec<&str> = ended.stderr.lines().collect();
        let places = ["1:9: ", "5:15: ", "7:15: ", "9:7: ", "10:1: "];
        assert_eq!(lines.len(), places.len(), "{}", ended.stderr);
        for (line, place) in lines.iter().zip(places) {
            assert!(line.starts_with(&format!("{}:{place}", file.path.display())), "{line}");
        }
    }
    let ended = with_config(Path::new("/nowhere/wicketgate.yaml"), &["run"], "").await;
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("/nowhere/wicketgate.yaml:1:1: there is no such file"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_wrong_command_line_is_told_from_everything_else() {
    let wrong: [&[&str]; 5] = [&[], &["serve"], &["run", "--verbose"], &["explain", "GET"], &["completions", "basic"]];
    for arguments in wrong {
        let ended = command(arguments, "").await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(ended.stderr.contains("Usage:") || ended.stderr.contains("--help"), "{}", ended.stderr);
    }
    for arguments in [["--help"], ["--version"]] {
        assert_eq!(command(&arguments, "").await.code, Some(0));
    }
    let version = format!("wicketgate {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(command(&["--version"], "").await.stdout, version);
}

#[tokio::test]
async fn a_port_that_is_taken_is_no_fault_of_the_configuration() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let other = std::net::TcpListener::bind(loopback()).unwrap();
    let taken = other.local_addr().unwrap();
    for setting in [format!("listen: {taken}"), format!("admin: {taken}")] {
        let ended = with_config(&config(&gate(&issuer, &upstream).settings(&setting).yaml()).path, &["run"], "").await;
        assert_eq!(ended.code, Some(69), "{setting}");
        assert!(ended.stderr.contains(&taken.to_string()), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn check_shows_the_routes_that_would_be_served() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let ended = with_config(&config(&gate(&issuer, &upstream).yaml()).path, &["check"], "").await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    for part in [issuer.url(), "GET /forecast/{city}", "read:weather", "/public/** opens everything", "wicketgate.yaml: good"] {
        assert!(ended.stdout.contains(part), "{part} in {}", ended.stdout);
    }
    // Nobody was asked.
    assert_eq!(issuer.counts().discovery, 0);
}

#[tokio::test]
async fn schema_and_completions_are_printed() {
    let schema: serde_json::Value = serde_json::from_str(&command(&["schema"], "").await.stdout).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["properties"]["services"].is_object());
    let bash = command(&["completions", "bash"], "").await;
    assert_eq!(bash.code, Some(0));
    assert!(bash.stdout.contains("complete -F _wicketgate"), "{}", bash.stdout);
}

#[tokio::test]
async fn explain_says_what_the_gate_would_do_and_why() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let file = config(&gate(&issuer, &upstream).yaml());
    let token = token(&issuer, "read:weather");
    let explain = async |arguments: &[&str], stdin: &str| {
        let ended = with_config(&file.path, &[&["explain"], arguments].concat(), stdin).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(!ended.stdout.contains(&token));
        ended.stdout
    };

    let missing = explain(&["GET", "/forecast/oslo"], "").await;
    for part in ["route      GET /forecast/{city}", "refused: 401 token_missing", "WWW-Authenticate: Bearer resource_metadata="] {
        assert!(missing.contains(part), "{part} in {missing}");
    }
    assert_eq!(issuer.counts().key_set, 0);

    let lacking = explain(&["POST", "https://api.weather.example/forecast/oslo?x=1", "--token", &token], "").await;
    for part in ["yes      signature is the issuer's", "no       scopes are granted", "refused: 403 scope_missing", "missing=write:weather"]
    {
        assert!(lacking.contains(part), "{part} in {lacking}");
    }

    let good = explain(&["GET", "/forecast/oslo", "--token", "-"], &format!("{token}\n")).await;
    for part in ["decision   forwarded to", "upstream   x-auth-subject: alice", "upstream   x-auth-scopes: read:weather"] {
        assert!(good.contains(part), "{part} in {good}");
    }
    assert!(!good.contains("  no  "), "{good}");
    assert!(upstream.received().is_empty());

    issuer.stop().await;
    let ended = with_config(&file.path, &["explain", "GET", "/forecast/oslo", "--token", "-"], &token).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
}

#[tokio::test]
async fn explain_takes_a_certificate_for_one_that_was_shown_and_says_what_comes_of_it() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = servers.sign("gate", &["localhost"]);
    let routes = "\n      GET /agent: { access: public, client_certificate: { dns: agent.example } }\n      GET /open: public";
    let tls = "tls:\n  certificate_file: tls.crt\n  key_file: tls.key\n  client_certificates: { mode: optional, ca_file: ca.crt }";
    let told = "    client_certificate_headers: { X-Client-Subject: subject }";
    let file = config(&gate(&issuer, &upstream).routes(routes).in_service(told).settings(tls).yaml());
    let place = |name: &str| file.path.parent().unwrap().join(name);
    let write = |name: &str, text: &str| std::fs::write(place(name), text).unwrap();
    write("tls.crt", &server.pem);
    write("tls.key", &server.key_pem);
    write("ca.crt", &clients.pem);
    write("agent.pem", &clients.sign("agent", &["agent.example"]).pem);
    write("other.pem", &clients.sign("other", &["other.example"]).pem);
    let explain = async |certificate: Option<&str>| {
        let shown: Vec<String> =
            certificate.iter().flat_map(|name| ["--certificate".to_owned(), place(name).display().to_string()]).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        with_config(&file.path, &[&["explain", "GET", "/agent"], &shown[..]].concat(), "").await
    };

    let table = [
        (None, "refused: 403 certificate_missing", "no       client certificate is one that the route takes"),
        (Some("other.pem"), "refused: 403 certificate_refused", "in detail  subject=CN=other"),
        (Some("agent.pem"), "decision   forwarded to", "yes      client certificate is one that the route takes"),
        (Some("agent.pem"), "decision   forwarded to", "upstream   x-client-subject: CN=agent"),
    ];
    for (certificate, decision, part) in table {
        let ended = explain(certificate).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{certificate:?}");
        assert!(ended.stdout.contains(decision) && ended.stdout.contains(part), "{certificate:?}: {part} in {}", ended.stdout);
    }
    write("none.pem", "no certificate");
    for unusable in ["none.pem", "missing.pem"] {
        let ended = explain(Some(unusable)).await;
        assert_eq!(ended.code, Some(64), "{ended:?}");
        assert!(ended.stderr.contains(unusable), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn explain_says_where_a_plain_request_is_sent() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let builder = gate(&issuer, &upstream).in_service("    redirect_to_https: 8443").settings("trusted_proxies: [192.0.2.1]");
    let file = config(&builder.yaml());
    let explain = async |url: &str| with_config(&file.path, &["explain", "GET", url], "").await.stdout;

    let plain = explain("http://api.weather.example/public/a?b").await;
    for part in
        ["no       request came over https", "refused: 308 https_required", "location   https://api.weather.example:8443/public/a?b"]
    {
        assert!(plain.contains(part), "{part} in {plain}");
    }
    for url in ["https://api.weather.example/public/a", "/public/a"] {
        let served = explain(url).await;
        assert!(served.contains("decision   forwarded to") && served.contains("sent to https, port 8443"), "{served}");
    }
    let check = with_config(&file.path, &["check"], "").await.stdout;
    assert!(check.contains("to https, port 8443, without TLS"), "{check}");
}

#[tokio::test]
async fn explain_asks_about_an_opaque_token_and_check_says_that_the_gate_would() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let answer = format!(r#"{{"active":true,"sub":"alice","token_type":"Bearer","iss":"{}"}}"#, issuer.url());
    let endpoint = Upstream::answering_each(move |asked| {
        let body = if asked.text().contains("token=good") { answer.as_str() } else { r#"{"active":false}"# };
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await;
    let settings = "    introspection: { client_id: gate, client_secret: hunter2, audience: if_present, endpoint:";
    let file = config(&gate(&issuer, &upstream).in_service(&format!("{settings} '{}/introspect' }}", endpoint.url())).yaml());
    let explain = async |token: &str| with_config(&file.path, &["explain", "GET", "/me", "--token", "-"], token).await.stdout;

    let good = explain("good").await;
    for part in ["yes      issuer says that it is active", "decision   forwarded to", "upstream   x-auth-subject: alice"] {
        assert!(good.contains(part), "{part} in {good}");
    }
    assert!(!good.contains("  no  ") && !good.contains("signature"), "{good}");
    let bad = explain("bad").await;
    for part in ["no       issuer says that it is active", "refused: 401 token_inactive", "error=\"invalid_token\""] {
        assert!(bad.contains(part), "{part} in {bad}");
    }
    assert_eq!(endpoint.received().len(), 2);

    let check = with_config(&file.path, &["check"], "").await;
    for part in ["/introspect, as gate; an answer counts for 1m", "warning: weather: an opaque token of which the issuer does not say"] {
        assert!(check.stdout.contains(part), "{part} in {}", check.stdout);
    }
    assert!(!check.stdout.contains("hunter2"));
    assert_eq!(endpoint.received().len(), 2, "check asked somebody");
}

#[tokio::test]
async fn healthcheck_asks_a_running_gate() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let admin = reserve();
    let process = Process::run(&gate(&issuer, &upstream).settings(&format!("admin: {}", admin.address)).yaml()).await;
    let path = process.directory.path().join("wicketgate.yaml");
    assert_eq!(with_config(&path, &["healthcheck"], "").await.code, Some(0));
    // An edit that the gate refuses does not make the gate ill.
    process.write(&format!("{}bogus: ${{NOT_SET_ANYWHERE}}\n", std::fs::read_to_string(&path).unwrap()));
    assert_eq!(with_config(&path, &["healthcheck"], "").await.code, Some(0));
    assert_eq!(command(&["healthcheck", "--admin", &admin.address.to_string()], "").await.code, Some(0));

    let nobody = config(&gate(&issuer, &upstream).settings(&format!("admin: {}", reserve().address)).yaml());
    let ended = with_config(&nobody.path, &["healthcheck"], "").await;
    assert_eq!(ended.code, Some(69));
    assert!(ended.stderr.contains("does not answer"), "{}", ended.stderr);
}
