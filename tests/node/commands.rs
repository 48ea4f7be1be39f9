//! The operator's commands on real stores: their one JSON object, their exit codes, and that bad usage touches nothing.

use std::{
    fs,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use state_tests::{
    damage, folder,
    node::{self, Node},
    shared::Shared,
    skip::{Lack, skipped},
};

/// Fields that must be in an object, dotted.
fn has(object: &Value, fields: &[&str]) {
    for field in fields {
        let found = field.split('.').try_fold(object, |at, name| at.get(name));
        assert!(found.is_some(), "no {field} in {object:#}");
    }
}

/// It costs its lines, and nothing else: what is done is written down, and told by the exit code.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let data = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let command = Command::new(node::binary()).args(arguments).stdin(Stdio::null()).stderr(full).output().unwrap();
        command.status.code()
    };
    let config = node::repository().join("config/node.toml").display().to_string();
    let data_dir = format!("node.data_dir={}", data.path().display());
    let start = ["start", "--config", &config, "--set", &data_dir, "--set", "node.listen=127.0.0.1:0"];
    assert_eq!(run(&[&start[..], &["--load", "mixed:100", "--for", "1"]].concat()), Some(0));
    let db = data.path().join("store").display().to_string();
    assert_eq!(run(&["rollback", "--to", "1", "--db", &db]), Some(0));
    let (code, read) = node::json(&["journal", "show", "--db", &db, "--code", "rolled_back"]);
    assert_eq!((code, read["events"].as_array().unwrap().len()), (0, 1), "{read:#}");
    let refused = node::run(&["pin", "list", "--db", &data.path().display().to_string()]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("its folder `store` has one"), "the data folder in place of the store: {told}");
}

#[test]
fn prune_and_verify_print_one_object_with_everything_promised() {
    let Some(store) = Shared::Small.copy("the commands") else {
        return;
    };
    let db = store.db().display().to_string();
    let expected = store.windows().into_iter().find(|expected| expected.keep_last == 10).unwrap();
    let common = ["--db", &db, "--layout", "rooch", "--keep-last", "10"];

    let before = folder::digests(&store.db());
    let (code, plan) = node::json(&[&["prune"], &common[..], &["--dry-run"]].concat());
    assert_eq!(code, 0);
    assert_eq!(folder::digests(&store.db()), before);
    let (code, done) = node::json(&[&["prune"], &common[..], &["--mark", "walk", "--sweep", "filter"]].concat());
    assert_eq!(code, 0);
    let retained = ["retained.roots", "retained.first_order", "retained.last_order", "retained.holes"];
    let marked = ["mark.strategy", "mark.why", "mark.live_nodes", "mark.nodes_read", "mark.seconds"];
    let swept = ["sweep.strategy", "sweep.deleted", "sweep.kept", "sweep.seconds"];
    for answer in [&plan, &done] {
        [&retained[..], &marked[..], &swept[..]].iter().for_each(|fields| has(answer, fields));
        has(answer, &["bytes.before", "bytes.after", "certificate"]);
    }
    assert_eq!((plan["dry_run"].as_bool(), done["dry_run"].as_bool()), (Some(true), Some(false)));
    assert_eq!(plan["sweep"]["deleted"], done["sweep"]["deleted"]);
    assert_eq!((done["mark"]["strategy"].as_str(), done["sweep"]["strategy"].as_str()), (Some("walk"), Some("filter")));
    assert_eq!(done["mark"]["live_nodes"].as_u64(), Some(expected.live_nodes));
    assert!(fs::exists(done["certificate"].as_str().unwrap()).unwrap());

    let (code, report) = node::json(&[&["verify"], &common[..], &["--leaks"]].concat());
    assert_eq!(code, 0);
    has(&report, &["roots", "live_nodes", "present_nodes", "missing_nodes", "corrupt_nodes", "leaked_nodes"]);
    assert_eq!(report["live_sha256"], expected.live_sha256.as_str());
    assert_eq!(report["present_sha256"], expected.live_sha256.as_str());
    let (code, health) = node::json(&["health-check", "--db", &db]);
    assert_eq!((code, health["verdict"].as_str()), (0, Some("healthy")), "{health}");

    let head = state_tree::NodeHash::from_hex(store.expected["head_root"].as_str().unwrap()).unwrap();
    damage::remove_node(&store.db(), head.as_bytes());
    let (code, report) = node::json(&[&["verify"], &common[..]].concat());
    assert_eq!((code, report["missing_nodes"].as_u64()), (1, Some(1)), "{report}");
    let (code, refused) = node::json(&[&["prune"], &common[..]].concat());
    assert_eq!((code, refused["error"]["code"].as_str()), (1, Some("missing_live_node")));
    assert!(refused["error"]["message"].as_str().unwrap().contains(&head.to_string()), "{refused}");
}

