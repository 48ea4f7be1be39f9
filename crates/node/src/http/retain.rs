//! What stays readable: named pins, consumers with their watermarks, and why something is kept.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{StatusCode, Uri},
    routing::MethodRouter,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use state_pruner::{Asked, Consumer, Explanation, LOOK_LIMIT, LiveRetention, NamedPin, NewPin, PruneError};
use state_tree::{Order, RoochLayout};
use tokio::sync::Semaphore;

use super::{Node, error::ApiError, in_turn, query::Query};

/// The most nodes that one question may look at.
const MAX_LOOK: u64 = 1_000_000;

/// The body of a pin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinBody {
    order: u64,
    /// One that is over at once keeps nothing.
    ttl_ms: Option<NonZeroU64>,
    owner: Option<String>,
}

/// The body of a consumer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsumerBody {
    order: u64,
    ttl_ms: Option<NonZeroU64>,
}

/// What a consumer said, as it was taken down.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Watermark {
    #[serde(flatten)]
    pub(crate) consumer: Consumer,
    /// Orders from the head to its watermark: nothing of what it asks for is there yet.
    pub(crate) ahead: u64,
}

/// The longest body of these requests, in bytes.
const MAX_HOLD_BODY: usize = 4 << 10;

/// Routes whose bodies are short.
pub(super) fn short(routes: MethodRouter<Arc<Node>>) -> MethodRouter<Arc<Node>> {
    routes.layer(DefaultBodyLimit::max(MAX_HOLD_BODY))
}

/// Who asked for a pin, if nobody says so.
const UNNAMED: &str = "unnamed";

impl Node {
    /// Asks what stays, on the blocking threads. Waits for nobody who changes it.
    pub(super) async fn retain<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&LiveRetention) -> Result<T, PruneError> + Send + 'static,
    ) -> Result<Json<T>, ApiError> {
        self.with_retention(&self.reads, work).await
    }

    /// Changes what stays, or waits for those who do.
    pub(super) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&LiveRetention) -> Result<T, PruneError> + Send + 'static,
    ) -> Result<Json<T>, ApiError> {
        self.with_retention(&self.changes, work).await
    }

    async fn with_retention<T: Send + 'static>(
        self: &Arc<Self>,
        turns: &Arc<Semaphore>,
        work: impl FnOnce(&LiveRetention) -> Result<T, PruneError> + Send + 'static,
    ) -> Result<Json<T>, ApiError> {
        let node = Arc::clone(self);
        let work = move || work(&node.retention).map_err(|error| node.refused(error));
        in_turn(turns, work).await.map(Json)
    }

    /// How a failure is answered; what it shows of the store is told.
    pub(super) fn refused(&self, error: PruneError) -> ApiError {
        let answer = ApiError::from(&error);
        self.damage.met_by_work(error);
        answer
    }
}

fn millis(ms: NonZeroU64) -> Duration {
    Duration::from_millis(ms.get())
}

type Named = Result<Path<String>, PathRejection>;
type Body = Result<Bytes, BytesRejection>;

/// The body of one of these requests, as it must be.
pub(super) fn read<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let wrong = |error| ApiError::new(StatusCode::BAD_REQUEST, "json", format!("the body is not as expected: {error}"));
    let body = body.map_err(|rejection| ApiError::body(&rejection, MAX_HOLD_BODY))?;
    serde_json::from_slice(&body).map_err(wrong)
}

/// `GET /v1/pins`.
pub(super) async fn pins(State(node): State<Arc<Node>>) -> Result<Json<Value>, ApiError> {
    node.retain(|retention| retention.status().map(|status| json!({ "floor": status.floor, "pins": status.pins })))
        .await
}

