//! What is judged by how long it goes on: cycles that do not come, pins that nobody removes, locks without progress.
//!
//! Ages between processes are those of the wall clock, which may step: one that seems to lie ahead is unknown, and is
//! told as unknown (I13).

use std::time::Duration;

use state_store::Holder;

use super::{Facts, HealthConfig, Reason, Verdict, reason};
use crate::{
    control::Pause,
    error::Counted,
    outcome::{Ended, Outcome},
    retention::NamedPin,
    snapshot::{LockRecord, SnapshotLock},
    trigger::Ledger,
};

/// Since when no cycle has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// The last one that did, in milliseconds since 1970.
    Finished(u64),
    /// None has in what is remembered, which begins then.
    NotSince(u64),
}

/// How long ago a cycle finished, and what was committed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CycleAge {
    /// Since when none has.
    pub since: Since,
    /// Milliseconds since 1970 now.
    pub now_ms: u64,
    /// Orders committed since its snapshot.
    pub orders: u64,
    /// A cycle is due after so many; absent where whoever asks does not know.
    pub due_after: Option<u64>,
}

impl CycleAge {
    /// From what the records tell; nothing where they tell of no cycle and of no trigger.
    pub(crate) fn told(last: Option<&Outcome>, ledger: Option<&Ledger>, (head, now_ms): (u64, u64)) -> Option<Self> {
        let runs = ledger.map_or(&[][..], |ledger| ledger.runs());
        let ended = last.into_iter().chain(runs.iter().rev().filter_map(|run| run.outcome.as_ref()));
        let finished =
            ended.filter(|outcome| matches!(outcome.ended, Ended::Finished { .. })).max_by_key(|it| it.cycle);
        let (since, from) = match (finished, ledger, runs.first()) {
            (Some(outcome), _, _) => (Since::Finished(outcome.at), outcome.head_order?),
            (None, Some(ledger), Some(oldest)) => (Since::NotSince(oldest.began_at), ledger.counted_before_runs()),
            (None, Some(ledger), None) => (Since::NotSince(ledger.opened_at()), ledger.counted_before_runs()),
            (None, None, _) => return None,
        };
        Some(Self { since, now_ms, orders: head.saturating_sub(from), due_after: None })
    }
}

/// A lock as it is written down, and whether anybody can still hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedLock {
    /// The record.
    pub record: LockRecord,
    /// Milliseconds since 1970 now.
    pub now_ms: u64,
    /// Its owner, if that has the store open.
    pub by: Option<Holder>,
}

impl RecordedLock {
    /// A lock on record, where this process has the store open, if any: one that another process took is held by nobody.
    pub(crate) fn of(record: LockRecord, now_ms: u64, by: Option<Holder>) -> Self {
        let by = by.filter(|by| by.may_be(record.owner.pid));
        Self { record, now_ms, by }
    }
}

/// The named pin that is there for the longest time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldestPin {
    /// The pin.
    pub pin: NamedPin,
    /// Milliseconds since 1970 now.
    pub now_ms: u64,
}

impl OldestPin {
    /// The oldest one of some.
    pub(crate) fn of(pins: &[NamedPin], now_ms: u64) -> Option<Self> {
        let pin = pins.iter().min_by_key(|pin| pin.since_ms)?;
        Some(Self { pin: pin.clone(), now_ms })
    }
}

fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, _) => format!("{hours} h"),
        (days, _, _) => Counted(days, "day").to_string(),
    }
}

