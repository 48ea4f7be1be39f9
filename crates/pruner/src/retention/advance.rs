//! How the floor moves, and what is let go below it.
//!
//! Order that must not change: what is let go leaves the readable orders BEFORE [`LiveRetention::advance_under`] returns, and
//! why it went is in the batch that lets it go.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::MappedMutexGuard;
use state_store::{Durability, FloorMove, HeadRecord};
use state_tree::Order;

use super::{
    cause::{Cause, MAX_CAUSES},
    held::{Held, Now},
    holds::Holds,
    keep::{Ask, Bound, KeepPolicy, winner},
    live::LiveRetention,
    log::{LetGo, Moved, RetentionLog},
    state::{Below, State},
    within::{first_of_time, timestamp},
};
use crate::{error::PruneError, events::Event, records::RecordKey};

/// Single orders that one move begins or ceases to keep, of each at most: it is written under the commit gate (I12).
const MOST_SINGLES: usize = 1024;

/// A move of the floor that was decided.
struct Decided {
    change: FloorMove,
    /// Where the floor was.
    from: Order,
    /// The bound that reaches lowest.
    lowest: Bound,
    head: HeadRecord,
    /// Whether it is the last step of its move: until then the log names the policy before, which is why the steps go.
    is_last: bool,
}

impl LiveRetention {
    /// Moves the floor, and lets go of what nobody asks for any more. Where nothing moves this reads no disk.
    ///
    /// Errors: records that cannot be read or written; then nothing moved.
    pub fn advance_under(&self, durability: Durability) -> Result<(), PruneError> {
        let Some(keep) = self.parts.keep else { return Ok(()) };
        let mut state = self.state()?;
        let Some(ends) = self.ends() else { return Ok(()) }; // under the lock: whoever moves the floor holds it
        let advanced = self.advance_in(&mut state, &keep, ends, durability);
        self.let_tell(state);
        advanced
    }

    /// Tells who went silent and which readers are too old, and lets those go if that is wanted, as each move of the floor does
    /// first: where it stands still nobody else does. What has become free with time alone is taken up then. Waits for whoever
    /// changes what stays.
    ///
    /// Errors: records that cannot be read.
    pub fn look_around(&self) -> Result<(), PruneError> {
        let mut state = self.state()?;
        let now = Now::of(&*self.parts.clock);
        state.tell_silence(now);
        let looked = self.tell_old_readers(&mut state.untold);
        let is_less_kept = self.is_less_kept(&state, now);
        self.let_tell(state);
        if is_less_kept? {
            self.tell_less_kept();
        }
        looked
    }

    /// Whether something would go if the floor were moved now.
    fn is_less_kept(&self, state: &State, now: Now) -> Result<bool, PruneError> {
        let expired = state.held.holds.pins.iter().any(|pin| state.held.is_expired(pin, now));
        Ok(expired || state.below == Below::ToBeLookedAt || self.due_floor_of(state)?.is_some())
    }

    /// As [`RetentionPolicy::due_floor`](crate::snapshot::RetentionPolicy::due_floor).
    pub(super) fn due_floor_of(&self, state: &State) -> Result<Option<Order>, PruneError> {
        let Some((keep, (head, floor))) = self.parts.keep.zip(self.ends()) else { return Ok(None) };
        let due = Order::new(self.first_asked_for(&keep, &state.held, (floor, head))?.from);
        Ok(Some(due).filter(|due| *due > floor))
    }

    /// The sweep takes it up: no commit may come for long.
    pub(super) fn tell_less_kept(&self) {
        self.less_kept.lock().iter().for_each(|tell| tell());
    }

    /// Whoever takes events may wait for the disk, and nobody waits for that with the state.
    fn let_tell(&self, mut state: MappedMutexGuard<'_, State>) {
        let untold = std::mem::take(&mut state.untold);
        drop(state);
        untold.into_iter().for_each(|event| self.parts.events.emit(event));
    }

