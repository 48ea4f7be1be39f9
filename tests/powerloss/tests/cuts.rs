//! Life cycle row 4, L10, C3, C5 on the real engine: the power fails at each named point of commit, cycle and round, and at
//! random ones, and takes what was not synced. Whatever was acknowledged as synced is there, no cursor is ahead of its
//! deletes, every retained root is whole, and the next cycle leaves nothing behind.
//!
//! The engine's files are the device's; those of the pruner, the mark and the certificates, lose what no sync has reached by the
//! model of `state_tests::power`. `POWER_CUTS=n` cuts at n random moments (12 in a plain run), `SEED=n` makes them others.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{
    cell::Cell,
    fs,
    num::{NonZeroU32, NonZeroUsize},
    ops::ControlFlow,
    path::Path,
    rc::Rc,
    sync::Arc,
};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use state_powerloss::{Device, Loss};
use state_pruner::{
    PruneError, SweepChoice, cycle,
    incremental::{IncrementalSweep, RoundEnd},
    phase::{PhaseRecord, PrunePhase},
    recovery::PhaseRunner,
};
use state_store::{Durability, Point, RocksBackend, StoreConfig, watch};
use state_tests::{
    archive::Archive,
    chain::STORE,
    check, folder,
    hooks::{Hooks, Moment},
    power::{Lost, Power},
    rig::{Rig, SMALL},
    workload::{Profile, Workload},
};
use state_tree::Order;

const WINDOW: u64 = 5;
const SEED: u64 = 931;

/// When the power fails.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// When this point is reached for the first time.
    At(Point),
    /// When so many points of any name were reached.
    After(u64),
    /// After so many calls on files of the pruner.
    Call(u64),
    Never,
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    cut: Cut,
    loss: Loss,
    durability: Durability,
    sweep: SweepChoice,
}

/// What the process knew when it died.
struct Known {
    archive: Arc<Archive>,
    /// The newest order whose commit was acknowledged.
    acknowledged: Order,
    /// The floor that was acknowledged, which is always synced before anything below it goes.
    floor: Order,
    reached: u64,
    /// Calls on files of the pruner.
    calls: u64,
    was_cut: bool,
}

fn base(home: &Path) -> Arc<Archive> {
    let rig = Rig::at(home, Arc::default());
    rig.chain.grow(Profile::Tables, SEED, 15);
    Arc::clone(&rig.chain.archive)
}

/// Commits, a cycle with commits inside, commits, slices, and one more cycle, until the power fails.
fn live(home: &Path, (device, power): (&Arc<Device>, &Arc<Power>), archive: &Archive, plan: Plan) -> Known {
    let backend = Arc::new(RocksBackend::open_through(&home.join("store"), &SMALL, &device.env()).unwrap());
    let config = StoreConfig { durability: plan.durability, ..STORE };
    let rig = Rig::over(home, backend, (Arc::new(archive.copy()), config));
    rig.chain.store.index_journal(&|| true).unwrap();
    let (reached, was_cut) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let watching = {
        let (device, power) = (Arc::clone(device), Arc::clone(power));
        let (reached, was_cut) = (Rc::clone(&reached), Rc::clone(&was_cut));
        watch(move |point| {
            reached.set(reached.get() + 1);
            let is_due = match plan.cut {
                Cut::At(at) => point == at,
                Cut::After(count) => reached.get() > count,
                Cut::Call(_) | Cut::Never => false,
            };
            if is_due && !was_cut.replace(true) {
                device.cut();
                power.cut();
            }
        })
    };
    let ended = history(&rig, plan.sweep);
    drop(watching);
    let is_told = matches!(plan.cut, Cut::At(_) | Cut::Never);
    assert!(ended.is_ok() != was_cut.get() || !is_told, "{plan:?}: {ended:?}");
    Known {
        archive: Arc::clone(&rig.chain.archive),
        acknowledged: rig.chain.head(),
        floor: rig.chain.floor(),
        reached: reached.get(),
        calls: power.calls(),
        was_cut: was_cut.get(),
    }
}

