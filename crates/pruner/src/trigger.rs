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
mod facts;
mod jitter;
mod ledger;
mod moment;
mod status;
mod telling;
mod turnover;

use std::{num::NonZeroU64, time::Duration};

use crate::{certificate::Trigger, clock::millis, rollback::Fate};
pub use disk::DiskStatus;
use disk::LowDisk;
pub(crate) use disk::Rearmed;
pub(crate) use facts::{Asked, Counts, Facts};
pub use facts::{HeldBy, TriggerState};
use jitter::Seed;
pub use jitter::Share;
pub use ledger::Run;
pub(crate) use ledger::{Beginning, Ending, KEPT_REQUESTS, Ledger, Window};
use moment::Moment;
pub use status::{TriggerStatus, TriggersStatus};
pub use turnover::{Figure, GarbageStatus, Turnover};

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
            disk: rules
                .config
                .low_disk
                .map(|bound| LowDisk::new(bound.get(), rules.config.cooldown).recalled(ledger.low_disk, recalled)),
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

    /// Takes a measurement of free space over. Save the ledger if it armed the trigger: a later process is to know.
    pub(crate) fn measured(&mut self, now: Duration, free: Option<u64>) -> Rearmed {
        self.looked_at_disk = Some(now);
        let rearmed = self.disk.as_mut().map_or(Rearmed::No, |disk| disk.measured(now, free));
        if rearmed == Rearmed::Now {
            self.ledger.low_disk = None;
        }
        rearmed
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

    /// What was measured that makes a cycle due, where a measurement decides.
    pub(crate) fn figure(&self, trigger: Trigger, facts: &Facts) -> Option<Figure> {
        match trigger {
            Trigger::Garbage => self.turnover(facts).map(Turnover::figure),
            Trigger::LowDisk => self.disk.as_ref().and_then(LowDisk::free).map(|bytes| Figure::Free { bytes }),
            Trigger::Orders
            | Trigger::Operator
            | Trigger::Resumed
            | Trigger::Counts
            | Trigger::Schedule
            | Trigger::Rollback => None,
        }
    }

    /// The ids of an operator's request for a run that has not begun, and of those that joined it.
    pub(crate) fn asked(&self) -> Option<&[String]> {
        self.ledger.asked.as_deref()
    }

    /// A request waits from now on. It is saved BEFORE.
    pub(crate) fn ask(&mut self, id: Option<&str>) {
        self.ledger.ask(id);
    }

    /// Takes it away: a run begins for it, or it is dropped. Save the ledger BEFORE either is told.
    pub(crate) fn take_asked(&mut self) -> Option<Vec<String>> {
        self.ledger.asked.take()
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

    /// What a cycle is due for beside an operator's request, or will be when the cooldown ends.
    pub(crate) fn met(&self, facts: &Facts) -> Vec<Trigger> {
        let is_met = |(trigger, state): &(Trigger, TriggerState)| match state {
            TriggerState::Due => *trigger != Trigger::Operator,
            TriggerState::Held { by: HeldBy::Cooldown } => self.held_by_itself(*trigger, facts).is_none(),
            TriggerState::Held { .. } | TriggerState::Off | TriggerState::Unmeasured | TriggerState::Armed => false,
        };
        self.look(facts).standings.into_iter().filter(is_met).map(|(trigger, _)| trigger).collect()
    }

    fn standing(&self, trigger: Trigger, facts: &Facts) -> TriggerState {
        let met = match trigger {
            Trigger::Operator => Some(facts.asked == Asked::Yes),
            Trigger::Orders => Some(facts.head >= self.next_at(facts.floor)),
            Trigger::Rollback => Some(self.ledger.owed_from.is_some()),
            Trigger::Counts => match facts.counts {
                None => return TriggerState::Off,
                Some(counts) => Some(counts == Counts::Owed),
            },
            Trigger::LowDisk => match &self.disk {
                None => return TriggerState::Off,
                Some(disk) => disk.free().map(|_| disk.is_low()),
            },
            Trigger::Garbage => match self.rules.config.garbage_ratio {
                None => return TriggerState::Off,
                Some(ratio) => {
                    let ratio = self.of_this_node(ratio);
                    self.turnover(facts).map(|new| ratio.is_reached(new.garbage(), new.present()))
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
        let filling = facts.filling || Window::of(facts.floor, self.rules.keep_last).is_filling(facts.head);
        let reasons = [
            (by_orders && filling).then_some(HeldBy::ShortChain),
            (patient && facts.synced == Some(false)).then_some(HeldBy::CatchingUp),
            self.cooling_until(facts.now).filter(|_| patient).map(|_| HeldBy::Cooldown),
            self.held_by_itself(trigger, facts),
        ];
        facts.held.or_else(|| reasons.into_iter().flatten().next())
    }

    /// What holds back one trigger by what it did last.
    fn held_by_itself(&self, trigger: Trigger, facts: &Facts) -> Option<HeldBy> {
        let from = match trigger {
            // What a cycle may remove left the window: sooner than a window later there is little of it.
            Trigger::Counts | Trigger::Garbage => Some(self.window_later()),
            Trigger::Rollback => self.rollback_at(),
            Trigger::LowDisk => return self.disk.as_ref().and_then(LowDisk::held),
            Trigger::Operator | Trigger::Orders | Trigger::Schedule | Trigger::Resumed => None,
        };
        from.filter(|from| facts.head < *from).map(|_| HeldBy::Window)
    }

    /// A run begins; save the ledger BEFORE it does anything.
    pub(crate) fn begin(&mut self, beginning: Beginning, now: Duration) {
        self.last = Some(Moment::now(now));
        if beginning.trigger == Trigger::Orders {
            self.ledger.spread = Some(self.seed.number());
        }
        if let Some(disk) = self.disk.as_mut() {
            disk.run_begins(); // whoever set it off: one run serves all of them
        }
        self.ledger.low_disk = self.disk.as_ref().and_then(LowDisk::fired);
        self.ledger.begin(beginning);
    }

    /// The open run has ended. Its count is taken over with the ledger that is saved next.
    pub(crate) fn end(&mut self, ending: Ending, now: Duration) -> Option<&Run> {
        if self.ledger.open().is_some_and(|trigger| !matches!(trigger, Trigger::Orders | Trigger::Resumed)) {
            self.ledger.spread = None; // it may have counted to one order in all nodes of a fleet (F10)
        }
        self.looked_at_disk = None; // what was free within the run may have been little for a moment
        if let Some(last) = self.last.filter(|_| self.ledger.open().is_some()) {
            self.scheduled_from = last;
            if let (None, Some(disk)) = (ending.live, self.disk.as_mut()) {
                disk.run_failed(now, ending.outcome.at);
                self.ledger.low_disk = disk.fired();
            }
            // After one that failed, and one that the chain went back beside, the next comes a window later, not at once.
            let again =
                ending.snapshot_head.map_or(self.ledger.counted, |head| head).saturating_add(self.rules.keep_last);
            let is_paid = ending.live.is_some() && self.ledger.pays_rollbacks();
            self.ledger.owed_from = self.ledger.owed_from.filter(|_| !is_paid).map(|_| again);
        }
        self.ledger.end(ending)
    }

    /// The chain went back to an order. The ledger that says so was saved with it.
    pub(crate) fn rolled_back(&mut self, to: u64, fate: Fate) {
        if self.ledger.rolled_back(to, fate).is_some() {
            self.rearm();
        }
    }

    /// The run that an earlier process left open cannot go on: what it was to count makes the next one due. Nothing if
    /// none was left.
    pub(crate) fn interrupt(&mut self) -> Option<Run> {
        let interrupted = self.ledger.interrupt().cloned()?;
        self.rearm();
        Some(interrupted)
    }

    fn rearm(&mut self) {
        if let Some(disk) = self.disk.as_mut() {
            disk.rearm();
        }
    }
}

#[cfg(test)]
mod tests;
