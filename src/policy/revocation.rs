//! How long revocations are kept, and how many.

/// How long it is known that a suspension ended: a word from before it comes too late. As long as a webhook is taken at all.
pub const REVOKED_LIFT_WINDOW_MS: i64 = 2 * super::WEBHOOK_WINDOW_MS;

/// Compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocations {
    /// Seconds.
    pub token_life: i64,
    pub entries: usize,
}
