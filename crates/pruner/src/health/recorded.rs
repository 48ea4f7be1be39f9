//! What the records tell whoever has no pruner to ask.
//!
//! Promises: each is read by itself, and the freeze is judged whatever the others say. A record that is unusable is named, and is as
//! bad as what it may hide (I8). Where a read fails there is no verdict, unless what could be read is critical already.

use state_store::StoreError;

use super::{Begun, Commands, Facts, Health, HealthConfig, Reason, Verdict, assess, reason};
use crate::{
    doubt::{Doubt, Doubted},
    error::PruneError,
    log_cut::Lost,
    outcome::{Ended, Freeze, Outcome, RestFloor},
    phase::PhaseRecord,
    quarantine::Quarantine,
    records::{RecordKey, Records},
    recovery::RecoveryStatus,
    validate::Validated,
    worker::SwitchedOff,
};

/// A record that is torn or foreign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// Which one.
    pub key: RecordKey,
    /// What is wrong with it.
    pub why: String,
    /// Whether it lies beside a store at rest.
    pub at_rest: bool,
}

/// What could not be read or measured.
#[derive(Default)]
pub(crate) struct Unread {
    records: Vec<UnreadableRecord>,
    unmeasured: Vec<String>,
    /// Whether the records lie beside a store at rest.
    at_rest: bool,
    /// The first read that failed.
    failed: Option<PruneError>,
}

impl Unread {
    /// Of a store at rest, which is judged by what a prune of it needs.
    pub(crate) fn at_rest(&mut self) {
        self.at_rest = true;
    }

    /// What a record tells, if it is there and can be read.
    pub(crate) fn record<T>(&mut self, key: RecordKey, read: Result<Option<T>, PruneError>) -> Option<T> {
        match read {
            Err(PruneError::Store(error @ StoreError::Record { .. })) => {
                self.records.push(UnreadableRecord { key, why: error.to_string(), at_rest: self.at_rest });
                None
            }
            read => self.known(read).flatten(),
        }
    }

    /// What else is read.
    pub(crate) fn known<T>(&mut self, read: Result<T, PruneError>) -> Option<T> {
        match read {
            Ok(known) => Some(known),
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }

    /// What is measured.
    pub(crate) fn measured<T>(&mut self, measured: Result<T, impl std::fmt::Display>) -> Option<T> {
        super::meter::kept(measured, &mut self.unmeasured)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.failed.is_none()
    }

    /// The facts, with what is missing among them.
    fn beside(self, facts: Facts) -> (Facts, Option<PruneError>) {
        let unmeasured = self.unmeasured.into_iter().chain(self.failed.as_ref().map(ToString::to_string)).collect();
        (Facts { unreadable: self.records, unmeasured, ..facts }, self.failed)
    }

    /// Judges the facts.
    ///
    /// Errors: a read that failed, unless the others found that the store is critical.
    pub(crate) fn judge(self, facts: Facts, bounds: &HealthConfig) -> Result<Health, PruneError> {
        let (facts, failed) = self.beside(facts);
        let health = assess(&facts, bounds);
        failed.filter(|_| health.verdict < Verdict::Critical).map_or(Ok(health), Err)
    }

    /// The facts for whoever goes on with them: a read that failed is something that could not be measured.
    pub(super) fn among(self, facts: Facts) -> Facts {
        self.beside(facts).0
    }
}

/// What every kind of records tells.
pub(crate) struct Recorded {
    pub(crate) begun: Option<Begun>,
    pub(crate) given_up: bool,
    pub(crate) last: Option<Outcome>,
    freeze: Option<Freeze>,
    doubt: Option<Doubt>,
    validation: Option<Validated>,
    quarantine: Option<Quarantine>,
    log_cut: Option<Lost>,
    off: Option<SwitchedOff>,
    recovery: Option<RecoveryStatus>,
}

impl Recorded {
    pub(crate) fn read(records: &dyn Records, min_healthy_cycles: u32, (now_ms, unread): (u64, &mut Unread)) -> Self {
        let freeze = unread.record(RecordKey::Freeze, Freeze::load(records));
        let last = Outcome::load(records);
        let is_last_known = last.is_ok();
        let last = unread.record(RecordKey::LastOutcome, last);
        let begun = unread.record(RecordKey::Phase, PhaseRecord::load(records));
        let begun = begun.map(|record| Begun { cycle: record.cycle, phase: record.phase });
        let floor = unread.record(RecordKey::Floor, RestFloor::load(records));
        let given_up = is_last_known && begun.is_none() && is_given_up(floor, last.as_ref());
        let recovery = RecoveryStatus::recorded(records, min_healthy_cycles).map(Some);
        Self {
            begun,
            given_up,
            last,
            freeze,
            doubt: unread.record(RecordKey::Doubt, Doubt::load(records)),
            validation: validation(records, now_ms, unread),
            quarantine: unread.record(RecordKey::Quarantine, Quarantine::load(records)),
            log_cut: unread.record(RecordKey::LogCut, Lost::load(records)),
            off: unread.record(RecordKey::Switch, SwitchedOff::load(records)),
            recovery: unread.record(RecordKey::Recovery, recovery),
        }
    }

