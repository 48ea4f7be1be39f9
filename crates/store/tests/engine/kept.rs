//! S27, S41, O19: single orders below the floor stay readable as long as they are kept, and not a moment longer.

use std::sync::Arc;

use state_store::{Batch, CrashTail, Durability, Fault, FaultyBackend, FloorMove, MemoryBackend, Store, StoreError};
use state_tree::Order;

use crate::support::{CONFIG, commit, nodes, order, root};

fn of_ten(backend: FaultyBackend) -> Store {
    let store = Store::open(Arc::new(backend), CONFIG).unwrap();
    for n in 0..10 {
        commit(&store, nodes(n, 1, 40)).unwrap();
    }
    store
}

fn change(to: u64, keep: &[u64], let_go: &[u64]) -> FloorMove {
    let orders = |of: &[u64]| of.iter().copied().map(Order::new).collect();
    FloorMove { to: order(to), keep: orders(keep), let_go: orders(let_go), rows: vec![Batch::new()] }
}

/// Which of the ten orders are readable.
fn readable(store: &Store) -> Vec<u64> {
    let is_pruned = |at: &u64| match store.root(order(*at)) {
        Ok(found) => {
            assert_eq!(found, root(*at), "order {at}");
            false
        }
        Err(StoreError::Pruned { floor, .. }) => {
            assert_eq!(Some(floor), store.floor());
            true
        }
        Err(error) => panic!("order {at}: {error}"),
    };
    (0..10).filter(|at| !is_pruned(at)).collect()
}

#[test]
fn a_kept_order_is_readable_below_the_floor_until_it_is_let_go() {
    let memory = MemoryBackend::new();
    let store = of_ten(FaultyBackend::over(memory.clone()));
    store.move_floor(change(6, &[2, 4], &[]), Durability::Logged).unwrap();
    assert_eq!(readable(&store), [2, 4, 6, 7, 8, 9]);
    let pin = store.pin(order(2), "a reader").unwrap();
    assert_eq!(store.orders_of(root(4), 5), [order(4)]);
    drop(store);
    let store = Store::open(Arc::new(memory.clone()), CONFIG).unwrap();
    assert_eq!(readable(&store), [2, 4, 6, 7, 8, 9], "and after a restart");
    assert_eq!(store.kept(), [(order(2), root(2)), (order(4), root(4))]);
    store.move_floor(change(8, &[6], &[2]), Durability::Logged).unwrap();
    assert_eq!(readable(&store), [4, 6, 8, 9]);
    drop(pin);
}

#[test]
fn what_is_gone_cannot_be_kept_again_and_a_floor_never_goes_back() {
    let store = of_ten(FaultyBackend::over(MemoryBackend::new()));
    store.move_floor(change(6, &[2], &[]), Durability::Logged).unwrap();
    for (to, keep) in [(7, 3), (6, 0)] {
        let refused = store.move_floor(change(to, &[keep], &[]), Durability::Logged);
        assert!(matches!(refused, Err(StoreError::Pruned { .. })), "{refused:?}");
    }
    for to in [5, 10] {
        let refused = store.move_floor(change(to, &[], &[]), Durability::Logged);
        assert!(matches!(refused, Err(StoreError::NoSuchOrder { .. })), "{refused:?}");
    }
    assert_eq!(readable(&store), [2, 6, 7, 8, 9]);
    store.raise_floor(order(8), Batch::new()).unwrap();
    assert_eq!(readable(&store), [2, 8, 9], "a floor that moves by itself lets no kept order go");
}

/// It is there, so whoever wants to go back to it is not told that it was pruned.
#[test]
fn a_kept_order_below_the_floor_is_no_place_to_go_back_to_and_not_told_as_pruned() {
    let store = of_ten(FaultyBackend::over(MemoryBackend::new()));
    store.move_floor(change(6, &[2], &[]), Durability::Logged).unwrap();
    for refused in [store.check_rollback(order(2)), store.rollback(order(2), Batch::new())] {
        assert!(matches!(refused, Err(StoreError::KeptBelow { floor, .. }) if floor == order(6)), "{refused:?}");
    }
    assert!(matches!(store.check_rollback(order(1)), Err(StoreError::Pruned { .. })));
    assert!(store.check_rollback(order(6)).is_ok());
}

#[test]
fn a_floor_move_that_fails_or_is_lost_changes_nothing() {
    for tail in [CrashTail::Kept, CrashTail::Lost] {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        let store = of_ten(faulty.clone());
        store.raise_floor(order(1), Batch::new()).unwrap(); // synced: what a power loss goes back to
        faulty.fail_write(0, Fault::Transient);
        assert!(store.move_floor(change(6, &[2], &[]), Durability::Logged).is_err());
        assert_eq!(readable(&store), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        store.move_floor(change(6, &[2], &[]), Durability::Logged).unwrap();
        let found = Store::open(Arc::new(faulty.crash_image(tail).unwrap()), CONFIG).unwrap();
        let expected: &[u64] = match tail {
            CrashTail::Kept => &[2, 6, 7, 8, 9],
            CrashTail::Lost => &[1, 2, 3, 4, 5, 6, 7, 8, 9],
        };
        assert_eq!(readable(&found), expected, "{tail:?}");
    }
}
