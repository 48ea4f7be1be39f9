//! What the end of a cycle leaves: log lines, metrics, durable records, and the change of the status.

use std::time::Duration;

use state_store::{Disposition, Point, StoreError, reached};

use super::{
    Inner,
    shared::{Change, Shared},
};
use crate::{
    certificate::Trigger,
    clock::millis,
    cycle::Finished,
    error::PruneError,
    events::{Event, Joined},
    metrics,
    outcome::Outcome,
    trigger::{Beginning, Ending, Run},
};

/// Why nothing more is deleted in this process, where an error says that a promise of ours does not hold (P14).
pub(super) fn bug(error: &PruneError) -> Option<String> {
    (error.disposition() == Disposition::Bug).then(|| format!("{error}; see the log"))
}

/// A cycle that ended, and what that changes.
pub(super) struct Ended {
    outcome: Outcome,
    change: Change,
}

impl Inner {
    pub(super) fn finished(&self, finished: &Finished) -> Ended {
        let certificate = &finished.certificate;
        metrics::cycle_finished(certificate);
        self.recovery.cycle_finished();
        self.look_at_quarantine(0);
        tracing::info!(
            cycle = certificate.cycle,
            deleted = certificate.deleted,
            live = certificate.live_nodes,
            bytes_after = certificate.bytes_after.total,
            "pruning cycle finished"
        );
        let change = Change {
            finished: 1,
            live: Some(certificate.live_nodes),
            settled_errors: self.background_errors(),
            ..Change::default()
        };
        Ended { outcome: Outcome::finished(certificate, &finished.path), change }
    }

    /// An operator ended it: that is no failure.
    pub(super) fn cancelled(&self) -> Ended {
        let outcome = self.early(&PruneError::Cancelled);
        metrics::cycle_ended(PruneError::Cancelled.code());
        tracing::info!(cycle = outcome.cycle, "pruning cycle cancelled");
        Ended { outcome, change: Change { cancelled: 1, ..Change::default() } }
    }

    /// A rollback ended it. What was to go is still there, and a chain that goes back within each cycle is never pruned: so it
    /// is told like a failure until one finishes. Its run counts as interrupted, and who asked for it waits for the next one.
    pub(super) fn given_up(&self) {
        let cycle = self.shared.lock().cycle;
        let error = cycle.map(|cycle| {
            let why = "a rollback ended it: the chain goes back to an older order".to_owned();
            PruneError::NotResumable { cycle, why }
        });
        let outcome = error.as_ref().map(|error| self.early(error));
        metrics::cycle_ended(error.as_ref().map_or(PruneError::Cancelled.code(), PruneError::code));
        tracing::warn!(cycle, "a rollback ended a pruning cycle; another one is owed");
        outcome.iter().for_each(|outcome| self.save_outcome(outcome));
        {
            let mut shared = self.shared.lock();
            shared.last = outcome.or(shared.last.take());
            Change { failed: 1, ..Change::default() }.apply(&mut shared);
        }
        self.interrupted();
        self.reserve.take();
    }

    fn early(&self, error: &PruneError) -> Outcome {
        let at = self.parts.clock.unix_ms();
        let shared = self.shared.lock();
        Outcome { head_order: shared.captured, ..Outcome::failed(shared.cycle, at, error) }
    }

    pub(super) fn failed(&self, error: &PruneError) -> Ended {
        metrics::cycle_ended(error.code());
        match error.disposition() {
            Disposition::Corrupt | Disposition::Bug => tracing::error!(%error, "pruning cycle failed"),
            Disposition::Transient | Disposition::Resource | Disposition::Input => {
                tracing::warn!(%error, "pruning cycle failed");
            }
        }
        if let (PruneError::Store(StoreError::DiskFull { .. }), Some(reserve)) = (error, self.parts.store.reserve()) {
            reserve.let_go_or_tell(); // the next run, and commits, have it
        }
        self.recovery.cycle_failed(error);
        let outcome = self.early(error);
        self.freeze_by(error, outcome.cycle); // also what it met where no cycle ended
        Ended { outcome, change: Change { failed: 1, poisoned: bug(error), ..Change::default() } }
    }

    pub(super) fn panicked(&self) -> Ended {
        self.snapshots.end_cycle();
        self.parts.store.abandon_counting(); // no cycle comes that what commits mark blindly is for
        tracing::error!("a pruning cycle panicked; the node serves, pruning has ended");
        let why = "a cycle panicked; see the log".to_owned();
        self.parts.events.emit(Event::WorkerPanicked { why: why.clone() });
        let error = PruneError::Invariant(why.clone());
        self.recovery.panicked(&error);
        let outcome = self.early(&error);
        Ended { outcome, change: Change { failed: 1, poisoned: Some(why), ..Change::default() } }
    }

