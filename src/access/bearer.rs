//! Step 4. The credentials: exactly one bearer token, in the `Authorization` header (RFC 6750 §2) or, for a WebSocket where
//! the route says so, among the subprotocols that it offers; and nowhere else.

use http::HeaderValue;
use http::header::AUTHORIZATION;

use super::denial::Denial;
use super::{Head, subprotocol};

/// The token of a request. A token in the query is never taken as one (OAuth 2.1 §5.1); beside a token elsewhere it makes
/// the request ambiguous, and so does a second one of any kind.
pub fn token<'h>(head: &Head<'h>, websocket_token: bool) -> Result<&'h str, Denial> {
    let headers: &'h http::HeaderMap = head.headers;
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let mut offered = subprotocol::tokens(headers).filter(|_| head.websocket);
    let (header, offered_first) = (values.next(), offered.next());
    if values.next().is_some() || (header.is_some() && offered_first.is_some()) {
        return Err(Denial::TokenRepeated);
    }
    let token = match (header, offered_first.filter(|_| websocket_token)) {
        (Some(value), _) => of_header(value)?,
        (None, Some(token)) => token,
        (None, None) => return Err(Denial::TokenMissing),
    };
    let in_query = |query: &str| query.split('&').any(|pair| pair == "access_token" || pair.starts_with("access_token="));
    if offered.next().is_some() || head.query.is_some_and(in_query) {
        return Err(Denial::TokenRepeated);
    }
    match is_b64token(token) {
        true => Ok(token),
        false => Err(Denial::TokenMalformed("not the form of a bearer token")),
    }
}

fn of_header(value: &HeaderValue) -> Result<&str, Denial> {
    let value = value.to_str().map_err(|_| Denial::TokenMalformed("bytes outside ASCII"))?;
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    match scheme.eq_ignore_ascii_case("Bearer") {
        true => Ok(rest.trim_start_matches(' ')),
        false => Err(Denial::SchemeUnknown),
    }
}

/// The characters of a `b64token`, as a table, since every byte of every token is looked up.
const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let allowed = b"-._~+/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut i = 0;
    while i < allowed.len() {
        table[allowed[i] as usize] = true;
        i += 1;
    }
    table
};

/// `b64token` of RFC 6750 §2.1.
fn is_b64token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|byte| TOKEN_BYTES[usize::from(byte)])
}

#[cfg(test)]
mod tests {
    use http::header::SEC_WEBSOCKET_PROTOCOL;
    use http::{HeaderMap, Method};

    use super::*;

    fn of(values: &[&str], query: Option<&str>) -> Result<String, &'static str> {
        among(values, &[], query, (false, false))
    }

    fn among(values: &[&str], offered: &[&str], query: Option<&str>, (websocket, allowed): (bool, bool)) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, values) in [(AUTHORIZATION, values), (SEC_WEBSOCKET_PROTOCOL, offered)] {
            for value in values {
                headers.append(&name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
        }
        let head = Head { method: &Method::GET, host: "", path: "/", query, headers: &headers, websocket, plain: false, certificate: None };
        token(&head, allowed).map(str::to_owned).map_err(|denial| denial.row().code)
    }

    #[test]
    fn a_websocket_may_offer_its_token_where_the_route_says_so_and_nowhere_else() {
        const TOKEN: &[&str] = &["chat, wicketgate.bearer.a.b.c"];
        const ALLOWED: (bool, bool) = (true, true);
        assert_eq!(among(&[], TOKEN, None, ALLOWED).as_deref(), Ok("a.b.c"));
        assert_eq!(among(&["Bearer x"], TOKEN, None, (false, true)).as_deref(), Ok("x"));
        type Row = (&'static [&'static str], &'static [&'static str], Option<&'static str>, (bool, bool), &'static str);
        let table: [Row; 9] = [
            (&[], TOKEN, None, (true, false), "token_missing"),
            (&[], TOKEN, None, (false, true), "token_missing"),
            (&[], &["chat, wicketgate.bearer"], None, ALLOWED, "token_missing"),
            (&[], &["wicketgate.bearer.a, wicketgate.bearer.b"], None, ALLOWED, "token_repeated"),
            (&[], &["wicketgate.bearer.a", "wicketgate.bearer.a"], None, ALLOWED, "token_repeated"),
            (&["Bearer x"], TOKEN, None, ALLOWED, "token_repeated"),
            (&["Bearer x"], TOKEN, None, (true, false), "token_repeated"),
            (&[], TOKEN, Some("access_token=x"), ALLOWED, "token_repeated"),
            (&[], &["wicketgate.bearer."], None, ALLOWED, "token_malformed"),
        ];
        for (values, offered, query, settings, code) in table {
            assert_eq!(among(values, offered, query, settings), Err(code), "{values:?} {offered:?} {query:?} {settings:?}");
        }
    }

    #[test]
    fn exactly_one_token_in_the_header() {
        assert_eq!(of(&["Bearer abc.d-e_f"], None).as_deref(), Ok("abc.d-e_f"));
        assert_eq!(of(&["bEARER   abc"], Some("x=access_token")).as_deref(), Ok("abc"));
        let table: [(&[&str], Option<&str>, &str); 15] = [
            (&[], None, "token_missing"),
            (&[], Some("access_token=abc"), "token_missing"),
            (&["Bearer a", "Bearer b"], None, "token_repeated"),
            (&["Basic eDp5", "Bearer b"], None, "token_repeated"),
            (&["Bearer a"], Some("a=b&access_token=abc"), "token_repeated"),
            (&["Basic eDp5"], None, "scheme_unknown"),
            (&["BearerX abc"], None, "scheme_unknown"),
            (&["Bearer: abc"], None, "scheme_unknown"),
            (&["Bearer\tabc"], None, "scheme_unknown"),
            (&["Bearer"], None, "token_malformed"),
            (&["Bearer "], None, "token_malformed"),
            (&["Bearer \"abc\""], None, "token_malformed"),
            (&["Bearer a b"], None, "token_malformed"),
            (&["Bearer a,Bearer b"], None, "token_malformed"),
            (&["Bearer caf\u{e9}"], None, "token_malformed"),
        ];
        for (values, query, code) in table {
            assert_eq!(of(values, query), Err(code), "{values:?} {query:?}");
        }
    }
}
