//! Step 13. What the answers of a place bear whoever made them: the operator's header changes, and which pages may read
//! them.

use http::{HeaderMap, HeaderValue, Response};

use super::location::{Hosts, lead_back};
use super::response_body::ResponseBody;
use super::screen::Screened;
use crate::access::{Refusal, Verdict};
use crate::policy::{Cors, Policy, Rewriting, Service, origin};

/// Found once a request, when it is known where it leads.
pub struct AnswerFields<'p> {
    service: Option<&'p Service>,
    rewriting: Option<&'p Rewriting>,
    cors: Option<&'p Cors>,
    origin: Option<HeaderValue>,
}

impl<'p> AnswerFields<'p> {
    pub fn of(policy: &'p Policy, verdict: &Result<Verdict, Box<Refusal>>, headers: &HeaderMap) -> Self {
        let (service, route) = match verdict {
            Ok(Verdict::Forward(permit)) => (Some(permit.service()), Some(permit.route())),
            Err(refusal) => (refusal.service, refusal.route),
            // What the gate serves itself has its own fields, for all services alike.
            Ok(Verdict::Metadata { .. } | Verdict::Preflight { .. } | Verdict::Webhook | Verdict::Own { .. }) => (None, None),
        };
        Self::at(policy, service, route, headers)
    }

    /// Those of a place, as far as it is known.
    pub fn at(policy: &'p Policy, service: Option<usize>, route: Option<usize>, headers: &HeaderMap) -> Self {
        let service = service.map(|service| &policy.services[service]);
        let route = service.zip(route).map(|(service, route)| &service.routes[route]);
        let (rewriting, cors) = match (route, service) {
            (Some(route), _) => (Some(&*route.rewriting), route.cors.as_deref()),
            (None, Some(service)) => (Some(&*service.rewriting), service.cors.as_deref()),
            (None, None) => (None, None),
        };
        let origin = cors.and_then(|_| origin(headers)).cloned();
        Self { service, rewriting, cors, origin }
    }

    /// On an answer of the gate's own: what it says itself stays, but for who may read it.
    pub fn on_own(&self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let headers = response.headers_mut();
        if let Some(rewriting) = self.rewriting {
            rewriting.response.apply_to_own(headers);
        }
        if let Some(cors) = self.cors {
            cors.mark(self.origin.as_ref(), headers);
        }
        response
    }

    /// On an answer with which a tunnel begins: the CORS protocol ends where a WebSocket begins.
    pub fn on_tunnels(&self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        if let Some(rewriting) = self.rewriting {
            rewriting.response.apply(response.headers_mut());
        }
        response
    }

    /// On any other answer of the upstream's.
    pub fn on_upstreams(&self, mut response: Response<ResponseBody>, screened: &Screened) -> Response<ResponseBody> {
        let headers = response.headers_mut();
        if let (Some(rewriting), Some(service)) = (self.rewriting, self.service) {
            let upstream = &service.upstream;
            let hosts = Hosts { client: &screened.authority, upstream: upstream.base.authority(), endpoints: &upstream.endpoints };
            lead_back(rewriting, &hosts, headers);
            rewriting.response.apply(headers);
        }
        if let Some(cors) = self.cors {
            cors.mark(self.origin.as_ref(), headers);
        }
        response
    }
}
