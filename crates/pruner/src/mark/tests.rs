use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use state_tree::{NodeError, NodeHash};

use super::*;
use crate::{
    clock::ManualClock,
    control::{Progress, Unobserved},
    mark::testing::{MapView, NamedLayout, Random, Shape, hash_of, named, random_graph, retained},
};

mod faults;
mod lack;
mod notes;

const PLENTY: u64 = 1 << 30;
const UNIFORM: Shape = Shape { nodes: 3000, most_children: 20, roots: 6, fingerprints: None };

struct Trial<'a> {
    view: &'a MapView,
    roots: RetainedRoots,
    traced: Option<StateRoot>,
    dir: &'a Path,
    choice: MarkChoice,
    rehash: RehashChoice,
    budget: u64,
    threads: usize,
    notes: Option<Notes>,
    from: Option<&'a SavedWalk>,
}

impl<'a> Trial<'a> {
    fn new(view: &'a MapView, roots: &[NodeHash], dir: &'a Path) -> Self {
        Self {
            view,
            roots: retained(roots),
            traced: None,
            dir,
            choice: MarkChoice::Scan,
            rehash: RehashChoice::All,
            budget: PLENTY,
            threads: 3,
            notes: None,
            from: None,
        }
    }

    fn by(mut self, choice: MarkChoice) -> Self {
        self.choice = choice;
        self
    }

    fn within(mut self, budget: u64) -> Self {
        self.budget = budget;
        self
    }

    fn tracing(self, root: NodeHash) -> Self {
        self.tracing_if(Some(root))
    }

    fn tracing_if(mut self, root: Option<NodeHash>) -> Self {
        self.traced = root.map(StateRoot::new);
        self
    }

