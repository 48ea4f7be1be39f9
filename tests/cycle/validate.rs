//! S46: the validator passes nothing without looking, fails what is broken, skips what it cannot ask, and disturbs nobody.

use std::{
    fs,
    future::Future,
    num::NonZeroU64,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread::{self, ThreadId},
    time::Duration,
};

use state_pruner::{
    Certificate, CertificateText, Clock, Command, PruneError, Pruner, RecordKey, Records as _, Reply, Retention,
    StoreRecords, SystemClock, Verdict,
    events::{Event, EventJournal, EventSink as _, EventsConfig, journal_dir, journal_file},
    phase::{PhaseRecord, PrunePhase},
    recovery::{Came, ErrorRecoveryManager, RecoveryConfig, RecoveryMetrics},
    snapshot::{AtomicSnapshotManager, RetentionPolicy, SnapshotManagerConfig, SnapshotParts},
    validate::{
        Check, Checked, Depth, SnapshotValidator, ValidationReport, ValidationResult, check_record, quick_health_check,
    },
};
use state_store::{
    Backend, Batch, Durability, Fault, FaultyBackend, FaultyDisk, FileCall, Flow, KeyRange, Lasting, StoreError, Table,
};
use state_tests::{
    check,
    hooks::{Hooks, Moment},
    records::Use,
    rig::{Engine, Rig},
    waits::until,
    workload::Profile,
};

use crate::{health::pruner, left};

/// Checks are never pending: they wait for nobody.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a check waits"),
    }
}

fn failed(result: &ValidationResult) -> bool {
    matches!(result, ValidationResult::Failed { .. })
}

fn skipped(result: &ValidationResult) -> bool {
    matches!(result, ValidationResult::Skipped { .. })
}

/// A chain on a backend that fails where it is told to, with a manager that has a snapshot.
struct Bench {
    rig: Rig,
    faulty: FaultyBackend,
    parts: SnapshotParts,
    snapshots: Arc<AtomicSnapshotManager>,
    records: StoreRecords,
    recovery: Option<Arc<ErrorRecoveryManager>>,
}

impl Bench {
    fn empty() -> Self {
        let (rig, faulty) = Rig::new_faulty();
        let parts = rig.parts(NonZeroU64::new(5).unwrap(), &Hooks::none());
        let snapshots = Arc::new(AtomicSnapshotManager::new(parts.clone(), SnapshotManagerConfig::default()));
        let records = StoreRecords(Arc::clone(&rig.chain.store));
        Self { rig, faulty, parts, snapshots, records, recovery: None }
    }

    fn new() -> Self {
        let mut bench = Self::empty();
        bench.rig.chain.grow(Profile::Uniform, 120, 9);
        bench.snapshots.create_snapshot(PrunePhase::BuildReach).unwrap();
        bench.snapshots.end_cycle();
        bench.faulty.say_free(1 << 40);
        let config = RecoveryConfig { max_phase_retries: 0, ..RecoveryConfig::default() };
        let metrics = RecoveryMetrics::new();
        let (snapshots, store) = (Arc::clone(&bench.snapshots), Arc::clone(&bench.rig.chain.store));
        let events =
            EventJournal::open(&bench.events(), EventsConfig::default(), Arc::new(SystemClock::new())).unwrap();
        events.emit(Event::DeletesUnfrozen);
        drop(events);
        bench.recovery = Some(Arc::new(ErrorRecoveryManager::new(snapshots, store, metrics, Some(config))));
        bench
    }

    /// The folder of its journal of events.
    fn events(&self) -> PathBuf {
        journal_dir(&self.rig.plan(5).config.state_dir)
    }

    fn report(&self) -> ValidationReport {
        let validator = SnapshotValidator::new(Arc::clone(&self.snapshots), self.recovery.clone());
        now(validator.with_cycles(&self.rig.plan(5).config).with_events(self.events()).run_comprehensive_validation())
    }

