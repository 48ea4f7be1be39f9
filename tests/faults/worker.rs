//! C3, P13, P14, O10: what the worker of a node makes of a fault: it is told, nothing else stops, and the next run is whole.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::Arc,
    thread::{self, ThreadId},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use state_pruner::{
    Command, Ended, Freeze, Pruner, PrunerConfig, PrunerParts, PrunerStatus, Reply, StoreRecords, Verdict,
    mark::MarkChoice, phase::PhaseRecord, recovery::RecoveryConfig,
};
use state_store::{CrashTail, Fault, Lasting, Operation};
use state_tests::{
    check,
    hooks::Hooks,
    rig::{Engine, Plan, Rig, WAYS},
    workload::Profile,
};
use state_tree::{NodeError, NodeHash, NodeLayout, RoochLayout};

const WINDOW: u64 = 5;

fn base() -> Rig {
    let rig = Rig::new(Engine::Memory);
    rig.chain.grow(Profile::Tables, 971, 20);
    rig
}

pub(crate) fn start(rig: &Rig, plan: Plan, hooks: &Hooks, layout: Arc<dyn NodeLayout>) -> Pruner {
    let config = PrunerConfig {
        recovery: RecoveryConfig { max_phase_retries: 0, ..RecoveryConfig::default() },
        ..plan.pruner_of_cycles()
    };
    Pruner::start(PrunerParts { layout, ..rig.pruner_parts(hooks) }, config).unwrap()
}

fn rest(pruner: &Pruner) {
    while pruner.status().running {
        thread::yield_now();
    }
}

/// Asks for a cycle and waits for its end. Once more, where the fault of a test has met the request, which was refused.
pub(crate) fn run(pruner: &Pruner) -> Option<Ended> {
    let refused = |code: String| try_run(pruner).unwrap_or_else(|again| panic!("{code}, and {again} again"));
    try_run(pruner).unwrap_or_else(refused)
}

/// The same; the code of what failed where the request could not be written down.
fn try_run(pruner: &Pruner) -> Result<Option<Ended>, String> {
    rest(pruner);
    let ended = |status: PrunerStatus| status.cycles_finished + status.cycles_failed;
    let before = ended(pruner.status());
    match pruner.command(Command::Run) {
        Reply::Unsaved { code, .. } => return Err(code),
        asked => assert!(matches!(asked, Reply::Accepted | Reply::FollowUp), "{asked:?}"),
    }
    while ended(pruner.status()) == before && pruner.status().poisoned.is_none() {
        thread::yield_now();
    }
    rest(pruner);
    Ok(pruner.status().last.map(|last| last.ended))
}

/// What health itself asks for.
const MEASURED: [Operation; 4] =
    [Operation::FreeBytes, Operation::BackgroundErrors, Operation::ListFiles, Operation::BlobBytes];

