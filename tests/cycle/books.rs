//! What journal and marks of a store must say, by its archive: the model of the bookkeeping that IncrementalSweep trusts.

use std::collections::{BTreeMap, BTreeSet};

use state_store::{Flow, JournalRecord, KeyRange, Store, Table, marked_on_disk, record};
use state_tests::{archive::orders, chain::Chain};
use state_tree::{NodeHash, Order};

fn fingerprints(hashes: &BTreeSet<NodeHash>) -> BTreeSet<u64> {
    hashes.iter().map(NodeHash::fingerprint).collect()
}

fn first_of(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[..8].try_into().unwrap())
}

/// The fingerprint of each node that is marked, which the disk says of all of them.
pub(crate) fn marked(store: &Store) -> BTreeSet<u64> {
    let (marked, on_disk) = (store.marked().unwrap(), marked_on_disk(&*store.view().unwrap()).unwrap());
    let missing = marked.difference(&on_disk).count();
    assert_eq!(missing, 0, "marks that a crash now would lose");
    marked
}

/// The journal.
pub(crate) fn rows(store: &Store) -> BTreeMap<Order, JournalRecord> {
    let mut rows = BTreeMap::new();
    let mut take = |key: &[u8], value: &[u8]| {
        let before = rows.insert(Order::new(first_of(key)), record::decode("journal", value).unwrap());
        assert!(before.is_none(), "two rows of one order");
        Flow::Continue(())
    };
    store.view().unwrap().scan(&Table::JOURNAL, &KeyRange::ALL, &mut take).unwrap();
    rows
}

/// Each order above the floor has its row, none above the head has one, and each row says what the commit created and when; the
/// first order that has one. Entries before a branch stay until a cycle, those behind it go.
pub(crate) fn journal_is_whole(chain: &Chain, context: &str) -> Order {
    let (rows, floor, head) = (rows(&chain.store), chain.floor(), chain.head());
    let above = floor.next().unwrap();
    let first = rows.keys().next().copied().unwrap_or(above);
    let there: Vec<Order> = rows.keys().copied().filter(|order| *order > floor).collect();
    assert_eq!(there, orders(above, head).collect::<Vec<_>>(), "{context}: the rows above the floor");
    for (order, row) in rows {
        let created: BTreeSet<u64> = row.created.iter().copied().collect();
        assert_eq!(created, fingerprints(&chain.archive.created(order)), "{context}: creations of order {order}");
        assert_eq!(row.timestamp_ms, 1000 * order.get(), "{context}: time of order {order}");
    }
    first
}

/// What a row names is not in the state of its order, with what lies below it.
pub(crate) fn names_nothing_alive(chain: &Chain, context: &str) {
    for (order, row) in rows(&chain.store) {
        let live = chain.archive.live([order]);
        let named = row.stale.iter().chain(&row.dropped).copied().map(NodeHash::new);
        let alive: Vec<NodeHash> = named.filter(|hash| live.contains(hash)).collect();
        assert!(alive.is_empty(), "{context}: the entry of order {order} names {alive:?} of its state");
    }
}

/// The entry of the newest order, which was committed on the one before, names exactly what its state has lost, except for
/// what is marked and what lies below that; how many nodes it names.
pub(crate) fn newest_entry_is_exact(chain: &Chain, context: &str) -> usize {
    let (head, archive) = (chain.head(), &chain.archive);
    let (before, after) = (archive.live([head.minus(1).unwrap()]), archive.live([head]));
    let marked = marked(&chain.store);
    let is_marked = |hash: &NodeHash| marked.contains(&hash.fingerprint());
    let row = &rows(&chain.store)[&head];
    let hashes = |raw: &[[u8; 32]]| raw.iter().copied().map(NodeHash::new).collect::<Vec<_>>();
    let mut named = archive.below(hashes(&row.dropped), is_marked);
    named.extend(hashes(&row.stale));
    let alive: Vec<&NodeHash> = named.difference(&before).chain(named.intersection(&after)).collect();
    assert!(alive.is_empty(), "{context}: the entry names what its state did not lose: {alive:?}");
    let shared = archive.below(before.iter().copied().filter(is_marked), |_| false);
    let lost: BTreeSet<NodeHash> = before.difference(&after).copied().collect();
    let unnamed: Vec<&NodeHash> = lost.difference(&named).filter(|hash| !shared.contains(hash)).collect();
    assert!(
        unnamed.is_empty(),
        "{context}: the state lost {unnamed:?}, which nothing else has, and the entry is silent"
    );
    named.len()
}

/// Where the marks stand after a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// Those of the state that was traced, and no others.
    Exact,
    /// Beside those, such as commits after that state have made.
    More,
}

/// Every node that two references of the traced state lead to is marked.
pub(crate) fn marks_are_those_of(chain: &Chain, traced: Order, expected: Marks, context: &str) -> usize {
    let (marked, needed) = (marked(&chain.store), fingerprints(&chain.archive.referred_twice(traced)));
    let missing: Vec<&u64> = needed.difference(&marked).collect();
    assert!(missing.is_empty(), "{context}: {} shared nodes of order {traced} are not marked", missing.len());
    if expected == Marks::Exact {
        assert_eq!(marked.len(), needed.len(), "{context}: marks that order {traced} does not need");
    }
    if let Some(count) = chain.store.marks() {
        assert_eq!(count, marked.len() as u64, "{context}: marks in memory and on disk");
    }
    needed.len()
}
