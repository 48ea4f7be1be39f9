//! A history on a device that fails, and what is left of it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rocksdb::{BottommostLevelCompaction, ColumnFamilyDescriptor, CompactOptions, DB, Options};
use state_powerloss::{Call, Cause, Device, Fault, Files, Job, Lasting};
use state_pruner::{PruneError, cycle, cycle::CycleEnv, phase::PhaseRecord, recovery::PhaseRunner};
use state_store::{Base, Batch, Commit, Disposition, RocksBackend, RocksConfig, Store, StoreConfig, StoreError};
use state_tests::{
    archive::Archive,
    chain::{Chain, block_hash},
    check, folder,
    hooks::Hooks,
    rig::{Plan, Rig, SMALL},
    workload::{Profile, Workload},
};
use state_tree::{Order, update};
use tempfile::TempDir;

pub(crate) const WINDOW: u64 = 5;
const SEED: u64 = 961;
const FILE_BYTES: u64 = 8 << 10;
const BLOB_BYTES: u64 = 1 << 10;

/// A background job of the engine that fails sleeps for a second, and engines share their threads: there are some to spare.
const ENGINE: RocksConfig = RocksConfig { background_jobs: 16, ..SMALL };

/// A history whose counts are exact, with garbage for a cycle and for slices; nobody has it open.
pub(crate) struct History {
    home: TempDir,
    archive: Arc<Archive>,
}

impl History {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let rig = Rig::at(home.path(), Arc::default());
        rig.chain.grow(Profile::Tables, SEED, 10);
        rig.cycle(&rig.plan(WINDOW));
        rig.chain.grow(Profile::Tables, SEED + 1, 10);
        let archive = Arc::clone(&rig.chain.archive);
        drop(rig);
        settle(&home.path().join("store"));
        Self { home, archive }
    }

    /// The same with commits that are in the log alone.
    pub(crate) fn with_a_log() -> Self {
        let Self { home, archive } = Self::new();
        Rig::at(home.path(), Arc::clone(&archive)).chain.grow(Profile::Toggle, SEED + 2, 5);
        Self { home, archive }
    }
}

/// Moves every row to the bottom level, into files so small that ranges are rewritten one after the other: nothing is in a log, and
/// nothing is left that the engine would compact by itself.
fn settle(store: &Path) {
    let mut options = Options::default();
    options.set_target_file_size_base(FILE_BYTES);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES);
    let names = DB::list_cf(&options, store).unwrap();
    let families = names.iter().map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    let engine = DB::open_cf_descriptors(&options, store, families).unwrap();
    let mut all = CompactOptions::default();
    all.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    for name in &names {
        engine.compact_range_cf_opt(engine.cf_handle(name).unwrap(), None::<&[u8]>, None::<&[u8]>, &all);
    }
}

/// A copy of the history on a device of its own.
pub(crate) struct Disk {
    pub(crate) device: Arc<Device>,
    archive: Arc<Archive>,
    home: TempDir,
    config: StoreConfig,
    engine: RocksConfig,
}

impl Disk {
    pub(crate) fn of(history: &History, device: Device, config: StoreConfig) -> Self {
        let home = tempfile::tempdir().unwrap();
        folder::copy(history.home.path(), home.path());
        let archive = Arc::new(history.archive.copy());
        Self { device: Arc::new(device), archive, home, config, engine: ENGINE }
    }

    /// The same with memtables of so many bytes.
    pub(crate) fn with_memtables(self, bytes: usize) -> Self {
        Self { engine: RocksConfig { write_buffer_bytes: bytes, ..self.engine }, ..self }
    }

    /// Tables, blob files and logs that lie in the folder.
    pub(crate) fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.store()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> =
            names.filter(|name| [".sst", ".blob", ".log"].iter().any(|end| name.ends_with(end))).collect();
        files.sort();
        files
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// Opens the store and closes it again.
    pub(crate) fn try_open(&self) -> Result<(), StoreError> {
        Store::open(Arc::new(self.engine()?), self.config).map(drop)
    }

