//! The client of Logto's Management API: it repeats what may be repeated and nothing else, shares one token, and says
//! what is wrong when Logto cannot or will not answer.

use serde_json::{Value, json};
use wicketgate::config::{RoleKind, Secret};
use wicketgate::logto::{Application, ApplicationKind, ConsentScopes, Grant, LogtoError, ManagementApi, NewApplication, User};
use wicketgate::policy::LogtoAccess;

use super::support::logto::{APP_SECRET, FakeLogto, Trouble};
use super::support::*;

fn api(logto: &FakeLogto) -> ManagementApi {
    ManagementApi::new(logto.access()).unwrap()
}

fn weather_bot() -> NewApplication {
    NewApplication {
        name: "WeatherBot".to_owned(),
        description: None,
        kind: ApplicationKind::Traditional,
        third_party: true,
        redirect_uris: vec!["https://bot.example/callback".to_owned()],
        marks: serde_json::Map::new(),
    }
}

#[tokio::test]
async fn one_token_serves_all_calls_that_come_at_once() {
    let logto = FakeLogto::start().await;
    let api = api(&logto);
    let calls = (0..50).map(|_| api.resources());
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    assert_eq!((logto.count("POST", "/oidc/token"), logto.count("GET", "/api/resources")), (1, 50));
}

#[tokio::test]
async fn a_token_is_fetched_anew_before_it_expires() {
    let logto = FakeLogto::start().await;
    logto.token_seconds(0);
    let api = api(&logto);
    api.resources().await.unwrap();
    api.resources().await.unwrap();
    assert_eq!(logto.count("POST", "/oidc/token"), 2);
}

#[tokio::test]
async fn a_refused_token_is_fetched_anew_once() {
    let logto = FakeLogto::start().await;
    let api = api(&logto);
    api.resources().await.unwrap();
    logto.trouble("GET", "/api/roles", [Trouble::Expired]);
    api.roles().await.unwrap();
    assert_eq!((logto.count("POST", "/oidc/token"), logto.count("GET", "/api/roles")), (2, 2));
    // A second refusal is no matter of the token.
    logto.trouble("GET", "/api/roles", [Trouble::Expired, Trouble::Expired]);
    assert!(matches!(api.roles().await, Err(LogtoError::Forbidden(_))));
    assert_eq!((logto.count("POST", "/oidc/token"), logto.count("GET", "/api/roles")), (3, 4));
}

#[tokio::test]
async fn wrong_credentials_are_told_from_everything_else_and_asked_for_once() {
    let logto = FakeLogto::start().await;
    let wrong = ManagementApi::new(LogtoAccess { app_secret: Secret::new("wrong"), ..logto.access() }).unwrap();
    let error = wrong.resources().await.unwrap_err();
    assert!(matches!(error, LogtoError::CredentialsRefused(_)), "{error}");
    assert!(!error.is_passing() && error.to_string().contains("logto.app_secret"), "{error}");
    let other = LogtoAccess { management_api: "https://other.logto.app/api".to_owned(), ..logto.access() };
    let error = ManagementApi::new(other).unwrap().resources().await.unwrap_err();
    assert!(matches!(error, LogtoError::Forbidden(_)), "{error}");
    assert!(error.to_string().contains("logto.management_api"), "{error}");
    assert_eq!(logto.calls().len(), 2);
}

#[tokio::test]
async fn what_passes_is_repeated_and_then_answered() {
    for trouble in [Trouble::TooMany(None), Trouble::Broken, Trouble::CutBefore, Trouble::CutAfter, Trouble::Hang] {
        let logto = FakeLogto::start().await;
        logto.tenant(|tenant| tenant.add_resource("Weather API", RESOURCE));
        logto.trouble("GET", "/api/resources", [trouble.clone()]);
        assert_eq!(api(&logto).resources().await.unwrap().len(), 1, "{trouble:?}");
        assert_eq!(logto.count("GET", "/api/resources"), 2, "{trouble:?}");
    }
    let logto = FakeLogto::start().await;
    logto.trouble("POST", "/oidc/token", [Trouble::Broken, Trouble::TooMany(None), Trouble::CutAfter]);
    api(&logto).resources().await.unwrap();
    assert_eq!(logto.count("POST", "/oidc/token"), 4);
}

#[tokio::test]
async fn retry_after_is_waited_for_and_a_long_one_is_handed_on() {
    let logto = FakeLogto::start().await;
    let api = api(&logto);
    logto.trouble("GET", "/api/resources", [Trouble::TooMany(Some(1))]);
    let before = std::time::Instant::now();
    api.resources().await.unwrap();
    assert!(before.elapsed() >= std::time::Duration::from_secs(1));
    logto.trouble("GET", "/api/roles", [Trouble::TooMany(Some(3600))]);
    let error = api.roles().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(std::time::Duration::from_secs(3600)));
    assert!(error.is_passing());
    assert_eq!(logto.count("GET", "/api/roles"), 1);
}

