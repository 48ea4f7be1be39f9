//! A store of somebody else, and places that are not there yet.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use state_pruner::events;
use state_tests::{
    device::Device,
    folder,
    nobody::{NOBODY, as_nobody},
    node,
    shared::Shared,
    skip::{Lack, skipped},
};

use crate::support::{Place, id};

/// A folder of that user in a place which everybody may enter; nothing where there is no other user, or he cannot run the binary.
fn nobodys(place: &Place, name: &str) -> Option<PathBuf> {
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = place.path(name);
    fs::create_dir(&dir).unwrap();
    let reached = || as_nobody(node::binary()).arg("--version").output();
    let is_his = chown(&dir, Some(NOBODY), Some(NOBODY)).is_ok() && reached().is_ok_and(|ran| ran.status.success());
    is_his.then_some(dir)
}

/// What the binary tells him, with its exit code.
fn told_to_nobody(words: &[&str]) -> (Option<i32>, Value) {
    let told = as_nobody(node::binary()).args(words).arg("--json").output().unwrap();
    (told.status.code(), serde_json::from_slice(&told.stdout).unwrap())
}

/// As from a backup of somebody else.
#[test]
fn a_user_who_may_only_read_a_catalog_lists_verifies_and_restores_from_it() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let Some(his) = nobodys(&place, "his") else {
        return skipped("a catalog of another owner", Lack::Users, "only root has another user at hand");
    };
    let before = folder::digests(&place.catalog_dir());
    let (catalog, to) = (place.catalog_dir().display().to_string(), his.join("store").display().to_string());
    let reads: [&[&str]; 4] = [&["list"], &["show", &id], &["verify", &id, "--deep"], &["restore", &id, "--to", &to]];
    for words in reads {
        let (code, told) = told_to_nobody(&[&["snapshot"], words, &["--catalog", &catalog]].concat());
        assert_eq!(code, Some(0), "{words:?}: {told:#}");
    }
    assert_eq!(folder::digests(&his.join("store")), folder::digests(&place.entry(&id).join("store")));
    let (code, told) = told_to_nobody(&["snapshot", "delete", &id, "--catalog", &catalog]);
    assert_eq!((code, told["error"]["code"].as_str()), (Some(1), Some("permission")), "{told:#}");
    assert_eq!(folder::digests(&place.catalog_dir()), before);
}

/// It is not the folder that is being made which cannot be used.
#[test]
fn a_file_of_the_store_that_may_not_be_read_is_named_where_it_lies() {
    let place = Place::native();
    let Some(catalog) = nobodys(&place, "catalog") else {
        return skipped("an unreadable file of a store", Lack::Users, "only root has another user at hand");
    };
    let names = fs::read_dir(place.db()).unwrap().map(|entry| entry.unwrap().path());
    let is_of_options = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("OPTIONS-");
    let options: Vec<PathBuf> = names.filter(is_of_options).collect();
    for file in &options {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let creating = place.creating(&[]);
    let words: Vec<&str> = creating.iter().map(String::as_str).filter(|word| *word != "--json").collect();
    let (code, told) = told_to_nobody(&words);
    assert_eq!((code, told["error"]["code"].as_str()), (Some(1), Some("permission")), "{told:#}");
    let message = told["error"]["message"].as_str().unwrap();
    assert!(options.iter().any(|file| message.contains(file.to_str().unwrap())), "{message}");
    assert!(!message.contains(".staging-") && message.contains("Run as its owner"), "{message}");
    assert_eq!(fs::read_dir(catalog).unwrap().count(), 1, "nothing but the lock of the catalog is left");
}

/// A mark may take hours, and nothing of it could be swept.
#[test]
fn a_prune_that_may_not_write_its_store_is_refused_before_it_marks() {
    let Some(store) = Shared::Small.copy("a prune of a store of another owner") else { return };
    let place = Place::of(store.db(), "rooch");
    let Some(his) = nobodys(&place, "his") else {
        return skipped("a prune of a store of another owner", Lack::Users, "only root has another user at hand");
    };
    let (db, records) = (place.db().display().to_string(), his.join("records"));
    let words = ["prune", "--db", &db, "--layout", "rooch", "--keep-last", "10", "--state-dir"];
    let (code, told) = told_to_nobody(&[&words[..], &[records.to_str().unwrap()]].concat());
    assert_eq!((code, told["error"]["code"].as_str()), (Some(1), Some("permission")), "{told:#}");
    assert!(!records.exists(), "nothing was begun");
}

/// Whoever only reads is not told to let himself write.
#[test]
fn a_refusal_asks_for_no_more_than_the_command_needs() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    if nobodys(&place, "his").is_none() {
        return skipped("a store that may not be read", Lack::Users, "only root has another user at hand");
    }
    let (db, catalog) = (place.db().display().to_string(), place.catalog_dir().display().to_string());
    let told = |words: &[&str]| {
        let (_, told) = told_to_nobody(words);
        assert_eq!(told["error"]["code"], "permission", "{words:?}: {told:#}");
        told["error"]["message"].as_str().unwrap().to_owned()
    };
    let only_reads = |words: &[&str]| {
        let told = told(words);
        assert!(told.contains("let this user read it") && !told.contains("write"), "{words:?}: {told}");
    };
    let closed = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let verify = ["verify", "--db", &db, "--layout", "native", "--keep-last", "5"];
    let tables = folder::with_ending(place.db(), "sst");
    for path in [place.db().to_owned(), place.db().join("CURRENT")].iter().chain(&tables) {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        closed(path, 0o600);
        only_reads(&verify);
        closed(path, mode);
    }
    let journal = events::journal_file(&events::journal_dirs(place.db())[0]);
    fs::create_dir_all(journal.parent().unwrap()).unwrap();
    fs::write(&journal, []).unwrap();
    closed(&journal, 0o000);
    only_reads(&["journal", "verify", "--db", &db]);
    closed(&place.entry(&id).join("manifest.json"), 0o600);
    only_reads(&["snapshot", "show", &id, "--catalog", &catalog]);
    closed(&place.catalog_dir(), 0o700);
    only_reads(&["snapshot", "list", "--catalog", &catalog]);
    closed(&place.catalog_dir(), 0o755);
    let told = told(&["snapshot", "delete", &id, "--catalog", &catalog]);
    assert!(told.contains("let this user read and write there"), "{told}");
}

