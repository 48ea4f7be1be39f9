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
    Command, Ended, Found, Freeze, PruneError, Pruner, PrunerConfig, PrunerParts, RecordKey, Reply,
    phase::{PhaseRecord, PrunePhase},
};
use state_store::{Fault, StoreConfig, StoreError};
use state_tests::{
    chain::STORE,
    check,
    hooks::{Hooks, Moment},
    records::{Acting, Use},
    rig::{Engine, Rig},
    workload::Profile,
};

use crate::left::{held_look, interrupted, io, records, start, until, until_beside_commits};

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

/// What could not be saved is saved when it is found again, and a freeze in force is not replaced.
#[test]
fn damage_that_is_found_again_is_saved_if_it_could_not_be() {
    let (rig, unsaved) = (interrupted(), Arc::new(AtomicBool::new(true)));
    let refuses = Arc::clone(&unsaved);
    let pruner = start(&rig, &Hooks::none(), move |what, key| {
        let is_refused = what == Use::Save && matches!(key, RecordKey::Freeze | RecordKey::Doubt);
        if is_refused && refuses.load(Ordering::Acquire) { Err(io()) } else { Ok(()) }
    });
    until(&rig, &pruner, |pruner| !pruner.status().running);
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

/// Damage is found while an operator's unfreeze is about to clear the record: deletes stay frozen, in this process and the next.
#[test]
fn damage_that_is_found_beside_an_unfreeze_freezes_deletes_durably() {
    let (rig, slot) = (interrupted(), Slot::default());
    until(&rig, &start(&rig, &Hooks::none(), |_, _| Ok(())), |pruner| pruner.status().cycles_finished == 1);
    let (inside, finder) = (Arc::clone(&slot), Arc::new(Mutex::new(None::<JoinHandle<Found>>)));
    let found = Arc::clone(&finder);
    let pruner = Arc::new(start(&rig, &Hooks::none(), move |what, key| {
        let pruner = inside.lock().clone();
        let Some(pruner) = pruner.filter(|_| key == RecordKey::Freeze) else { return Ok(()) };
        match what {
            Use::Remove => {
                let finds = Arc::clone(&pruner);
                let finder = thread::Builder::new().spawn(move || finds.found(&damage("a checksum")).unwrap()).unwrap();
                while pruner.status().frozen.is_none() && !finder.is_finished() {
                    thread::yield_now();
                }
                *found.lock() = Some(finder);
            }
            Use::Save => assert!(pruner.status().frozen.is_some(), "it holds before it is saved"),
            Use::Load => {}
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
    let pruner = Arc::new(Pruner::start(rig.pruner_parts(&hooks), config).unwrap());
    *at_work.lock() = Some(Arc::clone(&pruner));
    until(&rig, &pruner, |pruner| matches!(pruner.command(Command::Run), Reply::Accepted | Reply::FollowUp));
    until(&rig, &pruner, |pruner| pruner.status().cycles_failed == 1 && !pruner.status().running);
    let ended = pruner.status().last.unwrap().ended;
    assert!(matches!(&ended, Ended::Failed { code, .. } if code == "corrupt"), "it met its own: {ended:?}");
    assert!(pruner.status().frozen.is_some_and(|why| why.contains("met by a read")));
    assert!(on_record(&rig).is_some_and(|why| why.contains("met by a read")));
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    assert_eq!((pruner.status().frozen, on_record(&rig)), (None, None), "and both are lifted together");
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
    until_beside_commits(&rig, &pruner, |pruner| !pruner.status().running && left(&rig).is_none());
    assert_eq!(pruner.status().cycles_finished, 1, "it went on by itself");
    check::exact(&rig.chain, "it went on");
}