/// `POST /v1/pins/{name}`.
pub(super) async fn add_pin(
    State(node): State<Arc<Node>>,
    name: Named,
    bytes: Body,
) -> Result<Json<NamedPin>, ApiError> {
    let Path(name) = name?;
    let PinBody { order, ttl_ms, owner } = read(bytes)?;
    let owner = owner.unwrap_or_else(|| UNNAMED.to_owned());
    let pin = NewPin { name, owner, order: Order::new(order), ttl: ttl_ms.map(millis) };
    node.change(move |retention| retention.add_pin(pin)).await
}

/// `DELETE /v1/pins/{name}`.
pub(super) async fn remove_pin(State(node): State<Arc<Node>>, name: Named) -> Result<Json<NamedPin>, ApiError> {
    let Path(name) = name?;
    node.change(move |retention| retention.remove_pin(&name)).await
}

/// `GET /v1/consumers`.
pub(super) async fn consumers(State(node): State<Arc<Node>>) -> Result<Json<Value>, ApiError> {
    let listed = |retention: &LiveRetention| {
        retention.status().map(|status| json!({ "head": status.head, "consumers": status.consumers }))
    };
    node.retain(listed).await
}

/// `POST /v1/consumers/{name}`.
pub(super) async fn set_consumer(
    State(node): State<Arc<Node>>,
    name: Named,
    bytes: Body,
) -> Result<Json<Watermark>, ApiError> {
    let Path(name) = name?;
    let ConsumerBody { order, ttl_ms } = read(bytes)?;
    let (ttl, store) = (ttl_ms.map(millis), Arc::clone(node.chain.store()));
    let watermark = move |consumer: Consumer| {
        let ahead = store.head().map_or(0, |head| consumer.order.saturating_sub(head.order));
        Watermark { consumer, ahead }
    };
    node.change(move |retention| retention.set_consumer(&name, Order::new(order), ttl).map(watermark)).await
}

/// `DELETE /v1/consumers/{name}`.
pub(super) async fn remove_consumer(State(node): State<Arc<Node>>, name: Named) -> Result<Json<Consumer>, ApiError> {
    let Path(name) = name?;
    node.change(move |retention| retention.remove_consumer(&name)).await
}

/// `GET /v1/explain?order=..` or `?hash=..`.
pub(super) async fn explain(State(node): State<Arc<Node>>, uri: Uri) -> Result<Json<Explanation>, ApiError> {
    let mut query = Query::parse(&uri)?;
    let (order, hash, limit) = (query.text("order"), query.text("hash"), query.text("limit"));
    query.finish()?;
    let asked = match (order, hash) {
        (Some(order), None) => order
            .parse::<u64>()
            .map(|order| Asked::Order(Order::new(order)))
            .map_err(|_| format!("order is a whole number, not `{order}`")),
        (None, Some(hash)) => state_tree::NodeHash::from_hex(&hash)
            .map(Asked::Hash)
            .map_err(|_| format!("hash has 64 hex digits, `{hash}` has not")),
        (Some(_), Some(_)) => Err("order and hash are given: ask about one of them at a time".to_owned()),
        (None, None) => {
            Err("what is asked about: give order=N, or hash= with the 64 hex digits of a root or a node".to_owned())
        }
    };
    let asked = asked.map_err(ApiError::bad_request)?;
    let limit = limit.map_or(Ok(LOOK_LIMIT), |limit| limit.parse());
    let limit =
        limit.map_err(|_| ()).and_then(|limit| if (1..=MAX_LOOK).contains(&limit) { Ok(limit) } else { Err(()) });
    let limit = limit.map_err(|()| ApiError::bad_request(format!("limit is a number from 1 to {MAX_LOOK}, so that no request holds the node up; `explain --db` of its store takes more")))?;
    let pruner = node.pruner.clone();
    let explain = move |retention: &LiveRetention| match &pruner {
        Some(pruner) => retention.explain_beside(pruner, asked, (&RoochLayout, limit)),
        None => retention.explain(asked, &RoochLayout, limit),
    };
    node.change(explain).await // it waits for whoever changes what stays
}
