//! BuildReach: scan mark against RocksDB's own raw iteration with as many threads, what hashing again costs, and walk
//! mark against scan mark, warm and cold; bytes of memory and of the mark file.

use std::{path::Path, process::ExitCode};

use rocksdb::{DB, Options, ReadOptions};
use state_benches::{
    Arguments, Bound, Built, Error, Least, Stopwatch, Table, Took, build, drop_from_page_cache, resident_peak,
};
use state_pruner::{
    Control, RetainedRoots, SystemClock, Unobserved,
    mark::{MarkChoice, MarkJob, MarkReport, RehashChoice, SealedMark, build_reach},
};
use state_store::Store;
use state_tree::RoochLayout;

const THREADS: usize = 2;
const BUDGET: u64 = 4 << 30;
/// What a scan mark may take of the time of a raw iteration, whatever it hashes.
const SCAN: Bound = Bound::AtMost(2.0);
/// Nodes from which on the memory per node is judged.
const LARGE: f64 = 1e6;

fn main() -> Result<ExitCode, Error> {
    let arguments = Arguments::from_command_line()?;
    let built = build(&arguments)?;
    let bench = Bench::open(&built)?;
    let mut table = Table::default();
    let scan = bench.scans(&arguments, &mut table)?;
    bench.walks(&arguments, &mut table, scan)?;
    bench.memory(&mut table)?;
    Ok(table.finish())
}

struct Bench<'a> {
    built: &'a Built,
    store: std::sync::Arc<Store>,
    roots: RetainedRoots,
    watch: Stopwatch,
}

/// The least time of a scan mark, warm and cold.
struct Scan {
    warm: Least,
    cold: Least,
}

impl<'a> Bench<'a> {
    fn open(built: &'a Built) -> Result<Self, Error> {
        let store = Built::open_read_only(&built.db)?;
        let roots = Built::roots(&store)?;
        Ok(Self { built, store, roots, watch: Stopwatch::default() })
    }

    fn mark(&self, choice: MarkChoice, rehash: RehashChoice) -> Result<(SealedMark, MarkReport), Error> {
        let view = self.store.view()?;
        Ok(build_reach(&MarkJob {
            view: &*view,
            layout: &RoochLayout,
            roots: &self.roots,
            traced: None,
            cycle: 1,
            dir: self.built.folder.path().join("state"),
            choice,
            rehash,
            memory_budget: BUDGET,
            rows_hint: self.store.backend().node_rows_hint()?,
            threads: THREADS,
            notes: None,
            from: None,
            clock: &SystemClock::new(),
            control: &Control::default(),
            observer: &Unobserved,
        })?)
    }

    fn time(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<Took, Error> {
        self.watch.time(work).map(|(took, ())| took)
    }

    fn scans(&self, arguments: &Arguments, table: &mut Table) -> Result<Scan, Error> {
        let (mut raw, mut all, mut sample) = (Vec::new(), Vec::new(), Vec::new());
        iterate(&self.built.db)?; // the first pass fills the page cache
        for _ in 0..arguments.rounds {
            raw.push(self.time(|| iterate(&self.built.db))?);
            all.push(self.time(|| self.mark(MarkChoice::Scan, RehashChoice::All).map(drop))?);
            sample.push(self.time(|| self.mark(MarkChoice::Scan, RehashChoice::Sample).map(drop))?);
        }
        let raw = table.time("raw iteration, warm", &raw);
        let all = table.time("scan mark, every node hashed again, warm", &all);
        let sample = table.time("scan mark, one node in sixty-four hashed again, warm", &sample);
        table.ratio("scan mark / raw iteration, every node hashed, warm", all, raw, SCAN);
        table.ratio("scan mark / raw iteration, a sample hashed, warm", sample, raw, SCAN);
        let (mut raw, mut cold, mut cold_all) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            drop_from_page_cache(&self.built.db)?;
            raw.push(self.time(|| iterate(&self.built.db))?);
            drop_from_page_cache(&self.built.db)?;
            cold.push(self.time(|| self.mark(MarkChoice::Scan, RehashChoice::Sample).map(drop))?);
            drop_from_page_cache(&self.built.db)?;
            cold_all.push(self.time(|| self.mark(MarkChoice::Scan, RehashChoice::All).map(drop))?);
        }
        let raw = table.time("raw iteration, cold", &raw);
        let cold = table.time("scan mark, one node in sixty-four hashed again, cold", &cold);
        let cold_all = table.time("scan mark, every node hashed again, cold", &cold_all);
        table.ratio("scan mark / raw iteration, a sample hashed, cold", cold, raw, SCAN);
        table.ratio("scan mark / raw iteration, every node hashed, cold", cold_all, raw, SCAN);
        Ok(Scan { warm: sample, cold })
    }

