//! A store at rest: prune, plan and verify it, and read its health from outside.
//!
//! Promises: a prune marks through a read-only opening that writes nothing into the store's folder, so every refusal
//! leaves the store byte-identical; only when there is something to delete is the store opened for writing, and only
//! if it is still the store that was marked. Records, mark files and certificates live in a folder beside the store.

mod anew;
mod ending;
mod folder;
mod health;
mod inspect;
mod layout;
mod outcome;
mod request;
mod retention;
mod rollback;
mod validate;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use state_store::{
    Durability, RocksBackend, RocksConfig, Store, StoreConfig, StoreError, lock_holder, refuse_if_not_writable,
};
use state_tree::RoochLayout;

use crate::{
    certificate::Trigger,
    clock::Clock,
    config::CycleConfig,
    control::{Control, Observer},
    cycle::{self, Begin, CycleEnv, CycleOrder, Finished, Interrupted},
    doubt::Doubt,
    error::PruneError,
    events::{Event, EventJournal, EventSink, EventsConfig, NoEvents, journal_dir},
    log_cut::told_at_rest,
    mark,
    outcome::{Freeze, Outcome, RestFloor},
    phase::{self, PhaseEvent, PhaseRecord},
    policy::RestWindow,
    records::FolderRecords,
    snapshot::{AtomicSnapshotManager, SnapshotManagerConfig, SnapshotParts},
    sweep::{self, SweepReport},
};
use ending::{At, Early};
pub use folder::default_state_dir;
use folder::{Folder, canonical, kept_dir};
pub(crate) use folder::{data_dir, resolved};
pub use health::{CycleDue, HealthRequest, health_by_heartbeat, health_of_opened, health_of_store};
pub(crate) use health::{doubt_of, remember_damage};
pub(crate) use inspect::refuse_unreadable;
pub use inspect::verify;
pub use layout::StoreLayout;
pub use outcome::{PruneBytes, PruneOutcome};
pub use request::{Frozen, PruneMode, PruneRequest, VerifyRequest};
pub use retention::{explain, retention};
pub use rollback::rollback;
pub use validate::validator;

/// What the work is watched and steered by.
#[derive(Clone)]
pub struct Steering {
    /// Pause, cancel, stop.
    pub control: Arc<Control>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Reads time.
    pub clock: Arc<dyn Clock>,
}

/// A mark, and the record that names it.
type Built = Result<(PhaseRecord, cycle::Marked), PruneError>;

const AT_REST: StoreConfig = StoreConfig { barrier_limit: 1 << 20, ..StoreConfig::new(Durability::Synced) };

/// Prunes a store at rest, or says what a prune would delete.
///
/// Errors: everything in [`PruneError`]; before the sweep the store is byte-identical after any of them.
pub fn prune(request: &PruneRequest, steering: &Steering) -> Result<PruneOutcome, PruneError> {
    let request = &PruneRequest { db: canonical(&request.db), ..request.clone() };
    refuse_if_held(&request.db)?;
    let reading = RocksBackend::open_read_only(&request.db, &RocksConfig::default());
    let reading = Arc::new(reading.map_err(|error| match request.mode {
        PruneMode::Plan => error,
        PruneMode::Apply => error.of_a_writer(),
    })?);
    inspect::refuse_unreadable(&request.db, request.layout, &reading)?;
    if let Some(what) = told_at_rest(&*reading) {
        return Err(PruneError::LogCut { what }); // opened for writing, it is cut, and the sweep goes by what is left
    }
    if (request.layout, request.mode) == (StoreLayout::Native, PruneMode::Apply) {
        return Err(PruneError::NativeAtRest); // its floor must move before its nodes go (S27)
    }
    if request.mode == PruneMode::Apply {
        refuse_if_not_writable(&request.db)?; // BEFORE a mark, which may take hours
    }
    let folder = Folder::of(request)?; // AFTER what refuses: nothing is left beside a store that is none
    let config = cycle_config(request, folder.path());
    let _single = folder::lock(folder.path())?;
    let events = events(request.mode, folder.path(), &steering.clock);
    let job = Offline { request, steering, config: &config, events };
    let bytes_before = job.space(&reading)?;
    let env = job.env(Store::foreign(reading, AT_REST)?)?;
    env.snapshots.tell_left();
    match request.frozen {
        Frozen::Refuse => cycle::refuse_if_frozen(&*env.parts.records)?,
        Frozen::Lift => lift(&env.parts)?,
    }
    // AFTER a freeze is lifted, which leaves a doubt; a plan goes by what a prune would find.
    let kept = FolderRecords(kept_dir(&request.db, request.state_dir.as_deref()));
    let rehash = Doubt::rehash(request.rehash, &kept)?;
    let config = CycleConfig { rehash, ..config.clone() };
    let job = Offline { config: &config, ..job };
    let (record, marked) = job.mark(&env)?;
    if request.mode == PruneMode::Plan {
        let (plan, ended) = (job.plan(&env, &marked), cycle::end(&env, &job.order(), PhaseEvent::Cancelled));
        let plan = plan?; // BEFORE the other: it comes first
        return ended.map(|()| PruneOutcome::planned(&marked, plan, bytes_before));
    }
    let at = At::of(&record);
    let finished = job.apply(env, record, marked).map_err(|early| job.ended(at, early))?;
    Outcome::finished(&finished.certificate, &finished.path).save(&kept)?;
    let after = state_store::space_of(&request.db)?.total();
    Ok(PruneOutcome::applied(&finished, PruneBytes { before: bytes_before, after }))
}

