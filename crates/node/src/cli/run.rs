//! `start` and `load`: a node until a signal or a time, and a client that drives one.

use std::{io::IsTerminal as _, num::NonZeroU64, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use state_pruner::{Clock, Pause, PrunerStatus, SystemClock, phase::PrunePhase};
use state_store::{Space, StoreError};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{
    LoadArgs, OwnLoad, StartArgs,
    config::bad_config,
    render::{ASK_AGAIN, Failure, Output, number, size},
    work,
};
use crate::{
    app::{App, Step, Stopped, TheEnd, told_beside},
    chain::ChainStatus,
    config::Config,
    load::{Client, ClientError, Load, LoadPlan, LoadReport, chain_of},
    reload::Reload,
    shutdown::{Signals, leave},
    telemetry,
    token::AdminToken,
};

/// Time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How long the last line of a node may take, which nobody needs.
const SUMMARY_PATIENCE: Duration = Duration::from_secs(2);
/// How long the last requests of the node's own load may take before the node stops without them.
const LOAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long the last requests to another node may take: as long as a load waits for one that went away.
const LAST_PATIENCE: Duration = Duration::from_secs(10);
/// Time between two updates of the line on a terminal.
const UPDATE_EVERY: Duration = Duration::from_secs(1);

/// Runs a node.
pub(super) fn start(args: &StartArgs, output: Output) -> ExitCode {
    let config = match Config::load(&args.config, &args.set) {
        Ok(config) => config,
        Err(problems) => return output.failed(&bad_config(&problems)),
    };
    let ran = telemetry::install_logs(&config.log).map_err(anyhow::Error::from);
    let ran = ran.and_then(|()| work::to_its_end(serve(&config, args, output)));
    match ran {
        Ok(Stopped::Whole) => ExitCode::SUCCESS,
        Ok(Stopped::StillRead) => leave(0), // a teardown would meet what still reads
        Err(error) => output.failed(&Failure::new("start", chain_of(&*error))),
    }
}

async fn serve(config: &Config, args: &StartArgs, output: Output) -> anyhow::Result<Stopped> {
    let signals = Signals::listen(|| tracing::warn!("told twice to stop: the process ends at once"))?;
    let reload = Reload::listen(args.config.clone(), args.set.clone(), config.clone())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let app = start_between(&signals, App::start(config, Arc::clone(&clock))).await?;
    tracing::info!(id = config.node.id, data_dir = %config.node.data_dir.display(), "serving http://{}", app.address());
    let stop = CancellationToken::new();
    let load = args.load.map(|own| own_load(own, &app, &clock)).transpose()?;
    let driving = load.clone().map(|load| {
        let driving = tokio::spawn(drive_own(Arc::clone(&load), stop.clone()));
        (load, driving)
    });
    let show = Show { app: &app, load: load.as_deref(), clock: &*clock };
    tokio::select! {
        () = signals.told() => {}
        () = elapsed(args.seconds) => {}
        () = show.forever() => {}
        () = reload.forever(app.pruner().cloned()) => {}
    }
    tracing::info!("stopping: what waits is committed first");
    stop.cancel();
    let (patience, at) = (config.node.stop_timeout, app.end());
    let mut ending = pin!(end(app, driving)); // what it holds would be waited for where it is dropped
    match tokio::time::timeout(patience, &mut ending).await {
        Ok(ended) => ended,
        Err(_) => give_up(patience, &at, output),
    }
}

/// Ends the process without what it waits for: a thread that a disk holds cannot be ended, and a teardown would wait for it.
fn give_up(patience: Duration, at: &TheEnd, output: Output) -> ! {
    let (within, waits_for) = (humantime::format_duration(patience), at.waits_for());
    let message = format!(
        "the node has not ended within {within} (node.stop_timeout): it waits for {waits_for}. The process ends without it, as \
         after a kill: what was acknowledged is on disk, and the next start goes on. Look at the disk"
    );
    output.fail(&Failure::new("stop_timeout", message));
    leave(1)
}

/// Ends a node in order.
async fn end(mut app: App, driving: Option<(Arc<Load>, OwnDrive)>) -> anyhow::Result<Stopped> {
    let driven = match driving {
        Some((load, mut driving)) => end_of_load(&load, &mut driving).await,
        None => Ok(()),
    };
    let drained = app.drain().await;
    app.end().is_at(Step::Summary);
    let told = tokio::time::timeout(SUMMARY_PATIENCE, summary(&app)).await; // AFTER the last block
    let stopped = app.stop().await; // BEFORE anything is reported: neither a dead load nor a failed read may skip it
    match told {
        Ok(Ok(told)) => tracing::info!("{told}"),
        Ok(Err(error)) => tracing::warn!("what the node did is not told: {error:#}"), // it ended in order all the same
        Err(_) => tracing::warn!("what the node did is not told: the store did not answer in time"),
    }
    told_beside(stopped, [drained, driven])
}

/// An opening is not broken off, which would leave it at work behind our back: one that a signal interrupts ends, and what it
/// opened is closed in order.
async fn start_between(signals: &Signals, starting: impl Future<Output = anyhow::Result<App>>) -> anyhow::Result<App> {
    tokio::pin!(starting);
    tokio::select! {
        biased;
        app = &mut starting => return app,
        () = signals.told() => {
            tracing::info!("told to stop while the node opens: it closes again once it is open");
        }
    }
    starting.await
}

/// The load that a node drives by itself.
type OwnDrive = JoinHandle<Result<(), ClientError>>;

/// Waits for the last requests, but not for ever, and tells what the load did.
async fn end_of_load(load: &Load, driving: &mut OwnDrive) -> anyhow::Result<()> {
    match tokio::time::timeout(LOAD_PATIENCE, &mut *driving).await {
        Ok(driven) => driven.context("the load")??,
        Err(_) => {
            tracing::warn!("the last requests of the load take long: the node stops without them");
            driving.abort();
        }
    }
    let report = load.report();
    tracing::info!("load: {}", describe_load(&report));
    let wrong = report.counts.proofs_wrong;
    anyhow::ensure!(wrong == 0, "the load met {wrong} wrong proofs: the log above has each");
    Ok(())
}

/// Its names follow from the head it begins at, so that after a restart it does not create again what it left.
fn own_load(own: OwnLoad, app: &App, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<Load>> {
    let plan = LoadPlan {
        profile: own.profile,
        seed: app.chain().status()?.head.order,
        rate: own.rate,
        connections: std::num::NonZeroU32::MIN.saturating_add(3),
        batch: std::num::NonZeroUsize::MIN.saturating_add(31),
    };
    let client = Client::commanding(&format!("http://{}", app.address()), app.token())?;
    Ok(Arc::new(Load::new(plan, client, Arc::clone(clock))))
}

async fn drive_own(load: Arc<Load>, stop: CancellationToken) -> Result<(), ClientError> {
    let driven = Arc::clone(&load).run(stop).await;
    if let Err(error) = &driven {
        tracing::error!("the load ended: {error}; until then: {}", describe_load(&load.report()));
    }
    driven
}

async fn elapsed(seconds: Option<NonZeroU64>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.get())).await,
        None => std::future::pending().await,
    }
}

