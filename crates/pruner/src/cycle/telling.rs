//! What is told of a cycle: its beginning, its phases, its end with the totals.

use super::{Begin, CycleEnv, CycleOrder, Finished, Marked, SweptSoFar};
use crate::{
    clock::millis,
    error::PruneError,
    events::{CycleEnd, Event},
    phase::{PhaseRecord, PrunePhase},
};

const FINISHED: &str = "finished";
const DONE: &str = "done";

/// A cycle begins, or goes on after a restart.
pub(crate) fn begun(env: &CycleEnv, order: &CycleOrder<'_>, cycle: u64) {
    env.observer.began(cycle);
    env.parts.events.emit(Event::CycleBegun { cycle, trigger: order.trigger });
}

/// Works within a phase, and tells when it is entered and left.
fn within<T>(
    env: &CycleEnv,
    (cycle, phase): (u64, PrunePhase),
    work: impl FnOnce() -> Result<T, PruneError>,
) -> Result<T, PruneError> {
    let (events, begun) = (&env.parts.events, env.parts.clock.monotonic());
    events.emit(Event::PhaseEntered { cycle, phase });
    let done = work();
    let took = env.parts.clock.monotonic().saturating_sub(begun);
    let outcome = done.as_ref().map_or_else(PruneError::code, |_| DONE).to_owned();
    let millis = millis(took);
    events.emit(Event::PhaseLeft { cycle, phase, outcome, millis });
    done
}

/// Marks.
pub(crate) fn build_reach(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    begin: Begin,
) -> Result<(PhaseRecord, Marked), PruneError> {
    within(env, (begin.cycle(), PrunePhase::BuildReach), || super::marking::mark(env, order, begin))
}

pub(crate) fn sweep_expired(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    (record, marked): (PhaseRecord, Marked),
    so_far: &mut SweptSoFar,
) -> Result<Finished, PruneError> {
    let cycle = record.cycle;
    within(env, (cycle, PrunePhase::SweepExpired), || super::sweep_marked(env, order, (record, marked), so_far))
}

/// Ends the cycle one way or the other, and tells how.
pub(crate) fn settle(
    env: &CycleEnv,
    cycle: u64,
    order: &CycleOrder<'_>,
    result: Result<Finished, PruneError>,
) -> Result<Finished, PruneError> {
    env.control.work_is_over();
    let deleted = result.as_ref().err().and_then(|_| deleted_so_far(env, cycle)); // BEFORE its record goes
    let settled = super::ending::settled(env, cycle, order, result);
    match &settled {
        Ok(finished) => env.parts.events.emit(Event::CycleEnded(totals(finished))),
        Err(error) => ended_early(env, (cycle, deleted), error),
    }
    settled
}

/// Tells that a cycle did not finish, with what it had deleted.
pub(crate) fn ended_early(env: &CycleEnv, of: (u64, Option<u64>), error: &PruneError) {
    env.parts.events.emit(Event::CycleEnded(CycleEnd::early(of, error)));
}

/// What the record of a cycle says that it has deleted, with earlier processes.
fn deleted_so_far(env: &CycleEnv, cycle: u64) -> Option<u64> {
    match PhaseRecord::load(&*env.parts.records) {
        Ok(record) => record.filter(|record| record.cycle == cycle).map(|record| record.deleted),
        Err(error) => {
            tracing::warn!(%error, cycle, "what a cycle had deleted when it ended is not known");
            None
        }
    }
}

fn totals(finished: &Finished) -> CycleEnd {
    let certificate = &finished.certificate;
    CycleEnd {
        cycle: certificate.cycle,
        outcome: FINISHED.to_owned(),
        message: None,
        deleted: Some(certificate.deleted),
        live: Some(certificate.live_nodes),
        bytes_before: certificate.bytes_before.map(|bytes| bytes.total),
        bytes_after: Some(certificate.bytes_after.total),
    }
}
