//! A backend that fails where a test asks, and that shows what a crash leaves.
//!
//! Every [`Operation`] is counted and can be told to fail, once or from then on; reads and writes are counted together,
//! too, and the one of a given number fails once. A frozen backend refuses every write after the n-th, and
//! [`FaultyBackend::crash_image`] is the store as a reopen would find it, with or without the tail of writes that were
//! never synced. No hook in the product is needed for any of it.

mod operation;
mod view;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use self::operation::Injection;
pub use self::operation::{Fault, Lasting, Operation};
use self::view::FaultyView;
use super::{Backend, Batch, Durability, KeyRange, LogCut, MemoryBackend, NodeFile, Space, View};
use crate::{error::StoreError, filter::SweepSlot, schema::Table};

/// What a power loss takes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashTail {
    /// Nothing that was acknowledged: the process died, the machine did not.
    Kept,
    /// Every write after the last synced one.
    Lost,
}

/// Fails the n-th operation from now, counted from zero.
#[derive(Debug, Clone, Copy)]
struct Plan {
    at: u64,
    fault: Fault,
}

/// Whether an injected failure is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Armed {
    /// It is.
    Yes,
    /// It came, or none was injected.
    No,
}

#[derive(Debug, Default)]
struct Counter {
    done: AtomicU64,
    plan: Mutex<Option<Plan>>,
}

impl Counter {
    fn fail_at(&self, distance: u64, fault: Fault) {
        let at = self.done.load(Ordering::Acquire) + distance;
        *self.plan.lock() = Some(Plan { at, fault });
    }

    fn step(&self, what: &str) -> Result<(), StoreError> {
        let number = self.done.fetch_add(1, Ordering::AcqRel);
        let mut plan = self.plan.lock();
        match *plan {
            Some(due) if due.at == number => {
                *plan = None;
                Err(due.fault.error(what))
            }
            Some(_) | None => Ok(()),
        }
    }
}

type Hook = Arc<dyn Fn() + Send + Sync>;
type RowHook = Arc<dyn Fn(&Table) + Send + Sync>;

impl Faults {
    /// Counts the call, and fails it if it is its turn.
    fn meet(&self, operation: Operation) -> Result<(), StoreError> {
        *self.calls.lock().entry(operation).or_insert(0) += 1;
        let hook = self.before_each.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
        let mut slot = self.injection.lock();
        let Some(injection) = slot.as_mut().filter(|injection| injection.operation == operation) else {
            return Ok(());
        };
        if injection.passing > 0 {
            injection.passing -= 1;
            return Ok(());
        }
        let fault = injection.fault;
        if injection.lasting == Lasting::Once {
            *slot = None;
        }
        self.met.fetch_add(1, Ordering::AcqRel);
        Err(fault.error(operation.what()))
    }

    fn read(&self, operation: Operation) -> Result<(), StoreError> {
        let hook = self.before_read.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
        self.meet(operation)?;
        self.reads.step(operation.what())
    }
}

struct Faults {
    before_read: Mutex<Option<Hook>>,
    injection: Mutex<Option<Injection>>,
    before_each: Mutex<Option<Hook>>,
    /// Calls by operation.
    calls: Mutex<BTreeMap<Operation, u64>>,
    /// Failures injected by [`FaultyBackend::inject`].
    met: AtomicU64,
    before_write: Mutex<Option<Hook>>,
    before_row: Mutex<Option<RowHook>>,
    reads: Counter,
    writes: Counter,
    rewrites: Counter,
    /// What the device is said to have free, if a test says anything.
    free: Mutex<Option<u64>>,
    /// Writes from this number on are refused.
    frozen_from: AtomicU64,
    /// The memory store as of the last synced write.
    synced: Mutex<Option<MemoryBackend>>,
    /// Held while a write and its image are taken, so that images lie between writes.
    write: Mutex<()>,
}

/// A backend around another one.
#[derive(Clone)]
pub struct FaultyBackend {
    inner: Arc<dyn Backend>,
    memory: Option<MemoryBackend>,
    faults: Arc<Faults>,
}

