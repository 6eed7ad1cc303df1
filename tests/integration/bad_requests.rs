//! What two readers could understand differently, or what is too much, is refused and never reaches the upstream.

use super::support::*;

/// What a request must come to.
struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    status: u16,
    /// Empty where the parser refuses before there is a request to speak of.
    code: &'static str,
    closes: bool,
}

impl Row {
    /// Where a refusal is counted: as one of a connection if the parser refused, else as one of a request.
    fn series(&self, service: &str) -> String {
        match (self.code, self.status) {
            ("", 431) => "wicketgate_connection_errors_total{reason=\"head_too_large\"}".to_owned(),
            ("", _) => "wicketgate_connection_errors_total{reason=\"no_http\"}".to_owned(),
            (code, _) => format!("wicketgate_refusals_total{{reason=\"{code}\",service=\"{service}\"}}"),
        }
    }
}

/// How often this kind of refusal was counted: before there is a route, and on one.
async fn counted(gate: &Gate, row: &Row) -> f64 {
    let series = [row.series("-"), row.series("weather")];
    let series = if row.code.is_empty() { &series[..1] } else { &series[..] };
    let text = gate.admin("/metrics").await.text();
    let value = |line: &str| series.iter().find_map(|series| line.strip_prefix(series)?.trim().parse::<f64>().ok());
    text.lines().filter_map(value).sum()
}

fn row(name: &'static str, bytes: impl AsRef<[u8]>, status: u16, code: &'static str) -> Row {
    Row { name, bytes: bytes.as_ref().to_vec(), status, code, closes: true }
}

/// One after which the connection goes on.
fn open(name: &'static str, bytes: impl AsRef<[u8]>, status: u16, code: &'static str) -> Row {
    Row { closes: false, ..row(name, bytes, status, code) }
}

/// What would be a request of its own to a reader that found another end of the body.
const SMUGGLED: &str = "GET /public/smuggled HTTP/1.1\r\nHost: gate\r\n\r\n";

/// Sends each row on a connection of its own, and after it a good request on a fresh one.
async fn refuses_all(settings: &str, rows: Vec<Row>) {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(settings).start().await;
    for row in rows {
        let before = upstream.received().len();
        let counted_before = counted(&gate, &row).await;
        let mut client = Connection::open(gate.address()).await;
        client.write(&row.bytes).await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.code().as_str()), (row.status, row.code), "{}", row.name);
        if row.closes {
            let rest = client.rest().await;
            assert!(rest.is_empty(), "{}: {rest}", row.name);
        } else {
            client.write(&gate.get("/public/next").bytes("")).await;
            assert_eq!(client.answer("GET").await.status, 200, "{}: the next request", row.name);
        }
        assert_eq!(gate.get("/public/good").send().await.status, 200, "{}: a good request", row.name);
        let after: Vec<String> = upstream.received().into_iter().skip(before).map(|request| request.line).collect();
        let good = "GET /public/good HTTP/1.1".to_owned();
        let expected = if row.closes { vec![good] } else { vec!["GET /public/next HTTP/1.1".to_owned(), good] };
        assert_eq!(after, expected, "{}", row.name);
        until(row.name, || async { counted(&gate, &row).await > counted_before }).await;
        assert_eq!(counted(&gate, &row).await, counted_before + 1.0, "{}: counted", row.name);
    }
}

fn post(name: &'static str, lines: &str, body: &str, status: u16, code: &'static str) -> Row {
    row(name, format!("POST /public/a HTTP/1.1\r\nHost: gate\r\n{lines}\r\n\r\n{body}"), status, code)
}

