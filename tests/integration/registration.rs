//! Agents register themselves (RFC 7591, RFC 7592): what they get, what they are refused, and what is left of it in Logto.

use serde_json::{Value, json};
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::{Application, ApplicationKind, ManagementFault, Resource, Settings, TokenRequest, User};

use super::support::*;

const CALLBACK: &str = "http://127.0.0.1:41414/callback";
const INITIAL_TOKEN: &str = "initial-access-token-of-the-operator";

/// An issuer whose tenant a gate may change, and in which Alice may read and write.
async fn tenant() -> Issuer {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let may = ["read:weather", "write:weather"];
    let settings = Settings {
        resources: vec![Resource::new(RESOURCE, &[("read:weather", "Read"), ("write:weather", "Write")])],
        applications: vec![
            Application::machine("gate", "gate-secret", &["all"]),
            Application { third_party: true, ..Application::first_party("friend", "secret", "https://friend.example/callback") },
        ],
        users: vec![User::new("alice", "Alice", "demo", &may)],
        ..Settings::default()
    };
    Issuer::start(loopback(), settings).await.unwrap()
}

fn registering(issuer: &Issuer, upstream: &Upstream, more: &str) -> GateBuilder {
    let logto =
        format!("logto: {{ endpoint: http://{}, app_id: gate, app_secret: gate-secret, timeout: 500ms, deadline: 3s }}", issuer.address());
    let registration = "registration:\n  ceiling: { scopes: [read:weather], user_scopes: [profile] }\n  reserved_names: [Wicketgate]\n  confidential: true\n  redirect: { hosts: [agent.example] }";
    gate(issuer, upstream).settings(&logto).settings(&format!("{registration}\n{more}"))
}

fn metadata(more: &Value) -> Value {
    let mut metadata = json!({ "client_name": "WeatherBot", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none" });
    for (name, value) in more.as_object().unwrap() {
        metadata[name] = value.clone();
    }
    metadata
}

fn send(gate: &Gate, method: &str, target: &str, body: &Value) -> Ask {
    gate.ask(method, target).header("Content-Type: application/json").body(&body.to_string())
}

async fn register(gate: &Gate, more: Value) -> Answer {
    send(gate, "POST", "/register", &metadata(&more)).send().await
}

/// The path of the address at which an app changes itself.
fn own_address(registered: &Value) -> String {
    let address = registered["registration_client_uri"].as_str().unwrap();
    address.strip_prefix(RESOURCE).unwrap_or_else(|| panic!("{address}")).to_owned()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The apps that were registered, as the tenant holds them.
fn registered(issuer: &Issuer) -> Vec<Application> {
    issuer.tenant().applications.into_iter().filter(|known| !["gate", "friend"].contains(&known.id.as_str())).collect()
}

/// Writes into the mark of an app.
fn change_mark(issuer: &Issuer, client: &str, name: &str, value: Value) {
    issuer.change(|tenant| {
        let application = tenant.applications.iter_mut().find(|known| known.id == client).unwrap();
        application.custom_data["wicketgate"][name] = value;
    });
}

#[tokio::test]
async fn an_agent_that_registers_gets_an_app_of_its_own_within_the_ceiling() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "").start().await;
    let answer = register(&gate, json!({ "scope": "read:weather write:weather openid profile madeup" })).await;
    let body = answer.json();
    // RFC 7591 §3.2.1.
    assert_eq!((answer.status, answer.header("cache-control").as_deref()), (201, Some("no-store")), "{body}");
    assert_eq!(text(&body, "scope"), "read:weather profile openid", "what is not offered is left out, and said to be");
    assert_eq!((&body["redirect_uris"], &body["token_endpoint_auth_method"]), (&json!([CALLBACK]), &json!("none")));
    assert_eq!((&body["grant_types"], &body["response_types"]), (&json!(["authorization_code"]), &json!(["code"])));
    assert!(body["client_id_issued_at"].as_i64().unwrap() > 1_700_000_000 && body.get("client_secret").is_none());

    let apps = registered(&issuer);
    let [app] = apps.as_slice() else { panic!("{apps:?}") };
    assert_eq!((app.id.as_str(), app.name.as_str(), app.kind), (text(&body, "client_id"), "WeatherBot", ApplicationKind::Native));
    assert!(app.third_party, "users are asked for consent");
    assert_eq!(app.ceiling.resource_scopes, issuer.tenant().scope_ids(RESOURCE, &["read:weather"]));
    assert_eq!(app.ceiling.user_scopes, ["profile"]);
    assert_eq!(app.custom_data["wicketgate"]["state"], "done");
    let kept = app.custom_data["wicketgate"].to_string();
    assert!(!kept.contains(text(&body, "registration_access_token")), "only its hash is kept: {kept}");
    assert_eq!(gate.metric("wicketgate_registrations_total{change=\"registered\"}").await, Some(1.0));
    assert_eq!(gate.metric("wicketgate_registered_apps").await, Some(1.0));
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn what_an_app_becomes_follows_from_what_it_can_keep_and_where_it_runs() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "").start().await;
    let web = json!(["https://agent.example/callback"]);
    let table = [
        (json!({}), "Native", false),
        (json!({ "redirect_uris": web }), "SPA", false),
        (json!({ "redirect_uris": web, "application_type": "native" }), "Native", false),
        (json!({ "redirect_uris": web, "token_endpoint_auth_method": "client_secret_basic" }), "Traditional", true),
        (json!({ "redirect_uris": web, "token_endpoint_auth_method": "client_secret_post" }), "Traditional", true),
        // RFC 7591 §2: without a word it is client_secret_basic.
        (json!({ "redirect_uris": web, "token_endpoint_auth_method": null }), "Traditional", true),
    ];
    for (more, kind, confidential) in table {
        let body = register(&gate, more.clone()).await.json();
        let known = registered(&issuer).into_iter().find(|known| known.id == text(&body, "client_id")).unwrap();
        assert_eq!(known.kind.name(), kind, "{more}");
        assert_eq!(body.get("client_secret").and_then(Value::as_str).unwrap_or_default(), known.secret, "{more}");
        // RFC 7591 §3.2.1: required if there is a secret.
        assert_eq!(body.get("client_secret_expires_at"), confidential.then_some(&json!(0)), "{more}");
    }
}

