//! P2: what the sweep between cycles could not use is listed until a cycle has judged it, by whichever process looks.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use state_pruner::{
    Clock, Command, IncrementalStatus, ManualClock, Poison, Pruner, PrunerConfig, PrunerParts, Quarantine, Reason,
    RecordKey, Records, Reply, SetAside, StoreRecords, SweepChoice, Unusable,
    events::Event,
    incremental::RoundEnd,
    mark::MarkChoice,
    offline::{HealthRequest, health_of_opened},
    snapshot::SnapshotParts,
};
use state_store::{Batch, Durability, LostBy, Store, StoreError, Table};
use state_tests::{
    check,
    hooks::Hooks,
    records::{Acting, Use},
    rig::{Engine, Rig, env},
    told::Told,
    waits::until,
    workload::Profile,
};
use state_tree::Order;

use crate::{
    incremental::{Swept, grow_past_a_torn_row, orders_of_rows, spoil},
    left::{interrupted, io, records, rounds_go_on, start},
    resume::walking_from,
};

const WINDOW: u64 = 3;

/// What is written down.
pub(crate) fn written(store: &Arc<Store>) -> Option<Quarantine> {
    Quarantine::load(&StoreRecords(Arc::clone(store))).unwrap()
}

/// A chain with a row of the journal that cannot be read, and the order of that row.
fn torn() -> (Swept, Order) {
    let swept = Swept::new(Rig::new(Engine::Memory), WINDOW);
    swept.rig.chain.grow(Profile::Uniform, 61, 8);
    swept.cycle();
    let bad = grow_past_a_torn_row(&swept.rig);
    (swept, bad)
}

fn begun(rig: &Rig, config: PrunerConfig) -> Pruner {
    Pruner::start(rig.pruner_parts(&Hooks::none()), config).unwrap()
}

/// What health says of poison items.
pub(crate) fn told(reasons: &[Reason]) -> Option<&str> {
    reasons.iter().find(|reason| reason.code == "poison_items").map(|reason| reason.message.as_str())
}

pub(crate) fn told_from_outside(rig: &Rig) -> Option<String> {
    let request = HealthRequest::new(Path::new("nowhere"), None);
    let health = health_of_opened(Arc::clone(&rig.chain.store), &request).unwrap();
    told(&health.reasons).map(str::to_owned)
}

#[test]
fn what_is_set_aside_is_known_to_every_later_process_and_from_outside_until_a_cycle_has_finished() {
    let (swept, bad) = torn();
    let Swept { rig, plan, env, sweep, .. } = swept;
    drop((env, sweep));
    let pruner = begun(&rig, plan.clone().pruner());
    let at_the_window = rig.chain.head().minus(WINDOW - 1).unwrap();
    until(&rig, &pruner, |pruner| {
        let is_done = pruner.status().incremental.unwrap().last == Some(RoundEnd::Done);
        is_done && rig.chain.floor() == at_the_window
    });
    let status = pruner.status();
    let known = status.quarantine.unwrap();
    let [SetAside { what: Poison::JournalRow, order, node: None, why: Unusable::Record, .. }] = known.items[..] else {
        panic!("{known:?}")
    };
    assert_eq!((known.total, order, known.lost.as_deref()), (1, Some(bad.get()), None));
    let shown = serde_json::to_value(&known.items[0]).unwrap();
    assert_eq!((&shown["what"], &shown["why"]), (&"journal_row".into(), &"record".into()), "{shown}");
    assert!(status.incremental.unwrap().deleted_total > 0, "the others go");
    drop(pruner);

    let mut rig = rig;
    for (config, context) in
        [(plan.clone().pruner_of_cycles(), "without that sweep"), (plan.clone().pruner(), "with it")]
    {
        rig = rig.restart();
        let outside = told_from_outside(&rig).unwrap();
        assert!(outside.contains("1 rows or nodes"), "{context}: {outside}");
        assert!(outside.contains(&format!("first the journal row of order {bad} ")), "{context}: {outside}");
        let pruner = begun(&rig, config);
        until(&rig, &pruner, |pruner| !pruner.status().running);
        let (status, health) = (pruner.status(), pruner.health());
        assert_eq!(status.quarantine.as_ref(), Some(&known), "{context}");
        assert_eq!(told(&health.reasons), Some(outside.as_str()), "{context}");
        let counted = status.incremental.map(|status| (status.poison_items, status.set_aside_total));
        assert!(counted.is_none_or(|counted| counted == (1, 0)), "{context}: {counted:?}");
    }
    let events = Arc::new(Told::default());
    let parts = PrunerParts { events: Arc::clone(&events) as _, ..rig.pruner_parts(&Hooks::none()) };
    let pruner = Pruner::start(parts, plan.clone().pruner()).unwrap();
    until(&rig, &pruner, |pruner| !pruner.status().running);
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert_eq!((pruner.status().quarantine, told(&pruner.health().reasons)), (None, None));
    drop(pruner);
    let is_end = |event: &&Event| matches!(event, Event::QuarantineEnded { items: 1, .. });
    assert_eq!(events.0.lock().iter().filter(is_end).count(), 1);
    check::exact(&rig.chain, "what the row named is gone");
    let rig = rig.restart();
    assert_eq!((told_from_outside(&rig), written(&rig.chain.store)), (None, None));
}

