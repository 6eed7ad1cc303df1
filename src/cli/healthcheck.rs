//! `healthcheck`: asks the admin listener of a running gate, for containers that have no shell to do it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;

use super::{ConfigArgument, Failed};
use crate::reload::Source;

const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct HealthcheckArguments {
    /// The admin address; without it, that of the configuration
    #[arg(long, env = "WICKETGATE_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,
    #[command(flatten)]
    config: ConfigArgument,
}

/// Where the admin listener of the gate is.
pub(super) fn address(arguments: &HealthcheckArguments) -> Result<SocketAddr, Failed> {
    let admin = arguments.admin.clone().or_else(|| Source::new(&arguments.config.config).admin());
    let admin = admin.and_then(|text| text.parse().ok()).ok_or_else(|| {
        let config = arguments.config.config.display().to_string();
        Failed::Usage(format!("{config}: no admin address can be read from it; name the file with --config, or the address with --admin"))
    })?;
    Ok(reachable(admin))
}

pub(super) fn client() -> Result<reqwest::Client, Failed> {
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build();
    client.map_err(|error| Failed::Internal(error.to_string()))
}

pub async fn healthcheck(arguments: HealthcheckArguments) -> Result<(), Failed> {
    let address = address(&arguments)?;
    let answer = client()?.get(format!("http://{address}/livez")).send().await;
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
