//! Reading: objects with proofs at any retained order, and blocks. The store is read on the blocking threads.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    Node,
    error::ApiError,
    query::{Query, position},
    wire::{WireAnswer, WireBlock, WireObject, WireProof},
};
use crate::chain::{Hex32, ObjectPath};

/// `GET /v1/objects/{path}`.
pub(super) async fn object(
    State(node): State<Arc<Node>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Path(path) = path?;
    let mut query = Query::parse(&uri)?;
    let at = query.order()?;
    let with_proof = query.flag("proof")? == Some(true);
    query.finish()?;
    let path: ObjectPath = path.parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
    let asked = path.clone();
    let answer = node.read(move |chain| chain.object(at, &asked)).await?;
    let proof = with_proof.then(|| WireProof::from(&answer));
    let root = Hex32(*answer.root.hash().as_bytes());
    let Some(object) = &answer.object else {
        let message = format!("the state of order {} has no object there", answer.order);
        let error = ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
            .with("order", answer.order.get())
            .with("root", root.to_string());
        return Err(match proof {
            Some(proof) => error.with("proof", json!(proof)),
            None => error,
        });
    };
    let answer = WireAnswer { order: answer.order.get(), root, path, object: Some(WireObject::from(object)), proof };
    Ok(Json(answer).into_response())
}

/// `GET /v1/blocks/{order|head}`.
pub(super) async fn block(
    State(node): State<Arc<Node>>,
    at: Result<Path<String>, PathRejection>,
) -> Result<Json<WireBlock>, ApiError> {
    let Path(at) = at?;
    let at = position(&at)?;
    let (block, hash) = node.read(move |chain| chain.block(at)).await?;
    Ok(Json(WireBlock { hash, block }))
}
