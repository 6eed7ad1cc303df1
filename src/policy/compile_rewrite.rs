//! Compiles `rewrite:`, `request_headers:`, `response_headers:` and `cors:` of services and routes.
//!
//! One rule for all four: what a route writes under such a key replaces what its service writes there, whole.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::uri::Authority;
use http::{HeaderName, HeaderValue};

use super::compile::{Compiler, trail};
use super::compile_cors;
use super::header_changes::HeaderChanges;
use super::managed::{Managed, fold};
use super::path::CheckedPath;
use super::rewriting::{HostRewrite, PathRewrite, Rewriting, sensitive};
use super::route_key::RouteKey;
use super::{Requirement, Service};
use crate::config::{self, Config, RequestHeaders, ResponseHeaders, Rewrite, Trail};

/// Changes in one list; each is made for every request.
const CHANGES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 8 << 10;

/// Names that concern one connection, or how a message is framed and coded (RFC 9110 §7.6.1, RFC 9112 §6).
const FRAMING: [&str; 16] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "expect",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Compiles them for all services; `services` are the operator's, in the order of the document, and what comes after them.
pub fn compile(c: &mut Compiler<'_>, config: &Config, services: &mut [Service], managed: &Managed) {
    for (i, (written, service)) in config.services.iter().zip(services).enumerate() {
        let at = trail(&[&"services", &i]);
        let own = Written {
            rewrite: written.rewrite.as_ref(),
            request: written.request_headers.as_ref(),
            response: written.response_headers.as_ref(),
        };
        let base = own.compile(c, &at, managed);
        let base_cors = written.cors.as_ref().and_then(|cors| compile_cors::cors(c, cors, &below(&at, "cors")));
        check_together(c, &base, base_cors.is_some(), service.forward_authorization, &at);
        service.rewriting = Arc::new(base.clone());
        service.cors = base_cors.clone().map(Arc::new);
        for route in &mut service.routes {
            let Some((_, text)) = written.routes.0.iter().find(|(key, _)| **key == *route.key) else { continue };
            let Ok(key) = RouteKey::parse(&route.key) else { continue };
            let place: Trail = at.iter().cloned().chain(["routes".to_owned(), route.key.to_string()]).collect();
            let asked = &text.rewriting;
            let of_route = Written {
                rewrite: asked.rewrite.as_ref(),
                request: asked.request_headers.as_ref(),
                response: asked.response_headers.as_ref(),
            };
            let rewriting = of_route.over(&base, of_route.compile(c, &place, managed));
            let cors = match &asked.cors {
                None => base_cors.clone(),
                Some(cors) => compile_cors::cors(c, cors, &below(&place, "cors")),
            };
            if of_route.request.is_some() || of_route.response.is_some() || asked.cors.is_some() {
                check_together(c, &rewriting, cors.is_some(), service.forward_authorization, &place);
            }
            if !key.is_below(&rewriting.path.strip) {
                let reason = format!("this route lies outside {}, which is stripped", rewriting.path.strip);
                let cure = "begin it with that prefix, or give it a rewrite: of its own, such as {}";
                c.fault(place.clone(), &route.key, reason, cure);
            }
            if matches!(route.requirement, Requirement::Public) && rewriting.request.names().any(|name| *name == AUTHORIZATION) {
                c.warnings.push(format!(
                    "{}: {} is public and the upstream gets credentials from the gate: everyone acts with them",
                    written.name, route.key
                ));
            }
            route.rewriting = if rewriting == base { service.rewriting.clone() } else { Arc::new(rewriting) };
            route.cors = cors.map(|cors| Arc::new(compile_cors::for_route(cors, &key.methods)));
        }
    }
}

fn below(at: &Trail, step: &str) -> Trail {
    at.iter().cloned().chain([step.to_owned()]).collect()
}

/// What stands in one place.
struct Written<'w> {
    rewrite: Option<&'w Rewrite>,
    request: Option<&'w RequestHeaders>,
    response: Option<&'w ResponseHeaders>,
}

impl Written<'_> {
    fn compile(&self, c: &mut Compiler<'_>, at: &Trail, managed: &Managed) -> Rewriting {
        let mut rewriting = self.rewrite.map(|written| rewrite(c, written, &below(at, "rewrite"))).unwrap_or_default();
        if let Some(written) = self.request {
            rewriting.request = request(c, written, &below(at, "request_headers"), managed);
        }
        if let Some(written) = self.response {
            rewriting.response = response(c, written, &below(at, "response_headers"), managed);
        }
        rewriting
    }

    /// What counts where a service says one thing and its route another.
    fn over(&self, base: &Rewriting, own: Rewriting) -> Rewriting {
        let mut all = match self.rewrite {
            None => base.clone(),
            Some(_) => own.clone(),
        };
        all.request = if self.request.is_some() { own.request } else { base.request.clone() };
        all.response = if self.response.is_some() { own.response } else { base.response.clone() };
        all
    }
}

