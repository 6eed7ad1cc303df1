//! The record of what happened: one a request, from which the metrics, the access log and the audit trail are made; and the admin
//! listener that shows them.

mod admin;
mod admin_drain;
mod admin_revocations;
mod admin_upstreams;
mod audit;
mod balance_metrics;
mod consent_metrics;
mod health;
mod limit_metrics;
mod listener_metrics;
mod log;
mod metrics;
mod rate_metrics;
mod record;
mod revocation_metrics;
mod upstream_metrics;

pub use admin::{Admin, AdminView};
pub use audit::{AuditTrail, FORMAT as AUDIT_FORMAT, Kind as AuditKind, Reload as ReloadAudit, Revocation as RevocationAudit};
pub use balance_metrics::{BalanceMetrics, ServiceStanding};
pub use consent_metrics::ConsentMetrics;
pub use health::{Health, ReloadOutcome};
pub use limit_metrics::{Limit, LimitMetrics};
pub use log::{LogHandle, start as start_log};
pub use metrics::{IntrospectionMetrics, Metrics, RegistrationMetrics};
pub use record::{CLIENT_GONE, Observer, Outcome, Record};
pub use upstream_metrics::{EndpointMetrics, UpstreamMetrics};
