//! How WeatherBot gets an answer: it asks the gate, reads why it is refused, and asks the visitor for what is missing.

use http::{HeaderValue, Request, StatusCode, header};
use serde_json::Value;
use url::Url;

use super::Bot;
use super::question::Question;
use super::visit::{Access, Attempt, Turn, Visit};
use crate::clock;
use crate::demo::event::event;
use crate::demo::oauth_client::{
    Answer, Answered, CallbackFault, Challenge, Pending, Tokens, Trouble, check_callback, resource_metadata, said,
};
use crate::demo::page::Form;
use crate::demo::wire::{Party, Wire};

const WHO: &str = "WeatherBot";

/// What becomes of the browser.
pub enum Next {
    Stay,
    /// To the issuer, who asks the user.
    Leave(Url),
}

/// Answers a question, if possible at once.
pub async fn ask(bot: &Bot, visit: &mut Visit, question: Question, may_step_up: bool) -> Next {
    visit.asks(&question.text);
    visit.begin_record(&question.text);
    event(WHO, "a question", "asked", question.method());
    pursue(bot, visit, Attempt { question, may_step_up, refreshed: false, was_asked: false }).await
}

/// Goes on where the browser was sent away, if it brings what it was sent for.
pub async fn come_back(bot: &Bot, visit: &mut Visit, query: &Form, callback: &Url) -> Result<Next, CallbackFault> {
    let answered = check_callback(visit.pending.as_ref().map(|(pending, _)| pending), query)?;
    // From here on it is used up, whatever comes of it.
    let Some((pending, attempt)) = visit.pending.take() else { return Err(CallbackFault::NothingPending) };
    visit.resume_record(&attempt.question.text);
    let mut wire = visit.take_wire();
    wire.browser_goes(Party::Client, back_with(&answered), callback);
    let received = match &answered {
        Answered::Code(code) => Some(receive(bot, visit, &mut wire, &pending, &attempt, code).await),
        Answered::Refused { .. } | Answered::Cancelled => None,
    };
    visit.put_back(wire);
    match (answered, received) {
        (_, Some(Ok(()))) => return Ok(pursue(bot, visit, attempt).await),
        (_, Some(Err(trouble))) => {
            event(WHO, "access", "not obtained", &trouble.to_string());
            visit.say("bad", format!("I got no access. {trouble}"));
        }
        (Answered::Refused { error, description }, _) if error != "access_denied" => {
            event(WHO, "access", "not obtained", &error);
            return Err(CallbackFault::Refused { error, description });
        }
        _ => {
            event(WHO, "access", "denied by the user", "no token");
            let rest = match visit.access {
                Some(_) => "so I have no more than before",
                None => "so I got no access and know nothing",
            };
            visit.say("note", format!("All right: you did not allow it, {rest}. Ask again whenever you like."));
        }
    }
    Ok(Next::Stay)
}

fn back_with(answered: &Answered) -> &'static str {
    match answered {
        Answered::Code(_) => {
            "The issuer sends the browser back with a code. State and issuer are compared with those of the request (RFC 9207)."
        }
        Answered::Refused { .. } => "The issuer sends the browser back with an error instead of a code.",
        Answered::Cancelled => "The browser comes back with nothing at all: that is how Logto's consent page says Cancel.",
    }
}

/// Exchanges the code.
async fn receive(bot: &Bot, visit: &mut Visit, wire: &mut Wire, pending: &Pending, attempt: &Attempt, code: &str) -> Result<(), Trouble> {
    let (tokens, person) = bot.client.exchange_code(wire, pending, code).await?;
    if visit.last_subject.as_ref().is_some_and(|last| *last != person.subject) {
        // What one person asked is not for the next one's eyes: of the wire, callback and code exchange are the new one's.
        *visit = Visit::default();
        wire.keep_latest(2);
        visit.asks(&attempt.question.text);
        visit.begin_record(&attempt.question.text);
    }
    event(WHO, "access", "obtained", &granted(pending, &tokens));
    visit.last_subject = Some(person.subject.clone());
    visit.access = Some(Access { person, tokens, issuer: pending.issuer.clone(), resource: pending.resource.clone() });
    Ok(())
}

