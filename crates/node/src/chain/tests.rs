//! The chain on a store in memory: what is acknowledged is committed, what is refused is told so, what is closed drains.

use state_pruner::SystemClock;
use state_store::{Durability, Fault, FaultyBackend, MemoryBackend, StoreConfig};

use tokio::sync::oneshot;

use super::{mempool::Waiting, produce::Making, *};

struct Deaf;

impl BlockObserver for Deaf {
    fn produced(&self, _produced: &Produced) {}

    fn met(&self, _error: &ChainError) {}

    fn failed(&self, _error: &ChainError) {}
}

fn store(backend: &MemoryBackend) -> Arc<Store> {
    let config = StoreConfig { barrier_limit: 1_000_000, ..StoreConfig::new(Durability::Logged) };
    Arc::new(Store::open(Arc::new(backend.clone()), config).unwrap())
}

fn config(mempool: usize) -> ChainConfig {
    ChainConfig {
        block_interval: Duration::from_millis(1),
        max_block_transactions: NonZeroUsize::new(4).unwrap(),
        mempool_limit: NonZeroUsize::new(mempool).unwrap(),
        mempool_bytes: 1 << 20,
    }
}

fn open(backend: &MemoryBackend, mempool: usize) -> Arc<Chain> {
    Chain::open(store(backend), config(mempool), Arc::new(SystemClock::new())).unwrap()
}

fn create(name: u8, value: u8) -> Transaction {
    Transaction::CreateObject { id: ObjectPath::top([name; 32]), owner: Hex32([1; 32]), value: HexBytes(vec![value]) }
}

fn wait(tickets: Vec<Ticket>) -> Vec<Included> {
    tickets.into_iter().map(|ticket| ticket.reply.blocking_recv().unwrap().unwrap()).collect()
}

#[test]
fn an_acknowledged_transaction_is_in_a_committed_block_of_the_order_it_names() {
    let backend = MemoryBackend::new();
    let chain = open(&backend, 100);
    let _producer = Producer::start(Arc::clone(&chain), Box::new(Deaf)).unwrap();
    let tickets = chain.submit((0..10).map(|name| create(name, name)).collect()).unwrap();
    let twice = chain.submit(vec![create(3, 9)]).unwrap();
    for (name, included) in wait(tickets).into_iter().enumerate() {
        assert_eq!(included.receipt.outcome, Outcome::Applied);
        let (block, _) = chain.block(At::Order(included.order)).unwrap();
        assert!(block.receipts.contains(&included.receipt));
        assert!(block.transactions.len() <= 4);
        let path = ObjectPath::top([name as u8; 32]);
        let answer = chain.object(At::Order(included.order), &path).unwrap();
        assert_eq!(answer.object.unwrap().value, [name as u8]);
        assert_eq!(Hex32(*answer.root.hash().as_bytes()), block.state_root);
    }
    let failed = Outcome::Failed(Reason::AlreadyExists);
    assert_eq!(wait(twice).pop().unwrap().receipt.outcome, failed);
}

#[test]
fn blocks_form_a_chain_of_hashes_with_times_that_never_go_back() {
    let backend = MemoryBackend::new();
    let chain = open(&backend, 100);
    let _producer = Producer::start(Arc::clone(&chain), Box::new(Deaf)).unwrap();
    for name in 0..5 {
        wait(chain.submit(vec![create(name, 0)]).unwrap());
    }
    let mut parent = chain.block(At::Order(Order::GENESIS)).unwrap();
    assert_eq!(parent.0.parent_hash, Hex32([0; 32]));
    for height in 1..=5 {
        let (block, hash) = chain.block(At::Order(Order::new(height))).unwrap();
        assert_eq!(block.parent_hash, parent.1);
        assert!(block.timestamp_ms >= parent.0.timestamp_ms);
        parent = (block, hash);
    }
    assert_eq!(chain.status().unwrap().head.at.block_hash, parent.1.0);
}