/// From nothing to an answer: registration, consent in a browser, token, request.
#[tokio::test]
async fn a_registered_agent_gets_through_when_a_user_consents_and_not_before() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "").start().await;
    let body = register(&gate, json!({ "token_endpoint_auth_method": "client_secret_post", "scope": "read:weather" })).await.json();
    let (id, secret) = (text(&body, "client_id"), text(&body, "client_secret"));
    // The verifier and its challenge of RFC 7636, appendix B.
    let (verifier, challenge) = ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    let query = [
        ("response_type", "code"),
        ("client_id", id),
        ("redirect_uri", CALLBACK),
        ("scope", "openid read:weather write:weather"),
        ("resource", RESOURCE),
        ("state", "xyz"),
        ("code_challenge", challenge),
        ("code_challenge_method", "S256"),
    ];
    let url = reqwest::Url::parse_with_params(&format!("{}/auth", issuer.url()), query).unwrap();
    let mut browser = Browser::new();
    let sign_in = browser.get(url.as_str()).await;
    let consent = browser.sign_in(&sign_in, "alice").await;
    consent.shows("WeatherBot");
    assert!(!consent.has("write:weather"), "what is above the ceiling is not even asked for:\n{}", consent.text);
    let back = browser.send_and_follow(&consent, "/consent", &[("decision", "allow")], Some(CALLBACK)).await;
    let callback = reqwest::Url::parse(&back.text).unwrap();
    let code = callback.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", CALLBACK),
        ("client_id", id),
        ("client_secret", secret),
        ("code_verifier", verifier),
        ("resource", RESOURCE),
    ];
    let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = browser.client.post(format!("{}/token", issuer.url())).header("content-type", "application/x-www-form-urlencoded");
    let answer: Value = serde_json::from_slice(&request.body(form).send().await.unwrap().bytes().await.unwrap()).unwrap();
    let token = text(&answer, "access_token");
    assert_eq!(gate.get("/forecast/oslo").token(token).send().await.status, 200);
    assert_eq!(gate.ask("POST", "/forecast/oslo").token(token).send().await.status, 403);
    // Its use is written down, once.
    let used = || async { registered(&issuer)[0].custom_data["wicketgate"].get("used").is_some() };
    until("the app is marked as used", used).await;
    let calls = issuer.management_calls().len();
    assert_eq!(gate.get("/forecast/oslo").token(token).send().await.status, 200);
    assert_eq!(issuer.management_calls().len(), calls);
}

