//! Compiles the listeners: each address once, and nothing asked of it that it cannot do.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::compile::{Compiler, trail};
use super::{Listen, Listener};
use crate::config::{self, Config, RedirectToHttps, Trail};

/// Names that systemd gives to descriptors are no longer.
const NAME_BYTES_MAX: usize = 255;

pub fn addresses(c: &mut Compiler<'_>, config: &Config) -> (Vec<Listener>, SocketAddr) {
    let mut listeners: Vec<Listener> = Vec::new();
    for (i, written) in config.listen.0.iter().enumerate() {
        let text = &written.0.address;
        let at = || trail(&[&"listen", &i]);
        match address(text) {
            None => c.fault(
                at(),
                text,
                "no address to listen on",
                "write an IP address and a port, as in 0.0.0.0:8080, or unix:/path, or fd:NAME for a socket that systemd passes on",
            ),
            Some(listen) if listeners.iter().any(|known| known.address == listen) => {
                c.fault(at(), text, "this address stands here twice", "keep one");
            }
            Some(listen) => listeners.push(listener(c, config, &written.0, listen, &at())),
        }
    }
    let admin = config.admin.parse::<SocketAddr>().unwrap_or_else(|_| {
        let cure = "write an IP address and a port, as in 127.0.0.1:9090";
        c.fault(trail(&[&"admin"]), &config.admin, "no address to listen on", cure);
        SocketAddr::from(([127, 0, 0, 1], 0))
    });
    if admin.port() != 0 && listeners.iter().any(|listener| listener.address == Listen::Tcp(admin)) {
        c.fault(trail(&[&"admin"]), &config.admin, "the same address as listen", "give the admin listener its own port");
    }
    if admin.ip().is_unspecified() {
        c.warnings.push(format!("admin: {admin} is reachable from the network; metrics and status name routes and issuers"));
    }
    if config.tls.is_some() && !listeners.iter().any(|listener| listener.tls) && !listeners.is_empty() {
        c.warnings.push("tls: no listener serves it".to_owned());
    }
    (listeners, admin)
}

/// Whether a listener is to serve TLS: as it says, or where there is a certificate and plain is not meant.
pub fn has_tls(config: &Config, written: &config::ListenKeys) -> bool {
    let redirects = written.redirect_to_https.and_then(RedirectToHttps::port).is_some();
    written.tls.unwrap_or(config.tls.is_some() && !written.address.starts_with("unix:") && !redirects)
}

fn address(text: &str) -> Option<Listen> {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.starts_with('/').then(|| Listen::Unix(PathBuf::from(path)));
    }
    if let Some(name) = text.strip_prefix("fd:") {
        let proper = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        return proper.then(|| Listen::Inherited(name.to_owned()));
    }
    text.parse().ok().map(Listen::Tcp)
}

fn listener(c: &mut Compiler<'_>, config: &Config, written: &config::ListenKeys, address: Listen, at: &Trail) -> Listener {
    let below = |key: &str| at.iter().cloned().chain([key.to_owned()]).collect::<Trail>();
    let unix = matches!(address, Listen::Unix(_));
    let redirect_to_https = written.redirect_to_https.and_then(RedirectToHttps::port);
    let tls = has_tls(config, written);
    if tls && config.tls.is_none() {
        c.fault(below("tls"), "true", "TLS without a certificate", "add tls: with certificate_file and key_file at the top");
    }
    if tls && redirect_to_https.is_some() {
        let cure = "redirect from a listener without TLS, beside this one";
        c.fault(below("redirect_to_https"), "", "a listener with TLS that sends everyone to https", cure);
    }
    if written.proxy_protocol && !unix && config.trusted_proxies.is_empty() {
        let cure = "name the load balancers in trusted_proxies: PROXY headers are taken from nobody else";
        c.fault(below("proxy_protocol"), "true", "nobody may connect", cure);
    }
    let mode = written.mode.as_ref().and_then(|text| mode(c, text, unix, below("mode")));
    Listener { address, tls, protocol: written.protocol, proxy_protocol: written.proxy_protocol, mode, redirect_to_https }
}

fn mode(c: &mut Compiler<'_>, text: &str, unix: bool, at: Trail) -> Option<u32> {
    const MODE_MAX: u32 = 0o777;
    if !unix {
        c.fault(at, text, "permissions of something that is no Unix socket of ours", "take mode out");
        return None;
    }
    let digits = matches!(text.len(), 3 | 4) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    match u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= MODE_MAX) {
        Some(mode) => Some(mode),
        None => {
            c.fault(at, text, "no permissions of a file", "write three or four octal digits in quotes, as in \"0660\"");
            None
        }
    }
}
