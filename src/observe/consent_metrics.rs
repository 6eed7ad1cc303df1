//! What Prometheus reads of asking Logto about users' consents.

use prometheus::{HistogramVec, IntCounterVec};

use super::metrics::Maker;

/// What is counted of asking about consents.
#[derive(Debug, Clone)]
pub struct ConsentMetrics {
    /// Questions, by what about and what came of them.
    pub results: IntCounterVec,
    /// Requests that had to ask, by whether somebody was asking already.
    pub lookups: IntCounterVec,
    pub seconds: HistogramVec,
}

impl ConsentMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            results: make.counters("consent_questions_total", "Questions to Logto about consents, by result.", &["about", "result"])?,
            lookups: make.counters("consent_lookups_total", "Answers that were not there, by how they were had.", &["cache"])?,
            seconds: make.histograms("consent_question_duration_seconds", "From a question about a consent to its answer.", &[])?,
        })
    }
}
