//! What the sweep between cycles could not use and has passed over: kept until a cycle has judged what it named.
//!
//! Promises: an item is written down BEFORE it is passed over, so no process that dies forgets one; an item that is met again
//! is listed once; the list is bounded, and the total goes on. A cycle that began after the last item was met ends it when it
//! has finished: it goes by what live states reach, so nothing is left of what those items named (P2). Nothing is deleted on
//! the strength of this record: one that is unusable is told, and stops nobody.
//!
//! Costs: nothing while nothing is met; else a read, and a write that waits for no disk, per slice that passes something over.

use std::fmt;

use serde::{Deserialize, Serialize};
use state_store::{
    BadRow, Point, RowFault, StoreError, reached,
    record::{self, Record},
};
use state_tree::{NodeHash, Order, TreeError};

use crate::{
    certificate::Certificate,
    error::PruneError,
    phase,
    records::{self, RecordKey, Records},
    when::When,
};

/// So many items are listed; what comes after them is counted.
const MOST_ITEMS: usize = 64;

/// What was set aside and no cycle has settled yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The newest cycle when something was met last: a later one ends this.
    pub cycle: u64,
    /// Items set aside. One that has no place in the list counts as often as it is met.
    pub total: u64,
    /// The first of them, as they were met.
    pub items: Vec<SetAside>,
    /// Why an earlier list cannot be read, if there is one: it had items too.
    pub lost: Option<String>,
}

/// One item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// What it is.
    pub what: Poison,
    /// Of a row the order that it sorts with, of a node the newest order of the entries by which it was to go.
    pub order: Option<u64>,
    /// Of a node its hash, in hex.
    pub node: Option<String>,
    /// What is wrong with it.
    pub why: Unusable,
    /// Milliseconds since 1970 when it was met first.
    pub since: u64,
}

/// What can be set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Poison {
    /// A row of the commit journal. Further ones of the same order are the same item.
    JournalRow,
    /// How far the sweep is.
    Cursor,
    /// A node that was to go with all below it.
    Node,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unusable {
    /// A record that is torn, foreign, or of other entries.
    Record,
    /// Bytes that are no node.
    Malformed,
    /// Bytes that hash to something else than their key.
    WrongHash,
    /// A key that no commit gave, or two rows of one order.
    Foreign,
}

impl Record for Quarantine {
    const KIND: [u8; 4] = *b"QUAR";
    const VERSION: u16 = 1;
}

impl SetAside {
    /// A row of the journal, or how far the sweep of it is where no order is given.
    pub(crate) fn of_journal(order: Option<Order>, since: u64) -> Self {
        let what = order.map_or(Poison::Cursor, |_| Poison::JournalRow);
        Self { what, order: order.map(Order::get), node: None, why: Unusable::Record, since }
    }

    /// The same of a row of the journal, with what is wrong with it.
    pub(crate) fn of_row(row: BadRow, since: u64) -> Self {
        let why = match row.fault {
            RowFault::Torn => Unusable::Record,
            RowFault::Foreign => Unusable::Foreign,
        };
        Self { why, ..Self::of_journal(Some(row.order), since) }
    }

    /// A node, with the newest order of the entries by which it was to go.
    pub(crate) fn of_node((hash, error): &(NodeHash, TreeError), order: Order, since: u64) -> Self {
        let is_other = matches!(error, TreeError::WrongHash { .. });
        let why = if is_other { Unusable::WrongHash } else { Unusable::Malformed };
        Self { what: Poison::Node, order: Some(order.get()), node: Some(hash.to_string()), why, since }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.what == other.what
            && match self.what {
                Poison::Node => self.node == other.node,
                Poison::JournalRow | Poison::Cursor => self.order == other.order,
            }
    }
}

impl Quarantine {
    fn empty(cycle: u64) -> Self {
        Self { cycle, total: 0, items: Vec::new(), lost: None }
    }

