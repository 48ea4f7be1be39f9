//! The command line: grammar, and what every command has in common.
//!
//! With `--json` a command prints exactly one object on stdout, also when it fails; logs go to stderr. No command asks
//! anything. Exit codes: 0 done; 1 failed, or a verification found faults; 2 bad usage; 130 stopped by a signal;
//! `health-check` has its own, and `validate` exits with 3 where it cannot tell.

mod codes;
mod command;
mod config;
mod follow;
mod health;
mod journal;
mod offline;
mod progress;
mod render;
mod request;
mod retain;
mod rollback;
mod run;
mod snapshot;
mod token;
mod validate;
mod values;
mod work;

use std::{
    ffi::OsString,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    process::ExitCode,
};

use bytesize::ByteSize;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use state_pruner::offline::StoreLayout;

use crate::{
    config::{Config, LogSection},
    load::{Profile, Rate},
    telemetry,
};
use command::{AcknowledgeArgs, PruneOrderArgs, PruneRunArgs, StatusArgs};
use config::ConfigArgs;
use health::HealthArgs;
use journal::JournalArgs;
use render::{Failure, Output};
use retain::{ConsumerArgs, ExplainArgs, PinArgs};
use rollback::RollbackArgs;
use snapshot::SnapshotArgs;
use token::TokenArgs;
use validate::ValidateArgs;
use values::{OwnLoad, address, at_most, layout, positive, positive_size, setting, size, whole};

/// Bad usage.
const USAGE: u8 = 2;

/// A reference node that prunes itself, and commands for a store at rest.
#[derive(Debug, Parser)]
#[command(name = "state-node", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    #[command(after_help = codes::START)]
    Start(StartArgs),
    /// Drive a node with transactions, and check its proofs.
    #[command(after_help = codes::LOAD)]
    Load(LoadArgs),
    /// Delete what the last N orders do not reach from a store at rest.
    #[command(after_help = codes::PRUNE)]
    Prune(PruneArgs),
    /// Ask a running node for a cycle now.
    #[command(after_help = codes::REQUEST)]
    PruneRun(PruneRunArgs),
    /// Hold the cycle that runs in a node at its next checkpoint.
    #[command(after_help = codes::ASK)]
    PrunePause(PruneOrderArgs),
    /// Let a cycle that was paused go on.
    #[command(after_help = codes::ASK)]
    PruneResume(PruneOrderArgs),
    /// End the cycle that runs at its next checkpoint.
    #[command(after_help = codes::ASK)]
    PruneCancel(PruneOrderArgs),
    /// Let a running node delete again after it met damage: you have looked, and repaired.
    #[command(after_help = codes::ASK)]
    PruneUnfreeze(PruneOrderArgs),
    /// Switch pruning off in a running node, also for its later starts.
    #[command(after_help = codes::ASK)]
    PruneDisable(PruneOrderArgs),
    /// Switch it on again.
    #[command(after_help = codes::ASK)]
    PruneEnable(PruneOrderArgs),
    /// Say that you have seen to what health tells until then: a log that was cut, damaged events.
    #[command(after_help = codes::ASK)]
    Acknowledge(AcknowledgeArgs),
    /// Check that everything the last N orders reach is there and hashes to its key, beside a running node or at rest;
    /// nothing in the store is written.
    #[command(after_help = codes::VERIFY)]
    Verify(VerifyArgs),
    /// Ask a node or a store how it is: exit 0 healthy, 1 degraded, 2 critical, 3 cannot tell.
    #[command(after_help = codes::HEALTH)]
    HealthCheck(HealthArgs),
    /// Print all that a running node says of itself: head, pruner, what is retained and by whom, space, events.
    #[command(after_help = codes::ASK)]
    Status(StatusArgs),
    /// Check snapshots, locks, phases, records and recovery of a running node or of a store, without disturbing anybody.
    #[command(after_help = codes::VALIDATE)]
    Validate(ValidateArgs),
    /// Keep single orders by name, in a running node.
    #[command(after_help = codes::ASK)]
    Pin(PinArgs),
    /// Say which orders somebody outside still needs, to a running node.
    #[command(after_help = codes::ASK)]
    Consumer(ConsumerArgs),
    /// Say why an order, a root or a node is kept, or since when it is not.
    #[command(after_help = codes::ASK)]
    Explain(ExplainArgs),
    /// Go back to an older order that is retained, in a running node or a node's store at rest: what came after it is gone.
    #[command(after_help = codes::ASK)]
    Rollback(RollbackArgs),
    /// Print or check the journal of what happened, of a running node or beside a store, in use or not.
    #[command(after_help = codes::JOURNAL)]
    Journal(JournalArgs),
    /// Keep consistent copies of a store in a folder: create, list, show, verify, delete, restore, prune.
    #[command(after_help = codes::SNAPSHOT)]
    Snapshot(SnapshotArgs),
    /// Print or check a configuration.
    #[command(after_help = codes::CONFIG)]
    Config(ConfigArgs),
}

