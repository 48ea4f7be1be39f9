//! A whole node on port 0 with RocksDB in a temporary folder, asked over HTTP as a client would.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that meets the unexpected has failed")]

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use state_node::{
    app::{App, Stopped},
    chain::{Hex32, ObjectPath},
    config::Config,
    http::{Submitted, WireAnswer, WireBlock, WireProof},
};
use state_pruner::{
    Freeze, RecordKey, Records as _, StoreRecords, SystemClock,
    events::{Filter, journal_dir, read_journal},
    offline::{CycleDue, HealthRequest, health_of_store},
};
use state_store::record;
use tempfile::TempDir;

struct Running {
    app: App,
    client: Client,
    folder: TempDir,
}

/// The metrics belong to the process: whoever reads them has them set to what its own node says.
static SCRAPE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Running {
    async fn start(settings: &[&str]) -> Self {
        Self::start_in(TempDir::new().unwrap(), settings).await
    }

    async fn start_in(folder: TempDir, settings: &[&str]) -> Self {
        Self::start_changed(folder, settings, |_| {}).await
    }

    /// With values that the check of a configuration would refuse.
    async fn start_changed(folder: TempDir, settings: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        let mut set = vec![
            "node.listen=127.0.0.1:0".to_owned(),
            format!("node.data_dir={}", folder.path().display()),
            "chain.block_interval=1ms".to_owned(),
            "chain.durability=logged".to_owned(),
            "pruner.incremental=off".to_owned(), // what goes, and when, is for the tests to say
        ];
        set.extend(settings.iter().map(|text| (*text).to_owned()));
        let mut config = Config::parse("test", "", &set).unwrap();
        change(&mut config);
        let app = App::start(&config, Arc::new(SystemClock::new())).await.unwrap();
        let client = Client::builder().no_proxy().build().unwrap();
        Self { app, client, folder }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.app.address())
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    async fn metrics(&self) -> String {
        let _alone = SCRAPE.lock().await;
        self.get("metrics").await.text().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).json(body).send().await.unwrap()
    }

    async fn submit(&self, body: &Value) -> Submitted {
        let response = self.post("v1/transactions", body).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    /// Asks for a cycle, waits for its end and returns the floor.
    async fn prune(&self) -> u64 {
        let asked = self.post("v1/prune/run", &json!({})).await;
        assert_eq!(asked.status(), StatusCode::ACCEPTED);
        for _ in 0..100_000 {
            let status: Value = self.get("v1/status").await.json().await.unwrap();
            if status["pruner"]["cycles_finished"] == 1 && status["pruner"]["running"] == false {
                return status["floor"].as_u64().unwrap();
            }
        }
        panic!("the cycle never ends");
    }

    async fn stop(self) -> TempDir {
        self.app.stop().await.unwrap();
        self.folder
    }
}

fn path(name: u8) -> ObjectPath {
    ObjectPath::top([name; 32])
}

fn create(name: u8, value: &str) -> Value {
    json!({ "create_object": { "id": path(name), "owner": Hex32([9; 32]), "value": value } })
}

fn set(name: u8, value: &str) -> Value {
    json!({ "set_value": { "id": path(name), "value": value } })
}

