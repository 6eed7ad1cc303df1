//! Asking somebody else while callers wait: one question for all who want the same answer, limits to how many are asked,
//! and a rest when asking is in vain.

mod budget;
mod flights;
mod rest;

pub use budget::{Budgets, Place};
pub use flights::{Flight, Flights};
pub use rest::Rest;
