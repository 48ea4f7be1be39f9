//! The journal of events: a page of it, all of it checked, and what happens now.
//!
//! A live stream waits for its client and nobody waits for it: what it misses is told, exactly: events have numbers without
//! gaps, so that those between what was sent and what comes next are the ones that are missed, and what the journal has of
//! them is not. It begins with what the journal has after the number asked for, so that a client that comes back misses
//! nothing that is kept. It ends with the node.

use std::{collections::VecDeque, convert::Infallible, io::ErrorKind, sync::Arc, time::Duration};

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
use state_pruner::{
    PruneError,
    events::{Entry, Event, Filter, Happened, Heard, JournalRead, Subscription},
};
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

fn codes(query: &mut Query) -> Result<Vec<String>, ApiError> {
    let codes = query.text("code").map(|words| words.split(',').map(Event::known_code).collect());
    codes.map_or(Ok(Vec::new()), |codes: Result<_, _>| codes.map_err(ApiError::bad_request))
}

/// `GET /v1/events?after=SEQ&limit=N&last=N&since_ms=T&code=A,B`: the oldest `limit`, or the newest `last`.
pub(super) async fn page(State(node): State<Arc<Node>>, uri: Uri) -> Result<Json<JournalRead>, ApiError> {
    let mut query = Query::parse(&uri)?;
    let (after, since_ms) = (number(&mut query, "after")?, number(&mut query, "since_ms")?);
    let (limit, last) = (count(&mut query, "limit")?, count(&mut query, "last")?);
    let codes = codes(&mut query)?;
    query.finish()?;
    let first = if last.is_some() { limit } else { Some(limit.map_or(PAGE, |limit| limit)) };
    node.journal(Filter { after, since_ms, codes, first, last }).await.map(Json)
}

/// `GET /v1/events/verify`: what is whole and what is not.
pub(super) async fn verify(State(node): State<Arc<Node>>) -> Result<Json<JournalRead>, ApiError> {
    node.journal(Filter { last: Some(0), ..Filter::default() }).await.map(Json)
}

/// What a client is sent.
#[derive(Debug, PartialEq)]
enum Told {
    Event(Entry),
    /// So many events are lost to it.
    Missed(u64),
}

/// Where a client is in the events.
struct Place {
    /// The number of the newest event that was sent or told as missed; absent before the first one of a client that began
    /// with what comes.
    at: Option<u64>,
    /// Events that were sent since then without a number.
    unnumbered: u64,
    /// What it gets next.
    ready: VecDeque<Told>,
    /// Whether the journal may have more than was sent.
    is_behind: bool,
}

impl Place {
    fn after(after: Option<u64>) -> Self {
        Self { at: after, unnumbered: 0, ready: VecDeque::new(), is_behind: after.is_some() }
    }

    /// The next event, from the journal or live. Those between the newest that was sent and it are lost.
    fn take(&mut self, entry: Entry) {
        if entry.seq == Happened::UNNUMBERED {
            self.unnumbered += 1;
            self.ready.push_back(Told::Event(entry));
            return;
        }
        if self.at.is_some_and(|at| entry.seq <= at) {
            return; // it was in the journal
        }
        let missed = self.at.map_or(0, |at| entry.seq - at - 1);
        if missed > 0 {
            self.ready.push_back(Told::Missed(missed));
        }
        self.at = Some(entry.seq);
        self.ready.push_back(Told::Event(entry));
    }

    /// What came without numbers has them now, up to this one. If not all of it was sent, the journal is: some of it twice.
    fn numbered(&mut self, seq: u64) {
        let sent = std::mem::take(&mut self.unnumbered);
        match self.at {
            Some(at) if seq > at.saturating_add(sent) => self.is_behind = true,
            at => self.at = at.map(|at| at.max(seq)),
        }
    }

    /// So many live events were lost. What the journal has of them is sent; the next event shows how many it has not.
    fn missed(&mut self, events: u64) {
        match self.at {
            Some(_) => self.is_behind = true,
            None => self.ready.push_back(Told::Missed(events)), // nothing was sent yet: it is so many
        }
    }

    /// The next page of the journal; an empty one means that it has no more.
    fn page(&mut self, events: Vec<Entry>) {
        self.is_behind = !events.is_empty();
        events.into_iter().for_each(|entry| self.take(entry));
    }
}

/// One client that watches.
struct Watching {
    node: Arc<Node>,
    live: Subscription,
    stop: CancellationToken,
    place: Place,
    _turn: OwnedSemaphorePermit,
}

/// `GET /v1/events/stream?after=SEQ`: server-sent events, each with its number as `id`; `missed` tells how many are lost.
pub(super) async fn stream(State(node): State<Arc<Node>>, uri: Uri) -> Result<Response, ApiError> {
    let mut query = Query::parse(&uri)?;
    let after = number(&mut query, "after")?;
    query.finish()?;
    let Ok(turn) = Arc::clone(&node.watchers).try_acquire_owned() else {
        let message = format!("{MAX_WATCHERS} clients watch already");
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_watchers", message));
    };
    let (live, stop) = (node.events.subscribe(), node.stop.clone()); // BEFORE the journal is read: nothing is between
    if let Some(after) = after {
        refuse_what_is_to_come(&node, after).await?;
    }
    let watching = Watching { node, live, stop, place: Place::after(after), _turn: turn };
    let messages = stream::unfold(watching, async |mut watching| {
        let message = watching.next().await?;
        Some((Ok::<_, Infallible>(message), watching))
    });
    Ok(Sse::new(Box::pin(messages)).keep_alive(KeepAlive::default()).into_response())
}