#[tokio::test]
async fn what_may_not_be_registered_is_refused_with_the_error_of_the_standard_and_leaves_nothing() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "").start().await;
    let calls = issuer.management_calls().len();
    // RFC 7591 §3.2.2.
    let table = [
        (json!({ "redirect_uris": ["https://evil.example/"] }), "invalid_redirect_uri", "redirect_uri_refused"),
        (json!({ "redirect_uris": ["javascript:alert(1)"] }), "invalid_redirect_uri", "redirect_uri_refused"),
        (json!({ "redirect_uris": ["https://agent.example/#a"] }), "invalid_redirect_uri", "redirect_uri_refused"),
        (json!({ "redirect_uris": ["https://*.agent.example/"] }), "invalid_redirect_uri", "redirect_uri_refused"),
        (json!({ "redirect_uris": ["com.example.agent:/callback"] }), "invalid_redirect_uri", "redirect_uri_refused"),
        (json!({ "redirect_uris": [CALLBACK, "http://agent.example/"] }), "invalid_redirect_uri", "redirect_uri_refused"),
        (json!({ "redirect_uris": [] }), "invalid_redirect_uri", "redirect_uri_refused"),
        (json!({ "redirect_uris": CALLBACK }), "invalid_redirect_uri", "redirect_uri_refused"),
        (json!({ "redirect_uris": vec![CALLBACK; 11] }), "invalid_redirect_uri", "redirect_uri_refused"),
        (json!({ "client_name": "W\u{456}cketgate" }), "invalid_client_metadata", "client_metadata_refused"),
        (json!({ "client_name": "The Wicket-Gate app" }), "invalid_client_metadata", "client_name_reserved"),
        (json!({ "client_name": "a\u{202e}b" }), "invalid_client_metadata", "client_metadata_refused"),
        (json!({ "client_name": 5 }), "invalid_client_metadata", "client_metadata_refused"),
        (json!({ "grant_types": ["client_credentials"] }), "invalid_client_metadata", "client_metadata_refused"),
        (json!({ "response_types": ["token"] }), "invalid_client_metadata", "client_metadata_refused"),
        (json!({ "token_endpoint_auth_method": "private_key_jwt" }), "invalid_client_metadata", "client_metadata_refused"),
        (json!({ "scope": ["read:weather"] }), "invalid_client_metadata", "client_metadata_refused"),
        (json!({ "software_statement": "a.b.c" }), "unapproved_software_statement", "software_statement_refused"),
        (json!({ "software_statement": "nonsense" }), "invalid_software_statement", "software_statement_invalid"),
    ];
    for (more, error, code) in table {
        let answer = register(&gate, more.clone()).await;
        let body = answer.json();
        assert_eq!((answer.status, text(&body, "error"), text(&body, "code")), (400, error, code), "{more}");
        assert!(!text(&body, "error_description").is_empty() && answer.header("cache-control").as_deref() == Some("no-store"));
    }
    for body in ["", "[]", "null", "{", "{\"redirect_uris\": [1]}"] {
        let ask = gate.ask("POST", "/register").header("Content-Type: application/json").body(body);
        assert_eq!(ask.send().await.status, 400, "{body}");
    }
    let form = gate.ask("POST", "/register").header("Content-Type: text/plain").body(&metadata(&json!({})).to_string()).send().await;
    assert_eq!((form.status, form.json()["error"].as_str()), (400, Some("invalid_client_metadata")), "no form of a web page registers");
    let large = register(&gate, json!({ "filler": "x".repeat(20_000) })).await;
    assert_eq!((large.status, large.code().as_str()), (413, "body_too_large"));
    let allowed = gate.get("/register").send().await;
    assert_eq!((allowed.status, allowed.header("allow").as_deref()), (405, Some("OPTIONS, POST")));
    assert_eq!((registered(&issuer).len(), issuer.management_calls().len()), (0, calls), "Logto was never asked");
    assert_eq!(gate.metric("wicketgate_refusals_total{reason=\"client_name_reserved\",service=\"-\"}").await, Some(1.0));
    // None of it counted for the limit of this address.
    assert_eq!(register(&gate, json!({})).await.status, 201);
}

