//! What the record of a request is told of how it was decided and how it ended.

use http::Response;

use super::failure::Failure;
use super::respond::{self, Asked};
use super::response_body::ResponseBody;
use crate::access::{Permit, Refusal, Snapshot};
use crate::observe::{Outcome, Record};

pub fn finish(mut response: Response<ResponseBody>, mut record: Record) -> Response<ResponseBody> {
    record.status = response.status();
    if matches!(record.outcome, Outcome::Permitted | Outcome::Public | Outcome::Own) {
        record.reason = None;
    }
    record.audit();
    response.body_mut().attach(record);
    response
}

pub fn finish_failed(failure: Failure, detail: String, asked: &Asked<'_>, record: Record) -> Response<ResponseBody> {
    finish(respond::failed(failure, asked), failed(failure, detail, record))
}

pub fn failed(failure: Failure, detail: String, mut record: Record) -> Record {
    record.outcome = Outcome::Failed;
    record.reason = Some(failure.row().code);
    record.detail = detail.into();
    if let Some(limit) = failure.limit() {
        record.limited(limit);
    }
    record
}

pub fn note_permit(record: &mut Record, snapshot: &Snapshot, permit: &Permit) {
    let outcome = match (permit.reported(), permit.identity()) {
        (Some(_), _) => Outcome::Reported,
        (None, Some(_)) => Outcome::Permitted,
        (None, None) => Outcome::Public,
    };
    record.decide(&snapshot.policy, Some(permit.service()), Some(permit.route()), outcome);
    if let Some(denial) = permit.reported() {
        record.reason = Some(denial.row().code);
        record.detail = denial.detail();
    }
    record.identity = permit.identity().cloned();
    note_client_name(record, snapshot, Some(permit.service()));
}

pub fn note_refusal(record: &mut Record, snapshot: &Snapshot, refusal: &Refusal) {
    // The gate's own endpoints are nobody's service.
    let service = refusal.service.filter(|service| !snapshot.policy.services[*service].own);
    record.decide(&snapshot.policy, service, refusal.route.filter(|_| service.is_some()), Outcome::Denied);
    record.reason = Some(refusal.denial.row().code);
    record.detail = refusal.denial.detail();
    record.identity = refusal.identity.clone();
    note_client_name(record, snapshot, service);
}

/// For people who read the audit trail.
fn note_client_name(record: &mut Record, snapshot: &Snapshot, service: Option<usize>) {
    let client =
        record.identity.as_ref().filter(|_| snapshot.policy.audit.is_some()).and_then(|identity| identity.claims().client_id.as_deref());
    record.client_name = service.zip(client).and_then(|(service, client)| snapshot.client_name(service, client));
}
