//! The steady state: what a node needs of disk, and what pruning costs it, while its state is overwritten again and
//! again at full commit rate.
//!
//!     ./scripts/bench --bench steady -- [--profile uniform|hot|tables] [--objects N] [--changes N] [--times N]
//!         [--segments N] [--samples N] [--keep-last N] [--every-orders N] [--garbage PERCENT, 0 is off]
//!         [--io-limit MIB | --no-io-limit]
//!         [--write-buffer MIB] [--logged] [--seed N] [--dir DIR] [--out DIR] [--check]
//!
//! Per profile, one history is run twice side by side: on a store with a pruner, started as a node starts it, and on one
//! without. The two alternate in segments, and each is at rest while the other runs. At the end what the retained roots
//! reach is copied into a store of its own. The samples go to `steady.csv` and `steady.svg` in DIR (target/steady).
//!
//! Size is bytes of tables and blobs, of all families, on disk. The write-ahead log is told apart: the engine bounds it by
//! itself (256 MiB), whatever the state. docs/performance.md says what the bounds mean and from which size on a figure
//! does; the defaults are small and only show that everything works. A run needs about 8 KiB of disk per change, and
//! stops with an error where less than 1 GiB is left.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use state_benches::{
    Bound, Error, Folder, Strokes, Table, Yardstick, args,
    fresh::fresh_copy,
    plan::Plan,
    plot::{Line, Panel, svg},
    samples::{Csv, Incremental, Sample, Size, millis},
    side::{Ended, Measured, Probe, Side},
    workload::Profile,
};
use state_pruner::Certificate;

/// What the sweep between cycles says of itself.
const INCREMENTAL: Probe = |pruner| {
    let status = pruner.status().incremental?;
    Some(Incremental {
        lag_orders: status.lag_orders?,
        deleted: status.deleted_total,
        busy: Duration::from_secs_f64(status.working_seconds),
        whole: status.capacity_per_second,
        longest: Duration::from_secs_f64(status.longest_slice_ms / 1e3),
        longest_work: Duration::from_secs_f64(status.longest_slice_work_ms / 1e3),
        slices: status.slices_total,
        over: status.slices_over_total,
        overworked: status.slices_overworked_total,
    })
};
const MIB: f64 = (1 << 20) as f64;
/// The most that a slice may work under the commit gate.
const MOST_MS: f64 = 5.0;

/// One profile, run to its end.
struct Ran {
    profile: Profile,
    with: Ended,
    without: Ended,
    /// Bytes of the files of nodes in a fresh copy.
    fresh: u64,
    /// What the machine made of the same work again and again.
    strokes: Strokes,
}

fn main() -> Result<ExitCode, Error> {
    let plan = Plan::from_command_line()?;
    let folder = Folder::open(args::text("--dir").as_deref().map(Path::new))?;
    let out = out();
    std::fs::create_dir_all(&out)?;
    let (mut table, mut csv, mut panels) = (Table::default(), Csv::default(), Vec::new());
    for profile in &plan.profiles {
        let ran = run(&plan, *profile, folder.path(), &mut csv)?;
        panels.push(panel(&ran));
        csv.write(&out.join("steady.csv"))?; // after each profile: a long run that is stopped leaves the others
        std::fs::write(out.join("steady.svg"), svg(&panels)?)?;
        let mut figures = Figures { profile: *profile, table: &mut table };
        figures.sizes(&ran);
        figures.rates(&ran.with.measured, &ran.without.measured);
        figures.cycles(&ran.with.cycles);
        figures.capacity(&ran.with.measured, &ran.without.measured);
        figures.slices(incremental(&ran.with.measured), ran.strokes);
    }
    Ok(table.finish())
}

