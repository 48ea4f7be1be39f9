//! `prune` and `verify`: requests to the pruner's offline half, and its answers for people.

use std::{num::NonZeroU64, process::ExitCode, sync::Arc};

use state_pruner::{
    Control, CycleConfig, KeptBy, PruneError, SweepChoice, SystemClock,
    mark::{MarkChoice, MarkStrategy, RehashChoice},
    offline::{self, Frozen, PruneMode, PruneOutcome, PruneRequest, Steering, VerifyRequest},
    snapshot::KeptOrders,
    verify::{Leaks, VerifyReport},
};
use state_tree::Order;

use super::{
    MarkArg, PruneArgs, RehashArg, SweepArg, VerifyArgs,
    progress::Watch,
    render::{Failure, Output, bytes, counted, number},
    work,
};

impl From<&PruneArgs> for PruneRequest {
    fn from(args: &PruneArgs) -> Self {
        let store = &args.store;
        Self {
            db: store.db.clone(),
            layout: store.layout,
            keep_last: store.keep_last,
            mode: if args.dry_run { PruneMode::Plan } else { PruneMode::Apply },
            frozen: if args.unfreeze { Frozen::Lift } else { Frozen::Refuse },
            mark: match args.mark {
                MarkArg::Auto => MarkChoice::Auto,
                MarkArg::Scan => MarkChoice::Scan,
                MarkArg::Walk => MarkChoice::Walk,
            },
            sweep: match args.sweep {
                SweepArg::Auto => SweepChoice::Auto,
                SweepArg::Filter => SweepChoice::Filter,
                SweepArg::Delete => SweepChoice::Delete,
            },
            rehash: match args.rehash {
                RehashArg::All => RehashChoice::All,
                RehashArg::Sample => RehashChoice::Sample,
            },
            memory_budget: store.memory_budget.as_u64(),
            threads: args.threads,
            note_every: Some(CycleConfig::NOTE_EVERY),
            io_limit: args.io_limit,
            verify_sample: args.verify_sample.get(),
            state_dir: store.state_dir.clone(),
            allowed_holes: store.allow_holes.iter().copied().map(Order::new).collect(),
        }
    }
}

impl From<&VerifyArgs> for VerifyRequest {
    fn from(args: &VerifyArgs) -> Self {
        let store = &args.store;
        Self {
            db: store.db.clone(),
            layout: store.layout,
            keep_last: store.keep_last,
            leaks: if args.leaks { Leaks::Count } else { Leaks::Ignore },
            sample: args.sample.map(NonZeroU64::get),
            memory_budget: store.memory_budget.as_u64(),
            state_dir: store.state_dir.clone(),
            allowed_holes: store.allow_holes.iter().copied().map(Order::new).collect(),
        }
    }
}

/// What a stopped prune does next time.
const GOES_ON: &str = "stopped; nothing live was deleted, and what was swept stays swept. Run the same command again to go on \
    where it was (marking by a scan begins anew, by a walk where it was written down last)";
/// The same of one that only counts.
const NOTHING_PLANNED: &str = "stopped; the store is as it was, and nothing was left beside it: this was a dry run. Run the same \
    command again: it begins anew";
/// What a stopped verification does next time.
const BEGINS_ANEW: &str = "stopped; the store is as it was: a verification only reads, and nothing is said of what it had not read \
    yet. Run the same command again: it begins anew";

