//! One major cycle, on one screen: floor, snapshot, BuildReach, SweepExpired, verification, certificate.
//!
//! Order that must not change:
//! 1. the floor moves, durably, BEFORE the capture (S27, S41);
//! 2. the phase record names the cycle BEFORE anything is written for it, and names the sealed mark BEFORE the first
//!    delete (S18);
//! 3. the barrier is let go AFTER the last delete (I5);
//! 4. the certificate says "verified" only AFTER the sample was read back.
//!
//! A failure abandons the cycle; a stop leaves its record, so that the next start goes on with the sweep. What else leaves
//! it is told to the observer.

mod agree;
mod attempts;
mod certify;
mod counts;
mod cursor;
mod ending;
mod marking;
mod outlook;
mod renewing;
mod reopen;
mod reports;
mod swept;
mod telling;

use std::{num::NonZeroU64, path::PathBuf, sync::Arc};

use state_store::{Pace, Point, reached};
use state_tree::NodeLayout;

use crate::{
    certificate::{Certificate, RetainedReport, Trigger, Verification},
    config::CycleConfig,
    control::{Control, Left, Observer},
    error::PruneError,
    files,
    mark::{self, MarkReport, SealedMark},
    outcome::Freeze,
    pace::RatePace,
    phase::{self, PhaseEvent, PhaseRecord, PrunePhase},
    records::Records,
    recovery::{PhaseRunner, may_pass},
    snapshot::{AtomicSnapshotManager, SnapshotGuard, SnapshotParts},
    sweep::{Outlook, SmallGarbage, SweepJob, SweepReport},
    verify,
};
use agree::agree;
use certify::{AtomicFields, Swept, certify};
use cursor::RecordCursor;
pub(crate) use ending::{end, end_or_leave};
use marking::warn_of_foreign_rows;
pub(crate) use marking::{Begin, Walking};
use outlook::outlook;
pub(crate) use renewing::Renewing;
pub(crate) use reopen::reopen;
use reports::Reports;
pub(crate) use reports::check_reports;
pub(crate) use swept::SweptSoFar;
pub(crate) use telling::{begun, build_reach, ended_early, settle, sweep_expired};

/// Everything cycles work with.
#[derive(Clone)]
pub struct CycleEnv {
    /// Store, chain, records, policy and clock.
    pub parts: SnapshotParts,
    /// Snapshots and locks over the same parts.
    pub snapshots: Arc<AtomicSnapshotManager>,
    /// Reads the nodes.
    pub layout: Arc<dyn NodeLayout>,
    /// Pause, cancel, stop.
    pub control: Arc<Control>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
}

/// What one cycle is to do.
#[derive(Debug, Clone, Copy)]
pub struct CycleOrder<'a> {
    /// The retention the configuration fingerprint covers.
    pub keep_last: NonZeroU64,
    /// How to work.
    pub config: &'a CycleConfig,
    /// What set it off.
    pub trigger: Trigger,
}

/// A finished cycle.
#[derive(Debug, Clone)]
pub struct Finished {
    /// What it did.
    pub certificate: Certificate,
    /// Where the certificate was written.
    pub path: PathBuf,
}

/// What BuildReach leaves to the sweep.
#[derive(Clone)]
pub(crate) struct Marked {
    mark: Arc<SealedMark>,
    reports: Reports,
    /// Whether an earlier process made it and began to sweep.
    resumed: bool,
}

impl Marked {
    pub(crate) fn sealed(&self) -> &SealedMark {
        &self.mark
    }

    pub(crate) fn report(&self) -> &MarkReport {
        &self.reports.mark
    }

    pub(crate) fn retained(&self) -> &RetainedReport {
        &self.reports.retained
    }

    /// How the sweep of a store at rest, which is opened with the filter, looks from here.
    pub(crate) fn outlook_at_rest(&self, order: &CycleOrder<'_>) -> Outlook {
        Outlook {
            choice: order.config.sweep,
            live: self.mark.live_nodes(),
            present: self.report().present_nodes,
            foreign: self.report().foreign_rows,
            filter: true,
            small_garbage: SmallGarbage::Rewrite,
        }
    }

    /// Whether marking counted the nodes present and found each of them live.
    pub(crate) fn nothing_is_dead(&self) -> bool {
        self.report().present_nodes == Some(self.report().live_nodes)
    }
}

