//! The calls of the Management API that are needed, each with what makes it safe to repeat.

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use url::form_urlencoded::byte_serialize;
use uuid::Uuid;

use super::client::{Answer, ManagementApi};
use super::error::LogtoError;
use super::model::{
    Application, ClientMetadata, ConsentScopes, ConsentedScopes, Grant, MAKING, NewApplication, Resource, Role, Scope, Secrets, User,
};
use super::repeat::{Attempts, Failure, Repeat};
use crate::config::RoleKind;

/// How an attempt to make something ended.
enum Made {
    Answer(Answer),
    /// It may be there: look before the next attempt.
    Look,
}

/// An id as a segment of a path: whatever it holds, it stays one segment of this place.
fn segment(id: &str) -> String {
    match id {
        // Of these a URL makes another path, in every spelling; no id of Logto's is a hyphen.
        "" | "." | ".." => "-".to_owned(),
        _ => byte_serialize(id.as_bytes()).collect::<String>().replace('+', "%20"),
    }
}

impl ManagementApi {
    pub async fn resources(&self) -> Result<Vec<Resource>, LogtoError> {
        self.list("/resources", |resource: &Resource| &resource.id).await
    }

    /// Makes a resource, or finds the one that has the indicator.
    pub async fn create_resource(&self, name: &str, indicator: &str, ttl: Option<u64>) -> Result<Resource, LogtoError> {
        let mut body = json!({ "name": name, "indicator": indicator });
        if let Some(ttl) = ttl {
            body["accessTokenTtl"] = ttl.into();
        }
        let mut attempts = self.attempts();
        loop {
            if let Made::Answer(made) = self.make(&mut attempts, "/resources", &body).await? {
                return parsed(&made, "/resources");
            }
            let found = self.resources().await?.into_iter().find(|resource| resource.indicator == indicator);
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    pub async fn set_access_token_ttl(&self, resource_id: &str, seconds: u64) -> Result<(), LogtoError> {
        self.patch(&format!("/resources/{}", segment(resource_id)), &json!({ "accessTokenTtl": seconds })).await
    }

    pub async fn scopes(&self, resource_id: &str) -> Result<Vec<Scope>, LogtoError> {
        self.list(&format!("/resources/{}/scopes", segment(resource_id)), |scope: &Scope| &scope.id).await
    }

    /// Makes a scope, or finds the one of this name.
    pub async fn create_scope(&self, resource_id: &str, name: &str, description: &str) -> Result<Scope, LogtoError> {
        let path = format!("/resources/{}/scopes", segment(resource_id));
        let body = json!({ "name": name, "description": description });
        let mut attempts = self.attempts();
        loop {
            if let Made::Answer(made) = self.make(&mut attempts, &path, &body).await? {
                return parsed(&made, &path);
            }
            if let Some(found) = self.scopes(resource_id).await?.into_iter().find(|scope| scope.name == name) {
                return Ok(found);
            }
        }
    }

    pub async fn describe_scope(&self, resource_id: &str, scope_id: &str, description: &str) -> Result<(), LogtoError> {
        let path = format!("/resources/{}/scopes/{}", segment(resource_id), segment(scope_id));
        self.patch(&path, &json!({ "description": description })).await
    }

    pub async fn delete_scope(&self, resource_id: &str, scope_id: &str) -> Result<(), LogtoError> {
        self.delete(&format!("/resources/{}/scopes/{}", segment(resource_id), segment(scope_id))).await
    }

    pub async fn roles(&self) -> Result<Vec<Role>, LogtoError> {
        self.list("/roles", |role: &Role| &role.id).await
    }

    /// Makes a role, or finds the one of this name.
    pub async fn create_role(&self, name: &str, description: &str, kind: RoleKind, scope_ids: &[String]) -> Result<Role, LogtoError> {
        let body = json!({ "name": name, "description": description, "type": kind, "scopeIds": scope_ids });
        let mut attempts = self.attempts();
        loop {
            if let Made::Answer(made) = self.make(&mut attempts, "/roles", &body).await? {
                return parsed(&made, "/roles");
            }
            if let Some(found) = self.roles().await?.into_iter().find(|role| role.name == name) {
                // The lost answer may have been of a role without all of its scopes.
                self.add_role_scopes(&found.id, scope_ids).await?;
                return Ok(found);
            }
        }
    }

    pub async fn describe_role(&self, role_id: &str, description: &str) -> Result<(), LogtoError> {
        self.patch(&format!("/roles/{}", segment(role_id)), &json!({ "description": description })).await
    }

    pub async fn role_scopes(&self, role_id: &str) -> Result<Vec<Scope>, LogtoError> {
        self.list(&format!("/roles/{}/scopes", segment(role_id)), |scope: &Scope| &scope.id).await
    }

    /// Gives a role those of the scopes that it does not hold. Logto refuses all of them when it holds one already.
    pub async fn add_role_scopes(&self, role_id: &str, scope_ids: &[String]) -> Result<(), LogtoError> {
        let path = format!("/roles/{}/scopes", segment(role_id));
        let mut attempts = self.attempts();
        loop {
            let held = self.role_scopes(role_id).await?;
            let missing: Vec<&String> = scope_ids.iter().filter(|id| !held.iter().any(|scope| scope.id == **id)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if let Made::Answer(_) = self.make(&mut attempts, &path, &json!({ "scopeIds": missing })).await? {
                return Ok(());
            }
        }
    }

    pub async fn remove_role_scope(&self, role_id: &str, scope_id: &str) -> Result<(), LogtoError> {
        self.delete(&format!("/roles/{}/scopes/{}", segment(role_id), segment(scope_id))).await
    }

    pub async fn third_party_applications(&self) -> Result<Vec<Application>, LogtoError> {
        self.list("/applications?isThirdParty=true", |application: &Application| &application.id).await
    }

    /// `None` when there is none.
    pub async fn application(&self, id: &str) -> Result<Option<Application>, LogtoError> {
        found(self.get(&format!("/applications/{}", segment(id))).await)
    }

    /// Makes an application. Names are not unique, so it carries the number of its making, and a lost answer is looked
    /// for by that: an attempt that took effect is never made a second time, unless Logto was still at it.
    pub async fn create_application(&self, new: &NewApplication) -> Result<Application, LogtoError> {
        let making = Uuid::new_v4().to_string();
        let body = new.body(&making);
        let mut attempts = self.attempts();
        loop {
            if let Made::Answer(made) = self.make(&mut attempts, "/applications", &body).await? {
                return parsed(&made, "/applications");
            }
            let path = if new.third_party { "/applications?isThirdParty=true" } else { "/applications" };
            let all = self.list(path, |application: &Application| &application.id).await?;
            if let Some(found) = all.into_iter().find(|application| application.mark(MAKING) == Some(&making.as_str().into())) {
                return Ok(found);
            }
        }
    }

    pub async fn set_redirect_uris(&self, application: &Application, uris: &[String]) -> Result<(), LogtoError> {
        let metadata = ClientMetadata { redirect_uris: uris.to_vec(), ..application.oidc_client_metadata.clone() };
        let body = json!({ "oidcClientMetadata": metadata });
        self.patch(&format!("/applications/{}", segment(&application.id)), &body).await
    }

    /// Replaces what is kept beside an application: what it is then, in Logto's own words.
    pub async fn set_custom_data(&self, id: &str, data: &Map<String, Value>) -> Result<Application, LogtoError> {
        self.patch_application(id, &json!({ "customData": data })).await
    }

    async fn patch_application(&self, id: &str, body: &Value) -> Result<Application, LogtoError> {
        let path = format!("/applications/{}", segment(id));
        let answer = self.call(Method::PATCH, &path, Some(body)).await?;
        answer.json(&format!("PATCH /api{path}")).map_err(|failure| failure.error)
    }

    /// Gives an application another name, other redirect URIs and more in our mark; what it is then.
    pub async fn replace_application(
        &self,
        application: &Application,
        name: &str,
        redirect_uris: &[String],
        marks: &Map<String, Value>,
    ) -> Result<Application, LogtoError> {
        let metadata = ClientMetadata { redirect_uris: redirect_uris.to_vec(), ..application.oidc_client_metadata.clone() };
        let body = json!({ "name": name, "oidcClientMetadata": metadata, "customData": application.marked(marks.clone()) });
        self.patch_application(&application.id, &body).await
    }

    pub async fn delete_application(&self, id: &str) -> Result<(), LogtoError> {
        self.delete(&format!("/applications/{}", segment(id))).await
    }

    /// Empty for a public application.
    pub async fn application_secrets(&self, id: &str) -> Result<Vec<Secrets>, LogtoError> {
        self.get(&format!("/applications/{}/secrets", segment(id))).await
    }

    pub async fn consent_scopes(&self, application_id: &str) -> Result<ConsentedScopes, LogtoError> {
        self.get(&format!("/applications/{}/user-consent-scopes", segment(application_id))).await
    }

    /// Lets an application ask for these, too. Logto takes what is there already without a word.
    pub async fn add_consent_scopes(&self, application_id: &str, scopes: &ConsentScopes) -> Result<(), LogtoError> {
        if scopes.is_empty() {
            return Ok(());
        }
        let body = serde_json::to_value(scopes).unwrap_or_default();
        self.call(Method::POST, &format!("/applications/{}/user-consent-scopes", segment(application_id)), Some(&body)).await.map(|_| ())
    }

    pub async fn remove_consent_scope(&self, application_id: &str, scope_id: &str) -> Result<(), LogtoError> {
        let application = segment(application_id);
        self.delete(&format!("/applications/{application}/user-consent-scopes/resource-scopes/{}", segment(scope_id))).await
    }

    pub async fn remove_consent_user_scope(&self, application_id: &str, name: &str) -> Result<(), LogtoError> {
        let application = segment(application_id);
        self.delete(&format!("/applications/{application}/user-consent-scopes/user-scopes/{}", segment(name))).await
    }

    /// `None` when there is none.
    pub async fn user(&self, id: &str) -> Result<Option<User>, LogtoError> {
        found(self.get(&format!("/users/{}", segment(id))).await)
    }

    /// What a user granted to third-party applications. Those of a deleted user are still listed.
    pub async fn third_party_grants(&self, user_id: &str) -> Result<Vec<Grant>, LogtoError> {
        #[derive(Deserialize)]
        struct Grants {
            grants: Vec<Grant>,
        }
        let grants: Grants = self.get(&format!("/users/{}/grants?appType=thirdParty", segment(user_id))).await?;
        Ok(grants.grants)
    }

    pub async fn revoke_grant(&self, user_id: &str, grant_id: &str) -> Result<(), LogtoError> {
        self.delete(&format!("/users/{}/grants/{}", segment(user_id), segment(grant_id))).await
    }

    /// Attempts to make something, with the waits between them, until one is answered or may have happened. What is there
    /// already counts as that. The caller looks before it comes back here.
    async fn make(&self, attempts: &mut Attempts, path: &str, body: &Value) -> Result<Made, LogtoError> {
        loop {
            let failure = match self.attempt(attempts, &Method::POST, path, Some(body)).await {
                Ok(answer) => return Ok(Made::Answer(answer)),
                Err(failure) => failure,
            };
            let conflict = failure.error.is_conflict();
            let look = conflict || matches!(failure.repeat, Repeat::MayHaveHappened { .. });
            let repeat = if conflict { Repeat::Safe { after: None } } else { failure.repeat };
            self.wait(attempts, Failure { repeat, ..failure }).await?;
            if look {
                return Ok(Made::Look);
            }
        }
    }
}

fn parsed<T: DeserializeOwned>(answer: &Answer, path: &str) -> Result<T, LogtoError> {
    answer.json(&format!("POST /api{path}")).map_err(|failure| failure.error)
}

fn found<T>(answer: Result<T, LogtoError>) -> Result<Option<T>, LogtoError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_one_segment_of_the_path() {
        assert_eq!(segment("bhl2530elo3mx9otl2giy"), "bhl2530elo3mx9otl2giy");
        for id in ["../users", "a/b", "a?b=c", "a#b", "..", ".", "a b%2f"] {
            let url = url::Url::parse(&format!("http://h/api/applications/{}/secrets", segment(id))).unwrap();
            assert_eq!(url.path_segments().unwrap().count(), 4, "{id}: {url}");
            assert!(url.query().is_none() && url.fragment().is_none(), "{url}");
        }
    }
}
