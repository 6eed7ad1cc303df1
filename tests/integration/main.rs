//! Promises to a user, each over real sockets: one file a promise.

mod first_request;
mod support;
