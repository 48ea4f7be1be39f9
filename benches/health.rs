//! Health of a store with very many table files: from outside at rest, over HTTP from its node, from outside beside that node and
//! after it, and from outside beside a writer that is no node and whose log is full. Whoever watches a node asks for it again and
//! again.
//!
//!     ./scripts/bench --bench health -- [--files N] [--log MIB] [--rounds N] [--check]
//!
//! What the engine has only in its log is nearly all nodes, which a look does not need, and the log grows to 256 MiB before it is
//! written to tables.
//!
//! Each look is `health-check` itself, in a process of its own: in one that has made such a store, what was freed meanwhile lies
//! scattered, and the same look takes half as long again. How many of them were told by the heartbeat of the node is printed.
//!
//! The files are real, each of one node: what grows with a store is the list of them, which is read, and the question for the
//! length of each. A hundred thousand files of 32 MiB would be three tebibytes.

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::{Duration, Instant},
};

use rocksdb::{ColumnFamilyDescriptor, DB, Options, SstFileWriter, WriteBatch};
use state_benches::{Bound, Error, Table, args, chain::percentile};
use state_node::{app::App, cli, config::Config, load::Client};
use state_pruner::SystemClock;
use state_store::{Durability, RocksBackend, RocksConfig, Store, StoreConfig};
use tokio::{runtime::Runtime, task::spawn_blocking};

const NODE_FAMILY: &str = "state_node";
/// Files that the engine takes over at once.
const AT_ONCE: u64 = 2_000;

/// A store of a node with so many tables more.
fn make(db: &Path, tables: &Path, count: u64) -> Result<(), Error> {
    let backend = Arc::new(RocksBackend::open(db, &RocksConfig::default())?);
    drop(Store::open(backend, StoreConfig::new(Durability::Logged))?);
    let mut options = Options::default();
    options.set_max_open_files(256);
    let families = DB::list_cf(&options, db)?;
    let store = DB::open_cf(&options, db, families)?;
    let family = store.cf_handle(NODE_FAMILY).ok_or("no family of nodes")?;
    for first in (0..count).step_by(usize::try_from(AT_ONCE)?) {
        let files: Result<Vec<PathBuf>, Error> =
            (first..count.min(first + AT_ONCE)).map(|number| table(tables, number, count)).collect();
        store.ingest_external_file_cf(family, files?)?;
    }
    Ok(())
}

/// A table of one node, behind those with smaller numbers.
fn table(tables: &Path, number: u64, count: u64) -> Result<PathBuf, Error> {
    let (path, options) = (tables.join(format!("{number}.sst")), Options::default());
    let mut writer = SstFileWriter::create(&options);
    writer.open(&path)?;
    let mut key = [0; 32];
    let (start, _) = key.split_at_mut(8);
    start.copy_from_slice(&(number * (u64::MAX / count)).to_be_bytes());
    writer.put(key, b"a node")?;
    writer.finish()?;
    Ok(path)
}

/// Bytes of a node as chains have them, with its key.
const NODE_BYTES: u64 = 150;
/// Nodes of one commit.
const COMMIT_NODES: u64 = 500;

/// Nodes that are in the log of the engine only, of a writer that goes on having the store open.
fn fill_log(db: &Path, bytes: u64) -> Result<DB, Error> {
    let mut options = Options::default();
    options.set_write_buffer_size(usize::try_from(2 * bytes)?); // nothing of it is written to tables
    options.set_max_total_wal_size(2 * bytes);
    options.set_max_open_files(256);
    options.set_skip_stats_update_on_db_open(true);
    let families = DB::list_cf(&options, db)?;
    let families = families.iter().map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    let store = DB::open_cf_descriptors(&options, db, families)?;
    let family = store.cf_handle(NODE_FAMILY).ok_or("no family of nodes")?;
    let value = [7; NODE_BYTES as usize - 32];
    for first in (0..bytes / NODE_BYTES).step_by(usize::try_from(COMMIT_NODES)?) {
        let mut commit = WriteBatch::default();
        for number in first..first + COMMIT_NODES {
            let mut key = [0; 32];
            let (start, _) = key.split_at_mut(8);
            start.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()); // in no order, as hashes are
            commit.put_cf(family, key, value);
        }
        store.write(commit)?;
    }
    Ok(store)
}

