//! Why an order, a root or a node is kept, or since when it is not: in words, and as data.
//!
//! The answers for orders are a pure function of what is known. Those for hashes look at a bounded number of nodes, and
//! say so where that does not settle the question.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use state_store::{NativeChain, RootRecord, View};
use state_tree::{NodeHash, NodeLayout, Order, StateRoot};

use super::{
    keep::{Ask, Bound},
    live::LiveRetention,
    log::Gone,
    look::look,
    state::State,
};
use crate::{error::PruneError, when::When};

/// Orders listed for one root, at most.
const LISTED: usize = 16;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// An order.
    Order(Order),
    /// The hash of a state root, of a node, or of both.
    Hash(NodeHash),
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(order) = text.parse::<u64>() {
            return Ok(Self::Order(Order::new(order)));
        }
        let hash = NodeHash::from_hex(text);
        hash.map(Self::Hash).map_err(|_| "an order, or the 64 hex digits of a root or a node, is expected".to_owned())
    }
}

/// One reason to keep an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Why {
    /// It is the newest state.
    Head,
    /// A bound asks for every order from some order on.
    Asked(Ask),
    /// It is one of every k.
    Every {
        /// k.
        orders: u64,
    },
    /// Somebody pinned it by name.
    Pin {
        /// The name.
        name: String,
        /// Who asked.
        owner: String,
    },
    /// A reader works on it.
    Reader {
        /// What it said of itself.
        owner: String,
        /// The head when it began.
        since_order: u64,
    },
    /// Nobody asks for it any more; it goes when the floor moves next.
    Leaving,
    /// No policy is in force, so nothing goes.
    NoPolicy,
}

/// How an order stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "standing")]
pub enum Standing {
    /// Its state is whole.
    Kept {
        /// Its root, in hex; absent where only a reader has it.
        root: Option<String>,
        /// Everybody who asks for it.
        reasons: Vec<Why>,
    },
    /// It is gone, on purpose.
    Pruned {
        /// The oldest order of the readable range.
        floor: u64,
        /// Since when, as far as it was written down.
        gone: Option<Gone>,
    },
    /// It was never committed.
    NeverExisted {
        /// The newest order.
        head: u64,
    },
}

/// The answer about an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderExplained {
    /// The order.
    pub order: u64,
    /// When its block was made, in milliseconds since 1970 by the chain's clock, if its record is there.
    pub timestamp_ms: Option<u64>,
    /// How it stands.
    #[serde(flatten)]
    pub standing: Standing,
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "node")]
pub enum NodeStanding {
    /// It is not in the store.
    Absent,
    /// It is there, and a retained root reaches it.
    Reached {
        /// The newest order whose state reaches it, kept orders below the floor coming last.
        order: u64,
        /// Its root, in hex.
        root: String,
        /// Nodes looked at until it was found.
        looked_at: u64,
    },
    /// It is there, and no retained root reaches it: all of them were looked at to their end.
    Garbage {
        /// Nodes looked at.
        looked_at: u64,
    },
    /// It is there, and was not found under the nodes looked at, which are not all: nothing is known.
    NotFound {
        /// Nodes looked at.
        looked_at: u64,
        /// Nodes on the way that could not be read.
        faults: u64,
    },
}

/// The answer about a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashExplained {
    /// The hash, in hex.
    pub hash: String,
    /// Readable orders that have it as their root, newest first, not more than 16.
    pub root_of: Vec<OrderExplained>,
    /// How the node of this hash stands.
    #[serde(flatten)]
    pub node: NodeStanding,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "about")]
pub enum Explanation {
    /// About an order.
    Order(OrderExplained),
    /// About a hash.
    Hash(HashExplained),
}

/// What is known about one order, and about those who may ask for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) head: u64,
    pub(super) floor: u64,
    /// Its root, if it can be read.
    pub(super) root: Option<String>,
    /// Whether bounds are in force.
    pub(super) policy: bool,
    pub(super) asks: Vec<Ask>,
    /// k, if it is one of every k.
    pub(super) every: Option<u64>,
    /// Names and owners of its pins.
    pub(super) pins: Vec<(String, String)>,
    /// Its readers, and the heads they began at.
    pub(super) readers: Vec<(String, u64)>,
    pub(super) gone: Option<Gone>,
}

