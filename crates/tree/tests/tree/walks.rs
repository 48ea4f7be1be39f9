//! The one traversal: exact, bounded, and never silent about what it could not read (S5, S7, P20).

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use state_tree::{
    Child, ChildKind, Internal, Joined, Key, Leaf, MemoryWorkList, Node, NodeHash, NodeSource, Reading, Rehash,
    RoochLayout, Search, StateRoot, Step, TreeError, Visitor, Walked, WorkList, find_path, walk,
};

use crate::{
    model::{Entry, Pool, Tree, object},
    store::Store,
};

const EVERY: Reading<'static> = Reading { layout: &RoochLayout, rehash: Rehash::Every };

/// Collects what it is shown; the policy for faults is the test's.
struct Collector {
    nodes: Vec<NodeHash>,
    faults: Vec<TreeError>,
    on_fault: Step,
    on_node: Box<dyn Fn(&NodeHash) -> Step>,
}

impl Collector {
    fn new(on_fault: Step) -> Self {
        Self { nodes: Vec::new(), faults: Vec::new(), on_fault, on_node: Box::new(|_| Step::Descend) }
    }
}

impl Visitor for Collector {
    fn node(&mut self, hash: &NodeHash, bytes: &[u8], children: &[NodeHash]) -> Step {
        assert!(!bytes.is_empty() && children.len() <= 16);
        self.nodes.push(*hash);
        (self.on_node)(hash)
    }

    fn fault(&mut self, fault: TreeError) -> Step {
        self.faults.push(fault);
        self.on_fault
    }
}

fn list(roots: &[StateRoot], batch: usize) -> MemoryWorkList {
    let mut work = MemoryWorkList::new(NonZeroUsize::new(batch).unwrap());
    roots.iter().filter_map(StateRoot::node).for_each(|root| work.push(root).unwrap());
    work
}

/// Some states of one history in one store.
fn random_states(seed: u64) -> (Vec<StateRoot>, Store) {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let pool = Pool { depth: 3, ..Pool::random(rng) };
    let (mut state, mut store, mut roots) = (Tree::default(), Store::default(), Vec::new());
    for _ in 0..10 {
        let before = state.clone();
        state.apply(&pool.changes(rng, &before), &before);
        roots.push(state.build(&mut store));
    }
    (roots, store)
}

#[test]
fn a_walk_visits_exactly_what_the_roots_reach_and_each_node_once() {
    for seed in 0..60 {
        let (roots, store) = random_states(seed);
        let some = &roots[seed as usize % 10..];
        let mut expected = BTreeSet::new();
        some.iter().for_each(|root| store.reach(*root, &mut expected).unwrap());
        for batch in [1, 3, 1000] {
            let mut visitor = Collector::new(Step::Stop);
            let walked = walk(&store, EVERY, &mut list(some, batch), &mut visitor).unwrap();
            let Walked::Complete(complete) = walked else { panic!("seed {seed}: {walked:?}") };
            assert_eq!(complete.counts().nodes as usize, expected.len(), "seed {seed}");
            assert_eq!(visitor.nodes.len(), expected.len(), "seed {seed}: a node was shown twice");
            assert_eq!(BTreeSet::from_iter(visitor.nodes), expected, "seed {seed} batch {batch}");
        }
    }
}

#[test]
fn a_walk_with_any_fault_is_not_complete_and_shows_the_fault() {
    for seed in 0..40 {
        let (roots, store) = random_states(seed);
        let mut live = BTreeSet::new();
        roots.iter().for_each(|root| store.reach(*root, &mut live).unwrap());
        let nodes: Vec<NodeHash> = live.into_iter().collect();
        let Some(victim) = nodes.get(seed as usize * 7 % nodes.len().max(1)) else {
            continue;
        };
        let other = nodes.iter().find(|hash| *hash != victim);
        for kind in 0..3 {
            let mut broken = store.clone();
            match (kind, other) {
                (0, _) => drop(broken.0.remove(victim)),
                (1, _) => drop(broken.0.insert(*victim, vec![2, 2])),
                (_, Some(other)) => drop(broken.0.insert(*victim, store.0[other].clone())),
                (_, None) => continue,
            }
            let mut visitor = Collector::new(Step::Skip);
            let walked = walk(&broken, EVERY, &mut list(&roots, 4), &mut visitor).unwrap();
            assert!(
                matches!(walked, Walked::Faulty(counts) if counts.faults == 1 && counts.skipped == 0),
                "seed {seed}: {walked:?}"
            );
            let named = match (kind, &visitor.faults[..]) {
                (0, [TreeError::Missing(hash)]) => *hash,
                (1, [TreeError::Malformed { hash, .. }]) => *hash,
                (2, [TreeError::WrongHash { key, .. }]) => *key,
                (_, faults) => panic!("seed {seed}: {faults:?}"),
            };
            assert_eq!(named, *victim, "seed {seed}");
        }
    }
}

