//! What arrives differs from what was sent only in what docs/forwarding.md says: thousands of generated requests, to a
//! service directly and through the gate, compared on both sides. `DIFFERENTIAL_SEED` and `DIFFERENTIAL_CASES` make others.

mod generate;
mod model;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use self::generate::{Case, Dice, Ending, Sending};
use self::model::Versions;
use self::wire::{Field, Message, Wire};
use super::support::*;

/// By which way a request came: `None` directly, else the version that the client spoke with the gate.
type Ways = Arc<Mutex<HashMap<(usize, Option<String>), Message>>>;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn cases(count: usize) -> Vec<Case> {
    let (removed, mut dice) = (model::removed(), Dice::new(number("DIFFERENTIAL_SEED", 1) as u64));
    (0..number("DIFFERENTIAL_CASES", count)).map(|i| Case::new(i, &mut dice, &removed)).collect()
}

/// The service: notes what came, and answers as the case says.
async fn service(cases: Arc<Vec<Case>>) -> (Upstream, Ways) {
    let ways = Ways::default();
    let seen = ways.clone();
    let upstream = Upstream::by_hand(move |stream| {
        let (cases, seen) = (cases.clone(), seen.clone());
        async move {
            let mut wire = Wire::over(stream);
            while let Some(request) = wire.request().await {
                let case = &cases[request.one("x-case").unwrap().parse::<usize>().unwrap()];
                let asks_to_close = request.line.ends_with("/1.0");
                let method = request.line.split(' ').next().unwrap().to_owned();
                note(&seen, case, request);
                let ends = case.reply.ends_with_connection(&method) || asks_to_close;
                if !wire.write(&case.reply.bytes(&method)).await || ends {
                    return;
                }
            }
        }
    });
    (upstream.await, ways)
}

/// The same service over HTTP/2, which has no reason phrases and no fields of a connection.
async fn http2_service(cases: Arc<Vec<Case>>) -> (Upstream, Ways) {
    let ways = Ways::default();
    let seen = ways.clone();
    let upstream = http2_upstream(move |_, (request, respond)| {
        let (cases, seen) = (cases.clone(), seen.clone());
        async move {
            let (head, body) = request.into_parts();
            let target = head.uri.path_and_query().unwrap();
            let mut fields = fields_of(&head.headers);
            fields.push(("host".to_owned(), head.uri.authority().unwrap().as_str().into()));
            let mut message = Message { line: format!("{} {target} HTTP/2", head.method), fields, ..Message::default() };
            assert!(read_http2(body, &mut message).await, "broken: {message:?}");
            let case = &cases[message.one("x-case").unwrap().parse::<usize>().unwrap()];
            note(&seen, case, message);
            answer_http2(case, head.method.as_str(), respond);
        }
    });
    (upstream.await, ways)
}

/// Reads what is behind a head: whether it was whole.
async fn read_http2(mut body: RecvStream, message: &mut Message) -> bool {
    while let Some(part) = soon("a part of the body", body.data()).await {
        let Ok(part) = part else { return false };
        let _ = body.flow_control().release_capacity(part.len());
        message.body.extend_from_slice(&part);
    }
    let trailers = soon("the trailers", body.trailers()).await;
    message.trailers = trailers.as_ref().ok().and_then(Option::as_ref).map(fields_of).unwrap_or_default();
    trailers.is_ok()
}

fn answer_http2(case: &Case, method: &str, mut respond: SendResponse<Bytes>) {
    let reply = &case.reply;
    let mut head = Response::builder().status(reply.status).body(()).unwrap();
    let fields: Vec<Field> = reply.fields.iter().filter(|field| !stays_on_http1(field)).cloned().collect();
    head.headers_mut().extend(header_map(&fields));
    if matches!(reply.ending, Ending::Length) && reply.status != 204 {
        head.headers_mut().insert("content-length", reply.body.len().into());
    }
    let bodiless = reply.is_bodiless(method);
    let mut stream = respond.send_response(head, bodiless).unwrap();
    if bodiless {
        return;
    }
    match &reply.ending {
        Ending::Chunked(trailers) if !trailers.is_empty() => {
            let _ = stream.send_data(Bytes::copy_from_slice(&reply.body), false);
            let _ = stream.send_trailers(header_map(trailers));
        }
        _ => drop(stream.send_data(Bytes::copy_from_slice(&reply.body), true)),
    }
}

