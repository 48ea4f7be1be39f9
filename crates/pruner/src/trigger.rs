//! When a major cycle begins. One coordinator knows every trigger and says of each whether it is due, or what it waits
//! for; the worker asks it before each wait and after each run.
//!
//! Promises: it is a function of what it is told, clock included; what was committed while a run worked counts toward
//! the next one (the run counts up to its own snapshot); automatic cycles keep the cooldown, measured from the beginning
//! of the last run, also over restarts; none begins while the node catches up. Low disk and an operator override the
//! cooldown and the catching up (P16). Nothing overrides a freeze.
//!
//! Time: decisions follow the monotonic clock. The wall clock is read once, when the ledger of an earlier process is
//! opened: a clock that went back makes the wait as long as a whole cooldown and never longer, one that went forward
//! makes one cycle early and never two.

mod apart;
mod disk;
mod jitter;
mod ledger;
mod status;
mod turnover;

use std::{num::NonZeroU64, time::Duration};

use serde::Serialize;

use crate::{certificate::Trigger, clock::millis};
pub use disk::DiskStatus;
use disk::LowDisk;
use jitter::Seed;
pub use jitter::Share;
pub use ledger::Run;
pub(crate) use ledger::{Beginning, Ending, KEPT_REQUESTS, Ledger};
pub use status::{TriggerStatus, TriggersStatus};
pub use turnover::Turnover;

/// The triggers of major cycles besides the number of orders; the default has none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerConfig {
    /// The name of this node in its fleet: jitter is drawn from it.
    pub node: String,
    /// A cycle begins at the latest so long after the beginning of the last one.
    pub every: Option<Duration>,
    /// No two nodes prune in step (F10). By up to this share of `every` a scheduled cycle comes earlier, and by up to this
    /// share of `garbage_ratio` more garbage makes one due; by up to this share of the orders that make one due the first
    /// cycle for them comes later, and, by a window at most, each one that is owed to counts, garbage or a rollback.
    pub jitter: Share,
    /// A cycle begins when this share of the nodes present may be garbage ([`Turnover`]), a window after the last run at the
    /// earliest.
    pub garbage_ratio: Option<Share>,
    /// A cycle begins when fewer bytes are free on the device of the store.
    pub low_disk: Option<NonZeroU64>,
    /// Least time between the beginnings of two cycles that neither an operator nor low disk asked for.
    pub cooldown: Duration,
}

impl Default for TriggerConfig {
    fn default() -> Self {
        Self {
            node: String::new(),
            every: None,
            jitter: Share::NONE,
            garbage_ratio: None,
            low_disk: None,
            cooldown: Duration::ZERO,
        }
    }
}

/// What holds a cycle back whose trigger is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// A run is at work; what it does not count makes at most one more due.
    Running,
    /// The chain goes back to an older order.
    RollingBack,
    /// Deletes are frozen.
    Frozen,
    /// The worker has ended.
    WorkerGone,
    /// What earlier processes left cannot be read yet.
    Unread,
    /// An operator has switched pruning off.
    SwitchedOff,
    /// Failures followed each other, and nothing is tried for a while.
    Breaker,
    /// A sweep that an earlier process left waits for another look at what it was made from.
    Leftover,
    /// No order is older than what is retained.
    ShortChain,
    /// The node follows its chain, and is not at its head.
    CatchingUp,
    /// The last run began too recently.
    Cooldown,
}

/// How a trigger stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TriggerState {
    /// It is not configured.
    Off,
    /// What it looks at is not known yet, or not here.
    Unmeasured,
    /// It waits for its condition.
    Armed,
    /// Its condition is met, and something holds the cycle back.
    Held {
        /// What.
        by: HeldBy,
    },
    /// A cycle begins.
    Due,
}

/// Whether an operator's request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    No,
    Yes,
}

/// Whether commits are counted as the sweep between cycles needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    Settled,
    /// A cycle has to finish first.
    Owed,
}

/// What is known when the coordinator looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Monotonic.
    pub(crate) now: Duration,
    /// The newest order.
    pub(crate) head: u64,
    /// [`state_store::Store::nodes_stored`].
    pub(crate) nodes_stored: Option<u64>,
    /// Whether the node is at the head of its chain, if it tells.
    pub(crate) synced: Option<bool>,
    pub(crate) asked: Asked,
    /// Whether a cycle is owed to the counts of commits; nothing where nobody sweeps by them.
    pub(crate) counts: Option<Counts>,
    /// Whether no order has left the window yet for another reason than their number.
    pub(crate) filling: bool,
    /// Nodes that the sweep between cycles is about to delete; nothing until a round of it has ended since the last run.
    pub(crate) waiting: Option<u64>,
    /// What holds every cycle back.
    pub(crate) held: Option<HeldBy>,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    /// What sets off a cycle now.
    pub(crate) begin: Option<Trigger>,
    /// When to look again if nobody wakes the worker before; later than the look.
    pub(crate) again: Option<Duration>,
    /// Each trigger, in the order in which they are asked.
    pub(crate) standings: [(Trigger, TriggerState); 7],
}

