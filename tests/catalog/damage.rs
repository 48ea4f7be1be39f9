//! Damage and malice: found by a verification, and never restored.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use state_pruner::catalog::{Manifest, SnapshotId};
use state_tests::{damage, folder, node};

use crate::support::{Place, id};

/// Replaces a file by a changed one of its own: the store shares the bytes of the one that was there.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Health and whoever would copy it say which file of the store it is, not which one of a copy that is gone by then.
#[test]
fn a_store_at_rest_whose_table_is_damaged_or_missing_is_critical_and_is_named_as_it_lies_there() {
    for missing in [true, false] {
        let place = Place::native();
        let table = damage::largest_table(place.db());
        if missing {
            fs::remove_file(&table).unwrap();
            let (code, health) = node::json(&["health-check", "--db", place.db().to_str().unwrap()]);
            let reason = &health["reasons"][0];
            assert_eq!((code, reason["code"].as_str()), (2, Some("store_damaged")), "{health:#}");
            assert!(reason["message"].as_str().unwrap().contains(table.to_str().unwrap()), "{health:#}");
        } else {
            change(&table, |bytes| (0..bytes.len() / 2).step_by(64).for_each(|at| bytes[at] ^= 1));
        }
        let creating = place.creating(&[]);
        let words: Vec<&str> = creating.iter().map(String::as_str).filter(|word| *word != "--json").collect();
        let (code, told) = node::json(&words);
        let message = told["error"]["message"].as_str().unwrap();
        assert_eq!((code, told["error"]["code"].as_str()), (1, Some("corrupt")), "{told:#}");
        let is_named = message.contains(place.db().to_str().unwrap());
        assert!(is_named && !message.contains(".staging-"), "missing {missing}: {message}");
    }
}

/// A table has nodes that came after the damage: the engine opens no such store.
#[test]
fn a_store_of_rooch_at_rest_whose_log_is_damaged_before_what_a_table_has_is_critical() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = rocksdb::DB::open_cf(&options, dir.path(), ["state_node", "transaction"]).unwrap();
    let put = |family: &str, key: &[u8]| db.put_cf(db.cf_handle(family).unwrap(), key, [7; 100]).unwrap();
    for n in 0..200u8 {
        put("transaction", &[n]);
        put("state_node", &[n; 32]);
    }
    db.flush_cf(db.cf_handle("state_node").unwrap()).unwrap(); // the log goes on in another file
    put("transaction", b"of the other file");
    folder::copy(dir.path(), copy.path());
    let health = || node::json(&["health-check", "--db", copy.path().to_str().unwrap()]);
    let (code, told) = health();
    assert_eq!((code, told["error"]["code"].as_str()), (3, Some("nothing_known")), "{told:#}");
    let logs = folder::with_ending(copy.path(), "log");
    let longest = logs.iter().max_by_key(|log| fs::metadata(log).unwrap().len()).unwrap();
    change(longest, |bytes| {
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[written / 2] ^= 1;
    });
    let (code, told) = health();
    let reason = &told["reasons"][0];
    assert_eq!((code, reason["code"].as_str()), (2, Some("store_damaged")), "{told:#}");
    assert!(reason["message"].as_str().unwrap().contains("state_node"), "{told:#}");
}

/// Neither verified nor restored; it is said where it is damaged; nothing is left of the attempt.
fn refused(place: &Place, id: &str, what: &str) {
    let (to, entry) = (place.path("restored"), place.entry(id).canonicalize().unwrap());
    let words = ["restore", id, "--to", to.to_str().unwrap()];
    for words in [&["verify", id][..], &words] {
        let (code, message) = place.refusal(words);
        assert_eq!(code, "damaged_snapshot", "{what}: {message}");
        let says = [entry.display().to_string(), "was damaged after it was made".to_owned()];
        assert!(says.iter().all(|part| message.contains(part)), "{what}: {message}");
    }
    let names = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strange: Vec<String> = names.filter(|name| !["store", "catalog", "secret"].contains(&name.as_str())).collect();
    assert!(strange.is_empty(), "{what}: {strange:?} is left");
}

