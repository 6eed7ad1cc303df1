//! Step 8 goes on. Whether a user's consent to a third-party app still stands, by what Logto said of it.
//!
//! What is known stands in a concurrent table that everybody may read; it is written by who asks Logto. Where it says
//! nothing, or nothing that still counts, the refusal says what must be asked; deciding once more takes the answer. A
//! verified token that is remembered is asked about like any other: nothing here is part of what is remembered.

use std::hash::Hash;
use std::sync::Arc;

use quick_cache::sync::Cache;

use super::claims::Claims;
use super::denial::Denial;
use crate::clock::UnixSeconds;
use crate::policy::{Consent, ScopeRule, Scopes, Service};

/// Logto's word whether an app is third-party cannot change, only that there is one.
const APP_MAX_AGE_SECONDS: i64 = 600;

/// The refusals of requests about which nobody was asked yet.
pub const UNASKED_APP: Denial = Denial::ConsentUnknown("nobody was asked about the app");
pub const UNASKED_GRANTS: Denial = Denial::ConsentUnknown("nobody was asked about the grants");

/// What an organization's own tokens are for: Logto keeps their scopes in a grant under one name.
const ORGANIZATION: &str = "urn:logto:organization:";
const ORGANIZATIONS: &str = "urn:logto:resource:organizations";

/// What Logto is asked: about an app or, with a user, about what the user granted to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    pub subject: Option<Box<str>>,
    pub client: Box<str>,
}

/// The same by reference, to look for. The order of the fields is that of the question, so that both have one hash.
#[derive(Hash)]
struct Wanted<'w> {
    subject: Option<&'w str>,
    client: &'w str,
}

impl Wanted<'_> {
    fn to_question(&self) -> Question {
        Question { subject: self.subject.map(Box::from), client: self.client.into() }
    }
}

impl quick_cache::Equivalent<Question> for Wanted<'_> {
    fn equivalent(&self, question: &Question) -> bool {
        self.subject == question.subject.as_deref() && *self.client == *question.client
    }
}

/// What Logto said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// `None`: there is no such app.
    App(Option<App>),
    Grants(Vec<Held>),
}

/// An app, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    pub third_party: bool,
    /// What users read, for the audit trail.
    pub name: Arc<str>,
}

/// What a user granted to an app, in one session or several alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// By resource indicator.
    pub resources: Vec<(String, Scopes)>,
    pub ends: Option<UnixSeconds>,
}

/// An answer, and when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub question: Question,
    pub asked: UnixSeconds,
    pub word: Word,
}

impl Known {
    fn age(&self, now: UnixSeconds) -> i64 {
        // A clock that was set back makes every answer too old.
        if now < self.asked { i64::MAX } else { now - self.asked }
    }
}

/// The outcome of asking.
#[derive(Debug, Clone)]
pub enum ConsentSaid {
    Answer(Arc<Known>),
    Unavailable(&'static str),
    /// Too many questions already.
    Busy,
}

/// What is known, bounded by count, the least used leaving first.
pub struct Consents(Cache<Question, Arc<Known>>);

impl std::fmt::Debug for Consents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Consents({})", self.0.len())
    }
}

impl Consents {
    pub fn new(count_max: usize) -> Self {
        Self(Cache::new(count_max))
    }

    pub fn put(&self, known: Arc<Known>) {
        self.0.insert(known.question.clone(), known);
    }

    pub fn get(&self, question: &Question) -> Option<Arc<Known>> {
        self.0.get(question)
    }

