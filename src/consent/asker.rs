//! Asks under one set of settings: one question is shared by all who wait for it, and there are limits to how many are
//! asked. The answers stand where the decision looks.

use std::sync::Arc;

use tokio::time::timeout_at;

use crate::access::{App, ConsentSaid, Consents, Held, Known, Question, Word};
use crate::asking::{Budgets, Flight, Flights, Place, Rest};
use crate::clock::{self, UnixSeconds};
use crate::logto::{Grant, LogtoError, ManagementApi};
use crate::observe::ConsentMetrics;
use crate::policy::{Consent, Scopes};

const SLOW: &str = "Logto did not answer in time";

pub struct Asker {
    settings: Arc<Consent>,
    api: ManagementApi,
    consents: Arc<Consents>,
    flights: Flights<Question, ConsentSaid>,
    budgets: Budgets,
    rest: Rest,
    metrics: ConsentMetrics,
}

impl Asker {
    pub fn new(settings: Arc<Consent>, metrics: ConsentMetrics) -> Result<Self, String> {
        Ok(Self {
            api: ManagementApi::new(settings.access.clone()).map_err(|error| error.to_string())?,
            consents: Arc::new(Consents::new(settings.remembered)),
            flights: Flights::default(),
            budgets: Budgets::new(settings.in_flight, settings.per_second),
            rest: Rest::default(),
            metrics,
            settings,
        })
    }

    pub fn is_for(&self, settings: &Arc<Consent>) -> bool {
        Arc::ptr_eq(&self.settings, settings) || self.settings == *settings
    }

    pub fn consents(&self) -> Arc<Consents> {
        self.consents.clone()
    }

    /// The answer to a question that nothing known answers.
    pub async fn ask(self: &Arc<Self>, question: Question) -> ConsentSaid {
        let begun = clock::unix_now();
        let (said, lookup) = match self.join_or_begin(&question, begun) {
            Err((said, lookup)) => (said, lookup),
            Ok((mut flight, lookup)) => {
                let patience = clock::instant_now() + self.settings.timeout;
                let said = match timeout_at(patience.into(), flight.wait_for(Option::is_some)).await {
                    Ok(Ok(said)) => said.clone().unwrap_or(ConsentSaid::Busy),
                    Ok(Err(_)) => ConsentSaid::Unavailable("the question broke off"),
                    Err(_) => ConsentSaid::Unavailable(SLOW),
                };
                (said, lookup)
            }
        };
        self.metrics.lookups.with_label_values(&[lookup]).inc();
        said
    }

    /// Begins to ask, if nobody does already and there is room.
    pub fn refresh(self: &Arc<Self>, question: &Question) {
        let _ = self.join_or_begin(question, UnixSeconds::MAX);
    }

    /// The question that is under way, or a new one; or what there is to say without one. An answer that was asked for
    /// since `begun` is as good as a new one: it landed between the look of who asks and this.
    #[allow(clippy::type_complexity, reason = "a flight or an answer, each with the label of its metric")]
    fn join_or_begin(
        self: &Arc<Self>,
        question: &Question,
        begun: UnixSeconds,
    ) -> Result<(Flight<ConsentSaid>, &'static str), (ConsentSaid, &'static str)> {
        let admit = || {
            let known = self.consents.get(question);
            if let Some(known) = known.as_ref().filter(|known| known.asked >= begun) {
                return Err((ConsentSaid::Answer(known.clone()), "shared"));
            }
            if let Some(why) = self.rest.reason() {
                return Err((ConsentSaid::Unavailable(why), "refused"));
            }
            self.budgets.take(known.is_some()).ok_or((ConsentSaid::Busy, "refused"))
        };
        let (asker, about) = (self.clone(), question.clone());
        let (flight, joined) = self.flights.join_or_begin(question, admit, |place| async move { asker.fly(&about, &place).await })?;
        Ok((flight, if joined { "shared" } else { "miss" }))
    }

    async fn fly(&self, question: &Question, place: &Place) -> ConsentSaid {
        let deadline = clock::instant_now() + self.settings.timeout;
        let Ok(Some(_turn)) = timeout_at(deadline.into(), place.turn()).await else { return ConsentSaid::Busy };
        // Before the question goes out: what happens meanwhile is not in the answer.
        let (asked, begun) = (clock::unix_now(), clock::instant_now());
        let answer = timeout_at(deadline.into(), self.question(question)).await;
        let label: &[&str] = &[];
        self.metrics.seconds.with_label_values(label).observe(clock::instant_now().duration_since(begun).as_secs_f64());
        let about = if question.subject.is_some() { "grants" } else { "application" };
        let (said, result) = match answer {
            Ok(Ok(word)) => {
                let known = Arc::new(Known { question: question.clone(), asked, word });
                self.consents.put(known.clone());
                (ConsentSaid::Answer(known), "answered")
            }
            Ok(Err(error)) => self.note(&error),
            Err(_) => self.note(&LogtoError::Unreachable(SLOW.to_owned())),
        };
        self.metrics.results.with_label_values(&[about, result]).inc();
        said
    }

    async fn question(&self, question: &Question) -> Result<Word, LogtoError> {
        let Some(subject) = &question.subject else {
            let application = self.api.application(&question.client).await?;
            let app = application.map(|application| App { third_party: application.is_third_party, name: application.name.into() });
            return Ok(Word::App(app));
        };
        match self.api.third_party_grants(subject).await {
            Ok(grants) => Ok(Word::Grants(held(&grants, &question.client))),
            // A user whom nobody knows has granted nothing.
            Err(error) if error.is_not_found() => Ok(Word::Grants(Vec::new())),
            Err(error) => Err(error),
        }
    }

    fn note(&self, error: &LogtoError) -> (ConsentSaid, &'static str) {
        let (why, label, ours) = match error {
            LogtoError::Unreachable(_) => ("Logto cannot be reached", "unreachable", false),
            LogtoError::RateLimited { .. } => ("Logto asks for fewer calls", "rate_limited", false),
            LogtoError::CredentialsRefused(_) | LogtoError::Forbidden(_) => {
                ("Logto refuses the gate's credentials", "credentials_refused", true)
            }
            LogtoError::Refused { .. } | LogtoError::Unexpected { .. } => ("Logto's answer makes no sense", "unacceptable", false),
        };
        self.rest.begin(why);
        if self.rest.is_worth_telling() {
            match ours {
                true => tracing::error!(target: "wicketgate::consent", %error, "consents cannot be asked about"),
                false => tracing::warn!(target: "wicketgate::consent", %error, "consents cannot be asked about"),
            }
        }
        (ConsentSaid::Unavailable(why), label)
    }
}

/// What a user granted to one app. A session leaves a grant, so that many are alike: of these the last to end is kept.
fn held(grants: &[Grant], client: &str) -> Vec<Held> {
    let mut all: Vec<Held> = Vec::new();
    for grant in grants.iter().filter(|grant| grant.payload.client_id == client) {
        let scopes = |indicator: &String| (indicator.clone(), Scopes::from_list(grant.scopes(indicator)));
        let resources: Vec<(String, Scopes)> = grant.payload.resources.keys().map(scopes).collect();
        let ends = match (grant.payload.exp, grant.expires_at) {
            (Some(seconds), _) => Some(seconds),
            (None, Some(milliseconds)) => i64::try_from(milliseconds / 1000).ok(),
            (None, None) => None,
        };
        match all.iter_mut().find(|known| known.resources == resources) {
            Some(known) => known.ends = known.ends.zip(ends).map(|(one, other)| one.max(other)),
            None => all.push(Held { resources, ends }),
        }
    }
    all
}
