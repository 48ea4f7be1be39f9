//! The loop of the worker: what comes next is decided in one place, from facts; then it is done, or waited for.
//!
//! Promises: one run at a time; a run begins in the scope in which it is decided; the ledger says so, durably, BEFORE
//! the run does anything; nothing sleeps and nothing polls: the loop waits for a message or for the moment at which the
//! coordinator wants to look again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use state_store::{CountsLost, Point, reached};
use state_tree::Order;
use tokio::runtime::Runtime;

use super::{
    Inner, Message, Watch,
    left::TakeUp,
    shared::{Life, Shared},
    steady::Steady,
};
use crate::{
    certificate::Trigger,
    control::Control,
    cycle::{self, CycleEnv, CycleOrder},
    error::PruneError,
    events::Event,
    recovery::{PhaseRunner, may_pass},
    trigger::{Asked, Beginning, Counts, Facts, HeldBy, Rearmed},
};

/// What the worker does next. Whatever else it will do between cycles has its place here.
enum Next {
    /// Takes up what an earlier run left.
    TakeUp(TakeUp, Arc<Control>),
    /// A whole cycle.
    Cycle(Trigger, Arc<Control>),
    /// A round of the sweep between cycles.
    Sweep(Arc<Control>),
    /// A range of deleted rows that is given back while the chain is idle.
    Reclaim(Arc<Control>),
    /// Nothing, until this moment by the monotonic clock or for good, unless a message comes.
    Wait(Option<Duration>),
    /// The pruner is being dropped.
    End,
}

/// What the worker does first.
pub(super) struct Begin {
    /// Whether the ledger is to be saved.
    pub(super) is_ledger_unsaved: bool,
    /// The look at what an earlier process left, which counts as a run until it is over; none where nothing is pruned.
    pub(super) look: Option<Arc<Control>>,
}

/// Why a wait ended.
enum Woken {
    ToLook,
    ToEnd,
}

/// What is looked up outside the lock.
#[derive(Clone, Copy)]
pub(super) struct Outside {
    pub(super) now: Duration,
    synced: Option<bool>,
    nodes_stored: Option<u64>,
    counts: Option<Counts>,
    pub(super) lost: Option<CountsLost>,
    pub(super) filling: bool,
    pub(super) floor: Option<Order>,
    /// Until when the breaker lets nothing through.
    pub(super) held_until: Option<Duration>,
}

impl Outside {
    /// Whether commits are counted as the sweep between cycles needs it, and the breaker lets a round through.
    pub(super) fn lets_rounds_begin(&self) -> bool {
        self.counts == Some(Counts::Settled) && self.held_until.is_none()
    }
}

/// The worker lives. However it ends, what was at work is not any more, and whoever waits for that goes on.
struct Working<'a>(&'a Inner);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut shared = self.0.shared.lock();
        shared.rest();
        shared.steady.control = None;
        drop(shared);
        self.0.rested.notify_all();
    }
}

impl Inner {
    /// Works until it is told to stop. A panic between runs ends the worker as one in a run does (P14).
    pub(super) fn serve_or_tell(self: &Arc<Self>, messages: &Receiver<Message>, begin: Begin) {
        let working = Working(self); // BEFORE anything that may panic
        if catch_unwind(AssertUnwindSafe(|| self.serve(messages, begin))).is_ok() {
            return;
        }
        let why = "it panicked between runs; see the log".to_owned();
        self.shared.lock().poisoned = Some(why.clone()); // BEFORE whoever waits goes on
        drop(working);
        tracing::error!("the pruner panicked between runs; the node serves, pruning has ended");
        self.parts.events.emit(Event::WorkerPanicked { why });
    }

    /// Works until it is told to stop.
    fn serve(self: &Arc<Self>, messages: &Receiver<Message>, begin: Begin) {
        if begin.is_ledger_unsaved {
            self.keep_ledger(); // the schedule counts from it; somebody may have asked for a run already (C14)
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => return self.poison(format!("what waits between attempts cannot start: {error}")),
        };
        let (mut steady, mut are_unpacked) = (Steady::default(), true);
        if let Some(control) = begin.look {
            self.recovery.allow_probe(); // a sweep that goes on tells at once whether what failed is over
            self.take_up((TakeUp::GoOn, control), &runtime);
        }
        self.prepare(&mut steady);
        loop {
            match self.parts.store.catch_up() {
                Ok(()) => are_unpacked = true,
                Err(error) if are_unpacked => {
                    are_unpacked = false; // whoever needs their rows writes them
                    tracing::warn!(%error, "marks of shared nodes stay in their bundles"); // O15: once
                }
                Err(_) => {}
            }
            let unsaved = self.save_unsaved(self.parts.clock.monotonic());
            let next = self.next();
            self.tell_untold(); // what that look has found, too: nothing may come for long
            match next {
                Next::TakeUp(how, control) => self.take_up((how, control), &runtime),
                Next::Cycle(trigger, control) => self.run(trigger, control, &runtime),
                Next::Sweep(control) => self.sweep(&mut steady, &control),
                Next::Reclaim(control) => self.reclaim(&control),
                Next::Wait(until) => match self.wait(messages, [until, unsaved].into_iter().flatten().min()) {
                    Woken::ToLook => {}
                    Woken::ToEnd => break,
                },
                Next::End => break,
            }
        }
        self.tell_untold();
        self.save_unsaved(Duration::MAX); // the last try
        let rest = steady.tally.rest(self.parts.clock.monotonic());
        rest.into_iter().for_each(|event| self.parts.events.emit(event));
    }

