//! How far the sweep of the journal is: the record `expiry`, and the nodes below trees that were begun in rows of their own.
//!
//! What is below trees is a stack: a slice takes from its end and puts the children of what it condemned there. Each slice's
//! children are one row, a *layer*, written once; the record says how much of each layer is left. So a slice of a large tree
//! writes what it has found and not all that is left (I12), in the batch of its deletes (I9).
//!
//! Costs: 32 bytes per node below a tree, once; 16 bytes per layer and slice, and there are as many layers as a tree is deep,
//! about.

use serde::{Deserialize, Serialize};
use state_tree::{Expiry, Left, NodeHash, Order, Taken};

use crate::{
    backend::{Batch, KeyRange, View},
    error::StoreError,
    record::{self, Record},
    schema::Table,
};

/// How far the sweep of the journal is, in `prune_meta`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExpiryRecord {
    /// The newest order whose entry is dealt with.
    pub(crate) done: Option<u64>,
    /// What is left of the entries of the orders behind it.
    pub(crate) group: Option<GroupRecord>,
}

/// What is left of a group of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub(crate) last: u64,
    pub(crate) alone: u64,
    pub(crate) trees: u64,
    /// Nodes below trees that were begun.
    pub(crate) layers: Vec<Layer>,
}

/// What is left of one row of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    row: u64,
    nodes: u64,
}

/// The nodes of one layer, as they were put there.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) nodes: Vec<[u8; 32]>,
}

impl Record for ExpiryRecord {
    const KIND: [u8; 4] = *b"XPRY";
    const VERSION: u16 = 2; // 1 had the nodes below trees in it
}

impl Record for LayerRecord {
    const KIND: [u8; 4] = *b"XPRL";
    const VERSION: u16 = 1;
}

impl ExpiryRecord {
    pub(crate) const KEY: &[u8] = b"expiry";

    pub(crate) fn load(view: &dyn View) -> Result<Self, StoreError> {
        let Some(bytes) = view.row(&Table::META, Self::KEY)? else { return Ok(Self::default()) };
        record::decode("expiry", &bytes)
    }

    pub(crate) fn put(&self, batch: &mut Batch) -> Result<(), StoreError> {
        batch.put(Table::META, Self::KEY, record::encode(self)?);
        Ok(())
    }
}

impl GroupRecord {
    /// What is left, in the form it is worked on in.
    ///
    /// Errors: a failed read, a layer that is not there or unusable, a number that is none of this machine.
    pub(crate) fn left(&self, view: &dyn View) -> Result<Left, StoreError> {
        let mut below = Vec::new();
        for layer in &self.layers {
            let bytes = view.row(&Table::META, &layer.key())?.ok_or_else(|| unusable("a layer of it is not there"))?;
            let LayerRecord { nodes } = record::decode("expiry layer", &bytes)?;
            let left = usize::try_from(layer.nodes).map_or(None, |left| nodes.get(..left));
            let left = left.ok_or_else(|| unusable("a layer of it is too short"))?;
            below.extend(left.iter().copied().map(NodeHash::new));
        }
        match (usize::try_from(self.alone), usize::try_from(self.trees)) {
            (Ok(alone), Ok(trees)) => Ok(Left { alone, trees, below }),
            (Err(_), _) | (_, Err(_)) => Err(unusable("it counts more nodes than there can be")),
        }
    }
}

/// What is wrong with the cursor.
pub(crate) fn unusable(why: &str) -> StoreError {
    StoreError::Record { name: "expiry".to_owned(), why: why.to_owned() }
}

const PREFIX: &[u8] = b"expiry/";
/// The first key behind the prefix.
const BEHIND: &[u8] = b"expiry0";

impl Layer {
    fn key(self) -> Vec<u8> {
        [PREFIX, &self.row.to_be_bytes()].concat()
    }
}

/// Where the layers are.
pub(crate) fn layers() -> KeyRange {
    KeyRange::between(PREFIX, BEHIND)
}

/// Takes every layer away, whoever left it.
pub(crate) fn delete_layers(batch: &mut Batch) {
    batch.delete_range(Table::META, PREFIX, BEHIND);
}

/// The layers as they are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layers(Vec<Layer>);

impl Layers {
    pub(crate) fn of(record: &GroupRecord) -> Self {
        Self(record.layers.clone())
    }

    /// Follows a step that was taken: rows that are used up go, what was found is a row of its own.
    pub(crate) fn follow(&mut self, expiry: &Expiry, taken: &Taken, batch: &mut Batch) -> Result<(), StoreError> {
        let new = taken.below.len() as u64;
        let mut left = (expiry.below().count() as u64).saturating_sub(new);
        let next = self.0.last().map_or(0, |last| last.row + 1);
        for layer in &mut self.0 {
            layer.nodes = layer.nodes.min(left);
            left -= layer.nodes;
            if layer.nodes == 0 {
                batch.delete(Table::META, layer.key());
            }
        }
        self.0.retain(|layer| layer.nodes > 0);
        if new > 0 {
            let layer = Layer { row: next, nodes: new };
            let nodes = taken.below.iter().map(|hash| *hash.as_bytes()).collect();
            batch.put(Table::META, layer.key(), record::encode(&LayerRecord { nodes })?);
            self.0.push(layer);
        }
        Ok(())
    }