/// Shows what the node does.
struct Show<'a> {
    app: &'a App,
    load: Option<&'a Load>,
    clock: &'a dyn Clock,
}

impl Show<'_> {
    async fn forever(&self) {
        let line = std::io::stderr().is_terminal().then(line_on_terminal);
        let every = if line.is_some() { UPDATE_EVERY } else { LINE_EVERY };
        let mut timer = tokio::time::interval(every);
        let mut before = (self.clock.monotonic(), 0);
        loop {
            timer.tick().await;
            let now = self.clock.monotonic();
            let commits = self.app.chain().store().head().map_or(0, |head| head.commits);
            let seconds = now.saturating_sub(before.0).as_secs_f64();
            let rate = if seconds > 0.0 && before.1 > 0 { (commits - before.1) as f64 / seconds } else { 0.0 };
            before = (now, commits);
            match (self.describe(rate).await, &line) {
                (Ok(text), Some(line)) => line.set_message(text),
                (Ok(text), None) => tracing::info!("{text}"),
                (Err(error), _) => tracing::warn!("no progress can be told: {error}"),
            }
        }
    }

    async fn describe(&self, rate: f64) -> anyhow::Result<String> {
        let Figures { chain, space, pruner } = Figures::of(self.app).await?;
        let mut parts = vec![format!("head {} floor {}", chain.head.order, chain.floor.get()), size(&space)];
        if let Some(pruner) = &pruner {
            parts.extend(describe_pruner(pruner));
        }
        parts.push(format!("{rate:.0} commits/s"));
        if let Some(load) = self.load {
            parts.push(brief_load(&load.report()));
        }
        Ok(parts.join(" | "))
    }
}

