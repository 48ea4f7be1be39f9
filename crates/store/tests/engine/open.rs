//! Opening: what is refused and left untouched, reading beside a running node, and who holds the lock.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use state_store::{Backend, Batch, Durability, Flow, KeyRange, RocksBackend, Store, StoreError, Table, lock_holder};

use crate::support::{CONFIG, Rig, SMALL, commit, contents, copy_folder, hash, nodes, present};

type Opener = fn(&Path) -> Result<RocksBackend, StoreError>;

const WRITERS: [Opener; 2] = [|path| RocksBackend::open(path, &SMALL), |path| RocksBackend::open_rooch(path, &SMALL)];
const READER: Opener = |path| RocksBackend::open_read_only(path, &SMALL);

fn error_of(opener: Opener, path: &Path) -> StoreError {
    match opener(path) {
        Err(error) => error,
        Ok(_) => panic!("it opened"),
    }
}

#[test]
fn what_is_not_a_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder, absent) = (dir.path().join("file"), dir.path().join("folder"), dir.path().join("absent"));
    std::fs::write(&file, b"text").unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("notes.txt"), b"mine").unwrap();
    for opener in [WRITERS[0], WRITERS[1], READER] {
        for path in [&file, &folder] {
            assert!(matches!(error_of(opener, path), StoreError::NotADatabase { .. }));
        }
    }
    for opener in [WRITERS[1], READER] {
        assert!(matches!(error_of(opener, &absent), StoreError::NotADatabase { .. }));
    }
    assert!(!absent.exists(), "only our own kind is created, and only on request");
    assert_eq!(contents(&folder).len(), 1);
}

/// An engine that may not open a file stops for good.
#[test]
fn whoever_opens_a_store_may_open_as_many_files_as_the_system_allows() {
    let dir = tempfile::tempdir().unwrap();
    let (path, allowed) = (dir.path().join("store"), getrlimit(Resource::Nofile).maximum.unwrap());
    drop(RocksBackend::open(&path, &SMALL).unwrap());
    for opener in [WRITERS[0], WRITERS[1], READER] {
        setrlimit(Resource::Nofile, Rlimit { current: Some(allowed - 1), maximum: Some(allowed) }).unwrap();
        drop(opener(&path).unwrap());
        assert_eq!(getrlimit(Resource::Nofile).current, Some(allowed));
    }
}

#[test]
fn a_database_of_another_kind_is_refused_with_what_it_has_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("indexer");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, &path, ["rows", "more"]).unwrap());
    let before = contents(&path);
    for opener in [WRITERS[0], WRITERS[1], READER] {
        let error = error_of(opener, &path);
        let StoreError::MissingFamily { family, present, .. } = &error else { panic!("{error}") };
        assert_eq!((family.as_str(), present.as_str()), ("state_node", "default, more, rows"));
    }
    assert_eq!(contents(&path), before);
}

/// The engine takes a list of files that lost its beginning for that of an empty database, and would remove the files.
#[test]
fn a_list_of_files_that_was_cut_is_damage_and_no_other_kind_of_database() {
    let rig = Rig::new();
    rig.commit(nodes(0, 100, 2_000));
    rig.backend.flush().unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&rig.path(), copy.path());
    let list = std::fs::read_to_string(copy.path().join("CURRENT")).unwrap();
    std::fs::write(copy.path().join(list.trim()), b"").unwrap();
    let before = contents(copy.path());
    for opener in [WRITERS[0], WRITERS[1], READER] {
        let error = error_of(opener, copy.path());
        assert!(matches!(&error, StoreError::Corrupt(why) if why.contains(list.trim())), "{error}");
    }
    assert_eq!(contents(copy.path()), before);
}

/// The engine would take what is left for the list of a younger store, and remove the tables that came later.
#[test]
fn a_list_of_files_that_ends_within_a_record_is_refused_before_any_file_is_removed() {
    let rig = Rig::new();
    rig.commit(nodes(0, 100, 2_000));
    rig.backend.flush().unwrap();
    let list = std::fs::read_to_string(rig.path().join("CURRENT")).unwrap();
    let whole = std::fs::read(rig.path().join(list.trim())).unwrap();
    for cut in [1, 2, 7, 12, 20] {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&rig.path(), copy.path());
        std::fs::write(copy.path().join(list.trim()), &whole[..whole.len() - cut]).unwrap();
        let before = contents(copy.path());
        for opener in [WRITERS[0], WRITERS[1], READER] {
            let error = error_of(opener, copy.path());
            assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("ends within a record")), "{error}");
        }
        assert_eq!(contents(copy.path()), before, "cut by {cut}");
    }
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&rig.path(), copy.path());
    drop(RocksBackend::open_read_only(copy.path(), &SMALL).unwrap());
}

#[test]
fn somebody_elses_store_is_never_opened_as_our_own() {
    let foreign = crate::foreign::Foreign::new();
    let before = contents(foreign.path());
    let error = error_of(WRITERS[0], foreign.path());
    assert!(matches!(&error, StoreError::MissingFamily { family, .. } if family == "chain_meta"), "{error}");
    assert_eq!(contents(foreign.path()), before, "no table of ours was added");
}

