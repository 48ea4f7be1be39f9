//! A running node: what is built in which order, and what is torn down in which.
//!
//! Build: store, events, pruner (before the first commit), chain, block production, HTTP. Teardown: HTTP stops accepting,
//! the mempool drains into last blocks, connections drain and are cut off then, the pruner stops and lets go of its locks,
//! the store is flushed, what happened is written down and synced, the store closes and its last heartbeat is written. No step
//! waits for a client, and none is left out because one before it failed. Dropping the node without stopping it is like a kill:
//! safe, and what waited is lost.

mod ending;
mod feed;
mod pulse;
mod refused;
mod reserve;
mod watch;

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context as _;
use state_pruner::{
    Clock, FloorRows, Heart, LiveRetention, LogCuts, Pruner, PrunerParts, RetentionParts, StoreRecords, Unpruned,
    events::EventJournal, snapshot::NodeFacts,
};
use state_store::{Batch, NativeChain, RocksBackend, RocksConfig, Store, Table, allow_every_file};
use state_tree::{Order, RoochLayout};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use ending::close;
pub use ending::{Step, Stopped, TheEnd};
use feed::Feed;
pub(crate) use watch::Watch;

use crate::{
    caretaker::Caretaker,
    chain::{Chain, Producer},
    config::Config,
    damage::{Damage, Teller},
    http::{self, Bounds, Callers, Node, NodeParts, Server, Snapshots},
    telemetry,
    token::AdminToken,
};

/// How long open connections may take to end once the node stops.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what still reads for a connection that was cut off may take.
const LAST_READS: Duration = Duration::from_secs(5);
/// How often the recorder of metrics tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// A node that serves.
pub struct App {
    address: SocketAddr,
    callers: Callers,
    chain: Arc<Chain>,
    pruner: Option<Arc<Pruner>>,
    events: Arc<EventJournal>,
    snapshots: Arc<Snapshots>,
    /// None once it was drained.
    producer: Option<Producer>,
    server: Server,
    upkeep: JoinHandle<()>,
    /// Takes the reserve again, and tells what ends the work of the node.
    keeping: JoinHandle<()>,
    /// It tells from outside how the node is; and what lets it beat.
    heart: (Arc<Heart>, JoinHandle<()>),
    stop: CancellationToken,
    end: TheEnd,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("address", &self.address).finish_non_exhaustive()
    }
}

impl App {
    /// Opens the data of the node and serves it; returns once requests are taken.
    ///
    /// Errors: a store that cannot be opened, an address that is in use, a file without a token.
    pub async fn start(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let metrics = telemetry::metrics()?;
        http::describe();
        let token = config.node.admin_token_file.as_deref().map(AdminToken::read).transpose();
        let token = token.map_err(|error| anyhow::anyhow!("node.admin_token_file: {error}"))?; // it tells its source itself
        let callers = Callers::of(config.node.listen, token).context("node.listen")?;
        let listener = TcpListener::bind(config.node.listen).await;
        let listener = listener.map_err(|error| refused::not_listened_on(config.node.listen, &error))?;
        let address = listener.local_addr()?;
        let (db, beats_by) = (config.store_dir(), Arc::clone(&clock));
        let snapshots = Arc::new(Snapshots::new(db.clone(), Arc::clone(&clock)));
        let (id, patience, health) = (config.node.id.clone(), config.node.request_timeout, config.health);
        let config = config.clone();
        let opened = spawn_blocking(move || Core::open(&config, clock)).await??;
        let Core { chain, caretaker, retention, events, damage, producer } = opened;
        let pruner = caretaker.pruner().cloned();
        let heart = Arc::new(Heart::of(chain.store(), &db, beats_by));
        let stop = CancellationToken::new();
        let watch = Watch::of((&chain, &damage), &retention, Arc::clone(&events) as _);
        let parts = NodeParts {
            chain: Arc::clone(&chain),
            caretaker: Arc::clone(&caretaker),
            retention,
            events: Arc::clone(&events),
            snapshots: Arc::clone(&snapshots),
            metrics: metrics.clone(),
            callers: callers.clone(),
            health,
            damage,
            stop: stop.clone(),
        };
        let node = Arc::new(Node::new(id, parts, patience));
        let bounds = Bounds::within(allow_every_file(), RocksConfig::default().max_open_files.unsigned_abs().into());
        let server = Server::start(listener, http::router(node), stop.clone(), bounds).context("starting HTTP")?;
        let upkeep = tokio::spawn(async move {
            let mut timer = tokio::time::interval(UPKEEP);
            loop {
                timer.tick().await;
                metrics.run_upkeep();
            }
        });
        let keeping = tokio::spawn(Caretaker::keep(Arc::downgrade(&caretaker), watch, stop.clone()));
        let pulse = tokio::spawn(pulse::keep(Arc::clone(&heart), Arc::downgrade(&caretaker)));
        let end = TheEnd::of(pruner.as_ref());
        let (producer, heart) = (Some(producer), (heart, pulse));
        Ok(Self {
            address,
            callers,
            chain,
            pruner,
            events,
            snapshots,
            producer,
            server,
            upkeep,
            keeping,
            heart,
            stop,
            end,
        })
    }

