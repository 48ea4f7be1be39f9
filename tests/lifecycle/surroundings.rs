//! C12, C13, C15: places that hold no store, a store that somebody else holds, no permission, no room.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Lines, Write},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use state_pruner::{
    PruneError, Stage, SweepChoice, Verdict,
    mark::MarkChoice,
    offline::{self, HealthRequest, PruneMode, PruneOutcome, PruneRequest, StoreLayout},
};
use state_store::{KeyRange, RocksBackend, RocksConfig};
use state_tests::{
    damage, folder,
    nobody::{NOBODY, as_nobody},
    offline::{prune, request, verify, watched},
    rig::{Engine, Rig},
    shared::Shared,
    skip::{Lack, skipped},
    workload::Profile,
};
use tempfile::TempDir;

use crate::{end_is_told, refused, runs::once};

#[test]
fn a_path_without_a_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, other, file) = (dir.path().join("empty"), dir.path().join("other"), dir.path().join("file"));
    fs::create_dir(&empty).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("notes.txt"), "no database").unwrap();
    fs::write(&file, "no folder").unwrap();
    for path in [empty, other, file, dir.path().join("absent")] {
        let error = refused(&request(&path, 10), "not_a_database");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(error.to_string().contains("CURRENT"), "it says what to give: {error}");
    }
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"no folder");
    assert!(!dir.path().join("absent").exists());
}

/// Tables lie in it, so it is no other folder: whoever gave it need not look for one.
#[test]
fn a_database_that_has_lost_the_file_current_is_damaged() {
    let Some(store) = Shared::Small.copy("a store without CURRENT") else {
        return;
    };
    fs::remove_file(store.db().join("CURRENT")).unwrap();
    let error = refused(&request(&store.db(), 10), "corrupt").to_string();
    assert!(error.contains("no CURRENT") && error.contains(&store.db().display().to_string()), "{error}");
    let health = offline::health_of_store(&HealthRequest::new(&store.db(), None)).unwrap();
    assert_eq!(health.verdict, Verdict::Critical, "{health:?}");
}

#[test]
fn a_database_without_a_node_family_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, &db, ["accounts", "blocks"]).unwrap());
    let error = refused(&request(&db, 10), "missing_family").to_string();
    for word in ["state_node", "accounts", "blocks", &db.display().to_string()] {
        assert!(error.contains(word), "{word}: {error}");
    }
}

/// Run by another test in a process of its own: holds the store named by the environment until its input ends.
#[test]
#[ignore = "a child of another test"]
fn child_holds_a_store() {
    let Some(db) = std::env::var_os("CHILD_STORE") else {
        return;
    };
    let _held = damage::open(Path::new(&db));
    println!("\nCHILD holds");
    drop(std::io::stdin().lines().next());
}

/// As above: prunes the store and prints how that ended.
#[test]
#[ignore = "a child of another test"]
fn child_prunes_a_store() {
    let Some(db) = std::env::var_os("CHILD_STORE") else {
        return;
    };
    let state_dir = std::env::var_os("CHILD_STATE").map(PathBuf::from);
    let ended = prune(&PruneRequest { state_dir, ..request(Path::new(&db), 10) });
    match ended {
        Ok(_) => println!("\nCHILD ok"),
        Err(error) => println!("\nCHILD {} {error}", error.code()),
    }
}

fn this_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    child_arguments(&mut command, name);
    command
}