    fn phase_record(&self) -> PhaseRecord {
        let snapshot = self.snapshots.status().snapshot.unwrap();
        PhaseRecord {
            cycle: 1,
            phase: PrunePhase::BuildReach,
            snapshot_id: snapshot.snapshot_id,
            head_order: snapshot.snapshot.latest_order,
            first_order: snapshot.snapshot.first_order,
            roots_digest: snapshot.snapshot.roots_digest.0,
            integrity_hash: snapshot.integrity_hash.0,
            mark_digest: None,
            config: [0; 32],
            cursor: None,
            swept_by: None,
            deleted: 0,
        }
    }

    /// The same snapshots over other parts.
    fn remake(&mut self) {
        self.snapshots = Arc::new(AtomicSnapshotManager::new(self.parts.clone(), SnapshotManagerConfig::default()));
        self.snapshots.initialize().unwrap();
    }

    /// The rows of the commit journal, by order.
    fn journal(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let mut each = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            Flow::Continue(())
        };
        self.faulty.view().unwrap().scan(&Table::JOURNAL, &KeyRange::ALL, &mut each).unwrap();
        rows
    }

    fn put(&self, (key, value): (Vec<u8>, Vec<u8>)) {
        let mut batch = Batch::new();
        batch.put(Table::JOURNAL, key, value);
        self.faulty.write(&batch, Durability::Logged).unwrap();
    }

    /// Flips a bit of a row of the commit journal.
    fn spoil(&self, (key, mut value): (Vec<u8>, Vec<u8>)) {
        *value.last_mut().unwrap() ^= 1;
        self.put((key, value));
    }

    fn flip(&self, key: RecordKey) {
        let mut bytes = self.records.load(key).unwrap().unwrap();
        bytes[20] ^= 1;
        self.records.save(key, &bytes).unwrap();
    }
}

/// A clock on which everything takes long.
#[derive(Debug, Default)]
struct Slow(AtomicU64);

impl Clock for Slow {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(10 * self.0.fetch_add(1, Ordering::SeqCst))
    }

    fn unix_ms(&self) -> u64 {
        0
    }
}

/// A policy that answers one thread only.
struct OnlyHere {
    inner: Arc<dyn RetentionPolicy>,
    here: ThreadId,
}

impl RetentionPolicy for OnlyHere {
    fn advance(&self) -> Result<(), PruneError> {
        self.inner.advance()
    }

    fn retention(&self) -> Result<Retention, PruneError> {
        if thread::current().id() == self.here {
            return self.inner.retention();
        }
        Err(PruneError::Invariant("asked by two at once".to_owned()))
    }
}

#[test]
fn everything_that_can_be_asked_of_a_sound_store_passes_with_what_was_seen() {
    let bench = Bench::new();
    bench.phase_record().save(&bench.records).unwrap();
    let before = check::nodes(&bench.rig.chain.store);
    let report = bench.report();
    for check in Check::ALL {
        let result = report.of(check).unwrap();
        let ValidationResult::Passed { evidence } = result else { panic!("{}", report.detailed_report()) };
        assert!(!evidence.is_empty(), "{check:?}");
    }
    assert!(report.is_sound() && report.summary().contains("10 checks passed"), "{}", report.summary());
    assert_eq!(report.detailed_report().lines().count(), 1 + Check::ALL.len());
    assert!(matches!(now(quick_health_check(&bench.snapshots)), ValidationResult::Passed { .. }));
    assert_eq!(check::nodes(&bench.rig.chain.store), before);
    assert!(bench.snapshots.lock_snapshot(PrunePhase::BuildReach).is_ok(), "what was taken was given back");
}

