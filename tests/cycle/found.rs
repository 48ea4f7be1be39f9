//! I11: damage that somebody meets beside the pruner freezes deletes, whatever else happens at that moment: records that cannot
//! be read or written, an unfreeze, a cycle that marks, a look at what an earlier process left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;
use state_pruner::{
    Command, Doubted, Ended, Found, Freeze, Imposed, PruneError, Pruner, PrunerConfig, PrunerParts, RecordKey,
    Records as _, Reply,
    events::{Event, EventSink},
    mark::{MarkChoice, RehashChoice},
    phase::{PhaseRecord, PrunePhase},
};
use state_store::{Fault, StoreConfig, StoreError, record};
use state_tests::{
    chain::STORE,
    check,
    hooks::{Hooks, Moment},
    records::{Acting, Use},
    rig::{Engine, Plan, Rig},
    told::Told,
    waits::{give_turns, until, until_beside_commits},
    workload::Profile,
};
use state_tree::NodeHash;

use crate::events::freezes;
use crate::left::{held_look, interrupted, interrupted_by, io, records, start};

const WINDOW: u64 = 5;

/// Where code inside a pruner finds it.
type Slot = Arc<Mutex<Option<Arc<Pruner>>>>;

fn damage(what: &str) -> PruneError {
    StoreError::Corrupt(what.to_owned()).into()
}

fn left(rig: &Rig) -> Option<PrunePhase> {
    PhaseRecord::load(&records(rig)).unwrap().map(|record| record.phase)
}

fn on_record(rig: &Rig) -> Option<String> {
    Freeze::load(&records(rig)).unwrap().map(|freeze| freeze.why)
}

/// Waits until the sweep that was left has gone on.
fn goes_on(rig: &Rig, pruner: &Pruner, context: &str) {
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted, "{context}");
    until_beside_commits(rig, pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert_eq!((left(rig), on_record(rig)), (None, None), "{context}");
    check::exact(&rig.chain, context);
}

/// Damage is found before it is known what an earlier process left, and the freeze cannot be saved, or only later.
#[test]
fn a_freeze_from_before_the_records_are_read_outlives_their_reading() {
    for is_saved in [true, false] {
        let (rig, context) = (interrupted(), format!("it is saved then: {is_saved}"));
        let (unread, unsaved) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let (fails, refuses) = (Arc::clone(&unread), Arc::clone(&unsaved));
        let pruner = start(&rig, &Hooks::none(), move |what, key| {
            let is_unread = fails.load(Ordering::Acquire) && (what, key) == (Use::Load, RecordKey::LastOutcome);
            let is_refused = refuses.load(Ordering::Acquire) && (what, key) == (Use::Save, RecordKey::Freeze);
            if is_unread || is_refused { Err(io()) } else { Ok(()) }
        });
        let before = check::present(&rig.chain.store);
        let found = pruner.found(&damage("a checksum"));
        assert!(matches!(found, Err(PruneError::Store(StoreError::Io { .. }))), "{context}: {found:?}");
        assert_eq!(on_record(&rig), None, "{context}");
        unsaved.store(!is_saved, Ordering::Release);
        unread.store(false, Ordering::Release);
        let is_unread = |why: &str| why.contains("records of the pruner cannot be read");
        until_beside_commits(&rig, &pruner, |pruner| {
            let asked = pruner.command(Command::Run);
            !matches!(asked, Reply::Refused { why } if is_unread(&why)) && !pruner.status().running
        });
        let frozen = pruner.status().frozen;
        assert!(frozen.is_some_and(|why| why.contains("a checksum")), "{context}");
        assert_eq!(left(&rig), Some(PrunePhase::SweepExpired), "{context}: it waits");
        assert_eq!(check::present(&rig.chain.store), before, "{context}: nothing goes");
        assert_eq!(on_record(&rig).is_some(), is_saved, "{context}");
        unsaved.store(false, Ordering::Release);
        goes_on(&rig, &pruner, &context);
    }
}

/// A pruner that has looked at what was left, and whose faults cannot be saved while it is told so.
fn where_no_fault_is_saved(rig: &Rig) -> (Pruner, Arc<AtomicBool>) {
    let unsaved = Arc::new(AtomicBool::new(true));
    let refuses = Arc::clone(&unsaved);
    let pruner = start(rig, &Hooks::none(), move |what, key| {
        let is_refused = what == Use::Save && matches!(key, RecordKey::Freeze | RecordKey::Doubt);
        if is_refused && refuses.load(Ordering::Acquire) { Err(io()) } else { Ok(()) }
    });
    until(rig, &pruner, |pruner| !pruner.status().running);
    (pruner, unsaved)
}

