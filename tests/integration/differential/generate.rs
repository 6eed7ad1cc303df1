//! Requests and answers that are legal, and as odd as the RFCs allow. The same seed makes the same ones.

use super::wire::Field;

/// A small generator of numbers (xorshift64*): the same in every version of everything.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % limit
    }

    pub fn in_a_hundred(&mut self, times: usize) -> bool {
        self.below(100) < times
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

#[derive(Clone)]
pub enum Sending {
    Nothing,
    Length(Vec<u8>),
    Chunked { chunks: Vec<Vec<u8>>, trailers: Vec<Field> },
}

/// Bodies are shown by their length.
impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => write!(f, "nothing"),
            Self::Length(body) => write!(f, "{} bytes", body.len()),
            Self::Chunked { chunks, trailers } => write!(f, "{} chunks, {trailers:?}", chunks.len()),
        }
    }
}

impl Sending {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Length(body) => body.clone(),
            Self::Chunked { chunks, .. } => chunks.concat(),
        }
    }
}

/// How an answer's body ends.
#[derive(Debug, Clone)]
pub enum Ending {
    Length,
    Chunked(Vec<Field>),
    Close,
}

#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub reason: String,
    pub interim: Vec<&'static str>,
    pub fields: Vec<Field>,
    pub body: Vec<u8>,
    pub ending: Ending,
}

#[derive(Clone)]
pub struct Case {
    pub number: usize,
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    pub http10: bool,
    /// The target with scheme and authority before it.
    pub absolute: bool,
    /// The path can be read in two ways.
    pub ambiguous: bool,
    pub expects: bool,
    pub fields: Vec<Field>,
    pub sending: Sending,
    pub reply: Reply,
}

