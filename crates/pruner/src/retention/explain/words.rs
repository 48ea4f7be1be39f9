//! Explanations in words.

use state_store::HeadOrder;
use state_tree::Order;

use super::{Explanation, HashExplained, NodeStanding, OrderExplained, PinHold, Standing, Standstill, WaitsFor, Why};
use crate::{
    error::Counted,
    retention::{
        keep::{Ask, Bound},
        log::Gone,
    },
    when::{Span, When},
};

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head => f.write_str("it is the head"),
            Self::Asked(Ask { by: by @ Bound::Consumer { .. }, from }) => {
                write!(f, "{by} still needs every order from {from} on")
            }
            Self::Asked(Ask { by, from }) => write!(f, "{by} reaches down to order {from}"),
            Self::Every { orders } => write!(f, "it is one of every {orders} (keep_every)"),
            Self::Pin(pin) => pin.fmt(f),
            Self::PinExpired(pin) => write!(f, "{pin}, has expired and keeps nothing"),
            Self::ConsumerSilent { name, from } => {
                write!(f, "consumer `{name}` needs every order from {from} on, and is silent: it is not waited for")
            }
            Self::Reader { owner, since_order } => write!(f, "a reader holds it ({owner}, since order {since_order})"),
            Self::Leaving { waits_for } => {
                f.write_str("nobody asks for it any more: it goes with the next round or cycle")?;
                waits_for.as_ref().map_or(Ok(()), |standstill| write!(f, ", {standstill}"))
            }
            Self::NoPolicy => f.write_str("no policy is in force here: nothing goes until a pruner works on the store"),
        }
    }
}

impl std::fmt::Display for PinHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pin `{}` of {}, since {}", self.name, self.owner, When(self.since_ms))?;
        match self.ttl_ms {
            Some(ms) => write!(f, ", for {}", Span(ms)),
            None => f.write_str(", until it is removed"),
        }
    }
}

impl std::fmt::Display for Standstill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WorkerGone { why } => write!(f, "not in this process, whose pruner has ended: {why}"),
            Self::Unread { why } => write!(f, "not before the records of the pruner can be read: {why}"),
            Self::Freeze { reason } => write!(f, "not until deletes are unfrozen: {reason}"),
            Self::Switch { since_ms } => {
                write!(f, "not until pruning is switched on again, off since {}", When(*since_ms))
            }
            Self::Breaker { for_ms } => write!(f, "not before the breaker lets one through, in {}", Span(*for_ms)),
            Self::Cycle { cycle } => write!(f, "not before cycle {cycle} has ended"),
            Self::RoundsFail { why } => write!(f, "not with a round that fails as the last one did: {why}"),
            Self::CountsOwed => {
                f.write_str("not with a round before a cycle has finished: commits are not counted exactly")
            }
            Self::IncrementalOff => f.write_str("which is a cycle: the sweep between cycles is off"),
            Self::NoPolicy => f.write_str("not until a pruner works on the store: no policy is in force here"),
            Self::Unknown => {
                f.write_str("as far as is known here: more than is written down only its running node knows")
            }
        }
    }
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.after_ms {
            Some(after) if after == self.by_ms => write!(f, "it was let go at {}", When(self.by_ms))?,
            Some(after) => write!(f, "it went between {} and {}", When(after), When(self.by_ms))?,
            None => write!(f, "it was gone by {}", When(self.by_ms))?,
        }
        write!(f, ", when the head was order {}", self.head)?;
        let mut between = ": ";
        self.by.iter().try_for_each(|cause| write!(f, "{}{cause}", std::mem::replace(&mut between, "; ")))
    }
}

impl std::fmt::Display for OrderExplained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let order = self.order;
        match &self.standing {
            Standing::NeverExisted { head } => {
                write!(
                    f,
                    "there is no order {order}, and as far as this store knows never was: {}",
                    HeadOrder(Some(Order::new(*head)))
                )
            }
            Standing::RolledBack { head } => {
                write!(f, "order {order} was rolled back: the chain went back, and the head is order {head}")
            }
            Standing::AboveHead { head } => {
                write!(f, "order {order} is above the head (order {head}): it was never committed, or rolled back, ")?;
                f.write_str("or lost with a damaged write-ahead log, which `health-check` tells as `log_cut`")
            }
            Standing::Pruned { floor, gone } => {
                write!(f, "order {order} is pruned; the oldest order of the readable range is {floor}\n  ")?;
                match gone {
                    Some(gone) => gone.fmt(f),
                    None => f.write_str("when it went was not written down, or is forgotten"),
                }
            }
            Standing::Kept { root, reasons } => {
                write!(f, "order {order} is kept")?;
                if let Some(timestamp_ms) = self.timestamp_ms {
                    write!(f, ", of {} by the chain's clock", When(timestamp_ms))?;
                }
                if let Some(root) = root {
                    write!(f, ", with root {root}")?;
                }
                reasons.iter().try_for_each(|why| write!(f, "\n  {why}"))
            }
        }
    }
}

