//! Bad input and bad surroundings, each met before anything is written: a typed error that names what and where, and a
//! store that is byte for byte what it was.

mod damage;
mod history;
mod late;
mod runs;
mod surroundings;

use std::path::Path;

use state_pruner::{
    PruneError,
    events::{Entry, Filter, journal_dir, read_journal},
    offline::{self, HealthRequest, PruneMode, PruneRequest},
};
use state_tests::{folder, offline::prune};

/// A prune and its dry run are refused with the same code, and the folder is as it was.
fn refused(request: &PruneRequest, code: &str) -> PruneError {
    let before = digests(&request.db);
    let plan = prune(&PruneRequest { mode: PruneMode::Plan, ..request.clone() }).unwrap_err();
    assert_eq!(plan.code(), code, "dry run: {plan}");
    assert_eq!(digests(&request.db), before, "dry run: {plan}");
    let error = prune(&PruneRequest { mode: PruneMode::Apply, ..request.clone() }).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert_eq!(digests(&request.db), before, "{error}");
    error
}

/// What the journal beside the records has of cycles: the word, the cycle and what it came to.
fn cycles_told(request: &PruneRequest) -> Vec<(String, u64, Option<String>)> {
    let beside = request.state_dir.clone().unwrap_or_else(|| offline::default_state_dir(&request.db));
    let codes = ["cycle_begun", "cycle_ended"].map(str::to_owned).to_vec();
    let read = read_journal(&journal_dir(&beside), &Filter { codes, ..Filter::default() }).unwrap();
    let told = |Entry { code, data, .. }: Entry| {
        let outcome = data.get("outcome").and_then(|word| word.as_str()).map(str::to_owned);
        (code, data["cycle"].as_u64().unwrap(), outcome)
    };
    read.events.into_iter().map(told).collect()
}

/// I13: a prune that ended with this error is told by the journal beside the store, and by `health-check --db`.
fn end_is_told(request: &PruneRequest, error: &PruneError) {
    let (word, _, outcome) = cycles_told(request).pop().unwrap();
    assert_eq!((word.as_str(), outcome.as_deref()), ("cycle_ended", Some(error.code())), "{error}");
    let health = offline::health_of_store(&HealthRequest::new(&request.db, request.state_dir.as_deref())).unwrap();
    let failed = health.reasons.iter().find(|reason| reason.code == "last_cycle_failed");
    let failed = failed.unwrap_or_else(|| panic!("{error}: {:?}", health.reasons));
    assert!(failed.message.contains(&error.to_string()), "{failed:?}");
}

fn digests(db: &Path) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    if db.is_dir() { folder::digests(db) } else { std::collections::BTreeMap::new() }
}
