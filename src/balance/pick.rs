//! Choosing one of several seats: in turn, by fewest requests, or by a hash that moves as little as can be.

/// An endpoint as choosing sees it.
#[derive(Debug, Clone, Copy)]
pub struct Seat {
    /// Where it stands among all endpoints.
    pub index: usize,
    /// What it is to get, compared with the others; above 0.
    pub weight: f64,
    /// Requests that it has at the moment.
    pub in_flight: usize,
    /// The hash of its name.
    pub seed: u64,
}

/// Each in its turn, as often as its weight says, and evenly: a heavy one does not get all of its share at once. What each
/// is still owed stands in `owed`, by the seat's index.
pub fn in_turn(seats: &[Seat], owed: &mut [f64]) -> Option<usize> {
    let mut best: Option<usize> = None;
    let mut total = 0.0;
    for seat in seats {
        let own = owed.get_mut(seat.index)?;
        *own += seat.weight;
        let own = *own;
        total += seat.weight;
        if best.is_none_or(|best| own > owed[best]) {
            best = Some(seat.index);
        }
    }
    let best = best?;
    owed[best] -= total;
    Some(best)
}

/// Of two that chance picks by their weights, the one with fewer requests for its weight. Two are enough to keep away from
/// a slow one, and no crowd follows the one that just looked best.
pub fn least_requests(seats: &[Seat], chance: &mut dyn FnMut() -> u64) -> Option<usize> {
    let first = by_weight(seats, None, chance)?;
    let Some(second) = by_weight(seats, Some(first), chance) else { return Some(seats[first].index) };
    let load = |at: usize| seats[at].in_flight as f64 / seats[at].weight;
    Some(seats[if load(second) < load(first) { second } else { first }].index)
}

/// The position of one that chance picks by weight, other than `without`.
fn by_weight(seats: &[Seat], without: Option<usize>, chance: &mut dyn FnMut() -> u64) -> Option<usize> {
    let among = || seats.iter().enumerate().filter(|(at, _)| Some(*at) != without);
    let total: f64 = among().map(|(_, seat)| seat.weight).sum();
    let mut left = unit(chance()) * total;
    let mut last = None;
    for (at, seat) in among() {
        last = Some(at);
        left -= seat.weight;
        if left <= 0.0 {
            break;
        }
    }
    last
}

/// The same seat for the same key, as long as it is there: each seat draws a lot for the key, and the best lot wins
/// (rendezvous hashing, with weights). Who comes or goes moves only what it wins or had won.
pub fn by_key(seats: &[Seat], key: u64) -> Option<usize> {
    let lot = |seat: &Seat| -seat.weight / unit(mix(key ^ seat.seed)).ln();
    seats.iter().max_by(|a, b| lot(a).total_cmp(&lot(b))).map(|seat| seat.index)
}

/// A number above 0 and below 1.
fn unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// The hash of a name or a value (FNV-1a, then mixed): the same in every instance, in every version. It keeps nobody from
/// choosing values that meet on one endpoint; whoever can choose them could as well send one.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(state)
}

