//! Health as a pure function of what is known: it says what is wrong and what to do, and it recovers with its cause.

use serde::{Deserialize, Serialize};

use crate::outcome::{Ended, Freeze, Outcome};

/// The overall state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing to do.
    Healthy,
    /// Works, and somebody should look.
    Degraded,
    /// Deletes have stopped until somebody acts; the node serves.
    Critical,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// How bad it is.
    pub verdict: Verdict,
    /// A stable word for scripts, and the heading in docs/operations.md.
    pub code: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// The verdict with its reasons; no reasons when healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The worst of the reasons.
    pub verdict: Verdict,
    /// Everything that is wrong.
    pub reasons: Vec<Reason>,
}

/// What health is judged by.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The freeze in force.
    pub freeze: Option<Freeze>,
    /// How the last cycle ended.
    pub last: Option<Outcome>,
    /// Why the worker is gone, if it is.
    pub poisoned: Option<String>,
    /// Orders committed since a cycle was due to be behind, and the number after which the next one is due.
    pub lag: Option<(u64, u64)>,
    /// Failures the engine met in the background, where somebody has it open.
    pub background_errors: Option<u64>,
}

/// Lag beyond so many due cycles is worth a look.
const LAG_FACTOR: u64 = 4;

/// Judges the facts.
pub fn assess(facts: &Facts) -> Health {
    let mut reasons = Vec::new();
    if let Some(freeze) = &facts.freeze {
        let message = format!(
            "deletes are frozen since cycle {}: {}. Run `state-node verify` on the store, repair it, then unfreeze",
            freeze.cycle, freeze.why
        );
        reasons.push(Reason { verdict: Verdict::Critical, code: "frozen".to_owned(), message });
    }
    if let Some(why) = &facts.poisoned {
        let message = format!("the pruning worker ended: {why}. The node serves; restart it to prune again");
        reasons.push(Reason { verdict: Verdict::Critical, code: "worker_gone".to_owned(), message });
    }
    if let Some(Ended::Failed { code, message }) = facts.last.as_ref().map(|last| &last.ended)
        && facts.freeze.is_none()
        && code != "cancelled"
    {
        let message = format!("the last cycle failed ({code}): {message}");
        reasons.push(Reason { verdict: Verdict::Degraded, code: "last_cycle_failed".to_owned(), message });
    }
    if let Some((lag, due)) = facts.lag.filter(|(lag, due)| *lag > due.saturating_mul(LAG_FACTOR)) {
        let message = format!("{lag} orders since the last cycle, one is due every {due}: pruning falls behind");
        reasons.push(Reason { verdict: Verdict::Degraded, code: "lagging".to_owned(), message });
    }
    if let Some(errors) = facts.background_errors.filter(|errors| *errors > 0) {
        let message =
            format!("the engine met {errors} failures in the background; its log names them, look at the disk");
        reasons.push(Reason { verdict: Verdict::Degraded, code: "engine_errors".to_owned(), message });
    }
    let verdict = reasons.iter().map(|reason| reason.verdict).max().map_or(Verdict::Healthy, |worst| worst);
    Health { verdict, reasons }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: &str) -> Option<Outcome> {
        let ended = Ended::Failed { code: code.to_owned(), message: "why".to_owned() };
        Some(Outcome { cycle: Some(1), at: 0, head_order: None, ended })
    }

    #[test]
    fn health_recovers_when_the_cause_is_gone() {
        let freeze = Some(Freeze { cycle: 3, at: 0, why: "node missing".to_owned() });
        let rows: [(Facts, Verdict, &[&str]); 8] = [
            (Facts::default(), Verdict::Healthy, &[]),
            (Facts { freeze: freeze.clone(), ..Facts::default() }, Verdict::Critical, &["frozen"]),
            (Facts { freeze, last: failed("missing_live_node"), ..Facts::default() }, Verdict::Critical, &["frozen"]),
            (Facts { poisoned: Some("panic".to_owned()), ..Facts::default() }, Verdict::Critical, &["worker_gone"]),
            (Facts { last: failed("io"), ..Facts::default() }, Verdict::Degraded, &["last_cycle_failed"]),
            (Facts { last: failed("cancelled"), ..Facts::default() }, Verdict::Healthy, &[]),
            (Facts { lag: Some((401, 100)), ..Facts::default() }, Verdict::Degraded, &["lagging"]),
            (Facts { background_errors: Some(1), ..Facts::default() }, Verdict::Degraded, &["engine_errors"]),
        ];
        for (facts, verdict, codes) in rows {
            let health = assess(&facts);
            let found: Vec<&str> = health.reasons.iter().map(|reason| reason.code.as_str()).collect();
            assert_eq!((health.verdict, found.as_slice()), (verdict, codes), "{facts:?}");
        }
    }
}
