//! What operators ask: status, probes, and commands to the pruner.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use state_pruner::{Command, Pruner, Reply, Verdict};

use super::{Node, error::ApiError, in_turn, off_the_async_threads, query::Query};
use crate::chain::{ChainStatus, Hex32, Production};

/// `GET /v1/status`.
pub(super) async fn status(State(node): State<Arc<Node>>) -> Result<Json<Value>, ApiError> {
    let asked = Arc::clone(&node);
    node.blocking(move || status_of(&asked)).await.map(Json)
}

fn status_of(node: &Node) -> Result<Value, ApiError> {
    let status = node.chain.status()?;
    let health = node.health()?;
    Ok(json!({
        "id": node.id,
        "version": env!("CARGO_PKG_VERSION"),
        "verdict": health.verdict,
        "head": head(&status),
        "floor": status.floor.get(),
        "mempool": {
            "waiting": status.mempool,
            "limit": status.mempool_limit,
            "bytes": status.mempool_bytes,
            "bytes_limit": status.mempool_bytes_limit,
        },
        "production": status.production,
        "counts": {
            "commits": status.head.commits,
            "nodes_put": status.head.nodes_put,
            "bytes_put": status.head.bytes_put,
        },
        "retention": retention(node),
        "pruner": node.pruner.as_ref().map(|pruner| pruner.status()),
        "events": node.events.status(),
        "validation": node.caretaker.validated(),
        "space": space(node),
    }))
}

/// What the store takes up; a folder that cannot be measured is no reason to tell nothing at all.
fn space(node: &Node) -> Value {
    match node.chain.store().backend().space() {
        Ok(space) => json!({
            "tables": space.tables,
            "blobs": space.blobs,
            "logs": space.logs,
            "other": space.other,
            "total": space.total(),
        }),
        Err(error) => untold(error.code(), &error),
    }
}

/// What is retained and by whom; records that cannot be read are no reason to tell nothing at all.
fn retention(node: &Node) -> Value {
    match node.retention.status() {
        Ok(status) => json!(status),
        Err(error) => untold(error.code(), &error),
    }
}

/// What stands in the place of what cannot be told.
fn untold(code: &str, error: &dyn std::error::Error) -> Value {
    json!({ "error": { "code": code, "message": error.to_string() } })
}

fn head(status: &ChainStatus) -> Value {
    json!({
        "order": status.head.order,
        "root": Hex32(status.head.at.root),
        "block_hash": Hex32(status.head.at.block_hash),
        "timestamp_ms": status.head.at.timestamp_ms,
    })
}

/// `GET /healthz`: reads no table but for the row that tells whether a window of time is full, until it is known; waits for no
/// phase, and needs no turn among the reads. It asks the device for what is free: where either hangs one request waits, and the
/// others are told so.
pub(super) async fn healthz(State(node): State<Arc<Node>>) -> Result<Response, ApiError> {
    let health = off_the_async_threads(move || node.health()).await?;
    let status = match health.verdict {
        Verdict::Healthy | Verdict::Degraded => StatusCode::OK,
        Verdict::Critical => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok((status, Json(health)).into_response())
}

/// `GET /readyz`: whether transactions are taken.
pub(super) async fn readyz(State(node): State<Arc<Node>>) -> Result<Response, ApiError> {
    let status = node.chain.status()?;
    if status.production == Production::Accepting {
        return Ok(Json(json!({ "ready": true })).into_response());
    }
    let message = "the node takes no transactions";
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message))
}

