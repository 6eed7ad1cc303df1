//! What is done to the gate while the load is on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::child::Process;
use super::load::{Expected, Load};
use super::service::{Protocol, Service};
use super::support::{Certificate, issuer, soon, token, until};
use super::way::{Door, Doors, der};

/// How many times as much as the short form is done.
fn times() -> usize {
    std::env::var("LOSSLESS_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// A gate's configuration, as far as scenarios change it.
#[derive(Clone)]
struct Setup {
    issuer: String,
    upstream: String,
    requirement: &'static str,
    settings: String,
    delay: Duration,
}

impl Setup {
    fn yaml(&self, directory: &Path) -> String {
        let Self { issuer, upstream, requirement, settings, delay } = self;
        let directory = directory.display();
        format!(
            "listen: [127.0.0.1:0, 'unix:{directory}/gate.sock']\nadmin: 127.0.0.1:0\nissuer: {issuer}\nlog: {{ access: false }}\n\
             tls: {{ certificate_file: {directory}/tls.pem, key_file: {directory}/tls.key }}\n\
             shutdown: {{ delay: {}ms, deadline: 20s }}\nreload: {{ interval: 100ms }}\n{settings}\n\
             services:\n  - name: echo\n    resource: https://api.weather.example\n    upstream: {upstream}\n    routes: {{ /echo/**: {requirement} }}\n",
            delay.as_millis()
        )
    }
}

fn write_certificate(directory: &Path, certificate: &Certificate) {
    // The key first: a pair that does not fit is refused, and the next look takes it whole.
    for (name, text) in [("tls.key", &certificate.key_pem), ("tls.pem", &certificate.pem)] {
        let new = directory.join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, directory.join(name)).unwrap();
    }
}

/// A gate in its own process, and the directory of its certificate and Unix socket.
struct Running {
    process: Process,
    directory: TempDir,
    door: Arc<Door>,
}

async fn start(setup: &Setup, certificate: &Certificate) -> Running {
    let directory = tempfile::tempdir().unwrap();
    write_certificate(directory.path(), certificate);
    let process = Process::run(&setup.yaml(directory.path())).await.ready().await;
    let door = Door::new(process.address, directory.path().join("gate.sock"));
    Running { process, directory, door }
}

impl Running {
    /// Reloads taken so far.
    async fn reloads(&self) -> u64 {
        self.process.admin("/status").await.json()["reloads"].as_u64().unwrap()
    }

    async fn reload(&self, setup: &Setup) {
        let before = self.reloads().await;
        self.process.write(&setup.yaml(self.directory.path()));
        self.process.signal("HUP");
        until("the reload", || async { self.reloads().await > before }).await;
    }
}

fn spoken(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
    }
}

