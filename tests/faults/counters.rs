//! O2: a write that fails moves no number: neither a metric nor the status nor an event tells of what is not on disk. And what is
//! on disk is told, also where something after it failed.
//!
//! The metrics belong to a process, so what looks at them has one of its own.

use std::{num::NonZeroU64, process::Command as Process, sync::Arc, thread};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use state_pruner::{
    Ended, IncrementalConfig, Pruner, PrunerConfig, PrunerParts, SweepChoice, events::Event, incremental::RoundEnd,
    mark::MarkChoice, recovery::RecoveryConfig,
};
use state_store::{Armed, Fault, Lasting, Operation};
use state_tests::{
    check,
    hooks::Hooks,
    rig::{Engine, Rig},
    told::Told,
    waits::until_beside_commits,
    workload::{Profile, Workload},
};

use crate::worker::run;

const WINDOW: u64 = 5;
const BETWEEN: &str = "state_pruner_incremental_deleted_nodes_total";
const CHILD: &str = "STATE_COUNTERS_CHILD";

/// What is told of one thing, everywhere that it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Numbers {
    metric: u64,
    status: u64,
    events: u64,
}

impl Numbers {
    fn all(n: u64) -> Self {
        Self { metric: n, status: n, events: n }
    }

    fn since(self, before: Self) -> Self {
        let Self { metric, status, events } = before;
        Self { metric: self.metric - metric, status: self.status - status, events: self.events - events }
    }
}

/// The sum of a metric over its series that have these words.
fn metric(metrics: &PrometheusHandle, name: &str, words: &str) -> u64 {
    let text = metrics.render();
    let series = text.lines().filter(|line| line.starts_with(name) && line.contains(words));
    series.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// A pruner with everything that counts for it.
struct Counted<'a> {
    metrics: &'a PrometheusHandle,
    pruner: Pruner,
    told: Arc<Told>,
}

impl<'a> Counted<'a> {
    fn start(
        rig: &Rig,
        metrics: &'a PrometheusHandle,
        (sweep, incremental): (SweepChoice, Option<IncrementalConfig>),
    ) -> Self {
        let told = Arc::new(Told::default());
        let parts = PrunerParts { events: Arc::clone(&told) as _, ..rig.pruner_parts(&Hooks::none()) };
        let recovery = RecoveryConfig {
            max_phase_retries: 1,
            base_retry_delay_ms: 1,
            max_retry_delay_ms: 1,
            ..RecoveryConfig::default()
        };
        let plan = rig.plan(WINDOW).in_order().batches(20).by(MarkChoice::Auto, sweep);
        let config = PrunerConfig { incremental, recovery, ..plan.pruner() };
        Self { metrics, pruner: Pruner::start(parts, config).unwrap(), told }
    }

    fn events(&self, of: impl Fn(&Event) -> u64) -> u64 {
        self.told.0.lock().iter().map(of).sum()
    }

    fn finished(&self) -> Numbers {
        let finished = |event: &Event| match event {
            Event::CycleEnded(end) if end.outcome == "finished" => 1,
            _ => 0,
        };
        Numbers {
            metric: metric(self.metrics, "state_pruner_cycles_total", "\"finished\""),
            status: self.pruner.status().cycles_finished,
            events: self.events(finished),
        }
    }

    fn deleted_by_cycles(&self) -> Numbers {
        let deleted = |event: &Event| match event {
            Event::CycleEnded(end) => end.deleted.unwrap_or(0),
            _ => 0,
        };
        Numbers {
            metric: metric(self.metrics, "state_pruner_deleted_nodes_total", ""),
            status: self.pruner.status().deleted_total,
            events: self.events(deleted),
        }
    }
}

fn nodes(rig: &Rig) -> u64 {
    check::present(&rig.chain.store).len() as u64
}

