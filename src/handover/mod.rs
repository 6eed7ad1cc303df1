//! A new process takes over from a running one: it is given the sockets and what was revoked, says when it is ready, and
//! serves; then the old one stops accepting and ends.
//!
//! **Invariant:** until the old process has heard that the new one serves, it serves as if nothing was. The sockets are
//! shared and never closed in between, so that no connection is refused or lost in a queue.
//!
//! ```text
//!   new                                   old
//!    │ Hello: the protocols that it speaks ▶│ checks the user, and that it is not going down
//!    │◀ Welcome                             │
//!    │◀ Socket, with its descriptor         │ once for each listener, the admin listener and this socket
//!    │◀ Known                               │ what is revoked, in pieces
//!    │◀ Offered                             │
//!    │ compiles, binds what is new, fetches keys; anything may fail, and nothing has happened then
//!    │ Prepared: which sockets it uses     ▶│
//!    │◀ Known                               │ what was revoked meanwhile
//!    │◀ Go                                  │
//!    │ accepts                              │ (both accept)
//!    │ Serving                             ▶│
//!    │◀ Leaving                             │ stops accepting, and ends its connections as in a shutdown
//!    │ ◀ Known, while the old one lives   ▶ │ what either of them revokes and lifts
//! ```

mod carried;
mod door;
mod give;
mod take;
mod wire;

pub use carried::follow;
pub use door::Door;
pub use give::{Offer, Successor, hand_over, refuse, say_leaving};
pub use take::Predecessor;
pub use wire::Link;

/// The name under which a listener is handed over.
pub fn listener_name(listen: &impl std::fmt::Display) -> String {
    format!("listen {listen}")
}

/// The name under which the admin listener is handed over.
pub fn admin_name(address: &impl std::fmt::Display) -> String {
    format!("admin {address}")
}

/// The name of the socket over which all this goes.
const DOOR_NAME: &str = "upgrade";
