//! The options of the node family, each candidate against the one in use, with the nodes of one store: loading,
//! random reads, look-ups of keys that are nowhere (in small sorted groups, as a commit asks), a full scan, bytes on disk.
//! Look-ups are timed twice: with a cache that holds every filter, and with one that holds next to none. Every
//! candidate is readable by RocksDB 9.9.3 with Rooch's options.
//!
//!     ./scripts/bench --bench options -- --nodes 1000000 --live 25 --rounds 2

use std::{path::Path, process::ExitCode};

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DEFAULT_COLUMN_FAMILY_NAME, Options,
    ReadOptions, WriteBatch,
};
use state_benches::{Arguments, Bound, Error, Least, Stopwatch, Table, build};

type Rows = Vec<(Box<[u8]>, Box<[u8]>)>;

const READS: usize = 100_000;
const READS_AT_ONCE: usize = 1_000;
const ROWS_PER_BATCH: usize = 1_000;
/// Keys that one commit looks for.
const LOOKED_FOR_AT_ONCE: usize = 100;
const CACHE_BYTES: usize = 32 << 20;
/// Less than the filters of any candidate.
const SMALL_CACHE_BYTES: usize = 64 << 10;

/// One set of options; the first candidate is the one in use.
#[derive(Clone, Copy)]
struct Candidate {
    name: &'static str,
    file_mib: u64,
    partitioned: Partitioned,
    /// Of each part of index and filter, if partitioned.
    metadata_kib: usize,
    bloom_bits: f64,
    blobs_from: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Partitioned {
    Yes,
    No,
}

const IN_USE: Candidate = Candidate {
    name: "in use: 32 MiB, partitioned by 16 KiB, bloom 10, blobs",
    file_mib: 32,
    partitioned: Partitioned::Yes,
    metadata_kib: 16,
    bloom_bits: 10.0,
    blobs_from: Some(1024),
};

const CANDIDATES: [Candidate; 8] = [
    IN_USE,
    Candidate { name: "files of 8 MiB", file_mib: 8, ..IN_USE },
    Candidate { name: "files of 128 MiB, as Rooch", file_mib: 128, ..IN_USE },
    Candidate { name: "partitioned by 4 KiB, as Rooch", metadata_kib: 4, ..IN_USE },
    Candidate { name: "partitioned by 64 KiB", metadata_kib: 64, ..IN_USE },
    Candidate { name: "one index block per file", partitioned: Partitioned::No, ..IN_USE },
    Candidate { name: "no bloom filter", bloom_bits: 0.0, ..IN_USE },
    Candidate { name: "no blob files", blobs_from: None, ..IN_USE },
];

struct Measured {
    load: Least,
    read: Least,
    absent: Least,
    absent_cold: Least,
    scan: Least,
    bytes: f64,
}

fn main() -> Result<ExitCode, Error> {
    let arguments = Arguments::from_command_line()?;
    let built = build(&arguments)?;
    let rows = rows_of(&built.db)?;
    let mut table = Table::default();
    measure(IN_USE, &rows, 1, &mut Table::default())?; // whoever is first finds nothing warm
    let mut first = None;
    for candidate in CANDIDATES {
        let measured = measure(candidate, &rows, arguments.rounds, &mut table)?;
        let Measured { load, read, absent, absent_cold, scan, bytes } = first.get_or_insert(Measured { ..measured });
        table.ratio(&format!("{}: load", candidate.name), measured.load, *load, Bound::None);
        table.ratio(&format!("{}: random reads", candidate.name), measured.read, *read, Bound::None);
        table.ratio(&format!("{}: absent keys", candidate.name), measured.absent, *absent, Bound::None);
        let cold = format!("{}: absent keys, small cache", candidate.name);
        table.ratio(&cold, measured.absent_cold, *absent_cold, Bound::None);
        table.ratio(&format!("{}: full scan", candidate.name), measured.scan, *scan, Bound::None);
        table.number(&format!("{}: bytes", candidate.name), (measured.bytes / *bytes, "of those in use"), Bound::None);
    }
    Ok(table.finish())
}

fn rows_of(db: &Path) -> Result<Rows, Error> {
    let families = DB::list_cf(&Options::default(), db)?;
    let db = DB::open_cf_for_read_only(&Options::default(), db, families, false)?;
    let family = db.cf_handle("state_node").ok_or("no node family")?;
    let mut rows: Rows = db.iterator_cf(family, rocksdb::IteratorMode::Start).collect::<Result<_, _>>()?;
    rows.shuffle(&mut ChaCha8Rng::seed_from_u64(7)); // nodes are put in the order of commits, not of keys
    Ok(rows)
}

fn options(candidate: Candidate, cache_bytes: usize) -> Options {
    use DBCompressionType::{Lz4, None};
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(cache_bytes));
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    if candidate.partitioned == Partitioned::Yes {
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_metadata_block_size(candidate.metadata_kib << 10);
        table.set_pin_top_level_index_and_filter(true);
    }
    if candidate.bloom_bits > 0.0 {
        table.set_bloom_filter(candidate.bloom_bits, false);
    }
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_per_level(&[None, None, Lz4, Lz4, Lz4, Lz4, Lz4]);
    options.set_write_buffer_size(64 << 20);
    options.set_target_file_size_base(candidate.file_mib << 20);
    options.set_max_bytes_for_level_base(128 << 20);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(2);
    if let Some(bytes) = candidate.blobs_from {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(bytes);
        options.set_blob_compression_type(Lz4);
    }
    options.set_block_based_table_factory(&table);
    options
}

