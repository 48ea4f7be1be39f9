//! How the engine is tuned: database options, family options of our own stores, and those of a Rooch store.
//!
//! On-disk features are the same for both kinds, so that a node built on RocksDB 9.9.3 reads either: LZ4 from level 2
//! down, values of 1 KiB and more in LZ4 blob files, two-level index with partitioned bloom filters of 10 bits, table
//! format 6 (this engine would write 7). Only sizes differ. Rooch's are kept for a Rooch store, except its write
//! buffer of 512 MiB, which is memory and leaves no trace on disk.
//!
//! Index and filters of our own stores come in parts of 16 KiB, four times those of Rooch: each of the hundred keys that a
//! commit looks for in vain needs a part of every level's filter, and finding the part costs more than asking it. Keys are
//! hashes, so larger parts are found in the cache no less often; one that has to be read is longer.
//!
//! Our own node family: files of 32 MiB, so that one range of a sweep needs little extra disk, and dynamic level
//! bytes, which keep the upper levels at about a tenth of the data. A file that is flushed during a sweep spans every
//! key, so the level under it is rewritten whole with each range: the level base bounds that work. Measured against other
//! file sizes, a plain index, no bloom filter and no blob files, none was better by more than a few per cent
//! (docs/performance.md, bench `options`).

use std::{ffi::CStr, sync::Arc};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, CompactionDecision, DBCompressionType, DBRecoveryMode, Options,
    compaction_filter::CompactionFilter,
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use crate::filter::{Paced, SweepJudge, SweepSlot, Verdict};

/// Sizes of the engine; what they change is memory and speed, never what is on disk or safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RocksConfig {
    /// Bytes of the cache of blocks, shared by every family.
    pub block_cache_bytes: usize,
    /// Bytes of one memtable of the node family; up to three exist.
    pub write_buffer_bytes: usize,
    /// Table files kept open.
    pub max_open_files: i32,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
    /// Threads of one rewrite of a range.
    pub subcompactions: u8,
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self {
            block_cache_bytes: 128 << 20,
            write_buffer_bytes: 64 << 20,
            max_open_files: 512,
            background_jobs: 4,
            subcompactions: 2,
        }
    }
}

pub(super) const MIN_BLOB_BYTES: u64 = 1024;
const WAL_BYTES: u64 = 256 << 20;
const SYNC_STEP_BYTES: u64 = 1 << 20;
const ROW_WRITE_BUFFER_BYTES: usize = 8 << 20;
const NODE_FILE_BYTES: u64 = 32 << 20;
const NODE_LEVEL_BASE_BYTES: u64 = 128 << 20;
const ROOCH_FILE_BYTES: u64 = 128 << 20;
const ROOCH_LEVEL_BASE_BYTES: u64 = 2 << 30;
const PART_BYTES: usize = 16 << 10;
const ROOCH_PART_BYTES: usize = 4 << 10;
/// Share of a memtable that its filter takes.
const MEMTABLE_BLOOM: f64 = 0.02;
const LEVEL_MULTIPLIER: f64 = 8.0;

/// Builds the options of one open; the cache is shared by all its families.
pub(super) struct Tuning<'a> {
    config: &'a RocksConfig,
    cache: Cache,
}

impl<'a> Tuning<'a> {
    pub(super) fn new(config: &'a RocksConfig) -> Self {
        Self { config, cache: Cache::new_lru_cache(config.block_cache_bytes) }
    }

    /// Options of the database itself.
    pub(super) fn database(&self) -> Options {
        let mut options = Options::default();
        options.set_max_open_files(self.config.max_open_files);
        options.set_max_background_jobs(self.config.background_jobs);
        options.set_max_total_wal_size(WAL_BYTES);
        options.set_bytes_per_sync(SYNC_STEP_BYTES);
        options.set_wal_bytes_per_sync(SYNC_STEP_BYTES);
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options
    }

