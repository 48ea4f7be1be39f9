//! `health-check`: one question to a node or a store, answered by the exit code.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
    thread::Builder,
    time::Duration,
};

use clap::{ArgGroup, Args};
use state_pruner::{
    Health, Reason, Verdict,
    offline::{self, CycleDue, HealthRequest},
};

use super::{
    OutputArgs,
    config::bad_config,
    render::{ASK_AGAIN, Failure, Output},
    values::{address, folder, time},
    work,
};
use crate::{
    config::Config,
    load::{Client, ClientError},
    shutdown::leave,
};

/// The exit code when nothing is known.
pub(super) const CANNOT_TELL: u8 = 3;

/// A node that does not answer within this time cannot be told.
const PATIENCE: Duration = Duration::from_secs(5);

/// `health-check`.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("asked").required(true).args(["url", "db"])))]
pub(super) struct HealthArgs {
    /// Address of a running node.
    #[arg(long, value_name = "URL", value_parser = address)]
    url: Option<String>,
    /// Folder of a database, in use or not.
    #[arg(long, value_name = "DIR")]
    db: Option<PathBuf>,
    /// The folder that was given to `prune`, if one was.
    #[arg(long, value_name = "DIR", requires = "db", conflicts_with = "url", value_parser = folder)]
    state_dir: Option<PathBuf>,
    /// Configuration file of the store's node: its bounds, and after how many orders a cycle is due.
    #[arg(long, value_name = "FILE", requires = "db", conflicts_with = "url")]
    config: Option<PathBuf>,
    /// The longest time a store may take to be read: after that nothing can be told.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s", conflicts_with = "url")]
    within: Duration,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Asks, prints and exits with the verdict.
pub(super) fn check(args: &HealthArgs, output: Output) -> ExitCode {
    let told = match (&args.url, &args.db) {
        (Some(url), _) => of_node(url),
        (None, Some(db)) => match in_time(args, db) {
            Ok(told) => told,
            Err(late) => {
                output.fail(&late);
                leave(CANNOT_TELL.into()) // whatever the look waits for
            }
        },
        (None, None) => Err(Failure::new("usage", "give --url or --db")),
    };
    match told {
        Ok(health) => {
            output.answer(&health, || human(&health));
            ExitCode::from(match health.verdict {
                Verdict::Healthy => 0,
                Verdict::Degraded => 1,
                Verdict::Critical => 2,
            })
        }
        Err(failure) => {
            output.fail(&failure);
            ExitCode::from(CANNOT_TELL)
        }
    }
}

fn of_node(url: &str) -> Result<Health, Failure> {
    let unknown = |error: &dyn std::fmt::Display| Failure::new("unreachable", error);
    let runtime = work::runtime().map_err(|error| unknown(&error))?;
    let client = Client::new(url).map_err(|error| unknown(&error))?;
    let answer: Result<Result<serde_json::Value, ClientError>, _> =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, client.json("healthz")).await });
    let late = |_| Failure::late(url, PATIENCE, ASK_AGAIN);
    let answer = answer.map_err(late)?.map_err(|error| unknown(&error))?;
    serde_json::from_value(answer).map_err(|error| Failure::new("unreachable", format!("not a health report: {error}")))
}

/// Looks on another thread: a disk that hangs keeps that one.
///
/// Errors: it has not ended in its time.
fn in_time(args: &HealthArgs, db: &Path) -> Result<Result<Health, Failure>, Failure> {
    let (db, state_dir, config) = (db.to_owned(), args.state_dir.clone(), args.config.clone());
    let (told, answer) = mpsc::sync_channel(1);
    let look = Builder::new().name("look".to_owned()).spawn(move || {
        if told.send(of_store(&db, state_dir.as_deref(), config.as_deref())).is_err() {
            tracing::debug!("the look came too late");
        }
    });
    if let Err(error) = look {
        return Ok(Err(Failure::new("internal", format!("no thread for the look: {error}"))));
    }
    match answer.recv_timeout(args.within) {
        Ok(told) => Ok(told),
        Err(RecvTimeoutError::Timeout) => Err(late(args.within)),
        Err(RecvTimeoutError::Disconnected) => Ok(Err(Failure::new("internal", "the look panicked"))),
    }
}

fn late(within: Duration) -> Failure {
    let within = humantime::format_duration(within);
    let message = format!(
        "the store could not be read within {within}: its disk does not answer, or is very slow. Look at the disk and at the \
         log of the system; if it is only slow, give more time with --within"
    );
    Failure::new("timeout", message)
}

fn of_store(db: &Path, state_dir: Option<&Path>, config: Option<&Path>) -> Result<Health, Failure> {
    let request = HealthRequest::new(db, state_dir);
    let request = match config {
        None => request,
        Some(file) => {
            let config = Config::load(file, &[]).map_err(|problems| bad_config(&problems))?;
            let orders = config.pruner.every_orders.get();
            let due = config.keep().map_or(CycleDue::Never, |keep| CycleDue::After { orders, keep });
            let reserve = config.pruner.reserve.and_then(NonZeroU64::new); // also of a node that does not prune
            let min_healthy_cycles = config.pruner.recovery.min_healthy_cycles;
            let snapshot_path = if config.pruner.enabled { config.pruner.snapshots } else { request.snapshot_path };
            let bounds = config.health;
            HealthRequest { bounds, due, reserve, snapshot_path, min_healthy_cycles, ..request }
        }
    };
    offline::health_of_store(&request).map_err(|error| Failure::new(error.code(), &error))
}

fn human(health: &Health) -> String {
    let word = word(health.verdict);
    let reasons: Vec<String> = health.reasons.iter().map(|reason| told(reason, health.verdict)).collect();
    format!("{word}{}", reasons.concat())
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Healthy => "healthy",
        Verdict::Degraded => "degraded",
        Verdict::Critical => "critical",
    }
}

/// A reason, with how bad it is, and whether the verdict is what it is because of it.
fn told(reason: &Reason, verdict: Verdict) -> String {
    let decides = if verdict != Verdict::Healthy && reason.verdict == verdict { ", decides" } else { "" };
    format!("\n{} ({}{decides}): {}", reason.code, word(reason.verdict), reason.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_told_with_the_reasons_that_decide_it_marked() {
        let reason = |verdict, code: &str| Reason { verdict, code: code.to_owned(), message: "why".to_owned() };
        let reasons = vec![reason(Verdict::Degraded, "lagging"), reason(Verdict::Healthy, "paused")];
        let told = human(&Health { verdict: Verdict::Degraded, reasons: reasons.clone() });
        assert_eq!(told, "degraded\nlagging (degraded, decides): why\npaused (healthy): why");
        let reasons = [reasons, vec![reason(Verdict::Critical, "frozen")]].concat();
        let told = human(&Health { verdict: Verdict::Critical, reasons });
        assert!(
            told.contains("\nlagging (degraded): why") && told.ends_with("\nfrozen (critical, decides): why"),
            "{told}"
        );
        let told = human(&Health { verdict: Verdict::Healthy, reasons: vec![reason(Verdict::Healthy, "paused")] });
        assert_eq!(told, "healthy\npaused (healthy): why", "nothing has to decide that");
    }
}
