//! Reading much, as long as somebody wants it: the scans of a view end early once they are told to.

use std::ops::ControlFlow;

use state_tree::NodeHash;

use crate::{
    backend::{Flow, KeyRange, View},
    error::StoreError,
    schema::Table,
};

/// Says whether a scan goes on. Asked often: it must answer quickly, and wait for no disk.
pub type GoesOn<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// Rows between two questions.
const ROWS: u32 = 32;

/// A view whose scans fail with [`StoreError::Cancelled`] once they are to end.
pub(crate) struct EndingView<'a> {
    view: &'a dyn View,
    goes_on: GoesOn<'a>,
}

impl<'a> EndingView<'a> {
    pub(crate) fn new(view: &'a dyn View, goes_on: GoesOn<'a>) -> Self {
        Self { view, goes_on }
    }

    fn ending(
        &self,
        each: &mut dyn FnMut(&[u8], &[u8]) -> Flow,
        scan: impl FnOnce(&mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut rows, mut ended) = (0, false);
        scan(&mut |key, value| {
            if rows == 0 && !(self.goes_on)() {
                ended = true;
                return ControlFlow::Break(());
            }
            rows = (rows + 1) % ROWS;
            each(key, value)
        })?;
        if ended { Err(StoreError::Cancelled) } else { Ok(()) }
    }
}

impl View for EndingView<'_> {
    fn sequence(&self) -> u64 {
        self.view.sequence()
    }

    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, StoreError> {
        self.view.node(hash)
    }

    fn nodes(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), StoreError> {
        self.view.nodes(hashes, each)
    }

    fn scan_nodes(&self, range: &KeyRange, each: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), StoreError> {
        self.ending(each, |each| self.view.scan_nodes(range, each))
    }

    fn row(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.view.row(table, key)
    }

    fn rows(
        &self,
        table: &Table,
        keys: &[[u8; 8]],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StoreError> {
        self.view.rows(table, keys, each)
    }

    fn scan(
        &self,
        table: &Table,
        range: &KeyRange,
        each: &mut dyn FnMut(&[u8], &[u8]) -> Flow,
    ) -> Result<(), StoreError> {
        self.ending(each, |each| self.view.scan(table, range, each))
    }

    fn has_table(&self, table: &Table) -> bool {
        self.view.has_table(table)
    }
}
