//! I7, I9, C1, C6, C7, C9, C19, C20: a cycle that is stopped goes on where it was, or is given up whole.

use std::{
    fs,
    num::NonZeroU64,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use parking_lot::Mutex;
use state_pruner::{
    Control, Doubted, Outcome, PruneError, StoreRecords, SweepChoice, Trigger,
    cycle::{self, CycleEnv, CycleOrder, Finished},
    mark::{MarkChoice, MarkIdentity, SealedMark},
    phase::{PhaseRecord, PrunePhase},
    recovery::PhaseRunner,
    sweep::SweepStrategy,
};
use state_store::{Batch, Durability, StoreConfig, StoreError};
use state_tests::{
    archive::orders,
    chain::STORE,
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Plan, Rig, WAYS},
    workload::{Profile, Workload, key, leaf, paths},
};
use state_tree::{Changes, NodeHash, Order};

/// Ends the work at the n-th moment.
#[derive(Clone, Default)]
pub(crate) struct StopAt {
    control: Arc<Mutex<Option<Arc<Control>>>>,
    seen: Arc<AtomicUsize>,
}

impl StopAt {
    fn hooks(&self, at: usize) -> Hooks {
        let this = self.clone();
        Hooks::new(move |_| {
            if this.seen.fetch_add(1, Ordering::AcqRel) == at {
                this.control.lock().as_ref().unwrap().stop();
            }
        })
    }

    /// Runs a cycle that is told to stop at moment `at`; returns how it ended and how many moments it had.
    pub(crate) fn run(rig: &Rig, plan: &Plan, at: usize) -> (Result<Finished, PruneError>, usize) {
        let stop = Self::default();
        let env = rig.env(plan, &stop.hooks(at));
        *stop.control.lock() = Some(Arc::clone(&env.control));
        let ended = plan.run(&env);
        (ended, stop.seen.load(Ordering::Acquire))
    }
}

fn quiet(rig: &Rig, plan: &Plan) -> CycleEnv {
    rig.env(plan, &Hooks::none())
}

fn grown(profile: Profile, seed: u64) -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(profile, seed, 30);
    rig
}

fn certificates(rig: &Rig) -> usize {
    fs::read_dir(rig.state_dir().join("certificates")).map_or(0, |entries| entries.count())
}

/// The number of the first moment of the sweep after which something was deleted and something is left to delete.
fn middle_of_the_sweep(rig: &Rig, plan: &Plan) -> usize {
    (0..)
        .find(|at| {
            let twin = rig.twin();
            let before = check::present(&twin.chain.store).len();
            let (ended, _) = StopAt::run(&twin, &plan_of(&twin, plan), *at);
            assert!(ended.is_err(), "the cycle ended before it was caught in the middle");
            let now = check::present(&twin.chain.store).len();
            now < before && now > check::needed(&twin.chain).len() + 20
        })
        .unwrap()
}

/// The same plan with the folder of another rig.
fn plan_of(rig: &Rig, plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    plan.config.state_dir = rig.state_dir();
    plan
}

/// Both ways to sweep.
const SWEEPS: [SweepChoice; 2] = [SweepChoice::Filter, SweepChoice::Delete];

/// Stopped in the middle of its delete batches.
fn stopped(seed: u64) -> (Rig, Plan) {
    stopped_in(SweepChoice::Delete, seed)
}

/// Stopped in the middle of its sweep.
fn stopped_in(sweep: SweepChoice, seed: u64) -> (Rig, Plan) {
    let rig = grown(Profile::Tables, seed);
    let plan = rig.plan(5).in_order().batches(25).by(MarkChoice::Auto, sweep);
    let at = middle_of_the_sweep(&rig, &plan);
    let (ended, _) = StopAt::run(&rig, &plan, at);
    assert!(matches!(ended, Err(PruneError::Stopped)), "{ended:?}");
    (rig, plan)
}