/// S46.
#[test]
fn every_precondition_fails_when_its_condition_is_broken() {
    for check in Check::ALL {
        let mut bench = Bench::new();
        let guards = Arc::clone(&bench.snapshots);
        let mut held = None;
        match check {
            Check::Creation => bench.faulty.fail_read(0, Fault::Corrupt),
            Check::Reload => bench.flip(RecordKey::Snapshot),
            Check::Locking => {
                held = Some(guards.lock_snapshot(PrunePhase::BuildReach).unwrap());
                drop(bench.rig.chain.store.issue_permit()); // by somebody beside the manager
            }
            Check::Phases => PhaseRecord { head_order: 3, ..bench.phase_record() }.save(&bench.records).unwrap(),
            Check::Recovery => {
                let recovery = bench.recovery.clone().unwrap();
                let broken = || async { Err::<(), _>(PruneError::Invariant("it breaks".to_owned())) };
                now(recovery.execute_phase_with_recovery(PrunePhase::BuildReach, broken)).unwrap_err();
            }
            Check::Integrity => {
                bench.phase_record().save(&bench.records).unwrap();
                bench.flip(RecordKey::Phase);
            }
            Check::Concurrency => {
                let (inner, here) = (Arc::clone(&bench.parts.policy), thread::current().id());
                bench.parts.policy = Arc::new(OnlyHere { inner, here });
                bench.remake();
            }
            Check::Performance => {
                bench.parts.clock = Arc::new(Slow::default());
                bench.remake();
            }
            Check::Events => {
                let path = journal_file(&bench.events());
                let mut bytes = fs::read(&path).unwrap();
                bytes[60] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
            Check::Resources => bench.faulty.say_free(1),
        }
        let report = bench.report();
        assert!(failed(report.of(check).unwrap()), "{check:?}: {}", report.detailed_report());
        assert!(!report.is_sound() && report.summary().starts_with("NOT SOUND"));
        assert!(report.validated(None).failed.iter().any(|finding| finding.check == check.label()), "{check:?}");
        drop(held);
    }
}

#[test]
fn a_check_that_cannot_be_asked_is_skipped_and_says_why() {
    let empty = Bench::empty().report();
    let unasked = [
        Check::Creation,
        Check::Reload,
        Check::Phases,
        Check::Recovery,
        Check::Integrity,
        Check::Events,
        Check::Concurrency,
        Check::Performance,
        Check::Resources,
    ];
    for check in unasked {
        assert!(skipped(empty.of(check).unwrap()), "{check:?}: {}", empty.detailed_report());
    }
    let bench = Bench::new();
    let guard = bench.snapshots.lock_snapshot(PrunePhase::BuildReach).unwrap();
    let report = bench.report();
    for (check, why) in [
        (Check::Locking, "build_reach"),
        (Check::Concurrency, "build_reach"),
        (Check::Performance, "the lock was held and not timed; a capture "),
    ] {
        let ValidationResult::Skipped { reason } = report.of(check).unwrap() else {
            panic!("{}", report.detailed_report())
        };
        assert!(reason.contains(why), "{reason}");
    }
    assert!(guard.permit().is_current() && report.is_sound(), "{}", report.detailed_report());
    let basic = SnapshotManagerConfig { enable_persistence: false, ..SnapshotManagerConfig::default() };
    let basic = AtomicSnapshotManager::new(bench.parts.clone(), basic);
    assert!(skipped(&now(quick_health_check(&basic))));
    bench.flip(RecordKey::Snapshot);
    assert!(failed(&now(quick_health_check(&bench.snapshots))));
}

/// A cycle that is held before its first delete: nothing fails, nothing is written, and it goes on as if nothing had been.
#[test]
fn a_validation_beside_a_cycle_disturbs_nothing_and_each_record_of_the_cycle_shows_a_flipped_bit() {
    let bench = Bench::new();
    let (release, released) = mpsc::channel::<()>();
    let (told, sealed) = mpsc::channel();
    let (ended, outcomes) = mpsc::channel();
    let mut saves = 0;
    let hooks = Hooks::new(move |moment| {
        saves += usize::from(moment == Moment::PhaseSaved);
        if moment == Moment::PhaseSaved && saves == 2 {
            told.send(()).unwrap();
            assert!(released.recv().is_err(), "held until the other end is dropped");
        }
        if moment == Moment::OutcomeSaved {
            ended.send(()).unwrap();
        }
    });
    let pruner = pruner(&bench.rig, &hooks);
    pruner.command(Command::Run);
    sealed.recv().unwrap();
    let writes = bench.faulty.writes();
    let state_dir = bench.rig.plan(5).config.state_dir;
    let report = now(pruner.validator().run_comprehensive_validation());
    assert!(report.is_sound(), "{}", report.detailed_report());
    assert!(
        matches!(report.of(Check::Phases).unwrap(), ValidationResult::Passed { .. }),
        "{}",
        report.detailed_report()
    );
    assert_eq!(bench.faulty.writes(), writes, "a validation writes nothing");

    for key in [RecordKey::Phase, RecordKey::LastCycle, RecordKey::Reports, RecordKey::Snapshot, RecordKey::Lock] {
        let bytes = bench.records.load(key).unwrap().unwrap_or_else(|| panic!("{key:?}"));
        check_record(key, &bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check_record(key, &flipped).is_err(), "{key:?}, bit {bit}");
        }
    }
    let validated = || now(pruner.validator().run_comprehensive_validation()).of(Check::Integrity).unwrap().clone();
    damaged(
        &state_dir.join("mark-0000000000000001.sealed"),
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        || {
            assert!(failed(&validated()), "its last bit counts");
        },
    );
    drop(release);
    outcomes.recv().unwrap();
    assert_eq!(pruner.status().cycles_failed, 0);
    certificates_show_each_flipped_bit(&state_dir.join("certificates/cycle-00000001.json"), &validated);
    drop(pruner);
    check::exact(&bench.rig.chain, "after a validation");
}

