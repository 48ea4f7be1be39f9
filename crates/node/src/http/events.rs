//! The journal of events: a page of it, all of it checked, and what happens now.
//!
//! A live stream waits for its client and nobody waits for it: what it misses is told. It begins with what the journal has
//! after the number asked for, so that a client that comes back misses nothing that is kept. It ends with the node.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::{
        IntoResponse, Response,
        sse::{Event as Message, KeepAlive, Sse},
    },
};
use futures_util::stream;
use serde_json::json;
use state_pruner::events::{Entry, Filter, Heard, JournalRead, Subscription};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{Node, error::ApiError, query::Query};

/// The most events of one answer, and how many without being asked.
const MAX_PAGE: usize = 10_000;
const PAGE: usize = 1_000;
/// The most streams at once.
pub(super) const MAX_WATCHERS: usize = 64;
/// How long what was emitted last may take to be written before a page is read without it.
const FLUSH: Duration = Duration::from_secs(1);

impl Node {
    /// Reads the journal on the blocking threads, with what was emitted until now.
    async fn journal(self: &Arc<Self>, filter: Filter) -> Result<JournalRead, ApiError> {
        let node = Arc::clone(self);
        self.blocking(move || {
            if let Err(error) = node.events.flush(FLUSH) {
                tracing::debug!(%error, "a page of events is read without the newest");
            }
            node.events.read(&filter).map_err(ApiError::from)
        })
        .await
    }
}

fn number(query: &mut Query, key: &str) -> Result<Option<u64>, ApiError> {
    let number = query.text(key).map(|text| text.parse::<u64>()).transpose();
    number.map_err(|_| ApiError::bad_request(format!("{key} is a number")))
}

fn count(query: &mut Query, key: &str) -> Result<Option<usize>, ApiError> {
    match number(query, key)?.map(usize::try_from) {
        None => Ok(None),
        Some(Ok(count)) if (1..=MAX_PAGE).contains(&count) => Ok(Some(count)),
        Some(Ok(_) | Err(_)) => Err(ApiError::bad_request(format!("{key} is a number from 1 to {MAX_PAGE}"))),
    }
}

/// `GET /v1/events?after=SEQ&limit=N&last=N&since_ms=T&code=A,B`: the oldest `limit`, or the newest `last`.
pub(super) async fn page(State(node): State<Arc<Node>>, uri: Uri) -> Result<Json<JournalRead>, ApiError> {
    let mut query = Query::parse(&uri)?;
    let (after, since_ms) = (number(&mut query, "after")?, number(&mut query, "since_ms")?);
    let (limit, last) = (count(&mut query, "limit")?, count(&mut query, "last")?);
    let codes = query.text("code").map_or_else(Vec::new, |codes| codes.split(',').map(str::to_owned).collect());
    query.finish()?;
    let first = if last.is_some() { limit } else { Some(limit.map_or(PAGE, |limit| limit)) };
    node.journal(Filter { after, since_ms, codes, first, last }).await.map(Json)
}

/// `GET /v1/events/verify`: what is whole and what is not.
pub(super) async fn verify(State(node): State<Arc<Node>>) -> Result<Json<JournalRead>, ApiError> {
    node.journal(Filter { last: Some(0), ..Filter::default() }).await.map(Json)
}

/// One client that watches.
struct Watching {
    node: Arc<Node>,
    live: Subscription,
    stop: CancellationToken,
    /// What the journal has and the client has not.
    page: VecDeque<Entry>,
    /// The number of the newest event that was sent, while the journal may have more behind it.
    behind: Option<u64>,
    sent: u64,
    _turn: OwnedSemaphorePermit,
}

/// `GET /v1/events/stream?after=SEQ`: server-sent events, each with its number as `id`; `missed` tells how many were lost.
pub(super) async fn stream(State(node): State<Arc<Node>>, uri: Uri) -> Result<Response, ApiError> {
    let mut query = Query::parse(&uri)?;
    let after = number(&mut query, "after")?;
    query.finish()?;
    let Ok(turn) = Arc::clone(&node.watchers).try_acquire_owned() else {
        let message = format!("{MAX_WATCHERS} clients watch already");
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_watchers", message));
    };
    let (live, stop) = (node.events.subscribe(), node.stop.clone()); // BEFORE the journal is read: nothing is between
    let sent = after.map_or(0, |after| after);
    let watching = Watching { node, live, stop, page: VecDeque::new(), behind: after, sent, _turn: turn };
    let messages = stream::unfold(watching, async |mut watching| {
        let message = watching.next().await?;
        Some((Ok::<_, Infallible>(message), watching))
    });
    Ok(Sse::new(Box::pin(messages)).keep_alive(KeepAlive::default()).into_response())
}

impl Watching {
    async fn next(&mut self) -> Option<Message> {
        loop {
            self.catch_up().await;
            if let Some(entry) = self.page.pop_front() {
                self.sent = entry.seq;
                return Some(message(&entry));
            }
            let heard = tokio::select! {
                () = self.stop.cancelled() => return None,
                heard = self.live.next() => heard,
            };
            match heard {
                Heard::Event(happened) if happened.seq <= self.sent => {} // it was in the journal
                Heard::Event(happened) => {
                    self.sent = happened.seq;
                    return Some(message(&Entry::from(&*happened)));
                }
                Heard::Missed(missed) => {
                    return Some(Message::default().event("missed").data(json!({ "missed": missed }).to_string()));
                }
                Heard::Ended => return None,
            }
        }
    }

    /// Reads the next page of what the journal has already.
    async fn catch_up(&mut self) {
        let Some(after) = self.behind.filter(|_| self.page.is_empty()) else { return };
        let filter = Filter { after: Some(after), first: Some(PAGE), ..Filter::default() };
        match self.node.journal(filter).await {
            Ok(read) => {
                self.behind = read.events.last().map(|last| last.seq);
                self.page = read.events.into();
            }
            Err(error) => {
                tracing::warn!(?error, "a client that watches is not told what came before");
                self.behind = None;
            }
        }
    }
}

fn message(entry: &Entry) -> Message {
    Message::default().id(entry.seq.to_string()).event(entry.code.clone()).data(json!(entry).to_string())
}
