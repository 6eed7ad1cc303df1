//! `/api/applications`: clients of the issuer, and their secrets.

use http::StatusCode;
use serde_json::{Map, Value, json};
use url::Url;

use super::input::{Input, Paging};
use super::refusal::Refusal;
use super::{Call, consent_scopes, created, find, make_room, milliseconds, no_content, ok, roles};
use crate::clock;
use crate::demo::issuer::tenant::{Application, ApplicationKind, Secret, new_id, new_secret};
use crate::demo::server::Reply;

const KINDS: [&str; 6] = ["Native", "SPA", "Traditional", "MachineToMachine", "Protected", "SAML"];
const DEFAULT_SECRET: &str = "Default secret";
/// So many of one application.
const SECRETS_MAX: usize = 20;

pub fn answer(call: &Call<'_>, path: &[&str]) -> Result<Reply, Refusal> {
    match (call.method, path) {
        ("GET", []) => list(call),
        ("POST", []) => create(call),
        ("GET", [id]) => one(call, id),
        ("PATCH", [id]) => change(call, id),
        ("DELETE", [id]) => delete(call, id),
        ("GET", [id, "secrets"]) => Ok(ok(&secrets(&with_id(call, id)?))),
        ("POST", [id, "secrets"]) => add_secret(call, id),
        ("DELETE", [id, "secrets", name]) => delete_secret(call, id, name),
        (_, [id, "user-consent-scopes", rest @ ..]) => consent_scopes::answer(call, id, rest),
        (_, [id, "roles", rest @ ..]) => roles::of_application(call, id, rest),
        _ => Err(Refusal::no_route()),
    }
}

pub fn unknown(id: &str) -> Refusal {
    Refusal::unknown_id("applications", id)
}

pub fn with_id(call: &Call<'_>, id: &str) -> Result<Application, Refusal> {
    call.tenant().application(id).cloned().ok_or_else(|| unknown(id))
}

/// As Logto shows it. Its secrets are not part of it.
pub fn shown(application: &Application) -> Value {
    let mut metadata = application.further_metadata.clone();
    metadata.insert("redirectUris".to_owned(), json!(application.redirect_uris));
    metadata.insert("postLogoutRedirectUris".to_owned(), json!(application.post_logout_redirect_uris));
    json!({
        "tenantId": "default",
        "id": application.id,
        "name": application.name,
        "description": application.description,
        "type": application.kind.name(),
        "oidcClientMetadata": metadata,
        "customClientMetadata": application.custom_client_metadata,
        "protectedAppMetadata": null,
        "customData": application.custom_data,
        "isThirdParty": application.third_party,
        "appLevelAccessControlEnabled": false,
        "createdAt": milliseconds(application.created_at),
    })
}

fn list(call: &Call<'_>) -> Result<Reply, Refusal> {
    let third_party = call.query.either("isThirdParty", ["true", "false"])?;
    let kinds: Vec<&str> = call.query.all("types").collect();
    if let Some(i) = kinds.iter().position(|kind| !KINDS.contains(kind)) {
        let issue = json!({ "code": "invalid_enum_value", "path": ["types", i], "message": "Invalid enum value." });
        return Err(Refusal::invalid_input("query", issue));
    }
    let wanted = |application: &&Application| {
        third_party.is_none_or(|third_party| third_party == application.third_party)
            && (kinds.is_empty() || kinds.contains(&application.kind.name()))
    };
    // The newest first. Those of one second are told apart by their order alone.
    let found: Vec<Value> = call.tenant().applications.iter().rev().filter(wanted).map(shown).collect();
    call.page(Paging::Optional, found)
}

fn one(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let mut application = shown(&with_id(call, id)?);
    application["isAdmin"] = Value::from(false);
    Ok(ok(&application))
}

fn create(call: &Call<'_>) -> Result<Reply, Refusal> {
    let input = &call.input;
    let name = input.required_text("name")?;
    input.required_text("type")?;
    let kind = input.word("type", &KINDS, |word| KINDS.contains(&word).then(|| ApplicationKind::parse(word)))?.flatten();
    let change = Change::read(input)?;
    let third_party = input.boolean("isThirdParty")?.unwrap_or_default();
    let kind = kind.ok_or_else(|| {
        let message = "Protected app provider is not configured. This feature is not available for open source version.";
        Refusal::new(StatusCode::NOT_IMPLEMENTED, "application.protected_app_not_configured", message)
    })?;
    if third_party && kind == ApplicationKind::MachineToMachine {
        let message = "Only traditional web, single-page, and native applications can be marked as third-party apps.";
        return Err(Refusal::bad_request("application.invalid_third_party_application_type", message));
    }
    change.check(third_party)?;
    let secret = if kind.is_confidential() { new_secret() } else { String::new() };
    let mut application = Application { third_party, ..Application::new(&new_id(), &secret, kind) }.named(name);
    change.make(&mut application);
    let mut tenant = call.tenant();
    make_room(&tenant.applications, "applications")?;
    let reply = ok(&shown(&application));
    tenant.applications.push(application);
    Ok(reply)
}

/// `isThirdParty` and `type` cannot be changed: both are left out without a word.
fn change(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let change = Change::read(&call.input)?;
    let mut tenant = call.tenant();
    let application = find(&mut tenant.applications, |application| application.id == id).ok_or_else(|| unknown(id))?;
    change.check(application.third_party)?;
    change.make(application);
    Ok(ok(&shown(application)))
}

fn delete(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    with_id(call, id)?;
    call.state.end_application(id);
    Ok(no_content())
}

/// What a body says of an application.
struct Change {
    name: Option<String>,
    description: Option<Option<String>>,
    metadata: Option<Metadata>,
    custom_client_metadata: Option<Map<String, Value>>,
    custom_data: Option<Map<String, Value>>,
}

