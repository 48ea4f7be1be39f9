//! SnapshotValidator: whether snapshots, locks, phases, records and recovery of a store are as they should be, asked of a
//! store at rest or of a running node.
//!
//! Promises: no check passes without evidence (S46); one that cannot be asked is skipped with the reason, never passed, and so
//! is one of which a part cannot be asked. Whoever works is not disturbed: captures are let go at once, the lock is probed
//! only while nobody has it and is given way to whoever comes, nothing large is read, and what is taken is given back. What
//! moves while it is looked at is looked at again, and then skipped.
//!
//! Costs: a handful of captures (each holds the commit gate for the moment of a view), every small record once, the last
//! sixteen rows of the commit journal, the first sixteen kept orders and 65,536 marks, the mark of a sweep in pieces, the
//! journal of events up to 64 MiB. A deep one reads all rows of the store, in pieces between which it holds nothing and can
//! be ended, and all of the journal of events.

mod artefacts;
mod checks;
mod integrity;
mod journal;
mod kept;
mod manager;
mod result;
mod timing;

pub use artefacts::check_record;
pub use kept::{Finding, Validated};
pub use manager::{SnapshotValidator, quick_health_check};
pub use result::{Check, Checked, Depth, ValidationReport, ValidationResult};
