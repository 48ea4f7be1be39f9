//! The freeze of deletes (I11): imposed by damage that is met, lifted by an operator, in memory, on record and in what is told.
//!
//! Promises: a freeze holds, and what is at work is told to stop, before anything waits for a disk. What is on record changes one
//! step at a time, under a lock that commits, the status and the start of work do not take. A freeze in force is not replaced:
//! what it is for may be worse. What is met meanwhile is remembered as a doubt. What could not be saved is saved again and again
//! by the worker, for a later process knows nothing else of it.
//!
//! Each freeze that came into force is told, no other is, and each before its end: events are emitted under that lock, too.
//! Emitting waits for room in the queue of the event journal, whose writer takes no lock of the pruner; where a disk hangs it
//! gives up after [`crate::events::EventsConfig::room_within`], so the lock is held for so long at most, and for a record. Whoever
//! waits for it meets damage, lifts a freeze or ends a cycle.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Inner, Pruner, status::Reply, steady::wait_after};
use crate::{
    control::Settled,
    doubt::{Doubt, Doubted, LiveFault},
    error::PruneError,
    events::Event,
    outcome::Freeze,
    records::Records,
};

/// What a later process would know nothing of.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    /// Faults that are in no record, the last one of each kind; the freeze that holds may be in none either.
    faults: Vec<LiveFault>,
    /// Failures in a row to save them.
    failures: u32,
    /// Nothing is tried before.
    not_before: Duration,
}

impl Unsaved {
    fn note(&mut self, fault: &LiveFault) {
        self.faults.retain(|held| !held.is_like(fault));
        self.faults.push(fault.clone());
    }

    fn put_in_doubt(&self, records: &dyn Records) -> Result<(), PruneError> {
        self.faults.iter().try_for_each(|fault| Doubt::add(fault, records))
    }

    fn again(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.saturating_add(wait_after(self.failures));
    }
}

/// What became of a fault that somebody met beside the pruner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Deletes are frozen for it, or it is none that freezes them.
    Told,
    /// Deletes were frozen for another one already: it is in doubt. Met once that was lifted, it freezes them.
    InDoubt,
}

/// Whether deletes are frozen by a fault, or were before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imposed {
    /// It froze them.
    Now,
    /// They were frozen, or it is no fault that freezes them.
    Before,
}

impl Pruner {
    /// Somebody met a fault beside it: damage freezes deletes, as where it meets it itself (I11). What is at work stops at its
    /// next checkpoint; a cycle goes on when the freeze is lifted.
    ///
    /// Errors: it could not be saved. Deletes are frozen all the same, and the worker saves it as soon as that is possible.
    pub fn found(&self, error: &PruneError) -> Result<Found, PruneError> {
        self.inner.impose(error, None);
        self.inner.keep_found(error, None).inspect_err(|_| self.wake()) // the worker tries again
    }

    /// The first half of [`Pruner::found`], which waits for no disk: deletes are frozen in memory, and what is at work stops.
    pub fn impose(&self, error: &PruneError) -> Imposed {
        self.inner.impose(error, None)
    }

    /// Grows by one whenever what deletes were frozen by, or what is in doubt, is settled: by an operator who lifts a freeze, or by
    /// a cycle that finds the store whole. Whoever reports a fault reads this BEFORE:
    /// if the number has changed when the fault is met again, it is news. Waits for nobody.
    pub fn freeze_epoch(&self) -> u64 {
        self.inner.freeze_epoch.load(Ordering::Acquire)
    }

    /// Lets deletes go on: the operator has looked.
    pub(super) fn unfreeze(&self) -> Reply {
        let reply = self.inner.lift();
        if reply == Reply::Accepted {
            tracing::warn!("deletes were unfrozen by an operator");
            self.wake(); // what was held back by the freeze may be due
        }
        reply
    }
}

impl Inner {
    /// The same for what the worker meets, or a cycle.
    pub(super) fn freeze_by(&self, error: &PruneError, cycle: Option<u64>) {
        self.impose(error, cycle);
        if let Err(unsaved) = self.keep_found(error, cycle) {
            tracing::error!(%unsaved, "the freeze could not be saved; it holds, and is saved as soon as that is possible");
        }
    }

    /// Saves what could not be saved, if it is time to try. Says when the next try is due, if one is.
    pub(super) fn save_unsaved(&self, now: Duration) -> Option<Duration> {
        let mut unsaved = self.freezing.lock();
        if unsaved.faults.is_empty() {
            return None;
        }
        if now < unsaved.not_before {
            return Some(unsaved.not_before);
        }
        if let Err(error) = self.save_all(&mut unsaved) {
            tracing::warn!(%error, failures = unsaved.failures, "what may lie in live nodes could not be saved again");
            return Some(unsaved.not_before);
        }
        tracing::info!("what may lie in live nodes is on record");
        None
    }

