//! `demo`: the whole story on one machine, with commands that work as printed.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use std::sync::Arc;

use clap::Args;

use super::{Failed, load};
use crate::app::{App, StartError};
use crate::demo::issuer::{Application, Issuer, Resource, Settings};
use crate::demo::weather::Weather;
use crate::observe;
use crate::shutdown::Signals;

#[derive(Debug, Args)]
pub struct DemoArguments {
    /// The gate's port; the admin listener, the issuer and the service take the three that follow
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Where the parties of the demo listen.
struct Ports {
    gate: u16,
    admin: u16,
    issuer: u16,
    service: u16,
}

impl Ports {
    fn from(first: u16) -> Result<Self, Failed> {
        let next = |step: u16| {
            first
                .checked_add(step)
                .filter(|_| first > 0)
                .ok_or_else(|| Failed::Usage("that is no port with three more behind it; write one up to 65532".to_owned()))
        };
        Ok(Self { gate: first, admin: next(1)?, issuer: next(2)?, service: next(3)? })
    }
}

pub async fn demo(arguments: DemoArguments) -> Result<(), Failed> {
    say!("DEMO: made-up keys, clients and weather, on this machine only. Never use it for anything real.");
    let ports = Ports::from(arguments.port)?;
    let resource = format!("http://127.0.0.1:{}", ports.gate);
    let taken = |what: &str, port: u16| {
        let what = what.to_owned();
        move |error: std::io::Error| Failed::Unavailable(format!("{what}: 127.0.0.1:{port}: {error}; choose other ports with --port"))
    };
    let settings = Settings {
        resources: vec![Resource::new(&resource, &[("read:weather", "Read the forecast"), ("write:weather", "Change the forecast")])],
        applications: vec![Application::machine("weatherbot", "weatherbot-secret", &["read:weather", "write:weather"])],
        ..Settings::default()
    };
    let issuer = Issuer::start(loopback(ports.issuer), settings).await.map_err(taken("issuer", ports.issuer))?;
    let weather = Weather::start(loopback(ports.service)).await.map_err(taken("weather service", ports.service))?;
    let directory = OwnDirectory::new().map_err(|error| Failed::Unavailable(format!("no directory for the configuration: {error}")))?;
    let path = directory.0.join("wicketgate.yaml");
    let written = std::fs::write(&path, configuration(&ports, &resource, issuer.url()));
    written.map_err(|error| Failed::Unavailable(format!("{}: {error}", path.display())))?;
    let (source, loaded) = load(path.clone())?;
    let log = Arc::new(observe::start_log(&loaded.policy.log).map_err(Failed::Internal)?);
    let signals = Signals::new().map_err(|error| Failed::Internal(error.to_string()))?;
    let app = App::start(source, loaded, Some(log)).await.map_err(|error| match error {
        StartError::Unavailable(reason) => Failed::Unavailable(format!("{reason}; choose other ports with --port")),
        other => other.into(),
    })?;
    say!("{}", banner(&ports, &resource, issuer.url(), &path.display().to_string()));
    app.run(signals).await;
    issuer.stop().await;
    weather.stop().await;
    Ok(())
}

/// A directory that was not there before, that nobody else may write to, and that goes with the demo.
struct OwnDirectory(PathBuf);

impl OwnDirectory {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("wicketgate-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn configuration(ports: &Ports, resource: &str, issuer: &str) -> String {
    let Ports { gate, admin, service, .. } = ports;
    format!(
        "# The configuration of the running demo. Change it and save: the gate takes it over at once.
listen: 127.0.0.1:{gate}
admin: 127.0.0.1:{admin}
issuer: {issuer}

services:
  - name: weather
    resource: {resource}
    upstream: http://127.0.0.1:{service}
    routes:
      GET /healthz: public
      GET /forecast/{{city}}: read:weather
      POST /forecast/{{city}}: write:weather
      GET /me/saved-cities: read:weather

log: {{ format: text }}
shutdown: {{ delay: 1ms, deadline: 5s }}
reload: {{ interval: 500ms }}
"
    )
}

fn banner(ports: &Ports, resource: &str, issuer: &str, config: &str) -> String {
    let Ports { gate, admin, service, .. } = ports;
    let token_url = format!("{issuer}/token");
    format!(
        "
  gate     http://127.0.0.1:{gate}      the only door to the weather service
  admin    http://127.0.0.1:{admin}      /metrics /readyz?verbose /status
  issuer   {issuer}  plays Logto
  service  http://127.0.0.1:{service}      knows nothing of tokens
  config   {config}  change it while this runs

Paste these into another terminal:

  # 1. No token: 401, and where to get one
  curl -i http://127.0.0.1:{gate}/forecast/oslo

  # 2. What an agent reads next
  curl -s http://127.0.0.1:{gate}/.well-known/oauth-protected-resource

  # 3. WeatherBot gets a token for this resource, with the scope of the challenge
  TOKEN=$(curl -s -u weatherbot:weatherbot-secret -d grant_type=client_credentials -d resource={resource} -d scope=read:weather {token_url} | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')

  # 4. With the token: 200, and the headers that the service received
  curl -s -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:{gate}/forecast/oslo

  # 5. Writing needs another scope: 403, and what to ask for
  curl -i -X POST -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:{gate}/forecast/oslo

  # 6. A token with the scopes of that challenge: 201
  TOKEN=$(curl -s -u weatherbot:weatherbot-secret -d grant_type=client_credentials -d resource={resource} -d 'scope=write:weather read:weather' {token_url} | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')
  curl -i -X POST -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:{gate}/forecast/oslo

Ctrl-C ends everything.

"
    )
}
