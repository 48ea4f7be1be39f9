//! S47: how a command answers, and whom it answers, changes nothing of what it does.

use std::{collections::BTreeSet, fs};

use serde_json::{Map, Value};
use state_tests::{
    damage, folder, node,
    shared::{RoochStore, Shared},
};

/// Flags that say how to answer.
const PRESENTATION: [&str; 2] = ["--help", "--json"];

/// Flags that say what to do, and of what.
const PLAN: [&str; 14] = [
    "--allow-hole",
    "--db",
    "--dry-run",
    "--io-limit",
    "--keep-last",
    "--layout",
    "--mark",
    "--memory-budget",
    "--rehash",
    "--state-dir",
    "--sweep",
    "--threads",
    "--unfreeze",
    "--verify-sample",
];

fn help(command: &[&str]) -> String {
    String::from_utf8(node::run(&[command, &["--help"]].concat()).stdout).unwrap()
}

/// The flags that the help of a command lists.
fn flags(help: &str) -> BTreeSet<String> {
    let options = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = options.flat_map(|line| line.split([' ', ',', '=']).filter(|word| word.starts_with("--")).take(1));
    words.map(str::to_owned).collect()
}

/// The commands that the help of a command lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.split("Commands:").nth(1).map_or("", |rest| rest.split("\n\n").next().unwrap());
    let names = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

/// What a certificate says but for times, what hashes cover them, and the memory of the process.
fn said(value: Value) -> Value {
    let of_the_moment = ["digest", "integrity_hash", "peak_rss_bytes", "finished_at"];
    let is_moment = |key: &str| key.contains("seconds") || of_the_moment.contains(&key);
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(key, _)| !is_moment(key));
            Value::Object(kept.map(|(key, value)| (key, said(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(said).collect()),
        other => other,
    }
}

fn certificate(store: &RoochStore) -> Value {
    let db = store.db();
    let name = format!("{}.pruner/certificates/cycle-00000001.json", db.file_name().unwrap().to_str().unwrap());
    let path = db.with_file_name(name);
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    said(serde_json::from_slice(&text).unwrap())
}

fn arguments<'a>(db: &'a str, more: &[&'a str], presentation: &[&'a str]) -> Vec<&'a str> {
    let common = ["prune", "--db", db, "--layout", "rooch", "--keep-last", "10", "--threads", "1"];
    [&common[..], more, presentation].concat()
}

#[test]
fn confirmation_flags_do_not_change_the_plan() {
    let known: BTreeSet<String> = PLAN.into_iter().chain(PRESENTATION).map(str::to_owned).collect();
    assert_eq!(flags(&help(&["prune"])), known, "a new flag is one of the plan, or is tried below");
    let Some(plain) = Shared::Small.copy("presentation") else { return };
    let told = Shared::Small.copy("presentation").unwrap();
    let untouched = folder::digests(&told.db());

    let (code, plan) = node::json(&arguments(&told.db().display().to_string(), &["--dry-run"], &[]));
    assert_eq!((code, folder::digests(&told.db())), (0, untouched));
    let human = node::run(&arguments(&plain.db().display().to_string(), &["--dry-run"], &[]));
    assert!(human.status.success());
    let words: String = String::from_utf8(human.stdout).unwrap().replace(',', "");
    assert!(words.contains(&plan["deleted"].to_string()), "{plan}\n{words}");

    let human = node::run(&arguments(&plain.db().display().to_string(), &[], &[]));
    assert!(human.status.success());
    let (code, _) = node::json(&arguments(&told.db().display().to_string(), &[], &[]));
    assert_eq!(code, 0);
    assert_eq!(certificate(&plain), certificate(&told));

    // A root that cannot be read is refused, however the command answers.
    let damaged = Shared::Small.copy("presentation").unwrap();
    let head = state_tree::NodeHash::from_hex(damaged.expected["head_root"].as_str().unwrap()).unwrap();
    damage::remove_node(&damaged.db(), head.as_bytes());
    let db = damaged.db().display().to_string();
    let before = folder::digests(&damaged.db());
    let human = node::run(&arguments(&db, &[], &[]));
    let (code, refused) = node::json(&arguments(&db, &["--unfreeze"], &[]));
    assert_eq!((human.status.code(), code), (Some(1), 1), "{refused}");
    let message = refused["error"]["message"].as_str().unwrap();
    assert_eq!(String::from_utf8(human.stderr).unwrap().lines().last(), Some(format!("error: {message}").as_str()));
    assert_eq!(folder::digests(&damaged.db()), before);
}

/// What cannot be confirmed cannot be confirmed wrongly: no command has a flag for it.
#[test]
fn no_command_has_a_flag_to_confirm_with() {
    let mut asked = vec![Vec::new()];
    let mut seen = 0;
    while let Some(command) = asked.pop() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let help = help(&words);
        asked.extend(commands(&help).into_iter().map(|name| [command.clone(), vec![name]].concat()));
        let confirms = |flag: &String| {
            ["yes", "force", "skip", "confirm", "quiet", "assume", "ignore", "unsafe"]
                .iter()
                .any(|word| flag.contains(word))
        };
        let found: Vec<String> = flags(&help).into_iter().filter(confirms).collect();
        assert!(found.is_empty(), "{command:?}: {found:?}");
        seen += 1;
    }
    assert!(seen > 20, "{seen} commands");
}