#[test]
fn bad_usage_is_refused_before_a_store_is_touched() {
    let Some(store) = Shared::Small.copy("bad usage") else {
        return;
    };
    let (db, before) = (store.db().display().to_string(), folder::digests(store.dir()));
    let rows: [&[&str]; 8] = [
        &["prune", "--db", &db, "--layout", "rooch", "--keep-last", "0"],
        &["prune", "--db", &db, "--layout", "rooch", "--keep-last", "-3"],
        &["prune", "--db", &db, "--layout", "rooch"],
        &["prune", "--db", &db, "--layout", "diem", "--keep-last", "5"],
        &["prune", "--db", &db, "--layout", "rooch", "--keep-last", "5", "--mark", "guess"],
        &["prune", "--db", &db, "--layout", "rooch", "--keep-last", "5", "--memory-budget", "much"],
        &["verify", "--db", &db, "--layout", "rooch", "--keep-last", "5", "--leaks", "--sample", "3"],
        &["verify", "--db", &db, "--layout", "rooch", "--keep-last", "5", "--faster"],
    ];
    for arguments in rows {
        let (code, refused) = node::json(arguments);
        assert_eq!((code, refused["error"]["code"].as_str()), (2, Some("usage")), "{arguments:?}: {refused}");
        assert_eq!(folder::digests(store.dir()), before, "{arguments:?}");
    }
}

#[test]
fn a_command_whose_answer_cannot_be_printed_says_so_and_fails() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for (arguments, code) in
        [(&["config", "print-default"][..], 1), (&["health-check", "--db", "/nonexistent", "--json"], 3)]
    {
        let output = Command::new(node::binary()).args(arguments).stdout(full()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains("could not be printed") && told.contains("No space left"), "{arguments:?}: {told}");
    }
}

#[test]
fn a_bad_configuration_is_refused_with_all_its_problems_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let shipped = fs::read_to_string(node::repository().join("config/node.toml")).unwrap();
    let file = dir.path().join("node.toml");
    let path = file.display().to_string();
    fs::write(&file, &shipped).unwrap();
    let (code, answer) = node::json(&["config", "check", &path]);
    assert_eq!((code, answer["ok"].as_bool()), (0, Some(true)));
    assert_eq!(String::from_utf8(node::run(&["config", "print-default"]).stdout).unwrap().trim(), shipped.trim());

    let broken = [
        ("keep_last = ", "keep_lats = 128"),
        ("every_orders = ", "every_orders = 0"),
        ("mempool_limit = ", "mempool_limit = 1"),
        ("listen = ", "listen = \"0.0.0.0:8645\""),
    ];
    let line = |line: &str| {
        let replaced = broken.iter().find(|(key, _)| line.starts_with(key));
        replaced.map_or(line, |(_, by)| by).to_owned()
    };
    let broken = shipped.lines().map(line).collect::<Vec<_>>().join("\n");
    fs::write(&file, broken).unwrap();
    for arguments in [vec!["config", "check", path.as_str(), "--json"], vec!["start", "--config", path.as_str()]] {
        let output = node::run(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for word in ["keep_lats", "keep_last", "every_orders", "chain.mempool_limit", "node.listen"] {
            assert!(text.contains(word), "{arguments:?} does not name {word}: {text}");
        }
    }
}

