//! Rows made by hand after the format notes; real databases are read by the engine tests.

use super::*;
use crate::backend::{Backend as _, Batch, Durability, Fault, FaultyBackend, MemoryBackend};

const HASH_BYTES: usize = rows::HASH_BYTES;

fn text(hash: [u8; 32]) -> Vec<u8> {
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    [&[66], format!("0x{digits}").as_bytes()].concat()
}

fn le(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

fn execution(transaction: [u8; 32], root: [u8; 32]) -> Vec<u8> {
    [&text(transaction), &text(root), &le(3)[..], &text([8; 32]), &le(9), &[0]].concat()
}

fn startup(root: [u8; 32]) -> Vec<u8> {
    [&text(root), &le(3)[..]].concat()
}

fn sequencer(last: u64) -> Vec<u8> {
    [&le(last)[..], &text([1; 32]), &[1], &text([2; 32]), &le(4), &le(7)].concat()
}

fn sequenced_transaction(order: u64, at: u64) -> Vec<u8> {
    let info = [&le(order)[..], &[2, 5, 6], &text([1; 32]), &le(at), &[0], &le(4), &le(7)].concat();
    [vec![2, 9, 9, 9], info].concat()
}

struct Rooch(MemoryBackend, Batch);

impl Rooch {
    fn new() -> Self {
        let families = [STARTUP, SEQUENCER, CHANGE_SET, ORDER_TO_TRANSACTION, EXECUTION, TRANSACTION];
        let tables = families.map(|name| Table::foreign(name).unwrap());
        Self(MemoryBackend::with_tables(tables), Batch::new())
    }

    fn put(mut self, family: &str, key: &[u8], value: Vec<u8>) -> Self {
        self.1.put(Table::foreign(family).unwrap(), key, value);
        self
    }

    fn head(self, last: u64, root: [u8; 32]) -> Self {
        self.put(SEQUENCER, SEQUENCER_KEY, sequencer(last)).put(STARTUP, STARTUP_KEY, startup(root))
    }

    /// An order with a change set, and a transaction of its own.
    fn changed(self, order: u64, root: [u8; 32]) -> Self {
        let rest = b"what follows is not read".to_vec();
        self.put(CHANGE_SET, &le(order), [text(root), rest].concat())
    }

    /// An order without a change set, executed by this transaction.
    fn executed(self, order: u64, transaction: [u8; 32], root: [u8; 32]) -> Self {
        self.put(ORDER_TO_TRANSACTION, &le(order), text(transaction)).put(
            EXECUTION,
            &text(transaction),
            execution(transaction, root),
        )
    }

    fn backend(self) -> MemoryBackend {
        self.0.write(&self.1, Durability::Logged).unwrap();
        self.0
    }
}

fn root(n: u8) -> RootAt {
    RootAt::Root(state_root([n; 32]))
}

#[test]
fn the_head_is_the_newest_executed_order_even_if_more_are_sequenced() {
    let rooch = Rooch::new()
        .head(5, [3; 32])
        .changed(2, [2; 32])
        .executed(3, [33; 32], [3; 32])
        .put(ORDER_TO_TRANSACTION, &le(4), text([44; 32]))
        .put(ORDER_TO_TRANSACTION, &le(5), text([55; 32]))
        .put(TRANSACTION, &text([33; 32]), sequenced_transaction(3, 1_700_000_000_123));
    let view = rooch.backend().view().unwrap();
    let head = RoochChain.head(&*view).unwrap().unwrap();
    assert_eq!((head.order, head.root), (Order::new(3), state_root([3; 32])));
    assert_eq!(head.block_hash, Some([33; 32]));
    assert_eq!(head.timestamp_ms, Some(1_700_000_000_123));
    assert_eq!(RoochChain.sequenced(&*view).unwrap(), Some(Order::new(5)));
}

#[test]
fn a_timestamp_is_absent_when_the_row_is_not_understood() {
    assert_eq!(rows::sequenced_at(&sequenced_transaction(3, 77), 3), Some(77));
    assert_eq!(rows::sequenced_at(&sequenced_transaction(3, 77), 4), None, "another order");
    let mut row = sequenced_transaction(3, 77);
    row.push(0);
    assert_eq!(rows::sequenced_at(&row, 3), None, "a longer row");
    assert_eq!(rows::sequenced_at(&[], 0), None);
}

#[test]
fn a_startup_root_that_no_newest_order_has_is_refused() {
    let rooch = Rooch::new().head(2, [9; 32]).changed(2, [2; 32]);
    let view = rooch.backend().view().unwrap();
    let error = RoochChain.head(&*view).unwrap_err();
    assert!(matches!(error, StoreError::Record { .. }), "{error}");
    let unsequenced = Rooch::new().put(STARTUP, STARTUP_KEY, startup([1; 32])).backend();
    assert!(RoochChain.head(&*unsequenced.view().unwrap()).is_err());
    assert_eq!(RoochChain.head(&*Rooch::new().backend().view().unwrap()).unwrap(), None);
}

#[test]
fn a_transaction_of_two_orders_makes_both_of_them_holes() {
    let rooch = Rooch::new()
        .executed(4, [44; 32], [4; 32])
        .executed(5, [55; 32], [5; 32])
        .executed(6, [55; 32], [5; 32])
        .executed(9, [44; 32], [4; 32]);
    let view = rooch.backend().view().unwrap();
    let is_ambiguous = |found: &RootAt, candidate: u8| match found {
        RootAt::Hole(Hole::Ambiguous { candidate: root, .. }) => *root == state_root([candidate; 32]),
        RootAt::Hole(_) | RootAt::Root(_) => false,
    };
    for order in [5, 6] {
        assert!(is_ambiguous(&RoochChain.root(&*view, Order::new(order)).unwrap(), 5), "{order}");
    }
    assert_eq!(RoochChain.root(&*view, Order::new(4)).unwrap(), root(4), "9 is not beside 4");
    let window = RoochChain.roots(&*view, Order::new(4), Order::new(9)).unwrap();
    let of = |order: u64| &window[(order - 4) as usize].1;
    assert!(is_ambiguous(of(4), 4) && is_ambiguous(of(9), 4), "but a window sees both");
    assert_eq!(of(7), &RootAt::Hole(Hole::NoRecord));
    assert_eq!(window.len(), 6);
}

/// The other order lies far outside every window, so only the transaction's own row can tell.
#[test]
fn a_transaction_whose_row_names_another_order_makes_a_hole() {
    let row = |order: u64| sequenced_transaction(order, 1_700_000_000_000);
    let of = |order: u64| {
        let rooch = Rooch::new().executed(100, [44; 32], [4; 32]).put(TRANSACTION, &text([44; 32]), row(order));
        RoochChain.root(&*rooch.backend().view().unwrap(), Order::new(100)).unwrap()
    };
    assert_eq!(of(100), root(4));
    let doubtful = of(5);
    assert!(matches!(&doubtful, RootAt::Hole(Hole::Ambiguous { candidate, .. }) if *candidate == state_root([4; 32])));
}

#[test]
fn a_change_set_settles_what_a_doubled_transaction_leaves_open() {
    let rooch = Rooch::new().executed(5, [55; 32], [5; 32]).executed(6, [55; 32], [5; 32]).changed(5, [7; 32]);
    let view = rooch.backend().view().unwrap();
    let window = RoochChain.roots(&*view, Order::new(5), Order::new(6)).unwrap();
    assert_eq!(window[0].1, root(7));
    assert!(matches!(window[1].1, RootAt::Hole(Hole::Ambiguous { .. })));
}

#[test]
fn a_row_that_is_not_understood_is_a_hole_that_says_so() {
    let good = execution([33; 32], [3; 32]);
    let cases = [
        ("short", good[..good.len() - 1].to_vec()),
        ("long", [good.as_slice(), &[0]].concat()),
        ("of another transaction", execution([34; 32], [3; 32])),
        ("with an unknown status", [&good[..good.len() - 1], &[7]].concat()),
        ("with upper-case digits", good.to_ascii_uppercase()),
        ("cut inside the root", good[..HASH_BYTES + 9].to_vec()),
    ];
    for (why, row) in cases {
        let rooch = Rooch::new().put(ORDER_TO_TRANSACTION, &le(3), text([33; 32])).put(EXECUTION, &text([33; 32]), row);
        let view = rooch.backend().view().unwrap();
        let found = RoochChain.root(&*view, Order::new(3)).unwrap();
        assert!(matches!(found, RootAt::Hole(Hole::Malformed { .. })), "{why}: {found:?}");
    }
    let rooch = Rooch::new().put(CHANGE_SET, &le(3), vec![66, b'0']).executed(3, [33; 32], [3; 32]);
    let found = RoochChain.root(&*rooch.backend().view().unwrap(), Order::new(3)).unwrap();
    assert!(matches!(found, RootAt::Hole(Hole::Malformed { .. })), "a torn change set is not passed over");
}

#[test]
fn a_failed_read_is_an_error_and_never_a_hole() {
    let rooch = Rooch::new().head(3, [3; 32]).executed(3, [33; 32], [3; 32]).backend();
    let faulty = FaultyBackend::over(rooch);
    let view = faulty.view().unwrap();
    let reads = |work: &dyn Fn() -> bool| {
        let before = faulty.reads();
        assert!(work());
        faulty.reads() - before
    };
    let head = || RoochChain.head(&*view).is_ok_and(|head| head.is_some());
    let roots = || RoochChain.roots(&*view, Order::new(2), Order::new(3)).is_ok();
    for work in [&head as &dyn Fn() -> bool, &roots] {
        let count = reads(work);
        for at in 0..count {
            faulty.fail_read(at, Fault::Transient);
            assert!(!work(), "read {at} of {count} failed and was passed over");
        }
    }
}