/// How an order stands, by what is known.
pub(super) fn stand(order: u64, known: &Known) -> Standing {
    if order > known.head {
        return Standing::NeverExisted { head: known.head };
    }
    let mut reasons = Vec::new();
    if order == known.head {
        reasons.push(Why::Head);
    }
    let in_range = order >= known.floor;
    if in_range {
        reasons.extend(known.asks.iter().filter(|ask| ask.from <= order).cloned().map(Why::Asked));
    }
    if known.root.is_some() {
        reasons.extend(known.every.map(|orders| Why::Every { orders }));
        let pin = |(name, owner): &(String, String)| Why::Pin { name: name.clone(), owner: owner.clone() };
        reasons.extend(known.pins.iter().map(pin));
    }
    let reader = |(owner, since): &(String, u64)| Why::Reader { owner: owner.clone(), since_order: *since };
    reasons.extend(known.readers.iter().map(reader));
    if !reasons.is_empty() {
        return Standing::Kept { root: known.root.clone(), reasons };
    }
    match &known.root {
        None if !in_range => Standing::Pruned { floor: known.floor, gone: known.gone },
        root => {
            let why = if known.policy { Why::Leaving } else { Why::NoPolicy };
            Standing::Kept { root: root.clone(), reasons: vec![why] }
        }
    }
}

impl LiveRetention {
    /// Why something is kept, or since when it is not. At most `limit` nodes are looked at.
    ///
    /// Errors: records or nodes that cannot be read, no commit yet.
    pub fn explain(&self, asked: Asked, layout: &dyn NodeLayout, limit: u64) -> Result<Explanation, PruneError> {
        match asked {
            Asked::Order(order) => self.explain_order(order).map(Explanation::Order),
            Asked::Hash(hash) => self.explain_hash(hash, layout, limit).map(Explanation::Hash),
        }
    }

    fn explain_order(&self, order: Order) -> Result<OrderExplained, PruneError> {
        let state = self.state()?;
        let view = self.parts.store.view()?;
        let record = NativeChain.record(&*view, order)?;
        let standing = stand(order.get(), &self.known(&*view, &state, order)?);
        let timestamp_ms = record.map(|RootRecord { timestamp_ms, .. }| timestamp_ms);
        Ok(OrderExplained { order: order.get(), timestamp_ms, standing })
    }

    fn known(&self, view: &dyn View, state: &State, order: Order) -> Result<Known, PruneError> {
        let (head, floor) = self.ends().ok_or(PruneError::NoHead)?;
        let keep = self.parts.keep;
        let pins = state.holds.pins.iter().filter(|pin| pin.order == order.get());
        let readers = self.parts.store.pins().into_iter().filter(|(at, _)| *at == order).flat_map(|(_, owners)| owners);
        let every = keep.filter(|keep| keep.is_one_of_every(order)).and_then(|keep| keep.every);
        Ok(Known {
            head: head.order,
            floor: floor.get(),
            root: self.parts.store.root(order).map_or(None, |root| Some(root.to_string())),
            policy: keep.is_some(),
            asks: self.asks(view, &state.holds, (head, floor))?,
            every: every.map(std::num::NonZeroU64::get),
            pins: pins.map(|pin| (pin.name.clone(), pin.owner.clone())).collect(),
            readers: readers.map(|reader| (reader.owner, reader.since.get())).collect(),
            gone: state.log.gone(order.get()),
        })
    }

    fn explain_hash(&self, hash: NodeHash, layout: &dyn NodeLayout, limit: u64) -> Result<HashExplained, PruneError> {
        let root_of = self.parts.store.orders_of(StateRoot::new(hash), LISTED);
        let root_of = root_of.into_iter().map(|order| self.explain_order(order)).collect::<Result<_, _>>()?;
        let node = self.node(&*self.parts.store.view()?, layout, (hash, limit))?;
        Ok(HashExplained { hash: hash.to_string(), root_of, node })
    }

