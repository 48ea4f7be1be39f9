//! L2, O1, O6, P8, I13: the numbers of a cycle are measured, add up, and mean bytes on disk.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use state_pruner::{
    Certificate, SweepChoice, Trigger,
    cycle::{self, CycleOrder},
    mark::MarkChoice,
    recovery::PhaseRunner,
    sweep::SweepStrategy,
};
use state_store::{Backend, Base, Batch, Commit, KeyRange, RocksBackend, Store};
use state_tests::{
    chain::STORE,
    check,
    hooks::Hooks,
    rig::{Engine, Rig, SMALL, WAYS},
    workload::Profile,
};
use state_tree::{Created, Delta, StateRoot};

/// Bytes of the files that hold nodes; rows are too small for blob files.
fn files(backend: &dyn Backend) -> u64 {
    backend.flush().unwrap();
    let tables: u64 = backend.node_files().unwrap().iter().map(|file| file.bytes).sum();
    tables + backend.space().unwrap().blobs
}

/// A store that never held anything but these nodes.
fn fresh_copy(dir: &Path, of: &Rig) -> u64 {
    let created: BTreeMap<_, _> = check::nodes(&of.chain.store)
        .into_iter()
        .map(|(hash, bytes)| (hash, Created { bytes, places: 1, below: None, sole: false }))
        .collect();
    let backend = std::sync::Arc::new(RocksBackend::open(&dir.join("fresh"), &SMALL).unwrap());
    let store = Store::open(backend.clone(), STORE).unwrap();
    let delta = Delta {
        parent: StateRoot::EMPTY,
        root: of.chain.archive.root(of.chain.head()),
        created,
        replaced: Vec::new(),
        dropped: Vec::new(),
        adopted: Vec::new(),
        astray: false,
    };
    let commit = Commit {
        base: Base::Genesis,
        delta: Arc::new(delta),
        timestamp_ms: 0,
        block_hash: [0; 32],
        rows: Batch::new(),
    };
    store.commit(commit).unwrap();
    backend.flush().unwrap();
    backend.rewrite_nodes(&KeyRange::ALL).unwrap();
    files(&*backend)
}

#[test]
fn physical_size_after_a_cycle_is_close_to_a_fresh_copy() {
    for sweep in [SweepChoice::Filter, SweepChoice::Delete] {
        let rig = Rig::new(Engine::Rocks);
        rig.chain.grow(Profile::Uniform, 140, 400);
        rig.backend.flush().unwrap();
        let before = files(&*rig.backend);
        let certificate = rig.cycle(&rig.plan(20).by(MarkChoice::Scan, sweep)).certificate;
        check::exact(&rig.chain, &format!("{sweep:?}"));
        let (after, fresh) = (files(&*rig.backend), fresh_copy(rig.store_dir().parent().unwrap(), &rig));
        println!("{sweep:?}: {before} bytes before, {after} after, {fresh} in a fresh copy");
        assert!(certificate.sweep.reclaimed);
        assert!(before > 2 * fresh, "the test needs garbage");
        assert!(after as f64 <= fresh as f64 * 1.25, "{sweep:?}: {after} bytes are left where {fresh} would do");
    }
}

/// A cycle beside commits leaves the tombstones of little garbage to the engine, unless somebody waits for the
/// space, or the store is small (L3).
#[test]
fn a_store_is_rewritten_where_it_is_small_or_much_of_it_is_garbage_or_somebody_waits_for_the_space() {
    use Trigger::{Garbage, LowDisk, Operator, Orders, Rollback, Schedule};
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Uniform, 144, 200);
    let cycles =
        [(190, Garbage), (170, Orders), (165, Rollback), (160, Operator), (60, Garbage), (55, LowDisk), (5, Schedule)];
    let taken = cycles.map(|(keep_last, trigger)| {
        let mut plan = rig.plan(keep_last).by(MarkChoice::Scan, SweepChoice::Auto);
        plan.config.small_store = if trigger == Rollback { 1 << 30 } else { 0 };
        let order = CycleOrder { trigger, ..plan.order() };
        let certificate = cycle::run(&rig.env(&plan, &Hooks::none()), &order, &PhaseRunner::Once).unwrap().certificate;
        let (mark, sweep) = (certificate.mark.unwrap(), certificate.sweep);
        let (present, dead) = (mark.present_nodes.unwrap(), mark.present_nodes.unwrap() - mark.live_nodes);
        let least = if matches!(trigger, LowDisk | Operator | Rollback) { 200 } else { 4 };
        let expected = if dead * least < present { SweepStrategy::Delete } else { SweepStrategy::Filter };
        assert_eq!(sweep.strategy, expected, "{trigger:?}: {dead} of {present}: {}", sweep.why);
        assert_eq!((sweep.reclaimed, sweep.deleted), (expected == SweepStrategy::Filter, dead), "{}", sweep.why);
        check::exact(&rig.chain, &format!("seed 144, keep {keep_last}"));
        expected
    });
    use SweepStrategy::{Delete, Filter};
    assert_eq!(
        taken,
        [Delete, Delete, Filter, Filter, Filter, Filter, Filter],
        "the test needs both ways, for each reason"
    );
}