const METHODS: [&str; 14] =
    ["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "get", "x!#$%&'*+-.^_`|~9"];
const SEGMENT_PARTS: [&str; 22] = [
    "a",
    "Zz9",
    "-",
    "_",
    "~",
    "!",
    "$&",
    "'()",
    "*",
    "+",
    ",",
    "=",
    ":",
    "@",
    "a%20b",
    "%C3%A9",
    "%c3%a9",
    "%F0%9F%98%80",
    "%22%3C",
    "[]|^",
    "a.b",
    "%25~",
];
const AMBIGUOUS: [&str; 10] = ["../x", "./x", "/x", "%2e%2e/x", "a;b=c", "a%2Fb", "a%5cb", "%61", "%ff", "%zz"];
const QUERY_PARTS: [&str; 16] =
    ["a=b", "&", "=", "?", "/", "%2f", "%2F..", "%zz", "+", ";", "[0]", "{x}", "|^`", "caf%C3%A9", "access=1", "http://x.example/?y"];
/// Names that a client may well send; those that the gate keeps to itself come from the documentation.
const NAMES: [&str; 24] = [
    "Accept",
    "accept-encoding",
    "ACCEPT-LANGUAGE",
    "User-Agent",
    "Referer",
    "Origin",
    "Range",
    "If-None-Match",
    "If-Range",
    "Content-Type",
    "Content-Encoding",
    "Content-Language",
    "Cache-Control",
    "Pragma",
    "Date",
    "X-Custom",
    "x-custom",
    "X-Odd!#$%&'*+.^`|~Name",
    "DNT",
    "Sec-Fetch-Mode",
    "traceparent",
    "Priority",
    "MCP-Protocol-Version",
    "Via",
];
const ANSWER_NAMES: [&str; 24] = [
    "Server",
    "ETag",
    "Vary",
    "Location",
    "Content-Type",
    "Content-Encoding",
    "Cache-Control",
    "Set-Cookie",
    "set-cookie",
    "WWW-Authenticate",
    "Allow",
    "Accept-Ranges",
    "Content-Range",
    "Last-Modified",
    "Expires",
    "X-Custom",
    "x-custom",
    "X-Odd!#$%&'*+.^`|~Name",
    "Link",
    "Strict-Transport-Security",
    "Retry-After",
    "Warning",
    "Access-Control-Allow-Origin",
    "Age",
];
const VALUES: [&[u8]; 14] = [
    b"",
    b"a",
    b"a, b",
    b"\"quoted, with \\\" inside\"",
    b"tab\there",
    b"two  spaces",
    b"caf\xc3\xa9",
    b"\xff\x80\xfe",
    b"=?utf-8?q?x?=",
    b"a;b=c;d=\"e\"",
    b"*",
    b"0",
    b"Mon, 01 Jan 2024 00:00:00 GMT",
    b"{\"a\":[1,2]}",
];
const TRAILER_NAMES: [&str; 5] = ["X-Checksum", "x-second", "X-Third", "Server-Timing", "X-Fourth"];

/// What the documentation says of names: those that the gate removes from requests and from answers.
pub struct Removed {
    pub requests: Vec<String>,
    pub answers: Vec<String>,
}

fn value(dice: &mut Dice) -> Vec<u8> {
    match dice.below(20) {
        0 => vec![b'x'; dice.below(2000)],
        1 => (0..dice.below(40)).map(|_| (0x21 + dice.below(0x5e)) as u8).collect(),
        _ => dice.pick(&VALUES).to_vec(),
    }
}

fn body(dice: &mut Dice) -> Vec<u8> {
    let length = match dice.below(10) {
        0 => 0,
        1 => 1,
        2..8 => dice.below(600),
        8 => dice.below(9_000),
        _ => dice.below(70_000),
    };
    (0..length).map(|_| dice.below(256) as u8).collect()
}

fn trailers(dice: &mut Dice) -> Vec<Field> {
    let (first, count) = (dice.below(3), dice.below(3));
    (first..first + count).map(|i| (TRAILER_NAMES[i].to_owned(), dice.pick(&[&b"1"[..], b"a b", b"\xe9"]).to_vec())).collect()
}

/// Whether these trailers are announced: mostly.
fn announce(dice: &mut Dice, trailers: &[Field], fields: &mut Vec<Field>) {
    if !trailers.is_empty() && dice.in_a_hundred(80) {
        let names: Vec<&str> = trailers.iter().map(|(name, _)| name.as_str()).collect();
        fields.push(("Trailer".to_owned(), names.join(", ").into_bytes()));
    }
}

fn sending(dice: &mut Dice, http10: bool, fields: &mut Vec<Field>) -> Sending {
    match dice.below(10) {
        0..4 => Sending::Nothing,
        4..7 => Sending::Length(body(dice)),
        _ if http10 => Sending::Length(body(dice)),
        _ => {
            let mut chunks = Vec::new();
            let mut rest = body(dice);
            while !rest.is_empty() {
                let most = dice.pick(&[1, 7, 100, 20_000]);
                let size = (1 + dice.below(most)).min(rest.len());
                chunks.push(rest.drain(..size).collect());
                if chunks.len() > 30 {
                    chunks.push(std::mem::take(&mut rest));
                }
            }
            chunks.retain(|chunk: &Vec<u8>| !chunk.is_empty());
            let trailers = trailers(dice);
            announce(dice, &trailers, fields);
            Sending::Chunked { chunks, trailers }
        }
    }
}

fn path(dice: &mut Dice, ambiguous: bool) -> String {
    let mut path = String::new();
    let (count, at) = (1 + dice.below(4), dice.below(3));
    for i in 0..count.max(at + 1) {
        path.push('/');
        if ambiguous && i == at {
            path.push_str(dice.pick(&AMBIGUOUS));
            continue;
        }
        path.push('s');
        for _ in 0..dice.below(5) {
            path.push_str(dice.pick(&SEGMENT_PARTS));
        }
    }
    if dice.in_a_hundred(15) {
        path.push('/');
    }
    path
}

fn request_fields(dice: &mut Dice, removed: &Removed) -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    for _ in 0..dice.below(9) {
        let name = match dice.in_a_hundred(25) {
            true => {
                let name = removed.requests[dice.below(removed.requests.len())].replace('*', "anything");
                match name.as_str() {
                    // Those of the framing, and those with a row of their own.
                    "transfer-encoding" | "content-length" | "host" | "expect" | "connection" | "te" | "upgrade" => continue,
                    _ if dice.in_a_hundred(30) => name.replace('-', "_"),
                    _ => name,
                }
            }
            false => dice.pick(&NAMES).to_owned(),
        };
        let value = match name.as_str() {
            // A list of hops.
            "Via" => dice.pick(&[&b"1.0 fred"[..], b"1.1 nowhere.example (Apache/1.1)"]).to_vec(),
            _ => value(dice),
        };
        fields.push((name, value));
    }
    for _ in 0..[0, 0, 0, 1, 2, 3][dice.below(6)] {
        fields.push((dice.pick(&["Cookie", "cookie"]).to_owned(), dice.pick(&[&b"a=1"[..], b"b=2; c=3", b"d=\"4\"", b"e="]).to_vec()));
    }
    if dice.in_a_hundred(20) {
        fields.push(("X-Request-Id".to_owned(), dice.pick(&[&b"mine-1"[..], b"not sane", b"", b"a/b+c=", b"\xff"]).to_vec()));
    }
    if dice.in_a_hundred(15) {
        fields.push(("TE".to_owned(), dice.pick(&[&b"trailers"[..], b"trailers, deflate;q=0.5", b"gzip"]).to_vec()));
    }
    if dice.in_a_hundred(15) {
        let mut options: Vec<&str> = vec![dice.pick(&["keep-alive", "X-Custom", "x-odd!#$%&'*+.^`|~name", "Accept", "TE"])];
        if dice.in_a_hundred(30) {
            options.push(dice.pick(&["Cookie", "X-Request-Id", "Content-Type", "upgrade"]));
        }
        fields.push(("Connection".to_owned(), options.join(" ,").into_bytes()));
        if options.contains(&"upgrade") {
            fields.push(("Upgrade".to_owned(), dice.pick(&[&b"h2c"[..], b"foo/2", b"websocket, foo"]).to_vec()));
        }
    }
    if dice.in_a_hundred(5) {
        fields.push(("Max-Forwards".to_owned(), dice.pick(&[&b"7"[..], b"1"]).to_vec()));
    }
    shuffle(dice, &mut fields);
    fields
}