/// What could not be saved is saved when it is found again, and a freeze in force is not replaced.
#[test]
fn damage_that_is_found_again_is_saved_if_it_could_not_be() {
    let rig = interrupted();
    let (pruner, unsaved) = where_no_fault_is_saved(&rig);
    assert!(pruner.found(&damage("the first")).is_err());
    let frozen = pruner.status().frozen.unwrap();
    assert_eq!(on_record(&rig), None);
    unsaved.store(false, Ordering::Release);
    assert_eq!(pruner.found(&damage("the second")).unwrap(), Found::InDoubt);
    assert_eq!(on_record(&rig), Some(frozen.clone()), "what is in force is saved");
    assert_eq!(pruner.found(&damage("the first")).unwrap(), Found::Told);
    assert_eq!(pruner.found(&PruneError::NoHead).unwrap(), Found::Told, "no damage");
    assert_eq!(pruner.status().frozen, Some(frozen));
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    assert_eq!(pruner.found(&damage("the second")).unwrap(), Found::Told);
    assert!(on_record(&rig).is_some_and(|why| why.contains("the second")), "it was not lifted");
}

/// Nobody meets it again: a later process would go on with the sweep that it stopped.
#[test]
fn a_freeze_that_could_not_be_saved_is_saved_as_soon_as_it_can_be() {
    for is_stopped in [false, true] {
        let rig = interrupted();
        let (pruner, unsaved) = where_no_fault_is_saved(&rig);
        assert!(pruner.found(&damage("a checksum")).is_err());
        assert_eq!(on_record(&rig), None);
        unsaved.store(false, Ordering::Release);
        if is_stopped {
            drop(pruner);
        } else {
            let in_doubt = || records(&rig).load(RecordKey::Doubt).unwrap().is_some(); // that comes behind the freeze
            until(&rig, &pruner, |_| on_record(&rig).is_some() && in_doubt());
            assert_eq!(on_record(&rig), pruner.status().frozen);
        }
        assert!(on_record(&rig).is_some_and(|why| why.contains("a checksum")), "the pruner ends: {is_stopped}");
        let doubt = Doubted::recorded(&records(&rig)).unwrap();
        assert_eq!(doubt.code, "frozen");
        records(&rig).remove(RecordKey::Freeze).unwrap();
        assert_eq!(Doubted::recorded(&records(&rig)).unwrap().code, "unproven", "what it is for is in doubt, too");
    }
}

/// What was met under the freeze and could not be saved yet is in doubt when the sweep that was left goes on: no mark that hashed a
/// sample is believed.
#[test]
fn an_unfreeze_saves_first_what_could_not_be_saved_under_the_freeze() {
    let scanned = |mut plan: Plan| {
        (plan.config.mark, plan.config.rehash) = (MarkChoice::Scan, RehashChoice::Sample);
        plan
    };
    let (rig, full) = (interrupted_by(scanned), Arc::new(AtomicBool::new(false)));
    let refuses = Arc::clone(&full);
    let first = damage("a checksum"); // which any mark would have met
    Doubted::remember(&first, &records(&rig)).unwrap();
    let freeze = Freeze { cycle: 1, at: 0, why: first.to_string() };
    records(&rig).save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
    let kept = Acting::over(Arc::new(records(&rig)), move |what, key| {
        let is_refused = refuses.load(Ordering::Acquire) && (what, key) == (Use::Save, RecordKey::Doubt);
        if is_refused { Err(io()) } else { Ok(()) }
    });
    let parts = PrunerParts { records: kept, ..rig.pruner_parts(&Hooks::none()) };
    let plan = scanned(rig.plan(WINDOW).in_order().batches(20));
    let pruner = Pruner::start(parts, plan.pruner_of_cycles()).unwrap();
    until(&rig, &pruner, |pruner| !pruner.status().running);
    let before = check::present(&rig.chain.store);
    full.store(true, Ordering::Release);
    let (hash, actual) = (NodeHash::new([1; 32]), NodeHash::new([2; 32]));
    pruner.found(&PruneError::WrongHash { hash, actual, path: Vec::new() }).unwrap_err();
    assert!(matches!(pruner.command(Command::Unfreeze), Reply::Unsaved { .. }), "nobody would know of it");
    assert!(pruner.status().frozen.is_some());
    full.store(false, Ordering::Release);
    assert_eq!(
        pruner.command(Command::Unfreeze),
        Reply::Accepted,
        "no time has passed: the worker has not tried again"
    );
    until(&rig, &pruner, |pruner| !pruner.status().running && left(&rig).is_none());
    assert!(check::present(&rig.chain.store) == before, "its mark did not look for such a node: it is abandoned");
}

