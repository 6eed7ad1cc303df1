//! What we ship for Docker, Kubernetes and systemd agrees with itself and with the code. `tests/deploy/check.sh` has the
//! formats' own checkers read the same files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says no by panicking, in its helpers too")]

use std::time::Duration;

use serde_json::Value;
use wicketgate::config::Document;
use wicketgate::policy::{self, Listen, Listener, Policy};

const DOCKERFILE: &str = include_str!("../Dockerfile");
const KUBERNETES: &str = include_str!("../deploy/kubernetes-sidecar.yaml");
const UNIT: &str = include_str!("../deploy/wicketgate.service");

/// The one document of this kind.
fn kubernetes(kind: &str) -> Value {
    let documents = KUBERNETES.split("\n---\n").map(|text| serde_yaml::from_str::<Value>(text).expect("YAML"));
    let mut found: Vec<Value> = documents.filter(|document| document["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "documents of kind {kind}");
    found.remove(0)
}

/// A container of the Deployment's pod.
fn container(name: &str) -> Value {
    let deployment = kubernetes("Deployment");
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().expect("containers");
    containers.iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no container {name}")).clone()
}

/// What the text in the ConfigMap means.
fn compiled() -> Policy {
    let map = kubernetes("ConfigMap");
    let text = map["data"]["wicketgate.yaml"].as_str().expect("wicketgate.yaml in the ConfigMap");
    let document = Document::read(text, &|_| None);
    let no_files = |path: &str| Err(format!("{path} is not there"));
    let result = document.config.as_ref().map(|config| policy::compile(config, String::new(), &no_files));
    match result {
        Some(Ok(policy)) if !document.has_faults() => policy,
        Some(Err(faults)) => panic!("{}", document.into_errors("ConfigMap", faults)),
        _ => panic!("{}", document.into_errors("ConfigMap", Vec::new())),
    }
}

fn tcp_port(policy: &Policy) -> u16 {
    match policy.listeners.as_slice() {
        [Listener { address: Listen::Tcp(address), .. }] => address.port(),
        other => panic!("one TCP listener was expected, not {other:?}"),
    }
}

/// The number of a port that a container declares under this name.
fn declared(container: &Value, name: &str) -> u64 {
    let ports = container["ports"].as_array().expect("ports");
    let port = ports.iter().find(|port| port["name"] == name).unwrap_or_else(|| panic!("no port {name}"));
    port["containerPort"].as_u64().expect("a number")
}

/// The lines of the Dockerfile's last stage, continued ones joined.
fn final_stage() -> Vec<String> {
    let text = DOCKERFILE.replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let lines: Vec<String> = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let start = lines.iter().rposition(|line| line.starts_with("FROM ")).expect("FROM");
    lines[start..].to_vec()
}

fn unit_values(key: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn unit_seconds(key: &str) -> Duration {
    let values = unit_values(key);
    let [value] = values.as_slice() else { panic!("{key} stands {} times", values.len()) };
    Duration::from_secs(value.strip_suffix('s').and_then(|number| number.parse().ok()).expect("whole seconds"))
}

#[test]
fn the_configmap_holds_a_configuration_without_faults() {
    let policy = compiled();
    assert!(policy.services.iter().any(|service| !service.own && !service.routes.is_empty()));
}

#[test]
fn ports_of_the_configmap_are_those_of_the_pod() {
    let policy = compiled();
    let gate = container("wicketgate");
    assert_eq!(declared(&gate, "http"), u64::from(tcp_port(&policy)));
    assert_eq!(declared(&gate, "admin"), u64::from(policy.admin.port()));
    assert!(policy.admin.ip().is_unspecified(), "probes come from outside the pod");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(gate[probe]["httpGet"]["port"], "admin", "{probe}");
    }
    let annotations = &kubernetes("Deployment")["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], policy.admin.port().to_string());
    let service = kubernetes("Service");
    let ports = service["spec"]["ports"].as_array().expect("ports");
    assert!(ports.iter().all(|port| port["targetPort"] == "http"), "the Service leads to the gate alone");
}

#[test]
fn the_service_is_reached_through_the_gate_alone() {
    let policy = compiled();
    let upstream = &policy.services[0].upstream.base;
    assert_eq!(upstream.host(), Some("127.0.0.1"));
    let port = upstream.port_u16().expect("a port");
    let service = container("weather");
    assert!(service["ports"].is_null(), "the service declares no port of its own");
    let environment = service["env"].as_array().expect("env");
    let value = |name: &str| environment.iter().find(|entry| entry["name"] == name).map(|entry| entry["value"].clone());
    assert_eq!(value("HOST"), Some("127.0.0.1".into()));
    assert_eq!(value("PORT"), Some(port.to_string().into()));

    // Its probe goes through the gate, and so needs a public route.
    let probe = &service["readinessProbe"]["httpGet"];
    assert_eq!(probe["port"], tcp_port(&policy));
    let wanted = format!("GET {}", probe["path"].as_str().expect("a path"));
    let route = policy.services[0].routes.iter().find(|route| *route.key == *wanted).expect("a route for the probe");
    assert!(matches!(route.requirement, policy::Requirement::Public), "{wanted} is public");
}

#[test]
fn the_network_policy_names_the_gates_ports_and_opens_one_to_everyone() {
    let policy = compiled();
    let network = kubernetes("NetworkPolicy");
    let rules = network["spec"]["ingress"].as_array().expect("ingress");
    let mut open = Vec::new();
    let mut guarded = Vec::new();
    for rule in rules {
        let ports = rule["ports"].as_array().expect("a rule without ports opens them all");
        let ports = ports.iter().map(|port| port["port"].as_u64().expect("a number"));
        if rule["from"].is_null() { open.extend(ports) } else { guarded.extend(ports) }
    }
    assert_eq!(open, [u64::from(tcp_port(&policy))]);
    assert_eq!(guarded, [u64::from(policy.admin.port())]);
    let pods = &kubernetes("Deployment")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(network["spec"]["podSelector"]["matchLabels"], *pods);
}

#[test]
fn the_configmap_is_mounted_as_a_folder_so_that_a_change_is_seen() {
    let gate = container("wicketgate");
    let mounts = gate["volumeMounts"].as_array().expect("mounts");
    assert!(mounts.iter().all(|mount| mount["subPath"].is_null() && mount["subPathExpr"].is_null()));
    let folder = mounts.iter().find(|mount| mount["name"] == "config").expect("config")["mountPath"].as_str().expect("a path");
    let wanted = format!("{folder}/wicketgate.yaml");
    assert_eq!(gate["env"][0]["name"], "WICKETGATE_CONFIG");
    assert_eq!(gate["env"][0]["value"], *wanted);
    assert!(final_stage().contains(&format!("ENV WICKETGATE_CONFIG={wanted}")));
    assert!(unit_values("Environment").contains(&format!("WICKETGATE_CONFIG={wanted}").as_str()));
}

#[test]
fn the_gate_has_time_to_drain_before_it_is_killed() {
    let policy = compiled();
    let drain = policy.shutdown_delay + policy.shutdown_deadline;
    let deployment = kubernetes("Deployment");
    let grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().expect("seconds");
    let wait = container("weather")["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().expect("seconds");
    assert!(Duration::from_secs(wait) >= drain, "the service stays while the gate drains");
    assert!(Duration::from_secs(grace) > Duration::from_secs(wait), "the service has time of its own after that");
    assert!(container("wicketgate")["lifecycle"].is_null(), "shutdown.delay does what a preStop would");

    let defaults = wicketgate::config::Shutdown::default();
    assert!(unit_seconds("TimeoutStopSec") > defaults.delay.0 + defaults.deadline.0);
}

#[test]
fn nothing_runs_as_root() {
    let stage = final_stage();
    assert!(stage.contains(&"USER 65532:65532".to_owned()), "{stage:?}");
    assert!(stage[0].ends_with(":nonroot"), "{}", stage[0]);
    let pod = &kubernetes("Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for name in ["weather", "wicketgate"] {
        let context = &container(name)["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(context["capabilities"]["drop"][0], "ALL", "{name}");
    }
    let gate = &container("wicketgate")["securityContext"];
    assert_eq!((&gate["runAsUser"], &gate["readOnlyRootFilesystem"]), (&65532.into(), &true.into()));
    for (key, value) in [("DynamicUser", "yes"), ("NoNewPrivileges", "yes"), ("ProtectSystem", "strict"), ("CapabilityBoundingSet", "")] {
        assert_eq!(unit_values(key), [value], "{key}");
    }
}

#[test]
fn the_image_starts_the_gate_without_a_shell() {
    let stage = final_stage();
    assert!(stage.contains(&r#"ENTRYPOINT ["/usr/local/bin/wicketgate"]"#.to_owned()));
    assert!(stage.contains(&r#"CMD ["run"]"#.to_owned()));
    assert!(
        stage.iter().any(|line| line.starts_with("HEALTHCHECK ") && line.ends_with(r#"CMD ["/usr/local/bin/wicketgate", "healthcheck"]"#))
    );
    assert!(!stage.iter().any(|line| line.starts_with("RUN ")), "there is no shell to run it");
    assert!(DOCKERFILE.contains("cargo build --locked --profile dist --no-default-features"), "the image has no demo in it");
}

#[test]
fn a_bad_configuration_is_not_started_again() {
    assert_eq!(unit_values("RestartPreventExitStatus"), ["64"]);
    assert_eq!(unit_values("ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    assert_eq!(unit_values("ExecStart"), ["/usr/local/bin/wicketgate run"]);
}

/// After an upgrade another process is the main one: systemd must hear of it, and must not take the end of the first for
/// the end of the service.
#[test]
fn the_unit_lets_a_new_process_take_over() {
    assert_eq!(unit_values("Type"), ["notify"]);
    assert!(unit_values("NotifyAccess").is_empty(), "the main process alone may say who is the main one");
    assert_eq!(unit_values("RuntimeDirectory"), ["wicketgate"]);
    assert!(UNIT.contains("upgrade: { socket: /run/wicketgate/upgrade.sock }"));
    assert!(unit_seconds("WatchdogSec") >= Duration::from_secs(30));
}