impl std::fmt::Debug for FaultyBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyBackend")
            .field("writes", &self.writes())
            .field("reads", &self.reads())
            .finish_non_exhaustive()
    }
}

impl FaultyBackend {
    /// Around any backend: failures only.
    pub fn around(inner: Arc<dyn Backend>) -> Self {
        Self::build(inner, None)
    }

    /// Around a store in memory: failures and crash images.
    pub fn over(memory: MemoryBackend) -> Self {
        Self::build(Arc::new(memory.clone()), Some(memory))
    }

    fn build(inner: Arc<dyn Backend>, memory: Option<MemoryBackend>) -> Self {
        let synced = Mutex::new(memory.as_ref().map(MemoryBackend::image));
        Self {
            inner,
            memory,
            faults: Arc::new(Faults {
                before_read: Mutex::default(),
                injection: Mutex::default(),
                before_each: Mutex::default(),
                calls: Mutex::default(),
                met: AtomicU64::new(0),
                before_write: Mutex::default(),
                before_row: Mutex::default(),
                reads: Counter::default(),
                writes: Counter::default(),
                rewrites: Counter::default(),
                free: Mutex::default(),
                frozen_from: AtomicU64::new(u64::MAX),
                synced,
                write: Mutex::new(()),
            }),
        }
    }

    /// Writes attempted so far.
    pub fn writes(&self) -> u64 {
        self.faults.writes.done.load(Ordering::Acquire)
    }

    /// Reads attempted so far: one per call on a view, however many keys it names.
    pub fn reads(&self) -> u64 {
        self.faults.reads.done.load(Ordering::Acquire)
    }

    /// Calls this before each read, on the thread that reads.
    pub fn before_read(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.faults.before_read.lock() = Some(Arc::new(hook));
    }

    /// Calls this before each operation, on the thread that asks for it.
    pub fn before_each(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.faults.before_each.lock() = Some(Arc::new(hook));
    }

    /// Calls this before each write, on the thread that writes.
    pub fn before_write(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.faults.before_write.lock() = Some(Arc::new(hook));
    }

    /// Calls this before each row that a scan of a table visits, on the thread that scans.
    pub fn before_row(&self, hook: impl Fn(&Table) + Send + Sync + 'static) {
        *self.faults.before_row.lock() = Some(Arc::new(hook));
    }

    /// Whether a failure that was injected is still to come.
    pub fn armed(&self) -> Armed {
        let counters = [&self.faults.reads, &self.faults.writes, &self.faults.rewrites];
        let armed = counters.iter().any(|counter| counter.plan.lock().is_some());
        if armed { Armed::Yes } else { Armed::No }
    }

    /// Fails an operation after `passing` further calls of it.
    pub fn inject(&self, operation: Operation, passing: u64, fault: Fault, lasting: Lasting) {
        *self.faults.injection.lock() = Some(Injection { operation, passing, fault, lasting });
    }

    /// Ends what [`FaultyBackend::inject`] began.
    pub fn heal(&self) {
        *self.faults.injection.lock() = None;
    }

    /// Calls that failed by [`FaultyBackend::inject`] so far.
    pub fn met(&self) -> u64 {
        self.faults.met.load(Ordering::Acquire)
    }