pub(super) fn cycle_overdue(facts: &Facts, config: &HealthConfig) -> Option<Reason> {
    let (age, bound) = (facts.cycle_age.as_ref()?, config.cycle_age?);
    let (Since::Finished(at) | Since::NotSince(at)) = age.since;
    let orders = age.orders;
    let Some(elapsed) = age.now_ms.checked_sub(at).map(Duration::from_millis) else {
        let message = format!(
            "the wall clock lies before the time of the last cycle, so its age is unknown; it was {} ago. The next cycle that \
             finishes ends this",
            Counted(orders, "order")
        );
        return Some(reason(Verdict::Healthy, "cycle_age_unknown", message));
    };
    if elapsed <= bound || orders == 0 {
        return None;
    }
    let when = match age.since {
        Since::Finished(_) => format!("the last cycle finished {} ago", human(elapsed)),
        Since::NotSince(_) => format!("no cycle has finished for {} at least", human(elapsed)),
    };
    match age.due_after {
        None => {
            let message = format!(
                "{when}, {} ago; whether one is due only its node or its --config tells",
                Counted(orders, "order")
            );
            Some(reason(Verdict::Healthy, "cycle_age_unknown", message))
        }
        Some(due) if orders < due => None,
        Some(due) => {
            let message = format!(
                "{when}, and one is due every {due} orders: {orders} were committed since. `triggers` in the status says \
                 what holds cycles back, `last` how the last one ended"
            );
            Some(reason(Verdict::Degraded, "cycle_overdue", message))
        }
    }
}

pub(super) fn lag_unknown(facts: &Facts, config: &HealthConfig) -> Option<Reason> {
    let orders = facts.uncounted.filter(|orders| *orders > 0)?;
    let (orders, were) = (Counted(orders, "order"), if orders == 1 { "was" } else { "were" });
    let message = format!(
        "{orders} {were} committed since the last cycle; whether pruning falls behind ({} times what makes one due) only \
         its node or its --config tells",
        config.lag_cycles
    );
    Some(reason(Verdict::Healthy, "lag_unknown", message))
}

/// A lock is held too long when its phase has not said for this part of its timeout that it makes progress.
const UNRENEWED_PART: u32 = 2;

pub(super) fn lock_held_long(facts: &Facts, config: &HealthConfig) -> Option<Reason> {
    let SnapshotLock { owner, locked_by_phase: phase, unrenewed_ms, timeout_ms, .. } = facts.lock.as_ref()?;
    let (idle, timeout) = (Duration::from_millis(*unrenewed_ms), Duration::from_millis(*timeout_ms));
    if idle <= config.lock_idle.min(timeout / UNRENEWED_PART) {
        return None;
    }
    let (held, timeout) = (human(idle), human(timeout));
    let message = match facts.pause {
        Some(Pause::Holding) => {
            format!("{owner} holds the snapshot for {phase}, paused for {held}: resume the cycle, or cancel it")
        }
        Some(Pause::No | Pause::Asked) | None => format!(
            "{owner} holds the snapshot for {phase} and has made no progress for {held}; after {timeout} another phase may \
             take it. Look at the log and at the disk; cancel the cycle, or restart the node, if it stays"
        ),
    };
    Some(reason(Verdict::Degraded, "lock_held_long", message))
}

/// Only its own process knows whether a phase makes progress; a lock that is held for as long as a cycle may take is told.
pub(super) fn lock_recorded(facts: &Facts, config: &HealthConfig) -> Option<Reason> {
    let RecordedLock { record, now_ms, by } = facts.lock_record.as_ref()?;
    let Some(by) = by else {
        let message =
            format!("a lock was left by a process that has ended: {record}; whoever works next does not obey it");
        return Some(reason(Verdict::Healthy, "lock_left", message));
    };
    let held = Duration::from_millis(now_ms.saturating_sub(record.since));
    let message = format!(
        "{} holds the snapshot for {} since {} ago; whether it makes progress only {by} tells: a node with --url, a prune by its own output",
        record.owner,
        record.phase,
        human(held)
    );
    (held > config.cycle_age?).then(|| reason(Verdict::Degraded, "lock_held_long", message))
}

pub(super) fn pin_old(facts: &Facts, config: &HealthConfig) -> Option<Reason> {
    let (oldest, bound) = (facts.oldest_pin.as_ref()?, config.pin_age?);
    let NamedPin { name, owner, order, since_ms, .. } = &oldest.pin;
    let age = Duration::from_millis(oldest.now_ms.saturating_sub(*since_ms));
    let message = format!(
        "pin `{name}` of {owner} keeps order {order} with its whole state for {}: remove it if nobody needs it",
        human(age)
    );
    (age > bound).then(|| reason(Verdict::Degraded, "pin_old", message))
}
