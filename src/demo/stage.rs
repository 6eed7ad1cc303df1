//! The stage: who plays in the demo, on which ports, with what permissions, and the gate's configuration for it.

use std::net::{Ipv4Addr, SocketAddr};

use super::issuer::{Application, Ceiling, Resource, Settings, Tenant, User};

/// The password of everybody in the embedded issuer, shown on its sign-in page.
pub const PASSWORD: &str = "demo";

/// How an app is known to the issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub id: String,
    pub secret: String,
}

impl Credentials {
    pub fn official_app() -> Self {
        Self { id: "official-app".to_owned(), secret: "official-app-secret".to_owned() }
    }

    pub fn weatherbot() -> Self {
        Self { id: "weatherbot".to_owned(), secret: "weatherbot-secret".to_owned() }
    }
}

/// Where each party listens: seven ports in a row.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub gate: u16,
    pub admin: u16,
    pub issuer: u16,
    pub service: u16,
    pub official_app: u16,
    pub weatherbot: u16,
    pub start_page: u16,
}

impl Ports {
    /// `None` if there are not that many ports from this one on.
    pub fn from(first: u16) -> Option<Self> {
        let last = first.checked_add(6).filter(|_| first > 0)?;
        Some(Self {
            gate: first,
            admin: first + 1,
            issuer: first + 2,
            service: first + 3,
            official_app: first + 4,
            weatherbot: first + 5,
            start_page: last,
        })
    }

    /// The indicator of the API resource: the address under which clients reach it, as RFC 9728 §3.3 has them check.
    pub fn resource(&self) -> String {
        url(self.gate)
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

pub fn url(port: u16) -> String {
    format!("http://{}", loopback(port))
}

/// The embedded issuer's tenant: Alice may read and write weather, Bob may do nothing; WeatherBot may ask for both. The
/// operator's scripts may call the Management API.
pub fn tenant(ports: &Ports, token_lifetime_seconds: Option<i64>) -> Settings {
    let scopes = [("read:weather", "Read forecasts and your saved cities"), ("write:weather", "Send weather reports in your name")];
    let weather = Resource::new(&ports.resource(), &scopes).named("Weather API");
    let may = ["read:weather", "write:weather"];
    let mut known = Tenant { resources: vec![weather], ..Tenant::default() };
    let ceiling =
        Ceiling { user_scopes: vec!["profile".to_owned(), "email".to_owned()], resource_scopes: known.scope_ids(&ports.resource(), &may) };
    let (official, bot) = (Credentials::official_app(), Credentials::weatherbot());
    let web = |application: Application, name: &str, port: u16| Application {
        post_logout_redirect_uris: vec![format!("{}/", url(port))],
        ..application.named(name)
    };
    let callback = |port: u16| format!("{}/callback", url(port));
    known.applications = vec![
        web(
            Application::first_party(&official.id, &official.secret, &callback(ports.official_app)),
            "Weather, the official app",
            ports.official_app,
        ),
        web(Application::third_party(&bot.id, &bot.secret, &callback(ports.weatherbot), ceiling), "WeatherBot", ports.weatherbot),
        Application::machine("station", "station-secret", &may).named("Weather station"),
        Application::machine("operator", "operator-secret", &["all"]).named("The operator's scripts"),
        // The gate's own, with which it registers agents.
        Application::machine("gate", "gate-secret", &["all"]).named("Gate"),
    ];
    let users = vec![User::new("alice", "Alice", PASSWORD, &may), User::new("bob", "Bob", PASSWORD, &[])];
    let defaults = Settings::default();
    Settings {
        resources: known.resources,
        applications: known.applications,
        users,
        token_lifetime_seconds: token_lifetime_seconds.unwrap_or(defaults.token_lifetime_seconds),
        ..defaults
    }
}

/// The gate's configuration, as an operator would write it.
pub fn configuration(ports: &Ports, issuer: &str) -> String {
    let Ports { gate, admin, service, .. } = ports;
    let resource = ports.resource();
    let tenant = issuer.strip_suffix("/oidc").filter(|_| issuer == url(ports.issuer) + "/oidc");
    let registration = tenant.map(registration).unwrap_or_default();
    format!(
        "# The running demo's gate. Change it and save: the gate takes it over at once and says so in the terminal.
# Try it: ask for write:weather on GET /forecast/{{city}}, or break a line. It is written anew at each start.
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
{registration}
tokens: {{ leeway: 0s }}   # one machine, one clock: a token ends when it says
shutdown: {{ delay: 1ms, deadline: 1s }}
reload: {{ interval: 500ms }}
"
    )
}

/// Agents may register themselves with the embedded issuer.
fn registration(tenant: &str) -> String {
    format!(
        "
logto: {{ endpoint: {tenant}, app_id: gate, app_secret: gate-secret }}
registration:
  ceiling: {{ scopes: [read:weather, write:weather], user_scopes: [profile, email] }}
  reserved_names: [Weather]
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_ports_must_follow() {
        assert_eq!(Ports::from(8080).map(|ports| ports.start_page), Some(8086));
        assert_eq!(Ports::from(65529).map(|ports| ports.start_page), Some(65535));
        assert!(Ports::from(65530).is_none() && Ports::from(0).is_none());
    }

    #[test]
    fn weatherbot_may_ask_for_both_scopes_and_only_alice_has_them() {
        let ports = Ports::from(8080).unwrap();
        let Settings { resources, applications, users, .. } = tenant(&ports, Some(20));
        let bot = applications.iter().find(|application| application.id == "weatherbot").unwrap();
        assert!(bot.third_party && resources[0].scopes.iter().all(|scope| bot.may_ask_for(scope)));
        assert_eq!(users.iter().map(|user| user.scopes.len()).collect::<Vec<_>>(), [2, 0]);
    }
}
