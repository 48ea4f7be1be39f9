//! A system that has no thread to give: marking goes on with fewer, or ends with an error that passes and without a mark.

use state_store::Disposition;
use state_tree::NodeSource;

use super::*;
use crate::threads::lack::Lack;

/// The thread that was not to be had; nothing where the mark is whole all the same.
fn lacking(trial: &Trial<'_>, passing: usize) -> Option<&'static str> {
    let expected = trial.run().unwrap().1.live_digest;
    files(trial.dir).iter().for_each(|file| fs::remove_file(trial.dir.join(file)).unwrap());
    let lack = Lack::after(passing);
    let ended = trial.run();
    assert!(lack.is_met(), "{passing}");
    let lacks = match ended {
        Ok((_, report)) => {
            assert_eq!(report.live_digest, expected, "{passing}");
            None
        }
        Err(error) => {
            assert_eq!(error.disposition(), Disposition::Resource, "{passing}: {error}");
            let PruneError::NoThread { name, .. } = error else { panic!("{passing}: {error}") };
            assert_eq!(files(trial.dir), [] as [&str; 0], "{passing}: nothing is left behind");
            Some(name)
        }
    };
    assert_eq!(trial.run().unwrap().1.live_digest, expected, "{passing}: once it is over");
    lacks
}

#[test]
fn a_scan_without_a_thread_fails_and_one_with_fewer_marks_the_same() {
    let (view, roots) = random_graph(&mut Random::new(91), UNIFORM);
    let dir = tempfile::tempdir().unwrap();
    let trial = Trial::new(&view, &roots, dir.path()).tracing(roots[0]); // so that two traversals follow the scan
    let lacks = |trial: &Trial<'_>, most| (0..most).map(|passing| lacking(trial, passing)).collect::<Vec<_>>();
    let (scan, mark) = (Some("pruner-scan"), Some("pruner-mark"));
    assert_eq!(lacks(&trial.with(1), 3), [scan, mark, mark]);
    let trial = Trial::new(&view, &roots, dir.path()).tracing(roots[0]).with(3);
    assert_eq!(lacks(&trial, 9), [scan, None, None, mark, None, None, mark, None, None]);
}

#[test]
fn a_walk_without_a_thread_fails_and_the_next_one_marks_the_same() {
    let (view, roots) = random_graph(&mut Random::new(92), UNIFORM);
    let dir = tempfile::tempdir().unwrap();
    let trial = Trial::new(&view, &roots, dir.path()).tracing(roots[0]).by(MarkChoice::Walk);
    let lacks: Vec<_> = (0..2).map(|passing| lacking(&trial, passing)).collect();
    assert_eq!(lacks, [Some("pruner-walk"); 2]);
}

/// Threads only make a batch faster, so without any it is read all the same, and with its errors.
#[test]
fn a_batch_is_read_whole_by_as_many_threads_as_there_are() {
    let (mut view, _) = tree(2_000);
    let mut hashes: Vec<NodeHash> = (0..2_100).map(hash_of).collect(); // the last hundred are absent
    hashes.sort_unstable();
    let read = |view: &MapView, passing| {
        let lack = Lack::after(passing);
        let mut found = vec![None; hashes.len()];
        let source = ViewSource { view, threads: 3, control: &Control::default() };
        let ended = source.read(&hashes, &mut |index, bytes| {
            let before = found[index].replace(bytes.map(<[u8]>::to_vec));
            assert_eq!(before, None, "each node is shown once");
        });
        assert!(lack.is_met(), "{passing}");
        ended.map(|()| found)
    };
    let bytes = |hash: &NodeHash| Some(view.rows.get(hash.as_bytes().as_slice()).cloned());
    let expected: Vec<_> = hashes.iter().map(bytes).collect();
    (0..3).for_each(|passing| assert_eq!(read(&view, passing).unwrap(), expected, "{passing}"));
    view.unreadable = Some(hash_of(1_000));
    for passing in 0..3 {
        let error = fault::unwrap(read(&view, passing).unwrap_err());
        assert_eq!(error.code(), "corrupt", "{passing}: {error}");
    }
}