/// What a disk does not answer is not told to be whole: neither the mark of a sweep, nor a certificate, nor the journal.
#[test]
fn a_validation_passes_nothing_that_its_disk_could_not_read() {
    let bench = Bench::new();
    let (release, released) = mpsc::channel::<()>();
    let (told, sealed) = mpsc::channel();
    let (mut saves, mut held) = (0, Some(released));
    let hooks = Hooks::new(move |moment| {
        saves += usize::from(moment == Moment::PhaseSaved);
        if let Some(held) = (saves == 2).then(|| held.take()).flatten() {
            told.send(()).unwrap();
            assert!(held.recv().is_err(), "held until the other end is dropped");
        }
        if moment == Moment::OutcomeSaved {
            told.send(()).unwrap();
        }
    });
    let pruner = pruner(&bench.rig, &hooks);
    let disk = FaultyDisk::under(&bench.rig.state_dir());
    let asked = |check| {
        let validator = pruner.validator().with_events(bench.events());
        now(validator.run_comprehensive_validation()).of(check).unwrap().clone()
    };
    let answers = |check, kind: &str, call| {
        let (context, before) = (format!("{check:?}: {call:?} of {kind}"), disk.met());
        assert!(matches!(asked(check), ValidationResult::Passed { .. }), "{context}: before");
        disk.inject(kind, call, 0, Lasting::UntilHealed);
        let result = asked(check);
        disk.heal();
        assert!(disk.met() > before, "{context}: not met");
        let why = match &result {
            ValidationResult::Failed { reasons } => reasons.join("; "),
            ValidationResult::Skipped { reason } => reason.clone(),
            ValidationResult::Passed { evidence } => panic!("{context}: passed: {evidence}"),
        };
        assert!(why.contains("os error 5"), "{context}: {why}");
    };
    pruner.command(Command::Run);
    sealed.recv().unwrap();
    answers(Check::Integrity, "mark-*.sealed", FileCall::Open);
    answers(Check::Integrity, "mark-*.sealed", FileCall::Read);
    answers(Check::Events, "journal.events", FileCall::Open);
    answers(Check::Events, "journal.events", FileCall::Read);
    drop(release);
    sealed.recv().unwrap();
    answers(Check::Integrity, "cycle-*.json", FileCall::Read);
}

