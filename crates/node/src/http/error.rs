//! Errors as JSON: `{"error":{"code":..,"message":..}}`, with further fields where a client can act on them.

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    extract::rejection::{BytesRejection, PathRejection},
    http::{
        HeaderValue, StatusCode,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use bytesize::ByteSize;
use serde_json::{Map, Value, json};
use state_pruner::PruneError;
use state_store::{Disposition, StoreError};
use state_tree::Order;

use crate::chain::{ChainError, ReadError, Refusal, SubmitError};

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: Cow<'static, str>,
    message: String,
    further: Map<String, Value>,
    retry_after: Option<Duration>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), further: Map::new(), retry_after: None }
    }

    /// Input that nobody can serve.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// A fault on our side.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.further.insert(key.to_owned(), value.into());
        self
    }

    /// Tells the client when to come back.
    pub(crate) fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut error = Map::new();
        error.insert("code".to_owned(), json!(self.code));
        error.insert("message".to_owned(), json!(self.message));
        error.extend(self.further);
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(pause) = self.retry_after {
            // The header counts whole seconds; zero would ask for a busy loop.
            let seconds = pause.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// How a failure of ours is told to a client.
pub(super) fn status_of(disposition: Disposition) -> StatusCode {
    match disposition {
        Disposition::Transient | Disposition::Resource => StatusCode::SERVICE_UNAVAILABLE,
        Disposition::Corrupt | Disposition::Bug | Disposition::Input => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "bad_request", rejection.body_text())
    }
}

impl ApiError {
    /// A body that was not taken, of a request that takes so many bytes.
    pub(super) fn body(rejection: &BytesRejection, limit: usize) -> Self {
        let status = rejection.status();
        if status != StatusCode::PAYLOAD_TOO_LARGE {
            return Self::new(status, "body", format!("the body did not come whole: {}", rejection.body_text()));
        }
        let most = ByteSize::b(limit as u64).display().iec();
        let message = format!("the body is longer than {most}, the most that this request takes: send less");
        Self::new(status, "body", message).with("limit", limit)
    }
}

impl From<ChainError> for ApiError {
    fn from(error: ChainError) -> Self {
        Self::new(status_of(error.disposition()), error.code(), error.to_string())
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::Pruned { order, floor, .. } => {
                Self::new(StatusCode::GONE, "pruned", message).with("order", order.get()).with("floor", floor.get())
            }
            ReadError::NeverExisted { order, head } => Self::new(StatusCode::NOT_FOUND, "never_existed", message)
                .with("order", order.get())
                .with("head", head.get()),
            ReadError::Chain(error) => error.into(),
        }
    }
}

impl From<PruneError> for ApiError {
    fn from(error: PruneError) -> Self {
        Self::from(&error)
    }
}

impl From<&PruneError> for ApiError {
    fn from(error: &PruneError) -> Self {
        let told = |status| Self::new(status, error.code(), error.to_string());
        if let PruneError::Store(StoreError::Pruned { order, floor }) = error {
            return told(StatusCode::GONE).with("order", order.get()).with("floor", floor.get());
        }
        if let PruneError::Store(StoreError::NoSuchOrder { order, head }) = error {
            return told(StatusCode::NOT_FOUND).with("order", order.get()).with("head", head.0.map(Order::get));
        }
        if let PruneError::Store(StoreError::KeptBelow { order, floor }) = error {
            return told(StatusCode::CONFLICT).with("order", order.get()).with("floor", floor.get());
        }
        if let PruneError::Store(StoreError::HeldAbove { order, .. }) = error {
            return told(StatusCode::CONFLICT).with("order", order.get());
        }
        if let PruneError::PinnedAbove { name, order, .. } = error {
            return told(StatusCode::CONFLICT).with("order", *order).with("pin", name.as_str());
        }
        told(if matches!(error, PruneError::BadName { .. }) {
            StatusCode::BAD_REQUEST
        } else if matches!(error, PruneError::UnknownName { .. }) {
            StatusCode::NOT_FOUND
        } else if matches!(error, PruneError::NameTaken { .. } | PruneError::TooManyNames { .. }) {
            StatusCode::CONFLICT
        } else {
            status_of(error.disposition())
        })
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::Malformed { index, .. } => {
                Self::new(StatusCode::BAD_REQUEST, "malformed", message).with("index", index)
            }
            SubmitError::TooMany { limit, .. } => {
                Self::new(StatusCode::BAD_REQUEST, "too_many", message).with("limit", limit)
            }
            SubmitError::TooLarge { limit, .. } => {
                Self::new(StatusCode::BAD_REQUEST, "too_large", message).with("limit", limit)
            }
            SubmitError::Full { limit, limit_bytes, retry_after } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "mempool_full", message)
                    .with("limit", limit)
                    .with("limit_bytes", limit_bytes)
                    .retry_after(retry_after)
            }
            SubmitError::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message),
            SubmitError::Invariant(_) => Self::internal(message),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = status_of(refusal.disposition);
        Self::new(status, refusal.code, refusal.to_string())
    }
}
