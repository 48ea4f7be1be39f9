//! Metrics of the pruner, each taken from a report that a finished or failed cycle returned (O2).

use metrics::{counter, gauge, histogram};

use crate::certificate::Certificate;

/// Counts a finished cycle.
pub(crate) fn cycle_finished(certificate: &Certificate) {
    counter!("state_pruner_cycles_total", "outcome" => "finished").increment(1);
    counter!("state_pruner_deleted_nodes_total").increment(certificate.deleted);
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

/// Counts a cycle that ended early by the code of what ended it.
pub(crate) fn cycle_ended(code: &'static str) {
    counter!("state_pruner_cycles_total", "outcome" => code).increment(1);
}
