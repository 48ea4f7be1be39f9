//! Every guard of tests/mutations.toml stands in the code, and the test that it names turns red without it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

use crate::{invariants, none, repository};

/// A guard, and what is left where it is taken away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    /// Of the invariant, or of the way to fail.
    id: String,
    file: PathBuf,
    from: String,
    to: String,
    /// Arguments of cargo that choose the binary with the test.
    suite: String,
    test: String,
}

/// Seconds after which a test hangs: it waits for what its guard would have done. Compiling takes less, too.
const PATIENCE: &str = "600";
/// What `timeout` ends with then.
const HUNG: i32 = 124;

#[derive(Deserialize)]
struct Table {
    mutation: Vec<Mutation>,
}

fn mutations() -> Vec<Mutation> {
    let text = fs::read_to_string(repository().join("tests/mutations.toml")).unwrap();
    toml::from_str::<Table>(&text).unwrap().mutation
}

impl Mutation {
    fn is_wrong(&self, tests: &BTreeSet<String>) -> Option<String> {
        let text = fs::read_to_string(repository().join(&self.file)).unwrap();
        let times = text.matches(&self.from).count();
        let known = tests.contains(&self.test);
        let file = self.file.display();
        (times != 1 || !known || self.from == self.to)
            .then(|| format!("{} in {file}: stands {times} times; its test is there: {known}", self.id))
    }

    /// Whether the test fails in the copy without the guard.
    ///
    /// Panics where the copy does not compile: that proves nothing.
    fn is_noticed(&self, copy: &Path) -> bool {
        let file = copy.join(&self.file);
        let whole = fs::read_to_string(&file).unwrap();
        fs::write(&file, whole.replacen(&self.from, &self.to, 1)).unwrap();
        let compiled = self.cargo(copy).arg("--no-run").status().unwrap().success();
        let run = compiled.then(|| self.cargo(copy).arg(&self.test).output().unwrap()); // one that hangs is ended, too
        fs::write(&file, whole).unwrap();
        let output = run.unwrap_or_else(|| panic!("{} does not compile without its guard", self.id));
        let failed = String::from_utf8_lossy(&output.stdout).contains("test result: FAILED");
        failed || output.status.code() == Some(HUNG)
    }

    fn cargo(&self, copy: &Path) -> Command {
        let mut cargo = Command::new("timeout");
        cargo.args([PATIENCE, env!("CARGO")]).current_dir(copy).env("CARGO_TARGET_DIR", copy.join("../target"));
        cargo.args(["test", "--locked", "--quiet"]).args(self.suite.split_whitespace());
        cargo
    }
}

#[test]
fn every_mutation_takes_away_a_guard_that_is_there_and_every_invariant_has_one() {
    let (mutations, tests) = (mutations(), invariants::tests_of_the_repository().into_keys().collect());
    none("mutations that are out of date", mutations.iter().filter_map(|one| one.is_wrong(&tests)).collect());
    let ids: BTreeSet<String> = mutations.into_iter().map(|mutation| mutation.id).collect();
    let missing = (1..=13).map(|n| format!("I{n}")).filter(|id| !ids.contains(id));
    none("invariants without a mutation", missing.collect());
}

/// Takes an hour, so `scripts/mutate` runs it. `MUTATION` names the one id to try.
#[test]
#[ignore = "compiles the workspace once for each guard; scripts/mutate runs it"]
fn every_guard_has_a_mutation_that_fails() {
    let only = env::var_os("MUTATION").map(|id| id.to_string_lossy().into_owned()).filter(|id| !id.is_empty());
    let copy = repository().join("target/mutants/source");
    if copy.exists() {
        fs::remove_dir_all(&copy).unwrap();
    }
    copy_tree(repository(), &copy);
    let chosen = mutations().into_iter().filter(|one| only.as_ref().is_none_or(|id| one.id == *id));
    let tried = chosen.map(|one| (one.is_noticed(&copy), one));
    let tried = tried.inspect(|(noticed, one)| {
        println!("{} {}: {}", one.id, one.test, if *noticed { "turns red" } else { "STAYS GREEN" });
    });
    let tried: Vec<(bool, Mutation)> = tried.collect();
    assert!(!tried.is_empty(), "no such id");
    let unnoticed = tried.into_iter().filter(|(noticed, _)| !noticed);
    none("guards that nobody misses", unnoticed.map(|(_, one)| format!("{} {}", one.id, one.test)).collect());
}

/// What is built, and what git keeps, stays behind.
fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() && name != "target" && name != ".git" {
            copy_tree(&path, &to.join(name));
        } else if path.is_file() {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
