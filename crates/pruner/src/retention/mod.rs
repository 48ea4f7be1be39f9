//! What stays readable, and who asked for it.
//!
//! Promises: the readable range begins at the lowest order that the last N orders, the last T of chain time or a
//! consumer that is heard of asks for; it never grows downwards. Below it every k-th order and the named pins stay, each
//! with its root, from the batch that moves the floor over them until nobody asks for them any more. What is let go is
//! unreadable, durably, BEFORE its nodes may go (S27, S41).
//!
//! One policy moves the floor of a store: [`LiveRetention`]. Whoever deletes asks it to advance and takes the roots from
//! it. It costs a few comparisons where nothing moves, and reads of the order of the logarithm of what it moves over.

mod advance;
mod cause;
mod explain;
mod held;
mod holds;
mod keep;
mod live;
mod log;
mod look;
mod readers;
mod rollback;
mod shown;
mod state;
mod status;
mod within;

pub use cause::Cause;
pub use explain::{
    Asked, Explanation, HashExplained, NodeStanding, OrderExplained, PinHold, Standing, Standstill, WaitsFor, Why,
};
pub(crate) use holds::Holds;
pub use holds::{Consumer, NamedPin, check_name};
pub use keep::{Ask, Bound, KeepPolicy};
pub use live::{DEFAULT_CONSUMER_TTL, LiveRetention, NewPin, RetentionParts};
pub(crate) use log::RetentionLog;
pub use log::{Gone, RecordedPolicy};
pub use look::LOOK_LIMIT;
pub use readers::{OldReaders, ReaderLimit, ReaderState, ReaderStatus};
pub use status::{BoundStatus, ConsumerStatus, Fill, PinState, PinStatus, RetentionStatus};
pub(crate) use within::is_filling;
