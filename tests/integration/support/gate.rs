//! The gate under test: the very app that `wicketgate run` starts, from a YAML file in a directory of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;
use wicketgate::app::App;
use wicketgate::demo::Issuer;
use wicketgate::policy::Listen;
use wicketgate::reload::Source;

use super::{Answer, Ask, RESOURCE, Upstream, soon, until};

const ROUTES: &str = "
      /public/**: public
      GET /me: authenticated
      GET /forecast/{city}: read:weather
      POST,PUT /forecast/{city}: write:weather
      GET /orgs/{org}/stations: { scopes: read:weather, claims: { organization_id: '{org}' } }
      GET /ws: read:weather";

/// A configuration in the making.
#[derive(Clone)]
pub struct GateBuilder {
    issuer: String,
    services: Vec<String>,
    settings: String,
    files: Vec<(String, String)>,
}

/// A gate before this upstream, with tokens of this issuer.
pub fn gate(issuer: &Issuer, upstream: &Upstream) -> GateBuilder {
    let none = GateBuilder { issuer: issuer.url().to_owned(), services: Vec::new(), settings: String::new(), files: Vec::new() };
    none.service("weather", RESOURCE, &upstream.url(), ROUTES)
}

impl GateBuilder {
    /// Another service; `routes` are lines of YAML, each beginning with six spaces.
    pub fn service(mut self, name: &str, resource: &str, upstream: &str, routes: &str) -> Self {
        self.services.push(format!("  - name: {name}\n    resource: {resource}\n    upstream: {upstream}\n    routes:{routes}\n"));
        self
    }

    /// Other routes for the service that was named last.
    pub fn routes(mut self, routes: &str) -> Self {
        if let Some(service) = self.services.last_mut() {
            let kept = service.split("    routes:").next().unwrap_or_default().to_owned();
            *service = format!("{kept}    routes:{routes}\n");
        }
        self
    }

    /// Another upstream for the service that was named last, in YAML on one line.
    pub fn upstream(mut self, text: &str) -> Self {
        if let Some(service) = self.services.last_mut() {
            let lines = service
                .lines()
                .map(|line| if line.starts_with("    upstream:") { format!("    upstream: {text}\n") } else { format!("{line}\n") });
            *service = lines.collect();
        }
        self
    }

    /// More keys for the service that was named last: lines of YAML, each beginning with four spaces.
    pub fn in_service(mut self, lines: &str) -> Self {
        if let Some(service) = self.services.last_mut() {
            *service = service.replacen("    routes:", &format!("{lines}\n    routes:"), 1);
        }
        self
    }

    /// Top-level keys: lines of YAML.
    pub fn settings(mut self, lines: &str) -> Self {
        self.settings.push_str(lines);
        self.settings.push('\n');
        self
    }

    /// A file beside the configuration.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    pub fn yaml(&self) -> String {
        let has = |key: &str| self.settings.lines().any(|line| line.starts_with(key));
        let mut text = String::new();
        for (key, line) in [
            ("listen:", "listen: 127.0.0.1:0"),
            ("admin:", "admin: 127.0.0.1:0"),
            ("shutdown:", "shutdown: { delay: 1ms, deadline: 10s }"),
            ("reload:", "reload: { interval: 100ms }"),
        ] {
            if !has(key) {
                text.push_str(line);
                text.push('\n');
            }
        }
        if !has("issuer:") {
            text.push_str(&format!("issuer: {}\n", self.issuer));
        }
        format!("{text}{}services:\n{}", self.settings, self.services.concat())
    }

    /// Starts it and waits until it has its keys.
    pub async fn start(self) -> Gate {
        let gate = self.start_unready().await;
        until("the gate has its keys", || async { gate.admin("/readyz").await.status == 200 }).await;
        gate
    }

    /// Starts it and waits for nothing.
    pub async fn start_unready(self) -> Gate {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wicketgate.yaml");
        std::fs::write(&path, self.yaml()).unwrap();
        for (name, text) in &self.files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let source = Source::new(&path);
        let loaded = source.load().unwrap_or_else(|faults| panic!("{faults}\n{}", self.yaml()));
        let app = soon("starting", App::start(source, loaded, None)).await.unwrap();
        Gate { app, path, _directory: directory }
    }
}

pub struct Gate {
    pub app: App,
    pub path: PathBuf,
    _directory: TempDir,
}

impl Gate {
    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        let tcp = self.app.addresses().into_iter().find_map(|listen| match listen {
            Listen::Tcp(address) => Some(address),
            Listen::Unix(_) | Listen::Inherited(_) => None,
        });
        tcp.expect("a TCP listener")
    }

    pub fn ask(&self, method: &str, target: &str) -> Ask {
        Ask::new(self.address(), method, target)
    }

    pub fn get(&self, target: &str) -> Ask {
        self.ask("GET", target)
    }

    /// Asks the admin listener.
    pub async fn admin(&self, target: &str) -> Answer {
        Ask::new(self.app.admin_address(), "GET", target).send().await
    }

    /// What `/status` says.
    pub async fn status(&self) -> serde_json::Value {
        self.admin("/status").await.json()
    }

    /// The value of a metric: the whole name with its labels as they are shown.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.admin("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
    }

    /// Writes another configuration as an editor does, and reloads.
    pub async fn rewrite(&mut self, yaml: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, yaml).unwrap();
        std::fs::rename(&new, &self.path).unwrap();
        self.app.reload_if_changed().await;
    }

    /// Writes other files beside the configuration, and reloads.
    pub async fn rewrite_files(&mut self, files: &[(&str, &str)]) {
        for (name, text) in files {
            std::fs::write(self.path.with_file_name(name), text).unwrap();
        }
        self.app.reload_if_changed().await;
    }
}