/// Records that take no quarantine for as long as the flag says so.
fn refusing(inner: Arc<dyn Records>, refuses: &Arc<AtomicBool>) -> Arc<dyn Records> {
    let refuse = Arc::clone(refuses);
    Acting::over(inner, move |what, key| {
        let fails = refuse.load(Ordering::Acquire) && (what, key) == (Use::Save, RecordKey::Quarantine);
        let no = || StoreError::Io { what: "a record".to_owned(), source: std::io::Error::other("injected") };
        if fails { Err(no().into()) } else { Ok(()) }
    })
}

/// How far the sweep of the journal is cannot be read from now on.
fn tear_the_cursor(store: &Store) {
    let mut batch = Batch::new();
    batch.put(Table::META, *b"expiry", *b"torn");
    store.write_rows(&batch, Durability::Logged).unwrap();
}

/// The row stays, and so does everything that is dead, until it can be written down that the row is passed over.
#[test]
fn nothing_is_passed_over_that_cannot_be_written_down() {
    let (mut swept, bad) = torn();
    let refuses = Arc::new(AtomicBool::new(true));
    let parts = swept.rig.parts(swept.plan.keep_last, &Hooks::none());
    let records = refusing(Arc::clone(&parts.records), &refuses);
    swept.env = env(SnapshotParts { records, ..parts }, &Hooks::none());
    let store = Arc::clone(&swept.rig.chain.store);
    let (before, few) = (check::present(&store), NonZeroUsize::new(64).unwrap());
    for attempt in 0..2 {
        let Swept { sweep, env, plan, .. } = &mut swept;
        let failed = sweep.round(env, &plan.config.state_dir, few, &mut |_| ControlFlow::Continue(few)).unwrap_err();
        assert_eq!(failed.code(), "io", "{attempt}");
        assert_eq!((check::present(&store), written(&store)), (before.clone(), None), "{attempt}");
        assert!(orders_of_rows(&store).contains(&bad), "{attempt}");
    }
    refuses.store(false, Ordering::Release);
    let round = swept.drain();
    assert_eq!((round.set_aside, round.end.clone()), (1, RoundEnd::Done));
    assert!(round.nodes > 0 && !orders_of_rows(&store).contains(&bad), "{round:?}");
    assert_eq!(written(&store).unwrap().total, 1);
}

