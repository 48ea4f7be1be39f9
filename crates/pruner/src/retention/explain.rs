//! Why an order, a root or a node is kept, or since when it is not: in words, and as data.
//!
//! The answers for orders are a pure function of what is known. Those for hashes look at a bounded number of nodes, and
//! say so where that does not settle the question.

mod node;
mod standstill;
mod words;

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use state_store::{HeadRecord, NativeChain, RootRecord, View};
use state_tree::{NodeHash, NodeLayout, Order};

use super::{held::Now, holds::NamedPin, keep::Ask, live::LiveRetention, log::Gone, state::State};
use crate::{error::PruneError, log_cut, worker::Pruner};
pub use node::{NodeStanding, WaitsFor};
pub use standstill::Standstill;
use standstill::Standstills;

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
        if let Ok(hash) = NodeHash::from_hex(text) {
            return Ok(Self::Hash(hash)); // also one of decimal digits alone
        }
        let order = text.parse().map(|order| Self::Order(Order::new(order)));
        order.map_err(|_| "an order, or the 64 hex digits of a root or a node, is expected".to_owned())
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
    Pin(PinHold),
    /// A reader works on it.
    Reader {
        /// What it said of itself.
        owner: String,
        /// The head when it began.
        since_order: u64,
    },
    /// The time of its pin is over, so it keeps nothing.
    PinExpired(PinHold),
    /// A consumer needs it and is silent, so it is not waited for.
    ConsumerSilent {
        /// Its name.
        name: String,
        /// The oldest order that it needs.
        from: u64,
    },
    /// Nobody asks for it any more; it goes with the next round or cycle.
    Leaving {
        /// What has to end before that; absent where nothing has.
        waits_for: Option<Standstill>,
    },
    /// No policy is in force, so nothing goes.
    NoPolicy,
}

/// A pin on the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinHold {
    /// The name.
    pub name: String,
    /// Who asked.
    pub owner: String,
    /// Milliseconds since 1970 when it was added.
    pub since_ms: u64,
    /// It ends so many milliseconds later; absent means when it is removed.
    pub ttl_ms: Option<u64>,
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
    /// It was committed, and the chain went back to before it.
    RolledBack {
        /// The newest order.
        head: u64,
    },
    /// It is above the head: it was never committed, or rolled back, or lost with a damaged log, and nothing tells which.
    AboveHead {
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
    /// Its pins.
    pub(super) pins: Vec<PinHold>,
    /// Those whose time is over.
    pub(super) expired: Vec<PinHold>,
    /// Names and watermarks of the consumers that are not waited for.
    pub(super) silent: Vec<(String, u64)>,
    /// Its readers, and the heads they began at.
    pub(super) readers: Vec<(String, u64)>,
    pub(super) gone: Option<Gone>,
    /// The newest order that may have been committed ever, by the number of commits; nothing where those may be lost.
    pub(super) highest: Option<u64>,
    /// The newest order that the head was ever seen at, as far as it was written down.
    pub(super) seen: Option<u64>,
}

/// How an order above the head stands.
fn above(order: u64, known: &Known) -> Standing {
    let head = known.head;
    if known.seen >= Some(order) {
        Standing::RolledBack { head }
    } else if known.highest.is_some_and(|highest| order > highest) {
        Standing::NeverExisted { head }
    } else {
        Standing::AboveHead { head }
    }
}

/// How an order stands, by what is known.
pub(super) fn stand(order: u64, known: &Known) -> Standing {
    if order > known.head {
        return above(order, known);
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
        reasons.extend(known.pins.iter().cloned().map(Why::Pin));
    }
    let reader = |(owner, since): &(String, u64)| Why::Reader { owner: owner.clone(), since_order: *since };
    reasons.extend(known.readers.iter().map(reader));
    if !reasons.is_empty() {
        return Standing::Kept { root: known.root.clone(), reasons };
    }
    match &known.root {
        None if !in_range => Standing::Pruned { floor: known.floor, gone: known.gone.clone() },
        root => Standing::Kept { root: root.clone(), reasons: leaving(order, known) },
    }
}