/// Prunes a store at rest.
pub(super) fn prune(args: &PruneArgs, output: Output) -> ExitCode {
    let request = PruneRequest::from(args);
    let again = if args.dry_run { NOTHING_PLANNED } else { GOES_ON };
    match steered(output, again, move |steering| offline::prune(&request, steering)) {
        Ok(outcome) => {
            output.answer(&outcome, || pruned(&outcome));
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

/// Verifies a store.
pub(super) fn verify(args: &VerifyArgs, output: Output) -> ExitCode {
    let (request, asked) = (VerifyRequest::from(args), args.store.keep_last.get());
    match steered(output, BEGINS_ANEW, move |steering| offline::verify(&request, steering)) {
        Ok(report) => {
            output.answer(&report, || verified(&report, asked));
            if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(code) => code,
    }
}

/// Runs offline work with progress and signals; a failure is printed, and its exit code returned. `again` is said where
/// a signal stopped it.
fn steered<T: Send + 'static>(
    output: Output,
    again: &str,
    work: impl FnOnce(&Steering) -> Result<T, PruneError> + Send + 'static,
) -> Result<T, ExitCode> {
    let clock = Arc::new(SystemClock::new());
    let control = Arc::new(Control::default());
    let watch = Arc::new(Watch::new(Arc::clone(&clock) as _, output));
    let steering = Steering { control: Arc::clone(&control), observer: Arc::clone(&watch) as _, clock };
    let done = work::steered(output, &control, move || work(&steering), || watch.tick());
    watch.finish();
    done?.map_err(|error| {
        if matches!(error, PruneError::Cancelled | PruneError::Stopped) {
            output.fail(&Failure::whole(error.code(), again));
            return ExitCode::from(work::STOPPED);
        }
        output.failed(&Failure::new(error.code(), &error))
    })
}

/// What a prune did, for people.
fn pruned(outcome: &PruneOutcome) -> String {
    let retained = &outcome.retained;
    let mut lines = vec![format!(
        "retained  {} roots, orders {} to {}",
        number(retained.roots),
        retained.first_order,
        retained.last_order
    )];
    lines.extend(whose(retained.roots, &retained.kept_by));
    if retained.shorter_than_asked {
        lines.push("          history holds fewer orders than asked for: all of them are kept".to_owned());
    }
    if !retained.holes.is_empty() {
        lines.push(format!("          {} without a root, as named", counted(retained.holes.len() as u64, "order")));
    }
    if retained.unexecuted > 0 {
        let ahead = counted(retained.unexecuted, "order");
        lines.push(format!("          {ahead} accepted but not executed yet, which is normal after a crash"));
    }
    if let Some(mark) = &outcome.mark {
        let (live, read) = (number(mark.live_nodes), number(mark.nodes_read));
        lines.push(format!("marked    {live} live nodes of {read} read, in {:.1} s", mark.seconds));
        let way = match mark.strategy {
            MarkStrategy::Scan => "scan",
            MarkStrategy::Walk => "walk",
        };
        lines.push(format!("          by {way}: {}", mark.why));
    }
    let sweep = &outcome.sweep;
    let (gone, kept) = (number(sweep.deleted), sweep.kept.map_or_else(|| "an unknown number".to_owned(), number));
    if outcome.dry_run {
        let size = sweep.deleted_bytes.map_or_else(String::new, |size| format!(", {} before compression", bytes(size)));
        lines.push(format!("would delete {gone} nodes{size}, and keep {kept}"));
        lines.push("nothing was deleted: this was a dry run".to_owned());
    } else {
        lines.push(format!("deleted   {gone} nodes, kept {kept}, in {:.1} s", sweep.seconds));
        if outcome.resumed_cycle.is_some() {
            let all = number(outcome.deleted);
            lines.push(format!("          by this run, which went on with an interrupted one: {all} by both"));
        }
    }
    let foreign = outcome.mark.as_ref().and_then(|mark| mark.foreign_rows).map_or(0, |rows| rows).max(sweep.foreign);
    if foreign > 0 {
        lines.push(format!("          {} rows with keys that are not 32 bytes were met and kept", number(foreign)));
    }
    let (before, after) = (bytes(outcome.bytes.before), bytes(outcome.bytes.after));
    lines.push(format!("on disk   {before} before, {after} after"));
    if let Some(certificate) = &outcome.certificate {
        lines.push(format!("certificate {certificate}"));
    }
    lines.join("\n")
}

/// Orders kept by one pin or several that are named, at most.
const PINS_NAMED: usize = 8;

/// Whose the roots are, where some lie below the window.
fn whose(roots: u64, kept_by: &[KeptOrders]) -> Option<String> {
    let (mut every, mut leaving, mut pinned, mut pins) = (0, 0, 0, Vec::new());
    for run in kept_by {
        let (KeptOrders { first, last, .. }, orders) = (run, run.orders());
        match &run.kept_by {
            KeptBy::Head | KeptBy::Window | KeptBy::Candidate => {}
            KeptBy::Every => every += orders,
            KeptBy::Leaving => leaving += orders,
            KeptBy::Pin(names) => {
                pinned += orders;
                let of = if orders == 1 { format!("order {first}") } else { format!("orders {first} to {last}") };
                pins.push(format!("{names}, {of}"));
            }
        }
    }
    let below = every + leaving + pinned;
    if below == 0 {
        return None;
    }
    let unnamed = pins.len().saturating_sub(PINS_NAMED);
    pins.truncate(PINS_NAMED);
    if unnamed > 0 {
        pins.push(format!("and {unnamed} more"));
    }
    let parts = [
        (every > 0).then(|| format!("{} of keep_every", number(every))),
        (pinned > 0).then(|| format!("{} of pins ({})", number(pinned), pins.join("; "))),
        (leaving > 0).then(|| format!("{} nobody asks for any more", number(leaving))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    Some(format!("          {} of the window, below it {}", number(roots.saturating_sub(below)), parts.join(", ")))
}

/// Which orders a verification checked, and why not all that were asked for.
fn checked(report: &VerifyReport, asked: u64) -> Vec<String> {
    let (first, last) = (report.first_order, report.last_order);
    let mut lines = vec![format!("roots     {}, orders {first} to {last}", number(report.roots))];
    lines.extend(whose(report.roots, &report.kept_below));
    if report.shorter_than_asked {
        let (there, asked) = (number(last.saturating_sub(first).saturating_add(1)), counted(asked, "order"));
        lines.push(format!("          of the {asked} asked for only {there} can be checked: history holds no more"));
    }
    lines.extend(report.log_cut.as_ref().map(|told| format!("log cut   {told}")));
    if let Some(floor) = report.pruned_below {
        lines.push(format!("          orders below {floor} were pruned earlier, on purpose"));
        if first < floor {
            let left = last.saturating_sub(floor).saturating_add(1);
            lines.push(format!("          what only they need counts as missing: --keep-last {left} checks the rest"));
        }
    }
    lines
}

/// What a verification found, for people.
fn verified(report: &VerifyReport, asked: u64) -> String {
    let mut lines = checked(report, asked);
    let count = |label: &str, value: Option<u64>| value.map(|value| format!("{label} {}", number(value)));
    lines.extend(count("live     ", report.live_nodes));
    lines.extend(count("present  ", report.present_nodes));
    lines.extend(count("missing  ", Some(report.missing_nodes)));
    lines.extend(count("corrupt  ", Some(report.corrupt_nodes)));
    lines.extend(count("leaked   ", report.leaked_nodes));
    if let Some(from) = report.retained_from {
        let (older, all) =
            (report.first_order.saturating_sub(1), report.last_order.saturating_sub(from).saturating_add(1));
        lines.push(format!(
            "          states of orders {from} to {older} may be retained, and what only they reach is counted"
        ));
        lines.push(format!("          as leaked: --keep-last {all} counts the rest"));
    }
    lines.extend(count("foreign  ", report.foreign_rows.filter(|rows| *rows > 0)));
    lines.extend(count("sampled paths", report.sampled_paths));
    lines.extend(report.faults.iter().map(ToString::to_string));
    if report.unlisted_faults() > 0 {
        lines.push(format!("and {} more", number(report.unlisted_faults())));
    }
    let verdict = if report.is_sound() { "sound" } else { "NOT sound" };
    lines.push(format!(
        "{verdict}: {} nodes read and hashed again in {:.1} s",
        number(report.nodes_read),
        report.seconds
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_below_the_window_are_told_by_who_keeps_them() {
        let every = |first, last, step| KeptOrders { first, last, step, kept_by: KeptBy::Every };
        let run = |first, last, kept_by| KeptOrders { kept_by, ..every(first, last, NonZeroU64::MIN) };
        let pin = |names: &str| KeptBy::Pin(names.to_owned());
        let window = [run(10, 18, KeptBy::Window), run(19, 19, KeptBy::Head)];
        assert_eq!(whose(10, &window), None);
        let below = [
            every(0, 2, NonZeroU64::new(2).unwrap()),
            run(3, 3, pin("a of me, b of you")),
            run(5, 6, pin("c of me")),
            run(7, 7, KeptBy::Leaving),
        ];
        let told = whose(16, &[&below[..], &window].concat()).unwrap();
        let pins = "3 of pins (a of me, b of you, order 3; c of me, orders 5 to 6)";
        let expected = format!("10 of the window, below it 2 of keep_every, {pins}, 1 nobody asks for any more");
        assert_eq!(told.trim(), expected);
        let many: Vec<KeptOrders> = (0..20).map(|n| run(2 * n, 2 * n, pin(&format!("p{n} of me")))).collect();
        assert!(whose(30, &many).unwrap().ends_with("20 of pins (p0 of me, order 0; p1 of me, order 2; p2 of me, order 4; \
            p3 of me, order 6; p4 of me, order 8; p5 of me, order 10; p6 of me, order 12; p7 of me, order 14; and 12 more)"));
    }
}