/// The next number of a sequence without a pattern (SplitMix64), for choices that nobody gains by guessing.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(*state)
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seats(weights: &[f64]) -> Vec<Seat> {
        let seat = |(index, weight): (usize, &f64)| Seat {
            index,
            weight: *weight,
            in_flight: 0,
            seed: hash(format!("10.0.0.{index}:80").as_bytes()),
        };
        weights.iter().enumerate().map(seat).collect()
    }

    fn counted(weights: &[f64], rounds: usize, mut choose: impl FnMut(&[Seat], usize) -> usize) -> Vec<usize> {
        let seats = seats(weights);
        let mut counts = vec![0; weights.len()];
        for round in 0..rounds {
            counts[choose(&seats, round)] += 1;
        }
        counts
    }

    #[test]
    fn turns_are_even_and_follow_the_weights() {
        let mut owed = vec![0.0; 3];
        let order: Vec<usize> = (0..7).map(|_| in_turn(&seats(&[5.0, 1.0, 1.0]), &mut owed).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0], "no burst of the heavy one");
        assert_eq!(owed, [0.0; 3], "a round leaves nothing owed");
        let mut owed = vec![0.0; 3];
        assert_eq!(counted(&[1.0, 2.0, 3.0], 600, |seats, _| in_turn(seats, &mut owed).unwrap()), [100, 200, 300]);
        assert_eq!(in_turn(&[], &mut []), None);
    }

    #[test]
    fn of_two_the_one_with_fewer_requests_is_chosen() {
        let mut state = 1;
        let mut chance = || random(&mut state);
        let mut three = seats(&[1.0, 1.0, 1.0]);
        (three[0].in_flight, three[1].in_flight, three[2].in_flight) = (9, 3, 3);
        for _ in 0..200 {
            assert_ne!(least_requests(&three, &mut chance), Some(0), "the busiest never wins of two");
        }
        let counts = counted(&[1.0, 2.0, 3.0], 60_000, |seats, _| least_requests(seats, &mut chance).unwrap());
        for (count, expected) in counts.iter().zip([10_000.0, 20_000.0, 30_000.0]) {
            assert!((*count as f64 / expected - 1.0).abs() < 0.05, "idle ones are chosen by weight: {counts:?}");
        }
        assert_eq!(least_requests(&three[..1], &mut chance), Some(0));
        assert_eq!(least_requests(&[], &mut chance), None);
    }

    /// As in a real gate: each request stays for a while, and the slow endpoint's stay longer.
    #[test]
    fn a_slow_endpoint_gets_less_by_least_requests() {
        let (mut state, mut counts) = (7, [0; 3]);
        let mut seats = seats(&[1.0, 1.0, 1.0]);
        let mut leaving: Vec<(usize, usize)> = Vec::new();
        for now in 0..9000 {
            leaving.retain(|(at, index)| {
                if *at <= now {
                    seats[*index].in_flight -= 1;
                }
                *at > now
            });
            let index = least_requests(&seats, &mut || random(&mut state)).unwrap();
            seats[index].in_flight += 1;
            counts[index] += 1;
            leaving.push((now + if index == 0 { 100 } else { 10 }, index));
        }
        assert!(counts[0] * 4 < counts[1] && counts[0] * 4 < counts[2], "{counts:?}");
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let counts = counted(&[1.0, 2.0, 3.0], 60_000, |seats, round| by_key(seats, hash(format!("user-{round}").as_bytes())).unwrap());
        for (count, expected) in counts.iter().zip([10_000.0, 20_000.0, 30_000.0]) {
            assert!((*count as f64 / expected - 1.0).abs() < 0.05, "{counts:?}");
        }
        assert_eq!(by_key(&[], 1), None);
    }

    /// Instances of all versions must agree: a change here moves every caller.
    #[test]
    fn the_hash_is_the_same_everywhere() {
        assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash(b"alice"), 0xc5d1_556d_6677_4a5c);
    }

    proptest! {
        /// Who goes takes nothing but its own keys along; who comes takes keys, and moves none between others.
        #[test]
        fn who_comes_or_goes_moves_no_key_between_others(
            weights in prop::collection::vec(0.1f64..10.0, 2..12), leaver in 0usize..12, keys in prop::collection::vec(any::<u64>(), 50),
        ) {
            let all = seats(&weights);
            let leaver = leaver % all.len();
            let left: Vec<Seat> = all.iter().copied().filter(|seat| seat.index != leaver).collect();
            for key in keys {
                let (with, without) = (by_key(&all, key).unwrap(), by_key(&left, key).unwrap());
                prop_assert!(with == leaver || with == without);
            }
        }

        /// A way back by a growing weight moves each key at most once, and only to the one that comes back.
        #[test]
        fn a_growing_weight_only_draws_keys(weights in prop::collection::vec(0.1f64..10.0, 2..8), key in any::<u64>()) {
            let mut seats = seats(&weights);
            seats[0].weight = weights[0] / 10.0;
            let mut before = by_key(&seats, key).unwrap();
            let others = before;
            for tenth in 2..=10 {
                seats[0].weight = weights[0] * f64::from(tenth) / 10.0;
                let now = by_key(&seats, key).unwrap();
                prop_assert!(now == before || now == 0);
                prop_assert!(now == 0 || now == others);
                before = now;
            }
        }

        /// Over any sequence no seat ever gets one more or less than it is owed by more than the number of seats.
        #[test]
        fn turns_never_run_far_ahead(weights in prop::collection::vec(1u32..20, 1..8), rounds in 1usize..200) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let total: f64 = weights.iter().sum();
            let mut owed = vec![0.0; weights.len()];
            let counts = counted(&weights, rounds, |seats, _| in_turn(seats, &mut owed).unwrap());
            for (count, weight) in counts.iter().zip(&weights) {
                let due = rounds as f64 * weight / total;
                prop_assert!((*count as f64 - due).abs() <= weights.len() as f64, "{counts:?} of {weights:?}");
            }
        }
    }
}
