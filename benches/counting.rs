//! What counting costs a commit: two stores that go through the same history side by side, one that journals and counts
//! and one that does neither, commit by commit in turn.
//!
//!     ./scripts/bench --bench counting -- [--profile uniform|hot|tables|cells] [--objects N] [--commits N]
//!     [--logged]
//!
//! Beside the store that counts a thread takes into its index what each commit did, as the worker of a node does; waking it is
//! part of the commit's time.
//!
//! A commit costs more the fuller the memtable is, and the two stores do not empty theirs at one moment: the default is long
//! enough for four of them. Time is that of whole commits, update of the tree included, and freeing the delta of the one before;
//! that of the committing thread on a processor is told beside it, for on a busy machine it alone compares. Bytes are those of
//! the rows as they are written, before compression: what a commit adds beside its nodes, over what the journal needs at least
//! (8 per created node, 32 per node that it names), against the nodes.

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{JoinHandle, spawn},
    time::{Duration, Instant},
};

use state_benches::{
    Bound, Error, Table, args,
    chain::{Chain, percentile},
    thread_on_processor,
    workload::{Profile, Workload},
};
use state_store::{Durability, Flow, JournalRecord, KeyRange, RocksConfig, Store, StoreConfig, Table as Rows, record};

const CHANGES: u64 = 100;
/// Bytes of a bundle of marks beside them. Each commit is taken to have written one.
const BUNDLE: u64 = 43;

/// One of the two stores.
struct Side {
    chain: Chain,
    workload: Workload,
    commits: Vec<Duration>,
    processor: Vec<Duration>,
    beside: Option<Beside>,
}

/// What a node's worker does beside commits.
struct Beside {
    wake: SyncSender<()>,
    _thread: JoinHandle<()>,
}

impl Beside {
    fn of(store: &Arc<Store>) -> Self {
        let ((wake, woken), store) = (sync_channel(1), Arc::clone(store));
        Self { wake, _thread: spawn(move || woken.into_iter().for_each(|()| store.catch_up().expect("catch up"))) }
    }

    fn committed(&self) {
        match self.wake.try_send(()) {
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

impl Side {
    fn new(dir: &Path, config: StoreConfig, profile: Profile, objects: u64) -> Self {
        let mut chain = Chain::create(dir, &RocksConfig::default(), config);
        let mut workload = Workload::new(profile, 1, objects);
        while let Some(changes) = workload.fill() {
            chain.commit(&changes);
        }
        let beside = config.journal.then(|| Beside::of(&chain.store));
        Self { chain, workload, commits: Vec::new(), processor: Vec::new(), beside }
    }

    fn step(&mut self) -> Result<(), Error> {
        let changes = self.workload.changes(CHANGES);
        let (start, busy) = (Instant::now(), thread_on_processor()?);
        self.chain.commit(&changes);
        self.beside.iter().for_each(Beside::committed);
        self.commits.push(start.elapsed());
        self.processor.push(thread_on_processor()? - busy);
        Ok(())
    }

    fn total(&self) -> Duration {
        self.commits.iter().sum()
    }

    fn median(&mut self) -> Duration {
        self.commits.sort();
        percentile(&self.commits, 0.5)
    }

    fn median_on_processor(&mut self) -> Duration {
        self.processor.sort();
        percentile(&self.processor, 0.5)
    }
}

/// Bytes of rows that counting has written, and the least a journal needs.
#[derive(Default)]
struct Added {
    rows: u64,
    least: u64,
}

impl Added {
    fn to(chain: &Chain) -> Result<Self, Error> {
        let (store, mut added) = (&chain.store, Self::default());
        let (view, mut broken) = (store.view()?, Ok(()));
        view.scan(&Rows::JOURNAL, &KeyRange::ALL, &mut |key, value| {
            added.rows += (key.len() + value.len()) as u64;
            match record::decode::<JournalRecord>("journal", value) {
                Ok(row) => added.least += (row.created.len() * 8 + (row.stale.len() + row.dropped.len()) * 32) as u64,
                Err(error) => broken = Err(error),
            }
            Flow::Continue(())
        })?;
        broken?;
        view.scan(&Rows::MANY, &KeyRange::ALL, &mut |key, value| {
            added.rows += (key.len() + value.len()) as u64;
            Flow::Continue(())
        })?;
        added.rows += store.head().map_or(0, |head| head.commits * BUNDLE);
        added.rows += chain.may_be_shared * size_of::<u64>() as u64; // each in a bundle, unless it was marked before
        Ok(added)
    }
}

fn main() -> Result<ExitCode, Error> {
    let objects = args::number("--objects").unwrap_or(80_000);
    let commits = args::number("--commits").unwrap_or(1_800);
    let durability = if args::flag("--logged") { Durability::Logged } else { Durability::Synced };
    let mut table = Table::default();
    for profile in Profile::asked_for()? {
        let [counted, plain] = [tempfile::tempdir()?, tempfile::tempdir()?];
        let config = StoreConfig::new(durability);
        let mut with = Side::new(counted.path(), config, profile, objects);
        let mut without = Side::new(plain.path(), StoreConfig { journal: false, ..config }, profile, objects);
        for turn in 0..commits {
            let (first, second) = if turn % 2 == 0 { (&mut with, &mut without) } else { (&mut without, &mut with) };
            first.step()?;
            second.step()?;
        }
        report(&mut table, profile, &mut with, &mut without)?;
    }
    Ok(table.finish())
}

fn report(table: &mut Table, profile: Profile, with: &mut Side, without: &mut Side) -> Result<(), Error> {
    let (added, head) = (Added::to(&with.chain)?, with.chain.store.head().ok_or("no head")?);
    let mut line = |name: &str, figure: f64, unit: &str, bound: Bound| {
        table.number(&format!("{}: {name}", profile.name()), (figure, unit), bound);
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    line("median commit, counted", ms(with.median()), "ms", Bound::None);
    line("median commit, not counted", ms(without.median()), "ms", Bound::None);
    line("median, counted / not", ms(with.median()) / ms(without.median()), "times", Bound::AtMost(1.05));
    line("all commits, counted / not", ms(with.total()) / ms(without.total()), "times", Bound::None);
    let (busy, calm) = (ms(with.median_on_processor()), ms(without.median_on_processor()));
    line("median on a processor, counted", busy, "ms", Bound::None);
    line("median on a processor, not counted", calm, "ms", Bound::None);
    line("median on a processor, counted / not", busy / calm, "times", Bound::None);
    let beyond = added.rows.saturating_sub(added.least) as f64;
    line(
        "rows beyond the journal's least / bytes of nodes",
        beyond / head.bytes_put as f64,
        "times",
        Bound::AtMost(0.03),
    );
    line("all rows / bytes of nodes", added.rows as f64 / head.bytes_put as f64, "times", Bound::None);
    Ok(())
}
