//! One instant of every family: a snapshot of a store open for writing; a store open for reading is one by itself.

use std::{path::Path, sync::Arc};

use rocksdb::{ColumnFamily, DB, ReadOptions};
use state_tree::NodeHash;

use super::{RocksBackend, classify::classify, raw::OwnedSnapshot};
use crate::{
    backend::{Flow, KeyRange, View},
    ending::{Ending, GoesOn},
    error::StoreError,
    schema::{NODE_FAMILY, Table},
};

const READAHEAD_BYTES: usize = 4 << 20;
/// Keys of one batched read: bounds the values pinned at once.
const KEYS_AT_ONCE: usize = 1024;

/// Reads at one instant.
pub(super) struct RocksView {
    instant: Instant,
    path: Arc<Path>,
}

enum Instant {
    Snapshot(OwnedSnapshot),
    /// A store open for reading: its instant is that of its opening or last catching up.
    Whole(Arc<DB>, u64),
}

impl RocksView {
    pub(super) fn of_snapshot(db: &Arc<DB>, path: &Arc<Path>) -> Self {
        Self { instant: Instant::Snapshot(OwnedSnapshot::of(db)), path: Arc::clone(path) }
    }

    pub(super) fn of_whole(db: &Arc<DB>, path: &Arc<Path>) -> Self {
        Self { instant: Instant::Whole(Arc::clone(db), db.latest_sequence_number()), path: Arc::clone(path) }
    }

    fn db(&self) -> &DB {
        match &self.instant {
            Instant::Snapshot(snapshot) => snapshot.db(),
            Instant::Whole(db, _) => db,
        }
    }

    /// Options that read this instant; used up before the call that asked for them returns.
    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        if let Instant::Snapshot(snapshot) = &self.instant {
            snapshot.bind(&mut options);
        }
        options
    }

    fn family(&self, name: &str) -> Result<&ColumnFamily, StoreError> {
        self.db().cf_handle(name).ok_or_else(|| StoreError::NoTable(name.to_owned()))
    }

    fn failed(&self, what: &str, error: &rocksdb::Error) -> StoreError {
        classify(&self.path, what, error)
    }

    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self
            .db()
            .get_pinned_cf_opt(self.family(family)?, key, &self.options())
            .map_err(|e| self.failed("reading a row", &e))?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn get_many<K, const N: usize>(
        &self,
        family: &str,
        keys: &[K],
        bytes: impl Fn(&K) -> &[u8; N],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StoreError> {
        let (family, options) = (self.family(family)?, self.options());
        let mut index = 0;
        for chunk in keys.chunks(KEYS_AT_ONCE) {
            for found in self.db().batched_multi_get_cf_opt(family, chunk.iter().map(&bytes), true, &options) {
                let found = found.map_err(|e| self.failed("reading many keys", &e))?;
                each(index, found.as_deref());
                index += 1;
            }
        }
        Ok(())
    }

    fn visit(
        &self,
        family: &str,
        range: &KeyRange,
        options: ReadOptions,
        each: &mut dyn FnMut(&[u8], &[u8]) -> Flow,
    ) -> Result<(), StoreError> {
        let mut options = options;
        options.set_total_order_seek(true);
        if let Some(end) = &range.end {
            options.set_iterate_upper_bound(end.clone());
        }
        let mut rows = self.db().raw_iterator_cf_opt(self.family(family)?, options);
        match &range.start {
            Some(start) => rows.seek(start),
            None => rows.seek_to_first(),
        }
        while let Some((key, value)) = rows.item() {
            if each(key, value).is_break() {
                break;
            }
            rows.next();
        }
        rows.status().map_err(|e| self.failed("scanning", &e)) // an iterator that failed looks like one that ended
    }
}

impl View for RocksView {
    fn sequence(&self) -> u64 {
        match &self.instant {
            Instant::Snapshot(snapshot) => snapshot.sequence(),
            Instant::Whole(_, sequence) => *sequence,
        }
    }

    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(NODE_FAMILY, hash.as_bytes())
    }

    fn nodes(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), StoreError> {
        self.get_many(NODE_FAMILY, hashes, NodeHash::as_bytes, each)
    }

    fn rows(
        &self,
        table: &Table,
        keys: &[[u8; 8]],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StoreError> {
        self.get_many(table.name(), keys, |key| key, each)
    }

    fn scan_nodes(&self, range: &KeyRange, each: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), StoreError> {
        let mut options = self.options();
        options.set_readahead_size(READAHEAD_BYTES);
        options.fill_cache(false);
        self.visit(NODE_FAMILY, range, options, each)
    }

    fn row(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(table.name(), key)
    }

    fn scan(
        &self,
        table: &Table,
        range: &KeyRange,
        each: &mut dyn FnMut(&[u8], &[u8]) -> Flow,
    ) -> Result<(), StoreError> {
        let mut options = self.options();
        options.fill_cache(false); // what is read once does not drive nodes out
        self.visit(table.name(), range, options, each)
    }

    fn has_table(&self, table: &Table) -> bool {
        self.db().cf_handle(table.name()).is_some()
    }
}

impl RocksBackend {
    /// Reads every row of every family, values in blob files included, as the engine checks them: a byte that has changed in a
    /// table or blob file is found. Returns the number of rows.
    ///
    /// Errors: the first fault that the engine finds, a failed read, [`StoreError::Cancelled`] once told to end.
    pub fn read_whole(&self, goes_on: GoesOn<'_>) -> Result<u64, StoreError> {
        let view = RocksView::of_whole(&self.db, &self.path);
        let (mut rows, mut ending) = (0, Ending::new(goes_on));
        for family in &self.families {
            let (mut options, mut going) = (view.options(), Ok(()));
            options.set_readahead_size(READAHEAD_BYTES);
            options.fill_cache(false);
            view.visit(family, &KeyRange::ALL, options, &mut |_, _| {
                going = ending.go_on();
                rows += 1;
                if going.is_ok() { Flow::Continue(()) } else { Flow::Break(()) }
            })?;
            going?;
        }
        Ok(rows)
    }
}
