//! What the policy of a live chain shows: who asks for what, and why single orders are kept.

use std::num::NonZeroU64;

use state_store::{ChainView as _, HeadRecord, NativeChain, View};
use state_tree::{Order, StateRoot};

use super::{
    held::{Held, Now},
    holds::{Consumer, Holds, NamedPin},
    keep::{Ask, Bound},
    live::LiveRetention,
    readers::{OldReaders, Reader, ReaderState, ReaderStatus, Retained},
    status::{ConsumerStatus, PinState, PinStatus, Range, RetentionStatus},
    within::{first_of_time, timestamp},
};
use crate::{error::PruneError, events::Event, health::OldestPin, roots::RetainedRoot};

impl LiveRetention {
    /// What every bound asks for. Time is told down to the floor only: what is below it is gone. The view is not older
    /// than the head, and has every order from the floor on.
    pub(super) fn asks(
        &self,
        view: &dyn View,
        held: &Held,
        (head, floor): (HeadRecord, Order),
    ) -> Result<Vec<Ask>, PruneError> {
        let top = Order::new(head.order);
        let mut asks = Vec::new();
        if let Some(keep) = self.parts.keep {
            let from = keep.first_of_last(top).get();
            asks.push(Ask { by: Bound::Last { orders: keep.last.get() }, from });
            if let Some(time_ms) = keep.time_ms() {
                let from = first_of_time(view, time_ms, (floor, top), &head)?.get();
                asks.push(Ask { by: Bound::Time { time_ms }, from });
            }
        }
        asks.extend(self.asks_of_consumers(held, top));
        Ok(asks)
    }

    /// Whether the whole chain is younger than the bound of time. Reads one record, until it could be read.
    ///
    /// Errors: that record cannot be read.
    pub(super) fn is_younger_than_its_window(&self) -> Result<bool, PruneError> {
        let Some(time_ms) = self.parts.keep.and_then(|keep| keep.time_ms()) else { return Ok(false) };
        let Some((head, Order::GENESIS)) = self.ends() else { return Ok(false) }; // a floor that has moved tells enough
        let first_ms = match self.first_ms.get() {
            Some(first_ms) => *first_ms,
            None => {
                let read = timestamp(&*self.parts.store.view()?, Order::GENESIS)?;
                *self.first_ms.get_or_init(|| read)
            }
        };
        Ok(head.at.timestamp_ms.saturating_sub(first_ms) <= time_ms)
    }

    /// The single orders below the floor, each with why it is kept.
    pub(super) fn kept(&self, holds: &Holds) -> Vec<RetainedRoot> {
        let why = |order| holds.why_kept(order, self.parts.keep);
        let root = |(order, root): (Order, StateRoot)| RetainedRoot { order, root, kept_by: why(order) };
        self.parts.store.kept().into_iter().map(root).collect()
    }

    /// The consumers that are not waited for, and of which something that they need may go: of those ahead of the head nothing
    /// is there yet. Waits for nobody who changes what is kept.
    ///
    /// Errors: records that cannot be read.
    pub fn silent(&self) -> Result<Vec<String>, PruneError> {
        let (shown, head) = (self.published()?, self.parts.store.head().map_or(0, |head| head.order));
        let silent = shown.held.silent(Now::of(&*self.parts.clock)).filter(|consumer| consumer.order <= head);
        Ok(silent.map(|consumer| consumer.name.clone()).collect())
    }

    /// The consumers that are waited for and get no further, as far as this process knows. Waits for nobody who changes what is
    /// kept.
    ///
    /// Errors: records that cannot be read.
    pub fn still(&self) -> Result<Vec<Consumer>, PruneError> {
        let (shown, head) = (self.published()?, self.parts.store.head().map_or(0, |head| head.order));
        Ok(shown.held.still(head, Now::of(&*self.parts.clock)).cloned().collect())
    }

    /// Every reader that holds an order. Waits for nobody.
    pub fn readers(&self) -> Vec<ReaderStatus> {
        self.look_at_readers().into_iter().map(|reader| reader.status).collect()
    }

