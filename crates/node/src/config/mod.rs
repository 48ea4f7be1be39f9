//! The configuration of a node: one file, one source of defaults, every problem reported at once.
//!
//! The shipped `config/node.toml` names every key and parses to [`Config::default`]. Safety is never a key.

mod check;
mod choices;
mod events;
mod health;
mod parts;
mod recovery;
mod source;

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use state_pruner::{
    HealthConfig, OldReaders, PrunerConfig, Share, SweepChoice,
    mark::{MarkChoice, RehashChoice},
    recovery::RecoveryConfig,
    snapshot::SnapshotPath,
};

pub use choices::{DurabilityChoice, IncrementalChoice, LogFormat};
pub use events::EventsSection;
pub use source::Problem;
use source::Source;

/// The shipped configuration file.
pub const SHIPPED: &str = include_str!("../../../../config/node.toml");

/// Section `[node]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSection {
    /// Name in logs and status.
    pub id: String,
    /// Folder of everything the node writes.
    pub data_dir: PathBuf,
    /// Address of the HTTP interface; one of loopback, unless commands need a token.
    pub listen: SocketAddr,
    /// File of the token that commands need; absent means that they need none.
    pub admin_token_file: Option<PathBuf>,
    /// Longest time one request may take.
    pub request_timeout: Duration,
    /// Longest time the end of the node may take; then the process ends without it, and says so.
    pub stop_timeout: Duration,
}

/// Section `[chain]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSection {
    /// Least time between two blocks that are not full.
    pub block_interval: Duration,
    /// Transactions at which a block is made at once.
    pub max_block_transactions: NonZeroUsize,
    /// Most transactions that wait.
    pub mempool_limit: NonZeroUsize,
    /// Most bytes of transactions that wait.
    pub mempool_bytes: u64,
    /// When an acknowledged transaction survives.
    pub durability: DurabilityChoice,
    /// Blocks kept; absent means all.
    pub keep_blocks: Option<NonZeroU64>,
}

/// Section `[pruner]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PrunerSection {
    /// Whether the node prunes itself.
    pub enabled: bool,
    /// Orders retained, head included.
    pub keep_last: NonZeroU64,
    /// Orders not older than this at the head, by the chain's clock, are retained too; absent means no such bound.
    pub keep_time: Option<Duration>,
    /// Every order that is a multiple of this is retained below the window; absent means none.
    pub keep_every: Option<NonZeroU64>,
    /// Longest time for which a reader holds an order below the window; absent means without end.
    pub max_reader_age: Option<Duration>,
    /// What happens to readers that hold one for longer.
    pub old_readers: OldReaders,
    /// Orders between two cycles.
    pub every_orders: NonZeroU64,
    /// Most time between the beginnings of two cycles; absent means no schedule.
    pub every: Option<Duration>,
    /// How far the cycles of a fleet are spread.
    pub jitter: Share,
    /// The share of the nodes that may be garbage at which a cycle begins; absent means that it is not looked at.
    pub garbage_ratio: Option<Share>,
    /// Free bytes below which a cycle begins; absent means that they are not looked at.
    pub low_disk: Option<u64>,
    /// Room kept on the device for when it is full, in bytes.
    pub reserve: Option<u64>,
    /// Least time between the beginnings of two automatic cycles.
    pub cooldown: Duration,
    /// How to find what is live.
    pub mark: MarkChoice,
    /// How to delete.
    pub sweep: SweepChoice,
    /// How often a walk writes down how far it is; absent means never.
    pub note_every: Option<Duration>,
    /// Most bytes of memory for marking.
    pub memory_budget: u64,
    /// What marking hashes again.
    pub rehash: RehashChoice,
    /// Bytes a sweep may move per second; absent means no brake.
    pub io_limit: Option<u64>,
    /// Live nodes read back after each cycle.
    pub verify_sample: NonZeroU64,
    /// After so long without renewal a lock may be taken over.
    pub lock_timeout: Duration,
    /// So long a phase waits for a lock that another one holds.
    pub lock_wait: Duration,
    /// A snapshot older than this is not used.
    pub max_snapshot_age: Duration,
    /// Whether snapshots survive a restart and are checked at each lock.
    pub snapshots: SnapshotPath,
    /// Most created nodes remembered during one cycle.
    pub barrier_limit: NonZeroUsize,
    /// Whether the commit journal is swept between cycles.
    pub incremental: IncrementalChoice,
    /// Most nodes of unsettled journal entries remembered.
    pub pending_limit: NonZeroUsize,
    /// How failed phases are met.
    pub recovery: RecoveryConfig,
}

