//! A chain with everything that runs cycles on it, on the real engine or in memory.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use state_pruner::{
    Clock, CycleConfig, IncrementalConfig, KeepPolicy, LiveWindow, ManualClock, PruneError, PrunerConfig, PrunerParts,
    Records, RetentionParts, StoreRecords, SweepChoice, Trigger, TriggerConfig,
    cycle::{self, CycleEnv, CycleOrder, Finished},
    events::NoEvents,
    mark::MarkChoice,
    recovery::{PhaseRunner, RecoveryConfig},
    snapshot::{AtomicSnapshotManager, SnapshotManagerConfig, SnapshotParts},
};
use state_store::{
    Backend, CrashTail, FaultyBackend, MemoryBackend, NativeChain, RocksBackend, RocksConfig, StoreConfig,
};
use state_tree::RoochLayout;
use tempfile::TempDir;

use crate::{
    archive::Archive,
    chain::{Chain, STORE},
    hooks::Hooks,
};

/// Small buffers: files come early and levels fill.
pub const SMALL: RocksConfig = RocksConfig {
    block_cache_bytes: 8 << 20,
    write_buffer_bytes: 1 << 20,
    max_open_files: 256,
    background_jobs: 2,
    subcompactions: 2,
};

/// What lies under the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Maps.
    Memory,
    /// The real engine.
    Rocks,
}

impl Engine {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Memory, Self::Rocks];
}

/// A chain, its engine, its clock and the folder beside it.
pub struct Rig {
    /// The chain with its archive.
    pub chain: Chain,
    /// The engine under its store.
    pub backend: Arc<dyn Backend>,
    /// Time as the test says.
    pub clock: Arc<ManualClock>,
    under: Under,
    /// Where its engine is told to fail, if it can be.
    faults: Option<FaultyBackend>,
    dir: Arc<Home>,
    /// How its store behaves, over restarts too.
    config: StoreConfig,
}

/// What a rig knows of the engine under it.
enum Under {
    /// The real engine, or whatever somebody made.
    Files,
    Memory(MemoryBackend),
}

impl Under {
    fn new(engine: Engine) -> Self {
        match engine {
            Engine::Memory => Self::Memory(MemoryBackend::new()),
            Engine::Rocks => Self::Files,
        }
    }

    /// What the next process finds.
    fn after_a_restart(self) -> Self {
        match self {
            Self::Files => Self::Files,
            Self::Memory(memory) => Self::Memory(memory.copy()),
        }
    }

    fn open(&self, dir: &Home) -> Arc<dyn Backend> {
        match self {
            Self::Files => Arc::new(RocksBackend::open(&dir.path().join("store"), &SMALL).unwrap()),
            Self::Memory(memory) => Arc::new(memory.clone()),
        }
    }

    fn open_behind_faults(&self, dir: &Home) -> FaultyBackend {
        match self {
            Self::Files => FaultyBackend::around(self.open(dir)),
            Self::Memory(memory) => FaultyBackend::over(memory.clone()),
        }
    }
}

/// What the next process works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Sound,
    /// It fails where it is told to.
    Faulty,
}

/// The folder of a rig; one that nobody else owns goes with it.
struct Home {
    path: PathBuf,
    _own: Option<TempDir>,
}

impl Home {
    fn new() -> Arc<Self> {
        let own = tempfile::tempdir().unwrap();
        Arc::new(Self { path: own.path().to_owned(), _own: Some(own) })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// What a cycle is to keep, and how it works.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Orders retained, head included.
    pub keep_last: NonZeroU64,
    /// How it works.
    pub config: CycleConfig,
}

impl Plan {
    /// The same with another way to mark and to sweep.
    pub fn by(mut self, mark: MarkChoice, sweep: SweepChoice) -> Self {
        (self.config.mark, self.config.sweep) = (mark, sweep);
        self
    }

    /// The same with delete batches of this many nodes.
    pub fn batches(mut self, nodes: usize) -> Self {
        self.config.sweep = SweepChoice::Delete;
        self.config.delete_batch = NonZeroUsize::new(nodes).unwrap();
        self
    }

