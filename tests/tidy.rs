//! The rules of the house, held by a machine. Each test names the rule that it holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says no by panicking, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

/// A source file: its path below `src`, and its text up to its tests.
struct Source {
    name: String,
    module: String,
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    paths.sort();
    let source = |path: PathBuf| {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let module = name.split(['/', '.']).next().unwrap().to_owned();
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
        Source { name, module, code }
    };
    paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")).map(source).collect()
}

fn law() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).map(str::to_owned).collect()
}

#[test]
fn a_module_uses_only_what_stands_above_it() {
    let law = law();
    let position = |module: &str| law.iter().position(|known| known == module);
    let mut broken = Vec::new();
    for source in sources() {
        let Some(own) = position(&source.module) else { continue };
        for used in source.code.split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if position(&used).is_some_and(|used| used > own) {
                broken.push(format!("{} uses {used}", source.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}\nthe order is {law:?}");
}

#[test]
fn the_deciding_half_has_no_socket_no_file_and_no_clock() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| ["config", "policy", "access", "oauth", "balance"].contains(&source.module.as_str())) {
        for forbidden in [
            "async ",
            "tokio",
            "std::fs",
            "TcpStream",
            "TcpListener",
            "reqwest",
            "hyper::",
            "SystemTime",
            "unix_now",
            "instant_now",
            "env::var",
        ] {
            if source.code.contains(forbidden) {
                broken.push(format!("{}: {forbidden}", source.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn only_the_clock_asks_for_the_time() {
    for source in sources().iter().filter(|source| source.name != "clock.rs") {
        for forbidden in ["SystemTime::now", "Instant::now"] {
            assert!(!source.code.contains(forbidden), "{}: {forbidden}", source.name);
        }
    }
}

#[test]
fn only_one_file_knows_the_yaml_library() {
    for source in sources().iter().filter(|source| source.name != "config/tree.rs") {
        assert!(!source.code.contains("serde_yaml"), "{}", source.name);
    }
}

#[test]
fn every_file_says_in_one_sentence_what_lives_in_it() {
    for source in sources() {
        assert!(source.code.starts_with("//! "), "{}", source.name);
    }
}

#[test]
fn the_way_of_a_request_is_numbered() {
    let steps: BTreeMap<u32, String> = sources()
        .iter()
        .filter_map(|source| {
            let step = source.code.strip_prefix("//! Step ")?.split('.').next()?.parse().ok()?;
            Some((step, source.name.clone()))
        })
        .collect();
    let numbers: Vec<u32> = steps.keys().copied().collect();
    assert_eq!(numbers, (1..=14).collect::<Vec<_>>(), "{steps:?}");
}

#[test]
fn files_and_functions_are_small_enough_to_see() {
    let mut broken = Vec::new();
    for source in sources() {
        let lines = source.code.lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!("{}: {lines} lines", source.name));
        }
        for (name, lines) in functions(&source.code) {
            // A table of rows is as long as it has rows.
            let table = ["denial.rs", "failure.rs", "refusal.rs"].iter().any(|name| source.name.ends_with(name));
            if lines > FUNCTION_LINES_MAX && !(table && name == "row") {
                broken.push(format!("{}: fn {name} has {lines} lines", source.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Names and lengths of functions: from the line with `fn` to the closing brace of the same indentation.
fn functions(code: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let is_function = ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn ", "async fn ", "pub async fn ", "pub(super) async fn "];
        let Some(rest) = is_function.iter().find_map(|start| trimmed.strip_prefix(start)) else { continue };
        let indent = line.len() - trimmed.len();
        let name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
        let end = lines[i..]
            .iter()
            .position(|line| line.starts_with(&format!("{}}}", " ".repeat(indent))) && line.trim_end().len() == indent + 1);
        found.push((name, end.unwrap_or(0) + 1));
    }
    found
}

#[test]
fn names_say_what_a_thing_is() {
    for source in sources() {
        for vague in ["Manager", "Helper", "struct Ctx", "mod utils", "mod common", "mod types", "mod helpers"] {
            assert!(!source.code.contains(vague), "{}: {vague}", source.name);
        }
    }
}

/// The variants of an enum, as its source lists them.
fn variants(file: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("src").join(file)).unwrap();
    let body = text.split(&format!("pub enum {name} {{")).nth(1).unwrap().split("\n}").next().unwrap().to_owned();
    let names = body.lines().map(str::trim).filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    names.map(|line| line.chars().take_while(|c| c.is_alphanumeric()).collect()).collect()
}

#[test]
fn every_refusal_and_every_failure_is_in_its_list() {
    let shown = |debug: String| debug.split(['(', ' ', '{']).next().unwrap_or_default().to_owned();
    let denials: Vec<String> = wicketgate::access::Denial::examples().iter().map(|denial| shown(format!("{denial:?}"))).collect();
    assert_eq!(variants("access/denial.rs", "Denial"), denials);
    let refusals = wicketgate::oauth::registration::Refusal::examples();
    let refusals: Vec<String> = refusals.iter().map(|refusal| shown(format!("{refusal:?}"))).collect();
    assert_eq!(variants("oauth/registration/refusal.rs", "Refusal"), refusals);
    let failures: Vec<String> = wicketgate::proxy::Failure::ALL.iter().map(|failure| shown(format!("{failure:?}"))).collect();
    assert_eq!(variants("proxy/failure.rs", "Failure"), failures);
}

#[test]
fn the_architecture_names_every_module() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for module in law() {
        assert!(
            text.contains(&format!("`{module}`")) || text.contains(&format!("`{module}/`")) || text.contains(&format!("`{module}.rs`")),
            "{module}"
        );
    }
}

/// The default of a key, as the example shows it; that of a service or a route follows from another key.
fn shown_default(key: &str) -> Option<String> {
    let example = fs::read_to_string(root().join("config.example.yaml")).unwrap();
    let (section, name) = key.split_once('.').filter(|(section, _)| *section != "services")?;
    let mut lines = example.lines().skip_while(|line| *line != format!("{section}:"));
    let line = lines.find_map(|line| line.strip_prefix(&format!("  {name}:")).map(str::to_owned));
    Some(line.unwrap_or_else(|| panic!("{key} is not in the example")).split('#').next().unwrap_or_default().trim().to_owned())
}

/// So is the table of limits, with the defaults of the example.
#[test]
fn the_table_of_limits_is_that_of_the_code() {
    let mut table = String::from("| limit | default | what a client sees beyond it | `limit` |\n|---|---|---|---|\n");
    for limit in wicketgate::observe::Limit::ALL {
        let row = limit.row();
        let join = |parts: Vec<String>| parts.iter().map(|part| format!("`{part}`")).collect::<Vec<_>>().join(", ");
        let keys = match row.keys {
            [] => "follows from the others".to_owned(),
            keys => join(keys.iter().map(|key| (*key).to_owned()).collect()),
        };
        let defaults = join(row.keys.iter().filter_map(|key| shown_default(key)).collect());
        table.push_str(&format!("| {keys} | {defaults} | {} | `{}` |\n", row.seen, row.label));
    }
    let path = root().join("docs/limits.md");
    let (start, end) = ("<!-- limits: begin -->\n", "<!-- limits: end -->");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(start).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    if std::env::var_os("WRITE_TABLE").is_some() {
        fs::write(&path, format!("{before}{start}{table}{end}{after}")).unwrap();
    }
    assert_eq!(found, table, "docs/limits.md is old: WRITE_TABLE=1 cargo test --test tidy");
    let variants = variants("observe/limit_metrics.rs", "Limit");
    assert_eq!(variants, wicketgate::observe::Limit::ALL.map(|limit| format!("{limit:?}")));
    let mut labels = wicketgate::observe::Limit::ALL.map(|limit| limit.row().label).to_vec();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), variants.len(), "two limits are counted as one");
}

/// The table of outcomes is made from the rows, so that it cannot lie.
/// `WRITE_TABLE=1 cargo test --test tidy` writes it anew.
#[test]
fn the_table_of_outcomes_is_that_of_the_code() {
    let mut table = String::from("| status | code | OAuth error | what it means | what to do |\n|---|---|---|---|---|\n");
    for denial in wicketgate::access::Denial::examples() {
        let row = denial.row();
        let error = row.oauth_error.map_or(String::new(), |error| format!("`{error}`"));
        table.push_str(&format!("| {} | `{}` | {error} | {} | {} |\n", row.status.as_u16(), row.code, row.title, row.cure));
    }
    for refusal in wicketgate::oauth::registration::Refusal::examples() {
        let row = refusal.row();
        table.push_str(&format!("| {} | `{}` | `{}` | {} | {} |\n", row.status.as_u16(), row.code, row.error, row.title, row.cure));
    }
    for failure in wicketgate::proxy::Failure::ALL {
        let row = failure.row();
        table.push_str(&format!("| {} | `{}` | | {} | {} |\n", row.status.as_u16(), row.code, row.title, row.cure));
    }
    let path = root().join("docs/outcomes.md");
    let (start, end) = ("<!-- outcomes: begin -->\n", "<!-- outcomes: end -->");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(start).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    if std::env::var_os("WRITE_TABLE").is_some() {
        fs::write(&path, format!("{before}{start}{table}{end}{after}")).unwrap();
    }
    assert_eq!(found, table, "docs/outcomes.md is old: WRITE_TABLE=1 cargo test --test tidy");
}

#[test]
fn each_tick_of_ours_beside_other_proxies_has_a_test() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let table = readme.split("## Beside other proxies").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> =
        table.lines().filter(|line| line.starts_with("| ")).skip(1).map(|line| line.split(" | ").collect()).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        assert_eq!(row[1], "✓", "{row:?}");
        for shown in row.last().unwrap().trim_end_matches(" |").split(", ") {
            let (file, test) = shown.split_once(": ").unwrap();
            let (file, test) = (file.trim_matches('`'), test.trim_matches('`'));
            let text = ["integration", "process"]
                .iter()
                .find_map(|suite| fs::read_to_string(root().join(format!("tests/{suite}/{file}.rs"))).ok());
            assert!(text.is_some_and(|text| text.contains(&format!("fn {test}()"))), "{shown}");
        }
    }
}
