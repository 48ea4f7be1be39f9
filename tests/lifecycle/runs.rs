//! C1, C7, S11, S54: one prune after another of the same store at rest, and what comes between them.

use std::{
    collections::BTreeSet,
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Certificate, Control, FolderRecords, Observer, Place, Progress, PruneError, RecordKey, Records, Stage, SweepChoice,
    Verdict,
    catalog::{self, CatalogError, CatalogRetention, CreateRequest, Created, SnapshotId, Source},
    mark::MarkChoice,
    offline::{self, Frozen, HealthRequest, PruneOutcome, PruneRequest, Steering, StoreLayout},
    phase::PhaseRecord,
};
use state_store::{Backend, RocksBackend, RocksConfig, View};
use state_tests::{
    damage, folder,
    offline::{alone, prune, request, verify, watched},
    shared::{Expected, RoochStore, Shared},
    warnings::warnings,
};
use state_tree::{NodeHash, NodeLayout, Order, RoochLayout};

use crate::{cycles_told, end_is_told};

/// Makes a snapshot of the last orders of a store, in a catalog of its own.
fn snapshot(store: &RoochStore, orders: u64) -> Result<Created, CatalogError> {
    let dir = tempfile::tempdir().unwrap();
    let steering = alone();
    let id = SnapshotId::draw(&*steering.clock);
    let catalog = dir.path().join("catalog");
    let request = CreateRequest { catalog: &catalog, id, retention: CatalogRetention::ALL };
    let orders = NonZeroU64::new(orders).unwrap();
    catalog::create(&request, &Source::Rest { db: &store.db(), layout: StoreLayout::Rooch, orders }, &steering)
}

fn expected(store: &RoochStore, keep_last: u64) -> Expected {
    store.windows().into_iter().find(|expected| expected.keep_last == keep_last).unwrap()
}

fn certificate(outcome: &PruneOutcome) -> Certificate {
    serde_json::from_slice(&fs::read(outcome.certificate.as_ref().unwrap()).unwrap()).unwrap()
}

/// Acts once, when a stage has got somewhere.
struct Once<F> {
    stage: Stage,
    over: AtomicBool,
    act: F,
}

impl<F: Fn() + Send + Sync> Observer for Once<F> {
    fn progress(&self, progress: Progress) {
        if progress.stage == self.stage && progress.done > 0 && !self.over.swap(true, Ordering::AcqRel) {
            (self.act)();
        }
    }
}

pub(crate) fn once(stage: Stage, act: impl Fn() + Send + Sync + 'static) -> Arc<dyn Observer> {
    Arc::new(Once { stage, over: AtomicBool::new(false), act })
}

/// Stops a prune once its sweep has deleted something.
fn stopping_in_the_sweep() -> Steering {
    let control = Arc::new(Control::default());
    let stop = Arc::clone(&control);
    let observer = once(Stage::Sweep, move || stop.stop());
    Steering { control, ..watched(observer) }
}

#[test]
fn a_prune_that_was_stopped_goes_on_as_the_same_cycle_and_ends_exactly() {
    let Some(store) = Shared::Medium.copy("a stopped prune") else {
        return;
    };
    let expected = expected(&store, 10);
    let request = PruneRequest { sweep: SweepChoice::Delete, ..request(&store.db(), 10) };
    let stopped = offline::prune(&request, &stopping_in_the_sweep()).unwrap_err();
    assert!(matches!(stopped, PruneError::Stopped), "{stopped}");
    let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
    let leaked = report.leaked_nodes.unwrap();
    assert!(report.is_sound() && leaked > 0, "stopped in the middle: {report:?}");
    assert!(leaked < store.number("total_nodes") - expected.live_nodes, "and something was deleted");
    let certificates = offline::default_state_dir(&store.db()).join("certificates");
    assert!(!certificates.exists(), "an interrupted cycle has no certificate");
    let copy = tempfile::tempdir().unwrap();
    let wider = copy.path().join("store");
    folder::copy(&store.db(), &wider);
    folder::copy(&offline::default_state_dir(&store.db()), &offline::default_state_dir(&wider));
    let error = prune(&state_tests::offline::request(&wider, 100)).unwrap_err();
    assert_eq!(error.code(), "pruned_before", "what an interrupted prune deleted is no damage either: {error}");

    let outcome = prune(&request).unwrap();
    let certificate = certificate(&outcome);
    assert_eq!(certificate.cycle, 1, "the cycle that was stopped");
    assert_eq!((outcome.sweep.deleted, certificate.sweep.deleted), (leaked, leaked), "this run");
    let all = store.number("total_nodes") - expected.live_nodes;
    assert_eq!((outcome.resumed_cycle, outcome.deleted, certificate.deleted), (Some(1), all, all), "both runs");
    let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
    assert_eq!((report.present_sha256, report.leaked_nodes), (Some(expected.live_sha256), Some(0)));
}

