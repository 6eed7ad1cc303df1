//! Certificates of clients: asked for in the handshake, required by routes, told to the service, bound to tokens, and
//! counting for as long as somebody vouches for them.

use http::Request;
use rustls::HandshakeKind;
use serde_json::json;
use tokio::io::AsyncReadExt;
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::TokenRequest;

use super::support::*;

const TLS: &str = "tls:\n  certificate_file: tls.crt\n  key_file: tls.key\n  client_certificates: { mode: optional, ca_file: ca.crt }";
const ROUTES: &str = "
      /public/**: public
      GET /me: authenticated
      GET /any: { access: public, client_certificate: true }
      GET /agent: { access: public, client_certificate: { uri: 'spiffe://example/agent' } }
      GET /both: { access: authenticated, client_certificate: { dns: [agent.example, other.example] } }
      GET /tried: { access: authenticated, client_certificate: true, mode: report }";

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    authority: Authority,
    clients: Authority,
    gate: Gate,
}

/// A gate whose TLS has these keys instead of the usual.
async fn scene(tls: &str) -> Scene {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = authority.sign("gate", &["localhost"]);
    let before = gate(&issuer, &upstream)
        .routes(ROUTES)
        .in_service("    client_certificate_headers: { X-Client-Subject: subject, X-Client-Uri: uri, X-Client-Print: fingerprint }")
        .settings(tls)
        .file("tls.crt", &server.pem)
        .file("tls.key", &server.key_pem)
        .file("ca.crt", &clients.pem)
        .file("ca.crl", &clients.revoke(&[]));
    let gate = before.start().await;
    Scene { issuer, upstream, authority, clients, gate }
}

impl Scene {
    fn agent(&self) -> Party {
        self.clients.sign("agent", &["agent.example", "spiffe://example/agent"])
    }

    async fn open(&self, shown: Option<&Party>) -> Http2 {
        let caller = self.authority.caller();
        let caller = match shown {
            Some(party) => caller.showing(party),
            None => caller,
        };
        Http2::over(caller.connect(self.gate.address()).await.unwrap()).await
    }

    /// Whether a new connection with this certificate comes to an answer.
    async fn is_let_in(&self, caller: &Caller<'_>) -> bool {
        let Ok(mut stream) = caller.clone().speaking(&["http/1.1"]).connect(self.gate.address()).await else { return false };
        let request = self.gate.get("/public/a").bytes("Connection: close");
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &request).await;
        let mut text = Vec::new();
        let _ = soon("an answer", stream.read_to_end(&mut text)).await;
        text.starts_with(b"HTTP/1.1 200 ")
    }

    async fn failed(&self, reason: &str) -> Option<f64> {
        self.gate.metric(&format!("wicketgate_tls_handshakes_failed_total{{reason=\"{reason}\"}}")).await
    }
}

fn get(path: &str) -> http::request::Builder {
    Request::get(format!("https://localhost{path}"))
}

/// Status and code of a request.
async fn ask(connection: &mut Http2, path: &str, token: Option<&str>) -> (u16, String) {
    let request = match token {
        Some(token) => get(path).header("authorization", format!("Bearer {token}")),
        None => get(path),
    };
    let answer = connection.send(request.body(()).unwrap()).await;
    (answer.status, answer.code())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn where_a_certificate_is_required_nobody_comes_in_without_a_good_one() {
    let scene = scene(&TLS.replace("optional", "required")).await;
    let (good, foreign) = (scene.agent(), Authority::new("clients").sign("agent", &["agent.example"]));
    let expired = scene.clients.sign_until("agent", &["agent.example"], rcgen::date_time_ymd(2020, 1, 1));
    let caller = scene.authority.caller();

    assert!(scene.is_let_in(&caller.clone().showing(&good)).await);
    for versions in [TLS_1_2, TLS_1_3] {
        let caller = caller.clone().with_versions(versions);
        assert!(!scene.is_let_in(&caller).await);
        assert!(!scene.is_let_in(&caller.clone().showing(&foreign)).await);
        assert!(!scene.is_let_in(&caller.clone().showing(&expired)).await);
    }

    assert_eq!(scene.upstream.received().len(), 1);
    assert_eq!((scene.failed("certificate_missing").await, scene.failed("certificate_refused").await), (Some(2.0), Some(4.0)));
}

#[tokio::test]
async fn a_route_takes_the_certificates_that_it_names_and_says_what_is_wrong_with_others() {
    let scene = scene(TLS).await;
    let (agent, other) = (scene.agent(), scene.clients.sign("other", &["other.example"]));
    let (mut nobody, mut agent, mut other) = (scene.open(None).await, scene.open(Some(&agent)).await, scene.open(Some(&other)).await);
    let token = token(&scene.issuer, "read:weather");

    let table = [
        ("/public/a", None, is(200, ""), is(200, ""), is(200, "")),
        ("/any", None, is(403, "certificate_missing"), is(200, ""), is(200, "")),
        ("/agent", None, is(403, "certificate_missing"), is(200, ""), is(403, "certificate_refused")),
        ("/both", None, is(403, "certificate_missing"), is(401, "token_missing"), is(401, "token_missing")),
        ("/both", Some(token.as_str()), is(403, "certificate_missing"), is(200, ""), is(200, "")),
        ("/tried", Some(token.as_str()), is(200, ""), is(200, ""), is(200, "")),
    ];
    for (path, token, without, with, with_other) in table {
        assert_eq!(ask(&mut nobody, path, token).await, without, "{path}");
        assert_eq!(ask(&mut agent, path, token).await, with, "{path}");
        assert_eq!(ask(&mut other, path, token).await, with_other, "{path}");
    }

    let refused = nobody.send(get("/any").body(()).unwrap()).await;
    assert_eq!(refused.header("www-authenticate"), None);
    // A bad certificate is no less bad where none is needed.
    let foreign = Authority::new("clients").sign("agent", &[]);
    assert!(!scene.is_let_in(&scene.authority.caller().showing(&foreign)).await);
    assert_eq!(scene.gate.metric("wicketgate_refusals_total{reason=\"certificate_missing\",service=\"weather\"}").await, Some(6.0));
}

#[tokio::test]
async fn the_service_hears_of_the_certificate_from_the_gate_alone() {
    let scene = scene(TLS).await;
    let agent = scene.clients.sign("Zoë, agent", &["spiffe://example/agent", "urn:b"]);
    let spoofed = || {
        let names = ["x-client-subject", "x_client_subject", "x-client_uri", "x-client-print"];
        names.iter().fold(get("/public/a"), |request, name| request.header(*name, "CN=root")).body(()).unwrap()
    };

    scene.open(Some(&agent)).await.send(spoofed()).await;
    scene.open(None).await.send(spoofed()).await;

    let [with, without] = &scene.upstream.received()[..] else { panic!("two requests") };
    assert_eq!(with.one("x-client-subject"), Some("CN=Zo%C3%AB\\, agent"));
    assert_eq!(with.one("x-client-uri"), Some("spiffe://example/agent,urn:b"));
    assert_eq!(with.one("x-client-print").unwrap().len(), 64);
    for name in ["x-client-subject", "x_client_subject", "x-client_uri", "x-client-print"] {
        assert_eq!(without.all(name), Vec::<&str>::new(), "{name}");
        assert!(!name.contains('_') || with.all(name).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_certificate_that_says_too_much_is_refused_not_cut() {
    let scene = scene(&format!("{TLS}\nlimits: {{ identity_header_bytes: 64B }}")).await;
    let agent = scene.clients.sign(&"x".repeat(62), &[]);

    assert_eq!(ask(&mut scene.open(Some(&agent)).await, "/public/a", None).await, is(403, "certificate_too_long"));
    assert_eq!(ask(&mut scene.open(None).await, "/public/a", None).await, is(200, ""));
}

/// RFC 8705 §3: the certificate is that of the connection; absence or another one is `invalid_token`.
#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_counts_with_that_one_alone() {
    let scene = scene(TLS).await;
    let (agent, other) = (scene.agent(), scene.agent());
    let bound = |cnf: serde_json::Value| {
        let claims = json!({ "cnf": cnf }).as_object().unwrap().clone();
        scene.issuer.token(TokenRequest { resource: RESOURCE.to_owned(), claims, ..TokenRequest::default() })
    };
    let token = bound(json!({ "x5t#S256": agent.thumbprint() }));
    let (mut nobody, mut right, mut wrong) = (scene.open(None).await, scene.open(Some(&agent)).await, scene.open(Some(&other)).await);

    // Twice each: the token is remembered from then on, whoever shows it.
    for _ in 0..2 {
        assert_eq!(ask(&mut wrong, "/me", Some(&token)).await, is(401, "token_certificate_wrong"));
        assert_eq!(ask(&mut right, "/me", Some(&token)).await, is(200, ""));
        assert_eq!(ask(&mut nobody, "/me", Some(&token)).await, is(401, "token_certificate_wrong"));
    }
    // RFC 9728 §2.
    let metadata = nobody.send(get("/.well-known/oauth-protected-resource").body(()).unwrap()).await.json();
    assert_eq!(metadata["tls_client_certificate_bound_access_tokens"], true);
    let challenged = nobody.send(get("/me").header("authorization", format!("Bearer {token}")).body(()).unwrap()).await;
    assert!(challenged.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
    for other_binding in [json!({ "jkt": agent.thumbprint() }), json!({ "x5t#S256": agent.thumbprint(), "jkt": "x" }), json!({})] {
        assert_eq!(ask(&mut right, "/me", Some(&bound(other_binding))).await, is(401, "sender_constrained"));
    }
}

#[tokio::test]
async fn an_authority_that_is_taken_away_vouches_for_nobody_not_even_on_open_connections() {
    let mut scene = scene(TLS).await;
    let (agent, others) = (scene.agent(), Authority::new("others"));
    let caller = scene.authority.caller();
    let keeping = caller.clone().showing(&agent).keeping_sessions();
    let mut open = Http2::over(keeping.connect(scene.gate.address()).await.unwrap()).await;
    let mut without = scene.open(None).await;
    assert_eq!(ask(&mut open, "/any", None).await, is(200, ""));
    let resumed = keeping.connect(scene.gate.address()).await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(ask(&mut Http2::over(resumed).await, "/agent", None).await, is(200, ""));

    // One more authority takes nothing away.
    let both = format!("{}{}", scene.clients.pem, others.pem);
    scene.gate.rewrite_files(&[("ca.crt", &both)]).await;
    assert_eq!(ask(&mut open, "/any", None).await, is(200, ""));
    let other = others.sign("agent", &["spiffe://example/agent"]);
    assert_eq!(ask(&mut scene.open(Some(&other)).await, "/agent", None).await, is(200, ""));

    scene.gate.rewrite_files(&[("ca.crt", &others.pem)]).await;

    assert_eq!(ask(&mut open, "/public/a", None).await, is(421, "certificate_lost"));
    open.closed().await;
    assert_eq!(ask(&mut without, "/public/a", None).await, is(200, ""));
    if let Ok(again) = keeping.connect(scene.gate.address()).await {
        assert_eq!(again.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "a session outlived its authority");
    }
    assert!(!scene.is_let_in(&caller.clone().showing(&agent)).await);
    assert!(scene.is_let_in(&caller.showing(&other)).await);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_as_soon_as_the_list_says_so() {
    let tls = TLS.replace("ca_file: ca.crt", "ca_file: ca.crt, crl_file: ca.crl");
    let mut scene = scene(&tls).await;
    let (agent, other) = (scene.agent(), scene.agent());
    let mut open = scene.open(Some(&agent)).await;
    assert_eq!(ask(&mut open, "/any", None).await, is(200, ""));

    let list = scene.clients.revoke(&[&agent]);
    scene.gate.rewrite_files(&[("ca.crl", &list)]).await;

    assert_eq!(ask(&mut open, "/any", None).await, is(421, "certificate_lost"));
    assert!(!scene.is_let_in(&scene.authority.caller().showing(&agent)).await);
    assert!(scene.is_let_in(&scene.authority.caller().showing(&other)).await);

    // An authority without a list: nobody knows whom it revoked.
    let others = Authority::new("others");
    let both = format!("{}{}", scene.clients.pem, others.pem);
    scene.gate.rewrite_files(&[("ca.crt", &both)]).await;
    assert!(!scene.is_let_in(&scene.authority.caller().showing(&others.sign("agent", &[]))).await);
    assert!(scene.is_let_in(&scene.authority.caller().showing(&other)).await);
}

#[tokio::test]
async fn where_nobody_is_asked_any_more_no_certificate_counts() {
    let mut scene = scene(TLS).await;
    let agent = scene.agent();
    let mut open = scene.open(Some(&agent)).await;
    let plain = gate(&scene.issuer, &scene.upstream).settings("tls: { certificate_file: tls.crt, key_file: tls.key }").yaml();

    scene.gate.rewrite(&plain).await;

    assert_eq!(ask(&mut open, "/public/a", None).await, is(200, ""));
    assert_eq!(scene.upstream.received()[0].one("x-client-subject"), None);
}

#[tokio::test]
async fn authorities_that_cannot_be_read_change_nothing() {
    let mut scene = scene(TLS).await;
    let agent = scene.agent();

    scene.gate.rewrite_files(&[("ca.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]).await;

    assert_eq!(scene.gate.metric("wicketgate_config_last_reload_successful").await, Some(0.0));
    let faults = scene.gate.status().await["last_reload"]["faults"].to_string();
    assert!(faults.contains("tls.client_certificates.ca_file"), "{faults}");
    assert_eq!(ask(&mut scene.open(Some(&agent)).await, "/any", None).await, is(200, ""));
}
