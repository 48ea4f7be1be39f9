//! When the floor moved, under which policy and why: what answers "since when is it gone?".
//!
//! One record of bounded length, saved in the batch of each move. The older half of the moves is thinned out when the
//! list is full, and single orders that were let go long ago are forgotten, so that what is long ago is told less exactly.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use state_store::record::{self, Record};
use state_tree::Order;

use super::{cause::Cause, keep::KeepPolicy};
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

/// A move of the floor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moved {
    /// Where it was. The moves from there that were thinned out are not those of this entry.
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) at_ms: u64,
    pub(super) head: u64,
    /// When the block of the newest order that went was made, where chain time counts.
    pub(super) newest_ms: Option<u64>,
    /// Orders that it went over and that stayed.
    pub(super) kept: u64,
    pub(super) by: Vec<Cause>,
}

/// A single order that was let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LetGo {
    pub(super) order: u64,
    pub(super) at_ms: u64,
    pub(super) head: u64,
    pub(super) by: Vec<Cause>,
}

/// Of the single orders that were let go and are forgotten: up to which order, and the last time that one was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Forgotten {
    up_to: u64,
    at_ms: u64,
    head: u64,
}

/// Since when an order is gone, and why, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// It was still readable then, in milliseconds since 1970.
    pub after_ms: Option<u64>,
    /// It was gone then.
    pub by_ms: u64,
    /// The head at that time.
    pub head: u64,
    /// What had kept it until then, and how that ended; empty where that was not written down, or is forgotten.
    pub by: Vec<Cause>,
}

/// The moves of the floor, and the policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetentionLog {
    pub(crate) policy: Option<RecordedPolicy>,
    moves: Vec<Moved>,
    let_go: Vec<LetGo>,
    forgotten: Option<Forgotten>,
}

impl Record for RetentionLog {
    const KIND: [u8; 4] = *b"KEEP";
    const VERSION: u16 = 2; // 1 had no causes, and did not say what it forgot
}

#[derive(Serialize, Deserialize)]
struct FirstMoved {
    to: u64,
    at_ms: u64,
    head: u64,
}

#[derive(Serialize, Deserialize)]
struct FirstLetGo {
    order: u64,
    at_ms: u64,
    head: u64,
}

/// Version 1 of the record.
#[derive(Serialize, Deserialize)]
struct FirstLog {
    policy: Option<RecordedPolicy>,
    moves: Vec<FirstMoved>,
    let_go: Vec<FirstLetGo>,
}

impl Record for FirstLog {
    const KIND: [u8; 4] = RetentionLog::KIND;
    const VERSION: u16 = 1;
}

impl From<FirstMoved> for Moved {
    /// Nothing is said of any order but when it was gone at the latest.
    fn from(FirstMoved { to, at_ms, head }: FirstMoved) -> Self {
        Self { from: to, to, at_ms, head, newest_ms: None, kept: 0, by: Vec::new() }
    }
}

impl From<FirstLog> for RetentionLog {
    /// A full list of single orders may have forgotten some, each before the oldest of those that it has.
    fn from(FirstLog { policy, moves, let_go }: FirstLog) -> Self {
        let up_to = moves.iter().map(|moved| moved.to).max();
        let oldest = let_go.first().filter(|_| let_go.len() == MAX_LET_GO);
        let forgotten = up_to.zip(oldest);
        let forgotten = forgotten.map(|(up_to, oldest)| Forgotten { up_to, at_ms: oldest.at_ms, head: oldest.head });
        let let_go = let_go.into_iter();
        let let_go = let_go.map(|FirstLetGo { order, at_ms, head }| LetGo { order, at_ms, head, by: Vec::new() });
        Self { policy, moves: moves.into_iter().map(Moved::from).collect(), let_go: let_go.collect(), forgotten }
    }
}

impl RetentionLog {
    /// The bounds that were in force when the floor moved last.
    pub(crate) fn recorded_policy(records: &dyn Records) -> Result<Option<KeepPolicy>, PruneError> {
        Ok(Self::load(records)?.policy.and_then(|policy| policy.policy()))
    }