#[test]
fn a_flipped_byte_in_any_file_is_found_and_the_snapshot_is_not_restored() {
    let place = Place::native();
    let before = folder::digests(place.db());
    let id = id(&place.create(&[]));
    let store = place.entry(&id).join("store");
    let mut files = 0;
    for name in fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name()) {
        let (path, what) = (store.join(&name), format!("{name:?}"));
        let whole = fs::read(&path).unwrap();
        if whole.is_empty() {
            continue;
        }
        change(&path, |bytes| bytes[whole.len() / 2] ^= 1);
        refused(&place, &id, &what);
        change(&path, |bytes| drop(std::mem::replace(bytes, whole[..whole.len() - 1].to_vec())));
        refused(&place, &id, &format!("{what}, cut"));
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        refused(&place, &id, &format!("{what}, grown"));
        fs::remove_file(&path).unwrap();
        refused(&place, &id, &format!("{what}, missing"));
        fs::write(&path, &whole).unwrap();
        files += 1;
    }
    assert!(files > 4, "{files}");
    fs::write(store.join("999999.sst"), b"more").unwrap();
    assert_eq!(place.refusal(&["verify", &id]).0, "damaged_snapshot", "a file that nobody named");
    fs::remove_file(store.join("999999.sst")).unwrap();
    assert_eq!(place.ask(&["verify", &id, "--deep"]).0, 0, "as it was");
    assert_eq!(folder::digests(place.db()), before, "and the store never changed");
}

/// The bytes are those that were copied, so whoever makes another snapshot of that store gets the same damage.
#[test]
fn a_snapshot_of_a_store_that_was_damaged_when_it_was_copied_does_not_blame_itself() {
    let place = Place::native();
    let id: SnapshotId = id(&place.create(&[])).parse().unwrap();
    let (entry, to) = (place.entry(&id.to_string()).canonicalize().unwrap(), place.path("restored"));
    let table = damage::largest_table(&entry.join("store"));
    let length = fs::metadata(&table).unwrap().len() as usize;
    change(&table, |bytes| bytes[length / 4] ^= 1);
    let mut manifest = place.catalog().show(id).unwrap();
    let name = table.file_name().unwrap().to_str().unwrap();
    let file = manifest.files.iter_mut().find(|file| file.name == name).unwrap();
    file.sha256 = hex::encode(Sha256::digest(fs::read(&table).unwrap())); // as it was when it was copied
    fs::write(entry.join("manifest.json"), manifest.encode().unwrap()).unwrap();
    let id = id.to_string();
    let reads: [&[&str]; 2] = [&["verify", &id, "--deep"], &["restore", &id, "--to", to.to_str().unwrap()]];
    for words in reads {
        let (code, message) = place.refusal(words);
        assert_eq!(code, "damaged_source", "{words:?}: {message}");
        let says =
            [table.to_str().unwrap(), "was made of a damaged store", "verify that store", "make another snapshot"];
        assert!(says.iter().all(|part| message.contains(part)), "{words:?}: {message}");
        assert!(!message.contains(".restoring-") && !to.exists(), "{words:?}: {message}");
    }
    change(&table, |bytes| bytes[length / 2] ^= 1);
    refused(&place, &id, "and damaged since");
}

/// A table that the store has still is the same file: what became of it there became of it here.
#[test]
fn damage_of_a_file_that_the_store_shares_is_told_as_that_of_the_store_too() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let table = damage::largest_table(place.db());
    let mut bytes = fs::read(&table).unwrap();
    bytes[0] ^= 1;
    fs::write(&table, &bytes).unwrap(); // the file that both name
    let (code, message) = place.refusal(&["verify", &id]);
    assert!(code == "damaged_snapshot" && message.contains("verify the store first"), "{message}");
    fs::write(&table, &bytes[1..]).unwrap();
    let shown = place.ask(&["show", &id]).1;
    assert!(shown["damaged"]["message"].as_str().unwrap().contains("verify the store first"), "{shown:#}");
}