#[test]
fn closing_commits_what_waits_and_a_reopened_chain_goes_on_from_there() {
    let backend = MemoryBackend::new();
    let chain = open(&backend, 100);
    let tickets = chain.submit((0..9).map(|name| create(name, name)).collect()).unwrap();
    let mut producer = Producer::start(Arc::clone(&chain), Box::new(Deaf)).unwrap();
    producer.finish();
    assert_eq!(wait(tickets).len(), 9);
    assert_eq!(chain.submit(vec![create(50, 0)]).unwrap_err(), SubmitError::Stopping);
    let head = chain.status().unwrap().head;
    drop((producer, chain));
    let again = open(&backend, 100);
    assert_eq!(again.status().unwrap().head, head);
    assert_eq!(again.object(At::Head, &ObjectPath::top([8; 32])).unwrap().object.unwrap().value, [8]);
}

#[test]
fn a_transaction_sees_those_before_it_in_its_block() {
    let backend = MemoryBackend::new();
    let chain = open(&backend, 100);
    let (from, to) = (ObjectPath::top([1; 32]), ObjectPath::top([2; 32]));
    let batch = vec![
        create(1, 5),
        Transaction::MoveObject { from: from.clone(), to: to.clone() },
        Transaction::DeleteObject { id: from.clone() },
    ];
    let tickets = chain.submit(batch).unwrap();
    let _producer = Producer::start(Arc::clone(&chain), Box::new(Deaf)).unwrap();
    let outcomes: Vec<Outcome> = wait(tickets).iter().map(|included| included.receipt.outcome).collect();
    let gone = Outcome::Failed(Reason::NoSuchObject);
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Applied, gone]);
    assert_eq!(chain.object(At::Head, &to).unwrap().object.unwrap().value, [5]);
    assert!(chain.object(At::Head, &from).unwrap().object.is_none());
}

#[test]
fn a_pruned_state_is_told_from_one_that_never_existed() {
    let backend = MemoryBackend::new();
    let chain = open(&backend, 100);
    let _producer = Producer::start(Arc::clone(&chain), Box::new(Deaf)).unwrap();
    for name in 0..6 {
        wait(chain.submit(vec![create(name, 0)]).unwrap());
    }
    let mut rows = state_store::Batch::new();
    rows.delete_range(Table::BLOCK, Order::GENESIS.to_key(), Order::new(2).to_key());
    chain.store().raise_floor(Order::new(4), rows).unwrap();
    let path = ObjectPath::top([0; 32]);
    let at = |order| chain.object(At::Order(Order::new(order)), &path);
    assert!(matches!(at(3), Err(ReadError::Pruned { floor, .. }) if floor == Order::new(4)));
    assert!(matches!(at(7), Err(ReadError::NeverExisted { head, .. }) if head == Order::new(6)));
    assert!(at(4).unwrap().object.is_some());
    let block = |order| chain.block(At::Order(Order::new(order)));
    assert!(matches!(block(1), Err(ReadError::Pruned { floor, .. }) if floor == Order::new(2)));
    assert!(matches!(block(7), Err(ReadError::NeverExisted { .. })));
    assert_eq!(block(2).unwrap().0.height, 2);
}

/// A view older than the head it was compared with has no row for a block that exists (M2).
#[test]
fn a_block_that_is_being_committed_is_never_called_pruned() {
    let backend = MemoryBackend::new();
    let chain = open(&backend, 100);
    let _producer = Producer::start(Arc::clone(&chain), Box::new(Deaf)).unwrap();
    let (asking, done) = (Arc::clone(&chain), Arc::new(AtomicBool::new(false)));
    let until = Arc::clone(&done);
    let asker = std::thread::Builder::new().spawn(move || {
        while !until.load(Ordering::Acquire) {
            let next = Order::new(asking.head_order().unwrap().get() + 1);
            if let Err(error @ ReadError::Pruned { .. }) = asking.block(At::Order(next)) {
                panic!("{error}");
            }
        }
    });
    for round in 0..1000 {
        let id = ObjectPath::top([7; 32]);
        wait(chain.submit(vec![Transaction::SetValue { id, value: HexBytes(vec![round as u8]) }]).unwrap());
    }
    done.store(true, Ordering::Release);
    asker.unwrap().join().unwrap();
}

