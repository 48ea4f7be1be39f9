//! One of two runs of the same history, with pruning or without. It goes on segment by segment; between two of them its
//! store is at rest, so that the other run has the machine for itself.

#![expect(clippy::disallowed_methods, reason = "a bench measures time and waits")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use state_pruner::{Certificate, Command, Pause, Pruner};
use state_store::StoreConfig;

use crate::{
    Error,
    chain::{Chain, percentile},
    plan::Plan,
    samples::{Incremental, Sample, Size},
    workload::{Profile, Workload},
};

/// How the figures of the pruning between two cycles are asked for.
pub type Probe = fn(&Pruner) -> Option<Incremental>;

/// Looks at a store that comes to rest, and how long each is apart from the next.
const LOOK: Duration = Duration::from_millis(50);
/// So many looks in a row find the same bytes once nothing is compacted any more.
const STILL: u32 = 6;
/// A store that is not at rest by then never will be.
const PATIENCE: Duration = Duration::from_secs(600);

/// A run ends with an error before it leaves less of the device to others.
const LEFT_FREE: u64 = 1 << 30;

/// One run.
pub struct Side {
    chain: Chain,
    workload: Workload,
    pruning: Option<Pruning>,
    commits: u64,
    per_sample: u64,
    measured: Measured,
}

/// The pruner of a run.
struct Pruning {
    pruner: Pruner,
    probe: Probe,
    dir: PathBuf,
}

/// What was measured of a run.
#[derive(Debug, Default)]
pub struct Measured {
    /// One instant after the other.
    pub samples: Vec<Sample>,
    /// How long each commit took, update of the tree included.
    pub commits: Vec<Duration>,
    /// Time in which it committed.
    pub working: Duration,
    /// Time in which it came to rest between segments.
    pub resting: Duration,
    /// Nodes put before, while the state was filled.
    nodes_filled: u64,
}

/// A run that is over.
#[derive(Debug)]
pub struct Ended {
    /// What was measured while it went on.
    pub measured: Measured,
    /// What its store needs of disk as commits have ended, nothing being compacted: a cycle may be half done.
    pub held: Size,
    /// The same once what was at work is done.
    pub at_rest: Size,
    /// Its major cycles.
    pub cycles: Vec<Certificate>,
}

impl Measured {
    /// Commits per second.
    pub fn rate(&self) -> f64 {
        self.commits.len() as f64 / self.working.as_secs_f64()
    }

    /// The time that such a share of the commits did not exceed.
    pub fn percentile(&self, share: f64) -> Duration {
        let mut commits = self.commits.clone();
        commits.sort();
        percentile(&commits, share)
    }

    /// Nodes put by the commits that were measured.
    pub fn nodes_put(&self) -> u64 {
        self.samples.last().map_or(0, |sample| sample.nodes_put) - self.nodes_filled
    }
}

impl Side {
    /// A run without pruning over a new store in `dir`, its state filled.
    pub fn without(dir: &Path, plan: &Plan, profile: Profile) -> Result<Self, Error> {
        let config = StoreConfig { journal: false, ..StoreConfig::new(plan.durability) }; // as of a node that does not prune
        Self::start(Chain::create(dir, &plan.rocks, config), None, (plan, profile))
    }

    /// A run with pruning, likewise.
    pub fn with(dir: &Path, plan: &Plan, profile: Profile, probe: Probe) -> Result<Self, Error> {
        let chain = Chain::create(dir, &plan.rocks, StoreConfig::new(plan.durability));
        let (pruner, dir) = (chain.pruner(plan.pruner(&dir.join("pruner"))), dir.join("pruner"));
        Self::start(chain, Some(Pruning { pruner, probe, dir }), (plan, profile))
    }

