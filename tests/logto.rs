//! What a real Logto issued, decided on: each kind of recorded token gets the decision that it must get, at its own time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says no by panicking, in its helpers too")]

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::Value;
use wicketgate::access::{Denial, Head, Introspected, Permit, Refusal, Remembered, Said, Snapshot, Verdict, decide, decide_with};
use wicketgate::config::Document;
use wicketgate::keys::{Algorithm, KeySet, KeyState, Keyring};
use wicketgate::policy::{self, Policy};

const ISSUER: &str = "http://127.0.0.1:3001/oidc";
const KEYS: &str = include_str!("fixtures/logto/all-public-keys-seen.json");
const LEEWAY: i64 = 30;

const POLICY: &str = include_str!("fixtures/logto/policy.yaml");

#[derive(Deserialize)]
struct Recorded {
    name: String,
    iat: i64,
    token: String,
}

static TOKENS: LazyLock<Vec<Recorded>> =
    LazyLock::new(|| serde_json::from_str(include_str!("fixtures/logto/tokens.json")).expect("tokens.json"));

fn recorded(name: &str) -> &'static Recorded {
    TOKENS.iter().find(|recorded| recorded.name == name).unwrap_or_else(|| panic!("no token {name}"))
}

impl Recorded {
    fn is_opaque(&self) -> bool {
        !self.token.contains('.')
    }

    /// The header (0) or the claims (1), read without any of our own code.
    fn part(&self, number: usize) -> Value {
        let part = self.token.split('.').nth(number).expect("a JWT");
        serde_json::from_slice(&BASE64.decode(part).expect("base64url")).expect("JSON")
    }

    fn exp(&self) -> i64 {
        self.part(1)["exp"].as_i64().expect("exp")
    }

    /// The token with one bit of its signature turned over, another byte for another token.
    fn flipped(&self) -> String {
        let (signed, signature) = self.token.rsplit_once('.').expect("a JWT");
        let mut bytes = BASE64.decode(signature).expect("base64url");
        let at = usize::try_from(self.iat).expect("a date") % bytes.len();
        bytes[at] ^= 1;
        format!("{signed}.{}", BASE64.encode(bytes))
    }
}

/// Recorded JWTs by what they are.
fn jwts(typ: Option<&str>, ours: bool) -> Vec<&'static Recorded> {
    let jwts = TOKENS.iter().filter(|recorded| !recorded.is_opaque());
    jwts.filter(|jwt| jwt.part(0)["typ"].as_str() == typ && (jwt.part(1)["iss"] == ISSUER) == ours).collect()
}

fn access_tokens() -> Vec<&'static Recorded> {
    jwts(Some("at+jwt"), true)
}

fn compiled(text: &str) -> Policy {
    let document = Document::read(text, &|_| None);
    let no_files = |path: &str| Err(format!("{path} is not there"));
    match document.config.as_ref().map(|config| policy::compile(config, String::new(), &no_files)) {
        Some(Ok(policy)) if !document.has_faults() => policy,
        Some(Err(faults)) => panic!("{}", document.into_errors("policy", faults)),
        _ => panic!("{}", document.into_errors("policy", Vec::new())),
    }
}

fn keyring(jwks: &str) -> Keyring {
    let keys = KeySet::parse(jwks.as_bytes(), 64).expect("a key set");
    assert!(keys.left_out.is_empty(), "{:?}", keys.left_out);
    Keyring(vec![KeyState { keys: Some(Arc::new(keys)), ..KeyState::default() }])
}

fn gate_with(policy: &str, remembered: usize) -> Snapshot {
    Snapshot::new(Arc::new(compiled(policy)), keyring(KEYS), Arc::new(Remembered::new(remembered)))
}

fn gate() -> Snapshot {
    gate_with(POLICY, 1000)
}

/// Decides on a request written as `GET host/path`.
fn ask(gate: &Snapshot, request: &str, token: &str, now: i64) -> Result<Permit, Denial> {
    let (method, address) = request.split_once(' ').expect("a method");
    let (host, _) = address.split_once('/').expect("a path");
    let method: Method = method.parse().expect("a method");
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).expect("a header"));
    let head = Head {
        method: &method,
        host,
        path: &address[host.len()..],
        query: None,
        headers: &headers,
        websocket: false,
        plain: false,
        certificate: None,
    };
    permit(decide(gate, &head, now))
}

