//! A catalog where nothing can be written, such as one on a backup that is mounted for reading, serves its readers; one that was
//! copied without its lock file is a catalog still.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _};

use rustix::io::Errno;
use state_pruner::catalog::Catalog;
use state_store::{FaultyDisk, FileCall};
use state_tests::folder;

use crate::ground::{Act, Ground};

/// A disk that takes nothing from a catalog.
fn read_only(ground: &Ground) -> FaultyDisk {
    FaultyDisk::heard(&ground.catalog_dir(), |call, _| match call {
        FileCall::Open | FileCall::Read | FileCall::List => Ok(()),
        FileCall::Create | FileCall::Write | FileCall::Sync | FileCall::Rename | FileCall::Remove => {
            Err(Errno::ROFS.into())
        }
    })
}

#[test]
fn a_catalog_where_nothing_can_be_written_serves_its_readers_and_refuses_whoever_writes() {
    for has_lock in [true, false] {
        let ground = Ground::new();
        let lock = ground.catalog_dir().join("catalog.lock");
        if !has_lock {
            fs::remove_file(&lock).unwrap();
        }
        let (digests, before) = (ground.digests(), folder::digests(&ground.catalog_dir()));
        let disk = read_only(&ground);
        for act in [Act::List, Act::Verify, Act::Restore] {
            let read = ground.run(act);
            assert!(read.is_ok(), "{act:?}, lock {has_lock}: {read:?}");
        }
        assert!(ground.is_restored(&digests, "restored"), "lock {has_lock}");
        for act in [Act::Create, Act::Delete, Act::Prune] {
            let refused = ground.run(act).unwrap_err();
            assert_eq!(refused.code(), "permission", "{act:?}, lock {has_lock}: {refused}");
            let says = [ground.catalog_dir().display().to_string(), "mounted for reading only".to_owned()];
            assert!(says.iter().all(|part| refused.to_string().contains(part)), "{act:?}: {refused}");
        }
        drop(disk);
        assert_eq!(folder::digests(&ground.catalog_dir()), before, "lock {has_lock}: nothing was written");
    }
}

#[test]
fn a_catalog_without_its_lock_file_is_one_and_gets_another_from_whoever_writes() {
    for act in [Act::Create, Act::Replace, Act::Delete, Act::Prune] {
        let ground = Ground::of(act);
        let lock = ground.catalog_dir().join("catalog.lock");
        fs::remove_file(&lock).unwrap();
        let listed = ground.sound("without its lock");
        assert!(listed.contains(&ground.first) && !lock.exists(), "{act:?}: whoever reads makes none");
        ground.run(act).unwrap();
        assert!(lock.is_file(), "{act:?}");
        let made = ground.made();
        assert_eq!(ground.sound("with another one").last(), Some(&made), "{act:?}: it is the newest");
        ground.gives_no_ordinal_twice("with another one");
    }
}

#[test]
fn a_folder_with_the_name_of_a_snapshot_and_nothing_of_one_makes_no_catalog() {
    let ground = Ground::new();
    let strange = ground.kept().join("strange");
    fs::create_dir_all(strange.join(ground.first.to_string())).unwrap();
    let file = ground.kept().join("file");
    fs::write(&file, b"mine").unwrap();
    for none in [&strange, &file] {
        assert_eq!(Catalog::open(none).unwrap_err().code(), "no_catalog", "{}", none.display());
    }
    assert_eq!(Catalog::open_or_create(&strange).unwrap_err().code(), "not_a_catalog");
    assert!(!strange.join("catalog.lock").exists(), "nothing is put beside it");
    let foreign = ground.kept().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join(OsStr::from_bytes(b"caf\xe9")), b"mine").unwrap();
    assert_eq!(Catalog::open_or_create(&foreign).unwrap_err().code(), "not_a_catalog", "its name is no text");
}