fn granted(pending: &Pending, tokens: &Tokens) -> String {
    match &tokens.scopes {
        Some(scopes) => format!("asked for {}, granted {}", pending.scopes.join(" "), scopes.join(" ")),
        None => format!("asked for {}", pending.scopes.join(" ")),
    }
}

async fn pursue(bot: &Bot, visit: &mut Visit, attempt: Attempt) -> Next {
    let mut wire = visit.take_wire();
    let next = until_answered(bot, visit, &mut wire, attempt).await;
    visit.put_back(wire);
    next.unwrap_or_else(|trouble| {
        event(WHO, "a question", "not answered", &trouble.to_string());
        visit.say("bad", format!("I have no answer. {trouble}"));
        Next::Stay
    })
}

/// Asks the gate at most twice: a refresh in between happens once, and after the user was asked nothing is asked again.
async fn until_answered(bot: &Bot, visit: &mut Visit, wire: &mut Wire, mut attempt: Attempt) -> Result<Next, Trouble> {
    if visit.access.as_ref().is_some_and(|access| access.tokens.is_expired(clock::unix_now())) {
        refresh(bot, visit, wire, &mut attempt).await?;
    }
    loop {
        let answer = call(bot, visit, wire, &attempt.question).await?;
        if answer.status.is_success() {
            event(WHO, "a question", "answered", answer.status.as_str());
            visit.tell(&attempt.question, &answer.json().unwrap_or_default());
            return Ok(Next::Stay);
        }
        let challenge = Challenge::find(&answer.headers);
        event(WHO, "a question", "refused", &format!("{} {}", answer.status.as_u16(), reason(&answer)));
        match (answer.status, challenge) {
            (StatusCode::UNAUTHORIZED, Some(challenge)) => {
                if refresh(bot, visit, wire, &mut attempt).await? {
                    continue;
                }
                visit.access = None;
                if !attempt.was_asked {
                    return send_to_issuer(bot, visit, wire, attempt, challenge).await;
                }
                visit.say("bad", format!("The gate refuses the token that I just got ({}). I stop here.", reason(&answer)));
            }
            (StatusCode::FORBIDDEN, Some(challenge)) if challenge.error.as_deref() == Some("insufficient_scope") => {
                if attempt.may_step_up && !attempt.was_asked {
                    return send_to_issuer(bot, visit, wire, attempt, challenge).await;
                }
                lacks_scope(visit, attempt, &challenge, &answer);
            }
            (status, _) => {
                let again = answer.headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()).map(said);
                let again = again.map(|after| format!(" It says to try again after {after} s.")).unwrap_or_default();
                visit.say("bad", format!("I have no answer: the gate says {}, {}.{again}", status.as_u16(), reason(&answer)));
            }
        }
        return Ok(Next::Stay);
    }
}

async fn call(bot: &Bot, visit: &Visit, wire: &mut Wire, question: &Question) -> Result<Answer, Trouble> {
    let mut request = Request::builder().method(question.method()).uri(question.url(&bot.api).as_str());
    request = request.header(header::ACCEPT, "application/json");
    let why = match &visit.access {
        Some(access) => {
            let token = HeaderValue::try_from(format!("Bearer {}", access.tokens.access.expose()));
            request = request.header(header::AUTHORIZATION, token.map_err(|_| Trouble::Distrusted("the token is no token".to_owned()))?);
            "The question with the access token. The gate checks signature, dates, audience and scopes, and asks nobody."
        }
        None => "The question, as anybody may ask it: without a token. The gate refuses, and says where to learn how to get one.",
    };
    let body = question.body().map(|body| body.to_string().into_bytes());
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(body.unwrap_or_default()).map_err(|_| Trouble::Distrusted("the question is no address".to_owned()))?;
    bot.client.http.exchange(wire, Party::Gate, why, request).await
}

/// New tokens without the user: once for a question, and only if there is a refresh token. True if there are new ones.
async fn refresh(bot: &Bot, visit: &mut Visit, wire: &mut Wire, attempt: &mut Attempt) -> Result<bool, Trouble> {
    if std::mem::replace(&mut attempt.refreshed, true) || attempt.was_asked {
        return Ok(false);
    }
    renew(bot, visit, wire).await
}