    /// Roots from the newest on, then the single orders below the floor, then what readers hold.
    fn node(
        &self,
        view: &dyn View,
        layout: &dyn NodeLayout,
        target: (NodeHash, u64),
    ) -> Result<NodeStanding, PruneError> {
        if view.node(&target.0)?.is_none() {
            return Ok(NodeStanding::Absent);
        }
        let store = &self.parts.store;
        let (head, floor) = self.ends().ok_or(PruneError::NoHead)?;
        let range = (floor.get()..=head.order).rev().map(Order::new);
        // One that the floor passes meanwhile is in the view still, and no longer retained.
        let range = range.filter_map(|order| store.root(order).map_or(None, |root| Some((order, root))));
        let readers = store.pins().into_iter();
        let held = readers.flat_map(|(order, owners)| owners.into_iter().map(move |owner| (order, owner.root)));
        let roots = range.chain(store.kept().into_iter().rev()).chain(held);
        let looked = look(view, layout, roots, target)?;
        Ok(match looked.found {
            Some((order, root)) => {
                NodeStanding::Reached { order: order.get(), root: root.to_string(), looked_at: looked.nodes }
            }
            None if looked.everything => NodeStanding::Garbage { looked_at: looked.nodes },
            None => NodeStanding::NotFound { looked_at: looked.nodes, faults: looked.faults },
        })
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head => f.write_str("it is the head"),
            Self::Asked(Ask { by: by @ Bound::Consumer { .. }, from }) => {
                write!(f, "{by} still needs every order from {from} on")
            }
            Self::Asked(Ask { by, from }) => write!(f, "{by} reaches down to order {from}"),
            Self::Every { orders } => write!(f, "it is one of every {orders} (keep_every)"),
            Self::Pin { name, owner } => write!(f, "pin `{name}` of {owner}"),
            Self::Reader { owner, since_order } => write!(f, "a reader holds it ({owner}, since order {since_order})"),
            Self::Leaving => f.write_str("nobody asks for it any more: it goes when the floor moves next"),
            Self::NoPolicy => f.write_str("no policy is in force: nothing goes"),
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
        write!(f, ", when the head was order {}", self.head)
    }
}

