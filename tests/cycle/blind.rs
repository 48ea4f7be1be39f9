//! S28, S57: commits while a cycle makes counts exact. Nobody knows then which nodes two places have, so each counts as shared:
//! such a commit marks what it leaves beside its changes, and names nothing that may go.
//!
//! The stores here have a history that nobody counted. The oracle is the archive.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use state_pruner::{
    Control, PruneError,
    cycle::{CycleEnv, Finished},
    incremental::RoundEnd,
};
use state_store::{Batch, LostBy, StoreConfig};
use state_tests::{
    archive::orders,
    chain::{Chain, STORE},
    check,
    hooks::{Hooks, Moment},
    rig::{Engine, Rig},
    workload::{Profile, Workload, adopt, content, key, leaf, paths},
};
use state_tree::{Change, Changes, FieldsBase, Key, Order, Put};

use crate::forks::Swept;

const WINDOW: u64 = 5;
const PROFILES: [Profile; 2] = [Profile::Toggle, Profile::Tables];

/// One source of changes, for the test and for what happens inside its cycles.
type Source = Arc<Mutex<Workload>>;

/// A store that was not journalled until now, and the source of what comes next.
fn enabled_late(profile: Profile, seed: u64) -> (Swept, Source) {
    let old = Rig::with(Engine::Memory, StoreConfig { journal: false, ..STORE });
    let mut workload = Workload::new(profile, seed);
    old.chain.run(&mut workload, 20);
    (Swept::new(old.twin(), WINDOW), Arc::new(Mutex::new(workload)))
}

/// A cycle that deletes in batches, with something done at its moments; how many moments it had.
fn cycle_with(swept: &Swept, act: impl FnMut(&Chain, usize, Moment) + Send + 'static) -> usize {
    let (ended, moments) = cycle_under(swept, Arc::default(), act);
    ended.unwrap();
    moments
}

/// The same under a control of the test's own; how it ended, too.
fn cycle_under(
    swept: &Swept,
    control: Arc<Control>,
    mut act: impl FnMut(&Chain, usize, Moment) + Send + 'static,
) -> (Result<Finished, PruneError>, usize) {
    let (counted, chain) = (Arc::new(AtomicUsize::new(0)), swept.rig.chain.clone());
    let moments = Arc::clone(&counted);
    let hooks = Hooks::new(move |moment| act(&chain, moments.fetch_add(1, Ordering::Relaxed), moment));
    let plan = swept.plan.clone().in_order().batches(40);
    let ended = plan.run(&CycleEnv { control, ..swept.rig.env(&plan, &hooks) });
    (ended, counted.load(Ordering::Relaxed))
}

/// Commits with rounds behind them; how many nodes went.
fn go_on(swept: &mut Swept, source: &Source, context: &str) -> u64 {
    let mut nodes = 0;
    for step in 0..WINDOW + 3 {
        swept.rig.chain.run(&mut source.lock(), 1);
        let round = swept.drain();
        assert_eq!(round.end, RoundEnd::Done, "{context}: step {step}");
        nodes += round.nodes;
        if step % 4 == 3 {
            check::complete(&swept.rig.chain, &format!("{context}: step {step}")); // each order while it is readable
        }
    }
    nodes
}

/// Whatever a first cycle left: rounds lose nothing, neither before a restart nor after it, and a second cycle leaves nothing.
fn settles(mut swept: Swept, profile: Profile, source: &Source, context: &str) -> u64 {
    assert!(swept.rig.chain.store.counts_are_settled(), "{context}: {:?}", swept.rig.chain.store.counts_lost());
    let mut nodes = go_on(&mut swept, source, context);
    let mut swept = swept.restart();
    nodes += go_on(&mut swept, source, &format!("{context}: after a restart"));
    check::alike(&swept.rig.chain, &paths(profile), context);
    swept.cycle();
    check::exact(&swept.rig.chain, &format!("{context}: a second cycle leaves no garbage"));
    nodes
}

/// Something done at each moment of the first cycle, one after the other, loses nothing later.
fn at_any_moment(seed: u64, act: fn(&Chain, &Source, usize)) {
    let mut nodes = 0;
    for profile in PROFILES {
        for at in 0.. {
            let (swept, source) = enabled_late(profile, seed);
            let inside = Arc::clone(&source);
            let moments = cycle_with(&swept, move |chain, number, _| {
                if number == at {
                    act(chain, &inside, at);
                }
            });
            let context = format!("{profile:?} at moment {at}");
            check::complete(&swept.rig.chain, &context);
            nodes += settles(swept, profile, &source, &context);
            if at >= moments {
                assert!(at > 8, "{profile:?}: the cycle has {moments} moments");
                break;
            }
        }
    }
    assert!(nodes > 500, "only {nodes} nodes were swept: the test tells nothing");
}

