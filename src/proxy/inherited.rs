//! Sockets of listeners that a process before this one bound, and that clients are connecting to all the while.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use crate::policy::Listen;

/// By the listener's name as the policy shows it; what a service manager passed on may be several under one name.
#[derive(Debug, Default)]
pub struct Inherited {
    listeners: HashMap<String, Vec<OwnedFd>>,
    passed: Vec<(String, OwnedFd)>,
}

impl Inherited {
    pub fn put(&mut self, listen: &Listen, socket: OwnedFd) {
        self.listeners.entry(listen.to_string()).or_default().push(socket);
    }

    /// What a service manager passed on to a process before this one, whether a listener uses it or not.
    pub fn put_passed(&mut self, passed: Vec<(String, OwnedFd)>) {
        self.passed = passed;
    }

    pub fn take_passed(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.passed)
    }

    /// Those of a listener, once.
    pub fn take(&mut self, listen: &Listen) -> Option<Vec<OwnedFd>> {
        self.listeners.remove(&listen.to_string())
    }
}