#[tokio::test]
async fn a_gate_for_public_clients_gives_nobody_a_secret() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let yaml = registering(&issuer, &upstream, "").yaml().replace("confidential: true", "confidential: false");
    let mut gate = registering(&issuer, &upstream, "").start().await;
    gate.rewrite(&yaml).await;
    for method in [json!("client_secret_basic"), Value::Null] {
        let answer = register(&gate, json!({ "token_endpoint_auth_method": method })).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("secret_not_given")));
    }
    assert_eq!(register(&gate, json!({})).await.status, 201);
}

/// RFC 7591 §3: an initial access token, shown as RFC 6750 says.
#[tokio::test]
async fn where_the_operator_hands_out_tokens_nobody_registers_without_one() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate =
        registering(&issuer, &upstream, "  initial_access_tokens_file: tokens").file("tokens", &format!("# ours\n{INITIAL_TOKEN}\n"));
    let gate = gate.start().await;
    let ask = || send(&gate, "POST", "/register", &metadata(&json!({})));
    let missing = ask().send().await;
    assert_eq!((missing.status, missing.json()["code"].as_str()), (401, Some("initial_access_token_missing")));
    assert_eq!(missing.header("www-authenticate").as_deref(), Some("Bearer realm=\"client registration\""));
    let wrong = ask().token(&format!("{INITIAL_TOKEN}x")).send().await;
    assert_eq!((wrong.status, wrong.json()["code"].as_str()), (401, Some("initial_access_token_wrong")));
    assert!(wrong.header("www-authenticate").unwrap().starts_with("Bearer error=\"invalid_token\""));
    // Not the one that opens a route either.
    assert_eq!(ask().token(&token(&issuer, "read:weather")).send().await.status, 401);
    assert_eq!(ask().token(INITIAL_TOKEN).send().await.status, 201);
    assert_eq!(registered(&issuer).len(), 1);
}

#[tokio::test]
async fn an_app_reads_replaces_and_ends_its_own_registration() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "").start().await;
    let more = json!({ "redirect_uris": ["https://agent.example/callback"], "token_endpoint_auth_method": "client_secret_basic", "scope": "read:weather profile" });
    let body = register(&gate, more.clone()).await.json();
    let (id, secret, token) = (text(&body, "client_id"), text(&body, "client_secret"), text(&body, "registration_access_token"));
    let address = own_address(&body);

    // RFC 7592 §2.1. The secret was shown once.
    let shown = gate.get(&address).token(token).send().await;
    assert_eq!((shown.status, shown.header("cache-control").as_deref()), (200, Some("no-store")));
    let mut expected = body.clone();
    for name in ["client_secret", "client_secret_expires_at", "registration_access_token"] {
        expected.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(shown.json(), expected);

    // RFC 7592 §2.2: the whole registration is replaced.
    let mut change = metadata(&more);
    change["client_id"] = id.into();
    change["client_secret"] = secret.into();
    change["client_name"] = "Weather Agent".into();
    change["scope"] = "profile".into();
    change["redirect_uris"] = json!(["https://agent.example/other"]);
    let changed = send(&gate, "PUT", &address, &change).token(token).send().await;
    assert_eq!((changed.status, changed.json()["scope"].as_str()), (200, Some("profile")), "{}", changed.text());
    let app = registered(&issuer).remove(0);
    assert_eq!((app.name.as_str(), app.redirect_uris.as_slice()), ("Weather Agent", &["https://agent.example/other".to_owned()][..]));
    assert_eq!((app.ceiling.resource_scopes.len(), app.ceiling.user_scopes.as_slice()), (0, &["profile".to_owned()][..]));
    assert_eq!(gate.get(&address).token(token).send().await.json()["scope"], "profile");

    // What the rules refuse when it registers, they refuse when it changes.
    let with = |name: &str, value: Value| {
        let mut wrong = change.clone();
        wrong[name] = value;
        wrong
    };
    let table = [
        (with("redirect_uris", json!(["https://evil.example/"])), "redirect_uri_refused"),
        (with("client_name", "Wicketgate".into()), "client_name_reserved"),
        (with("client_id", "another".into()), "client_metadata_refused"),
        (with("client_secret", "wrong".into()), "client_metadata_refused"),
        (with("token_endpoint_auth_method", "none".into()), "client_metadata_refused"),
        (with("registration_access_token", token.into()), "client_metadata_refused"),
    ];
    for (wrong, code) in table {
        let answer = send(&gate, "PUT", &address, &wrong).token(token).send().await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some(code)), "{wrong}");
    }
    assert_eq!(registered(&issuer)[0].redirect_uris, ["https://agent.example/other"]);

    // RFC 7592 §2.3; what is gone looks like what never was.
    assert_eq!(gate.ask("DELETE", &address).token(token).send().await.status, 204);
    assert!(registered(&issuer).is_empty());
    let gone = gate.get(&address).token(token).send().await;
    assert_eq!((gone.status, gone.json()["code"].as_str()), (401, Some("registration_token_wrong")));
}