    fn look_at_readers(&self) -> Vec<Reader> {
        let (store, now) = (&self.parts.store, self.parts.clock.monotonic());
        // The floor BEFORE what is kept below it, both BEFORE the pins: what leaves in between seems to be retained still.
        let floor = store.floor().map_or(Order::GENESIS, |floor| floor);
        // Kept orders may be many: without a reader nobody asks. One that comes meanwhile is looked at again.
        let kept = if store.pins().is_empty() { Vec::new() } else { store.kept() };
        let retained = Retained { floor, kept: kept.into_iter().map(|(order, _)| order).collect() };
        self.readers.lock().look(store.pins(), (&retained, now), self.reader_limit.max_age)
    }

    /// Tells once of each reader that is too old, and lets it go if that is wanted.
    pub(super) fn tell_old_readers(&self, untold: &mut Vec<Event>) -> Result<(), PruneError> {
        let readers = self.look_at_readers().into_iter();
        for Reader { id, status } in readers.filter(|reader| reader.status.state == ReaderState::TooOld) {
            if self.readers.lock().tell(id) {
                tracing::warn!(%status, "a reader keeps what nobody else does for longer than max_reader_age"); // O15
                let (owner, alone_ms) = (status.owner.clone(), status.alone_ms.map_or(0, |ms| ms));
                let ReaderStatus { order, since_order, .. } = status;
                untold.push(Event::ReaderTooOld { order, owner, since_order, alone_ms });
            }
            if self.reader_limit.then == OldReaders::LetGo {
                self.parts.store.end_pin(Order::new(status.order), id)?;
                tracing::warn!(
                    owner = status.owner,
                    order = status.order,
                    "the reader was let go: it reads `pruned` now"
                );
                untold.push(Event::ReaderLetGo { order: status.order, owner: status.owner });
            }
        }
        Ok(())
    }

    /// The named pin that is there for the longest time.
    ///
    /// Errors: records that cannot be read.
    pub fn oldest_pin(&self) -> Result<Option<OldestPin>, PruneError> {
        Ok(OldestPin::of(&self.published()?.held.holds.pins, self.parts.clock.unix_ms()))
    }

    /// What is in force, and who asks for what. Waits for nobody who changes it.
    ///
    /// Errors: records that cannot be read, no commit yet.
    pub fn status(&self) -> Result<RetentionStatus, PruneError> {
        let shown = self.published()?;
        let head = self.parts.store.head().ok_or(PruneError::NoHead)?;
        let view = self.parts.store.view()?; // AFTER the head; the floor may move meanwhile, not that of the view
        let floor = NativeChain.floor(&*view)?;
        let (now, keep) = (Now::of(&*self.parts.clock), self.parts.keep);
        let pin = |pin: &NamedPin| PinStatus {
            pin: pin.clone(),
            age_ms: now.unix_ms.saturating_sub(pin.since_ms),
            state: match self.parts.store.root(Order::new(pin.order)) {
                Err(_) => PinState::Gone,
                Ok(_) if shown.held.is_expired(pin, now) => PinState::Expired,
                Ok(_) => PinState::Kept,
            },
        };
        let consumer = |consumer: &Consumer| ConsumerStatus {
            consumer: consumer.clone(),
            age_ms: now.unix_ms.saturating_sub(consumer.heard_ms),
            silent: shown.held.is_silent(consumer, now),
            behind: head.order.saturating_sub(consumer.order),
            ahead: consumer.order.saturating_sub(head.order),
        };
        let range = Range {
            head: head.order,
            floor: floor.get(),
            head_ms: head.at.timestamp_ms,
            floor_ms: NativeChain.record(&*view, floor)?.map(|record| record.timestamp_ms),
            newest_gone_ms: shown.log.newest_gone_ms(floor),
        };
        let asks = self.asks(&*view, &shown.held, (head, floor))?;
        Ok(RetentionStatus {
            keep_last: keep.map(|keep| keep.last.get()),
            keep_time_ms: keep.and_then(|keep| keep.time_ms()),
            keep_every: keep.and_then(|keep| keep.every).map(NonZeroU64::get),
            head: head.order,
            floor: floor.get(),
            floor_timestamp_ms: range.floor_ms,
            window_ms: range.window_ms(),
            asks: asks.into_iter().map(|ask| range.judge(ask)).collect(),
            winner: None,
            gone_already: None,
            kept_below: self.parts.store.kept_count(),
            pins: shown.held.holds.pins.iter().map(pin).collect(),
            consumers: shown.held.holds.consumers.iter().map(consumer).collect(),
            readers: self.readers(),
            expired_pins: shown.expired.iter().cloned().collect(),
        }
        .decided())
    }
}