/// C6: a large store is walked for hours.
#[test]
fn a_prune_that_was_stopped_while_it_walked_goes_on_there_and_ends_exactly() {
    let Some(store) = Shared::Medium.copy("a prune that was stopped while it walked") else {
        return;
    };
    let expected = expected(&store, 100);
    let (mark, note_every) = (MarkChoice::Walk, Some(Duration::ZERO));
    let request = PruneRequest { mark, note_every, memory_budget: 16 << 20, ..request(&store.db(), 100) };
    let control = Arc::new(Control::default());
    let stop = Arc::clone(&control);
    let observer = once(Stage::Mark, move || stop.stop());
    let stopped = offline::prune(&request, &Steering { control, ..watched(observer) }).unwrap_err();
    assert!(matches!(stopped, PruneError::Stopped), "{stopped}");
    let outcome = prune(&request).unwrap();
    let certificate = certificate(&outcome);
    assert_eq!((certificate.cycle, certificate.live_nodes), (1, expected.live_nodes), "the cycle that was stopped");
    assert_eq!(certificate.mark.as_ref().unwrap().why, "an earlier process had begun to walk");
    let report = verify(&store.db(), StoreLayout::Rooch, 100).unwrap();
    assert_eq!((report.present_sha256, report.leaked_nodes), (Some(expected.live_sha256), Some(0)));
    let left = folder::with_ending(&offline::default_state_dir(&store.db()), "walk");
    assert!(left.is_empty(), "nothing of it is left: {left:?}");
}

/// A process that is killed between a batch of deletes and the record of it: the next one cannot know of the batch, and
/// its certificate counts it all the same, whichever way it goes on.
#[test]
fn a_killed_prune_is_counted_exactly_by_the_one_that_goes_on() {
    for sweep in [SweepChoice::Delete, SweepChoice::Filter] {
        let Some(store) = Shared::Medium.copy("a killed prune") else {
            return;
        };
        let expected = expected(&store, 10);
        let request = PruneRequest { sweep: SweepChoice::Delete, ..request(&store.db(), 10) };
        offline::prune(&request, &stopping_in_the_sweep()).unwrap_err();
        let records = FolderRecords(offline::default_state_dir(&store.db()));
        let record = PhaseRecord::load(&records).unwrap().unwrap();
        assert!(record.deleted > 0, "{record:?}");
        PhaseRecord { deleted: 0, cursor: None, ..record }.save(&records).unwrap();

        let outcome = prune(&PruneRequest { sweep, ..request }).unwrap();
        let all = store.number("total_nodes") - expected.live_nodes;
        assert_eq!(
            (outcome.resumed_cycle, outcome.deleted, outcome.sweep.kept),
            (Some(1), all, Some(expected.live_nodes)),
            "{sweep:?}"
        );
        assert!(outcome.sweep.deleted < all, "{sweep:?}: this run deleted the rest");
    }
}

/// A prune of a short window that was interrupted deleted nothing that a longer window misses, if that one marks to its
/// end: from then on the longer window is what is whole.
#[test]
fn a_window_that_was_marked_to_its_end_is_whole_whatever_was_interrupted_before() {
    let Some(store) = Shared::Medium.copy("an interrupted shorter window") else {
        return;
    };
    let Some(shorter) = Shared::Medium.copy("the shorter window") else {
        return;
    };
    // As a prune to one order leaves it that died before it had deleted anything.
    prune(&request(&shorter.db(), 1)).unwrap();
    let floor_of = |store: &RoochStore| FolderRecords(offline::default_state_dir(&store.db())).load(RecordKey::Floor);
    let of_one = floor_of(&shorter).unwrap().unwrap();
    fs::create_dir(offline::default_state_dir(&store.db())).unwrap();
    FolderRecords(offline::default_state_dir(&store.db())).save(RecordKey::Floor, &of_one).unwrap();

    prune(&request(&store.db(), 100)).unwrap();
    assert_ne!(floor_of(&store).unwrap(), Some(of_one));
    let health = offline::health_of_store(&HealthRequest::new(&store.db(), None)).unwrap();
    assert_eq!(health.verdict, Verdict::Healthy, "{health:?}");
    assert_eq!(verify(&store.db(), StoreLayout::Rooch, 100).unwrap().pruned_below, None);
    let error = prune(&request(&store.db(), 101)).unwrap_err();
    assert!(matches!(error, PruneError::PrunedBefore { floor: 200, left: 100, .. }), "{error}");
}

