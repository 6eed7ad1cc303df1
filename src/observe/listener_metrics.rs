//! What Prometheus reads of connections that ended before HTTP could begin.

use prometheus::IntCounterVec;

use super::metrics::Maker;

#[derive(Debug)]
pub struct ListenerMetrics {
    handshakes_failed: IntCounterVec,
    proxy_refused: IntCounterVec,
}

impl ListenerMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            handshakes_failed: make.counters(
                "tls_handshakes_failed_total",
                "Connections that ended in the TLS handshake, by reason.",
                &["reason"],
            )?,
            proxy_refused: make.counters(
                "proxy_protocol_refused_total",
                "Connections without a good PROXY header from a trusted address, by reason.",
                &["reason"],
            )?,
        })
    }

    pub fn count_handshake_failed(&self, reason: &'static str) {
        self.handshakes_failed.with_label_values(&[reason]).inc();
    }

    pub fn count_proxy_refused(&self, reason: &'static str) {
        self.proxy_refused.with_label_values(&[reason]).inc();
    }
}
