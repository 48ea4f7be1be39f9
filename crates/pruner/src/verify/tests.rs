use std::collections::BTreeSet;

use super::*;
use crate::{
    clock::ManualClock,
    control::Unobserved,
    mark::{
        MarkChoice, MarkJob, RehashChoice, SealedMark, build_reach,
        testing::{MapView, NamedLayout, Random, Shape, hash_of, named, random_graph, retained},
    },
};

const SHAPE: Shape = Shape { nodes: 3000, most_children: 9, roots: 5, fingerprints: None };
const LEAST: u64 = 1 << 20;

fn verified(view: &MapView, roots: &[NodeHash], leaks: Leaks, sample: Option<u64>) -> VerifyReport {
    let dir = tempfile::tempdir().unwrap();
    let report = verify(&VerifyJob {
        view,
        layout: &NamedLayout,
        roots: &retained(roots),
        dir: dir.path().to_owned(),
        leaks,
        sample,
        seed: 5,
        memory_budget: LEAST,
        clock: &ManualClock::default(),
        control: &Control::default(),
        observer: &Unobserved,
    })
    .unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "spill files are removed");
    report
}

fn digest<'a>(sorted: impl IntoIterator<Item = &'a NodeHash>) -> Option<String> {
    let all: Vec<u8> = sorted.into_iter().flat_map(|hash| *hash.as_bytes()).collect();
    Some(hex::encode(Sha256::digest(all)))
}

fn all(view: &MapView) -> Vec<NodeHash> {
    view.rows.keys().filter(|key| key.len() == 32).map(|key| NodeHash::try_from(key.as_slice()).unwrap()).collect()
}

#[test]
fn a_full_verification_counts_and_digests_live_and_present_nodes() {
    let mut random = Random::new(31);
    for _ in 0..5 {
        let (mut view, roots) = random_graph(&mut random, SHAPE);
        view.rows.insert(b"foreign".to_vec(), vec![1]);
        let live = view.reach(&roots);
        let report = verified(&view, &roots, Leaks::Count, None);
        assert!(report.is_sound());
        assert_eq!(report.live_nodes, Some(live.len() as u64));
        assert_eq!(report.present_nodes, Some(SHAPE.nodes));
        assert_eq!(report.leaked_nodes, Some(SHAPE.nodes - live.len() as u64));
        assert_eq!((report.foreign_rows, report.nodes_read), (Some(1), live.len() as u64));
        assert_eq!((report.live_sha256, report.present_sha256), (digest(&live), digest(&all(&view))));
    }
}

#[test]
fn what_was_not_measured_is_absent_from_the_report() {
    let (view, roots) = random_graph(&mut Random::new(32), SHAPE);
    assert_eq!(verified(&view, &roots, Leaks::Ignore, None).leaked_nodes, None);
    let sampled = serde_json::to_value(verified(&view, &roots, Leaks::Count, Some(50))).unwrap();
    for unknown in ["live_nodes", "present_nodes", "leaked_nodes", "live_sha256", "present_sha256"] {
        assert!(sampled[unknown].is_null(), "{unknown}");
    }
    assert_eq!((sampled["sampled_paths"].as_u64(), sampled["missing_nodes"].as_u64()), (Some(50), Some(0)));
}

#[test]
fn verification_goes_on_past_faults_and_lists_the_first_with_paths() {
    let mut view = MapView::default();
    let leaves: Vec<NodeHash> = (10..40).map(hash_of).collect();
    leaves.iter().for_each(|leaf| view.put(*leaf, &[]));
    view.put(hash_of(1), &leaves);
    for gone in &leaves[..4] {
        view.rows.remove(gone.as_bytes().as_slice());
    }
    for bad in &leaves[4..7] {
        view.rows.insert(bad.as_bytes().to_vec(), named(&hash_of(99), &[]));
    }
    view.rows.insert(leaves[7].as_bytes().to_vec(), vec![0; 40]);
    let report = verified(&view, &[hash_of(1)], Leaks::Count, None);
    assert!(!report.is_sound());
    assert_eq!((report.missing_nodes, report.corrupt_nodes), (4, 4));
    assert_eq!((report.live_nodes, report.leaked_nodes), (Some(27), Some(0)));
    assert_eq!(report.faults.len(), LISTED_FAULTS);
    for fault in &report.faults {
        assert_eq!(fault.path, [hash_of(1).to_string(), fault.hash.clone()]);
    }
    let sampled = verified(&view, &[hash_of(1)], Leaks::Ignore, Some(200));
    assert!((1..=4).contains(&sampled.missing_nodes) && (1..=4).contains(&sampled.corrupt_nodes), "nodes, not paths");
    let named: BTreeSet<&String> = sampled.faults.iter().map(|fault| &fault.hash).collect();
    assert_eq!(named.len(), sampled.faults.len(), "each once: {:?}", sampled.faults);
}

