//! The policy in force, as it is shown.

use std::{num::NonZeroU64, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    holds::{Consumer, NamedPin},
    keep::{Ask, Bound, KeepPolicy, winner},
    readers::ReaderStatus,
};
use crate::{error::Counted, when::Span};

/// How a named pin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinState {
    /// Its order is readable.
    Kept,
    /// Its time is over: it is dropped when the pruner looks next.
    Expired,
    /// Its order is not readable: another hand than the policy's moved the floor.
    Gone,
}

/// A named pin, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinStatus {
    /// The pin.
    #[serde(flatten)]
    pub pin: NamedPin,
    /// Milliseconds since it was added, by the wall clock.
    pub age_ms: u64,
    /// How it is.
    pub state: PinState,
}

/// A consumer, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerStatus {
    /// The consumer.
    #[serde(flatten)]
    pub consumer: Consumer,
    /// Milliseconds since it was last heard of, by the wall clock.
    pub age_ms: u64,
    /// Whether it was not heard of for longer than it said: it is not obeyed until it is heard of again.
    pub silent: bool,
    /// Orders from its watermark to the head.
    pub behind: u64,
    /// Orders from the head to its watermark: after a rollback it has seen what is gone.
    pub ahead: u64,
}

/// Whether everything that a bound asks for is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// It is.
    Filled,
    /// The chain is younger than the bound, and nothing of it is gone.
    Young,
    /// Older orders that it asks for are gone: the range grows with the chain until it is filled.
    Short,
    /// Whether older orders that it asks for are gone is not known before the floor has moved.
    Unknown,
}

/// A bound, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundStatus {
    /// Who asks.
    #[serde(flatten)]
    pub by: Bound,
    /// The oldest order asked for; of chain time, the oldest of those that are there.
    pub from: u64,
    /// Whether they are all there.
    pub fill: Fill,
}

/// The readable range, as far as bounds are judged by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) head: u64,
    pub(super) floor: u64,
    pub(super) head_ms: u64,
    pub(super) floor_ms: Option<u64>,
    /// When the block of the newest order that is gone was made, if that was written down.
    pub(super) newest_gone_ms: Option<u64>,
}

impl Range {
    /// Chain time from the floor to the head.
    pub(super) fn window_ms(&self) -> Option<u64> {
        self.floor_ms.map(|floor_ms| self.head_ms.saturating_sub(floor_ms))
    }

    pub(super) fn judge(&self, Ask { by, from }: Ask) -> BoundStatus {
        let fill = match &by {
            Bound::Time { time_ms } => self.fill_of_time(*time_ms),
            Bound::Last { .. } | Bound::Consumer { .. } if self.floor > from => Fill::Short,
            Bound::Last { orders } if self.head < orders.saturating_sub(1) => Fill::Young,
            Bound::Last { .. } | Bound::Consumer { .. } => Fill::Filled,
        };
        BoundStatus { by, from, fill }
    }

    fn fill_of_time(&self, time_ms: u64) -> Fill {
        let oldest = self.head_ms.saturating_sub(time_ms);
        let reaches = self.floor_ms.is_some_and(|floor_ms| floor_ms < oldest);
        match self.newest_gone_ms {
            _ if reaches => Fill::Filled,
            _ if self.floor == 0 => Fill::Young,
            Some(gone_ms) if gone_ms < oldest => Fill::Filled,
            Some(_) => Fill::Short,
            None => Fill::Unknown,
        }
    }
}

/// The policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionStatus {
    /// The last so many orders; absent where no policy is in force.
    pub keep_last: Option<u64>,
    /// The last so many milliseconds of chain time.
    pub keep_time_ms: Option<u64>,
    /// Every order that is a multiple of this.
    pub keep_every: Option<u64>,
    /// The newest order.
    pub head: u64,
    /// The oldest order of the range that is readable without a gap: the window in effect.
    pub floor: u64,
    /// When the block of the floor was made, in milliseconds since 1970 by the chain's clock.
    pub floor_timestamp_ms: Option<u64>,
    /// Chain time from the floor to the head: the window in effect.
    pub window_ms: Option<u64>,
    /// What each bound asks for, and whether that is there.
    pub asks: Vec<BoundStatus>,
    /// The one that decides where the range begins: it asks for most.
    pub winner: Option<BoundStatus>,
    /// Orders it asks for that are gone already; they do not come back. Absent where it is not known how many.
    pub gone_already: Option<u64>,
    /// Single orders below the floor that stay readable.
    pub kept_below: u64,
    /// Named pins.
    pub pins: Vec<PinStatus>,
    /// Consumers.
    pub consumers: Vec<ConsumerStatus>,
    /// Readers, each with the order it holds.
    pub readers: Vec<ReaderStatus>,
    /// Pins whose time was over and that were dropped since the process began, the last few.
    pub expired_pins: Vec<NamedPin>,
}

