//! Reasons of the counts of commits.

use super::{Facts, Reason, Verdict, reason};
use crate::worker::Uncounted;

pub(super) fn counts_lost(facts: &Facts) -> Option<Reason> {
    let Some(Uncounted::Lost { by, order }) = facts.incremental.as_ref()?.uncounted else { return None };
    let message = format!(
        "commits are not counted exactly since order {order} ({}), so nothing is deleted between cycles; a cycle counts \
         anew: one begins by itself a window after the last (trigger `counts`), `prune-run` begins one now",
        by.words()
    );
    Some(reason(Verdict::Degraded, "counts_lost", message))
}