    pub(crate) fn load(records: &dyn Records) -> Result<Self, PruneError> {
        let name = "retention log";
        records.load(RecordKey::RetentionLog)?.map_or_else(|| Ok(Self::default()), |bytes| Self::decode(name, &bytes))
    }

    /// `name` is for the message.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self, PruneError> {
        match record::decode::<Self>(name, bytes) {
            Ok(log) => Ok(log),
            Err(error) => {
                let Ok(first) = record::decode::<FirstLog>(name, bytes) else { return Err(error.into()) };
                Ok(first.into())
            }
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
    pub(super) fn moved(mut self, moved: Moved) -> Self {
        self.moves.push(moved);
        if self.moves.len() > MAX_MOVES {
            let recent = self.moves.split_off(MAX_MOVES / 2);
            self.moves = self.moves.into_iter().skip(1).step_by(2).chain(recent).collect();
        }
        self
    }

    /// With a head that the chain has gone back from, while its floor stays: written down as a move over nothing.
    pub(super) fn went_back(self, head: u64, floor: Order, at_ms: u64) -> Self {
        let (floor, newest_ms) = (floor.get(), self.newest_gone_ms(floor));
        self.moved(Moved { from: floor, to: floor, at_ms, head, newest_ms, kept: 0, by: Vec::new() })
    }

    /// With single orders let go.
    pub(super) fn let_go(mut self, orders: impl Iterator<Item = LetGo>) -> Self {
        self.let_go.extend(orders);
        let surplus = self.let_go.len().saturating_sub(MAX_LET_GO);
        for LetGo { order, at_ms, head, .. } in self.let_go.drain(..surplus) {
            let now = Forgotten { up_to: order, at_ms, head };
            self.forgotten = Some(self.forgotten.map_or(now, |before| before.and(now)));
        }
        self
    }

    /// The highest of the heads that were written down: the chain may have gone back since.
    pub(crate) fn highest_head(&self) -> Option<u64> {
        let moved = self.moves.iter().map(|moved| moved.head).chain(self.forgotten.map(|forgotten| forgotten.head));
        moved.chain(self.let_go.iter().map(|let_go| let_go.head)).max()
    }

    /// When the block of the newest order that went was made, if this floor is where it was moved to last.
    pub(super) fn newest_gone_ms(&self, floor: Order) -> Option<u64> {
        self.moves.last().filter(|moved| moved.to == floor.get()).and_then(|moved| moved.newest_ms)
    }

    /// Since when an order below the floor is gone, if that is still known.
    pub(crate) fn gone(&self, order: u64) -> Option<Gone> {
        let told = |by: &[Cause]| by.iter().filter(|cause| cause.is_of(order)).cloned().collect();
        if let Some(LetGo { at_ms, head, by, .. }) = self.let_go.iter().rev().find(|let_go| let_go.order == order) {
            return Some(Gone { after_ms: Some(*at_ms), by_ms: *at_ms, head: *head, by: told(by) });
        }
        let at = self.moves.iter().position(|moved| moved.to > order)?;
        let before = at.checked_sub(1).and_then(|before| self.moves.get(before));
        let Moved { from, at_ms, head, kept, by, .. } = self.moves.get(at)?;
        let before = before.filter(|before| before.head >= order); // else it was not there yet
        let (after_ms, is_its_own) = (before.map(|before| before.at_ms), *from <= order);
        // The move may have left it behind, and it was let go later.
        let later = self.forgotten.filter(|forgotten| order <= forgotten.up_to && !(is_its_own && *kept == 0));
        let (by_ms, head) = match later {
            Some(forgotten) if forgotten.at_ms > *at_ms => (forgotten.at_ms, forgotten.head),
            Some(_) | None => (*at_ms, *head),
        };
        let by = if is_its_own && later.is_none() { told(by) } else { Vec::new() };
        Some(Gone { after_ms, by_ms, head, by })
    }
}

impl Forgotten {
    /// Both, by the later one: a clock may have gone back between them.
    fn and(self, other: Self) -> Self {
        let later = if other.at_ms >= self.at_ms { other } else { self };
        Self { up_to: self.up_to.max(other.up_to), ..later }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(from: u64, to: u64, at_ms: u64) -> Moved {
        Moved { from, to, at_ms, head: to + 100, newest_ms: None, kept: 0, by: Vec::new() }
    }

    fn let_go(order: u64, at_ms: u64) -> LetGo {
        LetGo { order, at_ms, head: 1, by: Vec::new() }
    }

    #[test]
    fn a_head_that_was_gone_back_from_says_nothing_of_what_is_gone() {
        let log = RetentionLog::default().moved(Moved { newest_ms: Some(4), ..moved(0, 5, 7) });
        let back = log.clone().went_back(300, Order::new(5), 8);
        assert_eq!((log.highest_head(), back.highest_head()), (Some(105), Some(300)));
        assert_eq!(back.newest_gone_ms(Order::new(5)), Some(4));
        assert!((0..9).all(|order| back.gone(order) == log.gone(order)));
        let later = back.moved(moved(5, 9, 10));
        assert_eq!(later.gone(6).unwrap().after_ms, Some(8), "it was readable when the chain went back");
    }

    #[test]
    fn the_bytes_of_the_retention_log_are_pinned() {
        let keep = KeepPolicy { every: NonZeroU64::new(3), ..KeepPolicy::last(NonZeroU64::new(2).unwrap()) };
        let by = vec![Cause::Policy, Cause::ConsumerSilent { name: "c".to_owned(), order: 4 }];
        let moved = Moved { newest_ms: Some(9), kept: 1, head: 6, by, ..moved(3, 5, 7) };
        let expired = Cause::PinExpired { name: "a".to_owned(), owner: "b".to_owned() };
        let let_go = LetGo { head: 6, by: vec![expired], ..let_go(1, 8) };
        let log = RetentionLog::default().under(&keep, 4).moved(moved).let_go([let_go].into_iter());
        let log = RetentionLog { forgotten: Some(Forgotten { up_to: 0, at_ms: 2, head: 3 }), ..log };
        let le = |number: u64| number.to_le_bytes();
        let policy = [&[1][..], &le(2), &[0, 1], &le(3), &le(4)].concat();
        let causes = [&[2, 0, 4, 1, b'c'][..], &le(4)].concat();
        let moves = [&[1][..], &le(3), &le(5), &le(7), &le(6), &[1], &le(9), &le(1), &causes].concat();
        let rest = [&[1][..], &le(1), &le(8), &le(6), &[1, 6, 1, b'a', 1, b'b', 1], &le(0), &le(2), &le(3)].concat();
        let bytes = log.encode().unwrap();
        assert_eq!(bytes[14..bytes.len() - 4], [policy, moves, rest].concat());
        assert_eq!(bytes[..10], *b"SPR1KEEP\x02\0");
        assert_eq!(RetentionLog::decode("log", &bytes).unwrap(), log);
        assert_eq!(log.policy.unwrap().policy(), Some(keep));
    }

    /// What an earlier program wrote is read, and nothing is told that it did not know.
    #[test]
    fn a_log_of_the_first_version_is_read() {
        let first = |let_go: u64| FirstLog {
            policy: Some(RecordedPolicy { last: 2, time_ms: None, every: None, since_ms: 4 }),
            moves: [(5, 7), (9, 8)].map(|(to, at_ms)| FirstMoved { to, at_ms, head: 20 }).into(),
            let_go: (0..let_go).map(|at| FirstLetGo { order: 2, at_ms: 50 + at, head: 30 }).collect(),
        };
        let bytes = record::encode(&first(1)).unwrap();
        assert_eq!(bytes[..10], *b"SPR1KEEP\x01\0");
        let log = RetentionLog::decode("log", &bytes).unwrap();
        let gone = |after_ms, by_ms, head| Some(Gone { after_ms, by_ms, head, by: Vec::new() });
        assert_eq!(
            [2, 4, 5].map(|order| log.gone(order)),
            [gone(Some(50), 50, 30), gone(None, 7, 20), gone(Some(7), 8, 20)]
        );
        assert_eq!((log.policy.unwrap().last, log.newest_gone_ms(Order::new(9))), (2, None));
        let full = RetentionLog::from(first(MAX_LET_GO as u64));
        assert_eq!(full.gone(4), gone(None, 50, 30), "it may be one of those that were forgotten");
        assert!(RetentionLog::decode("log", &bytes[1..]).is_err());
        assert_eq!(
            record::decode::<RetentionLog>("log", &full.encode().unwrap()).unwrap(),
            full,
            "saved as every other"
        );
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
            log = log.moved(moved(to - 1, to, to * 1000));
            assert!(log.moves.len() <= MAX_MOVES);
        }
        for order in 0..10_000 {
            let gone = log.gone(order).unwrap();
            let truly = (order + 1) * 1000;
            assert!(gone.by_ms >= truly && gone.after_ms.is_none_or(|after| after < truly), "order {order}: {gone:?}");
        }
        let newest = Gone { after_ms: Some(9_999_000), by_ms: 10_000_000, head: 10_100, by: Vec::new() };
        assert_eq!(log.gone(9_999), Some(newest), "what is recent is told exactly");
        assert_eq!(log.gone(10_000), None);
        let wide = RetentionLog::default().moved(moved(0, 5, 1000)).moved(moved(5, 300, 9000)); // at heads 105 and 400
        let after = [5, 105, 106, 299].map(|order| wide.gone(order).unwrap().after_ms);
        assert_eq!(after, [Some(1000), Some(1000), None, None], "no order was readable before it was there");
        let log = log.let_go([let_go(3, 77)].into_iter());
        assert_eq!(log.gone(3), Some(Gone { after_ms: Some(77), by_ms: 77, head: 1, by: Vec::new() }));
        assert_eq!(RetentionLog::default().gone(3), None, "what nobody wrote down is not known");
    }