impl std::fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sweep { lost_in, floor, .. } if lost_in > floor => {
                write!(f, "it left its last place in order {lost_in}, and goes when the floor, now order {floor}, ")?;
                f.write_str("comes to that order")
            }
            Self::Sweep { lost_in, floor, lag_orders, lag_nodes } => {
                write!(
                    f,
                    "it left its last place at or before order {lost_in}, which the floor (order {floor}) has passed: "
                )?;
                let (orders, nodes) = (Counted(*lag_orders, "order"), Counted(*lag_nodes, "node"));
                let wait = if *lag_orders == 1 { "waits" } else { "wait" };
                write!(f, "it waits for the sweep between cycles; {orders} with {nodes} {wait}")
            }
            Self::Cycle => f.write_str("it was shared once, so only a cycle takes it"),
            Self::Unlisted => {
                f.write_str(
                    "no entry of the journal names it by itself: it goes with a tree that was dropped with all ",
                )?;
                f.write_str("below it, or with a cycle")
            }
            Self::CountsOwed => f.write_str("commits are not counted exactly, so only a cycle takes it"),
            Self::IncrementalOff => f.write_str("the sweep between cycles is off, so only a cycle takes it"),
            Self::Unknown => f.write_str(
                "what takes it is not known here: the commit journal was not read, or commits are not counted exactly",
            ),
        }
    }
}

impl std::fmt::Display for HashExplained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.node {
            NodeStanding::Empty => {
                write!(f, "{} is the root of the empty state: no node is stored for it, and none goes", self.hash)?;
            }
            NodeStanding::Absent { floor, gone } => {
                write!(f, "node {} is not in the store: it never was, or only states had it that ", self.hash)?;
                match floor {
                    0 => f.write_str("were rolled back")?, // nothing lies below it
                    _ => write!(f, "are gone: below order {floor}, where the readable range begins, or rolled back")?,
                }
                f.write_str(". If a state that is left should have it, it is lost: `verify` tells")?;
                if let (Some(gone), Some(before)) = (gone, floor.checked_sub(1)) {
                    write!(f, "\n  of order {before}, the last of those below: {gone}")?;
                }
            }
            NodeStanding::Reached { order, looked_at, lost_in, kept, .. } => {
                write!(f, "node {} is kept: the state of order {order} reaches it", self.hash)?;
                if *looked_at > 0 {
                    write!(f, " (found after {}, the newest states first)", Counted(*looked_at, "node"))?;
                }
                if let Some(lost_in) = lost_in {
                    let when = if order.checked_add(1) == Some(*lost_in) { "in" } else { "at or before" };
                    write!(f, "\n  it left its last place {when} order {lost_in}: no state from there on has it")?;
                }
                write!(f, "\n{kept}")?;
            }
            NodeStanding::Garbage { looked_at, waits_for, held_by } => {
                write!(f, "node {} is garbage: no retained root reaches it (", self.hash)?;
                if let WaitsFor::Sweep { lost_in, .. } = waits_for {
                    write!(f, "of states from order {lost_in} on the commit journal tells; of older ones ")?;
                }
                write!(f, "{} looked at, which are all)\n  {waits_for}", Counted(*looked_at, "node"))?;
                held_by.as_ref().map_or(Ok(()), |standstill| write!(f, "\n  {standstill}"))?;
            }
            NodeStanding::NotFound { looked_at, faults } => {
                write!(f, "node {} is stored, and whether a retained root reaches it is not known: ", self.hash)?;
                let were = if *looked_at == 1 { "was" } else { "were" };
                write!(f, "{} {were} looked at, and there are more (--limit)", Counted(*looked_at, "node"))?;
                if *faults > 0 {
                    write!(f, ", and {faults} on the way could not be read")?;
                }
            }
        }
        let told = match &self.node {
            NodeStanding::Reached { order, .. } => Some(*order), // with its reasons
            NodeStanding::Empty
            | NodeStanding::Absent { .. }
            | NodeStanding::Garbage { .. }
            | NodeStanding::NotFound { .. } => None,
        };
        self.root_of.iter().try_for_each(|root| match root.order {
            order if told == Some(order) => write!(f, "\nit is the root of order {order}"),
            _ => write!(f, "\nit is a root: {root}"),
        })
    }
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Order(order) => order.fmt(f),
            Self::Hash(hash) => hash.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(order: u64) -> OrderExplained {
        let standing = Standing::Kept { root: Some("r".to_owned()), reasons: vec![Why::Every { orders: order }] };
        OrderExplained { order, timestamp_ms: None, standing }
    }

    /// Of a root the order that has it is told once, and others that have it after it.
    #[test]
    fn the_reasons_of_the_order_that_reaches_a_root_are_told_once() {
        let node = NodeStanding::Reached {
            order: 4,
            root: "r".to_owned(),
            looked_at: 0,
            lost_in: None,
            kept: Box::new(kept(4)),
        };
        let told = HashExplained { hash: "r".to_owned(), root_of: vec![kept(4), kept(2)], node }.to_string();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            lines,
            [
                "node r is kept: the state of order 4 reaches it",
                "order 4 is kept, with root r",
                "  it is one of every 4 (keep_every)",
                "it is the root of order 4",
                "it is a root: order 2 is kept, with root r",
                "  it is one of every 2 (keep_every)",
            ]
        );
    }

    #[test]
    fn nothing_is_said_to_be_gone_below_the_first_order() {
        for (floor, words) in [(0, "only states had it that were rolled back"), (7, "below order 7, where")] {
            let node = NodeStanding::Absent { floor, gone: None };
            let told = HashExplained { hash: "r".to_owned(), root_of: Vec::new(), node }.to_string();
            assert!(told.contains(words) && !told.contains("below order 0"), "{told}");
        }
    }
}
