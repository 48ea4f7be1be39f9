//! Life cycle 17 to 19 for the sweep between cycles: an old reader, a second process and a damaged node at each moment of its
//! rounds, and between any two of its slices.

use std::{
    collections::BTreeSet,
    num::{NonZeroU64, NonZeroUsize},
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use state_pruner::{
    Command, Freeze, KeepPolicy, PruneError, Pruner, Reply, Verdict,
    cycle::CycleEnv,
    incremental::{Round, RoundEnd},
};
use state_store::{Durability, MemoryBackend, RocksBackend, StoreError};
use state_tests::{
    archive::orders,
    check,
    hooks::Hooks,
    rig::{Engine, Rig, SMALL},
    workload::Profile,
};
use state_tree::{NodeHash, Order};

use crate::{histories::keep_by, incremental::Swept};

const WINDOW: u64 = 4;
/// Longer than a reader is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The moments of rounds, counted from zero: a snapshot is saved, a slice was taken; with [`Moments::of_reads`] each read, too.
#[derive(Clone)]
struct Moments(Arc<Mutex<Counted>>);

struct Counted {
    next: u64,
    act: Box<dyn FnMut(u64) + Send>,
}

impl Moments {
    /// Calls `act` with the number of each.
    fn new(act: impl FnMut(u64) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Counted { next: 0, act: Box::new(act) })))
    }

    fn call(&self) {
        let Counted { next, act } = &mut *self.0.lock();
        act(*next);
        *next += 1;
    }

    /// How many there were.
    fn seen(&self) -> u64 {
        self.0.lock().next
    }

    /// What rounds of the chain work with.
    fn env(&self, swept: &Swept) -> CycleEnv {
        let moments = self.clone();
        swept.env_of(&swept.plan, &Hooks::new(move |_| moments.call()))
    }

    /// From here on reads of a chain behind faults are moments, too.
    fn of_reads(&self, rig: &Rig) {
        let moments = self.clone();
        rig.faults().before_read(move || moments.call());
    }

    /// A round in slices of a few nodes.
    fn round(&self, swept: &mut Swept, env: &CycleEnv) -> Result<Round, PruneError> {
        let few = NonZeroUsize::new(8).unwrap();
        swept.sweep.round(env, &swept.plan.config.state_dir, few, &mut |_| {
            self.call();
            ControlFlow::Continue(few)
        })
    }
}

/// A history that a cycle has settled, and many orders that a round has not come to yet. No two places share a node.
fn waiting(engine: Engine, seed: u64) -> Rig {
    let rig = Rig::new(engine);
    rig.chain.grow(Profile::Uniform, seed, 12);
    rig.cycle(&rig.plan(WINDOW));
    rig.chain.grow(Profile::Uniform, seed + 1, 20);
    rig
}

/// S41, life cycle 17: a reader that pinned an order, in the window or below it, is waited for and named; then the sweep goes
/// round what it holds, while the policy lets its order go and commits come.
#[test]
fn old_reader_between_any_two_slices() {
    let keep = KeepPolicy::last(NonZeroU64::new(WINDOW).unwrap());
    let base = {
        let mut swept = Swept::new(Rig::new(Engine::Memory), WINDOW);
        swept.rig.chain.grow(Profile::Tables, 501, 30);
        drop(keep_by(&mut swept, KeepPolicy { every: NonZeroU64::new(10), ..keep }));
        swept.cycle();
        swept.rig
    };
    for at in 0.. {
        let context = format!("moment {at}");
        let mut swept = Swept::reopened(base.twin(), WINDOW);
        let chain = swept.rig.chain.clone();
        let readers = [10, 26].map(|order| chain.store.pin(Order::new(order), "an export").unwrap());
        chain.grow(Profile::Tables, 502, 10);
        let (late, committing) = (keep_by(&mut swept, keep), chain.clone());
        let moments = Moments::new(move |now| {
            if now == at {
                late.advance_under(Durability::Logged).unwrap();
                committing.grow(Profile::Tables, 503, 1);
            }
        });
        let (env, mut waited_for, mut nodes) = (moments.env(&swept), BTreeSet::new(), 0);
        loop {
            let round = moments.round(&mut swept, &env).unwrap();
            nodes += round.nodes;
            swept.check(&readers, &context);
            match round.end {
                RoundEnd::Done => break,
                RoundEnd::Waits { order, owner } => {
                    assert_eq!(owner, "an export", "{context}");
                    waited_for.insert(order);
                    swept.rig.clock.advance(PATIENCE);
                }
                end @ (RoundEnd::Paused | RoundEnd::Uncounted | RoundEnd::CycleOpen) => panic!("{context}: {end:?}"),
            }
        }
        assert!(waited_for.contains(&10) && nodes > 0, "{context}: {waited_for:?}, {nodes} nodes");
        for reader in &readers {
            assert!(chain.store.root(reader.order()).is_err(), "{context}: nobody else may read it");
        }
        drop((env, readers));
        assert_eq!(swept.drain().end, RoundEnd::Done, "{context}");
        swept.check(&[], &context);
        swept.cycle();
        assert_eq!(swept.leaks(&[]), 0, "{context}");
        if moments.seen() <= at {
            assert!(at > 8, "rounds have only {at} moments");
            break;
        }
    }
}