    /// What is set aside. A record that is unusable says that something is, and not what.
    ///
    /// Errors: a failed read, a record that a newer program wrote.
    pub fn load(records: &dyn Records) -> Result<Option<Self>, PruneError> {
        match records::read(records, RecordKey::Quarantine) {
            Err(error @ PruneError::Store(StoreError::Record { .. })) => {
                let unknown = Self::empty(phase::last_cycle(records)?);
                Ok(Some(Self { lost: Some(error.to_string()), ..unknown }))
            }
            read => read,
        }
    }

    /// Writes down what is about to be passed over; gives how much of it is new.
    ///
    /// Errors: a failed read or write; nothing may be passed over then.
    pub(crate) fn add(items: Vec<SetAside>, records: &dyn Records) -> Result<u64, PruneError> {
        if items.is_empty() {
            return Ok(0);
        }
        let cycle = phase::last_cycle(records)?;
        let mut known = Self::load(records)?.unwrap_or_else(|| Self::empty(cycle));
        let new: u64 = items.into_iter().map(|item| known.take(item)).sum();
        if new > 0 || known.cycle < cycle {
            known.cycle = cycle;
            records.stage(RecordKey::Quarantine, &record::encode(&known)?)?; // in one log with the slice, which follows
        }
        reached(Point::SetAside);
        Ok(new)
    }

    fn take(&mut self, item: SetAside) -> u64 {
        if self.items.iter().any(|known| known.is_same(&item)) {
            return 0;
        }
        self.total = self.total.saturating_add(1);
        if self.items.len() < MOST_ITEMS {
            self.items.push(item);
        }
        1
    }

    /// A cycle has finished. What cannot be read or removed is told for longer. Gives how many items it has ended; of a record
    /// that is unusable nobody knows how many.
    pub(crate) fn settle(by: &Certificate, records: &dyn Records) -> Option<u64> {
        let over = match records::read::<Self>(records, RecordKey::Quarantine) {
            Ok(known) => Ok(known.filter(|known| known.is_settled_by(by.cycle)).map(|known| known.total)),
            Err(PruneError::Store(StoreError::Record { .. })) => Ok((!by.resumed).then_some(0)), // one that began here has met nothing since
            Err(error) => Err(error),
        };
        let settled = over.and_then(|over| match over {
            Some(items) => records.remove(RecordKey::Quarantine).map(|()| Some(items)),
            None => Ok(None),
        });
        settled.unwrap_or_else(|error| {
            tracing::warn!(%error, "what was set aside is settled and stays listed until the next cycle has finished");
            None
        })
    }

