//! One source of defaults, every key read, every problem at once.

use state_pruner::PrunerConfig;

use super::*;

fn known() -> Vec<&'static str> {
    let mut source = Source::parse("none", "");
    Config::default().read(&mut source);
    source.known().to_vec()
}

#[test]
fn whoever_embeds_the_pruner_begins_with_what_the_node_has() {
    let Config { node, pruner, .. } = Config::default();
    let expected = PrunerConfig::for_server(&node.id, pruner.keep_last, node.data_dir.join("pruner"));
    assert_eq!(Config::default().pruner(), Some(expected));
}

#[test]
fn the_shipped_config_is_the_tested_config() {
    assert_eq!(Config::parse("config/node.toml", SHIPPED, &[]).unwrap(), Config::default());
    let mut section = String::new();
    let mut named = Vec::new();
    let mut commented = false;
    for line in SHIPPED.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ")
            && !key.starts_with(' ')
        {
            assert!(commented, "{key} has no comment");
            named.push(format!("{section}.{key}"));
        }
        commented = line.starts_with("# ");
    }
    named.sort();
    let mut expected = known();
    expected.sort_unstable();
    assert_eq!(named, expected, "the shipped file names every key, and no other");
}

/// A value of each key that is not its default.
const OTHER: [(&str, &str); 58] = [
    ("node.id", "other"),
    ("node.data_dir", "/tmp/other"),
    ("node.listen", "[::1]:9000"),
    ("node.admin_token_file", "/tmp/other"),
    ("node.request_timeout", "5s"),
    ("node.stop_timeout", "5m"),
    ("chain.block_interval", "50ms"),
    ("chain.max_block_transactions", "10"),
    ("chain.mempool_limit", "5000"),
    ("chain.mempool_bytes", "16 MiB"),
    ("chain.durability", "logged"),
    ("chain.keep_blocks", "500"),
    ("pruner.enabled", "false"),
    ("pruner.keep_last", "7"),
    ("pruner.keep_time", "7d"),
    ("pruner.keep_every", "1000"),
    ("pruner.incremental", "off"),
    ("pruner.max_reader_age", "5m"),
    ("pruner.old_readers", "let_go"),
    ("pruner.every_orders", "3"),
    ("pruner.every", "6h"),
    ("pruner.jitter", "25 %"),
    ("pruner.garbage_ratio", "0.5"),
    ("pruner.low_disk", "2 GiB"),
    ("pruner.reserve", "1 MiB"),
    ("pruner.cooldown", "1m"),
    ("pruner.mark", "walk"),
    ("pruner.sweep", "delete"),
    ("pruner.note_every", "1m"),
    ("pruner.memory_budget", "64 MiB"),
    ("pruner.rehash", "all"),
    ("pruner.io_limit", "8 MiB"),
    ("pruner.verify_sample", "7"),
    ("pruner.lock_timeout", "10s"),
    ("pruner.lock_wait", "1s"),
    ("pruner.max_snapshot_age", "3h"),
    ("pruner.snapshots", "basic"),
    ("pruner.barrier_limit", "1000"),
    ("pruner.pending_limit", "1000"),
    ("events.flush_every", "5s"),
    ("events.sync_every", "5s"),
    ("events.sync", "each"),
    ("events.max_bytes", "2 MiB"),
    ("events.keep", "7d"),
    ("pruner.recovery.max_phase_retries", "5"),
    ("pruner.recovery.base_retry_delay_ms", "50"),
    ("pruner.recovery.max_retry_delay_ms", "60000"),
    ("pruner.recovery.backoff_multiplier", "3.0"),
    ("pruner.recovery.enable_snapshot_recovery", "false"),
    ("pruner.recovery.snapshot_recovery_timeout_secs", "60"),
    ("pruner.recovery.enable_phase_rollback", "false"),
    ("pruner.recovery.min_healthy_cycles", "1"),
    ("health.lock_idle", "1m"),
    ("health.lag_cycles", "2"),
    ("health.cycle_age", "none"),
    ("health.pin_age", "7d"),
    ("log.filter", "debug"),
    ("log.format", "json"),
];

/// What the parts of the node are built from.
fn effect(config: &Config) -> String {
    let parts = (config.store(), config.chain(), config.pruner(), config.keep(), config.readers(), config.events());
    let parts = (parts, config.chain.keep_blocks, config.pruner.reserve);
    let places = (&config.node, config.store_dir(), config.pruner_dir());
    format!("{parts:?} {places:?} {:?} {:?}", config.health, config.log)
}