/// S54: what an earlier prune deleted is not damage, and damage is not what an earlier prune deleted.
#[test]
fn a_missing_node_is_classified_by_the_recorded_window() {
    for mark in [MarkChoice::Scan, MarkChoice::Walk] {
        let Some(store) = Shared::Small.copy("a widened window") else {
            return;
        };
        prune(&request(&store.db(), 1)).unwrap();
        let error = prune(&PruneRequest { mark, ..request(&store.db(), 10) }).unwrap_err();
        assert_eq!(error.code(), "pruned_before", "{mark:?}: {error}");
        let again = prune(&PruneRequest { mark, ..request(&store.db(), 10) }).unwrap_err();
        assert_eq!(again.code(), "pruned_before", "{mark:?}: a refusal makes nobody forget it");
        let last = store.number("last_order");
        let told = matches!(&error, PruneError::PrunedBefore { floor, left: 1, .. } if *floor == last);
        assert!(told, "{mark:?}: {error}");
        assert!(error.to_string().contains(&last.to_string()), "{error}");
        let refused = snapshot(&store, 10).unwrap_err();
        assert_eq!(
            refused.code(),
            "pruned_before",
            "{mark:?}: nor is it where a snapshot asks for too much: {refused}"
        );
        assert!(!refused.to_string().contains("is damaged"), "{refused}");
        snapshot(&store, 1).unwrap();

        prune(&request(&store.db(), 1)).unwrap();
        let head = NodeHash::from_hex(store.expected["head_root"].as_str().unwrap()).unwrap();
        damage::remove_node(&store.db(), head.as_bytes());
        let error = prune(&PruneRequest { mark, ..request(&store.db(), 1) }).unwrap_err();
        assert_eq!(error.code(), "missing_live_node", "{mark:?}: {error}");
    }
}

/// I8: what a damaged record said is unknown; nobody overwrites it unseen, and nobody takes what is missing for pruned.
#[test]
fn a_damaged_floor_is_named_with_its_path_and_kept_aside_by_the_next_prune() {
    let Some(store) = Shared::Small.copy("a damaged floor") else {
        return;
    };
    prune(&request(&store.db(), 5)).unwrap();
    let records = FolderRecords(offline::default_state_dir(&store.db()));
    let Place::File(path) = records.place(RecordKey::Floor) else { panic!("a store at rest keeps files") };
    let damaged = [fs::read(&path).unwrap().as_slice(), b"torn"].concat();
    fs::write(&path, &damaged).unwrap();

    let health = offline::health_of_store(&HealthRequest::new(&store.db(), None)).unwrap();
    assert_eq!(
        (health.verdict, health.reasons[0].code.as_str()),
        (Verdict::Degraded, "record_unreadable"),
        "{health:?}"
    );
    let told = [health.reasons[0].message.clone(), verify(&store.db(), StoreLayout::Rooch, 5).unwrap_err().to_string()];
    for message in told {
        assert!(message.contains(path.to_str().unwrap()) && message.contains("run it with the window"), "{message}");
    }
    let wider = prune(&request(&store.db(), 10)).unwrap_err();
    assert_eq!(wider.code(), "missing_live_node", "nobody knows that it was pruned: {wider}");
    assert_eq!(fs::read(&path).unwrap(), damaged, "a prune that deletes nothing leaves it");

    prune(&request(&store.db(), 5)).unwrap();
    let aside = fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().path());
    let aside: Vec<_> = aside.filter(|file| file.to_string_lossy().contains("floor.record.damaged-")).collect();
    assert_eq!(aside.iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>(), [damaged]);
    let error = prune(&request(&store.db(), 10)).unwrap_err();
    assert_eq!(error.code(), "pruned_before", "the new one is whole: {error}");
}

