//! The end of a prune at rest that began a cycle and does not finish it.
//!
//! Promises: whoever reads the journal or asks for health learns how the cycle ended. What cannot be cleaned up or written for
//! that is logged, and what ended the prune is what its caller gets. A plan leaves nothing.

use state_store::StoreError;

use super::{Built, Offline, PruneMode, by_an_earlier_prune, folder, kept_dir, pruned_to, refuse_if_held};
use crate::{
    cycle::{self, CycleEnv},
    error::PruneError,
    events::{CycleEnd, Event},
    outcome::Outcome,
    phase::{PhaseEvent, PhaseRecord},
    records::FolderRecords,
};

/// Where a cycle was that ends.
#[derive(Clone, Copy)]
pub(super) struct At {
    cycle: u64,
    /// Head order of its snapshot; absent where it has none yet.
    head_order: Option<u64>,
    /// What its record said that it had deleted; absent where it has none yet.
    deleted: Option<u64>,
}

impl At {
    pub(super) fn of(record: &PhaseRecord) -> Self {
        Self { cycle: record.cycle, head_order: Some(record.head_order), deleted: Some(record.deleted) }
    }
}

/// Why a cycle does not finish that has its mark. What fails without saying which has told nobody.
pub(super) enum Early {
    /// The journal has its end.
    Told(PruneError),
    /// It has not. What the cycle made stays, unless it was given up; the same command goes on with it.
    Untold(PruneError),
}

impl<E: Into<PruneError>> From<E> for Early {
    fn from(error: E) -> Self {
        Self::Untold(error.into())
    }
}

impl Offline<'_> {
    /// Leaves nothing of a mark that failed, unless it was stopped.
    pub(super) fn built(&self, env: &CycleEnv, cycle: u64, built: Built) -> Built {
        let Err(error) = built else { return built };
        if matches!(error, PruneError::Stopped) {
            env.snapshots.end_cycle();
            cycle::ended_early(env, (cycle, None), &error);
            return Err(error); // its record says so until the same command runs again
        }
        let error = self.explained(env, error);
        self.remember(&error); // BEFORE anything else that may fail
        let error = self.given_up(env, error);
        Err(self.ended(At { cycle, head_order: None, deleted: None }, error.into()))
    }

    /// Leaves nothing of a cycle whose end nobody has told.
    pub(super) fn given_up(&self, env: &CycleEnv, error: PruneError) -> PruneError {
        if let Err(unended) = cycle::end(env, &self.order(), PhaseEvent::Failed) {
            tracing::warn!(%unended, "what the prune began could not be cleaned up; the next one does it");
        }
        error
    }

    /// Leaves nothing of a cycle that is marked again, and tells its end.
    ///
    /// Errors: what is left of it could not be removed, with which nothing is marked again.
    pub(super) fn cleared(&self, env: &CycleEnv, at: At, why: &PruneError) -> Result<(), PruneError> {
        cycle::ended_early(env, (at.cycle, at.deleted), why);
        cycle::end(env, &self.order(), PhaseEvent::Failed).inspect_err(|error| self.record(at, error))
    }

    /// Tells the end of a cycle, unless somebody has, and records it.
    pub(super) fn ended(&self, at: At, early: Early) -> PruneError {
        let error = match early {
            Early::Told(error) => error,
            Early::Untold(error) => {
                self.events.emit(Event::CycleEnded(CycleEnd::early((at.cycle, at.deleted), &error)));
                error
            }
        };
        self.record(at, &error);
        error
    }

    /// Health goes by it. A stop is no end, and a window that was too wide says nothing about the store: what the last cycle came to
    /// still holds.
    fn record(&self, at: At, error: &PruneError) {
        let is_none = matches!(error, PruneError::Stopped | PruneError::PrunedBefore { .. });
        if is_none || self.request.mode == PruneMode::Plan {
            return;
        }
        let failed = Outcome::failed(Some(at.cycle), self.steering.clock.unix_ms(), error);
        let outcome = Outcome { head_order: at.head_order, ..failed };
        if let Err(unsaved) = outcome.save(&FolderRecords(self.config.state_dir.clone())) {
            tracing::error!(%unsaved, "that the prune failed could not be saved; health tells what the one before came to");
        }
    }

    /// Nothing is frozen, since nothing is deleted; older snapshots are held.
    pub(super) fn remember(&self, error: &PruneError) {
        if self.request.mode == PruneMode::Plan {
            return; // it leaves nothing
        }
        if let Err(unsaved) = folder::remember(error, self.config.state_dir.clone()) {
            tracing::error!(%unsaved, "that live nodes may be damaged could not be saved");
        }
    }

    /// What an earlier prune deleted is not damage, and what a node does meanwhile is none either (S54).
    fn explained(&self, env: &CycleEnv, error: PruneError) -> PruneError {
        if matches!(&error, PruneError::Store(StoreError::Corrupt(_) | StoreError::Io { .. }))
            && let Err(held) = refuse_if_held(&self.request.db)
        {
            return held; // a writer that came meanwhile removes files under a reader
        }
        let PruneError::MissingLiveNode { .. } = &error else { return error };
        let floor = pruned_to(kept_dir(&self.request.db, self.request.state_dir.as_deref()));
        let asked = env.snapshots.status().snapshot.map(|it| (it.snapshot.first_order, it.snapshot.latest_order));
        match asked {
            Some(asked) => by_an_earlier_prune(floor, asked, error),
            None => error,
        }
    }
}