/// Checked by the test of every key and flag.
pub(crate) fn every_key_reaches_the_part_it_configures() {
    let mut keys: Vec<&str> = OTHER.iter().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    let mut expected = known();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    let default = effect(&Config::default());
    for (key, value) in OTHER {
        let config = Config::parse("empty", "", &[format!("{key}={value}")]).unwrap();
        assert_ne!(effect(&config), default, "{key} changes nothing");
    }
}

#[test]
fn every_problem_of_a_config_is_reported_at_once_with_key_file_and_nearest_key() {
    let text = r#"
        loose = 1
        [node]
        listen = "0.0.0.0:80"
        [chain]
        block_interval = "soon"
        mempool_limit = 10
        keep_blocks = 5
        [pruner]
        keep_lst = 5
        keep_last = 0
        keep_time = "long"
        keep_every = 0
        io_limit = 0
        memory_budget = "lots"
        verify_sample = 0
        max_snapshot_age = "1s"
        jitter = 1.5
        garbage_ratio = "half"
        low_disk = 0
        reserve = 0
        every = 7
        [prunr]
        mark = "scan"
        [pruner.recovery]
        max_phase_retires = 2
        [nothing]
        [prune]
        [log]
    "#;
    let set = ["log.format=xml".to_owned(), "nonsense".to_owned(), "log.filter=a=b=c".to_owned()];
    let problems = Config::parse("my.toml", text, &set).unwrap_err();
    let listed: Vec<String> = problems.iter().map(Problem::to_string).collect();
    let expected = [
        "my.toml: loose: unknown key",
        "my.toml: node.listen: ",
        "my.toml: chain.block_interval: a time such as \"200ms\" is expected",
        "my.toml: chain.mempool_limit: ",
        "my.toml: chain.keep_blocks: ",
        "my.toml: pruner.keep_lst: unknown key; the nearest known key is pruner.keep_last",
        "my.toml: pruner.keep_last: must be at least 1",
        "my.toml: pruner.keep_time: a time such as \"200ms\" is expected",
        "my.toml: pruner.keep_every: must be at least 1",
        "my.toml: pruner.io_limit: ",
        "my.toml: pruner.memory_budget: ",
        "my.toml: pruner.verify_sample: must be at least 1",
        "my.toml: pruner.max_snapshot_age: ",
        "my.toml: pruner.jitter: a share from 0 to 1",
        "my.toml: pruner.garbage_ratio: a share from 0 to 1",
        "my.toml: pruner.low_disk: ",
        "my.toml: pruner.reserve: ",
        "my.toml: pruner.every: a time such as \"200ms\" is expected",
        "my.toml: prunr.mark: unknown key; the nearest known key is pruner.mark",
        "my.toml: pruner.recovery.max_phase_retires: unknown key; the nearest known key is pruner.recovery.max_phase_retries",
        "my.toml: nothing: unknown section; there are [node], [chain], [pruner], [events], [pruner.recovery], ",
        "my.toml: prune: unknown section; the nearest known section is [pruner]",
        "--set: log.format: ",
        "--set: `nonsense`",
        "--set: log.filter: ",
    ];
    for expected in expected {
        assert!(listed.iter().any(|line| line.starts_with(expected)), "{expected}\n{listed:#?}");
    }
    assert_eq!(listed.len(), expected.len(), "{listed:#?}");
}

/// What was typed is answered in the words of the configuration, not in those of a parser.
#[test]
fn a_value_of_another_kind_is_told_what_is_expected() {
    let rows = [
        ("pruner.incremental=true", "unknown variant `true`, expected `on` or `off`"),
        ("pruner.mark=3", "unknown variant `3`, expected one of `auto`, `scan`, `walk`"),
        (
            "pruner.recovery.max_phase_retries=-1",
            "a whole number from 0 on is expected, and none beyond reason, not -1",
        ),
        ("log.filter=inof", "`inof` is no level"),
        ("log.filter=info,state_node", "`state_node` is no level"),
        ("log.filter=state_node=debug", "put one first, `error,state_node=debug`"),
        ("log.filter=a=b=c", "`a=b=c`: "),
    ];
    for (set, expected) in rows {
        let problems = Config::parse("my.toml", "", &[set.to_owned()]).unwrap_err();
        let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert!(told.len() == 1 && told[0].contains(expected), "{set}: {told:?}");
    }
    for fine in ["info", "warn,state_store=debug", "off", "INFO", "[span]=debug,error", "state_node=trace,warn"] {
        Config::parse("my.toml", "", &[format!("log.filter={fine}")]).unwrap();
    }
}

