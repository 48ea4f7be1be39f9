//! What earlier processes left in the records: read at the start, and again for as long as a read fails that may succeed later.
//!
//! Promises: until everything is read nothing begins, and no record is written over that was not read (I8). Damage ends
//! pruning for this process (O11): only a start after a repair reads again. What a cycle makes anew is given up instead (P2).

use std::sync::Arc;

use state_store::StoreError;
use tokio::runtime::Runtime;

use super::{Inner, PrunerParts, left::TakeUp, steady::wait_after, switch::SwitchedOff};
use crate::{
    config::PrunerConfig,
    control::Control,
    doubt::{Doubt, Doubted},
    error::PruneError,
    events::Event,
    outcome::{Freeze, Outcome},
    phase::{self, PhaseRecord, PrunePhase},
    quarantine::Quarantine,
    records::{self, Records},
    recovery::{ErrorRecoveryManager, may_pass},
    snapshot::AtomicSnapshotManager,
    trigger::{Coordinator, Ledger, Rules},
    validate::Validated,
};

/// What earlier processes left.
#[derive(Default)]
pub(super) struct Recalled {
    pub(super) last: Option<Outcome>,
    pub(super) freeze: Option<Freeze>,
    pub(super) doubt: Option<Doubted>,
    pub(super) ledger: Option<Ledger>,
    pub(super) validation: Option<Validated>,
    pub(super) off: Option<SwitchedOff>,
    pub(super) quarantine: Option<Quarantine>,
    /// Why nothing is pruned: records that are unusable are a reason.
    pub(super) poisoned: Option<String>,
    /// Why none of it is known; absent where it is.
    pub(super) unread: Option<String>,
    /// What is to be told of that.
    pub(super) untold: Option<Event>,
}

impl Recalled {
    /// Nothing is known: for ever, or until a later look.
    fn unread(error: &PruneError) -> Self {
        let why = error.to_string();
        if may_pass(error) {
            tracing::warn!(%error, "the records of the pruner cannot be read; it is tried again, nothing is pruned until then");
            return Self { unread: Some(why), ..Self::default() };
        }
        tracing::error!(%error, "the records of the pruner are unusable; the node serves, nothing is pruned");
        Self { poisoned: Some(why.clone()), unread: Some(why), ..Self::default() }
    }
}

/// Whose records they are.
#[derive(Clone, Copy)]
pub(super) struct Recalling<'a> {
    pub(super) parts: &'a PrunerParts,
    pub(super) config: &'a PrunerConfig,
    pub(super) snapshots: &'a AtomicSnapshotManager,
    pub(super) recovery: &'a ErrorRecoveryManager,
}

impl Recalling<'_> {
    /// Reads the records. A failure that may pass is told to recovery as the first or a later one of a row.
    ///
    /// Errors: a record that a newer program wrote.
    pub(super) fn recall(self, failures: u32) -> Result<Recalled, PruneError> {
        match self.read() {
            Err(error @ PruneError::Store(StoreError::Newer { .. })) => Err(error),
            Ok(recalled) => Ok(recalled),
            Err(error) => {
                let wait = wait_after(failures + 1);
                let untold = may_pass(&error).then(|| self.recovery.unread(failures + 1, &error, wait));
                Ok(Recalled { untold, ..Recalled::unread(&error) })
            }
        }
    }

    fn read(self) -> Result<Recalled, PruneError> {
        records::refuse_newer(&*self.parts.records)?; // BEFORE any write (C17)
        self.recovery.initialize_or_tell()?;
        if self.config.incremental.is_none() {
            self.recovery.no_longer_runs(PrunePhase::IncrementalSweep);
        }
        self.snapshot()?;
        self.snapshots.settle_left();
        let records = &*self.parts.records;
        PhaseRecord::load_or_give_up(records, &mut |event| self.parts.events.emit(event))?;
        phase::last_cycle(records)?; // without it no cycle gets a number, and no fault can be written down
        Ok(Recalled {
            last: Outcome::load(records)?,
            freeze: Freeze::load(records)?,
            doubt: doubt(records)?,
            ledger: Ledger::load(records)?,
            off: SwitchedOff::load(records)?,
            validation: validation(records, self.parts.clock.unix_ms())?,
            quarantine: quarantine(records)?,
            poisoned: None,
            unread: None,
            untold: None,
        })
    }

    /// Loads the snapshot of an earlier process, or gives up its record where that alone is damaged.
    fn snapshot(self) -> Result<(), PruneError> {
        match self.snapshots.initialize() {
            Err(error) if error.is_damaged_artefact() && self.recovery.config().enable_snapshot_recovery => {
                tracing::error!(%error, "the record of the snapshot is damaged; the next one takes its place");
                self.recovery.snapshot_given_up(&error);
                self.snapshots.forget_damaged()
            }
            other => other,
        }
    }

    /// Goes on with the ledger of an earlier process, or with a new one; says whether it is to be saved.
    pub(super) fn coordinate(self, recalled: &Recalled) -> (Coordinator, bool) {
        let (now, unix_ms) = (self.parts.clock.monotonic(), self.parts.clock.unix_ms());
        let rules = Rules {
            config: self.config.triggers.clone(),
            every_orders: self.config.every_orders.get(),
            keep_last: self.config.keep_last.get(),
        };
        if let Some(mut ledger) = recalled.ledger.clone() {
            let is_changed = ledger.take_for_new(unix_ms);
            return (Coordinator::new(rules, ledger, now, unix_ms), is_changed);
        }
        let counted = recalled.last.as_ref().and_then(|last| last.head_order).map_or(0, |order| order);
        let new = Ledger::new(unix_ms, counted);
        (Coordinator::new(rules, new, now, unix_ms), recalled.unread.is_none())
    }
}

