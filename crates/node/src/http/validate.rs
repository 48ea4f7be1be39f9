//! Validation of a running node: its snapshots, locks, records and recovery. Whoever works is not disturbed.

use std::{io, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use state_pruner::{
    Pruner,
    events::EventJournal,
    validate::{SnapshotValidator, ValidationReport},
};
use tokio_util::sync::CancellationToken;

use super::{Node, error::ApiError, in_turn, off_the_async_threads, operate::enabled, query::Query};

/// `POST /v1/validate?deep=true`: a deep one reads every row of the pruner's, of roots and of the journal. Others look one at a
/// time, because each captures and has threads of its own; one under way ends also where its client has gone.
pub(super) async fn validate(State(node): State<Arc<Node>>, uri: Uri) -> Result<Response, ApiError> {
    let mut query = Query::parse(&uri)?;
    let deep = query.flag("deep")?;
    query.finish()?;
    let pruner = enabled(&node)?;
    if deep == Some(true) {
        return deeply(node, pruner);
    }
    let runtime = tokio::runtime::Handle::current();
    let turns = Arc::clone(&node.looking);
    let report = in_turn(&turns, move || {
        let validator = validator(&pruner, &node.events);
        let report = runtime.block_on(validator.run_comprehensive_validation());
        keep(&pruner, &report);
        Ok(report)
    });
    Ok(Json(report.await?).into_response())
}

/// Begins to answer at once, for it may take longer than other requests may, and ends the work when the client goes away or
/// the node stops: what was found by then is kept, and that nothing was is not. One at a time reads.
fn deeply(node: Arc<Node>, pruner: Arc<Pruner>) -> Result<Response, ApiError> {
    let Ok(alone) = Arc::clone(&node.validating).try_acquire_owned() else {
        let message = "a deep validation is at work, which reads every row: wait for its end";
        return Err(ApiError::new(StatusCode::CONFLICT, "validating", message));
    };
    let ended = node.stop.child_token();
    let runtime = tokio::runtime::Handle::current();
    let body = stream::once(async move {
        let asked = ended.clone();
        let work = off_the_async_threads(move || {
            let _alone = alone; // until the work ends, also where its client has gone
            let wanted = asked.clone();
            let validator = validator(&pruner, &node.events).deep(move || !wanted.is_cancelled());
            let report = runtime.block_on(validator.run_comprehensive_validation());
            if !asked.is_cancelled() || !report.is_sound() {
                keep(&pruner, &report);
            }
            Ok(report)
        });
        let report = awaited(ended, work).await.map_err(|error| io::Error::other(format!("{error:?}")))?;
        serde_json::to_vec(&report).map_err(io::Error::other)
    });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
}

/// What the work comes to, also where that is a failure. Dropped before, it ends the work.
async fn awaited<T>(ended: CancellationToken, work: impl Future<Output = T>) -> T {
    let mut awaited = Awaited(Some(ended));
    let answer = work.await;
    awaited.0 = None;
    answer
}

/// An answer that somebody waits for.
struct Awaited(Option<CancellationToken>);

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            ended.cancel();
            tracing::info!("nobody waits any more for the deep validation under way, which ends");
        }
    }
}

fn validator(pruner: &Pruner, events: &EventJournal) -> SnapshotValidator {
    let validator = pruner.validator();
    match events.status().path.parent() {
        Some(dir) => validator.with_events(dir.to_owned()),
        None => validator,
    }
}

