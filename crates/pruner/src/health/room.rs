//! Whether the device has room, and whether the last validation found anything.

use super::{Facts, Reason, Verdict, reason};
use crate::{error::iec, validate::Depth, when::When};

/// Free space, and what the next cycle needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes free on the device of the store.
    pub free: u64,
    /// Bytes that its largest range needs, as the sweep will ask before that range (C13).
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

pub(super) fn reserve_released(facts: &Facts) -> Option<Reason> {
    let bytes = facts.reserve?;
    let message = format!(
        "the device was full and the reserve of {} was let go: make room; it is taken again when {} are free",
        iec(bytes),
        iec(bytes.saturating_mul(2))
    );
    Some(reason(Verdict::Degraded, "reserve_released", message))
}

pub(super) fn cycle_room(facts: &Facts) -> Option<Reason> {
    let Room { free, need } = facts.room.filter(|room| room.free < room.need)?;
    let message = format!(
        "the next cycle needs {} for its largest range and {} are free: it would be refused (no_room); make room, or \
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
    let again = match kept.findings().map(|finding| finding.needs).max()? {
        Depth::Newest => "validate",
        Depth::All => "validate --deep",
    };
    let message = format!(
        "a validation failed: {}. Mend what it names, then run `state-node {again}`, which ends this when it passes",
        found.join("; ")
    );
    Some(reason(Verdict::Degraded, "validation_failed", message))
}