/// L2: whoever waits for the space gets that of deletes that the engine has not compacted over yet, too.
#[test]
fn a_cycle_that_somebody_waits_for_gives_the_space_of_earlier_deletes_back() {
    for waits in [Trigger::LowDisk, Trigger::Operator] {
        let rig = Rig::new(Engine::Rocks);
        rig.chain.grow(Profile::Uniform, 145, 200);
        let mut plan = rig.plan(150).by(MarkChoice::Scan, SweepChoice::Auto);
        plan.config.small_store = 0;
        let cycle = |trigger| {
            let order = CycleOrder { trigger, ..plan.order() };
            cycle::run(&rig.env(&plan, &Hooks::none()), &order, &PhaseRunner::Once).unwrap().certificate.sweep
        };
        let deletes = || {
            rig.backend.flush().unwrap();
            rig.backend.node_files().unwrap().iter().map(|file| file.deletes).sum::<u64>()
        };
        let first = cycle(Trigger::Garbage);
        assert_eq!((first.strategy, first.reclaimed), (SweepStrategy::Delete, false), "{}", first.why);
        assert!(deletes() >= first.deleted / 2, "the test needs tombstones: {}", deletes());
        let second = cycle(waits);
        assert_eq!((second.strategy, deletes()), (SweepStrategy::Nothing, 0), "{}", second.why); // or the engine was faster
        check::exact(&rig.chain, &format!("seed 145, {waits:?}"));
    }
}

/// O6: nothing to delete is an outcome of its own, with its reason, and never a sweep that claims to have worked.
#[test]
fn a_run_without_effect_does_not_report_success() {
    for (mark, sweep) in WAYS {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Tables, 142, 40);
        let plan = rig.plan(6).by(mark, sweep);
        let first = rig.cycle(&plan).certificate.sweep;
        assert!(first.strategy != SweepStrategy::Nothing && first.deleted > 0, "{mark:?} {sweep:?}: {first:?}");
        let second = rig.cycle(&plan).certificate;
        assert_eq!((second.deleted, second.sweep.deleted), (0, 0), "{mark:?} {sweep:?}");
        if second.mark.as_ref().is_some_and(|mark| mark.present_nodes.is_some()) {
            assert_eq!(second.sweep.strategy, SweepStrategy::Nothing, "{mark:?} {sweep:?}: {:?}", second.sweep);
            assert!(second.sweep.why.contains("every node present is live"), "{}", second.sweep.why);
            assert!(!second.sweep.reclaimed, "{mark:?} {sweep:?}");
        }
    }
}

/// P8: between two moments of a sweep by batches the store loses one batch at most.
#[test]
fn a_batch_never_exceeds_its_entry_and_byte_limits() {
    const MOST: usize = 7;
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 143, 60);
    let before = check::present(&rig.chain.store).len();
    let chain = rig.chain.clone();
    let (mut last, batches) = (before, Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&batches);
    let hooks = Hooks::new(move |_| {
        let now = check::present(&chain.store).len();
        if now < last {
            seen.lock().push(last - now);
            last = now;
        }
    });
    let plan = rig.plan(5).in_order().batches(MOST);
    let certificate = plan.run(&rig.env(&plan, &hooks)).unwrap().certificate;
    let batches = batches.lock();
    // A key is 32 bytes, so the limit on entries is one on bytes.
    assert!(batches.iter().all(|batch| *batch <= MOST), "{batches:?}");
    assert_eq!(batches.iter().sum::<usize>() as u64, certificate.deleted);
    assert!(batches.len() > 10 && batches.contains(&MOST), "{batches:?}");
}

#[test]
fn the_numbers_of_a_certificate_are_those_of_the_store() {
    for (mark, sweep) in WAYS {
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Tables, 141, 40);
        let before = check::present(&rig.chain.store).len() as u64;
        let finished = rig.cycle(&rig.plan(6).by(mark, sweep));
        let live = check::present(&rig.chain.store);
        let certificate = &finished.certificate;
        let context = format!("{mark:?} {sweep:?}");
        assert_eq!(certificate.live_nodes, live.len() as u64, "{context}");
        assert_eq!(certificate.deleted + certificate.live_nodes, before, "{context}");
        let mut digest = Sha256::new();
        live.iter().for_each(|hash| digest.update(hash.fingerprint().to_be_bytes()));
        assert_eq!(certificate.live_digest, hex::encode(digest.finalize()), "{context}");
        assert_eq!((certificate.retained.first_order, certificate.retained.last_order), (34, 39), "{context}");
        let written: Certificate = serde_json::from_slice(&fs::read(&finished.path).unwrap()).unwrap();
        assert_eq!(&written, certificate, "the file says what the run said");
    }
}