/// Exit codes 0, 1, 2 and 3, from a node and from its store at rest.
#[test]
fn health_is_told_by_exit_codes_from_inside_and_outside() {
    let data = tempfile::tempdir().unwrap();
    let settings = [
        "pruner.incremental=off",
        "chain.block_interval=5ms",
        "pruner.keep_last=5",
        "pruner.every_orders=1000000",
        "pruner.garbage_ratio=none",
    ];
    let of_store = || node::json(&["health-check", "--db", &data.path().join("store").display().to_string()]);
    let of_node = |node: &Node| node::json(&["health-check", "--url", node.url()]);
    let code_of = |health: &Value| health["reasons"][0]["code"].as_str().unwrap().to_owned();

    let node = Node::start(data.path(), &settings);
    let create = |n: u8| {
        json!({ "create_object": {
        "id": hex::encode([n; 32]), "owner": "00".repeat(32), "value": hex::encode([n; 8]) } })
    };
    for n in 1..=12 {
        node.submit(&create(n));
    }
    node.cycle();
    assert_eq!((of_node(&node).0, of_store().0), (0, 0));

    // A live node is lost while nobody runs.
    let root = node.get("/v1/blocks/head")["state_root"].as_str().unwrap().to_owned();
    assert!(node.stop(Signal::TERM).0.success());
    let root = state_tree::NodeHash::from_hex(&root).unwrap();
    let bytes = {
        let store = damage::open(&data.path().join("store"));
        store.get_cf(store.cf_handle("state_node").unwrap(), root.as_bytes()).unwrap().unwrap()
    };
    damage::remove_node(&data.path().join("store"), root.as_bytes());
    let node = Node::start(data.path(), &settings);
    let elsewhere = tempfile::tempdir().unwrap();
    let refused = node.post("/v1/snapshots", &json!({ "catalog": elsewhere.path().join("catalog") }));
    assert_eq!(refused.json::<serde_json::Value>().unwrap()["error"]["code"], "corrupt", "a copy finds it, too");
    assert!(!node.status()["pruner"]["frozen"].is_null(), "and deletes are frozen by what it found");
    let (code, health) = of_node(&node);
    assert_eq!((code, health["verdict"].as_str(), code_of(&health).as_str()), (2, Some("critical"), "frozen"));
    assert!(health["reasons"][0]["message"].as_str().unwrap().contains(&root.to_string()), "{health}");
    assert_eq!(node.ask("/healthz").status(), 503);
    assert!(!node.prune("run"), "a frozen pruner takes no cycle");
    drop(node);
    assert_eq!(of_store().0, 2, "and the store says so without its node");

    damage::put_node(&data.path().join("store"), root.as_bytes(), &bytes);
    let dir = tempfile::tempdir().unwrap();
    let (catalog, db) = (dir.path().join("catalog"), data.path().join("store").display().to_string());
    let at_rest = || {
        let words = ["snapshot", "create", "--db", &db, "--layout", "native", "--keep", "1", "--catalog"];
        let (code, made) = node::json(&[&words[..], &[catalog.to_str().unwrap()]].concat());
        assert_eq!(code, 0, "{made:#}");
        made["removed"].clone()
    };
    let snapshot = |node: &Node| {
        let asked = node.post("/v1/snapshots", &json!({ "catalog": catalog, "keep": 1 }));
        asked.json::<serde_json::Value>().unwrap()["removed"].clone()
    };
    let at_rest = at_rest();
    let without_pruner = snapshot(&Node::start(data.path(), &[&settings[..], &["pruner.enabled=false"]].concat()));
    let node = Node::start(data.path(), &settings);
    for removed in [at_rest, without_pruner, snapshot(&node)] {
        assert_eq!(removed["snapshots"], json!([]), "no older one goes for what may have the damage: {removed:#}");
        assert_eq!(removed["failures"][0]["code"], "frozen", "{removed:#}");
    }
    let tell = |word: &str| {
        let (code, told) = node::json(&[word, "--url", node.url()]);
        (code, told["reply"].as_str().or(told["error"]["code"].as_str()).unwrap().to_owned())
    };
    assert_eq!(tell("prune-unfreeze"), (0, "accepted".to_owned()));
    assert_eq!(tell("prune-unfreeze"), (1, "not_frozen".to_owned()));
    for word in ["prune-pause", "prune-resume", "prune-cancel"] {
        assert_eq!(tell(word), (1, "not_running".to_owned()), "{word}");
    }
    let removed = snapshot(&node);
    assert_eq!(removed["snapshots"], json!([]), "nor before a cycle has read what is live: {removed:#}");
    assert_eq!(removed["failures"][0]["code"], "unproven", "{removed:#}");
    let (_, list) = node::json(&["snapshot", "list", "--catalog", catalog.to_str().unwrap()]);
    let doubts: Vec<_> = list["snapshots"].as_array().unwrap().iter().map(|listed| &listed["doubt"]["code"]).collect();
    assert_eq!(doubts, ["frozen", "frozen", "frozen", "unproven"], "each says that it may be damaged: {list:#}");
    node.cycle();
    let removed = snapshot(&node);
    assert_eq!((removed["snapshots"].as_array().unwrap().len(), &removed["failures"]), (4, &json!([])), "{removed:#}");
    assert_eq!(of_node(&node).0, 0, "health recovers with its cause");
    let url = node.url().to_owned();
    drop(node);
    assert_eq!(node::json(&["health-check", "--url", &url]).0, 3);
    assert_eq!(node::json(&["health-check", "--db", "/nonexistent"]).0, 3);
}