#[tokio::test]
async fn nobody_touches_an_app_without_its_own_token() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "").start().await;
    let (one, other) = (register(&gate, json!({})).await.json(), register(&gate, json!({ "client_name": "Other" })).await.json());
    let address = own_address(&one);
    let theirs = text(&other, "registration_access_token");
    let calls = issuer.management_calls().len();
    for token in ["x", "", "token_opaque", &token(&issuer, "read:weather")] {
        let answer = gate.ask("DELETE", &address).token(token).send().await;
        assert_eq!(answer.status, 401, "{token}");
    }
    let missing = gate.get(&address).send().await;
    assert_eq!((missing.status, missing.json()["code"].as_str()), (401, Some("registration_token_missing")));
    assert_eq!(issuer.management_calls().len(), calls, "what can be no token is not worth a call");
    for path in [address.as_str(), "/register/friend", "/register/gate", "/register/nobody"] {
        let answer = gate.ask("DELETE", path).token(theirs).send().await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some("registration_token_wrong")), "{path}");
    }
    // An app whose mark has no hash is nobody's.
    change_mark(&issuer, text(&one, "client_id"), "token", "".into());
    assert_eq!(gate.ask("DELETE", &address).token(text(&one, "registration_access_token")).send().await.status, 401);
    assert_eq!((registered(&issuer).len(), issuer.tenant().applications.len()), (2, 4));
}

#[tokio::test]
async fn one_address_registers_so_often_and_no_more_also_after_a_reload() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let builder = registering(&issuer, &upstream, "  per_address_per_hour: 2");
    let mut gate = builder.clone().settings("trusted_proxies: [127.0.0.1]").start().await;
    let from = |gate: &Gate, address: &str| {
        send(gate, "POST", "/register", &metadata(&json!({}))).header(&format!("X-Forwarded-For: 198.51.100.9, {address}")).send()
    };
    for expected in [201, 201, 429] {
        let answer = from(&gate, "192.0.2.1").await;
        assert_eq!(answer.status, expected);
        if expected == 429 {
            assert_eq!(answer.json()["code"], "registrations_too_many");
            let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=1800).contains(&seconds), "{seconds}");
        }
    }
    assert_eq!(from(&gate, "192.0.2.2").await.status, 201);
    let yaml = builder.settings("trusted_proxies: [127.0.0.1]").yaml().replace("[Wicketgate]", "[Wicketgate, Acme]");
    gate.rewrite(&yaml).await;
    assert_eq!(from(&gate, "192.0.2.1").await.status, 429, "a reload forgets no count");
    assert_eq!(registered(&issuer).len(), 3);
    // What a client puts before a line that nobody can read is its own word, and no address of its own.
    for (client, expected) in [(1, 201), (2, 201), (3, 429)] {
        let request = send(&gate, "POST", "/register", &metadata(&json!({})));
        let request = request.header(&format!("X-Forwarded-For: 203.0.113.{client}")).header("X-Forwarded-For: \u{e9}, 192.0.2.3");
        assert_eq!(request.send().await.status, expected, "{client}");
    }
}

