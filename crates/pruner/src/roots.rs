//! Which roots a cycle retains, each with the reason, read from one view (I1, I2).
//!
//! The set is never empty, always holds the head, and is never shorter than asked without saying so (S9 to S13): a
//! history shorter than the window keeps everything; an order without a usable root is a hole, listed, and it stops
//! the cycle unless the operator named it.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use state_store::{ChainView, Head, Hole, RootAt, View};
use state_tree::{Order, StateRoot};

use crate::error::PruneError;

/// Why a root is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptBy {
    /// It is the newest state.
    Head,
    /// It lies in the window of recent orders.
    Window,
    /// A reader or operator pinned it.
    Pin(String),
    /// It is one of several candidates for an order whose records are ambiguous.
    Candidate,
    /// It is one of every k orders.
    Every,
    /// What kept it below the floor is gone; it is readable until the next round or cycle.
    Leaving,
}

/// One retained root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedRoot {
    /// The order it belongs to.
    pub order: Order,
    /// The root.
    pub root: StateRoot,
    /// Why it is kept.
    pub kept_by: KeptBy,
}

/// Which recent orders to retain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The last so many executed orders, head included.
    Last(NonZeroU64),
    /// Every order from this one on: the oldest readable one, where readers hold a node to it (S41).
    From(Order),
}

/// What to retain.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Recent orders.
    pub window: Window,
    /// Further roots, below the window or not. A pin carries its root, since the record of its order may be gone.
    pub pins: Vec<RetainedRoot>,
    /// Orders known to have no root.
    pub allowed_holes: BTreeSet<Order>,
}

/// The retained roots of one view.
#[derive(Debug, Clone)]
pub struct RetainedRoots {
    /// The newest executed state.
    pub head: Head,
    /// The oldest order of the window.
    pub first: Order,
    /// Every retained root, by order.
    pub roots: Vec<RetainedRoot>,
    /// A digest of every root of the window: what a mark made from these roots belongs to. Pins below the window are not
    /// in it: they keep more, so a mark made with them stays good when they are let go.
    pub digest: [u8; 32],
    /// Orders of the window without a usable root, all of them named by the operator.
    pub holes: Vec<(Order, Hole)>,
    /// Orders accepted but not yet executed, which is normal after a crash.
    pub unexecuted: u64,
    /// Whether history holds fewer orders than asked for.
    pub shorter_than_asked: bool,
}

/// Says which of the orders named as holes are none of the window, so that a mistyped one is seen.
fn warn_of_idle_names(roots: &RetainedRoots, named: &BTreeSet<Order>) {
    let idle = named.iter().filter(|order| !roots.holes.iter().any(|(hole, _)| hole == *order));
    for order in idle {
        let (first, last) = (roots.first, roots.head.order);
        if (first..=last).contains(order) {
            tracing::warn!("--allow-hole {order} changes nothing: the order has a root");
        } else {
            tracing::warn!("--allow-hole {order} changes nothing: the window holds orders {first} to {last}");
        }
    }
}

impl RetainedRoots {
    /// Resolves the retention against the records of one view.
    ///
    /// Errors: no head, a record that cannot be read, holes that the operator did not name.
    pub fn resolve(chain: &dyn ChainView, view: &dyn View, retention: &Retention) -> Result<Self, PruneError> {
        let head = chain.head(view)?.ok_or(PruneError::NoHead)?;
        let asking = Asking { chain, view, head: head.order, known: &retention.allowed_holes };
        let Answered { first, answers, shorter } = asking.window(retention.window)?;
        let mut found = Found::default();
        for (order, at) in answers {
            found.take(order, at, if order == head.order { KeptBy::Head } else { KeptBy::Window });
        }
        let digest = window_digest(chain, view, (first, head.order), &found)?;
        found.roots.extend(retention.pins_below(first));
        let named = |order: &Order| retention.allowed_holes.contains(order);
        let unknown: Vec<(Order, Hole)> =
            found.holes.iter().filter(|(order, _)| !named(order)).map(|(order, hole)| (*order, hole.clone())).collect();
        if !unknown.is_empty() {
            return Err(PruneError::Holes { holes: unknown });
        }
        if !found.roots.iter().any(|kept| kept.kept_by == KeptBy::Head && kept.root == head.root) {
            return Err(PruneError::Invariant("the head is not among the retained roots".to_owned()));
        }
        let sequenced = chain.sequenced(view)?.map_or(head.order, |order| order.max(head.order));
        found.roots.sort_by_key(|kept| kept.order);
        let resolved = Self {
            head,
            first,
            roots: found.roots,
            digest,
            holes: found.holes.into_iter().collect(),
            unexecuted: sequenced.get() - head.order.get(),
            shorter_than_asked: shorter,
        };
        warn_of_idle_names(&resolved, &retention.allowed_holes);
        Ok(resolved)
    }

