//! The endpoints of one service as requests meet them: one is chosen, and where that fails and may be tried again, another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::UPGRADE;
use http::{Request, Response};
use tokio::time::sleep;

use super::answer::UpstreamBody;
use super::checks::HealthTasks;
use super::endpoint::{Attempt, Endpoint, Patience};
use crate::balance::{BreakerState, Change, Choice, Member, Pass, Roster, Turn};
use crate::clock;
use crate::observe::{BalanceMetrics, ServiceStanding};
use crate::policy::{Balancing, Retries, RetryOn, is_idempotent};
use crate::proxy::failure::Failure;
use crate::proxy::kept::KeptBody;
use crate::proxy::request_body::RequestBody;

/// The longest wait before an endpoint is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// An endpoint at its place among the others.
pub struct Placed {
    pub endpoint: Arc<Endpoint>,
    /// By which it is told from the others: as the operator wrote it, with the address where a name has several.
    pub name: Arc<str>,
    pub weight: f64,
}

impl Member for Arc<Placed> {
    fn name(&self) -> &str {
        &self.name
    }

    fn weight(&self) -> f64 {
        self.weight
    }

    fn in_flight(&self) -> usize {
        self.endpoint.in_flight()
    }
}

/// The endpoints of one service, and what is known of them.
pub struct Balanced {
    service: Arc<str>,
    roster: Mutex<Roster<Arc<Placed>>>,
    health_tasks: Mutex<HealthTasks>,
    metrics: BalanceMetrics,
}

/// A request that got no answer.
#[derive(Debug)]
pub struct Unanswered {
    pub failure: Failure,
    pub detail: String,
    /// When it is worth coming again.
    pub retry_after: Option<Duration>,
}

impl From<(Failure, String)> for Unanswered {
    fn from((failure, detail): (Failure, String)) -> Self {
        Self { failure, detail, retry_after: None }
    }
}

/// What became of a request on its way, for its record.
#[derive(Debug, Default)]
pub struct Tries {
    pub count: u32,
    /// The last one that was asked, where there are several.
    pub endpoint: Option<Arc<str>>,
}

impl Balanced {
    /// Those of a service. What was known before of its endpoints is taken over, as soon as they are named.
    pub fn new(service: Arc<str>, balancing: Arc<Balancing>, before: Option<&Self>, metrics: BalanceMetrics) -> Arc<Self> {
        let now = clock::instant_now();
        let roster = match before {
            Some(before) => {
                let mut roster = before.roster().clone();
                roster.adopt_balancing(balancing, now);
                roster
            }
            None => Roster::new(balancing, [], uuid::Uuid::new_v4().as_u64_pair().1, now),
        };
        Arc::new(Self { service, roster: Mutex::new(roster), health_tasks: Mutex::default(), metrics })
    }

    /// Takes over other endpoints. What is known of those that stay, stays.
    pub fn adopt(self: &Arc<Self>, endpoints: Vec<Arc<Placed>>) {
        self.roster().adopt_endpoints(endpoints, clock::instant_now());
        self.follow_health();
    }

    /// Asks no endpoint any more how it is: another has taken over.
    pub fn retire(&self) {
        *self.health_tasks.lock().unwrap_or_else(PoisonError::into_inner) = HealthTasks::default();
    }

    pub fn standing(&self) -> ServiceStanding {
        let roster = self.roster();
        let endpoints = roster.standings(clock::instant_now());
        ServiceStanding { service: self.service.to_string(), breaker: roster.breaker(), endpoints }
    }

