//! The facts that health is judged by, and what keeps the worker from working, as it and its callers know them. Nothing
//! here waits for a phase. The engine is asked for what it keeps in memory, the device for its free space, and the policy
//! for what may take a row, by one at a time.

use std::sync::Arc;

use super::{Inner, Pruner, recall::validation};
use crate::{
    error::PruneError,
    events::Event,
    health::{self, Commands, CycleAge, Facts, Health, HealthConfig, Measured},
    retention::Standstill,
    validate::{Finding, SnapshotValidator, Validated, ValidationReport},
};

impl Pruner {
    /// The verdict on it by the default bounds.
    pub fn health(&self) -> Health {
        health::assess(&self.facts(), &HealthConfig::default())
    }

    /// What it knows of itself. A node adds what else it knows before it judges.
    pub fn facts(&self) -> Facts {
        let inner = &*self.inner;
        let is_filling = || inner.snapshot_parts.policy.is_filling();
        let Measured { background_errors, room, filling, unmeasured } = inner.meter.look(&is_filling);
        let backend = inner.parts.store.backend();
        let (engine_damage, engine_stopped) = (backend.damage(), backend.stopped_by());
        let clock = &inner.parts.clock;
        let (now, now_ms) = (clock.monotonic(), clock.unix_ms());
        let (snapshots, recovery) = (inner.snapshots.status(), inner.recovery.status());
        let (reserve, uncounted) = (inner.reserve.missing(), inner.uncounted());
        let shared = inner.shared.lock();
        let (lag_growth, without_place) = shared.steady.growth(now);
        let known = shared.unread.is_none(); // what runs counted is not, either, then
        let age = CycleAge::told(shared.last.as_ref(), Some(shared.coordinator.ledger()), (shared.head, now_ms));
        Facts {
            freeze: shared.freeze.clone(),
            last: shared.last.clone(),
            unfinished: None, // the status shows it
            poisoned: shared.poisoned.clone(),
            lag: (filling == Some(false) && known).then(|| (inner.behind(&shared), inner.due_after())),
            uncounted: None, // its configuration tells
            background_errors: background_errors.map(|errors| errors.saturating_sub(shared.settled_errors)),
            engine_damage,
            engine_stopped,
            log_cut: backend.log_cut().map(|cut| cut.what), // one that an earlier start met is told by whoever has the records
            disk: shared.coordinator.disk(),
            incremental: shared.steady.status(now).map(|status| status.while_uncounted(uncounted)),
            quarantine: shared.steady.quarantine.clone(),
            doubt: shared.doubt.clone(),
            too_much: shared.steady.is_too_much(now),
            lag_growth,
            without_place,
            off: shared.off,
            recovery: Some(recovery),
            lock: snapshots.lock,
            pause: shared.running.as_ref().map(|control| control.pause_state()),
            snapshot_failures: snapshots.failures,
            snapshot_path: inner.config.snapshots.path(),
            lock_record: None, // the status shows it
            cycle_age: age.filter(|_| known).map(|age| CycleAge { due_after: Some(inner.due_after()), ..age }),
            oldest_pin: None, // of whoever keeps the pins
            room,
            unmeasured,
            reserve,
            validation: shared.validation.clone(),
            unreadable: Vec::new(), // what could be used of them is in memory
            commands: Commands::Taken,
            by_heartbeat: None,
        }
    }

    /// What keeps it from moving the floor and from deleting anything, if something does.
    pub(crate) fn stopped_by(&self) -> Option<Standstill> {
        let probe_in_ms = self.inner.recovery.status().breaker.probe_in_ms;
        let shared = self.inner.shared.lock();
        let reasons = [
            shared.poisoned.clone().map(|why| Standstill::WorkerGone { why }),
            shared.unread.clone().map(|why| Standstill::Unread { why }),
            shared.freeze.as_ref().map(|freeze| Standstill::Freeze { reason: freeze.why.clone() }),
            shared.off.map(|off| Standstill::Switch { since_ms: off.at }),
            probe_in_ms.map(|for_ms| Standstill::Breaker { for_ms }),
        ];
        reasons.into_iter().flatten().next()
    }

    /// What keeps its rounds from that, where its cycles are free to begin.
    pub(crate) fn rounds_stopped_by(&self) -> Option<Standstill> {
        if self.inner.config.incremental.is_none() {
            return Some(Standstill::IncrementalOff);
        }
        if self.inner.uncounted().is_some() {
            return Some(Standstill::CountsOwed);
        }
        let failure = self.inner.shared.lock().steady.status.failure.clone();
        failure.map(|why| Standstill::RoundsFail { why })
    }

    /// What validations came to, if there was one.
    pub fn validated(&self) -> Option<Validated> {
        self.inner.shared.lock().validation.clone()
    }

    /// Checks its snapshots and what is built on them; whoever works is not disturbed.
    pub fn validator(&self) -> SnapshotValidator {
        let inner = &*self.inner;
        let (recovery, frozen) = (Some(Arc::clone(&inner.recovery)), Arc::clone(&self.inner));
        SnapshotValidator::new(Arc::clone(&inner.snapshots), recovery)
            .with_cycles(&inner.config.cycle)
            .with_freeze(move || frozen.shared.lock().freeze.clone())
    }

    /// Takes the outcome of a validation over, durably: health is judged by it, and by what earlier ones found and it did not
    /// look at.
    ///
    /// Errors: a failed write, or what is kept of earlier ones cannot be read, after which it is saved; health judges it all the
    /// same as long as the process lives.
    pub fn keep_validation(&self, report: &ValidationReport) -> Result<(), PruneError> {
        let inner = &*self.inner;
        let (earlier, unread) = match inner.unread_validation() {
            Ok(earlier) => (earlier, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let (kept, is_known) = {
            let mut shared = inner.shared.lock();
            let before = match (shared.validation.take(), earlier) {
                (Some(known), Some(earlier)) if known != earlier => Some(known.beside(&earlier)),
                (known, earlier) => known.or(earlier),
            };
            (shared.validation.insert(report.validated(before.as_ref())).clone(), shared.unread.is_none())
        };
        let failed = kept.failed.iter().map(Finding::to_string).collect();
        inner.parts.events.emit(Event::Validated { passed: kept.passed, skipped: kept.skipped, failed });
        if !is_known {
            unread?; // BEFORE it is written over (I8); what is found until then is saved when it is
        }
        inner.save_validation(kept)
    }
}

impl Inner {
    /// What is kept of validations, where the records could not be read at the start.
    fn unread_validation(&self) -> Result<Option<Validated>, PruneError> {
        let is_known = self.shared.lock().unread.is_none();
        if is_known { Ok(None) } else { validation(&*self.parts.records, self.parts.clock.unix_ms()) }
    }

    /// Of two who save at once the one that ends last has saved what both found.
    fn save_validation(&self, mut kept: Validated) -> Result<(), PruneError> {
        loop {
            kept.save(&*self.parts.records)?;
            let now = self.shared.lock().validation.clone();
            match now {
                Some(now) if now != kept => kept = now,
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// What was found before the records could be read, beside what they had.
    pub(super) fn save_recalled(&self, unsaved: Option<Validated>) {
        if let Some(Err(error)) = unsaved.map(|kept| self.save_validation(kept)) {
            tracing::error!(%error, "the outcome of a validation could not be saved; the next one tries again");
        }
    }

    /// Where the engine cannot tell, health does.
    pub(super) fn background_errors(&self) -> Option<u64> {
        let Ok(errors) = self.parts.store.backend().background_errors() else { return None };
        Some(errors)
    }
}
