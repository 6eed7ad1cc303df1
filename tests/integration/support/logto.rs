//! A Logto tenant as its Management API shows it, built after the recorded answers in `tests/fixtures/logto`, that can
//! fail in every way and counts its calls.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use url::form_urlencoded;
use wicketgate::config::Secret;
use wicketgate::policy::LogtoAccess;

use super::{Received, Upstream, read_request};

pub const MANAGEMENT_API: &str = "https://default.logto.app/api";
pub const APP_ID: &str = "machine";
pub const APP_SECRET: &str = "s3cret-of-the-machine";

/// How one call goes wrong.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// 429, with or without `Retry-After`.
    TooMany(Option<u64>),
    /// 500, nothing done.
    Broken,
    /// 500, but it was done.
    BrokenAfter,
    /// The connection ends before an answer, nothing done.
    CutBefore,
    /// The connection ends before an answer, but it was done.
    CutAfter,
    /// No answer at all.
    Hang,
    /// The token counts no more.
    Expired,
    Forbidden,
    Html,
    Huge,
    Redirect,
}

/// What stands in the tenant, each thing as the Management API shows it.
#[derive(Default)]
pub struct Tenant {
    pub resources: Vec<Value>,
    pub scopes: Vec<Value>,
    pub roles: Vec<Value>,
    /// Pairs of role and scope.
    pub role_scopes: Vec<(String, String)>,
    pub applications: Vec<Value>,
    /// Pairs of application and user scope, or scope id.
    pub user_scopes: Vec<(String, String)>,
    pub consent_scopes: Vec<(String, String)>,
    pub users: Vec<Value>,
    pub grants: Vec<Value>,
    made: u64,
    tokens: u64,
    refused_tokens: Vec<String>,
}

#[derive(Default)]
struct State {
    tenant: Tenant,
    /// What the next calls of this method and path prefix meet.
    troubles: Vec<(String, String, VecDeque<Trouble>)>,
    calls: Vec<String>,
    /// After so many changes everything is cut off; whether the last of them takes effect.
    dies: Option<(usize, bool)>,
    token_seconds: Option<u64>,
}

#[derive(Clone)]
pub struct FakeLogto {
    state: Arc<Mutex<State>>,
    upstream: Arc<Upstream>,
}

