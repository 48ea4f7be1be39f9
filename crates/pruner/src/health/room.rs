//! Whether the device has room, and whether the last validation found anything.

use super::{Facts, Reason, Verdict, reason, unpruned::refused};
use crate::{
    error::iec,
    validate::{Check, Depth},
    when::When,
};

/// Free space, and what the next cycle needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes free on the device of the store.
    pub free: u64,
    /// Bytes that its next cycle needs, however its ranges come to ask for them (C13).
    pub need: u64,
}

pub(super) fn low_disk(facts: &Facts) -> Option<Reason> {
    let disk = facts.disk.filter(|disk| disk.low)?;
    let message = format!(
        "{} are free on the device, and a cycle begins below {}: if it frees too little, make room; {} end this",
        iec(disk.free?),
        iec(disk.below),
        iec(disk.room_from)
    );
    Some(reason(Verdict::Degraded, "low_disk", message))
}

/// A reserve without its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReserve {
    /// It was let go.
    LetGo {
        /// Bytes it keeps when it can.
        bytes: u64,
    },
    /// The process that keeps it has never had it.
    NeverTaken {
        /// Bytes it keeps when it can.
        bytes: u64,
    },
    /// Its file is not there, and only the node knows which of the two it is.
    NotThere {
        /// Bytes it keeps when it can.
        bytes: u64,
    },
}

pub(super) fn reserve_released(facts: &Facts) -> Option<Reason> {
    let missing = facts.reserve?;
    let (NoReserve::LetGo { bytes } | NoReserve::NeverTaken { bytes } | NoReserve::NotThere { bytes }) = missing;
    let (reserve, twice) = (iec(bytes), iec(bytes.saturating_mul(2)));
    let message = match missing {
        NoReserve::LetGo { .. } => {
            format!(
                "the device was full and the reserve of {reserve} was let go: make room; it is taken again when {twice} are free"
            )
        }
        NoReserve::NeverTaken { .. } => format!(
            "the reserve of {reserve} was never taken since the node started, because {twice} were never free: nothing is kept for \
             a full device; make room, give the node a larger device, or set a smaller pruner.reserve"
        ),
        NoReserve::NotThere { .. } => format!(
            "the reserve of {reserve} is not there: the device was full and it was let go, or it was never taken; make room; the \
             node takes it when {twice} are free"
        ),
    };
    Some(reason(Verdict::Degraded, "reserve_released", message))
}

pub(super) fn cycle_room(facts: &Facts) -> Option<Reason> {
    let Room { free, need } = facts.room.filter(|room| room.free < room.need)?;
    let message = format!(
        "the next cycle needs {} and {} are free: it would be refused (no_room); make room, or \
         give the store a larger device",
        iec(need),
        iec(free)
    );
    Some(reason(Verdict::Degraded, "cycle_room", message))
}

pub(super) fn validation_failed(facts: &Facts) -> Option<Reason> {
    let kept = facts.validation.as_ref()?;
    let open = kept.open.iter().map(|finding| {
        format!("{finding} (found at {}, and no validation has looked at as much since)", When(finding.at))
    });
    let found: Vec<String> = kept.failed.iter().map(ToString::to_string).chain(open).collect();
    let is_of_events = kept.findings().any(|finding| finding.check == Check::Events.label());
    let aside = if is_of_events { " (a journal of events: move its file away while the node is stopped)" } else { "" };
    let again = match kept.findings().map(|finding| finding.needs).max()? {
        Depth::Newest => "validate",
        Depth::All => "validate --deep",
    };
    let message = format!(
        "a validation failed: {}. Mend what it names{aside}, then run `state-node {again}`, which ends this when it passes{}",
        found.join("; "),
        refused(facts, again)
    );
    Some(reason(Verdict::Degraded, "validation_failed", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that is too small from the beginning was never full, and nobody let anything go.
    #[test]
    fn a_reserve_that_never_fitted_is_not_told_as_one_that_was_let_go() {
        let bytes = 96 << 20;
        let rows = [
            (NoReserve::LetGo { bytes }, true, false),
            (NoReserve::NeverTaken { bytes }, false, true),
            (NoReserve::NotThere { bytes }, true, true),
        ];
        for (missing, was_full, was_never) in rows {
            let Reason { code, message, .. } =
                reserve_released(&Facts { reserve: Some(missing), ..Facts::default() }).unwrap();
            let told = ["was full", "never taken", "make room", "96.0 MiB", "192.0 MiB"].map(|it| message.contains(it));
            assert_eq!(
                (code.as_str(), told),
                ("reserve_released", [was_full, was_never, true, true, true]),
                "{message}"
            );
        }
    }
}