async fn scene(protocol: Protocol) -> (wicketgate::demo::Issuer, Service, Setup) {
    // Two thousand sockets, and more in the long form.
    let _ = rlimit::increase_nofile_limit(65_536);
    let (issuer, service) = (issuer().await, Service::start(protocol).await);
    let setup = Setup {
        issuer: issuer.url().to_owned(),
        upstream: format!("{{ url: '{}', protocol: {} }}", service.url(), spoken(protocol)),
        requirement: "read:weather",
        settings: String::new(),
        delay: Duration::from_millis(1),
    };
    (issuer, service, setup)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn fifty_reloads_lose_nothing() {
    reloads(Protocol::Http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn fifty_reloads_before_http_2_lose_nothing() {
    reloads(Protocol::Http2).await;
}

async fn reloads(protocol: Protocol) {
    let (issuer, service, setup) = scene(protocol).await;
    let certificate = Certificate::new();
    let gate = start(&setup, &certificate).await;
    let load = Load::new(Doors::new(vec![gate.door.clone()], &[&certificate]), token(&issuer, "read:weather"), service.protocol);

    let least = load
        .during(async {
            for i in 0..50 * times() {
                let mut next = setup.clone();
                next.requirement = ["read:weather", "{ any: [read:weather, write:weather] }", "authenticated"][i % 3];
                // Each of these makes something anew: the way to the service, the keys' rules, what is remembered.
                next.settings = format!(
                    "timeouts: {{ connect: {}ms }}\nkeys: {{ refresh: {}s }}\ntokens: {{ remembered: {} }}\nlimits: {{ streams: {}, connections: {} }}",
                    1000 + i,
                    100 + i,
                    1000 + i / 10,
                    100 + i,
                    5000 + i % 7
                );
                gate.reload(&next).await;
            }
        })
        .await;

    load.settle(&format!("50 reloads before {protocol:?}"), &service.seen, least, Expected::Once);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn a_certificate_that_is_swapped_loses_nothing_and_is_shown_to_the_next_client() {
    let (issuer, service, setup) = scene(Protocol::Http1).await;
    let certificates: Vec<Certificate> = (0..=5 * times()).map(|_| Certificate::new()).collect();
    let gate = start(&setup, &certificates[0]).await;
    let trusted: Vec<&Certificate> = certificates.iter().collect();
    let load = Load::new(Doors::new(vec![gate.door.clone()], &trusted), token(&issuer, "read:weather"), service.protocol);

    let least = load
        .during(async {
            for certificate in &certificates[1..] {
                let before = gate.reloads().await;
                write_certificate(gate.directory.path(), certificate);
                until("the certificate is taken", || async { gate.reloads().await > before }).await;
                let since = load.doors.handshakes().len();
                // Those under way may still show the old one.
                until("others connect", || async { load.doors.handshakes().len() > since + 100 }).await;
                assert_eq!(load.doors.handshakes().last().unwrap(), &der(certificate));
            }
        })
        .await;

    load.settle("certificates swapped", &service.seen, least, Expected::Once);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn a_gate_that_drains_beside_another_loses_nothing() {
    let (issuer, service, mut setup) = scene(Protocol::Http1).await;
    // As long as the balancer, and clients that pause, need to hear of it.
    setup.delay = Duration::from_secs(1);
    let certificate = Certificate::new();
    let mut gates = Vec::new();
    for _ in 0..1 + times() {
        gates.push(start(&setup, &certificate).await);
    }
    let doors = gates.iter().map(|gate| gate.door.clone()).collect();
    let load = Load::new(Doors::new(doors, &[&certificate]), token(&issuer, "read:weather"), service.protocol);
    let going = gates.len() - 1;

    let least = load
        .during(async {
            for gate in &mut gates[..going] {
                gate.process.signal("TERM");
                // What a load balancer does: it asks now and then, and sends nobody there any more.
                until("/readyz says no", || async { gate.process.admin("/readyz").await.status == 503 }).await;
                gate.door.shut();
                assert_eq!(soon("the end", gate.process.ended()).await, Some(0));
                let down = gate.process.line("down").unwrap();
                assert_eq!(down["in_time"], true, "{down}");
            }
        })
        .await;

    load.settle("drain", &service.seen, least, Expected::Once);
}

/// Two endpoints that know of one another's requests, and the key `upstream` for them.
async fn beside(service: &Service) -> Service {
    Service::start_at(super::support::loopback(), service.protocol, service.seen.clone()).await
}

fn endpoints(services: &[&Service]) -> String {
    let urls: Vec<String> = services.iter().map(|service| service.url()).collect();
    // The longest body is kept too: over HTTP/2 a request that was not acted upon goes again only with all of it.
    let retries = "retries: { attempts: 3, on: [connect, unsent, reset], budget: 100, replay_bytes: 128KiB }";
    format!("{{ endpoints: [{}], protocol: {}, idle: 500ms, {retries} }}", urls.join(", "), spoken(services[0].protocol))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn endpoints_that_go_and_come_back_lose_nothing() {
    removed_and_added(Protocol::Http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn endpoints_over_http_2_that_go_and_come_back_lose_nothing() {
    removed_and_added(Protocol::Http2).await;
}

async fn removed_and_added(protocol: Protocol) {
    let (issuer, service, mut setup) = scene(protocol).await;
    let other = beside(&service).await;
    let (one, both) = (endpoints(&[&service]), endpoints(&[&service, &other]));
    setup.upstream = both.clone();
    let certificate = Certificate::new();
    let gate = start(&setup, &certificate).await;
    let load = Load::new(Doors::new(vec![gate.door.clone()], &[&certificate]), token(&issuer, "read:weather"), service.protocol);

    let least = load
        .during(async {
            for _ in 0..5 * times() {
                for upstream in [&one, &both] {
                    let next = Setup { upstream: upstream.clone(), ..setup.clone() };
                    gate.reload(&next).await;
                    load.goes_on(200).await;
                }
            }
        })
        .await;

    load.settle(&format!("endpoints over {protocol:?} removed and added"), &service.seen, least, Expected::Once);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn a_service_that_restarts_in_good_order_loses_nothing() {
    restarted(Protocol::Http1, Expected::Retried).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn a_service_over_http_2_that_restarts_in_good_order_loses_nothing() {
    restarted(Protocol::Http2, Expected::Retried).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn a_service_that_is_killed_costs_nothing_that_is_safe_to_repeat() {
    restarted(Protocol::Http1, Expected::KilledService).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn a_service_over_http_2_that_is_killed_costs_nothing_that_is_safe_to_repeat() {
    restarted(Protocol::Http2, Expected::KilledService).await;
}

async fn restarted(protocol: Protocol, expected: Expected) {
    let (issuer, service, mut setup) = scene(protocol).await;
    let mut other = beside(&service).await;
    setup.upstream = endpoints(&[&service, &other]);
    let certificate = Certificate::new();
    let gate = start(&setup, &certificate).await;
    let load = Load::new(Doors::new(vec![gate.door.clone()], &[&certificate]), token(&issuer, "read:weather"), service.protocol);

    let least = load
        .during(async {
            for _ in 0..2 * times() {
                match expected {
                    Expected::KilledService => other.die().await,
                    Expected::Once | Expected::Retried => soon("the service has gone", other.leave()).await,
                }
                load.goes_on(500).await;
                other.again().await;
                load.goes_on(500).await;
            }
        })
        .await;

    load.settle(&format!("service over {protocol:?} away, {expected:?}"), &service.seen, least, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and both cores"]
async fn new_programs_that_take_over_lose_nothing() {
    let (issuer, service, mut setup) = scene(Protocol::Http1).await;
    let place = tempfile::tempdir().unwrap();
    setup.settings = format!("upgrade: {{ socket: {}/upgrade.sock, timeout: 15s }}", place.path().display());
    let certificate = Certificate::new();
    let mut gate = start(&setup, &certificate).await;
    let load = Load::new(Doors::new(vec![gate.door.clone()], &[&certificate]), token(&issuer, "read:weather"), service.protocol);

    let least = load
        .during(async {
            for _ in 0..2 * times() {
                let next = gate.process.another().serving().await;
                assert_eq!(soon("the old one's end", gate.process.ended()).await, Some(0), "{}", gate.process.output());
                let down = gate.process.line("down").unwrap();
                assert_eq!(down["in_time"], true, "{down}");
                gate.process = next;
                load.goes_on(500).await;
            }
        })
        .await;

    load.settle("programs replaced", &service.seen, least, Expected::Once);
}
