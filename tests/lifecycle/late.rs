//! L7, life cycle 7: a prune that comes late, to a database that Rooch wrote for years, with what its own pruners left in it.

use std::collections::BTreeMap;

use rocksdb::{DB, IteratorMode, Options};
use state_pruner::{SweepChoice, mark::MarkChoice, offline::PruneRequest, offline::StoreLayout};
use state_tests::{
    damage,
    offline::{prune, request, verify},
    shared::Shared,
};

/// Families that pruners of Rooch made and that nobody reads any more, each with a row as they wrote it.
fn leftovers() -> [(&'static str, Vec<u8>, Vec<u8>); 6] {
    let order_and_node = [[0; 24].as_slice(), &7u64.to_be_bytes(), &[0xab; 32]].concat();
    [
        ("reach_seen", vec![0xab; 32], vec![1]),
        ("smt_stale", order_and_node, vec![0]),
        ("node_refcount", vec![0xab; 32], 0u32.to_le_bytes().to_vec()),
        ("prune_meta_phase", b"phase".to_vec(), vec![1]),
        ("prune_meta_snapshot", b"meta_snapshot".to_vec(), vec![0; 40]),
        ("gc_marker_temp", b"marker".to_vec(), vec![0xff; 128]),
    ]
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Every family but the nodes, row by row.
fn families(db: &DB, names: &[String]) -> BTreeMap<String, Rows> {
    let rows = |name: &str| db.iterator_cf(db.cf_handle(name).unwrap(), IteratorMode::Start).map(Result::unwrap);
    let rows = |name: &String| (name.clone(), rows(name).map(|(key, value)| (key.into(), value.into())).collect());
    names.iter().filter(|name| *name != "state_node").map(rows).collect()
}

#[test]
fn enabling_late_on_an_old_rooch_database() {
    for (mark, sweep) in [(MarkChoice::Scan, SweepChoice::Filter), (MarkChoice::Walk, SweepChoice::Delete)] {
        let Some(store) = Shared::Medium.copy("an old database") else {
            return;
        };
        let mut old = damage::open(&store.db());
        for (family, key, value) in leftovers() {
            old.create_cf(family, &Options::default()).unwrap();
            old.put_cf(old.cf_handle(family).unwrap(), key, value).unwrap();
        }
        let restored = [&[0x20], [0xcd; 66].as_slice()].concat(); // as a restore from the recycle bin left it
        old.put_cf(old.cf_handle("state_node").unwrap(), &restored, b"no node").unwrap();
        old.flush_cf(old.cf_handle("state_node").unwrap()).unwrap();
        let names = DB::list_cf(&Options::default(), store.db()).unwrap();
        let before = families(&old, &names);
        drop(old);

        let request = PruneRequest { mark, sweep, ..request(&store.db(), 10) };
        prune(&request).unwrap();
        let context = format!("{mark:?} {sweep:?}");
        let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
        let expected = store.windows().into_iter().find(|expected| expected.keep_last == 10).unwrap();
        assert_eq!((report.present_sha256, report.leaked_nodes), (Some(expected.live_sha256), Some(0)), "{context}");
        assert_eq!(DB::list_cf(&Options::default(), store.db()).unwrap(), names, "{context}: no family came or went");
        let after = damage::open(&store.db());
        assert_eq!(families(&after, &names), before, "{context}: what is not ours is as it was");
        let kept = after.get_cf(after.cf_handle("state_node").unwrap(), &restored).unwrap();
        assert_eq!(kept.as_deref(), Some(b"no node".as_slice()), "{context}: a foreign row is kept (I8)");
    }
}
