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
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::net::TcpStream;

use self::generate::{Case, Dice, Sending};
use self::wire::{Field, Framing, Message, Wire};
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
                let via = request.one("via").filter(|via| via.contains("wicketgate-"));
                let way = via.map(|via| via.rsplit(", ").next().unwrap().split(' ').next().unwrap().to_owned());
                let method = request.line.split(' ').next().unwrap().to_owned();
                let before = seen.lock().unwrap().insert((case.number, way), request);
                assert!(before.is_none(), "case {} came twice", case.number);
                let ends = case.reply.ends_with_connection(&method) || asks_to_close;
                if !wire.write(&case.reply.bytes(&method)).await || ends {
                    return;
                }
            }
        }
    });
    (upstream.await, ways)
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

/// Fields that an HTTP/2 request cannot have (RFC 9113 §8.2.2).
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
        let (head, mut body) = answer.into_parts();
        let line = format!("HTTP/2 {}", head.status.as_u16());
        let mut answer =
            Message { line, fields: fields_of(&head.headers), framing: Framing::None, body: Vec::new(), trailers: Vec::new(), interim: 0 };
        let mut broken = false;
        while let Some(part) = soon("a part of the body", body.data()).await {
            let Ok(part) = part else {
                broken = true;
                break;
            };
            let _ = body.flow_control().release_capacity(part.len());
            answer.body.extend_from_slice(&part);
        }
        match soon("the trailers", body.trailers()).await {
            Ok(trailers) => answer.trailers = fields_of(&trailers.unwrap_or_default()),
            Err(_) => broken = true,
        }
        answers.push(Some(answer).filter(|_| !broken));
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
    let issuer = issuer().await;
    let cases = Arc::new(cases(2000));
    let (upstream, seen) = service(cases.clone()).await;
    let gate = gate(&issuer, &upstream).routes("\n      /**: public").start().await;
    let plain: Vec<Case> = cases.iter().filter(|case| !case.ambiguous).cloned().collect();
    let http2: Vec<Case> = cases.iter().filter(|case| !case.http10 && !case.absolute && !case.expects).cloned().collect();
    let (service, front) = (upstream.address(), gate.address());

    let direct = sent(&plain, async |part| over_http1(service, &part).await).await;
    let http1 = sent(&cases, async |part| over_http1(front, &part).await).await;
    let http2_answers = sent(&http2, async |part| over_http2(front, &part).await).await;

    let seen = seen.lock().unwrap();
    let seen_by = |case: &Case, way: Option<&str>| seen.get(&(case.number, way.map(str::to_owned)));
    let mut faults = Vec::new();
    for case in cases.iter() {
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
            let reached = ["1.1", "2"].iter().any(|way| seen_by(case, Some(way)).is_some());
            if reached || one.status() != 400 || two.is_some_and(|two| two.status() != 400) {
                faults.push(format!("an ambiguous path was let through: {} {case:?}", one.line));
            }
            continue;
        }
        let (asked, answered) = (seen_by(case, None).unwrap(), direct[&case.number].as_ref().unwrap());
        let over = [(way, Some(one)), ("2", two)];
        for (way, answer) in over.into_iter().filter_map(|(way, answer)| Some((way, answer?))) {
            let arrived = seen_by(case, Some(way));
            let found = match arrived {
                None => vec![format!("it did not arrive: {}", answer.line)],
                Some(arrived) => {
                    [model::request_faults(case, way, asked, arrived), model::answer_faults(case, way, asked, arrived, answered, answer)]
                        .concat()
                }
            };
            faults.extend(found.into_iter().map(|fault| format!("over HTTP/{way}: {fault}\n  {case:?}")));
        }
    }
    let shown: Vec<String> = faults.iter().take(number("DIFFERENTIAL_SHOWN", 5)).map(|fault| fault.chars().take(3000).collect()).collect();
    assert!(faults.is_empty(), "{} differences that docs/forwarding.md does not name\n{}", faults.len(), shown.join("\n"));
}
