//! What a snapshot says of its roots: all it can from the ends of the window, or everything once each root was read.

use std::num::NonZeroU64;

use primitive_types::H256;
use state_store::{ChainView, Head, View};
use state_tree::Order;

use super::types::{KeptOrders, PruneSnapshot};
use crate::{
    error::PruneError,
    roots::{KeptBy, RetainedRoot, RetainedRoots, Retention, Window},
};

/// What is retained as far as the ends of a window tell, without reading what lies between: a snapshot of a long window
/// is taken in the time of a short one. [`RetainedRoots::resolve`] on the same view must agree with it.
#[derive(Debug, Clone)]
pub(super) struct Outline {
    pub(super) head: Head,
    pub(super) first: Order,
    /// Pins below the window, by order.
    pub(super) pins: Vec<RetainedRoot>,
    pub(super) digest: [u8; 32],
}

impl Outline {
    /// Nothing where the ends do not tell: the roots are then read.
    pub(super) fn of(
        chain: &dyn ChainView,
        view: &dyn View,
        retention: &Retention,
    ) -> Result<Option<Self>, PruneError> {
        let Window::From(from) = retention.window else { return Ok(None) };
        if !retention.allowed_holes.is_empty() {
            return Ok(None); // only reading tells which orders have no root
        }
        let head = chain.head(view)?.ok_or(PruneError::NoHead)?;
        let first = from.max(chain.floor(view)?);
        let Some(digest) = chain.window_digest(view, first, head.order)? else { return Ok(None) };
        let mut pins: Vec<RetainedRoot> = retention.pins_below(first).collect();
        pins.sort_by_key(|pin| pin.order);
        Ok(Some(Self { head, first, pins, digest }))
    }
}

impl PruneSnapshot {
    pub(super) fn of(roots: &RetainedRoots, view_sequence: u64) -> Self {
        Self {
            state_root: H256(*roots.head.root.hash().as_bytes()),
            latest_order: roots.head.order.get(),
            first_order: roots.first.get(),
            view_sequence,
            retained: KeptOrders::runs(&roots.roots),
            roots: roots.roots.len() as u64,
            roots_digest: H256(roots.digest),
            holes: roots.holes.iter().map(|(order, _)| order.get()).collect(),
        }
    }

    /// The same, if every order of the window has a root: whoever reads them holds the two against each other.
    pub(super) fn outlined(outline: &Outline, view_sequence: u64) -> Self {
        let Outline { head, first, pins, digest } = outline;
        let (first, last) = (first.get(), head.order.get());
        let mut retained = KeptOrders::runs(pins);
        if first < last {
            retained.push(KeptOrders { last: last - 1, ..KeptOrders::single(first, KeptBy::Window) });
        }
        retained.push(KeptOrders::single(last, KeptBy::Head));
        Self {
            state_root: H256(*head.root.hash().as_bytes()),
            latest_order: last,
            first_order: first,
            view_sequence,
            retained,
            roots: pins.len() as u64 + (last - first + 1),
            roots_digest: H256(*digest),
            holes: Vec::new(),
        }
    }
}

impl KeptOrders {
    /// Roots by order, in runs. What a bound keeps here and there is one run as long as the steps are the same.
    pub(crate) fn runs<'a>(roots: impl IntoIterator<Item = &'a RetainedRoot>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for kept in roots {
            if !runs.last_mut().is_some_and(|run| run.goes_on_with(kept)) {
                runs.push(Self::single(kept.order.get(), kept.kept_by.clone()));
            }
        }
        runs
    }

    /// How many orders it has.
    pub fn orders(&self) -> u64 {
        (self.last.saturating_sub(self.first) / self.step).saturating_add(1)
    }

    fn single(order: u64, kept_by: KeptBy) -> Self {
        Self { first: order, last: order, step: NonZeroU64::MIN, kept_by }
    }

    fn goes_on_with(&mut self, kept: &RetainedRoot) -> bool {
        let order = kept.order.get();
        let Some(gap) = order.checked_sub(self.last).filter(|_| self.kept_by == kept.kept_by) else { return false };
        let Some(gap) = NonZeroU64::new(gap) else { return true }; // another root of the same order
        let may_skip = matches!(self.kept_by, KeptBy::Every | KeptBy::Leaving);
        let goes_on = if self.first == self.last { gap == NonZeroU64::MIN || may_skip } else { gap == self.step };
        if goes_on {
            (self.last, self.step) = (order, gap);
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use state_tree::{NodeHash, Order, StateRoot};

    use super::*;

    #[test]
    fn a_bound_that_keeps_one_of_several_orders_makes_one_run_and_a_pin_is_a_run_of_its_own() {
        let pin = || KeptBy::Pin("audit".to_owned());
        let every = (0..2_000).map(|n| (n * 500, KeptBy::Every));
        let rest = [
            (999_900, pin()),
            (999_950, pin()),
            (999_951, pin()), // no bound: what is between them is nobody's
            (999_960, KeptBy::Leaving),
            (999_960, KeptBy::Leaving),
            (999_970, KeptBy::Leaving),
            (999_975, KeptBy::Leaving),
            (999_976, KeptBy::Window),
            (999_977, KeptBy::Window),
            (999_978, KeptBy::Window),
            (999_979, KeptBy::Head),
        ];
        let root = StateRoot::new(NodeHash::new([7; 32]));
        let roots: Vec<RetainedRoot> = every
            .chain(rest)
            .map(|(order, kept_by)| RetainedRoot { order: Order::new(order), root, kept_by })
            .collect();
        let runs = KeptOrders::runs(&roots);
        let told: Vec<_> = runs.iter().map(|run| (run.first, run.last, run.step.get(), run.orders())).collect();
        let expected = [
            (0, 999_500, 500, 2_000),
            (999_900, 999_900, 1, 1),
            (999_950, 999_951, 1, 2),
            (999_960, 999_970, 10, 2),
            (999_975, 999_975, 1, 1),
            (999_976, 999_978, 1, 3),
            (999_979, 999_979, 1, 1),
        ];
        assert_eq!(told, expected);
    }
}
