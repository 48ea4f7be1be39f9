//! Section `[pruner.recovery]`, whose keys are those of the product.

use state_pruner::recovery::RecoveryConfig;

use super::source::Source;

/// Takes every key of the section.
pub(super) fn read(recovery: &mut RecoveryConfig, source: &mut Source) {
    source.take_number("pruner.recovery.max_phase_retries", &mut recovery.max_phase_retries);
    source.take_number("pruner.recovery.base_retry_delay_ms", &mut recovery.base_retry_delay_ms);
    source.take_number("pruner.recovery.max_retry_delay_ms", &mut recovery.max_retry_delay_ms);
    source.take("pruner.recovery.backoff_multiplier", &mut recovery.backoff_multiplier);
    source.take("pruner.recovery.enable_snapshot_recovery", &mut recovery.enable_snapshot_recovery);
    source.take_number("pruner.recovery.snapshot_recovery_timeout_secs", &mut recovery.snapshot_recovery_timeout_secs);
    source.take("pruner.recovery.enable_phase_rollback", &mut recovery.enable_phase_rollback);
    source.take_number("pruner.recovery.min_healthy_cycles", &mut recovery.min_healthy_cycles);
}