    /// What was found out under a lock that commits take is told here.
    fn tell_untold(&self) {
        self.reserve.tell();
        let untold = std::mem::take(&mut self.shared.lock().untold);
        untold.into_iter().for_each(|event| self.parts.events.emit(event));
    }

    /// Decides, and begins in the same scope.
    fn next(&self) -> Next {
        self.measure_disk();
        let outside = self.outside();
        let mut shared = self.shared.lock();
        if shared.life == Life::Stopping {
            return Next::End;
        }
        shared.note_lost(outside.lost); // told before the next look
        let left = match shared.take_up(&outside) {
            Ok((how, control)) => return Next::TakeUp(how, control),
            Err(again) => again,
        };
        let facts = shared.facts(&outside);
        let look = shared.coordinator.look(&facts);
        let Some(trigger) = look.begin else {
            let look_again = [look.again, outside.held_until].into_iter().flatten().min();
            let round =
                if outside.lets_rounds_begin() { shared.begin_round(outside.now) } else { Err(outside.held_until) };
            return match round {
                Ok(control) => Next::Sweep(control),
                Err(again) => match self.config.incremental.map(|_| shared.begin_reclaim(outside.now)) {
                    Some(Ok(control)) => Next::Reclaim(control),
                    Some(Err(idle)) => Next::Wait([look_again, again, left, idle].into_iter().flatten().min()),
                    None => Next::Wait([look_again, again, left].into_iter().flatten().min()),
                },
            };
        };
        let beginning = Beginning {
            trigger,
            at: self.parts.clock.unix_ms(),
            head: shared.head,
            nodes_stored: outside.nodes_stored.map_or(0, |stored| stored), // nothing put yet is zero, too
            figure: shared.coordinator.figure(trigger, &facts),
            requests: shared.coordinator.take_asked().into_iter().flatten().collect(),
        };
        shared.coordinator.begin(beginning, outside.now);
        Next::Cycle(trigger, shared.hold(trigger))
    }

