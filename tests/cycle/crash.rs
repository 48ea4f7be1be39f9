//! Life cycle rows 3 and 4: the process dies at each write, or the machine does and takes the unsynced tail with it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use state_pruner::{
    FolderRecords, Freeze, PruneError, Records, SweepChoice, Verification,
    cycle::{CycleEnv, Finished},
    phase::PhaseRecord,
};
use state_store::{CrashTail, Fault, MemoryBackend};
use state_tests::{
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Plan, Rig, WAYS, env},
    workload::{Profile, Workload},
};
use state_tree::Order;

const KEEP: u64 = 6;

/// A history in memory to start every crash from.
fn base(profile: Profile, seed: u64) -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(profile, seed, 25);
    rig
}

fn plan(rig: &Rig, sweep: SweepChoice) -> Plan {
    rig.plan(KEEP).batches(20).sweeping(sweep)
}

/// Commits, a cycle with commits inside, and commits; whatever fails ends it where a process would have died. Returns
/// how the cycle ended, if there was one.
fn history(rig: &Rig, plan: &Plan, profile: Profile, seed: u64) -> Option<Result<Finished, PruneError>> {
    let mut workload = Workload::new(profile, seed);
    let commits = |count: usize, workload: &mut Workload| {
        (0..count).all(|_| rig.chain.try_commit(|root, reader| workload.changes(root, reader)).is_ok())
    };
    if !commits(3, &mut workload) {
        return None;
    }
    let (chain, mut inside) = (rig.chain.clone(), Workload::new(profile, seed + 1));
    let hooks = Hooks::new(move |moment| {
        if !matches!(moment, Moment::Progress(_)) {
            // Progress depends on threads; everything else here is the same in each run. Dead writes are refused; the
            // cycle finds that out for itself.
            drop(chain.try_commit(|root, reader| inside.changes(root, reader)));
        }
    });
    let ended = plan.run(&rig.env(plan, &hooks));
    if ended.is_ok() {
        commits(3, &mut workload);
    }
    Some(ended)
}

/// The writes of a history that nothing disturbs.
fn writes_of_a_whole(base: &Rig, sweep: SweepChoice, profile: Profile, seed: u64) -> u64 {
    let (rig, counter) = base.faulty();
    let before = counter.writes();
    let done = history(&rig, &plan(&rig, sweep), profile, seed).unwrap().unwrap().certificate;
    assert!(done.sweep.ranges > 1 && done.deleted > 0, "{sweep:?}: a sweep of one slice has no middle: {done:?}");
    assert!(matches!(done.verification, Verification::Passed(_)), "{done:?}");
    counter.writes() - before
}

/// What must hold after any crash: everything readable is whole, the cycle is finished or given up, and the next one
/// leaves nothing behind. Returns whether the cycle was finished.
fn recovers(rig: &Rig, plan: &Plan, context: &str) -> bool {
    check::complete(&rig.chain, &format!("{context}: as found"));
    let env: CycleEnv = rig.env(plan, &Hooks::none());
    let resumed = match plan.resume(&env) {
        Ok(resumed) => resumed.is_some(),
        Err(PruneError::NotResumable { .. } | PruneError::BadMark { .. }) => false,
        Err(error) => panic!("{context}: {error}"),
    };
    assert!(PhaseRecord::load(&*env.parts.records).unwrap().is_none(), "{context}");
    check::complete(&rig.chain, &format!("{context}: resumed"));
    rig.chain.grow(Profile::Toggle, 7, 2);
    rig.cycle(plan);
    check::exact(&rig.chain, &format!("{context}: next cycle"));
    resumed
}

fn crash_everywhere(profile: Profile, seed: u64, sweep: SweepChoice, tail: CrashTail) {
    let base = base(profile, seed);
    let writes = writes_of_a_whole(&base, sweep, profile, seed + 50);
    let mut resumed = 0;
    for n in 0..=writes {
        let (rig, faulty) = base.faulty();
        let plan = plan(&rig, sweep);
        faulty.freeze_after(n);
        let _died = history(&rig, &plan, profile, seed + 50);
        let rig = rig.crashed(faulty.crash_image(tail).unwrap());
        rig.chain.archive.forget_after(rig.chain.head());
        let context = format!("{profile:?} seed {seed} {sweep:?} {tail:?} write {n} of {writes}");
        resumed += u64::from(recovers(&rig, &plan, &context));
    }
    println!("{profile:?} seed {seed} {sweep:?} {tail:?}: {resumed} of {writes} crashes were in a sweep that went on");
    assert!(resumed > 3, "{profile:?} {sweep:?} {tail:?}: only {resumed} sweeps of {writes} crashes went on");
}