/// Each operation fails for good at some moment of a run: whoever asked is told, or health is, or the run had no need of the answer.
#[test]
fn every_injected_fault_is_seen_in_health_or_journal() {
    let base = base();
    let mut told = BTreeSet::new();
    for operation in Operation::ALL {
        for (fault, passing) in [Fault::Transient, Fault::DiskFull, Fault::Corrupt]
            .into_iter()
            .flat_map(|fault| [0, 1, 5].map(|n| (fault, n)))
        {
            let context = format!("{operation:?} after {passing}, {fault:?}");
            let (rig, faulty) = base.faulty();
            let pruner = start(&rig, rig.plan(WINDOW).batches(20), &Hooks::none(), Arc::new(RoochLayout));
            rest(&pruner);
            faulty.inject(*operation, passing, fault, Lasting::UntilHealed);
            if passing == 0 && [Operation::FreeBytes, Operation::BackgroundErrors].contains(operation) {
                let health = pruner.health();
                assert_eq!(
                    (health.verdict, health.reasons[0].code.as_str()),
                    (Verdict::Degraded, "unmeasured"),
                    "{context}"
                );
            }
            let asked = try_run(&pruner);
            let met = faulty.met() > 0;
            let health = pruner.health();
            let is_measured = !health.reasons.iter().any(|reason| reason.code == "unmeasured");
            assert!(is_measured || MEASURED.contains(operation), "{context}: {health:?}");
            faulty.heal();
            let code_of_fault = match fault {
                Fault::Transient => "io",
                Fault::DiskFull => "disk_full",
                Fault::Corrupt => "corrupt",
            };
            let has_failed = met && matches!(asked, Ok(Some(Ended::Failed { .. })));
            if let Err(code) = &asked {
                assert_eq!((met, code.as_str()), (true, code_of_fault), "{context}");
                told.insert(*operation);
            } else if has_failed {
                assert_ne!(health.verdict, Verdict::Healthy, "{context}: {health:?}");
                let code = match fault {
                    Fault::Transient | Fault::DiskFull => format!("({code_of_fault})"),
                    Fault::Corrupt => "injected".to_owned(), // a freeze comes first, and names what was met
                };
                assert!(health.reasons[0].message.contains(&code), "{context}: {health:?}");
                told.insert(*operation);
            } else {
                assert!(!met || !is_measured, "{context}: {asked:?} {health:?}"); // the run had no need of the answer, health has
            }
            let frozen = pruner.status().frozen.is_some();
            assert_eq!(frozen, fault == Fault::Corrupt && has_failed, "{context}: {health:?}");
            if frozen {
                assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
            }
            check::complete(&rig.chain, &context);
            let ended = run(&pruner);
            assert!(matches!(ended, Some(Ended::Finished { .. })), "{context}: {ended:?}");
            assert_eq!(pruner.health().verdict, Verdict::Healthy, "{context}");
            drop(pruner);
            check::exact(&rig.chain, &context);
        }
    }
    assert!(told.len() > 8, "{told:?}");
}

/// The worker panics at one moment of a cycle after the other.
#[test]
fn a_panic_at_any_moment_of_a_cycle_ends_pruning_and_nothing_else() {
    let base = base();
    for at in 0.. {
        let rig = base.twin();
        let (mut moments, context) = (0, format!("moment {at}"));
        let hooks = Hooks::new(move |_| {
            moments += 1;
            assert!(moments != at + 3, "a bug of ours"); // not before the worker is at work
        });
        let pruner = start(&rig, rig.plan(WINDOW).in_order().batches(20), &hooks, Arc::new(RoochLayout));
        let ended = run(&pruner);
        let health = pruner.health();
        rig.chain.grow(Profile::Tables, 972, 1);
        pruner.committed(rig.chain.head());
        check::complete(&rig.chain, &context);
        if health.verdict == Verdict::Healthy {
            assert!(at > 6 && matches!(ended, Some(Ended::Finished { .. })), "{context}: {ended:?}");
            break;
        }
        assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Critical, "worker_gone"), "{context}");
        assert!(matches!(pruner.command(Command::Run), Reply::Refused { .. }), "{context}");
        drop(pruner);
        let rig = rig.restart();
        let pruner = start(&rig, rig.plan(WINDOW).batches(20), &Hooks::none(), Arc::new(RoochLayout));
        assert!(matches!(run(&pruner), Some(Ended::Finished { .. })), "{context}");
        drop(pruner);
        check::exact(&rig.chain, &context);
    }
}

/// Reads nodes as Rooch does, and lets no thread go on before as many as asked for have come.
#[derive(Debug)]
struct Together {
    threads: usize,
    came: Mutex<Vec<ThreadId>>,
    all: Condvar,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl Together {
    fn new(threads: usize) -> Self {
        Self { threads, came: Mutex::default(), all: Condvar::new() }
    }

    fn again(&self) {
        self.came.lock().clear();
    }

    fn meet(&self) {
        let me = thread::current().id();
        let mut came = self.came.lock();
        if !came.contains(&me) {
            came.push(me);
        }
        self.all.notify_all();
        while came.len() < self.threads {
            assert!(!self.all.wait_for(&mut came, PATIENCE).timed_out(), "only {} workers came", came.len());
        }
    }
}

impl NodeLayout for Together {
    fn name(&self) -> &'static str {
        RoochLayout.name()
    }