    fn is_settled_by(&self, cycle: u64) -> bool {
        cycle > self.cycle
    }
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.items.first() {
            let total = self.total;
            write!(
                f,
                "{total} rows or nodes could not be read and were passed over by the sweep between cycles, first {first}"
            )?;
        }
        match &self.lost {
            Some(why) if self.items.is_empty() => {
                write!(f, "what the sweep between cycles passed over is not known: {why}")
            }
            Some(why) => write!(f, "; what it passed over before that is not known: {why}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, order, node, why, since } = self;
        match what {
            Poison::JournalRow => f.write_str("the journal row of")?,
            Poison::Cursor => f.write_str("how far that sweep is")?,
            Poison::Node => f.write_str("node")?,
        }
        if let Some(node) = node {
            write!(f, " {node}, lost by")?;
        }
        if let Some(order) = order {
            write!(f, " order {order}")?;
        }
        let why = match why {
            Unusable::Record => "a record that is unusable",
            Unusable::Malformed => "bytes that are no node",
            Unusable::WrongHash => "bytes that hash to another key",
            Unusable::Foreign => "a key that no commit gave, or two rows of the order",
        };
        write!(f, " ({why}), at {}", When(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::FolderRecords;

    fn row(order: u64) -> SetAside {
        SetAside::of_journal(Some(Order::new(order)), 7)
    }

    fn node(byte: u8, order: u64) -> SetAside {
        let hash = NodeHash::new([byte; 32]);
        SetAside::of_node(&(hash, TreeError::WrongHash { key: hash, actual: hash }), Order::new(order), 8)
    }

    fn listed(records: &dyn Records) -> (u64, usize) {
        Quarantine::load(records).unwrap().map_or((0, 0), |known| (known.total, known.items.len()))
    }

    #[test]
    fn what_is_met_again_is_listed_once_and_another_process_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let records = || FolderRecords(dir.path().to_owned());
        assert_eq!(Quarantine::load(&records()).unwrap(), None);
        let cursor = || SetAside::of_journal(None, 9);
        assert_eq!(Quarantine::add(vec![row(5), row(6), row(5)], &records()).unwrap(), 2);
        assert_eq!(Quarantine::add(vec![node(1, 6), cursor(), node(1, 9)], &records()).unwrap(), 2);
        let again = SetAside { since: 99, ..row(6) };
        assert_eq!(Quarantine::add(vec![again, node(1, 12), cursor()], &records()).unwrap(), 0);
        let known = Quarantine::load(&records()).unwrap().unwrap();
        assert_eq!(
            (known.total, known.items),
            (4, vec![row(5), row(6), node(1, 6), cursor()]),
            "as they were met first"
        );
    }

    #[test]
    fn the_first_items_are_listed_and_all_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let records = FolderRecords(dir.path().to_owned());
        let new = Quarantine::add((0..200).map(row).collect(), &records).unwrap();
        assert_eq!((new, listed(&records)), (200, (200, MOST_ITEMS)));
        assert_eq!(Quarantine::add(vec![row(1000)], &records).unwrap(), 1);
        let known = Quarantine::load(&records).unwrap().unwrap();
        assert_eq!((known.total, known.items), (201, (0..MOST_ITEMS as u64).map(row).collect()));
    }

    #[test]
    fn a_cycle_that_began_after_the_last_item_ends_the_quarantine_and_no_other_does() {
        let dir = tempfile::tempdir().unwrap();
        let records = FolderRecords(dir.path().to_owned());
        let settles = |cycle| Quarantine::load(&records).unwrap().unwrap().is_settled_by(cycle);
        Quarantine::add(vec![row(5)], &records).unwrap();
        assert!(settles(1));
        phase::new_cycle(&records).unwrap();
        Quarantine::add(vec![row(6)], &records).unwrap();
        assert!(!settles(1) && settles(2), "the first cycle had begun when the second row was met");
        phase::new_cycle(&records).unwrap();
        Quarantine::add(vec![row(6)], &records).unwrap();
        assert!(!settles(2) && settles(3), "and the second one when it was met again");
        assert_eq!(listed(&records), (2, 2));
    }

    #[test]
    fn a_list_that_is_damaged_is_told_and_what_is_met_since_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let records = FolderRecords(dir.path().to_owned());
        Quarantine::add(vec![row(5)], &records).unwrap();
        records.save(RecordKey::Quarantine, b"torn").unwrap();
        let told = || Quarantine::load(&records).unwrap().unwrap().to_string();
        assert!(told().starts_with("what the sweep between cycles passed over is not known: record"), "{}", told());
        assert_eq!(Quarantine::add(vec![node(1, 6)], &records).unwrap(), 1);
        let hash = NodeHash::new([1; 32]);
        let first = format!(
            "1 rows or nodes could not be read and were passed over by the sweep between cycles, first node {hash}, lost by \
             order 6 (bytes that hash to another key), at 1970-01-01T00:00:00.008Z; what it passed over before that is not \
             known: record"
        );
        assert!(told().starts_with(&first), "{}", told());
    }

    #[test]
    fn the_bytes_of_the_quarantine_record_are_pinned() {
        let foreign = SetAside::of_row(BadRow { order: Order::new(8), fault: RowFault::Foreign }, 7);
        let hashed = SetAside { node: Some("ab".to_owned()), ..node(1, 6) };
        let items = vec![row(5), hashed, SetAside::of_journal(None, 9), foreign];
        let known = Quarantine { cycle: 1, total: 4, items, lost: Some("it".to_owned()) };
        let bytes = record::encode(&known).unwrap();
        let pinned = concat!(
            "53505231515541520100600000000100000000000000040000000000000004",
            "0001050000000000000000000700000000000000",
            "0201060000000000000001026162020800000000000000",
            "010000000900000000000000",
            "0001080000000000000000030700000000000000",
            "01026974",
        );
        assert_eq!(hex::encode(&bytes[..bytes.len() - 4]), pinned);
    }
}
