//! Counts and latencies of a load, in bounded memory.

use std::time::Duration;

use serde::Serialize;

/// Steps per doubling: a percentile is at most one step, about 3 %, above the truth.
const STEPS: usize = 32;
const DOUBLINGS: usize = 40;

/// Latencies in steps of about 3 %, from microseconds to days.
#[derive(Debug, Clone)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
    most: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; STEPS * DOUBLINGS], total: 0, most: Duration::ZERO }
    }
}

fn step_of(micros: u64) -> usize {
    let steps = STEPS as u64;
    if micros < steps {
        return micros as usize;
    }
    let doubling = u64::from(micros.ilog2() - STEPS.ilog2());
    ((doubling + 1) * steps + ((micros >> doubling) - steps)) as usize
}

/// The largest number of microseconds in a step.
fn end_of(step: usize) -> u64 {
    let (step, steps) = (step as u64, STEPS as u64);
    if step < steps {
        return step;
    }
    let (doubling, at) = (step / steps - 1, step % steps);
    ((steps + at + 1) << doubling) - 1
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).map_or(u64::MAX, |micros| micros);
        let step = step_of(micros).min(self.counts.len() - 1);
        if let Some(count) = self.counts.get_mut(step) {
            *count += 1;
        }
        self.total += 1;
        self.most = self.most.max(latency);
    }

    /// The latency that a share of all stayed at or below, in milliseconds; nothing if there was none.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let wanted = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (step, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                let most = self.most.as_secs_f64() * 1e3;
                return Some((end_of(step) as f64 / 1e3).min(most));
            }
        }
        None
    }

    fn report(&self) -> Option<Percentiles> {
        Some(Percentiles {
            p50: self.percentile(0.5)?,
            p90: self.percentile(0.9)?,
            p99: self.percentile(0.99)?,
            max: self.most.as_secs_f64() * 1e3,
        })
    }
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half stayed at or below.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// What is counted while a load runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Transactions that were applied.
    pub applied: u64,
    /// Transactions that are in a block and changed nothing, as the state then did not allow them.
    pub failed: u64,
    /// Requests answered 429.
    pub busy: u64,
    /// Requests that ended in another error.
    pub errors: u64,
    /// Proofs that verified and showed what was expected.
    pub proofs_verified: u64,
    /// Proofs that did not verify, or that showed something else.
    pub proofs_wrong: u64,
}

impl Counts {
    /// Transactions that got a receipt.
    pub fn transactions(&self) -> u64 {
        self.applied + self.failed
    }
}

/// The report of a load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// Transactions that got a receipt.
    pub transactions: u64,
    /// What was counted over all connections.
    #[serde(flatten)]
    pub counts: Counts,
    /// Wall time.
    pub seconds: f64,
    /// Transactions per second.
    pub per_second: f64,
    /// Latency of requests; absent if none was answered.
    pub latency_ms: Option<Percentiles>,
}

impl LoadReport {
    /// The report over all connections.
    pub fn of(counts: Counts, latencies: &Latencies, time: Duration) -> Self {
        let (transactions, seconds) = (counts.transactions(), time.as_secs_f64());
        let per_second = if seconds > 0.0 { transactions as f64 / seconds } else { 0.0 };
        Self { transactions, counts, seconds, per_second, latency_ms: latencies.report() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_stay_within_one_step_of_the_sorted_truth() {
        let mut latencies = Latencies::default();
        let mut all: Vec<u64> = (0..5_000_u64).map(|n| n * n % 700_001 + n % 29).collect();
        all.iter().for_each(|micros| latencies.record(Duration::from_micros(*micros)));
        all.sort_unstable();
        for share in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let exact = all[((all.len() as f64 * share).ceil() as usize).max(1) - 1] as f64 / 1e3;
            let told = latencies.percentile(share).unwrap();
            assert!(told >= exact && told <= exact * 1.04 + 0.001, "{share}: {told} for {exact}");
        }
        assert_eq!(Latencies::default().percentile(0.5), None);
    }

    #[test]
    fn every_latency_lies_in_the_step_that_ends_at_or_after_it() {
        for micros in (0..200).chain([1 << 20, (1 << 33) + 5]) {
            assert!(end_of(step_of(micros)) >= micros);
            assert!(step_of(micros) == 0 || end_of(step_of(micros) - 1) < micros);
        }
    }
}
