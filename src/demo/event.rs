//! What happens in the demo beside the gate's own records, in one shape: who did what, what was decided, and why.

/// One line in the terminal. Nothing secret may stand in it.
pub fn event(who: &str, what: &str, decision: &str, reason: &str) {
    tracing::info!(target: "wicketgate::demo", who, what, decision, reason);
}