/// Notes what came, and by which way.
fn note(seen: &Ways, case: &Case, request: Message) {
    let via = request.one("via").filter(|via| via.contains("wicketgate-"));
    let way = via.map(|via| via.rsplit(", ").next().unwrap().split(' ').next().unwrap().to_owned());
    let before = seen.lock().unwrap().insert((case.number, way), request);
    assert!(before.is_none(), "case {} came twice", case.number);
}

/// Sends cases over HTTP/1.1, several at a time on connections that stay open: what was answered to each.
async fn over_http1(address: SocketAddr, cases: &[Case]) -> Vec<Option<Message>> {
    let (mut answers, mut dice, mut open) = (Vec::new(), Dice::new(7), None);
    let mut rest = cases;
    while !rest.is_empty() {
        let most = 1 + dice.below(4);
        let pipelined = rest.iter().take(most).take_while(|case| !case.expects).count();
        let closing = rest[..pipelined].iter().position(Case::closes).map(|at| at + 1);
        let (now, later) = rest.split_at(closing.unwrap_or(pipelined).max(1));
        let wire = open.get_or_insert(Wire::over(soon("connecting", TcpStream::connect(address)).await.unwrap()));
        let messages: Vec<(Vec<u8>, Vec<u8>)> = now.iter().map(|case| case.bytes(&mut dice)).collect();
        let methods: Vec<&str> = now.iter().map(|case| case.method.as_str()).collect();
        if now[0].expects {
            let (head, body) = &messages[0];
            wire.write(head).await;
            match wire.interim().await.filter(|interim| interim.status() != 100) {
                None => answers.extend(wire.exchange(body, &methods).await),
                // What is behind the head goes with the connection.
                refused => {
                    answers.push(refused);
                    open = None;
                    rest = later;
                    continue;
                }
            }
        } else {
            let bytes: Vec<u8> = messages.into_iter().flat_map(|(head, body)| [head, body]).flatten().collect();
            answers.extend(wire.exchange(&bytes, &methods).await);
        }
        if now.last().unwrap().closes() || answers.last().is_some_and(Option::is_none) {
            open = None;
        }
        rest = later;
    }
    answers
}

/// Fields that an HTTP/2 message cannot have (RFC 9113 §8.2.2).
fn stays_on_http1((name, value): &Field) -> bool {
    let name = name.to_ascii_lowercase();
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host"].contains(&name.as_str())
        || (name == "te" && value != b"trailers")
}

fn header_map(fields: &[Field]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::try_from(name.as_str()).unwrap(), HeaderValue::from_bytes(value).unwrap())).collect()
}