    /// Calls of an operation so far.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.faults.calls.lock().get(&operation).map_or(0, |calls| *calls)
    }

    /// Fails the write after `distance` further ones, once.
    pub fn fail_write(&self, distance: u64, fault: Fault) {
        self.faults.writes.fail_at(distance, fault);
    }

    /// Fails the read after `distance` further ones, once.
    pub fn fail_read(&self, distance: u64, fault: Fault) {
        self.faults.reads.fail_at(distance, fault);
    }

    /// Fails the rewrite after `distance` further ones, once.
    pub fn fail_rewrite(&self, distance: u64, fault: Fault) {
        self.faults.rewrites.fail_at(distance, fault);
    }

    /// Says how many bytes are free on the device.
    pub fn say_free(&self, bytes: u64) {
        *self.faults.free.lock() = Some(bytes);
    }

    /// Lets `distance` further writes through and refuses all that follow: the process is as good as dead then.
    pub fn freeze_after(&self, distance: u64) {
        let from = self.writes() + distance;
        self.faults.frozen_from.store(from, Ordering::Release);
    }

    /// The store that a reopen would find now, as a store of its own; nothing when this one is not in memory.
    pub fn crash_image(&self, tail: CrashTail) -> Option<MemoryBackend> {
        let _between_writes = self.faults.write.lock();
        match tail {
            CrashTail::Kept => self.memory.as_ref().map(MemoryBackend::copy),
            CrashTail::Lost => self.faults.synced.lock().as_ref().map(MemoryBackend::copy),
        }
    }

    fn alive(&self) -> Result<(), StoreError> {
        if self.writes() >= self.faults.frozen_from.load(Ordering::Acquire) {
            return Err(Fault::Transient.error("writing after the crash"));
        }
        Ok(())
    }

    fn note_synced(&self) {
        *self.faults.synced.lock() = self.memory.as_ref().map(MemoryBackend::image);
    }
}

impl Backend for FaultyBackend {
    fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        self.faults.meet(Operation::View)?;
        Ok(Arc::new(FaultyView { inner: self.inner.view()?, faults: Arc::clone(&self.faults) }))
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        let hook = self.faults.before_write.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
        let _whole = self.faults.write.lock();
        self.alive()?;
        self.faults.meet(Operation::Write)?;
        self.faults.writes.step("writing")?;
        self.inner.write(batch, durability)?;
        if durability == Durability::Synced {
            self.note_synced();
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let _whole = self.faults.write.lock();
        self.alive()?;
        self.faults.meet(Operation::Flush)?;
        self.inner.flush()?;
        self.note_synced(); // files are synced before the engine lists them
        Ok(())
    }

    fn rewrite_files(&self, range: &KeyRange) -> Result<(), StoreError> {
        self.faults.meet(Operation::Rewrite)?;
        self.faults.rewrites.step("rewriting")?;
        self.inner.rewrite_files(range)
    }

    fn cancel_rewrite(&self) {
        self.inner.cancel_rewrite();
    }

    fn node_files(&self) -> Result<Vec<NodeFile>, StoreError> {
        self.faults.meet(Operation::ListFiles)?;
        self.inner.node_files()
    }

    fn node_blob_bytes(&self) -> Result<u64, StoreError> {
        self.faults.meet(Operation::BlobBytes)?;
        self.inner.node_blob_bytes()
    }

    fn buffered_deletes(&self) -> Result<u64, StoreError> {
        self.inner.buffered_deletes()
    }

    fn node_rows_hint(&self) -> Result<u64, StoreError> {
        self.faults.meet(Operation::RowsHint)?;
        self.inner.node_rows_hint()
    }

    fn space(&self) -> Result<Space, StoreError> {
        self.faults.meet(Operation::Space)?;
        self.inner.space()
    }

    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.faults.meet(Operation::FreeBytes)?;
        let said = *self.faults.free.lock();
        said.map_or_else(|| self.inner.free_bytes(), |free| Ok(Some(free)))
    }

    fn background_errors(&self) -> Result<u64, StoreError> {
        self.faults.meet(Operation::BackgroundErrors)?;
        self.inner.background_errors()
    }

    fn damage(&self) -> Option<String> {
        self.inner.damage()
    }

    fn stopped_by(&self) -> Option<String> {
        self.inner.stopped_by()
    }

    fn log_cut(&self) -> Option<LogCut> {
        self.inner.log_cut()
    }

    fn log_cut_is_kept(&self) -> Result<(), StoreError> {
        self.inner.log_cut_is_kept()
    }

    fn sweep_slot(&self) -> Option<Arc<SweepSlot>> {
        self.inner.sweep_slot()
    }
}