/// Neither is read for that.
#[test]
fn what_is_shown_of_a_snapshot_says_which_files_are_missing_or_cut() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let (code, whole) = place.ask(&["show", &id]);
    assert_eq!((code, &whole["damaged"]), (0, &Value::Null), "{whole:#}");
    let store = place.entry(&id).canonicalize().unwrap().join("store");
    let table = damage::largest_table(&store);
    change(&table, |bytes| bytes.truncate(bytes.len() - 1));
    fs::remove_file(store.join("CURRENT")).unwrap();
    let (code, mut shown) = place.ask(&["show", &id]);
    let damaged = shown.as_object_mut().unwrap().remove("damaged").unwrap();
    assert_eq!((code, &shown), (1, &whole), "the rest is shown as it was");
    assert_eq!((damaged["id"].as_str(), damaged["code"].as_str()), (Some(id.as_str()), Some("damaged_snapshot")));
    let message = damaged["message"].as_str().unwrap();
    let files = [table, store.join("CURRENT")];
    assert!(files.iter().all(|file| message.contains(file.to_str().unwrap())), "{message}");
    let catalog = place.catalog_dir().display().to_string();
    let told = node::run(&["snapshot", "show", &id, "--catalog", &catalog]);
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(!told.status.success() && text.contains(&format!("DAMAGED   {message}")), "{text}");
}

/// Whatever table it is in: the sample of a proof looks at nodes, and at some of them.
#[test]
fn no_older_snapshot_goes_for_a_store_of_which_a_byte_of_a_table_has_changed() {
    let place = Place::native();
    let older = id(&place.create(&[]));
    let tables = folder::with_ending(place.db(), "sst");
    let large = tables.iter().filter(|path| fs::metadata(path).unwrap().len() > 4096);
    let mut tried = 0;
    for table in large {
        let whole = fs::read(table).unwrap();
        change(table, |bytes| bytes[whole.len() / 4] ^= 1);
        let creating = place.creating(&["--keep", "1"]);
        let words: Vec<&str> = creating.iter().map(String::as_str).filter(|word| *word != "--json").collect();
        let (code, told) = node::json(&words);
        assert_eq!((code, told["error"]["code"].as_str()), (1, Some("corrupt")), "{table:?}: {told:#}");
        fs::write(table, whole).unwrap();
        tried += 1;
    }
    assert!(tried > 1, "{tables:?}");
    assert_eq!(place.ask(&["verify", &older, "--deep"]).0, 0, "it is still there");
    assert_eq!(place.create(&["--keep", "1"])["removed"]["snapshots"], serde_json::json!([older]));
}

/// What can be seen to be damaged without reading it is never what a retention keeps for a sound one.
#[test]
fn a_snapshot_whose_file_is_missing_or_cut_is_listed_as_damaged_and_does_not_count() {
    for cut in [false, true] {
        let place = Place::native();
        let (sound, damaged) = (id(&place.create(&[])), id(&place.create(&[])));
        let store = place.entry(&damaged).join("store");
        let names = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path());
        let table = names.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "sst")).unwrap();
        if cut {
            change(&table, |bytes| bytes.truncate(bytes.len() - 1))
        } else {
            fs::remove_file(&table).unwrap()
        }
        let listed = place.ask(&["list"]).1;
        assert_eq!(listed["damaged"][0]["id"].as_str(), Some(damaged.as_str()), "cut {cut}: {listed}");
        let pruned = place.ask(&["prune", "--keep", "1"]).1;
        assert_eq!(pruned["removed"]["snapshots"].as_array().map(Vec::len), Some(0), "cut {cut}: {pruned}");
        assert_eq!(place.ask(&["verify", &sound]).0, 0, "cut {cut}: the sound one is still there");
    }
}