#[tokio::test]
async fn nobody_makes_up_an_address_by_a_line_that_cannot_be_read() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "  per_address_per_hour: 2").settings("trusted_proxies: [127.0.0.1]").start().await;
    let mut statuses = Vec::new();
    for i in 1..=3 {
        // What the client wrote, and behind it, in the same line, what the proxy saw.
        let made_up = format!("X-Forwarded-For: 203.0.113.{i}");
        let asked = send(&gate, "POST", "/register", &metadata(&json!({}))).header(&made_up);
        statuses.push(asked.header("X-Forwarded-For: \u{e9}, 192.0.2.1").send().await.status);
    }
    assert_eq!(statuses, [201, 201, 429], "what stands before such a line is the client's own word");

    // Some proxies write the port, too.
    let mut statuses = Vec::new();
    for port in [4711, 4712, 4713] {
        let seen = format!("X-Forwarded-For: 192.0.2.7:{port}");
        statuses.push(send(&gate, "POST", "/register", &metadata(&json!({}))).header(&seen).send().await.status);
    }
    assert_eq!(statuses, [201, 201, 429]);
}

#[tokio::test]
async fn there_are_no_more_apps_than_the_quota_however_many_come_at_once() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "  quota: 3").start().await;
    let answers = futures_util::future::join_all((0..6).map(|_| register(&gate, json!({})))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!((statuses, registered(&issuer).len()), (vec![201, 201, 201, 503, 503, 503], 3));
    let full = answers.iter().find(|answer| answer.status == 503).unwrap();
    assert_eq!((full.json()["code"].as_str(), full.header("retry-after").is_some()), (Some("registration_quota_full"), true));
}

/// Each call in turn fails in each way: there is an app with all that it should have, or none.
#[tokio::test]
async fn no_failure_of_logto_leaves_an_app_half_made() {
    let faults = [
        ManagementFault::Status(500),
        ManagementFault::BreakOff,
        ManagementFault::TooManyRequests { retry_after_seconds: 1 },
        ManagementFault::Html,
    ];
    for fault in faults {
        futures_util::future::join_all((0..9).map(|call| fails_at(fault, call))).await;
    }
}

async fn fails_at(fault: ManagementFault, call: u32) {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "").start().await;
    // The first sweep is a call of its own.
    until("the sweeper has looked", || async { !issuer.management_calls().is_empty() }).await;
    issuer.misbehave_management(fault, call..call + 1);
    let answer = register(&gate, json!({ "token_endpoint_auth_method": "client_secret_basic" })).await;
    let context = format!("{fault:?} at call {call}: {}", answer.text());
    match answer.status {
        201 => {
            let apps = registered(&issuer);
            assert_eq!(apps.len(), 1, "{context}");
            assert_eq!(apps[0].custom_data["wicketgate"]["state"], "done", "{context}");
            assert_eq!((apps[0].ceiling.resource_scopes.len(), apps[0].ceiling.user_scopes.len()), (1, 1), "{context}");
            assert_eq!(answer.json()["client_secret"], apps[0].secret.as_str(), "{context}");
        }
        503 => {
            assert!(answer.header("retry-after").is_some(), "{context}");
            until("what is half made is gone", || async { registered(&issuer).is_empty() }).await;
        }
        status => panic!("{status}: {context}"),
    }
}

#[tokio::test]
async fn while_logto_is_away_agents_are_told_to_come_again_and_tokens_still_count() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "").start().await;
    let token = token(&issuer, "read:weather");
    issuer.misbehave_management(ManagementFault::Status(503), 0..1000);
    let answer = register(&gate, json!({})).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("registration_unavailable")));
    assert!(answer.header("retry-after").is_some() && !answer.text().contains("gate-secret"));
    assert_eq!(gate.get("/forecast/oslo").token(&token).send().await.status, 200);
}

