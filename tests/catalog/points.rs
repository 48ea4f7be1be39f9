//! A real process is killed at each named point of each command on a catalog. What it leaves is the catalog before or the
//! catalog after, with whole snapshots, and whichever command comes next sweeps the rest.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
};

use state_store::{CatalogPoint, KILL_AT};
use state_tests::{folder, node};

use crate::support::{Place, id};

/// A command on a catalog of snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Create,
    /// With a retention that takes the oldest.
    CreateAndRetain,
    /// Of the oldest.
    Delete,
    /// Of the oldest.
    Prune,
}

/// What a command has done to the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Nothing,
    Made,
    Removed,
    Both,
}

/// Where it is reached, and what is done by then.
fn of_commands(point: CatalogPoint) -> &'static [(Act, Done)] {
    use Act::{Create, CreateAndRetain, Delete, Prune};
    match point {
        CatalogPoint::StagingMade
        | CatalogPoint::CaptureBegun
        | CatalogPoint::CaptureCopied
        | CatalogPoint::CaptureSealed => &[(Create, Done::Nothing)],
        CatalogPoint::CaptureNamed => &[(Create, Done::Made)],
        CatalogPoint::CapturePublished => &[(CreateAndRetain, Done::Made)],
        CatalogPoint::RemovalBegun => &[(Delete, Done::Nothing), (Prune, Done::Nothing), (CreateAndRetain, Done::Made)],
        CatalogPoint::RemovalNamed | CatalogPoint::RemovalSynced => {
            &[(Delete, Done::Removed), (Prune, Done::Removed), (CreateAndRetain, Done::Both)]
        }
        // A leftover is swept after a deletion, and before anything else.
        CatalogPoint::LeftoverBuried | CatalogPoint::TrashFound => {
            &[(Delete, Done::Removed), (Prune, Done::Nothing), (Create, Done::Nothing)]
        }
        CatalogPoint::RestoreBegun
        | CatalogPoint::RestoreCopied
        | CatalogPoint::RestoreProved
        | CatalogPoint::RestoreNamed
        | CatalogPoint::RestoreLeftoverFound => &[],
    }
}

fn is_about_leftovers(point: CatalogPoint) -> bool {
    matches!(point, CatalogPoint::LeftoverBuried | CatalogPoint::TrashFound | CatalogPoint::RestoreLeftoverFound)
}

/// Runs a command of `snapshot` that is killed at a point.
fn killed(place: &Place, words: &[String], point: CatalogPoint) {
    let mut command = Command::new(node::binary());
    command.args(words).env(KILL_AT, point.name()).stdin(Stdio::null());
    let ended = command.output().unwrap();
    assert_eq!(
        ended.status.signal(),
        Some(9),
        "{point:?} of {words:?} in {}: {ended:?}",
        place.catalog_dir().display()
    );
}

fn listed(place: &Place) -> Vec<String> {
    let listing = place.catalog().list().unwrap();
    assert!(listing.damaged.is_empty() && listing.unreadable.is_empty(), "{listing:?}");
    listing.snapshots.iter().map(|listed| listed.id.to_string()).collect()
}

fn words(place: &Place, act: Act, known: &[String]) -> Vec<String> {
    let (all, one_less) = (known.len().to_string(), (known.len() - 1).to_string());
    let catalog = place.catalog_dir().display().to_string();
    let on_catalog = |words: &[&str]| {
        let words = [&["snapshot"], words, &["--json", "--catalog", &catalog]].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    match act {
        Act::Create => place.creating(&[]),
        Act::CreateAndRetain => place.creating(&["--keep", &all]),
        Act::Delete => on_catalog(&["delete", &known[0]]),
        Act::Prune => on_catalog(&["prune", "--keep", &one_less]),
    }
}

/// The snapshots that must be there, given those that were.
fn check(place: &Place, known: &[String], done: Done, context: &str) {
    let now = listed(place);
    let removed = usize::from(matches!(done, Done::Removed | Done::Both));
    let made = usize::from(matches!(done, Done::Made | Done::Both));
    let (stayed, new) = now.split_at(known.len() - removed);
    assert_eq!((stayed, new.len()), (&known[removed..], made), "{context}: {known:?} became {now:?}");
    for id in new {
        let (code, verified) = place.ask(&["verify", id, "--deep"]);
        assert_eq!(code, 0, "{context}: {verified:#}");
    }
}

#[test]
fn killed_at_every_point_a_command_leaves_the_old_catalog_or_the_new_one_and_the_next_one_sweeps() {
    let place = Place::native();
    let rows = CatalogPoint::ALL.iter().flat_map(|point| of_commands(*point).iter().map(|row| (*point, *row)));
    for (point, (act, done)) in rows {
        for sweeper in [Act::Create, Act::Delete, Act::Prune] {
            let context = format!("{act:?} killed at {}, swept by {sweeper:?}", point.name());
            while place.catalog_dir().exists() && listed(&place).len() > 3 {
                place.ask(&["prune", "--keep", "3"]);
            }
            while !place.catalog_dir().exists() || listed(&place).len() < 3 {
                place.create(&[]);
            }
            let known = listed(&place);
            if is_about_leftovers(point) {
                killed(&place, &words(&place, Act::Create, &known), CatalogPoint::CaptureBegun);
            }
            killed(&place, &words(&place, act, &known), point);
            check(&place, &known, done, &context);

            let known = listed(&place);
            let swept = Command::new(node::binary()).args(words(&place, sweeper, &known)).output().unwrap();
            assert!(swept.status.success(), "{context}: {swept:?}");
            let done = if sweeper == Act::Create { Done::Made } else { Done::Removed };
            check(&place, &known, done, &context);
            assert_eq!(place.leftovers(), Vec::<String>::new(), "{context}: an orphan");
        }
    }
}

/// The place of a restore, and what lies beside it for it.
fn beside(place: &Place) -> Vec<String> {
    let names = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("restored")).collect()
}

#[test]
fn killed_at_every_point_a_restore_leaves_a_whole_store_or_none_and_the_next_one_sweeps() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let (to, catalog) = (place.path("restored"), place.catalog_dir().display().to_string());
    let target = to.display().to_string();
    let words = ["snapshot", "restore", &id, "--to", &target, "--catalog", &catalog].map(str::to_owned);
    let original = folder::digests(&place.entry(&id).join("store"));
    for point in CatalogPoint::ALL.iter().copied().filter(|point| of_commands(*point).is_empty()) {
        let name = point.name();
        if is_about_leftovers(point) {
            killed(&place, &words, CatalogPoint::RestoreCopied);
        }
        killed(&place, &words, point);
        assert!(beside(&place).iter().any(|name| name.starts_with('.')), "{name}: {:?}", beside(&place));
        let is_there = point == CatalogPoint::RestoreNamed;
        assert_eq!(to.exists(), is_there, "{name}");
        if is_there {
            assert_eq!(place.refusal(&["restore", &id, "--to", &target]).0, "bad_place", "{name}");
        } else {
            let (code, restored) = place.ask(&["restore", &id, "--to", &target]);
            assert_eq!(code, 0, "{name}: {restored:#}");
        }
        assert_eq!(beside(&place), ["restored"], "{name}: an orphan");
        assert_eq!(folder::digests(&to), original, "{name}");
        assert_eq!(place.ask(&["verify", &id]).0, 0, "{name}: nobody holds the snapshot");
        fs::remove_dir_all(&to).unwrap();
    }
    assert_eq!(place.leftovers(), Vec::<String>::new());
}