/// Life cycle row 2, C1, C20: wherever a stop comes, the cycle ends at once, is not reported complete, and the next
/// start ends like a cycle that nothing stopped.
#[test]
fn clean_restart_in_each_phase() {
    let base = grown(Profile::Toggle, 61);
    for (mark, sweep) in WAYS {
        for at in 0.. {
            let rig = base.twin();
            let plan = rig.plan(6).in_order().batches(15).noted().by(mark, sweep);
            let context = format!("{mark:?} {sweep:?} moment {at}");
            let (ended, moments) = StopAt::run(&rig, &plan, at);
            if moments <= at {
                assert!(at > 3 && ended.is_ok(), "{context}");
                break;
            }
            if let Err(error) = ended {
                assert!(matches!(error, PruneError::Stopped), "{context}: {error}");
                assert_eq!(certificates(&rig), 0, "{context}: an interrupted cycle has no certificate");
                assert!(Outcome::load(&*quiet(&rig, &plan).parts.records).unwrap().is_none(), "{context}");
            }
            let rig = rig.restart();
            check::complete(&rig.chain, &context);
            let env = quiet(&rig, &plan);
            plan.resume(&env).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(PhaseRecord::load(&*env.parts.records).unwrap().is_none(), "{context}: nothing is left open");
            check::complete(&rig.chain, &context);
            rig.cycle(&plan);
            check::exact(&rig.chain, &context);
        }
    }
}

/// C6: a cycle that ends while it walks goes on there, with the roots and the barrier of its own snapshot.
#[test]
fn a_walk_goes_on_after_a_restart_and_its_cycle_ends_like_an_uninterrupted_one() {
    for seed in 80..84 {
        let rig = grown(Profile::Tables, seed);
        let twin = rig.twin();
        let plan = rig.plan(5).in_order().noted().by(MarkChoice::Walk, SweepChoice::Delete);
        let whole = twin.cycle(&plan_of(&twin, &plan)).certificate;
        let mut walked = 0;
        for at in 0.. {
            let rig = rig.twin();
            let plan = plan_of(&rig, &plan);
            let (ended, moments) = StopAt::run(&rig, &plan, at);
            if moments <= at {
                break;
            }
            let records = StoreRecords(Arc::clone(&rig.chain.store));
            let marking = |record: &PhaseRecord| record.phase == PrunePhase::BuildReach;
            let Some(record) = PhaseRecord::load(&records).unwrap().filter(marking) else { continue };
            assert!(ended.is_err());
            let context = format!("seed {seed} moment {at}");
            let rig = rig.restart();
            let dead = rig.chain.archive.all().difference(&check::needed(&rig.chain)).count();
            rig.chain.run(&mut Workload::new(Profile::Tables, seed + 100), 6);
            let Some(resumed) = plan.resume(&quiet(&rig, &plan)).unwrap() else { continue }; // before its first note
            let resumed = resumed.certificate;
            walked += 1;
            assert_eq!((resumed.cycle, resumed.retained), (record.cycle, whole.retained.clone()), "{context}");
            assert_eq!((&resumed.live_digest, resumed.live_nodes), (&whole.live_digest, whole.live_nodes), "{context}");
            assert!(resumed.deleted <= dead as u64, "{context}");
            check::complete(&rig.chain, &context);
            rig.cycle(&plan);
            check::exact(&rig.chain, &context);
        }
        assert!(walked > 1, "seed {seed}: {walked} walks went on");
    }
}

/// Whatever its walk was made from and has changed since: the cycle is given up, and nothing is deleted.
#[test]
fn a_walk_does_not_go_on_where_what_it_was_made_from_has_changed() {
    type Change = fn(&Rig, &mut Plan);
    let changes: [(&str, Change); 5] = [
        ("retention", |_, plan| plan.keep_last = NonZeroU64::new(4).unwrap()),
        ("floor", |rig, _| rig.chain.store.raise_floor(Order::new(28), Batch::new()).unwrap()),
        ("record", |rig, _| spoil(rig, "walk")),
        ("damage", |rig, _| {
            let (hash, records) = (NodeHash::new([1; 32]), StoreRecords(Arc::clone(&rig.chain.store)));
            let missing = PruneError::MissingLiveNode { hash, path: Vec::new() };
            Doubted::remember(&missing, &records).unwrap();
        }),
        ("snapshot", |rig, _| {
            let records = StoreRecords(Arc::clone(&rig.chain.store));
            let record = PhaseRecord::load(&records).unwrap().unwrap();
            PhaseRecord { integrity_hash: [9; 32], ..record }.save(&records).unwrap();
        }),
    ];
    for (what, change) in changes {
        let rig = walking(85);
        let mut plan = rig.plan(5).in_order().noted().by(MarkChoice::Walk, SweepChoice::Delete);
        let rig = rig.restart();
        change(&rig, &mut plan);
        let before = check::nodes(&rig.chain.store);
        let env = quiet(&rig, &plan);
        let resumed = plan.resume(&env);
        assert!(matches!(resumed, Ok(None)), "{what}: {resumed:?}");
        assert_eq!(check::nodes(&rig.chain.store), before, "{what}");
        assert!(PhaseRecord::load(&*env.parts.records).unwrap().is_none(), "{what}: the cycle is given up");
        rig.cycle(&plan);
        check::exact(&rig.chain, what);
    }
}