/// RFC 9112 §6.
#[tokio::test]
async fn a_body_has_one_length() {
    let chunks = format!("0\r\n\r\n{SMUGGLED}");
    let length = "Content-Length: 5";
    let chunked = "Transfer-Encoding: chunked";
    refuses_all(
        "",
        vec![
            post("length, then chunked", &format!("{length}\r\n{chunked}"), &chunks, 400, "lengths_conflict"),
            post("chunked, then length", &format!("{chunked}\r\n{length}"), &chunks, 400, "lengths_conflict"),
            post("length 0 and chunked", &format!("Content-Length: 0\r\n{chunked}"), &chunks, 400, "lengths_conflict"),
            post("odd case", "content-LENGTH: 5\r\ntransfer-ENCODING: Chunked", &chunks, 400, "lengths_conflict"),
            post("two lengths that differ", "Content-Length: 5\r\nContent-Length: 0", SMUGGLED, 400, ""),
            post("a list of lengths", "Content-Length: 0, 5", SMUGGLED, 400, ""),
            post("a signed length", "Content-Length: +5", SMUGGLED, 400, ""),
            post("a negative length", "Content-Length: -5", SMUGGLED, 400, ""),
            post("a hexadecimal length", "Content-Length: 0x5", SMUGGLED, 400, ""),
            post("an empty length", "Content-Length:", SMUGGLED, 400, ""),
            post("a huge length", "Content-Length: 99999999999999999999999", SMUGGLED, 400, ""),
            post("gzip, chunked", "Transfer-Encoding: gzip, chunked", &chunks, 501, "transfer_coding_unknown"),
            post("two codings in two lines", &format!("{chunked}\r\n{chunked}"), &chunks, 501, "transfer_coding_unknown"),
            post("chunked twice", "Transfer-Encoding: chunked, chunked", &chunks, 501, "transfer_coding_unknown"),
            post("chunked not last", "Transfer-Encoding: chunked, identity", &chunks, 400, ""),
            post("an unknown coding", "Transfer-Encoding: xchunked", &chunks, 400, ""),
            post("a coding with a vertical tab", "Transfer-Encoding: \x0bchunked", &chunks, 400, ""),
            row("a coding in HTTP/1.0", format!("POST /public/a HTTP/1.0\r\nHost: gate\r\n{chunked}\r\n\r\n{chunks}"), 400, ""),
            post("space before the colon", "Transfer-Encoding : chunked", &chunks, 400, ""),
            post("a chunk size that is no number", chunked, &format!("0x0\r\n\r\n{SMUGGLED}"), 400, "body_broken"),
            post("a chunk size that overflows", chunked, &format!("{}\r\nx", "f".repeat(17)), 400, "body_broken"),
            post("a chunk without its end", chunked, &format!("1\r\nab\r\n0\r\n\r\n{SMUGGLED}"), 400, "body_broken"),
        ],
    )
    .await;
}

