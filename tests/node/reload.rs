//! A configuration that is read again while the node runs.

use std::{fs, path::PathBuf};

use rustix::process::Signal;
use serde_json::Value;
use state_tests::node::{Node, json};
use tempfile::TempDir;

/// A node with a configuration of its own, which can be changed.
struct Configured {
    node: Node,
    file: PathBuf,
    _dir: TempDir,
}

impl Configured {
    fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        fs::write(&file, config).unwrap();
        Self { node: Node::configured(&file, &dir.path().join("data"), &[]), file, _dir: dir }
    }

    /// Changes its configuration, and waits until it has logged this so often.
    fn read_again(&self, config: &str, (logged, times): (&str, usize)) {
        fs::write(&self.file, config).unwrap();
        self.node.signal(Signal::HUP);
        self.node.until_logged_often(logged, times);
    }

    fn is_off(&self) -> bool {
        self.node.status()["pruner"]["off"] != Value::Null
    }
}

const READ: &str = "the configuration was read again";

#[test]
fn a_configuration_that_is_read_again_switches_pruning_off_and_on() {
    let configured = Configured::start("");
    let Configured { node, .. } = &configured;
    configured.read_again("pruner.enabled = false", ("switched off by an operator", 1));
    assert!(configured.is_off());
    let (code, health) = json(&["health-check", "--url", node.url()]);
    assert_eq!((code, health["reasons"][0]["code"].as_str()), (1, Some("switched_off")), "{health}");
    configured.read_again("pruner.enabled = true", ("switched on by an operator", 1));
    assert!(!configured.is_off());
    assert_eq!(json(&["health-check", "--url", node.url()]).0, 0);

    assert!(node.prune("disable"));
    configured.read_again("", (READ, 3));
    assert!(configured.is_off(), "what has not changed leaves the command's word");
}

#[test]
fn a_configuration_with_a_problem_changes_nothing_and_what_takes_a_restart_is_told() {
    let configured = Configured::start("");
    configured.read_again("pruner.enabled = false\npruner.colour = 1", ("pruner.colour", 1));
    assert!(!configured.is_off());
    let changed = "pruner.keep_last = 9\nhealth.lag_cycles = 9";
    configured.read_again(changed, ("has changed in [pruner], [health]: that takes a restart", 1));
    let log = configured.node.log();
    assert_eq!(log.matches(READ).count(), 1, "{log}");
    assert!(!configured.is_off());
}

#[test]
fn a_node_without_its_pruner_says_that_switching_it_on_takes_a_restart() {
    let configured = Configured::start("pruner.enabled = false");
    configured.read_again("", ("so that takes a restart", 1));
    configured.read_again("", ("so that takes a restart", 2));
    let (status, log) = configured.node.stop(Signal::TERM);
    assert!(status.success(), "{log}");
}
