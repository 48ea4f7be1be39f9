//! The end of a node: how what works below HTTP is closed, and what that waits for, told to whoever waits for the end: nobody can
//! end a thread that a disk holds.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::Context as _;
use parking_lot::Mutex;
use state_pruner::{
    Heart, Pruner,
    events::{EventJournal, Stopping},
};
use tokio::task::JoinHandle;

use crate::chain::Chain;

/// How long the disk may take to write down what happened.
const LAST_EVENTS: Duration = Duration::from_secs(5);

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
            Self::Store => "the store to close, and its last heartbeat",
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

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The store is closed.
    Whole,
    /// A read still has the store open, on a thread that nobody can end: [`crate::shutdown::leave`] the process.
    StillRead,
}

/// The end of what works below HTTP. `stopped` is the last event, and is written when the flush of what was acknowledged has
/// ended: an end that is cut short before does not look like one in order.
pub(super) fn close(
    (chain, pruner): (Arc<Chain>, Option<Arc<Pruner>>),
    (events, (heart, pulse)): (&EventJournal, (Arc<Heart>, JoinHandle<()>)),
    end: &TheEnd,
) -> anyhow::Result<Stopped> {
    events.let_producers_go(); // a disk that hangs must not hold the pruner's thread
    end.is_at(Step::Pruner);
    if let Some(pruner) = pruner {
        pruner.stop(); // by name: a read that does not end shares it
    }
    end.is_at(Step::Flush);
    tracing::info!("stopping: the store is flushed");
    let flushed = chain.store().backend().flush();
    end.is_at(Step::Events);
    match events.stop(LAST_EVENTS) {
        Stopping::Whole | Stopping::GivenUp { .. } => {} // told by the journal; the store is closed all the same
    }
    end.is_at(Step::Store);
    let store = Arc::clone(chain.store());
    drop(chain);
    flushed.context("flushing the store")?; // or else there is no last heartbeat
    let still_read = Arc::downgrade(&store);
    pulse.abort(); // a beat at work keeps the last one waiting, not the store
    match heart.last(store) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            "no last heartbeat: the store is still read or was opened since, or the one before is still written"
        ),
        Err(error) => tracing::warn!(%error, "no last heartbeat"),
    }
    if still_read.strong_count() == 0 {
        return Ok(Stopped::Whole);
    }
    tracing::warn!("a read of a request does not end: the process ends without it");
    Ok(Stopped::StillRead)
}
