//! Logto's webhook: what it says of a user is in force when it is answered.

use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::failure::Failure;
use super::gate::Gate;
use super::response_body::ResponseBody;
use crate::access::Snapshot;
use crate::clock;
use crate::logto::{SIGNATURE_HEADER, UserEvent, WEBHOOK_BYTES_MAX, Webhook, WebhookFault, read_webhook};
use crate::observe::RevocationAudit;

/// Takes one. Whoever does not know the key learns nothing but that.
pub async fn take(gate: &Gate, snapshot: &Snapshot, request: http::Request<Incoming>) -> Result<Response<ResponseBody>, Failure> {
    let outcome = read(snapshot, request).await;
    let (event, result, answer) = match outcome {
        Err(failure) => ("-", label(failure), Err(failure)),
        Ok(webhook) => {
            let event = webhook.event.as_ref().map_or("other", |(event, _)| event.label());
            let (result, answer) = apply(gate, snapshot, webhook).await;
            (event, result, answer)
        }
    };
    gate.observer.metrics.revocations.webhooks.with_label_values(&[event, result]).inc();
    answer.map(|()| {
        let mut response = Response::new(ResponseBody::own(""));
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    })
}

async fn read(snapshot: &Snapshot, request: http::Request<Incoming>) -> Result<Webhook, Failure> {
    let settings = snapshot.policy.logto.as_ref().and_then(|logto| logto.webhook.as_ref()).ok_or(Failure::WebhookUnsigned)?;
    let (head, body) = request.into_parts();
    // Two signatures are none.
    let mut signatures = head.headers.get_all(SIGNATURE_HEADER).iter();
    let signature = signatures.next().filter(|_| signatures.next().is_none()).and_then(|value| value.to_str().ok());
    let signature = signature.ok_or(Failure::WebhookUnsigned)?;
    let body = Limited::new(body, WEBHOOK_BYTES_MAX).collect();
    let body = match timeout(snapshot.policy.timeouts.body, body).await {
        Err(_) => return Err(Failure::BodyTooSlow),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(Failure::BodyTooLarge),
        Ok(Err(_)) => return Err(Failure::BodyBroken),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let now_ms = clock::unix_now().saturating_mul(1000);
    read_webhook(&settings.signing_key, Some(signature), &body, now_ms).map_err(|fault| match fault {
        WebhookFault::Unsigned => Failure::WebhookUnsigned,
        WebhookFault::Stale => Failure::WebhookStale,
        WebhookFault::Malformed => Failure::WebhookMalformed,
    })
}

async fn apply(gate: &Gate, snapshot: &Snapshot, webhook: Webhook) -> (&'static str, Result<(), Failure>) {
    let Webhook { signature, event, at_ms } = webhook;
    let Some((event, user)) = event else { return ("ignored", Ok(())) };
    if gate.revocations.has_seen(&signature) {
        return ("replayed", Ok(()));
    }
    let issuer = snapshot.policy.logto.as_ref().and_then(|logto| logto.webhook.as_ref()?.issuer.as_deref());
    let kept = match event {
        UserEvent::Suspended | UserEvent::Deleted => gate.revocations.suspend(issuer, &user, at_ms).await.map_err(|_| "no room for it"),
        UserEvent::Unsuspended => gate.revocations.unsuspend(issuer, &user, at_ms).await.map_err(|_| "the shared state is away"),
    };
    match kept {
        Ok(()) => {
            // Not before: Logto tries again what was not taken.
            gate.revocations.note_seen(signature);
            tracing::info!(target: "wicketgate::revocation", event = event.label(), user, by = "webhook", "taken");
            gate.observer.audit.write(&RevocationAudit::by_webhook(event.label(), &user), clock::wall_now());
            ("taken", Ok(()))
        }
        Err(reason) => {
            gate.observer.metrics.revocations.refused.inc();
            tracing::error!(target: "wicketgate::revocation", event = event.label(), user, reason, "a webhook could not be taken");
            ("not_taken", Err(Failure::WebhookNotTaken))
        }
    }
}

fn label(failure: Failure) -> &'static str {
    match failure {
        Failure::WebhookUnsigned => "unsigned",
        Failure::WebhookStale => "stale",
        Failure::WebhookMalformed => "malformed",
        _ => "broken",
    }
}
