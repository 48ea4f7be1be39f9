//! Pins and consumers as a process holds them: the record, and before which moment none of them ends.
//!
//! Promise: within a process a pin or a consumer ends only when both clocks say so. The wall clock judges the record; the
//! monotonic one must have moved on by what the wall clock left when the process added it, heard of it or read it. So a step
//! forward of the wall clock ends nothing (C16). A new process knows no more than what its wall clock says at the start.

use std::{collections::BTreeMap, time::Duration};

use super::holds::{Consumer, Holds, NamedPin};
use crate::{clock::Clock, error::PruneError, records::Records};

/// One moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) unix_ms: u64,
    pub(super) monotonic: Duration,
}

impl Now {
    pub(super) fn of(clock: &dyn Clock) -> Self {
        Self { unix_ms: clock.unix_ms(), monotonic: clock.monotonic() }
    }

    /// When a time that began then and lasts so long is over, if the wall clock is right now.
    fn end_of(self, since_ms: u64, ttl_ms: u64) -> Duration {
        let left_ms = since_ms.saturating_add(ttl_ms).saturating_sub(self.unix_ms).min(ttl_ms);
        self.monotonic.saturating_add(Duration::from_millis(left_ms))
    }
}

/// By name, the moment of the monotonic clock before which it does not end. One that is not named does not end (I8).
type Ends = BTreeMap<String, Duration>;

fn is_past(ends: &Ends, name: &str, now: Now) -> bool {
    ends.get(name).is_some_and(|end| *end <= now.monotonic)
}

/// Pins and consumers, and when they may end.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) holds: Holds,
    pins: Ends,
    consumers: Ends,
}

impl Held {
    /// What was saved last.
    pub(super) fn load(records: &dyn Records, now: Now) -> Result<Self, PruneError> {
        let holds = Holds::load(records)?;
        let pins = holds.pins.iter().filter_map(|pin| Some((pin.name.clone(), now.end_of(pin.since_ms, pin.ttl_ms?))));
        let consumers = holds.consumers.iter();
        let consumers = consumers.map(|heard| (heard.name.clone(), now.end_of(heard.heard_ms, heard.ttl_ms)));
        Ok(Self { pins: pins.collect(), consumers: consumers.collect(), holds })
    }

    /// With one pin more, whose time begins now.
    pub(super) fn with_pin(&self, pin: NamedPin, now: Now) -> Result<Self, PruneError> {
        let mut held = self.clone();
        held.pins.remove(&pin.name);
        if let Some(ttl_ms) = pin.ttl_ms {
            held.pins.insert(pin.name.clone(), now.end_of(pin.since_ms, ttl_ms));
        }
        held.holds = self.holds.with_pin(pin)?;
        Ok(held)
    }

    /// Without the pin of this name, and that pin.
    pub(super) fn without_pin(&self, name: &str) -> Result<(Self, NamedPin), PruneError> {
        let (holds, pin) = self.holds.without_pin(name)?;
        let mut held = Self { holds, ..self.clone() };
        held.pins.remove(name);
        Ok((held, pin))
    }

    /// Without the pins whose time is over, and those pins; nothing if there are none.
    pub(super) fn without_expired(&self, now: Now) -> Option<(Self, Vec<NamedPin>)> {
        let pins = self.holds.pins.iter().cloned();
        let (gone, pins): (Vec<NamedPin>, _) = pins.partition(|pin| self.is_expired(pin, now));
        if gone.is_empty() {
            return None;
        }
        let mut held = Self { holds: Holds { pins, consumers: self.holds.consumers.clone() }, ..self.clone() };
        held.pins.retain(|name, _| !gone.iter().any(|pin| pin.name == *name));
        Some((held, gone))
    }

    /// With this consumer, heard of now, instead of the one of its name if there is one.
    pub(super) fn with_consumer(&self, consumer: Consumer, now: Now) -> Result<Self, PruneError> {
        let mut held = self.clone();
        held.consumers.insert(consumer.name.clone(), now.end_of(consumer.heard_ms, consumer.ttl_ms));
        held.holds = self.holds.with_consumer(consumer)?;
        Ok(held)
    }

