//! One service's endpoints, and the choice among them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::answer::UpstreamBody;
use super::balanced::{Balanced, Placed, Tries, Unanswered};
use super::dns;
use super::endpoint::{Address, Endpoint, EndpointKey, Patience};
use super::pool::Bounds;
use super::tls::ClientTls;
use crate::clock;
use crate::observe::{ServiceStanding, UpstreamMetrics};
use crate::policy::{At, EndpointAt, Service, Upstream};
use crate::proxy::progress::BodyProgress;
use crate::proxy::request_body::RequestBody;

/// An endpoint of those that a name stands for.
#[derive(Clone)]
pub struct Member {
    pub endpoint: Arc<Endpoint>,
}

pub struct Cluster {
    service: Arc<str>,
    settings: Upstream,
    tls: Option<ClientTls>,
    metrics: UpstreamMetrics,
    /// For each endpoint that the operator named, what its name stands for at the moment.
    parts: Mutex<Vec<Vec<Member>>>,
    members: ArcSwap<Vec<Member>>,
    /// For each endpoint, whether its name was asked for, if it has one.
    asked: watch::Sender<Vec<bool>>,
    balanced: Arc<Balanced>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Cluster {
    /// That of a service; endpoints that were there before stay.
    pub fn new(service: &Service, before: Option<&Arc<Self>>, metrics: &UpstreamMetrics) -> Result<Arc<Self>, String> {
        let settings = service.upstream.clone();
        let tls = ClientTls::of(&settings).map_err(|error| format!("service {}: {error}", service.name))?;
        let known: Vec<Arc<Endpoint>> =
            before.map(|before| before.members.load().iter().map(|member| member.endpoint.clone()).collect()).unwrap_or_default();
        let asked = settings.endpoints.iter().map(|endpoint| !matches!(endpoint.at, At::Name(..))).collect();
        let cluster = Arc::new(Self {
            service: service.name.clone(),
            tls,
            metrics: metrics.clone(),
            parts: Mutex::new(vec![Vec::new(); settings.endpoints.len()]),
            members: ArcSwap::default(),
            asked: watch::Sender::new(asked),
            balanced: Balanced::new(
                service.name.clone(),
                settings.balancing.clone(),
                before.map(|before| &*before.balanced),
                metrics.balance.clone(),
            ),
            tasks: Mutex::default(),
            settings,
        });
        for (part, endpoint) in cluster.settings.endpoints.iter().enumerate() {
            match &endpoint.at {
                At::Address(address) => cluster.replace(part, &[*address], &known)?,
                At::Unix(path) => {
                    let member = cluster.member(endpoint, Address::Unix(path.clone()), Vec::new(), &known)?;
                    cluster.set(part, vec![member]);
                }
                At::Name(..) => {
                    // What the name stood for until now counts until it is resolved anew.
                    let last = before.and_then(|before| before.addresses_of(endpoint));
                    if let Some(addresses) = last {
                        cluster.replace(part, &addresses, &known)?;
                        cluster.was_asked(part);
                    }
                    let task = tokio::spawn(dns::follow(Arc::downgrade(&cluster), part)).abort_handle();
                    cluster.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
                }
            }
        }
        cluster.place();
        Ok(cluster)
    }

    pub fn fits(&self, settings: &Upstream) -> bool {
        self.settings == *settings
    }

    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    pub(super) fn settings(&self) -> &Upstream {
        &self.settings
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// The endpoints of this moment.
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.load_full()
    }

    /// A name has come to stand for these addresses. Endpoints that are gone finish what they have.
    pub(super) fn resolved(&self, part: usize, addresses: &[SocketAddr]) {
        let known: Vec<Arc<Endpoint>> = self.members.load().iter().map(|member| member.endpoint.clone()).collect();
        if let Err(error) = self.replace(part, addresses, &known) {
            tracing::error!(target: "wicketgate::upstream", service = &*self.service, error, "an endpoint cannot be used");
        }
        self.place();
        self.was_asked(part);
    }

    /// A name was asked for: nobody need wait for it any longer, whatever came of it.
    pub(super) fn was_asked(&self, part: usize) {
        self.asked.send_if_modified(|asked| asked.get_mut(part).is_some_and(|asked| !std::mem::replace(asked, true)));
    }

    fn addresses_of(&self, wanted: &EndpointAt) -> Option<Vec<SocketAddr>> {
        let part = self.settings.endpoints.iter().position(|endpoint| endpoint.at == wanted.at)?;
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses: Vec<SocketAddr> = parts[part].iter().flat_map(|member| member.endpoint.addresses()).collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    /// The endpoint of each address. One family is used; the other is where a connection goes when that does not answer, since
    /// a name with both mostly names each server twice.
    fn replace(&self, part: usize, addresses: &[SocketAddr], known: &[Arc<Endpoint>]) -> Result<(), String> {
        let Some(endpoint) = self.settings.endpoints.get(part) else { return Ok(()) };
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(SocketAddr::is_ipv4);
        let (used, others) = if v4.is_empty() { (v6, v4) } else { (v4, v6) };
        let members = used.into_iter().map(|address| self.member(endpoint, Address::Tcp(address), others.clone(), known));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        self.set(part, members);
        Ok(())
    }

    fn member(&self, written: &EndpointAt, address: Address, others: Vec<SocketAddr>, known: &[Arc<Endpoint>]) -> Result<Member, String> {
        let key = EndpointKey {
            address,
            protocol: self.settings.protocol,
            tls: self.settings.tls.clone(),
            host: written.host.clone(),
            label: written.label.clone(),
        };
        let bounds = Bounds { limits: self.settings.bounds.clone(), timeouts: self.settings.timeouts.clone() };
        let endpoint = match known.iter().find(|known| known.key == key) {
            Some(known) => {
                known.adopt(others, &bounds);
                known.clone()
            }
            None => {
                let metrics = self.metrics.endpoint(&self.service, &written.label);
                Endpoint::new(key, self.tls.as_ref(), others, bounds, metrics)?
            }
        };
        Ok(Member { endpoint })
    }

    fn set(&self, part: usize, members: Vec<Member>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts[part] = members;
        self.members.store(Arc::new(parts.concat()));
    }

    /// Tells those who choose which endpoints there are. The weight of a name is that of its addresses together.
    fn place(&self) {
        let mut placed = Vec::new();
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for (endpoint, members) in self.settings.endpoints.iter().zip(&*parts) {
            for member in members {
                let name = match (&endpoint.at, &member.endpoint.key.address) {
                    (At::Name(..), Address::Tcp(address)) => format!("{} ({address})", endpoint.label).into(),
                    _ => endpoint.label.clone(),
                };
                let weight = f64::from(endpoint.weight) / members.len() as f64;
                placed.push(Arc::new(Placed { endpoint: member.endpoint.clone(), name, weight }));
            }
        }
        self.balanced.adopt(placed);
    }

    /// Follows nothing any more: another has taken over. Requests that still come are served.
    pub fn retire(&self, next: Option<&Arc<Self>>) {
        self.balanced.retire();
        let stay = next.map(|next| next.members()).unwrap_or_default();
        for gone in self.members().iter().filter(|gone| !stay.iter().any(|stays| Arc::ptr_eq(&stays.endpoint, &gone.endpoint))) {
            gone.endpoint.close();
        }
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }

    pub fn standing(&self) -> ServiceStanding {
        self.balanced.standing()
    }

    /// Sends a request to one of the endpoints, and waits for the head of its answer. `key` is the hash of what the endpoint
    /// is chosen by.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        key: Option<u64>,
        (progress, response): (&Arc<BodyProgress>, Duration),
        tries: &mut Tries,
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        let timeouts = &self.settings.timeouts;
        let deadline = timeouts.total.map(|total| clock::instant_now() + total);
        let patience = Patience { progress: progress.clone(), response, idle: timeouts.idle, deadline, keep_bytes_max: 0 };
        self.names_known(timeouts.connect).await;
        self.balanced.send(request, key, &patience, tries).await
    }

    /// Waits until every name was asked for once.
    async fn names_known(&self, patience: Duration) {
        if !self.members.load().is_empty() {
            return;
        }
        let _ = timeout(patience, self.asked.subscribe().wait_for(|asked| asked.iter().all(|asked| *asked))).await;
    }
}
