//! Taking transactions: one or an array, answered after the commit unless the client does not want to wait.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, Uri, header::ORIGIN},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    Node,
    error::ApiError,
    query::Query,
    wire::{Accepted, Submitted, WireReceipt},
};
use crate::chain::{Refusal, Ticket, Transaction};

/// `POST /v1/transactions`.
pub(super) async fn submit(
    State(node): State<Arc<Node>>,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    refuse_browsers(&headers)?;
    let mut query = Query::parse(&uri)?;
    let wait = query.flag("wait")?;
    query.finish()?;
    let body = body.map_err(|rejection| ApiError::new(rejection.status(), "body", rejection.body_text()))?;
    let tickets = node.chain.submit(transactions(&body)?)?;
    if wait == Some(false) {
        let ids = tickets.iter().map(|ticket| ticket.id).collect();
        return Ok((StatusCode::ACCEPTED, Json(Accepted { ids })).into_response());
    }
    receipts(tickets).await.map(|submitted| Json(submitted).into_response())
}

/// A page in a browser must not operate the node of whoever looks at it.
pub(super) fn refuse_browsers(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(ORIGIN) {
        let message = "requests from web pages are refused: this interface authenticates nobody";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "origin", message));
    }
    Ok(())
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
                return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "outcome_unknown", message));
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