impl RetentionStatus {
    pub(super) fn decided(mut self) -> Self {
        let asks: Vec<Ask> = self.asks.iter().map(|ask| Ask { by: ask.by.clone(), from: ask.from }).collect();
        let wins = winner(&asks);
        self.winner = self.asks.iter().find(|ask| wins.is_some_and(|wins| wins.by == ask.by)).cloned();
        self.gone_already = self.winner.as_ref().map_or(Some(0), |winner| match (&winner.by, winner.fill) {
            (Bound::Time { .. }, Fill::Short | Fill::Unknown) => None,
            (Bound::Last { .. } | Bound::Time { .. } | Bound::Consumer { .. }, _) => {
                Some(self.floor.saturating_sub(winner.from))
            }
        });
        self
    }

    fn policy(&self) -> Option<KeepPolicy> {
        let time = self.keep_time_ms.map(Duration::from_millis);
        let last = self.keep_last.and_then(NonZeroU64::new)?;
        Some(KeepPolicy { last, time, every: self.keep_every.and_then(NonZeroU64::new) })
    }
}

impl std::fmt::Display for BoundStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.by.fmt(f)?;
        match self.fill {
            Fill::Filled => f.write_str(" is filled"),
            Fill::Young => f.write_str(" is not filled yet: the chain is younger"),
            Fill::Short => f.write_str(" is not filled yet: older orders that it asks for are gone"),
            Fill::Unknown => f.write_str(" may not be filled yet: older orders that it asks for may be gone"),
        }
    }
}

impl std::fmt::Display for RetentionStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.policy() {
            Some(keep) => write!(f, "in force: {keep}; ")?,
            None => f.write_str("no policy is in force, so nothing goes; ")?,
        }
        write!(f, "orders {} to {} are readable", self.floor, self.head)?;
        self.window_ms.map_or(Ok(()), |ms| write!(f, ", {} of chain time", Span(ms)))?;
        if let Some(winner) = &self.winner {
            write!(f, "; {} reaches lowest, to order {}", winner.by, winner.from)?;
        }
        if let Some(gone) = self.gone_already.filter(|gone| *gone > 0) {
            let are = if gone == 1 { "is" } else { "are" };
            write!(f, ", of which {} {are} gone already", Counted(gone, "order"))?;
        }
        self.asks.iter().filter(|ask| ask.fill != Fill::Filled).try_for_each(|ask| write!(f, "; {ask}"))?;
        let (kept, pins) = (Counted(self.kept_below, "single order"), Counted(self.pins.len() as u64, "pin"));
        write!(f, "; {kept} kept below, {pins}")?;
        let silent = self.consumers.iter().filter(|consumer| consumer.silent).count();
        write!(f, ", {}", Counted(self.consumers.len() as u64, "consumer"))?;
        if silent > 0 { write!(f, " ({silent} silent)") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(range: Range, by: Bound, from: u64) -> Fill {
        range.judge(Ask { by, from }).fill
    }

    #[test]
    fn a_bound_is_filled_only_where_nothing_that_it_asks_for_is_gone() {
        let range =
            |floor, floor_ms, newest_gone_ms| Range { head: 42, floor, head_ms: 42_000, floor_ms, newest_gone_ms };
        let whole = range(0, Some(0), None);
        let rows = [
            (whole, 50, 50_000, (Fill::Young, Fill::Young), "a chain younger than both"),
            (whole, 43, 42_000, (Fill::Filled, Fill::Young), "all of it"),
            (whole, 10, 41_999, (Fill::Filled, Fill::Filled), "nothing is gone"),
            (range(25, Some(25_000), Some(24_000)), 18, 17_000, (Fill::Filled, Fill::Filled), "what has gone is older"),
            (range(25, Some(25_000), Some(24_000)), 19, 18_000, (Fill::Short, Fill::Short), "one order too few"),
            (range(25, Some(25_000), None), 18, 18_000, (Fill::Filled, Fill::Unknown), "nobody knows what has gone"),
            (range(25, Some(25_000), None), 18, 16_999, (Fill::Filled, Fill::Filled), "the floor is older than that"),
        ];
        for (range, orders, time_ms, expected, why) in rows {
            let last = judged(range, Bound::Last { orders }, (range.head + 1).saturating_sub(orders));
            assert_eq!((last, judged(range, Bound::Time { time_ms }, range.floor)), expected, "{why}");
        }
        let consumer = |from| judged(range(25, Some(25_000), None), Bound::Consumer { name: "c".to_owned() }, from);
        assert_eq!((consumer(25), consumer(24)), (Fill::Filled, Fill::Short));
    }
}
