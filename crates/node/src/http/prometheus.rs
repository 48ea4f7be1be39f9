//! `GET /metrics`: what the node counted, and its state at the time of asking.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use state_pruner::Verdict;
use state_tree::Order;

use super::{Node, error::ApiError};

const COUNTERS: [(&str, &str); 5] = [
    ("state_node_commits_total", "Blocks committed"),
    ("state_node_transactions_total", "Transactions in committed blocks, by outcome: applied or failed"),
    ("state_node_nodes_put_total", "Merkle nodes written by commits"),
    ("state_node_node_bytes_put_total", "Bytes of Merkle nodes written by commits"),
    ("state_node_failed_blocks_total", "Blocks that could not be committed, by the code of the error"),
];

const GAUGES: [(&str, &str); 10] = [
    ("state_node_head_order", "The newest order"),
    ("state_node_floor_order", "The oldest readable order"),
    ("state_node_kept_orders", "Single orders below the floor that stay readable; NaN where that cannot be read"),
    ("state_node_pins", "Named pins; NaN where they cannot be read"),
    ("state_node_consumers", "Consumers, by state: heard or silent; NaN where they cannot be read"),
    ("state_node_mempool_transactions", "Transactions that wait for a block"),
    ("state_node_mempool_limit", "Transactions that may wait"),
    ("state_node_mempool_bytes", "Bytes of the transactions that wait"),
    ("state_node_store_bytes", "Bytes on disk, by kind: tables, blobs, logs, other; NaN where they cannot be measured"),
    ("state_node_health_verdict", "0 healthy, 1 degraded, 2 critical, as the exit code of health-check"),
];

const HISTOGRAMS: [(&str, &str); 2] = [
    ("state_node_execute_seconds", "Seconds to execute a block"),
    ("state_node_commit_seconds", "Seconds to commit a block"),
];

/// Tells the recorder what each metric means.
pub(crate) fn describe() {
    COUNTERS.into_iter().for_each(|(name, help)| describe_counter!(name, help));
    GAUGES.into_iter().for_each(|(name, help)| describe_gauge!(name, help));
    HISTOGRAMS.into_iter().for_each(|(name, help)| describe_histogram!(name, help));
    counter!("state_node_commits_total").increment(0); // it is there before the first block
}

/// `GET /metrics`.
pub(super) async fn metrics(State(node): State<Arc<Node>>) -> Result<Response, ApiError> {
    let asked = Arc::clone(&node);
    node.blocking(move || measure(&asked)).await?;
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((text, node.metrics.render()).into_response())
}

/// Sets every gauge to what is so now; may wait for the pruner.
pub(super) fn measure(node: &Node) -> Result<(), ApiError> {
    let status = node.chain.status()?;
    gauge!("state_node_head_order").set(status.head.order as f64);
    gauge!("state_node_floor_order").set(status.floor.get() as f64);
    gauge!("state_node_mempool_transactions").set(status.mempool as f64);
    gauge!("state_node_mempool_limit").set(status.mempool_limit as f64);
    gauge!("state_node_mempool_bytes").set(status.mempool_bytes as f64);
    retention(node);
    space(node);
    gauge!("state_node_health_verdict").set(match node.health()?.verdict {
        Verdict::Healthy => 0.0,
        Verdict::Degraded => 1.0,
        Verdict::Critical => 2.0,
    });
    if let Some(pruner) = &node.pruner {
        pruner.status().export(Order::new(status.head.order));
    }
    Ok(())
}

/// What the store takes up.
fn space(node: &Node) {
    let space = node.chain.store().backend().space();
    let bytes = space
        .map_or([f64::NAN; 4], |space| [space.tables, space.blobs, space.logs, space.other].map(|bytes| bytes as f64));
    for (kind, bytes) in ["tables", "blobs", "logs", "other"].into_iter().zip(bytes) {
        gauge!("state_node_store_bytes", "kind" => kind).set(bytes);
    }
}

/// What is retained beside the window.
fn retention(node: &Node) {
    let [kept, pins, heard, silent] = node.retention.status().map_or([f64::NAN; 4], |status| {
        let silent = status.consumers.iter().filter(|consumer| consumer.silent).count();
        let heard = status.consumers.len() - silent;
        [status.kept_below as f64, status.pins.len() as f64, heard as f64, silent as f64]
    });
    gauge!("state_node_kept_orders").set(kept);
    gauge!("state_node_pins").set(pins);
    for (state, number) in [("heard", heard), ("silent", silent)] {
        gauge!("state_node_consumers", "state" => state).set(number);
    }
}
