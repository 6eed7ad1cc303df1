//! Live consent: a third-party app gets in only while its user's consent stands, and Logto is asked seldom.

use futures_util::future::join_all;
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::{Application, Ceiling, ManagementFault, Resource, Settings, TokenRequest, User};

use super::support::*;

const CIMD: &str = "https://weatherbot.agents.example/client.json";

/// A tenant with a third-party app, a first-party one, a machine, and the gate's own machine.
async fn tenant() -> Issuer {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = Settings {
        resources: vec![Resource::new(RESOURCE, &[("read:weather", "Read"), ("write:weather", "Write")])],
        applications: vec![
            Application::third_party("weatherbot", "secret", "https://bot.example/callback", Ceiling::default()),
            Application::first_party("official", "secret", "https://official.example/callback"),
            Application::machine("station", "secret", &["read:weather"]),
            Application::machine("gate", "secret", &["all"]),
        ],
        users: vec![User::new("alice", "Alice", "demo", &["read:weather", "write:weather"])],
        ..Settings::default()
    };
    Issuer::start(loopback(), settings).await.unwrap()
}

fn logto(issuer: &Issuer) -> String {
    format!("logto: {{ endpoint: 'http://{}', app_id: gate, app_secret: secret }}", issuer.address())
}

async fn gate_with(issuer: &Issuer, upstream: &Upstream, consent: &str) -> Gate {
    gate(issuer, upstream).settings(&logto(issuer)).in_service(&format!("    consent: {{ {consent} }}")).start().await
}

fn token_of(issuer: &Issuer, subject: &str, client_id: &str, scope: &str) -> String {
    let scope = Some(scope.to_owned()).filter(|scope| !scope.is_empty());
    issuer.token(TokenRequest {
        subject: subject.to_owned(),
        client_id: client_id.to_owned(),
        resource: RESOURCE.to_owned(),
        scope,
        ..TokenRequest::default()
    })
}

async fn ask(gate: &Gate, target: &str, token: &str) -> (u16, String) {
    let answer = gate.get(target).token(token).send().await;
    (answer.status, answer.code())
}

fn permitted() -> (u16, String) {
    (200, String::new())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// A user and app are asked about once a second at most.
async fn next_second() {
    let now = wicketgate::clock::unix_now();
    until("a second has passed", || async { wicketgate::clock::unix_now() > now }).await;
}

fn calls(issuer: &Issuer, end: &str) -> usize {
    issuer.management_calls().iter().filter(|call| call.ends_with(end)).count()
}

const GRANTS: &str = "/grants?appType=thirdParty";

#[tokio::test]
async fn a_withdrawn_consent_ends_access_within_max_age_and_a_new_one_opens_at_once() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = gate_with(&issuer, &upstream, "max_age: 2s, negative_max_age: 60s").await;
    let grant = issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]).unwrap();
    let token = token_of(&issuer, "alice", "weatherbot", "read:weather");
    assert_eq!(ask(&gate, "/forecast/oslo", &token).await, permitted());

    issuer.revoke(&grant);
    let withdrawn = std::time::Instant::now();
    until("access ends", || async { ask(&gate, "/forecast/oslo", &token).await.0 == 401 }).await;
    // Beside `max_age`, the time that the loaded machine of a test takes.
    assert!(withdrawn.elapsed() < std::time::Duration::from_secs(4), "{:?}", withdrawn.elapsed());
    let answer = gate.get("/forecast/oslo").token(&token).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "consent_withdrawn"));
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("error=\"invalid_token\"") && challenge.contains("scope=\"read:weather\""), "{challenge}");
    let received = upstream.received().len();
    assert_eq!(ask(&gate, "/forecast/oslo", &token).await, refused(401, "consent_withdrawn"));
    assert_eq!(upstream.received().len(), received);

    // The negative answer counts for a minute, but not for a token that was issued after it.
    issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]).unwrap();
    next_second().await;
    let newer = token_of(&issuer, "alice", "weatherbot", "read:weather");
    assert_eq!(ask(&gate, "/forecast/oslo", &newer).await, permitted());
}

#[tokio::test]
async fn one_question_serves_a_rush_of_requests_and_all_that_follow_within_max_age() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = gate_with(&issuer, &upstream, "max_age: 1h, max_stale: 1h").await;
    issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]).unwrap();
    let tokens: Vec<String> = (0..5).map(|_| token_of(&issuer, "alice", "weatherbot", "read:weather")).collect();

    for _ in 0..4 {
        let rush = (0..50).map(|i| ask(&gate, "/forecast/oslo", &tokens[i % tokens.len()]));
        assert!(join_all(rush).await.into_iter().all(|answer| answer == permitted()));
    }

    assert_eq!(calls(&issuer, GRANTS), 1);
    assert_eq!(calls(&issuer, "/applications/weatherbot"), 1);
    assert_eq!(issuer.counts().management, 2);
    assert_eq!(gate.metric("wicketgate_consent_questions_total{about=\"grants\",result=\"answered\"}").await, Some(1.0));
}