fn permit(verdict: Result<Verdict, Box<Refusal>>) -> Result<Permit, Denial> {
    match verdict {
        Ok(Verdict::Forward(permit)) => Ok(permit),
        Ok(Verdict::Metadata { .. } | Verdict::Preflight { .. } | Verdict::Webhook | Verdict::Own { .. }) => panic!("metadata"),
        Err(refusal) => Err(refusal.denial),
    }
}

/// `permitted`, or the status and the code of the refusal.
fn outcome(gate: &Snapshot, request: &str, token: &str, now: i64) -> String {
    match ask(gate, request, token, now) {
        Ok(_) => "permitted".to_owned(),
        Err(denial) => format!("{} {}", denial.row().status.as_u16(), denial.row().code),
    }
}

/// Each row is a recorded token, a request sent with it when it was issued, and the outcome.
fn hold(rows: &[(&str, &str, &str)]) {
    let gate = gate();
    for (name, request, expected) in rows {
        let Recorded { token, iat, .. } = recorded(name);
        assert_eq!(outcome(&gate, request, token, *iat), *expected, "{name}: {request}");
    }
}

/// What the upstream is told of a permitted request, in the order of the policy.
fn told(name: &str, request: &str) -> Vec<String> {
    let Recorded { token, iat, .. } = recorded(name);
    let permit = ask(&gate(), request, token, *iat).unwrap_or_else(|denial| panic!("{name}: {request}: {denial:?}"));
    permit.headers().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect()
}

#[test]
fn a_machine_may_do_what_its_roles_give_it_and_it_asked_for() {
    hold(&[
        ("a-m2m-client-credentials", "GET api/weather", "permitted"),
        ("a-m2m-client-credentials-all-scopes", "GET api/weather", "permitted"),
        ("a-m2m-client-credentials-all-scopes", "PUT api/weather", "403 scope_missing"),
        ("a-m2m-client-credentials-no-scope", "GET api/weather", "403 scope_missing"),
        ("a-m2m-client-credentials-no-scope", "GET api/me", "permitted"),
        // A DPoP proof is ignored by this Logto: the token is not bound to its key.
        ("dpop-ignored", "GET api/weather", "permitted"),
    ]);
}

#[test]
fn a_first_party_app_reads_and_writes_where_a_third_party_app_reads() {
    hold(&[
        ("b-first-party-token", "GET api/weather", "permitted"),
        ("b-first-party-token", "PUT api/weather", "permitted"),
        ("b-first-party-refresh-resource", "PUT api/weather", "permitted"),
        ("two-resources-refresh-1", "GET api/weather", "permitted"),
        ("two-resources-refresh-2", "GET api/me", "401 audience_wrong"),
        ("c-third-party-token", "GET api/weather", "permitted"),
        ("c-third-party-token", "PUT api/weather", "403 scope_missing"),
        ("c-third-party-refresh-resource", "PUT api/weather", "403 scope_missing"),
        ("e-third-party-spa-token", "GET api/weather", "permitted"),
        ("e-third-party-spa-token", "PUT api/weather", "403 scope_missing"),
        ("e-third-party-native-token", "GET api/weather", "permitted"),
        ("device-third-token", "GET api/weather", "permitted"),
        ("device-third-token", "PUT api/weather", "403 scope_missing"),
        ("browser-token", "GET api/weather", "permitted"),
        ("browser-token", "PUT api/weather", "403 scope_missing"),
        ("refresh-token-reuse", "GET api/weather", "permitted"),
        ("refresh-after-rp-logout", "GET api/weather", "permitted"),
    ]);
}

