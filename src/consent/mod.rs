//! Asking Logto whether users' consents still stand: seldom, within limits, and once for all who wait.

mod asker;

use std::sync::{Arc, Mutex, PoisonError};

use asker::Asker;

use crate::access::{
    ConsentSaid, ConsentTold, Consents, Denial, Head, Identity, Question, Refusal, Said, Snapshot, Verdict, decide_told, question, still,
    unasked_consent,
};
use crate::clock;
use crate::observe::ConsentMetrics;
use crate::policy::{Consent, Policy};

/// Of one request: about the app, then about the user's grants to it.
const QUESTIONS_MAX: usize = 2;

/// One asker for each way of asking: with the settings go the answers.
pub type Askers = Vec<Arc<Asker>>;

/// Asks for all services.
pub struct ConsentDesk {
    askers: Mutex<Askers>,
    metrics: ConsentMetrics,
}

impl ConsentDesk {
    pub fn new(metrics: ConsentMetrics) -> Self {
        Self { askers: Mutex::default(), metrics }
    }

    /// The askers of a policy. Those whose settings stay are those that are there, with what they know.
    pub fn prepare(&self, policy: &Policy) -> Result<Askers, String> {
        let known = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut askers = Askers::new();
        for settings in policy.services.iter().filter_map(|service| service.consent.as_ref()) {
            if find(&askers, settings).is_none() {
                let asker = match find(&known, settings) {
                    Some(asker) => asker,
                    None => Arc::new(Asker::new(settings.clone(), self.metrics.clone())?),
                };
                askers.push(asker);
            }
        }
        Ok(askers)
    }

    /// Puts the askers of a policy into force, and forgets the others with all that they know.
    pub fn adopt(&self, askers: Askers) {
        *self.askers.lock().unwrap_or_else(PoisonError::into_inner) = askers;
    }

    /// What is known, by service, for the snapshot of a policy.
    pub fn consents(&self, policy: &Policy) -> Vec<Option<Arc<Consents>>> {
        let known = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |settings: &Arc<Consent>| find(&known, settings).map(|asker| asker.consents());
        policy.services.iter().map(|service| service.consent.as_ref().and_then(of)).collect()
    }

    /// Asks as long as the verdict waits for an answer, and decides once more by the same policy each time.
    pub async fn settle(
        &self,
        snapshot: &Snapshot,
        head: &Head<'_>,
        said: Option<&Said>,
        mut verdict: Result<Verdict, Box<Refusal>>,
    ) -> Result<Verdict, Box<Refusal>> {
        let mut told = ConsentTold::default();
        for _ in 0..QUESTIONS_MAX {
            let Some((service, question)) = unasked_consent(&verdict) else { break };
            let about_grants = question.subject.is_some();
            let answer = Some(self.ask(&snapshot.policy, service, question).await);
            match about_grants {
                true => told.grants = answer,
                false => told.app = answer,
            }
            verdict = decide_told(snapshot, head, said, &told, clock::unix_now());
        }
        if let Ok(Verdict::Forward(permit)) = &verdict
            && let Some(question) = permit.ask_soon()
        {
            self.refresh(&snapshot.policy, permit.service(), question);
        }
        verdict
    }

    /// Whether the token of an open stream still counts; asks what must be asked.
    pub async fn still(&self, snapshot: &Snapshot, service: usize, route: usize, identity: &Identity) -> Result<(), Denial> {
        let mut told = ConsentTold::default();
        let mut verdict = still(snapshot, service, route, identity, &told, clock::unix_now());
        for _ in 0..QUESTIONS_MAX {
            let Some(question) = verdict.as_ref().err().and_then(|denial| question(denial, identity)) else { break };
            let about_grants = question.subject.is_some();
            let answer = Some(self.ask(&snapshot.policy, service, question).await);
            match about_grants {
                true => told.grants = answer,
                false => told.app = answer,
            }
            verdict = still(snapshot, service, route, identity, &told, clock::unix_now());
        }
        if let Some(question) = verdict? {
            self.refresh(&snapshot.policy, service, &question);
        }
        Ok(())
    }

    /// What Logto says. A request that began before a reload is finished with what it began with.
    async fn ask(&self, policy: &Policy, service: usize, question: Question) -> ConsentSaid {
        match self.asker(policy, service) {
            Some(asker) => asker.ask(question).await,
            None => ConsentSaid::Unavailable("no HTTP client"),
        }
    }

    /// Asks again while what is known still counts; nobody waits for it.
    fn refresh(&self, policy: &Policy, service: usize, question: &Question) {
        if let Some(asker) = self.asker(policy, service) {
            asker.refresh(question);
        }
    }

    fn asker(&self, policy: &Policy, service: usize) -> Option<Arc<Asker>> {
        let settings = policy.services.get(service)?.consent.as_ref()?;
        let known = find(&self.askers.lock().unwrap_or_else(PoisonError::into_inner), settings);
        known.or_else(|| Asker::new(settings.clone(), self.metrics.clone()).ok().map(Arc::new))
    }
}

fn find(askers: &[Arc<Asker>], settings: &Arc<Consent>) -> Option<Arc<Asker>> {
    askers.iter().find(|asker| asker.is_for(settings)).cloned()
}
