//! The one policy of a live chain: it answers what stays, and takes pins and consumers.
//!
//! Order that must not change: a pin is durable BEFORE it is acknowledged, and every pin is looked at in the same lock
//! in which the floor moves, so none is passed by.
//!
//! Records that cannot be read keep everything: nothing moves until they can (I8).

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use state_store::{Batch, Durability, HeadRecord, RolledBack, Store, StoreError};
use state_tree::Order;

use super::{
    cause::Cause,
    held::{Held, Now},
    holds::{Consumer, NamedPin},
    keep::{Ask, Bound, KeepPolicy},
    log::RetentionLog,
    readers::{OldReaders, ReaderLimit, Readers},
    state::{Below, Published, State},
};
use crate::{
    alone::Alone,
    clock::{Clock, millis},
    error::PruneError,
    events::{Event, EventSink},
    policy::FloorRows,
    records::Records,
    roots::{Retention, Window},
    snapshot::{LessKept, RetentionPolicy},
    when::Span,
};

/// How long a consumer that does not say is waited for.
pub const DEFAULT_CONSUMER_TTL: Duration = Duration::from_secs(24 * 60 * 60);

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

/// What a live chain keeps.
pub struct LiveRetention {
    pub(super) parts: RetentionParts,
    /// It belongs to no node, so nobody speaks to it.
    looks_on: bool,
    state: Mutex<Option<State>>,
    /// Taken after the state, for as long as it takes to copy a pointer.
    published: Mutex<Option<Arc<Published>>>,
    /// For the one who reads the records to show them, where nothing was published yet.
    reading: Alone<()>,
    /// When the block of the first order was made, once it was asked for.
    pub(super) first_ms: OnceLock<u64>,
    pub(super) reader_limit: ReaderLimit,
    /// Taken alone, and for a look.
    pub(super) readers: Mutex<Readers>,
    /// Told while nothing else is held.
    pub(super) less_kept: Mutex<Option<LessKept>>,
}

impl std::fmt::Debug for LiveRetention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveRetention").field("keep", &self.parts.keep).finish_non_exhaustive()
    }
}

impl LiveRetention {
    /// The policy over these parts. Its records are read when they are needed first.
    pub fn new(parts: RetentionParts) -> Self {
        let reader_limit = ReaderLimit { max_age: None, then: OldReaders::Report };
        let (state, published, reading) = (Mutex::default(), Mutex::default(), Alone::default());
        let (first_ms, readers, less_kept) = (OnceLock::new(), Mutex::default(), Mutex::default());
        Self { parts, looks_on: false, state, published, reading, first_ms, reader_limit, readers, less_kept }
    }

    /// The same with a limit on readers below the floor.
    #[must_use]
    pub fn limiting_readers(self, reader_limit: ReaderLimit) -> Self {
        Self { reader_limit, ..self }
    }

    /// The store whose floor it moves.
    pub fn store(&self) -> &Arc<Store> {
        &self.parts.store
    }

    /// The same with the bounds that were in force when the records were written last: for looking at a store at rest.
    pub(crate) fn as_recorded(parts: RetentionParts) -> Result<Self, PruneError> {
        let keep = RetentionLog::recorded_policy(&*parts.records)?;
        Ok(Self { looks_on: true, ..Self::new(RetentionParts { keep, ..parts }) })
    }

    fn load(&self) -> Result<State, PruneError> {
        let floor = self.parts.store.floor().map_or(Order::GENESIS, |floor| floor);
        let waits_from = (!self.looks_on).then_some(floor);
        State::load(&*self.parts.records, Now::of(&*self.parts.clock), waits_from)
    }