/// A bench runs in the folder of its package; a path is meant from the repository, where the scripts are called.
fn out() -> PathBuf {
    let named = args::text("--out").map_or_else(|| PathBuf::from("target/steady"), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(named)
}

fn run(plan: &Plan, profile: Profile, folder: &Path, csv: &mut Csv) -> Result<Ran, Error> {
    let [pruned, kept, copy] = [(); 3].map(|()| tempfile::tempdir_in(folder));
    let (pruned, kept, copy) = (pruned?, kept?, copy?);
    let mut with = Side::with(pruned.path(), plan, profile, INCREMENTAL)?;
    let mut without = Side::without(kept.path(), plan, profile)?;
    let yardstick = Yardstick::begin()?;
    for segment in 0..plan.segments {
        // Whoever was last goes first, so that a machine that gets slower favours neither.
        let (first, second) =
            if segment.is_multiple_of(2) { (&mut with, &mut without) } else { (&mut without, &mut with) };
        first.segment(plan)?;
        first.rest()?;
        second.segment(plan)?; // and goes on in the next round
        if with.chain().root() != without.chain().root() {
            return Err("the two runs went through different histories".into());
        }
    }
    let strokes = yardstick.end()?;
    with.rest()?;
    without.rest()?;
    let fresh = fresh_copy(&with.chain().store, plan.keep_last, &plan.rocks, copy.path())?;
    let (with, without) = (with.finish()?, without.finish()?);
    for (side, ended) in [("with pruning", &with), ("without pruning", &without)] {
        csv.add(profile.name(), side, &ended.measured.samples)?;
        csv.add_at_rest(profile.name(), &format!("{side} at rest"), ended.at_rest)?;
    }
    csv.add_at_rest(profile.name(), "fresh copy", fresh)?;
    Ok(Ran { profile, with, without, fresh: fresh.node_bytes, strokes })
}

fn panel(ran: &Ran) -> Panel {
    let points = |samples: &[Sample]| {
        samples.iter().map(|sample| (sample.overwritten, sample.size.bytes() as f64 / MIB)).collect()
    };
    Panel {
        title: ran.profile.name().to_owned(),
        x: "times the state was overwritten",
        y: "MiB",
        lines: vec![
            Line { name: "without pruning", colour: "#c0504d", points: points(&ran.without.measured.samples) },
            Line { name: "with pruning", colour: "#1f6fb4", points: points(&ran.with.measured.samples) },
            Line { name: "fresh copy", colour: "#555", points: vec![(0.0, ran.fresh as f64 / MIB)] },
        ],
    }
}

/// The figures of one profile, each printed with its bound.
struct Figures<'a> {
    profile: Profile,
    table: &'a mut Table,
}

