//! Every documented command line parses, and does what it says.

use super::*;
use crate::config::SHIPPED;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    super::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
}

#[test]
fn the_grammar_holds_together() {
    Cli::command().debug_assert();
}

/// Every line of the documents that begins with the binary, without comments and with words for its placeholders.
fn documented() -> Vec<String> {
    let documents = [
        include_str!("../../../../README.md"),
        include_str!("../../../../docs/operations.md"),
        include_str!("../../../../scripts/run"),
    ];
    let mut lines = Vec::new();
    for document in documents {
        let document = document.replace("exec \"$binary\"", "state-node");
        for part in document.split(['`', '\n']) {
            let part = part.split(['#', '"']).next().unwrap().trim();
            let Some(at) = part.find("state-node ") else { continue };
            let before = &part[..at];
            if !before.is_empty() && !before.ends_with('/') {
                continue; // prose
            }
            let line = part[at..].replace("--url URL", "--url http://x").replace("keep-last N", "keep-last 5");
            lines.push(line);
        }
    }
    lines
}

#[test]
fn every_documented_command_line_parses() {
    let lines = documented();
    let parsed = |line: &String| match parse(line) {
        Ok(_) => true,
        // A verb alone names a command in a sentence.
        Err(error) => line.split_whitespace().count() == 2 && error.kind() == ErrorKind::MissingRequiredArgument,
    };
    let wrong: Vec<&String> = lines.iter().filter(|line| !parsed(line)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(lines.len() >= 8, "{lines:#?}");
}

#[test]
fn every_config_key_and_documented_flag_takes_effect() {
    crate::config::every_key_reaches_the_part_it_configures();
    let base = "state-node prune --db d --layout rooch --keep-last 5";
    let request = |flags: &str| {
        let Command::Prune(args) = parse(&format!("{base} {flags}")).unwrap().command else {
            panic!("not a prune: {flags}");
        };
        format!("{:?}", state_pruner::offline::PruneRequest::from(&args))
    };
    let flags = [
        "--dry-run",
        "--mark scan",
        "--mark walk",
        "--sweep filter",
        "--sweep delete",
        "--rehash sample",
        "--memory-budget 64MiB",
        "--state-dir s",
        "--threads 3",
        "--io-limit 8MiB",
        "--verify-sample 7",
        "--allow-hole 3",
    ];
    let mut seen = vec![request("")];
    for flag in flags {
        let this = request(flag);
        assert!(!seen.contains(&this), "{flag} changes nothing");
        seen.push(this);
    }
    let base = "state-node verify --db d --layout native --keep-last 5";
    let request = |flags: &str| {
        let Command::Verify(args) = parse(&format!("{base} {flags}")).unwrap().command else {
            panic!("not a verification: {flags}");
        };
        format!("{:?}", state_pruner::offline::VerifyRequest::from(&args))
    };
    for flag in ["--leaks", "--sample 9", "--memory-budget 64MiB", "--state-dir s", "--allow-hole 3"] {
        assert_ne!(request(flag), request(""), "{flag} changes nothing");
    }
}

#[test]
fn values_that_mean_nothing_are_refused_by_the_grammar() {
    let base = "state-node prune --db d";
    let wrong = [
        "--layout rooch --keep-last 0",
        "--layout diem --keep-last 5",
        "--layout rooch",
        "--layout rooch --keep-last 5 --io-limit 0",
        "--layout rooch --keep-last 5 --memory-budget lots",
        "--layout rooch --keep-last 5 --mark guess",
    ];
    for flags in wrong {
        assert!(parse(&format!("{base} {flags}")).is_err(), "{flags}");
    }
    for flags in ["--threads 1000000", "--threads 0", "--verify-sample 0"] {
        assert!(parse(&format!("{base} --layout rooch --keep-last 5 {flags}")).is_err(), "{flags}");
    }
    assert!(parse("state-node verify --db d --layout rooch --keep-last 5 --sample 0").is_err());
    for flags in ["--batch 18446744073709551615", "--batch 4097", "--connections 4294967295", "--connections 0"] {
        assert!(parse(&format!("state-node load --url http://x {flags}")).is_err(), "{flags}");
    }
    let most = "state-node load --url http://x --batch 4096 --connections 1024";
    let Command::Load(args) = parse(most).unwrap().command else { panic!("not a load") };
    assert_eq!((args.batch.get(), args.connections.get()), (4096, 1024));
    for flags in ["", "--url http://x --id", "--url http://x --id a/b", "--url http://x --id a --db d"] {
        assert!(parse(&format!("state-node prune-run {flags}")).is_err(), "{flags}");
    }
    assert!(parse("state-node prune-run --url http://x --id nightly-2026.11.26_a --json").is_ok());
    for command in ["rollback --to 3", "validate", "snapshot create --catalog c --layout native"] {
        let refused = parse(&format!("state-node {command} --db d --token-file f")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ArgumentConflict, "{command}: a store at rest takes no token");
    }
    assert!(parse("state-node rollback --to 3 --url http://x --token-file f").is_ok());
    assert!(parse("state-node health-check").is_err());
    assert!(parse("state-node health-check --url http://x --db d").is_err());
    assert!(parse("state-node start --config c --load mixed:fast").is_err());
    let twice = "state-node start --config a --load mixed --config b --load toggle:50";
    let Command::Start(args) = parse(twice).unwrap().command else { panic!("not a start") };
    assert_eq!((args.config, args.load), (PathBuf::from("b"), Some("toggle:50".parse().unwrap())));
    let own = "toggle:50".parse::<OwnLoad>().unwrap();
    assert_eq!((own.profile, own.rate), (Profile::Toggle, "50".parse().unwrap()));
}

#[test]
fn what_is_wrong_with_a_value_is_said_in_words_of_the_command() {
    let store = "state-node prune --db d --layout rooch";
    let rows = [
        (format!("{store} --keep-last 0"), "at least 1"),
        (format!("{store} --keep-last 5 --memory-budget lots"), "512MiB"),
        (format!("{store} --keep-last 5 --io-limit lots"), "512MiB"),
        ("state-node journal show --url http://x --since yesterday".to_owned(), "2h"),
        ("state-node journal show --url http://x --code Cycle".to_owned(), "cycle_ended"),
        ("state-node start --config c --load psycho".to_owned(), "mixed, toggle, tables"),
        ("state-node load --url http://x --profile psycho".to_owned(), "mixed, toggle, tables"),
    ];
    for (line, words) in rows {
        let error = parse(&line).unwrap_err().to_string();
        assert!(error.contains(words), "{line}: {error}");
    }
    tells_codes(codes::telling(Cli::command()).get_subcommands());
}

fn tells_codes<'c>(commands: impl Iterator<Item = &'c clap::Command>) {
    for command in commands {
        let help = command.get_after_help().map(ToString::to_string);
        assert!(help.is_some_and(|help| help.starts_with("Exit codes: ")), "{}", command.get_name());
        tells_codes(command.get_subcommands());
    }
}

#[test]
fn every_documented_example_config_validates() {
    let documents = [include_str!("../../../../README.md"), include_str!("../../../../docs/operations.md")];
    let examples = documents.iter().flat_map(|text| text.split("```toml\n").skip(1));
    let examples = examples.map(|rest| rest.split("```").next().unwrap()).chain([SHIPPED]);
    for example in examples {
        Config::parse("example", example, &[]).unwrap();
        let optional: String = example.lines().map(|line| format!("{}\n", uncommented(line))).collect();
        Config::parse("example with every key", &optional, &[]).unwrap();
    }
}

/// A key that is shown as absent, made present.
fn uncommented(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map_or(line, |rest| rest)
}