/// Why an order is there that nobody asks for: what asked for it once, and that it leaves.
fn leaving(order: u64, known: &Known) -> Vec<Why> {
    if !known.policy {
        return vec![Why::NoPolicy];
    }
    let expired = known.expired.iter().cloned().map(Why::PinExpired);
    let silent = known.silent.iter().filter(|(_, from)| order >= known.floor && *from <= order);
    let silent = silent.map(|(name, from)| Why::ConsumerSilent { name: name.clone(), from: *from });
    expired.chain(silent).chain([Why::Leaving { waits_for: None }]).collect()
}

impl OrderExplained {
    /// Adds what it waits for, if it leaves.
    fn held_back(&mut self, by: &dyn Fn() -> Result<Standstills, PruneError>) -> Result<(), PruneError> {
        let Standing::Kept { reasons, .. } = &mut self.standing else { return Ok(()) };
        for why in reasons {
            if let Why::Leaving { waits_for } = why {
                *waits_for = by()?.of_order();
            }
        }
        Ok(())
    }
}

impl Explanation {
    /// Adds what holds back that which is to go. Nothing is asked where nothing is.
    fn held_back(&mut self, by: &dyn Fn() -> Result<Standstills, PruneError>) -> Result<(), PruneError> {
        match self {
            Self::Order(order) => order.held_back(by),
            Self::Hash(HashExplained { root_of, node, .. }) => {
                root_of.iter_mut().try_for_each(|order| order.held_back(by))?;
                node.held_back(by)
            }
        }
    }
}

impl LiveRetention {
    /// Why something is kept, or since when it is not. At most `limit` nodes are looked at. What holds back that which is
    /// to go is told as far as it is written down.
    ///
    /// Errors: records or nodes that cannot be read, no commit yet.
    pub fn explain(&self, asked: Asked, layout: &dyn NodeLayout, limit: u64) -> Result<Explanation, PruneError> {
        self.explained(asked, (layout, limit), None)
    }

    /// The same in the process whose pruner moves the floor, which knows all that holds back.
    ///
    /// Errors: the same.
    pub fn explain_beside(
        &self,
        pruner: &Pruner,
        asked: Asked,
        looking: (&dyn NodeLayout, u64),
    ) -> Result<Explanation, PruneError> {
        self.explained(asked, looking, Some(pruner))
    }

    fn explained(
        &self,
        asked: Asked,
        (layout, limit): (&dyn NodeLayout, u64),
        pruner: Option<&Pruner>,
    ) -> Result<Explanation, PruneError> {
        let mut explanation = match asked {
            Asked::Order(order) => Explanation::Order(self.explain_order(order)?),
            Asked::Hash(hash) => Explanation::Hash(self.explain_hash(hash, layout, limit)?),
        };
        explanation.held_back(&|| self.standstills(pruner))?;
        Ok(explanation)
    }

    pub(super) fn explain_order(&self, order: Order) -> Result<OrderExplained, PruneError> {
        let state = self.state()?;
        let view = self.parts.store.view()?;
        let record = NativeChain.readable_record(&*view, order)?;
        let standing = stand(order.get(), &self.known(&*view, &state, order)?);
        drop(state);
        let timestamp_ms = record.map(|RootRecord { timestamp_ms, .. }| timestamp_ms);
        Ok(OrderExplained { order: order.get(), timestamp_ms, standing })
    }

    fn known(&self, view: &dyn View, state: &State, order: Order) -> Result<Known, PruneError> {
        let (head, floor) = self.ends().ok_or(PruneError::NoHead)?;
        let keep = self.parts.keep;
        let now = Now::of(&*self.parts.clock);
        let pins = state.held.holds.pins.iter().filter(|pin| pin.order == order.get());
        let (expired, pins): (Vec<_>, Vec<_>) = pins.partition(|pin| state.held.is_expired(pin, now));
        let pin = |pin: &NamedPin| {
            let NamedPin { name, owner, since_ms, ttl_ms, .. } = pin.clone();
            PinHold { name, owner, since_ms, ttl_ms }
        };
        let silent = state.held.silent(now).map(|consumer| (consumer.name.clone(), consumer.order));
        let readers = self.parts.store.pins().into_iter().filter(|(at, _)| *at == order).flat_map(|(_, owners)| owners);
        let every = keep.filter(|keep| keep.is_one_of_every(order)).and_then(|keep| keep.every);
        Ok(Known {
            head: head.order,
            floor: floor.get(),
            root: self.parts.store.root(order).map_or(None, |root| Some(root.to_string())),
            policy: keep.is_some(),
            asks: self.asks(view, &state.held, (head, floor))?,
            every: every.map(std::num::NonZeroU64::get),
            pins: pins.into_iter().map(pin).collect(),
            expired: expired.into_iter().map(pin).collect(),
            silent: silent.collect(),
            readers: readers.map(|reader| (reader.owner, reader.since.get())).collect(),
            gone: state.log.gone(order.get()),
            highest: (!self.is_log_cut(order, &head)?).then(|| {
                let counted = head.commits.saturating_sub(head.order.saturating_add(1));
                head.order.saturating_add(counted)
            }),
            seen: state.log.highest_head(),
        })
    }

