//! `logto plan` and `logto apply` as a process: what they print, how they end, and where secrets go.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use tempfile::TempDir;

use super::child::{Ended, command};
use super::support::logto::{APP_ID, APP_SECRET, FakeLogto, Trouble};

struct Setup {
    directory: TempDir,
    logto: FakeLogto,
}

impl Setup {
    async fn new() -> Self {
        let logto = FakeLogto::start().await;
        let directory = tempfile::tempdir().unwrap();
        let setup = Self { directory, logto };
        setup.write(&setup.yaml());
        setup
    }

    fn yaml(&self) -> String {
        format!(
            "issuer: {url}/oidc
services:
  - name: weather
    resource: https://api.weather.example
    upstream: http://127.0.0.1:3000
    routes: {{ 'GET /forecast/{{city}}': read:weather }}
    scopes: {{ read:weather: Read forecasts }}
logto:
  endpoint: {url}
  app_id: {APP_ID}
  app_secret_file: secret
  timeout: 1s
  deadline: 2s
  roles: [{{ name: Weather user, scopes: read:weather }}]
  third_party_apps:
    - {{ name: WeatherBot, redirect_uris: [https://bot.example/callback], scopes: read:weather, user_scopes: [profile] }}
",
            url = self.logto.url()
        )
    }

    fn write(&self, yaml: &str) {
        std::fs::write(self.directory.path().join("wicketgate.yaml"), yaml).unwrap();
        std::fs::write(self.directory.path().join("secret"), format!("{APP_SECRET}\n")).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    async fn logto(&self, arguments: &[&str]) -> Ended {
        let config = self.path("wicketgate.yaml");
        let ended = command(&[&["logto"], arguments, &["--config", &config]].concat(), "").await;
        assert!(!ended.stdout.contains(APP_SECRET) && !ended.stderr.contains(APP_SECRET), "{ended:?}");
        assert!(!ended.stdout.contains("token-") && !ended.stderr.contains("token-"), "{ended:?}");
        ended
    }
}

const PLAN: &str = "\
+ resource  https://api.weather.example  \"weather\"
+ scope     read:weather of https://api.weather.example  \"Read forecasts\"
+ role      Weather user  User, \"Weather user\", holds read:weather
+ app       WeatherBot  third-party, Traditional, back to https://bot.example/callback
~ app       WeatherBot  may ask users for read:weather, profile
";

#[tokio::test]
async fn plan_shows_what_apply_then_does_and_the_exit_code_tells_them_apart() {
    let setup = Setup::new().await;
    let planned = setup.logto(&["plan"]).await;
    assert_eq!((planned.code, planned.stderr.as_str()), (Some(2), ""));
    assert_eq!(planned.stdout, format!("{PLAN}5 to do; wicketgate logto apply makes it so\n"));
    assert_eq!(setup.logto.changes(), 0);
    let applied = setup.logto(&["apply"]).await;
    assert_eq!((applied.code, applied.stderr.as_str()), (Some(0), ""));
    let id = setup.logto.tenant(|tenant| tenant.applications[0]["id"].as_str().unwrap().to_owned());
    let expected = PLAN.replace("callback\n~", &format!("callback\n            client_id {id}\n~"));
    assert_eq!(applied.stdout, format!("{expected}5 done\n"));
    let secrets = setup.logto.calls().iter().filter(|call| call.ends_with("/secrets")).count();
    assert_eq!(secrets, 0, "nobody asked for a secret");
    for arguments in [&["plan"][..], &["apply"], &["plan", "--prune"], &["apply", "--prune"]] {
        let again = setup.logto(arguments).await;
        assert_eq!((again.code, again.stdout.as_str()), (Some(0), "nothing to do\n"), "{arguments:?}");
    }
}

#[tokio::test]
async fn programs_read_the_same_as_json() {
    let setup = Setup::new().await;
    let planned = setup.logto(&["plan", "--json"]).await;
    let plan: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(planned.code, Some(2));
    assert_eq!(plan["changes"].as_array().unwrap().len(), 5);
    assert_eq!(plan["changes"][1]["action"], "create");
    assert_eq!(plan["changes"][1]["kind"], "scope");
    let file = setup.path("new.json");
    let applied = setup.logto(&["apply", "--json", "--secrets-file", &file]).await;
    let report: Value = serde_json::from_str(&applied.stdout).unwrap();
    assert_eq!((&report["done"], &report["failed"]), (&plan["changes"], &Value::Null));
    assert_eq!(report["apps"][0]["name"], "WeatherBot");
    assert!(!applied.stdout.contains("secret-of-"), "{}", applied.stdout);
    assert_eq!(setup.logto(&["apply", "--json", "--show-secrets"]).await.code, Some(64));
}

#[tokio::test]
async fn secrets_of_new_apps_go_only_where_they_were_asked_to() {
    let setup = Setup::new().await;
    let (file, taken) = (setup.path("new.json"), setup.path("taken"));
    std::fs::write(&taken, "kept").unwrap();
    let refused = setup.logto(&["apply", "--secrets-file", &taken]).await;
    assert_eq!((refused.code, setup.logto.changes()), (Some(64), 0), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "kept");
    let applied = setup.logto(&["apply", "--secrets-file", &file]).await;
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert!(!applied.stdout.contains("secret-of-"), "{}", applied.stdout);
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let id = written["client_id"].as_str().unwrap();
    assert_eq!(written["client_secret"], format!("secret-of-{id}"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // Once: a second run made nothing, and needs no file.
    let again = setup.logto(&["apply", "--secrets-file", &setup.path("other.json"), "--show-secrets"]).await;
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "nothing to do\n"));
    assert!(!std::path::Path::new(&setup.path("other.json")).exists());
    // Shown when asked.
    setup.logto.tenant(|tenant| tenant.applications.clear());
    let shown = setup.logto(&["apply", "--show-secrets"]).await;
    assert!(shown.stdout.contains("client_secret secret-of-"), "{}", shown.stdout);
}

#[tokio::test]
async fn a_failure_half_way_says_what_was_done_and_the_next_run_completes_it() {
    let setup = Setup::new().await;
    setup.logto.trouble("POST", "/api/applications", [Trouble::Forbidden]);
    let failed = setup.logto(&["apply"]).await;
    assert_eq!(failed.code, Some(69));
    assert_eq!(failed.stdout.lines().count(), 3, "{}", failed.stdout);
    for part in ["+ app       WeatherBot", "Logto forbids it", "3 done before that stay", "apply goes on from there"] {
        assert!(failed.stderr.contains(part), "{part} in {}", failed.stderr);
    }
    setup.logto.tenant(|tenant| assert_eq!((tenant.roles.len(), tenant.applications.len()), (1, 0)));
    let rest = setup.logto(&["apply", "--json"]).await;
    let report: Value = serde_json::from_str(&rest.stdout).unwrap();
    assert_eq!((rest.code, report["done"].as_array().unwrap().len()), (Some(0), 2), "{rest:?}");
}

#[tokio::test]
async fn nothing_is_taken_away_before_the_plan_was_read() {
    let setup = Setup::new().await;
    setup.logto(&["apply"]).await;
    setup.logto.tenant(|tenant| {
        let weather = tenant.resources[0]["id"].as_str().unwrap().to_owned();
        tenant.add_scope(&weather, "old:weather", "Old");
    });
    let line = "- scope     old:weather of https://api.weather.example";
    let left = setup.logto(&["plan"]).await;
    assert_eq!((left.code, left.stdout), (Some(0), format!("{line}  left alone (use --prune)\nnothing to do\n")));
    assert_eq!(setup.logto(&["plan", "--prune"]).await.code, Some(2));
    let applied = setup.logto(&["apply"]).await;
    assert_eq!((applied.code, applied.stdout), (Some(0), format!("{line}  left alone (use --prune)\nnothing to do\n")));
    let unread = setup.logto(&["apply", "--prune"]).await;
    assert_eq!((unread.code, unread.stdout), (Some(64), format!("{line}\n")));
    assert!(unread.stderr.contains("--yes"), "{}", unread.stderr);
    assert_eq!(setup.logto.count("DELETE", "/api"), 0);
    let pruned = setup.logto(&["apply", "--prune", "--yes"]).await;
    assert_eq!((pruned.code, pruned.stdout), (Some(0), format!("{line}\n1 done\n")));
    setup.logto.tenant(|tenant| assert_eq!(tenant.scopes.len(), 1));
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_is_changed() {
    let setup = Setup::new().await;
    std::fs::write(setup.path("secret"), "another").unwrap();
    let refused = setup.logto(&["apply"]).await;
    assert_eq!(refused.code, Some(69));
    assert!(refused.stderr.contains("check logto.app_id and logto.app_secret"), "{}", refused.stderr);
    setup.write(&setup.yaml());
    setup.logto.tenant(|tenant| tenant.add_role("Weather user", "MachineToMachine"));
    for arguments in [["plan"], ["apply"]] {
        let conflict = setup.logto(&arguments).await;
        assert_eq!(conflict.code, Some(69));
        assert!(conflict.stderr.contains("cannot be changed"), "{}", conflict.stderr);
    }
    let without = setup.yaml().split("logto:").next().unwrap().to_owned();
    setup.write(&without);
    let nothing = setup.logto(&["plan"]).await;
    assert_eq!(nothing.code, Some(64));
    assert!(nothing.stderr.contains("no logto: in it"), "{}", nothing.stderr);
    setup.write("services: 1");
    assert_eq!(setup.logto(&["plan"]).await.code, Some(64));
    assert_eq!(setup.logto.changes(), 0);
}

#[tokio::test]
async fn a_logto_that_is_not_there_is_no_fault_of_the_configuration() {
    let setup = Setup::new().await;
    let nowhere = super::support::reserve();
    setup.write(&setup.yaml().replace(&setup.logto.url(), &format!("http://{}", nowhere.address)));
    let ended = setup.logto(&["plan"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(69), ""));
    assert!(ended.stderr.contains("Logto cannot be reached") && ended.stderr.contains("check logto.endpoint"), "{}", ended.stderr);
}

/// The guide shows what the command prints for the guide's own configuration.
#[tokio::test]
async fn the_guides_plan_is_what_the_command_prints() {
    let setup = Setup::new().await;
    let guide = include_str!("../../docs/guide.md");
    let block = |start: &str| {
        let from = guide.find(start).unwrap();
        let text = &guide[from..];
        text[..text.find("\n```\n").unwrap() + 1].to_owned()
    };
    let config =
        format!("{}{}", block("issuer: https://my-tenant.logto.app/oidc"), block("    scopes:                                       # in"));
    let config = config.replace("https://my-tenant.logto.app", &setup.logto.url()).replace("5nzcf1qn6r1hmkuooue2r", APP_ID);
    setup.write(&config.replace("/run/secrets/logto", "secret"));
    let planned = setup.logto(&["plan"]).await;
    assert_eq!((planned.stdout.as_str(), planned.code), (block("+ resource  https").as_str(), Some(2)), "{}", planned.stderr);
    let applied = setup.logto(&["apply", "--secrets-file", &setup.path("weatherbot.json")]).await;
    assert!(applied.stdout.ends_with("may ask users for read:weather, profile\n6 done\n"), "{}", applied.stdout);
}