    /// The same, each walk written down before each batch.
    pub fn noted(mut self) -> Self {
        self.config.note_every = Some(Duration::ZERO);
        self
    }

    /// The same that sweeps this way: a walk that is written down comes before delete batches, a scan before the filter.
    pub fn sweeping(self, sweep: SweepChoice) -> Self {
        match sweep {
            SweepChoice::Delete => self.noted().by(MarkChoice::Walk, sweep),
            SweepChoice::Filter => self.by(MarkChoice::Scan, sweep),
            SweepChoice::Auto => self.by(MarkChoice::Auto, sweep),
        }
    }

    /// The same by one thread, so that the moments of a cycle come in the same number and order each time.
    pub fn in_order(mut self) -> Self {
        self.config.threads = NonZeroUsize::MIN;
        self
    }

    /// What a cycle or a round is told.
    pub fn order(&self) -> CycleOrder<'_> {
        CycleOrder { keep_last: self.keep_last, config: &self.config, trigger: Trigger::Operator }
    }

    /// A pruner whose cycles come when somebody asks or counts need one, beside a sweep of each order that the window loses.
    pub fn pruner(self) -> PrunerConfig {
        PrunerConfig {
            keep_last: self.keep_last,
            every_orders: NonZeroU64::new(1_000_000).unwrap(),
            incremental: Some(IncrementalConfig { stride: NonZeroU64::MIN }),
            triggers: TriggerConfig::default(),
            cycle: self.config,
            snapshots: SnapshotManagerConfig::default(),
            recovery: RecoveryConfig::default(),
        }
    }

    /// The same without a sweep between cycles.
    pub fn pruner_of_cycles(self) -> PrunerConfig {
        PrunerConfig { incremental: None, ..self.pruner() }
    }

    /// Runs a cycle.
    pub fn run(&self, env: &CycleEnv) -> Result<Finished, PruneError> {
        cycle::run(env, &self.order(), &PhaseRunner::Once)
    }

    /// Goes on with the sweep that a restart interrupted.
    pub fn resume(&self, env: &CycleEnv) -> Result<Option<Finished>, PruneError> {
        cycle::resume(env, &self.order(), &PhaseRunner::Once)
    }
}

/// Both ways to mark with both ways to sweep.
pub const WAYS: [(MarkChoice, SweepChoice); 4] = [
    (MarkChoice::Scan, SweepChoice::Filter),
    (MarkChoice::Scan, SweepChoice::Delete),
    (MarkChoice::Walk, SweepChoice::Filter),
    (MarkChoice::Walk, SweepChoice::Delete),
];

impl Rig {
    /// An empty chain.
    pub fn new(engine: Engine) -> Self {
        Self::with(engine, STORE)
    }

    /// An empty chain whose store behaves in a given way.
    pub fn with(engine: Engine, config: StoreConfig) -> Self {
        let dir = Home::new();
        let under = Under::new(engine);
        let backend = under.open(&dir);
        let chain = Chain::open_with(Arc::clone(&backend), config);
        Self { chain, backend, clock: Arc::default(), under, faults: None, dir, config }
    }

    /// The store on the real engine that a folder holds, or a new one; the folder stays. Another process may have made
    /// it, so somebody has to say what its history was.
    pub fn at(folder: &Path, archive: Arc<Archive>) -> Self {
        let backend = Arc::new(RocksBackend::open(&folder.join("store"), &SMALL).unwrap());
        Self::over(folder, backend, (archive, STORE))
    }

    /// The same on an engine that somebody has opened in the folder, under a store that behaves in a given way.
    pub fn over(folder: &Path, backend: Arc<dyn Backend>, (archive, config): (Arc<Archive>, StoreConfig)) -> Self {
        let dir = Arc::new(Home { path: folder.to_owned(), _own: None });
        let chain = Chain { archive, ..Chain::open_with(Arc::clone(&backend), config) };
        Self { chain, backend, clock: Arc::default(), under: Under::Files, faults: None, dir, config }
    }

