//! Walks that an earlier process has written down.

use std::{sync::atomic::Ordering, time::Duration};

use state_store::{FaultyDisk, FileCall, Lasting};

use super::*;
use crate::mark::{disk::walk_path, visited::LEAST_BUDGET};

const CYCLE: u64 = 4;
/// The nodes of a batch under the least budget.
const BATCH: u64 = 128;

/// A walk that writes itself down before each batch.
fn noted<'a>(view: &'a MapView, roots: &[NodeHash], dir: &'a Path) -> Trial<'a> {
    let notes = Some(Notes { every: Duration::ZERO, beside: b"beside".to_vec() });
    Trial { notes, ..Trial::new(view, roots, dir).by(MarkChoice::Walk).within(LEAST_BUDGET).with(1) }
}

fn saved(trial: &Trial<'_>) -> Result<Option<SavedWalk>, PruneError> {
    SavedWalk::load(trial.dir, MarkIdentity { cycle: CYCLE, roots: trial.roots.digest })
}

/// Ends a walk at a node that cannot be read.
fn interrupt(view: &mut MapView, at: NodeHash, run: impl Fn(&MapView)) {
    view.unreadable = Some(at);
    view.reads.store(0, Ordering::Relaxed);
    run(view);
    view.unreadable = None;
}

/// C6: what was visited before the last note is not read again.
#[test]
fn kill_nine_costs_at_most_one_checkpoint_interval() {
    let mut random = Random::new(61);
    for round in 0..24 {
        let (mut view, roots) = random_graph(&mut random, UNIFORM);
        let traced = (round % 2 == 0).then(|| roots[roots.len() - 1]);
        let live: Vec<NodeHash> = view.reach(&roots).into_iter().collect();
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let plain = |view: &MapView| {
            let trial = Trial::new(view, &roots, dirs[0].path()).by(MarkChoice::Walk).within(LEAST_BUDGET);
            trial.tracing_if(traced).run().unwrap()
        };
        let (mut expected, _) = plain(&view);
        let at = live[random.below(live.len() as u64) as usize];
        interrupt(&mut view, at, |view| {
            drop(noted(view, &roots, dirs[1].path()).tracing_if(traced).run().unwrap_err())
        });
        let trial = noted(&view, &roots, dirs[1].path()).tracing_if(traced);
        let walk = saved(&trial).unwrap().unwrap();
        assert_eq!((walk.beside(), walk.traced()), (&b"beside"[..], traced.map(StateRoot::new)));
        let (mut mark, report) = Trial { from: Some(&walk), ..trial }.run().unwrap();
        let read = view.reads.load(Ordering::Relaxed);
        assert_eq!(report.live_nodes, live.len() as u64);
        assert!(read <= live.len() as u64 + BATCH, "{read} nodes were read for {} in round {round}", live.len());
        assert_eq!(content(&mark), content(&expected));
        assert_eq!((mark.live_digest(), mark.take_shared()), (expected.live_digest(), expected.take_shared()));
    }
}

#[test]
fn a_walk_that_is_interrupted_again_and_again_ends_in_the_same_mark() {
    let mut random = Random::new(62);
    let (mut view, roots) = random_graph(&mut random, Shape { nodes: 20_000, ..UNIFORM });
    let live: Vec<NodeHash> = view.reach(&roots).into_iter().collect();
    let dir = tempfile::tempdir().unwrap();
    interrupt(&mut view, live[0], |view| drop(noted(view, &roots, dir.path()).run().unwrap_err()));
    for _ in 0..20 {
        let at = live[random.below(live.len() as u64) as usize];
        interrupt(&mut view, at, |view| {
            let trial = noted(view, &roots, dir.path());
            let walk = saved(&trial).unwrap().unwrap();
            match (Trial { from: Some(&walk), ..trial }).run() {
                Err(error) => assert!(matches!(error, PruneError::Store(_)), "{error}"),
                Ok((mark, _)) => assert_eq!(mark.live_nodes(), live.len() as u64), // the node was visited before
            }
        });
    }
    let trial = noted(&view, &roots, dir.path());
    let walk = saved(&trial).unwrap().unwrap();
    let (mark, _) = Trial { from: Some(&walk), ..trial }.run().unwrap();
    assert_eq!(content(&mark), fingerprints(&live.into_iter().collect()));
}

/// A state whose shared nodes were being counted and cannot be used any more is walked all the same.
#[test]
fn a_walk_that_traced_a_state_goes_on_without_it() {
    let mut random = Random::new(63);
    let (mut view, roots) = random_graph(&mut random, UNIFORM);
    let live: Vec<NodeHash> = view.reach(&roots).into_iter().collect();
    let of_traced: Vec<NodeHash> = view.reach(&roots[..1]).into_iter().collect();
    let beyond = live.iter().find(|hash| of_traced.binary_search(hash).is_err()).unwrap();
    for at in [of_traced[of_traced.len() / 2], *beyond] {
        let dir = tempfile::tempdir().unwrap();
        interrupt(&mut view, at, |view| {
            drop(noted(view, &roots, dir.path()).tracing(roots[0]).run().unwrap_err());
        });
        let trial = noted(&view, &roots, dir.path());
        let walk = saved(&trial).unwrap().unwrap();
        let (mut mark, _) = Trial { from: Some(&walk), ..trial }.run().unwrap();
        assert_eq!((content(&mark), mark.take_shared()), (fingerprints(&live.iter().copied().collect()), None));
    }
}