/// What a gate that was killed in the middle leaves behind, the next one takes away.
#[tokio::test]
async fn half_made_and_unused_apps_are_taken_away_and_nothing_else_is() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let first = registering(&issuer, &upstream, "").start().await;
    let mut ids = Vec::new();
    for name in ["Half made", "Unused", "Used", "New"] {
        let body = register(&first, json!({ "client_name": name })).await.json();
        ids.push(text(&body, "client_id").to_owned());
    }
    drop(first);
    let month_ago = wicketgate::clock::unix_now() - 31 * 24 * 3600;
    change_mark(&issuer, &ids[0], "state", "pending".into());
    for id in &ids[..3] {
        change_mark(&issuer, id, "registered", month_ago.into());
    }
    change_mark(&issuer, &ids[2], "used", (month_ago + 60).into());
    // Somebody else's, older than all of them.
    issuer.change(|tenant| tenant.applications.iter_mut().for_each(|known| known.created_at = 0));
    let gate = registering(&issuer, &upstream, "").start().await;
    until("two are gone", || async { registered(&issuer).len() == 2 }).await;
    let names: Vec<String> = registered(&issuer).into_iter().map(|known| known.name).collect();
    assert_eq!(names, ["Used", "New"]);
    assert_eq!(issuer.tenant().applications.len(), 4, "gate and friend are still there");
    until("it is counted", || async { gate.metric("wicketgate_registrations_total{change=\"expired\"}").await == Some(1.0) }).await;
    assert_eq!(gate.metric("wicketgate_registrations_total{change=\"abandoned\"}").await, Some(1.0));
}

/// A token of it came while the mark could not be written: it is not taken for unused.
#[tokio::test]
async fn an_app_whose_token_was_seen_is_not_taken_for_unused() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "").start().await;
    let body = register(&gate, json!({})).await.json();
    let id = text(&body, "client_id").to_owned();
    let token = issuer.token(TokenRequest {
        client_id: id.clone(),
        resource: RESOURCE.to_owned(),
        scope: Some("read:weather".to_owned()),
        ..TokenRequest::default()
    });
    // Also a request that is refused for its scope shows that the app is used.
    assert_eq!(gate.ask("POST", "/forecast/oslo").token(&token).send().await.status, 403);
    until("it is marked", || async { registered(&issuer)[0].custom_data["wicketgate"]["used"].is_i64() }).await;
    // Clients that were not registered here are looked at once and left alone.
    let friend = issuer.token(TokenRequest { client_id: "friend".to_owned(), resource: RESOURCE.to_owned(), ..TokenRequest::default() });
    assert_eq!(gate.get("/me").token(&friend).send().await.status, 200);
    until("it was looked at", || async { issuer.management_calls().iter().any(|call| call == "GET /api/applications/friend") }).await;
    assert!(issuer.tenant().application("friend").unwrap().custom_data.is_empty());
}

/// RFC 8414 §3.3 has clients compare `issuer`, so that it stays the issuer's.
#[tokio::test]
async fn the_issuers_metadata_stand_at_the_gate_with_the_registration_endpoint_and_nothing_else_changed() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = registering(&issuer, &upstream, "  advertise: gate").start().await;
    let url = format!("{}/.well-known/openid-configuration", issuer.url());
    let own: Value = serde_json::from_slice(&reqwest::get(url).await.unwrap().bytes().await.unwrap()).unwrap();
    let before = issuer.counts().discovery;
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"] {
        let answer = gate.get(path).send().await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin").as_deref()), (200, Some("*")));
        let mut derived = answer.json();
        assert_eq!(derived.as_object_mut().unwrap().remove("registration_endpoint"), Some(json!(format!("{RESOURCE}/register"))));
        assert_eq!(derived, own);
    }
    assert_eq!(issuer.counts().discovery, before + 1, "the second comes from the copy");
    let document = gate.get("/.well-known/oauth-protected-resource").send().await.json();
    assert_eq!(document["authorization_servers"], json!([RESOURCE, issuer.url()]));
    // A browser may do all of it.
    let preflight = gate.ask("OPTIONS", "/register").header("Origin: https://agent.example").send().await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin").as_deref()), (204, Some("*")));
}

#[tokio::test]
async fn the_issuer_alone_is_named_unless_the_operator_says_otherwise_and_registration_goes_while_running() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let mut gate = registering(&issuer, &upstream, "  path: /oauth/register").start().await;
    let document = |answer: Answer| answer.json()["authorization_servers"].clone();
    assert_eq!(document(gate.get("/.well-known/oauth-protected-resource").send().await), json!([issuer.url()]));
    let derived = gate.get("/.well-known/oauth-authorization-server").send().await.json();
    assert_eq!(derived["registration_endpoint"], format!("{RESOURCE}/oauth/register"));
    assert_eq!(send(&gate, "POST", "/oauth/register", &metadata(&json!({}))).send().await.status, 201);
    let without = super::support::gate(&issuer, &upstream).yaml();
    gate.rewrite(&without).await;
    assert_eq!(send(&gate, "POST", "/oauth/register", &metadata(&json!({}))).send().await.status, 404);
    assert_eq!(gate.get("/.well-known/oauth-authorization-server").send().await.status, 404);
    assert_eq!(registered(&issuer).len(), 1);
}

