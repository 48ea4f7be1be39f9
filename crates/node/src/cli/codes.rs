//! The exit codes of each command, as its help tells them.

pub(super) const START: &str =
    "Exit codes: 0 ended in order, 1 error, or its own load met a wrong proof, 2 bad usage, 130 told twice to stop.";
pub(super) const LOAD: &str = "Exit codes: 0 done, requests that failed meanwhile are in the report; 1 the node went away, did not answer at the end or failed again and again, or a proof was wrong: what was measured until then is told all the same; 2 bad usage.";
pub(super) const ASK: &str = "Exit codes: 0 done, 1 error, 2 bad usage.";
pub(super) const JOURNAL: &str = "Exit codes: 0 done, 1 error, or a journal with damage, 2 bad usage.";
pub(super) const CONFIG: &str = "Exit codes: 0 done, 1 the configuration has problems, 2 bad usage.";
pub(super) const REQUEST: &str =
    "Exit codes: 0 a cycle begins, follows, or has begun for this id before, 1 error, 2 bad usage.";
pub(super) const PRUNE: &str = "Exit codes: 0 done, 1 error, 2 bad usage, 130 stopped by a signal.";
pub(super) const SNAPSHOT: &str = "Exit codes: 0 done, 1 error, also of a snapshot that `verify` or `restore` found damaged, 2 bad usage, 3 a node has not \
    answered in time, 130 stopped by a signal.";
pub(super) const VERIFY: &str =
    "Exit codes: 0 sound, 1 something is missing or corrupt, or an error, 2 bad usage, 130 stopped by a signal.";
pub(super) const VALIDATE: &str = "Exit codes: 0 no check failed, 1 a check failed, 2 bad usage, 3 cannot tell.";
pub(super) const HEALTH: &str = "Exit codes: 0 healthy, 1 degraded, 2 critical, 3 cannot tell, bad usage included.";

/// Each command tells its exit codes: one of several below a command those of that one.
pub(super) fn telling(command: clap::Command) -> clap::Command {
    let codes = command.get_after_help().cloned();
    command.mut_subcommands(|below| {
        let codes = codes.clone().filter(|_| below.get_after_help().is_none());
        telling(match codes {
            Some(codes) => below.after_help(codes),
            None => below,
        })
    })
}
