//! The configuration as the operator meets it: what is good compiles, what is not says exactly why, and the example,
//! the schema and the types know the same keys.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says no by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use wicketgate::config::{ConfigErrors, Document, json_schema};
use wicketgate::policy::{Policy, compile};

fn files(name: &str) -> Result<Vec<u8>, String> {
    match name {
        "/exists" => Ok(b"secret\n".to_vec()),
        "/exists_long" => Ok(b"# a comment\na-token-of-some-length\n\nanother.token-of-some-length\n".to_vec()),
        _ => Err("the file cannot be read: entity not found".to_owned()),
    }
}

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "TENANT" => "https://tenant.logto.app/oidc",
        "PORT" => "8081",
        "EMPTY" => "",
        "INJECTION" => "read:weather\n      /admin/**: public",
        _ => return None,
    };
    Some(value.to_owned())
}

fn read(text: &str) -> Result<Policy, ConfigErrors> {
    let document = Document::read(text, &environment);
    match &document.config {
        None => Err(document.into_errors("wicketgate.yaml", Vec::new())),
        Some(config) => match compile(config, String::new(), &files) {
            Ok(policy) if !document.has_faults() => Ok(policy),
            Ok(_) => Err(document.into_errors("wicketgate.yaml", Vec::new())),
            Err(faults) => Err(document.into_errors("wicketgate.yaml", faults)),
        },
    }
}

fn cases(kind: &str) -> Vec<(PathBuf, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    assert!(!paths.is_empty());
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_valid_document_compiles() {
    for (path, text) in cases("valid") {
        if let Err(faults) = read(&text) {
            panic!("{}:\n{faults}", path.display());
        }
    }
}

/// Each invalid document stands beside the exact message. `WRITE_MESSAGES=1 cargo test` writes them anew, to be read
/// before they are kept.
#[test]
fn every_invalid_document_says_exactly_why() {
    for (path, text) in cases("invalid") {
        let Err(faults) = read(&text) else { panic!("{} compiled", path.display()) };
        let message = path.with_extension("txt");
        let found = format!("{faults}\n");
        if std::env::var_os("WRITE_MESSAGES").is_some() {
            std::fs::write(&message, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&message).unwrap_or_default();
        assert_eq!(found, expected, "{}", path.display());
    }
}

#[test]
fn five_different_faults_are_reported_together() {
    let (_, text) = cases("invalid").into_iter().find(|(path, _)| path.ends_with("five_faults.yaml")).unwrap();
    assert_eq!(read(&text).unwrap_err().faults.len(), 5);
}

#[test]
fn every_fault_names_its_line_and_what_to_write() {
    for (path, text) in cases("invalid") {
        for fault in read(&text).unwrap_err().faults {
            assert!(fault.place.is_some_and(|place| place.line > 0 && place.column > 0), "{}: {fault}", path.display());
            assert!(!fault.cure.is_empty(), "{}: {fault}", path.display());
        }
    }
}

#[test]
fn an_environment_variable_is_a_value_and_never_structure() {
    let good = "listen: 127.0.0.1:${PORT}\nissuer: ${TENANT}\nservices:\n  - name: a\n    resource: https://a.example\n    upstream: http://127.0.0.1:1\n    routes:\n";
    let policy = read(&format!("{good}      /x: ${{SCOPE:-read:weather}}\n")).unwrap();
    assert_eq!(policy.issuers[0].url, "https://tenant.logto.app/oidc");
    assert_eq!(policy.listeners[0].to_string(), "127.0.0.1:8081");
    let injected = read(&format!("{good}      /x: ${{INJECTION}}\n")).unwrap_err().to_string();
    assert!(injected.contains("no scope"), "{injected}");
}

#[test]
fn a_secret_at_fault_is_not_shown() {
    let text = "issuer: https://i.example\nservices: []\nlogto: { endpoint: x, app_id: y, app_secret: [hunter2] }\n";
    assert!(!read(text).unwrap_err().to_string().contains("hunter2"));
}

/// The address of Redis holds a password, and is shown whether it is good or not.
#[test]
fn an_address_with_a_password_is_not_shown() {
    let head = "issuer: https://i.example\nservices:\n  - { name: a, resource: https://a.example, upstream: 'http://127.0.0.1:1', routes: { /x: public } }\n";
    for address in ["redis://:hunter2@h:99999", "http://:hunter2@h", "redis://:hunter2@h/x", "hunter2", "redis://:hunter2@h?a=b"] {
        let message = read(&format!("{head}state: {{ redis: '{address}' }}\n")).unwrap_err().to_string();
        assert!(message.contains("no address of a Redis") && !message.contains("hunter2"), "{message}");
    }
    let good = read(&format!("{head}state: {{ redis: 'rediss://user:hunter2@cache.example/3' }}\n")).unwrap();
    assert_eq!(good.state.redis.as_ref().unwrap().shown, "rediss://cache.example:6379");
    assert!(!format!("{good:?}").contains("hunter2"));
}

#[test]
fn no_random_document_panics() {
    let seed = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml")).unwrap();
    // Every prefix of the example, and the example with each line taken out: what editors and crashes leave behind.
    for end in (0..seed.len()).filter(|end| seed.is_char_boundary(*end)).step_by(7) {
        let _ = read(&seed[..end]);
    }
    let lines: Vec<&str> = seed.lines().collect();
    for without in 0..lines.len() {
        let kept: Vec<&str> = lines.iter().enumerate().filter(|(i, _)| *i != without).map(|(_, line)| *line).collect();
        let _ = read(&kept.join("\n"));
    }
}

fn example() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml")).unwrap()
}

/// The example with its optional blocks taken in.
fn whole_example() -> String {
    example().lines().map(|line| line.strip_prefix("#|").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_compiles_as_it_stands() {
    if let Err(faults) = read(&example()) {
        panic!("{faults}");
    }
}

#[test]
fn the_example_names_its_schema_in_the_first_line() {
    assert!(example().starts_with("# yaml-language-server: $schema="));
}

/// All keys that the schema knows, by the type that they belong to.
fn schema_keys(schema: &Value) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    collect_properties(schema, &mut keys);
    keys
}

fn collect_properties(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| collect_properties(value, keys));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_properties(item, keys)),
        _ => {}
    }
}