    fn advance_in(
        &self,
        state: &mut State,
        keep: &KeepPolicy,
        (head, floor): (HeadRecord, Order),
        durability: Durability,
    ) -> Result<(), PruneError> {
        let now = Now::of(&*self.parts.clock);
        self.tell_old_readers(&mut state.untold)?;
        self.drop_expired(state, now)?;
        state.tell_silence(now);
        let Ask { by: lowest, from: first } = self.first_asked_for(keep, &state.held, (floor, head))?;
        let to = Order::new(first).max(floor);
        let let_go = match state.below {
            Below::Settled => BTreeSet::new(),
            Below::ToBeLookedAt => self.unasked_for(keep, &state.held.holds),
        };
        if to != floor || !let_go.is_empty() || !state.log.is_in_force(keep) {
            let pinned = state.held.holds.pins.iter().map(|pin| Order::new(pin.order));
            let pinned = pinned.filter(|order| (floor..to).contains(order));
            let kept = keep.every_between(floor, to).chain(pinned).collect();
            let (mut from, mut steps) =
                (floor, steps(to, &kept, &let_go, (floor, MOST_SINGLES)).into_iter().peekable());
            while let Some(change) = steps.next() {
                let (next, is_last) = (change.to, steps.peek().is_none());
                self.apply(state, keep, Decided { change, from, lowest: lowest.clone(), head, is_last }, durability)?;
                from = next;
            }
        }
        state.below = Below::Settled;
        state.ended.clear();
        Ok(())
    }

    /// Floor, kept orders and log in one batch (I9).
    fn apply(
        &self,
        state: &mut State,
        keep: &KeepPolicy,
        decided: Decided,
        durability: Durability,
    ) -> Result<(), PruneError> {
        let log = self.logged(state, keep, &decided)?;
        let mut change = decided.change;
        let (bytes, records, to) = (log.encode()?, &*self.parts.records, change.to);
        change.rows.extend(self.parts.floor_rows.as_ref().map(|rows| rows(state.rows_gone..to)));
        let staged = records.batch(RecordKey::RetentionLog, &bytes);
        let outside = staged.is_none();
        change.rows.extend(staged);
        self.parts.store.move_floor(change, durability)?;
        state.rows_gone = to;
        if outside {
            records.stage(RecordKey::RetentionLog, &bytes)?;
        }
        if log.is_in_force(keep) && !state.log.is_in_force(keep) {
            state.untold.push(Event::ConfigChanged { what: format!("retention: {keep}") });
        }
        state.log = Arc::new(log);
        self.publish(state);
        Ok(())
    }

    /// The log with this move. Reads when the block of the newest order that goes was made, where chain time counts.
    fn logged(&self, state: &State, keep: &KeepPolicy, decided: &Decided) -> Result<RetentionLog, PruneError> {
        let Decided { change, from, lowest, head, is_last } = decided;
        let (at_ms, head) = (self.parts.clock.unix_ms(), head.order);
        let passed = *from..change.to;
        let of_move = state.causes_of_move(keep, (&passed, lowest), Now::of(&*self.parts.clock));
        let let_go = |order: Order, causes: &[Cause]| {
            let by = state.causes_of(order, keep).chain(causes.iter().cloned()).take(MAX_CAUSES).collect();
            LetGo { order: order.get(), at_ms, head, by }
        };
        // A pin that ended on an order that goes with the others is told of that order alone.
        let ended = state.pins_ended().filter(|order| passed.contains(order) && !change.keep.contains(order));
        let ended: BTreeSet<Order> = ended.collect();
        let singles = change.let_go.iter().map(|order| let_go(*order, &[]));
        let singles = singles.chain(ended.into_iter().map(|order| let_go(order, &of_move)));
        let log = RetentionLog::clone(&state.log).let_go(singles);
        let log = if *is_last { log.under(keep, at_ms) } else { log };
        if passed.is_empty() {
            return Ok(log);
        }
        let newest_ms = match (keep.time, change.to.minus(1)) {
            (Some(_), Some(newest)) => Some(timestamp(&*self.parts.store.view()?, newest)?),
            (None, _) | (_, None) => None,
        };
        let (from, to, kept) = (from.get(), change.to.get(), change.keep.len() as u64);
        Ok(log.moved(Moved { from, to, at_ms, head, newest_ms, kept, by: of_move }))
    }

    /// An expired pin is dropped here and nowhere else, so that it is told.
    fn drop_expired(&self, state: &mut State, now: Now) -> Result<(), PruneError> {
        let Some((held, expired)) = state.held.without_expired(now) else { return Ok(()) };
        self.hold(state, held)?;
        state.below = Below::ToBeLookedAt;
        for pin in expired {
            tracing::warn!(name = pin.name, owner = pin.owner, order = pin.order, ttl_ms = pin.ttl_ms, "a pin expired");
            let (name, owner) = (pin.name.clone(), pin.owner.clone());
            state.untold.push(Event::PinExpired { name, owner, order: pin.order });
            state.has_expired(pin);
        }
        self.publish(state);
        Ok(())
    }

