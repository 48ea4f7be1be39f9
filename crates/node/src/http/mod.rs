//! The HTTP interface, on loopback: submit, read, status, probes, metrics and commands to the pruner.
//!
//! Promises: the async threads never touch the disk; bodies, concurrent reads and waiting times are bounded; errors
//! are JSON; a pruned order is told from one that never existed.

mod error;
mod operate;
mod query;
mod read;
mod submit;
mod wire;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use state_pruner::{Health, Pruner};
use state_store::Store;
use tokio::sync::Semaphore;
use tower_http::timeout::TimeoutLayer;

use crate::{
    chain::{Chain, ReadError},
    health,
};
use error::ApiError;
pub use wire::{Accepted, Submitted, WireAnswer, WireBlock, WireObject, WireProof, WireProofError, WireReceipt};

/// The longest body of a request, in bytes.
pub const MAX_BODY: usize = 16 << 20;
/// Reads of the store that go on at once; further ones wait.
const MAX_READS: usize = 64;
/// The longest time one request may take.
const MAX_TIME: Duration = Duration::from_secs(60);

/// What requests are served from.
pub struct Node {
    id: String,
    chain: Arc<Chain>,
    pruner: Option<Arc<Pruner>>,
    metrics: PrometheusHandle,
    reads: Semaphore,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Node {
    /// Serves from these parts.
    pub fn new(id: String, chain: Arc<Chain>, pruner: Option<Arc<Pruner>>, metrics: PrometheusHandle) -> Self {
        Self { id, chain, pruner, metrics, reads: Semaphore::new(MAX_READS) }
    }

    /// The verdict on the node.
    fn health(&self) -> Result<Health, ApiError> {
        let pruner = self.pruner.as_ref().map(|pruner| pruner.health());
        Ok(health::assess(&self.chain.status()?, pruner))
    }

    /// Runs one read of the chain on the blocking threads.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Chain) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let chain = Arc::clone(&self.chain);
        self.blocking(move || read(&chain).map_err(ApiError::from)).await
    }

    /// Runs one read of the store on the blocking threads.
    async fn on_store<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = Arc::clone(self.chain.store());
        self.blocking(move || read(&store)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = self.reads.acquire().await;
        let _turn = turn.map_err(|_| ApiError::internal("reads have ended"))?;
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| ApiError::internal(format!("a read ended early: {error}")))?
    }
}

/// Every route.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/transactions", post(submit::submit))
        .route("/v1/objects/{path}", get(read::object))
        .route("/v1/blocks/{order}", get(read::block))
        .route("/v1/status", get(operate::status))
        .route("/v1/prune/{command}", post(operate::prune))
        .route("/metrics", get(operate::metrics))
        .route("/healthz", get(operate::healthz))
        .route("/readyz", get(operate::readyz))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "no_route", "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this address takes another method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, MAX_TIME))
        .with_state(node)
}
