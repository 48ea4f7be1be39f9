//! What the worker and its callers share, under one lock that nobody holds while touching the disk.

use std::sync::Arc;

use state_store::CountsLost;

use super::{left::Leftover, recall::Recalled, reclaim::ReclaimShared, steady::SteadyShared, switch::SwitchedOff};
use crate::{
    certificate::Trigger,
    control::{Control, Progress},
    doubt::Doubted,
    events::Event,
    outcome::{Freeze, Outcome},
    rollback::Fate,
    trigger::Coordinator,
    validate::Validated,
};

pub(super) struct Shared {
    pub(super) running: Option<Arc<Control>>,
    pub(super) progress: Option<Progress>,
    /// What set off what runs.
    pub(super) trigger: Option<Trigger>,
    /// The cycle that runs, once it has an id.
    pub(super) cycle: Option<u64>,
    /// Head of the snapshot of the cycle that runs, once it has one.
    pub(super) captured: Option<u64>,
    /// Background failures of the engine up to the last cycle that finished: it got over those.
    pub(super) settled_errors: u64,
    pub(super) last: Option<Outcome>,
    pub(super) freeze: Option<Freeze>,
    /// Whether it waits to be told.
    pub(super) is_freeze_untold: bool,
    /// What is in doubt, also behind a freeze that was lifted.
    pub(super) doubt: Option<Doubted>,
    pub(super) poisoned: Option<String>,
    /// Why it is not known what earlier processes left; nothing begins and nothing is changed while that is so.
    pub(super) unread: Option<String>,
    /// What the last validation came to.
    pub(super) validation: Option<Validated>,
    /// An operator has switched pruning off.
    pub(super) off: Option<SwitchedOff>,
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) deleted: u64,
    /// Says when the next cycle begins.
    pub(super) coordinator: Coordinator,
    /// The sweep between cycles.
    pub(super) steady: SteadyShared,
    /// The record of a cycle that is not at work.
    pub(super) left: Leftover,
    /// Space that is given back while the chain is idle.
    pub(super) reclaim: ReclaimShared,
    pub(super) head: u64,
    pub(super) life: Life,
    /// Why commits are not counted exactly any more, as told last.
    pub(super) lost: Option<CountsLost>,
    /// Events for the worker to tell.
    pub(super) untold: Vec<Event>,
}

impl Shared {
    pub(super) fn new(recalled: Recalled, coordinator: Coordinator, mut steady: SteadyShared, head: u64) -> Self {
        let Recalled { last, freeze, doubt, poisoned, unread, off, validation, quarantine, untold, .. } = recalled;
        steady.quarantined(quarantine);
        Self {
            running: None,
            progress: None,
            trigger: None,
            cycle: None,
            captured: None,
            settled_errors: 0,
            last,
            freeze,
            is_freeze_untold: false, // whoever wrote it down has told it
            doubt,
            poisoned,
            unread,
            validation,
            off,
            finished: 0,
            failed: 0,
            cancelled: 0,
            deleted: 0,
            coordinator,
            steady,
            left: Leftover::default(),
            reclaim: ReclaimShared::default(),
            head,
            life: Life::Serving,
            lost: None,
            untold: untold.into_iter().collect(),
        }
    }
}

impl Shared {
    /// Whether something that is no cycle may delete or rewrite.
    pub(super) fn lets_work_begin(&self) -> bool {
        let stopped = self.poisoned.is_some() || self.unread.is_some() || self.freeze.is_some() || self.off.is_some();
        self.life == Life::Serving && !stopped
    }

    /// A rollback is under way, and this becomes of a cycle that is at work. A stop that came before stays one.
    pub(super) fn goes_back(&mut self, fate: Fate) {
        if self.life != Life::Stopping {
            self.life = Life::RollingBack(fate);
        }
    }

    /// Whether a rollback ends what is at work.
    pub(super) fn gives_way(&self) -> bool {
        self.life == Life::RollingBack(Fate::GivenUp)
    }
}

/// Whether a cycle may begin.
#[derive(PartialEq, Eq)]
pub(super) enum Life {
    Serving,
    /// A rollback is under way: nothing begins. With what becomes of a cycle that is at work.
    RollingBack(Fate),
    Stopping,
}

/// What the end of a cycle changes in the status.
#[derive(Default)]
pub(super) struct Change {
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    /// Nodes that its mark found live, if it finished.
    pub(super) live: Option<u64>,
    pub(super) poisoned: Option<String>,
    pub(super) settled_errors: Option<u64>,
}

impl Change {
    /// Takes the change over.
    pub(super) fn apply(self, shared: &mut Shared) {
        shared.finished += self.finished;
        shared.failed += self.failed;
        shared.cancelled += self.cancelled;
        shared.poisoned = self.poisoned.or(shared.poisoned.take());
        shared.settled_errors = self.settled_errors.unwrap_or(shared.settled_errors);
    }
}