    /// Single orders that were let go are more than are remembered, all at once or one after the other; also where the clock
    /// went back meanwhile.
    #[test]
    fn an_order_that_was_let_go_and_is_forgotten_is_never_told_to_have_gone_before() {
        let base = (1..=10_000u64).fold(RetentionLog::default(), |log, to| {
            let kept = u64::from((to - 1).is_multiple_of(50));
            log.moved(Moved { kept, by: vec![Cause::Last { orders: 100 }], ..moved(to - 1, to, to * 1000) })
        });
        let kept = || (0..10_000).step_by(50);
        let at_once = |_: u64| 1_000_000_000u64;
        let one_by_one = |order: u64| 1_000_000_000 + order;
        let backwards = |order: u64| 1_000_000_000 - order;
        for (when, is_at_once) in [(&at_once as &dyn Fn(u64) -> u64, true), (&one_by_one, false), (&backwards, false)] {
            let mut log = base.clone();
            if is_at_once {
                log = log.let_go(kept().map(|order| let_go(order, when(order))));
            } else {
                log = kept().fold(log, |log, order| log.let_go([let_go(order, when(order))].into_iter()));
            }
            assert!(log.let_go.len() <= MAX_LET_GO);
            for order in kept() {
                let gone = log.gone(order).unwrap();
                assert!(gone.by_ms >= when(order), "order {order}: {gone:?}");
                assert!(gone.after_ms.is_none_or(|after| after <= when(order)), "order {order}: {gone:?}");
                assert!(gone.by.is_empty(), "order {order}: the move left it behind, {gone:?}");
            }
            let gone = log.gone(9_999).unwrap();
            assert_eq!((gone.by_ms, gone.by.len()), (10_000_000, 1), "none that the move kept can be it");
        }
    }

    #[test]
    fn a_cause_is_told_of_the_orders_it_is_of_and_of_no_move_that_was_thinned_out() {
        let silent = Cause::ConsumerSilent { name: "c".to_owned(), order: 7 };
        let last = Cause::Last { orders: 4 };
        let by = vec![silent.clone(), last.clone()];
        let log = RetentionLog::default().moved(Moved { by, ..moved(5, 20, 9) });
        let told = |order| log.gone(order).unwrap().by;
        assert_eq!([told(4), told(5), told(6)], [vec![], vec![last.clone()], vec![last.clone()]]);
        assert_eq!([told(7), told(19)], [vec![silent.clone(), last.clone()], vec![silent, last]]);
    }
}
