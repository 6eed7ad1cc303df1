//! `healthcheck`: asks the admin listener of a running gate, for containers that have no shell to do it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Failed, load};

const TIMEOUT: Duration = Duration::from_secs(2);

pub async fn healthcheck(config: PathBuf) -> Result<(), Failed> {
    let (_, loaded) = load(config)?;
    let address = reachable(loaded.policy.admin);
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build();
    let client = client.map_err(|error| Failed::Internal(error.to_string()))?;
    let answer = client.get(format!("http://{address}/livez")).send().await;
    match answer {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(Failed::Unavailable(format!("{address} answered {}", response.status().as_u16()))),
        Err(_) => Err(Failed::Unavailable(format!("{address} does not answer"))),
    }
}

/// Bound to every address means reachable on loopback.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}