impl Figures<'_> {
    fn line(&mut self, name: &str, figure: f64, unit: &str, bound: Bound) {
        self.table.number(&format!("{}: {name}", self.profile.name()), (figure, unit), bound);
    }

    fn sizes(&mut self, ran: &Ran) {
        let (fresh, samples) = (ran.fresh as f64, &ran.with.measured.samples);
        let (third, last) = (quarter(samples, 2), quarter(samples, 3));
        let end = ran.with.at_rest.bytes() as f64;
        let (size, nodes) = (mean(last, Size::bytes), mean(last, |size| size.node_bytes));
        self.line("fresh copy of what is retained", fresh / MIB, "MiB", Bound::None);
        self.line("without pruning, at the end", ran.without.at_rest.bytes() as f64 / MIB, "MiB", Bound::None);
        self.line("with pruning, at the end", end / MIB, "MiB", Bound::None);
        self.line("of it in files of nodes", ran.with.at_rest.node_bytes as f64 / MIB, "MiB", Bound::None);
        self.line(
            "log beside it, mean of the last quarter",
            mean(last, |size| size.space.logs) / MIB,
            "MiB",
            Bound::None,
        );
        let held = ran.with.held.bytes() as f64;
        self.line("size as commits end, a cycle may be half done / fresh copy", held / fresh, "times", Bound::None);
        self.line("size at the end / fresh copy", end / fresh, "times", Bound::AtMost(1.25));
        self.line("mean of the last quarter, while commits come / fresh copy", size / fresh, "times", Bound::None);
        self.line("the same, files of nodes alone", nodes / fresh, "times", Bound::None);
        self.line("last quarter / third quarter", size / mean(third, Size::bytes), "times", Bound::AtMost(1.05));
    }

    fn rates(&mut self, with: &Measured, without: &Measured) {
        self.line("throughput with pruning", with.rate(), "commits/s", Bound::None);
        self.line("throughput without", without.rate(), "commits/s", Bound::None);
        self.line("throughput with / without", with.rate() / without.rate(), "times", Bound::AtLeast(0.9));
        let (slow, calm) = (with.percentile(0.99), without.percentile(0.99));
        self.line("commit p99 with pruning", millis(slow), "ms", Bound::None);
        self.line("commit p99 without", millis(calm), "ms", Bound::None);
        self.line("commit p99 with / without", millis(slow) / millis(calm), "times", Bound::AtMost(1.2));
        for (name, side) in [("with pruning", with), ("without", without)] {
            self.line(&format!("commits {name}"), side.commits.len() as f64, "commits", Bound::None);
            self.line(&format!("committing {name}"), side.working.as_secs_f64(), "s", Bound::None);
            self.line(&format!("coming to rest {name}"), side.resting.as_secs_f64(), "s", Bound::None);
        }
    }

    fn cycles(&mut self, cycles: &[Certificate]) {
        self.line("major cycles", cycles.len() as f64, "cycles", Bound::None);
        let mut triggers: BTreeMap<String, u64> = BTreeMap::new();
        for cycle in cycles {
            *triggers.entry(format!("{:?}", cycle.trigger).to_lowercase()).or_insert(0) += 1;
        }
        for (trigger, count) in triggers {
            self.line(&format!("major cycles set off by {trigger}"), count as f64, "cycles", Bound::None);
        }
    }

    /// How long slices kept the commit gate, and what the machine made of the same work of memory beside them: where that took
    /// longer than a slice may, a slice may, too, as long and as often.
    fn slices(&mut self, incremental: Option<Incremental>, Strokes { usual, longest, all, over }: Strokes) {
        let strokes_over = over as f64 / all as f64;
        self.line("writes to memory, again and again: usually", millis(usual), "ms", Bound::None);
        self.line("writes to memory, again and again: the longest", millis(longest), "ms", Bound::None);
        self.line("writes to memory, again and again: more than 5 ms / all", strokes_over, "times", Bound::None);
        let mut line = |name: &str, of: &dyn Fn(Incremental) -> f64, unit: &str, bound: Bound| {
            self.line(name, incremental.map_or(f64::NAN, of), unit, bound);
        };
        line("slices", &|it| it.slices as f64, "slices", Bound::None);
        line(
            "the longest that one worked under the commit gate",
            &|it| millis(it.longest_work),
            "ms",
            Bound::AtMost(millis(longest).max(MOST_MS)),
        );
        line("the longest that one held it", &|it| millis(it.longest), "ms", Bound::None);
        let share = |count: u64, it: Incremental| count as f64 / it.slices as f64;
        let (over, overworked) = (|it: Incremental| share(it.over, it), |it: Incremental| share(it.overworked, it));
        line(
            "slices that worked for more than 5 ms / all",
            &overworked,
            "times",
            Bound::AtMost(strokes_over.max(0.0001)),
        );
        line("slices that held it for more than 5 ms / all", &over, "times", Bound::AtMost(0.01));
    }

    /// Whatever is put replaces something sooner or later, so nodes put are the most that can become stale.
    fn capacity(&mut self, with: &Measured, without: &Measured) {
        let production = without.nodes_put() as f64 / without.working.as_secs_f64();
        let incremental = incremental(with);
        let capacity = incremental.map_or(f64::NAN, |incremental| incremental.capacity());
        let lag = incremental.map_or(f64::NAN, |incremental| incremental.lag_orders as f64);
        self.line("nodes put without pruning", production, "nodes/s", Bound::None);
        self.line("incremental pruning of one core", capacity, "nodes/s", Bound::None);
        self.line("incremental lag at the end", lag, "orders", Bound::None);
        let whole = incremental.and_then(|incremental| incremental.whole).map_or(f64::NAN, |whole| whole);
        self.line("rounds with all that they wait for", whole, "nodes/s", Bound::None);
        self.line("incremental capacity / nodes put", capacity / production, "times", Bound::AtLeast(3.0));
    }
}

/// What the sweep between cycles said of itself at the end.
fn incremental(with: &Measured) -> Option<Incremental> {
    with.samples.last().and_then(|sample| sample.incremental)
}

/// A quarter of the samples, counted from zero.
fn quarter(samples: &[Sample], which: usize) -> &[Sample] {
    let at = |quarter: usize| samples.len() * quarter / 4;
    samples.get(at(which)..at(which + 1)).map_or(&[], |quarter| quarter)
}

/// Not a number if there are no samples.
fn mean(samples: &[Sample], of: fn(&Size) -> u64) -> f64 {
    samples.iter().map(|sample| of(&sample.size) as f64).sum::<f64>() / samples.len() as f64
}