    /// A chain of somebody's making on a backend in memory or around one, beside a folder of its own.
    pub fn on(chain: Chain, backend: Arc<dyn Backend>) -> Self {
        let dir = Home::new();
        Self { chain, backend, clock: Arc::default(), under: Under::Files, faults: None, dir, config: STORE }
    }

    /// An empty chain in memory, behind a backend that fails where it is told to and counts what it is asked from the beginning.
    pub fn new_faulty() -> (Self, FaultyBackend) {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
        (Self::on(Chain::open(Arc::clone(&backend)), backend), faulty)
    }

    /// A copy of this rig, in memory, behind a backend that fails where it is told to and counts what it is asked.
    pub fn faulty(&self) -> (Self, FaultyBackend) {
        self.faulty_with(STORE)
    }

    /// The same under a store that behaves in a given way.
    pub fn faulty_with(&self, config: StoreConfig) -> (Self, FaultyBackend) {
        self.chain.store.catch_up().unwrap(); // as at the end of a process
        let faulty = FaultyBackend::over(self.memory().copy());
        let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
        let chain = self.chain.fork_with(Arc::clone(&backend), config);
        (Self { config, ..Self::on(chain, backend) }, faulty)
    }

    /// The same rig behind a backend that fails where it is told to, over restarts and crashes too.
    pub fn behind_faults(self) -> Self {
        AtRest { disk: Disk::Faulty, ..self.rest() }.wake()
    }

    /// Where the failures of [`Rig::behind_faults`] are told.
    pub fn faults(&self) -> &FaultyBackend {
        self.faults.as_ref().expect("a rig behind faults")
    }

    /// What a crash leaves of [`Rig::behind_faults`]. On the real engine only the process dies: its folder is opened again.
    pub fn crash(self, tail: CrashTail) -> Self {
        match self.faults().crash_image(tail) {
            Some(image) => AtRest { under: Under::Memory(image), ..self.rest() }.wake(),
            None => {
                assert_eq!(tail, CrashTail::Kept, "files of this machine lose nothing that it has written");
                self.restart()
            }
        }
    }

    /// The same history in memory under a store that behaves in a given way.
    pub fn reopened_with(&self, config: StoreConfig) -> Self {
        self.chain.store.catch_up().unwrap(); // as at the end of a process
        let (memory, dir) = (self.memory().copy(), Home::new());
        let backend: Arc<dyn Backend> = Arc::new(memory.clone());
        let chain = self.chain.fork_with(Arc::clone(&backend), config);
        Self { chain, backend, clock: Arc::default(), under: Under::Memory(memory), faults: None, dir, config }
    }

    /// The store in memory under this rig.
    pub fn memory(&self) -> &MemoryBackend {
        let Under::Memory(memory) = &self.under else { panic!("not in memory") };
        memory
    }

    /// The same history in a store, a folder and an archive of its own: what the original would be after the same steps.
    pub fn twin(&self) -> Self {
        self.reopened_with(STORE)
    }

    /// What a restart of the process finds: same folder, same disk, nothing in memory.
    pub fn restart(self) -> Self {
        self.rest().wake()
    }

    /// Ends the process and leaves the store closed.
    pub fn rest(self) -> AtRest {
        let Self { chain, backend, clock, under, faults, dir, config } = self;
        let archive = Arc::clone(&chain.archive);
        let disk = if faults.is_some() { Disk::Faulty } else { Disk::Sound };
        drop((chain, backend, faults));
        AtRest { archive, clock, under: under.after_a_restart(), disk, dir, config }
    }

    /// What a crash leaves of this rig if its store is found as `memory`.
    pub fn crashed(self, memory: MemoryBackend) -> Self {
        let backend: Arc<dyn Backend> = Arc::new(memory.clone());
        let Self { chain, clock, dir, config, .. } = self;
        let chain = chain.fork_with(Arc::clone(&backend), config);
        Self { chain, backend, clock, under: Under::Memory(memory), faults: None, dir, config }
    }