/// What is a fault only beside something else.
fn check_together(c: &mut Compiler<'_>, rewriting: &Rewriting, cors: bool, forwards: bool, at: &Trail) {
    if forwards && rewriting.request.names().any(|name| *name == AUTHORIZATION) {
        let cure = "take out either forward_authorization or the header";
        c.fault(below(at, "request_headers"), "Authorization", "the upstream would get the caller's token or this value", cure);
    }
    let changes = &rewriting.response;
    let mut names = changes.names().map(HeaderName::as_str).chain(changes.removed());
    if cors && let Some(name) = names.find(|name| name.starts_with("access-control-")) {
        let cure = "say it under cors:, or take cors: out";
        c.fault(below(at, "response_headers"), name, "cors: settles these headers here", cure);
    }
}

fn rewrite(c: &mut Compiler<'_>, written: &Rewrite, at: &Trail) -> Rewriting {
    // What a client may send escaped or not would be one path to the route and another to who strips it.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    let strip = written.strip_prefix.as_deref().map(|text| prefix(c, text, &plain, below(at, "strip_prefix"))).unwrap_or_default();
    let add = written.add_prefix.as_deref().map(|text| prefix(c, text, &|c| c != '*', below(at, "add_prefix"))).unwrap_or_default();
    let path = PathRewrite { strip, add };
    let host = match written.host.as_deref() {
        None | Some("preserve") => HostRewrite::Preserve,
        Some("upstream") => HostRewrite::Upstream,
        Some(text) => named_host(c, text, below(at, "host")),
    };
    let changes = !path.is_none() || host != HostRewrite::Preserve;
    let (location, cookies) = (written.location.unwrap_or(changes), written.cookies.unwrap_or(changes));
    Rewriting { path, host, location, cookies, ..Rewriting::default() }
}

fn prefix(c: &mut Compiler<'_>, text: &str, plain: &dyn Fn(char) -> bool, at: Trail) -> String {
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    if CheckedPath::new(text).is_err() || trimmed.is_empty() || !text.chars().all(plain) {
        c.fault(at, text, "no path prefix", "write whole segments of letters, digits, '-', '.', '_' and '~', as in /api/v1");
    }
    trimmed.to_owned()
}

fn named_host(c: &mut Compiler<'_>, text: &str, at: Trail) -> HostRewrite {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    match text.parse::<Authority>().ok().filter(|host| text.bytes().all(plain) && !host.host().is_empty() && !text.ends_with(':')) {
        Some(authority) => HostRewrite::Named(authority),
        None => {
            c.fault(at, text, "no host", "write preserve, upstream, or a name with an optional port, as in legacy.internal:8080");
            HostRewrite::Preserve
        }
    }
}

/// What of a list a fault may say, and which way it goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Set,
    Add,
    Remove,
}

fn request(c: &mut Compiler<'_>, written: &RequestHeaders, at: &Trail, managed: &Managed) -> HeaderChanges {
    let mut list = List { refuse: &|kind, name| request_fault(kind, name, managed), seen: Vec::new(), changes: HeaderChanges::default() };
    for (name, value) in written.set.iter().flat_map(|set| &set.0) {
        list.take(c, Kind::Set, name, Some(value.expose()), &at.iter().cloned().chain(["set".to_owned(), name.clone()]).collect());
    }
    for (name, path) in written.set_file.iter().flat_map(|set| &set.0) {
        let place: Trail = at.iter().cloned().chain(["set_file".to_owned(), name.clone()]).collect();
        let value = c.secret_file(place.clone(), path, "put the value alone into it");
        list.take(c, Kind::Set, name, value.as_ref().map(config::Secret::expose), &place);
    }
    for (name, value) in written.add.iter().flat_map(|add| &add.0) {
        list.take(c, Kind::Add, name, Some(value.expose()), &at.iter().cloned().chain(["add".to_owned(), name.clone()]).collect());
    }
    list.remove(c, written.remove.as_ref().map_or(&[], |names| &names.0), at);
    let mut changes = list.changes;
    for (_, value) in changes.set.iter_mut().chain(&mut changes.add) {
        *value = sensitive(value.clone());
    }
    changes
}

fn response(c: &mut Compiler<'_>, written: &ResponseHeaders, at: &Trail, managed: &Managed) -> HeaderChanges {
    let mut list = List { refuse: &|kind, name| response_fault(kind, name, managed), seen: Vec::new(), changes: HeaderChanges::default() };
    for (kind, step, entries) in [(Kind::Set, "set", &written.set), (Kind::Add, "add", &written.add)] {
        for (name, value) in entries.iter().flat_map(|entries| &entries.0) {
            list.take(c, kind, name, Some(value), &at.iter().cloned().chain([step.to_owned(), name.clone()]).collect());
        }
    }
    list.remove(c, written.remove.as_ref().map_or(&[], |names| &names.0), at);
    list.changes
}

