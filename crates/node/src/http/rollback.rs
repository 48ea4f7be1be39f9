//! Going back to an older order in a running node.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use serde_json::{Value, json};
use state_store::RolledBack;
use state_tree::Order;

use super::{MAX_READS, Node, error::ApiError, off_the_async_threads, query::Query};

impl Node {
    /// By the pruner, which knows what works; without one nothing does. Either tells what became of it.
    fn rollback(&self, to: Order) -> Result<RolledBack, ApiError> {
        let rolled = self.chain.rollback(to, |rows| match &self.pruner {
            Some(pruner) => pruner.rollback(to, rows),
            None => self.retention.rollback(to, rows).inspect_err(|error| {
                tracing::warn!(%to, code = error.code(), "the chain did not go back: {error}");
            }),
        });
        rolled.map_err(|error| self.refused(error))
    }
}

/// `POST /v1/rollback?to=N`. Reads that go on are waited for, and further ones wait: each holds the order that it reads.
pub(super) async fn rollback(State(node): State<Arc<Node>>, uri: Uri) -> Result<Json<Value>, ApiError> {
    let mut query = Query::parse(&uri)?;
    let to = query.text("to").map(|to| to.parse::<u64>());
    query.finish()?;
    let Some(Ok(to)) = to else {
        return Err(ApiError::bad_request("the order to go back to is given as a number: ?to=N"));
    };
    let reads = Arc::clone(&node.reads).acquire_many_owned(MAX_READS as u32).await;
    let reads = reads.map_err(|_| ApiError::internal("reads have ended"))?;
    let rolled = off_the_async_threads(move || {
        let _reads = reads; // the work outlives a client that goes away
        node.rollback(Order::new(to))
    });
    let RolledBack { to, from } = rolled.await?;
    Ok(Json(json!({ "to": to.get(), "from": from.get() })))
}
