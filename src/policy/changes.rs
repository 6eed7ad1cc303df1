//! What differs between two policies, in the operator's words, for one log line. Every field is taken apart by name, so
//! that a new one is a compile error here until it is compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Introspection, Policy, Service};

/// Names that one list shows; the rest is counted.
const NAMED_MAX: usize = 10;

/// What changed. Two policies of one hash are the same.
pub fn changes(old: &Policy, new: &Policy) -> String {
    if old.hash == new.hash {
        return "nothing".to_owned();
    }
    let mut parts = Vec::new();
    routes(old, new, &mut parts);
    services(old, new, &mut parts);
    settings(old, new, &mut parts);
    match parts.is_empty() {
        true => "the text, not what it means".to_owned(),
        false => parts.join("; "),
    }
}

fn operators(policy: &Policy) -> impl Iterator<Item = &Service> {
    policy.services.iter().filter(|service| !service.own)
}

fn routes(old: &Policy, new: &Policy, parts: &mut Vec<String>) {
    // What shows nothing of itself, such as a secret for the upstream, is compared as it is.
    fn routes(policy: &Policy) -> BTreeMap<String, (String, &super::Rewriting)> {
        let all = operators(policy).flat_map(|service| service.routes.iter().map(move |route| (service, route)));
        all.map(|(service, route)| (format!("{} {}", service.name, route.key), (format!("{route:?}"), &*route.rewriting))).collect()
    }
    let (before, after) = (routes(old), routes(new));
    let differs = |key: &&String| before.get(*key).is_some_and(|meaning| *meaning != after[*key]);
    list(parts, "routes added", after.keys().filter(|key| !before.contains_key(*key)));
    list(parts, "routes removed", before.keys().filter(|key| !after.contains_key(*key)));
    list(parts, "routes changed", after.keys().filter(differs));
}

fn list<'a>(parts: &mut Vec<String>, what: &str, names: impl Iterator<Item = &'a String>) {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() {
        return;
    }
    let more = names.len().saturating_sub(NAMED_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    parts.push(format!("{what}: {}{rest}", names[..names.len().min(NAMED_MAX)].join(", ")));
}

fn services(old: &Policy, new: &Policy, parts: &mut Vec<String>) {
    let find = |policy: &Policy, name: &str| operators(policy).position(|service| *service.name == *name);
    for service in operators(new) {
        let Some(before) = find(old, &service.name) else {
            parts.push(format!("service {} added", service.name));
            continue;
        };
        let changed = service_changes((old, &old.services[before]), (new, service));
        if !changed.is_empty() {
            parts.push(format!("service {}: {} changed", service.name, changed.join(", ")));
        }
    }
    let gone = operators(old).filter(|service| find(new, &service.name).is_none());
    parts.extend(gone.map(|service| format!("service {} removed", service.name)));
}

fn service_changes((old_policy, old): (&Policy, &Service), (new_policy, new): (&Policy, &Service)) -> Vec<&'static str> {
    // Routes, and the tree and the scopes that are made of them, are compared by themselves.
    let Service {
        name: _,
        prefix,
        audiences,
        metadata_url,
        upstream,
        issuers: _,
        introspection,
        consent,
        routes: _,
        tree: _,
        identity,
        certificate_headers,
        forward_authorization,
        rate_limits,
        rewriting,
        cors,
        scopes: _,
        own: _,
    } = new;
    let issuers = |policy: &Policy, service: &Service| -> Vec<String> {
        service.issuers.iter().map(|issuer| policy.issuers[*issuer].url.clone()).collect()
    };
    let hosts = |policy: &Policy, name: &str| -> Vec<String> {
        let serves = |index: Option<usize>| index.is_some_and(|index| *policy.services[index].name == *name);
        let mut hosts: Vec<String> = policy
            .hosts
            .iter()
            .filter(|(_, site)| site.members().any(|member| serves(Some(member))))
            .map(|(host, _)| host.clone())
            .collect();
        hosts.sort();
        hosts
    };
    let stamp = |introspection: &Option<Arc<Introspection>>| introspection.as_ref().map(|settings| *settings.stamp());
    let compared = [
        ("path", *prefix != old.prefix),
        ("hosts", hosts(old_policy, &old.name) != hosts(new_policy, &new.name)),
        ("resource", *audiences != old.audiences),
        ("public_url", *metadata_url != old.metadata_url && *audiences == old.audiences),
        ("upstream", *upstream != old.upstream),
        ("issuer", issuers(old_policy, old) != issuers(new_policy, new)),
        ("introspection", stamp(introspection) != stamp(&old.introspection)),
        ("consent", *consent != old.consent),
        ("headers", **identity != *old.identity),
        ("client_certificate_headers", **certificate_headers != *old.certificate_headers),
        ("forward_authorization", *forward_authorization != old.forward_authorization),
        ("rate_limit", *rate_limits != old.rate_limits),
        ("rewriting", *rewriting != old.rewriting),
        ("cors", *cors != old.cors),
    ];
    compared.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
}

fn settings(old: &Policy, new: &Policy, parts: &mut Vec<String>) {
    // Services and hosts are compared by themselves; managed names follow from the headers, warnings from all.
    let Policy {
        hash: _,
        listeners,
        admin,
        issuers,
        services: _,
        hosts: _,
        other_hosts: _,
        tls,
        trusted_proxies,
        managed: _,
        limits,
        timeouts,
        keys,
        leeway,
        remembered_tokens,
        log,
        audit,
        shutdown_delay,
        shutdown_deadline,
        upgrade,
        reload_interval,
        state,
        logto,
        revocations,
        registration,
        warnings: _,
    } = new;
    let compared = [
        ("listen", *listeners != old.listeners),
        ("admin", *admin != old.admin),
        ("issuer", *issuers != old.issuers),
        ("tls", *tls != old.tls),
        ("trusted_proxies", *trusted_proxies != old.trusted_proxies),
        ("limits", *limits != old.limits),
        ("timeouts", *timeouts != old.timeouts),
        ("keys", *keys != old.keys),
        ("tokens", (*leeway, *remembered_tokens) != (old.leeway, old.remembered_tokens)),
        ("log", (log.level, log.access) != (old.log.level, old.log.access)),
        ("log.format (from the next start on)", log.format != old.log.format),
        ("audit", *audit != old.audit),
        ("shutdown", (*shutdown_delay, *shutdown_deadline) != (old.shutdown_delay, old.shutdown_deadline)),
        ("upgrade", *upgrade != old.upgrade),
        ("reload", *reload_interval != old.reload_interval),
        ("revocations", *revocations != old.revocations),
        ("logto webhook", logto.as_ref().map(|logto| &logto.webhook) != old.logto.as_ref().map(|logto| &logto.webhook)),
        ("logto", logto.as_ref().map(|logto| &logto.access) != old.logto.as_ref().map(|logto| &logto.access)),
        (
            "logto tenant (wicketgate logto plan)",
            logto.as_ref().map(|logto| &logto.tenant) != old.logto.as_ref().map(|logto| &logto.tenant),
        ),
        ("state", (state.keys, &state.redis) != (old.state.keys, &old.state.redis)),
        ("registration", *registration != old.registration),
    ];
    let named = compared.iter().filter(|(_, changed)| *changed).map(|(name, _)| format!("{name} changed"));
    parts.extend(named);
}