async fn error(response: Response) -> Value {
    let body: Value = response.json().await.unwrap();
    body["error"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_checks_presence_and_absence_with_nothing_but_the_root_of_a_block() {
    let node = Running::start(&[]).await;
    let submitted = node.submit(&json!([create(1, "aa"), create(2, "bb"), set(3, "cc")])).await;
    let outcomes: Vec<Value> = submitted.receipts.iter().map(|receipt| json!(receipt.outcome)).collect();
    assert_eq!(outcomes, [json!("applied"), json!("applied"), json!({ "failed": "no_such_object" })]);
    let order = submitted.order;
    let block: WireBlock = node.get(&format!("v1/blocks/{order}")).await.json().await.unwrap();
    assert_eq!(block.hash, block.block.hash().unwrap());

    let url = format!("v1/objects/{}?order={order}&proof=true", path(1));
    let answer: WireAnswer = node.get(&url).await.json().await.unwrap();
    let proof = answer.proof.unwrap();
    assert_eq!(proof.root, block.block.state_root);
    assert_eq!(proof.verify(&path(1)).unwrap().unwrap().value, [0xaa]);
    assert!(proof.verify(&path(2)).is_err(), "a proof is for one path");

    let plain = ["status", "pins", "consumers", "events/verify", &format!("blocks/{order}")]
        .map(|plain| format!("v1/{plain}?x=1"));
    for asked in plain {
        let refused = node.get(&asked).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{asked}");
        assert_eq!(error(refused).await["message"], "unknown parameter x");
    }
    let response = node.get(&format!("v1/objects/{}?proof=true", path(3))).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let absent = error(response).await;
    assert_eq!(absent["code"], "not_found");
    let proof: WireProof = serde_json::from_value(absent["proof"].clone()).unwrap();
    assert_eq!(proof.root, block.block.state_root);
    assert!(proof.verify(&path(3)).unwrap().is_none());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_root_returns_pruned_with_the_floor() {
    let settings =
        ["pruner.keep_last=3", "pruner.every_orders=1000000", "pruner.garbage_ratio=none", "chain.keep_blocks=5"];
    let node = Running::start(&settings).await;
    node.submit(&create(1, "00")).await;
    for round in 1..12_u8 {
        node.submit(&set(1, &hex::encode([round]))).await;
    }
    let floor = node.prune().await;
    assert_eq!(floor, 10, "of orders 0 to 12 the last three stay");

    let response = node.get(&format!("v1/objects/{}?order=1", path(1))).await;
    assert_eq!(response.status(), StatusCode::GONE);
    let pruned = error(response).await;
    assert_eq!(pruned["code"], "pruned");
    let told = pruned["floor"].as_u64().unwrap();
    assert_eq!(told, floor);
    let kept: WireAnswer =
        node.get(&format!("v1/objects/{}?order={told}&proof=true", path(1))).await.json().await.unwrap();
    assert!(kept.proof.unwrap().verify(&path(1)).unwrap().is_some());

    let response = node.get(&format!("v1/objects/{}?order=999999", path(1))).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let never = error(response).await;
    assert_eq!(never["code"], "never_existed");
    assert!(never["head"].as_u64().unwrap() >= floor);

    let block = node.get("v1/blocks/1").await;
    assert_eq!(block.status(), StatusCode::GONE);
    let first = error(block).await["floor"].as_u64().unwrap();
    assert_eq!(node.get(&format!("v1/blocks/{first}")).await.status(), StatusCode::OK);
    assert_eq!(first, told - 2, "five blocks are kept for three states");
    assert_eq!(error(node.get("v1/blocks/999999").await).await["code"], "never_existed");
    node.stop().await;
}

/// L15: states and blocks are two classes with a window each, from one policy.
#[tokio::test(flavor = "multi_thread")]
async fn each_class_is_pruned_by_its_own_window() {
    let settings =
        ["pruner.keep_last=3", "pruner.every_orders=1000000", "pruner.garbage_ratio=none", "chain.keep_blocks=9"];
    let node = Running::start(&settings).await;
    node.submit(&create(1, "00")).await;
    for round in 1..12_u8 {
        node.submit(&set(1, &hex::encode([round]))).await;
    }
    assert_eq!(node.prune().await, 10);
    for order in 1..=12_u64 {
        let state = node.get(&format!("v1/objects/{}?order={order}", path(1))).await.status();
        let block = node.get(&format!("v1/blocks/{order}")).await.status();
        let kept = |is_kept| if is_kept { StatusCode::OK } else { StatusCode::GONE };
        assert_eq!((state, block), (kept(order >= 10), kept(order >= 4)), "order {order}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mempool_answers_429_with_retry_after() {
    let settings = [
        "node.request_timeout=2h",
        "chain.block_interval=1h",
        "chain.max_block_transactions=8",
        "chain.mempool_limit=8",
    ];
    let node = Running::start(&settings).await;
    // The first block opens at once; what comes after it waits for the next one, in an hour.
    node.submit(&create(1, "00")).await;
    let waiting = node.post("v1/transactions?wait=false", &json!([set(1, "01"), set(1, "02"), set(1, "03")])).await;
    assert_eq!(waiting.status(), StatusCode::ACCEPTED);
    let accepted: Value = waiting.json().await.unwrap();
    assert_eq!(accepted["ids"].as_array().unwrap().len(), 3);

    let refused = node.post("v1/transactions", &json!(vec![set(1, "04"); 6])).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "3600");
    assert_eq!(error(refused).await["code"], "mempool_full");

    let full = node.submit(&json!(vec![set(1, "05"); 5])).await; // eight wait now: the block is cut by size
    assert_eq!(full.order, 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mempool_without_room_for_more_bytes_answers_429_as_well() {
    let settings = ["node.request_timeout=2h", "chain.block_interval=1h", "chain.mempool_bytes=16 MiB"];
    let node = Running::start(&settings).await;
    node.submit(&create(1, "00")).await;
    let long = json!(vec![set(1, &"00".repeat(64 << 10)); 100]);
    for _ in 0..2 {
        assert_eq!(node.post("v1/transactions?wait=false", &long).await.status(), StatusCode::ACCEPTED);
    }
    let refused = node.post("v1/transactions?wait=false", &long).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "3600");
    assert_eq!(error(refused).await["limit_bytes"], 16 << 20);
    node.stop().await;
}

/// The outcome is unknown, not "refused": the transactions wait, and are committed when their block comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_waits_too_long_is_told_its_ids_and_is_still_committed() {
    let settings = ["node.request_timeout=2h", "chain.block_interval=1h"]; // its block comes when the node stops
    let patience = |config: &mut Config| config.node.request_timeout = Duration::from_secs(3);
    let node = Running::start_changed(TempDir::new().unwrap(), &settings, patience).await;
    let created = serde_json::from_value(create(1, "00")).unwrap();
    let first = node.app.chain().submit(vec![created]).unwrap().pop().unwrap(); // not by a request, which might be late itself
    first.reply.await.unwrap().unwrap();
    let late = node.post("v1/transactions", &json!([set(1, "07"), set(1, "08")])).await;
    assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
    let late = error(late).await;
    assert_eq!(late["code"], "outcome_unknown");
    assert_eq!(late["ids"].as_array().unwrap().len(), 2, "{late}");
    let again = Running::start_in(node.stop().await, &settings).await;
    let answer: WireAnswer = again.get(&format!("v1/objects/{}", path(1))).await.json().await.unwrap();
    assert_eq!(answer.object.unwrap().value.0, [8]);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_in_time_is_answered_with_json() {
    let node = Running::start(&["node.request_timeout=300ms"]).await;
    for path in ["transactions", "snapshots", "pins/x"] {
        let mut stream = std::net::TcpStream::connect(node.app.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 9\r\n\r\n";
        stream.write_all(format!("POST /v1/{path} {head}").as_bytes()).unwrap();
        let answer = tokio::task::spawn_blocking(move || std::io::read_to_string(stream).unwrap()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains(r#""code":"timeout""#), "{path}: {answer}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_read_at_once_are_bounded_by_their_bytes() {
    let node = Running::start(&["node.request_timeout=2h"]).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut stream = std::net::TcpStream::connect(node.app.address()).unwrap();
        let head = format!("POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", 16 << 20);
        stream.write_all(head.as_bytes()).unwrap();
        stalled.push(stream);
    }
    // Until the node has seen all of them, others still pass.
    let (mut passed, patience) = (0, Duration::from_millis(200));
    while tokio::time::timeout(patience, node.post("v1/transactions", &set(1, "00"))).await.is_ok() {
        passed += 1;
        assert!(passed < 1000, "nothing bounds the bodies that are read at once");
    }
    drop(stalled);
    assert_eq!(node.post("v1/transactions", &set(1, "00")).await.status(), StatusCode::OK);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_commits_what_waits_and_a_restart_finds_it() {
    let settings = ["node.request_timeout=2h", "chain.block_interval=1h"];
    let node = Running::start(&settings).await;
    node.submit(&create(1, "00")).await;
    let accepted = node.post("v1/transactions?wait=false", &json!([set(1, "0a"), create(2, "0b")])).await;
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let folder = node.stop().await;

    let again = Running::start_in(folder, &settings).await;
    for (name, value) in [(1, 0x0a), (2, 0x0b)] {
        let url = format!("v1/objects/{}?proof=true", path(name));
        let answer: WireAnswer = again.get(&url).await.json().await.unwrap();
        assert_eq!(answer.object.unwrap().value.0, [value]);
    }
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_wrong_gets_an_error_that_says_so() {
    let node = Running::start(&[]).await;
    let rows = [
        ("v1/transactions", json!({ "set_value": { "id": "zz", "value": "" } }), 400, "json"),
        ("v1/transactions", json!({ "unknown": {} }), 400, "json"),
        ("v1/transactions", json!([]), 400, "bad_request"),
        ("v1/transactions?wiat=false", set(1, "00"), 400, "bad_request"),
        ("v1/transactions", set(1, &"00".repeat(70_000)), 400, "malformed"),
        ("v1/prune/explode", json!({}), 404, "unknown_command"),
        ("v1/prune/pause", json!({}), 409, "not_running"),
        ("v1/prune/resume", json!({}), 409, "not_running"),
        ("v1/prune/cancel", json!({}), 409, "not_running"),
        ("v1/prune/unfreeze", json!({}), 409, "not_frozen"),
        ("v1/prune/pause?id=a", json!({}), 400, "bad_request"),
        ("v1/prune/run?id=", json!({}), 400, "bad_request"),
        ("v1/prune/run?id=a%20b", json!({}), 400, "bad_request"),
        ("v1/prune/run?di=a", json!({}), 400, "bad_request"),
        ("v1/nothing", json!({}), 404, "no_route"),
        ("v1/status", json!({}), 405, "method"),
    ];
    for (at, body, status, code) in rows {
        let response = node.post(at, &body).await;
        assert_eq!(response.status().as_u16(), status, "{at}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"].as_str().unwrap_or(""), code, "{at}: {body}");
    }
    for at in
        ["v1/events?code=zzz", "v1/objects/zz", "v1/blocks/first", "v1/blocks/-1", "v1/objects/%FF", "v1/blocks/%FF"]
    {
        let response = node.get(at).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{at}");
        assert_eq!(error(response).await["code"], "bad_request", "{at}");
    }
    let huge = node.client.post(node.url("v1/transactions")).body(vec![b' '; (16 << 20) + 1]).send().await.unwrap();
    assert_eq!(huge.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let page = node.client.post(node.url("v1/prune/run")).header("origin", "http://evil.example").send().await.unwrap();
    assert_eq!(page.status(), StatusCode::FORBIDDEN);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_an_id_runs_one_cycle_however_often_it_is_sent() {
    let node =
        Running::start(&["pruner.keep_last=3", "pruner.every_orders=1000000", "pruner.garbage_ratio=none"]).await;
    node.submit(&create(1, "00")).await;
    for round in 0..2 {
        for _ in 0..3 {
            let answer = node.post("v1/prune/run?id=nightly-7", &json!({})).await;
            assert!(answer.status().is_success(), "{round}: {}", answer.text().await.unwrap());
        }
        loop {
            let status: Value = node.get("v1/status").await.json().await.unwrap();
            if status["pruner"]["running"] == false && status["pruner"]["triggers"]["requested"] == false {
                assert_eq!(status["pruner"]["cycles_finished"], 1, "{round}");
                assert_eq!(status["pruner"]["triggers"]["runs"][0]["trigger"], "operator");
                break;
            }
        }
    }
    let answer = node.post("v1/prune/run?id=nightly-7", &json!({})).await;
    assert_eq!(answer.status(), StatusCode::OK, "nothing was accepted");
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "reply": "already_served", "run": 1 }));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_metrics_and_status_tell_what_the_node_does() {
    let node = Running::start(&["pruner.enabled=false"]).await;
    let metrics = node.metrics().await;
    assert!(metrics.contains("\nstate_node_commits_total "), "before the first block\n{metrics}");
    node.submit(&create(1, "00")).await;
    assert_eq!(node.get("readyz").await.status(), StatusCode::OK);
    let health: Value = node.get("healthz").await.json().await.unwrap();
    assert_eq!(
        (&health["verdict"], &health["reasons"][0]["code"]),
        (&json!("healthy"), &json!("unpruned")),
        "{health}"
    );
    assert_eq!(health["reasons"].as_array().unwrap().len(), 1);
    let metrics = node.metrics().await;
    for name in [
        "state_node_head_order",
        "# HELP state_node_head_order",
        "state_node_health_verdict",
        "state_node_commits_total",
        "state_node_commit_seconds",
        "state_node_store_bytes",
    ] {
        assert!(metrics.contains(name), "{name}\n{metrics}");
    }
    let status: Value = node.get("v1/status").await.json().await.unwrap();
    assert_eq!(status["head"]["order"], 1);
    assert_eq!(status["pruner"], Value::Null);
    assert!(status["space"]["total"].as_u64().unwrap() > 0);
    let disabled = node.post("v1/prune/run", &json!({})).await;
    assert_eq!(error(disabled).await["code"], "pruner_disabled");
    node.stop().await;
}

/// Codes of the reasons of a node, but that it does not prune where it is to.
async fn reasons(node: &Running) -> Vec<String> {
    let health: Value = node.get("healthz").await.json().await.unwrap();
    let codes = health["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap());
    codes.filter(|code| *code != "unpruned").map(str::to_owned).collect()
}

/// A freeze that an earlier process left holds whether or not anybody prunes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_prune_is_judged_as_its_store_is_from_outside() {
    let settings = ["pruner.enabled=false", "pruner.reserve=1 MiB"];
    let node = Running::start(&settings).await;
    node.submit(&create(1, "00")).await;
    assert_eq!(reasons(&node).await, [""; 0]);
    let records = StoreRecords(Arc::clone(node.app.chain().store()));
    let freeze = Freeze { cycle: 3, at: 1, why: "a node is missing".to_owned() };
    records.save(RecordKey::Freeze, &record::encode(&freeze).unwrap()).unwrap();
    for torn in [RecordKey::Validation, RecordKey::Quarantine, RecordKey::Phase] {
        records.save(torn, b"torn").unwrap();
    }
    drop(records);
    let node = Running::start_in(node.stop().await, &settings).await;
    assert_eq!(node.get("healthz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let told = reasons(&node).await;
    assert_eq!(told, ["frozen", "validation_failed", "poison_items", "record_unreadable"]);
    let health: Value = node.get("healthz").await.json().await.unwrap();
    let says_how = |reason: &Value| reason["message"].as_str().unwrap().contains("set it to true and restart the node");
    let advised: Vec<bool> = health["reasons"].as_array().unwrap().iter().map(says_how).collect();
    assert_eq!(advised, [true, true, true, true, false], "it refuses those commands, and tells why: {health}");
    let all_told: Vec<_> = health["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].clone()).collect();
    let status: Value = node.get("v1/status").await.json().await.unwrap();
    assert_eq!(status["validation"]["open"].as_array().map(Vec::len), Some(1), "{status}");
    let db = node.folder.path().join("store");
    let reserve = std::num::NonZeroU64::new(1 << 20);
    let request = HealthRequest { due: CycleDue::Never, reserve, ..HealthRequest::new(&db, None) };
    let outside = health_of_store(&request).unwrap();
    let outside: Vec<String> = outside.reasons.into_iter().map(|reason| reason.code).collect();
    assert_eq!(outside, all_told, "beside it");
    let node = Running::start_in(node.stop().await, &["pruner.reserve=1 MiB"]).await;
    let health: Value = node.get("healthz").await.json().await.unwrap();
    let reasons = health["reasons"].as_array().unwrap();
    assert!(!reasons.is_empty() && !reasons.iter().any(says_how), "it has a pruner: {health}");
    node.stop().await;
}

/// A copy of the store of a node that runs, as one that was killed leaves it, with damage in the middle of its log.
fn copy_with_damaged_log(node: &Running) -> TempDir {
    let (folder, from) = (TempDir::new().unwrap(), node.folder.path().join("store"));
    let to = folder.path().join("store");
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let files = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
    let log = logs.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[at] ^= 1;
    std::fs::write(log, bytes).unwrap();
    folder
}

/// What a command says, and how it exits.
async fn said(arguments: &[&str], code: i32, words: &str) {
    let (exit, said) = command(arguments).await;
    assert!(exit == code && said.contains(words), "{arguments:?} exits {exit}: {said}");
}

/// The engine goes on with what was written before the damage, and finds nothing wrong at the start after that.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_went_with_a_damaged_log_are_told_by_every_process_until_somebody_has_seen_to_it() {
    for pruner in ["pruner.enabled=false", "pruner.enabled=true"] {
        let settings = [pruner, "pruner.reserve=1 MiB"];
        let node = Running::start(&settings).await;
        for name in 1..=20 {
            node.submit(&create(name, "00")).await;
        }
        let mut folder = copy_with_damaged_log(&node);
        node.stop().await;
        let told_at_rest = |folder: &TempDir| {
            let request =
                HealthRequest { due: CycleDue::Never, ..HealthRequest::new(&folder.path().join("store"), None) };
            let reasons = health_of_store(&request).unwrap().reasons;
            reasons.into_iter().find(|reason| reason.code == "log_cut").map(|reason| reason.message)
        };
        assert!(told_at_rest(&folder).unwrap().contains("The next start goes on without"), "before it is too late");
        let db = folder.path().join("store").display().to_string();
        said(&["rollback", "--to", "0", "--db", &db], 1, "Nothing was changed").await;
        said(&["rollback", "--to", "99", "--db", &db], 1, "Nothing was changed").await;
        let next = "The next start goes on without";
        said(&["verify", "--layout", "native", "--keep-last", "5", "--db", &db], 0, next).await;
        said(&["validate", "--db", &db], 1, next).await;
        for _ in 0..2 {
            let node = Running::start_in(folder, &settings).await;
            let status: Value = node.get("v1/status").await.json().await.unwrap();
            let head = status["head"]["order"].as_u64().unwrap();
            assert!(head < 20, "{head}");
            assert_eq!(reasons(&node).await, ["log_cut"]);
            let told: Value = node.get("v1/events?code=log_cut").await.json().await.unwrap();
            let told = told["events"].as_array().unwrap().clone();
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!(told[0]["data"]["head"], head);
            assert!(told_at_rest(&node.folder).unwrap().contains(&format!("order {head} was the newest left")));
            folder = node.stop().await;
        }
        let db = folder.path().join("store").display().to_string();
        said(&["verify", "--layout", "native", "--keep-last", "5", "--db", &db], 0, "was the newest left").await;
        said(&["validate", "--db", &db], 1, "was the newest left").await;
        said(&["explain", "20", "--db", &db], 0, "or lost with a damaged write-ahead log").await; // it was acknowledged
        let kept = std::fs::read_dir(folder.path().join("store.cut_logs")).unwrap().count();
        assert!(kept > 0, "the damaged log is kept");
        let node = Running::start_in(folder, &settings).await;
        let acknowledge = async |what: &str| node.post(&format!("v1/acknowledge/{what}"), &json!({})).await;
        let doubt = async || {
            let place = TempDir::new().unwrap();
            let body = json!({ "catalog": place.path().canonicalize().unwrap().join("catalog") });
            let made: Value = node.post("v1/snapshots", &body).await.json().await.unwrap();
            made["manifest"]["doubt"]["code"].clone()
        };
        assert_eq!(doubt().await, "log_cut", "a copy lacks them, too");
        assert_eq!(error(acknowledge("frozen").await).await["code"], "unknown_command");
        assert_eq!(acknowledge("log_cut").await.status(), StatusCode::OK);
        assert_eq!((reasons(&node).await, doubt().await), (Vec::new(), Value::Null));
        assert_eq!(error(acknowledge("log_cut").await).await["code"], "refused");
        let node = Running::start_in(node.stop().await, &settings).await;
        assert_eq!(reasons(&node).await, [""; 0]);
        assert_eq!(told_at_rest(&node.folder), None);
        node.stop().await;
    }
}

/// Until it is told that the reserve was taken again.
async fn until_taken(node: &Running) {
    loop {
        let told: Value = node.get("v1/events?code=reserve_let_go,reserve_taken").await.json().await.unwrap();
        let codes = told["events"].as_array().unwrap().iter().map(|event| event["code"].as_str().unwrap());
        if codes.eq(["reserve_let_go", "reserve_taken"]) {
            return;
        }
    }
}

/// C12: a run or a round takes it again, and there may be none.
#[tokio::test(flavor = "multi_thread")]
async fn a_reserve_that_was_let_go_is_taken_again_whether_or_not_anything_is_pruned() {
    for settings in [["pruner.enabled=false", "pruner.reserve=1 MiB"], ["pruner.enabled=true", "pruner.reserve=1 MiB"]]
    {
        let node = Running::start(&settings).await;
        node.submit(&create(1, "00")).await;
        if settings[0].ends_with("true") {
            assert_eq!(node.post("v1/prune/disable", &json!({})).await.status(), StatusCode::ACCEPTED);
        }
        let file = node.folder.path().join("reserve");
        assert_eq!(node.app.chain().store().reserve().unwrap().let_go().unwrap(), Some(1 << 20));
        let told = tokio::time::timeout(Duration::from_secs(60), until_taken(&node)).await;
        assert!(told.is_ok(), "{settings:?}: it is not taken again");
        assert_eq!(std::fs::metadata(&file).unwrap().len(), 1 << 20, "{settings:?}");
        assert!(!reasons(&node).await.contains(&"reserve_released".to_owned()), "{settings:?}");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_validations_that_are_asked_for_are_events_and_the_reserve_is_a_metric() {
    let node = Running::start(&["pruner.reserve=1 MiB"]).await;
    node.submit(&create(1, "00")).await;
    let folder = tempfile::tempdir().unwrap();
    let catalog = folder.path().join("catalog");
    assert_eq!(node.post("v1/snapshots", &json!({ "catalog": catalog })).await.status(), StatusCode::OK);
    let refused = node.post("v1/snapshots", &json!({ "catalog": "relative" })).await;
    assert_eq!(error(refused).await["code"], "bad_place");
    assert_eq!(node.post("v1/validate", &json!({})).await.status(), StatusCode::OK);
    let codes = "catalog_snapshot_made,catalog_snapshot_refused,validated";
    let page = async || -> Value { node.get(&format!("v1/events?code={codes}")).await.json().await.unwrap() };
    let all = async { while page().await["events"].as_array().unwrap().len() < codes.split(',').count() {} };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap(); // what was just told is written a moment later
    let read = page().await;
    let told = read["events"].as_array().unwrap();
    let told: Vec<&str> = told.iter().map(|event| event["code"].as_str().unwrap()).collect();
    assert_eq!(told.join(","), codes);
    assert_eq!(read["events"][0]["data"]["catalog"], catalog.display().to_string());
    assert_eq!(read["events"][1]["data"]["error"], "bad_place");
    let metrics = node.metrics().await;
    for line in ["state_pruner_reserve_kept 1\n", "state_pruner_reserve_bytes 1048576\n"] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_on_the_same_data_is_refused_and_names_the_first() {
    let node = Running::start(&[]).await;
    let set = ["node.listen=127.0.0.1:0".to_owned(), format!("node.data_dir={}", node.folder.path().display())];
    let config = Config::parse("test", "", &set).unwrap();
    let refused = App::start(&config, Arc::new(SystemClock::new())).await.unwrap_err();
    assert!(format!("{refused:#}").contains(&std::process::id().to_string()), "{refused:#}");
    tokio::time::timeout(Duration::from_secs(60), node.stop()).await.unwrap();
}

async fn refusals_say_what_is_kept_and_how_much_is_taken(node: &Running) {
    let status: Value = node.get("v1/status").await.json().await.unwrap();
    assert_eq!((&status["pins"], &status["retention"]["readers"]), (&Value::Null, &json!([])), "who reads is no pin");
    for (path, body, status, code) in [
        ("v1/consumers/kept", json!({ "order": 6 }), StatusCode::CONFLICT, "kept_below"),
        ("v1/rollback?to=6", Value::Null, StatusCode::CONFLICT, "kept_below"),
        ("v1/rollback?to=5", Value::Null, StatusCode::GONE, "pruned"),
    ] {
        let answer = node.post(path, &body).await;
        assert_eq!(answer.status(), status, "{path}");
        let told = error(answer).await;
        assert_eq!((&told["code"], &told["floor"]), (&json!(code), &json!(9)), "{path}");
    }
    let long = node.client.post(node.url("v1/pins/x")).body(vec![b' '; 5 << 10]).send().await.unwrap();
    assert_eq!(long.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let told = error(long).await;
    assert_eq!((&told["code"], &told["limit"]), (&json!("body"), &json!(4096)), "{told}");
    assert!(told["message"].as_str().unwrap().contains("4.0 KiB"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_told_by_how_much_it_is_ahead_of_the_head() {
    let node = Running::start(&[]).await;
    node.submit(&create(1, "00")).await;
    for (order, ahead) in [(4, 3), (1, 0), (0, 0)] {
        let consumer = node.post("v1/consumers/indexer", &json!({ "order": order })).await;
        let consumer: Value = consumer.json().await.unwrap();
        assert_eq!((&consumer["order"], &consumer["ahead"]), (&json!(order), &json!(ahead)), "of head 1: {consumer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_consumers_and_explanations_are_served_and_a_pinned_state_is_read_below_the_floor() {
    let settings =
        ["pruner.keep_last=3", "pruner.keep_every=4", "pruner.every_orders=1000000", "pruner.garbage_ratio=none"];
    let node = Running::start(&settings).await;
    node.submit(&create(1, "00")).await;
    for round in 1..12_u8 {
        node.submit(&set(1, &hex::encode([round]))).await;
    }
    let added = node.post("v1/pins/audit", &json!({ "order": 6, "ttl_ms": 3_600_000, "owner": "ann" })).await;
    assert_eq!(added.status(), StatusCode::OK);
    let consumer = node.post("v1/consumers/indexer", &json!({ "order": 9 })).await;
    assert_eq!(consumer.status(), StatusCode::OK);
    assert_eq!(node.prune().await, 9, "of orders 0 to 12 the consumer needs one more than the last three");
    for (order, value) in [(4, 3), (6, 5), (8, 7), (9, 8), (12, 11)] {
        let url = format!("v1/objects/{}?order={order}&proof=true", path(1));
        let answer: WireAnswer = node.get(&url).await.json().await.unwrap();
        assert_eq!(answer.proof.unwrap().verify(&path(1)).unwrap().unwrap().value, [value], "order {order}");
    }
    assert_eq!(node.get(&format!("v1/objects/{}?order=5", path(1))).await.status(), StatusCode::GONE);

    let status: Value = node.get("v1/status").await.json().await.unwrap();
    let retention = &status["retention"];
    assert_eq!((retention["keep_last"].as_u64(), retention["keep_every"].as_u64()), (Some(3), Some(4)), "{retention}");
    assert_eq!(retention["winner"]["name"], "indexer", "{retention}");
    assert_eq!((retention["pins"][0]["owner"].as_str(), retention["floor"].as_u64()), (Some("ann"), Some(9)));
    assert_eq!(retention["consumers"][0]["silent"], false, "{retention}");

    let metrics = node.metrics().await;
    for line in ["state_node_kept_orders 4", "state_node_pins 1", "state_node_consumers{state=\"heard\"} 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    let why: Value = node.get("v1/explain?order=6").await.json().await.unwrap();
    assert_eq!((why["about"].as_str(), why["standing"].as_str()), (Some("order"), Some("kept")), "{why}");
    let since = &why["reasons"][0]["since_ms"];
    let pin = json!({ "why": "pin", "name": "audit", "owner": "ann", "since_ms": since, "ttl_ms": 3_600_000 });
    assert_eq!((&why["reasons"], since.is_u64()), (&json!([pin]), true));
    let root = why["root"].as_str().unwrap();
    let hash: Value = node.get(&format!("v1/explain?hash={root}")).await.json().await.unwrap();
    assert_eq!((hash["root_of"][0]["order"].as_u64(), hash["node"].as_str()), (Some(6), Some("reached")), "{hash}");
    let gone: Value = node.get("v1/explain?order=5").await.json().await.unwrap();
    assert_eq!((gone["standing"].as_str(), gone["gone"]["head"].as_u64()), (Some("pruned"), Some(12)), "{gone}");

    let refused = [
        ("v1/pins/late", json!({ "order": 5 }), StatusCode::GONE, "pruned"),
        ("v1/pins/early", json!({ "order": 500 }), StatusCode::NOT_FOUND, "never_existed"),
        ("v1/pins/audit", json!({ "order": 10 }), StatusCode::CONFLICT, "name_taken"),
        ("v1/pins/a%20b", json!({ "order": 10 }), StatusCode::BAD_REQUEST, "bad_name"),
        ("v1/pins/x", json!({ "oder": 10 }), StatusCode::BAD_REQUEST, "json"),
        ("v1/consumers/late", json!({ "order": 5 }), StatusCode::GONE, "pruned"),
    ];
    for (path, body, status, code) in refused {
        let answer = node.post(path, &body).await;
        assert_eq!(answer.status(), status, "{path}");
        let told = error(answer).await;
        assert_eq!(told["code"], code, "{path}");
        assert!(code != "pruned" || told["floor"] == 9, "{told}");
    }
    refusals_say_what_is_kept_and_how_much_is_taken(&node).await;
    for wrong in ["v1/explain", "v1/explain?order=x", "v1/explain?hash=00", "v1/explain?order=1&limit=0"] {
        assert_eq!(node.get(wrong).await.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
    for name in ["v1/pins/audit", "v1/consumers/indexer"] {
        let browser = node.client.delete(node.url(name)).header("origin", "http://evil").send().await.unwrap();
        assert_eq!(browser.status(), StatusCode::FORBIDDEN, "{name}");
        assert_eq!(node.client.delete(node.url(name)).send().await.unwrap().status(), StatusCode::OK, "{name}");
        let again = node.client.delete(node.url(name)).send().await.unwrap();
        assert_eq!(error(again).await["code"], "unknown_name", "{name}");
    }
    let listed: Value = node.get("v1/pins").await.json().await.unwrap();
    assert_eq!(listed["pins"], json!([]));
    node.stop().await;
}

/// Pins an order and lets it go, again and again, until the node takes no more; so many times it had an answer.
async fn floods(client: Client, pin: String, answered: Arc<AtomicU64>) -> u64 {
    let mut of_this = 0;
    loop {
        let asked = match of_this % 2 {
            0 => client.post(&pin).json(&json!({ "order": 1 })),
            _ => client.delete(&pin),
        };
        match asked.send().await.map(|answer| answer.status()) {
            Ok(StatusCode::OK) => (of_this, _) = (of_this + 1, answered.fetch_add(1, Ordering::SeqCst)),
            Ok(_) | Err(_) => return of_this,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_flooded_and_stopped_at_once_has_every_event_on_disk_that_it_answered_for() {
    let node = Running::start(&["events.max_bytes=1 GiB"]).await;
    node.submit(&create(1, "00")).await;
    let answered = Arc::new(AtomicU64::new(0));
    let floods = (0..8).map(|n| floods(node.client.clone(), node.url(&format!("v1/pins/p{n}")), Arc::clone(&answered)));
    let floods: Vec<_> = floods.map(tokio::spawn).collect();
    while answered.load(Ordering::SeqCst) < 10_000 {
        assert!(floods.iter().any(|flood| !flood.is_finished()), "none is answered any more");
        tokio::task::yield_now().await;
    }
    let Running { app, folder, .. } = node;
    assert_eq!(app.stop().await.unwrap(), Stopped::Whole);
    let read = read_journal(&journal_dir(folder.path()), &Filter::default()).unwrap();
    assert!(read.is_sound() && read.missing == 0, "{}", read.told());
    for (n, flood) in floods.into_iter().enumerate() {
        let (answered, name) = (flood.await.unwrap(), format!("p{n}"));
        let told =
            read.events.iter().filter(|entry| entry.data.get("name").is_some_and(|of| *of == name)).count() as u64;
        assert!(
            (answered..=answered + 1).contains(&told),
            "{name}: {told} of {answered}; the last one lost its answer at most"
        );
    }
}

/// Runs a command of the binary, and returns its exit code and what it said.
async fn command(arguments: &[&str]) -> (i32, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_state-node"));
    command.args(arguments).env("USER", "ann");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_for_what_is_retained_ask_a_running_node_and_a_store_at_rest() {
    let node =
        Running::start(&["pruner.keep_last=3", "pruner.every_orders=1000000", "pruner.garbage_ratio=none"]).await;
    node.submit(&create(1, "00")).await;
    for round in 1..12_u8 {
        node.submit(&set(1, &hex::encode([round]))).await;
    }
    let url = node.url("");
    said(&["pin", "add", "audit", "--order", "5", "--ttl", "30d", "--url", &url], 0, "order 5 is kept by pin audit")
        .await;
    said(&["consumer", "set", "indexer", "--order", "8", "--url", &url], 0, "every order from 8 on").await;
    assert_eq!(node.prune().await, 8);
    said(&["pin", "list", "--url", &url], 0, "audit  order 5  by ann").await;
    said(&["consumer", "list", "--url", &url], 0, "indexer  from order 8  4 behind").await;
    said(&["status", "--url", &url], 0, "\"verdict\": \"healthy\"").await;
    let opened = node.folder.path().join("store").display().to_string();
    said(&["pin", "list", "--db", &opened], 0, "audit  order 5  by ann").await;
    said(&["consumer", "list", "--db", &opened], 0, "indexer  from order 8  4 behind").await;
    said(&["pin", "list", "--db", &opened, "--url", &url], 2, "cannot be used with").await;
    said(&["explain", "5", "--url", &url], 0, "pin `audit` of ann").await;
    said(&["explain", "8", "--url", &url, "--json"], 0, r#""name":"indexer""#).await;
    said(&["explain", "4", "--url", &url], 0, "pruned").await;
    said(&["pin", "add", "late", "--order", "4", "--url", &url], 1, "the oldest readable order is 8").await;
    said(&["pin", "add", "late", "--order", "4", "--url", &url, "--json"], 1, r#""code":"pruned""#).await;
    said(&["pin", "remove", "other", "--url", &url], 1, "no pin named").await;
    let never = ": the head is order 12; ask for that one or an earlier one";
    for command in [&["pin", "add", "early", "--order", "500"][..], &["rollback", "--to", "500"]] {
        said(&[command, &["--url", &url]].concat(), 1, &format!("there is no order 500{never}")).await;
    }
    said(
        &["explain", "500", "--url", &url],
        0,
        &format!("there is no order 500, and as far as this store knows never was{never}"),
    )
    .await;
    let read = error(node.get(&format!("v1/objects/{}?order=500", path(1))).await).await;
    assert_eq!(read["message"], format!("there is no order 500{never}"));
    said(&["pin", "list", "--url", "http://127.0.0.1:9", "--json"], 1, r#""code":"unreachable""#).await;
    said(&["explain", "nothing", "--url", &url], 2, "64 hex digits").await;
    said(&["consumer", "remove", "indexer", "--url", &url], 0, "forgotten").await;
    let status: Value = node.get("v1/status").await.json().await.unwrap();
    let root = status["head"]["root"].as_str().unwrap().to_owned();

    let folder = node.stop().await;
    let db = folder.path().join("store").display().to_string();
    let at_rest = ["--db", &db, "--layout", "native"];
    said(&[&["explain", "5"], &at_rest[..]].concat(), 0, "pin `audit` of ann").await;
    said(&[&["explain", "4"], &at_rest[..]].concat(), 0, "when the head was order 12").await;
    said(&[&["explain", "12"], &at_rest[..]].concat(), 0, "keep_last (3 orders) reaches down to order 10").await;
    said(&[&["explain", "9", "--json"], &at_rest[..]].concat(), 0, r#""why":"leaving""#).await;
    said(&[&["explain", &root], &at_rest[..]].concat(), 0, "it is the root of order 12").await;
    said(&["explain", "5", "--db", &db, "--layout", "rooch"], 2, "only native is explained").await;
    said(&["consumer", "list", "--db", &db], 0, "no consumers").await;
    said(&["pin", "list", "--db", &db, "--json"], 0, r#""state":"kept""#).await;
}