    /// Where requests are taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What commands to it need.
    pub fn token(&self) -> Option<&AdminToken> {
        self.callers.token()
    }

    /// The chain it runs.
    pub fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// The pruner, if it is enabled.
    pub fn pruner(&self) -> Option<&Arc<Pruner>> {
        self.pruner.as_ref()
    }

    /// Tells what the end of the node waits for, once it has begun.
    pub fn end(&self) -> TheEnd {
        self.end.clone()
    }

    /// Stops accepting, and commits what waits: from then on the head stays. Done before, there is nothing to do.
    ///
    /// Errors: the thread that makes blocks had panicked.
    pub async fn drain(&mut self) -> anyhow::Result<()> {
        let Some(mut producer) = self.producer.take() else { return Ok(()) };
        self.stop.cancel(); // no new connections; requests that wait for a block get it
        let (snapshots, end) = (Arc::clone(&self.snapshots), self.end());
        let drained = spawn_blocking(move || {
            end.is_at(Step::Blocks);
            producer.finish();
            drop(producer);
            end.is_at(Step::Copy);
            snapshots.stop(); // a capture ends, and leaves nothing; AFTER the blocks: its disk may be another one
            tracing::info!("stopping: no copy is made any more");
        });
        drained.await.context("draining the mempool")
    }

    /// Drains, stops the pruner and closes the store.
    ///
    /// Errors: a task of the node had panicked, the last flush failed. Nothing acknowledged is lost by either.
    pub async fn stop(mut self) -> anyhow::Result<Stopped> {
        let drained = self.drain().await;
        self.end.is_at(Step::Requests);
        let Self { chain, pruner, events, mut server, upkeep, mut keeping, heart, end, .. } = self;
        let served = server.drain(PATIENCE).await.context("serving HTTP");
        let ended = server.end(LAST_READS).await.context("ending HTTP");
        upkeep.abort();
        if timeout(LAST_READS, &mut keeping).await.is_err() {
            keeping.abort(); // a disk that hangs has its thread
        }
        let closed = spawn_blocking(move || close((chain, pruner), (&events, heart), &end)).await;
        let closed = closed.context("closing the store");
        told_beside(closed.flatten(), [drained, served, ended])
    }
}

/// What a process ends with: what became of the store, or else one of the failures beside that. Each of those is logged.
pub(crate) fn told_beside<T, const N: usize>(
    ended: anyhow::Result<T>,
    beside: [anyhow::Result<()>; N],
) -> anyhow::Result<T> {
    beside.into_iter().filter_map(Result::err).fold(ended, |ended, failure| {
        tracing::error!("ending the node: {failure:#}");
        ended.and(Err(failure))
    })
}

/// The parts below HTTP.
struct Core {
    chain: Arc<Chain>,
    caretaker: Arc<Caretaker>,
    retention: Arc<LiveRetention>,
    events: Arc<EventJournal>,
    damage: Arc<Damage>,
    producer: Producer,
}

impl Core {
    fn open(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        config.doubts().iter().for_each(|doubt| tracing::warn!("{doubt}"));
        let path = config.store_dir();
        refused::make_data_dir(&config.node.data_dir, &path)?;
        let opened = reserve::with_room(config, || {
            Store::open(Arc::new(RocksBackend::open(&path, &RocksConfig::default())?), config.store())
        });
        let (store, let_go) = opened.map_err(refused::not_opened)?;
        let store = Arc::new(store);
        reserve::keep(config, &store, let_go)?;
        let facts = Arc::new(Facts::default());
        let events = Arc::new(journal(config, &clock)?);
        reserve::tell(&store, let_go, &*events); // BEFORE the pruner, which tells what becomes of it from then on
        let cuts = LogCuts::take_over(&store, &*clock, &*events); // BEFORE the first block
        let retention = Arc::new(retention(config, &store, (&clock, &events)));
        let caretaker = Arc::new(start_pruner(config, &retention, (&clock, &events), &facts)?);
        let pruner = caretaker.pruner();
        let chain = Chain::open(store, config.chain(), clock)?;
        // The cell is filled once: it was made above.
        let chain = Arc::clone(facts.0.get_or_init(|| chain));
        match retention.status() {
            Ok(status) => tracing::info!("{status}"),
            Err(error) => tracing::error!(%error, "what is retained cannot be told; nothing is let go"),
        }
        let damage = Arc::new(Damage::of(pruner.cloned(), Arc::clone(chain.store())).beside(cuts));
        let teller = Teller::start(Arc::clone(&damage)).context("starting what tells of damage")?;
        let feed = Feed::new(pruner.cloned(), teller);
        let producer = Producer::start(Arc::clone(&chain), Box::new(feed)).context("starting block production")?;
        Ok(Self { chain, caretaker, retention, events, damage, producer })
    }
}

