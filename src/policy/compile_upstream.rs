//! Compiles where a service is: its endpoints, TLS, limits and time-outs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

use super::compile::{Compiler, at_least};
use super::compile_balance;
use super::upstream::{At, Dns, EndpointAt, Upstream, UpstreamBounds, UpstreamTimeouts, UpstreamTls};
use crate::config::{self, Config, Trail, UpstreamKeys};

/// What a weight may be at most, so that sums of them stay small.
const WEIGHT_MAX: u32 = 1000;
const CURE: &str = "write it as in http://127.0.0.1:3000, https://legacy.internal:8443 or unix:/run/app.sock";

/// Where a service is. `at` is the place of its `upstream`.
pub fn compile(c: &mut Compiler<'_>, config: &Config, written: &config::Upstream, at: &Trail) -> Upstream {
    let keys = &written.0;
    let below = |steps: &[&str]| -> Trail { at.iter().cloned().chain(steps.iter().map(|step| (*step).to_owned())).collect() };
    let mut endpoints: Vec<(Scheme, EndpointAt)> = Vec::new();
    match (&keys.url, &keys.endpoints) {
        (Some(url), None) => {
            // In short the text itself is the place.
            let place = if *keys == short(url) { at.clone() } else { below(&["url"]) };
            endpoints.extend(endpoint(c, url, 1, place));
        }
        (None, Some(several)) => {
            for (i, one) in several.0.iter().enumerate() {
                let place = below(&["endpoints", &i.to_string()]);
                let Some(found) = endpoint(c, &one.0.url, one.0.weight, place.clone()) else { continue };
                match endpoints.iter().any(|(_, known)| known.at == found.1.at) {
                    true => c.fault(place, &one.0.url, "this endpoint stands here twice", "keep one, with a higher weight"),
                    false => endpoints.push(found),
                }
            }
        }
        (Some(url), Some(_)) => c.fault(below(&["url"]), url, "one endpoint and several", "keep url: or endpoints:"),
        (None, None) => c.absence(at.clone(), "", "no place where the service is", "add url:, or endpoints: for several"),
    }
    let scheme = endpoints.first().map_or(Scheme::HTTP, |(scheme, _)| scheme.clone());
    if let Some((i, (_, other))) = endpoints.iter().enumerate().find(|(_, (other, _))| *other != scheme) {
        let cure = "write http or https (unix: is http) for all of them";
        c.fault(below(&["endpoints", &i.to_string()]), &other.label, "endpoints in clear text beside others over TLS", cure);
    }
    let tls = tls(c, keys, scheme == Scheme::HTTPS, &below);
    Upstream {
        base: base(&scheme, endpoints.first().map(|(_, endpoint)| endpoint)),
        endpoints: endpoints.into_iter().map(|(_, endpoint)| endpoint).collect(),
        protocol: keys.protocol,
        tls,
        bounds: bounds(c, keys, &below),
        timeouts: timeouts(c, config, keys, &below),
        dns: dns(c, keys, &below),
        balancing: Arc::new(compile_balance::balancing(c, keys, at)),
    }
}

fn short(url: &str) -> UpstreamKeys {
    UpstreamKeys { url: Some(url.to_owned()), ..UpstreamKeys::default() }
}

