//! The binary as scripts run it: no terminal, exit codes, one JSON object on stdout.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_state-node")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The one object on stdout.
fn object(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn no_command_waits_for_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let data = format!("node.data_dir={}", folder.path().join("node").display());
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/node.toml");
    let config = config.to_str().unwrap();
    let started = run(&[
        "start",
        "--config",
        config,
        "--set",
        &data,
        "--set",
        "node.listen=127.0.0.1:0",
        "--load",
        "mixed:200",
        "--for",
        "2",
    ]);
    let log = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(started.status.success(), "{log}");
    assert!(log.contains("proofs verified, 0 wrong"), "{log}");
    let line =
        |begins: &str| log.lines().find(|line| line.contains(begins)).unwrap_or_else(|| panic!("{begins}: {log}"));
    for told in [line("commits/s"), line("since the start")] {
        assert!(told.contains(" + log ") && told.contains("next by orders "), "{told}");
    }
    assert!(started.stdout.is_empty(), "answers only on stdout");

    let db = folder.path().join("node/store");
    let db = db.to_str().unwrap();
    let store = ["--db", db, "--layout", "native", "--keep-last", "5", "--json"];
    let verified = run(&[&["verify"], &store[..]].concat());
    assert_eq!(verified.status.code(), Some(0));
    assert_eq!(object(&verified)["missing_nodes"], 0);
    let healthy = run(&["health-check", "--db", db, "--json"]);
    assert_eq!(healthy.status.code(), Some(0));
    assert_eq!(object(&healthy)["verdict"], "healthy");
    let unreachable = run(&["health-check", "--url", "http://127.0.0.1:9", "--json"]);
    assert_eq!(unreachable.status.code(), Some(3));
    assert_eq!(object(&unreachable)["error"]["code"], "unreachable");
    let load = run(&["load", "--url", "http://127.0.0.1:9", "--for", "1", "--json"]);
    assert_eq!(load.status.code(), Some(1));
    assert_eq!(object(&load)["error"]["code"], "unreachable");
}

/// Every command that asks a node, and its exit code where there is none.
const ASK_A_NODE: [(&[&str], i32); 21] = [
    (&["health-check"], 3),
    (&["status"], 1),
    (&["validate"], 3),
    (&["validate", "--deep"], 3),
    (&["prune-run"], 1),
    (&["prune-pause"], 1),
    (&["prune-resume"], 1),
    (&["prune-cancel"], 1),
    (&["prune-unfreeze"], 1),
    (&["acknowledge", "log_cut"], 1),
    (&["prune-disable"], 1),
    (&["prune-enable"], 1),
    (&["pin", "list"], 1),
    (&["pin", "add", "a", "--order", "1"], 1),
    (&["consumer", "list"], 1),
    (&["explain", "1"], 1),
    (&["rollback", "--to", "1"], 1),
    (&["journal", "show"], 1),
    (&["journal", "tail", "--follow"], 1),
    (&["snapshot", "create", "--catalog", "/nonexistent"], 1),
    (&["load", "--for", "1"], 1),
];

#[test]
fn every_command_that_asks_a_node_says_where_nobody_answers_and_what_to_do() {
    for (words, code) in ASK_A_NODE {
        let output = run(&[words, &["--url", "http://127.0.0.1:9"]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        let told = "no node answers at http://127.0.0.1:9 (Connection refused (os error 111)): start it, or give --url";
        assert_eq!(text.matches(told).count(), 1, "{words:?}: {text}");
    }
}

/// Answers whatever it is asked as no node does.
fn stranger() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::Builder::new()
        .spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
                while request.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\n<html>";
                drop(stream.write_all(answer.as_bytes())); // who asked may have gone
            }
        })
        .unwrap();
    url
}

#[test]
fn every_command_that_asks_a_node_names_the_address_where_somebody_else_answers() {
    let url = stranger();
    for (words, code) in ASK_A_NODE {
        let output = run(&[words, &["--url", &url, "--json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        let told = object(&output);
        assert_eq!(told["error"]["code"], "unreachable", "{words:?}: {told}");
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("{url} answers 200 OK as no node does")), "{words:?}: {message}");
    }
}

/// Answers that it lives, and nothing else for as long as it is asked.
fn busy() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::Builder::new()
        .spawn(move || {
            let mut unanswered = Vec::new();
            for mut stream in listener.incoming().map(Result::unwrap) {
                let mut request = BufReader::new(&stream).lines();
                let asked = request.next().unwrap().unwrap();
                while request.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                if asked.contains("/readyz ") {
                    let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
                    drop(stream.write_all(answer.as_bytes())); // who asked may have gone
                } else {
                    unanswered.push(stream);
                }
            }
        })
        .unwrap();
    url
}

