//! What the sweep of a cycle has done so far, over all attempts, and over marks where one took the place of another.

use crate::{phase::PhaseRecord, sweep::SweepReport};

/// What the sweep of a cycle has done so far.
pub(crate) struct SweptSoFar {
    /// Nodes that earlier processes deleted.
    pub(super) before: u64,
    /// All attempts of this process.
    pub(super) report: SweepReport,
    /// Nodes of the report that were told as they went.
    pub(super) told: u64,
}

impl SweptSoFar {
    /// Nothing yet.
    pub(crate) fn nothing() -> Self {
        Self { before: 0, report: SweepReport::begun(), told: 0 }
    }

    /// What the record of an interrupted cycle tells.
    pub(crate) fn by_earlier_processes(record: &PhaseRecord) -> Self {
        let begun = SweepReport::begun();
        let nothing_was_passed = record.cursor.is_none() && record.deleted == 0;
        let kept = begun.kept.filter(|_| nothing_was_passed); // what they passed is not in the record
        Self { before: record.deleted, report: SweepReport { kept, ..begun }, told: 0 }
    }

    /// Nodes that the cycle deleted.
    pub(super) fn deleted(&self) -> u64 {
        self.before + self.report.deleted
    }
}
