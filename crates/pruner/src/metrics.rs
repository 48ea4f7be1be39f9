//! Metrics of the pruner: what cycles did, each taken from the report that one returned (O2), and what the status shows.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{
    certificate::{Certificate, Trigger},
    control::{Pause, Stage},
    incremental::Round,
    phase::PrunePhase,
    recovery::{BreakerState, RecoveryStatus},
    trigger::{Run, TriggersStatus, Turnover},
    worker::{IncrementalStatus, PrunerStatus, ReclaimStatus},
};

const COUNTERS: [(&str, &str); 15] = [
    ("state_pruner_cycles_total", "Cycles that ended, by outcome: finished, cancelled, or the code of an error"),
    ("state_pruner_runs_total", "Runs that ended, by the trigger that set them off; interrupted ones are among them"),
    ("state_pruner_deleted_nodes_total", "Nodes deleted by cycles"),
    ("state_pruner_spared_nodes_total", "Nodes outside the mark that a commit had created again"),
    ("state_pruner_freed_bytes_total", "Bytes on disk that finished cycles gave back"),
    ("state_pruner_incremental_deleted_nodes_total", "Nodes deleted by the sweep between cycles"),
    ("state_pruner_incremental_set_aside_total", "Nodes and journal rows it could not read and left to a cycle"),
    ("state_pruner_reclaimed_ranges_total", "Ranges rewritten for their deleted rows while the chain was idle"),
    ("state_pruner_events_total", "Events, by their code"),
    ("state_pruner_events_lost_total", "Events that could not be written to their journal"),
    ("state_pruner_phase_retries_total", "Attempts at phases that failed and are made again"),
    ("state_pruner_recovery_exhausted_total", "Phases that were given up after all their retries"),
    ("state_pruner_snapshot_recreations_total", "Snapshots made anew because of damage"),
    ("state_pruner_phase_rollbacks_total", "Phases that went back to an earlier one"),
    ("state_pruner_breaker_openings_total", "Times that the breaker opened"),
];

const GAUGES: [(&str, &str); 29] = [
    ("state_pruner_live_nodes", "Live nodes that the last finished cycle marked"),
    ("state_pruner_store_bytes", "Bytes on disk after the last finished cycle"),
    ("state_pruner_retained_roots", "Roots that the last finished cycle retained"),
    ("state_pruner_running", "1 while a cycle runs"),
    ("state_pruner_paused", "1 while the running cycle is held"),
    ("state_pruner_phase", "1 for the phase the pruner is in"),
    ("state_pruner_stage", "1 for the stage of that phase that reported last"),
    ("state_pruner_stage_share", "Share of the key space behind that stage, 0 to 1; NaN where it does not tell"),
    ("state_pruner_frozen", "1 while deletes are frozen"),
    ("state_pruner_worker_gone", "1 once the worker has ended by itself"),
    ("state_pruner_switched_off", "1 while an operator has switched pruning off"),
    ("state_pruner_breaker", "1 for the state of the breaker"),
    ("state_pruner_healthy_cycles", "Cycles in a row that finished at once since something failed"),
    ("state_pruner_snapshot_failures", "Snapshots in a row that could not be taken"),
    ("state_pruner_keep_last_orders", "Orders retained, head included"),
    ("state_pruner_next_cycle_order", "Order at which orders alone begin the next cycle"),
    ("state_pruner_orders_until_next_cycle", "Orders from the head to that order; 0 when it is due"),
    ("state_pruner_uncounted_orders", "Orders that no run has counted yet"),
    (
        "state_pruner_turnover_share",
        "Share of the nodes present by which the store has grown since the last run; NaN where that is not known",
    ),
    ("state_pruner_incremental_lag_orders", "Orders at or below the floor whose entries still name nodes"),
    ("state_pruner_incremental_lag_nodes", "Nodes that those entries name"),
    ("state_pruner_incremental_lag_seconds", "Chain time from the oldest of those entries to the floor"),
    ("state_pruner_incremental_capacity_nodes", "Nodes per second that its rounds deal with from begin to end"),
    ("state_pruner_incremental_production_nodes", "Nodes per second that commits make it deal with"),
    ("state_pruner_incremental_slice_nodes", "Most nodes in its next slice"),
    (
        "state_pruner_tombstones",
        "Deletes in the files of the node family when the chain was idle last; NaN until it was",
    ),
    (
        "state_pruner_free_bytes",
        "Bytes free on the device of the store, where the low-disk trigger looks at it; NaN where that is not told",
    ),
    ("state_pruner_reserve_kept", "1 while the room for a full device is kept, 0 while it is let go"),
    ("state_pruner_reserve_bytes", "Bytes kept for a full device; 0 while they are let go"),
];

const PHASES: [PrunePhase; 4] =
    [PrunePhase::Idle, PrunePhase::BuildReach, PrunePhase::SweepExpired, PrunePhase::IncrementalSweep];

const BREAKER: [(BreakerState, &str); 3] =
    [(BreakerState::Closed, "closed"), (BreakerState::Open, "open"), (BreakerState::HalfOpen, "half_open")];