/// Section `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSection {
    /// What is logged.
    pub filter: String,
    /// How it looks.
    pub format: LogFormat,
}

/// The configuration of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Section `[node]`.
    pub node: NodeSection,
    /// Section `[chain]`.
    pub chain: ChainSection,
    /// Section `[pruner]`.
    pub pruner: PrunerSection,
    /// Section `[events]`.
    pub events: EventsSection,
    /// Section `[health]`.
    pub health: HealthConfig,
    /// Section `[log]`.
    pub log: LogSection,
}

const fn count(number: usize) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(number - 1)
}

const fn number(number: u64) -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(number - 1)
}

impl Default for Config {
    fn default() -> Self {
        let (id, keep_last) = ("reference", number(128));
        let PrunerConfig { every_orders, triggers, cycle, snapshots, recovery, .. } =
            PrunerConfig::for_server(id, keep_last, PathBuf::new());
        Self {
            node: NodeSection {
                id: id.to_owned(),
                data_dir: PathBuf::from("run/node"),
                listen: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8645)),
                admin_token_file: None,
                request_timeout: Duration::from_secs(60),
                stop_timeout: Duration::from_secs(60),
            },
            chain: ChainSection {
                block_interval: Duration::from_millis(100),
                max_block_transactions: count(1000),
                mempool_limit: count(20_000),
                mempool_bytes: 64 << 20,
                durability: DurabilityChoice::Synced,
                keep_blocks: None,
            },
            pruner: PrunerSection {
                enabled: true,
                keep_last,
                keep_time: None,
                keep_every: None,
                max_reader_age: Some(Duration::from_secs(3600)),
                old_readers: OldReaders::Report,
                every_orders,
                every: triggers.every,
                jitter: triggers.jitter,
                garbage_ratio: triggers.garbage_ratio,
                low_disk: triggers.low_disk.map(NonZeroU64::get),
                reserve: Some(96 << 20), // a range, what it needs beside it, and some
                cooldown: triggers.cooldown,
                mark: cycle.mark,
                sweep: cycle.sweep,
                note_every: cycle.note_every,
                memory_budget: cycle.memory_budget,
                rehash: cycle.rehash,
                io_limit: cycle.io_limit.map(NonZeroU64::get),
                verify_sample: number(cycle.verify_sample),
                lock_timeout: Duration::from_millis(snapshots.lock_timeout_ms),
                lock_wait: Duration::from_millis(snapshots.lock_wait_ms),
                max_snapshot_age: Duration::from_millis(snapshots.max_snapshot_age_ms),
                snapshots: SnapshotPath::Full,
                barrier_limit: count(10_000_000),
                incremental: IncrementalChoice::On,
                pending_limit: count(10_000_000),
                recovery,
            },
            events: EventsSection::default(),
            health: HealthConfig::default(),
            log: LogSection { filter: "info".to_owned(), format: LogFormat::Text },
        }
    }
}

