//! How many nodes are stored, and what is known of leaves: a record beside the counts.

use serde::{Deserialize, Serialize};

use crate::{
    backend::{Batch, View},
    chain::native,
    error::StoreError,
    record::{self, Record},
    schema::Table,
};

/// What is stored, in `prune_meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredRecord {
    /// Nodes that commits put and that were not there, at most, less those that the sweep between cycles deleted. What
    /// cycles delete is not taken off, and what a mark outlived counts as there.
    pub(crate) nodes: u64,
    /// Whether no object was ever put with the identity of one of the other kind of tree, from the first commit on: then a node
    /// of the global tree is at one place only ([`state_tree::Created::sole`]).
    pub(crate) has_no_strays: bool,
}

impl Record for StoredRecord {
    const KIND: [u8; 4] = *b"STRD";
    const VERSION: u16 = 3; // 2 took objects of the global tree with the identity of a field for none, 1 knew neither strays nor bundles
}

impl StoredRecord {
    pub(crate) const KEY: &[u8] = b"stored";

    /// Without a record, or with one that is unusable: everything that was ever put, and there may be strays (I8).
    pub(crate) fn load(view: &dyn View) -> Result<Self, StoreError> {
        let bytes = view.row(&Table::META, Self::KEY)?;
        match bytes.map_or(Ok(None), |bytes| record::if_usable(record::decode("stored", &bytes)))? {
            Some(record) => Ok(record),
            None => {
                let nodes = native::read_head(view)?.map_or(0, |head| head.nodes_put);
                Ok(Self { nodes, has_no_strays: false })
            }
        }
    }

    pub(crate) fn put(&self, batch: &mut Batch) -> Result<(), StoreError> {
        batch.put(Table::META, Self::KEY, record::encode(self)?);
        Ok(())
    }
}