/// C15, life cycle 18: whoever opens the store a second time is refused by name, also while a state is walked, and the rounds
/// end as if nobody had tried.
#[test]
fn second_process_between_any_two_slices() {
    let mut swept = Swept::reopened(waiting(Engine::Rocks, 511).behind_faults(), WINDOW);
    let pin = swept.rig.chain.store.pin(swept.rig.chain.floor(), "a reader that stays").unwrap();
    let (dir, tried) = (swept.rig.store_dir(), Arc::new(Mutex::new(Vec::new())));
    let trying = Arc::clone(&tried);
    let moments = Moments::new(move |_| trying.lock().push(RocksBackend::open(&dir, &SMALL).map(drop)));
    let env = moments.env(&swept);
    moments.of_reads(&swept.rig);
    let waits = moments.round(&mut swept, &env).unwrap();
    assert!(matches!(waits.end, RoundEnd::Waits { .. }), "{waits:?}");
    swept.rig.clock.advance(PATIENCE);
    let walked = moments.round(&mut swept, &env).unwrap();
    assert_eq!(walked.end, RoundEnd::Done);
    swept.rig.faults().before_read(|| ());
    let tried = std::mem::take(&mut *tried.lock());
    assert!(walked.slices > 5 && tried.len() as u64 > 2 * walked.slices, "{} were tried, {walked:?}", tried.len());
    for opened in &tried {
        let named = matches!(opened, Err(StoreError::Locked { holder, .. }) if holder.pid == Some(std::process::id()));
        assert!(named, "{opened:?}");
    }
    swept.check(&[pin], "a second process was refused all along");
    swept.cycle();
    assert_eq!(swept.leaks(&[]), 0);
}

/// What becomes of a node on disk.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Lost,
    Spoilt,
}

impl Harm {
    fn comes_to(self, node: NodeHash, memory: &MemoryBackend) {
        match self {
            Self::Lost => memory.uproot(node.as_bytes()),
            Self::Spoilt => memory.plant(node.as_bytes(), b"not a node"),
        }
    }
}

/// A node of an order's state, not its root, that none of the others reach.
fn node_of(rig: &Rig, order: Order, others: impl IntoIterator<Item = Order>) -> NodeHash {
    let (archive, root) = (&rig.chain.archive, rig.chain.archive.root(order).node());
    let others = archive.live(others);
    let live = archive.live([order]);
    *live.difference(&others).find(|hash| Some(**hash) != root).unwrap()
}

fn mend(rig: &Rig, node: NodeHash) {
    rig.memory().plant(node.as_bytes(), &rig.chain.archive.bytes(&node));
}

/// It is about damage, and it names the node.
fn names(error: &PruneError, node: NodeHash) -> bool {
    error.is_live_fault() && error.to_string().contains(&node.to_string()[..16])
}

/// Life cycle 19: a round reads no node of its window, so none that is damaged ends it. It deletes what it would have deleted,
/// and the next cycle finds the damage, names it and freezes deletes, those of rounds among them.
#[test]
fn damaged_node_of_the_window_between_any_two_slices() {
    let base = waiting(Engine::Memory, 521);
    let lost = node_of(&base, base.chain.head(), []);
    for harm in [Harm::Lost, Harm::Spoilt] {
        for at in 0.. {
            let context = format!("{harm:?} at moment {at}");
            let mut swept = Swept::reopened(base.twin(), WINDOW);
            let memory = swept.rig.memory().clone();
            let moments = Moments::new(move |now| {
                if now == at {
                    harm.comes_to(lost, &memory);
                }
            });
            let env = moments.env(&swept);
            let round = moments.round(&mut swept, &env).unwrap();
            assert_eq!((round.end, round.set_aside), (RoundEnd::Done, 0), "{context}");
            if moments.seen() <= at {
                assert!(at > 5, "a round has only {at} moments");
                break;
            }
            let mut stored = check::present(&swept.rig.chain.store);
            stored.insert(lost);
            assert_eq!(stored, check::needed(&swept.rig.chain), "{context}: what went is what had to go");
            assert!(Freeze::load(&*env.parts.records).unwrap().is_none(), "{context}: nobody has read it");

            let error = swept.plan.run(&env).unwrap_err();
            assert!(names(&error, lost), "{context}: {error} does not name {lost}");
            let refused = moments.round(&mut swept, &env);
            assert!(matches!(refused, Err(PruneError::Frozen { .. })), "{context}: {refused:?}");
            mend(&swept.rig, lost);
            Freeze::load(&*env.parts.records).unwrap().unwrap().lift(&*env.parts.records).unwrap();
            drop(env);
            swept.cycle();
            check::exact(&swept.rig.chain, &context);
        }
    }
}