    /// Without the consumer of this name, and that consumer.
    pub(super) fn without_consumer(&self, name: &str) -> Result<(Self, Consumer), PruneError> {
        let (holds, consumer) = self.holds.without_consumer(name)?;
        let mut held = Self { holds, ..self.clone() };
        held.consumers.remove(name);
        Ok((held, consumer))
    }

    pub(super) fn is_expired(&self, pin: &NamedPin, now: Now) -> bool {
        pin.is_past(now.unix_ms) && is_past(&self.pins, &pin.name, now)
    }

    /// Whether it was not heard of for longer than it said: it is not obeyed then.
    pub(super) fn is_silent(&self, consumer: &Consumer, now: Now) -> bool {
        consumer.is_past(now.unix_ms) && is_past(&self.consumers, &consumer.name, now)
    }

    /// Consumers that are obeyed.
    pub(super) fn heard(&self, now: Now) -> impl Iterator<Item = &Consumer> {
        self.holds.consumers.iter().filter(move |consumer| !self.is_silent(consumer, now))
    }

    /// Consumers that are not.
    pub(super) fn silent(&self, now: Now) -> impl Iterator<Item = &Consumer> {
        self.holds.consumers.iter().filter(move |consumer| self.is_silent(consumer, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: u64 = 500;

    fn at(unix_ms: u64, monotonic_ms: u64) -> Now {
        Now { unix_ms, monotonic: Duration::from_millis(monotonic_ms) }
    }

    fn pin(ttl_ms: Option<u64>) -> NamedPin {
        NamedPin { name: "a".to_owned(), owner: "me".to_owned(), order: 7, since_ms: 1000, ttl_ms }
    }

    fn held(ttl_ms: Option<u64>) -> Held {
        let nothing = Held { holds: Holds::default(), pins: Ends::new(), consumers: Ends::new() };
        let consumer = Consumer { name: "c".to_owned(), order: 7, heard_ms: 1000, ttl_ms: TTL };
        nothing.with_pin(pin(ttl_ms), at(1000, 9)).unwrap().with_consumer(consumer, at(1000, 9)).unwrap()
    }

    #[test]
    fn nothing_ends_before_both_clocks_say_so() {
        let rows = [
            (1499, 509, false, "by neither clock"),
            (1500, 508, false, "a wall clock that stepped forward"),
            (u64::MAX, 9, false, "one that stepped far"),
            (0, u64::MAX, false, "one that stepped back keeps longer"),
            (1500, 509, true, "by both"),
        ];
        let held = held(Some(TTL));
        for (unix_ms, monotonic_ms, over, why) in rows {
            let now = at(unix_ms, monotonic_ms);
            assert_eq!(held.is_expired(&held.holds.pins[0], now), over, "{why}");
            assert_eq!(held.is_silent(&held.holds.consumers[0], now), over, "{why}");
            assert_eq!(held.without_expired(now).is_some(), over, "{why}");
            assert_eq!((held.heard(now).count(), held.silent(now).count()), (!over as usize, over as usize), "{why}");
        }
    }

    #[test]
    fn a_time_that_begins_anew_ends_anew() {
        let held = held(Some(TTL)).with_pin(pin(None), at(1000, 10)).unwrap();
        assert!(!held.is_expired(&held.holds.pins[0], at(u64::MAX, u64::MAX)), "until it is removed");
        let consumer = held.holds.consumers[0].clone();
        let held = held.with_consumer(consumer.clone(), at(1000, 400)).unwrap();
        assert!(!held.is_silent(&consumer, at(1500, 899)) && held.is_silent(&consumer, at(1500, 900)));
    }

    #[test]
    fn what_is_read_has_left_what_the_wall_clock_says_then_and_never_more_than_it_was_given() {
        let rows = [(0, TTL), (1000, TTL), (1200, 300), (1500, 0), (u64::MAX, 0)];
        for (unix_ms, left) in rows {
            assert_eq!(at(unix_ms, 70).end_of(1000, TTL), Duration::from_millis(70 + left), "read at {unix_ms}");
        }
        let end = at(5, 70).end_of(u64::MAX, u64::MAX);
        assert_eq!(end, Duration::from_millis(70) + Duration::from_millis(u64::MAX - 5), "no sum wraps");
    }
}