#[tokio::test]
async fn an_answer_in_use_is_asked_for_anew_before_anybody_has_to_wait() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = gate_with(&issuer, &upstream, "max_age: 3s").await;
    issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]).unwrap();
    let token = token_of(&issuer, "alice", "weatherbot", "read:weather");

    until("it was asked for anew twice", || async {
        assert_eq!(ask(&gate, "/forecast/oslo", &token).await, permitted());
        calls(&issuer, GRANTS) >= 3
    })
    .await;

    // Only the first request waited, for two answers.
    assert_eq!(gate.metric("wicketgate_consent_lookups_total{cache=\"miss\"}").await, Some(2.0));
}

#[tokio::test]
async fn only_third_party_apps_need_a_grant_and_a_client_by_url_is_one() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = gate_with(&issuer, &upstream, "").await;

    assert_eq!(ask(&gate, "/forecast/oslo", &token_of(&issuer, "alice", "official", "read:weather")).await, permitted());
    assert_eq!(ask(&gate, "/forecast/oslo", &token_of(&issuer, "bob", "official", "read:weather")).await, permitted());
    assert_eq!(calls(&issuer, "/applications/official"), 1);
    assert_eq!(ask(&gate, "/forecast/oslo", &token_of(&issuer, "station", "station", "read:weather")).await, permitted());
    assert_eq!(issuer.counts().management, 1);
    assert_eq!(ask(&gate, "/forecast/oslo", &token_of(&issuer, "alice", "nobody", "read:weather")).await, refused(401, "client_deleted"));
    assert_eq!(calls(&issuer, "/applications/nobody"), 1);

    assert_eq!(ask(&gate, "/forecast/oslo", &token_of(&issuer, "alice", CIMD, "read:weather")).await, refused(401, "consent_withdrawn"));
    let asked: Vec<String> = issuer.management_calls().into_iter().filter(|call| call.contains("weatherbot.agents")).collect();
    assert!(asked.is_empty(), "{asked:?}");
    // A public route asks for nothing.
    assert_eq!(gate.get("/public/a").send().await.status, 200);
}

#[tokio::test]
async fn one_grant_must_cover_all_that_the_route_needs() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let routes = "
      GET /both: { all: [read:weather, write:weather] }
      GET /either: { any: [read:weather, write:weather] }
      GET /me: authenticated";
    let gate =
        gate(&issuer, &upstream).routes(routes).settings(&logto(&issuer)).in_service("    consent: { negative_max_age: 0s }").start().await;
    let both = token_of(&issuer, "alice", "weatherbot", "read:weather write:weather");
    let write = token_of(&issuer, "alice", "weatherbot", "write:weather");
    issuer.allow("alice", "weatherbot", "https://other.example", &["read:weather", "write:weather"]).unwrap();
    issuer.allow("bob", "weatherbot", RESOURCE, &["read:weather", "write:weather"]).unwrap();
    issuer.allow("alice", "official", RESOURCE, &["read:weather", "write:weather"]).unwrap();
    for target in ["/both", "/either", "/me"] {
        assert_eq!(ask(&gate, target, &both).await, refused(401, "consent_withdrawn"), "{target}");
    }

    issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]).unwrap();
    next_second().await;
    assert_eq!(ask(&gate, "/either", &both).await, permitted());
    assert_eq!(ask(&gate, "/me", &both).await, permitted());
    // Two grants that would cover it together are not one that does.
    assert_eq!(ask(&gate, "/both", &both).await, refused(401, "consent_withdrawn"));
    assert_eq!(ask(&gate, "/either", &write).await, refused(401, "consent_withdrawn"));
    issuer.allow("alice", "weatherbot", RESOURCE, &["write:weather"]).unwrap();
    next_second().await;
    assert_eq!(ask(&gate, "/both", &both).await, refused(401, "consent_withdrawn"));
    assert_eq!(ask(&gate, "/either", &write).await, permitted());
    issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather", "write:weather"]).unwrap();
    next_second().await;
    assert_eq!(ask(&gate, "/both", &both).await, permitted());
}