/// Each write of a cycle fails, one after the other; a phase may be tried once more.
fn cycles(metrics: &PrometheusHandle, sweep: SweepChoice) {
    let base = Rig::new(Engine::Memory);
    base.chain.grow(Profile::Tables, 991, 12);
    let mut met = [false; 2];
    for passing in 0.. {
        let (rig, faulty) = base.faulty();
        let counted = Counted::start(&rig, metrics, (sweep, None));
        while counted.pruner.status().running {
            thread::yield_now();
        }
        let before = (counted.finished(), counted.deleted_by_cycles(), nodes(&rig));
        faulty.fail_write(passing, Fault::Transient);
        let ended = run(&counted.pruner);
        let gone = before.2 - nodes(&rig);
        let told = (counted.finished().since(before.0), counted.deleted_by_cycles().since(before.1));
        let finished = matches!(ended, Some(Ended::Finished { .. }));
        let expected = (Numbers::all(u64::from(finished)), Numbers::all(gone)); // deleted is deleted, whatever comes of the cycle
        assert_eq!(told, expected, "{sweep:?}, write {passing}, {ended:?}: {gone} nodes are gone");
        if faulty.armed() == Armed::Yes {
            assert!(finished && gone > 0 && met == [true; 2], "{met:?}");
            return;
        }
        met[usize::from(finished)] = true;
        drop(counted);
        check::complete(&rig.chain, &format!("write {passing}"));
    }
}

/// Writes of the sweep between cycles that fail: those of its first rounds, which have one slice, and of some that have more.
const WRITES: u64 = 24;

/// Each of them fails, one after the other: what its slices wrote before is told, and nothing else.
fn rounds(metrics: &PrometheusHandle) {
    let base = Rig::new(Engine::Memory);
    base.chain.grow(Profile::Uniform, 992, 10);
    base.cycle(&base.plan(WINDOW));
    base.chain.grow(Profile::Uniform, 993, 300); // so much that rounds have several slices
    let mut partly = 0;
    for passing in 0..WRITES {
        let (rig, faulty) = base.faulty();
        let (present, before) = (nodes(&rig), metric(metrics, BETWEEN, ""));
        // Later ones, too: time goes on, and what failed is tried again.
        faulty.inject(Operation::Write, passing, Fault::Transient, Lasting::UntilHealed);
        let counted =
            Counted::start(&rig, metrics, (SweepChoice::Delete, Some(IncrementalConfig { stride: NonZeroU64::MIN })));
        let incremental = |counted: &Counted<'_>| counted.pruner.status().incremental.unwrap();
        let rests = |counted: &Counted<'_>| {
            let status = incremental(counted);
            status.failure.is_some() || status.last == Some(RoundEnd::Done)
        };
        let metric_of_this = || metric(metrics, BETWEEN, "") - before;
        rig.until(|| rests(&counted));
        let gone = present - nodes(&rig);
        assert_eq!((metric_of_this(), incremental(&counted).deleted_total), (gone, gone), "write {passing}");
        partly += u64::from(incremental(&counted).failure.is_some() && gone > 0);
        faulty.heal();
        // Or it would wait for as long as it said.
        until_beside_commits(&rig, &counted.pruner, |_| {
            let status = incremental(&counted);
            status.last == Some(RoundEnd::Done) && status.failure.is_none()
        });
        let gone = present - nodes(&rig);
        assert_eq!((metric_of_this(), incremental(&counted).deleted_total), (gone, gone), "write {passing}");
        counted.pruner.stop();
        let deleted = |event: &Event| match event {
            Event::RoundsSwept(totals) => totals.deleted,
            _ => 0,
        };
        assert_eq!(counted.events(deleted), gone, "write {passing}");
    }
    assert!(partly > 0, "no write failed after a slice");
}

/// A commit that is not written is no commit, and has stored nothing.
fn commits() {
    let base = Rig::new(Engine::Memory);
    base.chain.grow(Profile::Uniform, 994, 5);
    let (rig, faulty) = base.faulty();
    let told = |rig: &Rig| (rig.chain.store.head().unwrap(), rig.chain.store.nodes_stored());
    let before = told(&rig);
    let mut workload = Workload::new(Profile::Uniform, 995);
    faulty.fail_write(0, Fault::DiskFull);
    rig.chain.try_commit(|root, reader| workload.changes(root, reader)).unwrap_err();
    assert_eq!(told(&rig), before);
    rig.chain.run(&mut workload, 1);
    assert_ne!(told(&rig), before);
}

#[test]
#[ignore = "a child of another test"]
fn child_whose_writes_fail() {
    if std::env::var_os(CHILD).is_some() {
        let metrics = PrometheusBuilder::new().install_recorder().unwrap();
        [SweepChoice::Delete, SweepChoice::Filter].into_iter().for_each(|sweep| cycles(&metrics, sweep));
        rounds(&metrics);
        commits();
    }
}

#[test]
fn a_failed_write_moves_no_counter() {
    let child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "counters::child_whose_writes_fail"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = [child.stdout, child.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}
