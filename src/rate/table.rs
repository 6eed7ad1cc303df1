//! The counters in memory: a table of fixed size that never grows.
//!
//! A caller's place follows from a hash under a secret of this process, so that nobody can choose whose neighbour to
//! be. When the places of a set are all taken, the counter that runs out first makes room: one that has run out is as
//! good as none, and of the others it is the caller who has used least. To be forgotten on purpose, a caller would
//! have to find sixteen neighbours that have each used more than itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

const WAYS: usize = 16;
/// Sets are twice as many as keys need, so that they seldom are full while the table is not.
const KEYS_PER_SET: usize = 8;

#[derive(Debug, Clone, Copy, Default)]
struct Counter {
    key: u64,
    /// Nanoseconds on the table's clock; 0 is an empty place.
    until: u64,
}

#[derive(Debug)]
pub struct Table {
    sets: Box<[Mutex<[Counter; WAYS]>]>,
    evicted: AtomicU64,
}

impl Table {
    /// A table with room for this many keys. What was displaced in the one before it is counted on.
    pub fn new(keys: usize, evicted: u64) -> Self {
        let sets = keys.div_ceil(KEYS_PER_SET).max(1);
        Self { sets: (0..sets).map(|_| Mutex::default()).collect(), evicted: AtomicU64::new(evicted) }
    }

    fn set(&self, key: u64) -> &Mutex<[Counter; WAYS]> {
        let index = (u128::from(key) * self.sets.len() as u128) >> 64;
        &self.sets[usize::try_from(index).unwrap_or(0)]
    }

    /// Reads a counter and, unless the function says no, writes it, in one step. `now` is asked for only when a counter
    /// has to make room.
    pub fn update<T, E>(&self, key: u64, now: impl Fn() -> u64, next: impl FnOnce(Option<u64>) -> Result<(T, u64), E>) -> Result<T, E> {
        let mut set = self.set(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = set.iter_mut().find(|counter| counter.key == key && counter.until != 0) {
            let (answer, until) = next(Some(known.until))?;
            known.until = until;
            return Ok(answer);
        }
        let (answer, until) = next(None)?;
        if let Some(least) = set.iter_mut().min_by_key(|counter| counter.until) {
            if least.until != 0 && least.until > now() {
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
            *least = Counter { key, until };
        }
        Ok(answer)
    }

    /// A counter's time; 0 when there is none.
    pub fn read(&self, key: u64) -> u64 {
        let set = self.set(key).lock().unwrap_or_else(PoisonError::into_inner);
        set.iter().find(|counter| counter.key == key).map_or(0, |counter| counter.until)
    }

    /// Takes back what a request took up that another limit refused.
    pub fn give_back(&self, key: u64, nanoseconds: u64) {
        let mut set = self.set(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = set.iter_mut().find(|counter| counter.key == key && counter.until != 0) {
            known.until = known.until.saturating_sub(nanoseconds).max(1);
        }
    }

    /// Counters that have not run out.
    pub fn len(&self, now: u64) -> usize {
        let live = |set: &Mutex<[Counter; WAYS]>| {
            set.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|counter| counter.until > now).count()
        };
        self.sets.iter().map(live).sum()
    }

    /// Counters that made room while they still counted.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(table: &Table, key: u64, until: u64) {
        table.update(key, || 10, |_| Ok::<_, ()>(((), until))).unwrap();
    }

    #[test]
    fn the_busiest_callers_are_kept_when_there_is_no_room() {
        let table = Table::new(1, 0);
        put(&table, 1, 1_000_000);
        for key in 2..10_000 {
            put(&table, key, 100);
        }
        assert_eq!(table.read(1), 1_000_000, "a flood of small callers displaced a busy one");
        assert_eq!(table.len(10), WAYS);
        assert_eq!(table.evicted(), 10_000 - 1 - WAYS as u64);
    }

    #[test]
    fn what_has_run_out_makes_room_first_and_is_no_loss() {
        let table = Table::new(1, 0);
        (1..=WAYS as u64).for_each(|key| put(&table, key, 100 + key));
        put(&table, 7, 5);
        put(&table, 99, 50);
        assert_eq!((table.read(7), table.read(99), table.evicted()), (0, 50, 0));
    }

    #[test]
    fn a_refusal_writes_nothing() {
        let table = Table::new(100, 0);
        assert_eq!(table.update(5, || 0, Err::<((), u64), _>), Err(None));
        assert_eq!((table.read(5), table.len(0)), (0, 0));
        put(&table, 5, 70);
        table.give_back(5, 30);
        assert_eq!(table.read(5), 40);
    }

    #[test]
    fn as_many_keys_as_promised_find_room() {
        let (table, keys) = (Table::new(10_000, 0), 10_000_u64);
        // Keys are hashes; these spread as hashes do.
        let hash = |key: u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (1..=keys).for_each(|key| put(&table, hash(key), 1000));
        assert!(table.evicted() < keys / 100, "{} of {keys} displaced", table.evicted());
    }
}
