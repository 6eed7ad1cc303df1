//! WeatherBot's pages.

use askama::Template;
use http::StatusCode;
use url::Url;

use super::Bot;
use super::question::QUESTION_CHARS_MAX;
use super::visit::{Access, Visit};
use crate::clock::{self, UnixSeconds};
use crate::demo::page;
use crate::demo::server::Reply;

const SUGGESTIONS: [&str; 3] = ["Weather in Oslo?", "Which cities did I save?", "Report snow in Oslo."];

#[derive(Template)]
#[template(path = "weatherbot.html")]
struct Home<'a> {
    form_secret: &'a str,
    visit: &'a Visit,
    holds: Option<Holds>,
    has_controls: bool,
    /// Who is signed in, as the issuer knows them: WeatherBot itself has not asked for a name.
    name: String,
    start_page: &'a str,
    api: &'a str,
    suggestions: [&'static str; 3],
    question_chars_max: usize,
}

/// What WeatherBot has of somebody, for the page.
struct Holds {
    subject: String,
    scopes: String,
    until: String,
    is_refreshable: bool,
}

impl Holds {
    fn new(access: &Access, now: UnixSeconds) -> Self {
        let scopes = access.tokens.scopes.as_ref().map(|scopes| scopes.join(" "));
        Self {
            subject: access.person.subject.clone(),
            scopes: scopes.unwrap_or_else(|| "the issuer did not say".to_owned()),
            until: moment(access.tokens.expires_at, now),
            is_refreshable: access.tokens.refresh.is_some(),
        }
    }
}

/// The conversation, what WeatherBot holds, and the record of the wire.
pub fn home(bot: &Bot, form_secret: &str, visit: &Visit) -> Reply {
    let view = Home {
        form_secret,
        visit,
        holds: visit.access.as_ref().map(|access| Holds::new(access, clock::unix_now())),
        has_controls: bot.controls.is_some(),
        name: name_at_the_issuer(bot, visit).unwrap_or_default(),
        start_page: &bot.start_page,
        api: bot.api.as_str().trim_end_matches('/'),
        suggestions: SUGGESTIONS,
        question_chars_max: QUESTION_CHARS_MAX,
    };
    page::html(StatusCode::OK, &view, &form_origins(bot))
}

fn name_at_the_issuer(bot: &Bot, visit: &Visit) -> Option<String> {
    let tenant = bot.controls.as_ref()?.tenant();
    tenant.user(&visit.access.as_ref()?.person.subject).map(|user| user.name.clone())
}

/// Where forms may lead by way of redirects: to the issuer's sign-in.
pub fn form_origins(bot: &Bot) -> Vec<String> {
    Url::parse(&bot.client.issuer).map(|issuer| issuer.origin().ascii_serialization()).into_iter().collect()
}

#[derive(Template)]
#[template(path = "weatherbot_notice.html")]
struct Notice<'a> {
    title: &'a str,
    text: &'a str,
    link: &'a str,
    link_text: &'a str,
}

/// Something went wrong, and nothing was done.
pub fn problem(_: &Bot, status: StatusCode, text: &str) -> Reply {
    page::html(status, &Notice { title: "That did not work", text, link: "/", link_text: "Back to WeatherBot" }, &[])
}

/// A stop on the way to an address that forms of this site must not lead to.
pub fn leave(_: &Bot, url: &Url) -> Reply {
    let text = "The issuer's sign-in is at another address than the issuer itself.";
    page::html(StatusCode::OK, &Notice { title: "On to the sign-in", text, link: url.as_str(), link_text: "Continue" }, &[])
}

/// A time of day and how far away it is.
pub fn moment(at: Option<UnixSeconds>, now: UnixSeconds) -> String {
    let Some(at) = at else { return "a time that the issuer did not tell".to_owned() };
    let of_day = at.rem_euclid(24 * 3600);
    let time = format!("{:02}:{:02}:{:02} UTC", of_day / 3600, of_day / 60 % 60, of_day % 60);
    match at - now {
        past if past <= 0 => format!("{time} (over)"),
        seconds if seconds < 60 => format!("{time} (in {seconds} s)"),
        seconds => format!("{time} (in {} min)", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_of_day_and_a_distance() {
        assert_eq!(moment(Some(86_400 + 3_661), 86_400 + 3_600), "01:01:01 UTC (in 1 min)");
        assert_eq!(moment(Some(10), 5), "00:00:10 UTC (in 5 s)");
        assert_eq!(moment(Some(10), 10), "00:00:10 UTC (over)");
    }
}
