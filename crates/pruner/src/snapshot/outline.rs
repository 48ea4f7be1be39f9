//! What a snapshot says of its roots: all it can from the ends of the window, or everything once each root was read.

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
            retained.push(KeptOrders { first, last: last - 1, kept_by: KeptBy::Window });
        }
        retained.push(KeptOrders { first: last, last, kept_by: KeptBy::Head });
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
    /// Roots by order, in runs.
    pub(crate) fn runs<'a>(roots: impl IntoIterator<Item = &'a RetainedRoot>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for kept in roots {
            let order = kept.order.get();
            match runs.last_mut() {
                Some(run) if run.kept_by == kept.kept_by && order.checked_sub(run.last).is_some_and(|gap| gap <= 1) => {
                    run.last = order;
                }
                Some(_) | None => {
                    runs.push(Self { first: order, last: order, kept_by: kept.kept_by.clone() });
                }
            }
        }
        runs
    }
}