#[test]
fn kill_nine_at_every_write_of_each_phase() {
    crash_everywhere(Profile::Toggle, 130, SweepChoice::Delete, CrashTail::Kept);
    crash_everywhere(Profile::Tables, 131, SweepChoice::Filter, CrashTail::Kept);
}

#[test]
fn lost_tail_in_each_phase() {
    crash_everywhere(Profile::Toggle, 132, SweepChoice::Delete, CrashTail::Lost);
    crash_everywhere(Profile::Toggle, 133, SweepChoice::Filter, CrashTail::Lost);
}

/// A write fails once, and the process lives on.
#[test]
fn a_failed_write_at_any_point_loses_nothing_and_the_next_cycle_is_clean() {
    for (sweep, fault) in [(SweepChoice::Delete, Fault::DiskFull), (SweepChoice::Filter, Fault::Transient)] {
        let base = base(Profile::Tables, 134);
        for n in 0..writes_of_a_whole(&base, sweep, Profile::Tables, 180) {
            let (rig, faulty) = base.faulty();
            let plan = plan(&rig, sweep);
            faulty.fail_write(n, fault);
            let _failed = history(&rig, &plan, Profile::Tables, 180);
            let context = format!("{sweep:?} {fault:?} at write {n}");
            check::complete(&rig.chain, &context);
            rig.chain.grow(Profile::Toggle, 7, 2);
            rig.cycle(&plan);
            check::exact(&rig.chain, &context);
        }
    }
}

/// The rewrite of a range fails once, and the process lives on: the cycle says so and is given up.
#[test]
fn a_failed_rewrite_of_any_range_loses_nothing_and_the_next_cycle_is_clean() {
    let ways = [
        (SweepChoice::Filter, Fault::DiskFull),
        (SweepChoice::Filter, Fault::Transient),
        (SweepChoice::Delete, Fault::DiskFull),
    ];
    for (sweep, fault) in ways {
        let (base, mut failed) = (base(Profile::Tables, 139), 0);
        loop {
            let (rig, faulty) = base.faulty();
            let plan = plan(&rig, sweep);
            faulty.fail_rewrite(failed, fault);
            let Err(error) = history(&rig, &plan, Profile::Tables, 189).unwrap() else { break };
            let context = format!("{sweep:?} {fault:?} at rewrite {failed}");
            let expected = if fault == Fault::DiskFull { "disk_full" } else { "io" };
            assert_eq!(error.code(), expected, "{context}: {error}");
            check::complete(&rig.chain, &context);
            rig.chain.grow(Profile::Toggle, 7, 2);
            rig.cycle(&plan);
            check::exact(&rig.chain, &context);
            failed += 1;
        }
        assert!(failed > 1, "{sweep:?}: {failed} rewrites in a whole cycle");
    }
}

/// Life cycle row 19: a live node is lost or spoilt at any moment of a cycle, be it before, in or after its marking.
#[test]
fn damaged_node_in_each_phase() {
    let base = base(Profile::Tables, 145);
    let head = base.chain.archive.root(base.chain.head()).node();
    let live = base.chain.archive.live([base.chain.head()]);
    let lost = *live.iter().find(|hash| Some(**hash) != head).unwrap();
    for (mark, sweep) in WAYS {
        for at in 0.. {
            let rig = base.twin();
            let plan = rig.plan(KEEP).in_order().batches(20).by(mark, sweep);
            let (memory, seen, mut moments) = (rig.memory().clone(), Arc::new(AtomicUsize::new(0)), 0);
            let counted = Arc::clone(&seen);
            let hooks = Hooks::new(move |_| {
                if moments == at && at % 2 == 0 {
                    memory.uproot(lost.as_bytes());
                } else if moments == at {
                    memory.plant(lost.as_bytes(), b"not a node");
                }
                moments += 1;
                counted.store(moments, Ordering::Release);
            });
            let env = rig.env(&plan, &hooks);
            let ended = plan.run(&env);
            let context = format!("{mark:?} {sweep:?} moment {at}");
            if seen.load(Ordering::Acquire) <= at {
                assert!(at > 4 && ended.is_ok(), "{context}: {ended:?}");
                break;
            }
            let error = ended.unwrap_err();
            assert!(error.is_live_fault(), "{context}: {error}");
            let named = lost.to_string();
            assert!(error.to_string().contains(&named[..16]), "{context}: {error} does not name {named}");
            assert!(matches!(plan.run(&env), Err(PruneError::Frozen { .. })), "{context}: deletes are frozen");
            rig.memory().plant(lost.as_bytes(), &rig.chain.archive.bytes(&lost));
            check::complete(&rig.chain, &context);
            Freeze::load(&*env.parts.records).unwrap().unwrap().lift(&*env.parts.records).unwrap();
            drop(env);
            rig.cycle(&plan);
            check::exact(&rig.chain, &context);
        }
    }
}

