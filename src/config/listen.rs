//! What the operator writes about where clients connect, and how each listener speaks with them.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shapes::short_or_long;

/// A listener with everything that can be said of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenKeys {
    /// `host:port`, `unix:/path`, or `fd:NAME` for a socket that systemd passed on (a number for its descriptor).
    pub address: String,
    /// Serve TLS here. By default where the top level has `tls`, but not on a Unix socket.
    #[serde(default)]
    pub tls: Option<bool>,
    /// What is spoken: both by ALPN or by a client's first bytes, or one alone.
    #[serde(default)]
    pub protocol: Spoken,
    /// Every connection begins with a PROXY header (v1 or v2), which is believed from `trusted_proxies` alone.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// The permissions of a Unix socket, in octal digits: "0660".
    #[serde(default)]
    pub mode: Option<String>,
    /// Answer every request with 308 to the same address under https: `true`, or the port where https is.
    #[serde(default)]
    pub redirect_to_https: Option<RedirectToHttps>,
}

/// Which versions of HTTP a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Spoken {
    /// HTTP/2 and HTTP/1.1, by ALPN or by the client's first bytes.
    #[default]
    Auto,
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 alone; without TLS by prior knowledge.
    Http2,
}

/// Where https is: at its own port, at another, or nowhere to be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectToHttps {
    No,
    To(u16),
}

impl RedirectToHttps {
    pub fn port(self) -> Option<u16> {
        match self {
            Self::No => None,
            Self::To(port) => Some(port),
        }
    }
}

impl<'de> Deserialize<'de> for RedirectToHttps {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl serde::de::Visitor<'_> for Form {
            type Value = RedirectToHttps;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false or a port")
            }
            fn visit_bool<E: serde::de::Error>(self, wanted: bool) -> Result<RedirectToHttps, E> {
                Ok(if wanted { RedirectToHttps::To(443) } else { RedirectToHttps::No })
            }
            fn visit_i64<E: serde::de::Error>(self, port: i64) -> Result<RedirectToHttps, E> {
                let port = u16::try_from(port).ok().filter(|port| *port > 0);
                port.map(RedirectToHttps::To).ok_or_else(|| E::custom("no port; write true, or a number up to 65535"))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for RedirectToHttps {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RedirectToHttps".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "boolean" }, { "type": "integer", "minimum": 1, "maximum": 65535 }] })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen(pub ListenKeys);

impl Listen {
    pub(super) fn at(address: &str) -> Self {
        Self(ListenKeys {
            address: address.to_owned(),
            tls: None,
            protocol: Spoken::Auto,
            proxy_protocol: false,
            mode: None,
            redirect_to_https: None,
        })
    }
}

short_or_long!(
    Listen,
    ListenKeys,
    "an address to listen on, or a map with address, tls, protocol, proxy_protocol, mode, redirect_to_https",
    |text: &str| Ok::<_, String>(Listen::at(text)),
    |keys| Ok::<_, String>(Listen(keys))
);
