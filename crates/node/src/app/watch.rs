//! What ends or hinders the work of a node, written into the journal of events when it begins: looked for at times and on a
//! thread of its own, since nothing on the way of a commit may wait for the journal (I12). Damage that could not be saved is
//! tried again each time: nobody may meet it once more in this process. Who went silent is told by each move of the floor, and
//! here where that stands still.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use state_pruner::{
    LiveRetention,
    events::{Event, EventSink},
};

use crate::{
    chain::{Chain, Production},
    damage::Damage,
};

/// Looks at a node. What is over is told anew when it begins again.
#[derive(Debug)]
pub(crate) struct Watch {
    chain: Weak<Chain>,
    damage: Weak<Damage>,
    retention: Weak<LiveRetention>,
    events: Arc<dyn EventSink>,
    told: BTreeSet<&'static str>,
}

impl Watch {
    /// Nothing was told yet.
    pub(crate) fn of(
        (chain, damage): (&Arc<Chain>, &Arc<Damage>),
        retention: &Arc<LiveRetention>,
        events: Arc<dyn EventSink>,
    ) -> Self {
        let (chain, damage, retention) = (Arc::downgrade(chain), Arc::downgrade(damage), Arc::downgrade(retention));
        Self { chain, damage, retention, events, told: BTreeSet::new() }
    }

    /// Tells what is new, and saves what is owed. May wait for the disk, and for the journal, holding nothing of the node then.
    pub(crate) fn look(&mut self) {
        self.damage.upgrade().into_iter().for_each(|damage| damage.save());
        let found = self.found();
        self.told.retain(|code| found.iter().any(|event| event.code() == *code));
        for event in found {
            if self.told.insert(event.code()) {
                self.events.emit(event);
            }
        }
        if let Some(Err(error)) = self.retention.upgrade().map(|retention| retention.look_around()) {
            tracing::debug!(%error, "who is silent cannot be told"); // health tells that the records cannot be read
        }
    }

    fn found(&self) -> Vec<Event> {
        let (Some(chain), Some(damage)) = (self.chain.upgrade(), self.damage.upgrade()) else { return Vec::new() };
        let backend = chain.store().backend();
        let engine = match (backend.damage(), backend.stopped_by()) {
            (Some(what), _) => Some(Event::EngineDamaged { what }),
            (None, stopped) => stopped.map(|what| Event::EngineStopped { what }),
        };
        let met = damage.met().map(|(what, _)| Event::DamageMet { what });
        engine.into_iter().chain(met).chain(of_production(&chain)).collect()
    }
}