/// What a look is called with, before the folder of its store.
const LOOK: &str = "--look";

/// How long looks take, each from its start until its process has ended.
#[derive(Default)]
struct Looks {
    times: Vec<Duration>,
    /// Those that the heartbeat answered.
    heard: usize,
}

impl Looks {
    fn at(db: &Path, rounds: u64) -> Result<Self, Error> {
        let mut looks = Self::default();
        for _ in 0..rounds {
            let start = Instant::now();
            let look = Command::new(std::env::current_exe()?).arg(LOOK).arg(db).output()?;
            looks.times.push(start.elapsed());
            let told = String::from_utf8(look.stdout)?;
            if look.status.code().is_none_or(|code| code > 2) {
                return Err(format!("a look ended with {}: {told}", look.status).into());
            }
            looks.heard += usize::from(told.contains("by_heartbeat"));
        }
        Ok(looks)
    }

    fn tell(self, table: &mut Table, what: &str) {
        table.number(&format!("{what}, by its heartbeat"), (self.heard as f64, "looks"), Bound::None);
        tell(table, what, self.times);
    }
}

/// The node of a store, while it runs.
struct Beside {
    /// How long it takes to tell its health. The first is asked for as soon as the node serves.
    answers: Vec<Duration>,
    looks: Looks,
}

fn beside_its_node(data: &Path, db: &Path, rounds: u64) -> Result<Beside, Error> {
    let settings = ["node.listen=127.0.0.1:0".to_owned(), format!("node.data_dir={}", data.display())];
    let config = Config::parse("bench", "", &settings).map_err(|problems| format!("{problems:?}"))?;
    Runtime::new()?.block_on(async {
        let app = App::start(&config, Arc::new(SystemClock::new())).await?;
        let client = Client::new(&format!("http://{}", app.address()))?;
        let mut times = Vec::new();
        for _ in 0..rounds {
            let start = Instant::now();
            client.json("healthz").await?;
            times.push(start.elapsed());
        }
        let db = db.to_owned();
        let looks = spawn_blocking(move || Looks::at(&db, rounds).map_err(|error| error.to_string())).await??;
        app.stop().await?;
        Ok(Beside { answers: times, looks })
    })
}

fn tell(table: &mut Table, what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |share| (percentile(&times, share).as_secs_f64() * 1e3, "ms");
    table.number(&format!("{what}, p50"), ms(0.5), Bound::None);
    table.number(&format!("{what}, longest"), ms(1.0), Bound::AtMost(1_000.0));
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => panic!("{error}"),
    }
}

fn run() -> Result<ExitCode, Error> {
    if let Some(db) = args::text(LOOK) {
        return Ok(cli::main(["state-node", "health-check", "--json", "--db", &db].map(OsString::from)));
    }
    let count = args::number("--files").unwrap_or(100_000);
    let (rounds, log_mib) = (args::number("--rounds").unwrap_or(5), args::number("--log").unwrap_or(256));
    let dir = tempfile::tempdir()?;
    let (db, tables) = (dir.path().join("store"), dir.path().join("tables"));
    std::fs::create_dir(&tables)?;
    make(&db, &tables, count)?;
    let mut table = Table::default();
    table.number("files of the node family", (count as f64, "files"), Bound::None);
    Looks::at(&db, rounds)?.tell(&mut table, "health of a store that no node has run on");
    let Beside { answers, looks } = beside_its_node(dir.path(), &db, rounds)?;
    tell(&mut table, "health over HTTP", answers);
    looks.tell(&mut table, "health from outside beside its node");
    Looks::at(&db, rounds)?.tell(&mut table, "health from outside after its node");
    let writer = fill_log(&db, log_mib << 20)?;
    let looks = Looks::at(&db, rounds)?;
    drop(writer);
    table.number("log of the engine", (log_mib as f64, "MiB"), Bound::None);
    looks.tell(&mut table, "health beside a full log of no node");
    Ok(table.finish())
}