#[test]
fn a_stopped_walk_is_not_complete() {
    let (roots, store) = random_states(1);
    let mut visitor = Collector { on_node: Box::new(|_| Step::Stop), ..Collector::new(Step::Stop) };
    let walked = walk(&store, EVERY, &mut list(&roots, 8), &mut visitor).unwrap();
    assert!(matches!(walked, Walked::Stopped(counts) if counts.nodes == 1), "{walked:?}");
    assert_eq!(visitor.nodes.len(), 1, "the rest of the batch is not shown");
}

#[test]
fn declined_children_are_counted_and_not_visited() {
    let (roots, store) = random_states(2);
    let root = *roots.last().unwrap();
    let mut visitor = Collector { on_node: Box::new(|_| Step::Skip), ..Collector::new(Step::Stop) };
    let Walked::Complete(complete) = walk(&store, EVERY, &mut list(&[root], 8), &mut visitor).unwrap() else {
        panic!("no fault, no stop");
    };
    assert_eq!((complete.counts().nodes, complete.counts().skipped), (1, 1));
}

#[test]
fn a_walk_that_does_not_hash_accepts_other_bytes_under_a_key() {
    let (roots, mut store) = random_states(5);
    let root = roots.last().unwrap().hash();
    let leaf = *store.0.iter().find(|(hash, bytes)| bytes[0] == 2 && **hash != root).unwrap().0;
    store.0.insert(root, store.0[&leaf].clone());
    for (rehash, complete) in [(Rehash::Never, true), (Rehash::Every, false)] {
        let reading = Reading { rehash, ..EVERY };
        let mut visitor = Collector::new(Step::Skip);
        let walked = walk(&store, reading, &mut list(&[StateRoot::new(root)], 8), &mut visitor).unwrap();
        assert_eq!(matches!(walked, Walked::Complete(_)), complete, "{rehash:?}");
    }
}

/// A source that forgets to answer, or answers twice.
struct Unreliable<'a>(&'a Store, usize);

impl NodeSource for Unreliable<'_> {
    fn read(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError> {
        for (index, hash) in hashes.iter().enumerate() {
            let times = if index == 0 { self.1 } else { 1 };
            (0..times).for_each(|_| each(index, self.0.0.get(hash).map(Vec::as_slice)));
        }
        Ok(())
    }
}

#[test]
fn a_source_that_does_not_answer_once_for_each_node_fails_the_walk() {
    let (roots, store) = random_states(3);
    for times in [0, 2] {
        let mut visitor = Collector::new(Step::Skip);
        let error = walk(&Unreliable(&store, times), EVERY, &mut list(&roots, 8), &mut visitor).unwrap_err();
        assert!(matches!(error, TreeError::Unanswered { .. }), "{error}");
    }
}

/// A work list whose disk is full after some pushes.
struct FullDisk(MemoryWorkList, usize);

impl WorkList for FullDisk {
    fn push(&mut self, hash: NodeHash) -> Result<(), TreeError> {
        self.1 = self.1.checked_sub(1).ok_or_else(|| TreeError::WorkList { source: "disk full".into() })?;
        self.0.push(hash)
    }

    fn take(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), TreeError> {
        self.0.take(batch)
    }
}

#[test]
fn a_work_list_that_loses_a_hash_fails_the_walk() {
    let (roots, store) = random_states(4);
    let mut work = FullDisk(list(&roots, 8), 3);
    let error = walk(&store, EVERY, &mut work, &mut Collector::new(Step::Skip)).unwrap_err();
    assert!(matches!(error, TreeError::WorkList { .. }), "{error}");
}

#[test]
fn a_work_list_hands_out_every_hash_once_and_sorted() {
    for seed in 0..20 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut work = MemoryWorkList::new(NonZeroUsize::new(rng.random_range(1..9)).unwrap());
        let (mut pushed, mut taken, mut batch) = (BTreeSet::new(), Vec::new(), Vec::new());
        for _ in 0..200 {
            let hash = NodeHash::new([rng.random_range(0..60); 32]);
            pushed.insert(hash);
            work.push(hash).unwrap();
            if rng.random_bool(0.2) {
                work.take(&mut batch).unwrap();
                assert!(batch.is_sorted(), "seed {seed}");
                taken.extend(batch.iter().copied());
            }
        }
        while work.waiting() > 0 {
            work.take(&mut batch).unwrap();
            taken.extend(batch.iter().copied());
        }
        assert_eq!(taken.len(), pushed.len(), "seed {seed}");
        assert_eq!(BTreeSet::from_iter(taken), pushed, "seed {seed}");
    }
}

/// A list that remembers how much ever waited.
struct Peak(MemoryWorkList, usize);

impl WorkList for Peak {
    fn push(&mut self, hash: NodeHash) -> Result<(), TreeError> {
        self.0.push(hash)?;
        self.1 = self.1.max(self.0.waiting());
        Ok(())
    }

    fn take(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), TreeError> {
        self.0.take(batch)
    }
}