#[tokio::test]
async fn what_lasts_ends_within_its_attempts_and_its_time() {
    let logto = FakeLogto::start().await;
    logto.trouble("GET", "/api/resources", std::iter::repeat_n(Trouble::Broken, 50));
    let error = api(&logto).resources().await.unwrap_err();
    assert!(matches!(error, LogtoError::Unreachable(_)) && error.is_passing(), "{error}");
    assert_eq!(logto.count("GET", "/api/resources"), 5);
    let logto = FakeLogto::start().await;
    logto.trouble("GET", "/api/resources", std::iter::repeat_n(Trouble::Hang, 50));
    let second = std::time::Duration::from_secs(1);
    let hasty = ManagementApi::new(LogtoAccess { timeout: second * 2, deadline: second, ..logto.access() }).unwrap();
    let before = std::time::Instant::now();
    assert!(hasty.resources().await.unwrap_err().is_passing());
    assert!(before.elapsed() < second * 3);
    // Nobody there at all.
    let nowhere = reserve();
    let access = LogtoAccess { endpoint: format!("http://{}", nowhere.address), deadline: second, ..logto.access() };
    let error = ManagementApi::new(access).unwrap().resources().await.unwrap_err();
    assert!(matches!(error, LogtoError::Unreachable(_)) && error.is_passing(), "{error}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_not_asked_for_again() {
    for trouble in [Trouble::Html, Trouble::Huge, Trouble::Redirect, Trouble::Forbidden] {
        let logto = FakeLogto::start().await;
        logto.trouble("GET", "/api/resources", [trouble.clone()]);
        let error = api(&logto).resources().await.unwrap_err();
        assert!(!error.is_passing(), "{trouble:?}: {error}");
        assert_eq!(logto.count("GET", "/api/resources"), 1, "{trouble:?}");
    }
}

#[tokio::test]
async fn no_error_shows_a_secret_or_a_token() {
    let logto = FakeLogto::start().await;
    for trouble in [Trouble::Broken, Trouble::CutAfter, Trouble::Expired, Trouble::Html, Trouble::Forbidden, Trouble::TooMany(None)] {
        let api = api(&logto);
        logto.trouble("GET", "/api/resources", std::iter::repeat_n(trouble, 5));
        let error = api.resources().await.unwrap_err();
        let shown = format!("{error} {error:?} {api:?} {:?}", logto.access());
        assert!(!shown.contains(APP_SECRET) && !shown.contains("token-"), "{shown}");
    }
}

#[tokio::test]
async fn what_took_effect_before_the_answer_was_lost_is_not_made_twice() {
    for trouble in [Trouble::CutAfter, Trouble::BrokenAfter] {
        let logto = FakeLogto::start().await;
        let api = api(&logto);
        for path in ["/api/resources", "/api/roles", "/api/applications"] {
            logto.trouble("POST", path, [trouble.clone()]);
        }
        // An older one of the same name is not taken for it.
        let older = logto.tenant(|tenant| tenant.add_application("WeatherBot", "Traditional", true));
        let resource = api.create_resource("weather", RESOURCE, Some(300)).await.unwrap();
        logto.trouble("POST", "/api/resources", [trouble.clone()]);
        let scope = api.create_scope(&resource.id, "read:weather", "Read").await.unwrap();
        let role = api.create_role("Reader", "Reads", RoleKind::User, std::slice::from_ref(&scope.id)).await.unwrap();
        let application = api.create_application(&weather_bot()).await.unwrap();
        logto.trouble("POST", "/api/applications", [trouble.clone()]);
        let scopes = ConsentScopes { user_scopes: vec!["profile".to_owned()], resource_scopes: vec![scope.id.clone()] };
        api.add_consent_scopes(&application.id, &scopes).await.unwrap();
        assert_ne!(application.id, older);
        logto.tenant(|tenant| {
            assert_eq!((tenant.resources.len(), tenant.scopes.len(), tenant.roles.len()), (1, 1, 1), "{trouble:?}");
            assert_eq!(tenant.applications.len(), 2, "{trouble:?}");
            assert_eq!(tenant.role_scopes, [(role.id.clone(), scope.id.clone())]);
            assert_eq!(tenant.consent_scopes, [(application.id.clone(), scope.id.clone())]);
            assert_eq!(tenant.resources[0]["accessTokenTtl"], 300);
        });
    }
}

#[tokio::test]
async fn what_did_not_take_effect_is_made_by_the_next_attempt() {
    for trouble in [Trouble::CutBefore, Trouble::Broken, Trouble::TooMany(None)] {
        let logto = FakeLogto::start().await;
        let api = api(&logto);
        logto.trouble("POST", "/api/applications", [trouble.clone()]);
        api.create_application(&weather_bot()).await.unwrap();
        assert_eq!(logto.tenant(|tenant| tenant.applications.len()), 1, "{trouble:?}");
    }
}

#[tokio::test]
async fn what_somebody_else_made_meanwhile_is_found() {
    let logto = FakeLogto::start().await;
    let api = api(&logto);
    let (resource, scope) = logto.tenant(|tenant| {
        let resource = tenant.add_resource("Weather API", RESOURCE);
        let scope = tenant.add_scope(&resource, "read:weather", "Read");
        tenant.add_role("Reader", "User");
        (resource, scope)
    });
    assert_eq!(api.create_resource("weather", RESOURCE, None).await.unwrap().id, resource);
    assert_eq!(api.create_scope(&resource, "read:weather", "x").await.unwrap().id, scope);
    let role = api.create_role("Reader", "Reads", RoleKind::User, std::slice::from_ref(&scope)).await.unwrap();
    api.add_role_scopes(&role.id, std::slice::from_ref(&scope)).await.unwrap();
    assert_eq!(logto.tenant(|tenant| tenant.role_scopes.clone()), [(role.id, scope)]);
}

#[tokio::test]
async fn deleting_twice_is_deleting_once() {
    let logto = FakeLogto::start().await;
    let api = api(&logto);
    let id = logto.tenant(|tenant| tenant.add_application("WeatherBot", "Traditional", true));
    logto.trouble("DELETE", "/api/applications", [Trouble::CutAfter]);
    api.delete_application(&id).await.unwrap();
    assert_eq!(logto.count("DELETE", "/api/applications"), 2);
    assert!(api.application(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_list_is_read_to_its_end() {
    let logto = FakeLogto::start().await;
    logto.tenant(|tenant| (0..250).for_each(|i| drop(tenant.add_application(&format!("Bot {i}"), "SPA", true))));
    assert_eq!(api(&logto).third_party_applications().await.unwrap().len(), 250);
    assert_eq!(logto.count("GET", "/api/applications"), 3);
}

#[tokio::test]
async fn grants_and_users_are_read_and_a_grant_is_revoked() {
    let logto = FakeLogto::start().await;
    let recorded = recorded("06-grants-webhooks/06-list-grants-thirdParty")["response"]["body"].clone();
    let grant = recorded["grants"][0].clone();
    let user = grant["payload"]["accountId"].as_str().unwrap().to_owned();
    logto.tenant(|tenant| {
        tenant.users.push(json!({ "id": user, "username": "dave", "isSuspended": true }));
        tenant.grants.push(grant);
    });
    let api = api(&logto);
    let grants = api.third_party_grants(&user).await.unwrap();
    assert_eq!(grants[0].scopes(RESOURCE).collect::<Vec<_>>(), ["read:weather"]);
    assert_eq!(grants[0].scopes("https://other.example").count(), 0);
    assert!(api.user(&user).await.unwrap().unwrap().is_suspended);
    assert!(api.user("nobody").await.unwrap().is_none());
    logto.trouble("DELETE", "/api/users", [Trouble::BrokenAfter]);
    api.revoke_grant(&user, &grants[0].id).await.unwrap();
    assert!(api.third_party_grants(&user).await.unwrap().is_empty());
}

/// An exchange with Logto.
fn recorded(fixture: &str) -> Value {
    let files = [include_str!("../fixtures/logto/management/recorded.json"), include_str!("../fixtures/logto/management/more.json")];
    let mut all = files.into_iter().flat_map(|file| serde_json::from_str::<Vec<Value>>(file).unwrap());
    all.find(|one| one["fixture"] == fixture).unwrap_or_else(|| panic!("{fixture} is not recorded"))
}

#[tokio::test]
async fn what_logto_was_recorded_to_say_is_understood() {
    let body = |name: &str| recorded(name)["response"]["body"].clone();
    let bot: Application = serde_json::from_value(body("02-management-api/63-get-app-third")).unwrap();
    assert!(bot.is_third_party && bot.kind == ApplicationKind::Traditional && bot.oidc_client_metadata.redirect_uris.len() == 2);
    let user: User = serde_json::from_value(body("06-grants-webhooks/16-suspend-user")).unwrap();
    assert!(user.is_suspended);
    for name in ["06-grants-webhooks/28-list-grants-after-app-delete", "10-cimd/grants"] {
        let grants: Vec<Grant> = serde_json::from_value(body(name)["grants"].clone()).unwrap();
        assert!(grants.iter().any(|grant| grant.scopes(RESOURCE).next().is_some()), "{name}");
    }
}

/// The tests here are worth as much as the tenant that they ask: it answers as Logto did, member for member.
#[tokio::test]
async fn the_tenant_of_these_tests_answers_as_logto_did() {
    let logto = FakeLogto::start().await;
    let ids = logto.tenant(|tenant| {
        let resource = tenant.add_resource("Other", "https://other.example");
        let scope = tenant.add_scope(&resource, "read:other", "Other");
        let third = tenant.add_application("Third", "Traditional", true);
        let native = tenant.add_application("NativeBot", "Native", true);
        let first = tenant.add_application("First", "Traditional", false);
        [resource, scope, third, native, first]
    });
    let [resource, scope, third, native, first] = &ids;
    let consent = json!({ "userScopes": ["profile"], "resourceScopes": [scope] });
    let cases: [(&str, &str, String, Value); 13] = [
        ("11-misc/mgmt-401-none", "GET", "/api/applications".into(), Value::Null),
        (
            "02-management-api/10-create-resource",
            "POST",
            "/api/resources".into(),
            recorded("02-management-api/10-create-resource")["body"].clone(),
        ),
        (
            "02-management-api/11-create-scope-read-weather",
            "POST",
            format!("/api/resources/{resource}/scopes"),
            json!({ "name": "a", "description": "A" }),
        ),
        ("11-misc/resource-ttl", "PATCH", format!("/api/resources/{resource}"), json!({ "accessTokenTtl": 60 })),
        (
            "02-management-api/20-create-role-user",
            "POST",
            "/api/roles".into(),
            json!({ "name": "r", "description": "R", "type": "User", "scopeIds": [scope] }),
        ),
        (
            "02-management-api/41-create-third-party-app",
            "POST",
            "/api/applications".into(),
            recorded("02-management-api/41-create-third-party-app")["body"].clone(),
        ),
        (
            "07-features/third-party-m2m-rejected",
            "POST",
            "/api/applications".into(),
            recorded("07-features/third-party-m2m-rejected")["body"].clone(),
        ),
        ("02-management-api/41-create-third-party-app-secrets", "GET", format!("/api/applications/{third}/secrets"), Value::Null),
        ("02-management-api/44-create-third-party-native-secrets", "GET", format!("/api/applications/{native}/secrets"), Value::Null),
        (
            "02-management-api/60-user-consent-scopes-third",
            "POST",
            format!("/api/applications/{third}/user-consent-scopes"),
            consent.clone(),
        ),
        (
            "02-management-api/61-get-user-consent-scopes-third",
            "GET",
            format!("/api/applications/{third}/user-consent-scopes"),
            Value::Null,
        ),
        (
            "02-management-api/62-consent-scopes-on-first-party-app-rejected",
            "POST",
            format!("/api/applications/{first}/user-consent-scopes"),
            consent,
        ),
        ("06-grants-webhooks/26-delete-app", "DELETE", format!("/api/applications/{native}"), Value::Null),
    ];
    let address = logto.url().trim_start_matches("http://").parse().unwrap();
    for (name, method, target, body) in cases {
        let mut ask = Ask::new(address, method, &target);
        if !name.contains("401") {
            ask = ask.token("token-1");
        }
        if !body.is_null() {
            ask = ask.header("Content-Type: application/json").body(&body.to_string());
        }
        let (answer, recorded) = (ask.send().await, recorded(name));
        assert_eq!(u64::from(answer.status), recorded["response"]["status"].as_u64().unwrap(), "{name}: {}", answer.text());
        let found: Value = serde_json::from_str(&answer.text()).unwrap_or_else(|_| answer.text().into());
        same_shape(name, &found, &recorded["response"]["body"]);
    }
}

fn same_shape(name: &str, found: &Value, recorded: &Value) {
    match (found, recorded) {
        (Value::Object(found), Value::Object(recorded)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(found), keys(recorded), "{name}");
            for key in found.keys().filter(|key| !["customData", "oidcClientMetadata"].contains(&key.as_str())) {
                same_shape(&format!("{name}.{key}"), &found[key], &recorded[key]);
            }
            if let Some(code) = found.get("code") {
                assert_eq!(*code, recorded["code"], "{name}");
            }
        }
        (Value::Array(found), Value::Array(recorded)) => {
            if let (Some(found), Some(recorded)) = (found.first(), recorded.first()) {
                same_shape(&format!("{name}[]"), found, recorded);
            }
        }
        (Value::String(found), Value::String(recorded)) if recorded == "Created" => assert_eq!(found, recorded, "{name}"),
        _ => {}
    }
}
