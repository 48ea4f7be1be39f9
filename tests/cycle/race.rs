//! I5, I12: committers on several threads while cycle follows cycle; afterwards nothing is lost and nothing is left.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use state_tests::{
    chain::Chain,
    check,
    rig::{Engine, Rig, WAYS},
    workload::{Profile, Workload, paths},
};

const WINDOW: u64 = 12;
const COMMITTERS: u64 = 3;
const CYCLES: usize = 8;

/// Commits between the beginnings of two cycles: enough to race each phase, too few to outgrow them.
const COMMITS_PER_CYCLE: u64 = 60;

/// How many commits there were, how many there may be, and whether there will be more.
#[derive(Default)]
struct Counts {
    committed: AtomicU64,
    allowed: AtomicU64,
    over: AtomicBool,
}

/// Ends the committers however the race ends.
struct Over<'a>(&'a Counts);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

fn commit(chain: &Chain, mut workload: Workload, counts: &Counts) {
    while !counts.over.load(Ordering::Acquire) {
        if counts.committed.load(Ordering::Acquire) < counts.allowed.load(Ordering::Acquire) {
            chain.run(&mut workload, 1);
            counts.committed.fetch_add(1, Ordering::AcqRel);
        } else {
            thread::yield_now();
        }
    }
}

/// Returns how many nodes were spared because they were created since the view of their cycle.
fn race(engine: Engine, profile: Profile, seed: u64) -> u64 {
    let rig = Rig::new(engine);
    rig.chain.grow(profile, seed, 2 * WINDOW);
    let (counts, mut spared) = (Counts::default(), 0);
    thread::scope(|scope| {
        let _over = Over(&counts);
        let committers: Vec<_> = (0..COMMITTERS)
            .map(|committer| {
                let (chain, counts) = (&rig.chain, &counts);
                let workload = Workload::new(profile, seed + 1 + committer);
                scope.spawn(move || commit(chain, workload, counts))
            })
            .collect();
        for (mark, sweep) in WAYS.into_iter().cycle().take(CYCLES) {
            let target = counts.allowed.fetch_add(COMMITS_PER_CYCLE, Ordering::AcqRel) + COMMITS_PER_CYCLE;
            let certificate = rig.cycle(&rig.plan(WINDOW).by(mark, sweep)).certificate;
            spared += certificate.sweep.spared;
            let state_pruner::Verification::Passed(sample) = &certificate.verification else {
                panic!("the verification failed: {:?}", certificate.verification)
            };
            assert!(sample.nodes_read > 0, "nothing was read back");
            while counts.committed.load(Ordering::Acquire) < target {
                assert!(!committers.iter().any(|committer| committer.is_finished()), "a committer failed");
                thread::yield_now();
            }
        }
    });
    let commits = counts.committed.load(Ordering::Acquire);
    let context = format!("{engine:?} {profile:?} seed {seed}: {commits} commits, {spared} nodes spared");
    println!("{context}");
    check::complete(&rig.chain, &context);
    check::alike(&rig.chain, &paths(profile), &context);
    rig.cycle(&rig.plan(WINDOW));
    check::exact(&rig.chain, &context);
    spared
}

#[test]
fn toggling_values_race_cycles_and_every_retained_root_stays_whole() {
    let spared = race(Engine::Rocks, Profile::Toggle, 31) + race(Engine::Memory, Profile::Toggle, 32);
    assert!(spared > 0, "no commit ever met a sweep: nothing raced");
}

#[test]
fn moving_tables_race_cycles_and_every_retained_root_stays_whole() {
    race(Engine::Rocks, Profile::Tables, 41);
    race(Engine::Memory, Profile::Tables, 42);
}

#[test]
fn fresh_values_race_cycles_and_every_retained_root_stays_whole() {
    race(Engine::Rocks, Profile::Uniform, 51);
}