/// A file of the visited set has a flipped bit: marking begins anew, in the same cycle where somebody tries it again.
#[test]
fn a_walk_whose_visited_set_is_damaged_deletes_nothing() {
    let rig = walking(86);
    let plan = rig.plan(5).in_order().noted().by(MarkChoice::Walk, SweepChoice::Delete);
    let rig = rig.restart();
    spoil(&rig, "tmp");
    let before = check::nodes(&rig.chain.store);
    let env = quiet(&rig, &plan);
    let error = plan.resume(&env).unwrap_err();
    assert!(matches!(error, PruneError::BadMark { .. }), "{error}");
    assert_eq!(check::nodes(&rig.chain.store), before);
    rig.cycle(&plan);
    check::exact(&rig.chain, "seed 86");
}

/// P22: more was created since than the barrier remembers, which is found before the walk goes on, not hours later.
#[test]
fn a_walk_does_not_go_on_where_its_barrier_has_no_room() {
    let rig = walking(87);
    let plan = rig.plan(5).in_order().noted().by(MarkChoice::Walk, SweepChoice::Delete);
    rig.chain.run(&mut Workload::new(Profile::Tables, 187), 6);
    let before = check::nodes(&rig.chain.store);
    let rig = rig.rest().with(StoreConfig { barrier_limit: 10, ..STORE }).wake();
    let walked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&walked);
    let hooks = Hooks::new(move |moment| {
        counted.fetch_add(usize::from(matches!(moment, Moment::Progress(_))), Ordering::Relaxed);
    });
    let env = rig.env(&plan, &hooks);
    let resumed = plan.resume(&env);
    assert!(matches!(resumed, Err(PruneError::BadSnapshot { .. })), "{resumed:?}");
    assert_eq!((walked.load(Ordering::Relaxed), check::nodes(&rig.chain.store)), (0, before));
    rig.cycle(&plan);
    check::exact(&rig.chain, "seed 87");
}

/// Stopped while it walks, after a note.
fn walking(seed: u64) -> Rig {
    walking_from(&grown(Profile::Tables, seed))
}

/// The same of a copy of a chain, by a cycle that keeps five orders.
pub(crate) fn walking_from(base: &Rig) -> Rig {
    let plan = base.plan(5).in_order().noted().by(MarkChoice::Walk, SweepChoice::Delete);
    let stopped = |at: usize| {
        let rig = base.twin();
        drop(StopAt::run(&rig, &plan_of(&rig, &plan), at).0.unwrap_err());
        rig
    };
    let walks = |rig: &Rig| {
        let record = PhaseRecord::load(&StoreRecords(Arc::clone(&rig.chain.store))).unwrap();
        let marking = record.is_some_and(|record| record.phase == PrunePhase::BuildReach);
        marking && ["walk", "tmp"].iter().all(|kind| !files_of(rig, kind).is_empty())
    };
    (0..).map(stopped).find(walks).unwrap()
}

fn files_of(rig: &Rig, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(rig.state_dir()).map_or_else(|_| Vec::new(), |entries| entries.collect());
    let paths = entries.into_iter().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|end| end == kind)).collect()
}

