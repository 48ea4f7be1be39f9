//! S10, S11: windows longer than history, orders without a root, budgets that are too small.

use std::collections::BTreeSet;

use state_pruner::{
    PruneError,
    mark::{MarkChoice, MarkStrategy},
    offline::{PruneRequest, StoreLayout, default_state_dir},
};
use state_store::{Disposition, Hole};
use state_tests::{
    check, damage, folder,
    offline::{prune, request, verify},
    rig::{Engine, Rig},
    shared::{RoochStore, Shared},
    workload::Profile,
};
use state_tree::Order;

use crate::refused;

/// Removes every record that leads from an order to its root.
fn forget(store: &RoochStore, order: u64) {
    for family in ["state_change_set", "tx_sequence_info_mapping"] {
        damage::remove(&store.db(), family, &order.to_le_bytes());
    }
}

#[test]
fn an_order_without_a_root_is_refused_until_it_is_named() {
    let Some(store) = Shared::Small.copy("holes") else {
        return;
    };
    for order in [191, 195] {
        forget(&store, order);
    }
    let error = refused(&request(&store.db(), 10), "holes");
    let PruneError::Holes { holes } = &error else { panic!("{error}") };
    assert_eq!(holes, &[(Order::new(191), Hole::NoRecord), (Order::new(195), Hole::NoRecord)]);
    assert!(
        error.to_string().contains("191 (no record), 195 (no record)") && error.to_string().contains("--allow-hole"),
        "{error}"
    );

    let only_one = PruneRequest { allowed_holes: [Order::new(191)].into(), ..request(&store.db(), 10) };
    let error = refused(&only_one, "holes");
    assert!(error.to_string().contains("195") && !error.to_string().contains("191"), "{error}");

    let both: BTreeSet<Order> = [Order::new(191), Order::new(195)].into();
    let outcome = prune(&PruneRequest { allowed_holes: both, ..request(&store.db(), 10) }).unwrap();
    let retained = outcome.retained;
    assert_eq!(
        (retained.first_order, retained.last_order, retained.roots),
        (188, 199, 10),
        "an order without a root does not count as executed: the window reaches further down"
    );
    assert_eq!(retained.holes, [191, 195]);
}

#[test]
fn an_order_without_a_change_set_is_found_by_its_transaction() {
    let Some(store) = Shared::Small.copy("route B") else {
        return;
    };
    let expected = store.windows().into_iter().find(|expected| expected.keep_last == 10).unwrap();
    for order in 180u64..200 {
        damage::remove(&store.db(), "state_change_set", &order.to_le_bytes());
    }
    prune(&request(&store.db(), 10)).unwrap();
    let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
    assert_eq!((report.present_sha256, report.leaked_nodes), (Some(expected.live_sha256), Some(0)));
}

#[test]
fn a_window_longer_than_history_keeps_all_of_it_and_says_so() {
    let Some(store) = Shared::Small.copy("a long window") else {
        return;
    };
    let all = store.number("orders");
    let expected = store.windows().into_iter().find(|expected| expected.keep_last == all).unwrap();
    let outcome = prune(&request(&store.db(), all * 5)).unwrap();
    assert!(outcome.retained.shorter_than_asked);
    assert_eq!((outcome.retained.roots, outcome.retained.first_order), (all, 0));
    let report = verify(&store.db(), StoreLayout::Rooch, all).unwrap();
    assert_eq!(report.present_sha256, Some(expected.live_sha256), "what no order reaches goes all the same");
    let exact = prune(&request(&store.db(), all)).unwrap();
    assert!(!exact.retained.shorter_than_asked);
}

#[test]
fn a_budget_too_small_for_a_scan_falls_back_to_a_walk_and_says_so() {
    let Some(store) = Shared::Small.copy("a small budget") else {
        return;
    };
    let expected = store.windows().into_iter().find(|expected| expected.keep_last == 100).unwrap();
    for mark in [MarkChoice::Scan, MarkChoice::Auto] {
        let store = Shared::Small.copy("a small budget").unwrap();
        let request = PruneRequest { mark, memory_budget: 1 << 20, ..request(&store.db(), 100) };
        let marked = prune(&request).unwrap().mark.unwrap();
        assert_eq!((marked.strategy, marked.live_nodes), (MarkStrategy::Walk, expected.live_nodes));
        assert!(marked.why.contains("budget") && marked.why.contains("scan"), "{}", marked.why);
        assert!(marked.peak_bytes <= 1 << 20, "{} bytes", marked.peak_bytes);
        let report = verify(&store.db(), StoreLayout::Rooch, 100).unwrap();
        assert_eq!(report.present_sha256.as_ref(), Some(&expected.live_sha256));
    }
}

#[test]
fn a_budget_too_small_for_anything_is_refused() {
    let Some(store) = Shared::Small.copy("no budget") else {
        return;
    };
    for mark in [MarkChoice::Scan, MarkChoice::Walk, MarkChoice::Auto] {
        let request = PruneRequest { mark, memory_budget: 4096, ..request(&store.db(), 10) };
        let error = refused(&request, "memory_budget");
        for word in ["4.0 KiB", "1.0 MiB", "--memory-budget"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}

#[test]
fn a_store_of_another_layout_is_refused_with_the_layout_it_has_and_nothing_is_left_beside_it() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Tables, 151, 5);
    let at_rest = rig.rest();
    let mut stores = vec![(at_rest.store_dir(), StoreLayout::Rooch, "--layout native")];
    let rooch = Shared::Small.copy("another layout");
    stores.extend(rooch.iter().map(|store| (store.db(), StoreLayout::Native, "--layout rooch")));
    for (db, layout, hint) in stores {
        let error = refused(&PruneRequest { layout, ..request(&db, 5) }, "other_layout");
        assert!(error.to_string().contains(hint), "{error}");
        let error = verify(&db, layout, 5).unwrap_err();
        assert_eq!(error.code(), "other_layout", "{error}");
        assert!(!default_state_dir(&db).exists());
    }
}

#[test]
fn a_verification_below_an_earlier_prune_says_which_orders_are_gone_on_purpose() {
    let Some(store) = Shared::Small.copy("verified below a prune") else {
        return;
    };
    let kept = prune(&request(&store.db(), 10)).unwrap().retained;
    let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
    assert_eq!((report.first_order, report.last_order, report.pruned_below), (kept.first_order, kept.last_order, None));
    let report = verify(&store.db(), StoreLayout::Rooch, 50).unwrap();
    assert_eq!((report.pruned_below, report.is_sound()), (Some(kept.first_order), false));
    assert_eq!(report.unlisted_faults(), report.missing_nodes - report.faults.len() as u64);
    for fault in &report.faults {
        assert_eq!(fault.to_string().matches(&fault.hash).count(), 1, "{fault}");
    }
}

/// A store of the reference node prunes itself: at rest its readable range would not move with its nodes, and the node
/// would promise states that are gone.
#[test]
fn a_store_of_a_node_is_not_pruned_at_rest() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Tables, 150, 40);
    let at_rest = rig.rest();
    let request = PruneRequest { layout: StoreLayout::Native, ..request(&at_rest.store_dir(), 5) };
    let before = folder::digests(&at_rest.store_dir());
    let error = prune(&request).unwrap_err();
    assert_eq!((error.code(), error.disposition()), ("native_at_rest", Disposition::Input), "{error}");
    assert_eq!(folder::digests(&at_rest.store_dir()), before);
    assert!(verify(&at_rest.store_dir(), StoreLayout::Native, 40).unwrap().is_sound(), "reading is allowed");
    check::complete(&at_rest.wake().chain, "as it was");
}
