//! I8, S14, P2: a snapshot that the disk does not answer for stops nobody from listing, making or removing others; nothing is
//! concluded from it. Of what was removed and of what was not, both are told.

use std::{fs, num::NonZeroU64, time::Duration};

use state_pruner::{
    ManualClock,
    catalog::{CatalogRetention, Removed, SnapshotId, Unusable},
};
use state_store::{FaultyDisk, FileCall, Lasting};

use crate::{
    ground::{Act, Did, Ground},
    support::{Place, id},
};

fn keep(n: u64) -> CatalogRetention {
    CatalogRetention { keep: NonZeroU64::new(n), max_age: None }
}

/// A catalog of some snapshots, the oldest first.
fn catalog(snapshots: usize) -> (Ground, Vec<SnapshotId>) {
    let ground = Ground::new();
    let first = ground.first;
    let made = (1..snapshots).map(|_| ground.made()).collect::<Vec<_>>();
    (ground, [vec![first], made].concat())
}

/// A disk on which this is asked of one snapshot in vain.
fn unread(ground: &Ground, id: SnapshotId, (kind, call): (&str, FileCall)) -> FaultyDisk {
    let disk = FaultyDisk::under(&ground.catalog_dir().join(id.to_string()));
    disk.inject(kind, call, 0, Lasting::UntilHealed);
    disk
}

fn prune(ground: &Ground, retention: CatalogRetention) -> Removed {
    let clock = ManualClock::default();
    clock.set_unix_ms(1000);
    ground.catalog().prune(retention, &clock).unwrap().removed
}

fn told(unreadable: &[Unusable]) -> Vec<(SnapshotId, &str)> {
    unreadable.iter().map(|unread| (unread.id, unread.code.as_str())).collect()
}

/// That this program does not know it is no damage, and no reason to delete it.
#[test]
fn a_snapshot_of_a_newer_program_is_listed_as_unreadable_and_stays() {
    let (ground, ids) = catalog(3);
    let manifest = ground.catalog_dir().join(ids[0].to_string()).join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("\"version\": 2,"), "{text}");
    fs::write(&manifest, text.replacen("\"version\": 2,", "\"version\": 9,", 1)).unwrap();
    let listing = ground.catalog().list().unwrap();
    assert_eq!((listing.damaged.as_slice(), told(&listing.unreadable)), (&[][..], vec![(ids[0], "other_version")]));
    let removed = prune(&ground, keep(1));
    assert_eq!((removed.snapshots, told(&removed.unreadable)), (vec![ids[1]], vec![(ids[0], "other_version")]));
}

#[test]
fn a_snapshot_that_cannot_be_read_is_listed_with_its_reason_beside_the_others() {
    use FileCall::{Open, Read};
    for asked in [("manifest.json", Open), ("manifest.json", Read), ("*.sst", Open), ("CURRENT", Open)] {
        let (ground, ids) = catalog(3);
        let disk = unread(&ground, ids[1], asked);
        let listing = ground.catalog().list().unwrap();
        let listed: Vec<SnapshotId> = listing.snapshots.iter().map(|listed| listed.id).collect();
        assert_eq!(listed, [ids[0], ids[2]], "{asked:?}");
        assert_eq!(
            (listing.damaged.as_slice(), told(&listing.unreadable)),
            (&[][..], vec![(ids[1], "file")]),
            "{asked:?}"
        );
        let told = &listing.unreadable[0].message;
        assert!(told.contains(&ids[1].to_string()) && told.contains("Input/output error"), "{told}");
        drop(disk);
        assert_eq!(ground.sound("healed"), ids, "{asked:?}: and once it can be read it is whole");
    }
}

#[test]
fn a_snapshot_that_cannot_be_read_is_not_counted_and_not_removed_by_a_retention() {
    let age = CatalogRetention { keep: None, max_age: Some(Duration::from_millis(1)) };
    let table: [(usize, CatalogRetention, &[usize]); 5] =
        [(1, keep(2), &[]), (1, keep(1), &[0]), (2, keep(1), &[0]), (0, age, &[]), (2, age, &[])];
    for asked in [("manifest.json", FileCall::Open), ("*.sst", FileCall::Open)] {
        for (unreadable, retention, goes) in table {
            let context = format!("{asked:?} of {unreadable}, {retention:?}");
            let (ground, ids) = catalog(3);
            let disk = unread(&ground, ids[unreadable], asked);
            let removed = prune(&ground, retention);
            assert_eq!(removed.snapshots, goes.iter().map(|place| ids[*place]).collect::<Vec<_>>(), "{context}");
            assert_eq!(told(&removed.unreadable), [(ids[unreadable], "file")], "{context}");
            assert!(removed.failures.is_empty(), "{context}: {removed:?}");
            drop(disk);
            assert!(ground.sound(&context).contains(&ids[unreadable]), "{context}");
        }
    }
}