fn of_production(chain: &Chain) -> Vec<Event> {
    let status = match chain.status() {
        Ok(status) => status,
        Err(error) => {
            tracing::warn!(%error, "whether blocks are made cannot be told");
            return Vec::new();
        }
    };
    let ended = (status.production == Production::Dead).then_some(Event::ProductionEnded);
    let failing = status.failure.map(|failure| Event::CommitsFailing {
        error: failure.refusal.code.to_owned(),
        message: failure.refusal.message,
        times: failure.times,
    });
    ended.into_iter().chain(failing).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::FileExt as _,
        path::Path,
        sync::mpsc::{RecvError, Sender, channel},
        time::Duration,
    };

    use serde_json::Value;
    use state_pruner::{
        Clock, Doubted, ManualClock, RetentionParts, StoreRecords, SystemClock,
        events::{EventJournal, EventsConfig, Filter, read_journal},
    };
    use state_store::{
        Backend, Batch, Durability, Fault, FaultyBackend, KeyRange, MemoryBackend, RocksBackend, RocksConfig, Store,
        StoreConfig, StoreError, Table,
    };
    use state_tree::Order;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        chain::{BlockObserver, ChainError, Hex32, HexBytes, ObjectPath, Produced, Producer, Transaction},
        config::Config,
    };

    /// A node without its pruner that is watched, and its journal.
    struct Watched {
        chain: Arc<Chain>,
        damage: Arc<Damage>,
        retention: Arc<LiveRetention>,
        clock: Arc<ManualClock>,
        watch: Watch,
        journal: Arc<EventJournal>,
        dir: TempDir,
    }

    impl Watched {
        fn on(backend: Arc<dyn Backend>) -> Self {
            let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(SystemClock::new()));
            let config = StoreConfig { barrier_limit: 1_000, ..StoreConfig::new(Durability::Logged) };
            let store = Arc::new(Store::open(backend, config).unwrap());
            let chain = Chain::open(store, Config::default().chain(), Arc::clone(&clock) as _).unwrap();
            let damage = Arc::new(Damage::of(None, Arc::clone(chain.store())));
            let journal = Arc::new(EventJournal::open(dir.path(), EventsConfig::default(), clock).unwrap());
            let clock = Arc::new(ManualClock::default());
            let retention = Arc::new(LiveRetention::new(RetentionParts {
                store: Arc::clone(chain.store()),
                records: Arc::new(StoreRecords(Arc::clone(chain.store()))),
                clock: Arc::clone(&clock) as _,
                keep: None,
                floor_rows: None,
                events: Arc::clone(&journal) as _,
            }));
            let watch = Watch::of((&chain, &damage), &retention, Arc::clone(&journal) as _);
            Self { chain, damage, retention, clock, watch, journal, dir }
        }

        fn submit(&self, n: u8) {
            let id = ObjectPath::top([n; 32]);
            let create = Transaction::CreateObject { id, owner: Hex32([1; 32]), value: HexBytes(vec![n; 40]) };
            self.chain.submit(vec![create]).unwrap();
        }

        /// What its journal has, but for its beginning.
        fn told(&self) -> Vec<(String, Value)> {
            self.journal.flush(Duration::from_secs(60)).unwrap();
            let read = read_journal(self.dir.path(), &Filter::default()).unwrap();
            let told = read.events.into_iter().filter(|entry| entry.code != "started");
            told.map(|entry| (entry.code, Value::Object(entry.data))).collect()
        }
    }

    /// Says what became of each block, and panics when it is told to.
    struct Said {
        blocks: Sender<Result<(), &'static str>>,
        panics_at: Option<u64>,
    }

    impl BlockObserver for Said {
        fn produced(&self, produced: &Produced) {
            assert_ne!(self.panics_at, Some(produced.committed.order.get()), "a bug of ours");
            self.blocks.send(Ok(())).unwrap();
        }

        fn met(&self, _error: &ChainError) {}

        fn failed(&self, error: &ChainError) {
            self.blocks.send(Err(error.code())).unwrap();
        }
    }

    #[test]
    fn what_hinders_a_node_is_told_when_it_begins_and_once_and_nothing_when_the_node_is_gone() {
        let mut node = Watched::on(Arc::new(MemoryBackend::new()));
        node.watch.look();
        assert_eq!(node.told(), []);
        let row = || StoreError::Record { name: "block 1".to_owned(), why: "torn".to_owned() };
        (0..2).for_each(|_| {
            node.damage.met_by_work(row().into());
            node.watch.look();
        });
        let told = node.told();
        assert!(matches!(&told[..], [(code, _)] if code == "damage_met"), "{told:?}");
        let Watched { chain, damage, retention, mut watch, journal, dir, .. } = node;
        drop((chain, damage, retention));
        watch.look();
        journal.flush(Duration::from_secs(60)).unwrap();
        let read = read_journal(dir.path(), &Filter::default()).unwrap();
        assert_eq!(read.events.iter().filter(|entry| entry.code == "damage_met").count(), 1);
    }

    /// No move of the floor tells it here.
    #[test]
    fn a_consumer_that_goes_silent_is_told_where_the_floor_stands_still() {
        let mut node = Watched::on(Arc::new(MemoryBackend::new()));
        let codes = |node: &Watched| node.told().into_iter().map(|(code, _)| code).collect::<Vec<_>>();
        node.retention.set_consumer("indexer", Order::GENESIS, Some(Duration::from_secs(2))).unwrap();
        for (passed, told) in [(1, &["consumer_added"][..]), (1, &["consumer_added", "consumer_went_silent"])] {
            let passed = Duration::from_secs(passed);
            node.clock.advance(passed);
            node.clock.set_unix_ms(node.clock.unix_ms() + passed.as_millis() as u64);
            (0..2).for_each(|_| node.watch.look());
            assert_eq!(codes(&node), told);
        }
    }

    #[test]
    fn damage_that_could_not_be_saved_is_saved_at_a_later_look() {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        let mut node = Watched::on(Arc::new(faulty.clone()));
        let recorded = |node: &Watched| {
            let records = StoreRecords(Arc::clone(node.chain.store()));
            Doubted::recorded(&records).is_some_and(|doubted| doubted.why.contains("a checksum"))
        };
        faulty.fail_write(0, Fault::DiskFull);
        node.damage.met_by_work(StoreError::Corrupt("a checksum".to_owned()).into());
        assert!(node.damage.owed().is_some() && !recorded(&node));
        node.watch.look();
        assert!(node.damage.owed().is_none() && recorded(&node), "nobody met it again");
    }

    #[test]
    fn blocks_that_fail_are_told_each_time_they_begin_to_and_so_is_the_end_of_their_thread() {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        let mut node = Watched::on(Arc::new(faulty.clone()));
        let (blocks, said) = channel();
        let mut producer =
            Producer::start(Arc::clone(&node.chain), Box::new(Said { blocks, panics_at: Some(3) })).unwrap();
        let refused = |times: u64| {
            let told = serde_json::json!({ "error": "disk_full", "times": times });
            ("commits_failing".to_owned(), told)
        };
        let mut n = 0;
        let mut block = |node: &Watched, fault: Option<Fault>| {
            fault.into_iter().for_each(|fault| faulty.fail_write(0, fault));
            n += 1;
            node.submit(n);
            said.recv()
        };
        for fault in [Some(Fault::DiskFull), Some(Fault::DiskFull), None, Some(Fault::DiskFull), None] {
            let expected = if fault.is_some() { Err("disk_full") } else { Ok(()) };
            assert_eq!(block(&node, fault), Ok(expected));
            node.watch.look();
        }
        let told = |node: &Watched| -> Vec<(String, Value)> {
            let without_words = |(code, mut data): (String, Value)| {
                let words = data.as_object_mut().unwrap().remove("message");
                assert!(words.is_none_or(|words| words.as_str().unwrap().contains("full")), "{code}");
                (code, data)
            };
            node.told().into_iter().map(without_words).collect()
        };
        assert_eq!(told(&node), [refused(1), refused(1)], "the second in a row is no news");

        assert_eq!(block(&node, None), Err(RecvError), "its thread panics");
        producer.finish();
        (0..2).for_each(|_| node.watch.look());
        let ended = ("production_ended".to_owned(), serde_json::json!({}));
        assert_eq!(told(&node), [refused(1), refused(1), ended]);
    }

    /// A node on the real engine with some blocks, of which none is in a file yet.
    fn on_the_engine(dir: &Path) -> (Watched, Arc<RocksBackend>) {
        let engine = Arc::new(RocksBackend::open(&dir.join("store"), &RocksConfig::default()).unwrap());
        let node = Watched::on(Arc::clone(&engine) as _);
        let (blocks, said) = channel();
        let mut producer =
            Producer::start(Arc::clone(&node.chain), Box::new(Said { blocks, panics_at: None })).unwrap();
        (0..40).for_each(|n| node.submit(n));
        producer.finish();
        assert!(said.iter().all(|block| block.is_ok()));
        (node, engine)
    }

    #[test]
    fn damage_that_the_engine_meets_by_itself_is_told_once_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (mut node, engine) = on_the_engine(dir.path());
        engine.flush().unwrap();
        node.watch.look();
        assert_eq!(node.told(), []);
        let files = engine.node_files().unwrap();
        let name = format!("{:06}.sst", files[0].number);
        let file = fs::File::options().read(true).write(true).open(dir.path().join("store").join(&name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, files[0].bytes / 3).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], files[0].bytes / 3).unwrap();
        engine.rewrite_files(&KeyRange::ALL).unwrap_err();
        (0..2).for_each(|_| node.watch.look());
        let told = node.told();
        let [(code, data)] = &told[..] else { panic!("{told:?}") };
        assert!(code == "engine_damaged" && data["what"].as_str().unwrap().contains(&name), "{told:?}");
    }

    /// Its folder goes away: it cannot make a file any more, and gets over that by no means.
    #[test]
    fn an_engine_that_takes_no_write_any_more_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut node, engine) = on_the_engine(dir.path());
        fs::rename(dir.path().join("store"), dir.path().join("elsewhere")).unwrap();
        engine.flush().unwrap_err();
        let mut row = Batch::new();
        row.put(Table::BLOCK, Order::new(1_000).to_key(), [1]);
        node.chain.store().write_rows(&row, Durability::Logged).unwrap_err();
        (0..2).for_each(|_| node.watch.look());
        let told = node.told();
        let [(code, data)] = &told[..] else { panic!("{told:?}") };
        assert!(code == "engine_stopped" && data["what"].as_str().unwrap().contains("No such file"), "{told:?}");
    }
}
