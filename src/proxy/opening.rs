//! Step 12. The service has changed to WebSocket: whether that is what was asked for, and what the client reads of it.

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::admission::Place;
use super::connection::Berth;
use super::ending::Watch;
use super::extended::{self, Key, Opened};
use super::failure::Failure;
use super::gate::Gate;
use super::handle::Peer;
use super::response_body::ResponseBody;
use super::rewrite;
use super::screen::Screened;
use super::upgrade::Tunnel;
use super::upstream::UpstreamBody;
use crate::access::{MARK, Offer, Snapshot};

/// A WebSocket that was asked for.
pub struct Opening {
    client: OnUpgrade,
    /// Over HTTP/2 the client has none.
    key: Option<Key>,
    /// Whether the gate may choose a subprotocol where the service chose none.
    marked: bool,
    berth: Option<Berth>,
    /// Among the tunnels of the gate.
    place: Place,
}

impl Opening {
    /// Of a request that asks for one.
    pub fn of(gate: &Gate, request: &mut Request<Incoming>, screened: &Screened) -> Result<Option<Self>, (Failure, String)> {
        if !screened.websocket {
            return Ok(None);
        }
        let full = || (Failure::Overloaded, "no place for a tunnel".to_owned());
        let place = gate.admission.enter_tunnel(&gate.observer.metrics).ok_or_else(full)?;
        let key = match extended::is_websocket(request) {
            true => Some(Key::new().ok_or((Failure::Panicked, String::new()))?),
            false => None,
        };
        let marked = Offer::of(request.headers()).is_some_and(|offer| offer.marked);
        let berth = request.extensions_mut().remove::<Berth>();
        Ok(Some(Self { client: hyper::upgrade::on(request), key, marked, berth, place }))
    }

    /// Asks the service for it.
    pub fn ask(&self, headers: &mut HeaderMap) {
        if let Some(key) = &self.key {
            key.ask(headers);
        }
    }

    /// Over HTTP/2 every 2xx opens a tunnel: one that is no change of the protocol must not get through.
    pub fn is_misled_by(&self, status: StatusCode) -> bool {
        self.key.is_some() && status.is_success()
    }

    /// The answer that opens the tunnel, and the tunnel.
    pub fn open(
        self,
        (gate, snapshot, peer): (&Gate, &Snapshot, &Peer),
        mut response: Response<UpstreamBody>,
        watch: Option<Watch>,
        request_id: &str,
    ) -> Result<(Response<ResponseBody>, Tunnel), (Failure, String)> {
        let headers = response.headers();
        let websocket = headers.get(UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if !websocket || self.key.as_ref().is_some_and(|key| !key.is_answered(headers)) {
            let detail = if websocket { "the answer belongs to another key" } else { "" };
            return Err((Failure::UpgradeInvalid, detail.to_owned()));
        }
        let upstream = hyper::upgrade::on(&mut response);
        let (mut parts, body) = response.into_parts();
        let tunnel = Tunnel {
            client: self.client,
            upstream,
            facts: peer.facts.clone(),
            idle: snapshot.policy.timeouts.tunnel_idle,
            leave_within: snapshot.policy.shutdown_deadline,
            _held: peer.held.clone(),
            _places: (body.into_place(), self.place),
            closing: gate.closing_tunnels.subscribe(),
            berth: self.berth,
            watch,
        };
        rewrite::to_client(&mut parts.headers, &snapshot.policy, request_id);
        parts.headers.remove(CONTENT_LENGTH);
        if self.marked && !parts.headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
            parts.headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(MARK));
        }
        match self.key {
            Some(_) => {
                parts.status = StatusCode::OK;
                parts.extensions.insert(Opened);
                parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
            }
            None => {
                parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            }
        }
        Ok((Response::from_parts(parts, ResponseBody::own("")), tunnel))
    }
}
