//! What the coordinator shows: how each trigger stands, when it is due, and what the last runs came to.

use std::time::Duration;

use serde::Serialize;

use super::{
    Asked, Coordinator, Counts, DiskStatus, Facts, GarbageStatus, HeldBy, LowDisk, Run, TriggerState, Turnover,
};
use crate::{certificate::Trigger, clock::millis};

/// One trigger as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TriggerStatus {
    /// Which.
    pub trigger: Trigger,
    /// How it stands.
    #[serde(flatten)]
    pub standing: TriggerState,
    /// The order at which it is due, or from which on what it waits for makes it due; absent where orders do not decide.
    pub at_order: Option<u64>,
    /// Milliseconds until time makes it due, or lets go of it; absent where time does not decide.
    pub in_ms: Option<u64>,
}

/// The triggers, and the runs they set off.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TriggersStatus {
    /// Each trigger, in the order in which they are asked.
    pub triggers: Vec<TriggerStatus>,
    /// Whether an operator's request waits: the one follow-up of a run at work.
    pub requested: bool,
    /// The order up to which runs have counted.
    pub counted_to: u64,
    /// Orders up to the head that no run has counted yet.
    pub uncounted: u64,
    /// Milliseconds until the cooldown ends, while it lasts.
    pub cooldown_ms: Option<u64>,
    /// How much of the store is new since the last run; absent until a cycle has finished.
    pub turnover: Option<Turnover>,
    /// How much of that sets a cycle off, where it is looked at.
    pub garbage: Option<GarbageStatus>,
    /// Free space, where it is looked at.
    pub disk: Option<DiskStatus>,
    /// The last runs that ended, the newest last.
    pub runs: Vec<Run>,
}

impl Coordinator {
    /// As shown to people.
    pub(crate) fn status(&self, facts: &Facts) -> TriggersStatus {
        let shown = |(trigger, standing): (Trigger, TriggerState)| TriggerStatus {
            trigger,
            standing,
            at_order: self.at_order(trigger, facts),
            in_ms: self.due_at(trigger, standing, facts.now).map(|at| millis(at.saturating_sub(facts.now))),
        };
        TriggersStatus {
            triggers: self.look(facts).standings.map(shown).into(),
            requested: facts.asked == Asked::Yes,
            counted_to: self.ledger.counted,
            uncounted: self.uncounted(facts.head),
            cooldown_ms: self.cooling_until(facts.now).map(|until| millis(until.saturating_sub(facts.now))),
            turnover: self.turnover(facts),
            garbage: self.garbage(facts),
            disk: self.disk(),
            runs: self.ledger.runs().to_vec(),
        }
    }

    fn garbage(&self, facts: &Facts) -> Option<GarbageStatus> {
        let due_from = self.of_this_node(self.rules.config.garbage_ratio?);
        Some(GarbageStatus { share: self.turnover(facts).map(Turnover::share), due_from })
    }

    fn at_order(&self, trigger: Trigger, facts: &Facts) -> Option<u64> {
        match trigger {
            Trigger::Orders => Some(self.next_at(facts.floor)),
            Trigger::Garbage => self.rules.config.garbage_ratio.map(|_| self.window_later()),
            Trigger::Counts => (facts.counts == Some(Counts::Owed)).then(|| self.window_later()),
            Trigger::Rollback => self.rollback_at(),
            Trigger::Operator | Trigger::LowDisk | Trigger::Schedule | Trigger::Resumed => None,
        }
    }

    fn due_at(&self, trigger: Trigger, standing: TriggerState, now: Duration) -> Option<Duration> {
        match standing {
            TriggerState::Armed if trigger == Trigger::Schedule => self.scheduled_at(),
            TriggerState::Held { by: HeldBy::Cooldown } if trigger == Trigger::LowDisk => {
                self.disk.as_ref().and_then(LowDisk::armed_from)
            }
            TriggerState::Held { by: HeldBy::Cooldown } => self.cooling_until(now),
            TriggerState::Off
            | TriggerState::Unmeasured
            | TriggerState::Armed
            | TriggerState::Held { .. }
            | TriggerState::Due => None,
        }
    }
}