    /// What an app is called, if it was asked about.
    pub fn client_name(&self, client: &str) -> Option<Arc<str>> {
        match &self.0.get(&Wanted { subject: None, client })?.word {
            Word::App(app) => app.as_ref().map(|app| app.name.clone()),
            Word::Grants(_) => None,
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What was answered to the questions of one request.
#[derive(Debug, Default)]
pub struct ConsentTold {
    pub app: Option<ConsentSaid>,
    pub grants: Option<ConsentSaid>,
}

/// One check, with all that it needs.
pub(super) struct Check<'c> {
    pub settings: &'c Consent,
    pub consents: Option<&'c Consents>,
    pub told: &'c ConsentTold,
    pub service: &'c Service,
    pub scopes: &'c ScopeRule,
    pub claims: &'c Claims,
    pub now: UnixSeconds,
}

impl Check<'_> {
    /// Whether consent stands, and what is worth asking again soon.
    pub fn decide(&self) -> Result<Option<Question>, Denial> {
        let Some(client) = self.claims.client_id.as_deref() else { return Err(Denial::ClaimMalformed("no client_id")) };
        // A machine that acts for itself.
        if self.claims.subject == client {
            return Ok(None);
        }
        // A client that is known by its metadata document is no app of the tenant's, and always somebody else's.
        let mut soon = None;
        if !client.starts_with("https://") {
            let app = Wanted { subject: None, client };
            let known = self.known(&app);
            let age = known.as_ref().map_or(i64::MAX, |known| known.age(self.now));
            let said = known.as_ref().and_then(|known| match &known.word {
                Word::App(app) => Some(app.as_ref().map(|app| app.third_party)),
                Word::Grants(_) => None,
            });
            match (said, &self.told.app) {
                (Some(None), told) if age < self.settings.negative_max_age.max(1) || matches!(told, Some(ConsentSaid::Answer(_))) => {
                    return Err(Denial::ClientDeleted);
                }
                (Some(Some(third_party)), told) if age < APP_MAX_AGE_SECONDS || told.is_some() => {
                    soon = (age >= APP_MAX_AGE_SECONDS * 9 / 10).then(|| app.to_question());
                    if !third_party {
                        return Ok(soon);
                    }
                }
                (_, None) => return Err(UNASKED_APP),
                (_, Some(trouble)) => return self.without_answer(None, trouble).map(|()| None),
            }
        }
        self.grants(&Wanted { subject: Some(&self.claims.subject), client }).map(|grants| grants.or(soon))
    }

    fn grants(&self, wanted: &Wanted<'_>) -> Result<Option<Question>, Denial> {
        let known = self.known(wanted);
        if let (Some(ConsentSaid::Answer(_)), Some(known)) = (&self.told.grants, &known) {
            return if self.is_covered(known) { Ok(None) } else { Err(Denial::ConsentWithdrawn) };
        }
        if let Some(known) = &known {
            let (age, covered) = (known.age(self.now), self.is_covered(known));
            if covered && age < self.settings.max_age {
                return Ok((age >= self.settings.refresh_age()).then(|| wanted.to_question()));
            }
            // A token that was issued since may come of a consent that was given since. Asked for once a second at most.
            let newer = age > 0 && self.claims.issued_at.is_none_or(|issued| issued >= known.asked);
            if !covered && age < self.settings.negative_max_age && !newer {
                return Err(Denial::ConsentWithdrawn);
            }
        }
        match &self.told.grants {
            None => Err(UNASKED_GRANTS),
            Some(trouble) => self.without_answer(known.as_deref(), trouble).map(|()| None),
        }
    }

    /// The answer that was just given, or what is known from before.
    fn known(&self, wanted: &Wanted<'_>) -> Option<Arc<Known>> {
        use quick_cache::Equivalent;
        for told in [&self.told.app, &self.told.grants] {
            if let Some(ConsentSaid::Answer(known)) = told
                && wanted.equivalent(&known.question)
            {
                return Some(known.clone());
            }
        }
        self.consents?.0.get(wanted)
    }

    /// While Logto cannot be asked. That a token was issued is word of a consent that stood then; what is known last and a
    /// token's issue count alike, for `max_stale`.
    fn without_answer(&self, known: Option<&Known>, trouble: &ConsentSaid) -> Result<(), Denial> {
        let issued = self.claims.issued_at.unwrap_or(UnixSeconds::MIN);
        let standing = known.filter(|known| self.is_covered(known)).map(|known| known.asked);
        let withdrawn = known.filter(|known| !self.is_covered(known) && issued < known.asked);
        if let Some(max_stale) = self.settings.max_stale {
            let last = standing.unwrap_or(UnixSeconds::MIN).max(issued);
            match withdrawn {
                Some(_) => return Err(Denial::ConsentWithdrawn),
                None if self.now.saturating_sub(last) < max_stale => return Ok(()),
                None => {}
            }
        }
        Err(match trouble {
            ConsentSaid::Busy => Denial::ConsentBusy,
            ConsentSaid::Unavailable(why) => Denial::ConsentUnknown(why),
            ConsentSaid::Answer(_) => Denial::ConsentUnknown("an answer about something else"),
        })
    }

    /// Whether one grant that is alive covers the resource and what the route needs.
    fn is_covered(&self, known: &Known) -> bool {
        let Word::Grants(held) = &known.word else { return false };
        let mut alive = held.iter().filter(|held| held.ends.is_none_or(|ends| self.now < ends));
        // An opaque token may be for nobody in particular.
        if self.claims.audiences.is_empty() {
            return alive.next().is_some() && self.scopes.named().is_empty();
        }
        alive.any(|held| held.resources.iter().any(|(indicator, granted)| self.is_for(indicator) && self.is_enough(granted)))
    }

    fn is_for(&self, indicator: &str) -> bool {
        let mut ours = self.claims.audiences.iter().filter(|audience| self.service.audiences.contains(audience));
        ours.any(|audience| audience == indicator || (indicator == ORGANIZATIONS && audience.starts_with(ORGANIZATION)))
    }

    fn is_enough(&self, granted: &Scopes) -> bool {
        match self.scopes {
            ScopeRule::None => true,
            ScopeRule::All(wanted) => wanted.iter().all(|scope| granted.contains(scope)),
            // By the same scope that the token has.
            ScopeRule::Any(wanted) => wanted.iter().any(|scope| granted.contains(scope) && self.claims.scopes.contains(scope)),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, header};
    use serde_json::{Value, json};

    use super::super::{Head, Introspected, Remembered, Said, Snapshot, Verdict, decide_told, unasked_consent};
    use super::*;
    use crate::config::Document;
    use crate::keys::{KeyState, Keyring};
    use crate::policy::compile;

    const NOW: UnixSeconds = 1_700_000_000;
    const BOT: &str = "bot";
    const CIMD: &str = "https://bot.example/client.json";

    /// A gate whose tokens are opaque, so that none has to be signed.
    fn gate(more: &str) -> Snapshot {
        let text = format!(
            "issuer: https://i.example\nlogto: {{ endpoint: https://i.example, app_id: gate, app_secret: s }}\nservices:\n  - name: a\n    \
             resource: https://a.example\n    upstream: http://127.0.0.1:1\n    consent: {{ {more} }}\n    \
             introspection: {{ client_id: gate, client_secret: s, audience: if_present }}\n    \
             routes: {{ GET /me: authenticated, GET /read: read, GET /both: {{ all: [read, write] }}, GET /any: {{ any: [read, write] }} }}\n"
        );
        let config = Document::read(&text, &|_| None).config.expect("a document");
        let policy = compile(&config, String::new(), &|_| Err(String::new())).expect("a policy");
        let gate = Snapshot::new(Arc::new(policy), Keyring(vec![KeyState::default()]), Arc::new(Remembered::new(0)));
        gate.with_consents(vec![Some(Arc::new(Consents::new(100)))])
    }

    fn token(changes: &Value) -> Value {
        let mut claims = json!({
            "active": true, "sub": "alice", "client_id": BOT, "exp": NOW + 600, "iat": NOW - 100, "scope": "read write", "token_type": "Bearer",
            "aud": "https://a.example",
        });
        for (name, value) in changes.as_object().expect("changes") {
            match value {
                Value::Null => drop(claims.as_object_mut().expect("claims").remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }

    fn app(third_party: Option<bool>, asked: UnixSeconds) -> Known {
        Known {
            question: Question { subject: None, client: BOT.into() },
            asked,
            word: Word::App(third_party.map(|third_party| App { third_party, name: "WeatherBot".into() })),
        }
    }

    fn grants(client: &str, held: &[(&str, &str, Option<i64>)], asked: UnixSeconds) -> Known {
        let held = held
            .iter()
            .map(|(indicator, scopes, ends)| Held { resources: vec![((*indicator).to_owned(), Scopes::parse(scopes))], ends: *ends });
        Known { question: Question { subject: Some("alice".into()), client: client.into() }, asked, word: Word::Grants(held.collect()) }
    }

    fn read_grant(asked: UnixSeconds) -> Known {
        grants(BOT, &[("https://a.example", "read", None)], asked)
    }

    /// The code of the refusal, and what must be asked first; the last is whether a permit says to ask again soon.
    fn decided(gate: &Snapshot, path: &str, claims: &Value, told: &ConsentTold) -> (&'static str, Option<Question>, bool) {
        const TOKEN: &str = "opaque";
        let settings = gate.policy.services[0].introspection.as_ref().expect("introspection");
        let introspected = Introspected::parse(settings, TOKEN, claims.to_string().as_bytes()).expect("an answer");
        let said = Said::Answer { introspected: Arc::new(introspected), remembered: false };
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer opaque"));
        let head = Head {
            method: &Method::GET,
            host: "a.example",
            path,
            query: None,
            headers: &headers,
            websocket: false,
            plain: false,
            certificate: None,
        };
        let verdict = decide_told(gate, &head, Some(&said), told, NOW);
        let question = unasked_consent(&verdict).map(|(_, question)| question);
        match verdict {
            Ok(Verdict::Forward(permit)) => ("", question, permit.ask_soon().is_some()),
            Ok(Verdict::Metadata { .. } | Verdict::Preflight { .. } | Verdict::Webhook | Verdict::Own { .. }) => {
                ("metadata", question, false)
            }
            Err(refusal) => (refusal.denial.row().code, question, false),
        }
    }

    fn knowing(more: &str, known: impl IntoIterator<Item = Known>) -> Snapshot {
        let gate = gate(more);
        for known in known {
            gate.consents[0].as_ref().expect("consents").put(Arc::new(known));
        }
        gate
    }

    fn code(gate: &Snapshot, path: &str, changes: &Value) -> &'static str {
        decided(gate, path, &token(changes), &ConsentTold::default()).0
    }

    #[test]
    fn the_app_is_asked_about_first_and_the_grants_then_and_nothing_passes_before() {
        let none = ConsentTold::default();
        let question = |subject: Option<&str>, client: &str| Some(Question { subject: subject.map(Box::from), client: client.into() });
        let unknown = gate("");
        assert_eq!(decided(&unknown, "/read", &token(&json!({})), &none), ("consent_unknown", question(None, BOT), false));
        let first = knowing("", [app(Some(false), NOW)]);
        assert_eq!(decided(&first, "/read", &token(&json!({})), &none), ("", None, false));
        let third = knowing("", [app(Some(true), NOW)]);
        assert_eq!(decided(&third, "/read", &token(&json!({})), &none), ("consent_unknown", question(Some("alice"), BOT), false));
        let url = json!({ "client_id": CIMD });
        assert_eq!(decided(&unknown, "/read", &token(&url), &none), ("consent_unknown", question(Some("alice"), CIMD), false));
        assert_eq!(code(&unknown, "/read", &json!({ "sub": BOT })), "", "a machine");
        assert_eq!(code(&unknown, "/read", &json!({ "client_id": null })), "claim_malformed");
        assert_eq!(code(&knowing("", [app(None, NOW)]), "/read", &json!({})), "client_deleted");
        // Without a scope it does not come to consent.
        assert_eq!(code(&unknown, "/read", &json!({ "scope": "" })), "scope_missing");
    }

    #[test]
    fn one_grant_that_is_alive_must_cover_the_resource_and_what_the_route_needs() {
        let ours = "https://a.example";
        let none: &[(&str, &str, Option<i64>)] = &[];
        let table = [
            (none, "/me", false),
            (&[(ours, "read", None)], "/me", true),
            (&[(ours, "read", None)], "/read", true),
            (&[(ours, "read", Some(NOW + 1))], "/read", true),
            (&[(ours, "read", Some(NOW))], "/read", false),
            (&[("https://a.example/", "read", None)], "/read", false),
            (&[(ours, "write", None)], "/read", false),
            (&[(ours, "write", None)], "/any", true),
            (&[(ours, "read", None), (ours, "write", None)], "/both", false),
            (&[(ours, "read", None), (ours, "write read", None)], "/both", true),
        ];
        for (held, path, permitted) in table {
            let gate = knowing("", [app(Some(true), NOW), grants(BOT, held, NOW)]);
            assert_eq!(code(&gate, path, &json!({})), if permitted { "" } else { "consent_withdrawn" }, "{held:?} {path}");
        }
        // By a scope that the token has, too.
        let gate = knowing("", [app(Some(true), NOW), grants(BOT, &[(ours, "write", None)], NOW)]);
        assert_eq!(code(&gate, "/any", &json!({ "scope": "read" })), "consent_withdrawn");
        // Another app's, another user's.
        let gate = knowing("", [app(Some(true), NOW), read_grant(NOW)]);
        assert_eq!(code(&gate, "/read", &json!({ "sub": "bob" })), "consent_unknown");
        assert_eq!(code(&gate, "/read", &json!({ "client_id": CIMD })), "consent_unknown");
    }

    #[test]
    fn an_answer_counts_for_its_age_and_is_asked_for_anew_shortly_before() {
        let at = |asked| {
            let gate = knowing("max_age: 60s, negative_max_age: 5s", [app(Some(true), NOW), read_grant(asked)]);
            let (code, question, soon) = decided(&gate, "/read", &token(&json!({})), &ConsentTold::default());
            (code, question.is_some(), soon)
        };
        assert_eq!(at(NOW - 54), ("", false, false));
        assert_eq!(at(NOW - 55), ("", false, true));
        assert_eq!(at(NOW - 59), ("", false, true));
        assert_eq!(at(NOW - 60), ("consent_unknown", true, false));
        assert_eq!(at(NOW + 1), ("consent_unknown", true, false), "a clock that was set back");
        let negative = |asked, issued| {
            let gate = knowing("max_age: 60s, negative_max_age: 5s", [app(Some(true), NOW), grants(BOT, &[], asked)]);
            code(&gate, "/read", &json!({ "iat": issued }))
        };
        assert_eq!(negative(NOW - 4, NOW - 5), "consent_withdrawn");
        assert_eq!(negative(NOW - 5, NOW - 6), "consent_unknown");
        assert_eq!(negative(NOW - 4, NOW - 4), "consent_unknown", "issued since");
        assert_eq!(negative(NOW - 4, NOW + 9), "consent_unknown", "by a clock ahead");
        assert_eq!(negative(NOW, NOW), "consent_withdrawn", "asked about this second");
        // Whether an app is third-party cannot change.
        let stale = knowing("", [app(Some(false), NOW - 601)]);
        assert_eq!(code(&stale, "/read", &json!({})), "consent_unknown");
        let away = ConsentTold { app: Some(ConsentSaid::Unavailable("away")), grants: None };
        assert_eq!(decided(&stale, "/read", &token(&json!({})), &away).0, "");
    }

    #[test]
    fn without_an_answer_the_last_word_counts_for_so_long_as_the_operator_says() {
        let busy = || ConsentTold { app: None, grants: Some(ConsentSaid::Busy) };
        let away = || ConsentTold { app: None, grants: Some(ConsentSaid::Unavailable("away")) };
        let at = |more: &str, known: Option<Known>, issued: i64, told: ConsentTold| {
            let gate = knowing(more, [app(Some(true), NOW)].into_iter().chain(known));
            decided(&gate, "/read", &token(&json!({ "iat": issued })), &told).0
        };
        let allow = "max_age: 60s, on_error: allow, max_stale: 600s";
        assert_eq!(at("", Some(read_grant(NOW - 60)), NOW, away()), "consent_unknown");
        assert_eq!(at("", Some(read_grant(NOW - 60)), NOW, busy()), "consent_busy");
        assert_eq!(at(allow, Some(read_grant(NOW - 599)), NOW - 9999, away()), "");
        assert_eq!(at(allow, Some(read_grant(NOW - 599)), NOW - 9999, busy()), "");
        assert_eq!(at(allow, Some(read_grant(NOW - 600)), NOW - 9999, away()), "consent_unknown");
        assert_eq!(at(allow, None, NOW - 599, away()), "");
        assert_eq!(at(allow, None, NOW - 600, away()), "consent_unknown");
        assert_eq!(at(allow, Some(grants(BOT, &[], NOW - 60)), NOW - 61, away()), "consent_withdrawn");
        assert_eq!(at(allow, Some(grants(BOT, &[], NOW - 60)), NOW - 59, away()), "", "issued since");
        // The app is unknown: the token's issue is word of either.
        let gate = knowing(allow, []);
        let told = ConsentTold { app: Some(ConsentSaid::Unavailable("away")), grants: None };
        assert_eq!(decided(&gate, "/read", &token(&json!({})), &told).0, "");
        assert_eq!(decided(&gate, "/read", &token(&json!({ "iat": NOW - 600 })), &told).0, "consent_unknown");
    }

    #[test]
    fn an_answer_counts_for_its_own_question_alone() {
        let gate = knowing("", [app(Some(true), NOW)]);
        let told = |known: Known| ConsentTold { app: None, grants: Some(ConsentSaid::Answer(Arc::new(known))) };
        assert_eq!(decided(&gate, "/read", &token(&json!({})), &told(read_grant(NOW))).0, "");
        let other = grants(CIMD, &[("https://a.example", "read", None)], NOW);
        assert_eq!(decided(&gate, "/read", &token(&json!({})), &told(other)).0, "consent_unknown");
    }

    #[test]
    fn tokens_of_organizations_and_tokens_for_nobody_in_particular() {
        let organizations = grants(BOT, &[("urn:logto:resource:organizations", "read", None)], NOW);
        let mut gate = knowing("", [app(Some(true), NOW), organizations]);
        let aud = json!({ "aud": "urn:logto:organization:o1" });
        let policy = Arc::get_mut(&mut gate.policy).expect("one owner");
        policy.services[0].audiences.push("urn:logto:organization:o1".to_owned());
        assert_eq!(code(&gate, "/read", &aud), "");
        assert_eq!(code(&gate, "/read", &json!({})), "consent_withdrawn");
        // An opaque token of Logto's says for nobody; that it may do anything at all is consent to nothing of ours.
        let gate = knowing("", [app(Some(true), NOW), read_grant(NOW)]);
        assert_eq!(code(&gate, "/me", &json!({ "aud": null })), "");
        assert_eq!(code(&gate, "/read", &json!({ "aud": null })), "consent_withdrawn");
    }
}