/// Else a process that dies, or a write that fails, would leave counts that are lost and nothing that says why.
#[test]
fn a_cursor_that_cannot_be_written_down_is_not_passed_over_and_is_met_again() {
    let mut swept = Swept::new(Rig::new(Engine::Memory), WINDOW);
    swept.rig.chain.grow(Profile::Uniform, 61, 8);
    swept.cycle();
    swept.rig.chain.grow(Profile::Uniform, 62, 8);
    let store = Arc::clone(&swept.rig.chain.store);
    tear_the_cursor(&store);
    let refuses = Arc::new(AtomicBool::new(true));
    let parts = swept.rig.parts(swept.plan.keep_last, &Hooks::none());
    let records = refusing(Arc::clone(&parts.records), &refuses);
    swept.env = env(SnapshotParts { records, ..parts }, &Hooks::none());
    let few = NonZeroUsize::new(64).unwrap();
    for attempt in 0..2 {
        let Swept { sweep, env, plan, .. } = &mut swept;
        let failed = sweep.round(env, &plan.config.state_dir, few, &mut |_| ControlFlow::Continue(few)).unwrap_err();
        assert_eq!((failed.code(), store.counts_lost(), written(&store)), ("io", None, None), "{attempt}");
    }
    refuses.store(false, Ordering::Release);
    for (attempt, new) in [1, 0].into_iter().enumerate() {
        let round = swept.drain();
        assert_eq!((round.set_aside, round.nodes, round.end), (new, 0, RoundEnd::Uncounted), "{attempt}");
        assert_eq!(store.counts_lost().map(|lost| lost.by), Some(LostBy::Cursor), "{attempt}");
        let known = written(&store).unwrap();
        assert_eq!((known.total, known.items[0].what, known.items[0].order), (1, Poison::Cursor, None), "{attempt}");
    }
}

/// A pruner that cannot write down what it sets aside, for as long as the flag says so, and what it tells.
fn begun_refusing(rig: &Rig, refuses: &Arc<AtomicBool>) -> (Pruner, Arc<Told>) {
    let (parts, told) = (rig.pruner_parts(&Hooks::none()), Arc::new(Told::default()));
    let records = refusing(Arc::clone(&parts.records), refuses);
    let parts = PrunerParts { records, events: Arc::clone(&told) as _, ..parts };
    (Pruner::start(parts, rig.plan(WINDOW).pruner()).unwrap(), told)
}

/// Items of the journal that were told.
pub(crate) fn items_told(told: &Told) -> u64 {
    let count = |event: &Event| if let Event::PoisonItem { count, .. } = event { *count } else { 0 };
    told.0.lock().iter().map(count).sum()
}