    fn save_all(&self, unsaved: &mut Unsaved) -> Result<(), PruneError> {
        let frozen = self.save_freeze();
        let doubted = unsaved.put_in_doubt(&*self.parts.records); // also where that cannot be
        let saved = frozen.and(doubted);
        match &saved {
            Ok(()) => *unsaved = Unsaved::default(),
            Err(_) => unsaved.again(self.parts.clock.monotonic()),
        }
        self.know_doubt(unsaved);
        saved
    }

    /// A cycle settles the doubt on record.
    pub(super) fn settle_doubt(&self, settle: &mut dyn FnMut() -> Settled) {
        let unsaved = self.freezing.lock();
        if settle() == Settled::Now {
            self.freeze_epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.know_doubt(&unsaved); // one that was unusable was written anew
    }

    /// Writes down a freeze that came while the records could not be.
    pub(super) fn keep_freeze(&self) {
        let mut unsaved = self.freezing.lock();
        if let Err(error) = self.save_all(&mut unsaved) {
            tracing::error!(%error, "the freeze could not be saved; it holds, and is saved as soon as that is possible");
        }
    }

    fn keep_found(&self, error: &PruneError, cycle: Option<u64>) -> Result<Found, PruneError> {
        let Some(fault) = LiveFault::of(error) else { return Ok(Found::Told) };
        let mut unsaved = self.freezing.lock();
        self.impose(error, cycle); // what was in force may have been lifted meanwhile
        unsaved.note(&fault);
        let found = self.save_all(&mut unsaved).map(|()| self.found_as(&fault));
        self.tell_freeze(); // also one that could not be saved
        found
    }

    /// Tells of the freeze in force, if nobody has. Call under `freezing`.
    fn tell_freeze(&self) {
        let untold = {
            let mut shared = self.shared.lock();
            let is_untold = std::mem::take(&mut shared.is_freeze_untold);
            shared.freeze.as_ref().filter(|_| is_untold).map(Freeze::told)
        };
        untold.into_iter().for_each(|event| self.parts.events.emit(event));
    }

    /// Freezes deletes in memory, unless they are.
    fn impose(&self, error: &PruneError, cycle: Option<u64>) -> Imposed {
        let Some(freeze) = Freeze::by(error, cycle, self.parts.clock.unix_ms()) else { return Imposed::Before };
        let at_work = {
            let mut shared = self.shared.lock();
            if shared.freeze.is_some() {
                return Imposed::Before;
            }
            (shared.freeze, shared.is_freeze_untold) = (Some(freeze), true);
            [shared.running.clone(), shared.steady.control.clone()]
        };
        at_work.into_iter().flatten().for_each(|control| control.stop());
        Imposed::Now
    }

    /// What became of a fault that is on record.
    fn found_as(&self, fault: &LiveFault) -> Found {
        let is_its_own = self.shared.lock().freeze.as_ref().is_some_and(|freeze| freeze.why == fault.why);
        if is_its_own { Found::Told } else { Found::InDoubt }
    }

    /// Saves the freeze that holds where none is on record. Call under `freezing`.
    fn save_freeze(&self) -> Result<(), PruneError> {
        let held = self.shared.lock().freeze.clone();
        held.iter().try_for_each(|freeze| freeze.keep(&*self.parts.records))
    }

    /// What is in doubt is told as it is on record, and what is not there yet. Call under `freezing`.
    fn know_doubt(&self, unsaved: &Unsaved) {
        let known = Doubt::load(&*self.parts.records);
        let doubt = known.map_or_else(|error| Some(Doubted::unknown(&error)), |known| known.as_ref().map(Doubted::of));
        let owed = || unsaved.faults.first().map(|fault| Doubted::unproven(fault.why.clone()));
        self.shared.lock().doubt = doubt.or_else(owed);
    }

    fn lift(&self) -> Reply {
        let mut unsaved = self.freezing.lock();
        let held = {
            let shared = self.shared.lock();
            if shared.running.is_some() && !shared.is_looking() {
                return Reply::Refused { why: "a cycle is running".to_owned() };
            }
            shared.freeze.clone()
        };
        let records = &*self.parts.records;
        let doubted = unsaved.put_in_doubt(records); // BEFORE what they are for may go on
        if let Err(error) = doubted.and_then(|()| lift_record(held.as_ref(), records)) {
            return Reply::unsaved(&error);
        }
        self.know_doubt(&unsaved);
        self.tell_freeze(); // that it was imposed comes BEFORE that it is lifted
        {
            let mut shared = self.shared.lock();
            if shared.freeze != held {
                return Reply::Refused { why: "deletes were frozen again meanwhile".to_owned() }; // it waits to be saved
            }
            shared.freeze = None;
        }
        *unsaved = Unsaved::default();
        self.freeze_epoch.fetch_add(1, Ordering::AcqRel); // AFTER it is lifted: what is met from here on freezes anew
        self.parts.events.emit(Event::DeletesUnfrozen);
        Reply::Accepted
    }
}

fn lift_record(held: Option<&Freeze>, records: &dyn Records) -> Result<(), PruneError> {
    match held {
        Some(freeze) => freeze.lift(records), // also one that could not be saved
        None => Freeze::lift_recorded(records).map(|_| ()), // one that could not be read leaves a doubt, too (I8)
    }
}
