//! Who is calling is what the gate says, and nobody else can say it.

use serde_json::{Map, Value, json};
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::TokenRequest;

use super::support::*;

/// A name in the spellings that some server reads as that name.
fn spellings(name: &str) -> Vec<String> {
    let (first, rest) = name.split_once('-').unwrap();
    let upper = name.to_uppercase();
    vec![
        name.to_owned(),
        upper.clone(),
        name.to_lowercase(),
        name.replace('-', "_"),
        upper.replace('-', "_"),
        format!("{first}_{rest}"),
        format!("{first}-{}", rest.replace('-', "_")),
        name.replace('-', "."),
        name.replace('-', "~"),
    ]
}

/// How a lax server reads a name.
fn folded(name: &str) -> String {
    name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

fn values_of(received: &Received, name: &str) -> Vec<String> {
    received.headers.iter().filter(|(known, _)| folded(known) == folded(name)).map(|(_, value)| value.clone()).collect()
}

fn token_with(issuer: &Issuer, claims: Value) -> String {
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    issuer.token(TokenRequest { subject: "alice".to_owned(), resource: RESOURCE.to_owned(), claims, ..TokenRequest::default() })
}

#[tokio::test]
async fn a_forged_identity_header_never_reaches_the_upstream() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let names = ["X-Auth-Subject", "X-Auth-Client-Id", "X-Auth-Scopes", "X-Auth-Organization-Id", "X-Auth-Issuer", "X-Auth-Invented"];
    let expected = [vec!["alice"], vec!["weatherbot"], vec!["read:weather"], vec![], vec![issuer.url()], vec![]];

    for (name, own) in names.iter().zip(expected) {
        for nominated in ["", "Connection: "] {
            let mut permitted = gate.get("/forecast/oslo").token(&token(&issuer, "read:weather"));
            let mut public = gate.get("/public/a");
            for spelling in spellings(name) {
                let mut line = format!("{spelling}: forged");
                if !nominated.is_empty() {
                    line.push_str(&format!("\r\n{nominated}{spelling}"));
                }
                permitted = permitted.header(&line);
                public = public.header(&line);
            }
            assert_eq!((permitted.send().await.status, public.send().await.status), (200, 200));
            let received = upstream.received();
            let [.., permitted, public] = received.as_slice() else { panic!("two requests") };
            assert_eq!(values_of(permitted, name), own, "{name} {nominated}");
            assert!(values_of(public, name).is_empty(), "{name} {nominated}");
        }
    }
}

#[tokio::test]
async fn a_route_in_report_mode_passes_no_identity_that_was_not_verified() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).routes("\n      /legacy: { scopes: read:weather, mode: report }").start().await;
    let forged = issuer.token(TokenRequest { resource: "https://other.example".to_owned(), ..TokenRequest::default() });

    gate.get("/legacy").header("X-Auth-Subject: admin").send().await;
    gate.get("/legacy").header("X_Auth_Subject: admin").token(&forged).send().await;
    gate.get("/legacy").token(&token(&issuer, "")).send().await;

    let subjects: Vec<Vec<String>> = upstream.received().iter().map(|request| values_of(request, "x-auth-subject")).collect();
    assert_eq!(subjects, [vec![], vec![], vec!["alice".to_owned()]]);
}

#[tokio::test]
async fn the_operators_headers_take_the_place_of_the_default_ones() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let headers = "    headers: { X-User: sub, X-Country: address.country, X-Roles: roles, X-Name: name, X-Tenant: 'https://example.com/tenant', X-Share: share, X-Age: age, X-Nothing: nothing, X-Null: none, X-Deep: address.country.code }";
    let gate = gate(&issuer, &upstream).in_service(headers).start().await;
    let claims = json!({
        "scope": "read:weather", "address": { "country": "NO" }, "roles": ["admin", "a,b", "ø"], "name": "Zoë",
        "https://example.com/tenant": "t1", "share": "100% sure", "age": 42, "none": null,
    });
    let names = ["X-User", "X-Country", "X-Roles", "X-Name", "X-Tenant", "X-Share", "X-Age", "X-Nothing", "X-Null", "X-Deep"];

    let mut ask = gate.get("/forecast/oslo").token(&token_with(&issuer, claims)).header("X-Auth-Subject: forged");
    for name in names.iter().flat_map(|name| spellings(name)) {
        ask = ask.header(&format!("{name}: forged"));
    }
    assert_eq!(ask.send().await.status, 200);

    let received = upstream.only();
    let found: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), json!(values_of(&received, name)))).collect();
    let expected = json!({
        "X-User": ["alice"], "X-Country": ["NO"], "X-Roles": ["admin,a%2Cb,%C3%B8"], "X-Name": ["Zo%C3%AB"], "X-Tenant": ["t1"],
        "X-Share": ["100%25 sure"], "X-Age": ["42"], "X-Nothing": [], "X-Null": [], "X-Deep": [],
    });
    assert_eq!(Value::Object(found), expected);
    assert!(values_of(&received, "X-Auth-Subject").is_empty());
}

