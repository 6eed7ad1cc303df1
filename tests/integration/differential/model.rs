//! docs/forwarding.md as a function: what must arrive, given what was sent.

use std::collections::BTreeMap;

use super::generate::{Case, Ending, Removed, Sending};
use super::wire::{Field, Framing, Message, by_name};

type Fields = BTreeMap<String, Vec<Vec<u8>>>;

const PAGE: &str = include_str!("../../../docs/forwarding.md");
/// They pass in their own spelling alone.
const OWN_SPELLING: [&str; 7] = ["content-type", "cookie", "max-forwards", "origin", "trailer", "via", "x-request-id"];
/// They mean something in a head alone (RFC 9110 §6.5.1).
const HEAD_ALONE: [&str; 4] = ["content-length", "transfer-encoding", "host", "set-cookie"];

fn names_below(mark: &str) -> Vec<String> {
    let text = PAGE.split(&format!("<!-- {mark} -->")).nth(1).and_then(|text| text.split("<!-- end -->").next()).unwrap();
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The lists of the page.
pub fn removed() -> Removed {
    let removed = Removed { requests: names_below("removed from requests"), answers: names_below("removed from answers") };
    assert!(removed.requests.len() > 25 && removed.answers.len() > 5);
    removed
}

fn is_listed(list: &[String], name: &str) -> bool {
    list.iter().any(|listed| listed == name || listed.strip_suffix('*').is_some_and(|prefix| name.starts_with(prefix)))
}

fn is_removed(list: &[String], name: &str) -> bool {
    let folded: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let odd = folded != name.to_ascii_lowercase();
    is_listed(list, &folded) || (odd && (OWN_SPELLING.contains(&folded.as_str()) || ["content-length", "host"].contains(&folded.as_str())))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn list(values: &[Vec<u8>]) -> Vec<String> {
    values
        .iter()
        .flat_map(|value| text(value).split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>())
        .filter(|part| !part.is_empty())
        .collect()
}

fn nominated(fields: &Fields) -> Vec<String> {
    fields.get("connection").map(|values| list(values)).unwrap_or_default().iter().map(|name| name.to_ascii_lowercase()).collect()
}

fn one(value: impl Into<Vec<u8>>) -> Vec<Vec<u8>> {
    vec![value.into()]
}

/// Compares fields: what is missing, what is too much, what is changed.
fn compare(what: &str, expected: &Fields, found: &Fields, faults: &mut Vec<String>) {
    for (name, values) in expected {
        match found.get(name) {
            Some(arrived) if arrived == values => {}
            other => faults.push(format!(
                "{what} {name}: {:?} instead of {:?}",
                other.map(|values| values.iter().map(|value| text(value)).collect::<Vec<_>>()),
                values.iter().map(|value| text(value)).collect::<Vec<_>>()
            )),
        }
    }
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        faults.push(format!("{what} {name} came from nowhere: {:?}", found[name].iter().map(|value| text(value)).collect::<Vec<_>>()));
    }
}

fn sane(id: &[u8]) -> bool {
    !id.is_empty() && id.len() <= 128 && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}

/// What the client spoke with the gate, and the gate with the service.
#[derive(Debug, Clone, Copy)]
pub struct Versions<'v> {
    pub way: &'v str,
    pub spoken: &'v str,
}

