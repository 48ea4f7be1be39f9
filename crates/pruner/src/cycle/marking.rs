//! BuildReach of a cycle: from a snapshot, or from where the walk of an earlier process was, to a sealed mark.
//!
//! Order that must not change: the floor moves BEFORE the capture; the phase record names the cycle BEFORE anything is written
//! for it, and names the sealed mark, durably, BEFORE the first delete (S18).

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use state_store::{Head, Point, reached};
use state_tree::{NodeHash, Order, StateRoot};

use super::{
    CycleEnv, CycleOrder, Marked, agree::agree, counts, not_resumable, renewing::Renewing, reopen::snapshot_of,
    reports::Reports, step,
};
use crate::{
    certificate::{FileBytes, RetainedReport},
    config,
    doubt::Doubt,
    error::PruneError,
    mark::{self, MarkIdentity, MarkJob, MarkReport, Notes, SavedWalk, SealedMark},
    phase::{PhaseEvent, PhaseRecord, PrunePhase},
    roots::{KeptBy, RetainedRoot, RetainedRoots},
    snapshot::{AtomicSnapshot, SnapshotGuard},
};

/// What the report of the cycle needs of its beginning. It is written down beside a walk, for the process that goes on with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Beginning {
    integrity_hash: [u8; 32],
    below: Vec<Below>,
    retained: RetainedReport,
    bytes_before: FileBytes,
    snapshot_seconds: f64,
}

/// A cycle that ended while it walked, and the walk as it was written down last.
pub(crate) struct Walking {
    record: PhaseRecord,
    walk: SavedWalk,
    roots: RetainedRoots,
    beginning: Beginning,
}

/// A retained state below the window, as the snapshot had it: whoever kept it may be gone, and the walk has it all the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Below {
    order: u64,
    root: [u8; 32],
    kept_by: KeptBy,
}

impl From<&RetainedRoot> for Below {
    fn from(kept: &RetainedRoot) -> Self {
        Self { order: kept.order.get(), root: *kept.root.hash().as_bytes(), kept_by: kept.kept_by.clone() }
    }
}

impl From<&Below> for RetainedRoot {
    fn from(below: &Below) -> Self {
        let root = StateRoot::new(NodeHash::new(below.root));
        Self { order: Order::new(below.order), root, kept_by: below.kept_by.clone() }
    }
}

impl Walking {
    pub(crate) fn record(&self) -> &PhaseRecord {
        &self.record
    }

    /// Takes up what an earlier process has written down, if the roots are still the same; nothing where it wrote nothing.
    ///
    /// Errors: something that the walk was made from has changed, or cannot be read.
    pub(crate) fn load(
        env: &CycleEnv,
        order: &CycleOrder<'_>,
        record: &PhaseRecord,
    ) -> Result<Option<Self>, PruneError> {
        let refuse = |why: &str| not_resumable(record.cycle, why);
        let identity = MarkIdentity { cycle: record.cycle, roots: record.roots_digest };
        let Some(walk) = SavedWalk::load(&order.config.state_dir, identity)? else { return Ok(None) };
        let snapshot = snapshot_of(env, order, record)?;
        let unreadable = |_| refuse("what was written beside its walk is unreadable");
        let beginning: Beginning = serde_json::from_slice(walk.beside()).map_err(unreadable)?;
        if beginning.integrity_hash != record.integrity_hash {
            return Err(refuse("its snapshot is not the one that it was marked from"));
        }
        let roots = roots_of(env, &snapshot, &beginning)?;
        if roots.digest != record.roots_digest || !snapshot.is_sealed_over(&roots) {
            return Err(refuse("the retained roots are not those it was marked from"));
        }
        if Doubt::was_found_since(record.cycle, &*env.parts.records)? {
            return Err(refuse("a live node may be damaged, which was found since it began")); // I11
        }
        Ok(Some(Self { record: record.clone(), walk, roots, beginning }))
    }