/// `POST /v1/prune/{command}`.
pub(super) async fn prune(
    State(node): State<Arc<Node>>,
    command: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Path(command) = command?;
    let Some(command) = Command::ALL.into_iter().find(|known| known.word() == command) else {
        let words = Command::ALL.map(Command::word).join(", ");
        let message = format!("there is no command {command:?}; there are {words}");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_command", message));
    };
    let mut query = Query::parse(&uri)?;
    let id = if command == Command::Run { query.id()? } else { None };
    query.finish()?;
    let pruner = enabled(&node)?;
    let obey = move || obey(&pruner, command, id.as_deref());
    let reply = match command {
        Command::Pause | Command::Resume | Command::Cancel => off_the_async_threads(obey).await?, // they wait for no disk
        Command::Run | Command::Disable | Command::Enable | Command::Unfreeze => in_turn(&node.changes, obey).await?,
    };
    match reply {
        Reply::Accepted | Reply::FollowUp | Reply::AlreadyRunning => {
            Ok((StatusCode::ACCEPTED, Json(reply)).into_response())
        }
        Reply::AlreadyServed { .. } | Reply::Unchanged => Ok(Json(reply).into_response()),
        Reply::NotRunning => {
            let message = "no cycle is running, so there is none to pause, resume or cancel";
            Err(ApiError::new(StatusCode::CONFLICT, "not_running", message))
        }
        Reply::Ending => Err(ApiError::new(StatusCode::CONFLICT, "ending", ENDING)),
        Reply::Refused { why } => Err(ApiError::new(StatusCode::CONFLICT, "refused", why)),
        Reply::Unsaved { code, why } => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, why)),
    }
}

/// What a cycle is that cannot be held or cancelled any more.
const ENDING: &str = "the cycle has passed its last checkpoint, or was told to end, and ends by itself: nothing of it is left to pause \
    or cancel. `/v1/status` tells how it ended; to keep the next one from beginning, switch pruning off (prune-disable)";

/// The reasons of health that last until somebody has seen to them.
const LASTING: [&str; 2] = ["log_cut", "events_damaged"];

/// `POST /v1/acknowledge/{reason}`.
pub(super) async fn acknowledge(
    State(node): State<Arc<Node>>,
    reason: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(reason) = reason?;
    let is_told = match reason.as_str() {
        "log_cut" => {
            let damage = Arc::clone(&node.damage);
            in_turn(&node.changes, move || Ok(damage.acknowledge_log_cut()?)).await?
        }
        "events_damaged" => node.events.acknowledge_damage(),
        _ => {
            let lasting = LASTING.join(" and ");
            let message =
                format!("{reason:?} ends by itself or by another command; what is acknowledged are {lasting}");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_command", message));
        }
    };
    if is_told {
        tracing::info!(reason, "an operator has seen to it");
        return Ok(Json(json!({ "acknowledged": reason })));
    }
    let message = format!("health tells no {reason}, so there is nothing to acknowledge");
    Err(ApiError::new(StatusCode::CONFLICT, "refused", message))
}

/// The pruner of the node, if it has one.
pub(super) fn enabled(node: &Node) -> Result<Arc<Pruner>, ApiError> {
    let message = "the pruner is disabled in the configuration: set pruner.enabled to true and restart the node";
    let disabled = || ApiError::new(StatusCode::CONFLICT, "pruner_disabled", message);
    node.pruner.clone().ok_or_else(disabled)
}

fn obey(pruner: &Pruner, command: Command, id: Option<&str>) -> Result<Reply, ApiError> {
    if let Some(id) = id {
        return Ok(pruner.run_once(id));
    }
    if command == Command::Unfreeze && pruner.status().frozen.is_none() {
        return Err(ApiError::new(StatusCode::CONFLICT, "not_frozen", "deletes are not frozen"));
    }
    Ok(pruner.command(command))
}

#[cfg(test)]
mod tests {
    use state_store::{Fault, FaultyBackend, Lasting, MemoryBackend, Operation};

    use super::{
        super::{prometheus::measure, tests::node_on},
        *,
    };

    #[test]
    fn a_store_that_cannot_be_measured_takes_nothing_else_from_the_status_and_the_metrics() {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        let node = node_on(Arc::new(faulty.clone()), None);
        let told = status_of(&node).unwrap();
        assert!(told["space"]["total"].is_u64() && told["space"]["error"].is_null(), "{told}");
        faulty.inject(Operation::Space, 0, Fault::Transient, Lasting::UntilHealed);
        let told = status_of(&node).unwrap();
        assert_eq!((&told["head"]["order"], &told["space"]["total"]), (&json!(0), &Value::Null), "{told}");
        let error = &told["space"]["error"];
        assert!(error["code"].is_string() && error["message"].is_string(), "{told}");
        measure(&node).unwrap();
        let metrics = node.metrics.render();
        for line in ["state_node_head_order 0", "state_node_store_bytes{kind=\"tables\"} NaN"] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
        assert_eq!(faulty.met(), 2);
    }
}