/// Uses the refresh token. If the issuer does not honour it, it is thrown away.
pub async fn renew(bot: &Bot, visit: &mut Visit, wire: &mut Wire) -> Result<bool, Trouble> {
    let Some(access) = visit.access.as_mut().filter(|access| access.tokens.refresh.is_some()) else { return Ok(false) };
    match bot.client.refresh(wire, &access.issuer, &access.tokens, &access.resource).await {
        Ok(tokens) => {
            event(WHO, "access", "refreshed", "without asking the user");
            access.tokens = tokens;
            Ok(true)
        }
        Err(trouble) if trouble.is_invalid_grant() => {
            event(WHO, "access", "not refreshed", &trouble.to_string());
            access.tokens.refresh = None;
            Ok(false)
        }
        Err(trouble) => Err(trouble),
    }
}

/// Finds out who can give a token for what was called, and sends the browser there.
async fn send_to_issuer(
    bot: &Bot,
    visit: &mut Visit,
    wire: &mut Wire,
    mut attempt: Attempt,
    challenge: Challenge,
) -> Result<Next, Trouble> {
    let called = attempt.question.url(&bot.api);
    let metadata = resource_metadata(&bot.client.http, wire, challenge.resource_metadata.as_deref(), &called).await?;
    if !metadata.authorization_servers.contains(&bot.client.issuer) {
        let others = said(&metadata.authorization_servers.join(", "));
        let reason =
            format!("The gate takes tokens of {others}; I am registered with {} and give my secret to nobody else.", bot.client.issuer);
        return Err(Trouble::Distrusted(reason));
    }
    let issuer = bot.client.discover(wire).await?;
    // The challenge says what this request needs, which is less than all that the resource has (RFC 9728 §7.2).
    let needed = if challenge.scopes.is_empty() { metadata.scopes_supported } else { challenge.scopes };
    let own = ["openid", "offline_access"].into_iter().filter(|scope| issuer.knows_scope(scope)).map(str::to_owned);
    let scopes = own.chain(needed.iter().cloned()).collect();
    let pending = Pending::new(issuer, &metadata.resource, scopes);
    // Logto gives a refresh token only to who asks for consent.
    let url = bot.client.authorization_url(&pending, Some("consent"))?;
    let why = "WeatherBot sends the browser to the issuer, where the user signs in and decides. WeatherBot sees nothing of that.";
    wire.browser_goes(Party::Issuer, why, &url);
    event(WHO, "the user", "sent to sign in", &format!("for {}", needed.join(" ")));
    attempt.was_asked = true;
    visit.pending = Some((pending, attempt));
    Ok(Next::Leave(url))
}

/// A token is good and not enough. What can be done depends on whether the user was asked for it already.
fn lacks_scope(visit: &mut Visit, attempt: Attempt, challenge: &Challenge, answer: &Answer) {
    let missing = missing_scopes(challenge, answer);
    let turn = match attempt.was_asked {
        true => Turn {
            mood: "bad",
            text: format!(
                "I asked for {missing}, and the token that I got does not have it. Then either your account lacks that permission, or I may \
                 not ask for it at all. Asking again would not help, so I don't."
            ),
            ..Turn::default()
        },
        false => Turn {
            mood: "note",
            text: format!("For this I need {missing}, which you have not given me. I can ask you for it; nothing else changes."),
            offer: Some(missing),
            ..Turn::default()
        },
    };
    visit.refused = turn.offer.is_some().then_some(attempt.question);
    visit.push(turn);
}

/// The gate's body says it exactly; the challenge names all that the request needs.
fn missing_scopes(challenge: &Challenge, answer: &Answer) -> String {
    let body = answer.json().unwrap_or_default();
    let listed: Vec<&str> = body["missing_scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match listed.is_empty() {
        true => said(&challenge.scopes.join(" ")),
        false => said(&listed.join(" ")),
    }
}

/// The code and title of a problem document (RFC 9457), as far as there are any.
fn reason(answer: &Answer) -> String {
    let body = answer.json().unwrap_or_default();
    let words: Vec<&str> = ["code", "title"].into_iter().filter_map(|name| body[name].as_str()).collect();
    match words.is_empty() {
        true => "without a reason".to_owned(),
        false => said(&words.join(": ")),
    }
}