    /// What the commits after the traced state were counted by: the same, or nothing can be made exact by what it shares.
    fn traced(&self, env: &CycleEnv) -> Result<Option<(Order, StateRoot)>, PruneError> {
        let traced = counts::traced(&self.roots, counts::counted(env)?);
        Ok(traced.filter(|(_, root)| self.walk.traced() == Some(*root)))
    }

    fn take_up<'a>(self, env: &'a CycleEnv, order: &CycleOrder<'_>) -> Result<Begun<'a>, PruneError> {
        let guard = env.snapshots.lock_in_cycle(PrunePhase::BuildReach, &env.control)?;
        agree(env, order, &guard, &self.record)?;
        let traced = self.traced(env)?;
        guard.take_up(self.roots)?;
        let Self { record, walk, beginning, .. } = self;
        Ok(Begun { record, guard, traced, beginning, walk: Some(walk) })
    }
}

fn roots_of(env: &CycleEnv, snapshot: &AtomicSnapshot, beginning: &Beginning) -> Result<RetainedRoots, PruneError> {
    let (it, chain) = (&snapshot.snapshot, &snapshot.chain_metadata);
    let head = Head {
        order: Order::new(it.latest_order),
        root: StateRoot::new(NodeHash::new(it.state_root.0)),
        timestamp_ms: chain.chain_timestamp,
        block_hash: Some(chain.latest_block_hash.0).filter(|hash| *hash != [0; 32]),
    };
    let (view, below) = (env.parts.store.view()?, beginning.below.iter().map(RetainedRoot::from));
    RetainedRoots::of_snapshot(&*env.parts.chain, &*view, (head, Order::new(it.first_order)), below)
}

/// How marking begins.
pub(crate) enum Begin {
    /// From a new snapshot, for a cycle that has deleted so many nodes by an earlier mark.
    Anew {
        /// The cycle.
        cycle: u64,
        /// The nodes.
        deleted: u64,
    },
    /// Where an earlier process was.
    At(Box<Walking>),
}

impl Begin {
    pub(crate) fn cycle(&self) -> u64 {
        match self {
            Self::Anew { cycle, .. } => *cycle,
            Self::At(walking) => walking.record.cycle,
        }
    }
}

/// A cycle whose record says that marking goes on.
struct Begun<'a> {
    record: PhaseRecord,
    guard: SnapshotGuard<'a>,
    traced: Option<(Order, StateRoot)>,
    beginning: Beginning,
    walk: Option<SavedWalk>,
}

/// Marks, and leaves a record that names the sealed mark.
pub(super) fn mark(env: &CycleEnv, order: &CycleOrder<'_>, begin: Begin) -> Result<(PhaseRecord, Marked), PruneError> {
    let begun = match begin {
        Begin::Anew { cycle, deleted } => anew(env, order, (cycle, deleted))?,
        Begin::At(walking) => walking.take_up(env, order)?,
    };
    let (mut mark, report) = mark_under(env, order, &begun)?;
    let Begun { mut record, guard, traced, beginning, walk } = begun;
    let goes_on = walk.is_some();
    warn_of_foreign_rows(report.foreign_rows);
    guard.let_go_of_view(); // L4
    counts::settle(env, &guard, &record)?;
    counts::correct(env, order, &guard, (traced.map(|(order, _)| order), &mut mark))?;
    drop(guard);
    let Beginning { retained, bytes_before, snapshot_seconds, .. } = beginning;
    let reports = Reports { retained, mark: report, bytes_before, snapshot_seconds };
    record.phase = step(PrunePhase::BuildReach, PhaseEvent::Sealed)?;
    record.mark_digest = Some(mark.live_digest());
    reports.save(record.cycle, &*env.parts.records)?;
    record.save(&*env.parts.records)?; // BEFORE the first delete (S18)
    reached(Point::SweepBegins);
    if let Err(error) = mark::forget_walk(&order.config.state_dir, record.cycle) {
        tracing::warn!(%error, "what marking had written down could not be removed; the end of the cycle does it");
    }
    Ok((record, Marked { mark: Arc::new(mark), reports, resumed: goes_on }))
}