/// `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Configuration file; the last one given counts.
    #[arg(long, value_name = "FILE", overrides_with = "config")]
    config: PathBuf,
    /// Set a key; wins over the file. May be given again.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    set: Vec<String>,
    /// Drive the node with its own load: mixed, toggle or tables, with transactions per second after a colon.
    /// The last one given counts.
    #[arg(long, value_name = "PROFILE[:RATE]", overrides_with = "load")]
    load: Option<OwnLoad>,
    /// Stop after so many seconds.
    #[arg(long = "for", value_name = "SECONDS", value_parser = positive)]
    seconds: Option<NonZeroU64>,
}

/// `load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Address of the node.
    #[arg(long, value_name = "URL", value_parser = address)]
    url: String,
    /// What to send.
    #[arg(long, value_enum, default_value_t = Profile::Mixed)]
    profile: Profile,
    /// What the transactions are derived from.
    #[arg(long, default_value = "1", value_parser = whole)]
    seed: u64,
    /// Transactions per second, or `max`.
    #[arg(long, default_value = "max")]
    rate: Rate,
    /// Stop after so many seconds; without it, at Ctrl-C.
    #[arg(long = "for", value_name = "SECONDS", value_parser = positive)]
    seconds: Option<NonZeroU64>,
    /// Requests under way at once.
    #[arg(long, value_name = "N", default_value = "4", value_parser = |text: &str| at_most::<NonZeroU32>(text, 1024))]
    connections: NonZeroU32,
    /// Transactions per request.
    #[arg(long, value_name = "N", default_value = "16", value_parser = |text: &str| at_most::<NonZeroUsize>(text, 4096))]
    batch: NonZeroUsize,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A store at rest, and what to retain of it.
#[derive(Debug, Args)]
struct StoreArgs {
    /// Folder of the database: the one that holds the file CURRENT.
    #[arg(long, value_name = "DIR")]
    db: PathBuf,
    /// Whose records it holds: rooch or native.
    #[arg(long, value_parser = layout)]
    layout: StoreLayout,
    /// The last so many executed orders, the newest included: their states are retained, or verified.
    #[arg(long, value_name = "N", value_parser = positive)]
    keep_last: NonZeroU64,
    /// Most memory to use.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    memory_budget: ByteSize,
    /// Folder of the records that a prune keeps; without it one beside the database, named DIR.pruner. `verify` and
    /// `--dry-run` read them there, spill into it (without it into the system's temporary folder) and leave nothing.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// An order inside the window that is known to have no root. May be given again.
    #[arg(long = "allow-hole", value_name = "ORDER", value_parser = whole)]
    allow_holes: Vec<u64>,
}

/// `prune`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "two flags of a command line")]
pub struct PruneArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Mark, and count what would be deleted; delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// Lift the freeze that an earlier prune left when it met damage: you have looked, and repaired.
    #[arg(long, conflicts_with = "dry_run")]
    unfreeze: bool,
    /// How to find what is live.
    #[arg(long, value_enum, default_value_t = MarkArg::Auto)]
    mark: MarkArg,
    /// How to delete.
    #[arg(long, value_enum, default_value_t = SweepArg::Auto)]
    sweep: SweepArg,
    /// What to hash again and compare with its key while marking.
    #[arg(long, value_enum, default_value_t = RehashArg::All)]
    rehash: RehashArg,
    /// Threads that mark.
    #[arg(long, value_name = "N", default_value = "2", value_parser = |text: &str| at_most::<NonZeroUsize>(text, 256))]
    threads: NonZeroUsize,
    /// Most bytes per second that the sweep moves.
    #[arg(long, value_name = "SIZE", value_parser = positive_size)]
    io_limit: Option<NonZeroU64>,
    /// Live nodes to read back afterwards.
    #[arg(long, value_name = "K", default_value = "1000", value_parser = positive)]
    verify_sample: NonZeroU64,
    #[command(flatten)]
    output: OutputArgs,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Also count present nodes that the states of those orders do not reach; they waste space and are no fault.
    #[arg(long)]
    leaks: bool,
    /// Follow so many random paths down from the roots instead of reading everything.
    #[arg(long, value_name = "K", conflicts_with = "leaks", value_parser = positive)]
    sample: Option<NonZeroU64>,
    #[command(flatten)]
    output: OutputArgs,
}