fn peak(store: &Store, root: StateRoot, batch: usize) -> (u64, usize) {
    let mut work = Peak(list(&[root], batch), 0);
    let walked = walk(store, EVERY, &mut work, &mut Collector::new(Step::Stop)).unwrap();
    let Walked::Complete(complete) = walked else { panic!("{walked:?}") };
    (complete.counts().nodes, work.1)
}

#[test]
fn deep_and_wide_trees_walk_in_batches_without_recursion() {
    let rng = &mut ChaCha8Rng::seed_from_u64(9);
    let mut wide = Tree::default();
    for value in 0..20_000 {
        wide.0.insert(Key::new(rng.random()), Entry { object: object(value), fields: Tree::default() });
    }
    let mut store = Store::default();
    let root = wide.build(&mut store);
    for batch in [1, 16, 256] {
        let (nodes, waiting) = peak(&store, root, batch);
        assert!(nodes > 20_000);
        // A batch is replaced by at most 16 children each, once per level: 20,000 keys are under 8 nibbles deep.
        assert!(waiting <= batch * 15 * 8, "{waiting} wait with batches of {batch}");
    }
    let (store, root) = chain(50_000);
    assert_eq!(peak(&store, root, 256), (50_000, 1), "a deep chain needs no stack and no frontier");
}

/// Objects nested one in another, deeper than any stack.
fn chain(depth: usize) -> (Store, StateRoot) {
    let mut store = Store::default();
    let entry = Entry { object: object(0), fields: Tree::default() };
    let root = (0..depth).fold(StateRoot::EMPTY, |below, _| {
        let leaf = Leaf { key: Key::new([1; 32]), value: entry.state(below).encode().unwrap() };
        StateRoot::new(store.put(&Node::Leaf(leaf).encode().unwrap()))
    });
    (store, root)
}

#[test]
fn a_missing_node_is_named_by_a_path_from_a_root() {
    let limit = NonZeroUsize::new(10_000).unwrap();
    for seed in 0..40 {
        let (roots, store) = random_states(seed);
        let mut live = BTreeSet::new();
        roots.iter().for_each(|root| store.reach(*root, &mut live).unwrap());
        for target in &live {
            let mut broken = store.clone();
            broken.0.remove(target);
            let search = Search { source: &broken, layout: &RoochLayout, limit };
            let path = find_path(&roots, target, search).unwrap().unwrap();
            assert!(roots.iter().any(|root| root.node() == path.first().copied()), "seed {seed}");
            assert_eq!(path.last(), Some(target), "seed {seed}");
            let steps = path.windows(2).all(|step| store.children(&step[0]).contains(&step[1]));
            assert!(steps, "seed {seed}: {path:?}");
        }
        let search = Search { source: &store, layout: &RoochLayout, limit };
        assert_eq!(find_path(&roots, &NodeHash::new([0xee; 32]), search).unwrap(), None, "seed {seed}");
    }
}

#[test]
fn a_search_for_a_path_gives_up_at_its_bound_and_says_so() {
    let (store, root) = chain(500);
    let search = Search { source: &store, layout: &RoochLayout, limit: NonZeroUsize::new(100).unwrap() };
    let error = find_path(&[root], &NodeHash::new([0xee; 32]), search).unwrap_err();
    assert!(matches!(error, TreeError::SearchLimit { .. }), "{error}");
}

/// Not a test of speed: prints what decoding, hashing and finding the edges of one node costs.
/// `cargo test -p state-tree --release --test tree cost_of_one_node -- --ignored --nocapture`
#[test]
#[ignore = "prints a measurement"]
fn cost_of_one_node() {
    let slots = std::array::from_fn(|nibble| {
        Some(Child { hash: NodeHash::new([nibble as u8; 32]), kind: ChildKind::Internal })
    });
    let Joined::Node(internal) = Internal::join(&slots) else { panic!("sixteen children") };
    let mut state = Entry { object: object(1), fields: Tree::default() }.state(StateRoot::new(NodeHash::new([5; 32])));
    state.value = vec![7; 25];
    let leaf = Node::Leaf(Leaf { key: Key::new([9; 32]), value: state.encode().unwrap() }).encode().unwrap();
    let nodes = BTreeMap::from([("internal node, 16 children", internal.encode()), ("leaf", leaf)]);
    for (name, bytes) in nodes {
        for rehash in [Rehash::Every, Rehash::Never] {
            println!("{name}, {} bytes, {rehash:?}: {:.0} ns", bytes.len(), cost(&bytes, rehash));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement needs the real clock")]
fn cost(bytes: &[u8], rehash: Rehash) -> f64 {
    use state_tree::NodeLayout;
    let rounds = 500_000;
    let mut children = Vec::new();
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        children.clear();
        let bytes = std::hint::black_box(bytes);
        match rehash {
            Rehash::Every => {
                drop(std::hint::black_box(RoochLayout.read(bytes, &mut children).map(|hash| hash.fingerprint())))
            }
            Rehash::Never => std::hint::black_box(RoochLayout.children(bytes, &mut children)).unwrap(),
        }
    }
    start.elapsed().as_nanos() as f64 / f64::from(rounds)
}