/// I8, I13: health and a prune agree about each record of a store at rest; what a prune can do without it begins anew, and says so.
#[test]
fn a_torn_record_of_a_store_at_rest_that_stops_a_prune_is_critical_and_no_other_one_stops_it() {
    let Some(store) = Shared::Small.copy("torn records") else {
        return;
    };
    prune(&request(&store.db(), 10)).unwrap();
    let records = FolderRecords(offline::default_state_dir(&store.db()));
    let kept: Vec<_> = RecordKey::ALL.iter().map(|key| (*key, records.load(*key).unwrap())).collect();
    let again = || prune(&request(&store.db(), 10));
    for (key, whole) in &kept {
        let Place::File(path) = records.place(*key) else { panic!("a store at rest keeps files") };
        fs::write(&path, b"torn").unwrap();
        let judged = offline::health_of_store(&HealthRequest::new(&store.db(), None)).unwrap();
        let told: Vec<_> = judged.reasons.iter().map(|reason| reason.message.clone()).collect();
        let (is_critical, pruned) = (judged.verdict == Verdict::Critical, again());
        let stops = [RecordKey::Freeze, RecordKey::LastCycle].contains(key);
        assert_eq!((is_critical, pruned.is_err()), (stops, stops), "{key:?}: {told:?} {pruned:?}");
        if let Err(error) = pruned {
            let error = error.to_string();
            assert!(error.contains(path.to_str().unwrap()), "{key:?}: {error}");
            let says = |words: &str| told.iter().any(|message| message.contains(words));
            assert!(says(path.to_str().unwrap()) && says("estore this file"), "{key:?}: {told:?}");
            assert!(*key != RecordKey::LastCycle || error.contains("Restore this file"), "{error}");
        }
        if *key == RecordKey::Freeze {
            let lifted = prune(&PruneRequest { frozen: Frozen::Lift, ..request(&store.db(), 10) }).unwrap();
            let mark = lifted.mark.unwrap();
            assert!(mark.nodes_rehashed >= mark.live_nodes, "nobody knows what it was for: {mark:?}");
            assert_eq!(health(&store), (Verdict::Healthy, vec![]), "the operator has said that it is lifted");
        }
        let begun_anew = [RecordKey::Snapshot, RecordKey::Phase, RecordKey::LastOutcome];
        if begun_anew.contains(key) {
            assert!(told.iter().any(|message| message.contains(path.to_str().unwrap())), "{key:?}: {told:?}");
            assert_eq!(health(&store), (Verdict::Healthy, vec![]), "{key:?}: the prune has begun it anew");
        }
        match whole {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => records.remove(*key).unwrap(),
        }
    }
}

/// A prune that deletes makes what it works with twice: to mark, and to sweep.
#[test]
fn a_damaged_record_of_the_lock_is_told_once_by_a_prune_and_stops_nobody() {
    let Some(store) = Shared::Small.copy("a damaged record of the lock") else {
        return;
    };
    let records = FolderRecords(offline::default_state_dir(&store.db()));
    for key in [RecordKey::Lock, RecordKey::SnapshotFailures] {
        let Place::File(path) = records.place(key) else { panic!("a store at rest keeps files") };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"torn").unwrap();
    }
    let told = warnings(|| assert!(prune(&request(&store.db(), 5)).unwrap().deleted > 0));
    for says in ["who held the snapshot last is not known", "the failures of earlier snapshots are counted anew"] {
        assert_eq!(told.iter().filter(|line| line.contains(says)).count(), 1, "{says}: {told:#?}");
    }
    assert!(told.iter().any(|line| line.contains("lock.record")), "by its path: {told:#?}");
}

#[test]
fn a_store_that_was_written_between_mark_and_sweep_is_refused_and_nothing_is_deleted() {
    for sweep in [SweepChoice::Filter, SweepChoice::Delete] {
        let Some(store) = Shared::Small.copy("a changed store") else {
            return;
        };
        let before = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
        let db = store.db();
        let observer = once(Stage::Scan, move || damage::put(&db, "transaction", b"key", b"written meanwhile"));
        let request = PruneRequest { mark: MarkChoice::Scan, sweep, ..request(&store.db(), 10) };
        let error = offline::prune(&request, &watched(observer)).unwrap_err();
        assert_eq!(error.code(), "changed", "{sweep:?}: {error}");
        end_is_told(&request, &error);
        let after = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
        assert_eq!((after.present_nodes, &after.present_sha256), (before.present_nodes, &before.present_sha256));
        let expected = expected(&store, 10);
        prune(&request).unwrap();
        let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
        assert_eq!((report.present_sha256, report.leaked_nodes), (Some(expected.live_sha256), Some(0)), "{sweep:?}");
        assert_eq!(health(&store), (Verdict::Healthy, vec![]), "{sweep:?}");
    }
}

