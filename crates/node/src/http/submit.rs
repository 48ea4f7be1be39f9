//! Taking transactions: one or an array, answered after the commit unless the client does not want to wait.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest as _, Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{
    MAX_BODY, Node,
    error::ApiError,
    off_the_async_threads,
    query::Query,
    too_late,
    wire::{Accepted, Submitted, WireReceipt},
};
use crate::chain::{Hex32, OUTCOME_UNKNOWN, Refusal, Ticket, Transaction};

/// `POST /v1/transactions`.
pub(super) async fn submit(State(node): State<Arc<Node>>, request: Request) -> Result<Response, ApiError> {
    let deadline = Instant::now() + node.patience;
    let mut query = Query::parse(request.uri())?;
    let wait = query.flag("wait")?;
    query.finish()?;
    let tickets = accept(&node, request, deadline).await?;
    let ids: Vec<Hex32> = tickets.iter().map(|ticket| ticket.id).collect();
    if wait == Some(false) {
        return Ok((StatusCode::ACCEPTED, Json(Accepted { ids })).into_response());
    }
    match timeout_at(deadline, receipts(tickets)).await {
        Ok(submitted) => submitted.map(|submitted| Json(submitted).into_response()),
        Err(_) => Err(still_waiting(&ids, node.patience)),
    }
}

/// A body arrives within this time, once there is room for it.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Reads a body and hands its transactions to the chain. Ending before that leaves nothing behind.
async fn accept(node: &Arc<Node>, request: Request, deadline: Instant) -> Result<Vec<Ticket>, ApiError> {
    let late = |_| too_late(node.patience);
    let room = Arc::clone(&node.bodies).acquire_many_owned(announced(request.headers()));
    let room = timeout_at(deadline, room).await.map_err(late)?;
    let room = room.map_err(|_| ApiError::internal("no more bodies are read"))?;
    let arrival = deadline.min(Instant::now() + ARRIVAL); // a client that sends nothing keeps nobody waiting for long
    let body = timeout_at(arrival, Bytes::from_request(request, node)).await.map_err(|_| too_late(ARRIVAL))?;
    let body = body.map_err(|rejection| ApiError::body(&rejection, MAX_BODY))?;
    let chain = Arc::clone(&node.chain);
    off_the_async_threads(move || {
        let _room = room; // until the body is parsed, also when its client has gone away
        Ok(chain.submit(transactions(&body)?)?)
    })
    .await
}

/// The bytes that a body may have: a longer one is refused while it is read.
fn announced(headers: &HeaderMap) -> u32 {
    let length = headers.get(CONTENT_LENGTH).map(|value| value.to_str().map(str::parse::<usize>));
    let length = match length {
        Some(Ok(Ok(length))) => length.min(MAX_BODY),
        Some(_) | None => MAX_BODY,
    };
    length as u32
}

/// They wait for their block longer than a request may take.
fn still_waiting(ids: &[Hex32], patience: Duration) -> ApiError {
    let time = humantime::format_duration(patience);
    let message =
        format!("not all of them were in a block within {time}; they may still be committed: read their objects");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, OUTCOME_UNKNOWN, message).with("ids", json!(ids))
}

fn transactions(body: &[u8]) -> Result<Vec<Transaction>, ApiError> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') {
        let many: Vec<Transaction> = json_of(body)?;
        if many.is_empty() {
            return Err(ApiError::bad_request("the array holds no transaction"));
        }
        return Ok(many);
    }
    Ok(vec![json_of(body)?])
}

fn json_of<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "json", format!("the body is no transaction: {error}")))
}

/// Waits for every commit. Transactions submitted together may end up in neighbouring blocks.
async fn receipts(tickets: Vec<Ticket>) -> Result<Submitted, ApiError> {
    let mut receipts = Vec::with_capacity(tickets.len());
    let mut refused: Option<(usize, Refusal)> = None;
    for (index, ticket) in tickets.into_iter().enumerate() {
        match ticket.reply.await {
            Ok(Ok(included)) => receipts.push(WireReceipt::from(included)),
            Ok(Err(refusal)) => refused = refused.or(Some((index, refusal))),
            Err(_) => {
                let message = "block production ended while the transaction waited: its outcome is unknown";
                return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, OUTCOME_UNKNOWN, message));
            }
        }
    }
    if let Some((index, refusal)) = refused {
        let committed = json!(receipts);
        return Err(ApiError::from(refusal).with("index", index).with("receipts", committed));
    }
    let order = receipts.iter().map(|receipt| receipt.order).max();
    Ok(Submitted { order: order.ok_or_else(|| ApiError::internal("no receipt"))?, receipts })
}