fn endpoint(c: &mut Compiler<'_>, text: &str, weight: u32, place: Trail) -> Option<(Scheme, EndpointAt)> {
    if weight == 0 || weight > WEIGHT_MAX {
        c.fault(place.clone(), &weight.to_string(), "no weight", format!("write 1 to {WEIGHT_MAX}"));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        if !path.starts_with('/') || path.ends_with('/') {
            c.fault(place, text, "no upstream", CURE);
            return None;
        }
        let endpoint = EndpointAt { label: text.into(), at: At::Unix(PathBuf::from(path)), host: "localhost".to_owned(), weight };
        return Some((Scheme::HTTP, endpoint));
    }
    let uri = text.parse::<Uri>().ok();
    let scheme = uri.as_ref().and_then(Uri::scheme).cloned().filter(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    let authority = uri.as_ref().and_then(Uri::authority).cloned().filter(|authority| !authority.as_str().contains('@'));
    let (Some(uri), Some(scheme), Some(authority)) = (uri, scheme, authority) else {
        c.fault(place, text, "no upstream", CURE);
        return None;
    };
    if uri.path() != "/" || uri.query().is_some() {
        c.fault(place, text, "a path in the upstream", "leave it out: paths are forwarded as they come");
        return None;
    }
    let port = authority.port_u16().unwrap_or(if scheme == Scheme::HTTPS { 443 } else { 80 });
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let at = match host.parse::<IpAddr>() {
        Ok(ip) => At::Address(SocketAddr::new(ip, port)),
        Err(_) => At::Name(host.to_ascii_lowercase(), port),
    };
    Some((scheme, EndpointAt { label: authority.as_str().into(), at, host, weight }))
}

/// What a request's target is made with; a Unix socket has no authority of its own.
fn base(scheme: &Scheme, first: Option<&EndpointAt>) -> Uri {
    let authority = first.and_then(|endpoint| endpoint.label.parse::<Authority>().ok());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    Uri::from_parts(parts).unwrap_or_default()
}

fn tls(c: &mut Compiler<'_>, keys: &UpstreamKeys, wanted: bool, below: &dyn Fn(&[&str]) -> Trail) -> Option<Arc<UpstreamTls>> {
    let written = keys.tls.clone().unwrap_or_default();
    if keys.tls.is_some() && !wanted {
        c.fault(below(&["tls"]), "", "TLS for endpoints in clear text", "write https: in the URL, or take tls: out");
        return None;
    }
    if !wanted {
        return None;
    }
    let mut file = |key: &str, path: &Option<String>| path.as_ref().map(|path| c.file(below(&["tls", key]), path));
    let ca_pem = file("ca_file", &written.ca_file);
    let certificate = file("certificate_file", &written.certificate_file);
    let key = file("key_file", &written.key_file);
    let certificate = match (certificate, key) {
        (Some(certificate), Some(key)) => certificate.zip(key),
        (None, None) => None,
        (Some(_), None) => {
            let cure = "add key_file: with its private key";
            c.absence(below(&["tls", "certificate_file"]), "", "a certificate without its key", cure);
            None
        }
        (None, Some(_)) => {
            c.absence(below(&["tls", "key_file"]), "", "a key without its certificate", "add certificate_file:");
            None
        }
    };
    if let Some(name) = &written.server_name
        && rustls_pki_types::ServerName::try_from(name.as_str()).is_err()
    {
        c.fault(below(&["tls", "server_name"]), name, "no name of a server", "write a host name or an IP address, without a port");
    }
    Some(Arc::new(UpstreamTls { ca_pem: ca_pem.flatten(), certificate, server_name: written.server_name }))
}

fn bounds(c: &mut Compiler<'_>, keys: &UpstreamKeys, below: &dyn Fn(&[&str]) -> Trail) -> UpstreamBounds {
    for (key, number) in [("connections", keys.connections), ("streams", keys.streams)] {
        if number == 0 {
            c.fault(below(&[key]), "0", "too small to serve anything", "write 1 or more");
        }
    }
    if keys.warm > keys.connections {
        c.fault(below(&["warm"]), &keys.warm.to_string(), "more than connections: allows", "write less");
    }
    let steps = below(&["idle"]);
    let idle = at_least(c, &steps.iter().map(String::as_str).collect::<Vec<_>>(), keys.idle, 1);
    UpstreamBounds {
        connections: keys.connections as usize,
        pending: keys.pending as usize,
        warm: keys.warm as usize,
        streams: keys.streams as usize,
        idle,
    }
}

fn timeouts(c: &mut Compiler<'_>, config: &Config, keys: &UpstreamKeys, below: &dyn Fn(&[&str]) -> Trail) -> UpstreamTimeouts {
    let mut span = |key: &str, written: Option<config::Span>, default: config::Span| match written {
        Some(span) => {
            let steps = below(&["timeouts", key]);
            at_least(c, &steps.iter().map(String::as_str).collect::<Vec<_>>(), span, 1)
        }
        None => default.0,
    };
    let written = &keys.timeouts;
    UpstreamTimeouts {
        response: span("response", written.response, config.timeouts.response),
        connect: span("connect", written.connect, config.timeouts.connect),
        idle: span("idle", written.idle, config.timeouts.tunnel_idle),
        total: written.total.map(|total| span("total", Some(total), total)),
        body: config.timeouts.body.0,
    }
}

fn dns(c: &mut Compiler<'_>, keys: &UpstreamKeys, below: &dyn Fn(&[&str]) -> Trail) -> Dns {
    let steps = below(&["dns", "least"]);
    let least = at_least(c, &steps.iter().map(String::as_str).collect::<Vec<_>>(), keys.dns.least, 100);
    if keys.dns.longest < keys.dns.least {
        c.fault(below(&["dns", "longest"]), &keys.dns.longest.to_string(), "shorter than dns.least", "write the same or more");
    }
    let mut servers = Vec::new();
    for (i, text) in keys.dns.servers.iter().enumerate() {
        match text.parse::<SocketAddr>().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53))) {
            Ok(server) => servers.push(server),
            Err(_) => c.fault(below(&["dns", "servers", &i.to_string()]), text, "no address", "write it as in 10.0.0.2 or 127.0.0.1:8600"),
        }
    }
    Dns { least, longest: keys.dns.longest.0, servers }
}