/// Damage is found while an operator's unfreeze is about to clear the record: deletes stay frozen, in this process and the next.
#[test]
fn damage_that_is_found_beside_an_unfreeze_freezes_deletes_durably() {
    let (rig, slot) = (interrupted(), Slot::default());
    until(&rig, &start(&rig, &Hooks::none(), |_, _| Ok(())), |pruner| pruner.status().cycles_finished == 1);
    let (inside, finder) = (Arc::clone(&slot), Arc::new(Mutex::new(None::<JoinHandle<Found>>)));
    let (found, is_found, asker) = (Arc::clone(&finder), AtomicBool::new(false), thread::current().id());
    let pruner = Arc::new(start(&rig, &Hooks::none(), move |what, key| {
        let pruner = inside.lock().clone();
        let Some(pruner) = pruner.filter(|_| key == RecordKey::Freeze) else { return Ok(()) };
        let is_asked = thread::current().id() == asker; // the worker looks, too
        match what {
            Use::Load if is_asked && !is_found.swap(true, Ordering::AcqRel) => {
                let finds = Arc::clone(&pruner);
                let finder = thread::Builder::new().spawn(move || finds.found(&damage("a checksum")).unwrap()).unwrap();
                while pruner.status().frozen.is_none() && !finder.is_finished() {
                    thread::yield_now();
                }
                *found.lock() = Some(finder);
            }
            Use::Save => assert!(pruner.status().frozen.is_some(), "it holds before it is saved"),
            Use::Load | Use::Remove => {}
        }
        Ok(())
    }));
    until(&rig, &pruner, |pruner| !pruner.status().running);
    *slot.lock() = Some(Arc::clone(&pruner));
    let reply = pruner.command(Command::Unfreeze);
    assert!(matches!(&reply, Reply::Refused { why } if why.contains("frozen again")), "{reply:?}");
    assert_eq!(finder.lock().take().unwrap().join().unwrap(), Found::Told);
    slot.lock().take();
    assert!(pruner.status().frozen.is_some());
    assert_eq!(on_record(&rig), pruner.status().frozen, "for the next process, too");
}

/// Its end is not near, so nobody is told that it is: it stops, and goes on behind the freeze. What it has deleted by then counts.
#[test]
fn a_cycle_that_a_freeze_stops_is_not_told_to_be_ending() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 832, 40);
    let before = check::present(&rig.chain.store).len();
    let (at_work, (told, replies)) = (Slot::default(), mpsc::channel());
    let (taken, mut batches) = (Arc::clone(&at_work), 0);
    let hooks = Hooks::new(move |moment| {
        batches += usize::from(moment == Moment::Deleting);
        let pruner = (batches == 3).then(|| taken.lock().take()).flatten();
        if let Some(pruner) = pruner {
            assert_eq!(pruner.found(&damage("met by a read")).unwrap(), Found::Told);
            for command in [Command::Pause, Command::Cancel] {
                told.send(pruner.command(command)).unwrap();
            }
        }
    });
    let config = PrunerConfig { incremental: None, ..rig.plan(WINDOW).in_order().batches(10).pruner() };
    let pruner = Arc::new(Pruner::start(rig.pruner_parts(&hooks), config).unwrap());
    until(&rig, &pruner, |pruner| !pruner.status().running);
    *at_work.lock() = Some(Arc::clone(&pruner));
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    for reply in [replies.recv().unwrap(), replies.recv().unwrap()] {
        assert!(
            matches!(&reply, Reply::Refused { why } if why.contains("frozen") && why.contains("goes on")),
            "{reply:?}"
        );
    }
    until(&rig, &pruner, |pruner| !pruner.status().running);
    let gone = before - check::present(&rig.chain.store).len();
    let status = pruner.status();
    assert_eq!((status.cycles_finished, status.deleted_total), (0, gone as u64), "{:?}", status.last);
    assert!(gone > 0);
    goes_on(&rig, &pruner, "behind the freeze");
}

