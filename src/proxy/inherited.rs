//! Sockets of listeners that a process before this one bound, and that clients are connecting to all the while.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use crate::policy::Listen;

/// By the listener's name as the policy shows it.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<String, OwnedFd>);

impl Inherited {
    pub fn put(&mut self, listen: &Listen, socket: OwnedFd) {
        self.0.insert(listen.to_string(), socket);
    }

    /// That of a listener, once.
    pub fn take(&mut self, listen: &Listen) -> Option<OwnedFd> {
        self.0.remove(&listen.to_string())
    }
}