    fn walks(&self, arguments: &Arguments, table: &mut Table, scan: Scan) -> Result<(), Error> {
        let (mut warm, mut cold) = (Vec::new(), Vec::new());
        self.mark(MarkChoice::Walk, RehashChoice::All)?;
        for _ in 0..arguments.rounds {
            warm.push(self.time(|| self.mark(MarkChoice::Walk, RehashChoice::All).map(drop))?);
        }
        drop_from_page_cache(&self.built.db)?;
        cold.push(self.time(|| self.mark(MarkChoice::Walk, RehashChoice::All).map(drop))?);
        let warm = table.time("walk mark, warm", &warm);
        let cold = table.time("walk mark, cold", &cold);
        table.ratio("walk mark / scan mark, warm", warm, scan.warm, Bound::None);
        table.ratio("walk mark / scan mark, cold", cold, scan.cold, Bound::None);
        Ok(())
    }

    fn memory(&self, table: &mut Table) -> Result<(), Error> {
        let (resident, (mark, report)) = resident_peak(|| self.mark(MarkChoice::Scan, RehashChoice::All))?;
        let present = report.present_nodes.ok_or("a scan counts what is present")? as f64;
        let live = report.live_nodes as f64;
        let file = std::fs::metadata(mark.path())?.len() as f64;
        let per_node = "bytes per node present";
        // In a small store most of the memory is what does not depend on the number of nodes.
        let most = if present < LARGE { Bound::None } else { Bound::AtMost(24.0) };
        table.number("nodes present", (present, "nodes"), Bound::None);
        table.number("nodes live", (live, "nodes"), Bound::None);
        table.number("nodes live, share", (live / present * 100.0, "%"), Bound::None);
        table.number("nodes read again by the scan", (report.nodes_read as f64 - present, "nodes"), Bound::None);
        table.number("scan mark, memory accounted", (report.peak_bytes as f64 / present, per_node), most);
        table.number("scan mark, resident peak, engine included", (resident as f64 / present, per_node), Bound::None);
        table.number("mark file", (file / live, "bytes per live node"), Bound::AtMost(9.0));
        drop(mark);
        let (resident, (_, report)) = resident_peak(|| self.mark(MarkChoice::Walk, RehashChoice::All))?;
        let per_live = "bytes per live node";
        table.number("walk mark, memory accounted", (report.peak_bytes as f64 / live, per_live), Bound::None);
        table.number("walk mark, resident peak, engine included", (resident as f64 / live, per_live), Bound::None);
        Ok(())
    }
}

/// RocksDB's own iteration of the node family with as many threads, each over its share of the keys.
fn iterate(db: &Path) -> Result<(), Error> {
    let families = DB::list_cf(&Options::default(), db)?;
    let db = DB::open_cf_for_read_only(&Options::default(), db, families, false)?;
    let db = &db;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|share| scope.spawn(move || iterate_share(db, share))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done.map(drop),
            Err(_) => Err("an iterating thread panicked".into()),
        })
    })
}

fn iterate_share(db: &DB, share: usize) -> Result<u64, Error> {
    let family = db.cf_handle("state_node").ok_or("no node family")?;
    let bound = |share: usize| [(share * 256 / THREADS) as u8];
    let mut options = ReadOptions::default();
    options.set_readahead_size(4 << 20);
    options.fill_cache(false);
    if share + 1 < THREADS {
        options.set_iterate_upper_bound(bound(share + 1));
    }
    let mut rows = db.raw_iterator_cf_opt(&family, options);
    rows.seek(bound(share));
    let mut bytes = 0;
    while let Some((key, value)) = rows.item() {
        bytes += (key.len() + value.len()) as u64;
        rows.next();
    }
    rows.status()?;
    Ok(bytes)
}
