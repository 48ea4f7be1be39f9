//! ErrorRecoveryManager: what is done about a phase that failed.
//!
//! Promises: what is done follows from the type of the error, never from its text ([`remedy`]); only what may pass is
//! tried again, later each time and at most `max_phase_retries` times; nothing sleeps that a stop cannot interrupt at
//! once; a breaker holds everything back when failures follow each other, and lets one attempt through to find out
//! whether they ended; a phase rolls back, never forward; every attempt is in the history with what came of it.
//!
//! What must survive a restart (the breaker, the healthy cycles, what was exhausted) is one record.

mod attempt;
mod breaker;
mod config;
mod execute;
mod manager;
mod metrics;
mod remedy;
mod retry;
mod runner;
mod saved;
mod status;
mod telling;

pub use attempt::{Attempt, Came};
pub use breaker::BreakerState;
pub use config::RecoveryConfig;
pub use manager::ErrorRecoveryManager;
pub use metrics::RecoveryMetrics;
pub(crate) use remedy::may_pass;
pub use remedy::{Remedy, remedy};
pub use runner::PhaseRunner;
pub(crate) use saved::check_saved;
#[cfg(test)]
pub(crate) use saved::sample;
pub use status::{BreakerStatus, RecoveryState, RecoveryStatus};