/// What a start cannot read of the journal is listed at once: what waited up to there is given up, although the floor is not
/// there yet. A process that dies before it could be listed leaves it to the next.
#[test]
fn what_a_start_gives_up_of_the_journal_is_written_down_first() {
    for what in [Poison::JournalRow, Poison::Cursor] {
        let context = format!("{what:?}");
        let rig = Rig::new(Engine::Memory);
        rig.chain.grow(Profile::Uniform, 61, 8);
        rig.cycle(&rig.plan(WINDOW));
        rig.chain.grow(Profile::Uniform, 62, 8);
        let bad = rig.chain.head().minus(1).unwrap();
        match what {
            Poison::JournalRow => spoil(&rig.chain.store, bad),
            Poison::Cursor => tear_the_cursor(&rig.chain.store),
            Poison::Node => unreachable!("no node is read at a start"),
        }
        let refuses = Arc::new(AtomicBool::new(true));
        let failed_at = |rig: &Rig| {
            let (pruner, events) = begun_refusing(rig, &refuses);
            let steady = |pruner: &Pruner| pruner.status().incremental.unwrap();
            until(rig, &pruner, |pruner| steady(pruner).failure.is_some() || steady(pruner).last.is_some());
            assert!(steady(&pruner).failure.is_some_and(|why| why.contains("injected")), "{context}");
            assert_eq!((steady(&pruner).set_aside_total, items_told(&events)), (0, 0), "{context}: it failed");
            assert_eq!((written(&rig.chain.store), rig.chain.store.counts_lost()), (None, None), "{context}");
            (pruner, events)
        };
        let rig = rig.restart();
        drop(failed_at(&rig));
        let rig = rig.restart();
        let (pruner, events) = failed_at(&rig);
        refuses.store(false, Ordering::Release);
        until(&rig, &pruner, |pruner| {
            pruner.committed(rig.chain.head());
            pruner.status().incremental.unwrap().last.is_some()
        });
        assert_eq!((pruner.status().incremental.unwrap().set_aside_total, items_told(&events)), (1, 1), "{context}");
        if what == Poison::Cursor {
            until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
            assert_eq!((pruner.status().quarantine, rig.chain.store.counts_lost()), (None, None), "counted anew");
            continue;
        }
        let known = pruner.status().quarantine.unwrap();
        assert_eq!((known.total, known.items[0].what, known.items[0].order), (1, what, Some(bad.get())));
        assert!(orders_of_rows(&rig.chain.store).contains(&bad), "no round has passed it");
        assert!(told(&pruner.health().reasons).is_some_and(|told| told.starts_with("1 rows or nodes")));
        drop(pruner);
        let rig = rig.restart();
        let (pruner, events) = begun_refusing(&rig, &refuses);
        rig.chain.grow(Profile::Uniform, 63, 6);
        pruner.committed(rig.chain.head());
        until(&rig, &pruner, |_| !orders_of_rows(&rig.chain.store).contains(&bad));
        assert_eq!((written(&rig.chain.store), items_told(&events)), (Some(known), 0), "it is listed once");
    }
}

/// The journal is read before a walk goes on, and once in a process: what cannot be written down then is written down later.
#[test]
fn what_a_walk_that_goes_on_cannot_write_down_is_written_down_later() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 64, 12);
    rig.cycle(&rig.plan(5));
    rig.chain.grow(Profile::Tables, 65, 30);
    let rig = walking_from(&rig);
    let bad = rig.chain.head().minus(1).unwrap();
    spoil(&rig.chain.store, bad);
    let rig = rig.restart();
    let refused = AtomicBool::new(false);
    let (parts, events) = (rig.pruner_parts(&Hooks::none()), Arc::new(Told::default()));
    let records = Acting::over(Arc::clone(&parts.records), move |what, key| {
        let is_first = (what, key) == (Use::Save, RecordKey::Quarantine) && !refused.swap(true, Ordering::AcqRel);
        if is_first { Err(io()) } else { Ok(()) }
    });
    let parts = PrunerParts { records, events: Arc::clone(&events) as _, ..parts };
    let plan = rig.plan(5).in_order().noted().by(MarkChoice::Walk, SweepChoice::Delete);
    let pruner = Pruner::start(parts, plan.pruner()).unwrap();
    until(&rig, &pruner, |pruner| {
        pruner.status().cycles_finished == 1 && pruner.status().incremental.unwrap().last == Some(RoundEnd::Done)
    });
    let known = written(&rig.chain.store).unwrap();
    assert_eq!((known.total, known.items[0].order, items_told(&events)), (1, Some(bad.get()), 1));
}

/// A clock by which the worker looks at its own pruner, the first time that it asks for the time after it has looked up what is
/// set aside.
#[derive(Default)]
struct Showing {
    time: Arc<ManualClock>,
    is_written: AtomicBool,
    is_due: AtomicBool,
    pruner: OnceLock<Weak<Pruner>>,
    seen: OnceLock<IncrementalStatus>,
}

impl Showing {
    fn met(&self, what: Use, key: RecordKey) {
        match (what, key) {
            (Use::Save, RecordKey::Quarantine) => self.is_written.store(true, Ordering::Release),
            (Use::Load, RecordKey::Quarantine) => {
                self.is_due.store(self.is_written.load(Ordering::Acquire), Ordering::Release)
            }
            (Use::Load | Use::Save | Use::Remove, _) => {}
        }
    }
}

