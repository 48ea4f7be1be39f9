//! Reasons of the counts of commits, of what the sweep by them could not read, and of what else may be damaged.

use super::{Facts, Reason, Verdict, reason, unpruned::refused};
use crate::worker::Uncounted;

pub(super) fn counts_lost(facts: &Facts) -> Option<Reason> {
    let Some(Uncounted::Lost { by, order }) = facts.incremental.as_ref()?.uncounted else { return None };
    let then = match facts.poisoned {
        None => "one begins by itself a window after the last (trigger `counts`), `prune-run` begins one now",
        Some(_) => "the next one begins after the next start",
    };
    let why = by.words();
    let message = format!(
        "commits are not counted exactly since order {order} ({why}), so nothing is deleted between cycles; a cycle counts \
         anew: {then}"
    );
    Some(reason(Verdict::Degraded, "counts_lost", message))
}

/// A freeze comes first.
pub(super) fn unproven(facts: &Facts) -> Option<Reason> {
    let doubt = facts.doubt.as_ref().filter(|_| facts.freeze.is_none())?;
    Some(reason(Verdict::Degraded, "unproven", format!("live nodes may be damaged: {}", doubt.why)))
}

pub(super) fn poison_items(facts: &Facts) -> Option<Reason> {
    let quarantine = facts.quarantine.as_ref()?;
    let begins = if facts.poisoned.is_none() { ", and `prune-run` begins one now" } else { "" };
    let message = format!(
        "{quarantine}. What they named stays until a later cycle has finished{begins}. If it comes \
         again the disk fails: `state-node verify` of the store tells how far that goes{}",
        refused(facts, "prune-run")
    );
    Some(reason(Verdict::Degraded, "poison_items", message))
}