/// O14: neither a running node nor a folder that may not be written stands in the way of the question.
#[test]
fn the_health_of_a_store_is_told_where_nothing_may_be_written() {
    let data = tempfile::tempdir().unwrap();
    let (path, binary) = (data.path().display().to_string(), node::binary().display().to_string());
    let read_only = |script: &str| {
        let mount = format!("mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && {script}");
        Command::new("unshare").args(["-m", "sh", "-c", &mount, "sh", &path, &binary]).output()
    };
    if !read_only("true").is_ok_and(|made| made.status.success()) {
        return skipped(
            "the health of a store that may not be written",
            Lack::Mounts,
            "no mounts of its own are allowed here",
        );
    }
    assert!(!read_only("touch \"$1/file\"").unwrap().status.success(), "the folder may be written after all");
    let asked = || {
        let told = read_only("exec \"$2\" health-check --db \"$1/store\" --json").unwrap();
        let text = String::from_utf8(told.stdout).unwrap();
        (told.status.code(), serde_json::from_str::<Value>(&text).unwrap_or_else(|_| panic!("{text}")))
    };
    let settings = ["chain.block_interval=5ms", "pruner.keep_last=5", "pruner.incremental=off"];
    let node = Node::start(data.path(), &settings);
    for n in 1..=12u8 {
        node.submit(&json!({ "create_object": {
            "id": hex::encode([n; 32]), "owner": "00".repeat(32), "value": hex::encode([n; 8]) } }));
    }
    node.cycle();
    let healthy = (Some(0), json!({ "verdict": "healthy", "reasons": [] }));
    assert_eq!(asked(), healthy, "beside its node");
    assert!(node.stop(Signal::TERM).0.success());
    let before = folder::digests(data.path());
    assert_eq!(asked(), healthy, "at rest");
    assert_eq!(folder::digests(data.path()), before);
}

/// The bounds are those of the configuration, for a node and for its store.
#[test]
fn a_bound_of_the_configuration_decides_what_is_worth_a_look() {
    let data = tempfile::tempdir().unwrap();
    let store = data.path().join("store").display().to_string();
    let shipped = fs::read_to_string(node::repository().join("config/node.toml")).unwrap();
    let file = data.path().join("node.toml");
    fs::write(&file, shipped.replace("pin_age = \"30days\"", "pin_age = \"1ns\"")).unwrap();
    let node = Node::start(data.path(), &["chain.block_interval=5ms", "health.pin_age=1ns"]);
    let order = node.submit(&json!({ "create_object": {
        "id": "01".repeat(32), "owner": "00".repeat(32), "value": "02".repeat(8) } }));
    let of_node = || node::json(&["health-check", "--url", node.url()]);
    let code_of = |health: &Value| health["reasons"][0]["code"].as_str().map(str::to_owned);
    assert_eq!(of_node().0, 0);
    let pin = ["pin", "add", "audit", "--order", &order.to_string(), "--url", node.url()];
    assert_eq!(node::json(&pin).0, 0);
    let (code, health) = of_node();
    assert_eq!((code, code_of(&health).as_deref()), (1, Some("pin_old")), "{health}");
    assert_eq!(node::json(&["health-check", "--db", &store]).0, 0, "the default bound is a month");
    let (code, health) = node::json(&["health-check", "--db", &store, "--config", &file.display().to_string()]);
    assert_eq!((code, code_of(&health).as_deref()), (1, Some("pin_old")), "{health}");
    assert_eq!(node::json(&["health-check", "--db", &store, "--config", "/nonexistent"]).0, 3);
    assert_eq!(node::json(&["pin", "remove", "audit", "--url", node.url()]).0, 0);
    assert_eq!(of_node().0, 0);
    fs::write(&file, shipped.replace("snapshots = \"full\"", "snapshots = \"basic\"")).unwrap();
    let (code, health) = node::json(&["health-check", "--db", &store, "--config", &file.display().to_string()]);
    assert_eq!((code, code_of(&health).as_deref()), (0, Some("basic_snapshots")), "{health}");
}

