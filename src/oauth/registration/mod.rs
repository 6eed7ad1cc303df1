//! Client registration as far as it is deciding: what a request asks for, what of it is granted, and what the answer says
//! (RFC 7591, RFC 7592). The apps are made elsewhere.

mod answer;
mod credentials;
mod name;
mod redirect;
mod refusal;
mod request;
mod scopes;

pub use answer::{Registered, answer, describe};
pub use credentials::{AccessToken, bearer, is_initial_access_token};
pub use redirect::Landing;
pub use refusal::{REFUSALS, Refusal, RefusalRow};
pub use request::{AuthMethod, Wanted, read, read_change};
pub use scopes::{Granted, granted};