fn child_arguments(command: &mut Command, name: &str) {
    command.args(["--exact", "--ignored", "--nocapture", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
}

/// A child and the line it printed for us.
struct Spoken {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    line: String,
}

impl Spoken {
    fn hear(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = output.by_ref().map(Result::unwrap).find(|line| line.starts_with("CHILD"));
        Self { child, input, output, line: line.expect("the child says how it went") }
    }

    fn end(mut self) -> String {
        drop(self.input.take());
        self.output.by_ref().for_each(|line| drop(line.unwrap()));
        self.child.wait().unwrap();
        self.line
    }
}

#[test]
fn a_store_that_another_process_holds_is_refused_with_its_name() {
    let Some(store) = Shared::Small.copy("a held store") else {
        return;
    };
    let mut command = this_test("surroundings::child_holds_a_store");
    command.env("CHILD_STORE", store.db());
    let holder = Spoken::hear(command);
    let pid = holder.child.id();
    let error = refused(&request(&store.db(), 10), "locked").to_string();
    assert!(error.contains(&format!("process {pid}")), "{error}");
    assert!(error.contains(&store.db().display().to_string()), "{error}");
    assert!(verify(&store.db(), StoreLayout::Rooch, 10).unwrap().is_sound(), "reading is allowed all the same");
    holder.end();
    prune(&request(&store.db(), 10)).unwrap();
}

/// A node replaces its files at any time; whoever opens its store at that moment must not take that for damage.
#[test]
fn a_store_is_opened_while_its_writer_replaces_every_file() {
    let rig = Rig::new(Engine::Rocks);
    rig.chain.grow(Profile::Uniform, 160, 50);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut seed = 161;
            while !over.load(Ordering::Acquire) {
                rig.chain.grow(Profile::Uniform, seed, 3);
                rig.backend.rewrite_nodes(&KeyRange::ALL).unwrap();
                seed += 1;
            }
        });
        for attempt in 0..150 {
            let opened = RocksBackend::open_read_only(&rig.store_dir(), &RocksConfig::default());
            over.fetch_or(opened.is_err() || attempt == 149, Ordering::AcqRel);
            opened.unwrap_or_else(|error| panic!("attempt {attempt}: {error}"));
        }
    });
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs the prune of a store as a user who owns nothing.
fn prune_as_nobody(db: &Path, state: &Path) -> String {
    let open_to_all = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let programs = tempfile::tempdir().unwrap();
    open_to_all(programs.path(), 0o755);
    let program = programs.path().join("child");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    open_to_all(&program, 0o755);
    let mut command = as_nobody(&program);
    child_arguments(&mut command, "surroundings::child_prunes_a_store");
    command.env("CHILD_STORE", db).env("CHILD_STATE", state).current_dir("/");
    Spoken::hear(command).end()
}

#[test]
fn a_store_without_permission_is_refused_and_untouched() {
    let Some(store) = Shared::Small.copy("no permission") else {
        return;
    };
    if !is_root() || Command::new("setpriv").arg("--version").output().is_err() {
        return skipped("no permission", Lack::Users, "it needs root and setpriv to become somebody else");
    }
    let open_to_all = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open_to_all(store.dir(), 0o755);
    let state = store.dir().join("state");
    fs::create_dir(&state).unwrap();
    open_to_all(&state, 0o777);
    let before = folder::digests(&store.db());

    open_to_all(&store.db(), 0o755); // it may read, not write
    let line = prune_as_nobody(&store.db(), &state);
    assert!(line.starts_with("CHILD permission") && line.contains(&store.db().display().to_string()), "{line}");
    assert_eq!(folder::digests(&store.db()), before);

    open_to_all(&store.db(), 0o700); // it may not even look
    let line = prune_as_nobody(&store.db(), &state);
    assert!(line.starts_with("CHILD permission"), "{line}");

    let files = fs::read_dir(store.db()).unwrap().map(|file| file.unwrap().path());
    files.chain([store.db()]).for_each(|path| chown(path, Some(NOBODY), Some(NOBODY)).unwrap());
    open_to_all(&state, 0o755); // it may not write its own records
    fs::remove_dir_all(&state).unwrap();
    let line = prune_as_nobody(&store.db(), &state);
    assert!(line.starts_with("CHILD permission") && line.contains("state"), "{line}");
    assert_eq!(folder::digests(&store.db()), before);
}

/// A small file system in memory.
struct Disk {
    dir: TempDir,
}

