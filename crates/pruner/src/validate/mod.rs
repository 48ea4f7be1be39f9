//! SnapshotValidator: whether snapshots, locks, phases, records and recovery of a store are as they should be, asked of a
//! store at rest or of a running node.
//!
//! Promises: no check passes without evidence (S46); one that cannot be asked is skipped with the reason, never passed.
//! Whoever works is not disturbed: captures are let go at once, the lock is probed only while nobody has it and is given
//! way to whoever comes, nothing large is read, and what is taken is given back. What moves while it is looked at is
//! looked at again, and then skipped.
//!
//! Costs: a handful of captures (each holds the commit gate for the moment of a view), every small record once, the last
//! sixteen rows of the commit journal and 65,536 marks, the mark file up to 64 MiB and of a larger one its header, the
//! journal of events up to 64 MiB.

mod artefacts;
mod checks;
mod integrity;
mod journal;
mod manager;
mod result;
mod timing;

pub use artefacts::check_record;
pub use manager::{SnapshotValidator, ValidationTargets, quick_health_check};
pub use result::{Check, Checked, ValidationReport, ValidationResult};
