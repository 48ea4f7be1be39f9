//! The one policy of a live chain: it answers what stays, and moves the floor.
//!
//! Order that must not change: a pin is durable BEFORE it is acknowledged, and every pin is looked at in the same lock
//! in which the floor moves, so none is passed by. What is let go leaves the readable orders BEFORE `advance` returns.
//!
//! Records that cannot be read keep everything: nothing moves until they can (I8).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use state_store::{Batch, Durability, FloorMove, HeadRecord, Hole, NativeChain, RolledBack, Store, View};
use state_tree::Order;

use super::{
    holds::{Consumer, Holds, NamedPin},
    keep::{Ask, Bound, KeepPolicy},
    log::RetentionLog,
    within::first_within,
};
use crate::{
    clock::Clock,
    error::PruneError,
    events::{Event, EventSink},
    policy::{FloorRows, with_reader_pins},
    records::{RecordKey, Records},
    roots::{Retention, Window},
    snapshot::RetentionPolicy,
};

/// How long a consumer that does not say is waited for.
pub const DEFAULT_CONSUMER_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Expired pins that the status remembers.
const REMEMBERED: usize = 16;

/// What the policy works with.
#[derive(Clone)]
pub struct RetentionParts {
    /// The store whose floor moves.
    pub store: Arc<Store>,
    /// Keeps pins, consumers and the log of moves.
    pub records: Arc<dyn Records>,
    /// Reads time.
    pub clock: Arc<dyn Clock>,
    /// The bounds; absent where none are in force, so that only looking is possible.
    pub keep: Option<KeepPolicy>,
    /// Rows of the chain that go when the floor moves.
    pub floor_rows: Option<FloorRows>,
    /// Takes what happens.
    pub events: Arc<dyn EventSink>,
}

/// A pin as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPin {
    /// Its name.
    pub name: String,
    /// Who asks.
    pub owner: String,
    /// The order.
    pub order: Order,
    /// How long; absent means until it is removed.
    pub ttl: Option<Duration>,
}

/// Whether the kept orders are those that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Below {
    Settled,
    ToBeLookedAt,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) holds: Holds,
    pub(super) log: RetentionLog,
    pub(super) below: Below,
    /// Consumers whose silence was told.
    pub(super) silent: BTreeSet<String>,
    /// Pins that were dropped, the last few.
    pub(super) expired: VecDeque<NamedPin>,
    /// Told once the lock is let go: whoever tells may wait, and health must not wait with it.
    untold: Vec<Event>,
}

/// What is shown of the state: whoever shows it waits for nobody who changes it, and so for no write (O14).
#[derive(Debug)]
pub(super) struct Published {
    pub(super) holds: Holds,
    pub(super) expired: VecDeque<NamedPin>,
}

/// What a live chain keeps.
pub struct LiveRetention {
    pub(super) parts: RetentionParts,
    state: Mutex<Option<State>>,
    /// Taken after the state, for as long as it takes to copy a pointer.
    published: Mutex<Option<Arc<Published>>>,
}

impl std::fmt::Debug for LiveRetention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveRetention").field("keep", &self.parts.keep).finish_non_exhaustive()
    }
}

/// A duration in the unit of records.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).map_or(u64::MAX, |ms| ms)
}

impl LiveRetention {
    /// The policy over these parts. Its records are read when they are needed first.
    pub fn new(parts: RetentionParts) -> Self {
        Self { parts, state: Mutex::default(), published: Mutex::default() }
    }

    /// The store whose floor it moves.
    pub fn store(&self) -> &Arc<Store> {
        &self.parts.store
    }

    /// The same with the bounds that were in force when the records were written last: for looking at a store at rest.
    pub(crate) fn as_recorded(parts: RetentionParts) -> Result<Self, PruneError> {
        let keep = RetentionLog::load(&*parts.records)?.policy.and_then(|policy| policy.policy());
        Ok(Self::new(RetentionParts { keep, ..parts }))
    }