fn anew<'a>(env: &'a CycleEnv, order: &CycleOrder<'_>, (cycle, deleted): (u64, u64)) -> Result<Begun<'a>, PruneError> {
    let (clock, backend) = (&env.parts.clock, env.parts.store.backend());
    let bytes_before = FileBytes::from(backend.space()?);
    let start = clock.monotonic();
    env.parts.policy.advance()?;
    let counted = counts::begin(env)?; // BEFORE the capture
    let snapshot = env.snapshots.create_snapshot(PrunePhase::BuildReach)?;
    reached(Point::SnapshotSaved);
    env.observer.captured(snapshot.snapshot.latest_order);
    let snapshot_seconds = clock.monotonic().saturating_sub(start).as_secs_f64();
    let guard = env.snapshots.lock_in_cycle(PrunePhase::BuildReach, &env.control)?;
    let record = PhaseRecord {
        cycle,
        phase: step(PrunePhase::Idle, PhaseEvent::Triggered)?,
        snapshot_id: snapshot.snapshot_id,
        head_order: snapshot.snapshot.latest_order,
        first_order: snapshot.snapshot.first_order,
        roots_digest: snapshot.snapshot.roots_digest.0,
        integrity_hash: snapshot.integrity_hash.0,
        mark_digest: None,
        config: config::fingerprint(order.keep_last, &*env.parts.policy)?,
        cursor: None,
        swept_by: None,
        deleted,
    };
    record.save(&*env.parts.records)?;
    reached(Point::MarkBegins);
    let roots = guard.roots()?;
    let retained = RetainedReport::of(&snapshot, &roots);
    let below = roots.roots.iter().filter(|kept| kept.order < roots.first).map(Below::from).collect();
    let beginning =
        Beginning { integrity_hash: record.integrity_hash, below, retained, bytes_before, snapshot_seconds };
    Ok(Begun { record, guard, traced: counts::traced(&roots, counted), beginning, walk: None })
}

pub(super) fn warn_of_foreign_rows(rows: Option<u64>) {
    if let Some(rows) = rows.filter(|rows| *rows > 0) {
        tracing::warn!(rows, "rows of the node family have keys that are not 32 bytes; they are kept");
    }
}

fn mark_under(
    env: &CycleEnv,
    order: &CycleOrder<'_>,
    begun: &Begun<'_>,
) -> Result<(SealedMark, MarkReport), PruneError> {
    let Begun { record, guard, traced, beginning, walk } = begun;
    let (clock, observer) = (&*env.parts.clock, &*env.observer);
    let start = clock.monotonic();
    let (view, roots) = (guard.view()?, guard.roots()?);
    let (mark, report) = mark::build_reach(&MarkJob {
        view: &*view,
        layout: &*env.layout,
        roots: &roots,
        traced: traced.map(|(_, root)| root),
        cycle: record.cycle,
        dir: order.config.state_dir.clone(),
        choice: order.config.mark,
        rehash: Doubt::rehash(order.config.rehash, &*env.parts.records)?, // I11
        memory_budget: order.config.memory_budget,
        rows_hint: env.parts.store.backend().node_rows_hint()?,
        threads: order.config.threads.get(),
        notes: notes(order, beginning)?,
        from: walk.as_ref(),
        clock,
        control: &env.control,
        observer: &Renewing { guard, observer },
    })?;
    let before = walk.as_ref().map_or(Duration::ZERO, SavedWalk::spent);
    let seconds = clock.monotonic().saturating_sub(start).saturating_add(before).as_secs_f64(); // reading the roots included
    Ok((mark, MarkReport { seconds, ..report }))
}

fn notes(order: &CycleOrder<'_>, beginning: &Beginning) -> Result<Option<Notes>, PruneError> {
    let Some(every) = order.config.note_every else { return Ok(None) };
    let unencodable = |error| PruneError::Invariant(format!("the beginning of a cycle does not encode: {error}"));
    Ok(Some(Notes { every, beside: serde_json::to_vec(beginning).map_err(unencodable)? }))
}
