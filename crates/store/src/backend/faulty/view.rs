//! The view of a faulty backend.

use std::sync::Arc;

use state_tree::NodeHash;

use super::{Faults, Operation};
use crate::{
    backend::{Flow, KeyRange, View},
    error::StoreError,
    schema::Table,
};

/// A view whose every read is counted and may fail.
pub(super) struct FaultyView {
    pub(super) inner: Arc<dyn View>,
    pub(super) faults: Arc<Faults>,
}

impl View for FaultyView {
    fn sequence(&self) -> u64 {
        self.inner.sequence()
    }

    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, StoreError> {
        self.faults.read(Operation::ReadNode)?;
        self.inner.node(hash)
    }

    fn nodes(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), StoreError> {
        self.faults.read(Operation::ReadNodes)?;
        self.inner.nodes(hashes, each)
    }

    fn scan_nodes(&self, range: &KeyRange, each: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), StoreError> {
        self.faults.read(Operation::ScanNodes)?;
        self.inner.scan_nodes(range, each)
    }

    fn row(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.faults.read(Operation::ReadRow)?;
        self.inner.row(table, key)
    }

    fn rows(
        &self,
        table: &Table,
        keys: &[[u8; 8]],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StoreError> {
        self.faults.read(Operation::ReadRows)?;
        self.inner.rows(table, keys, each)
    }

    fn scan(
        &self,
        table: &Table,
        range: &KeyRange,
        each: &mut dyn FnMut(&[u8], &[u8]) -> Flow,
    ) -> Result<(), StoreError> {
        self.faults.read(Operation::ScanRows)?;
        let hook = self.faults.before_row.lock().clone();
        self.inner.scan(table, range, &mut |key, value| {
            hook.iter().for_each(|hook| hook(table));
            each(key, value)
        })
    }

    fn has_table(&self, table: &Table) -> bool {
        self.inner.has_table(table)
    }
}