#[test]
fn commits_at_any_moment_of_the_first_cycle_lose_nothing_later() {
    at_any_moment(631, |chain, source, _| chain.run(&mut source.lock(), 6));
}

/// The first cycle is given up at each of its moments, one after the other, while commits come at all of them: what was counted
/// blindly until then is believed by nobody. Commits come on until the next cycle, and inside that one.
#[test]
fn a_first_cycle_that_is_given_up_under_commits_leaves_counting_to_the_next_one() {
    let (mut uncounted, mut nodes) = (0, 0);
    for profile in PROFILES {
        for at in 0.. {
            let (mut swept, source) = enabled_late(profile, 633);
            let (control, inside) = (Arc::new(Control::default()), Arc::clone(&source));
            let ends = Arc::clone(&control);
            let (given_up, moments) = cycle_under(&swept, control, move |chain, number, _| {
                chain.run(&mut inside.lock(), 1);
                if number == at {
                    ends.cancel();
                }
            });
            let context = format!("{profile:?} given up at moment {at}");
            if given_up.is_ok() && moments <= at {
                assert!(at > 8, "{context}: the cycle has no more moments");
                break;
            }
            check::complete(&swept.rig.chain, &context);
            uncounted += u32::from(!swept.rig.chain.store.counts_are_settled());
            for _ in 0..WINDOW + 2 {
                swept.rig.chain.run(&mut source.lock(), 1);
                swept.drain();
            }
            check::complete(&swept.rig.chain, &format!("{context}: before the next one"));
            cycle_under_commits(&swept, &source, 633);
            nodes += settles(swept, profile, &source, &context);
        }
    }
    assert!(uncounted > 10, "only {uncounted} cycles were given up before they had counted");
    assert!(nodes > 500, "only {nodes} nodes were swept: the test tells nothing");
}

/// What a blind commit leaves beside its change below a shared root has two parents from then on. The cycle, which traces the
/// state before it, does not find that out: the commit itself has to mark it.
#[test]
fn what_a_blind_commit_leaves_below_a_shared_root_outlives_one_of_its_two_parents() {
    const ROWS: u64 = 30;
    let one = |of: Key, change: Change| Changes([(of, change)].into());
    let put = |object, fields| Change::Put(Put { object, base: FieldsBase::Keep, fields });
    let rows = Changes((0..ROWS).map(|row| (key(row), leaf(row))).collect());
    let old = Rig::with(Engine::Memory, StoreConfig { journal: false, ..STORE });
    old.chain.put(&one(key(1), put(Some(content(1)), rows)));
    old.chain.put(&one(key(2), adopt(vec![key(1)])));
    for n in 0..WINDOW {
        old.chain.put(&one(key(3), leaf(n)));
    }
    let mut swept = Swept::new(old.twin(), WINDOW);
    let cell = move |row: u64| one(key(2), put(None, one(key(row), leaf(100 + row))));
    let mut is_first = true;
    cycle_with(&swept, move |chain, _, moment| {
        if moment == Moment::Captured && std::mem::take(&mut is_first) {
            chain.put(&cell(0));
        }
    });
    assert!(swept.rig.chain.store.counts_are_settled());
    let mut nodes = 0;
    for row in 1..ROWS + WINDOW {
        swept.rig.chain.put(&if row < ROWS { cell(row) } else { one(key(3), leaf(row)) });
        nodes += swept.drain().nodes;
    }
    assert!(nodes > ROWS, "only {nodes} nodes were swept: the test tells nothing");
    check::complete(&swept.rig.chain, "every cell of the copy was replaced");
    let cells: Vec<Vec<Key>> = (0..ROWS).flat_map(|row| [1, 2].map(|table| vec![key(table), key(row)])).collect();
    check::alike(&swept.rig.chain, &cells, "both tables");
}

/// Commits at some of the moments of a cycle, by a source of chance of their own.
fn cycle_under_commits(swept: &Swept, source: &Source, seed: u64) {
    let (inside, mut rng) = (Arc::clone(source), ChaCha8Rng::seed_from_u64(seed));
    cycle_with(swept, move |chain, _, _| {
        if rng.random_bool(0.4) {
            chain.run(&mut inside.lock(), 1);
        }
    });
}

