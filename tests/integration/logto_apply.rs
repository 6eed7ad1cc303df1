//! What a tenant should hold is made so, in any order of misfortune, once, and nothing else is touched.

use std::time::Duration;

use serde_json::json;
use wicketgate::config::{Document, Secret};
use wicketgate::demo::issuer::{Application, Issuer, ManagementFault, Resource, Settings};
use wicketgate::logto::{LogtoError, ManagementApi, Plan, Progress, plan};
use wicketgate::policy::{LogtoAccess, Tenant, compile};

use super::support::logto::{APP_ID, APP_SECRET, FakeLogto, MANAGEMENT_API, Tenant as Held};
use super::support::{RESOURCE, loopback};

const WHOLE: &str = "
services:
  - name: weather
    resource: [https://api.weather.example, https://api.weather.example/]
    upstream: http://127.0.0.1:3000
    routes:
      GET /forecast/{city}: read:weather
      POST /forecast/{city}: write:weather
    scopes: { read:weather: Read forecasts }
    access_token_ttl: 5m
logto:
  endpoint: https://logto.example
  app_id: a
  app_secret: s
  roles:
    - { name: Weather user, scopes: [read:weather, write:weather] }
    - { name: Weather station, type: MachineToMachine, scopes: write:weather }
  third_party_apps:
    - { name: WeatherBot, redirect_uris: [https://bot.example/callback], scopes: read:weather, user_scopes: [profile] }
    - { name: Device, type: Native, scopes: [] }
";

fn tenant(yaml: &str) -> Tenant {
    let text = format!("issuer: https://logto.example/oidc{yaml}");
    let document = Document::read(&text, &|_| None);
    let policy = compile(document.config.as_ref().unwrap(), String::new(), &|_| Err(String::new()));
    policy.unwrap_or_else(|faults| panic!("{faults:?}")).logto.unwrap().tenant
}

async fn planned(api: &ManagementApi, yaml: &str) -> Plan {
    let tenant = tenant(yaml);
    plan(&tenant, &api.read(&tenant).await.unwrap())
}

/// Everything that `apply` does, or the error that ended it.
async fn apply(api: &ManagementApi, yaml: &str, prune: bool) -> Result<usize, LogtoError> {
    let tenant = tenant(yaml);
    let plan = plan(&tenant, &api.read(&tenant).await?);
    assert!(plan.conflicts.is_empty(), "{:?}", plan.conflicts);
    let mut progress = Progress::new(api, &plan);
    let pruned = if prune { plan.extra.as_slice() } else { &[] };
    let mut done = 0;
    for step in plan.steps.iter().chain(pruned) {
        progress.make(step).await?;
        done += 1;
    }
    Ok(done)
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| step.line().to_string()).collect()
}

fn extra(plan: &Plan) -> Vec<String> {
    plan.extra.iter().map(|step| step.line().to_string()).collect()
}

/// What stands there, by names: ids differ from run to run.
fn held(logto: &FakeLogto) -> Vec<String> {
    logto.tenant(|tenant| {
        let name = |things: &[serde_json::Value], id: &str| {
            things.iter().find(|thing| thing["id"] == id).map_or_else(|| id.to_owned(), |thing| thing["name"].as_str().unwrap().to_owned())
        };
        let mut all = Vec::new();
        let Held { resources, scopes, roles, role_scopes, applications, user_scopes, consent_scopes, .. } = tenant;
        all.extend(
            resources
                .iter()
                .map(|resource| format!("resource {} {} {}", resource["name"], resource["indicator"], resource["accessTokenTtl"])),
        );
        all.extend(scopes.iter().map(|scope| {
            format!("scope {} {} {}", name(resources, scope["resourceId"].as_str().unwrap()), scope["name"], scope["description"])
        }));
        all.extend(roles.iter().map(|role| format!("role {} {} {}", role["name"], role["type"], role["description"])));
        all.extend(role_scopes.iter().map(|(role, scope)| format!("holds {} {}", name(roles, role), name(scopes, scope))));
        all.extend(
            applications
                .iter()
                .map(|app| format!("app {} {} {} {}", app["name"], app["type"], app["isThirdParty"], app["oidcClientMetadata"])),
        );
        all.extend(user_scopes.iter().map(|(app, scope)| format!("asks {} {scope}", name(applications, app))));
        all.extend(consent_scopes.iter().map(|(app, scope)| format!("asks {} {}", name(applications, app), name(scopes, scope))));
        all.sort();
        all
    })
}

#[tokio::test]
async fn an_empty_tenant_is_filled_and_a_second_time_there_is_nothing_to_do() {
    let logto = FakeLogto::start().await;
    let api = ManagementApi::new(logto.access()).unwrap();
    let plan = planned(&api, WHOLE).await;
    assert_eq!(
        lines(&plan),
        [
            "+ resource  https://api.weather.example  \"weather\", access tokens live 300s",
            "+ scope     read:weather of https://api.weather.example  \"Read forecasts\"",
            "+ scope     write:weather of https://api.weather.example  \"write:weather\"",
            "+ resource  https://api.weather.example/  \"weather\", access tokens live 300s",
            "+ scope     read:weather of https://api.weather.example/  \"Read forecasts\"",
            "+ scope     write:weather of https://api.weather.example/  \"write:weather\"",
            "+ role      Weather user  User, \"Weather user\", holds read:weather of https://api.weather.example, write:weather of https://api.weather.example, read:weather of https://api.weather.example/, write:weather of https://api.weather.example/",
            "+ role      Weather station  MachineToMachine, \"Weather station\", holds write:weather of https://api.weather.example, write:weather of https://api.weather.example/",
            "+ app       WeatherBot  third-party, Traditional, back to https://bot.example/callback",
            "~ app       WeatherBot  may ask users for read:weather of https://api.weather.example, read:weather of https://api.weather.example/, profile",
            "+ app       Device  third-party, Native",
        ]
    );
    assert_eq!(logto.changes(), 0, "planning changes nothing");
    assert_eq!(apply(&api, WHOLE, false).await.unwrap(), 11);
    assert_eq!(logto.changes(), 11);
    let made = held(&logto);
    assert_eq!(made.len(), 2 + 4 + 2 + 6 + 2 + 3, "{made:#?}");
    assert_eq!(apply(&api, WHOLE, true).await.unwrap(), 0);
    assert_eq!((logto.changes(), held(&logto)), (11, made));
}

/// A crash between any two calls, and in the middle of any, leaves something that the next run completes.
#[tokio::test]
async fn whatever_call_it_is_cut_off_at_the_next_run_completes_it() {
    let undisturbed = FakeLogto::start().await;
    let api = ManagementApi::new(undisturbed.access()).unwrap();
    let changes = apply(&api, WHOLE, false).await.unwrap();
    let whole = held(&undisturbed);
    for (change, effect) in (1..=changes).flat_map(|change| [(change, false), (change, true)]) {
        let logto = FakeLogto::start().await;
        logto.dies_at(change, effect);
        let hasty = ManagementApi::new(LogtoAccess { deadline: Duration::from_millis(150), ..logto.access() }).unwrap();
        assert!(apply(&hasty, WHOLE, false).await.unwrap_err().is_passing(), "at {change}");
        logto.lives();
        let api = ManagementApi::new(logto.access()).unwrap();
        let rest = apply(&api, WHOLE, false).await.unwrap();
        let before = if effect { change } else { change - 1 };
        assert_eq!(held(&logto), whole, "cut off at {change}, done: {effect}");
        // On a busy machine the short deadline may cut it off sooner still, and more is left.
        assert!((changes - before..=changes).contains(&rest), "{rest} left after {change}, done: {effect}");
        assert_eq!(apply(&api, WHOLE, false).await.unwrap(), 0, "after {change}");
    }
}

#[tokio::test]
async fn what_differs_is_changed_and_what_is_not_named_stays_as_it_is() {
    let logto = FakeLogto::start().await;
    let api = ManagementApi::new(logto.access()).unwrap();
    let app = logto.tenant(|tenant| {
        let weather = tenant.add_resource("Named by hand", RESOURCE);
        let read = tenant.add_scope(&weather, "read:weather", "Old words");
        tenant.add_scope(&weather, "write:weather", "By hand");
        let old = tenant.add_scope(&weather, "old:weather", "No longer named");
        let other = tenant.add_resource("Other", "https://other.example");
        let strange = tenant.add_scope(&other, "read:other", "Another's");
        let role = tenant.add_role("Weather user", "User");
        tenant.add_role("Another's", "User");
        tenant.role_scopes.extend([old.clone(), strange.clone()].map(|scope| (role.clone(), scope)));
        let app = tenant.add_application("WeatherBot", "Traditional", true);
        tenant.applications[0]["oidcClientMetadata"]["redirectUris"] = json!(["https://old.example/callback"]);
        tenant.applications[0]["oidcClientMetadata"]["postLogoutRedirectUris"] = json!(["https://bot.example/bye"]);
        tenant.applications[0]["oidcClientMetadata"]["logoUri"] = "https://bot.example/logo.png".into();
        tenant.consent_scopes.extend([old, strange, read].map(|scope| (app.clone(), scope)));
        tenant.user_scopes.push((app.clone(), "email".to_owned()));
        // Of the same name, and the company's own.
        tenant.add_application("WeatherBot", "Traditional", false);
        tenant.add_application("Another's", "SPA", true);
        app
    });
    let yaml = WHOLE.replace("[https://api.weather.example, https://api.weather.example/]", RESOURCE);
    let plan = planned(&api, &yaml).await;
    assert_eq!(
        lines(&plan),
        [
            "~ resource  https://api.weather.example  access tokens live 3600s -> 300s",
            "~ scope     read:weather of https://api.weather.example  \"Old words\" -> \"Read forecasts\"",
            "~ role      Weather user  holds also read:weather, write:weather",
            "+ role      Weather station  MachineToMachine, \"Weather station\", holds write:weather",
            "~ app       WeatherBot  also back to https://bot.example/callback",
            "~ app       WeatherBot  may ask users for profile",
            "+ app       Device  third-party, Native",
        ]
    );
    let extra = extra(&plan);
    assert_eq!(
        extra,
        [
            "- role      Weather user  holds old:weather of https://api.weather.example",
            "- app       WeatherBot  back to https://old.example/callback",
            "- app       WeatherBot  may ask users for old:weather of https://api.weather.example",
            "- app       WeatherBot  may ask users for email",
            "- scope     old:weather of https://api.weather.example",
        ]
    );
    apply(&api, &yaml, false).await.unwrap();
    assert_eq!(logto.count("DELETE", "/api"), 0, "nothing is taken away without --prune");
    let uris = |tenant: &mut Held| tenant.applications[0]["oidcClientMetadata"].clone();
    assert_eq!(logto.tenant(uris)["redirectUris"], json!(["https://old.example/callback", "https://bot.example/callback"]));
    assert_eq!(apply(&api, &yaml, true).await.unwrap(), extra.len());
    assert_eq!(
        logto.tenant(uris),
        json!({ "redirectUris": ["https://bot.example/callback"], "postLogoutRedirectUris": ["https://bot.example/bye"], "logoUri": "https://bot.example/logo.png" })
    );
    assert_eq!(apply(&api, &yaml, true).await.unwrap(), 0);
    // Another's things, also those that stand on ours.
    logto.tenant(|tenant| {
        let strange = tenant.scope_id("read:other");
        assert!(tenant.role_scopes.iter().any(|(_, scope)| *scope == strange));
        assert!(tenant.consent_scopes.contains(&(app, strange)));
        assert_eq!(tenant.applications.len(), 4);
        assert_eq!((tenant.resources.len(), tenant.roles.len()), (2, 3));
        assert_eq!(tenant.resources[0]["name"], "Named by hand");
        assert_eq!(tenant.scopes[1]["description"], "By hand");
    });
}

#[tokio::test]
async fn pruning_deletes_only_apps_that_apply_made_for_these_resources() {
    let logto = FakeLogto::start().await;
    let api = ManagementApi::new(logto.access()).unwrap();
    apply(&api, WHOLE, false).await.unwrap();
    logto.tenant(|tenant| {
        let ours = tenant.scope_id("read:weather");
        let other = tenant.add_resource("Other", "https://other.example");
        let strange = tenant.add_scope(&other, "read:other", "Another's");
        // By hand, with a scope of ours; by another gate; registered.
        for (name, mark, scopes) in [
            ("By hand", json!({}), vec![&ours]),
            ("Another gate's", json!({ "wicketgate": { "applied": true } }), vec![&strange]),
            ("For both", json!({ "wicketgate": { "applied": true } }), vec![&ours, &strange]),
            ("Registered", json!({ "wicketgate": { "registered": true } }), vec![&ours]),
        ] {
            let id = tenant.add_application(name, "SPA", true);
            tenant.applications.last_mut().unwrap()["customData"] = mark;
            tenant.consent_scopes.extend(scopes.into_iter().map(|scope| (id.clone(), scope.clone())));
        }
    });
    let fewer = WHOLE
        .replace("    - { name: WeatherBot,", "    - { name: NewBot,")
        .replace("    - { name: Weather user, scopes: [read:weather, write:weather] }\n", "");
    let found = extra(&planned(&api, &fewer).await);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("- app       WeatherBot  client_id "), "{found:?}");
    apply(&api, &fewer, true).await.unwrap();
    let names = logto.tenant(|tenant| tenant.applications.iter().map(|app| app["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>());
    assert_eq!(names, ["Device", "By hand", "Another gate's", "For both", "Registered", "NewBot"]);
    assert_eq!(logto.tenant(|tenant| tenant.roles.len()), 2, "a role is never deleted");
}

/// An agent chooses its own name: it must not be given what the app of that name is to have.
#[tokio::test]
async fn an_app_that_an_agent_registered_is_never_taken_for_one_that_the_configuration_names() {
    let logto = FakeLogto::start().await;
    let impostor = logto.tenant(|tenant| {
        let id = tenant.add_application("WeatherBot", "Traditional", true);
        let app = tenant.applications.iter_mut().find(|app| app["id"] == id.as_str()).unwrap();
        app["customData"] = json!({ "wicketgate": { "registered": 1_795_361_886, "state": "done" } });
        id
    });
    let api = ManagementApi::new(logto.access()).unwrap();
    apply(&api, WHOLE, true).await.unwrap();
    let (held, bots) = logto.tenant(|tenant| {
        let held = tenant.consent_scopes.iter().chain(&tenant.user_scopes).any(|(app, _)| *app == impostor);
        (held, tenant.applications.iter().filter(|app| app["name"] == "WeatherBot").count())
    });
    assert_eq!((held, bots), (false, 2));
}

#[tokio::test]
async fn what_no_step_can_change_is_said_and_nothing_is_guessed() {
    let logto = FakeLogto::start().await;
    let api = ManagementApi::new(logto.access()).unwrap();
    logto.tenant(|tenant| {
        tenant.add_role("Weather user", "MachineToMachine");
        tenant.add_application("Device", "SPA", true);
        (0..2).for_each(|_| drop(tenant.add_application("WeatherBot", "Traditional", true)));
    });
    let plan = planned(&api, WHOLE).await;
    assert_eq!(plan.conflicts.len(), 3, "{:?}", plan.conflicts);
    for (conflict, part) in plan.conflicts.iter().zip(["MachineToMachine in Logto", "several third-party apps", "Spa in Logto"]) {
        assert!(conflict.contains(part), "{conflict}");
    }
}

#[tokio::test]
async fn a_tenant_with_hundreds_of_apps_and_scopes_is_compared_whole() {
    let logto = FakeLogto::start().await;
    let api = ManagementApi::new(logto.access()).unwrap();
    apply(&api, WHOLE, false).await.unwrap();
    logto.tenant(|tenant| {
        (0..300).for_each(|i| drop(tenant.add_application(&format!("Bot {i}"), "SPA", true)));
        (0..150).for_each(|i| drop(tenant.add_role(&format!("Role {i}"), "User")));
        (0..150).for_each(|i| drop(tenant.add_resource("More", &format!("https://{i}.example"))));
    });
    assert_eq!(apply(&api, WHOLE, false).await.unwrap(), 0);
}

/// The issuer of the demo, which answers as Logto does by other code than the tenant above.
async fn demo_issuer() -> (Issuer, LogtoAccess) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = Settings { applications: vec![Application::machine(APP_ID, APP_SECRET, &["all"])], ..Settings::default() };
    let issuer = Issuer::start(loopback(), settings).await.unwrap();
    let access = LogtoAccess {
        endpoint: issuer.url().trim_end_matches("/oidc").to_owned(),
        management_api: MANAGEMENT_API.to_owned(),
        app_id: APP_ID.to_owned(),
        app_secret: Secret::new(APP_SECRET),
        timeout: Duration::from_secs(2),
        deadline: Duration::from_secs(15),
    };
    (issuer, access)
}

/// What stands there, by names.
fn names(issuer: &Issuer) -> (Vec<String>, Vec<String>, Vec<String>) {
    let tenant = issuer.tenant();
    let scope =
        |id: &String| tenant.resources.iter().flat_map(|resource| &resource.scopes).find(|scope| scope.id == *id).unwrap().name.clone();
    let scopes =
        |resource: &Resource| resource.scopes.iter().map(|scope| format!("{}={}", scope.name, scope.description)).collect::<Vec<_>>();
    let resources =
        tenant.resources.iter().map(|resource| format!("{} {:?} {:?}", resource.indicator, resource.access_token_ttl, scopes(resource)));
    let roles = tenant.roles.iter().map(|role| format!("{} {:?}", role.name, role.scopes.iter().map(scope).collect::<Vec<_>>()));
    let asks = |app: &Application| app.ceiling.resource_scopes.iter().map(scope).chain(app.ceiling.user_scopes.clone()).collect::<Vec<_>>();
    let apps = tenant.applications.iter().filter(|app| app.third_party);
    let apps = apps.map(|app| format!("{} {} {:?} {:?}", app.name, app.kind.name(), app.redirect_uris, asks(app)));
    (resources.collect(), roles.collect(), apps.collect())
}

#[tokio::test]
async fn the_demos_issuer_is_brought_to_the_same_and_pruned() {
    let (issuer, access) = demo_issuer().await;
    let api = ManagementApi::new(access).unwrap();
    assert_eq!(apply(&api, WHOLE, false).await.unwrap(), 11);
    assert_eq!(apply(&api, WHOLE, true).await.unwrap(), 0);
    let (resources, roles, apps) = names(&issuer);
    assert_eq!((resources.len(), roles.len()), (3, 3), "{resources:?} {roles:?}");
    assert_eq!(resources[1], "https://api.weather.example Some(300) [\"read:weather=Read forecasts\", \"write:weather=write:weather\"]");
    assert_eq!(
        apps,
        [
            "WeatherBot Traditional [\"https://bot.example/callback\"] [\"read:weather\", \"read:weather\", \"profile\"]",
            "Device Native [] []"
        ]
    );
    // Another URI and description, a scope less, an app less.
    let other = WHOLE
        .replace("https://bot.example/callback", "https://bot.example/back")
        .replace("Read forecasts", "See forecasts")
        .replace("user_scopes: [profile]", "user_scopes: [email]")
        .replace("      POST /forecast/{city}: write:weather\n", "")
        .replace("[read:weather, write:weather]", "read:weather")
        .replace("    - { name: Weather station, type: MachineToMachine, scopes: write:weather }\n", "");
    apply(&api, &other, true).await.unwrap();
    assert_eq!(apply(&api, &other, true).await.unwrap(), 0);
    let (resources, _, apps) = names(&issuer);
    assert_eq!(resources[1], "https://api.weather.example Some(300) [\"read:weather=See forecasts\"]");
    assert_eq!(apps[0], "WeatherBot Traditional [\"https://bot.example/back\"] [\"read:weather\", \"read:weather\", \"email\"]");
}

#[tokio::test]
async fn the_demos_issuer_may_break_off_at_any_call_and_ends_the_same() {
    let (undisturbed, access) = demo_issuer().await;
    apply(&ManagementApi::new(access).unwrap(), WHOLE, false).await.unwrap();
    let calls = u32::try_from(undisturbed.management_calls().len()).unwrap();
    let whole = names(&undisturbed);
    for (call, fault) in (0..calls).flat_map(|call| [(call, ManagementFault::BreakOff), (call, ManagementFault::Status(500))]) {
        let (issuer, access) = demo_issuer().await;
        issuer.misbehave_management(fault, call..call + 1);
        apply(&ManagementApi::new(access).unwrap(), WHOLE, false).await.unwrap();
        assert_eq!(names(&issuer), whole, "{fault:?} at call {call}");
    }
    let (issuer, access) = demo_issuer().await;
    issuer.misbehave_management(ManagementFault::TooManyRequests { retry_after_seconds: 0 }, 3..6);
    apply(&ManagementApi::new(access).unwrap(), WHOLE, false).await.unwrap();
    assert_eq!(names(&issuer), whole);
}