/// Has a file damaged for as long as something is done.
fn damaged(path: &Path, damage: impl FnOnce(&mut Vec<u8>), work: impl FnOnce()) {
    let whole = fs::read(path).unwrap();
    let mut bytes = whole.clone();
    damage(&mut bytes);
    fs::write(path, bytes).unwrap();
    work();
    fs::write(path, whole).unwrap();
}

fn certificates_show_each_flipped_bit(path: &Path, validated: &dyn Fn() -> ValidationResult) {
    let text = fs::read(path).unwrap();
    assert_eq!(Certificate::decode(&text).unwrap().1, CertificateText::Covered);
    for bit in 0..text.len() * 8 {
        let mut flipped = text.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Certificate::decode(&flipped).is_err(), "bit {bit}");
    }
    assert!(matches!(validated(), ValidationResult::Passed { .. }), "{:?}", validated());
    let seconds = |bytes: &mut Vec<u8>| {
        let at = bytes.windows(9).position(|window| window == b"\"seconds\"").unwrap();
        let digit = bytes[at..].iter().position(u8::is_ascii_digit).unwrap();
        bytes[at + digit] ^= 1; // a figure that no outcome has
    };
    damaged(path, seconds, || assert!(failed(&validated())));
    let old = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).unwrap().replace("\"format\": 4", "\"format\": 2");
        let lines: Vec<&str> =
            text.lines().filter(|line| !line.contains("\"digest\": \"") || line.starts_with("    ")).collect();
        *bytes = lines.join("\n").into_bytes();
    };
    damaged(path, old, || {
        let ValidationResult::Skipped { reason } = validated() else { panic!("{:?}", validated()) };
        assert!(reason.contains("is not covered: format 2") && reason.contains("as written: "), "{reason}");
    });
    let aside = path.with_extension("aside");
    fs::rename(path, &aside).unwrap();
    let ValidationResult::Skipped { reason } = validated() else { panic!("{:?}", validated()) };
    assert!(reason.contains("is not there") && reason.contains("as written: "), "{reason}");
    fs::rename(&aside, path).unwrap();
    assert!(matches!(validated(), ValidationResult::Passed { .. }), "{:?}", validated());
}

/// Marks and certificates are not vouched for where nobody said where they lie, unless there is none to look at.
#[test]
fn integrity_does_not_pass_without_the_mark_and_the_certificate_that_a_store_has() {
    let blind = |bench: &Bench| {
        let validator = SnapshotValidator::new(Arc::clone(&bench.snapshots), None);
        now(validator.run_comprehensive_validation()).of(Check::Integrity).unwrap().clone()
    };
    let bench = Bench::new();
    let ValidationResult::Passed { evidence } = blind(&bench) else { panic!("{:?}", blind(&bench)) };
    assert!(evidence.contains("no mark and no certificate is to be there"), "{evidence}");
    let walks = bench.phase_record();
    walks.save(&bench.records).unwrap();
    assert!(skipped(&blind(&bench)), "it may have written its walk down");
    let dir = bench.rig.plan(5).config.state_dir;
    fs::create_dir_all(&dir).unwrap();
    assert!(!failed(bench.report().of(Check::Integrity).unwrap()), "it has not");
    fs::write(dir.join(format!("mark-{:016x}.walk", walks.cycle)), b"torn").unwrap();
    assert!(failed(bench.report().of(Check::Integrity).unwrap()), "that walk is none");
    let sweeps = PhaseRecord { phase: PrunePhase::SweepExpired, mark_digest: Some([7; 32]), ..bench.phase_record() };
    sweeps.save(&bench.records).unwrap();
    let ValidationResult::Skipped { reason } = blind(&bench) else { panic!("{:?}", blind(&bench)) };
    assert!(reason.contains("the mark of cycle 1, for nobody said where") && reason.contains("rows"), "{reason}");
    assert!(failed(bench.report().of(Check::Integrity).unwrap()), "that mark is nowhere");

    let bench = Bench::new();
    let (ended, outcomes) = mpsc::channel();
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::OutcomeSaved {
            ended.send(()).unwrap();
        }
    });
    let pruner = pruner(&bench.rig, &hooks);
    pruner.command(Command::Run);
    outcomes.recv().unwrap();
    let ValidationResult::Skipped { reason } = blind(&bench) else { panic!("{:?}", blind(&bench)) };
    assert!(reason.contains("cycle-00000001.json, for nobody said where"), "{reason}");
    let report = bench.report();
    let knowing = report.of(Check::Integrity).unwrap();
    assert!(matches!(knowing, ValidationResult::Passed { .. }), "{knowing:?}");
}

