//! What Prometheus reads of revocations, of Logto's webhook, and of streams that were ended.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::metrics::Maker;

#[derive(Debug)]
pub struct RevocationMetrics {
    pub(super) entries: IntGauge,
    /// Those for which there was no room.
    pub refused: IntCounter,
    pub webhooks: IntCounterVec,
    pub streams_ended: IntCounterVec,
}

impl RevocationMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            entries: make.gauge("revocations", "Revocations that are kept.")?,
            refused: make.counter("revocations_refused_total", "Revocations for which there was no room.")?,
            webhooks: make.counters("webhooks_total", "Logto's webhooks, by what happened and what came of it.", &["event", "result"])?,
            streams_ended: make.counters(
                "streams_ended_total",
                "Open streams that were ended because their token counts no more.",
                &["reason"],
            )?,
        })
    }
}