    /// What a process finds that comes next: nothing is cut off, and every readable order is whole.
    pub(crate) fn open(&self, context: &str) -> Rig {
        self.open_with_engine(context).0
    }

    /// The same, with the engine below it.
    pub(crate) fn open_with_engine(&self, context: &str) -> (Rig, Arc<RocksBackend>) {
        let engine = Arc::new(self.engine().unwrap_or_else(|error| panic!("{context}: {error}")));
        let rig = Rig::over(self.home.path(), engine.clone(), (Arc::clone(&self.archive), self.config));
        assert_eq!(rig.backend.log_cut(), None, "{context}");
        self.archive.forget_after(rig.chain.head());
        check::complete(&rig.chain, &format!("{context}: as found"));
        rig.chain.store.index_journal(&|| true).unwrap();
        (rig, engine)
    }

    /// The next process finds what was acknowledged, and nothing stands in the way of its cycles.
    pub(crate) fn comes_back(&self, head: Order, context: &str) {
        let rig = self.open(context);
        assert_eq!(rig.chain.head(), head, "{context}: what was acknowledged");
        let plan = plan(&rig);
        recovers(&rig, (&plan, &rig.env(&plan, &Hooks::none())), context);
    }

    fn engine(&self) -> Result<RocksBackend, StoreError> {
        RocksBackend::open_through(&self.store(), &self.engine, &self.device.env())
    }
}

/// Calls of each kind so far.
pub(crate) fn calls(device: &Device) -> Vec<(Files, Call, u64)> {
    let kinds = Files::ALL.into_iter().flat_map(|files| Call::ALL.map(|call| (files, call)));
    kinds.map(|(files, call)| (files, call, device.calls(files, call))).collect()
}

/// The calls of each kind that were made between two looks, of the kinds that were made. The removal of a file is none that
/// anything waits for.
pub(crate) fn between(before: &[(Files, Call, u64)], after: &[(Files, Call, u64)]) -> Vec<(Files, Call, u64)> {
    let made = before.iter().zip(after).map(|((files, call, before), (_, _, after))| (*files, *call, after - before));
    made.filter(|(_, call, calls)| *calls > 0 && *call != Call::Remove).collect()
}

/// Failures of one kind of call: the first or one in the middle, which passes by itself, and all from the first on.
pub(crate) fn faults((files, call, calls): (Files, Call, u64)) -> Vec<Fault> {
    let fault = |passing, lasting| Fault { files, call, job: Job::Any, passing, lasting, cause: Cause::Failed };
    let mut faults = vec![fault(0, Lasting::Times(1)), fault(0, Lasting::UntilMended)];
    faults.extend((calls > 1).then(|| fault(calls / 2, Lasting::Times(1))));
    faults
}

/// Commits on the head. A commit that failed is in the archive until the store is opened again, which tells whether it is there.
pub(crate) fn commit(chain: &Chain, workload: &mut Workload) -> Result<Order, StoreError> {
    let (head, archive) = (chain.head(), &chain.archive);
    let root = archive.root(head);
    let delta = Arc::new(update(root, &workload.changes(root, &**archive), &**archive).unwrap());
    let next = head.next().unwrap();
    let committed = chain.store.commit(Commit {
        base: Base::Head(root),
        delta: Arc::clone(&delta),
        timestamp_ms: 1000 * next.get(),
        block_hash: block_hash(next.get()),
        rows: Batch::new(),
    });
    if committed.is_ok() || archive.head() == Some(head) {
        archive.keep(next, &delta);
    }
    if committed.is_err() {
        assert_eq!(chain.head(), head, "a commit that failed is not seen");
    }
    committed.map(|committed| committed.order)
}

/// The same of a device that is full: what it reads it reads.
pub(crate) fn fillings(kind: (Files, Call, u64)) -> Vec<Fault> {
    let is_read = kind.1 == Call::Read;
    faults(kind).into_iter().filter(|_| !is_read).map(|fault| fault.by(Cause::Full)).collect()
}

