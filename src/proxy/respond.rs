//! Step 13. The gate's own answers: problem details (RFC 9457), or the same as a gRPC status.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use serde_json::json;

use super::failure::Failure;
use super::grpc;
use super::response_body::ResponseBody;
use super::rewrite::name_request;
use crate::access::{Denial, Refusal};
use crate::oauth;
use crate::policy::{Policy, Route};

/// The problem type of draft-ietf-httpapi-ratelimit-headers, with the names of the limits beside it.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// What an answer must know of its request.
pub struct Asked<'a> {
    pub request_id: &'a str,
    pub version: Version,
    pub grpc: bool,
}

/// The answer to a request that the policy refuses.
pub fn denied(policy: &Policy, refusal: &Refusal, asked: &Asked<'_>) -> Response<ResponseBody> {
    let row = refusal.denial.row();
    let mut problem = json!({
        "type": "about:blank", "title": row.title, "status": row.status.as_u16(), "code": row.code,
        "detail": row.cure, "request_id": asked.request_id,
    });
    if let Denial::ScopeMissing { missing } = &refusal.denial {
        let (any, named) = oauth::required_scopes(policy, refusal);
        problem[if any { "required_any_scope" } else { "required_scopes" }] = json!(named);
        problem["missing_scopes"] = json!(missing);
    }
    if let Denial::RateLimited { limits, .. } = &refusal.denial {
        problem["type"] = json!(QUOTA_EXCEEDED);
        problem["violated-policies"] = json!(limits);
    }
    let mut response = answer(row.status, row.title, &problem, asked);
    if let Some(challenge) = oauth::challenge(policy, refusal) {
        let headers = response.headers_mut();
        headers.insert(WWW_AUTHENTICATE, challenge);
        // An agent in a browser must read the challenge to go on. It says nothing that anyone could not ask for himself, and
        // a browser shows it for `*` only when no cookie was sent.
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("WWW-Authenticate, X-Request-Id"));
    }
    if let Denial::MethodUnknown { allow } = &refusal.denial
        && let Ok(allow) = HeaderValue::try_from(allow.as_str())
    {
        response.headers_mut().insert(ALLOW, allow);
    }
    if let Denial::HttpsRequired { location } = &refusal.denial
        && !asked.grpc
        && let Ok(location) = HeaderValue::try_from(location.as_str())
    {
        response.headers_mut().insert(LOCATION, location);
    }
    if let Some(seconds) = refusal.denial.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer to a request that failed on the wire.
pub fn failed(failure: Failure, asked: &Asked<'_>) -> Response<ResponseBody> {
    let row = failure.row();
    let problem = json!({
        "type": "about:blank", "title": row.title, "status": row.status.as_u16(), "code": row.code,
        "detail": row.cure, "request_id": asked.request_id,
    });
    let mut response = answer(row.status, row.title, &problem, asked);
    if row.close && asked.version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(seconds) = failure.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if failure == Failure::MethodRefused {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"));
    }
    response
}

fn answer(status: StatusCode, title: &'static str, problem: &serde_json::Value, asked: &Asked<'_>) -> Response<ResponseBody> {
    let mut response = match asked.grpc {
        true => grpc::trailers_only(status, title),
        false => {
            let mut response = Response::new(ResponseBody::own(problem.to_string()));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            response
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    name_request(response.headers_mut(), asked.request_id);
    response
}

/// The answer to a permitted OPTIONS request that may go no further.
pub fn last_hop(asked: &Asked<'_>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    name_request(response.headers_mut(), asked.request_id);
    response
}

/// What a browser asks before a page sends its request: which pages may, with which methods and headers.
pub fn preflight(route: &Route, headers: &HeaderMap, asked: &Asked<'_>) -> Response<ResponseBody> {
    let mut response = last_hop(asked);
    if let Some(cors) = &route.cors {
        cors.answer_preflight(headers, response.headers_mut());
    }
    response
}

/// A service's metadata document, for anyone and from any origin: it holds nothing that is not public.
pub fn metadata(policy: &Policy, (service, slash): (usize, bool), method: &Method, asked: &Asked<'_>) -> Response<ResponseBody> {
    let preflight = *method == Method::OPTIONS;
    let body = match preflight {
        true => Vec::new(),
        false => oauth::document(policy, &policy.services[service], slash),
    };
    let mut response = Response::new(ResponseBody::own(body));
    *response.status_mut() = if preflight { StatusCode::NO_CONTENT } else { StatusCode::OK };
    let headers = response.headers_mut();
    if !preflight {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    name_request(headers, asked.request_id);
    response
}