    /// Takes the end of a run over. What touches the disk comes BEFORE the last lock: `committed` takes it too (I12).
    /// The next attempt waits for the next trigger, not for the next commit: a failed run counts up to its snapshot.
    pub(super) fn close(&self, began: Duration, ended: Ended) {
        let Ended { outcome, change } = ended;
        let duration = self.parts.clock.monotonic().saturating_sub(began);
        let run = {
            let mut shared = self.shared.lock();
            self.record_if_unknown(&mut shared, began);
            let ending = Ending {
                snapshot_head: shared.captured,
                live: change.live,
                duration_ms: millis(duration),
                outcome: outcome.clone(),
            };
            let run = shared.coordinator.end(ending, self.parts.clock.monotonic()).cloned();
            shared.last = Some(outcome.clone());
            run
        };
        self.keep_ledger();
        self.save_outcome(&outcome);
        reached(Point::OutcomeSaved);
        self.reserve.take();
        self.measure_disk();
        let outside = self.outside();
        let mut shared = self.shared.lock();
        change.apply(&mut shared);
        shared.rest();
        let met = shared.coordinator.met(&shared.facts(&outside));
        drop(shared);
        run.inspect(|run| self.tell_run(run)); // AFTER the rest: a full journal waits for the disk
        met.into_iter().for_each(|trigger| self.tell_joined(Joined::Cycle, trigger));
    }

    /// One that could not be saved holds in this process.
    fn save_outcome(&self, outcome: &Outcome) {
        if let Err(error) = outcome.save(&*self.parts.records) {
            tracing::error!(%error, "the outcome of the cycle could not be saved");
            self.recovery.unsaved(&error);
        }
    }

    /// A cycle went on that has no run in the ledger: it was begun before there was one, or its run counted as interrupted.
    fn record_if_unknown(&self, shared: &mut Shared, began: Duration) {
        if shared.coordinator.ledger().open().is_none() {
            let (trigger, at) = (Trigger::Resumed, self.parts.clock.unix_ms());
            let (head, nodes_stored) = (shared.head, 0); // what was stored at its beginning is not known, and not asked for
            let requests = Vec::new(); // whoever waits asked for another one
            shared.coordinator.begin(Beginning { trigger, at, head, nodes_stored, figure: None, requests }, began);
        }
    }

    /// The run that an earlier process left open did not go on. Whoever asked for it waits again, unless nothing is to be
    /// pruned any more.
    pub(super) fn interrupted(&self) {
        let (run, dropped) = {
            let mut shared = self.shared.lock();
            let run = shared.coordinator.interrupt();
            let is_off = run.is_some() && shared.off.is_some();
            (run, if is_off { shared.coordinator.take_asked() } else { None })
        };
        if run.is_some() {
            self.keep_ledger();
        }
        self.shared.lock().rest();
        run.inspect(|run| self.tell_run(run));
        dropped.into_iter().for_each(|ids| self.tell_dropped(ids));
    }

    /// Saves the ledger. One that could not be saved still holds in this process; the next one takes the run for
    /// interrupted, and its orders make another one due.
    pub(super) fn keep_ledger(&self) {
        if let Err(error) = self.save_ledger() {
            tracing::error!(%error, "what the triggers counted could not be saved");
            self.recovery.unsaved(&error);
        }
    }

    /// Saves the ledger as it is by now: whoever asks saves it beside the worker, and an earlier one never replaces a later
    /// one.
    pub(super) fn save_ledger(&self) -> Result<(), PruneError> {
        let _single = self.saving_ledger.lock();
        let ledger = self.shared.lock().coordinator.ledger().clone();
        ledger.save(&*self.parts.records)
    }

    /// Tells that a request is dropped whose run has not begun.
    pub(super) fn tell_dropped(&self, ids: Vec<String>) {
        tracing::warn!(ids = ids.join(" "), "a run that was asked for is dropped: pruning is switched off");
        self.parts.events.emit(Event::RequestDropped { ids });
    }

    /// Tells that one cycle serves this trigger and others.
    pub(super) fn tell_joined(&self, joined: Joined, trigger: Trigger) {
        self.parts.events.emit(Event::TriggerCoalesced { joined, trigger: Some(trigger) });
    }

    fn tell_run(&self, run: &Run) {
        self.parts.events.emit(run.told());
    }
}