#[test]
fn a_read_only_open_writes_nothing_into_the_folder() {
    let rig = Rig::new();
    rig.commit(nodes(0, 100, 2_000));
    rig.backend.flush().unwrap();
    rig.commit(nodes(100, 10, 50)); // in the log only
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&rig.path(), copy.path());
    let before = contents(copy.path());
    let reader = RocksBackend::open_read_only(copy.path(), &SMALL).unwrap();
    let store = Store::foreign(Arc::new(reader), CONFIG).unwrap();
    assert_eq!(present(&store).len(), 110, "the log is read too");
    assert!(matches!(store.backend().flush(), Err(StoreError::ReadOnly)));
    assert!(matches!(store.backend().rewrite_nodes(&KeyRange::ALL), Err(StoreError::ReadOnly)));
    assert!(matches!(store.write_rows(&Batch::new(), Durability::Logged), Err(StoreError::ReadOnly)));
    drop(store);
    assert_eq!(contents(copy.path()), before);
}

#[test]
fn a_reader_beside_a_running_node_sees_one_instant_and_a_follower_catches_up() {
    let rig = Rig::new();
    rig.commit(nodes(0, 10, 50));
    let scratch = tempfile::tempdir().unwrap();
    let reader = RocksBackend::open_read_only(&rig.path(), &SMALL).unwrap();
    let follower = RocksBackend::open_secondary(&rig.path(), scratch.path(), &SMALL).unwrap();
    rig.commit(nodes(10, 10, 50));
    let count = |backend: &dyn Backend| {
        let mut rows = 0;
        let view = backend.view().unwrap();
        view.scan_nodes(&KeyRange::ALL, &mut |_, _| {
            rows += 1;
            Flow::Continue(())
        })
        .unwrap();
        assert_eq!(view.node(&hash(0)).unwrap().map(|bytes| bytes.len()), Some(50));
        rows
    };
    assert_eq!((count(&reader), count(&follower)), (10, 10));
    follower.catch_up().unwrap();
    assert_eq!((count(&reader), count(&follower)), (10, 20));
    assert!(reader.catch_up().is_err());
    assert!(matches!(follower.write(&Batch::new(), Durability::Logged), Err(StoreError::ReadOnly)));
}

#[test]
fn a_store_left_half_created_is_finished_by_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    drop(rocksdb::DB::open(&options, dir.path().join("store.creating")).unwrap());
    let store = Store::open(Arc::new(RocksBackend::open(&path, &SMALL).unwrap()), CONFIG).unwrap();
    commit(&store, nodes(0, 1, 10)).unwrap();
    assert!(Table::ALL.iter().all(|table| store.view().unwrap().has_table(table)));
    assert!(!dir.path().join("store.creating").exists());
}

#[test]
fn a_store_that_is_open_here_already_is_refused_with_our_own_name() {
    let rig = Rig::new();
    assert_eq!(lock_holder(&rig.path()).unwrap().unwrap().pid, Some(std::process::id()));
    for opener in WRITERS {
        let error = error_of(opener, &rig.path());
        assert!(
            matches!(&error, StoreError::Locked { holder, .. } if holder.pid == Some(std::process::id())),
            "{error}"
        );
    }
    rig.commit(nodes(0, 1, 10));
    let path = rig.path();
    let rig = rig.reopen();
    assert!(lock_holder(&path).unwrap().is_some());
    drop(rig);
}

const CHILD_STORE: &str = "STATE_STORE_HOLD";

/// The child of the next test: holds the store until its standard input ends.
#[test]
#[ignore = "a child of another test"]
fn child_holds_the_store() {
    let Some(path) = std::env::var_os(CHILD_STORE) else {
        return;
    };
    let _held = RocksBackend::open(path.as_ref(), &SMALL).unwrap();
    println!("holding");
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_second_process_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(RocksBackend::open(&path, &SMALL).unwrap());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "open::child_holds_the_store"])
        .env(CHILD_STORE, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("holding")));
    let before = contents(&path);
    let command = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
    for opener in WRITERS {
        let error = error_of(opener, &path);
        let StoreError::Locked { holder, .. } = &error else { panic!("{error}") };
        assert_eq!(holder.pid, Some(child.id()));
        assert_eq!(holder.command.as_deref(), Some(command.trim()));
        assert!(error.to_string().contains(&child.id().to_string()), "{error}");
    }
    assert_eq!(contents(&path), before, "and nothing was written");
    assert!(READER(&path).is_ok(), "reading beside it is fine");
    writeln!(child.stdin.take().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(lock_holder(&path).unwrap(), None, "a LOCK file without a holder is no lock");
    assert!(WRITERS[0](&path).is_ok());
}

