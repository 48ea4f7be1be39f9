//! Opens a store with RocksDB 9.9.3 and the options of a Rooch node, reads every row of every family, loads the
//! OPTIONS file strictly, and with `--write` also writes, compacts, closes, opens again and reads back.
//!
//! Prints one line per family; ends with an error at the first thing that such a node could not do.

use std::{error::Error, path::Path};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, Env,
    IteratorMode, Options, DB,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const NODES: &str = "state_node";
const KEY: &[u8] = b"interop-written-by-9.9.3-0000001";

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = Path::new(arguments.first().ok_or("usage: interop-9-9-3 STORE [--write]")?);
    check_engine()?;
    let families = DB::list_cf(&Options::default(), path)?;
    load_options_strictly(path, &families)?;
    read_all(&open(path, &families)?, &families)?;
    if arguments.get(1).is_some_and(|argument| argument == "--write") {
        write_and_read_back(path, &families)?;
        load_options_strictly(path, &families)?;
    }
    println!("ok");
    Ok(())
}

/// The proof is worth nothing with another engine, and a prebuilt library in the environment links one silently: the
/// OPTIONS file of a new store tells.
fn check_engine() -> Outcome<()> {
    let path = std::env::temp_dir().join(format!("interop-9-9-3-{}", std::process::id()));
    let mut options = Options::default();
    options.create_if_missing(true);
    drop(DB::open(&options, &path)?);
    let mut version = None;
    for entry in std::fs::read_dir(&path)? {
        let file = entry?.path();
        if file
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("OPTIONS-"))
        {
            let text = std::fs::read_to_string(file)?;
            version = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("rocksdb_version=").map(str::to_owned));
        }
    }
    std::fs::remove_dir_all(&path)?;
    match version.as_deref() {
        Some("9.9.3") => Ok(()),
        other => Err(format!("linked with RocksDB {other:?}: unset ROCKSDB_LIB_DIR and ROCKSDB_STATIC").into()),
    }
}

/// As a tool of Rooch would: every option in the file must be known to 9.9.3.
fn load_options_strictly(path: &Path, families: &[String]) -> Outcome<()> {
    let (_, loaded) = Options::load_latest(path, Env::new()?, false, Cache::new_lru_cache(1 << 20))?;
    let mut names: Vec<&str> = loaded.iter().map(|family| family.name()).collect();
    let mut present: Vec<&str> = families.iter().map(String::as_str).collect();
    names.sort_unstable();
    present.sort_unstable();
    if names != present {
        return Err(format!("the OPTIONS file names {names:?}, the store has {present:?}").into());
    }
    println!("options loaded strictly: {} families", loaded.len());
    Ok(())
}

fn open(path: &Path, families: &[String]) -> Outcome<DB> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_open_files(4096);
    options.set_max_total_wal_size(2 << 30);
    options.set_wal_bytes_per_sync(1 << 20);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_background_jobs(6);
    options.set_max_write_buffer_number(4);
    options.set_enable_pipelined_write(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_advise_random_on_open(true);
    let cache = Cache::new_hyper_clock_cache(256 << 20, 4200);
    let described = families
        .iter()
        .map(|name| ColumnFamilyDescriptor::new(name.as_str(), family_options(name, &cache)));
    Ok(DB::open_cf_descriptors(&options, path, described)?)
}

fn family_options(name: &str, cache: &Cache) -> Options {
    use DBCompressionType::{Lz4, None};
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_bloom_filter(10.0, false);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4096);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_compression_per_level(&[None, None, Lz4, Lz4, Lz4, Lz4, Lz4]);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(1024);
    options.set_blob_compression_type(Lz4);
    options.set_enable_blob_gc(true);
    options.set_block_based_table_factory(&table);
    options.set_level_compaction_dynamic_level_bytes(name != NODES);
    if name == NODES {
        options.set_write_buffer_size(512 << 20);
        options.set_max_write_buffer_number(4);
        options.set_target_file_size_base(128 << 20);
        options.set_max_bytes_for_level_base(2 << 30);
        options.set_max_bytes_for_level_multiplier(8.0);
    }
    options
}

/// Every row, with block checksums verified; a blob that cannot be read is an error here too.
fn read_all(db: &DB, families: &[String]) -> Outcome<()> {
    for name in families {
        let family = db.cf_handle(name).ok_or("a family without a handle")?;
        let (mut rows, mut bytes) = (0u64, 0u64);
        for row in db.iterator_cf(family, IteratorMode::Start) {
            let (key, value) = row?;
            rows += 1;
            bytes += (key.len() + value.len()) as u64;
            if name == NODES && db.get_cf(family, &key)?.as_deref() != Some(&value[..]) {
                return Err("a lookup disagrees with the scan".into());
            }
        }
        println!("{name}: {rows} rows, {bytes} bytes");
    }
    Ok(())
}

fn write_and_read_back(path: &Path, families: &[String]) -> Outcome<()> {
    let large = vec![7u8; 5000];
    {
        let db = open(path, families)?;
        let nodes = db.cf_handle(NODES).ok_or("no node family")?;
        db.put_cf(nodes, KEY, &large)?;
        db.flush_cf(nodes)?;
        db.compact_range_cf(nodes, None::<&[u8]>, None::<&[u8]>);
    }
    let db = open(path, families)?;
    let nodes = db.cf_handle(NODES).ok_or("no node family")?;
    if db.get_cf(nodes, KEY)?.as_deref() != Some(&large[..]) {
        return Err("what was written is not read back".into());
    }
    db.delete_cf(nodes, KEY)?;
    db.flush_cf(nodes)?;
    println!("written, compacted, opened again and read back");
    read_all(&db, families)
}
