//! What keeps from going what nobody asks for any more.
//!
//! The pruner of the process knows all of it. Where none is asked, only what is written down is told, and that there may be
//! more.

use serde::{Deserialize, Serialize};

use super::{LiveRetention, WaitsFor};
use crate::{
    error::PruneError,
    outcome::Freeze,
    phase::PhaseRecord,
    records::Records,
    worker::{Pruner, SwitchedOff},
};

/// Why the floor does not move, or nothing is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Standstill {
    /// The pruner of this process has ended.
    WorkerGone {
        /// By what.
        why: String,
    },
    /// What earlier processes left cannot be read yet.
    Unread {
        /// By what.
        why: String,
    },
    /// Deletes are frozen.
    Freeze {
        /// For what.
        reason: String,
    },
    /// An operator has switched pruning off.
    Switch {
        /// Milliseconds since 1970 when it was.
        since_ms: u64,
    },
    /// Failures followed each other, and nothing is tried for a while.
    Breaker {
        /// Milliseconds until something is.
        for_ms: u64,
    },
    /// A cycle was begun and has not ended.
    Cycle {
        /// The cycle.
        cycle: u64,
    },
    /// The last round of the sweep between cycles failed.
    RoundsFail {
        /// By what.
        why: String,
    },
    /// No round begins before a cycle has made the counts of commits exact.
    CountsOwed,
    /// There is no sweep between cycles.
    IncrementalOff,
    /// No policy is in force.
    NoPolicy,
    /// Whether anything does only the pruner of its node knows.
    Unknown,
}

/// What stands in the way, by what it holds back.
#[derive(Debug, Clone)]
pub(super) struct Standstills {
    /// Nothing is deleted, and the floor does not move.
    pub(super) stopped: Option<Standstill>,
    /// The floor does not move.
    pub(super) cycle: Option<Standstill>,
    /// No round moves it, or nobody knows whether one does.
    pub(super) rounds: Option<Standstill>,
}

impl Standstills {
    fn load(records: &dyn Records, pruner: Option<&Pruner>) -> Result<Self, PruneError> {
        let (stopped, rounds) = match pruner {
            Some(pruner) => (pruner.stopped_by(), pruner.rounds_stopped_by()),
            None => (Standstill::recorded(records)?, Some(Standstill::Unknown)),
        };
        let cycle = match stopped {
            Some(_) => None, // records that cannot be read may be why
            None => PhaseRecord::load(records)?.map(|PhaseRecord { cycle, .. }| Standstill::Cycle { cycle }),
        };
        Ok(Self { stopped, cycle, rounds })
    }

    /// What an order waits for first.
    pub(super) fn of_order(self) -> Option<Standstill> {
        self.stopped.or(self.cycle).or(self.rounds)
    }

    /// What takes a node, and what holds that back. A cycle that has not ended does not: it may take the node itself.
    pub(super) fn of_node(self, waits_for: WaitsFor) -> (WaitsFor, Option<Standstill>) {
        match (waits_for, self.rounds) {
            (WaitsFor::Cycle, _) => (WaitsFor::Cycle, self.stopped),
            (_, Some(Standstill::CountsOwed)) => (WaitsFor::CountsOwed, self.stopped),
            (_, Some(Standstill::IncrementalOff)) => (WaitsFor::IncrementalOff, self.stopped),
            (sweep, Some(fails @ Standstill::RoundsFail { .. })) => (sweep, self.stopped.or(Some(fails))),
            (same, _) => (same, self.stopped),
        }
    }
}

impl Standstill {
    /// What holds everything back by what is written down.
    fn recorded(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        if let Some(Freeze { why: reason, .. }) = Freeze::load(records)? {
            return Ok(Some(Self::Freeze { reason }));
        }
        Ok(SwitchedOff::load(records)?.map(|SwitchedOff { at: since_ms }| Self::Switch { since_ms }))
    }
}

impl LiveRetention {
    pub(super) fn standstills(&self, pruner: Option<&Pruner>) -> Result<Standstills, PruneError> {
        match self.parts.keep {
            Some(_) => Standstills::load(&*self.parts.records, pruner),
            None => Ok(Standstills { stopped: Some(Standstill::NoPolicy), cycle: None, rounds: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freeze() -> Standstill {
        Standstill::Freeze { reason: "a lost node".to_owned() }
    }

    fn all(rounds: Option<Standstill>) -> Standstills {
        Standstills { stopped: Some(freeze()), cycle: Some(Standstill::Cycle { cycle: 7 }), rounds }
    }

    fn fails() -> Standstill {
        Standstill::RoundsFail { why: "no room".to_owned() }
    }

    #[test]
    fn what_holds_everything_back_is_told_before_what_holds_back_rounds() {
        let all = all(Some(fails()));
        let cycle = Standstills { stopped: None, ..all.clone() };
        let rounds = Standstills { cycle: None, ..cycle.clone() };
        let nothing = Standstills { rounds: None, ..rounds.clone() };
        for (standstills, expected) in [
            (all, Some(freeze())),
            (cycle, Some(Standstill::Cycle { cycle: 7 })),
            (rounds, Some(fails())),
            (nothing, None),
        ] {
            assert_eq!(standstills.clone().of_order(), expected, "{standstills:?}");
        }
    }

    #[test]
    fn only_a_cycle_takes_a_node_where_no_round_does() {
        let sweep = WaitsFor::Sweep { lost_in: 80, floor: 80, lag_orders: 3, lag_nodes: 17 };
        let rows = [
            (WaitsFor::Unknown, Some(Standstill::IncrementalOff), WaitsFor::IncrementalOff, "the journal is not read"),
            (sweep.clone(), Some(Standstill::IncrementalOff), WaitsFor::IncrementalOff, "nobody sweeps by it"),
            (WaitsFor::Unknown, Some(Standstill::CountsOwed), WaitsFor::CountsOwed, "the pruner knows why"),
            (WaitsFor::Cycle, Some(Standstill::CountsOwed), WaitsFor::Cycle, "it was shared all the same"),
            (WaitsFor::Unknown, Some(Standstill::Unknown), WaitsFor::Unknown, "nobody is asked"),
            (sweep.clone(), None, sweep.clone(), "the journal has it"),
        ];
        for (waits_for, rounds, expected, why) in rows {
            assert_eq!(all(rounds.clone()).of_node(waits_for.clone()), (expected.clone(), Some(freeze())), "{why}");
            let free = Standstills { stopped: None, ..all(rounds) };
            assert_eq!(free.of_node(waits_for), (expected, None), "{why}, and its cycle may take it");
        }
        let failing = Standstills { stopped: None, ..all(Some(fails())) };
        assert_eq!(failing.clone().of_node(sweep.clone()), (sweep, Some(fails())));
        assert_eq!(failing.of_node(WaitsFor::Cycle), (WaitsFor::Cycle, None), "a cycle does not ask how rounds end");
    }
}
