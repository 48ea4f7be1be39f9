//! What the policy knows of who keeps what: under its lock as it decides, and as a copy that whoever shows it reads.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use state_tree::Order;

use super::{
    cause::{Cause, MAX_CAUSES},
    held::{Held, Now},
    holds::NamedPin,
    keep::{Bound, KeepPolicy},
    log::RetentionLog,
};
use crate::{error::PruneError, events::Event, records::Records};

/// Expired pins that the status remembers, and pins and consumers whose end is remembered until the floor was looked at.
const REMEMBERED: usize = 16;

/// Whether the kept orders are those that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Below {
    Settled,
    ToBeLookedAt,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) held: Held,
    pub(super) log: Arc<RetentionLog>,
    pub(super) below: Below,
    /// Below this order no row is left of those that go with the floor; the first order until this process has moved it.
    pub(super) rows_gone: Order,
    /// Consumers whose silence was told.
    pub(super) silent: BTreeSet<String>,
    /// Pins that were dropped, the last few.
    pub(super) expired: VecDeque<NamedPin>,
    /// Orders whose pin, or whose consumer with that watermark, ended since the floor was looked at, the last few.
    pub(super) ended: VecDeque<(u64, Cause)>,
    /// Told once the lock is let go: whoever tells may wait, and health must not wait with it.
    pub(super) untold: Vec<Event>,
}

/// What is shown of the state: whoever shows it waits for nobody who changes it, and so for no write (O14).
#[derive(Debug)]
pub(super) struct Published {
    pub(super) held: Held,
    pub(super) expired: VecDeque<NamedPin>,
    pub(super) log: Arc<RetentionLog>,
}

impl State {
    /// See [`Held::load`] for the floor.
    pub(super) fn load(records: &dyn Records, now: Now, floor: Option<Order>) -> Result<Self, PruneError> {
        Ok(Self {
            held: Held::load(records, now, floor)?,
            log: Arc::new(RetentionLog::load(records)?),
            below: Below::ToBeLookedAt, // the policy may be another one than that of the last process
            rows_gone: Order::GENESIS,  // which rows the last process kept is not known
            silent: BTreeSet::new(),
            expired: VecDeque::new(),
            ended: VecDeque::new(),
            untold: Vec::new(),
        })
    }

    pub(super) fn to_publish(&self) -> Arc<Published> {
        Arc::new(Published { held: self.held.clone(), expired: self.expired.clone(), log: Arc::clone(&self.log) })
    }

    /// Something that kept this order, or every one from it on, has ended.
    pub(super) fn has_ended(&mut self, order: u64, cause: Cause) {
        push(&mut self.ended, (order, cause));
    }

    /// A pin was dropped because its time was over.
    pub(super) fn has_expired(&mut self, pin: NamedPin) {
        self.has_ended(pin.order, Cause::PinExpired { name: pin.name.clone(), owner: pin.owner.clone() });
        push(&mut self.expired, pin);
    }

    /// Why the orders of a range go, where the bound that reaches lowest goes over them.
    pub(super) fn causes_of_move(
        &self,
        keep: &KeepPolicy,
        (passed, lowest): (&Range<Order>, &Bound),
        now: Now,
    ) -> Vec<Cause> {
        let is_passed = |order: u64| passed.contains(&Order::new(order));
        let policy = self.was_under_another(keep).then_some(Cause::Policy);
        let silent = self.held.silent(now).filter(|consumer| is_passed(consumer.order));
        let silent =
            silent.map(|consumer| Cause::ConsumerSilent { name: consumer.name.clone(), order: consumer.order });
        let removed = self.ended.iter().filter(|(order, cause)| !cause.is_of_pin() && is_passed(*order));
        let causes = policy.into_iter().chain(silent).chain(removed.map(|(_, cause)| cause.clone()));
        causes.take(MAX_CAUSES - 1).chain([Cause::of(lowest)]).collect()
    }

    /// Why a single order goes, as far as something of it alone has ended.
    pub(super) fn causes_of(&self, order: Order, keep: &KeepPolicy) -> impl Iterator<Item = Cause> {
        let before = self.log.policy.filter(|_| self.was_under_another(keep)).and_then(|policy| policy.policy());
        let policy = before.filter(|before| before.is_one_of_every(order)).map(|_| Cause::Policy);
        let pins = self.ended.iter().filter(move |(at, cause)| *at == order.get() && cause.is_of_pin());
        policy.into_iter().chain(pins.map(|(_, cause)| cause.clone()))
    }

    /// The orders whose pins ended since the floor was looked at.
    pub(super) fn pins_ended(&self) -> impl Iterator<Item = Order> {
        let pins = self.ended.iter().filter(|(_, cause)| cause.is_of_pin());
        pins.map(|(order, _)| Order::new(*order))
    }

    fn was_under_another(&self, keep: &KeepPolicy) -> bool {
        self.log.policy.is_some() && !self.log.is_in_force(keep)
    }

    /// Says once that a consumer is not obeyed any more.
    pub(super) fn tell_silence(&mut self, now: Now) {
        for consumer in self.held.silent(now) {
            if self.silent.insert(consumer.name.clone()) {
                let (name, order, ttl_ms) = (&consumer.name, consumer.order, consumer.ttl_ms);
                tracing::warn!(name, order, ttl_ms, "a consumer is silent: it is not waited for");
                self.untold.push(Event::ConsumerWentSilent { name: name.clone(), order });
            }
        }
    }
}

/// Adds the newest, and forgets what is too long ago.
fn push<T>(list: &mut VecDeque<T>, newest: T) {
    list.push_back(newest);
    let surplus = list.len().saturating_sub(REMEMBERED);
    list.drain(..surplus);
}
