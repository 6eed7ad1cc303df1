//! Several certificates, chosen by the name that a client asks for; the least version; and their swap as Kubernetes does it.

use std::fs;
use std::os::unix::fs::symlink;

use tokio::io::AsyncWriteExt;

use super::support::*;

async fn serving(tls: &str, parties: &[&Party]) -> Gate {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let mut builder = gate(&issuer, &upstream).settings(tls);
    for (i, party) in parties.iter().enumerate() {
        builder = builder.file(&format!("{i}.crt"), &party.pem).file(&format!("{i}.key"), &party.key_pem);
    }
    builder.start().await
}

/// The certificate that a caller gets, if any.
async fn shown_to(caller: &Caller<'_>, gate: &Gate) -> Option<Vec<u8>> {
    let stream = caller.connect(gate.address()).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?[0].to_vec())
}

const THREE: &str = "tls:
  certificate_file: 0.crt
  key_file: 0.key
  certificates:
    - { certificate_file: 1.crt, key_file: 1.key }
    - { certificate_file: 2.crt, key_file: 2.key }";

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let authority = Authority::new("servers");
    let first = authority.sign("first", &["localhost", "x.example"]);
    let (wild, exact) = (authority.sign("wild", &["*.a.example"]), authority.sign("exact", &["b.a.example"]));
    let gate = serving(THREE, &[&first, &wild, &exact]).await;

    for (name, party) in [("x.example", &first), ("c.a.example", &wild), ("b.a.example", &exact), ("B.A.Example", &exact), ("", &first)] {
        assert_eq!(shown_to(&authority.caller().asking_for(name), &gate).await.as_deref(), Some(&party.der[..]), "{name}");
    }
    // It gets the first one, and takes it for bad.
    assert_eq!(shown_to(&authority.caller().asking_for("unknown.example"), &gate).await, None);
    until("the gate has counted it", || async {
        gate.metric("wicketgate_tls_handshakes_failed_total{reason=\"refused_by_client\"}").await == Some(1.0)
    })
    .await;
}

#[tokio::test]
async fn where_names_are_strict_a_client_that_asks_for_none_of_ours_is_refused() {
    let authority = Authority::new("servers");
    let party = authority.sign("gate", &["localhost"]);
    let gate = serving("tls: { certificate_file: 0.crt, key_file: 0.key, strict_sni: true }", &[&party]).await;

    assert!(shown_to(&authority.caller(), &gate).await.is_some());
    assert_eq!(shown_to(&authority.caller().asking_for("other.example"), &gate).await, None);
    assert_eq!(shown_to(&authority.caller().asking_for(""), &gate).await, None);

    assert_eq!(gate.metric("wicketgate_tls_handshakes_failed_total{reason=\"name_unknown\"}").await, Some(2.0));
}

#[tokio::test]
async fn the_floor_of_tls_1_3_keeps_1_2_out() {
    let authority = Authority::new("servers");
    let party = authority.sign("gate", &["localhost"]);
    let gate = serving("tls: { certificate_file: 0.crt, key_file: 0.key, min_version: '1.3' }", &[&party]).await;

    assert!(authority.caller().with_versions(TLS_1_3).connect(gate.address()).await.is_ok());
    assert!(authority.caller().with_versions(TLS_1_2).connect(gate.address()).await.is_err());

    assert_eq!(gate.metric("wicketgate_tls_handshakes_failed_total{reason=\"incompatible\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_certificate_that_kubernetes_swaps_is_taken_and_open_connections_go_on() {
    let authority = Authority::new("servers");
    let (old, new) = (authority.sign("old", &["localhost"]), authority.sign("new", &["localhost"]));
    let mut gate = serving("tls: { certificate_file: 0.crt, key_file: 0.key }", &[&old]).await;
    let directory = gate.path.parent().unwrap().to_owned();
    let version = |name: &str, party: &Party| {
        fs::create_dir(directory.join(name)).unwrap();
        fs::write(directory.join(name).join("0.crt"), &party.pem).unwrap();
        fs::write(directory.join(name).join("0.key"), &party.key_pem).unwrap();
        symlink(name, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    version("..1", &old);
    for file in ["0.crt", "0.key"] {
        fs::remove_file(directory.join(file)).unwrap();
        symlink(format!("..data/{file}"), directory.join(file)).unwrap();
    }
    gate.app.reload_if_changed().await;
    let mut open = Http2::over(authority.caller().connect(gate.address()).await.unwrap()).await;

    version("..2", &new);
    gate.app.reload_if_changed().await;

    assert_eq!(shown_to(&authority.caller(), &gate).await.as_deref(), Some(&new.der[..]));
    let answer = open.send(http::Request::get("https://localhost/.well-known/oauth-protected-resource").body(()).unwrap()).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_listener_offers_the_one_protocol_that_it_speaks() {
    let authority = Authority::new("servers");
    let party = authority.sign("gate", &["localhost"]);
    for (protocol, offered, agreed) in [("http1", ["http/1.1"], "http/1.1"), ("http2", ["h2"], "h2")] {
        let listen =
            format!("listen: {{ address: 127.0.0.1:0, protocol: {protocol} }}\ntls: {{ certificate_file: 0.crt, key_file: 0.key }}");
        let gate = serving(&listen, &[&party]).await;
        let both = authority.caller().speaking(&["h2", "http/1.1"]).connect(gate.address()).await.unwrap();
        assert_eq!(both.get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
        assert!(authority.caller().speaking(&offered).connect(gate.address()).await.is_ok());
        let other = if agreed == "h2" { ["http/1.1"] } else { ["h2"] };
        assert!(authority.caller().speaking(&other).connect(gate.address()).await.is_err());
        assert_eq!(gate.metric("wicketgate_tls_handshakes_failed_total{reason=\"protocol\"}").await, Some(1.0));
    }
}

#[tokio::test]
async fn what_is_no_tls_is_told_from_a_client_that_left() {
    let authority = Authority::new("servers");
    let gate = serving("tls: { certificate_file: 0.crt, key_file: 0.key }", &[&authority.sign("gate", &["localhost"])]).await;
    let mut plain = Connection::open(gate.address()).await;
    plain.write(&gate.get("/public/a").bytes("")).await;
    plain.rest().await;
    let mut gone = Connection::open(gate.address()).await;
    gone.stream.write_all(b"\x16\x03\x01").await.unwrap();
    drop(gone);

    for reason in ["no_tls", "broke_off"] {
        until("it is counted", || async {
            gate.metric(&format!("wicketgate_tls_handshakes_failed_total{{reason=\"{reason}\"}}")).await == Some(1.0)
        })
        .await;
    }
}
