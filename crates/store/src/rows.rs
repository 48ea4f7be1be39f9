//! Whether the rows of a store of our own are what was written: each decoded by the code that uses it.
//!
//! Costs: a constant number of rows, however large the store is: every record of which there is one, those of the cursor in a
//! tree that is swept, as many as it is deep, the first sixteen kept orders, the first 65,536 marks (20 bytes each), and the journal rows of the last sixteen orders.

use state_tree::Order;

use crate::{
    backend::{Flow, KeyRange, View, visit_rows},
    chain::{FloorRecord, RootRecord, native},
    counting::CountsRecord,
    error::StoreError,
    journal::{self, JournalRecord},
    kept,
    lost::CountsLost,
    many,
    record::{self, Record},
    schema::Table,
    store::{ExpiryRecord, LayerRecord, cursor_layers},
};

/// Rows of each kind of which there are many.
const SAMPLE: u64 = 16;
/// Marks, which are small.
const MARKS: u64 = 1 << 16;

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowsChecked {
    /// Rows.
    pub rows: u64,
    /// Those that are not what was written, each with why.
    pub faults: Vec<String>,
}

impl RowsChecked {
    fn take(&mut self, checked: Result<(), StoreError>) {
        self.rows += 1;
        self.faults.extend(checked.err().map(|error| error.to_string()));
    }

    fn one<R: Record>(&mut self, name: &str, row: Option<Vec<u8>>) -> Option<R> {
        let decoded = record::decode::<R>(name, &row?);
        let (record, checked) = match decoded {
            Ok(record) => (Some(record), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.take(checked);
        record
    }
}

/// Looks at the rows of a view; a store that is not ours has none.
///
/// Errors: a failed read.
pub fn check_rows(view: &dyn View) -> Result<RowsChecked, StoreError> {
    let mut seen = RowsChecked::default();
    if !view.has_table(&Table::CHAIN) || !view.has_table(&Table::META) {
        return Ok(seen);
    }
    let head: Option<native::HeadRecord> = seen.one("head", view.row(&Table::CHAIN, native::HEAD_KEY)?);
    seen.one::<FloorRecord>("floor", view.row(&Table::CHAIN, native::FLOOR_KEY)?);
    seen.one::<CountsRecord>("counts", view.row(&Table::META, CountsRecord::KEY)?);
    seen.one::<CountsLost>("counts_lost", view.row(&Table::META, CountsLost::KEY)?);
    let cursor: Option<ExpiryRecord> = seen.one("expiry", view.row(&Table::META, ExpiryRecord::KEY)?);
    match cursor.and_then(|cursor| cursor.group).map(|group| group.left(view).map(|_| ())) {
        Some(Err(error)) if !matches!(error, StoreError::Record { .. }) => return Err(error),
        Some(layers) => seen.take(layers),
        None => {}
    }
    if let Some(head) = head {
        let root: Option<RootRecord> = seen.one("root", view.row(&Table::ROOT, &Order::new(head.order).to_key())?);
        if root != Some(head.at) {
            seen.faults.push(format!("the record of order {} is not the one that the head has", head.order));
        }
        journal_rows(view, head.order, &mut seen)?;
    }
    let kept = (&Table::CHAIN, kept::range());
    sample(view, kept, SAMPLE, &mut |key, value| seen.take(kept::decode(key, value).map(|_| ())))?;
    sample(view, (&Table::MANY, KeyRange::ALL), MARKS, &mut |key, value| seen.take(many::check(key, value)))?;
    Ok(seen)
}

/// Looks for rows of a newer program among those that are not read when a store is opened.
///
/// Errors: [`StoreError::Newer`], a failed read.
pub(crate) fn refuse_newer(view: &dyn View, head: Option<Order>) -> Result<(), StoreError> {
    if let Some(cursor) = view.row(&Table::META, ExpiryRecord::KEY)? {
        record::refuse_newer::<ExpiryRecord>("expiry", &cursor)?;
    }
    visit_rows(view, &Table::META, &cursor_layers(), &mut |_, value| {
        record::refuse_newer::<LayerRecord>("expiry layer", value)
    })?;
    let Some(head) = head else { return Ok(()) };
    let newest = KeyRange { start: Some(head.to_key().to_vec()), end: None };
    visit_rows(view, &Table::JOURNAL, &newest, &mut |_, value| record::refuse_newer::<JournalRecord>("journal", value))
}

fn journal_rows(view: &dyn View, head: u64, seen: &mut RowsChecked) -> Result<(), StoreError> {
    let start = Some(Order::new(head.saturating_sub(SAMPLE - 1)).to_key().to_vec());
    let range = KeyRange { start, end: None };
    sample(view, (&Table::JOURNAL, range), SAMPLE, &mut |key, value| {
        let decoded = record::decode::<JournalRecord>("journal", value);
        seen.take(journal::order_of(key).and_then(|_| decoded.map(|_| ())));
    })
}

/// The first rows of a range of a table, at most so many.
fn sample(
    view: &dyn View,
    (table, range): (&Table, KeyRange),
    most: u64,
    each: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), StoreError> {
    let mut left = most;
    view.scan(table, &range, &mut |key, value| {
        each(key, value);
        left -= 1;
        if left == 0 { Flow::Break(()) } else { Flow::Continue(()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LayerRecord;

    fn every_flip_is_found<R: Record>(record: &R) {
        let bytes = record::encode(record).unwrap();
        assert!(record::decode::<R>("it", &bytes).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(record::decode::<R>("it", &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_single_flipped_bit_of_a_row_of_ours_is_found() {
        let at = RootRecord { root: [1; 32], timestamp_ms: 2, block_hash: [3; 32], trail: [4; 32] };
        every_flip_is_found(&at);
        every_flip_is_found(&native::HeadRecord { order: 5, at, commits: 6, nodes_put: 7, bytes_put: 8 });
        every_flip_is_found(&FloorRecord { order: 9 });
        every_flip_is_found(&CountsRecord { since: 1, cycle: Some(2) });
        every_flip_is_found(&ExpiryRecord { done: Some(3), group: None });
        every_flip_is_found(&LayerRecord { nodes: vec![[4; 32]] });
        every_flip_is_found(&JournalRecord {
            timestamp_ms: 1,
            created: vec![2, 3],
            stale: vec![[4; 32]],
            dropped: vec![[5; 32]],
        });
    }
}
