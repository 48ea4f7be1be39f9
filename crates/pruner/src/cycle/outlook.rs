//! What is known of a sweep before it begins.

use super::{CycleEnv, CycleOrder, Marked};
use crate::{
    certificate::Trigger,
    phase::PhaseRecord,
    sweep::{Outlook, SmallGarbage, SweepStrategy},
};

/// How the sweep of a store that goes on being written looks from here.
pub(super) fn outlook(env: &CycleEnv, order: &CycleOrder<'_>, (marked, record): (&Marked, &PhaseRecord)) -> Outlook {
    let store = &env.parts.store;
    Outlook {
        filter: store.backend().sweep_slot().is_some(),
        small_garbage: if store.head().is_some() { beside_commits(order, record) } else { SmallGarbage::Rewrite },
        ..marked.outlook_at_rest(order)
    }
}

/// Whoever waits for the space gets it at once; a rewrite that was interrupted goes on as one.
fn beside_commits(order: &CycleOrder<'_>, record: &PhaseRecord) -> SmallGarbage {
    use Trigger::{Counts, Garbage, LowDisk, Operator, Orders, Resumed, Rollback, Schedule};
    let is_waited_for = match order.trigger {
        LowDisk | Operator => true,
        Orders | Resumed | Counts | Garbage | Schedule | Rollback => false,
    };
    if is_waited_for || record.swept_by == Some(SweepStrategy::Filter) {
        SmallGarbage::LeaveTraces
    } else {
        SmallGarbage::LeaveToCompaction
    }
}