/// A look reads the newest rows only, and says so; a deep validation reads all of them, as long as somebody wants it.
#[test]
fn a_flipped_bit_of_an_old_row_is_found_by_a_deep_validation_alone() {
    let bench = Bench::new();
    bench.rig.chain.grow(Profile::Uniform, 122, 40);
    let validator = || SnapshotValidator::new(Arc::clone(&bench.snapshots), None);
    let asked = |validator: SnapshotValidator| {
        now(validator.run_comprehensive_validation()).of(Check::Integrity).unwrap().clone()
    };
    let ValidationResult::Passed { evidence } = asked(validator()) else { panic!("{:?}", asked(validator())) };
    assert!(evidence.contains("of the newest 16 orders, no others"), "{evidence}");
    let ValidationResult::Passed { evidence } = asked(validator().deep(|| true)) else {
        panic!("{:?}", asked(validator().deep(|| true)))
    };
    assert!(evidence.contains(" rows of the commit journal, all "), "{evidence}");

    let rows = bench.journal();
    let count = rows.len();
    assert!(evidence.contains(&format!("all {count} rows of the commit journal")) && count > 16, "{count}: {evidence}");
    bench.spoil(rows[0].clone());
    assert!(matches!(asked(validator()), ValidationResult::Passed { .. }), "{:?}", asked(validator()));
    let ValidationResult::Failed { reasons } = asked(validator().deep(|| true)) else { panic!("it was not found") };
    assert!(reasons.len() == 1 && reasons[0].starts_with("order "), "{reasons:?}");
    let ValidationResult::Skipped { reason } = asked(validator().deep(|| false)) else { panic!("it did not end") };
    assert!(reason.contains("told to end"), "{reason}");
}

/// What health says of validations, if they found something that is not over.
fn told(subject: &Pruner) -> Option<String> {
    let reason = subject.health().reasons.into_iter().find(|reason| reason.code == "validation_failed");
    reason.map(|reason| reason.message)
}

/// Whether it is sound; health has it.
fn keep(subject: &Pruner, validator: SnapshotValidator) -> bool {
    let report = now(validator.run_comprehensive_validation());
    subject.keep_validation(&report).unwrap();
    report.is_sound()
}

/// The newest rows say nothing of the others, whatever process asks; nor does one that was told to end.
#[test]
fn what_a_deep_validation_found_is_over_when_a_deep_one_passes_and_not_before() {
    let bench = Bench::new();
    bench.rig.chain.grow(Profile::Uniform, 123, 40);
    let oldest = bench.journal().swap_remove(0);
    bench.spoil(oldest.clone());
    let subject = pruner(&bench.rig, &Hooks::none());
    assert!(!keep(&subject, subject.validator().deep(|| true)));
    let first = told(&subject).unwrap();
    assert!(first.contains("integrity: order ") && first.contains("`state-node validate --deep`"), "{first}");
    assert!(keep(&subject, subject.validator()), "a look does not come to the row");
    let later = told(&subject).unwrap();
    assert!(later.contains("integrity: order ") && later.contains("no validation has looked at as much"), "{later}");
    drop(subject);
    let subject = pruner(&bench.rig, &Hooks::none());
    assert_eq!(told(&subject).as_ref(), Some(&later), "after a restart");
    assert!(!keep(&subject, subject.validator().deep(|| true)));
    assert_eq!(told(&subject), Some(first), "it is told once");
    bench.put(oldest);
    assert!(keep(&subject, subject.validator()));
    assert!(keep(&subject, subject.validator().deep(|| false)), "it was told to end");
    assert!(told(&subject).is_some(), "nobody has looked at the row");
    assert!(keep(&subject, subject.validator().deep(|| true)));
    assert_eq!(told(&subject), None);
}