    /// What is to be saved of a group.
    pub(crate) fn record(&self, last: Order, expiry: &Expiry) -> GroupRecord {
        let (alone, trees) = expiry.named();
        GroupRecord { last: last.get(), alone: alone as u64, trees: trees as u64, layers: self.0.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, num::NonZeroUsize};

    use state_tree::{Expiring, Found, Judge, NodeError, NodeLayout, NodeSource, TreeError};

    use super::*;
    use crate::backend::{Backend, Durability, Flow, MemoryBackend};

    /// Node `n` has the children `3n + 1` to `3n + 3`, up to 200.
    #[derive(Debug)]
    struct Threes;

    fn hash(n: u8) -> NodeHash {
        NodeHash::new([n; 32])
    }

    impl NodeLayout for Threes {
        fn name(&self) -> &'static str {
            "threes"
        }

        fn children(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
            let first = 3 * u16::from(bytes[0]) + 1;
            out.extend((first..first + 3).filter(|n| *n <= 200).map(|n| hash(n as u8)));
            Ok(())
        }

        fn hash(&self, bytes: &[u8]) -> Result<NodeHash, NodeError> {
            Ok(hash(bytes[0]))
        }
    }

    impl NodeSource for Threes {
        fn read(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError> {
            hashes.iter().enumerate().for_each(|(at, hash)| each(at, Some(&hash.as_bytes()[..1])));
            Ok(())
        }
    }

    fn rows(backend: &MemoryBackend) -> usize {
        let mut rows = 0;
        let range = KeyRange::between(PREFIX, BEHIND);
        let mut count = |_: &[u8], _: &[u8]| {
            rows += 1;
            Flow::Continue(())
        };
        backend.view().unwrap().scan(&Table::META, &range, &mut count).unwrap();
        rows
    }

    #[test]
    fn layers_are_what_is_left_after_every_step_and_each_node_is_written_once() {
        for most in [1, 4, 7, 50] {
            let entries = Expiring { stale: [hash(201)].into(), dropped: [hash(0), hash(202)].into() };
            let (backend, mut layers) = (MemoryBackend::new(), Layers::default());
            let (mut expiry, mut written, mut gone) = (Expiry::new(&entries), 0, BTreeSet::new());
            while !expiry.is_done() {
                let step = expiry.step(NonZeroUsize::new(most).unwrap());
                let found = Found::read(&step, &Threes, &Threes).unwrap();
                let taken = expiry.take(&step, &found, Judge { is_free: &|_| true, is_shared: &|_| false });
                let mut batch = Batch::new();
                layers.follow(&expiry, &taken, &mut batch).unwrap();
                backend.write(&batch, Durability::Logged).unwrap();
                written += taken.below.len();
                gone.extend(taken.condemned);
                let record = layers.record(Order::new(9), &expiry);
                assert_eq!(record.left(&*backend.view().unwrap()).unwrap(), expiry.left(), "{most} at a time");
                assert_eq!(rows(&backend), record.layers.len(), "{most} at a time: no other row is there");
                assert!(record.layers.len() <= 6, "{most} at a time: as deep as the tree: {record:?}");
                layers = Layers::of(&record); // as after a restart
            }
            assert_eq!((written, gone.len(), rows(&backend)), (200, 203, 0), "{most} at a time");
        }
    }

    #[test]
    fn a_layer_that_is_missing_or_too_short_makes_the_cursor_unusable() {
        let (backend, mut batch) = (MemoryBackend::new(), Batch::new());
        let group = |row, nodes| GroupRecord { last: 1, alone: 0, trees: 0, layers: vec![Layer { row, nodes }] };
        let bytes = record::encode(&LayerRecord { nodes: vec![[1; 32], [2; 32]] }).unwrap();
        batch.put(Table::META, Layer { row: 3, nodes: 2 }.key(), bytes);
        backend.write(&batch, Durability::Logged).unwrap();
        let left = |row, nodes| group(row, nodes).left(&*backend.view().unwrap());
        assert_eq!(left(3, 1).unwrap().below, [hash(1)]);
        assert!(matches!(left(3, 3), Err(StoreError::Record { .. })));
        assert!(matches!(left(4, 1), Err(StoreError::Record { .. })));
        let mut batch = Batch::new();
        delete_layers(&mut batch);
        backend.write(&batch, Durability::Logged).unwrap();
        assert!(matches!(left(3, 1), Err(StoreError::Record { .. })));
    }
}