fn marked(view: &MapView, roots: &[NodeHash], dir: &std::path::Path) -> SealedMark {
    let job = MarkJob {
        view,
        layout: &NamedLayout,
        roots: &retained(roots),
        traced: None,
        cycle: 1,
        dir: dir.to_owned(),
        choice: MarkChoice::Scan,
        rehash: RehashChoice::All,
        memory_budget: 1 << 30,
        rows_hint: 0,
        threads: 2,
        notes: None,
        from: None,
        clock: &ManualClock::default(),
        control: &Control::default(),
        observer: &Unobserved,
    };
    build_reach(&job).unwrap().0
}

#[test]
fn a_sample_of_the_live_set_misses_no_lost_node_when_it_takes_them_all() {
    let (mut view, roots) = random_graph(&mut Random::new(33), SHAPE);
    let dir = tempfile::tempdir().unwrap();
    let mark = marked(&view, &roots, dir.path());
    let live = view.reach(&roots);
    view.rows.retain(|key, _| live.contains(&NodeHash::try_from(key.as_slice()).unwrap()));
    let read = |view: &MapView, nodes| sample_live(view, &NamedLayout, &mark, nodes, 9);
    assert_eq!(read(&view, u64::MAX).unwrap().nodes_read, live.len() as u64);
    assert_eq!(read(&view, 100).unwrap().nodes_read, 100);
    for lost in live.iter().step_by(97) {
        let bytes = view.rows.remove(lost.as_bytes().as_slice()).unwrap();
        let error = read(&view, u64::MAX).unwrap_err();
        assert!(matches!(error, PruneError::MissingLiveNode { .. }), "{error}");
        view.rows.insert(lost.as_bytes().to_vec(), named(&hash_of(1), &[]));
        let error = read(&view, u64::MAX).unwrap_err();
        assert!(matches!(error, PruneError::WrongHash { hash, .. } if hash == *lost), "{error}");
        view.rows.insert(lost.as_bytes().to_vec(), bytes);
    }
}

/// I6: what shares its fingerprint with a live node may be dead, and nothing says that it is whole.
#[test]
fn a_sample_is_content_with_one_whole_node_of_those_that_share_a_fingerprint() {
    let (mut view, roots) = random_graph(&mut Random::new(34), SHAPE);
    let dir = tempfile::tempdir().unwrap();
    let mark = marked(&view, &roots, dir.path());
    let live = view.reach(&roots);
    let read = |view: &MapView| sample_live(view, &NamedLayout, &mark, u64::MAX, 9);
    let whole = read(&view).unwrap();
    for node in live.iter().step_by(97) {
        let mut twin = *node.as_bytes();
        twin[31] ^= 1;
        let dead = NodeHash::new(twin);
        for bytes in [named(&dead, &[hash_of(1 << 40)]), vec![0], named(&hash_of(1), &[])] {
            view.rows.insert(twin.to_vec(), bytes);
            assert_eq!(read(&view).unwrap(), whole);
            let alive = view.rows.remove(node.as_bytes().as_slice()).unwrap();
            assert!(read(&view).unwrap_err().is_live_fault(), "neither is whole");
            view.rows.insert(node.as_bytes().to_vec(), alive);
        }
        view.rows.remove(twin.as_slice());
    }
}
