//! Reasons of a sweep between cycles that does not keep up.

use super::{Facts, Reason, Verdict, reason};
use crate::incremental::RoundEnd;

pub(super) fn incremental_behind(facts: &Facts) -> Option<Reason> {
    let incremental = facts.incremental.as_ref().filter(|_| facts.too_much)?;
    let (made, done) = incremental.production_per_second.zip(incremental.capacity_per_second)?;
    let message = format!(
        "commits drop {made:.0} nodes per second and the sweep between cycles can delete {done:.0}: it falls behind; \
         give the node a faster disk, or let major cycles do more"
    );
    Some(reason(Verdict::Degraded, "incremental_behind", message))
}

/// Whatever the cause.
pub(super) fn incremental_lagging(facts: &Facts) -> Option<Reason> {
    let grown = facts.lag_growth?;
    let message = format!(
        "what waits for the sweep between cycles has grown for ten minutes without coming down, {grown}: `incremental` in \
         the status says how its rounds end; `prune-run` settles what waits"
    );
    Some(reason(Verdict::Degraded, "incremental_lagging", message))
}

pub(super) fn index_full(facts: &Facts) -> Option<Reason> {
    let nodes = facts.without_place?;
    let message = format!(
        "{nodes} nodes that the window lost had no place in the index of those that wait to go, and are left to a cycle: \
         raise `pending_limit`, or retain fewer orders"
    );
    Some(reason(Verdict::Degraded, "index_full", message))
}

/// No slice is taken, and that is as it should be.
pub(super) fn incremental_waits(facts: &Facts) -> Option<Reason> {
    let incremental = facts.incremental.as_ref()?;
    if let Some(walking) = &incremental.walking {
        let message = format!(
            "the sweep between cycles reads what {} states below the floor hold, up to order {}: {} nodes in {:.0} s so far; \
             `lag_nodes` in the status says what waits meanwhile",
            walking.states, walking.newest, walking.nodes, walking.seconds
        );
        return Some(reason(Verdict::Healthy, "incremental_waits", message));
    }
    let Some(RoundEnd::Waits { order, owner }) = &incremental.last else { return None };
    let message = format!("the sweep between cycles waits: {owner} holds order {order}");
    Some(reason(Verdict::Healthy, "incremental_waits", message))
}
