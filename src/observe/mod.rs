//! The record of what happened: one a request, from which the metrics and the access log are made; and the admin
//! listener that shows them.

mod admin;
mod health;
mod log;
mod metrics;
mod record;

pub use admin::{Admin, AdminView};
pub use health::{Health, ReloadOutcome};
pub use log::{LogHandle, start as start_log};
pub use metrics::{IntrospectionMetrics, Metrics, RegistrationMetrics};
pub use record::{CLIENT_GONE, Observer, Outcome, Record};