fn shuffle(dice: &mut Dice, fields: &mut [Field]) {
    for i in (1..fields.len()).rev() {
        fields.swap(i, dice.below(i + 1));
    }
}

fn reply(dice: &mut Dice, removed: &Removed, http10: bool) -> Reply {
    let status = dice.pick(&[
        200, 200, 200, 200, 201, 202, 203, 206, 204, 304, 301, 302, 307, 400, 401, 403, 404, 405, 409, 410, 418, 429, 451, 500, 502, 503,
        299, 599,
    ]);
    let reason = dice.pick(&["OK", "", "As You Like It", "Non-Standard, Very", "Not Found"]).to_owned();
    let mut fields: Vec<Field> = Vec::new();
    for _ in 0..dice.below(8) {
        let name = match dice.in_a_hundred(25) {
            true => {
                let name = removed.answers[dice.below(removed.answers.len())].replace('*', "anything");
                match name.as_str() {
                    "transfer-encoding" | "connection" => continue,
                    _ => name,
                }
            }
            false => dice.pick(&ANSWER_NAMES).to_owned(),
        };
        fields.push((name, value(dice)));
    }
    if dice.in_a_hundred(50) {
        fields.push(("Date".to_owned(), b"Mon, 01 Jan 2024 00:00:00 GMT".to_vec()));
    }
    if dice.in_a_hundred(10) {
        fields.push(("Connection".to_owned(), dice.pick(&[&b"keep-alive"[..], b"X-Custom", b"x-custom, vary"]).to_vec()));
    }
    if dice.in_a_hundred(10) {
        fields.push(("X-Request-Id".to_owned(), b"the-services-own".to_vec()));
    }
    let ending = match dice.below(10) {
        0..5 => Ending::Length,
        5..9 if !http10 => {
            let trailers = trailers(dice);
            announce(dice, &trailers, &mut fields);
            Ending::Chunked(trailers)
        }
        _ => Ending::Close,
    };
    let interim = match dice.below(12) {
        _ if http10 => vec![],
        0 => vec!["HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"],
        1 => vec!["HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: <b>\r\n\r\n"],
        _ => vec![],
    };
    shuffle(dice, &mut fields);
    Reply { status, reason, interim, fields, body: body(dice), ending }
}

/// As it goes over the wire, and what is answered.
impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (head, _) = self.bytes(&mut Dice::new(1));
        writeln!(f, "{}\n  with {:?}, answered by", String::from_utf8_lossy(&head).trim_end(), self.sending)?;
        let reply = Reply { body: Vec::new(), ..self.reply.clone() };
        write!(f, "{}  with {} bytes, {:?}", String::from_utf8_lossy(&reply.bytes(&self.method)), self.reply.body.len(), self.reply.ending)
    }
}

impl Case {
    pub fn new(number: usize, dice: &mut Dice, removed: &Removed) -> Self {
        let http10 = dice.in_a_hundred(5);
        let ambiguous = !http10 && dice.in_a_hundred(4);
        let mut fields = request_fields(dice, removed);
        let sending = if ambiguous { Sending::Nothing } else { sending(dice, http10, &mut fields) };
        let expects = !http10 && !sending.bytes().is_empty() && dice.in_a_hundred(15);
        if http10 {
            fields.retain(|(name, _)| !name.eq_ignore_ascii_case("connection") && !name.eq_ignore_ascii_case("upgrade"));
        }
        Self {
            number,
            method: dice.pick(&METHODS).to_owned(),
            path: path(dice, ambiguous),
            query: dice.in_a_hundred(50).then(|| (0..dice.below(6)).map(|_| dice.pick(&QUERY_PARTS)).collect()),
            http10,
            absolute: !ambiguous && dice.in_a_hundred(5),
            ambiguous,
            expects,
            fields,
            sending,
            reply: reply(dice, removed, http10),
        }
    }

