//! Names of endpoints, resolved again and again: when the answer's TTL says so, within the operator's bounds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;
use std::time::Duration;

use super::cluster::Cluster;
use crate::policy::At;

/// How soon a name that could not be resolved is asked for again, for the first time and at most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Addresses, and how long they count.
pub struct Resolved {
    pub addresses: Vec<IpAddr>,
    pub counts: Duration,
}

/// Resolves the name of one endpoint for as long as its service has it.
pub async fn follow(cluster: Weak<Cluster>, part: usize) {
    let mut retry = RETRY_FIRST;
    loop {
        let Some((host, port, bounds)) = cluster.upgrade().and_then(|cluster| {
            let settings = cluster.settings();
            match &settings.endpoints.get(part)?.at {
                At::Name(host, port) => Some((host.clone(), *port, settings.dns)),
                At::Address(_) | At::Unix(_) => None,
            }
        }) else {
            return;
        };
        let answer = resolve(&host).await;
        let Some(cluster) = cluster.upgrade() else { return };
        let pause = match answer {
            Ok(found) => {
                retry = RETRY_FIRST;
                let addresses: Vec<SocketAddr> = found.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
                cluster.metrics().resolutions(cluster.service(), "ok");
                cluster.resolved(part, &addresses);
                found.counts.clamp(bounds.least, bounds.longest)
            }
            Err(error) => {
                cluster.metrics().resolutions(cluster.service(), "failed");
                tracing::warn!(target: "wicketgate::upstream", service = &**cluster.service(), name = host, error, "a name could not be resolved, its last addresses stay");
                cluster.unresolvable(part);
                let pause = retry.clamp(bounds.least, bounds.longest);
                retry = (retry * 2).min(RETRY_MAX);
                pause
            }
        };
        drop(cluster);
        tokio::time::sleep(pause).await;
    }
}

/// What a name stands for.
async fn resolve(host: &str) -> Result<Resolved, String> {
    let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    match addresses.is_empty() {
        true => Err("no address".to_owned()),
        false => Ok(Resolved { addresses, counts: Duration::from_secs(30) }),
    }
}