fn fields_of(map: &HeaderMap) -> Vec<Field> {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

async fn over_http2(address: SocketAddr, cases: &[Case]) -> Vec<Option<Message>> {
    let mut client = Http2::with_room(address, 1 << 20).await;
    let mut answers = Vec::new();
    for case in cases {
        let mut request = Request::new(());
        *request.method_mut() = case.method.parse().unwrap();
        *request.uri_mut() = format!("http://gate.example:8080{}", case.target()).parse().unwrap();
        *request.version_mut() = http::Version::HTTP_2;
        let fields: Vec<Field> = case.fields.iter().filter(|field| !stays_on_http1(field)).cloned().collect();
        request.headers_mut().extend(header_map(&fields));
        request.headers_mut().insert("x-case", case.number.into());
        if let Sending::Length(body) = &case.sending {
            request.headers_mut().insert("content-length", body.len().into());
        }
        let mut exchange = client.begin(request, matches!(case.sending, Sending::Nothing)).await;
        // What cannot be sent any more was answered, or has failed: the outcome says which.
        match &case.sending {
            Sending::Nothing => {}
            Sending::Length(body) => drop(exchange.body.send_data(Bytes::copy_from_slice(body), true)),
            Sending::Chunked { chunks, trailers } => {
                for chunk in chunks {
                    let _ = exchange.body.send_data(Bytes::copy_from_slice(chunk), false);
                }
                match trailers.is_empty() {
                    true => drop(exchange.body.send_data(Bytes::new(), true)),
                    false => drop(exchange.body.send_trailers(header_map(trailers))),
                }
            }
        }
        let Ok(answer) = exchange.outcome().await else {
            answers.push(None);
            continue;
        };
        let (head, body) = answer.into_parts();
        let line = format!("HTTP/2 {}", head.status.as_u16());
        let mut answer = Message { line, fields: fields_of(&head.headers), ..Message::default() };
        let whole = read_http2(body, &mut answer).await;
        answers.push(Some(answer).filter(|_| whole));
    }
    answers
}

const WORKERS: usize = 4;

async fn sent<F: Future<Output = Vec<Option<Message>>>>(cases: &[Case], send: impl Fn(Vec<Case>) -> F) -> HashMap<usize, Option<Message>> {
    let parts = cases.chunks(cases.len().div_ceil(WORKERS));
    let numbers: Vec<usize> = cases.iter().map(|case| case.number).collect();
    let answers = join_all(parts.map(|part| send(part.to_vec()))).await.concat();
    numbers.into_iter().zip(answers).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_differs_only_in_what_the_documentation_says() {
    let cases = Arc::new(cases(2000));
    let (upstream, seen) = service(cases.clone()).await;
    compared(&cases, "1.1", &upstream, &upstream, (&seen, &seen)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_over_http_2_differs_only_in_what_the_documentation_says() {
    let cases = Arc::new(cases(2000));
    let (plain, sent) = service(cases.clone()).await;
    let (upstream, seen) = http2_service(cases.clone()).await;
    compared(&cases, "2", &plain, &upstream, (&sent, &seen)).await;
}

/// Sends all cases to a service directly, and through a gate before one that speaks this version: what came to either.
async fn compared(cases: &[Case], spoken: &str, plain: &Upstream, upstream: &Upstream, (sent_as, seen): (&Ways, &Ways)) {
    let (issuer, protocol) = (issuer().await, if spoken == "2" { "http2" } else { "http1" });
    let gate = gate(&issuer, upstream).upstream(&format!("{{ url: '{}', protocol: {protocol} }}", upstream.url()));
    let gate = gate.routes("\n      /**: public").start().await;
    let direct: Vec<Case> = cases.iter().filter(|case| !case.ambiguous).cloned().collect();
    let http2: Vec<Case> = cases.iter().filter(|case| !case.http10 && !case.absolute && !case.expects).cloned().collect();
    let (service, front) = (plain.address(), gate.address());

    let mut direct = sent(&direct, async |part| over_http1(service, &part).await).await;
    let http1 = sent(cases, async |part| over_http1(front, &part).await).await;
    let http2_answers = sent(&http2, async |part| over_http2(front, &part).await).await;

    if spoken == "2" {
        // The service cannot say these.
        direct.values_mut().flatten().for_each(|answer| answer.fields.retain(|field| !stays_on_http1(field)));
    }
    let sent_as = sent_as.lock().unwrap().clone();
    let seen = seen.lock().unwrap().clone();
    let seen_by = |case: &Case, way: &str| seen.get(&(case.number, Some(way.to_owned())));
    let mut faults = Vec::new();
    for case in cases {
        let (Some(one), two) = (&http1[&case.number], http2_answers.get(&case.number)) else {
            faults.push(format!("no answer over HTTP/1: {case:?}"));
            continue;
        };
        if two.is_some_and(Option::is_none) {
            faults.push(format!("no answer over HTTP/2: {case:?}"));
        }
        let two = two.and_then(Option::as_ref);
        let way = if case.http10 { "1.0" } else { "1.1" };
        if case.ambiguous {
            let reached = ["1.1", "2"].iter().any(|way| seen_by(case, way).is_some());
            if reached || one.status() != 400 || two.is_some_and(|two| two.status() != 400) {
                faults.push(format!("an ambiguous path was let through: {} {case:?}", one.line));
            }
            continue;
        }
        let (asked, answered) = (&sent_as[&(case.number, None)], direct[&case.number].as_ref().unwrap());
        let over = [(way, Some(one)), ("2", two)];
        for (way, answer) in over.into_iter().filter_map(|(way, answer)| Some((way, answer?))) {
            let ways = Versions { way, spoken };
            let found = match seen_by(case, way) {
                None => vec![format!("it did not arrive: {}", answer.line)],
                Some(arrived) => {
                    [model::request_faults(case, ways, asked, arrived), model::answer_faults(case, ways, asked, arrived, answered, answer)]
                        .concat()
                }
            };
            faults.extend(found.into_iter().map(|fault| format!("over HTTP/{way}: {fault}\n  {case:?}")));
        }
    }
    let shown: Vec<String> = faults.iter().take(number("DIFFERENTIAL_SHOWN", 5)).map(|fault| fault.chars().take(3000).collect()).collect();
    assert!(faults.is_empty(), "{} differences that docs/forwarding.md does not name\n{}", faults.len(), shown.join("\n"));
}