#[test]
fn without_a_permission_only_a_scope_keeps_a_valid_token_out_and_check_says_so() {
    hold(&[
        ("third-app-no-permission-resource-scope-token", "GET api/weather", "403 scope_missing"),
        ("third-app-no-permission-resource-scope-token", "GET api/me", "permitted"),
        ("third-app-write-not-granted-token", "PUT api/weather", "403 scope_missing"),
        ("third-app-second-resource-token", "GET api/me", "401 audience_wrong"),
        ("f-bob-no-role-token", "GET api/weather", "403 scope_missing"),
        ("f-bob-no-role-token", "GET api/me", "permitted"),
        ("11-refresh-after-app-permission-removed", "GET api/weather", "403 scope_missing"),
        ("13-refresh-after-app-permission-restored", "GET api/weather", "permitted"),
        ("15-refresh-after-role-removed", "GET api/weather", "403 scope_missing"),
        ("22c-refresh-after-password-change", "GET api/weather", "permitted"),
    ]);
    let policy = compiled(POLICY);
    let of_api: Vec<&String> = policy.warnings.iter().filter(|warning| warning.starts_with("api: ")).collect();
    assert_eq!(of_api.len(), 1, "{of_api:?}");
    assert!(of_api[0].contains("GET /me asks for no scope") && of_api[0].contains("any registered app and any user"), "{of_api:?}");
}

#[test]
fn an_opaque_token_is_refused_with_a_word_about_the_resource_parameter() {
    let gate = gate();
    let opaque: Vec<&Recorded> = TOKENS.iter().filter(|recorded| recorded.is_opaque()).collect();
    assert_eq!(opaque.len(), 10);
    for Recorded { name, iat, token } in opaque {
        let row = ask(&gate, "GET any/", token, *iat).unwrap_err().row();
        assert_eq!((row.status.as_u16(), row.code), (401, "token_opaque"), "{name}");
        assert!(row.challenge && row.oauth_error == Some("invalid_token") && row.title.contains("resource"), "{row:?}");
    }
}

/// What Logto answers about tokens, on a gate that asks it: an opaque token has no audience and no API scope, a refresh
/// token has the API's scopes and no type.
#[test]
fn an_opaque_token_counts_only_where_the_operator_asks_logto_about_it() {
    const INTROSPECTION: &str = "introspection: { client_id: gate, client_secret: s";
    let answers: Vec<Value> = serde_json::from_str(include_str!("fixtures/logto/introspection.json")).expect("introspection.json");
    let decided = |more: &str, path: &str, name: &str| {
        let policy = format!(
            "issuer: {ISSUER}\nservices:\n  - name: api\n    resource: https://api.weather.example\n    upstream: http://127.0.0.1:1\n    \
             {INTROSPECTION}{more} }}\n    routes: {{ GET /me: authenticated, GET /weather: read:weather }}\n"
        );
        let gate = gate_with(&policy, 0);
        let settings = gate.policy.services[0].introspection.as_ref().expect("introspection");
        let recorded = answers.iter().find(|answer| answer["name"] == name).expect("an answer");
        let token = recorded["token"].as_str().expect("a token");
        let introspected = Introspected::parse(settings, token, recorded["answer"].to_string().as_bytes());
        let said = match introspected {
            Ok(introspected) => Said::Answer { introspected: Arc::new(introspected), remembered: false },
            Err(why) => Said::Unavailable(why),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).expect("a header"));
        let head = Head {
            method: &Method::GET,
            host: "api",
            path,
            query: None,
            headers: &headers,
            websocket: false,
            plain: false,
            certificate: None,
        };
        permit(decide_with(&gate, &head, &said, 1_795_329_800)).map(drop).map_err(|denial| denial.row().code)
    };
    let lax = ", audience: if_present";
    assert_eq!(decided("", "/me", "opaque-m2m-client"), Err("audience_wrong"));
    assert_eq!(decided(lax, "/me", "opaque-m2m-client"), Ok(()));
    assert_eq!(decided(lax, "/weather", "opaque-m2m-client"), Err("scope_missing"));
    for path in ["/me", "/weather"] {
        assert_eq!(decided(lax, path, "refresh-token-m2m"), Err("token_type_wrong"));
        for name in ["garbage", "introspect-after-revoke", "opaque-public-spa"] {
            assert_eq!(decided(lax, path, name), Err("token_inactive"), "{name}");
        }
        for name in ["opaque-wrong-secret", "opaque-no-auth"] {
            assert_eq!(decided(lax, path, name), Err("introspection_unavailable"), "{name}");
        }
    }
}