impl Disk {
    fn of(mebibytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(dir.path());
        let mounted = is_root() && mount.status().is_ok_and(|status| status.success());
        mounted.then_some(Self { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Writes until nothing more fits, and returns the file to remove.
    fn fill(&self) -> PathBuf {
        fill(self.dir.path())
    }
}

/// Writes into a folder until nothing more fits, and returns the file to remove.
fn fill(dir: &Path) -> PathBuf {
    let filler = dir.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let mut chunk = vec![0x5a; 1 << 20];
    while !chunk.is_empty() {
        if file.write_all(&chunk).is_err() {
            chunk.truncate(chunk.len() / 2);
        }
    }
    filler
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_before_the_sweep_is_refused_and_the_store_is_untouched() {
    let Some(store) = Shared::Small.copy("full disk before") else {
        return;
    };
    let Some(disk) = Disk::of(16) else {
        return skipped("full disk before", Lack::Mounts, "it needs root to mount a small disk");
    };
    folder::copy(&store.db(), &disk.path());
    for sweep in [SweepChoice::Filter, SweepChoice::Delete] {
        let elsewhere = store.dir().join("elsewhere");
        let request = PruneRequest { sweep, state_dir: Some(elsewhere), ..request(&disk.path(), 10) };
        let before = folder::digests(&disk.path());
        let error = prune(&request).unwrap_err();
        assert_eq!(error.code(), "no_room", "{sweep:?}: {error}");
        assert_eq!(folder::digests(&disk.path()), before, "{sweep:?}");
        end_is_told(&request, &error);
        prune(&PruneRequest { mode: PruneMode::Plan, ..request }).unwrap();
    }
    let filler = disk.fill();
    let error = prune(&request(&disk.path(), 10)).unwrap_err();
    assert_eq!(error.code(), "disk_full", "its records have no room beside the store: {error}");
    assert!(error.to_string().contains(&disk.dir.path().display().to_string()), "{error}");
    prune(&PruneRequest { mode: PruneMode::Plan, ..request(&disk.path(), 10) }).unwrap(); // a plan keeps nothing there
    fs::remove_file(filler).unwrap();
}

/// Somebody else fills the disk while a sweep is under way. The engine reserves the room of a range before it rewrites
/// it, so a filtered sweep may end well all the same; delete batches meet the full disk.
#[test]
fn a_disk_that_fills_during_a_sweep_loses_nothing_and_the_next_prune_is_exact() {
    for sweep in [SweepChoice::Filter, SweepChoice::Delete] {
        let Some(store) = Shared::Medium.copy("full disk during") else {
            return;
        };
        let Some(disk) = Disk::of(150) else {
            return skipped("full disk during", Lack::Mounts, "it needs root to mount a small disk");
        };
        let expected = store.windows().into_iter().find(|expected| expected.keep_last == 100).unwrap();
        folder::copy(&store.db(), &disk.path());
        let options = newest_options(&disk.path());
        let request = PruneRequest {
            mark: MarkChoice::Scan,
            sweep,
            state_dir: Some(store.dir().join("elsewhere")),
            io_limit: std::num::NonZeroU64::new(16 << 20), // slow enough to be caught in the middle
            ..request(&disk.path(), 100)
        };
        let (ended, filler) = match sweep {
            SweepChoice::Delete => once_something_is_deleted(&disk, &request),
            SweepChoice::Filter | SweepChoice::Auto => while_the_disk_fills(&disk, || prune(&request)),
        };
        match &ended {
            Ok(_) => {
                assert_eq!(sweep, SweepChoice::Filter, "delete batches need room for their log");
                let report = verify(&disk.path(), StoreLayout::Rooch, 100).unwrap();
                assert_eq!(
                    (report.present_sha256.as_ref(), report.leaked_nodes),
                    (Some(&expected.live_sha256), Some(0))
                );
            }
            Err(error) => {
                assert!(["disk_full", "no_room"].contains(&error.code()), "{sweep:?}: {} {error}", error.code())
            }
        }
        fs::remove_file(filler).unwrap();
        let report = verify(&disk.path(), StoreLayout::Rooch, 100).unwrap();
        assert!(report.is_sound(), "{sweep:?}: {report:?}");
        assert_eq!(report.live_sha256.as_ref(), Some(&expected.live_sha256));
        prune(&PruneRequest { io_limit: None, ..request }).unwrap();
        let report = verify(&disk.path(), StoreLayout::Rooch, 100).unwrap();
        assert_eq!((report.present_sha256, report.leaked_nodes), (Some(expected.live_sha256), Some(0)));
        assert!(newest_options(&disk.path()) == options, "{sweep:?}: the newest OPTIONS file is not theirs any more");
    }
}

/// Prunes, and fills the disk when the first batch was deleted.
fn once_something_is_deleted(disk: &Disk, request: &PruneRequest) -> (Result<PruneOutcome, PruneError>, PathBuf) {
    let dir = disk.dir.path().to_owned();
    let filler = Arc::new(OnceLock::new());
    let filling = Arc::clone(&filler);
    let observer = once(Stage::Sweep, move || drop(filling.set(fill(&dir))));
    let ended = offline::prune(request, &watched(observer));
    (ended, filler.get().unwrap().clone())
}

/// Runs the work, and fills the disk once the work has written something of some size.
fn while_the_disk_fills<T>(disk: &Disk, work: impl FnOnce() -> T) -> (T, PathBuf) {
    let over = AtomicBool::new(false);
    let files = || [folder::with_ending(&disk.path(), "sst"), folder::with_ending(&disk.path(), "log")].concat();
    let before = files();
    thread::scope(|scope| {
        let filling = scope.spawn(|| {
            let begun =
                |path: &PathBuf| !before.contains(path) && fs::metadata(path).is_ok_and(|file| file.len() > 1 << 16);
            while !files().iter().any(begun) && !over.load(Ordering::Acquire) {
                thread::yield_now();
            }
            disk.fill()
        });
        let done = work();
        over.store(true, Ordering::Release);
        (done, filling.join().unwrap())
    })
}

fn newest_options(db: &Path) -> Vec<u8> {
    let entries = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let options = entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("OPTIONS-"));
    fs::read(options.max().unwrap()).unwrap()
}