    fn wait(&self, messages: &Receiver<Message>, until: Option<Duration>) -> Woken {
        let message = match until {
            Some(until) => messages.recv_timeout(until.saturating_sub(self.parts.clock.monotonic())),
            None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match message {
            Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => Woken::ToLook,
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => Woken::ToEnd,
        }
    }

    /// Runs a cycle to its end.
    fn run(self: &Arc<Self>, trigger: Trigger, control: Arc<Control>, runtime: &Runtime) {
        let (run, figure, head_order) = {
            let shared = self.shared.lock();
            let ledger = shared.coordinator.ledger();
            (ledger.newest(), ledger.figure(), shared.head)
        };
        let measured = figure.map(|figure| figure.to_string());
        tracing::info!(run, trigger = trigger.label(), measured, "pruning run begins");
        self.work(trigger, control, |env, order| {
            let saved = self.save_ledger(); // BEFORE anything is told or done: a request is served once (C14)
            self.parts.events.emit(Event::TriggerFired { trigger, run, head_order, figure });
            saved?;
            reached(Point::RunBegins);
            cycle::run(env, order, &self.runner(runtime)).map(Some)
        });
    }

    /// Goes on with what an earlier process left in its sweep, if it left anything.
    pub(super) fn go_on(self: &Arc<Self>, control: Arc<Control>, runtime: &Runtime) {
        let is_off = self.shared.lock().off.is_some();
        self.work(Trigger::Resumed, control, |env, order| {
            if is_off {
                cycle::give_up_left(env, order);
                return Ok(None);
            }
            if self.shared.lock().freeze.is_some() {
                return self.held_by_freeze(); // also by one that could not be saved
            }
            cycle::resume(env, order, &self.runner(runtime))
        });
    }

    fn runner<'a>(&'a self, runtime: &'a Runtime) -> PhaseRunner<'a> {
        PhaseRunner::Recovered { manager: &self.recovery, runtime }
    }

    fn poison(&self, why: String) {
        tracing::error!(why, "the node serves, nothing is pruned");
        self.shared.lock().poisoned = Some(why);
    }

    fn work(
        self: &Arc<Self>,
        trigger: Trigger,
        control: Arc<Control>,
        work: impl FnOnce(&CycleEnv, &CycleOrder<'_>) -> Result<Option<cycle::Finished>, PruneError>,
    ) {
        let this = Arc::downgrade(self);
        control.while_held(Box::new(move || this.upgrade().into_iter().for_each(|inner| inner.look_around())));
        let (env, order) = (self.env(control), self.order(trigger));
        self.recovery.cycle_begins();
        let began = self.parts.clock.monotonic();
        match catch_unwind(AssertUnwindSafe(|| work(&env, &order))) {
            Ok(Ok(None)) => self.not_gone_on(),
            Ok(Ok(Some(finished))) => self.close(began, self.finished(&finished)),
            Ok(Err(PruneError::Stopped)) => self.stopped(),
            Ok(Err(PruneError::Cancelled)) if self.shared.lock().gives_way() => self.given_up(),
            Ok(Err(PruneError::Cancelled)) => self.close(began, self.cancelled()),
            Ok(Err(error)) if self.shared.lock().is_looking() && may_pass(&error) => self.look_failed(&error),
            Ok(Err(error)) => self.close(began, self.failed(&error)),
            Err(_) => self.close(began, self.panicked()),
        }
        self.rested.notify_all();
    }

    /// What a cycle works with.
    pub(super) fn env(self: &Arc<Self>, control: Arc<Control>) -> CycleEnv {
        CycleEnv {
            parts: self.snapshot_parts.clone(),
            snapshots: Arc::clone(&self.snapshots),
            layout: Arc::clone(&self.parts.layout),
            control,
            observer: Arc::new(Watch(Arc::clone(self))),
        }
    }

    /// What a cycle is to do.
    pub(super) fn order(&self, trigger: Trigger) -> CycleOrder<'_> {
        CycleOrder { keep_last: self.config.keep_last, config: &self.config.cycle, trigger }
    }

    /// Asks the device for its free space, where a trigger wants to know.
    pub(super) fn measure_disk(&self) {
        let now = self.parts.clock.monotonic();
        if !self.shared.lock().coordinator.wants_disk(now) {
            return;
        }
        let free = self.meter.free_for_trigger();
        let rearmed = {
            let mut shared = self.shared.lock();
            shared.coordinator.measured(now, free)
        };
        if rearmed == Rearmed::Now {
            self.keep_ledger(); // it had fired, so the records were read
        }
    }

    /// Looked up BEFORE the lock is taken: nobody waits for the node or the store under it.
    pub(super) fn outside(&self) -> Outside {
        Outside {
            now: self.parts.clock.monotonic(),
            synced: self.parts.facts.as_ref().and_then(|facts| facts.sync_status()),
            nodes_stored: self.nodes_stored(),
            filling: matches!(self.snapshot_parts.policy.is_filling(), Ok(true)), // health tells why that is not known
            floor: self.parts.store.floor(),
            counts: self.config.incremental.map(|_| match self.parts.store.counts_are_settled() {
                true => Counts::Settled,
                false => Counts::Owed,
            }),
            lost: self.config.incremental.and_then(|_| self.parts.store.counts_lost()),
            held_until: self.recovery.holds_until(),
        }
    }

    pub(super) fn nodes_stored(&self) -> Option<u64> {
        self.parts.store.head().map(|_| self.parts.store.nodes_stored())
    }
}

impl Shared {
    /// What the coordinator judges by.
    pub(super) fn facts(&self, outside: &Outside) -> Facts {
        let held = [
            matches!(self.life, Life::RollingBack(_)).then_some(HeldBy::RollingBack),
            self.running.as_ref().map(|_| HeldBy::Running),
            self.poisoned.as_ref().map(|_| HeldBy::WorkerGone),
            self.unread.as_ref().map(|_| HeldBy::Unread),
            self.freeze.as_ref().map(|_| HeldBy::Frozen),
            self.off.map(|_| HeldBy::SwitchedOff),
            outside.held_until.map(|_| HeldBy::Breaker),
            self.left.holds().then_some(HeldBy::Leftover),
        ];
        Facts {
            now: outside.now,
            head: self.head,
            nodes_stored: outside.nodes_stored,
            synced: outside.synced,
            counts: outside.counts,
            filling: outside.filling,
            floor: outside.floor,
            waiting: self.steady.waiting(),
            asked: if self.coordinator.asked().is_some() { Asked::Yes } else { Asked::No },
            held: held.into_iter().flatten().next(),
        }
    }

    /// A run is at work from here on.
    pub(super) fn hold(&mut self, trigger: Trigger) -> Arc<Control> {
        (self.trigger, self.captured) = (Some(trigger), None);
        Arc::clone(self.running.insert(Arc::default()))
    }

    /// No run is at work any more.
    pub(super) fn rest(&mut self) {
        (self.running, self.trigger, self.cycle, self.progress) = (None, None, None, None);
        self.steady.cycle_ended();
    }
}