/// An event by the monotonic clock, perhaps of an earlier process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    known: Duration,
    /// How long before that it was.
    before: Duration,
}

impl Moment {
    fn now(now: Duration) -> Self {
        Self { known: now, before: Duration::ZERO }
    }

    /// From a wall clock: if that went back since, the event is taken for new.
    fn recalled(now: Duration, unix_ms: u64, at: u64) -> Self {
        Self { known: now, before: Duration::from_millis(unix_ms.saturating_sub(at)) }
    }

    /// When it is so long ago.
    fn after(self, time: Duration) -> Duration {
        self.known.saturating_add(time.saturating_sub(self.before))
    }
}

/// What decides besides facts.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) config: TriggerConfig,
    pub(crate) every_orders: u64,
    pub(crate) keep_last: u64,
}

/// How often free space, and a node that catches up, are looked at while nothing else happens.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The one place that says when a cycle begins.
#[derive(Debug, Clone)]
pub(crate) struct Coordinator {
    rules: Rules,
    seed: Seed,
    ledger: Ledger,
    /// When the newest run began.
    last: Option<Moment>,
    /// What the schedule counts from.
    scheduled_from: Moment,
    disk: Option<LowDisk>,
    /// When free space was measured.
    looked_at_disk: Option<Duration>,
}

impl Coordinator {
    /// Goes on with a ledger at a time by both clocks.
    pub(crate) fn new(rules: Rules, ledger: Ledger, now: Duration, unix_ms: u64) -> Self {
        let recalled = |at| Moment::recalled(now, unix_ms, at);
        Self {
            seed: Seed::of(&rules.config.node),
            last: ledger.last_at.map(recalled),
            scheduled_from: recalled(ledger.scheduled_from),
            disk: rules.config.low_disk.map(|bound| LowDisk::new(bound.get(), ledger.low_disk)),
            looked_at_disk: None,
            rules,
            ledger,
        }
    }

    /// What is persisted.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether free space is to be measured now.
    pub(crate) fn wants_disk(&self, now: Duration) -> bool {
        self.disk.is_some() && self.looked_at_disk.is_none_or(|at| now >= at.saturating_add(LOOK_EVERY))
    }

    /// Takes a measurement of free space over.
    pub(crate) fn measured(&mut self, now: Duration, free: Option<u64>) {
        self.looked_at_disk = Some(now);
        if let Some(disk) = self.disk.as_mut() {
            disk.measured(free);
        }
    }

    /// Orders up to the head that no run has counted.
    pub(crate) fn uncounted(&self, head: u64) -> u64 {
        self.ledger.uncounted(head)
    }

    /// How much is new since the last run, where that is known.
    pub(crate) fn turnover(&self, facts: &Facts) -> Option<Turnover> {
        let (live, stored, waiting) = (self.ledger.live?, facts.nodes_stored?, facts.waiting?);
        Some(Turnover { live, added: stored.saturating_sub(self.ledger.nodes_stored), waiting })
    }

    /// So many nodes are stored now.
    pub(crate) fn stored(&mut self, nodes: u64) {
        self.ledger.stored(nodes);
    }

    /// When the schedule comes round, if there is one.
    pub(crate) fn scheduled_at(&self) -> Option<Duration> {
        let every = self.rules.config.every?;
        let early = self.seed.draw(self.rules.config.jitter, millis(every), self.ledger.begun + 1);
        Some(self.scheduled_from.after(every.saturating_sub(Duration::from_millis(early))))
    }

    /// When the cooldown ends, while it lasts.
    pub(crate) fn cooling_until(&self, now: Duration) -> Option<Duration> {
        let until = self.last?.after(self.rules.config.cooldown);
        (now < until).then_some(until)
    }

    /// Free space as the trigger sees it.
    pub(crate) fn disk(&self) -> Option<DiskStatus> {
        self.disk.as_ref().map(LowDisk::status)
    }