/// A cycle meets a fault of its own before it comes to the checkpoint at which a freeze from outside stops it.
#[test]
fn a_freeze_in_force_is_not_replaced_by_what_a_cycle_at_work_meets() {
    let grown = Rig::new(Engine::Memory);
    grown.chain.grow(Profile::Uniform, 831, 40);
    let (rig, disk) = grown.faulty();
    let at_work = Slot::default();
    let taken = Arc::clone(&at_work);
    let hooks = Hooks::new(move |moment| {
        let pruner = (moment == Moment::Deleting).then(|| taken.lock().take()).flatten();
        if let Some(pruner) = pruner {
            assert_eq!(pruner.found(&damage("met by a read")).unwrap(), Found::Told);
            disk.fail_write(0, Fault::Corrupt);
        }
    });
    let config = PrunerConfig { incremental: None, ..rig.plan(WINDOW).in_order().batches(10).pruner() };
    let told = Arc::new(Told::default());
    let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&hooks) };
    let pruner = Arc::new(Pruner::start(parts, config).unwrap());
    *at_work.lock() = Some(Arc::clone(&pruner));
    until(&rig, &pruner, |pruner| matches!(pruner.command(Command::Run), Reply::Accepted | Reply::FollowUp));
    until(&rig, &pruner, |pruner| pruner.status().cycles_failed == 1 && !pruner.status().running);
    let ended = pruner.status().last.unwrap().ended;
    assert!(matches!(&ended, Ended::Failed { code, .. } if code == "corrupt"), "it met its own: {ended:?}");
    assert!(pruner.status().frozen.is_some_and(|why| why.contains("met by a read")));
    assert!(on_record(&rig).is_some_and(|why| why.contains("met by a read")));
    assert_eq!(freezes(&told), [(None, pruner.status().frozen.unwrap())], "and no other is told");
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    assert_eq!((pruner.status().frozen, on_record(&rig)), (None, None), "and both are lifted together");
}

/// A round meets a fault of its own when deletes have just been frozen for another.
#[test]
fn a_round_that_meets_damage_while_deletes_are_frozen_tells_of_no_freeze() {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Uniform, 841, 20);
    rig.cycle(&rig.plan(WINDOW));
    rig.chain.grow(Profile::Uniform, 842, 20);
    let (slot, given) = mpsc::channel::<Arc<Pruner>>();
    let given = Mutex::new(Some(given));
    let (told, parts) = (Arc::new(Told::default()), rig.pruner_parts(&Hooks::none()));
    let records = Acting::over(Arc::clone(&parts.records), move |what, key| {
        let is_a_round = (what, key) == (Use::Save, RecordKey::Snapshot);
        let Some(given) = is_a_round.then(|| given.lock().take()).flatten() else { return Ok(()) };
        let pruner = given.recv().unwrap();
        assert_eq!(pruner.found(&damage("met by a read")).unwrap(), Found::Told);
        Err(damage("met by the round"))
    });
    let parts = PrunerParts { records, events: Arc::clone(&told) as _, ..parts };
    let pruner = Arc::new(Pruner::start(parts, rig.plan(WINDOW).pruner()).unwrap());
    slot.send(Arc::clone(&pruner)).unwrap();
    until_beside_commits(&rig, &pruner, |pruner| pruner.status().incremental.unwrap().failure.is_some());
    let (frozen, failed) = (pruner.status().frozen.unwrap(), pruner.status().incremental.unwrap().failure.unwrap());
    assert!(frozen.contains("met by a read") && failed.contains("met by the round"), "{frozen}; {failed}");
    drop(pruner);
    assert_eq!(freezes(&told), [(None, frozen)], "what is told is what is in force");
}

/// What is told of freezes and their ends, in order. The first freeze is told slowly, and lifted meanwhile.
#[derive(Debug, Default)]
struct Slowly {
    told: Told,
    pruner: Slot,
    lifts: Mutex<Option<JoinHandle<Reply>>>,
}

impl EventSink for Slowly {
    fn emit(&self, event: Event) {
        let is_frozen = matches!(event, Event::DeletesFrozen { .. });
        if let Some(pruner) = is_frozen.then(|| self.pruner.lock().take()).flatten() {
            let lifts = thread::Builder::new().spawn(move || pruner.command(Command::Unfreeze)).unwrap();
            give_turns(|| lifts.is_finished());
            *self.lifts.lock() = Some(lifts);
        }
        self.told.emit(event);
    }
}

impl Slowly {
    fn codes(&self) -> Vec<&'static str> {
        let codes = self.told.0.lock().iter().map(Event::code).collect::<Vec<_>>();
        codes.into_iter().filter(|code| code.starts_with("deletes_")).collect()
    }
}