    /// The state, read if it was not yet.
    pub(super) fn state(&self) -> Result<MappedMutexGuard<'_, State>, PruneError> {
        let mut state = self.state.lock();
        if state.is_none() {
            let loaded = self.load()?;
            self.publish(&loaded);
            *state = Some(loaded);
        }
        let loaded = MutexGuard::try_map(state, Option::as_mut);
        loaded.map_err(|_| PruneError::Invariant("the state of the retention was not loaded".to_owned()))
    }

    /// What was published last, read from the records where nothing was yet. Waits a second at most for somebody who reads.
    pub(super) fn published(&self) -> Result<Arc<Published>, PruneError> {
        let published = || self.published.lock().clone();
        if let Some(published) = published() {
            return Ok(published);
        }
        let read_once = |(): &mut ()| {
            if let Some(published) = published() {
                return Ok(published); // whoever was waited for has read it
            }
            let read = self.load()?.to_publish();
            Ok(Arc::clone(self.published.lock().get_or_insert(read))) // what was published meanwhile is newer
        };
        self.reading.ask(&*self.parts.clock, read_once).map_err(unanswered)?
    }

    pub(super) fn publish(&self, state: &State) {
        *self.published.lock() = Some(state.to_publish());
    }

    /// Other pins and consumers: durable, then in force, then shown.
    pub(super) fn hold(&self, state: &mut State, held: Held) -> Result<(), PruneError> {
        self.hold_by(state, held, Durability::Synced)
    }

    fn hold_by(&self, state: &mut State, held: Held, durability: Durability) -> Result<(), PruneError> {
        held.holds.save(&*self.parts.records, durability)?;
        state.held = held;
        self.publish(state);
        Ok(())
    }

    /// Keeps an order by name. The pin is durable when this returns.
    ///
    /// Errors: an order that is gone or never was, a name that is no name or belongs to another order, a failed write.
    pub fn add_pin(&self, pin: NewPin) -> Result<NamedPin, PruneError> {
        let mut state = self.state()?;
        self.parts.store.root(pin.order)?;
        let NewPin { name, owner, order, ttl } = pin;
        let now = Now::of(&*self.parts.clock);
        let pin = NamedPin { name, owner, order: order.get(), since_ms: now.unix_ms, ttl_ms: ttl.map(millis) };
        let held = state.held.with_pin(pin.clone(), now)?;
        self.hold(&mut state, held)?;
        drop(state);
        tracing::info!(name = pin.name, owner = pin.owner, order = pin.order, ttl_ms = pin.ttl_ms, "a pin was added");
        let NamedPin { name, owner, order, ttl_ms, .. } = pin.clone();
        self.parts.events.emit(Event::PinAdded { name, owner, order, ttl_ms });
        Ok(pin)
    }

    /// Ends a pin; its order goes with the next round or cycle, unless somebody else keeps it.
    ///
    /// Errors: no such pin, a failed write.
    pub fn remove_pin(&self, name: &str) -> Result<NamedPin, PruneError> {
        let mut state = self.state()?;
        let (held, pin) = state.held.without_pin(name)?;
        self.hold(&mut state, held)?;
        state.below = Below::ToBeLookedAt;
        state.has_ended(pin.order, Cause::PinRemoved { name: pin.name.clone(), owner: pin.owner.clone() });
        drop(state);
        tracing::info!(name = pin.name, order = pin.order, "a pin was removed");
        self.tell_less_kept();
        self.parts.events.emit(Event::PinRemoved { name: pin.name.clone(), order: pin.order });
        Ok(pin)
    }

    /// Says which order a consumer needs from now on, and that it is alive.
    ///
    /// Errors: an order that is gone or below the range, a name that is no name, a failed write.
    pub fn set_consumer(&self, name: &str, order: Order, ttl: Option<Duration>) -> Result<Consumer, PruneError> {
        let mut state = self.state()?;
        if let Some(floor) = self.parts.store.floor().filter(|floor| order < *floor) {
            self.parts.store.root(order)?; // one that is kept by itself is no place to begin, and not gone
            return Err(StoreError::KeptBelow { order, floor }.into());
        }
        let (now, ttl_ms) = (Now::of(&*self.parts.clock), millis(ttl.map_or(DEFAULT_CONSUMER_TTL, |ttl| ttl)));
        let consumer = Consumer { name: name.to_owned(), order: order.get(), heard_ms: now.unix_ms, ttl_ms };
        let head = self.parts.store.head().map_or(0, |head| head.order);
        let held = state.held.with_consumer(consumer.clone(), (now, head))?;
        let known = state.held.holds.consumers.iter().find(|known| known.name == name);
        let durability = match known {
            Some(known) if consumer.may_be_lost_behind(known) => Durability::Logged, // not waited for each time that it speaks
            Some(_) | None => Durability::Synced,
        };
        let (is_new, goes_on) = (known.is_none(), known.is_some_and(|known| known.order < consumer.order));
        self.hold_by(&mut state, held, durability)?;
        let returns = state.silent.remove(name);
        drop(state);
        if goes_on {
            self.tell_less_kept();
        }
        if is_new || returns {
            let Consumer { name, order, ttl_ms, .. } = consumer.clone(); // its further words are no news
            self.parts.events.emit(Event::ConsumerAdded { name, order, ttl_ms });
        }
        Ok(consumer)
    }

    /// Forgets a consumer.
    ///
    /// Errors: no such consumer, a failed write.
    pub fn remove_consumer(&self, name: &str) -> Result<Consumer, PruneError> {
        let mut state = self.state()?;
        let (held, consumer) = state.held.without_consumer(name)?;
        self.hold(&mut state, held)?;
        state.silent.remove(name);
        let order = consumer.order;
        state.has_ended(order, Cause::ConsumerRemoved { name: name.to_owned(), order });
        drop(state);
        tracing::info!(name, order = consumer.order, "a consumer was removed");
        self.tell_less_kept();
        self.parts.events.emit(Event::ConsumerRemoved { name: name.to_owned(), order: consumer.order });
        Ok(consumer)
    }

    /// The head and the floor; nothing before the first commit.
    pub(super) fn ends(&self) -> Option<(HeadRecord, Order)> {
        self.parts.store.head().zip(self.parts.store.floor())
    }

    pub(super) fn asks_of_consumers(&self, held: &Held, head: Order) -> impl Iterator<Item = Ask> {
        let ask =
            |consumer: &Consumer| Ask { by: Bound::Consumer { name: consumer.name.clone() }, from: consumer.order };
        let heard = held.heard(Now::of(&*self.parts.clock));
        heard.filter(move |consumer| consumer.order <= head.get()).map(ask) // one that is ahead asks for nothing that is there
    }
}

