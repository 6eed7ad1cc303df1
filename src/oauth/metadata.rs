//! The protected-resource metadata document of a service (RFC 9728 §2).

use serde_json::{Map, Value, json};

use crate::policy::{Advertise, Policy, Registration, Service};

/// The document. Lists with nothing in them are left out (§3.2). A client that asked with a closing slash compares
/// `resource` with an address that has one (§3.3): it gets the resource of that name where the service has it, too.
pub fn document(policy: &Policy, service: &Service, slash: bool) -> Vec<u8> {
    let mut document = Map::new();
    let published = service.audiences.first();
    let slashed = published.map(|published| format!("{published}/")).filter(|_| slash);
    let resource = service.audiences.iter().find(|audience| Some(*audience) == slashed.as_ref()).or(published);
    document.insert("resource".to_owned(), json!(resource));
    insert_list(&mut document, "authorization_servers", &authorization_servers(policy, service));
    let scopes: Vec<&str> = service.scopes.iter().map(String::as_str).collect();
    insert_list(&mut document, "scopes_supported", &scopes);
    insert_list(&mut document, "bearer_methods_supported", &["header"]);
    if policy.tls.as_ref().is_some_and(|tls| tls.client_certificates.is_some()) {
        document.insert("tls_client_certificate_bound_access_tokens".to_owned(), json!(true));
    }
    document.insert("resource_name".to_owned(), json!(&*service.name));
    Value::Object(document).to_string().into_bytes()
}

/// Most clients ask the first one for its metadata and no other. Where the operator will have it so, that is the gate, whose
/// copy of the metadata names the registration endpoint; the issuer itself comes behind it.
fn authorization_servers<'p>(policy: &'p Policy, service: &Service) -> Vec<&'p str> {
    let advertised = policy.registration.as_ref().filter(|registration| registration.advertise == Advertise::Gate);
    let gate = advertised.filter(|registration| service.issuers.contains(&registration.issuer)).map(|known| known.origin.as_str());
    gate.into_iter().chain(service.issuers.iter().map(|issuer| policy.issuers[*issuer].url.as_str())).collect()
}

/// The issuer's own metadata (RFC 8414 §2) with the registration endpoint in it, and all else as the issuer has it.
pub fn with_registration(mut metadata: Map<String, Value>, registration: &Registration) -> Vec<u8> {
    metadata.insert("registration_endpoint".to_owned(), json!(registration.endpoint));
    Value::Object(metadata).to_string().into_bytes()
}

fn insert_list(document: &mut Map<String, Value>, name: &str, items: &[&str]) {
    if !items.is_empty() {
        document.insert(name.to_owned(), json!(items));
    }
}