/// The row is among the newest ones for a while only.
#[test]
fn a_damaged_row_that_a_look_found_is_not_forgotten_when_later_looks_do_not_come_to_it() {
    let bench = Bench::new();
    bench.rig.chain.grow(Profile::Uniform, 124, 20);
    let newest = bench.journal().pop().unwrap();
    bench.spoil(newest.clone());
    let subject = pruner(&bench.rig, &Hooks::none());
    assert!(!keep(&subject, subject.validator()));
    bench.rig.chain.grow(Profile::Uniform, 125, 40);
    assert!(keep(&subject, subject.validator()), "it is not among the newest any more");
    assert!(told(&subject).is_some());
    bench.put(newest);
    assert!(keep(&subject, subject.validator().deep(|| true)));
    assert_eq!(told(&subject), None);
}

/// I8.
#[test]
fn what_is_kept_of_validations_is_not_written_over_before_it_was_read() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 126, 9);
    let report = |result| {
        let integrity = Checked { check: Check::Integrity, depth: Depth::Newest, needs: Depth::All, result };
        ValidationReport { at: 1, checks: vec![integrity] }
    };
    let found = report(ValidationResult::Failed { reasons: vec!["a row".to_owned()] });
    let sound = report(ValidationResult::Passed { evidence: "the newest rows".to_owned() });
    pruner(&rig, &Hooks::none()).keep_validation(&found).unwrap();
    let records = StoreRecords(Arc::clone(&rig.chain.store));
    let kept = records.load(RecordKey::Validation).unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let fail = Arc::clone(&fails);
    let subject = left::start(&rig, &Hooks::none(), move |what, key| {
        if fail.load(Ordering::SeqCst) && (what, key) == (Use::Load, RecordKey::Validation) {
            let source = std::io::Error::other("injected");
            return Err(StoreError::Io { what: "reading a record".to_owned(), source }.into());
        }
        Ok(())
    });
    for _ in 0..2 {
        assert!(subject.keep_validation(&sound).unwrap_err().to_string().contains("injected"));
        assert_eq!(records.load(RecordKey::Validation).unwrap(), kept);
    }
    fails.store(false, Ordering::SeqCst);
    subject.keep_validation(&sound).unwrap();
    assert!(told(&subject).is_some_and(|told| told.contains("integrity: a row")), "{:?}", told(&subject));
    drop(subject);
    let subject = pruner(&rig, &Hooks::none());
    assert!(told(&subject).is_some_and(|told| told.contains("integrity: a row")), "{:?}", told(&subject));
}

/// Nobody validates any more once they can be.
#[test]
fn what_was_found_while_the_records_could_not_be_read_is_saved_as_soon_as_they_can_be() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 127, 9);
    let found = |what: &str| {
        let result = ValidationResult::Failed { reasons: vec![what.to_owned()] };
        let integrity = Checked { check: Check::Integrity, depth: Depth::Newest, needs: Depth::All, result };
        ValidationReport { at: 1, checks: vec![integrity] }
    };
    pruner(&rig, &Hooks::none()).keep_validation(&found("a row")).unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let fail = Arc::clone(&fails);
    let subject = left::start(&rig, &Hooks::none(), move |what, key| {
        let fails = fail.load(Ordering::SeqCst) && (what, key) == (Use::Load, RecordKey::Validation);
        let source = || std::io::Error::other("injected");
        let no = || StoreError::Io { what: "reading a record".to_owned(), source: source() };
        if fails { Err(no().into()) } else { Ok(()) }
    });
    assert!(subject.keep_validation(&found("another")).is_err());
    fails.store(false, Ordering::SeqCst);
    until(&rig, &subject, |subject| {
        subject.committed(rig.chain.head());
        let attempts = subject.status().recovery.attempts;
        attempts.last().is_some_and(|attempt| attempt.came == Came::Success)
    });
    let both = |subject: &Pruner| {
        let told = told(subject).unwrap();
        told.contains("integrity: a row") && told.contains("integrity: another")
    };
    assert!(both(&subject), "{:?}", told(&subject));
    drop(subject);
    let subject = pruner(&rig, &Hooks::none());
    assert!(both(&subject), "the next process: {:?}", told(&subject));
}