/// Where what happens is written down. A journal that cannot be written is a reason of health, not one to serve nobody.
fn journal(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<EventJournal> {
    let (dir, events) = (config.events_dir(), config.events());
    let opened = EventJournal::open(&dir, events.clone(), Arc::clone(clock)).or_else(|error| {
        tracing::error!(%error, "what happens is not written down");
        EventJournal::unwritten(&dir, &error, events, Arc::clone(clock))
    });
    opened.context("starting the journal of events")
}

/// Time and events.
type Surroundings<'a> = (&'a Arc<dyn Clock>, &'a Arc<EventJournal>);

/// What stays readable. Without a pruner there are no bounds and nothing goes; pins are kept all the same.
fn retention(config: &Config, store: &Arc<Store>, (clock, events): Surroundings<'_>) -> LiveRetention {
    let parts = RetentionParts {
        store: Arc::clone(store),
        records: Arc::new(StoreRecords(Arc::clone(store))),
        clock: Arc::clone(clock),
        keep: config.keep(),
        floor_rows: config.chain.keep_blocks.map(|keep| block_rows(keep, config.pruner.keep_last)),
        events: Arc::clone(events) as _,
    };
    LiveRetention::new(parts).limiting_readers(config.readers())
}

fn start_pruner(
    config: &Config,
    retention: &Arc<LiveRetention>,
    (clock, events): Surroundings<'_>,
    facts: &Arc<Facts>,
) -> anyhow::Result<Caretaker> {
    let store = retention.store();
    let parts = PrunerParts {
        store: Arc::clone(store),
        chain: Arc::new(NativeChain),
        layout: Arc::new(RoochLayout),
        records: Arc::new(StoreRecords(Arc::clone(store))),
        clock: Arc::clone(clock),
        facts: Some(Arc::clone(facts) as Arc<dyn NodeFacts>),
        floor_rows: None, // the policy has them
        events: Arc::clone(events) as _,
    };
    let Some(pruning) = config.pruner() else {
        tracing::info!("the pruner is disabled: every state is kept");
        return Ok(Caretaker::Unpruned(Box::new(Unpruned::new(parts))));
    };
    tracing::info!(
        keep_last = pruning.keep_last,
        keep_time = config.pruner.keep_time.map(|time| humantime::format_duration(time).to_string()),
        keep_every = config.pruner.keep_every,
        every_orders = pruning.every_orders,
        keep_blocks = config.chain.keep_blocks,
        "the pruner is enabled"
    );
    let pruner = Pruner::start_under(parts, pruning, Arc::clone(retention) as _);
    let pruner = pruner.context("starting the pruner")?;
    if let Some(off) = pruner.status().off {
        tracing::warn!(
            since_ms = off.at,
            "pruning is switched off, by an order before this start: `prune-enable` switches it on"
        );
    }
    Ok(Caretaker::Pruner(Arc::new(pruner)))
}

/// Blocks go with the readable range, which ends `keep_last` orders before the head: so many more are kept below it.
fn block_rows(keep_blocks: NonZeroU64, keep_last: NonZeroU64) -> FloorRows {
    let below_floor = keep_blocks.get().saturating_sub(keep_last.get());
    Arc::new(move |passed: Range<Order>| {
        let mut rows = Batch::new();
        if let Some(end) = passed.end.minus(below_floor) {
            let first = passed.start.minus(below_floor).map_or(Order::GENESIS, |first| first);
            rows.delete_orders(&Table::BLOCK, first..end);
        }
        rows
    })
}

/// What the pruner's snapshots say about the node.
#[derive(Default)]
struct Facts(OnceLock<Arc<Chain>>);

impl NodeFacts for Facts {
    fn mempool_size(&self) -> Option<u64> {
        self.0.get().map(|chain| chain.mempool_len() as u64)
    }

    fn sync_status(&self) -> Option<bool> {
        None // a single sequencer has nobody to follow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_below_the_floor_are_kept_as_far_as_configured() {
        let number = |n| NonZeroU64::new(n).unwrap();
        let rows = block_rows(number(10), number(4));
        let passed = |first, end| rows(Order::new(first)..Order::new(end));
        assert!(passed(0, 5).is_empty(), "six blocks below the floor are kept, there are only five");
        let blocks = |first, end| {
            let mut rows = Batch::new();
            rows.delete_orders(&Table::BLOCK, Order::new(first)..Order::new(end));
            rows
        };
        assert_eq!(passed(5, 9), blocks(0, 3));
        assert_eq!(passed(9, 11), blocks(3, 5), "those below went with the moves before");
    }
}
