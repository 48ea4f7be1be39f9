//! The freeze of deletes (I11): imposed by damage that is met, lifted by an operator, in memory, on record and in what is told.
//!
//! Promises: a freeze holds, and what is at work is told to stop, before anything waits for a disk. What is on record changes one
//! step at a time, under a lock that commits, the status and the start of work do not take. A freeze in force is not replaced:
//! what it is for may be worse. What is met meanwhile is remembered as a doubt.
//!
//! Each freeze that came into force is told, no other is, and each before its end: events are emitted under that lock, too.
//! Emitting waits for room in the queue of the event journal, whose writer takes no lock of the pruner; where a disk hangs it
//! gives up after [`crate::events::EventsConfig::room_within`], so the lock is held for so long at most, and for a record. Whoever
//! waits for it meets damage, lifts a freeze or ends a cycle.

use std::sync::atomic::Ordering;

use super::{Inner, Pruner, status::Reply};
use crate::{control::Settled, doubt::{Doubt, Doubted}, error::PruneError, events::Event, outcome::Freeze, records::Records};

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
    /// Errors: it could not be saved. Deletes are frozen all the same, until the process ends; found again, it is saved then.
    pub fn found(&self, error: &PruneError) -> Result<Found, PruneError> {
        self.inner.impose(error, None);
        self.inner.keep_found(error, None)
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
            tracing::error!(%unsaved, "the freeze could not be saved; it holds until this process ends");
        }
    }

    /// A cycle settles the doubt on record.
    pub(super) fn settle_doubt(&self, settle: &mut dyn FnMut() -> Settled) {
        let _alone = self.freezing.lock();
        if settle() == Settled::Now {
            self.freeze_epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.know_doubt(); // one that was unusable was written anew
    }

    /// Writes down a freeze that came while the records could not be.
    pub(super) fn keep_freeze(&self) {
        let _alone = self.freezing.lock();
        if let Err(unsaved) = self.save_freeze() {
            tracing::error!(%unsaved, "the freeze could not be saved; it holds until this process ends");
        }
    }

    fn keep_found(&self, error: &PruneError, cycle: Option<u64>) -> Result<Found, PruneError> {
        if !error.is_live_fault() {
            return Ok(Found::Told);
        }
        let _alone = self.freezing.lock();
        self.impose(error, cycle); // what was in force may have been lifted meanwhile
        let found = self.write_down(error);
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

    /// Saves the freeze that holds, and what was met as a doubt. Call under `freezing`.
    fn write_down(&self, error: &PruneError) -> Result<Found, PruneError> {
        let saved = self.save_freeze();
        let remembered = Doubt::remember(error, &*self.parts.records); // also where the freeze cannot be
        match &remembered {
            Ok(()) => self.know_doubt(),
            Err(_) => self.shared.lock().doubt = Some(Doubted::unproven(error.to_string())),
        }
        remembered?;
        let is_its_own = saved?.is_some_and(|freeze| freeze.why == error.to_string());
        Ok(if is_its_own { Found::Told } else { Found::InDoubt })
    }

    /// Saves the freeze that holds where none is on record, and says which holds. Call under `freezing`.
    fn save_freeze(&self) -> Result<Option<Freeze>, PruneError> {
        let held = self.shared.lock().freeze.clone();
        held.iter().try_for_each(|freeze| freeze.keep(&*self.parts.records))?;
        Ok(held)
    }

    /// What is in doubt is told as it is on record. Call under `freezing`.
    fn know_doubt(&self) {
        let known = Doubt::load(&*self.parts.records);
        let doubt = known.map_or_else(|error| Some(Doubted::unknown(&error)), |known| known.as_ref().map(Doubted::of));
        self.shared.lock().doubt = doubt;
    }

    fn lift(&self) -> Reply {
        let _alone = self.freezing.lock();
        let held = {
            let shared = self.shared.lock();
            if shared.running.is_some() && !shared.is_looking() {
                return Reply::Refused { why: "a cycle is running".to_owned() };
            }
            shared.freeze.clone()
        };
        if let Err(error) = lift_record(held.as_ref(), &*self.parts.records) {
            return Reply::unsaved(&error);
        }
        self.know_doubt();
        self.tell_freeze(); // that it was imposed comes BEFORE that it is lifted
        {
            let mut shared = self.shared.lock();
            if shared.freeze != held {
                return Reply::Refused { why: "deletes were frozen again meanwhile".to_owned() }; // it waits to be saved
            }
            shared.freeze = None;
        }
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
