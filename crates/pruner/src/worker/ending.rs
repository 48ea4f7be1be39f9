//! What the end of a cycle leaves: log lines, metrics, a durable outcome, and the change of the status.

use state_store::Disposition;

use super::{Inner, shared::Change};
use crate::{
    cycle::Finished,
    error::PruneError,
    metrics,
    outcome::{Freeze, Outcome},
};

impl Inner {
    pub(super) fn finished(&self, finished: &Finished) -> Change {
        let certificate = &finished.certificate;
        let last = self.remember(Outcome::finished(certificate, &finished.path));
        metrics::cycle_finished(certificate);
        tracing::info!(
            cycle = certificate.cycle,
            deleted = certificate.deleted,
            live = certificate.live_nodes,
            bytes_after = certificate.bytes_after.total,
            "pruning cycle finished"
        );
        Change {
            finished: 1,
            deleted: certificate.sweep.deleted, // by this process
            last: Some(last),
            settled_errors: self.background_errors(),
            ..Change::default()
        }
    }

    /// An operator ended it: that is no failure.
    pub(super) fn cancelled(&self) -> Change {
        let outcome = self.early(&PruneError::Cancelled);
        metrics::cycle_ended(PruneError::Cancelled.code());
        tracing::info!(cycle = outcome.cycle, "pruning cycle cancelled");
        Change { cancelled: 1, last: Some(self.remember(outcome)), ..Change::default() }
    }

    /// The next attempt waits for the next trigger, not for the next commit.
    fn early(&self, error: &PruneError) -> Outcome {
        let at = self.parts.clock.unix_ms();
        let shared = self.shared.lock();
        Outcome { head_order: Some(shared.head), ..Outcome::failed(shared.cycle, at, error) }
    }

    pub(super) fn failed(&self, error: &PruneError) -> Change {
        metrics::cycle_ended(error.code());
        match error.disposition() {
            Disposition::Corrupt | Disposition::Bug => tracing::error!(%error, "pruning cycle failed"),
            Disposition::Transient | Disposition::Resource | Disposition::Input => {
                tracing::warn!(%error, "pruning cycle failed");
            }
        }
        let outcome = self.early(error);
        // The freeze holds in memory even if its record could not be saved.
        let freeze = error.is_live_fault().then(|| Freeze {
            cycle: outcome.cycle.map_or(0, |cycle| cycle), // zero: it had no id yet
            at: outcome.at,
            why: error.to_string(),
        });
        let last = self.remember(outcome);
        Change { failed: 1, freeze, last: Some(last), ..Change::default() }
    }

    pub(super) fn panicked(&self) -> Change {
        self.snapshots.end_cycle();
        tracing::error!("a pruning cycle panicked; the node serves, pruning has ended");
        let why = "a cycle panicked; see the log".to_owned();
        let last = self.remember(self.early(&PruneError::Invariant(why.clone())));
        Change { failed: 1, poisoned: Some(why), last: Some(last), ..Change::default() }
    }

    fn remember(&self, outcome: Outcome) -> Outcome {
        if let Err(error) = outcome.save(&*self.parts.records) {
            tracing::error!(%error, "the outcome of the cycle could not be saved");
        }
        outcome
    }
}