#[tokio::test]
async fn where_the_whole_ceiling_is_granted_an_app_can_step_up_to_it() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let yaml = registering(&issuer, &upstream, "  grant: ceiling").yaml().replace("[read:weather]", "[read:weather, write:weather]");
    let mut gate = registering(&issuer, &upstream, "").start().await;
    gate.rewrite(&yaml).await;
    let body = register(&gate, json!({ "scope": "read:weather" })).await.json();
    assert_eq!(text(&body, "scope"), "read:weather write:weather profile");
    assert_eq!(registered(&issuer)[0].ceiling.resource_scopes.len(), 2);
}

/// A scope that the tenant does not have is left out, and Logto is asked again when one has gone in between.
#[tokio::test]
async fn a_scope_that_logto_does_not_have_is_not_promised() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let routes = "\n      GET /x: read:weather\n      GET /y: admin:weather";
    let builder = registering(&issuer, &upstream, "").routes(routes);
    let yaml = builder.yaml().replace("[read:weather]", "[read:weather, admin:weather]");
    let mut gate = builder.start().await;
    gate.rewrite(&yaml).await;
    assert_eq!(register(&gate, json!({})).await.json()["scope"], "read:weather profile");
    let gone = issuer.tenant().scope_ids(RESOURCE, &["read:weather"]);
    issuer.change(|tenant| {
        let resource = tenant.resources.iter_mut().find(|resource| resource.indicator == RESOURCE).unwrap();
        resource.scopes.retain(|scope| !gone.contains(&scope.id));
    });
    let answer = register(&gate, json!({})).await;
    assert_eq!((answer.status, answer.json()["scope"].as_str()), (201, Some("profile")), "{}", answer.text());
}

#[tokio::test]
async fn the_audit_trail_tells_which_apps_were_made_and_taken_away_and_no_secret() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let audit = format!("audit: {{ records: refusals, to: {{ file: '{}' }} }}", path.display());
    let gate = registering(&issuer, &upstream, &audit).start().await;
    let body = register(&gate, json!({ "scope": "read:weather" })).await.json();
    let (client, token) = (text(&body, "client_id"), text(&body, "registration_access_token"));
    let ended = gate.ask("DELETE", &own_address(&body)).token(token).send().await;
    assert_eq!(ended.status, 204);

    // What went well at the gate's own endpoints is no refusal; what did not is one, and is called so.
    assert_eq!(gate.ask("GET", "/.well-known/oauth-authorization-server").send().await.status, 200);
    assert_eq!(gate.ask("OPTIONS", "/register").send().await.status, 204);
    assert_eq!(gate.ask("GET", &own_address(&body)).send().await.status, 401);

    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    until("the refusal is recorded", || async { read().contains("registration_token_missing") }).await;
    until("both are recorded", || async { read().matches(r#""audit":"registration""#).count() == 2 }).await;
    let records: Vec<Value> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<&Value> = records.iter().filter(|record| record["audit"] == "registration").collect();
    assert_eq!((&told[0]["change"], &told[1]["change"]), (&json!("registered"), &json!("deleted")));
    assert_eq!(told[0]["agent"], json!({ "client_id": client, "name": "WeatherBot" }));
    assert_eq!((&told[0]["scope"], &told[0]["redirect_uris"]), (&json!("read:weather"), &json!([CALLBACK])));
    assert_eq!(told[0]["peer"], "127.0.0.1");
    assert!(!read().contains(token), "a registration access token is in the trail");
    let accesses: Vec<_> = records.iter().filter(|record| record["audit"] == "access").collect();
    let [refusal] = accesses.as_slice() else { panic!("{accesses:?}") };
    assert_eq!((&refusal["decision"], &refusal["status"]), (&json!("denied"), &json!(401)));
}
