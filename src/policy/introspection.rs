//! How a service asks the issuer about opaque tokens, compiled.

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};

use crate::config::{ClientAuth, Secret};

/// Settings under which answers about tokens are asked for, kept, and believed.
#[derive(Debug)]
pub struct Introspection {
    /// Whose tokens they are: an `iss` in an answer must equal it.
    pub issuer: String,
    pub endpoint: EndpointSource,
    pub allow_http: bool,
    pub client_id: String,
    pub client_secret: Secret,
    pub auth: ClientAuth,
    /// Whether an answer without `aud` is refused.
    pub audience_required: bool,
    pub max_age: Duration,
    pub negative_max_age: Duration,
    pub timeout: Duration,
    pub remembered: usize,
    pub in_flight: usize,
    pub per_second: NonZeroU32,
    /// Names of claims that are kept of an answer: the standard ones, and those that a rule or a header names.
    pub claims: Vec<String>,
    pub(super) stamp: OnceLock<Stamp>,
}

/// Where an issuer is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    Given(String),
    /// Metadata documents to try in turn; the first that answers names the endpoint.
    Discovery(Vec<String>),
}

/// Names settings: what was asked under another stamp says nothing here.
pub type Stamp = [u8; 32];

impl Introspection {
    /// A digest over all settings. Every field is taken apart by name, so that a new one is a compile error here until it
    /// is in it.
    pub fn stamp(&self) -> &Stamp {
        self.stamp.get_or_init(|| self.digest())
    }

    fn digest(&self) -> Stamp {
        let Self {
            issuer,
            endpoint,
            allow_http,
            client_id,
            client_secret,
            auth,
            audience_required,
            max_age,
            negative_max_age,
            timeout,
            remembered,
            in_flight,
            per_second,
            claims,
            stamp: _,
        } = self;
        let mut context = Context::new(&SHA256);
        let mut add = |text: &str| {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        };
        for text in [issuer, client_id, client_secret.expose()] {
            add(text);
        }
        add(&format!("{endpoint:?} {allow_http} {auth:?} {audience_required} {claims:?}"));
        add(&format!("{max_age:?} {negative_max_age:?} {timeout:?} {remembered} {in_flight} {per_second}"));
        let mut stamp = [0; 32];
        stamp.copy_from_slice(context.finish().as_ref());
        stamp
    }
}