    /// What a damaged write-ahead log took with it.
    pub(crate) fn log_cut(&self) -> Option<String> {
        self.log_cut.as_ref().map(Lost::told)
    }

    pub(crate) fn facts(self) -> Facts {
        let Self { last, off, recovery, .. } = self;
        let of_any = Self { last: None, off: None, recovery: None, ..self }.facts_without_cycles();
        Facts { last, off, recovery, commands: Commands::Taken, ..of_any }
    }

    /// Of a node that does not prune: how cycles went before says nothing of what it does.
    pub(crate) fn facts_without_cycles(self) -> Facts {
        let Self { freeze, doubt, validation, quarantine, log_cut, .. } = self;
        let (doubt, log_cut) = (doubt.as_ref().map(Doubted::of), log_cut.map(|lost| lost.told()));
        Facts { freeze, doubt, validation, quarantine, log_cut, commands: Commands::Refused, ..Facts::default() }
    }
}

/// One that is unusable is a finding, as a node tells it.
fn validation(records: &dyn Records, now_ms: u64, unread: &mut Unread) -> Option<Validated> {
    match Validated::load(records) {
        Err(error @ PruneError::Store(StoreError::Record { .. })) => Some(Validated::unusable(&error, now_ms)),
        read => unread.record(RecordKey::Validation, read),
    }
}

/// A prune had begun to delete below its floor, and a run that was refused since gave its cycle up.
fn is_given_up(floor: Option<RestFloor>, last: Option<&Outcome>) -> bool {
    match (floor, last.map(|last| &last.ended)) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(floor), Some(Ended::Finished { first_order, .. })) => floor.order > *first_order,
        (Some(_), Some(Ended::Failed { .. } | Ended::Cancelled)) => false, // that is a reason, or nothing to mend
    }
}

/// As bad as what each of them may hide.
pub(super) fn unreadable(facts: &Facts) -> impl Iterator<Item = Reason> {
    facts.unreadable.iter().map(|UnreadableRecord { key, why, at_rest }| {
        let (verdict, then) = if *at_rest { hides_at_rest(*key) } else { hides(*key) };
        reason(verdict, "record_unreadable", format!("{why}. {then}"))
    })
}

/// A prune does without all but two: it refuses where it may be frozen, and where no number of a cycle is known to be new.
fn hides_at_rest(key: RecordKey) -> (Verdict, &'static str) {
    match key {
        RecordKey::Freeze => (
            Verdict::Critical,
            "It says whether deletes are frozen: they are taken for frozen, and no prune begins. Restore this file; or `verify` the \
             store with the window of the last prune and, if it is sound, lift the freeze with `prune --unfreeze`",
        ),
        RecordKey::LastCycle => (Verdict::Critical, "No prune begins until then"),
        RecordKey::Phase | RecordKey::Snapshot | RecordKey::Reports => {
            (Verdict::Degraded, "The next `prune` gives it up and marks anew")
        }
        RecordKey::LastOutcome | RecordKey::Lock | RecordKey::SnapshotFailures => {
            (Verdict::Degraded, "The next `prune` writes it anew")
        }
        RecordKey::Floor
        | RecordKey::Holds
        | RecordKey::RetentionLog
        | RecordKey::Triggers
        | RecordKey::Validation
        | RecordKey::Recovery
        | RecordKey::Switch
        | RecordKey::Doubt
        | RecordKey::Quarantine
        | RecordKey::LogCut => (Verdict::Degraded, "What it told is not known here"),
    }
}

fn hides(key: RecordKey) -> (Verdict, &'static str) {
    match key {
        RecordKey::Freeze => (
            Verdict::Critical,
            "It says whether deletes are frozen: they are taken for frozen, and nothing is pruned until the database is restored",
        ),
        RecordKey::LastOutcome | RecordKey::LastCycle | RecordKey::Triggers | RecordKey::Switch => {
            (Verdict::Critical, "No pruner begins with it: nothing is pruned until the database is restored")
        }
        RecordKey::Phase | RecordKey::Snapshot => {
            (Verdict::Degraded, "A node that prunes gives it up as it starts, and its next cycle marks anew")
        }
        RecordKey::Reports
        | RecordKey::Floor
        | RecordKey::Holds
        | RecordKey::RetentionLog
        | RecordKey::Validation
        | RecordKey::Recovery
        | RecordKey::Lock
        | RecordKey::SnapshotFailures
        | RecordKey::Doubt
        | RecordKey::Quarantine
        | RecordKey::LogCut => (Verdict::Degraded, "What it told is not known here"),
    }
}