/// The same once more after counts were lost, where marks of the time before are still there.
#[test]
fn a_busy_first_cycle_and_one_after_a_fork_lose_nothing_later() {
    let histories = std::env::var("INCREMENTAL_HISTORIES").map_or(12, |text| text.parse().unwrap());
    let mut nodes = 0;
    for (seed, profile) in (0..histories).flat_map(|seed| PROFILES.map(|profile| (seed, profile))) {
        let context = format!("{profile:?} seed {seed}");
        let (swept, source) = enabled_late(profile, 640 + seed);
        cycle_under_commits(&swept, &source, seed);
        check::complete(&swept.rig.chain, &context);
        let (store, uncounted) = (Arc::clone(&swept.rig.chain.store), swept.rig.chain.floor());
        assert!(store.counts_are_settled(), "{context}");
        swept.fork(uncounted, &mut source.lock());
        assert_eq!(store.counts_lost().map(|lost| lost.by), Some(LostBy::Fork), "{context}");
        drop(store);
        cycle_under_commits(&swept, &source, seed + 1);
        check::complete(&swept.rig.chain, &format!("{context}: after the fork"));
        nodes += settles(swept, profile, &source, &context);
    }
    assert!(nodes > 200, "only {nodes} nodes were swept: the test tells nothing");
}

/// S36: a mark that a commit inside the cycle made first may be one that the cycle found to be needed: no rollback takes it back.
#[test]
fn a_rollback_behind_a_busy_first_cycle_takes_back_no_mark_that_it_found() {
    for (seed, profile) in (0..6).flat_map(|seed| PROFILES.map(|profile| (seed, profile))) {
        let (swept, source) = enabled_late(profile, 700 + seed);
        let since = swept.rig.chain.head();
        cycle_under_commits(&swept, &source, seed);
        let to = Order::new(since.get() + seed);
        swept.rig.chain.store.rollback(to, Batch::new()).unwrap();
        swept.rig.chain.archive.forget_after(to);
        settles(
            swept,
            profile,
            &source,
            &format!("{profile:?} seed {seed}: back to order {to}, counted since {since}"),
        );
    }
}

/// S36, S37: to what the cycle captured, or to a later order. What was traced is still there, so counts are exact behind it.
#[test]
fn a_rollback_beside_the_first_cycle_loses_nothing_later() {
    at_any_moment(671, |chain, source, at| {
        let (since, commits) = (chain.head(), at as u64 % 6);
        chain.run(&mut source.lock(), commits);
        let to = Order::new(since.get() + commits / 2);
        chain.store.rollback(to, Batch::new()).unwrap();
        chain.archive.forget_after(to);
        chain.run(&mut source.lock(), 2);
    });
}

/// S37: whoever owns the cycle should have given it up. It traced a state in which nothing was shared, and that is gone: the one
/// before has two tables of the same rows, and nothing becomes exact by the marks of the other.
#[test]
fn a_first_cycle_whose_traced_state_is_gone_leaves_counting_to_the_next_one() {
    let one = |of: Key, change: Change| Changes([(of, change)].into());
    let rows = Changes((0..30).map(|row| (key(row), leaf(row))).collect());
    let table = Change::Put(Put { object: Some(content(1)), base: FieldsBase::Keep, fields: rows });
    let old = Rig::with(Engine::Memory, StoreConfig { journal: false, ..STORE });
    old.chain.put(&one(key(1), table));
    for n in 0..WINDOW {
        old.chain.put(&one(key(3), leaf(n)));
    }
    old.chain.put(&one(key(2), adopt(vec![key(1)])));
    old.chain.put(&one(key(2), Change::Remove));
    let mut swept = Swept::new(old.twin(), WINDOW);
    let mut is_first = true;
    let (ended, _) = cycle_under(&swept, Arc::default(), move |chain, _, moment| {
        let is_marking = matches!(moment, Moment::Progress(_)); // its lock was taken, with a look at the history
        if is_marking && std::mem::take(&mut is_first) {
            let to = chain.head().minus(1).unwrap();
            chain.store.rollback(to, Batch::new()).unwrap();
            chain.archive.forget_after(to);
        }
    });
    assert!(matches!(ended, Err(PruneError::BadSnapshot { .. })), "{ended:?}");
    swept.cycle();
    swept.rig.chain.put(&one(key(3), leaf(WINDOW))); // of the order that was traced, whose entry is trusted by nobody
    swept.rig.chain.put(&one(key(2), Change::Remove));
    let mut nodes = 0;
    for n in 0..2 * WINDOW {
        swept.rig.chain.put(&one(key(3), leaf(n)));
        nodes += swept.drain().nodes;
    }
    assert!(nodes > 0, "the test tells nothing");
    check::complete(&swept.rig.chain, "one of the two tables is gone");
}