/// A disk that hangs under one request says nothing to the others.
#[test]
fn a_node_that_answers_whether_it_lives_and_does_not_end_its_work_is_waited_for_within_a_time() {
    let url = busy();
    let rows: [(&[&str], &str); 2] = [
        (&["validate", "--deep"], "ask again"),
        (&["snapshot", "create", "--catalog", "/nonexistent"], "`snapshot list`"),
    ];
    for (words, advice) in rows {
        let output = run(&[words, &["--within", "1s", "--url", &url, "--json"]].concat());
        let told = object(&output);
        assert_eq!((output.status.code(), told["error"]["code"].as_str()), (Some(3), Some("unfinished")), "{told}");
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.contains("within 1s") && message.contains(advice), "{words:?}: {message}");
    }
}

/// Whoever asks waits for work that takes long, and not for a node that says nothing at all.
#[test]
fn a_node_that_hangs_is_given_up_and_each_command_says_what_to_do_then() {
    let hung = TcpListener::bind("127.0.0.1:0").unwrap(); // the system takes what comes, and nobody answers it
    let url = format!("http://{}", hung.local_addr().unwrap());
    let rows: [(&[&str], i32, &str, &str); 5] = [
        (&["load", "--for", "1"], 1, "10s", "ask again"),
        (&["validate", "--deep"], 3, "20s", "ask again"),
        (&["snapshot", "create", "--catalog", "/nonexistent"], 1, "20s", "`snapshot list`"),
        (&["prune-run"], 1, "5s", "with --id ID"),
        (&["prune-run", "--id", "nightly"], 1, "5s", "with --id nightly"),
    ];
    thread::scope(|scope| {
        for (words, code, patience, advice) in rows {
            let url = url.as_str();
            scope.spawn(move || {
                let output = run(&[words, &["--url", url, "--json"]].concat());
                let told = object(&output);
                assert_eq!((output.status.code(), told["error"]["code"].as_str()), (Some(code), Some("unreachable")));
                let message = told["error"]["message"].as_str().unwrap();
                let says = format!("the node at {url} does not answer within {patience}: ");
                assert!(
                    message.starts_with(&says) && message.contains(advice) && message.contains("open connections"),
                    "{words:?}: {message}"
                );
                let beside = String::from_utf8_lossy(&output.stderr);
                assert!(!beside.contains("waiting for"), "{words:?}: nobody reads it: {beside}");
            });
        }
    });
}

#[test]
fn whoever_waits_for_a_node_that_hangs_is_told_after_a_moment_what_for() {
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hung.local_addr().unwrap());
    let rows: [(&[&str], &str); 8] = [
        (&["pin", "list"], "GET /v1/pins"),
        (&["pin", "add", "a", "--order", "3"], "POST /v1/pins/a"),
        (&["consumer", "remove", "a"], "DELETE /v1/consumers/a"),
        (&["explain", "3"], "GET /v1/explain?order=3"),
        (&["journal", "verify"], "GET /v1/events/verify"),
        (&["rollback", "--to", "3"], "POST /v1/rollback?to=3"),
        (&["validate"], "POST /v1/validate"),
        (&["validate", "--deep"], "POST /v1/validate?deep=true"),
    ];
    thread::scope(|scope| {
        for (words, asked) in rows {
            let url = url.as_str();
            scope.spawn(move || {
                let mut command = Command::new(env!("CARGO_BIN_EXE_state-node"));
                let mut child = command.args(words).args(["--url", url]).stderr(Stdio::piped()).spawn().unwrap();
                let mut told = String::new();
                BufReader::new(child.stderr.take().unwrap()).read_line(&mut told).unwrap();
                child.kill().unwrap();
                child.wait().unwrap();
                let says = format!("waiting for the node at {url} to answer `{asked}`, for up to ");
                assert!(told.starts_with(&says), "{words:?}: {told}");
            });
        }
    });
}

