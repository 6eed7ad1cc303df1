//! Which endpoint of a service gets a request, which is left alone, and what is tried again: pure, the time and chance are
//! arguments.

mod breaker;
mod budget;
mod ejection;
mod health;
mod pick;
mod roster;

pub use breaker::{BreakerState, Pass};
pub use health::Health;
pub use pick::hash;
pub use roster::{Change, Choice, Member, Roster, Standing, Turn};