    /// The state, read if it was not yet.
    pub(super) fn state(&self) -> Result<MappedMutexGuard<'_, State>, PruneError> {
        let mut state = self.state.lock();
        if state.is_none() {
            let loaded = State::load(&*self.parts.records)?;
            self.publish(&loaded);
            *state = Some(loaded);
        }
        let loaded = MutexGuard::try_map(state, Option::as_mut);
        loaded.map_err(|_| PruneError::Invariant("the state of the retention was not loaded".to_owned()))
    }

    /// What was published last, read from the records where nothing was yet.
    pub(super) fn published(&self) -> Result<Arc<Published>, PruneError> {
        if let Some(published) = &*self.published.lock() {
            return Ok(Arc::clone(published));
        }
        let read = State::load(&*self.parts.records)?.to_publish();
        Ok(Arc::clone(self.published.lock().get_or_insert(read))) // what was published meanwhile is newer
    }

    fn publish(&self, state: &State) {
        *self.published.lock() = Some(state.to_publish());
    }

    /// Other pins and consumers: durable, then in force, then shown.
    pub(super) fn hold(&self, state: &mut State, holds: Holds) -> Result<(), PruneError> {
        holds.save(&*self.parts.records)?;
        state.holds = holds;
        self.publish(state);
        Ok(())
    }

    /// The head and the floor; nothing before the first commit.
    pub(super) fn ends(&self) -> Option<(HeadRecord, Order)> {
        self.parts.store.head().zip(self.parts.store.floor())
    }

    /// Moves the floor, and lets go of what nobody asks for any more. Where nothing moves this reads no disk.
    ///
    /// Errors: records that cannot be read or written; then nothing moved.
    pub fn advance_under(&self, durability: Durability) -> Result<(), PruneError> {
        let Some(keep) = self.parts.keep else { return Ok(()) };
        let Some(ends) = self.ends() else { return Ok(()) };
        let mut state = self.state()?;
        let advanced = self.advance_in(&mut state, &keep, ends, durability);
        let untold = std::mem::take(&mut state.untold);
        drop(state);
        untold.into_iter().for_each(|event| self.parts.events.emit(event));
        advanced
    }

    fn advance_in(
        &self,
        state: &mut State,
        keep: &KeepPolicy,
        (head, floor): (HeadRecord, Order),
        durability: Durability,
    ) -> Result<(), PruneError> {
        let now_ms = self.parts.clock.unix_ms();
        self.drop_expired(state, now_ms)?;
        tell_silence(state, now_ms);
        let to = self.first_asked_for(keep, &state.holds, (floor, head))?.max(floor);
        let let_go = match state.below {
            Below::Settled => BTreeSet::new(),
            Below::ToBeLookedAt => self.unasked_for(keep, &state.holds),
        };
        if to == floor && let_go.is_empty() && state.log.is_in_force(keep) {
            state.below = Below::Settled;
            return Ok(());
        }
        let pinned = state.holds.pins.iter().map(|pin| Order::new(pin.order));
        let pinned = pinned.filter(|order| (floor..to).contains(order));
        let change =
            FloorMove { to, keep: keep.every_between(floor, to).chain(pinned).collect(), let_go, rows: vec![] };
        self.apply(state, keep, (change, Order::new(head.order)), durability)
    }

    /// Floor, kept orders and log in one batch (I9).
    fn apply(
        &self,
        state: &mut State,
        keep: &KeepPolicy,
        (mut change, head): (FloorMove, Order),
        durability: Durability,
    ) -> Result<(), PruneError> {
        let (now_ms, floor) = (self.parts.clock.unix_ms(), self.parts.store.floor());
        let mut log = state.log.clone().under(keep, now_ms).let_go(change.let_go.iter().copied(), head, now_ms);
        if Some(change.to) != floor {
            log = log.moved(change.to, head, now_ms);
        }
        let (bytes, records) = (log.encode()?, &*self.parts.records);
        change.rows.extend(self.parts.floor_rows.as_ref().map(|rows| rows(change.to)));
        let staged = records.batch(RecordKey::RetentionLog, &bytes);
        let outside = staged.is_none();
        change.rows.extend(staged);
        self.parts.store.move_floor(change, durability)?;
        if outside {
            records.stage(RecordKey::RetentionLog, &bytes)?;
        }
        if !state.log.is_in_force(keep) {
            state.untold.push(Event::ConfigChanged { what: format!("retention: {keep}") });
        }
        (state.log, state.below) = (log, Below::Settled);
        Ok(())
    }

    /// An expired pin is dropped here and nowhere else, so that it is told.
    fn drop_expired(&self, state: &mut State, now_ms: u64) -> Result<(), PruneError> {
        let Some((holds, expired)) = state.holds.without_expired(now_ms) else { return Ok(()) };
        self.hold(state, holds)?;
        state.below = Below::ToBeLookedAt;
        for pin in expired {
            tracing::warn!(name = pin.name, owner = pin.owner, order = pin.order, ttl_ms = pin.ttl_ms, "a pin expired");
            let (name, owner) = (pin.name.clone(), pin.owner.clone());
            state.untold.push(Event::PinExpired { name, owner, order: pin.order });
            state.expired.push_back(pin);
        }
        let surplus = state.expired.len().saturating_sub(REMEMBERED);
        state.expired.drain(..surplus);
        self.publish(state);
        Ok(())
    }

    /// The lowest order that a bound asks for, or any at or below the floor if nothing is to move. Time is looked at
    /// last, and only above the floor: it is the one bound that reads.
    fn first_asked_for(
        &self,
        keep: &KeepPolicy,
        holds: &Holds,
        (floor, head): (Order, HeadRecord),
    ) -> Result<Order, PruneError> {
        let top = Order::new(head.order);
        let consumers = self.asks_of_consumers(holds, top).map(|ask| Order::new(ask.from));
        let first = consumers.fold(keep.first_of_last(top), Order::min);
        match keep.time_ms() {
            Some(time_ms) if first > floor => first_of_time(&*self.parts.store.view()?, time_ms, (floor, first), &head),
            Some(_) | None => Ok(first),
        }
    }

    pub(super) fn asks_of_consumers(&self, holds: &Holds, head: Order) -> impl Iterator<Item = Ask> {
        let ask = move |consumer: &Consumer| Ask {
            by: Bound::Consumer { name: consumer.name.clone() },
            from: consumer.order.min(head.get()), // one that is ahead asks for nothing that is there
        };
        holds.heard(self.parts.clock.unix_ms()).map(ask)
    }

    fn unasked_for(&self, keep: &KeepPolicy, holds: &Holds) -> BTreeSet<Order> {
        let pinned: BTreeSet<u64> = holds.pins.iter().map(|pin| pin.order).collect();
        let kept = self.parts.store.kept().into_iter().map(|(order, _)| order);
        kept.filter(|order| !keep.is_one_of_every(*order) && !pinned.contains(&order.get())).collect()
    }
}

