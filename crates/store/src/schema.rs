//! The tables of the store, once: who writes each, who deletes from it, who gives the space back.
//!
//! | table | key | value | written by | deleted by | space back by |
//! |---|---|---|---|---|---|
//! | `state_node` | 32-byte hash | node bytes | commit | sweep filter, delete batches | the sweep itself, or the reclaim that follows delete batches |
//! | `prune_journal` | order, then commit id, big-endian | created, stale, dropped | commit | incremental sweep, settling after a cycle, rollback | background compaction (rows are short-lived) |
//! | `prune_many` | fingerprint, big-endian | order of the last mark | commit, major cycle | major cycle | background compaction |
//! | `prune_meta` | text | record | pruner, commit (counts), incremental sweep (cursor) | pruner | - |
//! | `prune_snapshot` | text | record | snapshot manager | snapshot manager | background compaction |
//! | `chain_root` | order, big-endian | record | commit | raising the floor, rollback | background compaction |
//! | `chain_meta` | text; `kept/` and an order | record | commit, moving the floor | moving the floor (kept orders) | background compaction |
//! | `chain_block` | order, big-endian | block bytes | commit (rows of the chain) | raising the floor, if the chain says so | background compaction |
//!
//! The node family has no [`Table`]: no row API can name it, so only the commit gate puts nodes and only the delete
//! gate and the sweep filter remove them (S25, S44).

use std::borrow::Cow;

/// The column family of nodes. Rows are reached through typed calls only.
pub(crate) const NODE_FAMILY: &str = "state_node";

/// A column family of rows: any family except the one of nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(Cow<'static, str>);

impl Table {
    /// Commit journal.
    pub const JOURNAL: Self = Self(Cow::Borrowed("prune_journal"));
    /// Nodes with more than one place.
    pub const MANY: Self = Self(Cow::Borrowed("prune_many"));
    /// Records of the pruner.
    pub const META: Self = Self(Cow::Borrowed("prune_meta"));
    /// Persisted snapshots.
    pub const SNAPSHOT: Self = Self(Cow::Borrowed("prune_snapshot"));
    /// Order to root.
    pub const ROOT: Self = Self(Cow::Borrowed("chain_root"));
    /// Head, floor and counts.
    pub const CHAIN: Self = Self(Cow::Borrowed("chain_meta"));
    /// Blocks of the embedding chain.
    pub const BLOCK: Self = Self(Cow::Borrowed("chain_block"));

    /// Every table of a store of our own.
    pub const ALL: [Self; 7] =
        [Self::JOURNAL, Self::MANY, Self::META, Self::SNAPSHOT, Self::ROOT, Self::CHAIN, Self::BLOCK];

    /// A table of somebody else's store, or nothing if the name is the node family's.
    pub fn foreign(name: &str) -> Option<Self> {
        (name != NODE_FAMILY).then(|| Self(Cow::Owned(name.to_owned())))
    }

    /// The name of the column family.
    pub fn name(&self) -> &str {
        &self.0
    }
}