    /// The lowest order that a bound asks for, or any at or below the floor if nothing is to move, and who asks. Time is
    /// looked at last, and only above the floor: it is the one bound that reads.
    pub(super) fn first_asked_for(
        &self,
        keep: &KeepPolicy,
        held: &Held,
        (floor, head): (Order, HeadRecord),
    ) -> Result<Ask, PruneError> {
        let top = Order::new(head.order);
        let last = Ask { by: Bound::Last { orders: keep.last.get() }, from: keep.first_of_last(top).get() };
        let consumers: Vec<Ask> = self.asks_of_consumers(held, top).collect();
        let lowest = winner(&consumers).filter(|ask| ask.from < last.from).cloned().map_or(last, |ask| ask);
        let first = Order::new(lowest.from);
        let Some(time_ms) = keep.time_ms().filter(|_| first > floor) else { return Ok(lowest) };
        let of_time = first_of_time(&*self.parts.store.view()?, time_ms, (floor, first), &head)?;
        Ok(if of_time < first { Ask { by: Bound::Time { time_ms }, from: of_time.get() } } else { lowest })
    }

    fn unasked_for(&self, keep: &KeepPolicy, holds: &Holds) -> BTreeSet<Order> {
        let pinned: BTreeSet<u64> = holds.pins.iter().map(|pin| pin.order).collect();
        let kept = self.parts.store.kept().into_iter().map(|(order, _)| order);
        kept.filter(|order| !keep.is_one_of_every(*order) && !pinned.contains(&order.get())).collect()
    }
}

/// The moves that take the floor to an order, each with few single orders; at least one.
fn steps(to: Order, keep: &BTreeSet<Order>, let_go: &BTreeSet<Order>, (floor, most): (Order, usize)) -> Vec<FloorMove> {
    let chunks = |orders: &BTreeSet<Order>| -> Vec<BTreeSet<Order>> {
        let orders: Vec<Order> = orders.iter().copied().collect();
        orders.chunks(most).map(|chunk| chunk.iter().copied().collect()).collect()
    };
    let (mut keep, mut let_go) = (chunks(keep).into_iter().peekable(), chunks(let_go).into_iter().peekable());
    let (mut moves, mut from) = (Vec::new(), floor);
    loop {
        let kept = keep.next().unwrap_or_else(BTreeSet::new);
        let next = keep.peek().and_then(BTreeSet::first).copied();
        from = next.unwrap_or(to).max(from);
        moves.push(FloorMove {
            to: from,
            keep: kept,
            let_go: let_go.next().unwrap_or_else(BTreeSet::new),
            rows: vec![],
        });
        if next.is_none() && let_go.peek().is_none() {
            return moves;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each move: where the floor is afterwards, what it keeps, what it lets go.
    fn moves(to: u64, keep: &[u64], let_go: &[u64]) -> Vec<(u64, Vec<u64>, Vec<u64>)> {
        let orders = |numbers: &[u64]| numbers.iter().copied().map(Order::new).collect();
        let numbers = |orders: BTreeSet<Order>| orders.into_iter().map(Order::get).collect();
        let steps = steps(Order::new(to), &orders(keep), &orders(let_go), (Order::new(10), 2));
        steps.into_iter().map(|step| (step.to.get(), numbers(step.keep), numbers(step.let_go))).collect()
    }

    #[test]
    fn a_move_with_many_single_orders_is_made_in_steps_each_with_few() {
        assert_eq!(moves(90, &[], &[]), [(90, vec![], vec![])]);
        assert_eq!(moves(90, &[20, 30], &[3]), [(90, vec![20, 30], vec![3])]);
        let five = [(40, vec![20, 30], vec![3, 4]), (60, vec![40, 50], vec![5]), (90, vec![60], vec![])];
        assert_eq!(moves(90, &[20, 30, 40, 50, 60], &[3, 4, 5]), five);
        assert_eq!(moves(10, &[], &[3, 4, 5]), [(10, vec![], vec![3, 4]), (10, vec![], vec![5])]);
        assert_eq!(moves(90, &[20], &[3, 4, 5]), [(90, vec![20], vec![3, 4]), (90, vec![], vec![5])]);
    }
}
