//! What `/status` and `/readyz` say of the services' endpoints.

use serde_json::{Value, json};

use super::balance_metrics::{ServiceStanding, state};
use super::health::Check;

/// Every endpoint of every service, and its circuit breaker.
pub fn shown(standings: &[ServiceStanding]) -> Value {
    let of_service = |standing: &ServiceStanding| {
        let endpoints: Vec<Value> = standing.endpoints.iter().map(endpoint).collect();
        let breaker = standing.breaker.map(|breaker| breaker.label());
        json!({ "service": standing.service, "circuit_breaker": breaker, "endpoints": endpoints })
    };
    standings.iter().map(of_service).collect()
}

fn endpoint(standing: &crate::balance::Standing) -> Value {
    let ejected = standing.ejected.map(|left| left.as_secs_f64().ceil() as u64);
    json!({
        "endpoint": standing.name, "state": state(standing), "weight": standing.weight, "share": (standing.share * 100.0).round() / 100.0,
        "requests": standing.in_flight, "ejected_seconds": ejected,
    })
}

/// One line a service of which there is something to say. A service that is down never makes the gate unready: another gate would find it down as well, and
/// taking all gates out of a load balancer would end the other services too.
pub fn checks(standings: &[ServiceStanding]) -> impl Iterator<Item = Check> {
    let says = |standing: &&ServiceStanding| {
        let asks = standing.endpoints.iter().any(|endpoint| endpoint.health.is_some());
        asks || standing.endpoints.len() > 1 || standing.breaker.is_some()
    };
    standings.iter().filter(says).map(|standing| {
        let well = standing.endpoints.iter().filter(|endpoint| matches!(state(endpoint), "healthy" | "unchecked")).count();
        let breaker = standing.breaker.map(|breaker| format!(", circuit breaker {}", breaker.label())).unwrap_or_default();
        let why = format!("{well} of {} endpoints well{breaker}", standing.endpoints.len());
        Check { name: format!("upstream {}", standing.service), good: true, why }
    })
}