#[test]
fn an_organization_token_is_not_for_the_api() {
    hold(&[
        ("first-organization-token", "GET api/me", "401 audience_wrong"),
        ("first-organization-token-scoped", "GET api/me", "401 audience_wrong"),
        ("third-organization-token", "GET api/orgs/ikit25mld5bk/weather", "401 audience_wrong"),
        ("org-token-before-revoke", "GET api/me", "401 audience_wrong"),
        ("m2m-organization-token", "GET api/me", "401 audience_wrong"),
        ("m2m-organization-token-scoped", "GET api/me", "401 audience_wrong"),
        ("token-exchange-pat-organization", "GET api/me", "401 audience_wrong"),
    ]);
}

#[test]
fn a_token_of_an_organization_opens_that_organization_alone() {
    for name in ["first-organization-api-resource-token", "third-organization-api-resource-token"] {
        hold(&[
            (name, "GET api/orgs/ikit25mld5bk/weather", "permitted"),
            (name, "GET api/orgs/ikit25mld5bk/admin", "permitted"),
            (name, "GET api/orgs/another/weather", "403 claim_mismatch"),
            (name, "GET api/orgs/ikit25mld5bk,another/admin", "403 claim_mismatch"),
            (name, "GET api/orgs/IKIT25MLD5BK/admin", "403 claim_mismatch"),
        ]);
        assert!(told(name, "GET api/orgs/ikit25mld5bk/admin").contains(&"x-auth-organization-id: ikit25mld5bk".to_owned()));
    }
    hold(&[
        ("m2m-organization-api-resource-token", "GET api/orgs/ikit25mld5bk/weather", "permitted"),
        ("m2m-organization-api-resource-token", "GET api/orgs/ikit25mld5bk/admin", "403 scope_missing"),
        ("m2m-organization-api-resource-token", "GET api/orgs/another/weather", "403 claim_mismatch"),
    ]);
}

/// Logto puts scopes that a user has through an organization into tokens that name no organization.
#[test]
fn a_scope_that_leaked_out_of_an_organization_does_not_open_it() {
    let leaked = [
        "first-global-api-resource-token",
        "leak-first-no-org-scope-requested",
        "leak-first-org-scope-but-none-selected",
        "leak-first-org-selected",
        "leak-third-org-selected",
        "third-code-exchange",
        "browser-token",
        "global-api-token-after-org-consent-revoked",
    ];
    for name in leaked {
        hold(&[
            (name, "GET api/admin", "permitted"),
            (name, "GET api/orgs/ikit25mld5bk/admin", "403 claim_mismatch"),
            (name, "GET api/orgs/ikit25mld5bk/weather", "403 claim_mismatch"),
        ]);
    }
    for name in ["leak-third-no-org-scope-requested", "leak-third-org-scope-but-none-selected"] {
        hold(&[(name, "GET api/admin", "403 scope_missing"), (name, "GET api/orgs/ikit25mld5bk/weather", "403 claim_mismatch")]);
    }
}

#[test]
fn a_token_is_for_its_resource_to_the_last_character_even_when_it_is_remembered() {
    hold(&[
        ("c-third-party-token", "GET slash/weather", "401 audience_wrong"),
        ("c-third-party-token", "GET both/weather", "permitted"),
        ("c-third-party-token", "GET slash/weather", "401 audience_wrong"),
        ("04-management-api-token", "GET api/me", "401 audience_wrong"),
        ("04-management-api-token", "GET any/", "permitted"),
        ("04-management-api-token", "GET api/me", "401 audience_wrong"),
        ("00-bootstrap-token-admin-tenant", "GET any/", "401 issuer_unknown"),
    ]);
}

/// RFC 9068 §4: the type is what keeps an ID token out; its keys and its issuer are those of an access token.
#[test]
fn no_other_jwt_of_the_issuer_passes_for_an_access_token() {
    let gate = gate();
    let others = [jwts(None, true), jwts(Some("logout+jwt"), true)].concat();
    assert_eq!(others.len(), 53);
    for jwt in others {
        for now in [jwt.iat - LEEWAY - 1, jwt.iat, jwt.exp() + LEEWAY + 1] {
            assert_eq!(outcome(&gate, "GET any/", &jwt.token, now), "401 type_wrong", "{}", jwt.name);
            assert_eq!(outcome(&gate, "GET any/", &jwt.flipped(), now), "401 type_wrong", "{}", jwt.name);
        }
    }
    hold(&[("dpop-ignored.dpop", "GET any/", "401 claim_malformed")]);

    let untyped = format!("{{ url: {ISSUER}, token_types: [at+jwt, none] }}");
    let lax = gate_with(&POLICY.replacen(ISSUER, &untyped, 1), 0);
    let with_our_audience = recorded("cimd-token.id");
    assert_eq!(outcome(&lax, "GET any/", &with_our_audience.token, with_our_audience.iat), "permitted");
}