type Reply = (u16, Vec<(&'static str, String)>, Value);

impl FakeLogto {
    pub async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let state = Arc::new(Mutex::new(State::default()));
        let served = state.clone();
        let upstream = Upstream::by_hand(move |mut stream| {
            let state = served.clone();
            async move {
                let mut buffer = Vec::new();
                while let Some(request) = read_request(&mut stream, &mut buffer).await {
                    let trouble = state.lock().unwrap().trouble(&request);
                    let effect = !matches!(
                        trouble,
                        Some(Trouble::TooMany(_) | Trouble::Broken | Trouble::CutBefore | Trouble::Expired | Trouble::Forbidden)
                    );
                    if matches!(trouble, Some(Trouble::Hang)) {
                        std::future::pending::<()>().await;
                    }
                    let reply = if effect { Some(state.lock().unwrap().answer(&request)) } else { None };
                    let Some(bytes) = spoiled(trouble, reply) else { return };
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { state, upstream: Arc::new(upstream.await) }
    }

    pub fn url(&self) -> String {
        self.upstream.url()
    }

    /// The way to it, with time-outs that a test can wait for.
    pub fn access(&self) -> LogtoAccess {
        LogtoAccess {
            endpoint: self.url(),
            management_api: MANAGEMENT_API.to_owned(),
            app_id: APP_ID.to_owned(),
            app_secret: Secret::new(APP_SECRET),
            timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(15),
        }
    }

    /// The next calls of this method, below this path, go wrong this way, each once.
    pub fn trouble(&self, method: &str, path: &str, troubles: impl IntoIterator<Item = Trouble>) {
        self.state.lock().unwrap().troubles.push((method.to_owned(), path.to_owned(), troubles.into_iter().collect()));
    }

    /// All calls so far, as `POST /api/roles`, without their queries.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// How many calls there were of this method, at this very path or below it.
    pub fn count(&self, method: &str, path: &str) -> usize {
        let start = format!("{method} {path}");
        self.calls().iter().filter(|call| call.starts_with(&start)).count()
    }

    /// Calls that change something.
    pub fn changes(&self) -> usize {
        self.calls().iter().filter(|call| !call.starts_with("GET ") && !call.contains("/oidc/token")).count()
    }

    /// Whoever makes changes is cut off at the change of this number, before or after it took effect, and from then on.
    pub fn dies_at(&self, change: usize, effect: bool) {
        self.state.lock().unwrap().dies = Some((change, effect));
    }

    pub fn lives(&self) {
        self.state.lock().unwrap().dies = None;
    }

    pub fn forget_calls(&self) {
        self.state.lock().unwrap().calls.clear();
    }

    pub fn tenant<T>(&self, look: impl FnOnce(&mut Tenant) -> T) -> T {
        look(&mut self.state.lock().unwrap().tenant)
    }

    pub fn token_seconds(&self, seconds: u64) {
        self.state.lock().unwrap().token_seconds = Some(seconds);
    }
}

fn spoiled(trouble: Option<Trouble>, reply: Option<Reply>) -> Option<Vec<u8>> {
    let text = |status: u16, headers: &str, body: &str| {
        let length = body.len();
        Some(format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes())
    };
    match trouble {
        None => reply.map(|reply| written(&reply)),
        Some(Trouble::TooMany(Some(seconds))) => text(429, &format!("Retry-After: {seconds}\r\n"), "slow down"),
        Some(Trouble::TooMany(None)) => text(429, "", "slow down"),
        Some(Trouble::Broken | Trouble::BrokenAfter) => text(500, "", "<h1>Internal Server Error</h1>"),
        Some(Trouble::CutBefore | Trouble::CutAfter | Trouble::Hang) => None,
        Some(Trouble::Expired) => Some(written(&unauthorized("auth.unauthorized"))),
        Some(Trouble::Forbidden) => Some(written(&refusal(403, "auth.forbidden", "Forbidden."))),
        Some(Trouble::Html) => text(200, "Content-Type: text/html\r\n", "<!doctype html><title>Sign in</title>"),
        Some(Trouble::Huge) => text(200, "Content-Type: application/json\r\n", &format!("[{}]", " ".repeat(5 << 20))),
        Some(Trouble::Redirect) => text(302, "Location: https://elsewhere.example/\r\n", ""),
    }
}

fn written((status, headers, body): &Reply) -> Vec<u8> {
    let (kind, body) = match body {
        Value::String(text) => ("text/plain; charset=utf-8", text.clone()),
        Value::Null => ("", String::new()),
        body => ("application/json; charset=utf-8", body.to_string()),
    };
    let mut text = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !kind.is_empty() {
        text.push_str(&format!("content-type: {kind}\r\ncontent-length: {}\r\n", body.len()));
    }
    format!("{text}\r\n{body}").into_bytes()
}

fn refusal(status: u16, code: &str, message: &str) -> Reply {
    (status, Vec::new(), json!({ "code": code, "message": message }))
}

fn unauthorized(code: &str) -> Reply {
    refusal(401, code, "Unauthorized. Please check credentials and its scope.")
}

fn ok(body: Value) -> Reply {
    (200, Vec::new(), body)
}

fn created(body: Value) -> Reply {
    (201, Vec::new(), body)
}

fn gone() -> Reply {
    (204, Vec::new(), Value::Null)
}

fn missing() -> Reply {
    refusal(404, "entity.not_exists_with_id", "The #{name} with ID `#{id}` does not exist.")
}

impl State {
    fn trouble(&mut self, request: &Received) -> Option<Trouble> {
        let (method, path, _) = parts(request);
        self.calls.push(format!("{method} {path}"));
        let meets = |(known, prefix, left): &&mut (String, String, VecDeque<Trouble>)| {
            *known == method && path.starts_with(prefix.as_str()) && !left.is_empty()
        };
        if let Some((left, effect)) = &mut self.dies
            && (method != "GET" && path != "/oidc/token" || *left == 0)
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Some(if std::mem::take(effect) { Trouble::CutAfter } else { Trouble::CutBefore });
            }
        }
        let trouble = self.troubles.iter_mut().find(meets).and_then(|(_, _, left)| left.pop_front());
        if matches!(trouble, Some(Trouble::Expired)) {
            let token = request.one("authorization").unwrap_or_default().to_owned();
            self.tenant.refused_tokens.push(token);
        }
        trouble
    }

    fn answer(&mut self, request: &Received) -> Reply {
        let (method, path, query) = parts(request);
        if path == "/oidc/token" {
            return self.token(request);
        }
        let authorization = request.one("authorization");
        let Some(token) = authorization else {
            return refusal(401, "auth.authorization_header_missing", "Authorization header is missing.");
        };
        if !token.starts_with("Bearer token-") || self.tenant.refused_tokens.iter().any(|refused| refused == token) {
            return unauthorized("auth.unauthorized");
        }
        let body: Value = if request.body.is_empty() { Value::Null } else { serde_json::from_slice(&request.body).unwrap() };
        let segments: Vec<&str> = path.trim_start_matches("/api/").split('/').collect();
        let found = match (method.as_str(), segments.as_slice()) {
            (method, ["resources", rest @ ..]) => self.tenant.resources(method, rest, &body),
            (method, ["roles", rest @ ..]) => self.tenant.roles(method, rest, &body),
            (method, ["applications", rest @ ..]) => self.tenant.applications(method, rest, &body, &query),
            (method, ["users", rest @ ..]) => self.tenant.users(method, rest, &query),
            _ => missing(),
        };
        paged(found, &path, &query)
    }

    fn token(&mut self, request: &Received) -> Reply {
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{APP_ID}:{APP_SECRET}")));
        let error = |status, error: &str, description: &str| {
            let body = json!({ "code": format!("oidc.{error}"), "message": "An OIDC error occurred.", "error": error, "error_description": description });
            (status, Vec::new(), body)
        };
        if request.one("authorization") != Some(&basic) {
            return error(401, "invalid_client", "client authentication failed");
        }
        let form: Vec<(String, String)> = form_urlencoded::parse(&request.body).into_owned().collect();
        let one = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(one("grant_type"), Some("client_credentials"));
        if one("resource") != Some(MANAGEMENT_API) {
            return error(400, "invalid_target", "resource indicator is missing, or unknown");
        }
        self.tenant.tokens += 1;
        let token = format!("token-{}", self.tenant.tokens);
        ok(json!({ "access_token": token, "expires_in": self.token_seconds.unwrap_or(3600), "token_type": "Bearer", "scope": "all" }))
    }
}

fn parts(request: &Received) -> (String, String, Vec<(String, String)>) {
    let mut line = request.line.split(' ');
    let (method, target) = (line.next().unwrap().to_owned(), line.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (method, path.to_owned(), form_urlencoded::parse(query.as_bytes()).into_owned().collect())
}

fn one<'q>(query: &'q [(String, String)], name: &str) -> Option<&'q str> {
    query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Logto's pages: 20 entries when nothing is said, 100 at most, the count in a header.
fn paged((status, mut headers, body): Reply, path: &str, query: &[(String, String)]) -> Reply {
    let Value::Array(items) = body else { return (status, headers, body) };
    if path.ends_with("/secrets") {
        return (status, headers, Value::Array(items));
    }
    let number = |name: &str, default: usize| one(query, name).map_or(default, |value| value.parse().unwrap());
    let (page, size) = (number("page", 1), number("page_size", 20));
    if size > 100 || page == 0 {
        return refusal(400, "guard.invalid_pagination", "The request pagination value is invalid.");
    }
    headers.push(("total-number", items.len().to_string()));
    (status, headers, Value::Array(items.into_iter().skip((page - 1) * size).take(size).collect()))
}

fn by_id<'t>(things: &'t mut [Value], id: &str) -> Option<&'t mut Value> {
    things.iter_mut().find(|thing| thing["id"] == id)
}

fn merge(thing: &mut Value, body: &Value) {
    for (key, value) in body.as_object().unwrap() {
        // Logto takes it and does nothing.
        if key != "isThirdParty" {
            thing[key] = value.clone();
        }
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|item| item.as_str().unwrap().to_owned()).collect()
}

impl Tenant {
    /// 21 characters, as Logto's.
    pub fn id(&mut self) -> String {
        self.made += 1;
        format!("id{:019}", self.made)
    }

    pub fn add_resource(&mut self, name: &str, indicator: &str) -> String {
        let id = self.id();
        self.resources.push(
            json!({ "tenantId": "default", "id": id, "name": name, "indicator": indicator, "isDefault": false, "accessTokenTtl": 3600 }),
        );
        id
    }

    pub fn add_scope(&mut self, resource: &str, name: &str, description: &str) -> String {
        let id = self.id();
        self.scopes.push(json!({ "tenantId": "default", "id": id, "resourceId": resource, "name": name, "description": description, "createdAt": 1_795_329_710_541_u64 }));
        id
    }

    pub fn add_role(&mut self, name: &str, kind: &str) -> String {
        let id = self.id();
        self.roles.push(json!({ "tenantId": "default", "id": id, "name": name, "description": name, "type": kind, "isDefault": false }));
        id
    }

    pub fn add_application(&mut self, name: &str, kind: &str, third_party: bool) -> String {
        let body = json!({ "name": name, "type": kind, "isThirdParty": third_party, "oidcClientMetadata": { "redirectUris": ["https://bot.example/callback"], "postLogoutRedirectUris": [] } });
        self.application(&body)
    }

    fn application(&mut self, body: &Value) -> String {
        let id = self.id();
        let mut made = json!({
            "tenantId": "default", "id": id, "name": "", "description": null, "type": "",
            "oidcClientMetadata": { "redirectUris": [], "postLogoutRedirectUris": [] }, "customClientMetadata": {},
            "protectedAppMetadata": null, "customData": {}, "isThirdParty": false, "appLevelAccessControlEnabled": false,
            "createdAt": 1_795_329_712_336_u64,
        });
        merge(&mut made, body);
        made["isThirdParty"] = body.get("isThirdParty").cloned().unwrap_or(false.into());
        self.applications.push(made);
        id
    }

    pub fn scope_id(&self, name: &str) -> String {
        self.scopes.iter().find(|scope| scope["name"] == name).unwrap()["id"].as_str().unwrap().to_owned()
    }

    fn resources(&mut self, method: &str, rest: &[&str], body: &Value) -> Reply {
        match (method, rest) {
            ("GET", []) => ok(self.resources.clone().into()),
            ("POST", []) => {
                let indicator = body["indicator"].as_str().unwrap();
                if self.resources.iter().any(|resource| resource["indicator"] == indicator) {
                    return refusal(422, "resource.resource_identifier_in_use", "The API identifier is already in use.");
                }
                let id = self.add_resource(body["name"].as_str().unwrap(), indicator);
                let made = by_id(&mut self.resources, &id).unwrap();
                merge(made, body);
                let mut answer = made.clone();
                answer["scopes"] = json!([]);
                created(answer)
            }
            ("PATCH", [id]) => by_id(&mut self.resources, id).map_or_else(missing, |resource| {
                merge(resource, body);
                ok(resource.clone())
            }),
            ("GET", [id, "scopes"]) => ok(self.scopes.iter().filter(|scope| scope["resourceId"] == **id).cloned().collect()),
            ("POST", [id, "scopes"]) => {
                if by_id(&mut self.resources, id).is_none() {
                    return missing();
                }
                let name = body["name"].as_str().unwrap();
                if self.scopes.iter().any(|scope| scope["resourceId"] == **id && scope["name"] == name) {
                    return refusal(422, "scope.name_exists", "The scope name is already in use.");
                }
                let scope = self.add_scope(id, name, body["description"].as_str().unwrap());
                created(by_id(&mut self.scopes, &scope).unwrap().clone())
            }
            ("PATCH", [_, "scopes", id]) => by_id(&mut self.scopes, id).map_or_else(missing, |scope| {
                merge(scope, body);
                ok(scope.clone())
            }),
            ("DELETE", [_, "scopes", id]) => {
                let before = self.scopes.len();
                self.scopes.retain(|scope| scope["id"] != **id);
                self.role_scopes.retain(|(_, scope)| scope != id);
                self.consent_scopes.retain(|(_, scope)| scope != id);
                if self.scopes.len() < before { gone() } else { missing() }
            }
            _ => missing(),
        }
    }

    fn roles(&mut self, method: &str, rest: &[&str], body: &Value) -> Reply {
        match (method, rest) {
            ("GET", []) => ok(self.roles.clone().into()),
            ("POST", []) => {
                let name = body["name"].as_str().unwrap();
                if self.roles.iter().any(|role| role["name"] == name) {
                    return refusal(422, "role.name_in_use", "This role name is already in use.");
                }
                let id = self.add_role(name, body["type"].as_str().unwrap());
                self.role_scopes.extend(strings(&body["scopeIds"]).into_iter().map(|scope| (id.clone(), scope)));
                let made = by_id(&mut self.roles, &id).unwrap();
                made["description"] = body["description"].clone();
                ok(made.clone())
            }
            ("PATCH", [id]) => by_id(&mut self.roles, id).map_or_else(missing, |role| {
                merge(role, body);
                ok(role.clone())
            }),
            ("GET", [id, "scopes"]) => {
                let holds = |scope: &&Value| self.role_scopes.iter().any(|(role, held)| role == id && scope["id"] == **held);
                ok(self.scopes.iter().filter(holds).cloned().collect())
            }
            ("POST", [id, "scopes"]) => {
                let wanted = strings(&body["scopeIds"]);
                if wanted.iter().any(|scope| self.role_scopes.contains(&((*id).to_owned(), scope.clone()))) {
                    return refusal(422, "role.scope_exists", "The scope id has already been added to this role.");
                }
                self.role_scopes.extend(wanted.into_iter().map(|scope| ((*id).to_owned(), scope)));
                created("Created".into())
            }
            ("DELETE", [id, "scopes", scope]) => {
                self.role_scopes.retain(|(role, held)| (role.as_str(), held.as_str()) != (*id, *scope));
                gone()
            }
            _ => missing(),
        }
    }

    fn applications(&mut self, method: &str, rest: &[&str], body: &Value, query: &[(String, String)]) -> Reply {
        match (method, rest) {
            ("GET", []) => {
                let third_party = one(query, "isThirdParty").map(|value| value == "true");
                let wanted = |application: &&Value| third_party.is_none_or(|wanted| application["isThirdParty"] == wanted);
                ok(self.applications.iter().rev().filter(wanted).cloned().collect())
            }
            ("POST", []) => {
                if body["isThirdParty"] == true && body["type"] == "MachineToMachine" {
                    let message = "Only traditional web, single-page, and native applications can be marked as third-party apps.";
                    return refusal(400, "application.invalid_third_party_application_type", message);
                }
                let id = self.application(body);
                ok(by_id(&mut self.applications, &id).unwrap().clone())
            }
            ("GET", [id]) => by_id(&mut self.applications, id).map_or_else(missing, |application| {
                let mut answer = application.clone();
                answer["isAdmin"] = false.into();
                ok(answer)
            }),
            ("PATCH", [id]) => by_id(&mut self.applications, id).map_or_else(missing, |application| {
                merge(application, body);
                ok(application.clone())
            }),
            ("DELETE", [id]) => {
                let before = self.applications.len();
                self.applications.retain(|application| application["id"] != **id);
                if self.applications.len() < before { gone() } else { missing() }
            }
            ("GET", [id, "secrets"]) => by_id(&mut self.applications, id).map_or_else(missing, |application| {
                let confidential = ["Traditional", "MachineToMachine"].contains(&application["type"].as_str().unwrap());
                let secret = json!({ "tenantId": "default", "applicationId": id, "name": "Default secret", "value": format!("secret-of-{id}"), "createdAt": 1_795_329_712_341_u64, "expiresAt": null });
                ok(Value::Array(if confidential { vec![secret] } else { Vec::new() }))
            }),
            (method, [id, "user-consent-scopes", rest @ ..]) => self.consent(method, id, rest, body),
            _ => missing(),
        }
    }

    fn consent(&mut self, method: &str, id: &str, rest: &[&str], body: &Value) -> Reply {
        let Some(application) = by_id(&mut self.applications, id) else { return missing() };
        if application["isThirdParty"] == false {
            return refusal(422, "application.third_party_application_only", "The feature is only available for third-party applications.");
        }
        match (method, rest) {
            ("GET", []) => {
                let of =
                    |pairs: &[(String, String)]| pairs.iter().filter(|(known, _)| known == id).map(|(_, scope)| scope.clone()).collect();
                let (user_scopes, ids): (Vec<String>, Vec<String>) = (of(&self.user_scopes), of(&self.consent_scopes));
                let held = |resource: &&Value| -> Vec<Value> {
                    let scopes = self
                        .scopes
                        .iter()
                        .filter(|scope| scope["resourceId"] == resource["id"] && ids.iter().any(|id| scope["id"] == **id));
                    scopes.map(|scope| json!({ "id": scope["id"], "name": scope["name"], "description": scope["description"] })).collect()
                };
                let resources: Vec<Value> = self
                    .resources
                    .iter()
                    .filter(|resource| !held(resource).is_empty())
                    .map(|resource| json!({ "resource": { "id": resource["id"], "name": resource["name"], "indicator": resource["indicator"] }, "scopes": held(&resource) }))
                    .collect();
                ok(
                    json!({ "organizationScopes": [], "resourceScopes": resources, "organizationResourceScopes": [], "userScopes": user_scopes }),
                )
            }
            ("POST", []) => {
                if strings(&body["resourceScopes"]).iter().any(|scope| scope == "management-api-all") {
                    return refusal(422, "application.consent_management_api_scopes_not_allowed", "Management API scopes are not allowed.");
                }
                for (into, scopes) in [(&mut self.user_scopes, &body["userScopes"]), (&mut self.consent_scopes, &body["resourceScopes"])] {
                    for scope in strings(scopes).into_iter().map(|scope| (id.to_owned(), scope)) {
                        // On conflict, nothing.
                        if !into.contains(&scope) {
                            into.push(scope);
                        }
                    }
                }
                created("Created".into())
            }
            ("DELETE", ["resource-scopes", scope]) => {
                self.consent_scopes.retain(|(known, held)| (known.as_str(), held.as_str()) != (id, *scope));
                gone()
            }
            ("DELETE", ["user-scopes", scope]) => {
                self.user_scopes.retain(|(known, held)| (known.as_str(), held.as_str()) != (id, *scope));
                gone()
            }
            _ => missing(),
        }
    }

    fn users(&mut self, method: &str, rest: &[&str], query: &[(String, String)]) -> Reply {
        match (method, rest) {
            ("GET", [id]) => by_id(&mut self.users, id).map_or_else(missing, |user| ok(user.clone())),
            ("GET", [id, "grants"]) => {
                let third_party = |client: &Value| {
                    self.applications.iter().all(|application| application["id"] != *client || application["isThirdParty"] == true)
                };
                let wanted = |grant: &&Value| {
                    let payload = &grant["payload"];
                    payload["accountId"] == **id && (one(query, "appType") != Some("thirdParty") || third_party(&payload["clientId"]))
                };
                ok(json!({ "grants": self.grants.iter().filter(wanted).cloned().collect::<Vec<_>>() }))
            }
            ("DELETE", [_, "grants", grant]) => {
                let before = self.grants.len();
                self.grants.retain(|known| known["id"] != **grant);
                if self.grants.len() < before { gone() } else { missing() }
            }
            _ => missing(),
        }
    }
}
