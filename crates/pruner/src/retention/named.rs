//! Pins and consumers as somebody adds, renews and removes them. Each change is durable BEFORE it is acknowledged, and told
//! after the lock is let go: health must not wait for whoever tells.

use std::time::Duration;

use state_store::StoreError;
use state_tree::Order;

use super::{
    holds::{Consumer, NamedPin},
    live::{Below, DEFAULT_CONSUMER_TTL, LiveRetention, NewPin, millis},
};
use crate::{error::PruneError, events::Event};

impl LiveRetention {
    /// Keeps an order by name. The pin is durable when this returns.
    ///
    /// Errors: an order that is gone or never was, a name that is no name or belongs to another order, a failed write.
    pub fn add_pin(&self, pin: NewPin) -> Result<NamedPin, PruneError> {
        let mut state = self.state()?;
        self.parts.store.root(pin.order)?;
        let NewPin { name, owner, order, ttl } = pin;
        let since_ms = self.parts.clock.unix_ms();
        let pin = NamedPin { name, owner, order: order.get(), since_ms, ttl_ms: ttl.map(millis) };
        let holds = state.holds.with_pin(pin.clone())?;
        self.hold(&mut state, holds)?;
        drop(state);
        tracing::info!(name = pin.name, owner = pin.owner, order = pin.order, ttl_ms = pin.ttl_ms, "a pin was added");
        let NamedPin { name, owner, order, ttl_ms, .. } = pin.clone();
        self.parts.events.emit(Event::PinAdded { name, owner, order, ttl_ms });
        Ok(pin)
    }

    /// Ends a pin; its order goes when the floor moves next, unless somebody else keeps it.
    ///
    /// Errors: no such pin, a failed write.
    pub fn remove_pin(&self, name: &str) -> Result<NamedPin, PruneError> {
        let mut state = self.state()?;
        let (holds, pin) = state.holds.without_pin(name)?;
        self.hold(&mut state, holds)?;
        state.below = Below::ToBeLookedAt;
        drop(state);
        tracing::info!(name = pin.name, order = pin.order, "a pin was removed");
        self.parts.events.emit(Event::PinRemoved { name: pin.name.clone(), order: pin.order });
        Ok(pin)
    }

    /// Says which order a consumer needs from now on, and that it is alive.
    ///
    /// Errors: an order that is gone, a name that is no name, a failed write.
    pub fn set_consumer(&self, name: &str, order: Order, ttl: Option<Duration>) -> Result<Consumer, PruneError> {
        let mut state = self.state()?;
        if let Some(floor) = self.parts.store.floor().filter(|floor| order < *floor) {
            return Err(StoreError::Pruned { order, floor }.into());
        }
        let (heard_ms, ttl) = (self.parts.clock.unix_ms(), ttl.map_or(DEFAULT_CONSUMER_TTL, |ttl| ttl));
        let consumer = Consumer { name: name.to_owned(), order: order.get(), heard_ms, ttl_ms: millis(ttl) };
        let holds = state.holds.with_consumer(consumer.clone())?;
        let known = state.holds.consumers.iter().any(|known| known.name == name);
        self.hold(&mut state, holds)?;
        let returns = state.silent.remove(name);
        drop(state);
        if !known || returns {
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
        let (holds, consumer) = state.holds.without_consumer(name)?;
        self.hold(&mut state, holds)?;
        state.silent.remove(name);
        drop(state);
        tracing::info!(name, order = consumer.order, "a consumer was removed");
        self.parts.events.emit(Event::ConsumerRemoved { name: name.to_owned(), order: consumer.order });
        Ok(consumer)
    }
}