fn spoil(rig: &Rig, kind: &str) {
    for path in files_of(rig, kind) {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn stop_in_every_phase_returns_within_one_slice() {
    let base = grown(Profile::Uniform, 62);
    for (mark, sweep) in WAYS {
        for at in 0.. {
            let rig = base.twin();
            let plan = rig.plan(6).in_order().batches(60).by(mark, sweep);
            let (ended, moments) = StopAt::run(&rig, &plan, at);
            if moments <= at {
                break;
            }
            let after = moments - at - 1;
            // A slice has a moment when it is judged, one when its record is saved and one when it is shown.
            assert!(after <= 3, "{mark:?} {sweep:?}: {after} more moments after a stop at {at}, {ended:?}");
        }
    }
}

#[test]
fn a_resumed_cycle_ends_like_an_uninterrupted_one() {
    for (seed, sweep) in (70..74).flat_map(|seed| SWEEPS.map(|sweep| (seed, sweep))) {
        let context = format!("{sweep:?} seed {seed}");
        let rig = grown(Profile::Tables, seed);
        let twin = rig.twin();
        let plan = rig.plan(5).in_order().batches(25).by(MarkChoice::Auto, sweep);
        let at = middle_of_the_sweep(&rig, &plan);

        // The same commits at the same point of the sweep, in one process and after a restart.
        let (whole, commits) = (twin.chain.clone(), 6);
        let mut moments = 0;
        let hooks = Hooks::new(move |_| {
            if moments == at {
                whole.run(&mut Workload::new(Profile::Tables, seed + 100), commits);
            }
            moments += 1;
        });
        let plan_of_twin = plan_of(&twin, &plan);
        let uninterrupted = plan_of_twin.run(&twin.env(&plan_of_twin, &hooks)).unwrap().certificate;

        let (ended, _) = StopAt::run(&rig, &plan, at);
        assert!(matches!(ended, Err(PruneError::Stopped)));
        let rig = rig.restart();
        let env = quiet(&rig, &plan);
        rig.chain.run(&mut Workload::new(Profile::Tables, seed + 100), commits);
        let resumed = plan.resume(&env).unwrap().unwrap().certificate;

        assert!(resumed.sweep.ranges > 1 && resumed.sweep.ranges < uninterrupted.sweep.ranges, "{context}");
        assert_eq!(resumed.live_digest, uninterrupted.live_digest, "{context}");
        assert_eq!(resumed.retained, uninterrupted.retained, "{context}");
        assert_eq!(check::nodes(&rig.chain.store), check::nodes(&twin.chain.store), "{context}");
        check::complete(&rig.chain, &context);
    }
}

#[test]
fn a_resumed_run_skips_finished_work_and_counts_it_once() {
    for sweep in SWEEPS {
        let (rig, plan) = stopped_in(sweep, 75);
        let (whole, all) = (grown(Profile::Tables, 75), rig.chain.archive.all());
        let ranges = whole.cycle(&plan_of(&whole, &plan)).certificate.sweep.ranges;
        let dead = all.difference(&check::needed(&rig.chain)).count();
        let left = check::present(&rig.chain.store).len() - check::needed(&rig.chain).len();
        assert!(left > 0 && left < dead, "{sweep:?}: stopped in the middle: {left} of {dead} left");
        let rig = rig.restart();
        let certificate = plan.resume(&quiet(&rig, &plan)).unwrap().unwrap().certificate;
        assert_eq!(certificate.deleted, dead as u64, "{sweep:?}: the whole cycle, before and after the restart");
        assert_eq!(certificate.sweep.deleted, left as u64, "{sweep:?}: this process");
        let slices = certificate.sweep.ranges;
        assert!(slices > 1 && slices < ranges, "{sweep:?}: {slices} of {ranges} slices");
        assert!(sweep == SweepChoice::Filter || slices <= left.div_ceil(25) as u64 + 1, "{slices} slices");
        check::exact(&rig.chain, &format!("{sweep:?} seed 75"));
    }
}

#[test]
fn an_interrupted_cycle_is_never_reported_complete() {
    for sweep in SWEEPS {
        let (rig, plan) = stopped_in(sweep, 92);
        let rig = rig.restart();
        let env = quiet(&rig, &plan);
        let record = PhaseRecord::load(&*env.parts.records).unwrap().unwrap();
        assert_eq!(record.phase, PrunePhase::SweepExpired, "{sweep:?}: running, with a cursor");
        assert!(record.cursor.is_some() && record.deleted > 0, "{sweep:?}: {record:?}");
        assert_eq!((certificates(&rig), Outcome::load(&*env.parts.records).unwrap()), (0, None), "{sweep:?}");
        let finished = plan.resume(&env).unwrap().unwrap();
        assert_eq!((finished.certificate.cycle, certificates(&rig)), (record.cycle, 1), "{sweep:?}");
        assert!(PhaseRecord::load(&*env.parts.records).unwrap().is_none(), "{sweep:?}: complete");
    }
}

/// S27: below the floor a root may still be there while its tree is half gone; it must not look readable.
#[test]
fn an_interrupted_sweep_leaves_no_root_that_only_looks_readable() {
    for sweep in SWEEPS {
        let (rig, _) = stopped_in(sweep, 93);
        let rig = rig.restart();
        check::alike(&rig.chain, &paths(Profile::Tables), &format!("{sweep:?}"));
        let present = check::present(&rig.chain.store);
        let mut half_gone = 0;
        for order in orders(Order::GENESIS, rig.chain.floor()).filter(|order| *order < rig.chain.floor()) {
            let pinned = rig.chain.store.pin(order, "a reader");
            assert!(matches!(pinned, Err(StoreError::Pruned { .. })), "{sweep:?}: order {order}: {pinned:?}");
            let (root, tree) = (rig.chain.archive.root(order), rig.chain.archive.live([order]));
            let root_is_there = root.node().is_some_and(|root| present.contains(&root));
            half_gone += u64::from(root_is_there && !tree.is_subset(&present));
        }
        assert!(half_gone > 0, "{sweep:?}: the test needs roots that stand above a hole");
    }
}

#[test]
fn opening_removes_leftovers_of_dead_cycles_only() {
    let (rig, plan) = stopped(94);
    let files = |rig: &Rig| {
        let entries = fs::read_dir(rig.state_dir()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    let (mark, interrupted) = (sealed_mark(&rig), files(&rig));
    let dead = ["mark-00000000000000ff.sealed", "mark-00000000000000fe-3.tmp"];
    let foreign = ["mark-notes.txt", "mark.sealed", "other.tmp"];
    for name in dead.iter().chain(&foreign) {
        fs::write(rig.state_dir().join(name), "anything").unwrap();
    }
    let rig = rig.restart();
    let resumed = plan.resume(&quiet(&rig, &plan)).unwrap();
    assert!(resumed.is_some(), "its own mark was still there: {interrupted:?}");
    assert!(!mark.exists(), "and goes with its cycle");
    let mut expected = vec!["certificates"];
    expected.extend(foreign);
    expected.sort_unstable();
    assert_eq!(files(&rig), expected);
    check::exact(&rig.chain, "seed 94");
}

fn sealed_mark(rig: &Rig) -> PathBuf {
    let entries = fs::read_dir(rig.state_dir()).unwrap().map(|entry| entry.unwrap().path());
    let mut marks: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "sealed")).collect();
    assert_eq!(marks.len(), 1, "{marks:?}");
    marks.remove(0)
}

/// The sealed mark that a cycle of the same id made of another history.
fn foreign_mark() -> Vec<u8> {
    let (other, _) = stopped(77);
    fs::read(sealed_mark(&other)).unwrap()
}

/// The record of the interrupted cycle names a mark of this digest.
fn names_a_mark(rig: &Rig, mark_digest: Option<[u8; 32]>) {
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    let record = PhaseRecord::load(&records).unwrap().unwrap();
    PhaseRecord { mark_digest, ..record }.save(&records).unwrap();
}

#[test]
fn sweep_never_starts_without_the_sealed_mark_of_its_own_cycle() {
    type Damage = fn(&Rig);
    let damages: [(&str, Damage); 6] = [
        ("gone", |rig| fs::remove_file(sealed_mark(rig)).unwrap()),
        ("cut", |rig| {
            let bytes = fs::read(sealed_mark(rig)).unwrap();
            fs::write(sealed_mark(rig), &bytes[..bytes.len() - 8]).unwrap();
        }),
        ("one bit", |rig| {
            let mut bytes = fs::read(sealed_mark(rig)).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(sealed_mark(rig), bytes).unwrap();
        }),
        ("of another history", |rig| fs::write(sealed_mark(rig), foreign_mark()).unwrap()),
        ("of the same roots, with other nodes", |rig| names_a_mark(rig, Some([9; 32]))),
        ("not named", |rig| names_a_mark(rig, None)),
    ];
    for (what, damage) in damages {
        let (rig, plan) = stopped(76);
        damage(&rig);
        let rig = rig.restart();
        let before = check::nodes(&rig.chain.store);
        let env = quiet(&rig, &plan);
        let resumed = plan.resume(&env);
        assert!(!matches!(resumed, Ok(Some(_))), "{what}: swept without its mark");
        assert_eq!(check::nodes(&rig.chain.store), before, "{what}");
        assert!(PhaseRecord::load(&*env.parts.records).unwrap().is_none(), "{what}: the cycle is given up");
        rig.cycle(&plan);
        check::exact(&rig.chain, what);
    }
}

/// S18: before the first node goes, the record on disk names the mark that lies beside it.
#[test]
fn nothing_is_deleted_before_the_record_names_the_sealed_mark() {
    for (mark, sweep) in WAYS {
        let rig = grown(Profile::Tables, 77);
        let plan = rig.plan(5).in_order().batches(25).by(mark, sweep);
        let (store, before) = (Arc::clone(&rig.chain.store), check::present(&rig.chain.store).len());
        let (dir, named) = (rig.state_dir(), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&named);
        let context = format!("{mark:?} {sweep:?}");
        let hooks = Hooks::new(move |moment| {
            let record = PhaseRecord::load(&StoreRecords(Arc::clone(&store))).unwrap();
            let Some(record) = record.filter(|record| record.phase == PrunePhase::SweepExpired) else {
                let present = check::present(&store).len();
                let done = seen.load(Ordering::Acquire) > 0;
                assert!(done || present == before, "{context}: at {moment:?} the record does not name the mark yet");
                assert!(moment != Moment::Deleting, "{context}: a batch would name the mark with its deletes only");
                return;
            };
            if seen.fetch_add(1, Ordering::AcqRel) == 0 {
                assert_eq!((record.cursor, record.deleted), (None, 0), "{context}");
                assert_eq!(check::present(&store).len(), before, "{context}: at {moment:?}");
                let identity = MarkIdentity { cycle: record.cycle, roots: record.roots_digest };
                let beside = SealedMark::open(&dir, identity).unwrap().live_digest();
                assert_eq!(record.mark_digest, Some(beside), "{context}");
            }
        });
        plan.run(&rig.env(&plan, &hooks)).unwrap();
        assert!(
            named.load(Ordering::Acquire) > 1 && check::present(&rig.chain.store).len() < before,
            "{mark:?} {sweep:?}"
        );
    }
}

#[test]
fn a_config_change_never_mixes_two_policies_in_one_cycle() {
    for keep_last in [1, 4, 6, 30] {
        let (rig, plan) = stopped(78);
        let rig = rig.restart();
        let before = check::nodes(&rig.chain.store);
        let changed = Plan { keep_last: NonZeroU64::new(keep_last).unwrap(), ..plan.clone() };
        let env = quiet(&rig, &changed);
        let resumed = changed.resume(&env);
        assert!(!matches!(resumed, Ok(Some(_))), "keep {keep_last}: went on under another retention");
        assert_eq!(check::nodes(&rig.chain.store), before, "keep {keep_last}");
        let certificate = rig.cycle(&changed).certificate;
        assert!(certificate.retained.roots <= keep_last.max(5), "keep {keep_last}");
        check::exact(&rig.chain, &format!("keep {keep_last}"));
    }
}

/// C9: what decides nothing about which nodes go may change; the cycle goes on.
#[test]
fn a_changed_limit_lets_an_interrupted_cycle_go_on() {
    let (rig, plan) = stopped(79);
    let rig = rig.restart();
    let faster = plan.clone().batches(500).by(MarkChoice::Walk, SweepChoice::Delete);
    assert!(faster.resume(&quiet(&rig, &faster)).unwrap().is_some());
    check::exact(&rig.chain, "seed 79");
}

/// A chain with little garbage, and a plan that leaves its tombstones to compaction.
fn little_garbage(seed: u64) -> (Rig, Plan) {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, seed, 200);
    let mut plan = rig.plan(190).in_order().batches(4);
    (plan.config.sweep, plan.config.small_store) = (SweepChoice::Auto, 0);
    (rig, plan)
}

/// I13: of a sweep that goes on behind what an earlier process passed nobody knows how many rows it kept.
#[test]
fn what_a_resumed_sweep_did_not_count_is_absent() {
    let (base, plan) = little_garbage(83);
    let whole = base.twin();
    let whole_plan = plan_of(&whole, &plan);
    let order = CycleOrder { trigger: Trigger::Garbage, ..whole_plan.order() };
    let sweep = cycle::run(&quiet(&whole, &whole_plan), &order, &PhaseRunner::Once).unwrap().certificate.sweep;
    let left = check::present(&whole.chain.store).len() as u64;
    assert_eq!((sweep.strategy, sweep.reclaimed, sweep.kept), (SweepStrategy::Delete, false, Some(left)));

    let control: Arc<Mutex<Option<Arc<Control>>>> = Arc::default();
    let (stops, mut batches) = (Arc::clone(&control), 0);
    let hooks = Hooks::new(move |moment| {
        batches += usize::from(moment == Moment::Deleting);
        if batches == 2 {
            stops.lock().as_ref().unwrap().stop();
        }
    });
    let env = base.env(&plan, &hooks);
    *control.lock() = Some(Arc::clone(&env.control));
    let order = CycleOrder { trigger: Trigger::Garbage, ..plan.order() };
    let ended = cycle::run(&env, &order, &PhaseRunner::Once);
    assert!(matches!(ended, Err(PruneError::Stopped)), "{ended:?}");
    drop(env);
    let rig = base.restart();
    let order = CycleOrder { trigger: Trigger::Resumed, ..plan.order() };
    let certificate = cycle::resume(&quiet(&rig, &plan), &order, &PhaseRunner::Once).unwrap().unwrap().certificate;
    let (rest, all) = (certificate.sweep, certificate.deleted);
    assert_eq!((rest.strategy, rest.reclaimed, rest.kept), (SweepStrategy::Delete, false, None));
    assert_eq!((all, rest.deleted < all), (sweep.deleted, true), "what both deleted is known");
    check::exact(&rig.chain, "seed 83");
}

/// L12: delete batches leave tombstones; a sweep that goes on by the other way rewrites what they left, too.
#[test]
fn changing_the_reclaim_strategy_strands_nothing() {
    let (rig, plan) = stopped(80);
    let rig = rig.restart();
    let other = plan.clone().by(MarkChoice::Scan, SweepChoice::Filter);
    let certificate = other.resume(&quiet(&rig, &other)).unwrap().unwrap().certificate;
    let all = check::present(&rig.chain.store).len() as u64;
    assert_eq!(certificate.sweep.strategy, SweepStrategy::Filter);
    assert_eq!(certificate.sweep.kept, Some(all), "every row was rewritten");
    assert_eq!(certificate.sweep.ranges, whole_sweep_ranges(&rig), "from the first key on");
    check::exact(&rig.chain, "seed 80");
}

/// Ranges of a filtered sweep of everything.
fn whole_sweep_ranges(rig: &Rig) -> u64 {
    let twin = rig.twin();
    twin.chain.grow(Profile::Tables, 81, 6);
    twin.cycle(&twin.plan(3).by(MarkChoice::Scan, SweepChoice::Filter)).certificate.sweep.ranges
}

#[test]
fn a_node_that_came_back_before_a_stop_survives_the_resumed_sweep() {
    for seed in 80..86 {
        let (rig, plan) = {
            let rig = grown(Profile::Toggle, seed);
            let plan = rig.plan(5).in_order().batches(10);
            let at = middle_of_the_sweep(&rig, &plan);
            let (chain, stop) = (rig.chain.clone(), StopAt::default());
            let (inner, mut moments) = (stop.hooks(at), 0);
            let hooks = Hooks::new(move |moment| {
                if moments + 1 == at {
                    chain.grow(Profile::Toggle, seed, 8); // the first commits again: old values come back
                }
                moments += 1;
                inner.call(moment);
            });
            let env = rig.env(&plan, &hooks);
            *stop.control.lock() = Some(Arc::clone(&env.control));
            let ended = plan.run(&env);
            assert!(matches!(ended, Err(PruneError::Stopped)), "{ended:?}");
            (rig, plan)
        };
        let rig = rig.restart();
        assert!(plan.resume(&quiet(&rig, &plan)).unwrap().is_some(), "seed {seed}");
        check::complete(&rig.chain, &format!("seed {seed}"));
    }
}

/// Readers end with their process, and the mark holds what they held: the cycle goes on, and the next one takes the rest.
#[test]
fn a_cycle_goes_on_after_a_restart_though_its_pins_are_gone() {
    let stopped_at = |at: usize| {
        let rig = grown(Profile::Tables, 94);
        let plan = rig.plan(5).in_order().batches(25).by(MarkChoice::Auto, SweepChoice::Delete);
        let pin = rig.chain.store.pin(Order::new(7), "a reader").unwrap();
        let (ended, _) = StopAt::run(&rig, &plan, at);
        assert!(matches!(ended, Err(PruneError::Stopped)), "the cycle ended before it was caught: {ended:?}");
        drop(pin);
        (rig.restart(), plan)
    };
    let deleting = |(rig, plan): &(Rig, Plan)| {
        let record = PhaseRecord::load(&*quiet(rig, plan).parts.records).unwrap();
        record.is_some_and(|record| record.deleted > 0)
    };
    let (rig, plan) = (0..).map(stopped_at).find(deleting).unwrap();
    let env = quiet(&rig, &plan);
    let record = PhaseRecord::load(&*env.parts.records).unwrap().unwrap();
    let certificate = plan.resume(&env).unwrap().unwrap().certificate;
    assert_eq!((certificate.cycle, certificate.retained.roots), (record.cycle, 6));
    check::complete(&rig.chain, "seed 94");
    rig.cycle(&plan);
    check::exact(&rig.chain, "seed 94, nobody holds order 7 any more");
}

#[test]
fn a_paused_cycle_is_abandoned_when_its_barrier_is_full() {
    for (mark, sweep) in WAYS {
        let config = StoreConfig { barrier_limit: 40, ..StoreConfig::new(Durability::Logged) };
        let rig = Rig::with(Engine::Memory, config);
        rig.chain.grow(Profile::Toggle, 90, 30);
        let plan = rig.plan(5).in_order().batches(20).by(mark, sweep);
        let (sealed, held) = mpsc::channel();
        let control: Arc<Mutex<Option<Arc<Control>>>> = Arc::default();
        let (paused, mut saves) = (Arc::clone(&control), 0);
        let hooks = Hooks::new(move |moment| {
            saves += usize::from(moment == Moment::PhaseSaved);
            if moment == Moment::PhaseSaved && saves == 2 {
                paused.lock().as_ref().unwrap().pause(); // it holds at the next checkpoint, before its first delete
                sealed.send(()).unwrap();
            }
        });
        let env = rig.env(&plan, &hooks);
        *control.lock() = Some(Arc::clone(&env.control));
        let ended = thread::scope(|scope| {
            let (rig, env) = (&rig, &env);
            scope.spawn(move || {
                held.recv().unwrap();
                rig.chain.grow(Profile::Uniform, 91, 20);
                assert!(env.control.is_paused());
                env.control.resume();
            });
            plan.run(env)
        });
        assert!(matches!(ended, Err(PruneError::Store(StoreError::BarrierFull { limit: 40 }))), "{ended:?}");
        let context = format!("{mark:?} {sweep:?}");
        check::complete(&rig.chain, &context);
        assert!(PhaseRecord::load(&*env.parts.records).unwrap().is_none(), "{context}");
        rig.cycle(&plan);
        check::exact(&rig.chain, &context);
    }
}

/// I13, C7: what a delete batch was to take comes back before it is taken, and the process ends behind that batch: the next one
/// tells what was deleted, not what was to be.
#[test]
fn a_cycle_that_goes_on_tells_of_no_delete_that_was_spared() {
    let rig = Rig::new(Engine::Memory);
    let all = |value: u64| Changes((0..6).map(|n| (key(n), leaf(value))).collect());
    rig.chain.put(&all(1));
    rig.chain.put(&all(2));
    let (plan, before) = (rig.plan(1).in_order().batches(3), check::present(&rig.chain.store).len() as u64);
    let (chain, control) = (rig.chain.clone(), Arc::new(Mutex::new(None::<Arc<Control>>)));
    let stop = Arc::clone(&control);
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::Deleting
            && let Some(control) = stop.lock().take()
        {
            chain.put(&all(1));
            control.stop();
        }
    });
    let env = rig.env(&plan, &hooks);
    *control.lock() = Some(Arc::clone(&env.control));
    assert!(matches!(plan.run(&env), Err(PruneError::Stopped)));
    drop((env, hooks));
    let rig = rig.restart();
    assert_eq!(check::present(&rig.chain.store).len() as u64, before, "everything was spared");
    let certificate = plan.resume(&rig.env(&plan, &Hooks::none())).unwrap().unwrap().certificate;
    check::complete(&rig.chain, "at the end");
    assert_eq!(certificate.deleted, before - check::present(&rig.chain.store).len() as u64);
}
