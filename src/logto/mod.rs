//! Logto's Management API: a client that repeats only what may be repeated, and what a tenant should hold against what it
//! holds.
//!
//! Nothing here stands on the way of a request that carries its own token; a caller that needs an answer of Logto's gets
//! a typed error within `logto.deadline`, and [`LogtoError::is_passing`] says whether 503 is the word for it.

mod apply;
mod calls;
mod client;
mod error;
mod model;
mod plan;
mod repeat;
mod step;
mod token;
mod webhook;

pub use apply::Progress;
pub use client::ManagementApi;
pub use error::LogtoError;
pub use model::REGISTERED;
pub use model::{
    Application, ApplicationKind, ClientMetadata, ConsentScopes, ConsentedScopes, Grant, NewApplication, Resource, ResourceScopes, Role,
    Scope, Secrets, User,
};
pub use plan::{Actual, Plan, plan};
pub use step::{Action, Line, Step};
pub use webhook::{SIGNATURE_HEADER, UserEvent, WEBHOOK_BYTES_MAX, Webhook, WebhookFault, read_webhook};