#[tokio::test]
async fn while_logto_cannot_be_asked_the_answer_is_503_or_what_was_known_last_for_a_while() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let deny = gate_with(&issuer, &upstream, "timeout: 300ms").await;
    let allow = gate_with(&issuer, &upstream, "timeout: 300ms, on_error: allow, max_age: 2s, max_stale: 1h, negative_max_age: 0s").await;
    let grant = issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]).unwrap();
    let token = token_of(&issuer, "alice", "weatherbot", "read:weather");
    let old = issuer.token(TokenRequest {
        subject: "carol".to_owned(),
        client_id: "weatherbot".to_owned(),
        scope: Some("read:weather".to_owned()),
        claims: serde_json::json!({ "iat": wicketgate::clock::unix_now() - 7200 }).as_object().unwrap().clone(),
        ..TokenRequest::default()
    });
    assert_eq!(ask(&allow, "/forecast/oslo", &token).await, permitted());
    issuer.misbehave_management(ManagementFault::Hang, 0..1000);

    let answer = deny.get("/forecast/oslo").token(&token).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "consent_unknown"));
    assert_eq!(answer.header("retry-after").as_deref(), Some("5"));
    assert_eq!(answer.header("www-authenticate"), None);
    // What was seen, and a token that was issued a moment ago, are word of a consent that stood then; one of two hours is not.
    let seen = wicketgate::clock::unix_now();
    until("the answer is too old", || async { wicketgate::clock::unix_now() > seen + 2 }).await;
    assert_eq!(ask(&allow, "/forecast/oslo", &token).await, permitted());
    assert_eq!(ask(&allow, "/forecast/oslo", &token_of(&issuer, "bob", "weatherbot", "read:weather")).await, permitted());
    assert_eq!(ask(&allow, "/forecast/oslo", &old).await, refused(503, "consent_unknown"));

    // A consent that was seen to be gone stays gone.
    issuer.misbehave_management(ManagementFault::Hang, 0..0);
    issuer.revoke(&grant);
    until("the withdrawal is seen", || async { ask(&allow, "/forecast/oslo", &token).await == refused(401, "consent_withdrawn") }).await;
    issuer.misbehave_management(ManagementFault::Hang, 0..1000);
    let seen = wicketgate::clock::unix_now();
    until("the answer is old", || async { wicketgate::clock::unix_now() > seen + 1 }).await;
    assert_eq!(ask(&allow, "/forecast/oslo", &token).await, refused(401, "consent_withdrawn"));
}

#[tokio::test]
async fn a_rush_of_users_does_not_flood_logto_and_locks_nobody_out_who_is_known() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let gate = gate_with(&issuer, &upstream, "in_flight: 2, per_second: 5").await;
    issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]).unwrap();
    let alice = token_of(&issuer, "alice", "weatherbot", "read:weather");
    assert_eq!(ask(&gate, "/forecast/oslo", &alice).await, permitted());

    let users: Vec<String> = (0..60).map(|i| token_of(&issuer, &format!("user{i}"), "weatherbot", "read:weather")).collect();
    let answers = join_all(users.iter().map(|token| ask(&gate, "/forecast/oslo", token))).await;

    let busy = answers.iter().filter(|answer| **answer == refused(503, "consent_busy")).count();
    assert!(busy >= 40, "{busy} of {}", answers.len());
    assert!(issuer.counts().management <= 25, "{}", issuer.counts().management);
    assert_eq!(ask(&gate, "/forecast/oslo", &alice).await, permitted());
}

#[tokio::test]
async fn a_route_that_reports_lets_through_and_says_what_it_saw() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let routes = "
      GET /forecast/{city}: { scopes: read:weather, mode: report }";
    let gate = gate(&issuer, &upstream).routes(routes).settings(&logto(&issuer)).in_service("    consent: {}").start().await;

    assert_eq!(ask(&gate, "/forecast/oslo", &token_of(&issuer, "alice", "weatherbot", "read:weather")).await, permitted());

    assert_eq!(calls(&issuer, GRANTS), 1);
    until("it is counted", || async {
        gate.metric("wicketgate_refusals_total{reason=\"consent_withdrawn\",service=\"weather\"}").await == Some(1.0)
    })
    .await;
}

#[tokio::test]
async fn answers_survive_a_reload_that_does_not_concern_them() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    let builder = gate(&issuer, &upstream).settings(&logto(&issuer));
    let mut gate = builder.clone().in_service("    consent: {}").start().await;
    issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]).unwrap();
    let token = token_of(&issuer, "alice", "weatherbot", "read:weather");
    assert_eq!(ask(&gate, "/forecast/oslo", &token).await, permitted());

    gate.rewrite(&builder.clone().settings("tokens: { leeway: 10s }").in_service("    consent: {}").yaml()).await;
    assert_eq!(ask(&gate, "/forecast/oslo", &token).await, permitted());
    assert_eq!(calls(&issuer, GRANTS), 1);

    gate.rewrite(&builder.in_service("    consent: { max_age: 30s }").yaml()).await;
    assert_eq!(ask(&gate, "/forecast/oslo", &token).await, permitted());
    assert_eq!(calls(&issuer, GRANTS), 2);
}

#[tokio::test]
async fn the_audit_trail_names_the_agent_as_users_know_it() {
    let (issuer, upstream) = (tenant().await, Upstream::friendly().await);
    issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]);
    issuer.change(|tenant| {
        tenant.applications.iter_mut().filter(|app| app.id == "weatherbot").for_each(|app| app.name = "WeatherBot".to_owned())
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let audit = format!("{}\naudit: {{ records: all, to: {{ file: '{}' }} }}", logto(&issuer), path.display());
    let gate = gate(&issuer, &upstream).settings(&audit).in_service("    consent: { check: live }").start().await;

    assert_eq!(ask(&gate, "/forecast/oslo", &token_of(&issuer, "alice", "weatherbot", "read:weather")).await, permitted());

    until("the record is written", || async { std::fs::read_to_string(&path).unwrap_or_default().contains("WeatherBot") }).await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#""agent":{"client_id":"weatherbot","name":"WeatherBot"}"#), "{text}");
}