/// A window that is narrower than what is retained counts readable states as leaked, and says so.
#[test]
fn a_verification_of_less_than_is_retained_says_what_its_leaks_may_be() {
    let data = tempfile::tempdir().unwrap();
    let db = data.path().join("store").display().to_string();
    let settings =
        ["chain.block_interval=5ms", "pruner.keep_last=8", "pruner.incremental=off", "pruner.garbage_ratio=none"];
    let node = Node::start(data.path(), &settings);
    for n in 1..=20u8 {
        node.submit(&json!({ "create_object": {
            "id": hex::encode([n; 32]), "owner": "00".repeat(32), "value": hex::encode([n; 8]) } }));
    }
    let status = node.cycle();
    let (floor, head) = (status["floor"].as_u64().unwrap(), status["head"]["order"].as_u64().unwrap());
    assert!(node.stop(Signal::TERM).0.success());
    let verify =
        |keep: &str| ["verify", "--db", &db, "--layout", "native", "--leaks", "--keep-last", keep].map(str::to_owned);
    let ask = |keep: &str| {
        let words = verify(keep);
        node::json(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let all = (head - floor + 1).to_string();
    let (code, whole) = ask(&all);
    assert_eq!((code, &whole["leaked_nodes"], &whole["retained_from"]), (0, &json!(0), &Value::Null), "{whole}");
    let (code, less) = ask("3");
    assert_eq!((code, &less["retained_from"]), (0, &json!(floor)), "{less}");
    assert!(less["leaked_nodes"].as_u64().unwrap() > 0, "{less}");
    let words = verify("3");
    let told = node::run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains(&format!("--keep-last {all} ")), "{told}");
}

/// S46: through a running node, and on its store at rest; what is damaged is found, told, judged by health, and forgotten.
#[test]
fn a_validation_is_told_by_its_exit_code_and_judged_by_health() {
    let data = tempfile::tempdir().unwrap();
    let store = data.path().join("store").display().to_string();
    let settings = ["chain.block_interval=5ms", "pruner.keep_last=5", "pruner.incremental=off"];
    let node = Node::start(data.path(), &settings);
    for n in 1..=12u8 {
        node.submit(&json!({ "create_object": {
            "id": hex::encode([n; 32]), "owner": "00".repeat(32), "value": hex::encode([n; 8]) } }));
    }
    node.cycle();
    let of_node = || node::json(&["validate", "--url", node.url()]);
    let of_store = || node::json(&["validate", "--db", &store]);
    let failed = |report: &Value| -> Vec<String> {
        let checks = report["checks"].as_array().unwrap_or_else(|| panic!("{report}")).iter();
        let failed = checks.filter(|check| check["result"] == "failed");
        failed.map(|check| check["check"].as_str().unwrap().to_owned()).collect()
    };
    let (code, report) = of_node();
    assert_eq!((code, report["sound"].as_bool(), report["checks"].as_array().unwrap().len()), (0, Some(true), 10));
    assert_eq!(node.status()["validation"]["failed"], json!([]));
    let (code, report) = of_store();
    assert_eq!((code, failed(&report)), (0, Vec::new()), "{report}");

    let certificates = data.path().join("pruner/certificates");
    let certificate = fs::read_dir(certificates).unwrap().next().unwrap().unwrap().path();
    let written = fs::read_to_string(&certificate).unwrap();
    fs::write(
        &certificate,
        written.replacen("\"cycle\": 1", "\"cycle\": 3", 1).replacen("\"cycle\":1", "\"cycle\":3", 1),
    )
    .unwrap();
    let (code, report) = of_node();
    assert_eq!((code, failed(&report)), (1, vec!["integrity".to_owned()]), "{report}");
    let (code, health) = node::json(&["health-check", "--url", node.url()]);
    assert_eq!((code, health["reasons"][0]["code"].as_str()), (1, Some("validation_failed")), "{health}");
    assert_eq!(of_store().0, 1);
    let told = node::run(&["validate", "--db", &store]);
    assert!(String::from_utf8(told.stdout).unwrap().starts_with("NOT SOUND"));
    fs::write(&certificate, written).unwrap();
    assert_eq!(of_node().0, 0);
    assert_eq!(node::json(&["health-check", "--url", node.url()]).0, 0);
    assert_eq!(node::json(&["validate", "--db", "/nonexistent"]).0, 3);
    let url = node.url().to_owned();
    drop(node);
    assert_eq!(node::json(&["validate", "--url", &url]).0, 3);
    assert_eq!(node::json(&["validate"]).0, 2);
}

/// An operator's request from the command line: it says what will be done, and one with an id is done once.
#[test]
fn a_run_is_asked_for_from_the_command_line_and_the_answer_says_what_follows() {
    let data = tempfile::tempdir().unwrap();
    let settings = [
        "pruner.incremental=off",
        "chain.block_interval=5ms",
        "pruner.keep_last=5",
        "pruner.every_orders=1000000",
        "pruner.garbage_ratio=none",
    ];
    let node = Node::start(data.path(), &settings);
    let ask = |node: &Node, id: &str| node::json(&["prune-run", "--url", node.url(), "--id", id]);
    let served = |node: &Node| {
        node.until("an idle pruner", |status| {
            status["pruner"]["running"] == false && status["pruner"]["triggers"]["requested"] == false
        })
    };
    assert_eq!(ask(&node, "first"), (0, json!({ "reply": "accepted" })));
    assert_eq!(served(&node)["pruner"]["cycles_finished"], 1);
    assert_eq!(ask(&node, "first"), (0, json!({ "reply": "already_served", "run": 1 })));
    assert!(node.stop(Signal::TERM).0.success());
    let node = Node::start(data.path(), &settings);
    assert_eq!(ask(&node, "first"), (0, json!({ "reply": "already_served", "run": 1 })), "after a restart");
    let told = node::run(&["prune-run", "--url", node.url()]);
    assert!(told.status.success());
    assert_eq!(String::from_utf8(told.stdout).unwrap().trim(), "a cycle begins");
    assert_eq!(served(&node)["pruner"]["triggers"]["runs"].as_array().unwrap().len(), 2);
    let url = node.url().to_owned();
    drop(node);
    let (code, refused) = node::json(&["prune-run", "--url", &url]);
    assert_eq!((code, refused["error"]["code"].as_str()), (1, Some("unreachable")), "{refused}");
    let node = Node::start(data.path(), &[&settings[..], &["pruner.enabled=false"]].concat());
    let (code, refused) = node::json(&["prune-run", "--url", node.url()]);
    assert_eq!((code, refused["error"]["code"].as_str()), (1, Some("pruner_disabled")), "{refused}");
}

/// The switch survives a restart, and health tells of it.
#[test]
fn pruning_is_switched_off_and_on_from_the_command_line() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path(), &[]);
    let reply = |word: &str| json!({ "reply": word });
    for word in ["accepted", "unchanged"] {
        assert_eq!(node::json(&["prune-disable", "--url", node.url()]), (0, reply(word)));
    }
    node.until_told("config_changed");
    let told = node.get("/v1/events?code=config_changed");
    let told =
        told["events"].as_array().unwrap().iter().filter(|event| event["data"]["what"] == "pruning: switched off");
    assert_eq!(told.count(), 1, "asked again it changes nothing");
    let (code, refused) = node::json(&["prune-run", "--url", node.url()]);
    assert_eq!((code, refused["error"]["code"].as_str()), (1, Some("refused")), "{refused}");
    assert!(node.stop(Signal::TERM).0.success());
    let node = Node::start(data.path(), &[]);
    assert!(node.log().contains("pruning is switched off, by an order before this start"), "{}", node.log());
    let (code, health) = node::json(&["health-check", "--url", node.url()]);
    assert_eq!((code, health["reasons"][0]["code"].as_str()), (1, Some("switched_off")), "{health}");
    for word in ["accepted", "unchanged"] {
        assert_eq!(node::json(&["prune-enable", "--url", node.url()]), (0, reply(word)));
    }
    assert_eq!(node::json(&["health-check", "--url", node.url()]).0, 0);
}

