//! Why an order went: what had kept it, and how that ended.

use serde::{Deserialize, Serialize};

use super::keep::Bound;

/// Most causes written down of one move of the floor, or of one order.
pub(super) const MAX_CAUSES: usize = 4;

/// How something that kept an order ended. Records name a variant by its place, so new ones come at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The bounds of the configuration were changed.
    Policy,
    /// The last so many orders reached lowest, and went on with the chain.
    Last {
        /// N.
        orders: u64,
    },
    /// The last so much chain time reached lowest, and went on with the chain.
    Time {
        /// T, in milliseconds.
        time_ms: u64,
    },
    /// A consumer reached lowest, and needed later orders only.
    Consumer {
        /// Its name.
        name: String,
    },
    /// A consumer needed every order from its watermark on, and was silent.
    ConsumerSilent {
        /// Its name.
        name: String,
        /// Its watermark.
        order: u64,
    },
    /// A consumer needed every order from its watermark on, and was removed.
    ConsumerRemoved {
        /// Its name.
        name: String,
        /// Its watermark.
        order: u64,
    },
    /// The time of a pin was over.
    PinExpired {
        /// Its name.
        name: String,
        /// Who had asked for it.
        owner: String,
    },
    /// A pin was removed.
    PinRemoved {
        /// Its name.
        name: String,
        /// Who had asked for it.
        owner: String,
    },
}

impl Cause {
    /// The bound that reaches lowest let the order go.
    pub(super) fn of(lowest: &Bound) -> Self {
        match lowest {
            Bound::Last { orders } => Self::Last { orders: *orders },
            Bound::Time { time_ms } => Self::Time { time_ms: *time_ms },
            Bound::Consumer { name } => Self::Consumer { name: name.clone() },
        }
    }

    /// Whether it is the end of a pin, which kept one order.
    pub(super) fn is_of_pin(&self) -> bool {
        matches!(self, Self::PinExpired { .. } | Self::PinRemoved { .. })
    }

    /// Whether it tells of this order, of those that went together.
    pub(super) fn is_of(&self, gone: u64) -> bool {
        match self {
            Self::ConsumerSilent { order, .. } | Self::ConsumerRemoved { order, .. } => *order <= gone,
            Self::Policy | Self::Last { .. } | Self::Time { .. } | Self::Consumer { .. } => true,
            Self::PinExpired { .. } | Self::PinRemoved { .. } => true,
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let went_on = |f: &mut std::fmt::Formatter<'_>, by: Bound| {
            write!(f, "{by} reached down to later orders only, and nobody asked for earlier ones")
        };
        match self {
            Self::Policy => f.write_str("the retention was changed"),
            Self::Last { orders } => went_on(f, Bound::Last { orders: *orders }),
            Self::Time { time_ms } => went_on(f, Bound::Time { time_ms: *time_ms }),
            Self::Consumer { name } => went_on(f, Bound::Consumer { name: name.clone() }),
            Self::ConsumerSilent { name, order } => {
                write!(f, "consumer `{name}` needed every order from {order} on, and was silent")
            }
            Self::ConsumerRemoved { name, order } => {
                write!(f, "consumer `{name}` needed every order from {order} on, and was removed")
            }
            Self::PinExpired { name, owner } => write!(f, "pin `{name}` of {owner} expired"),
            Self::PinRemoved { name, owner } => write!(f, "pin `{name}` of {owner} was removed"),
        }
    }
}