/// A writer that comes while the store is marked: the sweep finds it at work, and the mark is kept for when it has gone.
#[test]
fn a_prune_that_a_writer_keeps_from_its_sweep_tells_its_end_and_goes_on_once_that_has_gone() {
    let Some(store) = Shared::Small.copy("a writer between mark and sweep") else {
        return;
    };
    let (db, writer) = (store.db(), Arc::new(Mutex::new(None)));
    let comes = Arc::clone(&writer);
    let observer = once(Stage::Scan, move || *comes.lock() = Some(damage::open(&db)));
    let request = PruneRequest { mark: MarkChoice::Scan, ..request(&store.db(), 10) };
    let error = offline::prune(&request, &watched(observer)).unwrap_err();
    assert_eq!(error.code(), "locked", "{error}");
    end_is_told(&request, &error);
    drop(writer.lock().take());
    assert_eq!(prune(&request).unwrap().resumed_cycle, Some(1));
    let report = verify(&store.db(), StoreLayout::Rooch, 10).unwrap();
    assert_eq!((report.present_sha256, report.leaked_nodes), (Some(expected(&store, 10).live_sha256), Some(0)));
    assert_eq!(health(&store), (Verdict::Healthy, vec![]));
}

/// Two ends of the interrupted cycle: that it was stopped, and that nobody goes on with it.
#[test]
fn an_interrupted_prune_that_the_next_one_does_not_go_on_with_is_told_as_ended() {
    let rows = [
        (10, None, "not_resumable"),
        (100, Some(RecordKey::Snapshot), "record"),
        (100, Some(RecordKey::Phase), "record"),
    ];
    for (keep_last, torn, why) in rows {
        let Some(store) = Shared::Medium.copy("an abandoned prune") else {
            return;
        };
        let stopped = PruneRequest { sweep: SweepChoice::Delete, ..request(&store.db(), 100) };
        let error = offline::prune(&stopped, &stopping_in_the_sweep()).unwrap_err();
        assert!(matches!(error, PruneError::Stopped), "{error}");
        if let Some(key) = torn {
            fs::write(file_of(&store.db(), key), b"torn").unwrap();
        }
        let next = request(&store.db(), keep_last);
        assert_eq!(prune(&next).unwrap().resumed_cycle, None, "{why}");
        let ended = |cycle, outcome: &str| ("cycle_ended".to_owned(), cycle, Some(outcome.to_owned()));
        let begun = |cycle| ("cycle_begun".to_owned(), cycle, None);
        let told = [begun(1), ended(1, "stopped"), ended(1, why), begun(2), ended(2, "finished")];
        assert_eq!(cycles_told(&next), told);
    }
}

/// Where a prune at rest keeps a record.
fn file_of(db: &Path, key: RecordKey) -> PathBuf {
    match FolderRecords(offline::default_state_dir(db)).place(key) {
        Place::File(path) => path,
        place => panic!("{place}: a store at rest keeps files"),
    }
}

fn value(db: &Path, family: &str, key: &[u8]) -> Vec<u8> {
    let store = damage::open(db);
    store.get_cf(store.cf_handle(family).unwrap(), key).unwrap().unwrap()
}

/// Every node below a root, all of which must be there.
fn tree(view: &dyn View, root: NodeHash) -> BTreeSet<NodeHash> {
    let (mut found, mut left) = (BTreeSet::new(), vec![root]);
    while let Some(hash) = left.pop() {
        if found.insert(hash) {
            let bytes = view.node(&hash).unwrap().unwrap_or_else(|| panic!("{hash} is lost"));
            RoochLayout.children(&bytes, &mut left).unwrap();
        }
    }
    found
}

