//! What is told of damage, to whom, and who waits for a disk: the freezer of these tests is told what each fault comes to.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use state_pruner::SystemClock;
use state_store::{Durability, Fault, FaultyBackend, MemoryBackend, StoreConfig};
use state_tree::{NodeError, NodeHash};

use super::*;
use crate::chain::{BlockObserver, Chain, ChainConfig, Hex32, HexBytes, ObjectPath, Produced, Producer, Transaction};

/// Freezes deletes for the first fault, and keeps what it is given.
struct Recorder {
    /// What deletes are frozen for.
    frozen: Mutex<Option<String>>,
    epoch: AtomicU64,
    /// What the next faults come to; without any they are told.
    comes: Mutex<VecDeque<Result<Found, PruneError>>>,
    kept: Mutex<Vec<String>>,
    /// Who keeps a fault says so here first, and waits until it may.
    disk: Option<Mutex<(Sender<()>, Receiver<()>)>>,
}

struct Shared(Arc<Recorder>);

type Rig = (Arc<Damage>, Arc<Recorder>);

impl Freezer for Shared {
    fn impose(&self, fault: &PruneError) -> Imposed {
        let mut frozen = self.0.frozen.lock();
        if frozen.is_some() {
            return Imposed::Before;
        }
        *frozen = Some(fault.to_string());
        Imposed::Now
    }

    fn keep(&self, fault: &PruneError) -> Result<Found, PruneError> {
        self.impose(fault);
        if let Some(disk) = &self.0.disk {
            let (begun, goes_on) = &*disk.lock();
            begun.send(()).unwrap();
            goes_on.recv().unwrap();
        }
        self.0.kept.lock().push(fault.to_string());
        self.0.comes.lock().pop_front().unwrap_or(Ok(Found::Told))
    }

    fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }
}

