//! Pins and consumers as a process holds them: the record, and before which moment none of them ends.
//!
//! Promise: within a process a pin or a consumer ends only when both clocks say so. The wall clock judges the record; the
//! monotonic one must have moved on by what the wall clock left when the process added it, heard of it or read it. So a step
//! forward of the wall clock ends nothing (C16), and a time that began in what is the future by now is judged by the monotonic
//! clock alone. A new process knows no more than what its wall clock says at the start. A consumer could not be heard while the
//! node was down: after a start one is waited for, up to an hour, if what it needs is still there.

use std::{collections::BTreeMap, time::Duration};

use state_tree::Order;

use super::holds::{Consumer, Holds, NamedPin};
use crate::{clock::Clock, error::PruneError, records::Records};

/// So long a consumer is waited for after a start, unless it said less.
const GRACE_MS: u64 = 60 * 60 * 1000;
/// A watermark that has not moved for less than this does not stand still, however often its consumer speaks.
const STILL: Duration = Duration::from_secs(60 * 60);

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
        self.plus_ms(left_ms)
    }

    fn plus_ms(self, ms: u64) -> Duration {
        self.monotonic.saturating_add(Duration::from_millis(ms))
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
    /// By name, since when a consumer has had its watermark and there was something for it, as far as this process knows.
    stands: BTreeMap<String, Duration>,
}

