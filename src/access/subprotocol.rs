//! Step 4. A token among the subprotocols that a WebSocket offers: a page in a browser can set no header of its own there.
//!
//! `Sec-WebSocket-Protocol: chat, wicketgate.bearer.TOKEN`. The entry is the gate's alone: no service gets to see it, on no route.

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue};

/// What a client may offer beside its token: the gate chooses it when the service has chosen none, since a browser gives up a
/// WebSocket of whose subprotocols none was chosen.
pub const MARK: &str = "wicketgate.bearer";

/// The tokens that are offered.
pub fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    offered(headers).filter_map(token)
}

/// What is offered to the service.
#[derive(Debug, PartialEq, Eq)]
pub struct Offer {
    /// The subprotocols without those of the gate, if any is left.
    pub rest: Option<HeaderValue>,
    /// Whether the gate may choose its own.
    pub marked: bool,
    /// The token, where there is one.
    pub token: Option<String>,
}

impl Offer {
    /// `None` where nothing is offered that is the gate's.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let own = |name: &str| token(name).is_some() || name.eq_ignore_ascii_case(MARK);
        let odd = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().any(|line| line.to_str().is_err());
        if !odd && !offered(headers).any(own) {
            return None;
        }
        let rest: Vec<&str> = offered(headers).filter(|name| !own(name)).collect();
        let rest = HeaderValue::try_from(rest.join(", ")).ok().filter(|list| !list.is_empty());
        let marked = offered(headers).any(|name| name.eq_ignore_ascii_case(MARK));
        Some(Self { rest, marked, token: tokens(headers).next().map(str::to_owned) })
    }
}

fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    // A line that cannot be read is no list of names (RFC 6455 §4.1), and could carry an entry past us: it goes nowhere.
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

/// What follows `wicketgate.bearer.`.
fn token(name: &str) -> Option<&str> {
    let (start, rest) = name.split_at_checked(MARK.len())?;
    rest.strip_prefix('.').filter(|_| start.eq_ignore_ascii_case(MARK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect()
    }

    #[test]
    fn what_is_the_gates_is_taken_out_of_what_is_offered() {
        type Row = (&'static [&'static str], Option<(&'static str, bool, &'static str)>);
        let table: [Row; 9] = [
            (&[], None),
            (&["chat, superchat"], None),
            (&["wicketgate.bearerX, wicketgate"], None),
            (&["chat, wicketgate.bearer.a.b.c"], Some(("chat", false, "a.b.c"))),
            (&["wicketgate.bearer.a.b.c ,chat", "x"], Some(("chat, x", false, "a.b.c"))),
            (&["wicketgate.bearer", "wicketgate.bearer.t"], Some(("", true, "t"))),
            (&["wicketgate.bearer, chat"], Some(("chat", true, ""))),
            (&["WicketGate.Bearer.T"], Some(("", false, "T"))),
            (&["chat", "caf\u{e9}, wicketgate.bearer.t"], Some(("chat", false, ""))),
        ];
        for (lines, expected) in table {
            let offer = Offer::of(&headers(lines));
            let seen = offer.as_ref().map(|offer| {
                let rest = offer.rest.as_ref().map_or("", |rest| rest.to_str().unwrap());
                (rest, offer.marked, offer.token.as_deref().unwrap_or_default())
            });
            assert_eq!(seen, expected, "{lines:?}");
        }
    }
}