const STAGES: [Stage; 5] = [Stage::Scan, Stage::Mark, Stage::Sweep, Stage::Reclaim, Stage::Verify];

/// Tells the recorder what each metric means, and begins the counters whose labels are known at zero.
pub(crate) fn describe() {
    COUNTERS.into_iter().for_each(|(name, help)| describe_counter!(name, help));
    GAUGES.into_iter().for_each(|(name, help)| describe_gauge!(name, help));
    describe_histogram!("state_pruner_phase_seconds", "Seconds that each phase of finished cycles took");
    let waits = "Seconds that a phase waited for the lock on its snapshot";
    describe_histogram!("state_pruner_lock_wait_seconds", waits);
    let slice = "Seconds for which the longest slice of each round held the commit gate";
    describe_histogram!("state_pruner_incremental_slice_seconds", slice);
    for outcome in ["finished", "cancelled"] {
        counter!("state_pruner_cycles_total", "outcome" => outcome).increment(0);
    }
    for trigger in Trigger::ALL {
        counter!("state_pruner_runs_total", "trigger" => trigger.label()).increment(0);
    }
    for name in [
        "state_pruner_deleted_nodes_total",
        "state_pruner_spared_nodes_total",
        "state_pruner_incremental_deleted_nodes_total",
        "state_pruner_incremental_set_aside_total",
        "state_pruner_reclaimed_ranges_total",
        "state_pruner_events_lost_total",
    ] {
        counter!(name).increment(0);
    }
    counter!("state_pruner_freed_bytes_total").increment(0);
}

/// Shows a status at a head.
pub(crate) fn status(status: &PrunerStatus, head: u64) {
    gauge!("state_pruner_running").set(f64::from(status.running));
    gauge!("state_pruner_paused").set(f64::from(status.pause == Pause::Holding));
    gauge!("state_pruner_frozen").set(f64::from(status.frozen.is_some()));
    gauge!("state_pruner_worker_gone").set(f64::from(status.poisoned.is_some()));
    for phase in PHASES {
        gauge!("state_pruner_phase", "phase" => phase.to_string()).set(f64::from(phase == status.phase));
    }
    for stage in STAGES {
        let shown = status.progress.filter(|progress| progress.stage == stage);
        gauge!("state_pruner_stage", "stage" => stage.label()).set(f64::from(shown.is_some()));
        let share = shown.and_then(|progress| progress.share).map_or(f64::NAN, |share| share);
        gauge!("state_pruner_stage_share", "stage" => stage.label()).set(share);
    }
    if let Some(status) = &status.incremental {
        incremental(status);
    }
    status.reclaim.iter().for_each(reclaim);
    gauge!("state_pruner_switched_off").set(f64::from(status.off.is_some()));
    recovery(&status.recovery);
    gauge!("state_pruner_snapshot_failures").set(f64::from(status.snapshot_failures));
    gauge!("state_pruner_keep_last_orders").set(status.keep_last as f64);
    gauge!("state_pruner_next_cycle_order").set(status.next_at_order as f64);
    gauge!("state_pruner_orders_until_next_cycle").set(status.next_at_order.saturating_sub(head) as f64);
    triggers(&status.triggers);
    if let Some(reserve) = &status.reserve {
        let bytes = if reserve.kept { reserve.bytes } else { 0 };
        gauge!("state_pruner_reserve_kept").set(f64::from(reserve.kept));
        gauge!("state_pruner_reserve_bytes").set(bytes as f64);
    }
}

/// Where it is looked at; NaN where nothing is known.
fn triggers(status: &TriggersStatus) {
    gauge!("state_pruner_uncounted_orders").set(status.uncounted as f64);
    gauge!("state_pruner_turnover_share").set(rate(status.turnover.map(Turnover::share)));
    if let Some(disk) = &status.disk {
        gauge!("state_pruner_free_bytes").set(known(disk.free));
    }
}

/// NaN until something is known.
fn reclaim(status: &ReclaimStatus) {
    gauge!("state_pruner_tombstones").set(known(status.found.map(|found| found.deletes)));
}

/// A number that is not known is none: the last one would be taken for it.
fn known(number: Option<u64>) -> f64 {
    rate(number.map(|number| number as f64))
}

fn rate(of: Option<f64>) -> f64 {
    of.map_or(f64::NAN, |of| of)
}

/// A range of deleted rows was given back.
pub(crate) fn range_reclaimed() {
    counter!("state_pruner_reclaimed_ranges_total").increment(1);
}

fn recovery(status: &RecoveryStatus) {
    for (state, label) in BREAKER {
        gauge!("state_pruner_breaker", "state" => label).set(f64::from(status.breaker.state == state));
    }
    gauge!("state_pruner_healthy_cycles").set(f64::from(status.healthy_cycles));
}

/// Records how long a phase waited for its lock.
pub(crate) fn lock_waited(phase: PrunePhase, time: Duration) {
    histogram!("state_pruner_lock_wait_seconds", "phase" => phase.to_string()).record(time.as_secs_f64());
}

/// Counts a run by what set it off.
pub(crate) fn run_ended(run: &Run) {
    counter!("state_pruner_runs_total", "trigger" => run.trigger.label()).increment(1);
}

