//! How many connections each address has open, so that one client cannot take the places of all.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::{HashMap, HashMapExt};

use crate::policy::Policy;
use crate::rate::subscriber;

/// Open connections by address. No more addresses than connections are in it.
pub struct Addresses(Mutex<HashMap<IpAddr, u32>>);

/// One connection of an address, counted for as long as it lives.
pub struct Counted {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

/// An address that has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

impl Addresses {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(HashMap::new())))
    }

    /// Counts a connection. It is counted where there is no limit, too: one may be set while it is open. Who has no address
    /// (a Unix socket) and who stands for many (a trusted proxy) is not counted.
    pub fn enter(self: &Arc<Self>, policy: &Policy, address: Option<IpAddr>) -> Result<Option<Counted>, TooMany> {
        let Some(address) = address.map(|address| address.to_canonical()) else { return Ok(None) };
        if policy.trusted_proxies.iter().any(|net| net.contains(&address)) {
            return Ok(None);
        }
        let address = subscriber(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = counts.entry(address).or_default();
        if policy.limits.connections_per_address.is_some_and(|most| *open >= most) {
            return Err(TooMany);
        }
        *open += 1;
        Ok(Some(Counted { addresses: self.clone(), address }))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = counts.get_mut(&self.address) {
            *open -= 1;
            if *open == 0 {
                counts.remove(&self.address);
            }
        }
        // What a flood of addresses needed is given back.
        if counts.capacity() > 1024 && counts.len() < counts.capacity() / 8 {
            counts.shrink_to_fit();
        }
    }
}
