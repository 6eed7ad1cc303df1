//! The Management API: what an administrator may change of the tenant while it runs, at the paths and in the words of Logto.

mod applications;
mod authenticate;
mod consent_scopes;
mod faults;
mod input;
mod refusal;
mod resources;
mod roles;
mod users;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Request, StatusCode, header, request};
use hyper::body::Incoming;
use serde_json::Value;
use url::form_urlencoded;

pub use faults::ManagementFault;

use super::State;
use super::tenant::Tenant;
use crate::demo::server::{self, Reply};
use input::{Input, Paging, Query};
use refusal::Refusal;

/// The first part of every path.
pub const PREFIX: &str = "/api/";

/// Of each kind. A list that grows without end is a fault of whoever makes it grow.
const ENTITIES_MAX: usize = 1000;
/// How many calls are remembered.
const CALLS_MAX: usize = 1000;

/// What the API remembers of its calls, and what is wrong with it.
#[derive(Default)]
pub struct Management {
    calls: Mutex<Calls>,
    /// With the calls from now on that it spoils, the next one being 0.
    fault: Mutex<Option<(ManagementFault, Range<u32>)>>,
}

#[derive(Default)]
struct Calls {
    count: u64,
    last: VecDeque<String>,
}

impl Management {
    pub fn count(&self) -> u64 {
        self.calls().count
    }

    /// The last calls, the oldest first: method, path and query.
    pub fn last(&self) -> Vec<String> {
        self.calls().last.iter().cloned().collect()
    }

    pub fn misbehave(&self, fault: ManagementFault, calls: Range<u32>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault, calls));
    }

    fn record(&self, call: String) {
        let mut calls = self.calls();
        calls.count += 1;
        if calls.last.len() >= CALLS_MAX {
            calls.last.pop_front();
        }
        calls.last.push_back(call);
    }

    fn next_fault(&self) -> Option<ManagementFault> {
        let mut planned = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let (fault, calls) = planned.as_mut()?;
        let (now, fault) = (calls.contains(&0), *fault);
        *calls = calls.start.saturating_sub(1)..calls.end.saturating_sub(1);
        now.then_some(fault)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub async fn answer(state: &State, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    state.management.record(format!("{} {}", head.method, head.uri));
    let fault = state.management.next_fault();
    if let Some(fault) = fault.filter(|fault| !fault.takes_effect()) {
        return faults::answer(fault).await;
    }
    let reply = handle(state, head, body).await.unwrap_or_else(Refusal::reply);
    match fault {
        Some(fault) => faults::answer(fault).await,
        None => reply,
    }
}

async fn handle(state: &State, head: request::Parts, body: Incoming) -> Result<Reply, Refusal> {
    authenticate::authenticate(state, &head.headers)?;
    let body = server::read_body(body).await.map_err(Refusal::unreadable)?;
    let path = head.uri.path().strip_prefix(PREFIX).ok_or_else(Refusal::no_route)?;
    let parts: Vec<String> = path.split('/').map(percent_decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (kind, rest) = parts.split_first().ok_or_else(Refusal::no_route)?;
    let input = Input::parse(head.headers.get(header::CONTENT_TYPE), &body)?;
    let call = Call { state, path: format!("/{path}"), method: head.method.as_str(), query: Query::parse(head.uri.query()), input };
    match *kind {
        "applications" => applications::answer(&call, rest),
        "resources" => resources::answer(&call, rest),
        "roles" => roles::answer(&call, rest),
        "users" => users::answer(&call, rest),
        _ => Err(Refusal::no_route()),
    }
}

/// An authenticated call.
struct Call<'c> {
    state: &'c State,
    /// Without `/api`.
    path: String,
    method: &'c str,
    query: Query,
    input: Input,
}

impl Call<'_> {
    fn tenant(&self) -> MutexGuard<'_, Tenant> {
        self.state.tenant()
    }

    fn page(&self, paging: Paging, list: Vec<Value>) -> Result<Reply, Refusal> {
        // Logto leaves the `/api` out of its links.
        let origin = self.state.url.strip_suffix("/oidc").unwrap_or(&self.state.url);
        input::page(&self.query, &format!("{origin}{}", self.path), paging, list)
    }
}

