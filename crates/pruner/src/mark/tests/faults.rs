//! C4, I7: each call on mark and spill files fails, once and for good. Marking then fails with an error that passes, and
//! never ends with a smaller mark; once it is over the same marking ends with the same mark.

use std::panic::{AssertUnwindSafe, catch_unwind};

use state_store::{Disposition, FaultyDisk, FileCall, Lasting};

use super::*;
use crate::control::Stage;

const SPILLED: &str = "mark-*.tmp";
const SEALED: &str = "mark-*.sealed";

/// What every marking asks that spills.
const CALLS: [(&str, FileCall); 8] = [
    (SPILLED, FileCall::Create),
    (SPILLED, FileCall::Write),
    (SPILLED, FileCall::Read),
    (SPILLED, FileCall::Sync),
    (SPILLED, FileCall::Remove),
    (SEALED, FileCall::Rename),
    (SEALED, FileCall::Open),
    (SEALED, FileCall::Read),
];

fn fails_at_each_call(trial: &Trial<'_>) {
    let expected = trial.run().unwrap().1.live_digest;
    let disk = FaultyDisk::under(trial.dir);
    trial.run().unwrap();
    let calls = disk.calls();
    println!("{:?}: {calls:?}", trial.choice);
    for (kind, call) in CALLS {
        assert!(calls.contains_key(&(kind.to_owned(), call)), "nothing asks for {call:?} of {kind}");
    }
    for ((kind, call), calls) in calls {
        for (passing, lasting) in [0, calls / 2, calls - 1]
            .map(|passing| (passing, Lasting::Once))
            .into_iter()
            .chain([(0, Lasting::UntilHealed)])
        {
            let context = format!("{:?}: {call:?} of {kind} after {passing} of {calls}, {lasting:?}", trial.choice);
            let before = disk.met();
            disk.inject(&kind, call, passing, lasting);
            let ended = trial.run();
            disk.heal();
            assert!(disk.met() > before, "{context}: not met");
            match ended {
                Err(error) => assert_eq!(error.disposition(), Disposition::Transient, "{context}: {error}"),
                Ok((_, report)) => {
                    assert_eq!(call, FileCall::Remove, "{context}: only what is left behind may go unnoticed");
                    assert_eq!(report.live_digest, expected, "{context}");
                }
            }
        }
        assert_eq!(trial.run().unwrap().1.live_digest, expected, "{call:?} of {kind}: once it is over");
    }
}

/// Watches like [`Unobserved`], and panics at a stage.
struct PanicsAt(Stage);

impl Observer for PanicsAt {
    fn progress(&self, progress: Progress) {
        assert!(progress.stage != self.0, "a bug of ours");
    }
}

/// P14: a panic in a thread of ours is no error that might be tried again: it is one of whoever wanted the mark.
#[test]
fn a_scanner_marker_or_reader_that_panics_panics_on_in_whoever_marks() {
    let (mut view, root) = tree(60_000);
    let in_its_thread = |view: &MapView, choice, stage, threads| {
        let dir = tempfile::tempdir().unwrap();
        let trial = Trial::new(view, &[root], dir.path()).by(choice).with(threads);
        let marked = catch_unwind(AssertUnwindSafe(|| trial.observed(&PanicsAt(stage), &Control::default())));
        let panic = marked.map(|ended| ended.map(|(_, report)| report)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"a bug of ours"), "{choice:?} {stage:?} {threads}");
        assert_eq!(files(dir.path()), [] as [&str; 0], "{choice:?} {stage:?} {threads}");
    };
    for threads in [1, 2, 3] {
        in_its_thread(&view, MarkChoice::Scan, Stage::Scan, threads);
        in_its_thread(&view, MarkChoice::Scan, Stage::Mark, threads);
        view.panics_after = Some(20_000);
        in_its_thread(&view, MarkChoice::Walk, Stage::Verify, threads);
        view = MapView { panics_after: None, reads: AtomicU64::new(0), ..view };
    }
}

#[test]
fn a_walk_that_cannot_spill_read_back_or_seal_fails_and_marks_no_less() {
    let (view, root) = tree(60_000);
    let dir = tempfile::tempdir().unwrap();
    let trial = Trial::new(&view, &[root], dir.path()).by(MarkChoice::Walk).within(visited::LEAST_BUDGET).with(1);
    fails_at_each_call(&trial);
}

#[test]
fn a_scan_that_cannot_spill_read_back_or_seal_fails_and_marks_no_less() {
    let mut random = Random::new(8);
    let (view, roots) = random_graph(&mut random, Shape { nodes: 20_000, most_children: 60, ..UNIFORM });
    let dir = tempfile::tempdir().unwrap();
    let trial = Trial::new(&view, &roots, dir.path()).with(1);
    fails_at_each_call(&trial);
}
