//! A snapshot of the running node, made by the node itself into a catalog on this machine.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest as _, Request, State},
    http::StatusCode,
};
use serde::Deserialize;
use state_pruner::{
    Clock, Doubted, StoreRecords, Unobserved,
    catalog::{self, Captures, CatalogError, CatalogRetention, CreateRequest, Created, Source},
    events::{Event, EventSink as _},
    offline::Steering,
};
use tokio::time::timeout;

use super::{
    Node,
    error::{ApiError, status_of},
    off_the_async_threads,
    retain::read,
    too_late,
};

/// What makes the snapshots of a node.
#[derive(Debug)]
pub struct Snapshots {
    captures: Captures,
    /// The folder of the store.
    db: PathBuf,
    clock: Arc<dyn Clock>,
}

impl Snapshots {
    /// Copies the store that lies in this folder.
    pub fn new(db: PathBuf, clock: Arc<dyn Clock>) -> Self {
        let db = std::path::absolute(&db).unwrap_or(db); // whoever reads an answer may be in another folder
        Self { captures: Captures::default(), db, clock }
    }

    /// Ends a capture that is at work, for good.
    pub fn stop(&self) {
        self.captures.control().stop();
    }

    fn create(&self, node: &Node, body: &CaptureBody) -> Result<Created, CatalogError> {
        let capture = self.captures.begin(&*self.clock)?;
        let max_age = body.max_age_ms.map(Duration::from_millis);
        let retention = CatalogRetention { keep: body.keep, max_age };
        let request = CreateRequest { catalog: &body.catalog, id: capture.id(), retention };
        let source = Source::Node { backend: node.chain.store().backend(), db: &self.db, doubt: &|| node.doubt() };
        let (control, clock) = (Arc::clone(self.captures.control()), Arc::clone(&self.clock));
        catalog::create(&request, &source, &Steering { control, observer: Arc::new(Unobserved), clock })
    }
}

impl Node {
    /// Whether live nodes may be damaged. A node without its pruner has the records of one that found it, and what it met itself
    /// and could not save.
    fn doubt(&self) -> Option<Doubted> {
        let store = self.chain.store();
        let owed = self.damage.owed().map(Doubted::unproven); // BEFORE the records: what is saved meanwhile is in them
        let frozen = self.pruner.as_ref().and_then(|pruner| pruner.status().frozen);
        let found = frozen.map(Doubted::frozen).or_else(|| store.backend().damage().map(Doubted::engine));
        let found = found.or_else(|| self.damage.log_cut().map(Doubted::log_cut));
        found.or_else(|| Doubted::recorded(&StoreRecords(Arc::clone(store)))).or(owed)
    }

    fn not_copied(&self, error: CatalogError) -> ApiError {
        let CatalogError::Prune(error) = error else { return error.into() };
        self.refused(error)
    }
}

/// The body of a request for a snapshot.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaptureBody {
    catalog: PathBuf,
    keep: Option<NonZeroU64>,
    max_age_ms: Option<u64>,
}

/// `POST /v1/snapshots`. Answers when the snapshot is in the catalog; it is made also if the client goes away.
pub(super) async fn create(State(node): State<Arc<Node>>, request: Request) -> Result<Json<Created>, ApiError> {
    let body = timeout(node.patience, Bytes::from_request(request, &node)).await; // one that never comes would keep its connection
    let body: CaptureBody = read(body.map_err(|_| too_late(node.patience))?)?;
    let made = off_the_async_threads(move || {
        let made = node.snapshots.create(&node, &body);
        let event = told(&body.catalog, &made);
        let made = made.map_err(|error| node.not_copied(error));
        node.events.emit(event); // AFTER a fault is saved, as it may wait for the disk
        let made = made?;
        tracing::info!(id = %made.id, catalog = %body.catalog.display(), "a snapshot was made");
        Ok(made)
    });
    made.await.map(Json)
}

fn told(catalog: &Path, made: &Result<Created, CatalogError>) -> Event {
    let catalog = catalog.display().to_string();
    match made {
        Ok(made) => Event::CatalogSnapshotMade {
            id: made.id.to_string(),
            catalog,
            bytes: made.manifest.total_bytes,
            removed: made.removed.snapshots.len() as u64,
        },
        Err(error) => {
            Event::CatalogSnapshotRefused { catalog, error: error.code().to_owned(), message: error.to_string() }
        }
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        if let CatalogError::Prune(error) = error {
            return error.into();
        }
        let told = |status| Self::new(status, error.code(), error.to_string());
        if let CatalogError::CaptureBusy { id, pid, since_ms } = &error {
            let told = told(StatusCode::CONFLICT).with("capture", id.to_string());
            return told.with("pid", *pid).with("since_ms", *since_ms);
        }
        let bad = matches!(error, CatalogError::BadPlace { .. } | CatalogError::NotACatalog { .. });
        told(if bad { StatusCode::BAD_REQUEST } else { status_of(error.disposition()) })
    }
}

#[cfg(test)]
mod tests {
    use state_store::{Fault, FaultyBackend, Lasting, MemoryBackend, Operation, StoreError};
    use state_tree::{NodeHash, TreeError};

    use super::{super::tests::node_on, *};
    use crate::chain::{ChainError, ReadError};

    /// I11: older snapshots are held for it, whatever the device takes.
    #[test]
    fn a_node_without_a_pruner_doubts_its_store_for_a_fault_that_a_full_device_did_not_take() {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        let node = node_on(Arc::new(faulty.clone()), None);
        assert_eq!(node.doubt(), None);
        faulty.inject(Operation::Write, 0, Fault::DiskFull, Lasting::UntilHealed);
        let meet = |hash| {
            let missing = ChainError::from(TreeError::Missing(NodeHash::new([hash; 32])));
            node.damage.met_by_read(&ReadError::Chain(missing));
        };
        meet(1);
        assert!(faulty.met() > 0, "it is on no record");
        let doubt = node.doubt().unwrap();
        assert!(doubt.code == "unproven" && doubt.why.contains(&NodeHash::new([1; 32]).to_string()), "{doubt:?}");
        faulty.heal();
        meet(2);
        assert_eq!(node.damage.owed(), None, "both are saved");
        assert_eq!(node.doubt().map(|doubt| doubt.code), Some("unproven"), "and on record");
    }

    /// I11: as what a read meets.
    #[test]
    fn what_a_copy_meets_is_in_doubt_also_where_it_could_not_be_saved() {
        let faulty = FaultyBackend::over(MemoryBackend::new());
        let node = node_on(Arc::new(faulty.clone()), None);
        faulty.inject(Operation::Write, 0, Fault::DiskFull, Lasting::UntilHealed);
        let refused = |error: StoreError| node.not_copied(CatalogError::Prune(error.into()));
        assert!(refused(StoreError::Corrupt("1.sst: a checksum".to_owned())).message().contains("1.sst"));
        assert!(node.doubt().unwrap().why.contains("1.sst: a checksum"), "{:?}", node.doubt());
        assert_eq!(node.damage.met().map(|(_, times)| times), Some(1), "health tells it");
        faulty.heal();
        refused(StoreError::DiskFull { what: "copying".to_owned() });
        assert_eq!(node.damage.met().map(|(_, times)| times), Some(1), "that is no damage");
        refused(StoreError::Corrupt("2.sst: a checksum".to_owned()));
        assert_eq!(node.damage.owed(), None, "both are saved");
    }
}
