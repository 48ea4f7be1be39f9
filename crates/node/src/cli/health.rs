//! `health-check`: one question to a node or a store, answered by the exit code.

use std::{
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::{self, SyncSender},
    thread::Builder,
    time::Duration,
};

use clap::{ArgGroup, Args};
use state_pruner::{
    Clock as _, Health, Reason, SystemClock, Verdict,
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

/// A store that is not read within this time is told by the heartbeat of its node: that leaves it the rest of a second.
const HEARTBEAT_AFTER: &str = "600ms";
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
    /// Where the store was not read in this time, what its node said last answers, if it did not long ago.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = HEARTBEAT_AFTER, conflicts_with = "url")]
    heartbeat_after: Duration,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Asks, prints and exits with the verdict.
pub(super) fn check(args: &HealthArgs, output: Output) -> ExitCode {
    match (&args.url, &args.db) {
        (Some(url), _) => verdict(of_node(url), output).into(),
        (None, Some(db)) => match in_time(args, db) {
            Told::AtLast(health) => verdict(health, output).into(),
            Told::BeforeTheLook(health) => leave(verdict(health, output).into()), // whatever the look waits for
        },
        (None, None) => verdict(Err(Failure::new("usage", "give --url or --db")), output).into(),
    }
}

/// Prints what is known, and says the exit code.
fn verdict(health: Result<Health, Failure>, output: Output) -> u8 {
    match health {
        Ok(health) => {
            output.answer(&health, || human(&health));
            match health.verdict {
                Verdict::Healthy => 0,
                Verdict::Degraded => 1,
                Verdict::Critical => 2,
            }
        }
        Err(failure) => {
            output.fail(&failure);
            CANNOT_TELL
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

/// What is known when the time is over.
enum Told {
    /// Nobody is at work any more.
    AtLast(Result<Health, Failure>),
    /// The look still works, or waits for a disk.
    BeforeTheLook(Result<Health, Failure>),
}

/// An answer of one of those who were asked.
enum Answer {
    Look(Result<Health, Failure>),
    /// Or why it does not count.
    Heartbeat(Result<Health, String>),
}

/// Looks on another thread: a disk that hangs keeps that one. Where it takes long, the heartbeat of the node answers, if it counts.
fn in_time(args: &HealthArgs, db: &Path) -> Told {
    let asked = Asked { db: db.to_owned(), state_dir: args.state_dir.clone(), config: args.config.clone() };
    let (answers, answer) = mpsc::sync_channel(2);
    if let Err(failure) = asked.clone().answers(Asked::look, answers.clone()) {
        return Told::AtLast(Err(failure));
    }
    let (clock, patience) = (SystemClock::new(), args.heartbeat_after.min(args.within));
    if let Ok(Answer::Look(health)) = answer.recv_timeout(patience) {
        return Told::AtLast(health);
    }
    let mut heard = Err("was not asked for".to_owned());
    if patience < args.within {
        heard = Err("did not answer in time".to_owned());
        if let Err(failure) = asked.answers(Asked::heartbeat, answers) {
            return Told::BeforeTheLook(Err(failure));
        }
    }
    while heard.is_err() {
        match answer.recv_timeout(args.within.saturating_sub(clock.monotonic())) {
            Ok(Answer::Look(health)) => return Told::AtLast(health),
            Ok(Answer::Heartbeat(told)) => heard = told,
            Err(_) => break, // it is late
        }
    }
    if let Ok(Answer::Look(health)) = answer.try_recv() {
        return Told::AtLast(health); // it came meanwhile, and knows more
    }
    Told::BeforeTheLook(heard.map_err(|why| late(args.within, &why)))
}

fn late(within: Duration, unheard: &str) -> Failure {
    let within = humantime::format_duration(within);
    let message = format!(
        "the store could not be read within {within}: its disk does not answer, or is very slow. Look at the disk and at the \
         log of the system; if it is only slow, give more time with --within. The heartbeat of its node {unheard}"
    );
    Failure::new("timeout", message)
}

/// Which store, and the folder and the file that tell more of it.
#[derive(Clone)]
struct Asked {
    db: PathBuf,
    state_dir: Option<PathBuf>,
    config: Option<PathBuf>,
}

impl Asked {
    /// Answers on a thread of its own that nobody ends.
    ///
    /// Errors: there is none to be had.
    fn answers(self, answer: fn(&Self) -> Answer, to: SyncSender<Answer>) -> Result<(), Failure> {
        let thread = Builder::new().name("look".to_owned()).spawn(move || {
            if to.send(answer(&self)).is_err() {
                tracing::debug!("an answer came too late");
            }
        });
        let failed = |error| Failure::new("internal", format!("no thread for the look: {error}"));
        thread.map(|_| ()).map_err(failed)
    }

    fn look(&self) -> Answer {
        let told = |request| offline::health_of_store(&request).map_err(|error| Failure::new(error.code(), &error));
        let looked = catch_unwind(AssertUnwindSafe(|| self.request().and_then(told)));
        Answer::Look(looked.unwrap_or_else(|_| Err(Failure::new("internal", "the look panicked"))))
    }

    fn heartbeat(&self) -> Answer {
        Answer::Heartbeat(match self.request().map(|request| offline::health_by_heartbeat(&request)) {
            Ok(told) => told.map_err(|why| format!("does not count: {why}")),
            Err(_) => Err("was not asked for".to_owned()), // the look meets the same
        })
    }

    fn request(&self) -> Result<HealthRequest, Failure> {
        let request = HealthRequest::new(&self.db, self.state_dir.as_deref());
        let Some(file) = &self.config else { return Ok(request) };
        let config = Config::load(file, &[]).map_err(|problems| bad_config(&problems))?;
        let orders = config.pruner.every_orders.get();
        let due = config.keep().map_or(CycleDue::Never, |keep| CycleDue::After { orders, keep });
        let reserve = config.pruner.reserve.and_then(NonZeroU64::new); // also of a node that does not prune
        let min_healthy_cycles = config.pruner.recovery.min_healthy_cycles;
        let snapshot_path = if config.pruner.enabled { config.pruner.snapshots } else { request.snapshot_path };
        let bounds = config.health;
        Ok(HealthRequest { bounds, due, reserve, snapshot_path, min_healthy_cycles, ..request })
    }
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