#[test]
fn an_advice_is_given_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"mine").unwrap();
    std::fs::create_dir(folder.path().join("reserve")).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/node.toml");
    let (file, config) = (file.to_str().unwrap(), config.to_str().unwrap());
    let (data, listen) = (format!("node.data_dir={}", folder.path().display()), "node.listen=127.0.0.1:0");
    let (reserve, node) = ("pruner.reserve=none", ["--url", "http://127.0.0.1:9"]);
    let rows: [(Vec<&str>, &str); 3] = [
        (vec!["journal", "show", "--state-dir", file], "--state-dir"),
        (vec!["start", "--config", config, "--set", listen, "--set", &data, "--set", reserve], "Is a directory"),
        ([&["load", "--for", "1", "--token-file", "/nonexistent/token"], &node[..]].concat(), "No such file"),
    ];
    for (arguments, part) in rows {
        let output = run(&arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        let error = text.lines().find(|line| line.starts_with("error: ")).unwrap_or(&text);
        assert_eq!(error.matches(part).count(), 1, "{arguments:?}: {error}");
    }
}

#[test]
fn a_code_that_no_event_has_is_refused_with_those_there_are() {
    for command in ["show", "tail"] {
        let output = run(&["journal", command, "--db", "/nonexistent", "--code", "cycle_endet"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("cycle_endet") && text.contains("cycle_ended, phase_entered"), "{text}");
    }
}

/// The load asks for more at once than the mempool holds, and dies of it at once; the node goes on until its time.
#[test]
fn a_node_whose_own_load_died_is_torn_down_all_the_same_and_exits_with_the_failure() {
    let folder = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/node.toml");
    let data = format!("node.data_dir={}", folder.path().display());
    let mut arguments = vec!["start", "--config", config.to_str().unwrap(), "--load", "mixed", "--for", "1"];
    let settings = [&data, "node.listen=127.0.0.1:0", "chain.max_block_transactions=8", "chain.mempool_limit=8"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let ended = run(&arguments);
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{log}");
    assert!(log.contains("the mempool holds 8"), "{log}");
    let files = std::fs::read_dir(folder.path().join("store")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(names.filter(|name| name.ends_with(".sst")).count() > 0, "the store was not flushed\n{log}");
}

#[test]
fn failures_are_one_object_on_stdout_with_a_code_and_an_exit_code() {
    let nowhere = "/nonexistent/store";
    let store = ["--db", nowhere, "--layout", "rooch", "--keep-last", "5", "--json"];
    let rows: [(Vec<&str>, i32, &str); 11] = [
        (vec!["snapshot", "prune", "--catalog", nowhere, "--json"], 2, "usage"),
        (vec!["snapshot", "list", "--catalog", nowhere, "--json"], 1, "no_catalog"),
        (vec!["load", "--url", "http://x", "--batch", "18446744073709551615", "--json"], 2, "usage"),
        (vec!["load", "--url", "http://x", "--connections", "4294967295", "--json"], 2, "usage"),
        ([&["prune"], &store[..], &["--threads", "1000000"]].concat(), 2, "usage"),
        ([&["prune"], &store[..]].concat(), 1, "not_a_database"),
        ([&["verify"], &store[..]].concat(), 1, "not_a_database"),
        (vec!["prune", "--db", nowhere, "--layout", "rooch", "--keep-last", "0", "--json"], 2, "usage"),
        (vec!["prune", "--db", nowhere, "--layout", "diem", "--keep-last", "5", "--json"], 2, "usage"),
        (vec!["health-check", "--db", nowhere, "--json"], 3, "not_a_database"),
        (vec!["health-check", "--json"], 3, "usage"),
    ];
    for (arguments, code, word) in rows {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!(object(&output)["error"]["code"], word, "{arguments:?}");
    }
}

#[test]
fn a_configuration_is_printed_and_checked() {
    let printed = run(&["config", "print-default"]);
    assert!(printed.status.success());
    let answer = object(&run(&["config", "print-default", "--json"]));
    assert_eq!(answer["config"].as_str().unwrap().trim(), String::from_utf8_lossy(&printed.stdout).trim());
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.toml");
    std::fs::write(&good, &printed.stdout).unwrap();
    assert!(run(&["config", "check", good.to_str().unwrap()]).status.success());
    let doubtful = folder.path().join("doubtful.toml");
    std::fs::write(&doubtful, "[pruner]\nreserve = \"1KiB\"\n").unwrap();
    let checked = run(&["config", "check", doubtful.to_str().unwrap()]);
    assert!(checked.status.success() && String::from_utf8_lossy(&checked.stdout).contains("in doubt: pruner.reserve"));
    let bad = folder.path().join("bad.toml");
    std::fs::write(&bad, "[pruner]\nkeep_lsat = 5\nkeep_last = 0\n[chain]\nblock_interval = \"soon\"\n").unwrap();
    let checked = run(&["config", "check", bad.to_str().unwrap(), "--json"]);
    assert_eq!(checked.status.code(), Some(1));
    let message = object(&checked)["error"]["message"].as_str().unwrap().to_owned();
    for key in ["pruner.keep_lsat", "pruner.keep_last", "chain.block_interval"] {
        assert!(message.contains(key), "{message}");
    }
    let started = run(&["start", "--config", bad.to_str().unwrap()]);
    assert_eq!(started.status.code(), Some(1));
    for (file, code) in [(&good, 2), (&bad, 1)] {
        let set = ["start", "--config", file.to_str().unwrap(), "--set", "pruner.keep_lsat=5"];
        assert_eq!(run(&set).status.code(), Some(code), "a key of the command line alone is bad usage: {file:?}");
    }
    let told = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(
        told.contains("the nearest known key is pruner.keep_last") && told.contains("config print-default"),
        "{told}"
    );
}

#[test]
fn what_a_person_got_wrong_is_named_once_and_with_the_way_out() {
    let refused = |arguments: &[&str]| {
        let output = run(arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, help) = refused(&[]);
    assert_eq!(code, Some(2));
    assert!(help.contains("Usage:") && !help.contains("error:"), "{help}");
    let (code, text) = refused(&["health-check"]);
    assert_eq!(code, Some(3));
    assert!(text.contains("--url") && text.contains("--db"), "{text}");
    let node = ["--url", "http://127.0.0.1:9"];
    let usage: [(&[&str], i32, &[&str]); 12] = [
        // What is no name would be a part of another address.
        (
            &[&["pin", "add", "../prune/disable", "--order", "1"], &node[..]].concat(),
            2,
            &["`../prune/disable` is no name"],
        ),
        (&[&["pin", "remove", "a?b"], &node[..]].concat(), 2, &["`a?b` is no name"]),
        (&[&["consumer", "set", "..", "--order", "1"], &node[..]].concat(), 2, &["`..` is no name"]),
        (&[&["consumer", "remove", "%2e"], &node[..]].concat(), 2, &["`%2e` is no name"]),
        (&["load", "--url", "127.0.0.1:9"], 2, &["--url", "http://127.0.0.1:8645"]),
        (&["health-check", "--url", "ftp://127.0.0.1:9"], 3, &["--url", "http://127.0.0.1:8645"]),
        (&["pin", "list", "--url", "https://127.0.0.1:9"], 2, &["--url", "http://127.0.0.1:8645"]),
        (&[&["rollback", "--to", "x"], &node[..]].concat(), 2, &["--to", "a whole number is expected"]),
        (
            &[&["health-check", "--config", "node.toml"], &node[..]].concat(),
            3,
            &["--config", "cannot be used with", "--url"],
        ),
        (&[&["validate", "--state-dir", "."], &node[..]].concat(), 2, &["--state-dir", "cannot be used with", "--url"]),
        (&["start", "--config", "node.toml", "--set", "nokey"], 2, &["--set", "pruner.keep_last=1000"]),
        (&["verify", "--db", "x", "--layout", "rooch", "--keep-last", "x"], 2, &["--keep-last", "whole number"]),
    ];
    for (arguments, expected, words) in usage {
        let (code, text) = refused(arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{arguments:?}: {text}");
    }
    let (_, text) = refused(&["load", "--url", "http://127.0.0.1:9"]);
    assert_eq!(text.matches("refused").count(), 1, "{text}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("node.listen={}", taken.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let data = format!("node.data_dir={}", folder.path().display());
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/node.toml");
    let (code, text) = refused(&["start", "--config", config.to_str().unwrap(), "--set", &listen, "--set", &data]);
    assert_eq!(code, Some(1));
    assert!(text.contains("node.listen: 127.0.0.1:"), "{text}");
}
