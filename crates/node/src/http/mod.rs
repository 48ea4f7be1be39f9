//! The HTTP interface: submit, read, status, probes, metrics, commands to the pruner, and going back.
//!
//! Promises: the async threads never touch the disk and wait for no lock of the pruner; bodies, concurrent reads and
//! waiting times are bounded; errors are JSON; a pruned order is told from one that never existed.

mod caller;
mod error;
mod events;
mod operate;
mod prometheus;
mod query;
mod read;
mod retain;
mod rollback;
mod server;
mod snapshot;
mod submit;
mod validate;
mod wire;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use state_pruner::{Facts, Health, HealthConfig, LiveRetention, Pruner, events::EventJournal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    caretaker::Caretaker,
    chain::{Chain, ReadError},
    damage::Damage,
    health,
};
pub use caller::{Callers, NoToken};
use error::ApiError;
pub(crate) use prometheus::describe;
pub(crate) use query::is_id;
pub(crate) use retain::Watermark;
pub use server::{Bounds, Server};
pub use snapshot::Snapshots;
pub use wire::{Accepted, Submitted, WireAnswer, WireBlock, WireObject, WireProof, WireProofError, WireReceipt};

/// The longest body of a request, in bytes.
pub const MAX_BODY: usize = 16 << 20;
/// Reads of the store that go on at once; further ones wait.
const MAX_READS: usize = 64;
/// Changes of what is kept and commands that are at work at once; further ones wait. They wait for a disk, one for the other: where
/// it hangs, they take no turn of a read.
const MAX_CHANGES: usize = 16;
/// Bytes of bodies that are read and parsed at once, as announced; further ones wait.
const MAX_BODIES: usize = 8 * MAX_BODY;

/// What requests are served from.
pub struct Node {
    id: String,
    chain: Arc<Chain>,
    caretaker: Arc<Caretaker>,
    pruner: Option<Arc<Pruner>>,
    retention: Arc<LiveRetention>,
    events: Arc<EventJournal>,
    snapshots: Arc<Snapshots>,
    metrics: PrometheusHandle,
    callers: Callers,
    /// Ends what would go on for ever.
    stop: CancellationToken,
    health: HealthConfig,
    /// The longest time one request may take.
    patience: Duration,
    reads: Arc<Semaphore>,
    changes: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
    /// One deep validation at a time.
    validating: Arc<Semaphore>,
    /// One that is no deep one at a time; further ones wait.
    looking: Arc<Semaphore>,
    damage: Arc<Damage>,
}

/// What a node serves from.
#[derive(Debug)]
pub struct NodeParts {
    /// The chain.
    pub chain: Arc<Chain>,
    /// Who looks after the store.
    pub caretaker: Arc<Caretaker>,
    /// What stays readable.
    pub retention: Arc<LiveRetention>,
    /// What happens.
    pub events: Arc<EventJournal>,
    /// What copies the store.
    pub snapshots: Arc<Snapshots>,
    /// The metrics of this process.
    pub metrics: PrometheusHandle,
    /// Who may ask, and command.
    pub callers: Callers,
    /// Told when the node stops.
    pub stop: CancellationToken,
    /// The bounds by which the node judges itself.
    pub health: HealthConfig,
    /// What was met of damage.
    pub damage: Arc<Damage>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Node {
    /// Serves from these parts; no request takes longer than `patience`.
    pub fn new(id: String, parts: NodeParts, patience: Duration) -> Self {
        let NodeParts { chain, caretaker, retention, events, snapshots, metrics, callers, health, damage, stop } =
            parts;
        let watchers = Arc::new(Semaphore::new(events::MAX_WATCHERS));
        let [reads, changes, bodies] =
            [MAX_READS, MAX_CHANGES, MAX_BODIES].map(|turns| Arc::new(Semaphore::new(turns)));
        Self {
            id,
            chain,
            pruner: caretaker.pruner().cloned(),
            caretaker,
            retention,
            events,
            snapshots,
            metrics,
            callers,
            health,
            stop,
            patience,
            reads,
            changes,
            bodies,
            watchers,
            validating: Arc::new(Semaphore::new(1)),
            looking: Arc::new(Semaphore::new(1)),
            damage,
        }
    }

    /// The verdict on the node; waits for nobody who deletes or moves the floor, and where a disk hangs for a second at most, but
    /// for one that asks it.
    fn health(&self) -> Result<Health, ApiError> {
        let facts = self.caretaker.facts();
        let oldest_pin = self.retention.oldest_pin().unwrap_or(None); // pins that cannot be read are told below
        let log_cut = self.damage.log_cut(); // also of an earlier start, and not what was seen to
        let judged = state_pruner::assess(&Facts { oldest_pin, log_cut, ..facts }, &self.health);
        let events = self.events.status();
        let further = [
            health::of_retention(self.retention.silent()),
            health::of_still(self.retention.still()),
            health::of_readers(&self.retention.readers()),
            health::of_events(events.failure),
            health::of_replay(&events.path, self.events.damage()),
            health::of_damage(self.damage.met()),
        ];
        Ok(health::assess(&self.chain.status()?, judged, further))
    }

    /// Runs one read of the chain on the blocking threads.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Chain) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let node = Arc::clone(self);
        let read =
            move || read(&node.chain).inspect_err(|error| node.damage.met_by_read(error)).map_err(ApiError::from);
        self.blocking(read).await
    }