/// Counts what a cycle deletes.
pub(crate) fn deleted(nodes: u64) {
    counter!("state_pruner_deleted_nodes_total").increment(nodes);
}

/// Counts a finished cycle.
pub(crate) fn cycle_finished(certificate: &Certificate) {
    counter!("state_pruner_cycles_total", "outcome" => "finished").increment(1);
    counter!("state_pruner_spared_nodes_total").increment(certificate.sweep.spared);
    gauge!("state_pruner_live_nodes").set(certificate.live_nodes as f64);
    gauge!("state_pruner_store_bytes").set(certificate.bytes_after.total as f64);
    gauge!("state_pruner_retained_roots").set(certificate.retained.roots as f64);
    if let Some(before) = certificate.bytes_before {
        let freed = before.total.saturating_sub(certificate.bytes_after.total);
        counter!("state_pruner_freed_bytes_total").increment(freed);
    }
    let seconds = &certificate.seconds;
    let phases = [
        ("snapshot", seconds.snapshot),
        ("build_reach", seconds.build_reach),
        ("sweep_expired", Some(seconds.sweep_expired)),
        ("verify", Some(seconds.verify)),
    ];
    for (phase, seconds) in phases {
        if let Some(seconds) = seconds {
            histogram!("state_pruner_phase_seconds", "phase" => phase).record(seconds);
        }
    }
}

/// Shows the sweep between cycles; NaN where nothing is known.
fn incremental(status: &IncrementalStatus) {
    gauge!("state_pruner_incremental_lag_orders").set(known(status.lag_orders));
    gauge!("state_pruner_incremental_lag_nodes").set(known(status.lag_nodes));
    gauge!("state_pruner_incremental_lag_seconds").set(known(status.lag_ms) / 1000.0);
    gauge!("state_pruner_incremental_capacity_nodes").set(rate(status.capacity_per_second));
    gauge!("state_pruner_incremental_production_nodes").set(rate(status.production_per_second));
    gauge!("state_pruner_incremental_slice_nodes").set(status.slice_nodes as f64);
}

/// Counts a round of the sweep between cycles.
pub(crate) fn round_ended(round: &Round) {
    counter!("state_pruner_incremental_deleted_nodes_total").increment(round.nodes);
    set_aside(round.set_aside);
    if round.slices > 0 {
        histogram!("state_pruner_incremental_slice_seconds").record(round.longest.as_secs_f64());
    }
}

/// Counts what could not be read and was left to a cycle.
pub(crate) fn set_aside(items: u64) {
    counter!("state_pruner_incremental_set_aside_total").increment(items);
}

/// Counts a cycle that ended early by the code of what ended it.
pub(crate) fn cycle_ended(code: &'static str) {
    counter!("state_pruner_cycles_total", "outcome" => code).increment(1);
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, atomic::AtomicU64},
    };

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
    };
    use parking_lot::Mutex;

    use super::*;
    use crate::{sweep::Tombstones, trigger::DiskStatus};

    /// The gauges as they were set last.
    #[derive(Default)]
    struct Gauges(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Recorder for Gauges {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::clone(self.0.lock().entry(key.name().to_owned()).or_default()))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    impl Gauges {
        fn shown(&self, name: &str) -> Option<f64> {
            let gauges = self.0.lock();
            Some(f64::from_bits(gauges.get(name)?.load(std::sync::atomic::Ordering::Acquire)))
        }
    }

    #[test]
    fn a_gauge_whose_number_is_not_known_any_more_does_not_keep_the_old_one() {
        let disk = |free| DiskStatus { below: 1, room_from: 2, free, low: false, fired_at: None, again_below: None };
        let status = |turnover, disk| TriggersStatus {
            triggers: Vec::new(),
            requested: false,
            counted_to: 0,
            uncounted: 0,
            cooldown_ms: None,
            turnover,
            garbage: None,
            disk,
            runs: Vec::new(),
        };
        let reclaimed = |found| ReclaimStatus { found, ..ReclaimStatus::default() };
        let gauges = Gauges::default();
        let names = ["state_pruner_turnover_share", "state_pruner_free_bytes", "state_pruner_tombstones"];
        with_local_recorder(&gauges, || triggers(&status(None, None)));
        assert_eq!(
            names.map(|name| gauges.shown(name).is_some()),
            [true, false, false],
            "what is not looked at is not shown"
        );
        with_local_recorder(&gauges, || {
            triggers(&status(Some(Turnover { live: 3, added: 1, waiting: 0 }), Some(disk(Some(7)))));
            reclaim(&reclaimed(Some(Tombstones { deletes: 5, rows: 9, bytes: 1 })));
        });
        assert_eq!(names.map(|name| gauges.shown(name)), [Some(0.25), Some(7.0), Some(5.0)]);
        with_local_recorder(&gauges, || {
            triggers(&status(None, Some(disk(None))));
            reclaim(&reclaimed(None));
        });
        assert_eq!(names.map(|name| gauges.shown(name).is_some_and(f64::is_nan)), [true; 3]);
    }
}