struct Metadata {
    redirect_uris: Vec<String>,
    post_logout_redirect_uris: Vec<String>,
    further: Map<String, Value>,
}

impl Change {
    fn read(input: &Input) -> Result<Self, Refusal> {
        let name = input.text("name")?.map(|_| input.required_text("name").map(str::to_owned)).transpose()?;
        let members = |name: &str| Ok(input.object(name)?.map(Input::into_members));
        Ok(Self {
            name,
            description: input.nullable_text("description")?.map(|description| description.map(str::to_owned)),
            metadata: input.object("oidcClientMetadata")?.map(Metadata::read).transpose()?,
            custom_client_metadata: members("customClientMetadata")?,
            custom_data: members("customData")?,
        })
    }

    fn check(&self, third_party: bool) -> Result<(), Refusal> {
        let exchange = self.custom_client_metadata.as_ref().and_then(|metadata| metadata.get("allowTokenExchange"));
        if third_party && exchange == Some(&Value::Bool(true)) {
            let code = "application.third_party_application_cannot_enable_token_exchange";
            return Err(Refusal::unprocessable(code, "Third-party applications are not allowed to enable token exchange."));
        }
        Ok(())
    }

    /// A member that is there takes the place of the whole old one; nothing is merged.
    fn make(self, application: &mut Application) {
        application.name = self.name.unwrap_or_else(|| application.name.clone());
        application.description = self.description.unwrap_or_else(|| application.description.clone());
        if let Some(metadata) = self.metadata {
            application.redirect_uris = metadata.redirect_uris;
            application.post_logout_redirect_uris = metadata.post_logout_redirect_uris;
            application.further_metadata = metadata.further;
        }
        if let Some(metadata) = self.custom_client_metadata {
            application.custom_client_metadata = metadata;
        }
        if let Some(data) = self.custom_data {
            application.custom_data = data;
        }
    }
}

impl Metadata {
    /// Both lists must be there.
    fn read(input: Input) -> Result<Self, Refusal> {
        let lists = ["redirectUris", "postLogoutRedirectUris"];
        let mut read = Vec::new();
        for name in lists {
            let uris = input.required_texts(name)?;
            if let Some(i) = uris.iter().position(|uri| !is_redirect_uri(uri)) {
                return Err(input.wrong_element(name, i, "invalid_union", "Invalid input"));
            }
            read.push(uris);
        }
        let mut further = input.into_members();
        further.retain(|name, _| !lists.contains(&name.as_str()));
        let post_logout_redirect_uris = read.pop().unwrap_or_default();
        Ok(Self { redirect_uris: read.pop().unwrap_or_default(), post_logout_redirect_uris, further })
    }
}

/// An address of the web, or with a scheme of an app's own. Logto takes any scheme: whoever registers a client must look
/// at it first.
fn is_redirect_uri(uri: &str) -> bool {
    Url::parse(uri).is_ok()
}

fn secrets(application: &Application) -> Value {
    let first = (!application.secret.is_empty()).then(|| Secret {
        name: DEFAULT_SECRET.to_owned(),
        value: application.secret.clone(),
        created_at: application.created_at,
        expires_at: None,
    });
    let all = first.iter().chain(&application.further_secrets).map(|secret| shown_secret(&application.id, secret));
    all.collect()
}

fn shown_secret(application: &str, secret: &Secret) -> Value {
    json!({
        "tenantId": "default",
        "applicationId": application,
        "name": secret.name,
        "value": secret.value,
        "createdAt": milliseconds(secret.created_at),
        "expiresAt": secret.expires_at.map(milliseconds),
    })
}

fn add_secret(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let (name, now) = (call.input.required_text("name")?, clock::unix_now());
    let expires_at = call.input.number("expiresAt")?.map(|milliseconds| milliseconds / 1000);
    if expires_at.is_some_and(|expires_at| expires_at <= now) {
        let message = "Input is invalid. The value of `expiresAt` must be in the future.";
        return Err(Refusal::bad_request("request.invalid_input", message));
    }
    let mut tenant = call.tenant();
    // Logto looks for no application here: its database refuses a secret of none.
    let unknown = || {
        let message = "Cannot find foreign key in the related tables. Please check the input and make sure all referenced entities exist.";
        Refusal::unprocessable("entity.relation_foreign_key_not_found", message)
    };
    let application = find(&mut tenant.applications, |application| application.id == id).ok_or_else(unknown)?;
    let is_default = name == DEFAULT_SECRET && !application.secret.is_empty();
    if is_default || application.further_secrets.iter().any(|secret| secret.name == name) {
        return Err(Refusal::unprocessable("application.secret_name_exists", "Secret name already exists."));
    }
    if application.further_secrets.len() >= SECRETS_MAX {
        return Err(Refusal::too_many("secrets"));
    }
    let secret = Secret { name: name.to_owned(), value: new_secret(), created_at: now, expires_at };
    let reply = created(&shown_secret(id, &secret));
    application.further_secrets.push(secret);
    Ok(reply)
}

fn delete_secret(call: &Call<'_>, id: &str, name: &str) -> Result<Reply, Refusal> {
    let mut tenant = call.tenant();
    let application = find(&mut tenant.applications, |application| application.id == id).ok_or_else(Refusal::not_found)?;
    let before = application.further_secrets.len();
    application.further_secrets.retain(|secret| secret.name != name);
    if application.further_secrets.len() < before {
        return Ok(no_content());
    }
    if name != DEFAULT_SECRET || application.secret.is_empty() {
        return Err(Refusal::not_found());
    }
    application.secret.clear();
    Ok(no_content())
}