#[test]
fn a_retention_by_age_says_which_damaged_snapshot_holds_it_back() {
    let (ground, ids) = catalog(3);
    fs::write(ground.catalog_dir().join(ids[1].to_string()).join("manifest.json"), "{").unwrap();
    let removed = prune(&ground, CatalogRetention { keep: None, max_age: Some(Duration::from_millis(1)) });
    assert_eq!(removed.snapshots, []);
    let [held_back] = removed.failures.as_slice() else { panic!("{removed:?}") };
    assert!(held_back.code == "damaged_snapshot" && held_back.message.contains(&ids[1].to_string()), "{held_back:?}");
    assert!(prune(&ground, keep(5)).failures.is_empty(), "one that counts is held back by nobody");
}

#[test]
fn a_snapshot_is_made_beside_one_that_cannot_be_read_and_numbered_after_it() {
    let (ground, ids) = catalog(3);
    let disk = unread(&ground, ids[2], ("manifest.json", FileCall::Open));
    let made = ground.made();
    drop(disk);
    assert_eq!(ground.sound("after"), [ids, vec![made]].concat(), "in this order");
}

#[test]
fn where_nobody_knows_the_next_ordinal_no_snapshot_is_made_until_the_unread_one_is_given_up() {
    let lock = |ground: &Ground| ground.catalog_dir().join("catalog.lock");
    for spoilt in [&b""[..], b"garbage", b"00000000000000000001\n"] {
        let (ground, ids) = catalog(3);
        fs::write(lock(&ground), spoilt).unwrap();
        let disk = unread(&ground, ids[1], ("manifest.json", FileCall::Read));
        let refused = ground.run(Act::Create).unwrap_err();
        assert_eq!(refused.code(), "ordinal_unknown", "{refused}");
        let manifest = ground.catalog_dir().join(ids[1].to_string()).join("manifest.json").display().to_string();
        let says = [manifest, "Input/output error".to_owned(), format!("`snapshot delete {}`", ids[1])];
        assert!(says.iter().all(|part| refused.to_string().contains(part)), "{refused}");
        assert!(ground.leftovers().is_empty(), "{:?}", ground.leftovers());
        assert_eq!(fs::read(lock(&ground)).unwrap(), spoilt, "nothing is written");

        ground.catalog().delete(ids[1], &ManualClock::default()).unwrap();
        let made = ground.made();
        drop(disk);
        assert_eq!(ground.sound("given up"), [ids[0], ids[2], made]);
    }
}

#[test]
fn a_damaged_manifest_may_have_the_greatest_ordinal_as_well() {
    let (ground, ids) = catalog(3);
    fs::write(ground.catalog_dir().join("catalog.lock"), b"").unwrap();
    let manifest = ground.catalog_dir().join(ids[2].to_string()).join("manifest.json");
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, &whole[..whole.len() / 2]).unwrap();
    let refused = ground.run(Act::Create).unwrap_err();
    assert!(refused.code() == "ordinal_unknown" && refused.to_string().contains(&ids[2].to_string()), "{refused}");
    fs::write(&manifest, whole).unwrap();
    let made = ground.made();
    assert_eq!(ground.sound("repaired"), [ids, vec![made]].concat(), "in this order");
}

/// Also by the retention of a command that has made a snapshot.
#[test]
fn what_went_is_told_beside_what_could_not_go_and_one_that_fails_holds_back_no_other() {
    for act in [Act::Prune, Act::Replace] {
        let (ground, ids) = catalog(4);
        let disk = unread(&ground, ids[1], ("lock", FileCall::Create));
        let (Did::Removed(removed) | Did::Made(_, removed)) = ground.run(act).unwrap() else { panic!("{act:?}") };
        let goes = if act == Act::Prune { vec![ids[0], ids[2]] } else { vec![ids[0], ids[2], ids[3]] };
        let mut went = removed.snapshots.clone();
        went.sort_unstable_by_key(|id| ids.iter().position(|known| known == id));
        assert_eq!(went, goes, "{act:?}: {removed:?}");
        let [failed] = removed.failures.as_slice() else { panic!("{act:?}: {removed:?}") };
        assert!(failed.code == "file" && failed.message.contains(&ids[1].to_string()), "{failed:?}");
        assert!(ground.sound("after").contains(&ids[1]), "{act:?}");
        drop(disk);
        assert_eq!(prune(&ground, keep(1)).snapshots, [ids[1]], "{act:?}: it goes the next time");
    }
}

