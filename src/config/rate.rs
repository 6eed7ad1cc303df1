//! What the operator writes about rates: how often who may ask, and where the counters are kept.

use schemars::JsonSchema;
use serde::Deserialize;

use super::route::Mode;
use super::secret::Secret;
use super::shapes::{OneOrMany, short_or_long};
use super::units::Span;

/// What requests are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RateKey {
    /// The token's `client_id`: one agent, whoever it works for.
    Client,
    /// The token's `sub`: one user or machine.
    Subject,
    /// The token's `organization_id`.
    Organization,
    /// The client's address; an IPv6 client is its /64 network.
    Address,
}

impl RateKey {
    pub const ALL: [Self; 4] = [Self::Client, Self::Subject, Self::Organization, Self::Address];

    /// The word that the operator writes.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Subject => "subject",
            Self::Organization => "organization",
            Self::Address => "address",
        }
    }
}

/// How often who may ask, in its long form.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitKeys {
    /// What requests are counted by; a list counts each combination by itself.
    pub by: OneOrMany<RateKey>,
    /// How many requests, in the long run.
    pub requests: u32,
    /// In which time.
    pub per: Span,
    /// How many may come at once after a rest; as many as `requests` by default.
    #[serde(default)]
    pub burst: Option<u32>,
    /// `report` records what would be refused, and lets it through.
    #[serde(default)]
    pub mode: Option<Mode>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit(pub RateLimitKeys);

impl RateLimit {
    /// `60 per 1m by client and subject`
    fn short(text: &str) -> Result<Self, String> {
        const FORM: &str = "no rate; write it as in 60 per 1m by client, or 60 per 1m by client and subject";
        let words: Vec<&str> = text.split_whitespace().collect();
        let [requests, "per", per, "by", keys @ ..] = words.as_slice() else { return Err(FORM.to_owned()) };
        let requests = requests.parse::<u32>().map_err(|_| FORM.to_owned())?;
        let per = Span::parse(per).map_err(|_| FORM.to_owned())?;
        let mut by = Vec::new();
        for (i, word) in keys.iter().enumerate() {
            match (i % 2, RateKey::ALL.iter().find(|key| key.word() == *word)) {
                (0, Some(key)) => by.push(*key),
                (0, None) => return Err(format!("'{word}' is nothing to count by; write client, subject, organization or address")),
                _ if *word == "and" => {}
                _ => return Err(FORM.to_owned()),
            }
        }
        match keys.len() % 2 {
            1 => Ok(Self(RateLimitKeys { by: OneOrMany(by), requests, per, burst: None, mode: None })),
            _ => Err(FORM.to_owned()),
        }
    }
}

short_or_long!(
    RateLimit,
    RateLimitKeys,
    "a rate as in `60 per 1m by client`, or a map with by, requests, per, burst, mode",
    RateLimit::short,
    |keys| Ok::<_, String>(RateLimit(keys))
);

/// What is counted across requests, and whether other instances count with this one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// Callers whose requests are counted at a time in this process; the least busy makes room for one more.
    pub keys: u32,
    /// The Redis or Valkey that instances share, with password and database: `redis://` or, over TLS, `rediss://`.
    pub redis: Option<Secret>,
    /// A file that holds that address.
    pub redis_file: Option<String>,
    /// Certificates of the authorities that may vouch for a `rediss://` server, PEM; the system's by default.
    pub redis_ca_file: Option<String>,
    /// What the names of all keys in there begin with: instances that are to count together have the same.
    pub prefix: String,
    /// The longest that one request waits for it.
    pub timeout: Span,
}

impl Default for State {
    fn default() -> Self {
        Self {
            keys: 100_000,
            redis: None,
            redis_file: None,
            redis_ca_file: None,
            prefix: "wicketgate:".to_owned(),
            timeout: Span::milliseconds(50),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_as_it_is_said() {
        let good = [
            ("60 per 1m by client", 60, 60_000, vec![RateKey::Client]),
            ("5 per 1s by address", 5, 1_000, vec![RateKey::Address]),
            ("1000 per 24h by organization and client", 1000, 86_400_000, vec![RateKey::Organization, RateKey::Client]),
        ];
        for (text, requests, per, by) in good {
            let RateLimit(keys) = RateLimit::short(text).unwrap();
            assert_eq!((keys.requests, keys.per, keys.by.0), (requests, Span::milliseconds(per), by), "{text}");
        }
        for text in [
            "",
            "60",
            "60/1m by client",
            "60 per 1m",
            "60 per 1m by",
            "60 per 1m by client,subject",
            "60 per 1m by client subject",
            "60 per 1m by client and",
            "60 per 60 by client",
            "-1 per 1m by client",
            "sixty per 1m by client",
            "60 per 1m by token",
        ] {
            assert!(RateLimit::short(text).is_err(), "{text:?} was taken");
        }
    }
}
