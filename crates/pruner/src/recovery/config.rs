//! How failures are met: the product's configuration, checked as data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How failed phases are met.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "the names and types of the product's configuration")]
pub struct RecoveryConfig {
    /// How often one phase is tried again before it is given up.
    pub max_phase_retries: u32,
    /// Milliseconds before the first retry, about: jitter makes it up to half longer or shorter.
    pub base_retry_delay_ms: u64,
    /// Most milliseconds before any retry.
    pub max_retry_delay_ms: u64,
    /// By this factor each wait is longer than the one before.
    pub backoff_multiplier: f64,
    /// Whether a snapshot is made anew when it, or what was made from it, is damaged.
    pub enable_snapshot_recovery: bool,
    /// Most seconds, from the first failure on, in which that is tried.
    pub snapshot_recovery_timeout_secs: u64,
    /// Whether a phase that is given up goes back to the last safe one.
    pub enable_phase_rollback: bool,
    /// After so many cycles in a row that finished at once the pruner counts as recovered.
    pub min_healthy_cycles: u32,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self {
            max_phase_retries: 3,
            base_retry_delay_ms: 1000,
            max_retry_delay_ms: 30_000,
            backoff_multiplier: 2.0,
            enable_snapshot_recovery: true,
            snapshot_recovery_timeout_secs: 300,
            enable_phase_rollback: true,
            min_healthy_cycles: 3,
        }
    }
}

/// More retries than this hold a snapshot open for longer than a new cycle would take.
const MOST_RETRIES: u32 = 100;

impl RecoveryConfig {
    /// Everything that is wrong with it: the key, and why.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let retries = self.max_phase_retries;
        if retries > MOST_RETRIES {
            wrong.push(("max_phase_retries", format!("at most {MOST_RETRIES} are allowed, not {retries}")));
        }
        if self.base_retry_delay_ms == 0 {
            wrong.push(("base_retry_delay_ms", "a retry at once is a storm: at least 1 is needed".to_owned()));
        }
        if self.max_retry_delay_ms < self.base_retry_delay_ms {
            let (most, base) = (self.max_retry_delay_ms, self.base_retry_delay_ms);
            wrong.push(("max_retry_delay_ms", format!("{most} is less than the {base} of base_retry_delay_ms")));
        }
        let multiplier = self.backoff_multiplier;
        if !(1.0..=100.0).contains(&multiplier) {
            wrong.push(("backoff_multiplier", format!("a number from 1 to 100 is expected, not {multiplier}")));
        }
        if self.snapshot_recovery_timeout_secs == 0 {
            let why = "nothing could be recovered; set enable_snapshot_recovery = false for that";
            wrong.push(("snapshot_recovery_timeout_secs", why.to_owned()));
        }
        if self.min_healthy_cycles == 0 {
            wrong.push(("min_healthy_cycles", "at least one cycle has to finish".to_owned()));
        }
        wrong
    }

    pub(super) fn base_delay(&self) -> Duration {
        Duration::from_millis(self.base_retry_delay_ms)
    }

    pub(super) fn max_delay(&self) -> Duration {
        Duration::from_millis(self.max_retry_delay_ms)
    }

    pub(super) fn snapshot_recovery_timeout(&self) -> Duration {
        Duration::from_secs(self.snapshot_recovery_timeout_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_recovery_are_those_of_the_product_and_pass() {
        let config = RecoveryConfig::default();
        assert_eq!(config.problems(), Vec::new());
        let text = serde_json::to_string(&config).unwrap();
        let expected = concat!(
            r#"{"max_phase_retries":3,"base_retry_delay_ms":1000,"max_retry_delay_ms":30000,"backoff_multiplier":2.0,"#,
            r#""enable_snapshot_recovery":true,"snapshot_recovery_timeout_secs":300,"enable_phase_rollback":true,"#,
            r#""min_healthy_cycles":3}"#,
        );
        assert_eq!(text, expected);
        assert!(serde_json::from_str::<RecoveryConfig>(r#"{"max_retries":3}"#).is_err(), "an unknown key");
    }

    #[test]
    fn every_contradiction_of_recovery_is_named_by_its_key() {
        let fine = RecoveryConfig::default;
        let rows = [
            (RecoveryConfig { max_phase_retries: 101, ..fine() }, "max_phase_retries"),
            (RecoveryConfig { base_retry_delay_ms: 0, ..fine() }, "base_retry_delay_ms"),
            (RecoveryConfig { max_retry_delay_ms: 999, ..fine() }, "max_retry_delay_ms"),
            (RecoveryConfig { backoff_multiplier: 0.5, ..fine() }, "backoff_multiplier"),
            (RecoveryConfig { backoff_multiplier: f64::NAN, ..fine() }, "backoff_multiplier"),
            (RecoveryConfig { snapshot_recovery_timeout_secs: 0, ..fine() }, "snapshot_recovery_timeout_secs"),
            (RecoveryConfig { min_healthy_cycles: 0, ..fine() }, "min_healthy_cycles"),
        ];
        for (config, key) in rows {
            let found: Vec<&str> = config.problems().into_iter().map(|(key, _)| key).collect();
            assert_eq!(found, [key], "{config:?}");
        }
    }
}