/// The operator has looked.
fn lift(parts: &SnapshotParts) -> Result<(), PruneError> {
    let records = &*parts.records;
    if let Some(why) = Freeze::lift_recorded(records)? {
        tracing::warn!(why, "deletes are unfrozen by the operator");
        parts.events.emit(Event::DeletesUnfrozen);
    }
    Ok(())
}

/// The journal beside the records. Without it a prune works all the same; a plan leaves nothing, not even that.
fn events(mode: PruneMode, state_dir: &Path, clock: &Arc<dyn Clock>) -> Arc<dyn EventSink> {
    match mode {
        PruneMode::Plan => Arc::new(NoEvents),
        PruneMode::Apply => {
            let opened = EventJournal::open(&journal_dir(state_dir), EventsConfig::default(), Arc::clone(clock));
            opened.map_or_else(
                |error| {
                    tracing::warn!(%error, "the event journal cannot be written; this prune is not told in it");
                    Arc::new(NoEvents) as Arc<dyn EventSink>
                },
                |journal| Arc::new(journal),
            )
        }
    }
}

fn cycle_config(request: &PruneRequest, state_dir: &Path) -> CycleConfig {
    CycleConfig {
        mark: request.mark,
        sweep: request.sweep,
        rehash: request.rehash,
        memory_budget: request.memory_budget,
        threads: request.threads,
        note_every: request.note_every.filter(|_| request.mode == PruneMode::Apply), // a plan leaves nothing
        io_limit: request.io_limit,
        verify_sample: request.verify_sample,
        ..CycleConfig::new(state_dir.to_owned())
    }
}

fn refuse_if_held(db: &Path) -> Result<(), PruneError> {
    match lock_holder(db)? {
        Some(holder) => Err(StoreError::Locked { path: db.to_owned(), holder }.into()),
        None => Ok(()),
    }
}

struct Offline<'a> {
    request: &'a PruneRequest,
    steering: &'a Steering,
    config: &'a CycleConfig,
    events: Arc<dyn EventSink>,
}

