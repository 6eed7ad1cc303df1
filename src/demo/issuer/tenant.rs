//! What a tenant of the issuer holds: API resources, applications and users, as Logto's Management API names them.

use aws_lc_rs::error::Unspecified;

use super::signing::random_text;
use crate::clock;

/// The Management API's own resource: a machine with its scope `all` may change the tenant.
pub const MANAGEMENT_API: &str = "https://default.logto.app/api";

/// An API resource: its indicator becomes the audience of its tokens.
#[derive(Debug, Clone)]
pub struct Resource {
    pub id: String,
    pub name: String,
    pub indicator: String,
    /// Seconds that its access tokens live; the issuer's default if nothing is said.
    pub access_token_ttl: Option<i64>,
    pub scopes: Vec<Scope>,
}

/// A permission of an API resource.
#[derive(Debug, Clone)]
pub struct Scope {
    pub id: String,
    pub name: String,
    /// For people who are asked to consent.
    pub description: String,
}

impl Resource {
    /// With the names of its scopes and their descriptions.
    pub fn new(indicator: &str, scopes: &[(&str, &str)]) -> Self {
        let scopes = scopes.iter().map(|&(name, description)| Scope::new(name, description));
        Self { id: new_id(), name: indicator.to_owned(), indicator: indicator.to_owned(), access_token_ttl: None, scopes: scopes.collect() }
    }

    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    pub fn scope(&self, name: &str) -> Option<&Scope> {
        self.scopes.iter().find(|scope| scope.name == name)
    }
}

impl Scope {
    pub fn new(name: &str, description: &str) -> Self {
        Self { id: new_id(), name: name.to_owned(), description: description.to_owned() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplicationKind {
    /// A web application whose backend keeps a secret.
    Traditional,
    /// Public, in the browser.
    Spa,
    /// Public, on a device.
    Native,
    /// Acts for itself, with client credentials.
    MachineToMachine,
}

impl ApplicationKind {
    /// The `type` of the Management API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Traditional => "Traditional",
            Self::Spa => "SPA",
            Self::Native => "Native",
            Self::MachineToMachine => "MachineToMachine",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Traditional, Self::Spa, Self::Native, Self::MachineToMachine].into_iter().find(|kind| kind.name() == name)
    }

    /// RFC 6749 §2.1: whether it can keep a secret.
    pub fn is_confidential(self) -> bool {
        matches!(self, Self::Traditional | Self::MachineToMachine)
    }
}

/// A client of the issuer (RFC 6749 §2).
#[derive(Debug, Clone)]
pub struct Application {
    /// The `client_id`.
    pub id: String,
    /// Empty for a public client.
    pub secret: String,
    pub name: String,
    pub kind: ApplicationKind,
    /// Another developer's: its users are asked for consent, and it may ask for its ceiling alone.
    pub third_party: bool,
    pub redirect_uris: Vec<String>,
    pub post_logout_redirect_uris: Vec<String>,
    /// For a machine: the names of the scopes that its roles give it, of whatever resource has one of that name.
    pub scopes: Vec<String>,
    /// For a third-party application: what it may ask users for at all.
    pub ceiling: Ceiling,
    pub created_at: i64,
}

/// The consent scopes of a third-party application.
#[derive(Debug, Clone, Default)]
pub struct Ceiling {
    /// `profile`, `email` and their like, by name.
    pub user_scopes: Vec<String>,
    /// Permissions of API resources, by id.
    pub resource_scopes: Vec<String>,
}

impl Application {
    /// A machine-to-machine application with the names of the scopes that its roles give it.
    pub fn machine(id: &str, secret: &str, scopes: &[&str]) -> Self {
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        Self { scopes, ..Self::new(id, secret, ApplicationKind::MachineToMachine) }
    }

    /// The company's own web application: nobody is asked for consent.
    pub fn first_party(id: &str, secret: &str, redirect_uri: &str) -> Self {
        Self { redirect_uris: vec![redirect_uri.to_owned()], ..Self::new(id, secret, ApplicationKind::Traditional) }
    }

    /// Another developer's web application, with its ceiling.
    pub fn third_party(id: &str, secret: &str, redirect_uri: &str, ceiling: Ceiling) -> Self {
        Self { third_party: true, ceiling, ..Self::first_party(id, secret, redirect_uri) }
    }

    pub fn new(id: &str, secret: &str, kind: ApplicationKind) -> Self {
        Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            name: id.to_owned(),
            kind,
            third_party: false,
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            scopes: Vec::new(),
            ceiling: Ceiling::default(),
            created_at: clock::unix_now(),
        }
    }

    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Whether its ceiling lets it ask for this permission. The company's own applications have none.
    pub fn may_ask_for(&self, scope: &Scope) -> bool {
        !self.third_party || self.ceiling.resource_scopes.contains(&scope.id)
    }
}

/// Somebody who can sign in.
#[derive(Debug, Clone)]
pub struct User {
    /// The `sub` of tokens.
    pub id: String,
    pub username: String,
    pub name: String,
    pub email: String,
    pub password: String,
    /// The names of the scopes that the user's roles give, of whatever resource has one of that name.
    pub scopes: Vec<String>,
    pub suspended: bool,
}

impl User {
    /// With an id that is the username, and the names of the scopes that the user's roles give.
    pub fn new(username: &str, name: &str, password: &str, scopes: &[&str]) -> Self {
        Self {
            id: username.to_owned(),
            username: username.to_owned(),
            name: name.to_owned(),
            email: format!("{username}@example.com"),
            password: password.to_owned(),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            suspended: false,
        }
    }
}

/// Everything above, as it is now: the Management API changes it.
#[derive(Debug, Clone, Default)]
pub struct Tenant {
    pub resources: Vec<Resource>,
    pub applications: Vec<Application>,
    pub users: Vec<User>,
}

impl Tenant {
    /// By indicator, equal character by character: a slash more is another resource.
    pub fn resource(&self, indicator: &str) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.indicator == indicator)
    }

    pub fn application(&self, id: &str) -> Option<&Application> {
        self.applications.iter().find(|application| application.id == id)
    }

    pub fn user(&self, id: &str) -> Option<&User> {
        self.users.iter().find(|user| user.id == id)
    }

    /// The ids of a resource's scopes with these names, for a ceiling.
    pub fn scope_ids(&self, indicator: &str, names: &[&str]) -> Vec<String> {
        let resource = self.resource(indicator);
        names.iter().filter_map(|name| Some(resource?.scope(name)?.id.clone())).collect()
    }
}

/// 21 characters, as the ids of Logto; empty only if the system has no random numbers, and then nothing else works.
pub fn new_id() -> String {
    let text: Result<String, Unspecified> = random_text();
    text.map(|text| text.chars().filter(char::is_ascii_alphanumeric).take(21).collect::<String>().to_ascii_lowercase()).unwrap_or_default()
}