fn telling(rig: &Rig, events: &Arc<Slowly>) -> Arc<Pruner> {
    rig.cycle(&rig.plan(WINDOW)); // so that none is owed
    telling_again(rig, events)
}

fn telling_again(rig: &Rig, events: &Arc<Slowly>) -> Arc<Pruner> {
    let parts = PrunerParts { events: Arc::clone(events) as _, ..rig.pruner_parts(&Hooks::none()) };
    let pruner = Arc::new(Pruner::start(parts, rig.plan(WINDOW).pruner()).unwrap());
    until(rig, &pruner, |pruner| !pruner.status().running);
    pruner
}

#[test]
fn a_freeze_is_told_before_its_end_however_slowly() {
    let (rig, events) = (Rig::new(Engine::Memory), Arc::new(Slowly::default()));
    rig.chain.grow(Profile::Uniform, 851, 8);
    let pruner = telling(&rig, &events);
    *events.pruner.lock() = Some(Arc::clone(&pruner));
    assert_eq!(pruner.found(&damage("a checksum")).unwrap(), Found::Told);
    let lifts = events.lifts.lock().take().unwrap();
    assert_eq!(lifts.join().unwrap(), Reply::Accepted);
    assert_eq!((events.codes(), pruner.status().frozen), (vec!["deletes_frozen", "deletes_unfrozen"], None));
}

/// An operator lifts a freeze that holds in memory, and of which nobody was told yet.
#[test]
fn a_freeze_that_is_lifted_before_it_is_told_is_told_first() {
    let (rig, events) = (Rig::new(Engine::Memory), Arc::new(Slowly::default()));
    rig.chain.grow(Profile::Uniform, 852, 8);
    let pruner = telling(&rig, &events);
    let imposed = pruner.impose(&damage("a checksum"));
    assert_eq!((imposed, events.codes()), (Imposed::Now, Vec::new()));
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    assert_eq!(events.codes(), ["deletes_frozen", "deletes_unfrozen"]);
    assert_eq!(pruner.found(&damage("a checksum")).unwrap(), Found::Told);
    assert_eq!(events.codes(), ["deletes_frozen", "deletes_unfrozen", "deletes_frozen"]);
    assert_eq!(on_record(&rig), pruner.status().frozen);
}

/// By it who reads for clients knows whether a fault that it has told of is news.
#[test]
fn a_fault_is_news_again_once_a_freeze_is_lifted_or_a_cycle_has_settled_the_doubt() {
    let (rig, events) = (Rig::new(Engine::Memory), Arc::new(Slowly::default()));
    rig.chain.grow(Profile::Uniform, 853, 8);
    let pruner = telling(&rig, &events);
    let epoch = || pruner.freeze_epoch();
    let cycle = || {
        let before = pruner.status().cycles_finished;
        assert_eq!(pruner.command(Command::Run), Reply::Accepted);
        until(&rig, &pruner, |pruner| pruner.status().cycles_finished > before && !pruner.status().running);
    };
    let first = epoch();
    cycle();
    assert_eq!(pruner.found(&PruneError::NoHead).unwrap(), Found::Told);
    (0..2).for_each(|_| assert_eq!(pruner.found(&damage("a checksum")).unwrap(), Found::Told));
    assert_eq!(epoch(), first, "nothing was settled");
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    let lifted = epoch();
    assert_ne!(lifted, first);
    cycle();
    let settled = epoch();
    assert_ne!(settled, lifted, "the cycle found the store whole");
    cycle();
    assert_eq!(epoch(), settled, "there was no doubt to settle");
}