    /// Whether commits may be lost with a damaged log, so that their number proves nothing of an order above the head.
    fn is_log_cut(&self, order: Order, head: &HeadRecord) -> Result<bool, PruneError> {
        Ok(order.get() > head.order && log_cut::known(&self.parts.store)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::{cause::Cause, keep::Bound};

    fn ask(by: Bound, from: u64) -> Ask {
        Ask { by, from }
    }

    /// Orders 0 to 100 were committed, those from 80 on are readable, and 40 and 60 below it.
    fn known(order: u64) -> Known {
        let readable = order >= 80 || [40, 60, 70].contains(&order);
        Known {
            head: 100,
            highest: Some(100),
            seen: Some(99),
            floor: 80,
            root: readable.then(|| "r".to_owned()),
            policy: true,
            asks: vec![
                ask(Bound::Last { orders: 11 }, 90),
                ask(Bound::Time { time_ms: 5 }, 95),
                ask(Bound::Consumer { name: "indexer".to_owned() }, 85),
            ],
            every: order.is_multiple_of(20).then_some(20),
            pins: if order == 60 { vec![pin("audit", Some(60_000))] } else { Vec::new() },
            expired: if [40, 70].contains(&order) { vec![pin("short", Some(1))] } else { Vec::new() },
            silent: vec![("mute".to_owned(), 82)],
            readers: if order == 50 { vec![("export".to_owned(), 77)] } else { Vec::new() },
            gone: Some(gone()),
        }
    }

    fn pin(name: &str, ttl_ms: Option<u64>) -> PinHold {
        PinHold { name: name.to_owned(), owner: "ann".to_owned(), since_ms: 3_000, ttl_ms }
    }

    fn gone() -> Gone {
        let by = vec![Cause::PinExpired { name: "old".to_owned(), owner: "bob".to_owned() }];
        Gone { after_ms: None, by_ms: 1, head: 99, by }
    }

    #[test]
    fn every_reason_to_keep_an_order_is_named_and_no_other() {
        let (last, time) = (ask(Bound::Last { orders: 11 }, 90), ask(Bound::Time { time_ms: 5 }, 95));
        let consumer = ask(Bound::Consumer { name: "indexer".to_owned() }, 85);
        let [last, time, consumer] = [last, time, consumer].map(Why::Asked);
        let (pin, expired) = (Why::Pin(pin("audit", Some(60_000))), Why::PinExpired(pin("short", Some(1))));
        let (leaving, silent) =
            (Why::Leaving { waits_for: None }, Why::ConsumerSilent { name: "mute".to_owned(), from: 82 });
        let (every, reader) = (Why::Every { orders: 20 }, Why::Reader { owner: "export".to_owned(), since_order: 77 });
        let rows = [
            (100, vec![Why::Head, last.clone(), time.clone(), consumer.clone(), every.clone()]),
            (95, vec![last.clone(), time, consumer.clone()]),
            (90, vec![last, consumer.clone()]),
            (85, vec![consumer]),
            (84, vec![silent.clone(), leaving.clone()]),
            (82, vec![silent, leaving.clone()]),
            (81, vec![leaving.clone()]),
            (80, vec![every.clone()]),
            (70, vec![expired, leaving]),
            (60, vec![every.clone(), pin]),
            (50, vec![reader]),
            (40, vec![every]),
        ];
        for (order, expected) in rows {
            let Standing::Kept { reasons, .. } = stand(order, &known(order)) else { panic!("order {order} is kept") };
            assert_eq!(reasons, expected, "order {order}");
        }
        for order in [20, 79] {
            let gone = Some(gone());
            assert_eq!(stand(order, &known(order)), Standing::Pruned { floor: 80, gone }, "order {order}");
        }
        let branch = Known { highest: Some(110), ..known(101) };
        let cut = Known { highest: None, ..known(101) };
        let went = Known { seen: Some(110), ..branch.clone() };
        for (order, known, expected, why) in [
            (101, known(101), Standing::NeverExisted { head: 100 }, "as many commits as orders"),
            (110, branch.clone(), Standing::AboveHead { head: 100 }, "ten commits are no order any more"),
            (111, branch, Standing::NeverExisted { head: 100 }, "and no more than ten"),
            (101, cut, Standing::AboveHead { head: 100 }, "commits went with a damaged log, and nobody knows how many"),
            (110, went, Standing::RolledBack { head: 100 }, "the floor moved when the head was there"),
        ] {
            assert_eq!(stand(order, &known), expected, "{why}");
        }
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
            "nobody asks for it any more: it goes with the next round or cycle",
            "pin `audit` of ann, since 1970-01-01T00:00:03.000Z, for 1m",
            "gone by 1970-01-01T00:00:00.001Z, when the head was order 99: pin `old` of bob expired",
            "there is no order 101, and as far as this store knows never was: the head is order 100; ask for that one or an earlier one",
        ];
        for (told, words) in told.iter().zip(words) {
            assert!(told.contains(words), "{told}");
        }
        assert!(told[0].contains("of 1970-01-01T00:01:00.000Z by the chain's clock"), "{}", told[0]);
        for (standing, words) in [
            (Standing::RolledBack { head: 100 }, "was rolled back"),
            (
                Standing::AboveHead { head: 100 },
                "is above the head (order 100): it was never committed, or rolled back",
            ),
        ] {
            let explained = Explanation::Order(OrderExplained { order: 110, timestamp_ms: None, standing });
            let json = serde_json::to_string(&explained).unwrap();
            assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explained, "{json}");
            assert!(explained.to_string().contains(words), "{explained}");
        }
    }

