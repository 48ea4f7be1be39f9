//! What earlier processes left in the records: read at the start, and again for as long as a read fails that may succeed later.
//!
//! Promises: until everything is read nothing begins, and no record is written over that was not read (I8). Damage ends
//! pruning for this process (O11): only a start after a repair reads again.

use std::sync::Arc;

use state_store::StoreError;
use tokio::runtime::Runtime;

use super::{Inner, PrunerParts, left::TakeUp, steady::wait_after, switch::SwitchedOff};
use crate::{
    config::PrunerConfig,
    control::Control,
    error::PruneError,
    health::Validated,
    outcome::{Freeze, Outcome},
    phase::PrunePhase,
    records::{self, Records},
    recovery::{ErrorRecoveryManager, may_pass},
    snapshot::AtomicSnapshotManager,
    trigger::{Coordinator, Ledger, Rules},
};

/// What earlier processes left.
#[derive(Default)]
pub(super) struct Recalled {
    pub(super) last: Option<Outcome>,
    pub(super) freeze: Option<Freeze>,
    pub(super) ledger: Option<Ledger>,
    pub(super) validation: Option<Validated>,
    pub(super) off: Option<SwitchedOff>,
    /// Why nothing is pruned: records that are unusable are a reason.
    pub(super) poisoned: Option<String>,
    /// Why none of it is known; absent where it is.
    pub(super) unread: Option<String>,
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
                if may_pass(&error) {
                    self.recovery.unread(failures + 1, &error, wait_after(failures + 1));
                }
                Ok(Recalled::unread(&error))
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
        let records = &*self.parts.records;
        Ok(Recalled {
            last: Outcome::load(records)?,
            freeze: Freeze::load(records)?,
            ledger: Ledger::load(records)?,
            off: SwitchedOff::load(records)?,
            validation: validation(records)?,
            poisoned: None,
            unread: None,
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

    /// Goes on with the ledger of an earlier process, or with a new one, which is then to be saved.
    pub(super) fn coordinate(self, recalled: &Recalled) -> (Coordinator, Option<Ledger>) {
        let (now, unix_ms) = (self.parts.clock.monotonic(), self.parts.clock.unix_ms());
        let rules = Rules {
            config: self.config.triggers.clone(),
            every_orders: self.config.every_orders.get(),
            keep_last: self.config.keep_last.get(),
        };
        if let Some(ledger) = recalled.ledger.clone() {
            return (Coordinator::new(rules, ledger, now, unix_ms), None);
        }
        let counted = recalled.last.as_ref().and_then(|last| last.head_order).map_or(0, |order| order);
        let new = Ledger::new(unix_ms, counted);
        let save = recalled.unread.is_none().then(|| new.clone());
        (Coordinator::new(rules, new, now, unix_ms), save)
    }
}

/// Nothing is deleted on the strength of this record: one that is unusable is a fault to tell, and no reason to stop.
fn validation(records: &dyn Records) -> Result<Option<Validated>, PruneError> {
    match Validated::load(records) {
        Err(error) if !may_pass(&error) => {
            tracing::warn!(%error, "the outcome of the last validation is unusable");
            let failed = vec![format!("its own record is unusable: {error}")];
            Ok(Some(Validated { at: 0, passed: 0, skipped: 0, failed }))
        }
        other => other,
    }
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
            shared.rest();
            drop(shared);
            self.rested.notify_all();
            return;
        }
        let (coordinator, new_ledger) = self.recalling().coordinate(&recalled);
        self.save_new(new_ledger);
        tracing::info!("the records of the pruner were read; it goes on");
        {
            let Recalled { last, freeze, off, validation, .. } = recalled;
            let mut shared = self.shared.lock();
            (shared.coordinator, shared.unread) = (coordinator, None);
            (shared.last, shared.freeze, shared.off) = (last, freeze, off);
            shared.validation = shared.validation.take().or(validation); // one of this process is newer
        }
        self.recovery.allow_probe();
        self.go_on(control, runtime);
    }

    /// A ledger that is new is saved first: the schedule counts from it.
    pub(super) fn save_new(&self, ledger: Option<Ledger>) {
        if let Some(Err(error)) = ledger.map(|ledger| ledger.save(&*self.parts.records)) {
            tracing::warn!(%error, "what the triggers count from could not be saved; the next run tries again");
            self.recovery.unsaved(&error);
        }
    }
}