fn history(rig: &Rig, sweep: SweepChoice) -> Result<(), PruneError> {
    let mut workload = Workload::new(Profile::Tables, SEED + 1);
    // From the archive: a store without power cannot be read either.
    let commit =
        |workload: &mut Workload| rig.chain.try_commit_from_archive(|root, reader| workload.changes(root, reader));
    for _ in 0..3 {
        commit(&mut workload)?;
    }
    let (chain, mut inside) = (rig.chain.clone(), Workload::new(Profile::Tables, SEED + 2));
    let hooks = Hooks::new(move |moment| {
        if moment == Moment::PhaseSaved {
            // Without power it is refused; the cycle finds that out for itself.
            drop(chain.try_commit_from_archive(|root, reader| inside.changes(root, reader)));
        }
    });
    let plan = rig.plan(WINDOW).in_order().batches(20).sweeping(sweep);
    let env = rig.env(&plan, &hooks);
    plan.run(&env)?;
    for _ in 0..4 {
        commit(&mut workload)?;
    }
    let most = NonZeroUsize::new(10).unwrap();
    let mut slices = IncrementalSweep::default();
    let round = slices.round(&env, &plan.config.state_dir, most, &mut |_| ControlFlow::Continue(most))?;
    assert_eq!(round.end, RoundEnd::Done, "{round:?}");
    // A cycle that traces a state above every mark that was found at the start takes some of them away.
    for _ in 0..2 * WINDOW {
        commit(&mut workload)?;
    }
    plan.run(&env)?;
    rig.chain.store.raise_floor(rig.chain.floor(), state_store::Batch::new())?; // synced: nothing of a whole life is lost
    Ok(())
}

/// What the next process finds and does; the phase that went on, if one did.
fn recovers(home: &Path, known: &Known, plan: Plan) -> Option<PrunePhase> {
    let context = format!("{plan:?}");
    let rig = Rig::at(home, Arc::new(known.archive.copy()));
    let (head, floor) = (rig.chain.head(), rig.chain.floor());
    match plan.durability {
        Durability::Synced => assert!(head >= known.acknowledged, "{context}: order {} is lost", known.acknowledged),
        Durability::Logged => assert!(head <= known.acknowledged, "{context}: order {head} was never acknowledged"),
    }
    assert!(floor <= known.floor.max(head), "{context}: a floor that nobody moved");
    rig.chain.archive.forget_after(head);
    check::complete(&rig.chain, &format!("{context}: as found"));
    let next = rig.plan(WINDOW).batches(20);
    let env = rig.env(&next, &Hooks::none());
    let record = PhaseRecord::load(&*env.parts.records).unwrap();
    let resumed = match cycle::resume(&env, &next.order(), &PhaseRunner::Once) {
        Ok(resumed) => resumed.is_some(),
        Err(PruneError::NotResumable { .. } | PruneError::BadMark { .. }) => false,
        Err(error) => panic!("{context}: {error}"),
    };
    assert!(PhaseRecord::load(&*env.parts.records).unwrap().is_none(), "{context}");
    if resumed {
        check::exact(&rig.chain, &format!("{context}: resumed")); // behind the cursor, too
    }
    rig.chain.grow(Profile::Toggle, 7, 2);
    rig.cycle(&next);
    check::exact(&rig.chain, &format!("{context}: next cycle"));
    record.filter(|_| resumed).map(|record| record.phase)
}

fn cut(base: &Path, archive: &Archive, plan: Plan) -> (Known, Option<PrunePhase>) {
    let home = tempfile::tempdir().unwrap();
    folder::copy(&base.join("store"), &home.path().join("store"));
    let own = home.path().join("pruner");
    fs::create_dir(&own).unwrap();
    let device = Arc::new(Device::new());
    let calls = if let Cut::Call(calls) = plan.cut { calls } else { u64::MAX };
    let too = Arc::clone(&device);
    let power = Arc::new(Power::cut_with(&own, calls, move || too.cut()));
    let known = live(home.path(), (&device, &power), archive, plan);
    power.cut();
    device.restore(&home.path().join("store"), plan.loss);
    power.leave(lost(plan.loss), &home.path().join("left"));
    drop(power);
    fs::remove_dir_all(&own).unwrap();
    fs::rename(home.path().join("left"), &own).unwrap();
    let resumed = recovers(home.path(), &known, plan);
    (known, resumed)
}