impl Recorder {
    /// An operator lifts the freeze, or a cycle settles the doubt.
    fn settle(&self) {
        *self.frozen.lock() = None;
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

fn rig(disk: Option<(Sender<()>, Receiver<()>)>) -> Rig {
    let recorder = Arc::new(Recorder {
        frozen: Mutex::default(),
        epoch: AtomicU64::default(),
        comes: Mutex::default(),
        kept: Mutex::default(),
        disk: disk.map(Mutex::new),
    });
    (Arc::new(Damage::told_to(Box::new(Shared(Arc::clone(&recorder))))), recorder)
}

/// The same with a disk that hangs: what tells that it does, and what lets it go on once.
fn hanging() -> (Rig, Receiver<()>, Sender<()>) {
    let ((begun, hangs), (go_on, goes_on)) = (channel(), channel());
    (rig(Some((begun, goes_on))), hangs, go_on)
}

fn corrupt(what: &str) -> PruneError {
    StoreError::Corrupt(what.to_owned()).into()
}

fn words(what: &str) -> String {
    corrupt(what).to_string()
}

/// A read meets a fault: what was kept since, of which this comes.
fn kept(rig: &Rig, what: &str, comes: Result<Found, PruneError>) -> Vec<String> {
    let (damage, recorder) = rig;
    *recorder.comes.lock() = VecDeque::from([comes]);
    damage.met_by_work(corrupt(what));
    std::mem::take(&mut *recorder.kept.lock())
}

fn unsaved() -> Result<Found, PruneError> {
    Err(PruneError::NoHead)
}

/// The pruner knows of it, and who lifts its freeze has it put in doubt.
#[test]
fn what_was_lifted_before_it_could_be_saved_freezes_nothing_anew() {
    let rig = rig(None);
    assert_eq!(kept(&rig, "a", unsaved()), [words("a")]);
    assert_eq!(rig.0.owed(), Some(words("a")));
    rig.1.settle();
    rig.0.save();
    assert_eq!((rig.1.kept.lock().as_slice(), rig.0.owed()), ([].as_slice(), None));
    assert_eq!(kept(&rig, "a", Ok(Found::Told)), [words("a")], "met again it is news");
}

#[test]
fn only_nodes_and_the_engine_say_something_of_live_nodes() {
    let (hash, io) = (NodeHash::new([1; 32]), || StoreError::Io { what: String::new(), source: io::Error::other("x") });
    let corrupt = || StoreError::Corrupt("a checksum".to_owned());
    let row = StoreError::Record { name: "block 1".to_owned(), why: "torn".to_owned() };
    let rows: [(ChainError, Option<&str>, bool); 11] = [
        (TreeError::Missing(hash).into(), Some("missing_live_node"), false),
        (TreeError::Malformed { hash, source: NodeError::Empty }.into(), Some("bad_node"), false),
        (TreeError::WrongHash { key: hash, actual: hash }.into(), Some("wrong_hash"), false),
        (TreeError::Read { hash, source: Box::new(corrupt()) }.into(), Some("corrupt"), false),
        (TreeError::Read { hash, source: Box::new(io()) }.into(), None, false),
        (TreeError::WrongKind { hash }.into(), None, true),
        (TreeError::FieldCount { path: String::new(), recorded: 1 }.into(), None, true),
        (corrupt().into(), Some("corrupt"), false),
        (row.into(), None, true),
        (io().into(), None, false),
        (ChainError::Invariant("a bug".to_owned()), None, false),
    ];
    for (error, code, is_row) in rows {
        let fault = fault_of(&error);
        assert_eq!(fault.as_ref().map(PruneError::code), code, "{error}");
        assert!(fault.is_none_or(|fault| fault.is_live_fault()), "{error}");
        assert_eq!(is_bad_row(&error), is_row, "{error}");
    }
}

#[test]
fn a_fault_is_told_once_and_the_first_one_is_shown() {
    let rig = rig(None);
    assert_eq!(rig.0.met(), None);
    let is_told = |what: &str| !kept(&rig, what, Ok(Found::Told)).is_empty();
    assert!(is_told("a") && is_told("b") && !is_told("a"));
    assert_eq!(rig.0.met(), Some((words("a"), 3)));
    assert_eq!((0..10 * REMEMBERED).filter(|n| is_told(&n.to_string())).count(), 10 * REMEMBERED);
    assert!(rig.0.met.lock().told.len() <= REMEMBERED, "what is remembered is bounded");
}

#[test]
fn a_fault_that_could_not_be_saved_is_told_again_with_the_next_one() {
    let rig = rig(None);
    assert_eq!([(); 2].map(|()| kept(&rig, "a", unsaved())), [[words("a")], [words("a")]]);
    assert_eq!(kept(&rig, "b", Ok(Found::Told)), [words("a"), words("b")]);
    assert!(kept(&rig, "a", Ok(Found::Told)).is_empty());
}

#[test]
fn a_fault_beside_a_freeze_for_another_is_told_and_once_more_after_it() {
    let rig = rig(None);
    let is_told = |what: &str, found| !kept(&rig, what, Ok(found)).is_empty();
    assert!(is_told("a", Found::Told) && is_told("b", Found::InDoubt), "it is in doubt");
    assert!(!is_told("b", Found::InDoubt));
    rig.1.settle();
    assert!(!is_told("a", Found::Told), "whoever lifted the freeze knew of it");
    assert_eq!(*rig.1.frozen.lock(), None);
    assert!(is_told("b", Found::Told), "and did not of this one");
    assert_eq!(*rig.1.frozen.lock(), Some(words("b")));
    assert!(!is_told("b", Found::Told));
}

#[test]
fn a_fault_that_is_met_after_a_cycle_has_found_the_store_whole_is_told_again() {
    let rig = rig(None);
    let is_told = || !kept(&rig, "a", Ok(Found::Told)).is_empty();
    assert!(is_told());
    rig.1.settle(); // by an operator
    assert!(!is_told());
    rig.1.settle(); // by a cycle
    assert!(is_told() && !is_told());
    assert_eq!(*rig.1.frozen.lock(), Some(words("a")));
}

/// As many readers as there are turns would wait otherwise, and no read would be served any more.
#[test]
fn a_reader_that_meets_a_fault_while_the_disk_hangs_goes_on_and_loses_none() {
    let (rig, hangs, go_on) = hanging();
    let (damage, recorder) = &rig;
    let reader = Arc::clone(damage);
    let first = thread::Builder::new().spawn(move || reader.met_by_work(corrupt("a"))).unwrap();
    hangs.recv().unwrap();
    assert_eq!(*recorder.frozen.lock(), Some(words("a")), "deletes are frozen before the disk answers");
    *recorder.frozen.lock() = None;
    for what in ["b", "a", "b", "c"] {
        damage.met_by_work(corrupt(what)); // returns
    }
    assert_eq!(*recorder.frozen.lock(), Some(words("b")), "and by each that is met meanwhile, if they are not");
    assert_eq!(damage.met(), Some((words("a"), 5)));
    (0..3).for_each(|_| go_on.send(()).unwrap());
    first.join().unwrap();
    assert_eq!(*recorder.kept.lock(), ["a", "b", "c"].map(words), "by the one who saved");
    assert!(damage.met.lock().owed.is_empty());
}

#[test]
fn what_waits_for_a_disk_that_hangs_is_bounded_and_has_one_of_each_kind() {
    let (rig, hangs, go_on) = hanging();
    let (damage, recorder) = &rig;
    let reader = Arc::clone(damage);
    let first = thread::Builder::new().spawn(move || reader.met_by_work(corrupt("a"))).unwrap();
    hangs.recv().unwrap();
    (0..10 * REMEMBERED).for_each(|n| damage.met_by_work(corrupt(&n.to_string())));
    let hash = NodeHash::new([7; 32]);
    let wrong = || PruneError::WrongHash { hash, actual: hash, path: Vec::new() };
    (0..2).for_each(|_| damage.met_by_work(wrong()));
    let owed = damage.met.lock().owed.len();
    assert_eq!(owed, REMEMBERED + 1);
    (0..owed).for_each(|_| go_on.send(()).unwrap());
    first.join().unwrap();
    assert_eq!(recorder.kept.lock().last(), Some(&wrong().to_string()));
}

/// Block production with a teller, and nothing else.
struct Feed(Teller);

impl BlockObserver for Feed {
    fn produced(&self, _produced: &Produced) {}

    fn met(&self, error: &ChainError) {
        self.0.met_by_block(error);
    }

    fn failed(&self, _error: &ChainError) {}
}

fn chain() -> (Arc<FaultyBackend>, Arc<Chain>) {
    let backend = Arc::new(FaultyBackend::over(MemoryBackend::new()));
    let config = StoreConfig { barrier_limit: 1_000, ..StoreConfig::new(Durability::Logged) };
    let store = Arc::new(Store::open(Arc::clone(&backend) as _, config).unwrap());
    let many = NonZeroUsize::new(100).unwrap();
    let config = ChainConfig {
        block_interval: Duration::from_millis(1),
        max_block_transactions: many,
        mempool_limit: many,
        mempool_bytes: 1 << 20,
    };
    (backend, Chain::open(store, config, Arc::new(SystemClock::new())).unwrap())
}

/// I12: the fault is told and deletes are frozen before the client hears of it, and the next block waits for no record.
#[test]
fn blocks_are_made_while_what_one_has_met_waits_for_a_disk_that_hangs() {
    let (rig, hangs, go_on) = hanging();
    let (damage, recorder) = &rig;
    let (backend, chain) = chain();
    let create = |name: u8| {
        let (id, owner) = (ObjectPath::top([name; 32]), Hex32([1; 32]));
        Transaction::CreateObject { id, owner, value: HexBytes(vec![name]) }
    };
    let submit = |transaction| chain.submit(vec![transaction]).unwrap().pop().unwrap().reply.blocking_recv().unwrap();
    let teller = Teller::start(Arc::clone(damage)).unwrap();
    let producer = Producer::start(Arc::clone(&chain), Box::new(Feed(teller))).unwrap();
    let first = submit(create(1)).unwrap();
    backend.fail_read(0, Fault::Corrupt);
    let refused = submit(create(2)).unwrap_err();
    assert_eq!(damage.met().map(|(_, times)| times), Some(1), "it is told when the client hears of it: {refused}");
    let frozen = recorder.frozen.lock().clone();
    assert!(frozen.is_some());
    hangs.recv().unwrap();
    assert!(submit(create(2)).unwrap().order > first.order, "a commit waits for no record");
    assert!(recorder.kept.lock().is_empty());
    go_on.send(()).unwrap();
    drop(producer); // returns when it is saved
    assert_eq!(*recorder.kept.lock(), Vec::from_iter(frozen));
}