/// C5, I6: in the record, in the visited set and in what waits.
#[test]
fn every_single_flipped_bit_of_a_walk_that_was_written_down_is_found() {
    let (mut view, roots) = random_graph(&mut Random::new(64), Shape { nodes: 700, most_children: 3, ..UNIFORM });
    let live: Vec<NodeHash> = view.reach(&roots).into_iter().collect();
    let mut interrupted = |at: &NodeHash| {
        let dir = tempfile::tempdir().unwrap();
        interrupt(&mut view, *at, |view| drop(noted(view, &roots, dir.path()).run().unwrap_err()));
        dir
    };
    let dir = live.iter().map(&mut interrupted).find(|dir| files(dir.path()).len() > 3).unwrap();
    let goes_on = || {
        let trial = noted(&view, &roots, dir.path());
        match saved(&trial)? {
            Some(walk) => Trial { from: Some(&walk), notes: None, ..trial }.run().map(|(mark, _)| content(&mark)),
            None => panic!("its record is there"),
        }
    };
    let names = files(dir.path());
    assert!(names.len() > 3, "a record, runs and what waits: {names:?}");
    for name in &names {
        let path = dir.path().join(name);
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.is_empty(), "{name}");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            assert!(goes_on().is_err(), "bit {bit} of {name}");
        }
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(goes_on().is_err(), "{name} is cut");
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(goes_on().unwrap(), fingerprints(&live.into_iter().collect()));
}

#[test]
fn a_walk_of_other_roots_is_refused_and_one_that_nobody_wrote_down_is_none() {
    let (mut view, roots) = random_graph(&mut Random::new(65), UNIFORM);
    let live: Vec<NodeHash> = view.reach(&roots).into_iter().collect();
    let dir = tempfile::tempdir().unwrap();
    let load = |trial: &Trial<'_>| saved(trial).map(|walk| walk.is_some());
    assert!(!load(&noted(&view, &roots, dir.path())).unwrap());
    interrupt(&mut view, live[9], |view| drop(noted(view, &roots, dir.path()).run().unwrap_err()));
    assert!(load(&noted(&view, &roots, dir.path())).unwrap());
    assert!(matches!(load(&noted(&view, &roots[1..], dir.path())), Err(PruneError::BadMark { .. })));
}

#[test]
fn only_what_the_newest_record_names_is_kept_and_nothing_once_the_mark_is_known() {
    let (mut view, roots) = random_graph(&mut Random::new(66), Shape { nodes: 20_000, ..UNIFORM });
    let live: Vec<NodeHash> = view.reach(&roots).into_iter().collect();
    let dir = tempfile::tempdir().unwrap();
    interrupt(&mut view, live[live.len() / 2], |view| drop(noted(view, &roots, dir.path()).run().unwrap_err()));
    let trial = noted(&view, &roots, dir.path());
    let walk = saved(&trial).unwrap().unwrap();
    assert_eq!(files(dir.path()).len(), walk.files().len() + 1);
    assert!(Trial { from: Some(&walk), ..trial }.run().is_ok());
    assert!(walk_path(dir.path(), CYCLE).exists(), "a process that dies now goes on from here");
    forget_walk(dir.path(), CYCLE).unwrap();
    assert_eq!(files(dir.path()), [format!("mark-{CYCLE:016x}.sealed")]);
}

#[test]
fn a_disk_that_takes_no_note_costs_that_note_and_no_mark() {
    let (view, roots) = random_graph(&mut Random::new(67), Shape { nodes: 20_000, ..UNIFORM });
    let dir = tempfile::tempdir().unwrap();
    let trial = noted(&view, &roots, dir.path());
    let expected = content(&trial.run().unwrap().0);
    forget_walk(dir.path(), CYCLE).unwrap();
    for (file, call) in [
        ("mark-*.walk.tmp", FileCall::Create),
        ("mark-*.walk.tmp", FileCall::Write),
        ("mark-*.walk.tmp", FileCall::Sync),
        ("mark-*.walk", FileCall::Rename),
    ] {
        let disk = FaultyDisk::under(dir.path());
        disk.inject(file, call, 0, Lasting::UntilHealed);
        let marked = trial.run().map(|(mark, _)| content(&mark));
        assert!(disk.met() > 1, "{call:?} of {file}: not tried again");
        disk.heal();
        assert_eq!(marked.unwrap(), expected, "{call:?} of {file}");
        assert!(saved(&trial).unwrap().is_none(), "{call:?} of {file}: nothing looks like a note");
    }
}
