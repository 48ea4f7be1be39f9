//! O20: who may command a node, and that nothing shows what they prove it by.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use reqwest::{
    Method, StatusCode,
    blocking::{Client, Response},
    header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE},
};
use rustix::process::Signal;
use serde_json::Value;
use state_tests::node::{self, Node};

const TOKEN: &str = "c0ffee-0123456789abcdef-this_is.the~secret";

/// Requests that change nothing.
const READS: [&str; 7] =
    ["/healthz", "/readyz", "/metrics", "/v1/status", "/v1/pins", "/v1/consumers", "/v1/events?last=5"];

/// Requests that do, and one to nowhere.
const COMMANDS: [(&str, &str); 16] = [
    ("POST", "/v1/transactions"),
    ("POST", "/v1/prune/run"),
    ("POST", "/v1/prune/pause"),
    ("POST", "/v1/prune/resume"),
    ("POST", "/v1/prune/cancel"),
    ("POST", "/v1/prune/unfreeze"),
    ("POST", "/v1/prune/disable"),
    ("POST", "/v1/prune/enable"),
    ("POST", "/v1/rollback?to=0"),
    ("POST", "/v1/validate"),
    ("POST", "/v1/snapshots"),
    ("POST", "/v1/pins/audit"),
    ("DELETE", "/v1/pins/audit"),
    ("POST", "/v1/consumers/indexer"),
    ("DELETE", "/v1/consumers/indexer"),
    ("PUT", "/v1/nowhere"),
];

fn token_file(folder: &Path) -> String {
    let file = folder.join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

fn send(node: &Node, (method, path): (&str, &str), authorization: Option<&str>) -> Response {
    let client = Client::builder().no_proxy().build().unwrap();
    let request = client.request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}{path}", node.url()));
    let request = authorization.into_iter().fold(request, |request, value| request.header(AUTHORIZATION, value));
    request.body("{}").send().unwrap()
}

/// What commands would change.
fn state(node: &Node) -> Value {
    let status = node.status();
    let pruner = &status["pruner"];
    serde_json::json!([
        status["head"],
        status["floor"],
        status["retention"]["pins"],
        status["retention"]["consumers"],
        pruner["off"],
        pruner["cycles_finished"],
        status["validation"],
        pruner["triggers"]["runs"]
    ])
}

fn refuses_who_has_no_token(node: &Node) {
    let before = state(node);
    let almost = format!("Bearer {}", TOKEN.replace("secret", "secreT"));
    let basic = format!("Basic {TOKEN}");
    for command in COMMANDS {
        for authorization in [None, Some(almost.as_str()), Some(basic.as_str()), Some(TOKEN), Some("Bearer ")] {
            let answer = send(node, command, authorization);
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{command:?} {authorization:?}");
            assert_eq!(answer.headers()[WWW_AUTHENTICATE], "Bearer");
            let told: Value = answer.json().unwrap();
            assert_eq!(told["error"]["code"], "token", "{told}");
        }
    }
    READS.iter().for_each(|path| assert!(node.ask(path).status().is_success(), "{path}"));
    assert_eq!(state(node), before, "and nothing has changed");
}

/// Every command of the command line that changes a node.
fn command_lines<'a>(url: &'a str, catalog: &'a str) -> [Vec<&'a str>; 15] {
    let node = ["--url", url];
    [
        [&["pin", "add", "audit", "--order", "1"][..], &node].concat(),
        [&["pin", "remove", "audit"][..], &node].concat(),
        [&["consumer", "set", "indexer", "--order", "1"][..], &node].concat(),
        [&["consumer", "remove", "indexer"][..], &node].concat(),
        [&["prune-pause"][..], &node].concat(),
        [&["prune-resume"][..], &node].concat(),
        [&["prune-cancel"][..], &node].concat(),
        [&["prune-unfreeze"][..], &node].concat(),
        [&["acknowledge", "log_cut"][..], &node].concat(),
        [&["prune-disable"][..], &node].concat(),
        [&["prune-enable"][..], &node].concat(),
        [&["prune-run"][..], &node].concat(),
        [&["validate"][..], &node].concat(),
        [&["snapshot", "create", "--catalog", catalog][..], &node].concat(),
        [&["rollback", "--to", "3"][..], &node].concat(),
    ]
}