/// S11: two orders share one transaction, so nobody can say which of them its root belongs to. Named as holes, both are
/// reported, and the root in question is kept all the same.
#[test]
fn an_ambiguous_order_that_is_named_as_a_hole_keeps_the_tree_of_its_candidate() {
    for sweep in [SweepChoice::Filter, SweepChoice::Delete] {
        let Some(store) = Shared::Small.copy("an ambiguous order") else {
            return;
        };
        let (db, doubled) = (store.db(), [189u64, 190]);
        let transaction = value(&db, "tx_sequence_info_mapping", &doubled[0].to_le_bytes());
        damage::put(&db, "tx_sequence_info_mapping", &doubled[1].to_le_bytes(), &transaction);
        for order in doubled {
            damage::remove(&db, "state_change_set", &order.to_le_bytes());
        }
        let error = prune(&PruneRequest { sweep, ..request(&db, 10) }).unwrap_err();
        assert_eq!(error.code(), "holes", "{error}");
        let allowed_holes = doubled.map(Order::new).into();
        let outcome = prune(&PruneRequest { sweep, allowed_holes, ..request(&db, 10) }).unwrap();
        assert!(outcome.retained.holes.contains(&190), "{:?}", outcome.retained);
        assert!(outcome.sweep.deleted > 0);
        let view = RocksBackend::open_read_only(&db, &RocksConfig::default()).unwrap().view().unwrap();
        let candidate = NodeHash::from_hex(&store.roots()[189]).unwrap();
        assert!(tree(&*view, candidate).len() > 10, "{sweep:?}");
        let expired = NodeHash::from_hex(&store.roots()[150]).unwrap();
        assert!(view.node(&expired).unwrap().is_none(), "{sweep:?}: another root went");
    }
}

/// What an operator is told by `health-check --db`.
fn health(store: &RoochStore) -> (Verdict, Vec<String>) {
    let health = offline::health_of_store(&HealthRequest::new(&store.db(), None)).unwrap();
    (health.verdict, health.reasons.into_iter().map(|reason| reason.code).collect())
}

/// I8: whoever copies a store leaves what it met there, and health tells it until a prune has settled it.
#[test]
fn damage_that_a_snapshot_met_in_a_store_that_was_never_pruned_is_told_by_its_health() {
    let Some(store) = Shared::Small.copy("a doubt and no cycle") else {
        return;
    };
    let head = NodeHash::from_hex(store.expected["head_root"].as_str().unwrap()).unwrap();
    let bytes = value(&store.db(), "state_node", head.as_bytes());
    damage::remove_node(&store.db(), head.as_bytes());
    assert_eq!(snapshot(&store, 1).unwrap_err().code(), "corrupt");
    let told = offline::health_of_store(&HealthRequest::new(&store.db(), None)).unwrap();
    assert_eq!(health(&store), (Verdict::Degraded, vec!["unproven".to_owned()]));
    for words in ["before any cycle ran", "`prune`", "What was said then: "] {
        assert!(told.reasons[0].message.contains(words), "{words}: {told:?}");
    }
    damage::put(&store.db(), "state_node", head.as_bytes(), &bytes);
    prune(&request(&store.db(), 10)).unwrap();
    assert_eq!(health(&store), (Verdict::Healthy, vec![]));
}

#[test]
fn an_interrupted_prune_at_rest_is_told_from_one_that_runs_and_from_none() {
    for stage in [Stage::Scan, Stage::Sweep] {
        let Some(store) = Shared::Medium.copy("the health of an interrupted prune") else {
            return;
        };
        let unknown = offline::health_of_store(&HealthRequest::new(&store.db(), None)).unwrap_err();
        assert_eq!(unknown.code(), "nothing_known");
        let request = PruneRequest { mark: MarkChoice::Scan, sweep: SweepChoice::Delete, ..request(&store.db(), 10) };
        let control = Arc::new(Control::default());
        let (stop, db, seen) = (Arc::clone(&control), store.db(), Arc::new(Mutex::new(None)));
        let told = Arc::clone(&seen);
        let observer = once(stage, move || {
            *told.lock() = Some(offline::health_of_store(&HealthRequest::new(&db, None)).unwrap());
            stop.stop();
        });
        let stopped = offline::prune(&request, &Steering { control, ..watched(observer) }).unwrap_err();
        assert!(matches!(stopped, PruneError::Stopped), "{stage:?}: {stopped}");
        let seen = seen.lock().take().unwrap();
        assert_eq!((seen.verdict, seen.reasons[0].code.as_str()), (Verdict::Healthy, "running"), "{stage:?}");
        assert!(seen.reasons[0].message.contains(&std::process::id().to_string()), "{stage:?}: {seen:?}");
        assert_eq!(health(&store), (Verdict::Degraded, vec!["interrupted".to_owned()]), "{stage:?}");

        prune(&request).unwrap();
        assert_eq!(health(&store), (Verdict::Healthy, vec![]), "{stage:?}");
        assert_eq!(prune(&state_tests::offline::request(&store.db(), 100)).unwrap_err().code(), "pruned_before");
        assert_eq!(health(&store), (Verdict::Healthy, vec![]), "{stage:?}: a window too wide is no fault of the store");
    }
}