/// What it came to is judged by health from then on, also where it could not be saved.
fn keep(pruner: &Pruner, report: &ValidationReport) {
    if let Err(error) = pruner.keep_validation(report) {
        tracing::error!(%error, "the outcome of the validation could not be saved");
    }
    if !report.is_sound() {
        tracing::warn!("{}", report.detailed_report());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        task::{Context, Waker},
        time::Duration,
    };

    use axum::{extract::State, http::Uri};
    use parking_lot::Mutex;
    use reqwest::StatusCode;
    use serde_json::{Value, json};
    use state_pruner::{
        SystemClock,
        validate::{Check, ValidationReport, ValidationResult},
    };
    use state_store::{Backend, Batch, Durability, FaultyBackend, Flow, KeyRange, MemoryBackend, Table};
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use super::{
        super::{off_the_async_threads, tests::node_on},
        ApiError, awaited, validate,
    };
    use crate::{app::App, config::Config};

    /// What failed or panicked has ended by itself, and its client waited for it.
    #[tokio::test]
    async fn only_work_that_nobody_waits_for_is_told_to_end() {
        let ended = CancellationToken::new();
        let failed = off_the_async_threads(|| Err::<(), _>(ApiError::internal("it".to_owned())));
        assert!(awaited(ended.clone(), failed).await.is_err());
        let panicked = off_the_async_threads(|| -> Result<(), ApiError> { panic!("it") });
        assert!(awaited(ended.clone(), panicked).await.is_err());
        assert!(!ended.is_cancelled());
        let mut unanswered = Box::pin(awaited(ended.clone(), std::future::pending::<()>()));
        assert!(unanswered.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(unanswered);
        assert!(ended.is_cancelled());
    }

    /// Clients that ask and go away could otherwise begin any number of them.
    #[tokio::test(flavor = "multi_thread")]
    async fn validations_look_one_at_a_time_also_when_their_clients_have_gone() {
        let (folder, faulty) = (tempfile::tempdir().unwrap(), FaultyBackend::over(MemoryBackend::new()));
        let set = [format!("node.data_dir={}", folder.path().display()), "pruner.incremental=off".to_owned()];
        let pruning = Config::parse("test", "", &set).unwrap().pruner();
        let node = Arc::new(node_on(Arc::new(faulty.clone()), pruning));
        let (hold, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        faulty.before_each(move || assert!(held.lock().recv().is_err())); // waits until the other end is dropped, and then no more
        let ask = || validate(State(Arc::clone(&node)), Uri::from_static("/v1/validate"));
        let moment = Duration::from_millis(1);
        assert!(timeout(moment, ask()).await.is_err(), "the client has gone while the validation goes on");
        assert_eq!(node.looking.available_permits(), 0);
        assert!(timeout(moment, ask()).await.is_err(), "another one waits");
        drop(hold);
        let answer = timeout(Duration::from_secs(60), ask()).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(node.looking.available_permits(), 1);
    }

    /// Flips a bit of the oldest row of the commit journal, and says how many there are.
    fn flip_the_oldest(backend: &dyn Backend) -> usize {
        let mut rows = Vec::new();
        let mut each = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            Flow::Continue(())
        };
        backend.view().unwrap().scan(&Table::JOURNAL, &KeyRange::ALL, &mut each).unwrap();
        let (key, mut value) = rows[0].clone();
        *value.last_mut().unwrap() ^= 1;
        let mut batch = Batch::new();
        batch.put(Table::JOURNAL, key, value);
        backend.write(&batch, Durability::Logged).unwrap();
        rows.len()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_running_node_is_validated_deeply_when_asked_and_its_health_has_what_that_found() {
        let folder = tempfile::tempdir().unwrap();
        let set = [
            "node.listen=127.0.0.1:0".to_owned(),
            format!("node.data_dir={}", folder.path().display()),
            "chain.block_interval=1ms".to_owned(),
            "chain.durability=logged".to_owned(),
            "pruner.incremental=off".to_owned(),
        ];
        let config = Config::parse("test", "", &set).unwrap();
        let app = App::start(&config, Arc::new(SystemClock::new())).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let post = async |path: &str, body: Value| {
            client.post(format!("http://{}/{path}", app.address())).json(&body).send().await.unwrap()
        };
        let integrity = async |query: &str| {
            let response = post(&format!("v1/validate{query}"), json!({})).await;
            assert_eq!(response.status(), StatusCode::OK);
            let report: ValidationReport = response.json().await.unwrap();
            report.of(Check::Integrity).unwrap().clone()
        };
        for name in 1..=20_u8 {
            let object = json!({ "id": hex::encode([name; 32]), "owner": "00".repeat(32), "value": "aa" });
            let submitted = post("v1/transactions", json!({ "create_object": object })).await;
            assert_eq!(submitted.status(), StatusCode::OK);
        }
        let rows = {
            let deep = integrity("?deep=true").await;
            let rows = flip_the_oldest(app.chain().store().backend());
            let ValidationResult::Passed { evidence } = deep else { panic!("{deep:?}") };
            assert!(evidence.contains(&format!("all {rows} rows of the commit journal")), "{evidence}");
            rows
        };
        assert!(rows > 16, "{rows}");
        for look in ["", "?deep=false"] {
            let seen = integrity(look).await;
            assert!(matches!(seen, ValidationResult::Passed { .. }), "{look}: {seen:?}");
        }
        let deep = integrity("?deep=true").await;
        assert!(matches!(deep, ValidationResult::Failed { .. }), "{deep:?}");
        let health: Value =
            client.get(format!("http://{}/healthz", app.address())).send().await.unwrap().json().await.unwrap();
        assert!(health.to_string().contains("validation_failed"), "{health}");
        assert_eq!(post("v1/validate?deep=much", json!({})).await.status(), StatusCode::BAD_REQUEST);
        app.stop().await.unwrap();
    }
}
