//! A store whose node does not prune: what a pruner would know of its health, and its reserve.
//!
//! Promises: the records are read once, because nobody changes them while no pruner runs, and one that is unusable keeps no node
//! from starting; health waits for nobody but the one who measures.

use std::sync::Arc;

use super::{
    Facts, Measured, Reason, Verdict,
    meter::Meter,
    reason,
    recorded::{Recorded, Unread},
};
use crate::{
    recovery::RecoveryConfig,
    snapshot::settle_left_lock,
    validate::Validated,
    when::When,
    worker::{PrunerParts, ReserveKeeper},
};

/// What a node does with a command to its pruner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Commands {
    /// It is obeyed, or refused for a reason of its own.
    #[default]
    Taken,
    /// There is no pruner to obey it.
    Refused,
}

/// Looks after a store whose node does not prune.
pub struct Unpruned {
    parts: PrunerParts,
    meter: Meter,
    reserve: ReserveKeeper,
    /// By the records, as they were when the store was taken over.
    recorded: Facts,
}

impl std::fmt::Debug for Unpruned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpruned").field("recorded", &self.recorded).finish_non_exhaustive()
    }
}

impl Unpruned {
    /// Takes over a store. What cannot be read is told by health.
    pub fn new(parts: PrunerParts) -> Self {
        let mut unread = Unread::default();
        let (min_healthy_cycles, now_ms) = (RecoveryConfig::default().min_healthy_cycles, parts.clock.unix_ms());
        let recorded = Recorded::read(&*parts.records, min_healthy_cycles, (now_ms, &mut unread));
        settle_left_lock(&*parts.records, 0);
        Self {
            meter: Meter::new(Arc::clone(&parts.store), Arc::clone(&parts.clock)),
            reserve: ReserveKeeper::new(Arc::clone(&parts.store), Arc::clone(&parts.events)),
            recorded: unread.among(recorded.facts_without_cycles()),
            parts,
        }
    }

    /// What is known of it.
    pub fn facts(&self) -> Facts {
        let Measured { background_errors, room, unmeasured, .. } = self.meter.look(&|| Ok(false)); // nothing is due here
        let (backend, recorded) = (self.parts.store.backend(), self.recorded.clone());
        Facts {
            background_errors,
            engine_damage: backend.damage(),
            engine_stopped: backend.stopped_by(),
            log_cut: recorded.log_cut.clone().or_else(|| backend.log_cut().map(|cut| cut.what)),
            reserve: self.reserve.missing(),
            room,
            unmeasured: [recorded.unmeasured, unmeasured].concat(),
            ..recorded
        }
    }

    /// What the validations of earlier processes came to, if there was one.
    pub fn validated(&self) -> Option<Validated> {
        self.recorded.validation.clone()
    }

    /// Takes the reserve again that was let go, if there is room by now. Call it at times; may wait for the disk.
    pub fn take_reserve(&self) {
        self.reserve.take();
    }
}

/// That nobody prunes, as the configuration has it.
pub(super) fn unpruned(facts: &Facts) -> Option<Reason> {
    let message = "the node has no pruner, by `pruner.enabled = false`: every state stays and the disk grows; to prune set it to \
                   true and restart the node";
    (facts.commands == Commands::Refused).then(|| reason(Verdict::Healthy, "unpruned", message.to_owned()))
}

/// That an operator has told it not to prune.
pub(super) fn switched_off(facts: &Facts) -> Option<Reason> {
    let at = facts.off?.at;
    let message = format!(
        "pruning was switched off by an operator, at {}, and garbage collects: switch it on with `prune-enable`",
        When(at)
    );
    Some(reason(Verdict::Degraded, "switched_off", message))
}

/// What stands behind advice to give the node a command, where it has no pruner that would obey.
pub(super) fn refused(facts: &Facts, command: &str) -> String {
    match facts.commands {
        Commands::Taken => String::new(),
        Commands::Refused => format!(
            ". With `pruner.enabled = false` the node refuses `{command}`: set it to true and restart the node; SIGHUP starts no \
             pruner"
        ),
    }
}