/// RFC 9112 §3.2.
#[tokio::test]
async fn a_request_names_one_host() {
    let get = |lines: &str| format!("GET /public/a HTTP/1.1\r\n{lines}\r\n{SMUGGLED}");
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: gate\r\n\r\n{SMUGGLED}");
    refuses_all(
        "",
        vec![
            row("no host", get(""), 400, "host_invalid"),
            row("two hosts", get("Host: gate\r\nHost: other\r\n"), 400, "host_invalid"),
            row("one host twice", get("Host: gate\r\nHost: gate\r\n"), 400, "host_invalid"),
            row("an empty host", get("Host: \r\n"), 400, "host_invalid"),
            row("a host with a closing dot", get("Host: gate.\r\n"), 400, "host_invalid"),
            row("a host with a closing dot and a port", get("Host: gate.:80\r\n"), 400, "host_invalid"),
            row("a host with userinfo", get("Host: gate@other\r\n"), 400, "host_invalid"),
            row("a list of hosts", get("Host: gate, other\r\n"), 400, "host_invalid"),
            row("a host with a path", get("Host: gate/admin\r\n"), 400, "host_invalid"),
            row("a host with a query", get("Host: gate?a\r\n"), 400, "host_invalid"),
            row("a host with a space", get("Host: ga te\r\n"), 400, "host_invalid"),
            row("a host with an escape", get("Host: g%61te\r\n"), 400, "host_invalid"),
            row("a host with an odd port", get("Host: gate:80a\r\n"), 400, "host_invalid"),
            row("a host with a large port", get("Host: gate:99999\r\n"), 400, "host_invalid"),
            row("a target of another host", target("http://other/public/a"), 400, "host_invalid"),
            row("a target of another port", target("http://gate:81/public/a"), 400, "host_invalid"),
            row("a target with userinfo", target("http://a@gate/public/a"), 400, "host_invalid"),
            row("a target of another scheme", target("ftp://gate/public/a"), 400, "target_invalid"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_target_in_absolute_form_for_the_same_host_is_served() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    for target in ["http://gate/public/a?b", "HTTP://GATE:80/public/a?b"] {
        assert_eq!(gate.get(target).host(Some("gate")).send().await.status, 200, "{target}");
    }

    assert!(upstream.received().iter().all(|request| request.line == "GET /public/a?b HTTP/1.1"));
}

#[tokio::test]
async fn odd_methods_are_refused() {
    let ask = |method: &str, target: &str| format!("{method} {target} HTTP/1.1\r\nHost: gate\r\n\r\n");
    refuses_all(
        "",
        vec![
            row("CONNECT", ask("CONNECT", "gate:80") + SMUGGLED, 405, "method_refused"),
            row("CONNECT with a path", ask("CONNECT", "/public/a") + SMUGGLED, 405, "method_refused"),
            row("TRACE", ask("TRACE", "/public/a") + SMUGGLED, 405, "method_refused"),
            row("a made-up long one", ask(&"A".repeat(100), "/public/a") + SMUGGLED, 405, "method_refused"),
            row("no token", ask("GE(T", "/public/a") + SMUGGLED, 400, ""),
            open("lower case", ask("get", "/me"), 405, "method_unknown"),
            open("another case", ask("Get", "/me"), 405, "method_unknown"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_path_with_two_readings_is_refused() {
    let paths = [
        "/public/../me",
        "/public/./a",
        "/public/%2e%2e/me",
        "/public/%2E./me",
        "/public%2fa",
        "/public%5ca",
        "/public\\a",
        "//public/a",
        "/public//a",
        "/public;v=1/a",
        "/public/..;/me",
        "/public/%00",
        "/public/a%0d%0ab",
        "/%70ublic/a",
        "/public/%252e%252e/me",
        "/public/%c0%ae",
        "/public/%",
        "/public/%zz",
        "/public/%EF%BC%8E%EF%BC%8E/me",
        "/public/...",
        "/public/a%20/b",
        "http://gate/public/../me",
    ];
    let rows = paths.map(|path| open(path, format!("GET {path} HTTP/1.1\r\nHost: gate\r\n\r\n"), 400, "path_ambiguous"));
    refuses_all("", rows.into()).await;
}

#[tokio::test]
async fn bytes_that_readers_take_differently_are_refused() {
    let get = |lines: &str| format!("GET /public/a HTTP/1.1\r\nHost: gate\r\n{lines}\r\n\r\n{SMUGGLED}");
    let first = |line: &str| format!("{line}\r\nHost: gate\r\n\r\n{SMUGGLED}");
    refuses_all(
        "",
        vec![
            row("NUL in a value", get("X-A: a\0b"), 400, ""),
            row("a bare CR in a value", get("X-A: a\rX-B: b"), 400, ""),
            row("a bare CR before the value's end", get("X-A: a\r\r"), 400, ""),
            row("NUL in a name", get("X\0A: a"), 400, ""),
            row("space before the colon", get("X-A : a"), 400, ""),
            row("a tab before the colon", get("X-A\t: a"), 400, ""),
            row("a folded line", get("X-A: a\r\n b"), 400, ""),
            row("a folded first line", "GET /public/a HTTP/1.1\r\n Host: gate\r\n\r\n", 400, ""),
            row("a line without a colon", get("X-A"), 400, ""),
            row("a line without a name", get(": a"), 400, ""),
            row("a fragment", first("GET /public/a#b HTTP/1.1"), 400, "target_invalid"),
            row("a fragment after a query", first("GET /public/a?b#/me HTTP/1.1"), 400, "target_invalid"),
            row("a fragment far into the target", first(&format!("GET /public/{}#b HTTP/1.1", "a".repeat(300))), 400, "target_invalid"),
            row("no slash", first("GET public/a HTTP/1.1"), 400, ""),
            row("a space in the target", first("GET /public/a b HTTP/1.1"), 400, ""),
            row("another version", first("GET /public/a HTTP/1.2"), 400, ""),
            row("no version", first("GET /public/a"), 400, ""),
            row("two spaces", first("GET  /public/a HTTP/1.1"), 400, ""),
            row("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), 400, ""),
        ],
    )
    .await;
}

#[tokio::test]
async fn too_much_is_refused() {
    let get = |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nHost: gate\r\n{lines}\r\n");
    let long = format!("/public/{}", "a".repeat(9 << 10));
    refuses_all(
        "limits: { header_count: 20, header_bytes: 16KiB, uri_bytes: 8KiB, body_bytes: 10B }",
        vec![
            row("too many lines", get("/public/a", &"X-A: b\r\n".repeat(20)), 431, ""),
            row("too large a head", get("/public/a", &format!("X-A: {}\r\n", "b".repeat(17 << 10))), 431, ""),
            open("too long a path", get(&long, ""), 414, "target_too_long"),
            open("too long a query", get(&format!("/public/a?{long}"), ""), 414, "target_too_long"),
            post("too large a body by its length", "Content-Length: 11", "", 413, "body_too_large"),
            post("too large a body in one chunk", "Transfer-Encoding: chunked", "b\r\n01234567890\r\n0\r\n\r\n", 413, "body_too_large"),
            post("too large a body in chunks", "Transfer-Encoding: chunked", "5\r\n01234\r\n6\r\n567890", 413, "body_too_large"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_watch_on_lengths_cannot_be_led_astray() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let both = "POST /public/both HTTP/1.1\r\nHost: gate\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let padded =
        format!("POST /public/a HTTP/1.1\r\nHost: gate\r\nContent-Length:{}18\r\n\r\nGET /f HTTP/1.1\r\n\r\n{both}", " ".repeat(130));
    let many = format!("{}{both}", "GET /public/a HTTP/1.1\r\nHost: gate\r\n\r\n".repeat(200));
    for (what, bytes) in [("a padded length", padded), ("many heads at once", many)] {
        let mut connection = Connection::open(gate.address()).await;
        connection.write(bytes.as_bytes()).await;
        while !connection.is_closed().await {}
        assert!(upstream.received().iter().all(|request| !request.line.contains("/public/both")), "{what}");
    }
}

#[tokio::test]
async fn what_is_just_not_too_much_passes() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let limits = "limits: { header_count: 20, header_bytes: 16KiB, uri_bytes: 8KiB, body_bytes: 10B }";
    let gate = gate(&issuer, &upstream).settings(limits).start().await;
    let ask = |method: &str, target: &str| gate.ask(method, target).host(Some("gate"));
    let sized = |bytes: usize| {
        let empty = ask("GET", "/public/a").header("X-A: ").bytes("").len();
        ask("GET", "/public/a").header(&format!("X-A: {}", "a".repeat(bytes - empty)))
    };
    let lined = |count: usize| (1..count).fold(ask("GET", "/public/a"), |ask, _| ask.header("X-A: a"));
    let long = |bytes: usize| ask("GET", &format!("/public/{}", "a".repeat(bytes - "/public/".len())));

    for (what, fits, beyond, status) in [
        ("bytes", sized(16 << 10), sized((16 << 10) + 1), 431),
        ("lines", lined(20), lined(21), 431),
        ("target", long(8 << 10), long((8 << 10) + 1), 414),
        ("body", ask("POST", "/public/a").body("0123456789"), ask("POST", "/public/a").body("01234567890"), 413),
    ] {
        for (ask, expected) in [(fits, 200), (beyond, status)] {
            let mut client = Connection::open(gate.address()).await;
            client.write(&ask.bytes("")).await;
            assert_eq!(client.answer("GET").await.status, expected, "{what}");
        }
    }
}