/// Where links to files of another owner are refused, as Linux does by default.
#[test]
fn a_store_of_another_owner_is_copied_where_it_cannot_be_linked() {
    let place = Place::native();
    let Some(catalog) = nobodys(&place, "catalog") else {
        return skipped(
            "a store of another owner",
            Lack::Users,
            "only root has another user at hand, or the binary is out of his reach",
        );
    };
    let binary = node::binary().display().to_string();
    let table = folder::with_ending(place.db(), "sst").remove(0);
    let linked = as_nobody("ln").args([table.clone(), catalog.join("link")]).output();
    if !linked.is_ok_and(|linked| !linked.status.success()) {
        return skipped("a store of another owner", Lack::Other, "links are allowed here");
    }
    let before = folder::digests(place.db());
    let made = as_nobody(&binary).args(place.creating(&[])).output().unwrap();
    let told: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert!(made.status.success(), "{told:#}");
    assert_eq!((told["links_refused"].as_bool(), told["manifest"]["linked_files"].as_u64()), (Some(true), Some(0)));
    let said = as_nobody(&binary).args(place.creating(&[]).iter().filter(|word| *word != "--json")).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("every file was copied"), "{said}");
    assert_eq!(place.ask(&["verify", &id(&told), "--deep"]).0, 0);
    assert_eq!(folder::digests(place.db()), before, "nothing is written into the store");
    let own = place.create(&[]);
    assert_eq!(own["links_refused"], false, "its owner links");
}

/// Without the right to read a folder nobody can sync it, so a name in it may be lost with the power.
#[test]
fn a_catalog_is_not_made_where_its_folder_cannot_be_made_durable() {
    let place = Place::native();
    let (open, unreadable) = (fs::Permissions::from_mode(0o755), fs::Permissions::from_mode(0o333));
    fs::set_permissions(place.path(""), open.clone()).unwrap();
    let above = place.path("above");
    fs::create_dir(&above).unwrap();
    fs::set_permissions(&above, unreadable).unwrap();
    let to = above.join("of/catalog").display().to_string();
    let db = place.db().display().to_string();
    let words = ["snapshot", "create", "--db", &db, "--layout", "native", "--catalog", &to, "--json"];
    let binary = node::binary().display().to_string();
    let made = if fs::read_dir(&above).is_ok() {
        as_nobody(&binary).args(words).output()
    } else {
        Command::new(&binary).args(words).output()
    };
    fs::set_permissions(&above, open).unwrap();
    let told = made.map_or(Value::Null, |made| serde_json::from_slice(&made.stdout).unwrap_or(Value::Null));
    if told.is_null() {
        return skipped(
            "a catalog that is not durable",
            Lack::Users,
            "only root has another user at hand, or setpriv is missing",
        );
    }
    assert_eq!(told["error"]["code"], "permission", "{told:#}");
    assert!(told["error"]["message"].as_str().unwrap().contains("above"), "{told:#}");
}

#[test]
fn a_restore_makes_the_folders_above_its_place_and_none_for_a_snapshot_that_is_not_there() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let unknown = id.replace(&id[id.len() - 8..], "00000000");
    let to = place.path("data/of/node/store").display().to_string();
    assert_eq!(place.refusal(&["restore", &unknown, "--to", &to]).0, "unknown_snapshot");
    assert!(!place.path("data").exists());
    assert_eq!(place.ask(&["restore", &id, "--to", &to]).0, 0);
    let (code, report) = node::json(&["verify", "--db", &to, "--layout", "native", "--keep-last", "5"]);
    assert_eq!(code, 0, "{report}");
    fs::write(place.path("file"), b"mine").unwrap();
    let below = place.path("file/store").display().to_string();
    assert_eq!(place.refusal(&["restore", &id, "--to", &below]).0, "bad_place");
}

