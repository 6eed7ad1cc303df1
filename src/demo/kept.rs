//! What a party of the demo keeps of its visitors: by a name that nobody can guess, for a time, and never too much.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::clock;

/// Values under their keys, each for a time. When it is full, the oldest goes.
pub struct Kept<V> {
    values: HashMap<String, (Instant, V)>,
    lifetime: Duration,
    entries_max: usize,
}

impl<V> Kept<V> {
    pub fn new(lifetime: Duration, entries_max: usize) -> Self {
        Self { values: HashMap::new(), lifetime, entries_max }
    }

    pub fn insert(&mut self, key: String, value: V) {
        let now = clock::instant_now();
        self.values.retain(|_, (since, _)| now.duration_since(*since) < self.lifetime);
        if self.values.len() >= self.entries_max {
            let oldest = self.values.iter().min_by_key(|(_, (since, _))| *since).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.values.remove(&key));
        }
        self.values.insert(key, (now, value));
    }

    pub fn get(&self, key: &str) -> Option<&V> {
        let (since, value) = self.values.get(key)?;
        (clock::instant_now().duration_since(*since) < self.lifetime).then_some(value)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut V> {
        let (since, value) = self.values.get_mut(key)?;
        (clock::instant_now().duration_since(*since) < self.lifetime).then_some(value)
    }

    /// Takes it out: what is had once cannot be had again.
    pub fn take(&mut self, key: &str) -> Option<V> {
        let (since, value) = self.values.remove(key)?;
        (clock::instant_now().duration_since(since) < self.lifetime).then_some(value)
    }

    /// Keeps only those for which this holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &V) -> bool) {
        self.values.retain(|key, (_, value)| keep(key, value));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        let now = clock::instant_now();
        let alive = self.values.iter().filter(move |(_, (since, _))| now.duration_since(*since) < self.lifetime);
        alive.map(|(key, (_, value))| (key.as_str(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_it_is_full() {
        let mut kept = Kept::new(Duration::from_secs(60), 2);
        for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
            kept.insert(key.to_owned(), value);
        }
        assert_eq!((kept.get("a"), kept.get("b"), kept.get("c")), (None, Some(&2), Some(&3)));
        assert_eq!(kept.iter().count(), 2);
    }

    #[test]
    fn what_is_taken_is_gone_and_what_is_old_is_not_had() {
        let mut kept = Kept::new(Duration::from_secs(60), 2);
        kept.insert("a".to_owned(), 1);
        assert_eq!((kept.take("a"), kept.take("a")), (Some(1), None));
        let mut brief = Kept::new(Duration::ZERO, 2);
        brief.insert("a".to_owned(), 1);
        assert_eq!((brief.get("a"), brief.iter().count()), (None, 0));
        assert_eq!(brief.take("a"), None);
    }
}
