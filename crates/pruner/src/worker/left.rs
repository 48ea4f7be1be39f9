//! The record of a cycle that is not at work: taken up by the loop, before anything else that is due.
//!
//! What there can be: a cycle that a freeze has stopped, or kept from going on at the start, records that could not be read
//! then, and a cycle that ended and whose record could not be removed. Until it is taken up the sweep between cycles deletes
//! nothing; so it is tried again, later each time, and recovery tells of each failure.

use std::{sync::Arc, time::Duration};

use tokio::runtime::Runtime;

use super::{
    Inner,
    serving::Outside,
    shared::{Life, Shared},
    steady::wait_after,
};
use crate::{
    certificate::Trigger,
    control::{Control, Left},
    cycle::{self, Finished},
    error::PruneError,
    phase::{PhaseEvent, PhaseRecord},
};

/// So often a look at a sweep that is to go on may fail before a cycle that is due begins anew in its place.
const LOOKS: u32 = 8;

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakeUp {
    /// The records of earlier processes are read, which failed; then the cycle goes on.
    Recall,
    /// The cycle goes on, or is abandoned if it cannot.
    GoOn,
    /// The cycle ended by this event: its record goes.
    End(PhaseEvent),
}

/// What is left, and how often taking it up has failed.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    how: Option<TakeUp>,
    failures: u32,
    /// Nothing is tried before.
    not_before: Duration,
}

impl Leftover {
    /// How often taking it up has failed in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a cycle waits until a freeze is lifted, or for another look.
    fn is_to_go_on(&self) -> bool {
        self.how == Some(TakeUp::GoOn)
    }

    /// Whether a sweep waits for another look at what it was made from: a cycle that began would take its mark away.
    pub(super) fn holds(&self) -> bool {
        self.is_to_go_on() && (1..=LOOKS).contains(&self.failures)
    }

    /// It failed once more: tried again later.
    pub(super) fn again(&mut self, how: TakeUp, now: Duration) -> (u32, Duration) {
        self.failures += 1;
        let wait = wait_after(self.failures);
        (self.how, self.not_before) = (Some(how), now.saturating_add(wait));
        (self.failures, wait)
    }
}

impl Shared {
    /// What is to be taken up now; if nothing is, when to look again.
    pub(super) fn is_left(&self, outside: &Outside) -> Result<TakeUp, Option<Duration>> {
        if self.life != Life::Serving || self.poisoned.is_some() {
            return Err(None);
        }
        let how = self.left.how.ok_or(None)?;
        let deletes = how == TakeUp::GoOn && self.off.is_none(); // switched off, it is abandoned
        if deletes && self.freeze.is_some() {
            return Err(None);
        }
        let held_until = outside.held_until.filter(|_| deletes);
        match held_until.into_iter().chain([self.left.not_before]).max() {
            Some(from) if from > outside.now => Err(Some(from)),
            Some(_) | None => Ok(how),
        }
    }

    /// Begins to take it up.
    pub(super) fn take_up(&mut self, outside: &Outside) -> Result<(TakeUp, Arc<Control>), Option<Duration>> {
        let how = self.is_left(outside)?;
        self.left.how = None;
        Ok((how, self.hold(Trigger::Resumed)))
    }
}

impl Inner {
    /// Takes up what was left. What cannot be taken up is left again.
    pub(super) fn take_up(self: &Arc<Self>, (how, control): (TakeUp, Arc<Control>), runtime: &Runtime) {
        match how {
            TakeUp::Recall => self.recall_again(control, runtime),
            TakeUp::GoOn => self.go_on(control, runtime),
            TakeUp::End(event) => self.clean_up(event, control),
        }
        let failures = {
            let mut shared = self.shared.lock();
            let is_done = shared.left.how.is_none();
            if is_done { std::mem::take(&mut shared.left.failures) } else { 0 }
        };
        if failures > 0 {
            self.recovery.outside_succeeded(failures);
        }
    }

    /// The record of a cycle that ended goes; what it came to is saved already.
    fn clean_up(self: &Arc<Self>, event: PhaseEvent, control: Arc<Control>) {
        let env = self.env(control);
        if let Err(error) = cycle::end(&env, &self.order(Trigger::Resumed), event) {
            self.leave(TakeUp::End(event), &error);
        }
        self.shared.lock().rest();
        self.rested.notify_all();
    }

    /// A cycle tells what it left.
    pub(super) fn left(&self, left: &Left) {
        match left {
            Left::Frozen => self.shared.lock().left.how = Some(TakeUp::GoOn),
            Left::Unended { event, error } => self.leave(TakeUp::End(*event), error),
        }
    }

    /// A cycle was stopped: it goes on at the next start, or when the freeze that stopped it is lifted, as it may be by now.
    pub(super) fn stopped(&self) {
        let mut shared = self.shared.lock();
        if shared.life != Life::Stopping {
            shared.left.how = Some(TakeUp::GoOn);
        }
        shared.rest();
    }

    /// What an earlier process left does not go on while deletes are frozen.
    pub(super) fn held_by_freeze(&self) -> Result<Option<Finished>, PruneError> {
        if PhaseRecord::load(&*self.parts.records)?.is_some() {
            self.left(&Left::Frozen);
        }
        Ok(None)
    }

    /// What an earlier process left did not go on. Its run is over, unless a freeze holds it: that is no end.
    pub(super) fn not_gone_on(&self) {
        let is_held = self.shared.lock().left.is_to_go_on();
        if is_held { self.shared.lock().rest() } else { self.interrupted() }
    }

    /// A look at what an earlier process left failed, and may succeed later: that is no cycle that failed.
    pub(super) fn look_failed(&self, error: &PruneError) {
        tracing::warn!(%error, "what an earlier process left could not be looked at; it is tried again");
        self.leave(TakeUp::GoOn, error);
        let holds = self.shared.lock().left.holds();
        if holds { self.shared.lock().rest() } else { self.interrupted() }
    }

    /// It is tried again later.
    fn leave(&self, how: TakeUp, error: &PruneError) {
        let now = self.parts.clock.monotonic();
        self.freeze_by(error, None);
        let (failures, wait) = self.shared.lock().left.again(how, now);
        let retried = self.recovery.outside_failed(failures, error, wait);
        self.shared.lock().untold.push(retried); // told AFTER the rest: a full journal waits for the disk
    }
}