    fn children(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
        self.meet();
        RoochLayout.children(bytes, out)
    }

    fn hash(&self, bytes: &[u8]) -> Result<NodeHash, NodeError> {
        RoochLayout.hash(bytes)
    }
}

/// A mark has all of its workers however many marks failed before it, by a read of one worker each, and however long nobody
/// asked for one.
#[test]
fn idle_or_failed_workers_never_shrink_the_pool_silently() {
    let (rig, faulty) = base().faulty();
    let layout = Arc::new(Together::new(2));
    let mut plan = rig.plan(WINDOW);
    (plan.config.mark, plan.config.threads) = (MarkChoice::Scan, NonZeroUsize::new(2).unwrap());
    let pruner = start(&rig, plan, &Hooks::none(), Arc::clone(&layout) as Arc<dyn NodeLayout>);
    rest(&pruner);
    for failing in 0..6 {
        layout.again();
        faulty.inject(Operation::ScanNodes, 4, Fault::Transient, Lasting::Once);
        let ended = run(&pruner);
        assert!(matches!(ended, Some(Ended::Failed { .. })), "{failing}: {ended:?}");
        faulty.heal();
        rig.clock.advance(Duration::from_secs(3600));
        layout.again();
        let ended = run(&pruner);
        assert!(matches!(ended, Some(Ended::Finished { .. })), "{failing}: {ended:?}");
        rig.chain.grow(Profile::Tables, 980 + failing, 3);
    }
    drop(pruner);
    check::complete(&rig.chain, "after marks that failed");
}

/// C3: the process dies at each write, and its machine with it. Where the record of the cycle is gone and its certificate is
/// there, which is how a cycle says that it is complete, all of its work is on disk.
#[test]
fn the_complete_marker_is_the_last_durable_write() {
    let base = base();
    for (mark, sweep) in WAYS {
        let whole = {
            let (rig, faulty) = base.faulty();
            let before = faulty.writes();
            rig.cycle(&rig.plan(WINDOW).in_order().batches(20).by(mark, sweep));
            faulty.writes() - before
        };
        let mut complete = 0;
        for n in 0..=whole {
            let (rig, faulty) = base.faulty();
            let plan = rig.plan(WINDOW).in_order().batches(20).by(mark, sweep);
            faulty.freeze_after(n);
            let died = plan.run(&rig.env(&plan, &Hooks::none()));
            assert!(died.is_ok() || n < whole, "{mark:?} {sweep:?} write {n}: {died:?}");
            let certificate = rig.state_dir().join("certificates/cycle-00000001.json");
            // What a cycle came to stands, also where the last writes, which say that it has ended, fail.
            assert!(certificate.exists() || died.is_err(), "{mark:?} {sweep:?} write {n}: {died:?}");
            let rig = rig.crashed(faulty.crash_image(CrashTail::Lost).unwrap());
            let records = StoreRecords(Arc::clone(&rig.chain.store));
            if certificate.exists() && PhaseRecord::load(&records).unwrap().is_none() {
                assert!(Freeze::load(&records).unwrap().is_none());
                check::exact(&rig.chain, &format!("{mark:?} {sweep:?} complete at write {n} of {whole}"));
                complete += 1;
            }
        }
        assert_eq!(complete, 1, "{mark:?} {sweep:?}: the last write alone says so");
    }
}

#[test]
fn a_fault_that_is_healed_is_met_no_more() {
    let (rig, faulty) = base().faulty();
    faulty.inject(Operation::View, 0, Fault::Transient, Lasting::UntilHealed);
    assert!(rig.chain.store.view().is_err() && rig.chain.store.view().is_err());
    faulty.heal();
    assert!(rig.chain.store.view().is_ok());
    faulty.inject(Operation::View, 1, Fault::Transient, Lasting::Once);
    assert!(rig.chain.store.view().is_ok() && rig.chain.store.view().is_err() && rig.chain.store.view().is_ok());
    assert_eq!(faulty.met(), 3);
}