#[test]
fn admin_commands_need_the_token_and_dumps_hide_secrets() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (token, catalog) = (token_file(home.path()), home.path().join("catalog").display().to_string());
    let key = format!("node.admin_token_file={token}");
    let settings = [key.as_str(), "log.filter=trace", "pruner.keep_last=100"];
    let node = Node::start(data.path(), &settings);
    refuses_who_has_no_token(&node);
    let url = node.url().to_owned();
    let lines = command_lines(&url, &catalog);
    for line in &lines {
        let (code, refused) = node::json(line);
        assert!(code != 0 && refused["error"]["code"] == "token", "{line:?}: {refused}");
    }
    let (code, refused) = node::json(&["prune-run", "--url", &url, "--token-file", "/nowhere/token"]);
    assert!(code == 1 && refused["error"]["code"] == "token", "{refused}");
    let (code, driven) = node::json(&["load", "--url", &url, "--rate", "50", "--for", "1"]);
    assert_eq!((code, driven["error"]["code"].as_str()), (1, Some("token")), "{driven}");

    let (code, driven) = node::json(&["load", "--url", &url, "--token-file", &token, "--rate", "100", "--for", "2"]);
    assert!(code == 0 && driven["transactions"].as_u64().unwrap() > 0, "{driven}");
    let mut answers = driven.to_string();
    for line in &lines {
        let (code, answer) = node::json(&[&line[..], &["--token-file", &token]].concat());
        let expected = match line[0] {
            "prune-pause" | "prune-resume" | "prune-cancel" => (1, "not_running"), // it is taken, and there is nothing to do
            "prune-unfreeze" => (1, "not_frozen"),
            "acknowledge" => (1, "refused"), // nothing is told
            _ => (0, ""),
        };
        assert_eq!((code, answer["error"]["code"].as_str().unwrap_or("")), expected, "{line:?}: {answer}");
        answers.push_str(&answer.to_string());
    }
    let (code, health) = node::json(&["health-check", "--url", &url]);
    assert!(code < 3, "{health}");

    let file = home.path().join("node.toml");
    fs::write(&file, format!("[node]\nadmin_token_file = {token:?}\nlisten = \"0.0.0.0:0\"\n")).unwrap();
    let (code, checked) = node::json(&["config", "check", &file.display().to_string()]);
    assert_eq!(code, 0, "{checked}");
    answers.push_str(&checked.to_string());
    READS.iter().for_each(|path| answers.push_str(&node.ask(path).text().unwrap()));
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{log}");
    for (what, text) in [("an answer", &answers), ("the log", &log)] {
        assert!(text.len() > 1000 && !text.contains(TOKEN) && !text.contains(&TOKEN[..16]), "{what} has the token");
    }
}

#[test]
fn beyond_this_machine_nobody_commands_a_node_without_a_token() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let token = token_file(home.path());
    let config = node::repository().join("config/node.toml").display().to_string();
    let everywhere = "node.listen=0.0.0.0:0";
    let refused = node::run(&["start", "--config", &config, "--set", everywhere]);
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && words.contains("node.admin_token_file"), "{words}");

    let key = format!("node.admin_token_file={token}");
    let node = Node::start(data.path(), &[everywhere, &key]);
    refuses_who_has_no_token(&node);
    let client = Client::builder().no_proxy().build().unwrap();
    let named = |path: &str| client.get(format!("{}{path}", node.url())).header(HOST, "node-7.example");
    assert!(named("/v1/status").send().unwrap().status().is_success(), "it has the names that its network gives it");
    let page = named("/v1/status").header("Origin", "http://node-7.example").send().unwrap();
    assert_eq!(page.status(), StatusCode::FORBIDDEN, "and pages are not served");
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(send(&node, ("POST", "/v1/prune/disable"), Some(&bearer)).status(), StatusCode::ACCEPTED);
    assert!(node.stop(Signal::TERM).0.success());

    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let data = format!("node.data_dir={}", data.path().display());
    let set = ["--set", everywhere, "--set", &key, "--set", &data];
    let refused = node::run(&[&["start", "--config", &config][..], &set].concat());
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && words.contains("chmod o="), "{words}");
}