/// An operator ends a freeze by word, which says nothing of the nodes: health goes on to tell, also after a restart.
#[test]
fn what_is_in_doubt_is_told_by_health_from_the_end_of_a_freeze_to_that_of_a_cycle() {
    let (rig, events) = (Rig::new(Engine::Memory), Arc::new(Slowly::default()));
    rig.chain.grow(Profile::Uniform, 854, 8);
    let pruner = telling(&rig, &events);
    let doubts = |pruner: &Pruner| -> Vec<_> {
        pruner.health().reasons.into_iter().map(|reason| reason.code).filter(|code| code.starts_with("unp")).collect()
    };
    assert_eq!(pruner.found(&damage("a checksum")).unwrap(), Found::Told);
    assert_eq!(doubts(&pruner), [""; 0], "the freeze tells more");
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    assert_eq!(doubts(&pruner), ["unproven"]);
    drop(pruner);
    let pruner = telling_again(&rig, &events);
    assert_eq!(doubts(&pruner), ["unproven"], "it is on record");
    assert_eq!(pruner.command(Command::Run), Reply::Accepted);
    until(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert_eq!(doubts(&pruner), [""; 0], "the cycle found the store whole");
    drop(pruner);
    assert_eq!(doubts(&telling_again(&rig, &events)), [""; 0]);
}

/// S28, S57: the first cycle makes counts exact, and commits beside it count each node as shared. Stopped, it ends that.
#[test]
fn a_first_cycle_that_a_freeze_stops_leaves_no_blind_counting() {
    let old = Rig::with(Engine::Memory, StoreConfig { journal: false, ..STORE });
    old.chain.grow(Profile::Tables, 821, 20);
    let rig = old.twin();
    let (slot, begun) = mpsc::channel::<Arc<Pruner>>();
    let mut found = None;
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::PhaseSaved && found.is_none() {
            let pruner = begun.recv().unwrap(); // its mark begins
            found = Some(pruner.found(&damage("a checksum")).unwrap());
        }
    });
    let pruner = Arc::new(Pruner::start(rig.pruner_parts(&hooks), rig.plan(WINDOW).pruner()).unwrap());
    slot.send(Arc::clone(&pruner)).unwrap();
    until_beside_commits(&rig, &pruner, |pruner| pruner.status().frozen.is_some() && !pruner.status().running);
    assert_eq!(left(&rig), Some(PrunePhase::BuildReach));
    let marks = rig.chain.store.marks();
    rig.chain.grow(Profile::Tables, 822, 8);
    assert_eq!(rig.chain.store.marks(), marks, "commits mark nothing while deletes are frozen");
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    until_beside_commits(&rig, &pruner, |pruner| pruner.status().cycles_finished == 1 && !pruner.status().running);
    assert!(rig.chain.store.counts_are_settled());
    check::complete(&rig.chain, "marked anew");
}

/// Damage is found while the worker looks at what an earlier process left, and lifted before it comes to its checkpoint.
#[test]
fn a_look_that_a_short_freeze_stops_is_taken_up_again() {
    let rig = interrupted();
    let (look, held) = held_look();
    let config = PrunerConfig { incremental: None, ..rig.plan(WINDOW).in_order().batches(20).pruner() };
    let parts = rig.pruner_parts(&Hooks::none());
    let records = Acting::over(Arc::clone(&parts.records), held);
    let pruner = Pruner::start(PrunerParts { records, ..parts }, config).unwrap();
    look.begins();
    assert_eq!(pruner.found(&damage("a checksum")).unwrap(), Found::Told);
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted, "a look is no cycle");
    look.goes_on();
    until_beside_commits(&rig, &pruner, |pruner| left(&rig).is_none() && !pruner.status().running);
    assert_eq!(pruner.status().cycles_finished, 1, "it went on by itself");
    check::exact(&rig.chain, "it went on");
}

/// A sample believes what such a node names in place of its own children, and those would go.
#[test]
fn what_a_sample_has_marked_is_not_swept_while_a_node_may_hash_to_another_key_and_the_next_mark_hashes_all() {
    for rehash in [RehashChoice::Sample, RehashChoice::All] {
        let scanned = |mut plan: Plan| {
            (plan.config.mark, plan.config.rehash) = (MarkChoice::Scan, rehash);
            plan
        };
        let rig = interrupted_by(scanned);
        let (hash, actual) = (NodeHash::new([1; 32]), NodeHash::new([2; 32]));
        Doubted::remember(&PruneError::WrongHash { hash, actual, path: Vec::new() }, &records(&rig)).unwrap();
        let (plan, before) = (scanned(rig.plan(WINDOW).batches(20)), check::present(&rig.chain.store));
        let resumed = plan.resume(&rig.env(&plan, &Hooks::none())).unwrap();
        assert_eq!(resumed.is_some(), rehash == RehashChoice::All, "its mark looked for such a node, or did not");
        assert_eq!(check::present(&rig.chain.store) == before, rehash == RehashChoice::Sample);
        rig.chain.grow(Profile::Uniform, 998, 3);
        let cycles = [rig.cycle(&plan), rig.cycle(&plan)].map(|finished| finished.certificate.mark.unwrap());
        let hashed_all = cycles.map(|mark| mark.nodes_rehashed >= mark.nodes_read);
        assert_eq!(hashed_all, [true, rehash == RehashChoice::All], "it is in doubt until one has hashed all");
        check::exact(&rig.chain, &format!("{rehash:?}"));
    }
}