    /// The roots of a snapshot that an earlier process took, from the records of now. What only a report needs is left out.
    ///
    /// Errors: a record that cannot be read. Whether they are those roots is the caller's to see.
    pub(crate) fn of_snapshot(
        chain: &dyn ChainView,
        view: &dyn View,
        (head, first): (Head, Order),
        below: impl Iterator<Item = RetainedRoot>,
    ) -> Result<Self, PruneError> {
        let mut found = Found::default();
        for (order, at) in chain.roots(view, first, head.order)? {
            found.take(order, at, if order == head.order { KeptBy::Head } else { KeptBy::Window });
        }
        let digest = window_digest(chain, view, (first, head.order), &found)?;
        found.roots.extend(below);
        found.roots.sort_by_key(|kept| kept.order);
        let holes = found.holes.into_iter().collect();
        Ok(Self { head, first, roots: found.roots, digest, holes, unexecuted: 0, shorter_than_asked: false })
    }

    /// The distinct non-empty roots to mark from.
    pub fn distinct(&self) -> BTreeSet<StateRoot> {
        self.roots.iter().map(|kept| kept.root).filter(|root| root.node().is_some()).collect()
    }
}

impl Retention {
    /// The pins that do not lie in the window.
    pub(crate) fn pins_below(&self, first: Order) -> impl Iterator<Item = RetainedRoot> {
        self.pins.iter().filter(move |pin| pin.order < first).cloned()
    }
}

/// The digest that the roots of `first` to `last` give if the chain has them now. After a crash that lost the tail of
/// the log it differs from the one of a mark, and so tells that the mark belongs to another history.
pub(crate) fn digest_between(
    chain: &dyn ChainView,
    view: &dyn View,
    first: Order,
    last: Order,
) -> Result<[u8; 32], PruneError> {
    let mut found = Found::default();
    for (order, at) in chain.roots(view, first, last)? {
        found.take(order, at, KeptBy::Window);
    }
    window_digest(chain, view, (first, last), &found)
}

/// The chain's own digest, or SHA-256 over every (order, root) pair found.
fn window_digest(
    chain: &dyn ChainView,
    view: &dyn View,
    (first, last): (Order, Order),
    found: &Found,
) -> Result<[u8; 32], PruneError> {
    if let Some(digest) = chain.window_digest(view, first, last)? {
        return Ok(digest);
    }
    let mut hasher = Sha256::new();
    for kept in &found.roots {
        hasher.update(kept.order.to_key());
        hasher.update(kept.root.hash().as_bytes());
    }
    Ok(hasher.finalize().into())
}

/// Asks a chain for the orders of a window.
struct Asking<'a> {
    chain: &'a dyn ChainView,
    view: &'a dyn View,
    head: Order,
    /// Orders known to have no root.
    known: &'a BTreeSet<Order>,
}

/// The orders of a window, each with its answer.
struct Answered {
    first: Order,
    answers: Vec<(Order, RootAt)>,
    /// Whether history ends before the window does.
    shorter: bool,
}

impl Asking<'_> {
    fn window(&self, window: Window) -> Result<Answered, PruneError> {
        let floor = self.chain.floor(self.view)?;
        match window {
            Window::Last(count) => self.last(count.get(), floor),
            Window::From(order) => {
                let first = order.max(floor);
                Ok(Answered { first, answers: self.between(first, self.head)?, shorter: order < floor })
            }
        }
    }

    /// Reaches down until so many orders were executed: one that is known to have no root does not count. Any other
    /// hole ends it, as it ends the cycle.
    fn last(&self, count: u64, floor: Order) -> Result<Answered, PruneError> {
        let reach = |from: Order, missing: u64| from.minus(missing).map_or(floor, |first| first.max(floor));
        let mut first = reach(self.head, count - 1);
        let mut answers = self.between(first, self.head)?;
        loop {
            let holes = || answers.iter().filter(|(_, at)| matches!(at, RootAt::Hole(_)));
            let executed = (answers.len() - holes().count()) as u64;
            let missing = count.saturating_sub(executed);
            if missing == 0 || first == floor || holes().any(|(order, _)| !self.known.contains(order)) {
                return Ok(Answered { first, answers, shorter: missing > 0 && first == floor });
            }
            first = reach(first, missing); // as often as there are known holes, at most
            answers = self.between(first, self.head)?;
        }
    }

    /// Every order has an answer: a chain that leaves one out would shorten the window silently (S9, S11).
    fn between(&self, first: Order, last: Order) -> Result<Vec<(Order, RootAt)>, PruneError> {
        let answers = self.chain.roots(self.view, first, last)?;
        let asked = (first.get()..=last.get()).map(Order::new);
        if answers.iter().map(|(order, _)| *order).eq(asked) {
            return Ok(answers);
        }
        let got = answers.len();
        let why = format!("asked for the roots of orders {first} to {last}, the chain answered for {got}");
        Err(PruneError::Invariant(why))
    }
}

#[derive(Default)]
struct Found {
    roots: Vec<RetainedRoot>,
    holes: BTreeMap<Order, Hole>,
}

impl Found {
    fn take(&mut self, order: Order, at: RootAt, kept_by: KeptBy) {
        match at {
            RootAt::Root(root) => self.roots.push(RetainedRoot { order, root, kept_by }),
            RootAt::Hole(hole) => {
                if let Hole::Ambiguous { candidate, .. } = &hole {
                    // Keeping more is safe; the order is reported all the same.
                    self.roots.push(RetainedRoot { order, root: *candidate, kept_by: KeptBy::Candidate });
                }
                self.holes.insert(order, hole);
            }
        }
    }
}
