//! Step 4. The credentials: exactly one bearer token, in the `Authorization` header and nowhere else (RFC 6750 §2).

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::denial::Denial;

/// The token of a request. A token in the query is never taken as one (OAuth 2.1 §5.1); beside a token in the header
/// it makes the request ambiguous.
pub fn token<'h>(headers: &'h HeaderMap, query: Option<&str>) -> Result<&'h str, Denial> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Err(Denial::TokenMissing) };
    if values.next().is_some() {
        return Err(Denial::TokenRepeated);
    }
    let value = value.to_str().map_err(|_| Denial::TokenMalformed("bytes outside ASCII"))?;
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(Denial::SchemeUnknown);
    }
    if query.is_some_and(|query| query.split('&').any(|pair| pair == "access_token" || pair.starts_with("access_token="))) {
        return Err(Denial::TokenRepeated);
    }
    let token = rest.trim_start_matches(' ');
    match is_b64token(token) {
        true => Ok(token),
        false => Err(Denial::TokenMalformed("not the form of a bearer token")),
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
    use super::*;

    fn of(values: &[&str], query: Option<&str>) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        token(&headers, query).map(str::to_owned).map_err(|denial| denial.row().code)
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
