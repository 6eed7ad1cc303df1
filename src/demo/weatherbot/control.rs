//! The buttons of WeatherBot's page that are no questions: leaving it, and playing with what it depends on.

use super::Bot;
use super::agent::{self, Next};
use super::view;
use super::visit::Visit;
use crate::clock;
use crate::demo::event::event;
use crate::demo::issuer::SigningAlgorithm;
use crate::demo::wire::Wire;

const WHO: &str = "WeatherBot";
const OPERATOR: &str = "the issuer's operator";

/// Ends the session here and, if the issuer has a place for it, there.
pub async fn sign_out(bot: &Bot, visit: &mut Visit) -> Next {
    let Some(access) = visit.access.take() else { return Next::Stay };
    // What is thrown away should be of no use to whoever finds it. Its record goes with the session.
    let _ = bot.client.revoke(&mut Wire::default(), &access.issuer, &access.tokens).await;
    event(WHO, "the user", "signed out", "at their own wish");
    let back_to = super::WeatherBot::post_logout_redirect_uri(bot.own);
    bot.client.end_session_url(&access.issuer, &back_to).map_or(Next::Stay, Next::Leave)
}

/// Gives the refresh token back and deletes everything. The session at the issuer is not WeatherBot's to end.
pub async fn forget(bot: &Bot, visit: &mut Visit) -> Next {
    let known = std::mem::take(visit);
    visit.begin_record("Forget me");
    let mut wire = visit.take_wire();
    let told = match &known.access {
        Some(access) => match bot.client.revoke(&mut wire, &access.issuer, &access.tokens).await {
            Ok(()) => "My refresh token is revoked at the issuer.".to_owned(),
            Err(trouble) => format!("My refresh token is deleted, but could not be revoked: {trouble}."),
        },
        None => "I had no access to anything.".to_owned(),
    };
    visit.put_back(wire);
    event(WHO, "the user", "forgotten", "at their own wish");
    visit.say("good", format!("I deleted our conversation, my tokens and who you are. {told}"));
    Next::Stay
}

/// Uses the refresh token, to see what the issuer says.
pub async fn refresh(bot: &Bot, visit: &mut Visit) -> Next {
    visit.begin_record("Refresh the token");
    let mut wire = visit.take_wire();
    let renewed = agent::renew(bot, visit, &mut wire).await;
    visit.put_back(wire);
    match renewed {
        Ok(true) => visit.say("good", "I have a new access token, and nobody had to be asked."),
        Ok(false) => {
            let rest = match visit.access.as_ref() {
                Some(access) => {
                    format!(" My access token still works until {}.", view::moment(access.tokens.expires_at, clock::unix_now()))
                }
                None => String::new(),
            };
            visit.say("bad", format!("I have no refresh token, or the issuer honours it no more.{rest}"));
        }
        Err(trouble) => visit.say("bad", format!("I could not refresh. {trouble}")),
    }
    Next::Stay
}

/// As if the issuer's operator did it: the gate must notice by itself.
pub fn rotate_keys(bot: &Bot, visit: &mut Visit) -> Next {
    let Some(issuer) = &bot.controls else { return Next::Stay };
    issuer.rotate(SigningAlgorithm::default());
    event(OPERATOR, "the signing key", "rotated", "by the demo's button");
    visit.say(
        "note",
        "The issuer signs with a new key from now on. My token of the old key is still good, since the old key is published beside the new one. \
         Refresh the token and ask me something: the gate sees an unknown key, fetches the set once more and lets me in.",
    );
    Next::Stay
}

/// As if the user did it on the issuer's pages.
pub fn withdraw_consent(bot: &Bot, visit: &mut Visit) -> Next {
    let (Some(issuer), Some(access)) = (&bot.controls, &visit.access) else { return Next::Stay };
    let count = issuer.withdraw(&access.person.subject, &bot.client.id);
    event(OPERATOR, "a consent", "withdrawn", "by the demo's button");
    let until = view::moment(access.tokens.expires_at, clock::unix_now());
    let text = format!(
        "{} took back the consent ({count} grant{} at the issuer). My refresh token is dead at once. The access token that I hold stays good until \
         {until}: the gate checks its signature and its dates and asks nobody. That is why a resource should give its tokens a short life.",
        access.person.subject,
        if count == 1 { "" } else { "s" },
    );
    visit.say("note", text);
    Next::Stay
}
