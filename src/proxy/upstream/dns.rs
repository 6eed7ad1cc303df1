//! Names of endpoints, resolved again and again: when the answer's TTL says so, within the operator's bounds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::cluster::Cluster;
use crate::clock;
use crate::policy::{At, Dns};

/// How soon a name that could not be resolved is asked for again, for the first time and at most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a server of names may take, before it or another is asked once more.
const QUESTION_MAX: Duration = Duration::from_secs(2);
/// The system's own resolver does not say how long its answers count.
const SYSTEM_COUNTS: Duration = Duration::from_secs(30);
/// Addresses of one name that are used.
const ADDRESSES_MAX: usize = 256;

/// Addresses, and how long they count.
pub struct Resolved {
    pub addresses: Vec<IpAddr>,
    pub counts: Duration,
}

/// Resolves the name of one endpoint for as long as its service has it.
pub async fn follow(cluster: Weak<Cluster>, part: usize) {
    let mut retry = RETRY_FIRST;
    loop {
        let Some((host, port, dns)) = cluster.upgrade().and_then(|cluster| {
            let settings = cluster.settings();
            match &settings.endpoints.get(part)?.at {
                At::Name(host, port) => Some((host.clone(), *port, settings.dns.clone())),
                At::Address(_) | At::Unix(_) => None,
            }
        }) else {
            return;
        };
        let answer = resolve(&host, &dns).await;
        let Some(cluster) = cluster.upgrade() else { return };
        let pause = match answer {
            Ok(found) => {
                retry = RETRY_FIRST;
                let addresses: Vec<SocketAddr> = found.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
                cluster.metrics().resolutions(cluster.service(), "ok");
                cluster.resolved(part, &addresses);
                found.counts.clamp(dns.least, dns.longest)
            }
            Err(error) => {
                cluster.metrics().resolutions(cluster.service(), "failed");
                tracing::warn!(target: "wicketgate::upstream", service = &**cluster.service(), name = host, error, "a name could not be resolved, its last addresses stay");
                cluster.was_asked(part);
                let pause = retry.clamp(dns.least, dns.longest);
                retry = (retry * 2).min(RETRY_MAX);
                pause
            }
        };
        drop(cluster);
        tokio::time::sleep(pause).await;
    }
}

/// What a name stands for. The resolver is made for each question, so that changes of the system's files are noticed; names
/// that only the system itself can resolve (mDNS, a name service of its own) are asked of it.
async fn resolve(host: &str, dns: &Dns) -> Result<Resolved, String> {
    let asked = match resolver(dns) {
        Ok(resolver) => resolver.lookup_ip(host).await.map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    match asked {
        Ok(found) => {
            let counts = found.valid_until().saturating_duration_since(clock::instant_now());
            known(found.iter().collect(), counts)
        }
        Err(error) if !dns.servers.is_empty() => Err(error),
        Err(error) => match tokio::net::lookup_host((host, 0)).await {
            Ok(found) => known(found.map(|address| address.ip()).collect(), SYSTEM_COUNTS),
            Err(_) => Err(error),
        },
    }
}

fn known(mut addresses: Vec<IpAddr>, counts: Duration) -> Result<Resolved, String> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    match addresses.is_empty() {
        true => Err("no address".to_owned()),
        false => Ok(Resolved { addresses, counts }),
    }
}

fn resolver(dns: &Dns) -> Result<TokioResolver, String> {
    let mut builder = match dns.servers.is_empty() {
        true => TokioResolver::builder_tokio().map_err(|error| error.to_string())?,
        false => {
            let servers = dns.servers.iter().map(|server| {
                let at = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                NameServerConfig::new(server.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
            });
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), servers.collect()),
                TokioRuntimeProvider::default(),
            )
        }
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = QUESTION_MAX;
    // How long an answer counts is decided here.
    options.cache_size = 0;
    builder.build().map_err(|error| error.to_string())
}