fn percent_decode(part: &str) -> String {
    let pair = format!("part={}", part.replace('+', "%2B").replace('&', "%26"));
    form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn ok(value: &Value) -> Reply {
    server::json(StatusCode::OK, value)
}

fn created(value: &Value) -> Reply {
    server::json(StatusCode::CREATED, value)
}

/// 201 without anything to say.
fn created_silently() -> Reply {
    server::reply(StatusCode::CREATED, "text/plain; charset=utf-8", Bytes::from_static(b"Created"))
}

fn no_content() -> Reply {
    let mut reply = Reply::new(server::full(Bytes::new()));
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}

/// Refuses one more of what there are enough.
fn make_room<T>(list: &[T], kind: &str) -> Result<(), Refusal> {
    match list.len() < ENTITIES_MAX {
        true => Ok(()),
        false => Err(Refusal::too_many(kind)),
    }
}

/// The first of these that is there, to change it.
fn find<T>(list: &mut [T], is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
    list.iter_mut().find(|entity| is_it(entity))
}

/// Milliseconds, as Logto dates its entities. The issuer counts in whole seconds.
fn milliseconds(unix_seconds: i64) -> i64 {
    unix_seconds.saturating_mul(1000)
}

/// Logto has `null` where a text was never given.
fn or_null(text: &str) -> Value {
    match text {
        "" => Value::Null,
        text => Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use reqwest::{Client, Method, Response};
    use serde_json::{Map, json};

    use super::super::tenant::MANAGEMENT_API;
    use super::super::{Application, Counts, Issuer, Resource, Settings, TokenRequest, User};
    use super::*;

    const RECORDED: &str = include_str!("../../../../tests/fixtures/logto/management/recorded.json");
    const WEATHER: &str = "https://api.weather.example";

    async fn start(settings: Settings) -> Issuer {
        let administrator = Application::machine("admin", "secret", &["all"]);
        let applications = settings.applications.iter().cloned().chain([administrator]).collect();
        Issuer::start(SocketAddr::from(([127, 0, 0, 1], 0)), Settings { applications, ..settings }).await.unwrap()
    }

    /// With a resource, a machine, a user and a third-party application.
    async fn start_with_weather() -> Issuer {
        let ceiling = super::super::Ceiling::default();
        start(Settings {
            resources: vec![Resource::new(WEATHER, &[("read:weather", "See the weather"), ("write:weather", "")])],
            applications: vec![
                Application::machine("cron", "secret", &[]),
                Application::third_party("bot", "secret", "https://bot.example/cb", ceiling),
            ],
            users: vec![User::new("ada", "Ada", "pw", &[])],
            ..Settings::default()
        })
        .await
    }

    fn client() -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Client::builder().no_proxy().build().unwrap()
    }

    /// By client credentials, as a machine gets it.
    async fn token_for(issuer: &Issuer, id: &str, secret: &str, resource: &str, scope: &str) -> Value {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("grant_type", "client_credentials"), ("resource", resource), ("scope", scope)])
            .finish();
        let request = client().post(format!("{}/token", issuer.url())).basic_auth(id, Some(secret));
        let response = request.header("content-type", "application/x-www-form-urlencoded").body(form).send().await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    async fn administrator(issuer: &Issuer) -> String {
        let answer = token_for(issuer, "admin", "secret", MANAGEMENT_API, "all").await;
        answer["access_token"].as_str().unwrap().to_owned()
    }

    struct Administrator {
        issuer: Issuer,
        token: String,
    }

    impl Administrator {
        async fn of(issuer: Issuer) -> Self {
            let token = administrator(&issuer).await;
            Self { issuer, token }
        }

        async fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> reqwest::Result<Response> {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = client().request(method, format!("http://{}{path}", self.issuer.address())).bearer_auth(&self.token);
            let request = match body {
                Some(body) => request.header("content-type", "application/json").body(body.to_string()),
                None => request,
            };
            request.send().await
        }

        async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
            read(self.try_call(method, path, body.as_ref()).await.unwrap()).await
        }

        async fn get(&self, path: &str) -> Value {
            let (status, body) = self.call("GET", path, None).await;
            assert_eq!(status, 200, "{path}: {body}");
            body
        }

        async fn post(&self, path: &str, body: Value) -> (u16, Value) {
            self.call("POST", path, Some(body)).await
        }
    }

    async fn read(response: Response) -> (u16, Value) {
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    fn code(answer: &(u16, Value)) -> (u16, &str) {
        (answer.0, answer.1["code"].as_str().unwrap_or_default())
    }

    /// What differs from one recording to the next: compared by its type alone.
    const VOLATILE: [&str; 8] = ["createdAt", "updatedAt", "value", "iat", "exp", "expiresAt", "jti", "id"];
    /// What this issuer does not know of a user.
    const UNKNOWN: [&str; 2] = ["lastSignInAt", "applicationId"];

    fn assert_same(recorded: &Value, found: &Value, place: &str) {
        match (recorded, found) {
            (Value::Object(recorded), Value::Object(found)) => {
                let names = |object: &Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
                let (mut expected, mut present) = (names(recorded), names(found));
                expected.sort();
                present.sort();
                assert_eq!(expected, present, "{place}");
                for (name, value) in recorded.iter().filter(|(name, _)| !UNKNOWN.contains(&name.as_str())) {
                    let place = format!("{place}.{name}");
                    match VOLATILE.contains(&name.as_str()) {
                        true => assert_eq!(std::mem::discriminant(value), std::mem::discriminant(&found[name]), "{place}"),
                        false => assert_same(value, &found[name], &place),
                    }
                }
            }
            (Value::Array(recorded), Value::Array(found)) => {
                assert_eq!(recorded.len(), found.len(), "{place}");
                for (i, (recorded, found)) in recorded.iter().zip(found).enumerate() {
                    assert_same(recorded, found, &format!("{place}[{i}]"));
                }
            }
            _ => assert_eq!(recorded, found, "{place}"),
        }
    }

    /// The ids in a recorded answer and those in ours at the same places.
    fn learn(ids: &mut BTreeMap<String, String>, recorded: &Value, found: &Value) {
        match (recorded, found) {
            (Value::Object(recorded), Value::Object(found)) => {
                if let (Some(Value::String(theirs)), Some(Value::String(ours))) = (recorded.get("id"), found.get("id")) {
                    ids.insert(theirs.clone(), ours.clone());
                }
                recorded.iter().for_each(|(name, value)| learn(ids, value, found.get(name).unwrap_or(&Value::Null)));
            }
            (Value::Array(recorded), Value::Array(found)) => recorded.iter().zip(found).for_each(|(a, b)| learn(ids, a, b)),
            _ => {}
        }
    }

    fn recordings() -> Vec<Value> {
        serde_json::from_str(RECORDED).unwrap()
    }

    /// A user of ours who allowed two applications something in one session, as the recorded one did.
    fn allow_both(issuer: &Issuer, ids: &BTreeMap<String, String>) {
        let user = &ids["htqney0u61d7"];
        for (i, (client, scopes)) in
            [("bhl2530elo3mx9otl2giy", "read:weather"), ("j7qm8upcge56v1j12otm4", "read:weather write:weather")].into_iter().enumerate()
        {
            let mut grants = issuer.0.state.grants();
            let grant = grants.of_session("session", user, &ids[client]).unwrap();
            grant.allow(
                &["openid", "offline_access", "profile", "email"].map(str::to_owned),
                &BTreeMap::from([(WEATHER.to_owned(), scopes.split(' ').map(str::to_owned).collect())]),
            );
            grant.issued_at += i64::try_from(i).unwrap();
        }
    }

    #[tokio::test]
    async fn every_recorded_call_is_answered_as_logto_answered_it() {
        let administrator = Administrator::of(start(Settings::default()).await).await;
        let mut ids = BTreeMap::new();
        for recorded in recordings() {
            let fixture = recorded["fixture"].as_str().unwrap();
            if fixture.contains("mgmt-401") || fixture.contains("create-hook") {
                continue;
            }
            if fixture.ends_with("05-list-grants") {
                allow_both(&administrator.issuer, &ids);
            }
            // There are no organizations here.
            let mut recorded = recorded.clone();
            for name in ["organizationScopes", "organizationResourceScopes"] {
                recorded.get_mut("body").and_then(Value::as_object_mut).and_then(|body| body.remove(name));
                if let Some(list) = recorded["response"]["body"].get_mut(name) {
                    *list = json!([]);
                }
            }
            let mut text = recorded.to_string();
            for (theirs, ours) in &ids {
                text = text.replace(theirs, ours);
            }
            let asked: Value = serde_json::from_str(&text).unwrap();
            let (method, url) = (asked["method"].as_str().unwrap(), asked["url"].as_str().unwrap());
            let response = administrator.try_call(method, url, asked.get("body")).await.unwrap();
            for (name, value) in asked["response"]["headers"].as_object().unwrap() {
                let value = value.as_str().unwrap().replace("127.0.0.1:3001", &administrator.issuer.address().to_string());
                assert_eq!(response.headers().get(name).map(|found| found.to_str().unwrap()), Some(value.as_str()), "{fixture}: {name}");
            }
            let (status, body) = read(response).await;
            assert_eq!(asked["response"]["status"], status, "{fixture}: {body}");
            assert_same(&asked["response"]["body"], &body, fixture);
            learn(&mut ids, &recorded["response"]["body"], &body);
        }
    }

    #[tokio::test]
    async fn who_shows_no_good_token_is_told_so_in_the_words_of_logto() {
        let issuer = start_with_weather().await;
        let recorded = |name: &str| {
            let all = recordings();
            let mut response = all.iter().find(|one| one["fixture"].as_str().unwrap().ends_with(name)).unwrap()["response"].clone();
            // The payload of a token is nobody's to read.
            response.pointer_mut("/body/data").and_then(Value::as_object_mut).and_then(|data| data.remove("payload"));
            response
        };
        let ask = |header: Option<String>| {
            let request = client().get(format!("http://{}/api/applications", issuer.address()));
            header.into_iter().fold(request, |request, header| request.header("authorization", header)).send()
        };
        let token = |token: TokenRequest| format!("Bearer {}", issuer.token(token));
        let management = || TokenRequest { resource: MANAGEMENT_API.to_owned(), scope: Some("all".to_owned()), ..TokenRequest::default() };
        let of_another = TokenRequest { resource: WEATHER.to_owned(), ..management() };
        let cases = [
            ("mgmt-401-none", None),
            ("mgmt-401-garbage", Some("Bearer x.y.z".to_owned())),
            ("mgmt-401-wrong-aud", Some(token(of_another))),
        ];
        for (name, header) in cases {
            let (status, body) = read(ask(header).await.unwrap()).await;
            let recorded = recorded(name);
            assert_eq!((json!(status), body), (recorded["status"].clone(), recorded["body"].clone()), "{name}");
        }
        let good = management();
        assert_eq!(ask(Some(token(good.clone()))).await.unwrap().status(), 200);
        let forged = token(good.clone()).rsplit_once('.').unwrap().0.to_owned() + ".AAAA";
        let of_issuer = Map::from_iter([("iss".to_owned(), json!("https://other.example/oidc"))]);
        let without_subject = Map::from_iter([("sub".to_owned(), json!(""))]);
        let cases = [
            (Some(token(TokenRequest { expires_in: -1, ..good.clone() })), 401, "auth.unauthorized"),
            (Some(forged), 401, "auth.unauthorized"),
            (Some(token(TokenRequest { claims: of_issuer, ..good.clone() })), 401, "auth.unauthorized"),
            (Some(token(TokenRequest { claims: without_subject, ..good.clone() })), 401, "auth.jwt_sub_missing"),
            (Some("Basic YTpi".to_owned()), 401, "auth.authorization_token_type_not_supported"),
            (Some(token(TokenRequest { scope: Some("allowed".to_owned()), ..good.clone() })), 403, "auth.forbidden"),
            (Some(token(TokenRequest { scope: None, ..good })), 403, "auth.forbidden"),
        ];
        for (i, (header, status, expected)) in cases.into_iter().enumerate() {
            let answer = read(ask(header).await.unwrap()).await;
            assert_eq!(code(&answer), (status, expected), "case {i}");
        }
        // A key that is no longer published opens nothing.
        let old = token(TokenRequest { resource: MANAGEMENT_API.to_owned(), scope: Some("all".to_owned()), ..TokenRequest::default() });
        issuer.rotate(super::super::SigningAlgorithm::Rs256);
        assert_eq!(ask(Some(old.clone())).await.unwrap().status(), 200);
        issuer.forget_previous();
        assert_eq!(read(ask(Some(old)).await.unwrap()).await.1["data"]["code"], "ERR_JWKS_NO_MATCHING_KEY");
    }

    #[tokio::test]
    async fn only_a_machine_that_has_the_scope_all_gets_it() {
        let issuer = start_with_weather().await;
        let answer = token_for(&issuer, "cron", "secret", MANAGEMENT_API, "all").await;
        assert_eq!((answer.get("scope"), answer["token_type"].as_str()), (None, Some("Bearer")));
        let administrator = Administrator::of(issuer).await;
        let roles = administrator.get("/api/roles").await;
        assert_eq!((&roles[0]["name"], roles.as_array().unwrap().len()), (&json!("Logto Management API access"), 1));
        let of_role = format!("/api/roles/{}/applications", roles[0]["id"].as_str().unwrap());
        assert_eq!(administrator.post(&of_role, json!({ "applicationIds": ["cron"] })).await, (201, json!("Created")));
        assert_eq!(token_for(&administrator.issuer, "cron", "secret", MANAGEMENT_API, "all").await["scope"], "all");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_call_is_told_in_the_words_of_logto() {
        let administrator = Administrator::of(start_with_weather().await).await;
        let resource = administrator.issuer.tenant().resource(WEATHER).unwrap().clone();
        let (id, scope) = (&resource.id, &resource.scopes[0].id);
        let metadata = |uris: Value| json!({ "name": "x", "type": "SPA", "oidcClientMetadata": uris });
        let cases = [
            ("GET", "/api/applications/none".to_owned(), json!({}), 404, "entity.not_exists_with_id"),
            ("PATCH", "/api/applications/none".to_owned(), json!({}), 404, "entity.not_exists_with_id"),
            ("DELETE", "/api/applications/none".to_owned(), json!({}), 404, "entity.not_exists_with_id"),
            ("GET", "/api/applications/none/secrets".to_owned(), json!({}), 404, "entity.not_exists_with_id"),
            ("GET", "/api/resources/none".to_owned(), json!({}), 404, "entity.not_exists_with_id"),
            ("GET", "/api/roles/none".to_owned(), json!({}), 404, "entity.not_exists_with_id"),
            ("GET", "/api/users/none".to_owned(), json!({}), 404, "entity.not_found"),
            ("DELETE", "/api/users/none".to_owned(), json!({}), 404, "entity.not_found"),
            ("PATCH", "/api/users/none/is-suspended".to_owned(), json!({ "isSuspended": true }), 404, "entity.not_found"),
            ("DELETE", "/api/users/ada/grants/none".to_owned(), json!({}), 404, "oidc.invalid_grant"),
            ("DELETE", format!("/api/resources/{id}/scopes/none"), json!({}), 404, "entity.not_found"),
            ("PATCH", format!("/api/resources/{id}/scopes/none"), json!({}), 404, "entity.not_exists_with_id"),
            ("POST", "/api/resources".to_owned(), json!({ "name": "x", "indicator": WEATHER }), 422, "resource.resource_identifier_in_use"),
            ("POST", format!("/api/resources/{id}/scopes"), json!({ "name": "read:weather" }), 422, "scope.name_exists"),
            ("PATCH", format!("/api/resources/{id}/scopes/{scope}"), json!({ "name": "write:weather" }), 422, "scope.name_exists"),
            ("POST", format!("/api/resources/{id}/scopes"), json!({ "name": "read weather" }), 400, "scope.name_with_space"),
            ("PATCH", "/api/resources/management-api".to_owned(), json!({}), 400, "resource.cannot_modify_management_api"),
            ("DELETE", "/api/resources/management-api".to_owned(), json!({}), 400, "resource.cannot_delete_management_api"),
            (
                "POST",
                "/api/roles".to_owned(),
                json!({ "name": "x", "description": "y", "scopeIds": ["none"] }),
                404,
                "entity.not_exists_with_id",
            ),
            (
                "POST",
                "/api/roles".to_owned(),
                json!({ "name": "x", "description": "y", "scopeIds": ["management-api-all"] }),
                400,
                "role.management_api_scopes_not_assignable_to_user_role",
            ),
            ("POST", "/api/users/ada/roles".to_owned(), json!({ "roleIds": ["none"] }), 404, "entity.not_exists_with_id"),
            ("POST", "/api/applications/bot/roles".to_owned(), json!({ "roleIds": [] }), 422, "application.invalid_type"),
            ("POST", "/api/users".to_owned(), json!({ "username": "ada" }), 422, "user.username_already_in_use"),
            (
                "POST",
                "/api/applications/bot/user-consent-scopes".to_owned(),
                json!({ "resourceScopes": ["none"] }),
                422,
                "application.user_consent_scopes_not_found",
            ),
            ("DELETE", format!("/api/applications/bot/user-consent-scopes/resource-scopes/{scope}"), json!({}), 404, "entity.not_found"),
            ("DELETE", "/api/applications/bot/user-consent-scopes/other/x".to_owned(), json!({}), 400, "guard.invalid_input"),
            ("POST", "/api/applications/bot/user-consent-scopes".to_owned(), json!({ "userScopes": ["all"] }), 400, "guard.invalid_input"),
            ("POST", "/api/applications".to_owned(), json!({ "type": "SPA" }), 400, "guard.invalid_input"),
            ("POST", "/api/applications".to_owned(), json!({ "name": "x" }), 400, "guard.invalid_input"),
            ("POST", "/api/applications".to_owned(), json!({ "name": "", "type": "SPA" }), 400, "guard.invalid_input"),
            ("POST", "/api/applications".to_owned(), json!({ "name": "x", "type": "Spa" }), 400, "guard.invalid_input"),
            ("POST", "/api/applications".to_owned(), metadata(json!({ "redirectUris": [] })), 400, "guard.invalid_input"),
            (
                "POST",
                "/api/applications".to_owned(),
                metadata(json!({ "redirectUris": ["/cb"], "postLogoutRedirectUris": [] })),
                400,
                "guard.invalid_input",
            ),
            (
                "POST",
                "/api/applications".to_owned(),
                metadata(json!({ "redirectUris": [1], "postLogoutRedirectUris": [] })),
                400,
                "guard.invalid_input",
            ),
            ("PATCH", "/api/users/ada/is-suspended".to_owned(), json!({}), 400, "guard.invalid_input"),
            ("PATCH", "/api/users/ada/is-suspended".to_owned(), json!({ "isSuspended": "yes" }), 400, "guard.invalid_input"),
            ("GET", "/api/users/ada/grants?appType=other".to_owned(), json!({}), 400, "guard.invalid_input"),
            ("GET", "/api/applications?page=0".to_owned(), json!({}), 400, "guard.invalid_pagination"),
            ("GET", "/api/users?page_size=101".to_owned(), json!({}), 400, "guard.invalid_pagination"),
            ("POST", "/api/applications".to_owned(), json!(["x"]), 400, "guard.invalid_input"),
            ("PUT", "/api/applications/bot".to_owned(), json!({}), 404, ""),
            ("GET", "/api/".to_owned(), json!({}), 404, ""),
        ];
        let before = format!("{:?}", administrator.issuer.tenant());
        for (method, path, body, status, expected) in cases {
            let answer = administrator.call(method, &path, Some(body.clone())).await;
            assert_eq!(code(&answer), (status, expected), "{method} {path} {body}: {}", answer.1);
        }
        assert_eq!(before, format!("{:?}", administrator.issuer.tenant()), "a refused call changed something");
    }

    #[tokio::test]
    async fn an_input_that_is_not_of_its_form_is_refused_in_the_form_of_logto() {
        let administrator = Administrator::of(start(Settings::default()).await).await;
        let all = recordings();
        let recorded = &all.iter().find(|one| one["fixture"].as_str().unwrap().contains("create-hook")).unwrap()["response"];
        let (status, found) = administrator.post("/api/applications", json!({ "name": "x", "type": "Hook" })).await;
        assert_eq!(recorded["status"], status);
        let names = |value: &Value| {
            let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(names(&found), names(&recorded["body"]));
        assert_eq!(names(&found["data"]), names(&recorded["body"]["data"]));
        assert_eq!(names(&found["data"]["issues"][0]), names(&recorded["body"]["data"]["issues"][0]));
        assert_eq!([&found["message"], &found["data"]["name"]], [&recorded["body"]["message"], &recorded["body"]["data"]["name"]]);
        let details = "Error in key path \"type\": (invalid_enum_value) Invalid enum value. Expected 'Native' | 'SPA' | 'Traditional' | \
                       'MachineToMachine' | 'Protected' | 'SAML', received 'Hook'";
        assert_eq!(found["details"], details);
        let missing = administrator.post("/api/applications", json!({ "type": "SPA" })).await.1;
        assert_eq!(missing["details"], "Error in key path \"name\": (invalid_type) Expected string but received undefined.");
        let request =
            client().post(format!("http://{}/api/applications", administrator.issuer.address())).bearer_auth(&administrator.token);
        let json = request.header("content-type", "application/json");
        let (status, body) = read(json.try_clone().unwrap().body("{\"name\":").send().await.unwrap()).await;
        assert_eq!((status, &body["code"]), (400, &json!("guard.invalid_input")));
        let (status, _) = read(json.body(vec![b' '; server::BODY_BYTES_MAX + 1]).send().await.unwrap()).await;
        assert_eq!(status, 413);
    }

    #[tokio::test]
    async fn a_list_has_pages_that_lead_to_each_other() {
        let administrator = Administrator::of(start(Settings::default()).await).await;
        for i in 0..5 {
            assert_eq!(administrator.post("/api/applications", json!({ "name": format!("app {i}"), "type": "SPA" })).await.0, 200);
        }
        let response = administrator.try_call("GET", "/api/applications?page=2&types=SPA&page_size=2", None).await.unwrap();
        let url = format!("http://{}/applications", administrator.issuer.address());
        let link = |page: u32, rel: &str| format!("<{url}?page={page}&types=SPA&page_size=2>; rel=\"{rel}\"");
        let links = [link(1, "first"), link(3, "last"), link(1, "prev"), link(3, "next")].join(", ");
        assert_eq!([&response.headers()["total-number"], &response.headers()["link"]], ["5", links.as_str()]);
        let (_, body) = read(response).await;
        let names: Vec<&str> = body.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["app 2", "app 1"]);
        // Without a page it is the whole list, and one past the end is empty.
        assert_eq!(administrator.get("/api/applications").await.as_array().unwrap().len(), 6);
        assert_eq!(administrator.get("/api/applications?page=9").await, json!([]));
    }

    #[tokio::test]
    async fn a_change_takes_the_place_of_what_was_there() {
        let administrator = Administrator::of(start_with_weather().await).await;
        let metadata =
            json!({ "redirectUris": ["com.bot.app://cb"], "postLogoutRedirectUris": [], "logoUri": "https://bot.example/l.png" });
        let change =
            json!({ "name": "Bot", "description": "a bot", "oidcClientMetadata": metadata, "customData": { "a": 1 }, "type": "SPA" });
        let (status, changed) = administrator.call("PATCH", "/api/applications/bot", Some(change)).await;
        assert_eq!((status, &changed["type"], &changed["oidcClientMetadata"]), (200, &json!("Traditional"), &metadata));
        let change = json!({ "description": null, "customData": { "b": 2 } });
        let (_, changed) = administrator.call("PATCH", "/api/applications/bot", Some(change)).await;
        assert_eq!([&changed["name"], &changed["description"], &changed["customData"]], [&json!("Bot"), &Value::Null, &json!({ "b": 2 })]);
        assert_eq!(changed["oidcClientMetadata"], metadata);
        assert_eq!(administrator.issuer.tenant().application("bot").unwrap().redirect_uris, ["com.bot.app://cb"]);
    }

    #[tokio::test]
    async fn a_secret_is_good_until_it_is_taken_away() {
        let administrator = Administrator::of(start_with_weather().await).await;
        let (status, added) = administrator.post("/api/applications/cron/secrets", json!({ "name": "second +" })).await;
        assert_eq!((status, added["value"].as_str().unwrap().len()), (201, 32));
        let again = administrator.post("/api/applications/cron/secrets", json!({ "name": "second +" })).await;
        assert_eq!(code(&again), (422, "application.secret_name_exists"));
        let is_good =
            async |secret: &str| token_for(&administrator.issuer, "cron", secret, WEATHER, "").await.get("access_token").is_some();
        assert!(is_good(added["value"].as_str().unwrap()).await && is_good("secret").await);
        assert_eq!(administrator.call("DELETE", "/api/applications/cron/secrets/Default%20secret", None).await.0, 204);
        assert!(is_good(added["value"].as_str().unwrap()).await && !is_good("secret").await);
        assert_eq!(administrator.call("DELETE", "/api/applications/cron/secrets/second%20+", None).await.0, 204);
        assert!(!is_good(added["value"].as_str().unwrap()).await);
        assert_eq!(administrator.get("/api/applications/cron/secrets").await, json!([]));
        let past = administrator.post("/api/applications/cron/secrets", json!({ "name": "x", "expiresAt": 1 })).await;
        assert_eq!(code(&past), (400, "request.invalid_input"));
    }

    #[tokio::test]
    async fn a_scope_comes_and_goes_with_the_role_that_gives_it() {
        let administrator = Administrator::of(start_with_weather().await).await;
        let issuer = &administrator.issuer;
        let [read, write] = ["read:weather", "write:weather"].map(|name| issuer.tenant().scope_ids(WEATHER, &[name]).remove(0));
        let granted = async || token_for(issuer, "cron", "secret", WEATHER, "read:weather write:weather").await["scope"].clone();
        assert_eq!(granted().await, Value::Null);
        let role = json!({ "name": "m", "description": "m", "type": "MachineToMachine", "scopeIds": [read] });
        let (_, role) = administrator.post("/api/roles", role).await;
        let role = role["id"].as_str().unwrap();
        assert_eq!(administrator.post("/api/applications/cron/roles", json!({ "roleIds": [role] })).await.0, 201);
        assert_eq!(granted().await, "read:weather");
        let (status, scopes) = administrator.post(&format!("/api/roles/{role}/scopes"), json!({ "scopeIds": [write] })).await;
        assert_eq!((status, scopes.as_array().unwrap().len()), (201, 2));
        assert_eq!(granted().await, "read:weather write:weather");
        let scopes = administrator.get(&format!("/api/roles/{role}/scopes")).await;
        assert_eq!(scopes[0]["resource"]["indicator"], WEATHER);
        assert_eq!(administrator.call("DELETE", &format!("/api/roles/{role}/scopes/{read}"), None).await.0, 204);
        assert_eq!(granted().await, "write:weather");
        let resource = issuer.tenant().resource(WEATHER).unwrap().id.clone();
        assert_eq!(administrator.call("DELETE", &format!("/api/resources/{resource}/scopes/{write}"), None).await.0, 204);
        assert_eq!(administrator.get(&format!("/api/roles/{role}/scopes")).await, json!([]));
        // A user cannot have the role of a machine.
        let wrong = administrator.post("/api/users/ada/roles", json!({ "roleIds": [role] })).await;
        assert_eq!(code(&wrong), (422, "user.invalid_role_type"));
        let role_of_users = json!({ "name": "u", "description": "u", "scopeIds": [] });
        let (_, users_role) = administrator.post("/api/roles", role_of_users).await;
        let users_role = users_role["id"].as_str().unwrap();
        assert_eq!(administrator.post(&format!("/api/roles/{users_role}/users"), json!({ "userIds": ["ada"] })).await.0, 201);
        assert_eq!(administrator.get("/api/roles?type=User").await[0]["featuredUsers"][0]["id"], "ada");
        assert_eq!(administrator.call("DELETE", &format!("/api/roles/{users_role}"), None).await.0, 204);
        assert!(issuer.tenant().user("ada").unwrap().roles.is_empty());
    }

    #[tokio::test]
    async fn a_deleted_resource_takes_its_scopes_out_of_every_ceiling() {
        let administrator = Administrator::of(start_with_weather().await).await;
        let tenant = administrator.issuer.tenant();
        let resource = tenant.resource(WEATHER).unwrap();
        let ids = tenant.scope_ids(WEATHER, &["read:weather", "write:weather"]);
        let ceiling = "/api/applications/bot/user-consent-scopes";
        for _ in 0..2 {
            assert_eq!(administrator.post(ceiling, json!({ "resourceScopes": ids, "userScopes": ["email"] })).await.0, 201);
        }
        assert_eq!(administrator.issuer.tenant().application("bot").unwrap().ceiling.resource_scopes, ids);
        assert_eq!(administrator.call("DELETE", &format!("{ceiling}/user-scopes/email"), None).await.0, 204);
        assert_eq!(administrator.call("DELETE", &format!("/api/resources/{}", resource.id), None).await.0, 204);
        let expected = json!({ "organizationScopes": [], "resourceScopes": [], "organizationResourceScopes": [], "userScopes": [] });
        assert_eq!(administrator.get(ceiling).await, expected);
    }

    #[tokio::test]
    async fn grants_go_with_their_application_and_stay_without_their_user() {
        let administrator = Administrator::of(start_with_weather().await).await;
        let issuer = &administrator.issuer;
        for client in ["bot", "cron"] {
            issuer.allow("ada", client, WEATHER, &["read:weather"]).unwrap();
        }
        let listed =
            async |query: &str| administrator.get(&format!("/api/users/ada/grants{query}")).await["grants"].as_array().unwrap().len();
        assert_eq!([listed("").await, listed("?appType=thirdParty").await, listed("?appType=firstParty").await], [2, 1, 1]);
        // The grant of one user is not revoked in the name of another.
        let grant = &issuer.grants_of("ada")[0].id;
        let another = issuer.allow("ada", "bot", WEATHER, &["read:weather"]).unwrap();
        assert_eq!((listed("?appType=thirdParty").await, issuer.revoke(&another)), (2, true));
        let wrong = administrator.call("DELETE", &format!("/api/users/bob/grants/{grant}"), None).await;
        assert_eq!(code(&wrong), (404, "oidc.invalid_grant"));
        assert_eq!(administrator.call("DELETE", "/api/users/ada", None).await.0, 204);
        assert_eq!(listed("").await, 2);
        assert_eq!(administrator.call("DELETE", "/api/applications/bot", None).await.0, 204);
        assert_eq!((listed("").await, issuer.grants_of("ada").len()), (1, 1));
        assert!(issuer.tenant().application("bot").is_none());
    }

    #[tokio::test]
    async fn there_is_an_end_to_what_can_be_made() {
        let administrator = Administrator::of(start(Settings::default()).await).await;
        let one = Application::machine("x", "", &[]);
        administrator.issuer.change(|tenant| tenant.applications.resize(ENTITIES_MAX, one));
        let answer = administrator.post("/api/applications", json!({ "name": "x", "type": "SPA" })).await;
        assert_eq!(code(&answer), (403, "subscription.limit_exceeded"));
    }

    #[tokio::test]
    async fn each_fault_shows_as_often_as_it_was_asked_for() {
        let administrator = Administrator::of(start_with_weather().await).await;
        let issuer = &administrator.issuer;
        let body = json!({ "name": "x", "type": "SPA" });
        let made = || issuer.tenant().applications.iter().filter(|application| application.name == "x").count();
        issuer.misbehave_management(ManagementFault::TooManyRequests { retry_after_seconds: 7 }, 0..2);
        for _ in 0..2 {
            let refused = administrator.try_call("POST", "/api/applications", Some(&body)).await.unwrap();
            assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"7".parse().unwrap()));
        }
        issuer.misbehave_management(ManagementFault::Status(503), 0..1);
        assert_eq!(administrator.post("/api/applications", body.clone()).await.0, 503);
        issuer.misbehave_management(ManagementFault::Html, 0..1);
        assert_eq!(administrator.get("/api/applications").await, "<!doctype html><title>Welcome</title>");
        assert_eq!(made(), 0);
        issuer.misbehave_management(ManagementFault::BreakOff, 0..1);
        assert!(administrator.try_call("POST", "/api/applications", Some(&body)).await.is_err());
        assert_eq!(made(), 1);
        issuer.misbehave_management(ManagementFault::Hang, 1..2);
        assert_eq!(administrator.get("/api/users/ada/grants").await, json!({ "grants": [] }));
        let before = issuer.counts().management;
        let arrived = async {
            // Who gave up before the call has arrived would leave the fault to the next one.
            while issuer.counts().management == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answer = administrator.try_call("POST", "/api/applications", Some(&body)) => panic!("{answer:?}"),
            () = arrived => {}
        }
        assert_eq!(administrator.get("/api/users/ada/grants").await, json!({ "grants": [] }));
        assert_eq!((made(), issuer.counts()), (1, Counts { token: 1, management: 8, ..Counts::default() }));
        assert_eq!(issuer.management_calls().last().unwrap(), "GET /api/users/ada/grants");
    }
}