    /// Runs work on the blocking threads, in its turn.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        in_turn(&self.reads, work).await
    }
}

/// Runs work on the blocking threads, once it has a turn.
async fn in_turn<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let turn = Arc::clone(turns).acquire_owned().await;
    let turn = turn.map_err(|_| ApiError::internal("turns have ended"))?;
    off_the_async_threads(move || {
        let _turn = turn; // the work outlives a client that goes away, and so does its turn
        work()
    })
    .await
}

/// Runs work that may wait, or takes long, on the blocking threads.
async fn off_the_async_threads<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::internal(format!("the work of a request ended early: {error}")))?
}

/// Ends requests that take too long. Not for submissions, which know what became of their transactions, nor for snapshots,
/// which take as long as the store is large.
async fn in_time(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(node.patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => too_late(node.patience).into_response(),
    }
}

fn too_late(patience: Duration) -> ApiError {
    let message = format!("the answer took longer than {}", humantime::format_duration(patience));
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message)
}

/// What is asked for without parameters: one that is given was meant for something.
async fn without_parameters(request: Request, next: Next) -> Response {
    match query::Query::parse(request.uri()).and_then(query::Query::finish) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn plain() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/blocks/{order}", get(read::block))
        .route("/v1/status", get(operate::status))
        .route("/v1/acknowledge/{reason}", post(operate::acknowledge))
        .route("/v1/pins", get(retain::pins))
        .route("/v1/pins/{name}", retain::short(post(retain::add_pin).delete(retain::remove_pin)))
        .route("/v1/consumers", get(retain::consumers))
        .route("/v1/consumers/{name}", retain::short(post(retain::set_consumer).delete(retain::remove_consumer)))
        .route("/v1/events/verify", get(events::verify))
        .route_layer(from_fn(without_parameters))
}

