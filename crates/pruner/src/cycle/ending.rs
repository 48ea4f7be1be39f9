//! The end of a cycle: phase Idle, no mark, no barrier.
//!
//! What a cycle came to is known before it is cleaned up, and a failure to do so changes nothing about it: it is told to the
//! observer, and whoever is told, or the next start, cleans up.

use state_store::{Point, reached};

use super::{CycleEnv, CycleOrder, Finished, step};
use crate::{
    control::{FrozenBy, Left},
    doubt::Doubt,
    error::PruneError,
    events::Event,
    mark,
    outcome::Freeze,
    phase::{PhaseEvent, PhaseRecord, PrunePhase},
    quarantine::Quarantine,
    records::RecordKey,
};

/// Ends the cycle one way or the other; only a stop leaves its record behind on purpose.
pub(super) fn settled(
    env: &CycleEnv,
    cycle: u64,
    order: &CycleOrder<'_>,
    result: Result<Finished, PruneError>,
) -> Result<Finished, PruneError> {
    let event = match &result {
        Ok(finished) => {
            env.observer.settles(&mut || Doubt::settle(&finished.certificate, &*env.parts.records));
            if let Some(items) = Quarantine::settle(&finished.certificate, &*env.parts.records) {
                env.parts.events.emit(Event::QuarantineEnded { cycle, items });
            }
            PhaseEvent::Swept
        }
        Err(PruneError::Stopped) => {
            env.snapshots.end_cycle();
            env.parts.store.abandon_counting(); // the process may live on: a freeze stops a cycle, too
            return result;
        }
        Err(PruneError::Cancelled) => PhaseEvent::Cancelled,
        Err(error) => {
            impose_freeze(env, Some(cycle), error);
            PhaseEvent::Failed
        }
    };
    end_or_leave(env, order, event);
    result
}

/// Damage freezes deletes, for the cycle itself and for whoever comes after it (I11), and is told where it does.
fn impose_freeze(env: &CycleEnv, cycle: Option<u64>, error: &PruneError) {
    if !error.is_live_fault() || env.observer.met(cycle, error) == FrozenBy::Observer {
        return;
    }
    let frozen = Freeze::imposed_by(error, cycle, env.parts.clock.unix_ms(), &*env.parts.records);
    frozen.into_iter().for_each(|freeze| env.parts.events.emit(freeze.told()));
}

/// Leaves nothing of the cycle behind, or tells that it could not: what the cycle came to stands.
pub(crate) fn end_or_leave(env: &CycleEnv, order: &CycleOrder<'_>, event: PhaseEvent) {
    if let Err(error) = end(env, order, event) {
        tracing::warn!(%error, "an ended cycle could not be cleaned up; the worker, or the next start, does it");
        impose_freeze(env, None, &error);
        env.observer.left(&Left::Unended { event, error });
    }
}

/// Leaves nothing of the cycle behind: phase Idle, no mark, no barrier. The event must be one that leads to Idle (S38).
pub(crate) fn end(env: &CycleEnv, order: &CycleOrder<'_>, event: PhaseEvent) -> Result<(), PruneError> {
    env.snapshots.end_cycle();
    env.parts.store.abandon_counting();
    if let Some(record) = PhaseRecord::load(&*env.parts.records)? {
        let to = step(record.phase, event)?;
        if to != PrunePhase::Idle {
            return Err(PruneError::Invariant(format!("{event} leads from {} to {to}, not to its end", record.phase)));
        }
    }
    env.parts.records.remove(RecordKey::Phase)?;
    reached(Point::CycleEnded);
    mark::remove_leftovers(&order.config.state_dir, None).map(|_| ())
}
