//! What kept orders below the floor hold, as the sweep between cycles learns it.

use std::{collections::BTreeSet, num::NonZeroU64, path::PathBuf};

use state_pruner::{KeepPolicy, NewPin, incremental::RoundEnd};
use state_tests::{
    folder,
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

#[test]
fn an_order_that_is_kept_later_costs_no_other_walk_until_one_is_let_go() {
    let rig = Rig::new(Engine::Memory);
    let mut workload = Workload::new(Profile::Tables, 88);
    rig.chain.run(&mut workload, 12);
    let mut swept = Swept::new(rig, 3);
    let (last, every) = (swept.plan.keep_last, NonZeroU64::new(6));
    let policy = keep_by(&mut swept, KeepPolicy { every, ..KeepPolicy::last(last) });
    swept.cycle();
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