impl Config {
    /// Reads a file, then the assignments of the command line, which win.
    ///
    /// Errors: every problem there is.
    pub fn load(file: &Path, assignments: &[String]) -> Result<Self, Vec<Problem>> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| {
            vec![Problem { key: None, origin: name.clone(), message: format!("cannot be read: {error}") }]
        })?;
        Self::parse(&name, &text, assignments)
    }

    /// Reads the text of a file, then the assignments of the command line, which win.
    ///
    /// Errors: every problem there is.
    pub fn parse(file: &str, text: &str, assignments: &[String]) -> Result<Self, Vec<Problem>> {
        let mut source = Source::parse(file, text);
        assignments.iter().for_each(|assignment| source.set(assignment));
        let mut config = Self::default();
        config.read(&mut source);
        check::contradictions(&config, &mut source);
        let problems = source.finish();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The sections in which another configuration differs, `pruner.enabled` apart.
    pub(crate) fn sections_beside_the_switch(&self, other: &Self) -> Vec<&'static str> {
        let mut other = other.clone();
        other.pruner.enabled = self.pruner.enabled;
        let Self { node, chain, pruner, events, health, log } = self;
        let differs = [
            ("[node]", *node != other.node),
            ("[chain]", *chain != other.chain),
            ("[pruner]", *pruner != other.pruner),
            ("[events]", *events != other.events),
            ("[health]", *health != other.health),
            ("[log]", *log != other.log),
        ];
        differs.into_iter().filter_map(|(section, differs)| differs.then_some(section)).collect()
    }

    /// Takes every key there is.
    fn read(&mut self, source: &mut Source) {
        let Self { node, chain, pruner, events, health, log } = self;
        source.take("node.id", &mut node.id);
        source.take("node.data_dir", &mut node.data_dir);
        source.take_address("node.listen", &mut node.listen);
        source.take("node.admin_token_file", &mut node.admin_token_file);
        source.take_duration("node.request_timeout", &mut node.request_timeout);
        source.take_duration("node.stop_timeout", &mut node.stop_timeout);
        source.take_duration("chain.block_interval", &mut chain.block_interval);
        source.take_count("chain.max_block_transactions", &mut chain.max_block_transactions);
        source.take_count("chain.mempool_limit", &mut chain.mempool_limit);
        source.take_bytes("chain.mempool_bytes", &mut chain.mempool_bytes);
        source.take_choice("chain.durability", &mut chain.durability);
        source.take_optional_count("chain.keep_blocks", &mut chain.keep_blocks);
        source.take("pruner.enabled", &mut pruner.enabled);
        source.take_count("pruner.keep_last", &mut pruner.keep_last);
        source.take_optional_duration("pruner.keep_time", &mut pruner.keep_time);
        source.take_optional_count("pruner.keep_every", &mut pruner.keep_every);
        source.take_optional_duration("pruner.max_reader_age", &mut pruner.max_reader_age);
        source.take_choice("pruner.old_readers", &mut pruner.old_readers);
        source.take_count("pruner.every_orders", &mut pruner.every_orders);
        source.take_optional_duration("pruner.every", &mut pruner.every);
        source.take_share("pruner.jitter", &mut pruner.jitter);
        source.take_optional_share("pruner.garbage_ratio", &mut pruner.garbage_ratio);
        source.take_optional_bytes("pruner.low_disk", &mut pruner.low_disk);
        source.take_optional_bytes("pruner.reserve", &mut pruner.reserve);
        source.take_duration("pruner.cooldown", &mut pruner.cooldown);
        source.take_choice("pruner.mark", &mut pruner.mark);
        source.take_choice("pruner.sweep", &mut pruner.sweep);
        source.take_optional_duration("pruner.note_every", &mut pruner.note_every);
        source.take_bytes("pruner.memory_budget", &mut pruner.memory_budget);
        source.take_choice("pruner.rehash", &mut pruner.rehash);
        source.take_optional_bytes("pruner.io_limit", &mut pruner.io_limit);
        source.take_count("pruner.verify_sample", &mut pruner.verify_sample);
        source.take_duration("pruner.lock_timeout", &mut pruner.lock_timeout);
        source.take_duration("pruner.lock_wait", &mut pruner.lock_wait);
        source.take_duration("pruner.max_snapshot_age", &mut pruner.max_snapshot_age);
        source.take_choice("pruner.snapshots", &mut pruner.snapshots);
        source.take_count("pruner.barrier_limit", &mut pruner.barrier_limit);
        source.take_choice("pruner.incremental", &mut pruner.incremental);
        source.take_count("pruner.pending_limit", &mut pruner.pending_limit);
        events.read(source);
        recovery::read(&mut pruner.recovery, source);
        health::read(source, health);
        source.take("log.filter", &mut log.filter);
        source.take_choice("log.format", &mut log.format);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::every_key_reaches_the_part_it_configures;