impl std::fmt::Debug for Showing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Showing")
    }
}

impl Clock for Showing {
    fn monotonic(&self) -> Duration {
        let of_worker = thread::current().name() == Some("pruner");
        if of_worker && self.seen.get().is_none() && self.is_due.swap(false, Ordering::AcqRel) {
            let pruner = self.pruner.get().unwrap().upgrade().unwrap();
            drop(self.seen.set(pruner.status().incremental.unwrap()));
        }
        self.time.monotonic()
    }

    fn unix_ms(&self) -> u64 {
        self.time.unix_ms()
    }
}

/// Whoever looks between the two would take an item for one of an earlier process.
#[test]
fn no_status_tells_of_an_item_of_this_process_that_is_not_counted() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 61, 8);
    rig.cycle(&rig.plan(WINDOW));
    let clock = Arc::new(Showing { time: Arc::clone(&rig.clock), ..Showing::default() });
    let (parts, met) = (rig.pruner_parts(&Hooks::none()), Arc::clone(&clock));
    let records = Acting::over(Arc::clone(&parts.records), move |what, key| {
        met.met(what, key);
        Ok(())
    });
    let parts = PrunerParts { records, clock: Arc::clone(&clock) as _, ..parts };
    let pruner = Arc::new(Pruner::start(parts, rig.plan(WINDOW).pruner()).unwrap());
    clock.pruner.set(Arc::downgrade(&pruner)).unwrap();
    until(&rig, &pruner, |pruner| pruner.status().incremental.unwrap().last.is_some());
    grow_past_a_torn_row(&rig);
    pruner.committed(rig.chain.head());
    until(&rig, &pruner, |_| clock.seen.get().is_some());
    let seen = clock.seen.get().unwrap();
    assert_eq!((seen.poison_items, seen.set_aside_total), (1, 1));
}

/// The process dies after an item was written down, and before it was passed over.
#[test]
fn what_the_next_process_meets_again_is_listed_once() {
    let (mut swept, bad) = torn();
    swept.env.control.stop();
    let round = swept.drain();
    assert_eq!((round.set_aside, round.end), (1, RoundEnd::Paused));
    let known = written(&swept.rig.chain.store);
    assert!(known.is_some() && orders_of_rows(&swept.rig.chain.store).contains(&bad));
    let mut swept = swept.restart();
    let round = swept.drain();
    assert_eq!((round.set_aside, round.end), (0, RoundEnd::Done), "it is no news");
    assert!(!orders_of_rows(&swept.rig.chain.store).contains(&bad));
    assert_eq!(written(&swept.rig.chain.store), known);
    swept.cycle();
    assert_eq!((written(&swept.rig.chain.store), swept.leaks(&[])), (None, 0));
}

/// Nobody knows what it lists, nor since when: a cycle that an earlier process began may have marked before.
#[test]
fn a_quarantine_that_cannot_be_read_is_told_until_a_cycle_has_begun_and_finished() {
    let rig = interrupted();
    records(&rig).save(RecordKey::Quarantine, b"torn").unwrap();
    let outside = told_from_outside(&rig).unwrap();
    assert!(
        outside.starts_with("what the sweep between cycles passed over is not known: record `quarantine`"),
        "{outside}"
    );
    let pruner = start(&rig, &Hooks::none(), |_, _| Ok(()));
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    rounds_go_on(&rig, &pruner, "it stops nobody");
    assert_eq!(told(&pruner.health().reasons), Some(outside.as_str()), "the cycle that went on settles nothing");
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 2 && !pruner.status().running);
    assert_eq!((pruner.status().quarantine, told(&pruner.health().reasons)), (None, None));
    assert_eq!((told_from_outside(&rig), written(&rig.chain.store)), (None, None));
}
