//! When the floor moved, under which policy: what answers "since when is it gone?".
//!
//! One record of bounded length, saved in the batch of each move. The older half of the moves is thinned out when the
//! list is full, so that what is long ago is told less exactly.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};
use state_tree::Order;

use super::keep::KeepPolicy;
use crate::{
    error::PruneError,
    records::{RecordKey, Records},
};

/// Most moves remembered.
const MAX_MOVES: usize = 128;
/// Most single orders remembered that were let go below the floor.
const MAX_LET_GO: usize = 128;

/// A policy as it was put into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPolicy {
    /// The last so many orders.
    pub last: u64,
    /// The last so many milliseconds of chain time.
    pub time_ms: Option<u64>,
    /// Every order that is a multiple of this.
    pub every: Option<u64>,
    /// Milliseconds since 1970 when it came into force.
    pub since_ms: u64,
}

impl RecordedPolicy {
    fn of(keep: &KeepPolicy, since_ms: u64) -> Self {
        let every = keep.every.map(NonZeroU64::get);
        Self { last: keep.last.get(), time_ms: keep.time_ms(), every, since_ms }
    }

    /// The policy that was recorded.
    pub(crate) fn policy(&self) -> Option<KeepPolicy> {
        let time = self.time_ms.map(std::time::Duration::from_millis);
        Some(KeepPolicy { last: NonZeroU64::new(self.last)?, time, every: self.every.and_then(NonZeroU64::new) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    to: u64,
    at_ms: u64,
    head: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LetGo {
    order: u64,
    at_ms: u64,
    head: u64,
}

/// Since when an order is gone, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// It was still readable then, in milliseconds since 1970.
    pub after_ms: Option<u64>,
    /// It was gone then.
    pub by_ms: u64,
    /// The head at that time.
    pub head: u64,
}

/// The moves of the floor, and the policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetentionLog {
    pub(crate) policy: Option<RecordedPolicy>,
    moves: Vec<Moved>,
    let_go: Vec<LetGo>,
}

impl Record for RetentionLog {
    const KIND: [u8; 4] = *b"KEEP";
    const VERSION: u16 = 1;
}

impl RetentionLog {
    pub(crate) fn load(records: &dyn Records) -> Result<Self, PruneError> {
        match records.load(RecordKey::RetentionLog)? {
            Some(bytes) => Ok(record::decode("retention log", &bytes)?),
            None => Ok(Self::default()),
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, PruneError> {
        Ok(record::encode(self)?)
    }

    /// Whether this is the policy in force.
    pub(crate) fn is_in_force(&self, keep: &KeepPolicy) -> bool {
        self.policy.is_some_and(|policy| policy == RecordedPolicy::of(keep, policy.since_ms))
    }

    /// Under this policy from now on, unless it is in force already.
    pub(crate) fn under(mut self, keep: &KeepPolicy, now_ms: u64) -> Self {
        if !self.is_in_force(keep) {
            self.policy = Some(RecordedPolicy::of(keep, now_ms));
        }
        self
    }

    /// With a move of the floor.
    pub(crate) fn moved(mut self, to: Order, head: Order, now_ms: u64) -> Self {
        self.moves.push(Moved { to: to.get(), at_ms: now_ms, head: head.get() });
        if self.moves.len() > MAX_MOVES {
            let recent = self.moves.split_off(MAX_MOVES / 2);
            self.moves = self.moves.into_iter().skip(1).step_by(2).chain(recent).collect();
        }
        self
    }

    /// With single orders let go.
    pub(crate) fn let_go(mut self, orders: impl Iterator<Item = Order>, head: Order, now_ms: u64) -> Self {
        self.let_go.extend(orders.map(|order| LetGo { order: order.get(), at_ms: now_ms, head: head.get() }));
        let surplus = self.let_go.len().saturating_sub(MAX_LET_GO);
        self.let_go.drain(..surplus);
        self
    }

    /// The highest of the heads that were written down: the chain may have gone back since.
    pub(crate) fn highest_head(&self) -> Option<u64> {
        self.moves.iter().map(|moved| moved.head).chain(self.let_go.iter().map(|let_go| let_go.head)).max()
    }

    /// Since when an order below the floor is gone, if that is still known.
    pub(crate) fn gone(&self, order: u64) -> Option<Gone> {
        if let Some(let_go) = self.let_go.iter().rev().find(|let_go| let_go.order == order) {
            let at_ms = let_go.at_ms;
            return Some(Gone { after_ms: Some(at_ms), by_ms: at_ms, head: let_go.head });
        }
        let at = self.moves.iter().position(|moved| moved.to > order)?;
        let before = at.checked_sub(1).and_then(|before| self.moves.get(before));
        let moved = self.moves.get(at)?;
        Some(Gone { after_ms: before.map(|before| before.at_ms), by_ms: moved.at_ms, head: moved.head })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_retention_log_are_pinned() {
        let keep = KeepPolicy { every: NonZeroU64::new(3), ..KeepPolicy::last(NonZeroU64::new(2).unwrap()) };
        let log = RetentionLog::default().under(&keep, 4).moved(Order::new(5), Order::new(6), 7);
        let log = log.let_go([Order::new(1)].into_iter(), Order::new(6), 8);
        let le = |number: u64| number.to_le_bytes();
        let policy = [&[1][..], &le(2), &[0, 1], &le(3), &le(4)].concat();
        let moves = [&[1][..], &le(5), &le(7), &le(6), &[1], &le(1), &le(8), &le(6)].concat();
        let bytes = log.encode().unwrap();
        assert_eq!(bytes[14..bytes.len() - 4], [policy, moves].concat());
        assert_eq!(bytes[..10], *b"SPR1KEEP\x01\0");
        assert_eq!(record::decode::<RetentionLog>("log", &bytes).unwrap(), log);
        assert_eq!(log.policy.unwrap().policy(), Some(keep));
    }

    #[test]
    fn a_policy_is_in_force_from_when_it_changed() {
        let keep = KeepPolicy::last(NonZeroU64::MIN);
        let log = RetentionLog::default().under(&keep, 4).under(&keep, 9);
        assert_eq!(log.policy.unwrap().since_ms, 4);
        let other = KeepPolicy { time: Some(std::time::Duration::from_secs(1)), ..keep };
        assert!(!log.is_in_force(&other));
        assert_eq!(log.under(&other, 12).policy.unwrap().since_ms, 12);
    }

    #[test]
    fn when_an_order_went_is_told_as_exactly_as_it_is_remembered_and_never_wrongly() {
        let mut log = RetentionLog::default();
        for to in 1..=10_000u64 {
            log = log.moved(Order::new(to), Order::new(to + 100), to * 1000);
            assert!(log.moves.len() <= MAX_MOVES);
        }
        for order in 0..10_000 {
            let gone = log.gone(order).unwrap();
            let truly = (order + 1) * 1000;
            assert!(gone.by_ms >= truly && gone.after_ms.is_none_or(|after| after < truly), "order {order}: {gone:?}");
        }
        let newest = Gone { after_ms: Some(9_999_000), by_ms: 10_000_000, head: 10_100 };
        assert_eq!(log.gone(9_999), Some(newest), "what is recent is told exactly");
        assert_eq!(log.gone(10_000), None);
        let log = log.let_go([Order::new(3)].into_iter(), Order::new(1), 77);
        assert_eq!(log.gone(3), Some(Gone { after_ms: Some(77), by_ms: 77, head: 1 }));
        assert_eq!(RetentionLog::default().gone(3), None, "what nobody wrote down is not known");
    }
}