    fn roster(&self) -> MutexGuard<'_, Roster<Arc<Placed>>> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow_health(self: &Arc<Self>) {
        let (balancing, endpoints) = {
            let roster = self.roster();
            (roster.balancing().clone(), roster.endpoints().cloned().collect::<Vec<_>>())
        };
        let mut tasks = self.health_tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.follow(self, balancing.health_check.as_ref(), &endpoints);
    }

    /// Takes the result of a health check.
    pub(super) fn checked(&self, label: &str, id: u64, good: bool, why: &str) {
        self.metrics.count_check(&self.service, label, good);
        let change = self.roster().checked(id, good, clock::instant_now());
        if let Some(Change { name, what }) = change {
            match what {
                Turn::Healthy => tracing::info!(target: "wicketgate::upstream", service = &*self.service, endpoint = name, "healthy"),
                Turn::Unhealthy | Turn::Ejected(_) => {
                    tracing::warn!(target: "wicketgate::upstream", service = &*self.service, endpoint = name, why, "unhealthy");
                }
            }
        }
    }

    /// Sends a request and waits for the head of its answer; `key` is the hash of what its endpoint is chosen by.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        key: Option<u64>,
        patience: &Patience,
        tries: &mut Tries,
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        let (begun, changed) = self.roster().begin(clock::instant_now());
        self.note_breaker(changed);
        let pass = begun.map_err(|wait| Unanswered {
            failure: Failure::UpstreamCircuitOpen,
            detail: "most requests failed lately".to_owned(),
            retry_after: Some(wait),
        })?;
        let passage = pass.map(|pass| Passage { balanced: self, pass, failed: None });
        let answer = self.send_admitted(request, key, patience, tries).await;
        if let Some(mut passage) = passage {
            passage.failed = self.breaks(&answer);
        }
        answer.map_err(|attempt| Unanswered { failure: attempt.failure, detail: attempt.detail, retry_after: None })
    }

    async fn send_admitted(
        &self,
        request: Request<RequestBody>,
        key: Option<u64>,
        patience: &Patience,
        tries: &mut Tries,
    ) -> Result<Response<UpstreamBody>, Attempt> {
        let begun = clock::instant_now();
        let balancing = self.roster().balancing().clone();
        let retries = &balancing.retries;
        let (mut request, mut copy) = (request, None);
        let mut tried = Vec::new();
        loop {
            let Some(choice) = self.choose(key, &tried, tries) else {
                return Err(Attempt::unsent(Failure::UpstreamRefused, "no address of any endpoint is known".to_owned(), request));
            };
            if choice.again {
                sleep(backoff(retries.backoff, tries.count)).await;
            }
            if tried.is_empty() {
                (request, copy) = copied(request, retries);
            }
            let spent = if tried.is_empty() { Duration::ZERO } else { clock::instant_now().duration_since(begun) };
            let left = patience.response.saturating_sub(spent).max(Duration::from_millis(1));
            let patient = Patience {
                progress: patience.progress.clone(),
                response: retries.per_try_timeout.map_or(left, |most| most.min(left)),
                idle: patience.idle,
                deadline: patience.deadline,
                keep_bytes_max: retries.replay_bytes,
            };
            let answer = choice.endpoint.endpoint.send(request, &patient).await;
            self.note(&balancing, &choice, &answer);
            let Some(why) = reason(&answer).filter(|why| retries.names(*why)) else { return answer };
            let now = clock::instant_now();
            let late = now.duration_since(begun) >= patience.response || patience.deadline.is_some_and(|deadline| now >= deadline);
            if tries.count >= retries.attempts || late || patience.progress.failure().is_some() {
                return answer;
            }
            tried.push(choice.id);
            // Whoever has no room, shows the wrong certificate or takes its time to connect will do so again.
            let hopeless = answer.as_ref().is_err_and(|attempt| !attempt.again);
            if hopeless && !self.roster().has_another(&tried, now) {
                return answer;
            }
            let (again, answer) = once_more(answer, why, copy.as_ref(), patience);
            let Some(again) = again else { return answer };
            if !self.roster().may_retry(now) {
                self.metrics.count_refused(&self.service);
                return answer;
            }
            self.metrics.count_retry(&self.service, &why.to_string());
            request = again;
        }
    }

    fn choose(&self, key: Option<u64>, tried: &[u64], tries: &mut Tries) -> Option<Choice<Arc<Placed>>> {
        let mut roster = self.roster();
        let choice = roster.choose(key, tried, clock::instant_now())?;
        tries.count += 1;
        tries.endpoint = roster.has_several().then(|| choice.endpoint.name.clone());
        Some(choice)
    }

    /// Notes what became of a try at its endpoint.
    fn note(&self, balancing: &Balancing, choice: &Choice<Arc<Placed>>, answer: &Result<Response<UpstreamBody>, Attempt>) {
        let failed = match answer {
            Ok(response) => balancing.ejection.statuses.contains(&response.status()),
            Err(attempt) => match is_endpoints_fault(attempt) {
                true => true,
                false => return,
            },
        };
        let change = self.roster().note(choice.id, failed, clock::instant_now());
        if let Some(Change { name, what: Turn::Ejected(time) }) = change {
            self.metrics.count_ejection(&self.service, &choice.endpoint.endpoint.key.label);
            let why = answer.as_ref().map_or_else(|attempt| attempt.detail.clone(), |response| response.status().to_string());
            tracing::warn!(target: "wicketgate::upstream", service = &*self.service, endpoint = name, ?time, why, "ejected");
        }
    }

    fn note_breaker(&self, changed: Option<BreakerState>) {
        let Some(state) = changed else { return };
        self.metrics.count_breaker(&self.service, state);
        tracing::warn!(target: "wicketgate::upstream", service = &*self.service, state = state.label(), "circuit breaker");
    }

    /// What the end of a request says to the breaker.
    fn breaks(&self, answer: &Result<Response<UpstreamBody>, Attempt>) -> Option<bool> {
        match answer {
            Ok(response) => {
                let roster = self.roster();
                let rules = roster.balancing().circuit_breaker.as_ref()?;
                Some(rules.statuses.contains(&response.status()))
            }
            Err(attempt) => is_endpoints_fault(attempt).then_some(true),
        }
    }
}

