//! Step 10. To the service and back: every service's endpoints, kept over reloads with their connections.

mod answer;
mod balanced;
mod checks;
mod cluster;
mod connect;
mod dns;
mod endpoint;
mod http2;
mod lease;
mod lent;
mod making;
mod pool;
mod resting;
mod tls;
mod tunnels;
mod upload;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

pub use answer::{AnswerStopped, UpstreamBody};
pub use balanced::{Tries, Unanswered};
pub use cluster::Cluster;
pub use resting::Place;

use http::HeaderMap;

use crate::access::Permit;
use crate::balance::hash;
use crate::observe::{ServiceStanding, UpstreamMetrics};
use crate::policy::{Balance, Policy, Service};

/// All services' endpoints. A new one takes over what is the same.
#[derive(Default)]
pub struct Upstreams {
    clusters: HashMap<Arc<str>, Arc<Cluster>>,
}

impl Upstreams {
    /// Those of a policy. Endpoints that are in both keep their connections and what is known of them.
    pub fn of(policy: &Policy, before: &Self, metrics: &UpstreamMetrics) -> Result<Self, String> {
        let mut clusters = HashMap::new();
        for service in operators(policy) {
            let known = before.clusters.get(&service.name);
            let cluster = match known {
                Some(known) if known.fits(&service.upstream) => known.clone(),
                _ => Cluster::new(service, known, metrics)?,
            };
            clusters.insert(service.name.clone(), cluster);
        }
        Ok(Self { clusters })
    }

    /// They are in force now: those that were there before follow nothing any more, unless they are the same.
    pub fn take_over(&self, before: &Self) {
        for (service, before) in &before.clusters {
            if !self.clusters.get(service).is_some_and(|now| Arc::ptr_eq(now, before)) {
                before.retire(self.clusters.get(service));
            }
        }
    }

    /// How the endpoints of all services stand, in the order of their names.
    pub fn standings(&self) -> Vec<ServiceStanding> {
        let mut standings: Vec<ServiceStanding> = self.clusters.values().map(|cluster| cluster.standing()).collect();
        standings.sort_unstable_by(|a, b| a.service.cmp(&b.service));
        standings
    }

    pub fn cluster(&self, service: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(service)
    }
}

/// The hash of what a request's endpoint is chosen by, where the operator says so and the request has it.
pub fn balance_key(balance: &Balance, headers: &HeaderMap, permit: &Permit) -> Option<u64> {
    match balance {
        Balance::RoundRobin | Balance::LeastRequests => None,
        Balance::HashHeader(name) => headers.get(name).map(|value| hash(value.as_bytes())),
        Balance::HashClaim(claim) => match claim.find(&permit.identity()?.claims().all)? {
            serde_json::Value::String(text) => Some(hash(text.as_bytes())),
            serde_json::Value::Null => None,
            other => Some(hash(other.to_string().as_bytes())),
        },
    }
}

fn operators(policy: &Policy) -> impl Iterator<Item = &Service> {
    policy.services.iter().filter(|service| !service.own)
}

/// Whether the certificates and keys for upstreams can be used.
pub fn check(policy: &Policy) -> Vec<(usize, String)> {
    let services = policy.services.iter().enumerate().filter(|(_, service)| !service.own);
    services.filter_map(|(i, service)| Some((i, tls::ClientTls::of(&service.upstream).err()?))).collect()
}
