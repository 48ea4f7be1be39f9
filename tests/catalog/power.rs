//! C3, C5, life cycle row 4 for the catalog: the power fails before each call that a command makes on its files, and takes
//! what no sync has reached: all of it, or by chance some. What a finished command had told is true, every snapshot that is
//! listed is whole, and the commands that come next work and sweep the rest. `SEED=n` makes the chance another one.

use std::fs;

use state_pruner::catalog::SnapshotId;
use state_tests::{
    folder::Digests,
    power::{Lost, Power},
};

use crate::ground::{Act, Did, Ground};

/// A cut, and what it takes.
#[derive(Debug, Clone, Copy)]
struct Cut {
    act: Act,
    calls: u64,
    lost: Lost,
}

/// Whether the command had ended by then.
fn cut(base: &Ground, cut: Cut, digests: &Digests) -> bool {
    let context = format!("{cut:?}");
    let ground = base.twin(cut.act);
    let power = Power::cut_after(&ground.kept(), cut.calls);
    let ended = ground.run(cut.act);
    power.cut();
    let after = ground.after(|into| power.leave(cut.lost, into));
    drop(power);
    let there = after.sound(&context);
    let is_restored = after.is_restored(digests, &context);
    if let Ok(did) = &ended {
        assert!(holds(did, &there, is_restored), "{context}: {ended:?}, and {there:?} is there");
    }
    after.gives_no_ordinal_twice(&context);
    assert!(base.stays(cut.act).is_none_or(|stays| there.contains(&stays)), "{context}: a snapshot is lost");
    assert!(!there.is_empty() || matches!(cut.act, Act::Delete | Act::Found), "{context}: every snapshot is lost");
    after.goes_on(digests, &context);
    ended.is_ok()
}

fn holds(did: &Did, there: &[SnapshotId], is_restored: bool) -> bool {
    match did {
        Did::Made(id, removed) => there.contains(id) && !removed.snapshots.iter().any(|id| there.contains(id)),
        Did::Removed(removed) => !removed.snapshots.iter().any(|id| there.contains(id)),
        Did::Restored => is_restored,
        Did::Listed(_) | Did::Verified => true,
    }
}

fn every_cut(act: Act) {
    let seed = std::env::var("SEED").map_or(11, |text| text.parse().unwrap());
    println!("SEED={seed}");
    let base = Ground::of(act);
    let digests = base.digests();
    let whole = base.twin(act);
    let power = Power::cut_after(&whole.kept(), u64::MAX);
    whole.run(act).unwrap();
    let calls = power.calls();
    drop(power);
    let mut ended = 0;
    for calls in 0..=calls {
        for lost in [Lost::Everything, Lost::Parts(seed + calls)] {
            ended += u64::from(cut(&base, Cut { act, calls, lost }, &digests));
        }
    }
    println!("{act:?}: {calls} calls, {ended} had ended");
    assert!(ended >= 2, "{act:?} never ended");
}

#[test]
fn a_power_cut_while_a_snapshot_is_made_leaves_the_old_or_the_new_catalog() {
    every_cut(Act::Create);
}

#[test]
fn a_power_cut_while_a_catalog_begins_leaves_room_for_one() {
    every_cut(Act::Found);
}

#[test]
fn a_power_cut_while_a_snapshot_takes_the_place_of_another_leaves_one_of_them() {
    every_cut(Act::Replace);
}

#[test]
fn a_power_cut_while_a_snapshot_is_deleted_leaves_it_whole_or_gone() {
    every_cut(Act::Delete);
}

#[test]
fn a_power_cut_while_a_snapshot_is_restored_leaves_a_whole_store_or_none() {
    every_cut(Act::Restore);
}

#[test]
fn a_power_cut_while_a_retention_is_carried_out_leaves_each_snapshot_whole_or_gone() {
    every_cut(Act::Prune);
}

/// A process died after it had renamed a snapshot, which no sync has reached: whoever empties the trash makes the name durable
/// first.
#[test]
fn a_power_cut_while_the_trash_of_the_dead_is_emptied_gives_no_name_back_to_half_a_snapshot() {
    let base = Ground::of(Act::Prune);
    let digests = base.digests();
    for calls in 0..20 {
        for seed in 0..4 {
            let context = format!("after {calls} calls, {seed}");
            let ground = base.twin(Act::Prune);
            let power = Power::cut_after(&ground.kept(), calls);
            let (entry, trash) = (ground.first.to_string(), format!(".trash-{}", ground.first));
            fs::rename(ground.catalog_dir().join(entry), ground.catalog_dir().join(trash)).unwrap();
            drop(ground.run(Act::Create));
            power.cut();
            let after = ground.after(|into| power.leave(Lost::Parts(seed + 100 * calls), into));
            drop(power);
            after.sound(&context);
            after.goes_on(&digests, &context);
        }
    }
}
