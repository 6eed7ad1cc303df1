//! Redirect URIs of apps that register themselves: whoever gets the code gets the token, so that only what has one reading,
//! and leads where the operator lets users be sent, passes.

use url::{Host, Url};

use crate::policy::RedirectRules;

/// The longest redirect URI.
const URI_BYTES_MAX: usize = 1024;

/// Where a redirect URI leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// A host of the web.
    Web,
    /// A program on the user's own machine, by `http` (RFC 8252 §7.3).
    Loopback,
    /// A program that answers to a scheme (RFC 8252 §7.1).
    Program,
}

/// Where it leads, or the rule that it breaks.
pub fn landing(rules: &RedirectRules, text: &str) -> Result<Landing, &'static str> {
    if text.len() > URI_BYTES_MAX {
        return Err("a redirect URI is longer than 1024 bytes");
    }
    // What a URI cannot hold (RFC 3986 §2): parsers repair it, each in its own way.
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)) {
        return Err("a redirect URI has characters that no URI has");
    }
    if text.contains('#') {
        return Err("a redirect URI has a fragment (RFC 6749 section 3.1.2)");
    }
    // Logto takes it for a pattern.
    if text.contains('*') {
        return Err("a redirect URI has a wildcard");
    }
    let url = Url::parse(text).map_err(|_| "a redirect URI is not absolute")?;
    if !url.username().is_empty() || url.password().is_some() || text.split(['/', '?']).nth(2).is_some_and(|host| host.contains('@')) {
        return Err("a redirect URI has a user name in it");
    }
    // Logto compares what is registered here with what is sent later: both must have but one spelling.
    let normal = url.as_str() == text || (url.path() == "/" && url.as_str() == format!("{text}/"));
    if !normal {
        return Err("a redirect URI is not in its normal form: write host and scheme in lower case, no default port, no dot segments");
    }
    match url.scheme() {
        "http" if !is_this_machine(&url) => Err("http leads nowhere but to 127.0.0.1, [::1] and localhost; use https"),
        "http" if !rules.loopback => Err("no redirect to the user's own machine is allowed here"),
        "http" => Ok(Landing::Loopback),
        "https" => web(rules, &url).map(|()| Landing::Web),
        scheme if !rules.schemes.iter().any(|known| known == scheme) => Err("the scheme of a redirect URI is not allowed here"),
        scheme if text.len() <= scheme.len() + 1 => Err("a redirect URI is a scheme and nothing else"),
        _ => Ok(Landing::Program),
    }
}

fn web(rules: &RedirectRules, url: &Url) -> Result<(), &'static str> {
    const ELSEWHERE: &str = "the host of a redirect URI is not allowed here";
    if is_this_machine(url) {
        return Err("a redirect to the user's own machine goes by http (RFC 8252 section 7.3)");
    }
    let host = url.host_str().unwrap_or_default();
    let named = rules.hosts.as_ref().map(|hosts| hosts.iter().any(|known| known == host));
    match (named, url.host()) {
        (Some(named), _) => named.then_some(()).ok_or(ELSEWHERE),
        // Neither is a name that its owner could be asked by.
        (None, Some(Host::Domain(name))) if name.contains('.') && !name.ends_with('.') => Ok(()),
        (None, _) => Err("the host of a redirect URI is no public name"),
    }
}

/// The names that Logto knows it by, and no other.
fn is_this_machine(url: &Url) -> bool {
    matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(hosts: Option<&[&str]>) -> RedirectRules {
        let hosts = hosts.map(|hosts| hosts.iter().map(|host| (*host).to_owned()).collect());
        RedirectRules { loopback: true, hosts, schemes: vec!["com.example.agent".to_owned()] }
    }

    #[test]
    fn what_leads_where_the_operator_allows_passes() {
        let table = [
            ("https://agent.example/callback", Landing::Web),
            ("https://agent.example", Landing::Web),
            ("https://agent.example:8443/a/b?c=d", Landing::Web),
            ("http://127.0.0.1/callback", Landing::Loopback),
            ("http://127.0.0.1:53281/oauth/callback", Landing::Loopback),
            ("http://localhost:53281/callback", Landing::Loopback),
            ("http://[::1]:53281/callback", Landing::Loopback),
            ("com.example.agent:/callback", Landing::Program),
            ("com.example.agent://callback/x", Landing::Program),
        ];
        for (text, expected) in table {
            assert_eq!(landing(&rules(Some(&["agent.example"])), text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        let long = format!("https://agent.example/{}", "a".repeat(URI_BYTES_MAX));
        let table = [
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "vbscript:x",
            "about:blank",
            "/callback",
            "callback",
            "",
            "http://agent.example/callback",
            "http://127.0.0.2/callback",
            "http://0.0.0.0/callback",
            "http://2130706433/callback",
            "http://127.1/callback",
            "http://127.0.0.1.agent.example/callback",
            "http://localhost.agent.example/",
            "https://localhost/callback",
            "https://127.0.0.1/callback",
            "https://evil.example/callback",
            "https://agent.example.evil.example/callback",
            "https://evilagent.example/callback",
            "https://agent.example@evil.example/callback",
            "https://evil.example%40agent.example/",
            "https://user:pass@agent.example/",
            "https://@agent.example/",
            "https://agent.example/#x",
            "https://agent.example/#",
            "https://*.agent.example/",
            "https://agent.example/*",
            "https://AGENT.example/callback",
            "HTTPS://agent.example/callback",
            "https://agent.example:443/callback",
            "https://agent.example./callback",
            "https://agent.example/a/../b",
            "https://agent.example/a/%2e%2e/b",
            "https://agent.example\\@evil.example/",
            "https:agent.example/callback",
            "https:///agent.example/callback",
            "https://agent.example/call back",
            "https://agent.example/\u{202e}",
            "https://agent.example/\n",
            " https://agent.example/",
            "https://\u{430}gent.example/",
            "com.example.agent:",
            "com.example.agents:/callback",
            "com.example:/callback",
            "com.example.agent://user@callback",
            &long,
        ];
        for text in table {
            assert!(landing(&rules(Some(&["agent.example"])), text).is_err(), "{text}");
        }
    }

    #[test]
    fn any_host_is_any_public_name() {
        assert_eq!(landing(&rules(None), "https://agent.example/callback"), Ok(Landing::Web));
        for text in ["https://10.0.0.1/", "https://[2001:db8::1]/", "https://intranet/", "https://localhost/", "http://agent.example/"] {
            assert!(landing(&rules(None), text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_is_allowed_that_the_operator_takes_out() {
        let none = RedirectRules { loopback: false, hosts: Some(Vec::new()), schemes: Vec::new() };
        for text in ["http://127.0.0.1/", "https://agent.example/", "com.example.agent:/callback"] {
            assert!(landing(&none, text).is_err(), "{text}");
        }
    }
}
