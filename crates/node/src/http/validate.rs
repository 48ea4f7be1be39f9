//! Validation of a running node: its snapshots, locks, records and recovery. Whoever works is not disturbed.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use state_pruner::{Pruner, events::EventJournal, validate::ValidationReport};

use super::{Node, error::ApiError, off_the_async_threads, operate::enabled, query::Query};

/// `POST /v1/validate`.
pub(super) async fn validate(State(node): State<Arc<Node>>, uri: Uri) -> Result<Json<ValidationReport>, ApiError> {
    Query::parse(&uri)?.finish()?;
    let pruner = enabled(&node)?;
    let runtime = tokio::runtime::Handle::current();
    off_the_async_threads(move || Ok(runtime.block_on(run(&pruner, &node.events)))).await.map(Json)
}

/// What it came to is judged by health from then on, also where it could not be saved.
async fn run(pruner: &Pruner, events: &EventJournal) -> ValidationReport {
    let mut validator = pruner.validator();
    if let Some(dir) = events.status().path.parent() {
        validator = validator.with_events(dir.to_owned());
    }
    let report = validator.run_comprehensive_validation().await;
    if let Err(error) = pruner.keep_validation(&report) {
        tracing::error!(%error, "the outcome of the validation could not be saved");
    }
    if !report.is_sound() {
        tracing::warn!("{}", report.detailed_report());
    }
    report
}