    /// A family of rows. Its values stay in the tables: rows of the journal are long and live for a window only, and
    /// blob files would keep them for longer.
    pub(super) fn rows(&self) -> Options {
        let mut options = self.family();
        options.set_enable_blob_files(false);
        options.set_write_buffer_size(ROW_WRITE_BUFFER_BYTES);
        filtered(&mut options);
        options.set_level_compaction_dynamic_level_bytes(true);
        options
    }

    /// The node family of our own stores.
    pub(super) fn nodes(&self, slot: &Arc<SweepSlot>) -> Options {
        let mut options = self.family();
        options.set_write_buffer_size(self.config.write_buffer_bytes);
        options.set_max_write_buffer_number(3);
        filtered(&mut options);
        options.set_target_file_size_base(NODE_FILE_BYTES);
        options.set_max_bytes_for_level_base(NODE_LEVEL_BASE_BYTES);
        options.set_max_bytes_for_level_multiplier(LEVEL_MULTIPLIER);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_compaction_filter_factory(SweepFilters(Arc::clone(slot)));
        options
    }

    /// A family of a Rooch store other than the one of nodes. Nothing is compacted unless we ask for it.
    pub(super) fn rooch_rows(&self) -> Options {
        let mut options = self.rows();
        options.set_enable_blob_files(true);
        options.set_disable_auto_compactions(true);
        options.set_block_based_table_factory(&self.table(ROOCH_PART_BYTES));
        options
    }

    /// The node family of a Rooch store. Nothing is compacted unless we ask for it.
    pub(super) fn rooch_nodes(&self, slot: &Arc<SweepSlot>) -> Options {
        let mut options = self.nodes(slot);
        options.set_target_file_size_base(ROOCH_FILE_BYTES);
        options.set_max_bytes_for_level_base(ROOCH_LEVEL_BASE_BYTES);
        options.set_level_compaction_dynamic_level_bytes(false);
        options.set_disable_auto_compactions(true);
        options.set_block_based_table_factory(&self.table(ROOCH_PART_BYTES));
        options
    }

    fn family(&self) -> Options {
        use DBCompressionType::{Lz4, None};
        let mut options = Options::default();
        options.set_compression_type(Lz4);
        options.set_compression_per_level(&[None, None, Lz4, Lz4, Lz4, Lz4, Lz4]);
        options.set_enable_blob_files(true);
        options.set_min_blob_size(MIN_BLOB_BYTES);
        options.set_blob_compression_type(Lz4);
        options.set_enable_blob_gc(true);
        options.set_block_based_table_factory(&self.table(PART_BYTES));
        options
    }

    /// `part_bytes` is the size of one part of index and filter.
    fn table(&self, part_bytes: usize) -> BlockBasedOptions {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_format_version(6); // RocksDB 9.9.3 reads no newer one
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_bloom_filter(10.0, false);
        table.set_partition_filters(true);
        table.set_metadata_block_size(part_bytes);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_top_level_index_and_filter(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table
    }
}

/// Memtables with a filter: most keys that a commit looks for are not in memory, or nowhere.
fn filtered(options: &mut Options) {
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM);
}

/// The name by which an OPTIONS file tells that our filter was installed.
pub(super) const FILTER_NAME: &CStr = c"state-pruner.sweep";

/// Gives each compaction its judge.
struct SweepFilters(Arc<SweepSlot>);

impl CompactionFilterFactory for SweepFilters {
    type Filter = SweepFilter;

    fn create(&mut self, context: CompactionFilterContext) -> SweepFilter {
        let paced = if context.is_manual_compaction {
            Paced::Yes
        } else {
            Paced::No // braking the engine's own compactions could stall commits (I12)
        };
        SweepFilter(self.0.judge(paced))
    }

    fn name(&self) -> &CStr {
        FILTER_NAME
    }
}

struct SweepFilter(SweepJudge);

impl CompactionFilter for SweepFilter {
    fn filter(&mut self, level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if level == 0 {
            self.0.hasten();
        }
        if self.0.judge(key, value.len()) == Verdict::Drop {
            CompactionDecision::Remove
        } else {
            CompactionDecision::Keep
        }
    }

    fn name(&self) -> &CStr {
        FILTER_NAME
    }
}