/// Why a name cannot stand in a list, and what to do about it.
type Refuse<'r> = &'r dyn Fn(Kind, &str) -> Option<(&'static str, &'static str)>;

/// Changes in the making.
struct List<'r> {
    refuse: Refuse<'r>,
    seen: Vec<HeaderName>,
    changes: HeaderChanges,
}

impl List<'_> {
    /// Takes a header that is set or added. The value is never shown: it may be a secret. `None` was at fault before.
    fn take(&mut self, c: &mut Compiler<'_>, kind: Kind, text: &str, value: Option<&str>, place: &Trail) {
        let Some(name) = self.name(c, kind, text, place) else { return };
        let Some(value) = value else { return };
        let plain = value.trim_matches([' ', '\t']) == value && !value.is_empty() && value.len() <= VALUE_BYTES_MAX;
        let Some(value) = HeaderValue::from_str(value).ok().filter(|_| plain) else {
            let cure = format!("write printable ASCII, with no space or end of line around it, {VALUE_BYTES_MAX} bytes at most");
            return c.fault(place.clone(), "", "no value for a header", cure);
        };
        match kind {
            Kind::Add => self.changes.add.push((name, value)),
            Kind::Set | Kind::Remove => {
                self.changes.gone.push(fold(name.as_str()));
                self.changes.set.push((name, value));
            }
        }
    }

    fn remove(&mut self, c: &mut Compiler<'_>, names: &[String], at: &Trail) {
        for (i, text) in names.iter().enumerate() {
            let place = at.iter().cloned().chain(["remove".to_owned(), i.to_string()]).collect();
            if let Some(name) = self.name(c, Kind::Remove, text, &place) {
                self.changes.gone.push(fold(name.as_str()));
            }
        }
        if self.seen.len() > CHANGES_MAX {
            let reason = format!("{} headers in one place", self.seen.len());
            c.fault(at.clone(), "", reason, format!("write {CHANGES_MAX} at most; each is looked at for every request"));
        }
    }

    fn name(&mut self, c: &mut Compiler<'_>, kind: Kind, text: &str, place: &Trail) -> Option<HeaderName> {
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            c.fault(place.clone(), text, "no name of a header", "write letters, digits and '-', as in X-Tenant");
            return None;
        };
        if let Some((reason, cure)) = (self.refuse)(kind, name.as_str()) {
            c.fault(place.clone(), text, reason, cure);
            return None;
        }
        if self.seen.contains(&name) {
            c.fault(place.clone(), text, "this header stands here twice", "keep it in one list, in one spelling");
            return None;
        }
        self.seen.push(name.clone());
        Some(name)
    }
}

fn common_fault(name: &str) -> Option<(&'static str, &'static str)> {
    if FRAMING.contains(&name) {
        return Some(("a header about the connection or the framing of the message", "take it out: each connection settles it anew"));
    }
    if name.starts_with("sec-websocket-") {
        return Some(("a header of the WebSocket handshake", "take it out: both sides need it as it is"));
    }
    (name == "x-request-id").then_some(("the request id, which the gate writes", "take it out"))
}

fn request_fault(kind: Kind, name: &str, managed: &Managed) -> Option<(&'static str, &'static str)> {
    if let Some(fault) = common_fault(name) {
        return Some(fault);
    }
    match (name, kind) {
        ("authorization", Kind::Set) => return None,
        ("authorization", _) => {
            return Some(("the caller's token, which does not pass anyway", "set: it to credentials of the upstream's, or take it out"));
        }
        ("host", _) => return Some(("the host", "write it as rewrite.host")),
        _ => {}
    }
    if managed.is_identity(name) {
        return Some(("an identity header, which only a verified token fills", "name its claim under headers: of the service"));
    }
    if name == "forwarded" || name == "via" || name.starts_with("x-forwarded") {
        return Some(("what the gate says of a request's way", "take it out: the gate writes it"));
    }
    let obeyed = "a name that some servers obey without asking who wrote it, and that never passes";
    managed.covers(name).then_some((obeyed, "take it out, or choose another name"))
}

fn response_fault(kind: Kind, name: &str, managed: &Managed) -> Option<(&'static str, &'static str)> {
    if let Some(fault) = common_fault(name) {
        return Some(fault);
    }
    if managed.is_identity(name) {
        return Some(("an identity header, which no client ever gets", "take it out"));
    }
    let challenge = name == "www-authenticate" && kind != Kind::Remove;
    challenge.then_some(("a challenge, which stands on the answers that need one", "take it out; remove: takes the upstream's away"))
}
