//! Step 10. To the service and back: every service's endpoints, kept over reloads with their connections.

mod answer;
mod cluster;
mod connect;
mod dns;
mod endpoint;
mod lease;
mod lent;
mod pool;
mod tls;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

pub use answer::{AnswerStopped, UpstreamBody};
pub use cluster::Cluster;
pub use pool::Place;

use crate::observe::UpstreamMetrics;
use crate::policy::{Policy, Service};

/// All services' endpoints. A new one takes over what is the same.
#[derive(Default)]
pub struct Upstreams {
    clusters: HashMap<Arc<str>, Arc<Cluster>>,
    /// Those that were there before: a request that was decided by the policy before finds its service here.
    before: HashMap<Arc<str>, Arc<Cluster>>,
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
        Ok(Self { clusters, before: before.clusters.clone() })
    }

    pub fn cluster(&self, service: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(service).or_else(|| self.before.get(service))
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