#[tokio::test]
async fn an_absent_claim_leaves_no_header() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let with = token_with(&issuer, json!({ "organization_id": "org-1" }));

    gate.get("/me").token(&token(&issuer, "")).send().await;
    gate.get("/me").token(&with).send().await;

    let received = upstream.received();
    assert_eq!((received[0].one("x-auth-scopes"), received[0].one("x-auth-organization-id")), (None, None));
    assert_eq!(received[1].one("x-auth-organization-id"), Some("org-1"));
}

#[tokio::test]
async fn a_claim_that_is_too_long_is_refused_and_not_cut() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("limits: { identity_header_bytes: 64B }").in_service("    headers: { X-Name: name }");
    let gate = gate.start().await;
    let named = |name: String| token_with(&issuer, json!({ "name": name }));

    let fits = gate.get("/me").token(&named("x".repeat(64))).send().await;
    let too_long = gate.get("/me").token(&named("x".repeat(65))).send().await;
    // Three bytes each when encoded.
    let grows = gate.get("/me").token(&named("%".repeat(22))).send().await;

    assert_eq!(fits.status, 200);
    for refused in [too_long, grows] {
        assert_eq!((refused.status, refused.code().as_str()), (403, "identity_too_long"));
        assert_eq!(refused.header("www-authenticate"), None);
    }
    assert_eq!(upstream.only().one("x-name").map(str::len), Some(64));
}

#[tokio::test]
async fn a_claim_cannot_end_its_header() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let token = token_with(&issuer, json!({ "sub": "alice\r\nX-Admin: 1", "organization_id": "\u{0}\t" }));

    assert_eq!(gate.get("/me").token(&token).send().await.status, 200);

    let received = upstream.only();
    assert_eq!(received.one("x-auth-subject"), Some("alice%0D%0AX-Admin: 1"));
    assert_eq!(received.one("x-auth-organization-id"), Some("%00%09"));
    assert_eq!(received.one("x-admin"), None);
}

#[tokio::test]
async fn the_callers_token_goes_on_only_when_the_operator_says_so() {
    let issuer = issuer().await;
    let token = token(&issuer, "read:weather");
    for (lines, expected) in [("", None), ("    forward_authorization: true", Some(format!("Bearer {token}")))] {
        let upstream = Upstream::friendly().await;
        let gate = gate(&issuer, &upstream).in_service(lines).start().await;

        gate.get("/forecast/oslo").token(&token).header("Proxy-Authorization: Basic Zm9v").send().await;

        let received = upstream.only();
        assert_eq!(received.one("authorization").map(str::to_owned), expected);
        assert_eq!(received.one("proxy-authorization"), None);
        assert_eq!(received.one("x-auth-subject"), Some("alice"));
    }
}

#[tokio::test]
async fn a_token_that_nobody_verified_or_that_the_rules_refuse_is_not_passed_on() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "\n      /public/**: public\n      /legacy: { scopes: read:weather, mode: report }";
    let gate = gate(&issuer, &upstream).in_service("    forward_authorization: true").routes(routes).start().await;
    let good = token(&issuer, "read:weather");
    let other = issuer.token(TokenRequest { resource: "https://other.example".to_owned(), ..TokenRequest::default() });
    // The signature's first letter: its last one may have bits that mean nothing.
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let changed = format!("{signed}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    let tokens = ["opaque", &other, &changed, &token_with(&issuer, json!({ "exp": 1 })), &token(&issuer, ""), &good];
    let mut lines: Vec<String> = tokens.iter().map(|token| format!("Authorization: Bearer {token}")).collect();
    lines.push("Authorization: Basic Zm9v".to_owned());

    for line in lines {
        for path in ["/public/a", "/legacy"] {
            assert_eq!(gate.get(path).header(&line).send().await.status, 200, "{path} {line}");
            let received = upstream.received().pop().unwrap();
            let passed: Vec<&str> =
                received.headers.iter().map(|(_, value)| value.as_str()).filter(|value| line.ends_with(value)).collect();
            let allowed = path == "/legacy" && line.ends_with(&good);
            assert_eq!(passed, if allowed { vec![format!("Bearer {good}")] } else { Vec::new() }, "{path} {line}");
        }
    }
    assert_eq!(upstream.received().len(), 14);
}

#[tokio::test]
async fn an_answer_carries_no_identity_and_leads_nobody_around_the_gate() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(
        b"HTTP/1.1 200 OK\r\nX-Auth-Subject: alice\r\nX-Auth-Invented: 1\r\nX-User: alice\r\nX_USER: alice\r\n\
          Alt-Svc: h3=\":443\"\r\nWWW-Authenticate: Basic\r\nX-Users: 3\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let gate = gate(&issuer, &upstream).in_service("    headers: { X-User: sub }").start().await;

    let answer = gate.get("/public/a").send().await;

    for name in ["x-auth-subject", "x-auth-invented", "x-user", "x_user", "alt-svc"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    // RFC 9110 §11.6.1: what the upstream asks of the client stays.
    assert_eq!(answer.header("www-authenticate").as_deref(), Some("Basic"));
    assert_eq!(answer.header("x-users").as_deref(), Some("3"));
}