/// O13: every series is there once, however many cycles have reported into it.
#[test]
fn metrics_survive_many_cycles_without_duplicates() {
    let data = tempfile::tempdir().unwrap();
    let settings = [
        "pruner.incremental=off",
        "chain.block_interval=5ms",
        "pruner.keep_last=2",
        "pruner.every_orders=1000000",
        "pruner.garbage_ratio=none",
    ];
    let node = Node::start(data.path(), &settings);
    let series = |node: &Node| {
        let text = node.ask("/metrics").text().unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned);
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let mut samples: Vec<(String, String)> = samples
            .map(|line| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap())
            .collect();
        let mut types: Vec<String> = types.collect();
        let counts = (types.len(), samples.len());
        types.sort();
        types.dedup();
        samples.sort();
        samples.dedup_by(|a, b| a.0 == b.0);
        assert_eq!((types.len(), samples.len()), counts, "twice the same in {text}");
        for name in types.iter().filter_map(|line| line.split_whitespace().next()) {
            assert!(text.contains(&format!("# HELP {name} ")), "{name} says nothing about itself in {text}");
        }
        samples
    };
    for cycle in 1..=5u8 {
        for n in 0..3 {
            node.submit(&json!({ "create_object": {
                "id": hex::encode([16 * cycle + n; 32]), "owner": "00".repeat(32), "value": "01" } }));
        }
        node.cycle();
        let samples = series(&node);
        let value = |name: &str| samples.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let status = node.status();
        let until = status["pruner"]["next_at_order"].as_u64().unwrap() - status["head"]["order"].as_u64().unwrap();
        let expected = [
            ("state_pruner_running", 0),
            ("state_pruner_paused", 0),
            ("state_pruner_frozen", 0),
            ("state_pruner_phase{phase=\"idle\"}", 1),
            ("state_pruner_phase{phase=\"build_reach\"}", 0),
            ("state_pruner_orders_until_next_cycle", until),
            ("state_node_health_verdict", 0),
            ("state_pruner_cycles_total{outcome=\"cancelled\"}", 0),
        ];
        for (name, number) in expected {
            assert_eq!(value(name), Some(number.to_string().as_str()), "{name}: {samples:?}");
        }
        assert_eq!(value("state_pruner_stage_share{stage=\"sweep\"}"), Some("NaN"), "no stage is at work");
        let finished = samples.iter().find(|(name, _)| name == "state_pruner_cycles_total{outcome=\"finished\"}");
        assert_eq!(finished.map(|(_, value)| value.as_str()), Some(cycle.to_string().as_str()), "{samples:?}");
    }
}

