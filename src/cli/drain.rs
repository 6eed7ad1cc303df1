//! `drain`: tells a running gate to be unready, and waits until load balancers look away; for hooks in containers that have
//! no shell.

use std::time::Duration;

use clap::Args;

use super::Failed;
use super::healthcheck::{HealthcheckArguments, address, client};

pub const EXAMPLES: &str = "Examples:
  wicketgate drain              unready at once; returns after shutdown.delay, when nobody new should come any more
  wicketgate drain --no-wait    returns at once
  wicketgate drain --undo       ready again

The gate serves all the same. SIGTERM ends it, without waiting for shutdown.delay a second time.";

#[derive(Debug, Args)]
pub struct DrainArguments {
    #[command(flatten)]
    gate: HealthcheckArguments,
    /// Ready again
    #[arg(long, conflicts_with = "no_wait")]
    undo: bool,
    /// Do not wait for shutdown.delay
    #[arg(long)]
    no_wait: bool,
}

pub async fn drain(arguments: DrainArguments) -> Result<(), Failed> {
    let address = address(&arguments.gate)?;
    let method = if arguments.undo { reqwest::Method::DELETE } else { reqwest::Method::POST };
    let answer = client()?.request(method, format!("http://{address}/drain")).send().await;
    let answer = answer.map_err(|_| Failed::Unavailable(format!("{address} does not answer")))?;
    if !answer.status().is_success() {
        return Err(Failed::Unavailable(format!("{address} answered {}", answer.status().as_u16())));
    }
    let text = answer.text().await.unwrap_or_default();
    let said: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    if !arguments.undo && !arguments.no_wait {
        tokio::time::sleep(Duration::from_millis(said["delay_ms"].as_u64().unwrap_or(0))).await;
    }
    Ok(())
}