fn lost(loss: Loss) -> Lost {
    match loss {
        Loss::All => Lost::Everything,
        Loss::Tails(seed) => Lost::Parts(seed.get().into()),
    }
}

/// Points that only the worker of a node reaches, before and after its cycles, the one that only damage leads to, and the one of
/// another thread: there the power fails at calls on files.
const NOT_HERE: [Point; 4] = [Point::RunBegins, Point::OutcomeSaved, Point::SetAside, Point::WalkNoted];

fn sweep_to(point: Point) -> SweepChoice {
    let by_filter = matches!(point, Point::RangeRewritten | Point::RangePassed);
    if by_filter { SweepChoice::Filter } else { SweepChoice::Delete }
}

#[test]
fn a_power_cut_at_every_named_point_loses_nothing_that_was_synced() {
    let home = tempfile::tempdir().unwrap();
    let archive = base(home.path());
    let mut resumed = 0;
    for (index, point) in Point::ALL.iter().filter(|point| !NOT_HERE.contains(point)).enumerate() {
        let durability = if index % 2 == 0 { Durability::Logged } else { Durability::Synced };
        let plan = Plan { cut: Cut::At(*point), loss: Loss::All, durability, sweep: sweep_to(*point) };
        let (known, went_on) = cut(home.path(), &archive, plan);
        assert!(known.was_cut, "{point:?} was never reached");
        resumed += u64::from(went_on.is_some());
    }
    assert!(resumed > 3, "only {resumed} cycles went on");
}

/// C6: a walk is written down in files of ours.
#[test]
fn a_power_cut_at_any_call_of_a_cycle_leaves_one_that_goes_on_or_none() {
    let home = tempfile::tempdir().unwrap();
    let archive = base(home.path());
    let plan = Plan { cut: Cut::Never, loss: Loss::All, durability: Durability::Logged, sweep: SweepChoice::Delete };
    let (known, _) = cut(home.path(), &archive, plan);
    let every = if std::env::var_os("POWER_CUTS").is_some() { 1 } else { known.calls.div_ceil(30) };
    let (mut walks, mut sweeps) = (0, 0);
    for (n, calls) in (0..known.calls).step_by(usize::try_from(every).unwrap()).enumerate() {
        let loss = NonZeroU32::new((n % 3) as u32).map_or(Loss::All, Loss::Tails);
        let (_, went_on) = cut(home.path(), &archive, Plan { cut: Cut::Call(calls), loss, ..plan });
        walks += u64::from(went_on == Some(PrunePhase::BuildReach));
        sweeps += u64::from(went_on == Some(PrunePhase::SweepExpired));
    }
    println!("{walks} walks and {sweeps} sweeps went on after a cut before every {every}th of {} calls", known.calls);
    assert!(walks > 1, "{walks} walks went on");
}

#[test]
fn power_cuts_at_random_moments_tear_nothing_that_was_synced() {
    let number = |name: &str, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let seed = number("SEED", 7);
    println!("SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let archive = base(home.path());
    let whole = Plan { cut: Cut::Never, loss: Loss::All, durability: Durability::Logged, sweep: SweepChoice::Delete };
    let (known, _) = cut(home.path(), &archive, whole);
    for _ in 0..number("POWER_CUTS", 12) {
        let plan = Plan {
            cut: Cut::After(rng.random_range(0..known.reached)),
            loss: NonZeroU32::new(rng.random()).map_or(Loss::All, Loss::Tails),
            durability: if rng.random() { Durability::Logged } else { Durability::Synced },
            sweep: if rng.random() { SweepChoice::Filter } else { SweepChoice::Delete },
        };
        cut(home.path(), &archive, plan);
    }
}