#[test]
fn the_example_the_schema_and_the_types_know_the_same_keys() {
    let example = whole_example();
    let known = schema_keys(&serde_json::to_value(json_schema()).unwrap());
    let written: BTreeSet<String> = example
        .lines()
        .flat_map(|line| line.split(['{', ',', '#']))
        .filter_map(|part| part.trim().trim_start_matches("- ").split_once(':'))
        .map(|(key, _)| key.trim().to_owned())
        .collect();
    let missing: Vec<&String> = known.iter().filter(|key| !written.contains(*key)).collect();
    assert!(missing.is_empty(), "keys that the example does not show: {missing:?}");
    // What the types do not know is a fault, so the example has no key too many; what it needs from outside is all
    // that is left to complain about.
    let faults = read(&example).unwrap_err();
    for fault in &faults.faults {
        let outside = fault.reason.contains("cannot be read")
            || fault.reason.contains("LOGTO_APP_SECRET")
            || fault.reason.contains("GATE_APP_SECRET")
            || fault.reason.contains("no secret, or two")
            || fault.reason.contains("REDIS_URL")
            || fault.reason.contains("two addresses of Redis")
            || fault.reason.contains("no place, or two")
            || fault.reason.contains("LOGTO_WEBHOOK_KEY")
            || fault.reason.contains("two signing keys");
        assert!(outside, "{fault}");
    }
}

/// The reference names every key by its whole path, as the types have it.
#[test]
fn the_reference_names_every_key() {
    let reference = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md")).unwrap();
    let schema = serde_json::to_value(json_schema()).unwrap();
    let mut paths = Vec::new();
    key_paths(&schema, &schema, "", &mut paths);
    assert!(paths.len() > 60, "{paths:?}");
    let missing: Vec<&String> = paths.iter().filter(|path| !reference.contains(&format!("`{path}`"))).collect();
    assert!(missing.is_empty(), "keys that docs/config.md does not name: {missing:?}");
}

/// Follows references, lists and alternatives; a map with keys of the operator's own adds nothing to the path.
fn key_paths(schema: &Value, root: &Value, path: &str, paths: &mut Vec<String>) {
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        return key_paths(&root["$defs"][target.trim_start_matches("#/$defs/")], root, path, paths);
    }
    for (key, value) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if !paths.contains(&below) {
            paths.push(below.clone());
        }
        key_paths(value, root, &below, paths);
    }
    for inside in ["items", "additionalProperties"] {
        if let Some(inside) = schema.get(inside) {
            key_paths(inside, root, path, paths);
        }
    }
    for several in ["anyOf", "allOf", "oneOf"] {
        for one in schema.get(several).and_then(Value::as_array).into_iter().flatten() {
            key_paths(one, root, path, paths);
        }
    }
}

/// What the example shows for introspection is what a service gets that says no more than it must.
#[test]
fn the_example_shows_the_defaults_of_introspection() {
    let head = "issuer: https://i.example\nservices:\n  - name: a\n    resource: https://a.example\n    upstream: http://127.0.0.1:1\n    routes: { /x: public }\n    introspection:\n      client_id: gate\n      client_secret: s\n";
    let shown = whole_example();
    let block = shown.lines().skip_while(|line| line.trim_start() != "introspection:" && !line.trim_start().starts_with("introspection: "));
    let keys = ["auth", "audience", "max_age", "negative_max_age", "timeout", "remembered", "in_flight", "per_second"];
    let lines: Vec<&str> =
        block.skip(1).take(13).filter(|line| keys.iter().any(|key| line.trim_start().starts_with(&format!("{key}:")))).collect();
    assert_eq!(lines.len(), keys.len(), "{lines:?}");
    let stamp = |more: &str| *read(&format!("{head}{more}\n")).unwrap().services[0].introspection.as_ref().unwrap().stamp();
    assert_eq!(stamp(""), stamp(&lines.join("\n")));
    assert_ne!(stamp(""), stamp("      per_second: 7"));
}

/// The defaults that the example shows are those of the types.
#[test]
fn the_example_shows_the_defaults() {
    let least = "issuer: https://i.example\nservices:\n  - { name: a, resource: https://a.example, upstream: 'http://127.0.0.1:1', routes: { /x: public } }\n";
    let default = read(least).unwrap();
    let shown = read(&example()).unwrap();
    assert_eq!(default.limits, shown.limits);
    assert_eq!(default.timeouts, shown.timeouts);
    assert_eq!(default.keys, shown.keys);
    assert_eq!((default.leeway, default.remembered_tokens), (shown.leeway, shown.remembered_tokens));
    assert_eq!(default.log, shown.log);
    assert_eq!((default.shutdown_delay, default.shutdown_deadline), (shown.shutdown_delay, shown.shutdown_deadline));
    assert_eq!(default.reload_interval, shown.reload_interval);
    assert_eq!((default.state.keys, default.state.redis), (shown.state.keys, shown.state.redis));
    assert_eq!((default.listeners, default.admin), (shown.listeners, shown.admin));
    assert_eq!(default.issuers[0].algorithms, shown.issuers[0].algorithms);
    assert_eq!(default.issuers[0].token_types, shown.issuers[0].token_types);
}
