//! C4, I7: each call on mark and spill files fails, once and for good. Marking then fails with an error that passes, and
//! never ends with a smaller mark; once it is over the same marking ends with the same mark.

use state_store::{Disposition, FaultyDisk, FileCall, Lasting};

use super::*;

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