/// I11, life cycle 19: the live states that rounds do read are those below the floor that somebody holds. One that is damaged
/// when it is walked ends the round, which names the node and deletes nothing; what is known by then keeps it whole.
#[test]
fn damaged_node_of_a_held_state_between_any_two_slices() {
    let base = waiting(Engine::Memory, 531);
    let (held, head) = (base.chain.floor(), base.chain.head());
    let lost = node_of(&base, held, orders(head.minus(WINDOW - 1).unwrap(), head));
    for harm in [Harm::Lost, Harm::Spoilt] {
        let (mut found, mut known) = (0, 0);
        for at in 0.. {
            let context = format!("{harm:?} at moment {at}");
            let mut swept = Swept::reopened(base.twin().behind_faults(), WINDOW);
            let pins = [swept.rig.chain.store.pin(held, "a reader that stays").unwrap()];
            assert!(matches!(swept.drain().end, RoundEnd::Waits { .. }), "{context}");
            swept.rig.clock.advance(PATIENCE);
            let (memory, before) = (swept.rig.memory().clone(), check::present(&swept.rig.chain.store));
            let moments = Moments::new(move |now| {
                if now == at {
                    harm.comes_to(lost, &memory);
                }
            });
            let env = moments.env(&swept);
            moments.of_reads(&swept.rig);
            let ended = moments.round(&mut swept, &env);
            swept.rig.faults().before_read(|| ());
            match ended {
                Ok(round) => {
                    assert_eq!(round.end, RoundEnd::Done, "{context}");
                    known += 1;
                }
                Err(error) => {
                    assert!(names(&error, lost), "{context}: {error} does not name {lost}");
                    let mut stored = check::present(&swept.rig.chain.store);
                    stored.insert(lost);
                    assert_eq!(stored, before, "{context}: nothing goes");
                    found += 1;
                }
            }
            drop(env);
            mend(&swept.rig, lost);
            assert_eq!(swept.drain().end, RoundEnd::Done, "{context}");
            swept.check(&pins, &context);
            drop(pins);
            swept.cycle();
            assert_eq!(swept.leaks(&[]), 0, "{context}");
            if moments.seen() <= at {
                break;
            }
        }
        assert!(found > 1 && known > 5, "{harm:?}: {found} found it, {known} knew the state before");
    }
}

/// The same in the worker: deletes are frozen until an operator lifts that, and the node serves meanwhile.
#[test]
fn a_damaged_state_that_a_reader_holds_freezes_deletes_and_the_node_serves() {
    let rig = waiting(Engine::Memory, 541);
    let (held, head) = (rig.chain.floor(), rig.chain.head());
    let lost = node_of(&rig, held, orders(head.minus(WINDOW - 1).unwrap(), head));
    let pin = rig.chain.store.pin(held, "a reader that stays").unwrap();
    rig.memory().uproot(lost.as_bytes());
    let before = check::present(&rig.chain.store);
    let pruner = Pruner::start(rig.pruner_parts(&Hooks::none()), rig.plan(WINDOW).pruner()).unwrap();
    rig.until(|| pruner.status().frozen.is_some());
    let health = pruner.health();
    assert_eq!((health.verdict, health.reasons[0].code.as_str()), (Verdict::Critical, "frozen"), "{health:?}");
    assert!(health.reasons[0].message.contains(&lost.to_string()[..16]), "{health:?} does not name {lost}");
    assert_eq!(check::present(&rig.chain.store), before, "nothing goes");
    check::complete(&rig.chain, "while deletes are frozen");

    mend(&rig, lost);
    assert_eq!(pruner.command(Command::Unfreeze), Reply::Accepted);
    let is_swept = || rig.chain.store.lag().is_some_and(|lag| lag.nodes == 0);
    rig.until(|| rig.chain.floor() == head.minus(WINDOW - 1).unwrap() && is_swept());
    assert_eq!(pruner.status().cycles_finished, 0, "by the sweep alone");
    drop(pruner);
    assert!(rig.chain.archive.live([held]).is_subset(&check::present(&rig.chain.store)), "what the reader holds");
    drop(pin);
    rig.cycle(&rig.plan(WINDOW));
    check::exact(&rig.chain, "afterwards");
}
