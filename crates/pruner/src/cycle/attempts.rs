//! The two phases of a cycle, each tried again as recovery says.
//!
//! A sweep that is tried again goes on at its cursor, with the same mark, snapshot and barrier. Marking that is tried again
//! begins anew, also where it went on with what an earlier process had written down. A mark or a snapshot that turns out to be damaged leads back to marking, once per cycle.

use super::{Begin, CycleEnv, CycleOrder, Finished, Marked, SweptSoFar, build_reach, not_resumable, sweep_expired};
use crate::{
    error::PruneError,
    mark,
    phase::{PhaseRecord, PrunePhase},
    recovery::PhaseRunner,
};

/// Marks and sweeps.
pub(super) fn mark_and_sweep(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    begin: Begin,
    runner: &PhaseRunner<'_>,
) -> Result<Finished, PruneError> {
    let cycle = begin.cycle();
    let mut so_far = match &begin {
        Begin::Anew { .. } => SweptSoFar::nothing(),
        Begin::At(walking) => SweptSoFar::by_earlier_processes(walking.record()),
    };
    let (mut may_go_back, mut begin) = (runner.goes_back(), Some(begin));
    loop {
        let mut attempts = 0;
        let (record, marked) = runner.run(PrunePhase::BuildReach, &env.control, || {
            attempts += 1;
            if attempts > 1 {
                forget_marking(env, order)?;
            }
            let anew = Begin::Anew { cycle, deleted: so_far.deleted() };
            build_reach(env, order, begin.take().map_or(anew, |begin| begin))
        })?;
        match sweep(env, order, (record, marked), (runner, &mut so_far)) {
            Err(error) if may_go_back && error.is_damaged_artefact() => {
                may_go_back = false;
                runner.back_to_marking();
                so_far.report.begin_anew();
                forget_marking(env, order)?;
            }
            ended => return ended,
        }
    }
}

/// Sweeps by a mark, and goes on at the cursor where that has to be tried again.
pub(super) fn sweep(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    (record, marked): (PhaseRecord, Marked),
    (runner, so_far): (&PhaseRunner<'_>, &mut SweptSoFar),
) -> Result<Finished, PruneError> {
    let cycle = record.cycle;
    let mut first = Some((record, marked.clone()));
    runner.run(PrunePhase::SweepExpired, &env.control, || {
        let (record, marked) = match first.take() {
            Some(first) => first,
            None => again(env, cycle, &marked)?,
        };
        sweep_expired(env, order, (record, marked), so_far).inspect_err(|_| env.control.work_goes_on())
    })
}

fn again(env: &CycleEnv, cycle: u64, marked: &Marked) -> Result<(PhaseRecord, Marked), PruneError> {
    let record = PhaseRecord::load(&*env.parts.records)?.filter(|record| record.cycle == cycle);
    let record = record.ok_or_else(|| not_resumable(cycle, "its record is gone"))?;
    let resumed = marked.resumed || record.cursor.is_some();
    Ok((record, Marked { resumed, ..marked.clone() }))
}

/// Nothing is left of what an earlier attempt at marking began.
fn forget_marking(env: &CycleEnv, order: &CycleOrder<'_>) -> Result<(), PruneError> {
    env.snapshots.end_cycle();
    env.parts.store.abandon_counting();
    mark::remove_leftovers(&order.config.state_dir, None).map(|_| ())
}
