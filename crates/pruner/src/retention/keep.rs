//! The policy as a value, and which of its bounds reaches lowest.

use std::{num::NonZeroU64, time::Duration};

use serde::{Deserialize, Serialize};
use state_tree::Order;

use crate::{clock::millis, error::Counted, when::Span};

/// What to keep. The window is what either of the first two asks for; the third keeps single orders below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepPolicy {
    /// The last so many orders, head included.
    pub last: NonZeroU64,
    /// Orders whose block is not older than this, by the chain's clock, at the head. The times of a chain never go back;
    /// if those of another one do, the search for the first such order ends at one of several.
    pub time: Option<Duration>,
    /// Every order that is a multiple of this, genesis included.
    pub every: Option<NonZeroU64>,
}

impl KeepPolicy {
    /// The last so many orders and nothing else.
    pub fn last(last: NonZeroU64) -> Self {
        Self { last, time: None, every: None }
    }

    /// The oldest order that the last N ask for; a history that is shorter keeps all of it (S13).
    pub(crate) fn first_of_last(&self, head: Order) -> Order {
        head.minus(self.last.get() - 1).map_or(Order::GENESIS, |first| first)
    }

    /// Whether the order is one of every k.
    pub(crate) fn is_one_of_every(&self, order: Order) -> bool {
        self.every.is_some_and(|every| order.get().is_multiple_of(every.get()))
    }

    /// The orders of every k from `first` up to, not including, `end`.
    pub(crate) fn every_between(&self, first: Order, end: Order) -> impl Iterator<Item = Order> {
        let every = self.every.map(NonZeroU64::get);
        let begin = every.and_then(|every| first.get().checked_next_multiple_of(every));
        let next = move |at: &u64| every.and_then(|every| at.checked_add(every));
        std::iter::successors(begin, next).take_while(move |at| *at < end.get()).map(Order::new)
    }

    /// Milliseconds of chain time to keep.
    pub(crate) fn time_ms(&self) -> Option<u64> {
        self.time.map(millis)
    }
}

impl std::fmt::Display for KeepPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.last.get() {
            1 => f.write_str("the last order")?,
            last => write!(f, "the last {last} orders")?,
        }
        if let Some(ms) = self.time_ms() {
            write!(f, ", the last {}", Span(ms))?;
        }
        match self.every.map(NonZeroU64::get) {
            None => Ok(()),
            Some(1) => f.write_str(", every order"),
            Some(every) => write!(f, ", every {every} orders"),
        }
    }
}

/// One who asks for every order from some order on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "bound")]
pub enum Bound {
    /// The last N orders.
    Last {
        /// N.
        orders: u64,
    },
    /// The last T of chain time.
    Time {
        /// T, in milliseconds.
        time_ms: u64,
    },
    /// A consumer that is heard of.
    Consumer {
        /// Its name.
        name: String,
    },
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Last { orders } => write!(f, "keep_last ({})", Counted(*orders, "order")),
            Self::Time { time_ms } => write!(f, "keep_time ({} of chain time)", Span(*time_ms)),
            Self::Consumer { name } => write!(f, "consumer `{name}`"),
        }
    }
}

/// What one bound asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Who asks.
    #[serde(flatten)]
    pub by: Bound,
    /// The oldest order asked for.
    pub from: u64,
}

/// The one that reaches lowest; among equals the first.
pub(crate) fn winner(asks: &[Ask]) -> Option<&Ask> {
    asks.iter().min_by_key(|ask| ask.from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(last: u64, every: u64) -> KeepPolicy {
        KeepPolicy { last: NonZeroU64::new(last).unwrap(), time: None, every: NonZeroU64::new(every) }
    }

    #[test]
    fn the_last_n_reach_down_to_genesis_and_no_further() {
        for (last, head, first) in [(1, 9, 9), (10, 9, 0), (11, 9, 0), (u64::MAX, 9, 0), (3, 9, 7)] {
            assert_eq!(policy(last, 0).first_of_last(Order::new(head)).get(), first, "{last} of {head}");
        }
    }

    #[test]
    fn every_kth_order_of_a_half_open_range_is_found() {
        for every in [0, 1, 2, 7, u64::MAX] {
            for (first, end) in [(0, 0), (0, 1), (1, 2), (0, 30), (6, 7), (7, 8), (7, 14), (13, 29)] {
                let policy = policy(1, every);
                let found: Vec<u64> =
                    policy.every_between(Order::new(first), Order::new(end)).map(Order::get).collect();
                let plain: Vec<u64> = (first..end).filter(|at| every > 0 && at.is_multiple_of(every)).collect();
                assert_eq!(found, plain, "{every} in {first}..{end}");
                assert!((first..end).all(|at| policy.is_one_of_every(Order::new(at)) == plain.contains(&at)));
            }
        }
    }

    #[test]
    fn one_order_is_told_in_the_singular() {
        assert_eq!(
            (policy(1, 1).to_string(), policy(2, 3).to_string()),
            ("the last order, every order".to_owned(), "the last 2 orders, every 3 orders".to_owned())
        );
        let told = [1, 2].map(|orders| Bound::Last { orders }.to_string());
        assert_eq!(told, ["keep_last (1 order)", "keep_last (2 orders)"]);
    }

    #[test]
    fn the_lowest_ask_wins_and_the_first_among_equals() {
        let ask = |orders, from| Ask { by: Bound::Last { orders }, from };
        assert_eq!(winner(&[]), None);
        for (asks, wins) in [([5, 6, 7], 0), ([7, 5, 6], 1), ([5, 5, 5], 0), ([6, 5, 5], 1)] {
            let asks: Vec<Ask> = (0..).zip(asks).map(|(index, from)| ask(index, from)).collect();
            assert_eq!(winner(&asks), Some(&asks[wins]), "{asks:?}");
        }
    }
}