    fn start(mut chain: Chain, pruning: Option<Pruning>, (plan, profile): (&Plan, Profile)) -> Result<Self, Error> {
        let mut workload = Workload::new(profile, plan.seed, plan.objects);
        while let Some(changes) = workload.fill() {
            chain.commit(&changes);
        }
        chain.store.backend().flush()?;
        let per_sample = plan.commits_per_sample(workload.objects());
        let mut side = Self { chain, workload, pruning, commits: 0, per_sample, measured: Measured::default() };
        side.rest()?;
        let nodes_filled = side.chain.store.head().ok_or("no head")?.nodes_put;
        side.measured = Measured { nodes_filled, ..Measured::default() };
        Ok(side)
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Commits at full rate until so many samples are taken.
    pub fn segment(&mut self, plan: &Plan) -> Result<(), Error> {
        if let Some(Pruning { pruner, .. }) = &self.pruning {
            pruner.command(Command::Resume);
        }
        for _ in 0..plan.samples {
            self.leave_room()?;
            self.stretch(plan)?;
        }
        Ok(())
    }

    fn leave_room(&self) -> Result<(), Error> {
        match self.chain.store.backend().free_bytes()? {
            Some(free) if free < LEFT_FREE => Err(format!("only {free} bytes are free on the device").into()),
            Some(_) | None => Ok(()),
        }
    }

    /// The commits between two samples, and the later one.
    fn stretch(&mut self, plan: &Plan) -> Result<(), Error> {
        let start = Instant::now();
        let mut times: Vec<Duration> = (0..self.per_sample).map(|_| self.commit(plan.changes)).collect();
        let working = start.elapsed();
        self.measured.working += working;
        self.measured.commits.extend(&times);
        times.sort();
        self.commits += self.per_sample;
        let (backend, head) = (self.chain.store.backend(), self.chain.store.head().ok_or("no head")?);
        let status = self.pruning.as_ref().map(|pruning| pruning.pruner.status());
        self.measured.samples.push(Sample {
            commits: self.commits,
            overwritten: (self.commits * plan.changes) as f64 / self.workload.objects() as f64,
            order: head.order,
            size: Size::of(backend)?,
            nodes_put: head.nodes_put,
            per_second: times.len() as f64 / working.as_secs_f64(),
            p50: percentile(&times, 0.5),
            p99: percentile(&times, 0.99),
            cycles: status.map_or(0, |status| status.cycles_finished),
            incremental: self.pruning.as_ref().and_then(Pruning::incremental),
        });
        Ok(())
    }

    fn commit(&mut self, changes: u64) -> Duration {
        let changes = self.workload.changes(changes);
        let start = Instant::now();
        let order = self.chain.commit(&changes).order;
        let took = start.elapsed();
        if let Some(Pruning { pruner, .. }) = &self.pruning {
            pruner.committed_in(order, Some(took));
        }
        took
    }

    /// Holds the pruner and waits until nothing is deleted and compacted any more: until the next segment the machine
    /// is free. What was to be done is done meanwhile, outside the time in which it commits, so segments have to be long
    /// against it.
    pub fn rest(&mut self) -> Result<(), Error> {
        let (start, mut still, mut before) = (Instant::now(), 0, None);
        while still < STILL {
            if start.elapsed() > PATIENCE {
                return Err("the store does not come to rest".into());
            }
            std::thread::sleep(LOOK);
            let now = self.look()?;
            still = if now.is_some() && now == before { still + 1 } else { 0 };
            before = now;
        }
        self.measured.resting += start.elapsed();
        Ok(())
    }

    /// What changes while somebody works on the store; nothing while the pruner does not hold.
    fn look(&self) -> Result<Option<(u64, Option<Incremental>)>, Error> {
        let space = self.chain.store.backend().space()?;
        let bytes = space.tables + space.blobs;
        Ok(match &self.pruning {
            None => Some((bytes, None)),
            Some(pruning) if pruning.hold()? == Held::Yes => Some((bytes, pruning.incremental())),
            Some(_) => None,
        })
    }

    /// Lets a cycle that is held end, and what waits for the sweep between cycles go.
    fn work_off(&self) -> Result<(), Error> {
        let Some(Pruning { pruner, .. }) = &self.pruning else { return Ok(()) };
        pruner.command(Command::Resume);
        let start = Instant::now();
        loop {
            let status = pruner.status();
            if status.cycles_failed > 0 || status.frozen.is_some() || status.poisoned.is_some() {
                return Err(format!("the pruner does not work: {status:?}").into());
            }
            let waiting = status.incremental.as_ref().and_then(|incremental| incremental.lag_orders);
            if !status.running && waiting.is_none_or(|orders| orders == 0) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("the pruner does not come to an end: {status:?}").into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends a run that is at rest.
    pub fn finish(mut self) -> Result<Ended, Error> {
        let held = Size::of(self.chain.store.backend())?;
        self.work_off()?;
        self.rest()?;
        let at_rest = Size::of(self.chain.store.backend())?;
        let cycles = self.pruning.map_or(Ok(Vec::new()), |pruning| pruning.certificates())?;
        Ok(Ended { measured: self.measured, held, at_rest, cycles })
    }
}

#[derive(PartialEq, Eq)]
enum Held {
    Yes,
    NotYet,
}

impl Pruning {
    fn incremental(&self) -> Option<Incremental> {
        (self.probe)(&self.pruner)
    }

    /// One step towards a pruner without a cycle at work.
    ///
    /// Errors: a cycle failed. Such a run measures nothing.
    fn hold(&self) -> Result<Held, Error> {
        let status = self.pruner.status();
        if status.cycles_failed > 0 || status.frozen.is_some() || status.poisoned.is_some() {
            return Err(format!("the pruner does not work: {status:?}").into());
        }
        Ok(match (status.running, status.pause) {
            (false, _) | (true, Pause::Holding) => Held::Yes,
            (true, Pause::Asked) => Held::NotYet,
            (true, Pause::No) => {
                self.pruner.command(Command::Pause);
                Held::NotYet
            }
        })
    }

    fn certificates(&self) -> Result<Vec<Certificate>, Error> {
        let mut certificates: Vec<Certificate> = Vec::new();
        let folder = self.dir.join("certificates");
        if folder.exists() {
            for entry in std::fs::read_dir(folder)? {
                certificates.push(serde_json::from_slice(&std::fs::read(entry?.path())?)?);
            }
        }
        certificates.sort_by_key(|certificate| certificate.cycle);
        Ok(certificates)
    }
}
