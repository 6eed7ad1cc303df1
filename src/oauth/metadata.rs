//! The protected-resource metadata document of a service (RFC 9728 §2).

use serde_json::{Map, Value, json};

use crate::policy::{Policy, Service};

/// The document. Lists with nothing in them are left out (§3.2).
pub fn document(policy: &Policy, service: &Service) -> Vec<u8> {
    let mut document = Map::new();
    document.insert("resource".to_owned(), json!(service.audiences.first()));
    let issuers: Vec<&str> = service.issuers.iter().map(|issuer| policy.issuers[*issuer].url.as_str()).collect();
    insert_list(&mut document, "authorization_servers", &issuers);
    let scopes: Vec<&str> = service.scopes.iter().map(String::as_str).collect();
    insert_list(&mut document, "scopes_supported", &scopes);
    insert_list(&mut document, "bearer_methods_supported", &["header"]);
    document.insert("resource_name".to_owned(), json!(&*service.name));
    Value::Object(document).to_string().into_bytes()
}

fn insert_list(document: &mut Map<String, Value>, name: &str, items: &[&str]) {
    if !items.is_empty() {
        document.insert(name.to_owned(), json!(items));
    }
}
