//! SweepExpired: a rewrite through the sweep filter against a plain forced compaction of the same store, and against
//! deleting in batches and compacting then.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use state_benches::{Arguments, Bound, Built, Error, Stopwatch, Table, Took, build};
use state_pruner::{
    Control, CycleConfig, PruneError, SweepChoice, SystemClock, Unobserved,
    mark::{MarkChoice, MarkJob, RehashChoice, SealedMark, build_reach},
    sweep::{Outlook, Saved, SmallGarbage, SweepCursor, SweepJob, SweepReport, SweepStrategy},
};
use state_store::{Batch, Capture, Condemned, Flow, KeyRange, LiveReader as _, Store};
use state_tree::{NodeHash, RoochLayout};

const DELETE_BATCH: usize = 1000;

fn main() -> Result<ExitCode, Error> {
    let arguments = Arguments::from_command_line()?;
    let built = build(&arguments)?;
    let mut table = Table::default();
    let bench = Bench { built: &built, watch: Stopwatch::default() };
    let (mut plain, mut filtered, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        plain.push(bench.on_a_copy(|store, _| Ok(store.backend().rewrite_nodes(&KeyRange::ALL)?))?);
        filtered.push(bench.on_a_copy(sweep_by_filter)?);
        deleted.push(bench.on_a_copy(delete_then_compact)?);
    }
    let plain = table.time("plain forced compaction", &plain);
    let filtered = table.time("filtered sweep", &filtered);
    let deleted = table.time("delete batches, then compaction", &deleted);
    table.ratio("filtered sweep / plain forced compaction", filtered, plain, Bound::AtMost(1.1));
    table.ratio("filtered sweep / delete-then-compact", filtered, deleted, Bound::AtMost(0.6));
    Ok(table.finish())
}

struct Bench<'a> {
    built: &'a Built,
    watch: Stopwatch,
}

impl Bench<'_> {
    /// Copies the store, marks it, and times the work alone.
    fn on_a_copy(&self, work: impl FnOnce(&Arc<Store>, &Marked) -> Result<(), Error>) -> Result<Took, Error> {
        let copy = tempfile::tempdir_in(self.built.folder.path())?;
        let db = copy.path().join("db");
        std::fs::create_dir(&db)?;
        for entry in std::fs::read_dir(&self.built.db)? {
            let entry = entry?;
            std::fs::copy(entry.path(), db.join(entry.file_name()))?;
        }
        let store = Built::open(&db)?;
        let marked = mark(&store, copy.path())?;
        self.watch.time(|| work(&store, &marked)).map(|(took, ())| took)
    }
}

struct Marked {
    capture: Capture,
    mark: Arc<SealedMark>,
}

fn mark(store: &Store, dir: &Path) -> Result<Marked, Error> {
    let roots = Built::roots(store)?;
    let capture = store.capture()?;
    let job = MarkJob {
        view: &*capture.view,
        layout: &RoochLayout,
        roots: &roots,
        traced: None,
        cycle: 1,
        dir: dir.to_owned(),
        choice: MarkChoice::Scan,
        rehash: RehashChoice::All,
        memory_budget: 4 << 30,
        rows_hint: store.backend().node_rows_hint()?,
        threads: 2,
        notes: None,
        from: None,
        clock: &SystemClock::new(),
        control: &Control::default(),
        observer: &Unobserved,
    };
    let mark = Arc::new(build_reach(&job)?.0);
    Ok(Marked { capture, mark })
}

/// SweepExpired as a cycle runs it, range after range.
fn sweep_by_filter(store: &Arc<Store>, marked: &Marked) -> Result<(), Error> {
    let config = CycleConfig::new(PathBuf::new());
    let outlook = Outlook {
        choice: SweepChoice::Filter,
        live: marked.mark.live_nodes(),
        present: None,
        foreign: None,
        filter: true,
        small_garbage: SmallGarbage::Rewrite,
    };
    let job = SweepJob {
        store,
        permit: &store.issue_permit(),
        barrier: &marked.capture.barrier,
        mark: &marked.mark,
        outlook,
        range_bytes: config.range_bytes.get(),
        delete_batch: config.delete_batch,
        pace: None,
        renew: &|| Ok(()),
        control: &Control::default(),
        observer: &Unobserved,
        clock: &SystemClock::new(),
    };
    let mut report = SweepReport::begun();
    job.run(&mut Unsaved::default(), &mut report)?;
    if report.deleted == 0 || report.kept != Some(marked.mark.live_nodes()) {
        return Err(format!("the sweep saw something else than the mark: {report:?}").into());
    }
    Ok(())
}

/// A cursor that outlives nothing.
#[derive(Default)]
struct Unsaved(Option<Vec<u8>>);

impl SweepCursor for Unsaved {
    fn begin(&mut self, _strategy: SweepStrategy) {}

    fn position(&self) -> Option<Vec<u8>> {
        self.0.clone()
    }

    fn batch(&self, _next: &[u8], _deleted: u64) -> Result<Option<Batch>, PruneError> {
        Ok(None)
    }

    fn advance(&mut self, next: &[u8], _deleted: u64, _saved: Saved) -> Result<(), PruneError> {
        self.0 = Some(next.to_vec());
        Ok(())
    }
}

fn delete_then_compact(store: &Arc<Store>, marked: &Marked) -> Result<(), Error> {
    let permit = store.issue_permit();
    let (mut condemned, mut live, mut failed) = (Vec::with_capacity(DELETE_BATCH), marked.mark.reader(), None);
    let delete = |hashes: &[NodeHash]| {
        store.delete(&permit, &marked.capture.barrier, Condemned { hashes, cursor: Batch::new() })
    };
    marked.capture.view.scan_nodes(&KeyRange::ALL, &mut |key, _| {
        if let Ok(hash) = NodeHash::try_from(key)
            && !live.contains(&hash)
        {
            condemned.push(hash);
        }
        if condemned.len() == DELETE_BATCH {
            failed = delete(&condemned).err();
            condemned.clear();
        }
        if failed.is_some() { Flow::Break(()) } else { Flow::Continue(()) }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    delete(&condemned)?;
    store.backend().flush()?;
    Ok(store.backend().rewrite_nodes(&KeyRange::ALL)?)
}
