//! The freeze of deletes (I11): imposed by damage that is met outside of a cycle, lifted by an operator, in memory and on record.
//!
//! Promises: a freeze holds, and what is at work is told to stop, before anything waits for a disk. What is on record changes one
//! step at a time, under a lock that commits, the status and the start of work do not take. A freeze in force is not replaced:
//! what it is for may be worse. What is met meanwhile is remembered as a doubt.

use super::{Inner, Pruner, status::Reply};
use crate::{
    doubt::Doubt,
    error::PruneError,
    events::Event,
    outcome::Freeze,
    records::{RecordKey, Records},
};

/// What became of a fault that somebody met beside the pruner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Deletes are frozen for it, or it is none that freezes them.
    Told,
    /// Deletes were frozen for another one already: it is in doubt. Met once that was lifted, it freezes them.
    InDoubt,
}

impl Pruner {
    /// Somebody met a fault beside it: damage freezes deletes, as where it meets it itself (I11). What is at work stops at its
    /// next checkpoint; a cycle goes on when the freeze is lifted.
    ///
    /// Errors: it could not be saved. Deletes are frozen all the same, until the process ends; found again, it is saved then.
    pub fn found(&self, error: &PruneError) -> Result<Found, PruneError> {
        let (told, found) = self.inner.freeze(error);
        told.into_iter().for_each(|event| self.inner.parts.events.emit(event));
        found
    }

    /// Lets deletes go on: the operator has looked.
    pub(super) fn unfreeze(&self) -> Reply {
        let reply = self.inner.lift();
        if reply == Reply::Accepted {
            tracing::warn!("deletes were unfrozen by an operator");
            self.inner.parts.events.emit(Event::DeletesUnfrozen);
            self.wake(); // what was held back by the freeze may be due
        }
        reply
    }
}

impl Inner {
    /// The same for what the worker meets. Gives what is to be told: nothing where deletes were frozen.
    pub(super) fn freeze_by(&self, error: &PruneError) -> Option<Event> {
        let (told, found) = self.freeze(error);
        if let Err(unsaved) = found {
            tracing::error!(%unsaved, "the freeze could not be saved; it holds until this process ends");
        }
        told
    }

    /// Writes down a freeze that came while the records could not be.
    pub(super) fn keep_freeze(&self) {
        let _alone = self.freezing.lock();
        if let Err(unsaved) = self.save_freeze() {
            tracing::error!(%unsaved, "the freeze could not be saved; it holds until this process ends");
        }
    }

    fn freeze(&self, error: &PruneError) -> (Option<Event>, Result<Found, PruneError>) {
        if !error.is_live_fault() {
            return (None, Ok(Found::Told));
        }
        let imposed = self.impose(error);
        let _alone = self.freezing.lock();
        let imposed = self.impose(error) || imposed; // what was in force may have been lifted meanwhile
        let told = imposed.then(|| Event::DeletesFrozen { cycle: None, why: error.to_string() });
        (told, self.write_down(error))
    }

    /// Freezes deletes in memory, unless they are, and says whether it did.
    fn impose(&self, error: &PruneError) -> bool {
        let Some(freeze) = Freeze::by(error, None, self.parts.clock.unix_ms()) else { return false };
        let at_work = {
            let mut shared = self.shared.lock();
            if shared.freeze.is_some() {
                return false;
            }
            shared.freeze = Some(freeze);
            [shared.running.clone(), shared.steady.control.clone()]
        };
        at_work.into_iter().flatten().for_each(|control| control.stop());
        true
    }

    /// Saves the freeze that holds, and what was met as a doubt. Call under `freezing`.
    fn write_down(&self, error: &PruneError) -> Result<Found, PruneError> {
        let saved = self.save_freeze();
        Doubt::remember(error, &*self.parts.records)?; // also where the freeze cannot be
        let is_its_own = saved?.is_some_and(|freeze| freeze.why == error.to_string());
        Ok(if is_its_own { Found::Told } else { Found::InDoubt })
    }

    /// Saves the freeze that holds where none is on record, and says which holds. Call under `freezing`.
    fn save_freeze(&self) -> Result<Option<Freeze>, PruneError> {
        let held = self.shared.lock().freeze.clone();
        held.iter().try_for_each(|freeze| freeze.keep(&*self.parts.records))?;
        Ok(held)
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
            return Reply::Refused { why: error.to_string() };
        }
        let mut shared = self.shared.lock();
        if shared.freeze != held {
            return Reply::Refused { why: "deletes were frozen again meanwhile".to_owned() }; // it waits to be saved
        }
        shared.freeze = None;
        Reply::Accepted
    }
}

fn lift_record(held: Option<&Freeze>, records: &dyn Records) -> Result<(), PruneError> {
    match held {
        Some(freeze) => freeze.lift(records), // also one that could not be saved
        None => records.remove(RecordKey::Freeze),
    }
}