impl Held {
    /// What was saved last.
    /// Of a node that has started consumers from `floor` on are waited for anew; who only looks on waits for none.
    pub(super) fn load(records: &dyn Records, now: Now, floor: Option<Order>) -> Result<Self, PruneError> {
        let holds = Holds::load(records)?;
        let pins = holds.pins.iter().filter_map(|pin| Some((pin.name.clone(), now.end_of(pin.since_ms, pin.ttl_ms?))));
        let end = |heard: &Consumer| {
            let is_waited_for = floor.is_some_and(|floor| heard.order >= floor.get());
            let grace_ms = if is_waited_for { heard.ttl_ms.min(GRACE_MS) } else { 0 };
            now.end_of(heard.heard_ms, heard.ttl_ms).max(now.plus_ms(grace_ms))
        };
        let consumers = holds.consumers.iter().map(|heard| (heard.name.clone(), end(heard)));
        let stands = holds.consumers.iter().map(|heard| (heard.name.clone(), now.monotonic));
        Ok(Self { pins: pins.collect(), consumers: consumers.collect(), stands: stands.collect(), holds })
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

    /// With this consumer, heard of now and at this head, instead of the one of its name if there is one.
    pub(super) fn with_consumer(&self, consumer: Consumer, (now, head): (Now, u64)) -> Result<Self, PruneError> {
        let mut held = self.clone();
        held.consumers.insert(consumer.name.clone(), now.end_of(consumer.heard_ms, consumer.ttl_ms));
        let known = self.holds.consumers.iter().find(|known| known.name == consumer.name);
        let has_come_up = consumer.order >= head;
        if has_come_up || known.is_none_or(|known| known.order != consumer.order) {
            held.stands.insert(consumer.name.clone(), now.monotonic);
        }
        held.holds = self.holds.with_consumer(consumer)?;
        Ok(held)
    }

    /// Without the consumer of this name, and that consumer.
    pub(super) fn without_consumer(&self, name: &str) -> Result<(Self, Consumer), PruneError> {
        let (holds, consumer) = self.holds.without_consumer(name)?;
        let mut held = Self { holds, ..self.clone() };
        held.consumers.remove(name);
        held.stands.remove(name);
        Ok((held, consumer))
    }

    pub(super) fn is_expired(&self, pin: &NamedPin, now: Now) -> bool {
        pin.may_be_past(now.unix_ms) && is_past(&self.pins, &pin.name, now)
    }

    /// Whether it was not heard of for longer than it said: it is not obeyed then.
    pub(super) fn is_silent(&self, consumer: &Consumer, now: Now) -> bool {
        consumer.may_be_past(now.unix_ms) && is_past(&self.consumers, &consumer.name, now)
    }

    /// Consumers that are obeyed.
    pub(super) fn heard(&self, now: Now) -> impl Iterator<Item = &Consumer> {
        self.holds.consumers.iter().filter(move |consumer| !self.is_silent(consumer, now))
    }

    /// Consumers that are obeyed and get no further, though there is something for them: each speaks, and says the same for longer
    /// than it may be silent.
    pub(super) fn still(&self, head: u64, now: Now) -> impl Iterator<Item = &Consumer> {
        let stands_still = move |consumer: &&Consumer| {
            let least = STILL.max(Duration::from_millis(consumer.ttl_ms));
            let since = self.stands.get(&consumer.name);
            consumer.order < head && since.is_some_and(|since| now.monotonic.saturating_sub(*since) > least)
        };
        self.heard(now).filter(stands_still)
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

    fn nothing() -> Held {
        Held { holds: Holds::default(), pins: Ends::new(), consumers: Ends::new(), stands: Ends::new() }
    }

    fn held(ttl_ms: Option<u64>) -> Held {
        let consumer = Consumer { name: "c".to_owned(), order: 7, heard_ms: 1000, ttl_ms: TTL };
        nothing().with_pin(pin(ttl_ms), at(1000, 9)).unwrap().with_consumer(consumer, (at(1000, 9), 9)).unwrap()
    }

    #[test]
    fn nothing_ends_before_both_clocks_say_so() {
        let rows = [
            (1499, 509, false, "by neither clock"),
            (1500, 508, false, "a wall clock that stepped forward"),
            (u64::MAX, 9, false, "one that stepped far"),
            (999, 508, false, "one that stepped back ends nothing either"),
            (999, 509, true, "and keeps nothing for longer than it is for"),
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
        let held = held.with_consumer(consumer.clone(), (at(1000, 400), 9)).unwrap();
        assert!(!held.is_silent(&consumer, at(1500, 899)) && held.is_silent(&consumer, at(1500, 900)));
    }

    /// P17.
    #[test]
    fn a_consumer_that_speaks_and_gets_no_further_stands_still() {
        const HOUR_MS: u64 = 60 * 60 * 1000;
        let says = |order, ttl_ms| Consumer { name: "c".to_owned(), order, heard_ms: 1000, ttl_ms };
        let begun = nothing().with_consumer(says(7, 2 * HOUR_MS), (at(1000, 0), 9)).unwrap();
        let heard = begun.with_consumer(says(7, 2 * HOUR_MS), (at(1000, 2 * HOUR_MS), 9)).unwrap();
        let late = at(1000, 2 * HOUR_MS + 1);
        assert_eq!(heard.still(9, at(1000, 2 * HOUR_MS)).count(), 0, "not for longer than it may be silent");
        assert_eq!(heard.still(9, late).count(), 1);
        assert_eq!(heard.still(7, late).count(), 0, "there is nothing for it");
        let moved = heard.with_consumer(says(8, 2 * HOUR_MS), (late, 9)).unwrap();
        assert_eq!(moved.still(9, late).count(), 0, "it goes on");
        let quick = nothing().with_consumer(says(7, 10), (at(1000, 0), 9)).unwrap();
        let quick = |ms| quick.with_consumer(says(7, 10), (at(1000, ms), 9)).unwrap().still(9, at(1000, ms)).count();
        assert_eq!((quick(HOUR_MS), quick(HOUR_MS + 1)), (0, 1), "one that speaks often may work for an hour");
        let idle = heard.with_consumer(says(7, 2 * HOUR_MS), (late, 7)).unwrap();
        assert_eq!(idle.still(9, late).count(), 0, "there was nothing for it until now");
        let silent = at(1000 + 4 * HOUR_MS, 4 * HOUR_MS);
        assert_eq!((heard.still(9, silent).count(), heard.silent(silent).count()), (0, 1), "that is told instead");
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