/// How to answer.
#[derive(Debug, Clone, Copy, Args)]
struct OutputArgs {
    /// Print one JSON object on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
}

impl OutputArgs {
    fn choice(self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MarkArg {
    /// By predicted cost and memory.
    Auto,
    /// Read every node in key order.
    Scan,
    /// Read from the roots down.
    Walk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SweepArg {
    /// By the amount of garbage.
    Auto,
    /// Rewrite range after range.
    Filter,
    /// Delete in batches.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RehashArg {
    /// Every node that is read.
    All,
    /// A sample of those a scan reads.
    Sample,
}

/// Runs the command that the arguments name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match parse(&arguments) {
        Ok(cli) => {
            let asks_health = matches!(cli.command, Command::HealthCheck(_));
            let unprinted = if asks_health { ExitCode::from(health::CANNOT_TELL) } else { ExitCode::FAILURE };
            render::printed(dispatch(cli.command), unprinted)
        }
        Err(error) => refuse(&error, &arguments),
    }
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = codes::telling(Cli::command());
    let matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Answers arguments that do not parse: help on stdout, anything else as an error.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    let output = if json { Output::Json } else { Output::Human };
    let asks_health = arguments.get(1).is_some_and(|argument| argument == "health-check");
    let message = error.render().to_string();
    output.fail(&Failure::whole("usage", message.trim_end()));
    ExitCode::from(if asks_health { health::CANNOT_TELL } else { USAGE })
}

fn dispatch(command: Command) -> ExitCode {
    let output = match &command {
        Command::Start(_) => Output::Human,
        Command::Load(args) => args.output.choice(),
        Command::Prune(args) => args.output.choice(),
        Command::PruneRun(args) => args.output.choice(),
        Command::PrunePause(args)
        | Command::PruneResume(args)
        | Command::PruneCancel(args)
        | Command::PruneUnfreeze(args)
        | Command::PruneDisable(args)
        | Command::PruneEnable(args) => args.output.choice(),
        Command::Acknowledge(args) => args.order.output.choice(),
        Command::Verify(args) => args.output.choice(),
        Command::HealthCheck(args) => args.output.choice(),
        Command::Status(args) => args.output.choice(),
        Command::Validate(args) => args.output(),
        Command::Pin(args) => args.output().choice(),
        Command::Consumer(args) => args.output().choice(),
        Command::Explain(args) => args.output().choice(),
        Command::Rollback(args) => args.output().choice(),
        Command::Journal(args) => args.output().choice(),
        Command::Snapshot(args) => args.output().choice(),
        Command::Config(args) => args.output().choice(),
    };
    render::speak(output);
    match command {
        Command::Start(args) => run::start(&args, output),
        Command::Load(args) => logged(output, || run::load(&args, output)),
        Command::Prune(args) => logged(output, || offline::prune(&args, output)),
        Command::PruneRun(args) => command::prune(&args, output),
        Command::PrunePause(args) => command::tell(&args, state_pruner::Command::Pause, output),
        Command::PruneResume(args) => command::tell(&args, state_pruner::Command::Resume, output),
        Command::PruneCancel(args) => command::tell(&args, state_pruner::Command::Cancel, output),
        Command::PruneUnfreeze(args) => command::tell(&args, state_pruner::Command::Unfreeze, output),
        Command::PruneDisable(args) => command::tell(&args, state_pruner::Command::Disable, output),
        Command::PruneEnable(args) => command::tell(&args, state_pruner::Command::Enable, output),
        Command::Acknowledge(args) => command::acknowledge(&args, output),
        Command::Verify(args) => logged(output, || offline::verify(&args, output)),
        Command::HealthCheck(args) => health::check(&args, output),
        Command::Status(args) => command::status(&args, output),
        Command::Validate(args) => validate::validate(&args, output),
        Command::Pin(args) => retain::pin(&args, output),
        Command::Consumer(args) => retain::consumer(&args, output),
        Command::Explain(args) => retain::explain(&args, output),
        Command::Rollback(args) => logged(output, || rollback::rollback(&args, output)),
        Command::Journal(args) => journal::journal(&args, output),
        Command::Snapshot(args) => logged(output, || snapshot::snapshot(&args, output)),
        Command::Config(args) => config::config(&args, output),
    }
}

/// Runs a command with logs at the default level.
fn logged(output: Output, command: impl FnOnce() -> ExitCode) -> ExitCode {
    let log: LogSection = Config::default().log;
    match telemetry::install_logs(&log) {
        Ok(()) => command(),
        Err(error) => output.failed(&Failure::new("log", error)),
    }
}

#[cfg(test)]
mod tests;