    #[test]
    fn what_is_told_of_a_node_survives_the_wire_and_reads_as_a_sentence() {
        let gone = Some(gone());
        let kept = OrderExplained { order: 60, timestamp_ms: None, standing: stand(60, &known(60)) };
        let sweep = |lost_in| WaitsFor::Sweep { lost_in, floor: 80, lag_orders: 3, lag_nodes: 17 };
        let garbage = |waits_for| NodeStanding::Garbage { looked_at: 9, waits_for, held_by: None };
        let freeze = Some(Standstill::Freeze { reason: "a lost node".to_owned() });
        let frozen = NodeStanding::Garbage { looked_at: 9, waits_for: sweep(80), held_by: freeze };
        let reached = |looked_at, lost_in| {
            let (root, kept) = ("r".to_owned(), Box::new(kept.clone()));
            NodeStanding::Reached { order: 60, root, looked_at, lost_in, kept }
        };
        let nodes = [
            (NodeStanding::Empty, "is the root of the empty state"),
            (NodeStanding::Absent { floor: 80, gone }, "gone by 1970-01-01T00:00:00.001Z, when the head was order 99"),
            (NodeStanding::Absent { floor: 0, gone: None }, "not in the store"),
            (garbage(sweep(79)), "left its last place at or before order 79, which the floor (order 80) has passed"),
            (garbage(sweep(80)), "3 orders with 17 nodes wait"),
            (
                garbage(sweep(80)),
                "(of states from order 80 on the commit journal tells; of older ones 9 nodes looked at, which are all)",
            ),
            (garbage(WaitsFor::Cycle), "reaches it (9 nodes looked at, which are all)"),
            (garbage(sweep(81)), "goes when the floor, now order 80, comes to that order"),
            (garbage(WaitsFor::Cycle), "it was shared once"),
            (garbage(WaitsFor::Unlisted), "no entry of the journal names it by itself"),
            (garbage(WaitsFor::Unknown), "is not known here"),
            (garbage(WaitsFor::CountsOwed), "commits are not counted exactly, so only a cycle takes it"),
            (garbage(WaitsFor::IncrementalOff), "the sweep between cycles is off, so only a cycle takes it"),
            (frozen, "3 orders with 17 nodes wait\n  not until deletes are unfrozen: a lost node"),
            (NodeStanding::NotFound { looked_at: 9, faults: 0 }, "not known: 9 nodes were looked at"),
            (reached(9, None), "order 60 reaches it (found after 9 nodes, the newest states first)\norder 60 is kept"),
            (reached(0, None), "order 60 reaches it\norder 60 is kept"),
            (reached(0, Some(61)), "left its last place in order 61: no state from there on has it\norder 60 is kept"),
            (reached(9, Some(62)), "left its last place at or before order 62: no state from there on has it"),
            (reached(9, None), "pin `audit` of ann"),
        ];
        for (node, words) in nodes {
            let explained = Explanation::Hash(HashExplained { hash: "h".to_owned(), root_of: Vec::new(), node });
            let json = serde_json::to_string(&explained).unwrap();
            assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explained, "{json}");
            assert!(explained.to_string().contains(words), "{explained}");
        }
    }

    #[test]
    fn what_keeps_an_order_that_nobody_asks_for_is_told_in_words() {
        let waits = |standstill: Option<Standstill>| {
            let mut explained = OrderExplained { order: 70, timestamp_ms: None, standing: stand(70, &known(70)) };
            let by = Standstills { stopped: standstill, cycle: None, rounds: None };
            explained.held_back(&|| Ok(by.clone())).unwrap();
            let json = serde_json::to_string(&explained).unwrap();
            assert_eq!(serde_json::from_str::<OrderExplained>(&json).unwrap(), explained, "{json}");
            explained.to_string()
        };
        let why = || "a reason".to_owned();
        let leaves = "nobody asks for it any more: it goes with the next round or cycle";
        let expired = "pin `short` of ann, since 1970-01-01T00:00:03.000Z, for 1ms, has expired and keeps nothing";
        for (standstill, words) in [
            (Standstill::WorkerGone { why: why() }, ", not in this process, whose pruner has ended: a reason"),
            (Standstill::Unread { why: why() }, ", not before the records of the pruner can be read: a reason"),
            (Standstill::Freeze { reason: why() }, ", not until deletes are unfrozen: a reason"),
            (
                Standstill::Switch { since_ms: 0 },
                ", not until pruning is switched on again, off since 1970-01-01T00:00:00.000Z",
            ),
            (Standstill::Breaker { for_ms: 1_500 }, ", not before the breaker lets one through, in 1s 500ms"),
            (Standstill::Cycle { cycle: 7 }, ", not before cycle 7 has ended"),
            (Standstill::RoundsFail { why: why() }, ", not with a round that fails as the last one did: a reason"),
            (Standstill::CountsOwed, ", not with a round before a cycle has finished: commits are not counted exactly"),
            (Standstill::IncrementalOff, ", which is a cycle: the sweep between cycles is off"),
            (Standstill::NoPolicy, ", not until a pruner works on the store: no policy is in force here"),
            (Standstill::Unknown, ", as far as is known here: more than is written down only its running node knows"),
        ] {
            let told = waits(Some(standstill));
            assert!(told.ends_with(&format!("{leaves}{words}")) && told.contains(expired), "{told}");
        }
        assert!(waits(None).ends_with(leaves), "{}", waits(None));
        let silent = OrderExplained { order: 83, timestamp_ms: None, standing: stand(83, &known(83)) };
        assert!(silent.to_string().contains("consumer `mute` needs every order from 82 on, and is silent"), "{silent}");
    }

    #[test]
    fn what_is_asked_is_an_order_or_a_hash() {
        assert_eq!("17".parse(), Ok(Asked::Order(Order::new(17))));
        for hash in [0xab, 0, 0x17].map(|byte| NodeHash::new([byte; 32])) {
            assert_eq!(hash.to_string().parse(), Ok(Asked::Hash(hash)));
        }
        for wrong in ["", "-1", "head", "abcd", "18446744073709551616"] {
            assert!(wrong.parse::<Asked>().is_err(), "{wrong}");
        }
    }
}