#[test]
fn a_failed_sync_leaves_the_outcome_unknown_and_what_comes_after_it_refused() {
    let backend = FaultyBackend::over(MemoryBackend::new());
    let config_of_store = StoreConfig { barrier_limit: 1_000_000, ..StoreConfig::new(Durability::Synced) };
    let faulty = Arc::new(backend);
    let store = Arc::new(Store::open(Arc::clone(&faulty) as _, config_of_store).unwrap());
    let chain = Chain::open(store, config(100), Arc::new(SystemClock::new())).unwrap();
    let _producer = Producer::start(Arc::clone(&chain), Box::new(Deaf)).unwrap();
    let refusal = |fault| {
        faulty.fail_write(0, fault);
        let ticket = chain.submit(vec![create(1, 1)]).unwrap().pop().unwrap();
        ticket.reply.blocking_recv().unwrap().unwrap_err()
    };
    let unknown = refusal(Fault::Transient);
    assert_eq!(unknown.code, "outcome_unknown");
    assert!(!unknown.to_string().contains("was not committed"), "{unknown}");
    let refused = refusal(Fault::DiskFull);
    assert_eq!(refused.code, "disk_full", "a full disk takes nothing");
    assert!(refused.to_string().contains("was not committed"), "{refused}");
}

/// Another committer moves the head before this one reads it, and what the old state had goes: that is no damage.
#[test]
fn a_block_whose_base_another_committer_took_away_is_made_anew() {
    let backend = MemoryBackend::new();
    let faulty = Arc::new(FaultyBackend::over(backend.clone()));
    let config_of_store = StoreConfig { barrier_limit: 1_000_000, ..StoreConfig::new(Durability::Logged) };
    let store = Arc::new(Store::open(Arc::clone(&faulty) as _, config_of_store).unwrap());
    let chain = Chain::open(store, config(100), Arc::new(SystemClock::new())).unwrap();
    let made = |name| {
        let met = |error: &ChainError| panic!("{error}");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (reply, told) = oneshot::channel();
        let waiting = Waiting { id: Hex32([name; 32]), bytes: 1, transaction: create(name, name), reply };
        let attempt = Making { store: chain.store(), clock: &clock, met: &met }.produce(vec![waiting]);
        (attempt.result.unwrap().unwrap().committed.order, told.blocking_recv().unwrap().unwrap().receipt.outcome)
    };
    assert_eq!(made(1), (Order::new(1), Outcome::Applied));
    let old = chain.status().unwrap().head.at.root;
    let is_armed = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (told, moves) = std::sync::mpsc::channel::<std::sync::mpsc::Sender<()>>();
        faulty.before_each({
            let told = parking_lot::Mutex::new(told);
            move || {
                if is_armed.swap(false, Ordering::AcqRel) {
                    let (done, moved) = std::sync::mpsc::channel();
                    told.lock().send(done).unwrap();
                    assert!(moved.recv().is_err(), "nothing is ever sent: only its end counts");
                }
            }
        });
        let made = &made;
        let slow = scope.spawn(move || made(2));
        let done = moves.recv().unwrap();
        assert_eq!(made(3), (Order::new(2), Outcome::Applied));
        backend.uproot(&old);
        drop(done);
        assert_eq!(slow.join().unwrap(), (Order::new(3), Outcome::Applied));
    });
}

#[test]
fn a_head_without_its_block_is_refused_at_start() {
    let backend = MemoryBackend::new();
    let chain = open(&backend, 10);
    let mut batch = state_store::Batch::new();
    batch.delete(Table::BLOCK, Order::GENESIS.to_key());
    chain.store().write_rows(&batch, Durability::Logged).unwrap();
    drop(chain);
    let opened = Chain::open(store(&backend), config(10), Arc::new(SystemClock::new()));
    assert!(matches!(opened, Err(ChainError::Store(StoreError::Record { .. }))));
}
