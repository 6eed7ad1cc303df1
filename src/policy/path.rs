//! The one reading of a path. A path that two readers could understand differently is refused, never corrected.
//!
//! What is decided on is what is forwarded, byte for byte. So nothing is normalised here: a path either has exactly
//! one reading (RFC 3986 §6.2.2 would change nothing in it) or it has none.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

/// Why a path has more than one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("the path does not start with a slash")]
    Form,
    #[error("an empty segment (`//`)")]
    EmptySegment,
    #[error("a dot segment")]
    DotSegment,
    #[error("a path parameter (`;`)")]
    Parameter,
    #[error("a character that does not belong in a path")]
    Character,
    #[error("a broken percent-escape")]
    Escape,
    #[error("an escaped character that needs no escape, or an escaped separator")]
    NeedlessEscape,
    #[error("bytes that are no UTF-8")]
    Utf8,
    #[error("a character that some readers fold to a separator")]
    Confusable,
}

/// A path with one reading, its percent-escapes decoded. Segments are those of the raw path, since no escape in it
/// stands for a separator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPath<'a> {
    decoded: Cow<'a, str>,
}

impl<'a> CheckedPath<'a> {
    /// Checks the path of a request target, without its query.
    pub fn new(raw: &'a str) -> Result<Self, PathFault> {
        let Some(inside) = raw.strip_prefix('/') else { return Err(PathFault::Form) };
        let mut escapes = false;
        for byte in raw.bytes() {
            match byte {
                b'%' => escapes = true,
                b';' => return Err(PathFault::Parameter),
                byte if is_path_byte(byte) => {}
                _ => return Err(PathFault::Character),
            }
        }
        let decoded = if escapes { Cow::Owned(decode(raw)?) } else { Cow::Borrowed(raw) };
        if inside.is_empty() {
            return Ok(Self { decoded });
        }
        let mut segments = decoded[1..].split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment.is_empty() && segments.peek().is_some() {
                return Err(PathFault::EmptySegment);
            }
            if !segment.is_empty() && segment.chars().all(|c| c == '.' || c.is_whitespace()) {
                return Err(PathFault::DotSegment);
            }
            if segment.ends_with(char::is_whitespace) || segment.starts_with(char::is_whitespace) {
                return Err(PathFault::Character);
            }
        }
        Ok(Self { decoded })
    }

    /// Everything after the first slash.
    pub fn inside(&self) -> &str {
        &self.decoded[1..]
    }

    /// Whether this path is `prefix` or lies below it, by whole segments. A prefix ends without a slash.
    pub fn is_below(&self, prefix: &str) -> bool {
        self.decoded.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The characters of RFC 3986's `pchar` and the slash, and those that browsers send unescaped in a path; as a table,
/// since every byte of every path is looked up.
const PATH_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let allowed = b"-._~!$&'()*+,=:@/[]|^0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut i = 0;
    while i < allowed.len() {
        table[allowed[i] as usize] = true;
        i += 1;
    }
    table
};

fn is_path_byte(byte: u8) -> bool {
    PATH_BYTES[usize::from(byte)]
}

fn decode(raw: &str) -> Result<String, PathFault> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (rest.next().and_then(hex), rest.next().and_then(hex)) else {
            return Err(PathFault::Escape);
        };
        let escaped = high << 4 | low;
        match escaped {
            b'/' | b'\\' | b';' | b'?' | b'#' => return Err(PathFault::NeedlessEscape),
            b'-' | b'.' | b'_' | b'~' => return Err(PathFault::NeedlessEscape),
            byte if byte.is_ascii_alphanumeric() => return Err(PathFault::NeedlessEscape),
            byte if byte.is_ascii_control() => return Err(PathFault::Character),
            byte => bytes.push(byte),
        }
    }
    let decoded = String::from_utf8(bytes).map_err(|_| PathFault::Utf8)?;
    if twice_escaped(&decoded) {
        return Err(PathFault::NeedlessEscape);
    }
    if decoded.chars().filter(|c| !c.is_ascii()).any(folds_to_separator) {
        return Err(PathFault::Confusable);
    }
    Ok(decoded)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A percent sign that, decoded once, starts an escape again (`%252e`): a reader that decodes twice sees another path.
fn twice_escaped(decoded: &str) -> bool {
    let bytes = decoded.as_bytes();
    bytes.iter().enumerate().any(|(i, byte)| {
        let next = |n: usize| bytes.get(i + n).copied();
        let digits = |from: usize| next(from).and_then(hex).is_some() && next(from + 1).and_then(hex).is_some();
        *byte == b'%' && (digits(1) || (matches!(next(1), Some(b'u' | b'U')) && digits(2)))
    })
}

/// Full-width forms and their like, which some file systems and frameworks fold to ASCII (Unicode NFKC).
fn folds_to_separator(c: char) -> bool {
    c.is_control() || std::iter::once(c).nfkc().any(|folded| "./\\;%?#".contains(folded) || folded.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in ["/", "/me", "/forecast/oslo", "/a/", "/a.b/c..d/.hidden", "/caf%C3%A9", "/a%20b", "/100%25", "/items[0]", "/a:b@c"] {
            assert!(CheckedPath::new(path).is_ok(), "{path} was refused: {:?}", CheckedPath::new(path));
        }
        assert_eq!(CheckedPath::new("/caf%c3%a9").unwrap().inside(), "café");
    }

    #[test]
    fn a_path_with_two_readings_is_refused() {
        use PathFault::*;
        let table = [
            ("", Form),
            ("*", Form),
            ("admin", Form),
            ("//admin", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/public/../admin", DotSegment),
            ("/./a", DotSegment),
            ("/a/...", DotSegment),
            ("/a/..%20/b", DotSegment),
            ("/a/..%C2%A0/b", DotSegment),
            ("/a;v=1/b", Parameter),
            ("/public/..;/admin", Parameter),
            ("/a\\b", Character),
            ("/a b", Character),
            ("/a%00", Character),
            ("/a%0d%0a", Character),
            ("/a%20/b", Character),
            ("/a#b", Character),
            ("/\u{e9}", Character),
            ("/%2e%2e/admin", NeedlessEscape),
            ("/public%2fadmin", NeedlessEscape),
            ("/%61dmin", NeedlessEscape),
            ("/a%5cb", NeedlessEscape),
            ("/a%3bb", NeedlessEscape),
            ("/%252e%252e/admin", NeedlessEscape),
            ("/%25u002e", NeedlessEscape),
            ("/a%", Escape),
            ("/a%2", Escape),
            ("/a%zz", Escape),
            ("/%c0%ae", Utf8),
            ("/%ff", Utf8),
            ("/%EF%BC%8E%EF%BC%8E/admin", Confusable),
            ("/a%EF%BC%8Fb", Confusable),
        ];
        for (path, fault) in table {
            assert_eq!(CheckedPath::new(path), Err(fault), "{path}");
        }
    }

    #[test]
    fn a_prefix_counts_by_whole_segments() {
        let path = CheckedPath::new("/mcp/tools").unwrap();
        assert!(path.is_below("") && path.is_below("/mcp") && !path.is_below("/mc"));
    }
}