/// Runs a whole cycle, its phases by somebody who may try them again.
///
/// Errors: whatever stopped it. A fault in live data freezes deletes until an operator lifts it (I11).
pub fn run(env: &CycleEnv, order: &CycleOrder<'_>, runner: &PhaseRunner<'_>) -> Result<Finished, PruneError> {
    refuse_if_frozen(&*env.parts.records)?;
    files::create_dir(&order.config.state_dir)?;
    let cycle = phase::new_cycle(&*env.parts.records)?;
    begun(env, order, cycle);
    let cleared = mark::remove_leftovers(&order.config.state_dir, None);
    let done = cleared.and_then(|_| attempts::mark_and_sweep(env, order, Begin::Anew { cycle, deleted: 0 }, runner));
    settle(env, cycle, order, done)
}

/// Goes on with a cycle that a restart interrupted: with its sweep, or with its walk where that was written down. Returns nothing
/// if none was interrupted there, or if it cannot go on because something that its mark was made from has changed: it is then
/// abandoned, which loses nothing.
///
/// Errors: whatever stopped the cycle; a look at what it was made from that failed and may succeed later: the cycle is then
/// as it was, and may be gone on with.
pub fn resume(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    runner: &PhaseRunner<'_>,
) -> Result<Option<Finished>, PruneError> {
    let records = &*env.parts.records;
    let Some(record) = PhaseRecord::load(records)? else {
        if let Err(error) = mark::remove_leftovers(&order.config.state_dir, None) {
            tracing::warn!(%error, "files that an earlier process left could not be removed; the next cycle does it");
        }
        return Ok(None);
    };
    if Freeze::load(records)?.is_some() {
        env.observer.left(&Left::Frozen);
        return Ok(None); // it goes on, or is abandoned, after an operator has looked
    }
    let reopened = match interrupted(env, order, &record) {
        Err(error) if may_pass(&error) => return Err(error), // only what is damaged or changed is given up
        reopened => reopened,
    };
    begun(env, order, record.cycle);
    env.observer.captured(record.head_order);
    match reopened {
        Ok(Some(Interrupted::Walk(walking))) => {
            let cycle = record.cycle;
            tracing::info!(cycle, "marking goes on where it was written down last");
            env.observer.walks_on();
            let done = attempts::mark_and_sweep(env, order, Begin::At(walking), runner);
            settle(env, cycle, order, done).map(Some)
        }
        Ok(Some(Interrupted::Sweep(marked))) => {
            let cycle = record.cycle;
            let mut so_far = SweptSoFar::by_earlier_processes(&record);
            let swept = attempts::sweep(env, order, (record, *marked), (runner, &mut so_far));
            settle(env, cycle, order, swept).map(Some)
        }
        Err(error) if error.is_live_fault() => settle(env, record.cycle, order, Err(error)).map(Some),
        Err(error) => {
            tracing::warn!(cycle = record.cycle, %error, "an interrupted cycle is abandoned");
            ended_early(env, record.so_far(), &error);
            end_or_leave(env, order, PhaseEvent::Failed);
            Ok(None)
        }
        Ok(None) => {
            ended_early(env, record.so_far(), &not_resumable(record.cycle, "its mark was not sealed yet"));
            end_or_leave(env, order, PhaseEvent::Restarted);
            Ok(None)
        }
    }
}

/// Gives up what an earlier process left, as if it had been at work when pruning was switched off.
pub(crate) fn give_up_left(env: &CycleEnv, order: &CycleOrder<'_>) {
    if let Ok(Some(record)) = PhaseRecord::load(&*env.parts.records) {
        ended_early(env, record.so_far(), &PruneError::Cancelled);
    } // what cannot be read is told by what follows
    end_or_leave(env, order, PhaseEvent::Cancelled);
}

/// Where a cycle was when its process ended.
pub(crate) enum Interrupted {
    Walk(Box<Walking>),
    Sweep(Box<Marked>),
}

/// What is there to go on with; nothing where marking had written nothing down.
pub(crate) fn interrupted(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    record: &PhaseRecord,
) -> Result<Option<Interrupted>, PruneError> {
    if record.phase == PrunePhase::BuildReach {
        let walking = Walking::load(env, order, record)?;
        return Ok(walking.map(|walking| Interrupted::Walk(Box::new(walking))));
    }
    let sweeping = phase::next(record.phase, PhaseEvent::Restarted) == Some(PrunePhase::SweepExpired);
    if sweeping {
        reopen(env, order, record).map(|marked| Some(Interrupted::Sweep(Box::new(marked))))
    } else {
        Ok(None)
    }
}

