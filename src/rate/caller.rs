//! Who is counted as one: the parts of a verified identity and of an address that a limit names.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::access::Claims;
use crate::policy::{RateKey, RateLimit};

/// A caller as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'c> {
    /// Of a verified token; `None` on a public route, or on one that lets an unverified caller through.
    pub claims: Option<&'c Claims>,
    pub address: Option<IpAddr>,
}

impl Caller<'_> {
    /// Whether a limit can count this caller: one by client says nothing of a request without a token.
    pub fn is_counted_by(&self, limit: &RateLimit) -> bool {
        self.claims.is_some() || !limit.needs_token()
    }

    /// The key of this caller's counter in memory.
    pub fn key(&self, limit: &RateLimit, secret: &RandomState) -> u64 {
        let mut hasher = secret.build_hasher();
        self.tell(limit, &mut |bytes| hasher.write(bytes));
        hasher.finish()
    }

    /// The name of this caller's counter where others see it: no personal data, and as long for everyone.
    pub fn name(&self, limit: &RateLimit) -> String {
        const BYTES: usize = 16;
        let mut context = Context::new(&SHA256);
        self.tell(limit, &mut |bytes| context.update(bytes));
        URL_SAFE_NO_PAD.encode(&context.finish().as_ref()[..BYTES])
    }

    /// The limit and each part that it names, each with its length, so that no two callers are told in the same bytes.
    /// What a token does not have is a part of its own: tokens without an organization are counted together.
    fn tell(&self, limit: &RateLimit, hear: &mut dyn FnMut(&[u8])) {
        let mut part = |bytes: Option<&[u8]>| {
            hear(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
            hear(bytes.unwrap_or_default());
        };
        part(Some(limit.id.as_bytes()));
        let claims = self.claims.filter(|_| limit.needs_token());
        // Two issuers may give one name to two callers.
        part(claims.map(|claims| claims.issuer.as_bytes()));
        for key in &limit.by {
            match key {
                RateKey::Client => part(claims.and_then(|claims| claims.client_id.as_ref()).map(String::as_bytes)),
                RateKey::Subject => part(claims.map(|claims| claims.subject.as_bytes())),
                RateKey::Organization => {
                    let organization = claims.and_then(|claims| claims.all.get("organization_id")?.as_str());
                    part(organization.map(str::as_bytes));
                }
                RateKey::Address => match self.address.map(|address| address.to_canonical()) {
                    // One subscriber has a whole /64.
                    Some(IpAddr::V6(address)) => part(Some(&address.octets()[..8])),
                    Some(IpAddr::V4(address)) => part(Some(&address.octets())),
                    None => part(None),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::policy::Mode;

    fn limit(by: &[RateKey]) -> RateLimit {
        let (id, name) = ("id".to_owned(), "name".to_owned());
        RateLimit { id, name, route: None, by: by.to_vec(), requests: 1, per: Duration::from_secs(1), burst: 1, mode: Mode::Enforce }
    }

    fn claims(changes: Value) -> Claims {
        let mut all = json!({ "iss": "https://i", "sub": "alice", "client_id": "bot", "aud": "a", "exp": 1 });
        for (name, value) in changes.as_object().unwrap() {
            all[name] = value.clone();
        }
        if all["client_id"].is_null() {
            all.as_object_mut().unwrap().remove("client_id");
        }
        Claims::parse(all.as_object().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_caller_is_the_parts_that_the_limit_names_and_no_others() {
        use RateKey::{Address, Client, Organization, Subject};
        let of = |by: &[RateKey], changes: Value, address: &str| {
            let claims = claims(changes);
            Caller { claims: Some(&claims), address: Some(address.parse().unwrap()) }.name(&limit(by))
        };
        let (a, b) = ("192.0.2.1", "192.0.2.2");
        let table: [(&[RateKey], Value, &str, bool); 16] = [
            (&[Client], json!({}), b, true),
            (&[Client], json!({ "sub": "bob" }), a, true),
            (&[Client], json!({ "client_id": "other" }), a, false),
            (&[Client], json!({ "client_id": null }), a, false),
            (&[Client], json!({ "client_id": "" }), a, false),
            (&[Client], json!({ "iss": "https://j" }), a, false),
            (&[Subject], json!({ "client_id": "other" }), a, true),
            (&[Subject], json!({ "sub": "bob" }), a, false),
            (&[Organization], json!({ "sub": "bob" }), a, true),
            (&[Organization], json!({ "organization_id": "org" }), a, false),
            (&[Client, Subject], json!({}), b, true),
            (&[Client, Subject], json!({ "client_id": "bota", "sub": "lice" }), a, false),
            (&[Client, Subject], json!({ "sub": "bob" }), a, false),
            (&[Address], json!({ "sub": "bob", "iss": "https://j" }), a, true),
            (&[Address], json!({}), "::ffff:192.0.2.1", true),
            (&[Address], json!({}), b, false),
        ];
        for (by, changes, address, same) in table {
            assert_eq!(of(by, json!({}), a) == of(by, changes.clone(), address), same, "{by:?} {changes} {address}");
        }
        let v6 = |address: &str| of(&[Address], json!({}), address);
        assert_eq!(v6("2001:db8:1:2::1"), v6("2001:db8:1:2:ffff::1"));
        assert_ne!(v6("2001:db8:1:2::1"), v6("2001:db8:1:3::1"));
    }

    #[test]
    fn the_name_of_a_shared_counter_shows_nobody() {
        let claims = claims(json!({}));
        let name = Caller { claims: Some(&claims), address: None }.name(&limit(&[RateKey::Client]));
        assert!(name.len() == 22 && !name.contains("bot"), "{name}");
    }

    #[test]
    fn without_a_token_only_an_address_is_counted() {
        let nobody = Caller { claims: None, address: None };
        assert!(nobody.is_counted_by(&limit(&[RateKey::Address])));
        assert!(!nobody.is_counted_by(&limit(&[RateKey::Address, RateKey::Client])));
    }
}