#[test]
fn a_damaged_manifest_is_listed_as_such_and_can_be_deleted() {
    let place = Place::native();
    let (sound, damaged) = (id(&place.create(&[])), id(&place.create(&[])));
    let manifest = place.entry(&damaged).join("manifest.json");
    let whole = fs::read(&manifest).unwrap();
    change(&manifest, |text| text.truncate(text.len() / 2));
    refused(&place, &damaged, "half a manifest");
    fs::copy(place.entry(&sound).join("manifest.json"), &manifest).unwrap();
    refused(&place, &damaged, "the manifest of another snapshot");
    fs::write(&manifest, &whole[..whole.len() - 1]).unwrap();
    refused(&place, &damaged, "one byte less");
    let (code, listed) = place.ask(&["list"]);
    assert_eq!((code, listed["snapshots"].as_array().unwrap().len()), (0, 1), "{listed:#}");
    assert_eq!(listed["damaged"][0]["id"].as_str(), Some(damaged.as_str()));
    let (_, tidied) = place.ask(&["prune", "--keep", "1"]);
    assert!(tidied["removed"]["snapshots"].as_array().unwrap().is_empty(), "what cannot be read is kept: {tidied:#}");
    assert_eq!(place.ask(&["delete", &damaged]).0, 0);
    assert!(place.catalog().list().unwrap().damaged.is_empty());
}

#[test]
fn a_hostile_manifest_writes_nothing_outside_its_folder() {
    let place = Place::native();
    let id: SnapshotId = id(&place.create(&[])).parse().unwrap();
    let entry = place.entry(&id.to_string());
    let whole = place.catalog().show(id).unwrap();
    let secret = place.path("secret");
    let write = |manifest: &Manifest| fs::write(entry.join("manifest.json"), manifest.encode().unwrap()).unwrap();
    let victim = whole.files.iter().position(|file| file.name.ends_with(".sst")).unwrap();

    let names =
        ["../../../evil", "../evil", "/tmp/evil-of-a-manifest", "..", ".", "a/../../evil", "evil\0", ".evil", ""];
    for name in names {
        let mut manifest = whole.clone();
        manifest.files[victim].name = name.to_owned();
        write(&manifest);
        refused(&place, &id.to_string(), name);
    }
    let mut manifest = whole.clone();
    manifest.files[victim].bytes = u64::MAX - 1;
    write(&manifest);
    refused(&place, &id.to_string(), "a size that no file has");
    write(&whole);

    let file = entry.join("store").join(&whole.files[victim].name);
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&secret, &bytes).unwrap(); // not even what was copied is taken through a link
    symlink(&secret, &file).unwrap();
    refused(&place, &id.to_string(), "a link to a file");
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    fs::rename(entry.join("store"), entry.join("real")).unwrap();
    symlink(entry.join("real"), entry.join("store")).unwrap();
    refused(&place, &id.to_string(), "a link to a folder");
    fs::remove_file(entry.join("store")).unwrap();
    fs::rename(entry.join("real"), entry.join("store")).unwrap();
    assert_eq!(fs::read(&secret).unwrap(), fs::read(&file).unwrap());
    assert!(!Path::new("/tmp/evil-of-a-manifest").exists());
}

/// Files that are what was written, under a manifest that says otherwise of what they hold.
#[test]
fn a_manifest_that_tells_of_another_state_is_found() {
    let place = Place::native();
    let id: SnapshotId = id(&place.create(&[])).parse().unwrap();
    let mut manifest = place.catalog().show(id).unwrap();
    manifest.state.head_order += 1;
    fs::write(place.entry(&id.to_string()).join("manifest.json"), manifest.encode().unwrap()).unwrap();
    refused(&place, &id.to_string(), "another head");
}

#[test]
fn a_folder_that_holds_something_else_becomes_no_catalog() {
    let place = Place::native();
    fs::create_dir(place.catalog_dir()).unwrap();
    fs::write(place.catalog_dir().join("notes.txt"), b"mine").unwrap();
    let (code, told) = state_tests::node::json(
        &place.creating(&[]).iter().map(String::as_str).filter(|word| *word != "--json").collect::<Vec<_>>(),
    );
    assert_eq!((code, told["error"]["code"].as_str()), (1, Some("not_a_catalog")), "{told:#}");
    assert_eq!(folder::digests(&place.catalog_dir()).len(), 1);
    assert_eq!(place.refusal(&["list"]).0, "no_catalog");
}