pub(crate) fn refuse_if_frozen(records: &dyn Records) -> Result<(), PruneError> {
    Freeze::load(records)?.map_or(Ok(()), |freeze| Err(PruneError::Frozen { why: freeze.why }))
}

fn step(phase: PrunePhase, event: PhaseEvent) -> Result<PrunePhase, PruneError> {
    phase::next(phase, event).ok_or_else(|| PruneError::Invariant(format!("no step from {phase} by {event}")))
}

fn not_resumable(cycle: u64, why: &str) -> PruneError {
    PruneError::NotResumable { cycle, why: why.to_owned() }
}

fn sweep_marked(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    (record, marked): (PhaseRecord, Marked),
    so_far: &mut SweptSoFar,
) -> Result<Finished, PruneError> {
    let guard = env.snapshots.lock_in_cycle(PrunePhase::SweepExpired, &env.control)?;
    agree(env, order, &guard, &record)?;
    let (records, observer) = (&*env.parts.records, &*env.observer);
    let mut cursor = RecordCursor { records, deleted_before: so_far.before, observer, told: &mut so_far.told, record };
    let swept = sweep_under(env, order, (&guard, &marked), (&mut cursor, &mut so_far.report));
    cursor.tell(so_far.report.deleted); // also where the cursor did not come to it
    swept?;
    env.control.last_checkpoint()?; // AFTER the last delete: what is left is short, and is neither held nor cancelled
    guard.renew()?; // it may have been held there for long
    let swept = so_far.report.clone();
    warn_of_foreign_rows(Some(swept.foreign).filter(|_| marked.report().foreign_rows.is_none())); // a walk saw none
    reached(Point::SweepEnds);
    env.parts.store.settle_counts(guard.permit(), cursor.record.cycle)?; // AFTER the last delete
    let snapshot = AtomicFields::of(&guard);
    drop(guard);
    env.snapshots.end_cycle(); // AFTER the last delete (I5)
    reached(Point::BarrierLetGo);
    let start = env.parts.clock.monotonic();
    let sampled = verify::sample_live(
        &*env.parts.store.view()?,
        &*env.layout,
        &marked.mark,
        order.config.verify_sample,
        cursor.record.cycle,
    );
    let verify_seconds = env.parts.clock.monotonic().saturating_sub(start);
    let (verification, fault) = match sampled {
        Ok(report) => (Verification::Passed(report), None),
        Err(error) => (Verification::Failed { why: error.to_string() }, Some(error)),
    };
    let swept = Swept { report: swept, verification, verify_seconds, cursor, snapshot };
    let written = certify(env, order, &marked, swept).and_then(|certificate| {
        let path = certificate.write(&order.config.state_dir)?; // also of a cycle that failed its verification
        Ok(Finished { certificate, path })
    });
    let Some(fault) = fault else { return written };
    if let Err(error) = written {
        tracing::error!(%error, "the certificate of a cycle that failed its verification could not be written");
    }
    Err(fault) // whatever became of the certificate: deletes freeze (I11)
}

fn sweep_under(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    (guard, marked): (&SnapshotGuard<'_>, &Marked),
    (cursor, report): (&mut RecordCursor<'_>, &mut SweepReport),
) -> Result<(), PruneError> {
    let barrier = guard.barrier()?;
    let clock = &env.parts.clock;
    let pace = order
        .config
        .io_limit
        .map(|limit| Arc::new(RatePace::new(limit, Arc::clone(clock), Arc::clone(&env.control))) as Arc<dyn Pace>);
    let job = SweepJob {
        store: &env.parts.store,
        permit: guard.permit(),
        barrier: &barrier,
        mark: &marked.mark,
        outlook: outlook(env, order, (marked, &cursor.record))?,
        range_bytes: order.config.range_bytes.get(),
        delete_batch: order.config.delete_batch,
        pace,
        renew: &|| guard.renew(),
        control: &env.control,
        observer: &*env.observer,
        clock: &**clock,
    };
    let backend = env.parts.store.backend();
    env.control.interrupting(|| backend.cancel_rewrite(), || job.run(cursor, report))
}
