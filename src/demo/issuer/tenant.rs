//! What a tenant of the issuer holds: API resources, roles, applications and users, as Logto's Management API names them.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use serde_json::{Map, Value};

use super::signing::random_text;
use crate::clock;

/// The Management API's own resource: a machine with its scope `all` may change the tenant.
pub const MANAGEMENT_API: &str = "https://default.logto.app/api";
/// The id of that scope.
pub const MANAGEMENT_API_SCOPE: &str = "management-api-all";

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
    pub created_at: i64,
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
        Self { id: new_id(), name: name.to_owned(), description: description.to_owned(), created_at: clock::unix_now() }
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
    /// The one that it was made with, `Default secret`; empty for a public client.
    pub secret: String,
    pub further_secrets: Vec<Secret>,
    pub name: String,
    pub kind: ApplicationKind,
    /// Another developer's: its users are asked for consent, and it may ask for its ceiling alone.
    pub third_party: bool,
    pub redirect_uris: Vec<String>,
    pub post_logout_redirect_uris: Vec<String>,
    /// For a machine: the names of the scopes that it has without a role, of whatever resource has one of that name.
    pub scopes: Vec<String>,
    /// For a machine: the ids of its roles.
    pub roles: Vec<String>,
    /// For a third-party application: what it may ask users for at all.
    pub ceiling: Ceiling,
    pub created_at: i64,
    pub description: Option<String>,
    /// What the Management API keeps of `oidcClientMetadata` beside the two lists above.
    pub further_metadata: Map<String, Value>,
    pub custom_client_metadata: Map<String, Value>,
    pub custom_data: Map<String, Value>,
}

/// A secret that an application was given later.
#[derive(Debug, Clone)]
pub struct Secret {
    pub name: String,
    pub value: String,
    pub created_at: i64,
    pub expires_at: Option<i64>,
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
            further_secrets: Vec::new(),
            name: id.to_owned(),
            kind,
            third_party: false,
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            scopes: Vec::new(),
            roles: Vec::new(),
            ceiling: Ceiling::default(),
            created_at: clock::unix_now(),
            description: None,
            further_metadata: Map::new(),
            custom_client_metadata: Map::new(),
            custom_data: Map::new(),
        }
    }

    /// Whether this is one of its secrets. A client without a secret is a public one, which cannot prove who it is.
    pub fn has_secret(&self, shown: &str) -> bool {
        let alive = |secret: &&Secret| secret.expires_at.is_none_or(|expires_at| expires_at > clock::unix_now());
        let further = self.further_secrets.iter().filter(alive).map(|secret| &secret.value);
        let known = std::iter::once(&self.secret).chain(further);
        known.filter(|secret| !secret.is_empty()).any(|secret| verify_slices_are_equal(secret.as_bytes(), shown.as_bytes()).is_ok())
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
    /// The names of the scopes that the user has without a role, of whatever resource has one of that name.
    pub scopes: Vec<String>,
    /// The ids of the user's roles.
    pub roles: Vec<String>,
    pub suspended: bool,
    pub created_at: i64,
    pub updated_at: i64,
}

impl User {
    /// With an id that is the username, and the names of the scopes that the user has.
    pub fn new(username: &str, name: &str, password: &str, scopes: &[&str]) -> Self {
        let now = clock::unix_now();
        Self {
            id: username.to_owned(),
            username: username.to_owned(),
            name: name.to_owned(),
            email: format!("{username}@example.com"),
            password: password.to_owned(),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            roles: Vec::new(),
            suspended: false,
            created_at: now,
            updated_at: now,
        }
    }
}

/// Who may have a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleKind {
    User,
    MachineToMachine,
}

impl RoleKind {
    /// The `type` of the Management API.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::MachineToMachine => "MachineToMachine",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::User, Self::MachineToMachine].into_iter().find(|kind| kind.name() == name)
    }
}

/// A set of permissions under a name.
#[derive(Debug, Clone)]
pub struct Role {
    pub id: String,
    pub name: String,
    pub description: String,
    pub kind: RoleKind,
    /// Permissions of API resources, by id.
    pub scopes: Vec<String>,
}

/// Everything above, as it is now: the Management API changes it.
#[derive(Debug, Clone, Default)]
pub struct Tenant {
    pub resources: Vec<Resource>,
    pub roles: Vec<Role>,
    pub applications: Vec<Application>,
    pub users: Vec<User>,
}

impl Tenant {
    /// With the Management API's resource and the role that opens it, which every tenant of Logto has.
    pub fn new(mut resources: Vec<Resource>, applications: Vec<Application>, users: Vec<User>) -> Self {
        let scope = Scope::new("all", "Default scope for Management API, allows all permissions.");
        let scope = Scope { id: MANAGEMENT_API_SCOPE.to_owned(), ..scope };
        let role = Role {
            id: new_id(),
            name: "Logto Management API access".to_owned(),
            description: "This default role grants access to the Logto management API.".to_owned(),
            kind: RoleKind::MachineToMachine,
            scopes: vec![scope.id.clone()],
        };
        let management = Resource { id: "management-api".to_owned(), scopes: vec![scope], ..Resource::new(MANAGEMENT_API, &[]) };
        resources.insert(0, management.named("Logto Management API"));
        Self { resources, roles: vec![role], applications, users }
    }

    /// Whether the machine has this permission, by name or through a role.
    pub fn machine_has(&self, machine: &Application, scope: &Scope) -> bool {
        machine.scopes.contains(&scope.name) || self.roles_give(&machine.roles, scope)
    }

    /// Whether the user has this permission, by name or through a role.
    pub fn user_has(&self, user: &User, scope: &Scope) -> bool {
        user.scopes.contains(&scope.name) || self.roles_give(&user.roles, scope)
    }

    /// Takes scopes that are no more out of every role and ceiling.
    pub fn forget_scopes(&mut self, ids: &[String]) {
        self.roles.iter_mut().for_each(|role| role.scopes.retain(|id| !ids.contains(id)));
        self.applications.iter_mut().for_each(|application| application.ceiling.resource_scopes.retain(|id| !ids.contains(id)));
    }

    fn roles_give(&self, roles: &[String], scope: &Scope) -> bool {
        self.roles.iter().any(|role| roles.contains(&role.id) && role.scopes.contains(&scope.id))
    }

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

/// 32 characters, as the secrets of Logto.
pub fn new_secret() -> String {
    random_text().map(|text| text.chars().filter(char::is_ascii_alphanumeric).take(32).collect()).unwrap_or_default()
}