    /// The folder of the store.
    pub fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The folder of marks and certificates.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("pruner")
    }

    /// A plan with small slices: every file of the bottom level is a range of its own.
    pub fn plan(&self, keep_last: u64) -> Plan {
        let mut config = CycleConfig::new(self.state_dir());
        config.range_bytes = NonZeroU64::MIN;
        config.memory_budget = 64 << 20;
        Plan { keep_last: NonZeroU64::new(keep_last).unwrap(), config }.batches(50)
    }

    /// What a snapshot manager works with.
    pub fn parts(&self, keep_last: NonZeroU64, hooks: &Hooks) -> SnapshotParts {
        let records: Arc<dyn Records> = Arc::new(StoreRecords(Arc::clone(&self.chain.store)));
        SnapshotParts {
            store: Arc::clone(&self.chain.store),
            chain: Arc::new(NativeChain),
            records: hooks.over(records),
            policy: Arc::new(LiveWindow { store: Arc::clone(&self.chain.store), keep_last, floor_rows: None }),
            facts: None,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            events: Arc::new(NoEvents),
        }
    }

    /// What a node hands to its pruner.
    pub fn pruner_parts(&self, hooks: &Hooks) -> PrunerParts {
        let records: Arc<dyn Records> = Arc::new(StoreRecords(Arc::clone(&self.chain.store)));
        PrunerParts {
            store: Arc::clone(&self.chain.store),
            chain: Arc::new(NativeChain),
            layout: Arc::new(RoochLayout),
            records: hooks.over(records),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            facts: None,
            floor_rows: None,
            events: Arc::new(NoEvents),
        }
    }

    /// What the policy of a node works with, under a rule or none.
    pub fn retention_parts(&self, keep: Option<KeepPolicy>) -> RetentionParts {
        RetentionParts {
            store: Arc::clone(&self.chain.store),
            records: Arc::new(StoreRecords(Arc::clone(&self.chain.store))),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            keep,
            floor_rows: None,
            events: Arc::new(NoEvents),
        }
    }

    /// What a cycle works with.
    pub fn env(&self, plan: &Plan, hooks: &Hooks) -> CycleEnv {
        env(self.parts(plan.keep_last, hooks), hooks)
    }

    /// Runs a cycle that nothing disturbs.
    pub fn cycle(&self, plan: &Plan) -> Finished {
        plan.run(&self.env(plan, &Hooks::none())).unwrap()
    }
}

/// A rig whose store nobody has open.
pub struct AtRest {
    archive: Arc<Archive>,
    clock: Arc<ManualClock>,
    under: Under,
    disk: Disk,
    dir: Arc<Home>,
    config: StoreConfig,
}

impl AtRest {
    /// The process that comes next has another configuration of the store.
    pub fn with(self, config: StoreConfig) -> Self {
        Self { config, ..self }
    }

    /// The folder of the store.
    pub fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Opens the store again.
    pub fn wake(self) -> Rig {
        let Self { archive, clock, under, disk, dir, config } = self;
        let faults = (disk == Disk::Faulty).then(|| under.open_behind_faults(&dir));
        let backend: Arc<dyn Backend> = match &faults {
            Some(faults) => Arc::new(faults.clone()),
            None => under.open(&dir),
        };
        let chain = Chain { archive, ..Chain::open_with(Arc::clone(&backend), config) };
        Rig { chain, backend, clock, under, faults, dir, config }
    }
}

/// What a cycle works with, from given parts.
pub fn env(parts: SnapshotParts, hooks: &Hooks) -> CycleEnv {
    let snapshots = AtomicSnapshotManager::new(parts.clone(), SnapshotManagerConfig::default());
    snapshots.initialize().unwrap();
    CycleEnv {
        parts,
        snapshots: Arc::new(snapshots),
        layout: Arc::new(RoochLayout),
        control: Arc::default(),
        observer: Arc::new(hooks.clone()),
    }
}
