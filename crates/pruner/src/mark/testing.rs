//! Small stores with known answers, for the tests of this module.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};
use state_store::{Flow, KeyRange, StoreError, Table, View};
use state_tree::{NodeError, NodeHash, NodeLayout, Order, StateRoot};

use crate::roots::{KeptBy, RetainedRoot, RetainedRoots};

/// A small generator whose seed is shown when a test fails.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The hash of a number: uniform, and the same every time.
pub(crate) fn hash_of(number: u64) -> NodeHash {
    NodeHash::new(Sha256::digest(number.to_be_bytes()).into())
}

/// A layout whose nodes name their own hash, so that a test chooses hashes freely: hash 32, a byte 1, children.
#[derive(Debug)]
pub(crate) struct NamedLayout;

pub(crate) fn named(hash: &NodeHash, children: &[NodeHash]) -> Vec<u8> {
    let mut bytes = hash.as_bytes().to_vec();
    bytes.push(1);
    children.iter().for_each(|child| bytes.extend_from_slice(child.as_bytes()));
    bytes
}

impl NodeLayout for NamedLayout {
    fn name(&self) -> &'static str {
        "named"
    }

    fn children(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
        let (_, rest) = bytes.split_at_checked(32).ok_or(NodeError::Empty)?;
        let (tag, children) = rest.split_first().ok_or(NodeError::Empty)?;
        if *tag != 1 {
            return Err(NodeError::UnknownTag(*tag));
        }
        out.extend(children.chunks_exact(32).map(|child| NodeHash::try_from(child).unwrap()));
        Ok(())
    }

    fn hash(&self, bytes: &[u8]) -> Result<NodeHash, NodeError> {
        bytes.first_chunk().map(|hash| NodeHash::new(*hash)).ok_or(NodeError::Empty)
    }
}

/// A view over a map that can be told to fail.
#[derive(Debug, Default)]
pub(crate) struct MapView {
    pub(crate) rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Reads of this key fail.
    pub(crate) unreadable: Option<NodeHash>,
    pub(crate) reads: AtomicU64,
    /// Whoever reads nodes after so many panics.
    pub(crate) panics_after: Option<u64>,
}

impl MapView {
    pub(crate) fn put(&mut self, hash: NodeHash, children: &[NodeHash]) {
        self.rows.insert(hash.as_bytes().to_vec(), named(&hash, children));
    }

    fn read_error() -> StoreError {
        StoreError::Corrupt("block checksum mismatch".to_owned())
    }

    /// Every node that the roots reach, by the plainest code there is.
    pub(crate) fn reach(&self, roots: &[NodeHash]) -> BTreeSet<NodeHash> {
        let mut seen = BTreeSet::new();
        let mut stack = roots.to_vec();
        while let Some(hash) = stack.pop() {
            if seen.insert(hash) {
                NamedLayout.children(&self.rows[hash.as_bytes().as_slice()], &mut stack).unwrap();
            }
        }
        seen
    }
}

impl View for MapView {
    fn sequence(&self) -> u64 {
        1
    }

    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, StoreError> {
        if self.unreadable == Some(*hash) {
            return Err(Self::read_error());
        }
        Ok(self.rows.get(hash.as_bytes().as_slice()).cloned())
    }

    fn nodes(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), StoreError> {
        assert!(hashes.is_sorted());
        let before = self.reads.fetch_add(hashes.len() as u64, Ordering::Relaxed);
        assert!(self.panics_after.is_none_or(|reads| before < reads), "a bug of ours");
        for (index, hash) in hashes.iter().enumerate() {
            each(index, self.node(hash)?.as_deref());
        }
        Ok(())
    }

    fn rows(&self, table: &Table, _: &[[u8; 8]], _: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), StoreError> {
        Err(StoreError::NoTable(table.name().to_owned()))
    }

    fn scan_nodes(&self, range: &KeyRange, each: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), StoreError> {
        let from = range.start.clone().map_or(Bound::Unbounded, Bound::Included);
        for (key, value) in self.rows.range((from, Bound::Unbounded)) {
            if !range.contains(key) {
                break;
            }
            if self.unreadable.is_some_and(|hash| hash.as_bytes() == key.as_slice()) {
                return Err(Self::read_error());
            }
            if each(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn row(&self, table: &Table, _key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Err(StoreError::NoTable(format!("{table:?}")))
    }

    fn scan(
        &self,
        table: &Table,
        _range: &KeyRange,
        _each: &mut dyn FnMut(&[u8], &[u8]) -> Flow,
    ) -> Result<(), StoreError> {
        Err(StoreError::NoTable(format!("{table:?}")))
    }

    fn has_table(&self, _table: &Table) -> bool {
        false
    }
}

/// Retained roots, one per order from 0 on, the last one the head.
pub(crate) fn retained(roots: &[NodeHash]) -> RetainedRoots {
    let order = |index: usize| Order::new(index as u64);
    let head = roots.len() - 1;
    RetainedRoots {
        head: state_store::Head {
            order: order(head),
            root: StateRoot::new(roots[head]),
            timestamp_ms: None,
            block_hash: None,
        },
        first: Order::GENESIS,
        roots: roots
            .iter()
            .enumerate()
            .map(|(index, root)| RetainedRoot {
                order: order(index),
                root: StateRoot::new(*root),
                kept_by: if index == head { KeptBy::Head } else { KeptBy::Window },
            })
            .collect(),
        digest: Sha256::digest(roots.iter().flat_map(|root| *root.as_bytes()).collect::<Vec<u8>>()).into(),
        holes: Vec::new(),
        unexecuted: 0,
        shorter_than_asked: false,
    }
}

/// How a random graph is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) nodes: u64,
    pub(crate) most_children: u64,
    pub(crate) roots: usize,
    /// How many different first eight bytes there are; none means that hashes are uniform.
    pub(crate) fingerprints: Option<u64>,
}

/// A random graph without circles: children come before their parents; some nodes share all their children.
pub(crate) fn random_graph(random: &mut Random, shape: Shape) -> (MapView, Vec<NodeHash>) {
    let salt = random.next();
    let mut view = MapView::default();
    let mut hashes: Vec<NodeHash> = Vec::new();
    let mut last: Vec<NodeHash> = Vec::new();
    for number in 0..shape.nodes {
        let mut hash = *hash_of(salt ^ number).as_bytes();
        if let Some(distinct) = shape.fingerprints {
            hash[..8].copy_from_slice(&hash_of(random.below(distinct)).as_bytes()[..8]);
        }
        let hash = NodeHash::new(hash);
        if random.below(4) > 0 {
            let children = if hashes.is_empty() { 0 } else { random.below(shape.most_children + 1) };
            last = (0..children).map(|_| hashes[random.below(hashes.len() as u64) as usize]).collect();
        }
        view.put(hash, &last);
        hashes.push(hash);
    }
    let roots = (0..shape.roots).map(|_| hashes[random.below(shape.nodes) as usize]).collect();
    (view, roots)
}
