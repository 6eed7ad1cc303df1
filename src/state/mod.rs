//! What instances share: one connection to a Redis (or Valkey) in the background, and what to do with it.
//!
//! **Invariant:** nobody waits for it longer than `state.timeout`, and nobody waits at all while it is away. What it was
//! asked for in vain is the caller's to decide; every caller must have an answer without it.

mod connection;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use redis::{AsyncTypedCommands, Client, FromRedisValue, Script, TlsCertificates};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::policy::{Policy, Redis};
use connection::Connection;
pub use subscription::{Event, Subscription};

/// The server could not be reached, was too slow, or said no. Why stands in the log, once a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;

/// A shared state. It reconnects by itself, and ends when it is dropped.
#[derive(Debug)]
pub struct Shared {
    settings: Redis,
    client: Client,
    connection: Arc<Connection>,
    task: tokio::task::AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// What a policy wants in the place of what there is: the same, if its settings are. A new one begins to connect, and
    /// waits for nothing; it must be made where tasks can be spawned.
    pub fn follow(current: Option<&Arc<Self>>, policy: &Policy) -> Result<Option<Arc<Self>>, String> {
        let Some(settings) = &policy.state.redis else { return Ok(None) };
        match current.filter(|current| current.settings == *settings) {
            Some(same) => Ok(Some(same.clone())),
            None => Self::start(settings, current.map_or(0, |current| current.failures())).map(Arc::new).map(Some),
        }
    }

    fn start(settings: &Redis, failures: u64) -> Result<Self, String> {
        let client = client(settings)?;
        let connection = Arc::new(Connection::new(settings, failures));
        let task = tokio::spawn(connection.clone().keep(client.clone())).abort_handle();
        Ok(Self { settings: settings.clone(), client, connection, task })
    }

    pub fn is_up(&self) -> bool {
        self.connection.is_up()
    }

    /// The server, without its password.
    pub fn name(&self) -> &str {
        &self.settings.shown
    }

    /// Calls that got no answer, or not the one that they needed.
    pub fn failures(&self) -> u64 {
        self.connection.failures()
    }

    /// A key's whole name.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.settings.prefix)
    }

    /// Runs a script as one step. Keys are whole names.
    pub async fn script<T: FromRedisValue>(&self, script: &Script, keys: &[String], arguments: &[u64]) -> Result<T, Away> {
        self.connection
            .call(async |connection| {
                let mut invocation = script.prepare_invoke();
                for key in keys {
                    invocation.key(key);
                }
                for argument in arguments {
                    invocation.arg(*argument);
                }
                invocation.invoke_async(connection).await
            })
            .await
    }

    pub async fn get(&self, name: &str) -> Result<Option<String>, Away> {
        let key = self.key(name);
        self.connection.call(async |connection| connection.get(&key).await).await
    }

    /// Sets a value that goes away by itself.
    pub async fn set(&self, name: &str, value: &str, lives: Duration) -> Result<(), Away> {
        let key = self.key(name);
        let milliseconds = u64::try_from(lives.as_millis()).unwrap_or(u64::MAX).max(1);
        self.connection.call(async |connection| connection.pset_ex(&key, value, milliseconds).await).await
    }

    /// Takes a value away.
    pub async fn delete(&self, name: &str) -> Result<(), Away> {
        let key = self.key(name);
        self.connection.call(async |connection| connection.del(&key).await.map(drop)).await
    }

    /// All values whose names begin like this, however many there are: each step of the search is one call.
    pub async fn values(&self, beginning: &str) -> Result<Vec<String>, Away> {
        const STEP_KEYS: usize = 500;
        let pattern = format!("{}*", escape_pattern(&self.key(beginning)));
        let (mut cursor, mut values) = (0_u64, Vec::new());
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP_KEYS);
            let (next, keys): (u64, Vec<String>) = self.connection.call(async |connection| scan.query_async(connection).await).await?;
            if !keys.is_empty() {
                let mut get = redis::cmd("MGET");
                get.arg(&keys);
                let found: Vec<Option<String>> = self.connection.call(async |connection| get.query_async(connection).await).await?;
                values.extend(found.into_iter().flatten());
            }
            match next {
                0 => return Ok(values),
                next => cursor = next,
            }
        }
    }

    /// Says something to all who listen now.
    pub async fn publish(&self, channel: &str, message: &str) -> Result<(), Away> {
        let channel = self.key(channel);
        self.connection.call(async |connection| connection.publish(&channel, message).await.map(drop)).await
    }

    /// Listens to a channel for as long as the subscription lives, over lost connections.
    pub fn subscribe(&self, channel: &str) -> Subscription {
        Subscription::start(self.client.clone(), self.key(channel))
    }
}

/// A text that a pattern of the server's means literally.
fn escape_pattern(text: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '^' | '\\');
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

fn client(settings: &Redis) -> Result<Client, String> {
    let address = settings.url.expose();
    // The library takes a file without any, and then trusts nobody.
    let has_authority = |pem: &Vec<u8>| CertificateDer::pem_slice_iter(pem).next().is_some_and(|certificate| certificate.is_ok());
    if settings.ca_pem.as_ref().is_some_and(|pem| !has_authority(pem)) {
        return Err("redis_ca_file: there is no certificate in it".to_owned());
    }
    let client = match &settings.ca_pem {
        None => Client::open(address),
        Some(pem) => Client::build_with_tls(address, TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) }),
    };
    // What the library says of an address it may quote.
    client.map_err(|error| format!("{} cannot be used: {}", settings.shown, error.category()))
}

/// Whether the policy's Redis can be used, as far as can be said without asking it.
pub fn check(policy: &Policy) -> Result<(), String> {
    policy.state.redis.as_ref().map(client).transpose().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;
    use crate::policy::compile;

    #[test]
    fn authorities_are_certificates_or_a_fault() {
        let state = "state: { redis: 'rediss://:hunter2@cache.example', redis_ca_file: ca.pem }";
        let service = "services: [{ name: a, resource: 'https://a.example', upstream: 'http://127.0.0.1:1', routes: { /x: public } }]";
        let document = Document::read(&format!("issuer: https://i.example\n{service}\n{state}\n"), &|_| None);
        let with = |pem: &str| {
            let file = |_: &str| Ok(pem.as_bytes().to_vec());
            check(&compile(document.config.as_ref().unwrap(), String::new(), &file).unwrap())
        };
        let good = rcgen::generate_simple_self_signed(vec!["cache.example".to_owned()]).unwrap().cert.pem();
        assert_eq!(with(&good), Ok(()));
        for bad in ["", "no certificate", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"] {
            let reason = with(bad).unwrap_err();
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }
}