/// Every route.
pub fn router(node: Arc<Node>) -> Router {
    plain()
        .route("/v1/objects/{path}", get(read::object))
        .route("/v1/prune/{command}", post(operate::prune))
        .route("/v1/rollback", post(rollback::rollback))
        .route("/v1/validate", post(validate::validate))
        .route("/v1/explain", get(retain::explain))
        .route("/v1/events", get(events::page))
        .route("/v1/events/stream", get(events::stream))
        .route("/metrics", get(prometheus::metrics))
        .route("/healthz", get(operate::healthz))
        .route("/readyz", get(operate::readyz))
        .layer(from_fn_with_state(Arc::clone(&node), in_time))
        .route("/v1/transactions", post(submit::submit))
        .route("/v1/snapshots", retain::short(post(snapshot::create)))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "no_route", "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this address takes another method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(Arc::clone(&node), caller::admit))
        .with_state(node)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use parking_lot::Mutex;
    use state_pruner::{
        Clock, PruneError, PrunerConfig, PrunerParts, RetentionParts, StoreRecords, SystemClock, Unpruned,
        events::{EventsConfig, NoEvents},
    };
    use state_store::{Backend, Durability, MemoryBackend, NativeChain, Store, StoreConfig};
    use state_tree::RoochLayout;

    use super::*;
    use crate::{config::Config, telemetry};

    pub(super) fn node() -> Node {
        node_on(Arc::new(MemoryBackend::new()), None)
    }

    /// A node with its store in this backend, and with a pruner of this configuration, if there is one.
    pub(super) fn node_on(backend: Arc<dyn Backend>, pruning: Option<PrunerConfig>) -> Node {
        let config = StoreConfig { barrier_limit: 1_000, ..StoreConfig::new(Durability::Logged) };
        let store = Arc::new(Store::open(backend, config).unwrap());
        let clock = Arc::new(SystemClock::new());
        let chain = Chain::open(Arc::clone(&store), Config::default().chain(), Arc::clone(&clock) as _).unwrap();
        let records = Arc::new(StoreRecords(Arc::clone(&store)));
        let snapshots = Arc::new(Snapshots::new("nowhere".into(), Arc::clone(&clock) as _));
        let (dir, config) = (tempfile::tempdir().unwrap(), EventsConfig::default());
        let events = Arc::new(EventJournal::open(dir.path(), config, Arc::clone(&clock) as _).unwrap());
        let clock: Arc<dyn Clock> = clock;
        let parts = RetentionParts {
            store,
            records,
            clock: Arc::clone(&clock),
            keep: None,
            floor_rows: None,
            events: Arc::new(NoEvents),
        };
        let retention = Arc::new(LiveRetention::new(parts));
        let damage = Arc::new(Damage::of(None, Arc::clone(chain.store())));
        let (metrics, stop) = (telemetry::metrics().unwrap(), CancellationToken::new());
        let health = Config::default().health;
        let callers = Callers::Local(None);
        let store = Arc::clone(chain.store());
        let pruned = PrunerParts {
            records: Arc::new(StoreRecords(Arc::clone(&store))),
            store,
            chain: Arc::new(NativeChain),
            layout: Arc::new(RoochLayout),
            clock,
            facts: None,
            floor_rows: None,
            events: Arc::new(NoEvents),
        };
        let caretaker = Arc::new(match pruning {
            Some(pruning) => Caretaker::Pruner(Arc::new(Pruner::start(pruned, pruning).unwrap())),
            None => Caretaker::Unpruned(Box::new(Unpruned::new(pruned))),
        });
        let parts =
            NodeParts { chain, caretaker, retention, events, snapshots, metrics, callers, health, damage, stop };
        Node::new("test".to_owned(), parts, Duration::from_secs(60))
    }

    /// Who changes what is kept waits for a disk, and for whoever does so before.
    #[tokio::test]
    async fn changes_that_a_disk_holds_take_no_turn_of_a_read() {
        let node = Arc::new(node());
        let (end, ending) = mpsc::channel::<()>();
        let ending = Arc::new(Mutex::new(ending));
        let changes: Vec<_> = (0..2 * MAX_READS)
            .map(|_| {
                let (node, ending) = (Arc::clone(&node), Arc::clone(&ending));
                let held = move |_: &LiveRetention| ending.lock().recv().map_err(|_| PruneError::NoHead);
                tokio::spawn(async move { node.change(held).await.is_err() })
            })
            .collect();
        while node.changes.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(node.retain(|retention| retention.silent()).await.unwrap().0, [""; 0]);
        assert_eq!(node.reads.available_permits(), MAX_READS);
        drop(end);
        for change in changes {
            assert!(change.await.unwrap(), "it has waited until the disk answered");
        }
    }

    /// Clients that ask and go away could otherwise start any number of reads.
    #[tokio::test]
    async fn a_read_keeps_its_turn_until_it_ends_also_when_its_client_has_gone() {
        let node = node();
        let ((begun, beginning), (end, ending)) = (mpsc::channel(), mpsc::channel::<()>());
        let read = node.blocking(move || {
            begun.send(()).unwrap();
            ending.recv().unwrap();
            Ok(())
        });
        let gone = tokio::time::timeout(Duration::from_millis(1), read).await;
        assert!(gone.is_err(), "the client has gone while the read goes on");
        beginning.recv().unwrap();
        assert_eq!(node.reads.available_permits(), MAX_READS - 1);
        end.send(()).unwrap();
        let all = tokio::time::timeout(Duration::from_secs(60), node.reads.acquire_many(MAX_READS as u32)).await;
        assert!(all.unwrap().is_ok(), "and then gives it back");
    }
}
