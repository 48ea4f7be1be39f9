//! The journal of events: everything that happens to the pruner, in the order in which it happened, on disk.
//!
//! Promises: an event that was taken is on disk after the next flush, or counted as lost, and is told once the journal
//! can be written again; events of one producer keep their order; memory is bounded, because a full queue makes its
//! producer wait, for seconds where the disk hangs: then its event is lost, and told as such; whoever watches live is never waited for, and is told how much it missed. A failing disk stops no
//! pruning: it is a reason of health. Stopping drains, flushes and syncs, and takes bounded time.
//!
//! Order that must not change: nothing on the way of a commit emits, and nobody emits under a lock that a commit takes,
//! because a full queue waits for the disk (I12).
//!
//! Another kind of event is a variant at the end of [`Event`] with its word in `code` and its heading in
//! docs/operations.md; the variants before it keep their places, because records name them by number.

mod code;
mod compact;
mod due;
mod event;
mod file;
mod frame;
mod journal;
mod medium;
mod places;
mod queue;
mod read;
mod status;
mod tally;
mod totals;
mod unopened;
mod writer;

pub use event::{Breaker, Entry, Event, Happened, Joined};
pub use journal::{EventJournal, Heard, Stopping, Subscription};
pub use places::DamagedPlace;
pub use read::{
    Filter, JournalRead, find_journal, journal_dir, journal_dirs, journal_file, read_journal, verify_journal,
};
pub use status::{EventsConfig, EventsSync, JournalStatus, Replay, WriteFailure};
pub(crate) use tally::{RoundTally, RoundTold};
pub use totals::{CycleEnd, Reclaimed, RoundTotals, RunEnd};

/// Takes events. Waits, for a bounded time, where its queue is full, so nobody calls it on the way of a commit.
pub trait EventSink: Send + Sync + std::fmt::Debug {
    /// Takes one event.
    fn emit(&self, event: Event);
}

/// Takes events and forgets them.
#[derive(Debug, Clone, Copy)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn emit(&self, _event: Event) {}
}

#[cfg(test)]
mod tests;
