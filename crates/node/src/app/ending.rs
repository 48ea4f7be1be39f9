//! What the end of a node waits for, told to whoever waits for the end: nobody can end a thread that a disk holds.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use state_pruner::Pruner;

/// A step of the end of a node, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The load that the node drives by itself.
    Load,
    /// What waits for a block.
    Blocks,
    /// A copy of the store that is being made.
    Copy,
    /// The last line of the node.
    Summary,
    /// Clients.
    Requests,
    /// The worker.
    Pruner,
    /// The store to its files.
    Flush,
    /// What happened.
    Events,
    /// The engine.
    Store,
}

impl Step {
    fn waits_for(self) -> &'static str {
        match self {
            Self::Load => "the last requests of its own load",
            Self::Blocks => "the last blocks to be written",
            Self::Copy => "the copy of the store to end",
            Self::Summary => "the store to tell what the node did",
            Self::Requests => "open requests",
            Self::Pruner => "the pruner, which is at",
            Self::Flush => "the flush of the store",
            Self::Events => "the journal of events",
            Self::Store => "the store to close",
        }
    }
}

/// What the end of a node is at, for whoever waits for it: a disk may hold it up without end.
#[derive(Debug, Clone)]
pub struct TheEnd {
    step: Arc<Mutex<Step>>,
    pruner: Weak<Pruner>,
}

impl TheEnd {
    pub(super) fn of(pruner: Option<&Arc<Pruner>>) -> Self {
        Self { step: Arc::new(Mutex::new(Step::Load)), pruner: pruner.map_or_else(Weak::new, Arc::downgrade) }
    }

    /// The end has come to a step.
    pub fn is_at(&self, step: Step) {
        *self.step.lock() = step;
    }

    /// In words. Waits for no disk.
    pub fn waits_for(&self) -> String {
        let step = *self.step.lock();
        let pruner = self.pruner.upgrade().filter(|_| step == Step::Pruner);
        let doing = pruner.map_or_else(String::new, |pruner| format!(" {}", pruner.at_work()));
        format!("{}{doing}", step.waits_for())
    }
}