/// S6, S14: a read fails once, at any point of a cycle. No failure in marking may lead to a sweep.
#[test]
fn a_failed_read_at_any_point_of_a_cycle_loses_nothing() {
    reads_fail(Fault::Transient);
}

/// I11: a read that finds damage, at any point of a cycle, freezes deletes besides.
#[test]
fn a_damaged_read_at_any_point_of_a_cycle_freezes_deletes() {
    reads_fail(Fault::Corrupt);
}

/// Reads before a cycle has an id: whether deletes are frozen, and the last id. Nothing is to be frozen yet.
const READS_BEFORE_A_CYCLE: u64 = 2;

fn reads_fail(fault: Fault) {
    let base = base(Profile::Tables, 135);
    let needed = |rig: &Rig| check::needed(&rig.chain);
    let mut reads = u64::MAX;
    let mut n = 0;
    while n < reads {
        let (rig, faulty) = base.faulty();
        let plan = plan(&rig, SweepChoice::Delete);
        let env = rig.env(&plan, &Hooks::none());
        let before = faulty.reads();
        faulty.fail_read(n, fault);
        let ended = plan.run(&env);
        if ended.is_ok() {
            reads = reads.min(faulty.reads() - before);
        }
        faulty.fail_read(u64::MAX >> 1, fault); // what follows looks at what is left
        let frozen = Freeze::load(&*env.parts.records).unwrap().is_some();
        let due = fault == Fault::Corrupt && n >= READS_BEFORE_A_CYCLE;
        let as_due = frozen == due || (due && ended.is_ok()); // the phase record of a cycle that is over may be read in vain
        assert!(as_due, "read {n} failed by {fault:?}, frozen: {frozen}, the cycle ended {ended:?}");
        assert!(!frozen || matches!(plan.run(&env), Err(PruneError::Frozen { .. })), "read {n}");
        let context = format!("read {n} failed, the cycle ended {:?}", ended.map(|done| done.certificate.deleted));
        check::complete(&rig.chain, &context);
        assert!(check::present(&rig.chain.store).is_superset(&needed(&rig)), "{context}");
        n += 1 + n / 40; // every one at first, then sparser
    }
    assert!(n > 10);
}

/// The machine dies after the mark is sealed and takes retained orders with it; the node commits others in their
/// place. The mark then belongs to another history, and the cycle that made it must not go on.
#[test]
fn a_cycle_whose_history_was_lost_and_redone_is_abandoned() {
    for lost in 1..=4 {
        let rig = base(Profile::Toggle, 136);
        let before_the_tail = rig.memory().copy();
        let tail_begins = rig.chain.head();
        rig.chain.grow(Profile::Toggle, 137, lost);
        let folder = |rig: &Rig| -> Arc<dyn Records> { Arc::new(FolderRecords(rig.state_dir())) };
        std::fs::create_dir_all(rig.state_dir()).unwrap();
        let plan = plan(&rig, SweepChoice::Delete);

        // Records in a folder are durable by themselves; the log of the store is not synced with them.
        let env_of = |rig: &Rig, hooks: &Hooks| {
            let mut parts = rig.parts(plan.keep_last, hooks);
            parts.records = hooks.over(folder(rig));
            env(parts, hooks)
        };
        let control: Arc<parking_lot::Mutex<Option<Arc<state_pruner::Control>>>> = Arc::default();
        let (stop, mut saves) = (Arc::clone(&control), 0);
        let hooks = Hooks::new(move |moment| {
            saves += usize::from(moment == Moment::PhaseSaved);
            if saves == 2 {
                stop.lock().as_ref().unwrap().stop(); // sealed, nothing deleted yet
            }
        });
        let env = env_of(&rig, &hooks);
        *control.lock() = Some(Arc::clone(&env.control));
        assert!(matches!(plan.run(&env), Err(PruneError::Stopped)));
        drop(env);

        let rig = rig.crashed(MemoryBackend::copy(&before_the_tail));
        rig.chain.archive.forget_after(tail_begins);
        rig.chain.grow(Profile::Toggle, 138, lost); // other commits at the same orders
        let quiet = env_of(&rig, &Hooks::none());
        let before = check::nodes(&rig.chain.store);
        let resumed = plan.resume(&quiet);
        assert!(!matches!(resumed, Ok(Some(_))), "{lost} lost orders: the old mark swept the new history");
        assert_eq!(check::nodes(&rig.chain.store), before, "{lost} lost orders");
        plan.run(&quiet).unwrap();
        check::exact(&rig.chain, &format!("{lost} lost orders"));
        assert_eq!(rig.chain.head(), Order::new(24 + lost));
    }
}