#[test]
fn an_rsa_key_without_alg_verifies_and_a_key_that_left_the_set_no_longer_does() {
    let published: Vec<Value> = serde_json::from_str(include_str!("fixtures/logto/rotation.json")).expect("rotation.json");
    let [first_ec, rsa, last_ec] = ["04-management-api-token", "08-rotate-back-ec-grace.bearer", "leak-first-org-selected"].map(recorded);
    assert_eq!(rsa.part(0)["alg"], "RS256");
    let rows = [
        ("02-before", ["permitted", "401 key_unknown", "401 key_unknown"]),
        ("04-after-rotate", ["permitted", "401 key_unknown", "401 key_unknown"]),
        ("07-after-rsa-rotate", ["401 key_unknown", "permitted", "401 key_unknown"]),
        ("09-after-grace-rotate", ["401 key_unknown", "permitted", "permitted"]),
        ("10-after-grace-period", ["401 key_unknown", "permitted", "permitted"]),
        ("13-after-delete", ["401 key_unknown", "401 key_unknown", "permitted"]),
    ];
    assert_eq!(published.len(), rows.len());
    let gate = gate();
    for (jwks, (name, expected)) in published.iter().zip(rows) {
        assert_eq!(jwks["name"], name);
        // The tokens that were verified with the keys before stay remembered, and must not count for it.
        let gate = gate.with_keyring(keyring(&jwks.to_string()));
        for (jwt, expected) in [first_ec, rsa, last_ec].into_iter().zip(expected) {
            assert_eq!(outcome(&gate, "GET any/", &jwt.token, jwt.iat), expected, "{} with {name}", jwt.name);
            let wanted = ask(&gate, "GET any/", &jwt.token, jwt.iat).err().and_then(|denial| denial.wants_key().map(|(issuer, _)| issuer));
            assert_eq!(wanted, (expected == "401 key_unknown").then_some(0), "{} with {name}", jwt.name);
        }
    }
}

#[test]
fn an_actor_lends_nothing_to_the_subject_of_an_exchanged_token() {
    for name in ["token-exchange-with-actor", "token-exchange-impersonation", "token-exchange-pat"] {
        hold(&[(name, "GET api/weather", "permitted"), (name, "PUT api/weather", "403 scope_missing")]);
        let told = told(name, "GET api/weather");
        assert!(told.contains(&"x-auth-subject: iy7fcnzjiumt".to_owned()), "{told:?}");
        assert!(told.contains(&"x-auth-scopes: read:weather".to_owned()), "{told:?}");
    }
    assert_eq!(told("token-exchange-with-actor", "GET custom/weather"), ["x-actor: u5milikqey1g"]);
}

#[test]
fn a_client_may_be_named_by_the_url_of_its_metadata_document() {
    hold(&[
        ("cimd-token", "GET api/bot", "permitted"),
        ("cimd-token", "PUT api/weather", "403 scope_missing"),
        ("c-third-party-token", "GET api/bot", "403 client_refused"),
    ]);
    let expected = [
        "x-auth-subject: iy7fcnzjiumt",
        "x-auth-client-id: https://weatherbot.agents.example/client.json",
        "x-auth-scopes: read:weather",
        "x-auth-issuer: http://127.0.0.1:3001/oidc",
    ];
    assert_eq!(told("cimd-token", "GET api/weather"), expected);
}