/// Somebody reads the records, and the disk does not answer.
fn unanswered(waits: Span) -> PruneError {
    let source = io::Error::new(io::ErrorKind::TimedOut, format!("the disk has not answered for {waits}"));
    StoreError::Io { what: "reading pins and consumers".to_owned(), source }.into()
}

impl RetentionPolicy for LiveRetention {
    fn keep(&self) -> Option<KeepPolicy> {
        self.parts.keep
    }

    fn is_filling(&self) -> Result<bool, PruneError> {
        self.is_younger_than_its_window()
    }

    fn advance(&self) -> Result<(), PruneError> {
        self.advance_under(Durability::Synced)
    }

    fn advance_under(&self, durability: Durability) -> Result<(), PruneError> {
        Self::advance_under(self, durability)
    }

    fn due_floor(&self) -> Result<Option<Order>, PruneError> {
        self.due_floor_of(&*self.state()?)
    }

    fn tell_when_less_is_kept(&self, tell: LessKept) {
        *self.less_kept.lock() = Some(tell);
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        let state = self.state()?; // floor and kept orders belong together: nobody moves them meanwhile
        let floor = self.parts.store.floor().map_or(Order::GENESIS, |floor| floor);
        let pins = self.kept(&state.held.holds);
        Ok(Retention { window: Window::From(floor), pins, allowed_holes: BTreeSet::new() })
    }

    fn check_rollback(&self, store: &Store, to: Order) -> Result<RolledBack, PruneError> {
        let checked = store.check_rollback(to);
        if let Err(
            wrong @ (StoreError::Pruned { .. } | StoreError::KeptBelow { .. } | StoreError::NoSuchOrder { .. }),
        ) = checked
        {
            return Err(wrong.into()); // of an order that is no way back nobody needs to know who is above it
        }
        self.refuse_if_pinned(&*self.state()?, to)?;
        Ok(checked?)
    }

    fn roll_back(&self, store: &Store, to: Order, rows: Batch) -> Result<(RolledBack, Vec<Event>), PruneError> {
        self.rolled_back(store, to, rows)
    }
}
