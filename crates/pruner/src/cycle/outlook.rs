//! What is known of a sweep before it begins.

use super::{CycleEnv, CycleOrder, Marked};
use crate::{
    certificate::Trigger,
    error::PruneError,
    phase::PhaseRecord,
    sweep::{Outlook, SmallGarbage, SweepStrategy},
    trigger::Ledger,
};

/// How the sweep of a store that goes on being written looks from here.
///
/// Errors: files that cannot be listed.
pub(super) fn outlook(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    (marked, record): (&Marked, &PhaseRecord),
) -> Result<Outlook, PruneError> {
    let (store, backend) = (&env.parts.store, env.parts.store.backend());
    let small_garbage = match store.head() {
        Some(_) => {
            let bytes = backend.node_files()?.iter().map(|file| file.bytes).sum();
            beside_commits(order, (record, set_off_by(env, order)?), bytes)
        }
        None => SmallGarbage::Rewrite,
    };
    Ok(Outlook { filter: backend.sweep_slot().is_some(), small_garbage, ..marked.outlook_at_rest(order) })
}

/// What set the cycle off in the process that began it.
fn set_off_by(env: &CycleEnv, order: &CycleOrder<'_>) -> Result<Trigger, PruneError> {
    if order.trigger != Trigger::Resumed {
        return Ok(order.trigger);
    }
    let ledger = Ledger::load(&*env.parts.records)?;
    Ok(ledger.and_then(|ledger| ledger.set_off_by()).map_or(Trigger::Resumed, |trigger| trigger))
}

/// Whoever waits for the space gets it at once, also after a restart; a rewrite that was interrupted goes on as one.
fn beside_commits(order: &CycleOrder<'_>, (record, set_off_by): (&PhaseRecord, Trigger), bytes: u64) -> SmallGarbage {
    use Trigger::{Counts, Garbage, LowDisk, Operator, Orders, Resumed, Rollback, Schedule};
    let is_waited_for = match set_off_by {
        LowDisk | Operator => true,
        Orders | Resumed | Counts | Garbage | Schedule | Rollback => false,
    };
    if is_waited_for || bytes < order.config.small_store || record.swept_by == Some(SweepStrategy::Filter) {
        SmallGarbage::LeaveTraces
    } else {
        SmallGarbage::LeaveToCompaction
    }
}
