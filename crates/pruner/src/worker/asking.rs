//! What operators ask, and the answers: none waits for a cycle, none is forgotten, none queued without bound. A request that is
//! to wait is on disk BEFORE it is answered.

use super::{
    Inner, Pruner,
    shared::Shared,
    status::{Command, Reply},
};
use crate::{
    certificate::Trigger,
    control::{Control, Told},
    error::PruneError,
    events::{Event, Joined},
    trigger::KEPT_REQUESTS,
};

impl Pruner {
    /// Does what an operator asks, and answers at once.
    pub fn command(&self, command: Command) -> Reply {
        let running = {
            let shared = self.inner.shared.lock();
            shared.running.clone().filter(|_| !shared.is_looking())
        };
        if let (Command::Run | Command::Disable | Command::Enable | Command::Unfreeze, Some(why)) =
            (command, self.unread())
        {
            return Reply::Refused { why };
        }
        let reply = match (command, running) {
            (Command::Run, _) => self.ask(None),
            (Command::Disable, _) => self.disable(),
            (Command::Enable, _) => self.enable(),
            (Command::Unfreeze, Some(_)) => Reply::Refused { why: "a cycle is running".to_owned() },
            (Command::Unfreeze, None) => self.unfreeze(),
            (Command::Pause | Command::Resume | Command::Cancel, None) => Reply::NotRunning,
            (Command::Pause, Some(control)) if control.is_paused() => Reply::Unchanged,
            (Command::Resume, Some(control)) if !control.is_paused() => Reply::Unchanged,
            (Command::Pause, Some(control)) => match control.pause() {
                Told::InTime => {
                    self.inner.parts.events.emit(Event::CyclePaused);
                    Reply::Accepted
                }
                Told::TooLate => self.too_late(&control),
            },
            (Command::Resume, Some(control)) => {
                control.resume();
                self.inner.parts.events.emit(Event::CycleResumed);
                Reply::Accepted
            }
            (Command::Cancel, Some(control)) => match control.cancel() {
                Told::InTime => Reply::Accepted,
                Told::TooLate => self.too_late(&control),
            },
        };
        log(command, None, &reply);
        reply
    }

    /// What is at work ends, or is stopped by a freeze and goes on behind it.
    fn too_late(&self, control: &Control) -> Reply {
        let why =
            "deletes are frozen, so the cycle stops, and goes on when that is lifted; `prune-disable` gives it up";
        let is_frozen = self.inner.shared.lock().freeze.is_some();
        if is_frozen && control.is_stopping() { Reply::Refused { why: why.to_owned() } } else { Reply::Ending }
    }

    /// Asks for a cycle under an id that the caller chose: asked again with the same id, it does not run again, also
    /// after a restart, as long as not more than 64 other ids were served since (C14).
    pub fn run_once(&self, id: &str) -> Reply {
        let reply = self.ask(Some(id));
        log(Command::Run, Some(id), &reply);
        reply
    }

    /// One request may wait at a time; others join it.
    fn ask(&self, id: Option<&str>) -> Reply {
        if let Some(why) = self.unread() {
            return Reply::Refused { why };
        }
        let single = self.inner.operating.lock(); // so that nobody joins a request that cannot be written down
        let outside = self.inner.outside();
        let waits = {
            let shared = self.inner.shared.lock();
            if let Some(reply) = shared.turns_away(id) {
                return reply;
            }
            shared.coordinator.ledger().waits(id)
        };
        let reply = match waits {
            true => Reply::AlreadyRunning,
            false => match self.inner.take_down(id) {
                Ok(reply) => reply,
                Err(error) => {
                    self.inner.recovery.unsaved(&error);
                    return Reply::unsaved(&error);
                }
            },
        };
        self.inner.recovery.allow_probe();
        self.inner.shared.lock().give_way(&outside);
        self.wake();
        drop(single); // BEFORE anything is told: a full journal waits for the disk, and whoever switches off must not
        let joined = match reply {
            Reply::AlreadyRunning => (!waits).then_some(Joined::Request), // who asks again and again is told once
            Reply::FollowUp => Some(Joined::Cycle),
            Reply::Accepted
            | Reply::AlreadyServed { .. }
            | Reply::Unchanged
            | Reply::NotRunning
            | Reply::Ending
            | Reply::Refused { .. }
            | Reply::Unsaved { .. } => None,
        };
        if let Some(joined) = joined {
            self.inner.tell_joined(joined, Trigger::Operator);
        }
        reply
    }

    /// Why nothing can be decided: what earlier processes left may say otherwise, and is not written over.
    fn unread(&self) -> Option<String> {
        let shared = self.inner.shared.lock();
        let why = shared.poisoned.is_none().then_some(shared.unread.as_ref())??;
        Some(format!("the records of the pruner cannot be read, which is tried again: {why}"))
    }
}

fn log(command: Command, id: Option<&str>, reply: &Reply) {
    let (word, why) = (reply.name(), reply.refusal());
    tracing::info!(command = command.word(), id, reply = word, why, "an operator told the pruner");
}

impl Inner {
    /// Writes a request down and lets it wait, in this order: no run begins for one that is not on disk (C14).
    fn take_down(&self, id: Option<&str>) -> Result<Reply, PruneError> {
        let _single = self.saving_ledger.lock();
        let mut ledger = self.shared.lock().coordinator.ledger().clone();
        ledger.ask(id);
        ledger.save(&*self.parts.records)?;
        let mut shared = self.shared.lock();
        let joins = shared.coordinator.ledger().waits(None); // a run may have begun meanwhile for the one before
        shared.coordinator.ask(id);
        Ok(match (joins, shared.running.is_some() && !shared.is_looking()) {
            (true, _) => Reply::AlreadyRunning,
            (false, true) => Reply::FollowUp,
            (false, false) => Reply::Accepted,
        })
    }
}

impl Shared {
    /// The answer to a request that is not to wait.
    fn turns_away(&self, id: Option<&str>) -> Option<Reply> {
        let ledger = self.coordinator.ledger();
        if let Some(run) = id.and_then(|id| ledger.served(id)) {
            return Some(Reply::AlreadyServed { run });
        }
        let frozen = || self.freeze.as_ref().map(|freeze| PruneError::Frozen { why: freeze.why.clone() }.to_string());
        let off = || self.off.map(|_| "pruning is switched off; switch it on first (prune-enable)".to_owned());
        let full = || {
            (ledger.is_full() && !ledger.waits(id))
                .then(|| format!("{KEPT_REQUESTS} requests wait for the same cycle already"))
        };
        let why = self.poisoned.clone().or_else(frozen).or_else(off).or_else(full)?;
        Some(Reply::Refused { why })
    }

    /// Whether what runs only looks for an interrupted cycle, which is no cycle to follow, hold or end.
    pub(super) fn is_looking(&self) -> bool {
        self.trigger == Some(Trigger::Resumed) && self.cycle.is_none()
    }
}