impl State {
    fn load(records: &dyn Records) -> Result<Self, PruneError> {
        Ok(Self {
            holds: Holds::load(records)?,
            log: RetentionLog::load(records)?,
            below: Below::ToBeLookedAt, // the policy may be another one than that of the last process
            silent: BTreeSet::new(),
            expired: VecDeque::new(),
            untold: Vec::new(),
        })
    }

    fn to_publish(&self) -> Arc<Published> {
        Arc::new(Published { holds: self.holds.clone(), expired: self.expired.clone() })
    }
}

/// The first order of the range that is not older than the head by more than this; the last if none before it is.
pub(super) fn first_of_time(
    view: &dyn View,
    time_ms: u64,
    range: (Order, Order),
    head: &HeadRecord,
) -> Result<Order, PruneError> {
    let oldest = head.at.timestamp_ms.saturating_sub(time_ms);
    first_within(range, &mut |order| Ok(timestamp(view, order)? >= oldest))
}

/// Says once that a consumer is not obeyed any more.
fn tell_silence(state: &mut State, now_ms: u64) {
    for consumer in state.holds.consumers.iter().filter(|consumer| consumer.is_silent(now_ms)) {
        if state.silent.insert(consumer.name.clone()) {
            let (name, order, ttl_ms) = (&consumer.name, consumer.order, consumer.ttl_ms);
            tracing::warn!(name, order, ttl_ms, "a consumer is silent: it is not waited for");
            state.untold.push(Event::ConsumerWentSilent { name: name.clone(), order });
        }
    }
}

/// When the block of an order was made, by the chain's clock.
fn timestamp(view: &dyn View, order: Order) -> Result<u64, PruneError> {
    let record = NativeChain.record(view, order)?;
    let hole = || PruneError::Holes { holes: vec![(order, Hole::NoRecord)] };
    record.map(|record| record.timestamp_ms).ok_or_else(hole)
}

impl RetentionPolicy for LiveRetention {
    fn keep(&self) -> Option<KeepPolicy> {
        self.parts.keep
    }

    fn advance(&self) -> Result<(), PruneError> {
        self.advance_under(Durability::Synced)
    }

    fn advance_under(&self, durability: Durability) -> Result<(), PruneError> {
        Self::advance_under(self, durability)
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        let state = self.state()?; // floor and kept orders belong together: nobody moves them meanwhile
        let floor = self.parts.store.floor().map_or(Order::GENESIS, |floor| floor);
        let kept = self.kept(&state.holds);
        let pins = with_reader_pins(kept, &self.parts.store);
        Ok(Retention { window: Window::From(floor), pins, allowed_holes: BTreeSet::new() })
    }

    fn check_rollback(&self, store: &Store, to: Order) -> Result<RolledBack, PruneError> {
        self.refuse_if_pinned(&*self.state()?, to)?;
        Ok(store.check_rollback(to)?)
    }

    fn roll_back(&self, store: &Store, to: Order, rows: Batch) -> Result<RolledBack, PruneError> {
        self.rolled_back(store, to, rows)
    }
}