/// A request that the breaker let through. When it is dropped, as when its client leaves, it says nothing of the service.
struct Passage<'b> {
    balanced: &'b Balanced,
    pass: Pass,
    failed: Option<bool>,
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let changed = self.balanced.roster().end(self.pass, self.failed, clock::instant_now());
        self.balanced.note_breaker(changed);
    }
}

/// What is needed to send a request once more.
struct Copy {
    head: http::request::Parts,
    kept: Arc<KeptBody>,
}

/// A request, and its copy where it may be sent once more even though it may have arrived.
fn copied(request: Request<RequestBody>, retries: &Retries) -> (Request<RequestBody>, Option<Copy>) {
    if !retries.repeats() || !is_idempotent(request.method()) || request.headers().contains_key(UPGRADE) {
        return (request, None);
    }
    let (head, mut body) = request.into_parts();
    let kept = body.keep(retries.replay_bytes);
    (Request::from_parts(head.clone(), body), Some(Copy { head, kept }))
}

/// The request once more, if it is to be had, and the answer if it is not.
fn once_more(
    mut answer: Result<Response<UpstreamBody>, Attempt>,
    why: RetryOn,
    copy: Option<&Copy>,
    patience: &Patience,
) -> (Option<Request<RequestBody>>, Result<Response<UpstreamBody>, Attempt>) {
    let unsent = matches!(why, RetryOn::Connect | RetryOn::Unsent);
    let back = answer.as_mut().err().filter(|_| unsent).and_then(|attempt| attempt.request.take());
    let again = back.map(|request| *request).or_else(|| {
        let Copy { head, kept } = copy?;
        Some(Request::from_parts(head.clone(), RequestBody::again(kept.replay()?, patience.progress.clone())))
    });
    (again, answer)
}

/// After what it would be tried again.
fn reason(answer: &Result<Response<UpstreamBody>, Attempt>) -> Option<RetryOn> {
    let attempt = match answer {
        Ok(response) => return Some(RetryOn::Status(response.status().as_u16())),
        Err(attempt) => attempt,
    };
    match attempt.failure {
        // Another try would come to the same.
        Failure::UpgradeUnavailable => None,
        _ if attempt.unreached => Some(RetryOn::Connect),
        _ if attempt.unsent => Some(RetryOn::Unsent),
        Failure::UpstreamSlow => Some(RetryOn::Timeout),
        Failure::UpstreamBroken if attempt.reset => Some(RetryOn::Reset),
        _ => None,
    }
}

/// Whether an endpoint is to blame. A connection that was closed before anything left is not a fault, nor is what the client
/// did, nor a limit of the gate's own.
fn is_endpoints_fault(attempt: &Attempt) -> bool {
    attempt.unreached
        || (!attempt.unsent && matches!(attempt.failure, Failure::UpstreamSlow | Failure::UpstreamBroken | Failure::UpstreamRefused))
}

/// How long to wait before an endpoint is tried again: twice as long each time, and not together with everybody else.
fn backoff(first: Duration, tries: u32) -> Duration {
    let doubled = first.saturating_mul(1 << tries.saturating_sub(2).min(10)).min(BACKOFF_MAX);
    let chance = uuid::Uuid::new_v4().as_u64_pair().1 % 1001;
    doubled.mul_f64(0.5 + chance as f64 / 2002.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_before_a_try_doubles_up_to_its_limit() {
        for (tries, most) in [(2, 25), (3, 50), (4, 100), (7, 800), (8, 1000), (30, 1000)] {
            let wait = backoff(Duration::from_millis(25), tries);
            assert!(wait >= Duration::from_millis(most) / 2 && wait <= Duration::from_millis(most), "{tries}: {wait:?}");
        }
    }
}