/// O9: two settings about how long something is kept that cannot both hold.
#[test]
fn contradicting_retention_settings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    fs::write(&file, "[chain]\nkeep_blocks = 10\n[pruner]\nkeep_last = 20\n").unwrap();
    let path = file.display().to_string();
    for arguments in [vec!["config", "check", &path], vec!["start", "--config", &path]] {
        let output = node::run(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains("chain.keep_blocks") && said.contains("pruner.keep_last"), "{arguments:?}: {said}");
    }
}

/// More is created during a cycle than its barrier may remember: the cycle is given up, and health is degraded.
#[test]
fn a_cycle_that_was_given_up_turns_health_degraded_until_one_finishes() {
    let data = tempfile::tempdir().unwrap();
    let settings = [
        "pruner.incremental=off",
        "chain.block_interval=5ms",
        "pruner.keep_last=5",
        "pruner.every_orders=1000000",
        "pruner.garbage_ratio=none",
    ];
    let tight = [&settings[..], &["pruner.barrier_limit=1", "pruner.sweep=delete"]].concat();
    let node = Node::start(data.path(), &tight);
    let create = |n: u32| {
        json!({ "create_object": {
        "id": format!("{n:064x}"), "owner": "00".repeat(32), "value": hex::encode(n.to_be_bytes()) } })
    };
    let mut n = 0;
    let mut more = || {
        n += 1;
        node.submit(&create(n));
    };
    (0..12).for_each(|_| more());
    // Held before its sweep, while objects are created.
    while node.status()["pruner"]["cycles_failed"] == 0 {
        node.prune("run");
        node.prune("pause");
        more();
        more();
        node.prune("resume");
        node.until("the end of what was asked for", |status| {
            status["pruner"]["running"] == false && status["pruner"]["triggers"]["requested"] == false
        });
    }
    let (code, health) = node::json(&["health-check", "--url", node.url()]);
    assert_eq!((code, health["verdict"].as_str()), (1, Some("degraded")), "{health}");
    assert!(health["reasons"][0]["message"].as_str().unwrap().contains("barrier"), "{health}");
    assert_eq!(node.ask("/healthz").status(), 200, "degraded still serves");
    node.cycle();
    assert_eq!(node::json(&["health-check", "--url", node.url()]).0, 0);
}

