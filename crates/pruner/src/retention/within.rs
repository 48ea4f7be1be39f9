//! The first order of a range that lies within some bound, found without looking at all of them.

use state_store::{ChainView as _, Head, HeadRecord, Hole, NativeChain, View};
use state_tree::Order;

use super::keep::KeepPolicy;
use crate::error::PruneError;

/// The first order of `first` to `last` that is `within`, if all that follow one that is are so too; `last` if no earlier
/// one is. Looks near `first` first: a floor that moves often moves little. Costs about twice the logarithm of the
/// distance in looks.
pub(super) fn first_within(
    (first, last): (Order, Order),
    within: &mut dyn FnMut(Order) -> Result<bool, PruneError>,
) -> Result<Order, PruneError> {
    let (mut outside, mut step) = (None, 0u64);
    let mut inside = loop {
        let at = Order::new(first.get().saturating_add(step));
        if at >= last {
            break last;
        }
        if within(at)? {
            break at;
        }
        (outside, step) = (Some(at), step.saturating_mul(2).max(1));
    };
    let Some(mut outside) = outside else { return Ok(inside) };
    while inside.get() - outside.get() > 1 {
        let middle = Order::new(outside.get().midpoint(inside.get()));
        if within(middle)? {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    Ok(inside)
}

/// Whether the whole chain of a view is younger than the bound of time, so that nothing can be behind. Reads one root record
/// at most; a floor that has moved tells enough.
///
/// Errors: a record that cannot be read.
pub(crate) fn is_filling(view: &dyn View, keep: KeepPolicy, head: &Head) -> Result<bool, PruneError> {
    let (Some(time_ms), Some(head_ms)) = (keep.time_ms(), head.timestamp_ms) else { return Ok(false) };
    if NativeChain.floor(view)? != Order::GENESIS {
        return Ok(false);
    }
    Ok(head_ms.saturating_sub(timestamp(view, Order::GENESIS)?) <= time_ms)
}

/// The first order of the range that is not older than the head by more than this; the last if none before it is.
pub(super) fn first_of_time(
    view: &dyn View,
    time_ms: u64,
    range: (Order, Order),
    head: &HeadRecord,
) -> Result<Order, PruneError> {
    let oldest = head.at.timestamp_ms.saturating_sub(time_ms);
    first_within(range, &mut |order| Ok(timestamp(view, order)? >= oldest))
}

/// When the block of an order was made, by the chain's clock.
pub(super) fn timestamp(view: &dyn View, order: Order) -> Result<u64, PruneError> {
    let record = NativeChain.record(view, order)?;
    let hole = || PruneError::Holes { holes: vec![(order, Hole::NoRecord)] };
    record.map(|record| record.timestamp_ms).ok_or_else(hole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_order_within_is_the_one_a_scan_finds_and_few_are_looked_at() {
        for (first, last) in [(0, 0), (0, 1), (3, 40), (0, 1000), (u64::MAX - 70, u64::MAX)] {
            for boundary in (first..=last).step_by(1 + (last - first) as usize / 50).chain([last]) {
                let mut looks = 0u32;
                let found = first_within((Order::new(first), Order::new(last)), &mut |at| {
                    looks += 1;
                    Ok(at.get() >= boundary)
                });
                assert_eq!(found.unwrap().get(), boundary, "{first} to {last}");
                let distance = boundary - first + 1;
                assert!(looks <= 2 * (distance.ilog2() + 2), "{looks} looks over {distance}");
            }
        }
    }

    #[test]
    fn a_look_that_fails_is_an_error_and_no_order() {
        let failing = &mut |_| Err(PruneError::NoHead);
        assert!(first_within((Order::new(1), Order::new(9)), failing).is_err());
    }
}