    fn with(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    fn run(&self) -> Result<(SealedMark, MarkReport), PruneError> {
        self.observed(&Unobserved, &Control::default())
    }

    fn observed(&self, observer: &dyn Observer, control: &Control) -> Result<(SealedMark, MarkReport), PruneError> {
        build_reach(&MarkJob {
            view: self.view,
            layout: &NamedLayout,
            roots: &self.roots,
            traced: self.traced,
            cycle: 4,
            dir: self.dir.to_owned(),
            choice: self.choice,
            rehash: self.rehash,
            memory_budget: self.budget,
            rows_hint: self.view.rows.len() as u64,
            threads: self.threads,
            notes: self.notes.clone(),
            from: self.from,
            clock: &ManualClock::default(),
            control,
            observer,
        })
    }
}

fn fingerprints(hashes: &BTreeSet<NodeHash>) -> Vec<u64> {
    let set: BTreeSet<u64> = hashes.iter().map(NodeHash::fingerprint).collect();
    set.into_iter().collect()
}

fn content(mark: &SealedMark) -> Vec<u64> {
    let mut reader = mark.reader();
    (0..mark.live_nodes()).map(|position| reader.fingerprint(position).unwrap().unwrap()).collect()
}

fn files(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_node_reachable_from_a_retained_root_is_marked() {
    let mut random = Random::new(1);
    for round in 0..12 {
        let (view, roots) = random_graph(&mut random, UNIFORM);
        for choice in [MarkChoice::Scan, MarkChoice::Walk] {
            let dir = tempfile::tempdir().unwrap();
            let (mark, report) = Trial::new(&view, &roots, dir.path()).by(choice).run().unwrap();
            let live = view.reach(&roots);
            let mut reader = mark.reader();
            assert!(live.iter().all(|hash| reader.holds(hash).unwrap()), "round {round} {choice:?}");
            assert_eq!(report.live_nodes, live.len() as u64);
            assert_eq!(files(dir.path()), ["mark-0000000000000004.sealed"], "nothing else is left behind");
        }
    }
}

#[test]
fn scan_and_walk_marks_agree_and_the_choice_is_explained() {
    let mut random = Random::new(2);
    for most_children in [1, 3, 40, 300] {
        let (view, roots) = random_graph(&mut random, Shape { most_children, nodes: 2000, ..UNIFORM });
        let expected = fingerprints(&view.reach(&roots));
        let mut digests = BTreeSet::new();
        for choice in [MarkChoice::Auto, MarkChoice::Scan, MarkChoice::Walk] {
            for rehash in [RehashChoice::All, RehashChoice::Sample] {
                let dir = tempfile::tempdir().unwrap();
                let mut trial = Trial::new(&view, &roots, dir.path()).by(choice);
                trial.rehash = rehash;
                let (mark, report) = trial.run().unwrap();
                assert_eq!(content(&mark), expected, "{choice:?} {rehash:?}");
                assert!(!report.why.is_empty());
                assert_eq!(report.live_digest, hex::encode(mark.live_digest()));
                digests.insert(report.live_digest);
                match report.strategy {
                    MarkStrategy::Scan => assert_eq!(report.present_nodes, Some(view.rows.len() as u64)),
                    MarkStrategy::Walk => assert_eq!(report.present_nodes, None, "a walk cannot know"),
                }
            }
        }
        assert_eq!(digests.len(), 1);
    }
}

#[test]
fn a_small_live_set_is_walked_and_a_large_one_scanned() {
    let mut view = MapView::default();
    (0..2000).for_each(|n| view.put(hash_of(n), &[]));
    let leaves: Vec<NodeHash> = (0..2000).map(hash_of).collect();
    view.put(hash_of(5000), &leaves[..3]);
    view.put(hash_of(5001), &leaves);
    for (root, strategy) in [(5000, MarkStrategy::Walk), (5001, MarkStrategy::Scan)] {
        let dir = tempfile::tempdir().unwrap();
        let report = Trial::new(&view, &[hash_of(root)], dir.path()).by(MarkChoice::Auto).run().unwrap().1;
        assert_eq!(report.strategy, strategy, "{}", report.why);
        assert!(report.why.contains("estimated"), "{}", report.why);
    }
}

#[test]
fn a_fingerprint_collision_only_keeps_more() {
    let mut random = Random::new(3);
    for fingerprints_there_are in [1, 7, 150] {
        let shape = Shape { nodes: 1200, most_children: 3, roots: 3, fingerprints: Some(fingerprints_there_are) };
        let (view, roots) = random_graph(&mut random, shape);
        let live = view.reach(&roots);
        for choice in [MarkChoice::Scan, MarkChoice::Walk] {
            let dir = tempfile::tempdir().unwrap();
            let (mark, _) = Trial::new(&view, &roots, dir.path()).by(choice).run().unwrap();
            let mut reader = mark.reader();
            assert!(live.iter().all(|hash| reader.holds(hash).unwrap()), "{choice:?}");
        }
    }
}

/// A dead node that shares its fingerprint with a live one is kept, and what it names may be gone, or it may be damaged itself. A
/// scan follows both: that says nothing about live nodes, and freezes nothing. What is wrong with the live one does.
#[test]
fn a_dead_node_is_at_fault_for_nothing_although_a_live_one_shares_its_fingerprint() {
    let twin = |node: &NodeHash| {
        let mut bytes = *node.as_bytes();
        bytes[31] ^= 1;
        NodeHash::new(bytes)
    };
    for at in 0..4 {
        let (view, path) = chain();
        let dead = twin(&path[at]);
        let spoil: [&dyn Fn(&mut MapView); 4] = [
            &|view| view.put(dead, &[hash_of(999)]),
            &|view| {
                view.put(dead, &[hash_of(998)]);
                view.put(hash_of(998), &[hash_of(999)]); // gone two steps below
            },
            &|view| drop(view.rows.insert(dead.as_bytes().to_vec(), vec![0])),
            &|view| drop(view.rows.insert(dead.as_bytes().to_vec(), named(&hash_of(997), &[]))),
        ];
        for (way, spoil) in spoil.iter().enumerate() {
            let (mut view, dir) =
                (MapView { rows: view.rows.clone(), ..MapView::default() }, tempfile::tempdir().unwrap());
            spoil(&mut view);
            let live = view.reach(&path[..1]);
            let (mark, report) = Trial::new(&view, &path[..1], dir.path()).by(MarkChoice::Scan).run().unwrap();
            assert_eq!(content(&mark), fingerprints(&live), "at {at}, way {way}");
            assert_eq!(report.strategy, MarkStrategy::Walk, "at {at}, way {way}: {}", report.why);
            for lost in path.iter().skip(1) {
                let mut view = MapView { rows: view.rows.clone(), ..MapView::default() };
                view.rows.remove(lost.as_bytes().as_slice());
                let error = error_of(&view, path[0], MarkChoice::Scan);
                let is_named = matches!(error, PruneError::MissingLiveNode { hash, .. } if hash == *lost);
                assert!(is_named || (*lost == path[at] && error.is_live_fault()), "at {at}, way {way}: {error}");
            }
        }
    }
}

#[test]
fn children_that_share_their_first_bytes_are_told_apart() {
    // Scan edges keep four bytes of a hash; these children share them, in ones, twos and threes per parent.
    let twin = |n: u64| {
        let mut bytes = *hash_of(n).as_bytes();
        bytes[..4].copy_from_slice(&hash_of(n / 3).as_bytes()[..4]);
        NodeHash::new(bytes)
    };
    let mut view = MapView::default();
    (0..300).for_each(|n| view.put(twin(n), &[]));
    let roots: Vec<NodeHash> = (1000..1040).map(hash_of).collect();
    let mut random = Random::new(4);
    for root in &roots {
        let children: Vec<NodeHash> = (0..random.below(4)).map(|_| twin(random.below(300))).collect();
        view.put(*root, &children);
    }
    let dir = tempfile::tempdir().unwrap();
    let (mark, report) = Trial::new(&view, &roots, dir.path()).run().unwrap();
    assert_eq!(content(&mark), fingerprints(&view.reach(&roots)));
    assert!(report.nodes_read > view.rows.len() as u64, "two children in doubt are settled by reading the parent");
}

/// A root with a path of three nodes to a leaf, beside enough other nodes.
fn chain() -> (MapView, [NodeHash; 4]) {
    let mut view = MapView::default();
    let path = [hash_of(1), hash_of(2), hash_of(3), hash_of(4)];
    (100..400).for_each(|n| view.put(hash_of(n), &[]));
    path.windows(2).for_each(|pair| view.put(pair[0], &[pair[1], hash_of(100)]));
    view.put(path[3], &[]);
    (view, path)
}

fn error_of(view: &MapView, root: NodeHash, choice: MarkChoice) -> PruneError {
    let dir = tempfile::tempdir().unwrap();
    let error = Trial::new(view, &[root], dir.path()).by(choice).run().unwrap_err();
    assert_eq!(files(dir.path()), [] as [&str; 0], "no sealed mark and nothing else");
    error
}

#[test]
fn a_missing_live_node_freezes_deletes_and_names_its_path() {
    for choice in [MarkChoice::Scan, MarkChoice::Walk] {
        for gone in 0..4 {
            let (mut view, path) = chain();
            view.rows.remove(path[gone].as_bytes().as_slice());
            let error = error_of(&view, path[0], choice);
            assert!(error.is_live_fault());
            let PruneError::MissingLiveNode { hash, path: named } = error else { panic!("{error}") };
            assert_eq!((hash, named.as_slice()), (path[gone], &path[..=gone]), "{choice:?}");
        }
    }
}

#[test]
fn a_missing_node_is_found_although_another_shares_its_first_bytes() {
    let (mut view, path) = chain();
    let mut like = *path[3].as_bytes();
    like[7] ^= 1;
    view.rows.remove(path[3].as_bytes().as_slice());
    view.put(NodeHash::new(like), &[]);
    let error = error_of(&view, path[0], MarkChoice::Scan);
    assert!(matches!(error, PruneError::MissingLiveNode { hash, .. } if hash == path[3]), "{error}");
}

#[test]
fn one_undecodable_node_stops_the_cycle_before_any_delete() {
    for choice in [MarkChoice::Scan, MarkChoice::Walk] {
        let (mut view, path) = chain();
        let mut bytes = named(&path[2], &[path[3]]);
        bytes[32] = 9;
        view.rows.insert(path[2].as_bytes().to_vec(), bytes);
        let error = error_of(&view, path[0], choice);
        let PruneError::BadNode { hash, fault, path: named } = error else { panic!("{error}") };
        assert_eq!((hash, fault, named.as_slice()), (path[2], NodeError::UnknownTag(9), &path[..3]), "{choice:?}");
    }
}

#[test]
fn a_live_node_under_a_wrong_hash_stops_the_cycle() {
    for choice in [MarkChoice::Scan, MarkChoice::Walk] {
        let (mut view, path) = chain();
        view.rows.insert(path[2].as_bytes().to_vec(), named(&hash_of(77), &[path[3]]));
        let error = error_of(&view, path[0], choice);
        let PruneError::WrongHash { hash, actual, path: named } = error else { panic!("{error}") };
        assert_eq!((hash, actual, named.as_slice()), (path[2], hash_of(77), &path[..3]), "{choice:?}");
    }
}

#[test]
fn a_dead_node_that_is_damaged_stops_nothing() {
    for choice in [MarkChoice::Scan, MarkChoice::Walk] {
        let (mut view, path) = chain();
        view.rows.insert(hash_of(300).as_bytes().to_vec(), b"no node".to_vec());
        view.rows.insert(hash_of(301).as_bytes().to_vec(), named(&hash_of(77), &[hash_of(9999)]));
        view.put(hash_of(302), &[hash_of(9999)]);
        view.rows.insert(b"foreign".to_vec(), b"x".to_vec());
        let dir = tempfile::tempdir().unwrap();
        let (mark, report) = Trial::new(&view, &[path[0]], dir.path()).by(choice).run().unwrap();
        assert_eq!(mark.live_nodes(), 5);
        assert!(report.foreign_rows.is_none_or(|rows| rows == 1));
    }
}

#[test]
fn a_read_error_in_one_mark_worker_prevents_the_seal() {
    let mut random = Random::new(6);
    let (mut view, roots) = random_graph(&mut random, UNIFORM);
    let live: Vec<NodeHash> = view.reach(&roots).into_iter().collect();
    for choice in [MarkChoice::Scan, MarkChoice::Walk] {
        for _ in 0..10 {
            view.unreadable = Some(live[random.below(live.len() as u64) as usize]);
            let dir = tempfile::tempdir().unwrap();
            let error = Trial::new(&view, &roots, dir.path()).by(choice).run().unwrap_err();
            assert!(matches!(error, PruneError::Store(state_store::StoreError::Corrupt(_))), "{error}");
            assert_eq!(files(dir.path()), [] as [&str; 0]);
        }
    }
}

#[test]
fn parallel_mark_ends_only_when_no_work_is_outstanding() {
    let mut random = Random::new(7);
    for round in 0..60 {
        // Thin graphs: now many nodes wait, now one alone, so that workers often find nothing to do.
        let shape = Shape { nodes: 400, most_children: 1 + round % 3, roots: 1, fingerprints: None };
        let (view, _) = random_graph(&mut random, shape);
        let mut view = view;
        let all: Vec<NodeHash> = view.rows.keys().map(|key| NodeHash::try_from(key.as_slice()).unwrap()).collect();
        let mut tip = hash_of(1);
        view.put(tip, &[]);
        for (link, hash) in all.iter().enumerate() {
            let next = hash_of(1_000_000 + link as u64);
            view.put(next, &[tip, *hash]);
            tip = next;
        }
        let dir = tempfile::tempdir().unwrap();
        let (mark, _) = Trial::new(&view, &[tip], dir.path()).with(8).run().unwrap();
        assert_eq!(content(&mark), fingerprints(&view.reach(&[tip])), "round {round}");
    }
}

#[test]
fn the_empty_state_marks_nothing_and_no_roots_at_all_are_refused() {
    let (view, path) = chain();
    for choice in [MarkChoice::Auto, MarkChoice::Scan, MarkChoice::Walk] {
        let dir = tempfile::tempdir().unwrap();
        let empty = Trial::new(&view, &[state_tree::PLACEHOLDER], dir.path()).by(choice);
        assert_eq!(empty.run().unwrap().0.live_nodes(), 0);
        let mut none = Trial::new(&view, &[path[0]], dir.path()).by(choice);
        none.roots.roots.clear();
        assert!(matches!(none.run(), Err(PruneError::NoHead)));
    }
}

/// A tree of `nodes` nodes, four children each, with every leaf shared by two parents.
fn tree(nodes: u64) -> (MapView, NodeHash) {
    let mut view = MapView::default();
    for n in (0..nodes).rev() {
        let children: Vec<NodeHash> = (n * 4 + 1..n * 4 + 6).filter(|child| *child < nodes).map(hash_of).collect();
        view.put(hash_of(n), &children);
    }
    (view, hash_of(0))
}

#[test]
fn memory_stays_under_budget_as_the_store_grows_tenfold() {
    const BUDGET: u64 = 2 << 20;
    let mut walked = Vec::new();
    for nodes in [20_000, 200_000] {
        let (view, root) = tree(nodes);
        let dir = tempfile::tempdir().unwrap();
        let (_, walk) = Trial::new(&view, &[root], dir.path()).by(MarkChoice::Walk).within(BUDGET).run().unwrap();
        assert_eq!(walk.live_nodes, nodes);
        assert!(walk.peak_bytes <= BUDGET, "walk of {nodes}: {} bytes", walk.peak_bytes);
        walked.push(walk.peak_bytes);
        let (_, scan) = Trial::new(&view, &[root], dir.path()).run().unwrap();
        let most = scan::FIXED + nodes * scan::PER_NODE;
        assert!(scan.peak_bytes <= most, "scan of {nodes}: {} of {most} bytes", scan.peak_bytes);
    }
    assert!(walked[1] < 2 * walked[0], "ten times the nodes, {walked:?} bytes");
}

#[test]
fn a_walk_with_a_tenth_of_the_memory_it_needs_ends_with_the_same_mark() {
    let (view, root) = tree(150_000);
    let dir = tempfile::tempdir().unwrap();
    let walk = |budget| Trial::new(&view, &[root], dir.path()).by(MarkChoice::Walk).within(budget).run().unwrap().1;
    let ample = walk(PLENTY);
    let tight = walk(ample.peak_bytes / 10);
    assert!(tight.peak_bytes <= ample.peak_bytes / 10);
    assert_eq!(tight.live_digest, ample.live_digest);
}

#[test]
fn edges_that_do_not_fit_their_share_of_memory_go_to_a_file() {
    let mut random = Random::new(8);
    let (view, roots) = random_graph(&mut random, Shape { nodes: 60_000, most_children: 60, ..UNIFORM });
    let dir = tempfile::tempdir().unwrap();
    let (mark, report) = Trial::new(&view, &roots, dir.path()).run().unwrap();
    let raw = view.rows.values().map(|row| row.len() as u64 / 32 * 4).sum::<u64>();
    let most = scan::FIXED + 60_000 * scan::PER_NODE;
    assert!(raw > most * 3 / 2, "the edges alone must exceed the bound: {raw}");
    assert!(report.peak_bytes <= most, "{} of {most}", report.peak_bytes);
    assert_eq!(content(&mark), fingerprints(&view.reach(&roots)));
}

#[test]
fn a_budget_too_small_for_a_scan_falls_back_to_the_walk_and_says_so() {
    let (view, root) = tree(150_000);
    for choice in [MarkChoice::Auto, MarkChoice::Scan] {
        let dir = tempfile::tempdir().unwrap();
        let report = Trial::new(&view, &[root], dir.path()).by(choice).within(2 << 20).run().unwrap().1;
        assert_eq!((report.strategy, report.live_nodes), (MarkStrategy::Walk, 150_000));
        assert!(report.why.contains("memory budget of 2.0 MiB is too small"), "{}", report.why);
        assert!(!report.why.contains("walk"), "the strategy says that: {}", report.why);
    }
    let dir = tempfile::tempdir().unwrap();
    let error = Trial::new(&view, &[root], dir.path()).by(MarkChoice::Auto).within(1000).run().unwrap_err();
    assert!(matches!(error, PruneError::MemoryBudget { given: 1000, .. }), "{error}");
}

/// The nodes that two references of what `root` reaches lead to.
fn referred_twice(view: &MapView, root: NodeHash) -> BTreeSet<NodeHash> {
    let (mut seen, mut twice, mut stack) = (BTreeSet::new(), BTreeSet::new(), vec![root]);
    while let Some(hash) = stack.pop() {
        if !seen.insert(hash) {
            twice.insert(hash);
            continue;
        }
        NamedLayout.children(&view.rows[hash.as_bytes().as_slice()], &mut stack).unwrap();
    }
    twice
}

#[test]
fn the_shared_nodes_of_one_state_are_told_whatever_the_others_share() {
    let mut random = Random::new(7);
    let mut seen = 0;
    for round in 0..12 {
        let (view, roots) = random_graph(&mut random, UNIFORM);
        let traced = roots[round % roots.len()];
        let expected = fingerprints(&referred_twice(&view, traced));
        seen += expected.len();
        for (choice, budget) in [(MarkChoice::Scan, PLENTY), (MarkChoice::Walk, PLENTY), (MarkChoice::Walk, 1 << 20)] {
            let dir = tempfile::tempdir().unwrap();
            let trial = Trial::new(&view, &roots, dir.path()).by(choice).within(budget).tracing(traced);
            let (mut mark, plain) = (trial.run().unwrap().0, Trial::new(&view, &roots, dir.path()).by(choice));
            assert_eq!(mark.take_shared(), Some(expected.clone()), "round {round} by {choice:?}");
            assert_eq!(content(&mark), content(&plain.run().unwrap().0), "tracing changes no mark");
        }
    }
    assert!(seen > 0, "nothing is shared: the test tells nothing");
}

#[test]
fn a_scan_that_outgrows_its_budget_on_the_way_falls_back_to_the_walk() {
    let (view, root) = tree(400_000);
    let dir = tempfile::tempdir().unwrap();
    let roots = retained(&[root]);
    let (_, report) = build_reach(&MarkJob {
        view: &view,
        layout: &NamedLayout,
        roots: &roots,
        traced: None,
        cycle: 4,
        dir: dir.path().to_owned(),
        choice: MarkChoice::Scan,
        rehash: RehashChoice::All,
        memory_budget: scan::FIXED,
        rows_hint: 0, // the engine's estimate can be wrong
        threads: 1,
        notes: None,
        from: None,
        clock: &ManualClock::default(),
        control: &Control::default(),
        observer: &Unobserved,
    })
    .unwrap();
    assert_eq!((report.strategy, report.live_nodes), (MarkStrategy::Walk, 400_000), "{report:?}");
    assert!(report.why.contains("became too small"), "{}", report.why);
}

#[test]
fn deep_and_wide_trees_walk_with_a_bounded_frontier() {
    const BUDGET: u64 = 1 << 20;
    let mut deep = MapView::default();
    (0..30_000).for_each(|n| deep.put(hash_of(n + 1), &if n == 0 { vec![] } else { vec![hash_of(n)] }));
    let mut wide = MapView::default();
    for n in 0..200 {
        let children: Vec<NodeHash> = (0..400).map(|m| hash_of(1000 + n * 400 + m)).collect();
        children.iter().for_each(|child| wide.put(*child, &[]));
        wide.put(hash_of(n + 1), &children);
    }
    let middle: Vec<NodeHash> = (0..200).map(|n| hash_of(n + 1)).collect();
    wide.put(hash_of(0), &middle);
    for (view, root, nodes) in [(&deep, hash_of(30_000), 30_000), (&wide, hash_of(0), 80_201)] {
        let dir = tempfile::tempdir().unwrap();
        for choice in [MarkChoice::Walk, MarkChoice::Scan] {
            let budget = if choice == MarkChoice::Walk { BUDGET } else { PLENTY };
            let report = Trial::new(view, &[root], dir.path()).by(choice).within(budget).run().unwrap().1;
            assert_eq!(report.live_nodes, nodes);
            assert!(choice == MarkChoice::Scan || report.peak_bytes <= BUDGET, "{} bytes", report.peak_bytes);
        }
    }
}

#[test]
fn a_cancel_ends_the_mark_and_leaves_nothing() {
    struct CancelAtFirstSight<'a>(&'a Control, AtomicU64);
    impl Observer for CancelAtFirstSight<'_> {
        fn progress(&self, _progress: Progress) {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.cancel();
        }
    }
    let (view, root) = tree(60_000);
    for choice in [MarkChoice::Scan, MarkChoice::Walk] {
        let (dir, control) = (tempfile::tempdir().unwrap(), Control::default());
        let observer = CancelAtFirstSight(&control, AtomicU64::new(0));
        let trial = Trial::new(&view, &[root], dir.path()).by(choice);
        assert!(matches!(trial.observed(&observer, &control), Err(PruneError::Cancelled)), "{choice:?}");
        assert!(observer.1.into_inner() > 0);
        assert_eq!(files(dir.path()), [] as [&str; 0]);
    }
}