/// A branch that begins inside a cycle, on any order that is readable then.
#[derive(Clone, Copy)]
struct Branch {
    at: Moment,
    /// How far below the head its base is.
    below: u64,
}

/// A cycle with a branch at the first moment of its kind, and commits around it; the order that it began on.
fn cycle_with_branch(swept: &Swept, source: &Source, branch: Branch) -> Order {
    let (inside, base) = (Arc::clone(source), Arc::new(Mutex::new(None)));
    let forked = Arc::clone(&base);
    cycle_with(swept, move |chain, _, moment| {
        if moment != branch.at || forked.lock().is_some() {
            return;
        }
        let source = &mut *inside.lock();
        chain.run(source, 1);
        let on = chain.head().minus(branch.below).unwrap();
        chain.fork_at(on, |root, reader| source.changes(root, reader));
        *forked.lock() = Some(on);
        chain.run(source, 1);
    });
    let base = *base.lock();
    base.unwrap_or_else(|| panic!("the cycle never came to {:?}", branch.at))
}

/// A branch inside the cycle that makes counts exact ends the counting, unless its base was counted exactly already, as the head
/// that was traced is once the sweep has begun: the next cycle makes them exact.
#[test]
fn a_branch_inside_the_first_cycle_leaves_counting_to_the_next_one() {
    let branches = [Moment::Captured, Moment::Deleting].map(|at| (1..=WINDOW).map(move |below| Branch { at, below }));
    for (branch, profile) in branches.into_iter().flatten().flat_map(|branch| PROFILES.map(|of| (branch, of))) {
        let context = format!("{profile:?}: {} below the head at {:?}", branch.below, branch.at);
        let (mut swept, source) = enabled_late(profile, 651);
        let traced = swept.rig.chain.head();
        let base = cycle_with_branch(&swept, &source, branch);
        let store = Arc::clone(&swept.rig.chain.store);
        if branch.at == Moment::Deleting && base >= traced {
            assert!(store.counts_are_settled(), "{context}");
            drop(store);
            settles(swept, profile, &source, &context);
            continue;
        }
        assert_eq!(store.counts_lost().map(|lost| lost.by), Some(LostBy::Fork), "{context}");
        let before = check::present(&store);
        drop(store);
        assert_eq!(swept.drain().end, RoundEnd::Uncounted, "{context}");
        assert_eq!(check::present(&swept.rig.chain.store), before, "{context}: nothing is trusted");
        check::complete(&swept.rig.chain, &context);
        cycle_under_commits(&swept, &source, branch.below);
        settles(swept, profile, &source, &context);
    }
}

/// A branch inside a cycle of exact counts: they go on where its base was counted, and are lost where it was not.
#[test]
fn a_branch_inside_a_later_cycle_is_counted_if_its_base_was() {
    let rng = &mut ChaCha8Rng::seed_from_u64(661);
    let (mut exact, mut lost) = (0, 0);
    for (at, profile) in [Moment::Captured, Moment::Deleting].into_iter().flat_map(|at| PROFILES.map(|of| (at, of))) {
        for seed in 0..8 {
            let (swept, source) = enabled_late(profile, 670 + seed);
            if seed % 2 == 0 {
                cycle_under_commits(&swept, &source, seed)
            } else {
                swept.cycle()
            }
            let since = orders(swept.rig.chain.floor(), swept.rig.chain.head()).nth(WINDOW as usize - 1).unwrap();
            swept.rig.chain.run(&mut source.lock(), rng.random_range(2..4));
            let below = *[1, 2, 3, 4, 5].choose(rng).unwrap();
            let base = cycle_with_branch(&swept, &source, Branch { at, below });
            let context = format!("{profile:?} seed {seed}: a branch on order {base} at {at:?}");
            check::complete(&swept.rig.chain, &context);
            let counted = base >= since;
            assert_eq!(swept.rig.chain.store.counts_are_settled(), counted, "{context}, counted since {since}");
            if counted {
                exact += 1;
            } else {
                lost += 1;
                cycle_under_commits(&swept, &source, seed);
            }
            settles(swept, profile, &source, &context);
        }
    }
    assert!(exact > 5 && lost > 2, "{exact} exact and {lost} lost: the test tells nothing");
}