#[test]
fn a_claim_that_a_script_added_can_be_forwarded_and_asked_for() {
    let shared = ["x-roles: weather-user", "x-numbers: 1,x", r#"x-nested: {"a":[1,"x"]}"#];
    let third = [&["x-tier: gold", "x-third-party: true", "x-app: WeatherBot"][..], &shared].concat();
    assert_eq!(told("jwt-customizer-third-party-token", "GET custom/weather"), third);
    let first = [&["x-tier: gold", "x-third-party: false", "x-app: weather-official"][..], &shared].concat();
    assert_eq!(told("jwt-customizer-first-party-token", "GET custom/weather"), first);
    assert_eq!(told("jwt-customizer-m2m-token", "GET custom/weather"), ["x-machine: weather-cron"]);
    hold(&[
        ("jwt-customizer-first-party-token", "GET custom/official", "permitted"),
        ("jwt-customizer-third-party-token", "GET custom/official", "403 claim_mismatch"),
        ("c-third-party-token", "GET custom/official", "403 claim_mismatch"),
    ]);
}

#[test]
fn a_token_of_a_minute_lives_for_a_minute_and_the_leeway() {
    let Recorded { token, iat, .. } = recorded("ttl-60-token");
    let gate = gate();
    for (seconds, expected) in [(0, "permitted"), (60, "permitted"), (60 + LEEWAY - 1, "permitted"), (60 + LEEWAY, "401 expired")] {
        assert_eq!(outcome(&gate, "GET any/", token, iat + seconds), expected, "after {seconds} s");
    }
}

#[test]
fn every_access_token_counts_in_its_time_and_at_no_other() {
    for gate in [gate_with(POLICY, 0), gate()] {
        for jwt in access_tokens() {
            let (iat, exp) = (jwt.iat, jwt.exp());
            let table = [
                (iat - LEEWAY - 1, "401 issued_in_future"),
                (iat - LEEWAY, "permitted"),
                (iat, "permitted"),
                (exp + LEEWAY - 1, "permitted"),
                (exp + LEEWAY, "401 expired"),
                (iat, "permitted"),
                (exp + LEEWAY + 1, "401 expired"),
                (iat, "permitted"),
                (iat - LEEWAY - 1, "401 issued_in_future"),
            ];
            for (now, expected) in table {
                assert_eq!(outcome(&gate, "GET any/", &jwt.token, now), expected, "{} at {now}", jwt.name);
            }
        }
    }
}

#[test]
fn every_access_token_with_one_bit_of_its_signature_changed_is_refused() {
    let gate = gate();
    for jwt in access_tokens() {
        // Before the true one is remembered and after.
        assert_eq!(outcome(&gate, "GET any/", &jwt.flipped(), jwt.iat), "401 signature_wrong", "{}", jwt.name);
        assert_eq!(outcome(&gate, "GET any/", &jwt.token, jwt.iat), "permitted", "{}", jwt.name);
        assert_eq!(outcome(&gate, "GET any/", &jwt.flipped(), jwt.iat), "401 signature_wrong", "{}", jwt.name);
    }
    assert_eq!(gate.remembered_tokens(), 67);
}

#[test]
fn every_jwt_is_counted_here_and_each_of_the_issuer_is_signed_with_a_key_that_it_published() {
    let kinds = [(Some("at+jwt"), true), (Some("at+jwt"), false), (None, true), (Some("logout+jwt"), true), (Some("dpop+jwt"), false)];
    assert_eq!(kinds.map(|(typ, ours)| jwts(typ, ours).len()), [67, 1, 52, 1, 1]);
    assert_eq!(TOKENS.iter().filter(|recorded| !recorded.is_opaque()).count(), 122);
    let keys = KeySet::parse(KEYS.as_bytes(), 64).expect("a key set");
    let verifies = |jwt: &Recorded, token: &str| {
        let (signed, signature) = token.rsplit_once('.').expect("a JWT");
        let header = jwt.part(0);
        let algorithm = Algorithm::parse(header["alg"].as_str().expect("alg")).expect("an algorithm");
        keys.candidates(header["kid"].as_str(), algorithm).any(|key| key.verify(algorithm, signed, signature))
    };
    for (typ, ours) in kinds {
        for jwt in jwts(typ, ours) {
            assert_eq!(verifies(jwt, &jwt.token), ours, "{}", jwt.name);
            assert!(!verifies(jwt, &jwt.flipped()), "{}", jwt.name);
        }
    }
}