/// How a request that arrived through the gate differs from what the page makes of the one that came directly.
pub fn request_faults(case: &Case, Versions { way, spoken }: Versions<'_>, direct: &Message, arrived: &Message) -> Vec<String> {
    let (mut faults, lists) = (Vec::new(), removed());
    let line = format!("{} {} HTTP/{spoken}", case.method, case.target());
    if arrived.line != line {
        faults.push(format!("the request line {:?} instead of {line:?}", arrived.line));
    }
    let sent: Vec<Field> = direct.fields.iter().filter(|field| way != "2" || !super::stays_on_http1(field)).cloned().collect();
    let client = by_name(&sent);
    let nominated = nominated(&client);
    let framing = ["content-length", "transfer-encoding"];
    let mut expected: Fields = client
        .iter()
        .filter(|(name, _)| !nominated.contains(name) && !is_removed(&lists.requests, name) && !framing.contains(&name.as_str()))
        .map(|(name, values)| (name.clone(), values.clone()))
        .collect();
    if let Some(cookies) = expected.get_mut("cookie") {
        *cookies = one(cookies.join(&b"; "[..]));
    }
    let mut found = by_name(&arrived.fields);
    expected.insert("host".to_owned(), one("gate.example:8080"));
    expected.insert("x-forwarded-for".to_owned(), one("127.0.0.1"));
    expected.insert("x-forwarded-proto".to_owned(), one("http"));
    expected.insert("x-forwarded-host".to_owned(), one("gate.example:8080"));
    expected.insert("forwarded".to_owned(), one("for=127.0.0.1;host=\"gate.example:8080\";proto=http"));
    let own_id = client.get("x-request-id").map(|ids| ids[0].clone()).filter(|id| sane(id));
    match own_id {
        Some(id) => drop(expected.insert("x-request-id".to_owned(), one(id))),
        None => {
            expected.remove("x-request-id");
            if !found.remove("x-request-id").is_some_and(|ids| ids.len() == 1 && sane(&ids[0])) {
                faults.push("no new request id".to_owned());
            }
        }
    }
    expected.remove("via");
    let hops = list(&found.remove("via").unwrap_or_default());
    let before = list(client.get("via").map(Vec::as_slice).unwrap_or_default());
    if hops.len() != before.len() + 1 || !hops.starts_with(&before) || !hops.last().unwrap().starts_with(&format!("{way} wicketgate-")) {
        faults.push(format!("the way {hops:?} after {before:?}"));
    }
    if client.get("te").is_some_and(|values| list(values).iter().any(|coding| coding == "trailers")) {
        expected.insert("te".to_owned(), one("trailers"));
    }
    if let (Some(left), "OPTIONS") = (expected.get_mut("max-forwards"), case.method.as_str()) {
        *left = one((text(&left[0]).parse::<u64>().unwrap() - 1).to_string());
    }
    if let Some(announced) = expected.get_mut("trailer") {
        *announced = one(list(announced).join(", ").to_ascii_lowercase());
    }
    match &case.sending {
        Sending::Nothing => {
            let no_length = ["GET", "HEAD"].contains(&case.method.as_str());
            if !no_length && found.get("content-length") == Some(&one("0")) {
                found.remove("content-length");
            }
        }
        Sending::Length(body) => drop(expected.insert("content-length".to_owned(), one(body.len().to_string()))),
        Sending::Chunked { .. } if spoken == "2" => {}
        Sending::Chunked { .. } => drop(expected.insert("transfer-encoding".to_owned(), one("chunked"))),
    }
    compare("the request's", &expected, &found, &mut faults);
    if arrived.body != case.sending.bytes() {
        faults.push(format!("a body of {} bytes instead of {}", arrived.body.len(), case.sending.bytes().len()));
    }
    let announced = client.get("trailer").map(|values| list(values)).unwrap_or_default();
    let trailers = by_name(&direct.trailers).into_iter().filter(|(name, _)| {
        let passes = spoken == "2" || announced.iter().any(|known| known.eq_ignore_ascii_case(name));
        passes && !nominated.contains(name) && !is_removed(&lists.requests, name)
    });
    compare("the request's trailer", &trailers.collect(), &by_name(&arrived.trailers), &mut faults);
    faults
}

/// The same for an answer.
pub fn answer_faults(
    case: &Case,
    Versions { way, spoken }: Versions<'_>,
    asked: &Message,
    arrived: &Message,
    direct: &Message,
    answer: &Message,
) -> Vec<String> {
    let (mut faults, lists) = (Vec::new(), removed());
    let usual = http::StatusCode::from_u16(case.reply.status).unwrap().canonical_reason().unwrap_or("<none>");
    let line = match way {
        "2" => format!("HTTP/2 {}", case.reply.status),
        _ => format!("HTTP/{way} {} {}", case.reply.status, if spoken == "2" { usual } else { &case.reply.reason }),
    };
    if answer.line != line {
        faults.push(format!("the status line {:?} instead of {line:?}", answer.line));
    }
    if answer.interim != 0 {
        faults.push(format!("{} interim answers", answer.interim));
    }
    let service = by_name(&direct.fields);
    let nominated = nominated(&service);
    let mut found = by_name(&answer.fields);
    let mut expected: Fields = service
        .iter()
        .filter(|(name, _)| !nominated.contains(name) && !is_listed(&lists.answers, name))
        .map(|(name, values)| (name.clone(), values.clone()))
        .collect();
    expected.insert("x-request-id".to_owned(), one(arrived.one("x-request-id").unwrap()));
    if !expected.contains_key("date") && found.remove("date").is_none_or(|dates| dates.len() != 1) {
        faults.push("no date".to_owned());
    }
    let bodiless = case.reply.is_bodiless(&case.method);
    if way != "2" && bodiless {
        expected.remove("trailer");
    }
    if way != "2" && case.reply.status == 304 && case.method != "HEAD" {
        expected.remove("content-length");
    }
    if way != "2" {
        let chunked = found.remove("transfer-encoding").is_some();
        let wanted = !bodiless && way == "1.1" && !matches!(case.reply.ending, Ending::Length);
        if chunked != wanted && !bodiless {
            faults.push(format!("chunked: {chunked}"));
        }
        if found.remove("connection").is_some() && !case.http10 {
            faults.push("the connection is closed".to_owned());
        }
    }
    compare("the answer's", &expected, &found, &mut faults);
    let body = if bodiless { &[][..] } else { &case.reply.body };
    if answer.body != body {
        faults.push(format!("a body of {} bytes instead of {}", answer.body.len(), body.len()));
    }
    let te = by_name(&asked.fields).get("te").map(|values| list(values)).unwrap_or_default();
    let announced = service.get("trailer").map(|values| list(values)).unwrap_or_default();
    let trailers = by_name(&direct.trailers).into_iter().filter(|(name, _)| {
        let wanted =
            way == "2" || (te.iter().any(|coding| coding == "trailers") && announced.iter().any(|known| known.eq_ignore_ascii_case(name)));
        wanted && !nominated.contains(name) && !HEAD_ALONE.contains(&name.as_str())
    });
    compare("the answer's trailer", &trailers.collect(), &by_name(&answer.trailers), &mut faults);
    if !bodiless && answer.framing == Framing::None && way != "2" {
        faults.push("no framing".to_owned());
    }
    faults
}