impl Offline<'_> {
    fn order(&self) -> CycleOrder<'_> {
        CycleOrder { keep_last: self.request.keep_last, config: self.config, trigger: Trigger::Operator }
    }

    fn space(&self, backend: &RocksBackend) -> Result<u64, PruneError> {
        Ok(state_store::Backend::space(backend)?.total())
    }

    fn env(&self, store: Store) -> Result<CycleEnv, PruneError> {
        let policy = RestWindow {
            keep_last: self.request.keep_last,
            allowed_holes: self.request.allowed_holes.clone(),
            below: self.request.layout.below(&*store.view()?)?,
        };
        let parts = SnapshotParts {
            store: Arc::new(store),
            chain: self.request.layout.chain(),
            records: Arc::new(FolderRecords(self.config.state_dir.clone())),
            policy: Arc::new(policy),
            facts: None,
            clock: Arc::clone(&self.steering.clock),
            events: Arc::clone(&self.events),
        };
        let snapshots = AtomicSnapshotManager::new(parts.clone(), SnapshotManagerConfig::default());
        anew::take_up(&snapshots)?;
        Ok(CycleEnv {
            parts,
            snapshots: Arc::new(snapshots),
            layout: Arc::new(RoochLayout),
            control: Arc::clone(&self.steering.control),
            observer: Arc::clone(&self.steering.observer),
        })
    }

    /// The mark of an interrupted run if it still holds, or where its walk was, else a new one.
    fn mark(&self, env: &CycleEnv) -> Built {
        let begin = match self.interrupted(env)? {
            Some((record, Interrupted::Sweep(marked))) => {
                cycle::begun(env, &self.order(), record.cycle);
                return Ok((record, *marked));
            }
            Some((record, Interrupted::Walk(walking))) => match self.build(env, Begin::At(walking)) {
                // What it had written down is not as it was written.
                Err(error) if error.is_damaged_artefact() => {
                    tracing::warn!(%error, "marking cannot go on where it was written down last; marking again");
                    self.cleared(env, At::of(&record), &error)?;
                    self.anew(env)?
                }
                built => return self.built(env, record.cycle, built),
            },
            None => self.anew(env)?,
        };
        let cycle = begin.cycle();
        let built = self.build(env, begin);
        self.built(env, cycle, built)
    }

    fn anew(&self, env: &CycleEnv) -> Result<Begin, PruneError> {
        let cycle = phase::new_cycle(&*env.parts.records)?;
        mark::remove_leftovers(&self.config.state_dir, None)?;
        Ok(Begin::Anew { cycle, deleted: 0 })
    }

    fn build(&self, env: &CycleEnv, begin: Begin) -> Built {
        cycle::begun(env, &self.order(), begin.cycle());
        cycle::build_reach(env, &self.order(), begin)
    }

    /// What an interrupted run left to go on with; a cycle that cannot go on is told as ended, and marked anew.
    fn interrupted(&self, env: &CycleEnv) -> Result<Option<(PhaseRecord, Interrupted)>, PruneError> {
        let Some(record) =
            PhaseRecord::load_or_give_up(&*env.parts.records, &mut |event| env.parts.events.emit(event))?
        else {
            return Ok(None);
        };
        let cycle = record.cycle;
        let refused = |why: &str| PruneError::NotResumable { cycle, why: why.to_owned() };
        let head = env.parts.chain.head(&*env.parts.store.view()?)?;
        let found = match head.is_some_and(|head| head.order.get() == record.head_order) {
            true => cycle::interrupted(env, &self.order(), &record),
            false => Err(refused("the store has another newest order than when it was marked")),
        };
        let abandoned = match found {
            Ok(Some(Interrupted::Sweep(marked)))
                if Doubt::stands_beside(cycle, marked.report(), &*env.parts.records)? =>
            {
                refused("live nodes are in doubt since it was marked")
            }
            Ok(Some(interrupted)) => {
                tracing::info!(cycle, "an interrupted cycle goes on where it was");
                return Ok(Some((record, interrupted)));
            }
            Ok(None) => refused("its mark was not sealed yet"),
            Err(error) => error,
        };
        tracing::info!(cycle, error = %abandoned, "an interrupted cycle is abandoned; marking again");
        self.cleared(env, At::of(&record), &abandoned)?;
        Ok(None)
    }

    fn plan(&self, env: &CycleEnv, marked: &cycle::Marked) -> Result<SweepReport, PruneError> {
        let start = self.steering.clock.monotonic();
        let (view, outlook) = (env.parts.store.view()?, marked.outlook_at_rest(&self.order()));
        let mut plan = sweep::plan(&*view, marked.sealed(), &outlook, &self.steering.control)?;
        plan.seconds = self.steering.clock.monotonic().saturating_sub(start).as_secs_f64();
        Ok(plan)
    }

    /// Deletes what the mark does not have.
    fn apply(&self, env: CycleEnv, record: PhaseRecord, marked: cycle::Marked) -> Result<Finished, Early> {
        if marked.nothing_is_dead() {
            return self.finish(&env, record, marked);
        }
        let sequence = env.parts.store.view()?.sequence();
        let room = sweep::check_room(env.parts.store.backend()); // BEFORE the store is opened for writing
        room.map_err(|error| self.given_up(&env, error))?;
        drop(env);
        self.sweep(sequence, record, marked)
    }

    /// Opens the store for writing, makes sure it is the one that was marked, and sweeps it.
    fn sweep(&self, marked_at: u64, record: PhaseRecord, marked: cycle::Marked) -> Result<Finished, Early> {
        let opened = RocksBackend::open_rooch(&self.request.db, &RocksConfig::default()).map_err(PruneError::from);
        let opened = opened.inspect_err(|error| self.remember(error)); // BEFORE anything else that may fail
        let writing = Arc::new(opened?);
        let swept = self.sweep_of(&writing, marked_at, (record, marked));
        let closed = match Arc::into_inner(writing) {
            Some(writing) => writing.close_foreign().map_err(PruneError::from),
            None => Err(PruneError::Invariant("the store is still in use after the sweep".to_owned())),
        };
        match (swept, closed) {
            (Ok(finished), closed) => closed.map(|()| finished).map_err(Early::Told),
            (Err(early), closed) => {
                if let Err(unclosed) = closed {
                    tracing::warn!(%unclosed, "the store could not be closed as it was, beside what ends the prune");
                }
                Err(early)
            }
        }
    }

    fn sweep_of(
        &self,
        writing: &Arc<RocksBackend>,
        marked_at: u64,
        (record, marked): (PhaseRecord, cycle::Marked),
    ) -> Result<Finished, Early> {
        let env = self.env(Store::foreign(Arc::clone(writing) as Arc<dyn state_store::Backend>, AT_REST)?)?;
        let now = env.parts.store.view()?.sequence();
        if now != marked_at {
            return Err(self.given_up(&env, PruneError::Changed { marked: marked_at, now }).into());
        }
        self.finish(&env, record, marked)
    }

    fn finish(&self, env: &CycleEnv, record: PhaseRecord, marked: cycle::Marked) -> Result<Finished, Early> {
        let (cycle, order) = (record.cycle, self.order());
        self.set_floor(&record)?; // BEFORE the first delete
        let mut so_far = cycle::SweptSoFar::by_earlier_processes(&record);
        let swept = cycle::sweep_expired(env, &order, (record, marked), &mut so_far);
        cycle::settle(env, cycle, &order, swept).map_err(Early::Told)
    }

    fn set_floor(&self, record: &PhaseRecord) -> Result<(), PruneError> {
        let records = FolderRecords(self.config.state_dir.clone());
        RestFloor::set_damaged_aside(record.cycle, &records)?;
        RestFloor::set(record.first_order, &records)
    }
}

/// What a window of orders met, where it reaches below what earlier prunes have kept: no damage (S54).
fn by_an_earlier_prune(floor: Option<u64>, (first, last): (u64, u64), error: PruneError) -> PruneError {
    match floor.filter(|floor| first < *floor) {
        Some(floor) => {
            let left = last.saturating_sub(floor).saturating_add(1);
            PruneError::PrunedBefore { floor, left, error: Box::new(error) }
        }
        None => error,
    }
}

/// The same of a store at rest, where their records lie beside it.
pub(crate) fn explained(db: &Path, asked: (u64, u64), error: PruneError) -> PruneError {
    by_an_earlier_prune(pruned_to(default_state_dir(&folder::canonical(db))), asked, error)
}

fn pruned_to(kept: PathBuf) -> Option<u64> {
    match RestFloor::load(&FolderRecords(kept)) {
        Ok(floor) => floor.map(|floor| floor.order),
        Err(unread) => {
            tracing::warn!(%unread, "nobody knows whether an earlier prune deleted what is missing");
            None
        }
    }
}
