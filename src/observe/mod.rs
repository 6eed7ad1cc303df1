//! The record of what happened: one a request, from which the metrics and the access log are made; and the admin
//! listener that shows them.

mod admin;
mod admin_revocations;
mod consent_metrics;
mod health;
mod log;
mod metrics;
mod rate_metrics;
mod record;
mod revocation_metrics;

pub use admin::{Admin, AdminView};
pub use consent_metrics::ConsentMetrics;
pub use health::{Health, ReloadOutcome};
pub use log::{LogHandle, start as start_log};
pub use metrics::{IntrospectionMetrics, Metrics};
pub use record::{CLIENT_GONE, Observer, Outcome, Record};
