//! Logto's word about a user, by webhook: signed over every byte of the body, and young.

use aws_lc_rs::hmac;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::Secret;
use crate::policy::WEBHOOK_WINDOW_MS;

/// The header with the signature: HMAC-SHA256 of the raw body, in hex.
pub const SIGNATURE_HEADER: &str = "logto-signature-sha-256";

/// The longest body; Logto's have some hundred bytes.
pub const WEBHOOK_BYTES_MAX: usize = 64 << 10;

/// What happened to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserEvent {
    Suspended,
    Unsuspended,
    Deleted,
}

impl UserEvent {
    pub fn label(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::Unsuspended => "unsuspended",
            Self::Deleted => "deleted",
        }
    }
}

/// A webhook whose signature is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub signature: [u8; 32],
    /// What it tells and of whom; `None` for what is no matter of ours.
    pub event: Option<(UserEvent, String)>,
    /// When it happened, in milliseconds.
    pub at_ms: i64,
}

/// Why a webhook is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookFault {
    Unsigned,
    Stale,
    Malformed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    event: String,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    data: Value,
}

/// Reads a webhook. Nothing of the body is looked at before its signature was found right, in constant time.
pub fn read_webhook(key: &Secret, signature: Option<&str>, body: &[u8], now_ms: i64) -> Result<Webhook, WebhookFault> {
    let signature = signature.and_then(unhex).ok_or(WebhookFault::Unsigned)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
    hmac::verify(&key, body, &signature).map_err(|_| WebhookFault::Unsigned)?;
    let body: Body = serde_json::from_slice(body).map_err(|_| WebhookFault::Malformed)?;
    let event = match (body.event.as_str(), body.data.get("isSuspended").and_then(Value::as_bool)) {
        ("User.SuspensionStatus.Updated", Some(true)) => UserEvent::Suspended,
        ("User.SuspensionStatus.Updated", Some(false)) => UserEvent::Unsuspended,
        ("User.SuspensionStatus.Updated", None) => return Err(WebhookFault::Malformed),
        ("User.Deleted", _) => UserEvent::Deleted,
        _ => return Ok(Webhook { signature, event: None, at_ms: now_ms }),
    };
    let user = body.data.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).ok_or(WebhookFault::Malformed)?;
    let at = body.created_at.and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok()).ok_or(WebhookFault::Malformed)?;
    let at_ms = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).map_err(|_| WebhookFault::Malformed)?;
    if now_ms.abs_diff(at_ms) > WEBHOOK_WINDOW_MS.unsigned_abs() {
        return Err(WebhookFault::Stale);
    }
    Ok(Webhook { signature, event: Some((event, user.to_owned())), at_ms })
}

/// 64 hex digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Vec<(String, String)> {
        let text = include_str!("../../tests/fixtures/logto/webhooks.json");
        let file: Value = serde_json::from_str(text).unwrap();
        let pair = |delivery: &Value| (delivery["signature"].as_str().unwrap().to_owned(), delivery["raw"].as_str().unwrap().to_owned());
        file["deliveries"].as_array().unwrap().iter().map(pair).collect()
    }

    fn key() -> Secret {
        let file: Value = serde_json::from_str(include_str!("../../tests/fixtures/logto/webhooks.json")).unwrap();
        Secret::new(file["signing_key"].as_str().unwrap())
    }

    /// 2026-11-22T06:43:22.781Z, when Dave was suspended.
    const AT: i64 = 1_795_329_802_781;
    const DAVE: &str = "htqney0u61d7";

    fn signed(body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key().expose().as_bytes());
        hmac::sign(&key, body.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_logto_sent_is_read_and_what_is_no_matter_of_ours_is_left() {
        let events: Vec<_> =
            recorded().iter().map(|(signature, raw)| read_webhook(&key(), Some(signature), raw.as_bytes(), AT).unwrap().event).collect();
        let of_dave = |event| Some((event, DAVE.to_owned()));
        let expected = [None, of_dave(UserEvent::Suspended), of_dave(UserEvent::Unsuspended), None, of_dave(UserEvent::Deleted)];
        assert_eq!(events, expected);
        let (signature, raw) = &recorded()[1];
        assert_eq!(read_webhook(&key(), Some(signature), raw.as_bytes(), AT).unwrap().at_ms, AT);
    }

    #[test]
    fn a_webhook_counts_with_every_byte_and_for_a_while() {
        let (signature, raw) = recorded().swap_remove(1);
        let read = |signature: Option<&str>, body: &str, now| read_webhook(&key(), signature, body.as_bytes(), now).map(drop);
        assert_eq!(read(Some(&signature.to_uppercase()), &raw, AT), Ok(()));
        for wrong in [
            None,
            Some(""),
            Some("00"),
            Some(&signature[..63]),
            Some(&*format!("{signature}0")),
            Some(&*"0".repeat(64)),
            Some(&*"é".repeat(32)),
        ] {
            assert_eq!(read(wrong, &raw, AT), Err(WebhookFault::Unsigned), "{wrong:?}");
        }
        assert_eq!(read(Some(&signature), &raw.replace("true", "true "), AT), Err(WebhookFault::Unsigned));
        assert_eq!(read(Some(&signature), &format!("{raw}\n"), AT), Err(WebhookFault::Unsigned));
        assert_eq!(read_webhook(&Secret::new("other"), Some(&signature), raw.as_bytes(), AT), Err(WebhookFault::Unsigned));
        for (now, outcome) in [
            (AT + 300_000, Ok(())),
            (AT + 300_001, Err(WebhookFault::Stale)),
            (AT - 300_000, Ok(())),
            (AT - 300_001, Err(WebhookFault::Stale)),
        ] {
            assert_eq!(read(Some(&signature), &raw, now), outcome, "{now}");
        }
        for body in [
            "",
            "[]",
            "{}",
            r#"{"event":5}"#,
            r#"{"event":"User.Deleted"}"#,
            r#"{"event":"User.Deleted","createdAt":"2026-11-22T06:43:22.781Z","data":{"id":""}}"#,
            r#"{"event":"User.Deleted","createdAt":"yesterday","data":{"id":"u"}}"#,
            r#"{"event":"User.SuspensionStatus.Updated","createdAt":"2026-11-22T06:43:22.781Z","data":{"id":"u"}}"#,
        ] {
            assert_eq!(read(Some(&signed(body)), body, AT), Err(WebhookFault::Malformed), "{body}");
        }
    }
}