/// What lies inside a database, a snapshot or a catalog is theirs: it would be their damage, or go with them.
#[test]
fn neither_a_catalog_nor_a_restored_store_gets_a_place_inside_a_database_a_snapshot_or_a_catalog() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let other = place.path("other").display().to_string();
    assert_eq!(place.ask(&["restore", &id, "--to", &other]).0, 0);
    let refused = |(code, told): (i32, Value), why: &str| {
        assert_eq!((code, told["error"]["code"].as_str()), (1, Some("bad_place")), "{told:#}");
        assert!(told["error"]["message"].as_str().unwrap().contains(why), "{told:#}");
    };
    let db = place.db().display().to_string();
    let create = |catalog: &Path| {
        let catalog = catalog.display().to_string();
        node::json(&["snapshot", "create", "--db", &db, "--layout", "native", "--catalog", &catalog])
    };
    refused(create(&place.path("other/deep/catalog")), "lies inside the database");
    refused(create(&place.entry(&id).join("catalog")), "lies inside the snapshot");
    refused(create(&place.catalog_dir().join("catalog")), "lies inside the catalog");
    let another = place.path("another");
    assert_eq!(create(&another).0, 0);
    refused(place.ask(&["restore", &id, "--to", &another.join("place").display().to_string()]), "inside the catalog");
    let swept = place.path(&format!(".store.restoring-{id}")).display().to_string();
    refused(place.ask(&["restore", &id, "--to", &swept]), "has not finished");
    symlink(place.path("nowhere"), place.path("link")).unwrap();
    let link = place.path("link").display().to_string();
    refused(place.ask(&["restore", &id, "--to", &link]), "leads nowhere");
    assert_eq!(place.ask(&["verify", &id]).0, 0, "nothing was put there");
}

/// `list` says of it to delete it.
#[test]
fn a_file_with_the_name_of_a_snapshot_goes_as_a_snapshot_does() {
    let place = Place::native();
    let kept = id(&place.create(&[]));
    let file = kept.replace(&kept[kept.len() - 8..], "00000000");
    fs::write(place.entry(&file), b"somebody's").unwrap();
    assert_eq!(place.ask(&["delete", &file]).0, 0);
    assert_eq!((place.ask(&["verify", &kept]).0, place.leftovers()), (0, Vec::new()));
    assert!(!place.entry(&file).exists());
}

#[test]
fn a_folder_for_temporary_files_that_is_not_there_is_told_by_its_name() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let mut command = Command::new(node::binary());
    command.args(["snapshot", "verify", &id, "--json", "--catalog"]).arg(place.catalog_dir());
    let output = command.env("TMPDIR", place.path("nowhere")).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["error"]["code"], "bad_place", "{told:#}");
    assert!(told["error"]["message"].as_str().unwrap().contains("set TMPDIR"), "{told:#}");
}

/// A disk that was mounted for it, say: what is put together beside it cannot be moved there.
#[test]
fn a_restore_onto_a_place_where_something_is_mounted_is_refused_before_it_copies_and_works_within() {
    let Some(device) = Device::mount("a restore where something is mounted", 16) else { return };
    let place = Place::native();
    let id = id(&place.create(&[]));
    let unknown = id.replace(&id[id.len() - 8..], "00000000");
    let restore = |id: &str, to: &Path| place.ask(&["restore", id, "--to", to.to_str().unwrap()]);
    let (code, told) = restore(&unknown, device.path());
    assert_eq!((code, told["error"]["code"].as_str()), (1, Some("bad_place")), "{told:#}");
    assert!(told["error"]["message"].as_str().unwrap().contains("give a folder within it"), "{told:#}");
    assert_eq!(fs::read_dir(device.path()).unwrap().count(), 0);
    let (code, told) = restore(&id, &device.path().join("store"));
    assert_eq!(code, 0, "{told:#}");
}

/// Nothing changes there, and nobody has to be asked for permission.
#[test]
fn a_place_where_no_folder_can_be_made_is_told_as_such() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let refused = |(code, told): (i32, Value), why: &str| {
        assert_eq!((code, told["error"]["code"].as_str()), (1, Some("bad_place")), "{told:#}");
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.contains(why) && message.contains("give"), "{message}");
    };
    let create = |catalog: &str| {
        let db = place.db().display().to_string();
        node::json(&["snapshot", "create", "--db", &db, "--layout", "native", "--catalog", catalog])
    };
    let (file, dangling) = (place.path("file"), place.path("dangling"));
    fs::write(&file, b"mine").unwrap();
    symlink(place.path("nowhere"), &dangling).unwrap();
    let below = file.join("of/catalog");
    for (catalog, why) in [(&file, "is no folder"), (&below, "which is no folder"), (&dangling, "is no folder")] {
        refused(create(catalog.to_str().unwrap()), why);
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    if !Path::new("/proc/self").exists() {
        return skipped("a file system that takes no folder", Lack::Other, "there is none at /proc");
    }
    for of_the_system in ["/proc/no-catalog", "/proc/no-folder/catalog"] {
        refused(create(of_the_system), "lets nobody make a folder there");
        refused(place.ask(&["restore", &id, "--to", of_the_system]), "lets nobody make a folder there");
    }
}
