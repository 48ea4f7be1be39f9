//! Health from outside on a store with very many files: whoever watches a node asks for it again and again.
//!
//!     ./scripts/bench --bench health -- [--files N] [--rounds N] [--check]

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::{path::Path, process::ExitCode, sync::Arc, time::Instant};

use state_benches::{Bound, Error, Table, args, chain::percentile};
use state_pruner::{
    PruneError,
    offline::{HealthRequest, health_of_opened},
};
use state_store::{
    Backend, Batch, Durability, KeyRange, NodeFile, RocksBackend, RocksConfig, Space, Store, StoreConfig, StoreError,
    SweepSlot, View,
};

/// Bytes of a file: a hundred thousand of them are three tebibytes.
const FILE_BYTES: u64 = 32 << 20;

/// A small store that says it has these files.
struct ManyFiles {
    inner: RocksBackend,
    files: Vec<NodeFile>,
}

impl ManyFiles {
    fn new(dir: &Path, count: u64) -> Result<Self, StoreError> {
        let key = |number: u64| (number * (u64::MAX / count)).to_be_bytes().to_vec();
        let file = |number| NodeFile {
            number,
            level: if number % 10 == 0 { 5 } else { 6 },
            bytes: FILE_BYTES,
            first: key(number),
            last: key(number + 1),
            entries: 1,
            deletes: 0,
        };
        let shuffled = (0..count).map(|number| file(number.wrapping_mul(7_919) % count));
        Ok(Self { inner: RocksBackend::open(dir, &RocksConfig::default())?, files: shuffled.collect() })
    }
}

impl Backend for ManyFiles {
    fn view(&self) -> Result<Arc<dyn View>, StoreError> {
        self.inner.view()
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        self.inner.write(batch, durability)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush()
    }

    fn rewrite_files(&self, range: &KeyRange) -> Result<(), StoreError> {
        self.inner.rewrite_files(range)
    }

    fn cancel_rewrite(&self) {
        self.inner.cancel_rewrite();
    }

    fn node_files(&self) -> Result<Vec<NodeFile>, StoreError> {
        Ok(self.files.clone())
    }

    fn node_rows_hint(&self) -> Result<u64, StoreError> {
        self.inner.node_rows_hint()
    }

    fn space(&self) -> Result<Space, StoreError> {
        self.inner.space()
    }

    fn node_blob_bytes(&self) -> Result<u64, StoreError> {
        self.inner.node_blob_bytes()
    }

    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        Ok(Some(u64::MAX))
    }

    fn sweep_slot(&self) -> Option<Arc<SweepSlot>> {
        self.inner.sweep_slot()
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => panic!("{error}"),
    }
}

fn run() -> Result<ExitCode, Error> {
    let count = args::number("--files").unwrap_or(100_000);
    let rounds = args::number("--rounds").unwrap_or(5);
    let dir = tempfile::tempdir()?;
    let backend = Arc::new(ManyFiles::new(dir.path(), count)?);
    let store = Arc::new(Store::open(backend, StoreConfig::new(Durability::Logged))?);
    let request = HealthRequest::new(Path::new("nowhere"), None);
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        match health_of_opened(Arc::clone(&store), &request) {
            Ok(_) | Err(PruneError::NothingKnown { .. }) => times.push(start.elapsed()),
            Err(error) => return Err(error.into()),
        }
    }
    times.sort();
    let mut table = Table::default();
    table.number("files of the node family", (count as f64, "files"), Bound::None);
    let ms = |share: f64| (percentile(&times, share).as_secs_f64() * 1e3, "ms");
    table.number("health from outside, p50", ms(0.5), Bound::None);
    table.number("health from outside, longest", ms(1.0), Bound::AtMost(1_000.0));
    Ok(table.finish())
}