/// I11: where the engine takes no write, nor does the record of a freeze, deletes are frozen all the same.
#[test]
fn recovery_does_not_pass_while_a_freeze_is_in_force_that_could_not_be_saved() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 128, 9);
    let refuses = Arc::new(AtomicBool::new(true));
    let refused = Arc::clone(&refuses);
    let subject = left::start(&rig, &Hooks::none(), move |what, key| {
        let is_refused = what == Use::Save && matches!(key, RecordKey::Freeze | RecordKey::Doubt);
        if is_refused && refused.load(Ordering::SeqCst) { Err(left::io()) } else { Ok(()) }
    });
    let asked = || now(subject.validator().run_comprehensive_validation()).of(Check::Recovery).unwrap().clone();
    assert!(matches!(asked(), ValidationResult::Passed { .. }), "{:?}", asked());
    let damage: PruneError = StoreError::Corrupt("a checksum".to_owned()).into();
    for refuse in [true, false] {
        refuses.store(refuse, Ordering::SeqCst);
        assert_eq!(subject.found(&damage).is_err(), refuse);
        let ValidationResult::Failed { reasons } = asked() else { panic!("{:?}", asked()) };
        assert!(reasons.len() == 1 && reasons[0].contains("a checksum"), "{reasons:?}");
        assert_eq!(reasons[0].ends_with("; that is not on record"), refuse, "{reasons:?}");
    }
    until(&rig, &subject, |subject| !subject.status().running); // a cycle may have begun before
    assert_eq!(subject.command(Command::Unfreeze), Reply::Accepted);
    assert!(matches!(asked(), ValidationResult::Passed { .. }), "{:?}", asked());
}

/// Phases come and go while somebody validates without a pause: no phase is ever in anybody's way.
#[test]
fn validations_without_end_fail_no_cycle_and_find_nothing() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 121, 9);
    let plan = rig.plan(5);
    let env = rig.env(&plan, &Hooks::none());
    let validator = SnapshotValidator::new(Arc::clone(&env.snapshots), None).with_cycles(&plan.config);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let validating = scope.spawn(|| {
            let mut runs = 0;
            while runs == 0 || !stop.load(Ordering::SeqCst) {
                let report = now(validator.run_comprehensive_validation());
                assert!(report.is_sound(), "{}", report.detailed_report());
                runs += 1;
            }
        });
        for _ in 0..20 {
            rig.chain.grow(Profile::Uniform, 121, 3);
            plan.run(&env).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        validating.join().unwrap();
    });
    check::exact(&rig.chain, "beside validations");
}

#[test]
fn health_judges_the_last_validation_also_after_a_restart() {
    let bench = Bench::new();
    let subject = pruner(&bench.rig, &Hooks::none());
    bench.faulty.say_free(1);
    let report = now(subject.validator().run_comprehensive_validation());
    assert!(failed(report.of(Check::Resources).unwrap()));
    subject.keep_validation(&report).unwrap();
    drop(subject);
    bench.faulty.say_free(1 << 40);
    let subject = pruner(&bench.rig, &Hooks::none());
    let health = subject.health();
    assert_eq!(
        (health.verdict, health.reasons[0].code.as_str()),
        (Verdict::Degraded, "validation_failed"),
        "{health:?}"
    );
    assert!(health.reasons[0].message.contains("resources: "), "{health:?}");
    let report = now(subject.validator().run_comprehensive_validation());
    subject.keep_validation(&report).unwrap();
    assert_eq!(subject.health().verdict, Verdict::Healthy, "{:?}", subject.health());
}