/// What is shown of a node.
struct Figures {
    chain: ChainStatus,
    space: Result<Space, StoreError>,
    pruner: Option<PrunerStatus>,
}

impl Figures {
    /// Reads them on a blocking thread: the pruner may hold its locks, and a signal must not wait for them.
    async fn of(app: &App) -> anyhow::Result<Self> {
        let (chain, pruner) = (Arc::clone(app.chain()), app.pruner().map(Arc::clone));
        let read = move || {
            let space = chain.store().backend().space(); // what cannot be measured takes nothing else away
            Ok(Self { chain: chain.status()?, space, pruner: pruner.map(|pruner| pruner.status()) })
        };
        spawn_blocking(read).await?
    }
}

fn line_on_terminal() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{spinner} {wide_msg}") {
        Ok(style) => bar.set_style(style),
        Err(error) => tracing::debug!("the line keeps its usual look: {error}"),
    }
    bar
}

/// What the pruner does, what it did, and when it goes on. Short: it must be seen on 80 columns.
fn describe_pruner(status: &PrunerStatus) -> Vec<String> {
    let cycles = format!("{} cycles", status.cycles_finished);
    if let Some(why) = &status.frozen {
        return vec![format!("FROZEN: {why}"), cycles];
    }
    let mut parts = Vec::new();
    if status.running {
        let doing = match &status.progress {
            None if status.phase == PrunePhase::Idle => "begins or ends".to_owned(), // the sample is read back, say
            None => status.phase.to_string(),
            Some(stage) => {
                let share = stage.share.map_or_else(String::new, |share| format!(" {:.0} %", share * 100.0));
                format!("{}{share}", stage.stage.label())
            }
        };
        let held = match status.pause {
            Pause::No => "",
            Pause::Asked => " (pausing)",
            Pause::Holding => " (paused)",
        };
        parts.push(format!("{doing}{held}"));
    }
    let next = || format!("next by orders {}", status.next_at_order); // another trigger may come first
    parts.extend([cycles, status.off.map_or_else(next, |_| "OFF".to_owned())]);
    parts
}

async fn summary(app: &App) -> anyhow::Result<String> {
    let Figures { chain, space, pruner } = Figures::of(app).await?;
    let pruned = match pruner {
        Some(pruner) => {
            let between = pruner.incremental.as_ref().map_or(0, |incremental| incremental.deleted_total);
            let (by_cycles, between) = (number(pruner.deleted_total), number(between));
            let did = describe_pruner(&pruner).join(", ");
            format!("{did}, {by_cycles} nodes deleted by cycles and {between} between them, since the start")
        }
        None => "not pruning".to_owned(),
    };
    let (head, floor, space) = (number(chain.head.order), number(chain.floor.get()), size(&space));
    Ok(format!("head {head}, floor {floor}, store {space} before the last flush, {pruned}"))
}

fn brief_load(report: &LoadReport) -> String {
    let (sent, wrong) = (number(report.transactions), report.counts.proofs_wrong);
    let wrong = if wrong > 0 { format!(", {wrong} WRONG") } else { String::new() };
    format!("{sent} tx, {} proofs{wrong}", report.counts.proofs_verified)
}

fn describe_load(report: &LoadReport) -> String {
    let latency = report.latency_ms.map_or_else(String::new, |ms| {
        format!("; request latency p50 {:.1} ms, p90 {:.1}, p99 {:.1}, max {:.1}", ms.p50, ms.p90, ms.p99, ms.max)
    });
    format!(
        "{} transactions in {:.1} s, {:.0}/s ({} applied, {} failed), {} busy, {} errors; {} proofs verified, {} wrong{latency}",
        number(report.transactions),
        report.seconds,
        report.per_second,
        number(report.counts.applied),
        number(report.counts.failed),
        report.counts.busy,
        report.counts.errors,
        report.counts.proofs_verified,
        report.counts.proofs_wrong
    )
}