fn measure(candidate: Candidate, rows: &Rows, rounds: usize, table: &mut Table) -> Result<Measured, Error> {
    let watch = Stopwatch::default();
    let (mut loads, mut reads, mut scans, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let (mut absents, mut absents_cold) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let folder = tempfile::tempdir()?;
        let db = open(&options(candidate, CACHE_BYTES), folder.path())?;
        loads.push(watch.time(|| load(&db, rows))?.0);
        db.compact_range(None::<&[u8]>, None::<&[u8]>);
        reads.push(watch.time(|| read(&db, rows))?.0);
        scans.push(watch.time(|| scan(&db, rows.len()))?.0);
        absents.push(watch.time(|| look_for_absent(&db))?.0);
        drop(db);
        let db = open(&options(candidate, SMALL_CACHE_BYTES), folder.path())?;
        absents_cold.push(watch.time(|| look_for_absent(&db))?.0);
        bytes = 0;
        for file in std::fs::read_dir(folder.path())? {
            let file = file?;
            let data = file.path().extension().is_some_and(|kind| kind == "sst" || kind == "blob");
            bytes += if data { file.metadata()?.len() } else { 0 };
        }
    }
    Ok(Measured {
        load: table.time(&format!("{}: load", candidate.name), &loads),
        read: table.time(&format!("{}: random reads", candidate.name), &reads),
        absent: table.time(&format!("{}: absent keys", candidate.name), &absents),
        absent_cold: table.time(&format!("{}: absent keys, small cache", candidate.name), &absents_cold),
        scan: table.time(&format!("{}: full scan", candidate.name), &scans),
        bytes: bytes as f64,
    })
}

fn open(options: &Options, path: &Path) -> Result<DB, Error> {
    Ok(DB::open_cf_with_opts(options, path, [(DEFAULT_COLUMN_FAMILY_NAME, options.clone())])?)
}

fn load(db: &DB, rows: &Rows) -> Result<(), Error> {
    for part in rows.chunks(ROWS_PER_BATCH) {
        let mut batch = WriteBatch::default();
        part.iter().for_each(|(key, value)| batch.put(key, value));
        db.write(batch)?;
    }
    db.flush()?;
    Ok(())
}

fn read(db: &DB, rows: &Rows) -> Result<(), Error> {
    let picked = rows.iter().step_by((rows.len() / READS).max(1)).map(|(key, _)| key);
    let mut keys: Vec<&[u8]> = picked.map(AsRef::as_ref).collect();
    keys.shuffle(&mut ChaCha8Rng::seed_from_u64(8));
    for part in keys.chunks_mut(READS_AT_ONCE) {
        part.sort_unstable();
        for found in db.multi_get(part.iter()) {
            found?.ok_or("a node is missing")?;
        }
    }
    Ok(())
}

fn look_for_absent(db: &DB) -> Result<(), Error> {
    let (mut random, family) =
        (ChaCha8Rng::seed_from_u64(9), db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME).ok_or("no family")?);
    for _ in 0..READS / LOOKED_FOR_AT_ONCE {
        let mut keys: Vec<[u8; 32]> = (0..LOOKED_FOR_AT_ONCE).map(|_| random.random()).collect();
        keys.sort_unstable();
        for found in db.batched_multi_get_cf(family, &keys, true) {
            if found?.is_some() {
                return Err("a random key is a node's".into());
            }
        }
    }
    Ok(())
}

fn scan(db: &DB, rows: usize) -> Result<(), Error> {
    let mut read = ReadOptions::default();
    read.set_readahead_size(4 << 20);
    read.fill_cache(false);
    let mut iterator = db.raw_iterator_opt(read);
    iterator.seek_to_first();
    let mut seen = 0;
    while iterator.valid() {
        seen += 1;
        iterator.next();
    }
    iterator.status()?;
    if seen == rows { Ok(()) } else { Err("a scan missed rows".into()) }
}