/// A client that has seen more than there is has seen another journal, or events that a power loss took: it would wait in
/// silence until the numbers come again, and take other events for those it knows.
async fn refuse_what_is_to_come(node: &Arc<Node>, after: u64) -> Result<(), ApiError> {
    let asked = Arc::clone(node);
    let newest = node.blocking(move || {
        let is_known = match asked.events.flush(FLUSH) {
            Err(PruneError::File { source, .. }) => source.kind() != ErrorKind::TimedOut, // one that is not written has its number
            Err(_) => false,
            Ok(()) => true,
        };
        Ok(is_known.then(|| asked.events.status().last_seq))
    });
    let newest = newest.await?.filter(|last| *last != Happened::UNNUMBERED); // of a journal that is not open yet
    let Some(last) = newest.filter(|last| after > *last) else { return Ok(()) }; // unknown refuses nothing
    let message = format!("the newest event has number {last}, so nothing comes after {after} yet: ask after {last}");
    Err(ApiError::new(StatusCode::CONFLICT, "beyond_the_end", message).with("last_seq", last))
}

impl Watching {
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(told) = self.place.ready.pop_front() {
                return Some(message(&told));
            }
            if self.place.is_behind {
                self.catch_up().await;
                continue;
            }
            let heard = tokio::select! {
                () = self.stop.cancelled() => return None,
                heard = self.live.next() => heard,
            };
            match heard {
                Heard::Event(happened) => self.place.take(Entry::from(&*happened)),
                Heard::Missed(events) => self.place.missed(events),
                Heard::Numbered(seq) => self.place.numbered(seq),
                Heard::Ended => return None,
            }
        }
    }

    /// Reads the next page of what the journal has already.
    async fn catch_up(&mut self) {
        let filter = Filter { after: self.place.at, first: Some(PAGE), ..Filter::default() };
        match self.node.journal(filter).await {
            Ok(read) => self.place.page(read.events),
            Err(error) => {
                tracing::warn!(error = error.message(), "a client that watches is not told what came before");
                self.place.page(Vec::new());
            }
        }
    }
}

fn message(told: &Told) -> Message {
    match told {
        Told::Event(entry) => {
            let told = Message::default().event(entry.code.clone()).data(json!(entry).to_string());
            if entry.seq == Happened::UNNUMBERED { told } else { told.id(entry.seq.to_string()) }
        }
        Told::Missed(missed) => Message::default().event("missed").data(json!({ "missed": missed }).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64) -> Entry {
        Entry { seq, at_ms: 0, code: "pin_added".to_owned(), data: serde_json::Map::new() }
    }

    fn entries(numbers: impl IntoIterator<Item = u64>) -> Vec<Entry> {
        numbers.into_iter().map(entry).collect()
    }

    /// Numbers that were sent, and how many were told as missed before each.
    fn told(place: &mut Place) -> Vec<(u64, u64)> {
        let (mut lines, mut missed) = (Vec::new(), 0);
        for told in place.ready.drain(..) {
            match told {
                Told::Missed(events) => missed += events,
                Told::Event(entry) => lines.push((std::mem::take(&mut missed), entry.seq)),
            }
        }
        lines
    }

    #[test]
    fn what_the_journal_has_is_not_missed_and_what_it_has_not_is_counted_exactly() {
        let mut place = Place::after(Some(3));
        place.page(entries([4, 5]));
        place.page(Vec::new());
        assert!(!place.is_behind);
        (5..=6).for_each(|seq| place.take(entry(seq)));
        assert_eq!(told(&mut place), [(0, 4), (0, 5), (0, 6)], "each once");
        place.missed(10); // 7 to 16
        assert!(place.is_behind && place.ready.is_empty(), "the journal may have them");
        place.page(entries((7..=16).chain([17])));
        place.page(Vec::new());
        place.take(entry(17));
        assert_eq!(told(&mut place), (7..=17).map(|seq| (0, seq)).collect::<Vec<_>>(), "nothing was missed");
        place.missed(10); // 18 to 27, of which the journal has kept those from 24 on
        place.page(entries(24..=25));
        place.page(Vec::new());
        place.take(entry(28));
        assert_eq!(told(&mut place), [(6, 24), (0, 25), (2, 28)]);
    }

    #[test]
    fn events_that_come_before_the_journal_is_open_are_sent_and_are_no_gap_once_they_have_numbers() {
        for after in [Some(50), None] {
            let mut place = Place::after(after);
            [0, 0, 51].into_iter().for_each(|seq| place.take(entry(seq)));
            place.is_behind = false; // it has read what was there
            place.numbered(53);
            assert!(!place.is_behind, "both were sent");
            [54, 56].into_iter().for_each(|seq| place.take(entry(seq)));
            assert_eq!(told(&mut place), [(0, 0), (0, 0), (0, 51), (0, 54), (1, 56)], "{after:?}");
        }
        let mut place = Place::after(Some(50));
        place.page(Vec::new());
        [0, 51].into_iter().for_each(|seq| place.take(entry(seq)));
        place.numbered(53);
        assert!(place.is_behind, "one was not sent");
        place.page(entries([52, 53]));
        place.page(Vec::new());
        place.take(entry(54));
        assert_eq!(told(&mut place), [(0, 0), (0, 51), (0, 52), (0, 53), (0, 54)]);
    }

    #[test]
    fn a_client_that_began_with_what_comes_misses_what_it_was_too_slow_for() {
        let mut place = Place::after(None);
        place.missed(5);
        place.take(entry(90));
        place.take(entry(93));
        assert_eq!(told(&mut place), [(5, 90), (2, 93)]);
    }
}