fn largest_table(rig: &Rig) -> PathBuf {
    let files = std::fs::read_dir(rig.path()).unwrap().map(|entry| entry.unwrap().path());
    let tables = files.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    tables.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

/// The engine takes no write any more, and where nobody writes nobody would know.
#[test]
fn damage_that_a_compaction_meets_is_told_until_the_store_is_opened_again() {
    let rig = Rig::new();
    rig.commit(nodes(0, 400, 200));
    rig.backend.flush().unwrap();
    assert_eq!(rig.backend.damage(), None);
    let table = largest_table(&rig);
    let file = std::fs::File::options().read(true).write(true).open(&table).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 3, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    let error = rig.backend.rewrite_files(&KeyRange::ALL).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    let told = rig.backend.damage().unwrap();
    assert!(told.contains(table.file_name().unwrap().to_str().unwrap()), "{told}");
    let refused = commit(&rig.store, nodes(400, 1, 200)).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt(_)), "{refused:?}");
    let rig = rig.reopen();
    assert_eq!(rig.backend.damage(), None);
    rig.commit(nodes(400, 1, 200));
}

/// The engine opens such a store without what came after the damage.
#[test]
fn damage_within_the_write_ahead_log_is_told_and_an_end_that_a_killed_writer_leaves_is_not() {
    let rig = Rig::new();
    for n in 0..20 {
        rig.commit(nodes(10 * n, 10, 200));
    }
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        copy_folder(&rig.path(), &path);
        let files = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let log = logs.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
        let mut bytes = std::fs::read(&log).unwrap();
        change(&mut bytes);
        std::fs::write(&log, bytes).unwrap();
        let at_rest = RocksBackend::open_for_a_look(&path).unwrap().log_cut();
        let backend = Arc::new(RocksBackend::open(&path, &SMALL).unwrap());
        let cut = backend.log_cut();
        assert_eq!(at_rest.map(|cut| cut.what), cut.as_ref().map(|cut| cut.what.clone()), "{name}: it is seen before");
        (cut, Store::open(backend, CONFIG).unwrap().head().unwrap().order)
    };
    assert_eq!(copy("whole", &|_| ()), (None, 19));
    assert_eq!(names_beside(&dir.path().join("whole")), ["whole"], "nothing is left of logs that are whole");
    let written = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let (cut, head) = copy("torn", &|bytes| bytes.truncate(written(bytes) - 100));
    assert_eq!((cut, head), (None, 18));
    let (cut, head) = copy("damaged", &|bytes| {
        let at = written(bytes) / 2;
        bytes[at] ^= 1;
    });
    let cut = cut.unwrap();
    assert!(cut.what.contains(".log: dropping ") && cut.what.contains("Corruption") && head < 18, "{cut:?} {head}");
}

/// What lies beside a store under names that begin with its own.
fn names_beside(store: &Path) -> Vec<String> {
    let own = store.file_name().unwrap().to_str().unwrap().to_owned();
    let names = std::fs::read_dir(store.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| *name == own || name.starts_with(&format!("{own}.")));
    names.sort();
    names
}

/// The engine removes the log that it could not use, and the next process has no other way to know.
#[test]
fn a_damaged_log_is_kept_beside_the_store_and_told_by_every_opening_until_somebody_keeps_what_was_met() {
    let rig = Rig::new();
    for n in 0..20 {
        rig.commit(nodes(10 * n, 10, 200));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::fs::create_dir(&path).unwrap();
    copy_folder(&rig.path(), &path);
    let logs = || {
        let files = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "log"))
    };
    let log = logs().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[at] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let open = || RocksBackend::open(&path, &SMALL).unwrap();
    let met = open().log_cut().unwrap();
    assert!(!log.exists(), "the engine has removed it");
    let kept = met.kept.clone().unwrap();
    assert_eq!(std::fs::read(kept.join(log.file_name().unwrap())).unwrap(), bytes);
    let again = open();
    assert_eq!(again.log_cut(), Some(met), "a process that dies before it has kept this leaves it to the next one");
    again.log_cut_is_kept().unwrap();
    drop(again);
    assert_eq!(open().log_cut(), None);
    assert_eq!(names_beside(&path), ["store", "store.cut_logs"]);
}

#[test]
fn a_damaged_table_file_is_an_error_of_its_own_kind() {
    let rig = Rig::new();
    rig.commit(nodes(0, 400, 200));
    rig.backend.flush().unwrap();
    let table = largest_table(&rig);
    let name = table.file_name().unwrap().to_owned();
    let whole = std::fs::read(&table).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 3] ^= 0x40;
    let outcome = |damage: Option<&[u8]>| {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&rig.path(), copy.path());
        match damage {
            Some(bytes) => std::fs::write(copy.path().join(&name), bytes).unwrap(),
            None => std::fs::remove_file(copy.path().join(&name)).unwrap(),
        }
        let view = READER(copy.path()).and_then(|backend| backend.view());
        view.and_then(|view| view.scan_nodes(&KeyRange::ALL, &mut |_, _| Flow::Continue(())))
    };
    assert!(outcome(Some(&whole)).is_ok());
    for (what, damage) in [
        ("a flipped bit", Some(flipped.as_slice())),
        ("a truncated file", Some(&whole[..whole.len() / 2])),
        ("a missing file", None),
    ] {
        let error = outcome(damage).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{what}: {error:?}");
    }
}
