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
    offline::{PruneMode, PruneRequest},
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

fn digests(db: &Path) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    if db.is_dir() { folder::digests(db) } else { std::collections::BTreeMap::new() }
}