/// Nothing is deleted on the strength of this record: one that is unusable is a fault to tell, and no reason to stop.
pub(super) fn validation(records: &dyn Records, now_ms: u64) -> Result<Option<Validated>, PruneError> {
    match Validated::load(records) {
        Err(error) if !may_pass(&error) => {
            tracing::warn!(%error, "the outcome of the last validation is unusable");
            Ok(Some(Validated::unusable(&error, now_ms)))
        }
        other => other,
    }
}

/// Nor on the strength of this one: a cycle that finishes writes one anew that is unusable.
fn doubt(records: &dyn Records) -> Result<Option<Doubted>, PruneError> {
    match Doubt::load(records) {
        Err(error) if !may_pass(&error) => Ok(Some(Doubted::unknown(&error))),
        known => Ok(known?.as_ref().map(Doubted::of)),
    }
}

/// The same of this one: it only tells.
fn quarantine(records: &dyn Records) -> Result<Option<Quarantine>, PruneError> {
    let known = Quarantine::load(records)?;
    if let Some(why) = known.as_ref().and_then(|known| known.lost.as_ref()) {
        tracing::warn!(why, "what the sweep between cycles has set aside is not known; the next cycle settles it");
    }
    Ok(known)
}

impl Inner {
    fn recalling(&self) -> Recalling<'_> {
        Recalling { parts: &self.parts, config: &self.config, snapshots: &self.snapshots, recovery: &self.recovery }
    }

    /// Reads the records that could not be read before. If they can be, what an earlier process left goes on, as it would have
    /// at the start.
    pub(super) fn recall_again(self: &Arc<Self>, control: Arc<Control>, runtime: &Runtime) {
        let failures = self.shared.lock().left.failures();
        let recalled = self.recalling().recall(failures).unwrap_or_else(|newer| Recalled::unread(&newer));
        if recalled.unread.is_some() {
            let now = self.parts.clock.monotonic();
            let mut shared = self.shared.lock();
            if recalled.poisoned.is_none() {
                shared.left.again(TakeUp::Recall, now);
            }
            (shared.poisoned, shared.unread) = (recalled.poisoned, recalled.unread);
            shared.untold.extend(recalled.untold);
            shared.rest();
            drop(shared);
            self.rested.notify_all();
            return;
        }
        let (coordinator, is_new) = self.recalling().coordinate(&recalled);
        tracing::info!("the records of the pruner were read; it goes on");
        let unsaved = {
            let Recalled { last, freeze, doubt, off, validation, quarantine, .. } = recalled;
            let mut shared = self.shared.lock();
            (shared.coordinator, shared.unread) = (coordinator, None);
            (shared.last, shared.off) = (last, off);
            shared.freeze = shared.freeze.take().or(freeze); // one that came meanwhile holds
            shared.doubt = shared.doubt.take().or(doubt);
            shared.steady.quarantined(quarantine);
            let is_unsaved = shared.validation.is_some();
            shared.validation = match (shared.validation.take(), validation) {
                (Some(newer), Some(earlier)) => Some(newer.beside(&earlier)),
                (newer, earlier) => newer.or(earlier),
            };
            shared.validation.clone().filter(|_| is_unsaved)
        };
        if is_new {
            self.keep_ledger(); // the schedule counts from it
        }
        self.save_recalled(unsaved);
        self.keep_freeze();
        self.recovery.allow_probe();
        self.go_on(control, runtime);
    }
}