#[test]
fn contradictions_that_no_single_value_shows_are_refused() {
    let rows: [(&[&str], &str); 26] = [
        (&["node.stop_timeout=0s"], "node.stop_timeout"),
        (&["node.request_timeout=25h"], "node.request_timeout"),
        (&["node.request_timeout=300000000000years"], "node.request_timeout"),
        (&["health.lock_idle=0s"], "health.lock_idle"),
        (&["health.cycle_age=0s"], "health.cycle_age"),
        (&["health.pin_age=0s"], "health.pin_age"),
        (&["node.request_timeout=100ms"], "chain.block_interval"),
        (&["chain.mempool_bytes=16777215"], "chain.mempool_bytes"),
        (&["pruner.memory_budget=1048575"], "pruner.memory_budget"),
        (&["pruner.keep_last=100", "chain.keep_blocks=99"], "chain.keep_blocks"),
        (&["pruner.lock_timeout=3h"], "pruner.max_snapshot_age"),
        (&["pruner.keep_time=0s"], "pruner.keep_time"),
        (&["pruner.keep_every=1"], "pruner.keep_every"),
        (&["pruner.every=10s", "pruner.cooldown=11s"], "pruner.every"),
        (&["pruner.every=10ms", "pruner.cooldown=0s"], "pruner.every"),
        (&["pruner.cooldown=25h"], "pruner.cooldown"),
        (&["pruner.garbage_ratio=100 %"], "pruner.garbage_ratio"),
        (&["events.flush_every=0s"], "events.flush_every"),
        (&["events.flush_every=2m"], "events.flush_every"),
        (&["events.sync_every=0s"], "events.sync_every"),
        (&["events.sync_every=2m"], "events.sync_every"),
        (&["events.max_bytes=1048575"], "events.max_bytes"),
        (&["events.keep=59s"], "events.keep"),
        (&["pruner.note_every=0s"], "pruner.note_every"),
        (&["pruner.recovery.base_retry_delay_ms=40000"], "pruner.recovery.max_retry_delay_ms"),
        (&["pruner.recovery.backoff_multiplier=0.5"], "pruner.recovery.backoff_multiplier"),
    ];
    for (set, key) in rows {
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        let problems = Config::parse("empty", "", &set).unwrap_err();
        let keys: Vec<Option<&str>> = problems.iter().map(|problem| problem.key.as_deref()).collect();
        assert_eq!(keys, [Some(key)], "{set:?}");
    }
}

#[test]
fn a_text_that_is_no_toml_and_a_file_that_is_not_there_are_named() {
    let problems = Config::parse("my.toml", "[node\n", &[]).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].origin, "my.toml");
    let problems = Config::load(Path::new("/nonexistent/node.toml"), &[]).unwrap_err();
    assert!(problems[0].to_string().starts_with("/nonexistent/node.toml: cannot be read"));
}

/// F10: jitter that is the same in every node keeps none of them apart.
#[test]
fn jitter_that_is_drawn_from_the_id_of_every_node_is_doubted() {
    let doubts = |changes: &[&str]| {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        Config::parse("config/node.toml", SHIPPED, &changes).unwrap().doubts()
    };
    let told = doubts(&[]);
    assert!(told.len() == 1 && told[0].contains("node.id is \"reference\""), "{told:?}");
    for changes in [["node.id=other"], ["pruner.jitter=0"], ["pruner.enabled=false"]] {
        assert_eq!(doubts(&changes), Vec::<String>::new(), "{changes:?}");
    }
}

/// Switching pruning off is no reason to refuse a configuration that is fine while it is on.
#[test]
fn blocks_that_are_to_go_while_nothing_is_pruned_are_doubted() {
    let doubts = |enabled: &str| {
        let changes = ["node.id=other", enabled, "chain.keep_blocks=1000"].map(str::to_owned);
        Config::parse("config/node.toml", SHIPPED, &changes).unwrap().doubts()
    };
    assert_eq!(doubts("pruner.enabled=true"), [""; 0]);
    let told = doubts("pruner.enabled=false");
    assert!(told.len() == 1 && told[0].starts_with("chain.keep_blocks does nothing"), "{told:?}");
}

/// C12: room in which RocksDB does not go on is kept for nothing.
#[test]
fn a_reserve_that_is_of_no_use_is_doubted_also_where_nothing_is_pruned() {
    for enabled in ["pruner.enabled=true", "pruner.enabled=false"] {
        let doubts = |reserve: &str| {
            let changes = ["node.id=other".to_owned(), enabled.to_owned(), format!("pruner.reserve={reserve}")];
            Config::parse("config/node.toml", SHIPPED, &changes).unwrap().doubts()
        };
        let told = doubts("1 KiB");
        assert!(told.len() == 1 && told[0].contains("1.0 KiB") && told[0].contains("64.0 MiB"), "{told:?}");
        assert_eq!(doubts("67108863 B").len(), 1);
        ["64 MiB", "none"].iter().for_each(|reserve| assert_eq!(doubts(reserve), Vec::<String>::new(), "{reserve}"));
    }
}