/// A write to a device that is full: it is not there, and can be tried again.
pub(crate) fn assert_full(error: &StoreError, context: &str) {
    assert!(matches!(error, StoreError::DiskFull { .. }), "{context}: {error:?}");
    assert_eq!(error.disposition(), Disposition::Resource, "{context}: {error}");
}

/// Lets a thread of the engine come that nobody can wait for.
pub(crate) fn look_again() {
    let (_open, never) = mpsc::channel::<()>();
    assert!(never.recv_timeout(Duration::from_millis(10)).is_err());
}

/// Commits once there is room: the engine looks for it by itself every five seconds.
pub(crate) fn commits_again(chain: &Chain, workload: &mut Workload, context: &str) -> Order {
    for _ in 0..2_000 {
        match commit(chain, workload) {
            Ok(order) => return order,
            Err(error) => assert_full(&error, context),
        }
        look_again();
    }
    panic!("{context}: there is room, and the engine never wrote again");
}

/// More than it takes to make an engine stop.
const MOST_COMMITS: usize = 10_000;

/// Commits until one is refused.
pub(crate) fn refusal(chain: &Chain, mut committed: impl FnMut()) -> StoreError {
    let mut workload = changes(0);
    let refused = (0..MOST_COMMITS).find_map(|_| {
        let refused = commit(chain, &mut workload).err();
        if refused.is_none() {
            committed();
        }
        refused
    });
    refused.unwrap_or_else(|| panic!("no commit was refused"))
}

/// How a commit ends that finds the memtables full, where the fault is met by the flush that would make room.
pub(crate) fn stopped_commit(disk: &Disk, (rig, engine): (&Rig, &RocksBackend), fault: Fault) -> StoreError {
    disk.device.hold_tables();
    let error = thread::scope(|scope| {
        let committer = scope.spawn(|| refusal(&rig.chain, || ()));
        while !engine.takes_no_write() {
            assert!(!committer.is_finished(), "nothing has failed yet");
            thread::yield_now();
        }
        disk.device.fail(fault);
        disk.device.let_tables_go();
        committer.join().unwrap()
    });
    assert!(disk.device.met() > 0);
    error
}

/// A write of an engine that has stopped: it failed, and where one before it was to be synced, nobody knows what is on disk.
pub(crate) fn assert_refused(error: &StoreError, context: &str) {
    assert!(matches!(error, StoreError::Io { .. } | StoreError::Poisoned { .. }), "{context}: {error:?}");
    let is_poisoned = matches!(error, StoreError::Poisoned { .. });
    let expected = if is_poisoned { Disposition::Corrupt } else { Disposition::Transient };
    assert_eq!(error.disposition(), expected, "{context}: {error}");
}

/// Goes on with what a fault has ended, if it can, then runs a whole cycle.
pub(crate) fn recovers(rig: &Rig, (plan, env): (&Plan, &CycleEnv), context: &str) {
    match cycle::resume(env, &plan.order(), &PhaseRunner::Once) {
        Ok(_) | Err(PruneError::NotResumable { .. } | PruneError::BadMark { .. }) => {}
        Err(error) => panic!("{context}: {error}"),
    }
    assert!(PhaseRecord::load(&*env.parts.records).unwrap().is_none(), "{context}");
    check::complete(&rig.chain, &format!("{context}: gone on"));
    rig.chain.grow(Profile::Toggle, SEED + 3, 2);
    plan.run(env).unwrap_or_else(|error| panic!("{context}: next cycle: {error}"));
    check::exact(&rig.chain, &format!("{context}: next cycle"));
}

/// A plan whose files are where the rig keeps them.
pub(crate) fn plan(rig: &Rig) -> Plan {
    rig.plan(WINDOW).in_order().batches(20)
}

/// Changes that the history has not seen, each number others.
pub(crate) fn changes(number: u64) -> Workload {
    Workload::new(Profile::Tables, SEED + 4 + number)
}