    pub fn target(&self) -> String {
        let query = self.query.as_ref().map_or_else(String::new, |query| format!("?{query}"));
        format!("{}{query}", self.path)
    }

    /// Whether the connection is of no use after this one.
    pub fn closes(&self) -> bool {
        self.http10 || matches!(self.reply.ending, Ending::Close)
    }

    /// The head and the body as HTTP/1.1 has them.
    pub fn bytes(&self, dice: &mut Dice) -> (Vec<u8>, Vec<u8>) {
        let version = if self.http10 { "1.0" } else { "1.1" };
        let before = if self.absolute { "http://gate.example:8080" } else { "" };
        let mut head =
            format!("{} {before}{} HTTP/{version}\r\nHost: gate.example:8080\r\nX-Case: {}\r\n", self.method, self.target(), self.number)
                .into_bytes();
        for (name, value) in &self.fields {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(dice.pick(&[":", ": ", ":  ", ":\t"]).as_bytes());
            head.extend_from_slice(value);
            head.extend_from_slice(dice.pick(&["\r\n", " \r\n"]).as_bytes());
        }
        if self.expects {
            head.extend_from_slice(b"Expect: 100-continue\r\n");
        }
        let mut body = Vec::new();
        match &self.sending {
            Sending::Nothing => {}
            Sending::Length(bytes) => {
                head.extend_from_slice(format!("Content-Length: {}\r\n", bytes.len()).as_bytes());
                body.clone_from(bytes);
            }
            Sending::Chunked { chunks, trailers } => {
                head.extend_from_slice(dice.pick(&["Transfer-Encoding: chunked\r\n", "transfer-encoding:Chunked\r\n"]).as_bytes());
                for chunk in chunks {
                    let size = match dice.below(4) {
                        0 => format!("{:X}", chunk.len()),
                        1 => format!("000{:x}", chunk.len()),
                        2 => format!("{:x};name=\"value\"", chunk.len()),
                        _ => format!("{:x}", chunk.len()),
                    };
                    body.extend_from_slice(format!("{size}\r\n").as_bytes());
                    body.extend_from_slice(chunk);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(b"0\r\n");
                for (name, value) in trailers {
                    body.extend_from_slice(format!("{name}: ").as_bytes());
                    body.extend_from_slice(value);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(b"\r\n");
            }
        }
        head.extend_from_slice(b"\r\n");
        (head, body)
    }
}

impl Reply {
    /// Whether the end of the connection is the end of the body. A connection that is closed for no such reason may be in
    /// use again by then, and what was just sent on it is lost.
    pub fn ends_with_connection(&self, method: &str) -> bool {
        matches!(self.ending, Ending::Close) && !self.is_bodiless(method)
    }

    pub fn is_bodiless(&self, method: &str) -> bool {
        method == "HEAD" || matches!(self.status, 204 | 304)
    }

    /// The answer to a request of this method.
    pub fn bytes(&self, method: &str) -> Vec<u8> {
        let mut bytes = self.interim.concat().into_bytes();
        bytes.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", self.status, self.reason).as_bytes());
        for (name, value) in &self.fields {
            bytes.extend_from_slice(format!("{name}: ").as_bytes());
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        // RFC 9110 §8.6, RFC 9112 §6.1: a 204 has neither.
        match &self.ending {
            _ if self.status == 204 => {}
            Ending::Length => bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes()),
            Ending::Chunked(_) => bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Ending::Close => {}
        }
        bytes.extend_from_slice(b"\r\n");
        if self.is_bodiless(method) {
            return bytes;
        }
        match &self.ending {
            Ending::Length | Ending::Close => bytes.extend_from_slice(&self.body),
            Ending::Chunked(trailers) => {
                for chunk in self.body.chunks(1000 + self.body.len() / 3) {
                    bytes.extend_from_slice(format!("{:x};x=y\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n");
                for (name, value) in trailers {
                    bytes.extend_from_slice(format!("{name}: ").as_bytes());
                    bytes.extend_from_slice(value);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes
    }
}
