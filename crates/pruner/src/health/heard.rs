//! That the store was not looked at, and what is known is what its node had said.

use super::{Facts, Reason, Verdict, reason};
use crate::when::{Span, When};

/// A heartbeat of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByHeartbeat {
    /// When it was written, in milliseconds since 1970.
    pub at_ms: u64,
    /// Milliseconds since 1970 now.
    pub now_ms: u64,
    /// Whether it is not the last one of its process, and that is not seen to have the store open.
    pub is_cut: bool,
}

pub(super) fn by_heartbeat(facts: &Facts) -> Option<Reason> {
    let ByHeartbeat { at_ms, now_ms, is_cut } = facts.by_heartbeat?;
    let age = match now_ms.checked_sub(at_ms) {
        Some(age) => format!("{} ago", Span(age)),
        None => "which lies ahead of the wall clock".to_owned(),
    };
    let told = format!(
        "the store was not read in time, so this is what its node said at {}, {age}. Neither its write-ahead log nor its files \
         were looked at: give more time for that, with `--heartbeat-after` and `--within`",
        When(at_ms)
    );
    if !is_cut {
        return Some(reason(Verdict::Healthy, "by_heartbeat", told));
    }
    let message = format!(
        "{told}. Its process is not seen to have the store open, and that was not its last word: it was killed, lost its \
         power, could not write its last word, or runs where it is not seen from here, as in another container. What it wrote \
         after that is not known here, until it is started again or the store is read"
    );
    Some(reason(Verdict::Degraded, "heartbeat_cut", message))
}