/// L9, S37: the chain goes back in a running node and in its store at rest, and goes on from there.
#[test]
fn the_chain_goes_back_in_a_running_node_and_at_rest() {
    let data = tempfile::tempdir().unwrap();
    let settings = [
        "chain.block_interval=1ms",
        "pruner.keep_last=10",
        "pruner.every_orders=1000000",
        "pruner.garbage_ratio=none",
        "pruner.jitter=0", // what is owed begins at once
    ];
    let node = Node::start(data.path(), &settings);
    let db = data.path().join("store").display().to_string();
    let id = |n: u8| hex::encode([n; 32]);
    let create =
        |n: u8| json!({ "create_object": { "id": id(n), "owner": "00".repeat(32), "value": hex::encode([n]) } });
    let go_back = |asked: [&str; 2], to: &str| node::json(&[&["rollback", "--to", to], &asked[..]].concat());
    let is = |answer: &(i32, Value), code: &str| (answer.0, answer.1["error"]["code"].as_str()) == (1, Some(code));
    let is_owed = |status: &Value| {
        let runs = status["pruner"]["triggers"]["runs"].as_array().unwrap();
        runs.iter().any(|run| run["trigger"] == "rollback" && run["outcome"]["ended"]["finished"].is_object())
    };
    let fill = |node: &Node, objects: std::ops::RangeInclusive<u8>| objects.fold(0, |_, n| node.submit(&create(n)));
    assert_eq!(fill(&node, 1..=12), 12);
    let url = ["--url", node.url()];
    let done = go_back(url, "8");
    assert_eq!(done, (0, json!({ "to": 8, "from": 12 })));
    assert_eq!(node.ask(&format!("/v1/objects/{}", id(8))).status(), 200);
    assert_eq!(node.ask(&format!("/v1/objects/{}", id(9))).status(), 404);
    let gone: Value = node.ask("/v1/blocks/12").json().unwrap();
    assert_eq!(gone["error"]["code"], "never_existed");
    assert_eq!(node.submit(&create(13)), 9);
    let (before, after) = (node.get("/v1/blocks/8"), node.get("/v1/blocks/9"));
    assert_eq!(after["parent_hash"], before["hash"], "{after}");
    assert!(after["timestamp_ms"].as_u64() >= before["timestamp_ms"].as_u64());
    node.until("the cycle that is owed", is_owed);
    assert_eq!(go_back(url, "9"), (0, json!({ "to": 9, "from": 9 })));

    assert!(node.post("/v1/pins/audit", &json!({ "order": 9 })).status().is_success());
    let held = go_back(url, "8");
    assert!(is(&held, "held_above") && held.1.to_string().contains("audit"), "{held:?}");
    assert_eq!(node.post("/v1/rollback?to=8", &Value::Null).status(), 409);
    assert!(is(&go_back(url, "99"), "never_existed"));
    assert_eq!(node.post("/v1/rollback", &Value::Null).status(), 400);
    let locked = go_back(["--db", &db], "8");
    assert!(is(&locked, "locked") && locked.1.to_string().contains("state-node"), "{locked:?}");
    for dry_run in [&[][..], &["--dry-run"]] {
        let store = ["prune", "--db", &db, "--layout", "native", "--keep-last", "5"];
        let held = node::json(&[&store[..], dry_run].concat());
        assert!(is(&held, "locked") && held.1.to_string().contains("prune-run"), "{held:?}");
    }
    let head = fill(&node, 14..=40);
    node.cycle();
    assert!(is(&go_back(url, "20"), "pruned"));
    assert!(node.stop(Signal::TERM).0.success());

    let at_rest = ["--db", db.as_str()];
    assert!(is(&go_back(at_rest, "20"), "pruned"));
    assert!(is(&go_back(at_rest, "99"), "never_existed"));
    let refused = String::from_utf8(node::run(&["rollback", "--to", "99", "--db", &db]).stderr).unwrap();
    assert_eq!(refused.matches("there is no order 99").count(), 1, "the reason is told once: {refused}");
    let to = head - 3;
    assert_eq!(go_back(at_rest, &to.to_string()), (0, json!({ "to": to, "from": head })));
    let told = node::run(&["rollback", "--to", &to.to_string(), "--db", &db]);
    assert_eq!(String::from_utf8(told.stdout).unwrap().trim(), format!("order {to} is the newest one already"));
    let empty = data.path().join("nothing").display().to_string();
    assert!(is(&go_back(["--db", &empty], "1"), "not_a_database") && !fs::exists(&empty).unwrap());

    let node = Node::start(data.path(), &settings);
    node.until("the cycle that is owed to the store at rest", |status| {
        let runs = status["pruner"]["triggers"]["runs"].as_array().unwrap();
        runs.last().is_some_and(|run| run["trigger"] == "rollback") && status["pruner"]["running"] == false
    });
    assert_eq!(node.submit(&create(99)), to + 1);
    assert!(node.stop(Signal::TERM).0.success());
    let keep = ["--db", &db, "--layout", "native", "--keep-last", "8", "--leaks"];
    let (code, report) = node::json(&[&["verify"], &keep[..]].concat());
    assert_eq!((code, &report["missing_nodes"], &report["corrupt_nodes"]), (0, &json!(0), &json!(0)), "{report}");
}

/// O20: nothing authenticates anybody on loopback, so what a browser could be made to send is refused.
#[test]
fn a_web_page_cannot_command_a_node() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path(), &[]);
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    for (header, value) in [("Origin", "http://evil.example"), ("Host", "evil.example")] {
        let request = client.post(format!("{}/v1/prune/disable", node.url())).header(header, value);
        let answer = request.send().unwrap();
        assert_eq!(answer.status().as_u16(), 403, "{header}");
        assert_eq!(answer.json::<Value>().unwrap()["error"]["code"], "caller", "{header}");
    }
    assert!(node.status()["pruner"]["off"].is_null());
    assert!(node.prune("disable") && !node.status()["pruner"]["off"].is_null());
}
