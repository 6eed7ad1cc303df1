//! Pages that say what happened when a person cannot go on.

use askama::Template;
use http::StatusCode;

use crate::demo::page;
use crate::demo::server::Reply;

#[derive(Template)]
#[template(path = "issuer/notice.html")]
struct Notice<'n> {
    heading: &'n str,
    text: &'n str,
    advice: &'n str,
}

pub fn page(status: StatusCode, heading: &str, text: &str, advice: &str) -> Reply {
    page::html(status, &Notice { heading, text, advice }, &[])
}

const BACK: &str = "Go back to the application and start there again.";

/// The interaction is over, or was never this browser's.
pub fn expired() -> Reply {
    page(
        StatusCode::BAD_REQUEST,
        "This page is no longer good",
        "Signing in takes ten minutes at most, and ends once it is done. This page is older than that, was used already, or belongs to another browser.",
        BACK,
    )
}

/// A form without its secret: it was sent from somewhere else.
pub fn forged() -> Reply {
    page(
        StatusCode::FORBIDDEN,
        "This form was not accepted",
        "It did not bring back the secret of the page that it stands on, so it may have been sent by another site. Nothing was changed.",
        "If you did press the button yourself, load the page anew and press it again.",
    )
}

pub fn unreadable(status: StatusCode) -> Reply {
    page(status, "This form could not be read", "It did not arrive whole, or was too large.", BACK)
}

pub fn too_many_tries() -> Reply {
    page(StatusCode::TOO_MANY_REQUESTS, "Too many wrong passwords", "After ten of them this sign-in has ended.", BACK)
}
