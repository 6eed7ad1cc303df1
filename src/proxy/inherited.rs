//! Sockets of listeners that a process before this one bound, and that clients are connecting to all the while.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use crate::policy::Listen;

/// By the listener's name as the policy shows it; what a service manager passed on may be several under one name.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<String, Vec<OwnedFd>>);

impl Inherited {
    pub fn put(&mut self, listen: &Listen, socket: OwnedFd) {
        self.0.entry(listen.to_string()).or_default().push(socket);
    }

    /// Those of a listener, once.
    pub fn take(&mut self, listen: &Listen) -> Option<Vec<OwnedFd>> {
        self.0.remove(&listen.to_string())
    }
}