/// What a load came to, and why it ended before its time, if it did.
#[derive(Serialize)]
struct Driven {
    #[serde(flatten)]
    report: LoadReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

/// Drives a node. A wrong proof fails the command, and so does a node that goes away or does not answer at the end: what was
/// measured is told all the same.
pub(super) fn load(args: &LoadArgs, output: Output) -> ExitCode {
    let token = match args.token.read() {
        Ok(token) => token,
        Err(error) => return output.failed(&Failure::new("token", error)),
    };
    let driven = match drive(args, token.as_ref(), output) {
        Ok(driven) => driven,
        Err(error) => return output.failed(&Failure::new("load", chain_of(&*error))),
    };
    let Driven { report, error } = &driven;
    match (error, report.transactions) {
        (Some(failure), 0) => return output.failed(failure),
        (Some(_) | None, _) => output.answer(&driven, || describe_load(report)),
    }
    if let (Some(failure), Output::Human) = (error, output) {
        output.fail(failure);
    }
    if error.is_none() && report.counts.proofs_wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A node that does not answer is the same to every command that asks one.
fn failure_of(error: &ClientError, report: &LoadReport) -> Failure {
    let code = match error {
        ClientError::Http(_) | ClientError::Url(_) | ClientError::Strange { .. } => "unreachable",
        ClientError::Busy(_) | ClientError::Broken(_) => "load",
        ClientError::Refused { refusal, .. } => &refusal.code,
    };
    match report.transactions {
        0 => Failure::new(code, error),
        _ if error.is_absence() => Failure::new(code, format!("the node went away under the load: {error}")),
        _ => Failure::new(code, format!("the load gave up: {error}")),
    }
}

fn drive(args: &LoadArgs, token: Option<&AdminToken>, output: Output) -> anyhow::Result<Driven> {
    let plan = LoadPlan {
        profile: args.profile,
        seed: args.seed,
        rate: args.rate,
        connections: args.connections,
        batch: args.batch,
    };
    work::runtime()?.block_on(async {
        let signals = Signals::listen(move || output.fail(&work::cut_short()))?;
        let client = Client::commanding(&args.url, token)?;
        let load = Arc::new(Load::new(plan, client, Arc::new(SystemClock::new())));
        let stop = CancellationToken::new();
        let mut running = tokio::spawn(Arc::clone(&load).run(stop.clone()));
        let mut timer = tokio::time::interval(LINE_EVERY);
        timer.tick().await; // the first tick comes at once
        let (mut ending, seconds) = (false, elapsed(args.seconds));
        tokio::pin!(seconds);
        while !ending {
            tokio::select! {
                biased; // a tick at the end would tell the result twice
                done = &mut running => return Ok(end_of(&load, done?)),
                () = signals.told() => ending = true,
                () = &mut seconds => ending = true,
                _ = timer.tick() => tracing::info!("so far {}", brief_load(&load.report())),
            }
        }
        stop.cancel();
        if let Ok(done) = tokio::time::timeout(LAST_PATIENCE, &mut running).await {
            return Ok(end_of(&load, done?));
        }
        running.abort();
        let error = Some(Failure::late(&args.url, LAST_PATIENCE, ASK_AGAIN));
        Ok(Driven { report: load.report(), error })
    })
}

fn end_of(load: &Load, ended: Result<(), ClientError>) -> Driven {
    let report = load.report();
    let error = ended.err().map(|error| failure_of(&error, &report));
    Driven { report, error }
}

#[cfg(test)]
mod tests {
    use state_store::{FaultyDisk, FileCall, Lasting};

    use super::*;

    async fn started(folder: &std::path::Path) -> App {
        let set = ["node.listen=127.0.0.1:0".to_owned(), format!("node.data_dir={}", folder.display())];
        let config = Config::parse("test", "", &set).unwrap();
        App::start(&config, Arc::new(SystemClock::new())).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_cannot_measure_its_store_at_its_end_ends_in_order_and_tells_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let app = started(folder.path()).await;
        let disk = FaultyDisk::under(folder.path());
        disk.inject("store", FileCall::List, 0, Lasting::UntilHealed);
        let told = summary(&app).await.unwrap();
        assert!(told.starts_with("head 0, floor 0, store size unknown (") && told.contains("0 cycles"), "{told}");
        assert!(matches!(end(app, None).await, Ok(Stopped::Whole)));
        assert_eq!(disk.met(), 2, "its last line was told, too");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_whose_pruning_is_switched_off_says_so_in_place_of_when_it_prunes_next() {
        let folder = tempfile::tempdir().unwrap();
        let app = started(folder.path()).await;
        let mut status = app.pruner().unwrap().status();
        assert!(describe_pruner(&status).last().unwrap().starts_with("next by orders "));
        status.off = Some(state_pruner::SwitchedOff { at: 1 });
        assert_eq!(describe_pruner(&status).last().unwrap(), "OFF");
        assert!(matches!(end(app, None).await, Ok(Stopped::Whole)));
    }
}