impl std::fmt::Display for OrderExplained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let order = self.order;
        match &self.standing {
            Standing::NeverExisted { head } => write!(f, "order {order} was never committed; the head is order {head}"),
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

impl std::fmt::Display for HashExplained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.node {
            NodeStanding::Absent => write!(f, "node {} is not in the store", self.hash)?,
            NodeStanding::Reached { order, looked_at, .. } => {
                write!(f, "node {} is kept: the state of order {order} reaches it", self.hash)?;
                write!(f, " (found after {looked_at} nodes, the newest states first)")?;
            }
            NodeStanding::Garbage { looked_at } => {
                write!(f, "node {} is garbage: no retained root reaches it", self.hash)?;
                write!(f, " ({looked_at} nodes looked at, which are all)")?;
            }
            NodeStanding::NotFound { looked_at, faults } => {
                write!(f, "node {} is there; it was not found within {looked_at} nodes looked at", self.hash)?;
                if *faults > 0 {
                    write!(f, ", and {faults} on the way could not be read")?;
                }
            }
        }
        self.root_of.iter().try_for_each(|order| write!(f, "\nit is a root: {order}"))
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

    fn ask(by: Bound, from: u64) -> Ask {
        Ask { by, from }
    }

    /// Orders 0 to 100 were committed, those from 80 on are readable, and 40 and 60 below it.
    fn known(order: u64) -> Known {
        let readable = order >= 80 || [40, 60, 70].contains(&order);
        Known {
            head: 100,
            floor: 80,
            root: readable.then(|| "r".to_owned()),
            policy: true,
            asks: vec![
                ask(Bound::Last { orders: 11 }, 90),
                ask(Bound::Time { time_ms: 5 }, 95),
                ask(Bound::Consumer { name: "indexer".to_owned() }, 85),
            ],
            every: order.is_multiple_of(20).then_some(20),
            pins: if order == 60 { vec![("audit".to_owned(), "ann".to_owned())] } else { Vec::new() },
            readers: if order == 50 { vec![("export".to_owned(), 77)] } else { Vec::new() },
            gone: Some(Gone { after_ms: None, by_ms: 1, head: 99 }),
        }
    }

    #[test]
    fn every_reason_to_keep_an_order_is_named_and_no_other() {
        let (last, time) = (ask(Bound::Last { orders: 11 }, 90), ask(Bound::Time { time_ms: 5 }, 95));
        let consumer = ask(Bound::Consumer { name: "indexer".to_owned() }, 85);
        let [last, time, consumer] = [last, time, consumer].map(Why::Asked);
        let pin = Why::Pin { name: "audit".to_owned(), owner: "ann".to_owned() };
        let (every, reader) = (Why::Every { orders: 20 }, Why::Reader { owner: "export".to_owned(), since_order: 77 });
        let rows = [
            (100, vec![Why::Head, last.clone(), time.clone(), consumer.clone(), every.clone()]),
            (95, vec![last.clone(), time, consumer.clone()]),
            (90, vec![last, consumer.clone()]),
            (85, vec![consumer]),
            (81, vec![Why::Leaving]),
            (80, vec![every.clone()]),
            (70, vec![Why::Leaving]),
            (60, vec![every.clone(), pin]),
            (50, vec![reader]),
            (40, vec![every]),
        ];
        for (order, expected) in rows {
            let Standing::Kept { reasons, .. } = stand(order, &known(order)) else { panic!("order {order} is kept") };
            assert_eq!(reasons, expected, "order {order}");
        }
        for order in [20, 79] {
            let gone = Some(Gone { after_ms: None, by_ms: 1, head: 99 });
            assert_eq!(stand(order, &known(order)), Standing::Pruned { floor: 80, gone }, "order {order}");
        }
        assert_eq!(stand(101, &known(101)), Standing::NeverExisted { head: 100 });
        let idle = Known { policy: false, asks: Vec::new(), ..known(81) };
        assert!(matches!(stand(81, &idle), Standing::Kept { reasons, .. } if reasons == [Why::NoPolicy]));
    }

    #[test]
    fn explanations_survive_the_wire_and_read_as_sentences() {
        let told = [100, 81, 60, 20, 101].map(|order| {
            let explained = OrderExplained { order, timestamp_ms: Some(60_000), standing: stand(order, &known(order)) };
            let explained = Explanation::Order(explained);
            let json = serde_json::to_string(&explained).unwrap();
            assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explained, "{json}");
            explained.to_string()
        });
        let words = [
            "it is the head",
            "nobody asks",
            "pin `audit` of ann",
            "gone by 1970-01-01T00:00:00.001Z, when the head was order 99",
            "never committed",
        ];
        for (told, words) in told.iter().zip(words) {
            assert!(told.contains(words), "{told}");
        }
        assert!(told[0].contains("of 1970-01-01T00:01:00.000Z by the chain's clock"), "{}", told[0]);
        let nodes = [
            (NodeStanding::Absent, "not in the store"),
            (NodeStanding::Garbage { looked_at: 9 }, "garbage"),
            (NodeStanding::NotFound { looked_at: 9, faults: 0 }, "not found within 9 nodes looked at"),
            (NodeStanding::Reached { order: 4, root: "r".to_owned(), looked_at: 9 }, "order 4 reaches it"),
        ];
        for (node, words) in nodes {
            let explained = Explanation::Hash(HashExplained { hash: "h".to_owned(), root_of: Vec::new(), node });
            let json = serde_json::to_string(&explained).unwrap();
            assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explained, "{json}");
            assert!(explained.to_string().contains(words), "{explained}");
        }
    }

    #[test]
    fn what_is_asked_is_an_order_or_a_hash() {
        assert_eq!("17".parse(), Ok(Asked::Order(Order::new(17))));
        let hash = NodeHash::new([0xab; 32]);
        assert_eq!(hash.to_string().parse(), Ok(Asked::Hash(hash)));
        for wrong in ["", "-1", "head", "abcd", "18446744073709551616"] {
            assert!(wrong.parse::<Asked>().is_err(), "{wrong}");
        }
    }
}