    /// Says of each trigger how it stands, and what to do now. The first one that is due sets the cycle off, in an order
    /// that answers whoever waits first; one cycle serves all of them.
    pub(crate) fn look(&self, facts: &Facts) -> Look {
        use Trigger::{Counts, Garbage, LowDisk, Operator, Orders, Rollback, Schedule};
        let asked = [Operator, LowDisk, Rollback, Orders, Counts, Garbage, Schedule];
        let standings = asked.map(|trigger| (trigger, self.standing(trigger, facts)));
        let begin = standings.iter().find(|(_, standing)| *standing == TriggerState::Due).map(|(trigger, _)| *trigger);
        let held = |by| standings.iter().any(|(_, standing)| *standing == TriggerState::Held { by });
        let again = [
            self.cooling_until(facts.now).filter(|_| held(HeldBy::Cooldown)),
            self.scheduled_at().filter(|at| *at > facts.now),
            self.disk.as_ref().and(self.looked_at_disk).map(|at| at.saturating_add(LOOK_EVERY)),
            held(HeldBy::CatchingUp).then(|| facts.now.saturating_add(LOOK_EVERY)),
        ];
        Look { begin, again: again.into_iter().flatten().min(), standings }
    }

    fn standing(&self, trigger: Trigger, facts: &Facts) -> TriggerState {
        let met = match trigger {
            Trigger::Operator => Some(facts.asked == Asked::Yes),
            Trigger::Orders => Some(facts.head >= self.next_at()),
            Trigger::Rollback => Some(self.rollback_at().is_some_and(|at| facts.head >= at)),
            Trigger::Counts => match facts.counts {
                None => return TriggerState::Off,
                Some(counts) => Some(counts == Counts::Owed && facts.head >= self.window_later()),
            },
            Trigger::LowDisk => match &self.disk {
                None => return TriggerState::Off,
                Some(disk) => disk.is_measured().then(|| disk.is_due()),
            },
            Trigger::Garbage => match self.rules.config.garbage_ratio {
                None => return TriggerState::Off,
                Some(ratio) => {
                    // What a cycle may remove left the window: sooner than a window later there is little of it.
                    let (is_late, ratio) = (facts.head >= self.window_later(), self.of_this_node(ratio));
                    self.turnover(facts).map(|new| is_late && ratio.is_reached(new.garbage(), new.present()))
                }
            },
            Trigger::Schedule => match self.scheduled_at() {
                None => return TriggerState::Off,
                Some(at) => Some(facts.now >= at),
            },
            Trigger::Resumed => return TriggerState::Off, // the first thing a process does, once
        };
        match (met, self.held(trigger, facts)) {
            (None, _) => TriggerState::Unmeasured,
            (Some(false), _) => TriggerState::Armed,
            (Some(true), Some(by)) => TriggerState::Held { by },
            (Some(true), None) => TriggerState::Due,
        }
    }

    fn held(&self, trigger: Trigger, facts: &Facts) -> Option<HeldBy> {
        let automatic = trigger != Trigger::Operator;
        let patient = automatic && trigger != Trigger::LowDisk;
        let by_orders = automatic && trigger != Trigger::Rollback; // what is owed to one is no order of the chain
        let reasons = [
            (by_orders && (facts.filling || facts.head < self.rules.keep_last)).then_some(HeldBy::ShortChain),
            (patient && facts.synced == Some(false)).then_some(HeldBy::CatchingUp),
            self.cooling_until(facts.now).filter(|_| patient).map(|_| HeldBy::Cooldown),
        ];
        facts.held.or_else(|| reasons.into_iter().flatten().next())
    }

    /// A run begins; save the ledger BEFORE it does anything.
    pub(crate) fn begin(&mut self, beginning: Beginning, now: Duration) {
        self.last = Some(Moment::now(now));
        if beginning.trigger == Trigger::Orders {
            self.ledger.spread = Some(self.seed.number());
        }
        if let (Trigger::LowDisk, Some(disk)) = (beginning.trigger, self.disk.as_mut()) {
            disk.fire();
        }
        self.ledger.low_disk = self.disk.as_ref().and_then(LowDisk::fired);
        self.ledger.begin(beginning);
    }

    /// The open run has ended. Its count is taken over with the ledger that is saved next.
    pub(crate) fn end(&mut self, ending: Ending) -> Option<&Run> {
        if let Some(last) = self.last.filter(|_| self.ledger.open().is_some()) {
            self.scheduled_from = last;
            // After one that failed the next comes a window later, not at once.
            let again =
                ending.snapshot_head.map_or(self.ledger.counted, |head| head).saturating_add(self.rules.keep_last);
            self.ledger.owed_from = self.ledger.owed_from.filter(|_| ending.live.is_none()).map(|_| again);
        }
        self.ledger.end(ending)
    }

    /// The chain went back to an order. The ledger that says so was saved with it.
    pub(crate) fn rolled_back(&mut self, to: u64) {
        self.ledger.rolled_back(to);
    }

    /// The run that an earlier process left open cannot go on: what it was to count makes the next one due. Nothing if
    /// none was left.
    pub(crate) fn interrupt(&mut self) -> Option<&Run> {
        let interrupted = self.ledger.interrupt()?;
        if let Some(disk) = self.disk.as_mut() {
            disk.rearm();
        }
        Some(interrupted)
    }
}

#[cfg(test)]
mod tests;
