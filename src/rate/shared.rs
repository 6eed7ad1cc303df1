//! Limits that are counted in the shared state: one script a request, over all instances.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use governor::clock::Clock;
use governor::nanos::Nanos;
use redis::Script;

use super::Standing;
use super::caller::Caller;
use super::local::Local;
use crate::policy::RateLimit;
use crate::state::{Away, Shared};

/// GCRA over several counters in one step. The time is the server's, in microseconds, so that clocks of instances need
/// not agree. Each counter has four arguments: what one request takes up, what may be taken up at most, what this
/// instance has counted of it, and whether it is enforced. If one that is enforced refuses, none is written.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        local debts, answer, refused = {}, {}, false
        for i, key in ipairs(KEYS) do
            local every, most = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
            local known, enforced = tonumber(ARGV[4 * i - 1]), ARGV[4 * i] == '1'
            local debt = math.max((tonumber(redis.call('GET', key)) or now) - now, known, 0)
            local over = debt + every > most
            refused = refused or (over and enforced)
            debts[i] = over and debt or debt + every
            answer[2 * i - 1], answer[2 * i] = over and 1 or 0, debt
        end
        if not refused then
            for i, key in ipairs(KEYS) do
                answer[2 * i] = debts[i]
                redis.call('SET', key, string.format('%.0f', now + debts[i]), 'PX', math.ceil(debts[i] / 1000) + 1)
            end
        end
        return answer
        ",
    )
});

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Counts a request with each limit, and keeps a copy of what came of it for the time when the server is away.
pub async fn check<C: Clock<Instant = Nanos> + Clone>(
    shared: &Shared,
    local: &Local<C>,
    limits: &[&Arc<RateLimit>],
    caller: &Caller<'_>,
    enforced: &(dyn Fn(&RateLimit) -> bool + Sync),
) -> Result<Vec<Standing>, Away> {
    if !shared.is_up() {
        return Err(Away);
    }
    let keys: Vec<String> = limits.iter().map(|limit| shared.key(&format!("rate:{}", caller.name(limit)))).collect();
    let mut arguments = Vec::with_capacity(limits.len() * 4);
    for limit in limits {
        let every = microseconds(limit.every());
        let known = microseconds(local.debt(limit, caller));
        arguments.extend([every, every.saturating_mul(limit.burst.into()), known, u64::from(enforced(limit))]);
    }
    let answer: Vec<u64> = shared.script(&SCRIPT, &keys, &arguments).await?;
    if answer.len() != limits.len() * 2 {
        return Err(Away);
    }
    let standing = |(limit, answer): (&&Arc<RateLimit>, &[u64])| {
        let (over, debt) = (answer[0] == 1, answer[1]);
        local.raise(limit, caller, Duration::from_micros(debt));
        standing(limit, over, debt)
    };
    Ok(limits.iter().zip(answer.chunks(2)).map(standing).collect())
}

/// How a limit stands, from the microseconds that are taken up.
fn standing(limit: &Arc<RateLimit>, over: bool, debt: u64) -> Standing {
    let every = microseconds(limit.every()).max(1);
    let most = every.saturating_mul(limit.burst.into());
    let left = u32::try_from(most.saturating_sub(debt) / every).unwrap_or(u32::MAX);
    let wait = match over {
        true => Duration::from_micros(debt.saturating_add(every).saturating_sub(most)),
        false => limit.every(),
    };
    Standing { limit: limit.clone(), over, left: if over { 0 } else { left }, wait }
}