/// A copy of a catalog may leave lock files out: they have nothing in them.
#[test]
fn a_snapshot_that_has_lost_its_lock_file_is_as_good_as_before() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let to = place.path("restored").display().to_string();
    for act in [vec!["verify", &id], vec!["restore", &id, "--to", &to], vec!["delete", &id]] {
        fs::remove_file(place.entry(&id).join("lock")).unwrap();
        assert_eq!(place.ask(&act).0, 0, "{act:?}");
    }
}

#[test]
fn a_prune_that_failed_in_part_exits_as_failed_and_tells_both() {
    let place = Place::native();
    let ids: Vec<String> = (0..3).map(|_| id(&place.create(&[]))).collect();
    let lock = place.entry(&ids[0]).join("lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let (code, told) = place.ask(&["prune", "--keep", "1"]);
    assert_eq!((code, told["removed"]["snapshots"][0].as_str()), (1, Some(ids[1].as_str())), "{told:#}");
    assert_eq!(told["removed"]["failures"][0]["code"].as_str(), Some("file"), "{told:#}");
    fs::remove_dir(&lock).unwrap();
    let (code, told) = place.ask(&["prune", "--keep", "1"]);
    assert_eq!((code, told["removed"]["snapshots"][0].as_str()), (0, Some(ids[0].as_str())), "{told:#}");
}

#[test]
fn a_snapshot_whose_files_cannot_be_removed_is_deleted_and_whoever_comes_next_removes_them() {
    for next in [Act::Create, Act::Prune, Act::Delete] {
        let (ground, ids) = catalog(3);
        let disk = FaultyDisk::under(&ground.catalog_dir());
        disk.inject(".trash-*", FileCall::Remove, 0, Lasting::UntilHealed);
        let removed = ground.catalog().delete(ids[1], &ManualClock::default()).unwrap().removed;
        assert_eq!((removed.snapshots.as_slice(), removed.failures.as_slice()), (&[ids[1]][..], &[][..]));
        let [left] = removed.left.as_slice() else { panic!("{removed:?}") };
        assert!(left.code == "file" && left.message.contains(".trash-"), "{left:?}");
        let again = ground.catalog().delete(ids[1], &ManualClock::default()).unwrap_err();
        assert_eq!(again.code(), "unknown_snapshot", "it is gone");
        assert_eq!((ground.sound("deleted"), ground.leftovers().len()), (vec![ids[0], ids[2]], 1));
        drop(disk);
        ground.run(next).unwrap();
        assert!(ground.leftovers().is_empty(), "{next:?}: {:?}", ground.leftovers());
    }
}

/// One that cannot be looked at is no reason to make no snapshot; it may be somebody's.
#[test]
fn what_a_dead_process_left_and_cannot_be_read_is_told_and_stays_and_stops_nobody() {
    let ground = Ground::new().twin(Act::Create);
    let [left] = ground.leftovers().try_into().unwrap();
    let disk = FaultyDisk::under(&ground.catalog_dir().join(&left));
    disk.inject("lock", FileCall::Create, 0, Lasting::UntilHealed);
    let Did::Made(_, removed) = ground.run(Act::Create).unwrap() else { panic!("nothing was made") };
    let [failed] = removed.failures.as_slice() else { panic!("{removed:?}") };
    assert!(failed.code == "file" && failed.message.contains(&left), "{failed:?}");
    assert_eq!(ground.leftovers(), [left]);
    drop(disk);
    ground.made();
    assert!(ground.leftovers().is_empty(), "{:?}", ground.leftovers());
}

/// A list is begun again where snapshots came and went while it was made: each row is true, and so is what is not among them.
#[test]
fn a_list_has_what_is_there_at_its_end_where_one_came_and_one_went_meanwhile() {
    let (ground, ids) = catalog(2);
    let dir = ground.catalog_dir();
    let (later, aside) = (dir.join(ids[1].to_string()), dir.with_file_name("aside"));
    fs::rename(&later, &aside).unwrap(); // it is made while the list is
    let (gone, mut lists) = (dir.join(ids[0].to_string()), 0);
    let (away, listed_dir) = (dir.with_file_name("gone"), dir.clone());
    let disk = FaultyDisk::heard(&dir, move |call, path| {
        if call == FileCall::List && path == listed_dir {
            lists += 1;
            if lists == 2 {
                fs::rename(&aside, &later)?;
                fs::rename(&gone, &away)?;
            }
        }
        Ok(())
    });
    let listing = ground.catalog().list().unwrap();
    drop(disk);
    let listed: Vec<SnapshotId> = listing.snapshots.iter().map(|listed| listed.id).collect();
    assert_eq!((listed, listing.damaged.len(), listing.unreadable.len()), (vec![ids[1]], 0, 0));
}
