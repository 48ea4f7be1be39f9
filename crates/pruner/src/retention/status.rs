//! The policy in force, as it is shown.

use serde::{Deserialize, Serialize};

use super::{
    holds::{Consumer, NamedPin},
    keep::{Ask, winner},
    readers::ReaderStatus,
};

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
    /// What each bound asks for.
    pub asks: Vec<Ask>,
    /// The one that decides where the range begins: it asks for most.
    pub winner: Option<Ask>,
    /// Orders it asks for that are gone already; they do not come back.
    pub gone_already: u64,
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
        self.winner = winner(&self.asks).cloned();
        self.gone_already = self.winner.as_ref().map_or(0, |winner| self.floor.saturating_sub(winner.from));
        self
    }
}

impl std::fmt::Display for RetentionStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "orders {} to {} are readable", self.floor, self.head)?;
        if let Some(winner) = &self.winner {
            write!(f, "; {} reaches lowest, to order {}", winner.by, winner.from)?;
        }
        if self.gone_already > 0 {
            write!(f, ", of which {} orders are gone already", self.gone_already)?;
        }
        write!(f, "; {} single orders are kept below, {} pins", self.kept_below, self.pins.len())?;
        let silent = self.consumers.iter().filter(|consumer| consumer.silent).count();
        write!(f, ", {} consumers", self.consumers.len())?;
        if silent > 0 { write!(f, " ({silent} silent)") } else { Ok(()) }
    }
}
