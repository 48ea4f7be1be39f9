//! What kept orders below the floor hold, as the sweep between cycles learns it.

use std::{
    collections::BTreeSet,
    fs::File,
    num::{NonZeroU64, NonZeroUsize},
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use state_pruner::{KeepPolicy, LiveRetention, NewPin, PruneError, incremental::RoundEnd};
use state_store::{FaultyDisk, FileCall, StoreError};
use state_tests::{
    folder,
    hooks::Hooks,
    rig::{Engine, Rig},
    workload::{Profile, Workload},
};

use crate::{histories::keep_by, incremental::Swept};

fn marks(swept: &Swept) -> BTreeSet<PathBuf> {
    folder::with_ending(&swept.rig.state_dir(), "sealed").into_iter().collect()
}

/// Commits, and sweeps what falls below the floor, six times three orders; tells which mark files there were.
fn live_on(swept: &mut Swept, workload: &mut Workload) -> BTreeSet<PathBuf> {
    let mut seen = BTreeSet::new();
    for turn in 0..6 {
        swept.rig.chain.run(workload, 3);
        assert_eq!(swept.drain().end, RoundEnd::Done);
        swept.check(&[], &format!("turn {turn}"));
        seen.extend(marks(swept));
    }
    seen
}

/// A history behind a cycle, of which the last three orders are kept and every sixth.
fn every_sixth(seed: u64) -> (Swept, Workload, Arc<LiveRetention>) {
    let rig = Rig::new(Engine::Memory);
    let mut workload = Workload::new(Profile::Tables, seed);
    rig.chain.run(&mut workload, 12);
    let mut swept = Swept::new(rig, 3);
    let keep = KeepPolicy { every: NonZeroU64::new(6), ..KeepPolicy::last(swept.plan.keep_last) };
    let policy = keep_by(&mut swept, keep);
    swept.cycle();
    (swept, workload, policy)
}

#[test]
fn an_order_that_is_kept_later_costs_no_other_walk_until_one_is_let_go() {
    let (mut swept, mut workload, policy) = every_sixth(88);
    let (walked, kept) = (live_on(&mut swept, &mut workload), swept.kept().count());
    let order = swept.rig.chain.head();
    policy.add_pin(NewPin { name: "audit".to_owned(), order, owner: "a test".to_owned(), ttl: None }).unwrap();
    let seen = live_on(&mut swept, &mut workload);
    assert_eq!((swept.kept().count() - kept, walked.len()), (4, 1), "three more orders, a pin, and one walk");
    assert_eq!(seen, walked);
    policy.remove_pin("audit").unwrap();
    swept.cycle(); // which lets it go
    let again = live_on(&mut swept, &mut workload);
    assert!(again.len() == 1 && again.is_disjoint(&walked), "what the pin held alone is held no more: {again:?}");
    swept.cycle();
    assert_eq!(swept.leaks(&[]), 0);
}

/// L13: a mark is of no use to anybody once the process has ended that walked it, or was killed.
#[test]
fn a_mark_of_older_states_goes_with_its_process_or_at_the_next_start() {
    let (mut swept, mut workload, _) = every_sixth(89);
    let walked = live_on(&mut swept, &mut workload);
    assert_eq!((walked.len(), marks(&swept)), (1, walked.clone()), "it is at hand");
    let Swept { rig, plan, sweep, .. } = swept;
    drop(sweep);
    let left = || folder::with_ending(&rig.state_dir(), "sealed");
    assert!(left().is_empty(), "{:?}", left());
    walked.iter().for_each(|path| drop(File::create(path).unwrap())); // as a kill leaves it
    assert!(plan.resume(&rig.env(&plan, &Hooks::none())).unwrap().is_none(), "no cycle was interrupted");
    assert!(left().is_empty(), "{:?}", left());
}

/// I8, S58: what the kept orders hold cannot be looked up, so nothing is taken; they are walked again.
#[test]
fn a_round_whose_mark_of_older_states_is_cut_ends_and_the_next_one_walks_them_again() {
    let mut looked = 0;
    for nth in 0.. {
        let rig = Rig::new(Engine::Memory);
        let mut workload = Workload::new(Profile::Tables, 89);
        rig.chain.run(&mut workload, 12);
        let mut swept = Swept::new(rig, 3);
        let (last, every) = (swept.plan.keep_last, NonZeroU64::new(6));
        keep_by(&mut swept, KeepPolicy { every, ..KeepPolicy::last(last) });
        swept.cycle();
        let is_cut = Arc::new(AtomicBool::new(false));
        let (seen, reads) = (Arc::clone(&is_cut), AtomicU64::new(0));
        let disk = FaultyDisk::heard(&swept.rig.state_dir(), move |call, path| {
            let is_sealed = path.extension().is_some_and(|ending| ending == "sealed");
            if call == FileCall::Read && is_sealed && reads.fetch_add(1, Ordering::AcqRel) == nth {
                File::options().write(true).open(path).and_then(|file| file.set_len(108)).unwrap();
                seen.store(true, Ordering::Release);
            }
            Ok(())
        });
        let mut failed = 0;
        for turn in 0..6 {
            let context = format!("before read {nth}, turn {turn}");
            swept.rig.chain.run(&mut workload, 3);
            let (few, dir) = (NonZeroUsize::new(16).unwrap(), swept.rig.state_dir());
            if let Err(error) = swept.sweep.round(&swept.env, &dir, few, &mut |_| ControlFlow::Continue(few)) {
                let is_look_up = matches!(error, PruneError::Store(StoreError::Io { .. }));
                assert!(is_look_up || matches!(error, PruneError::BadMark { .. }), "{context}: {error}");
                (failed, looked) = (failed + 1, looked + u64::from(is_look_up));
                swept.check(&[], &format!("{context}: failed"));
                assert_eq!(swept.drain().end, RoundEnd::Done, "{context}: the next one");
            }
            swept.check(&[], &context);
        }
        drop(disk);
        let is_cut = is_cut.load(Ordering::Acquire);
        assert_eq!(failed, u64::from(is_cut), "before read {nth}");
        swept.cycle();
        assert_eq!(swept.leaks(&[]), 0, "before read {nth}");
        if !is_cut {
            break;
        }
    }
    assert!(looked > 0, "nothing is looked up");
}
