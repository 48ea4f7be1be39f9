//! `prune-run`, `prune-pause` and the other commands to the pruner of a running node, and its answers.

use std::{process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use serde_json::Value;
use state_pruner::{Command, Reply};

use super::{
    OutputArgs,
    render::{Output, told},
    request::Request,
    token::TokenArgs,
    values::{address, request_id},
};

/// The node answers at once; one that does not within this time is not reached.
const PATIENCE: Duration = Duration::from_secs(5);

/// `prune-run`.
#[derive(Debug, Args)]
pub(super) struct PruneRunArgs {
    /// Address of the node.
    #[arg(long, value_name = "URL", value_parser = address)]
    pub(super) url: String,
    /// A name for this request: asked again under the same name, the node does not run again.
    #[arg(long, value_name = "ID", value_parser = request_id)]
    pub(super) id: Option<String>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// `prune-pause`, `prune-resume`, `prune-cancel`, `prune-unfreeze`, `prune-disable` and `prune-enable`.
#[derive(Debug, Args)]
pub(super) struct PruneOrderArgs {
    /// Address of the node.
    #[arg(long, value_name = "URL", value_parser = address)]
    pub(super) url: String,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Address of the node.
    #[arg(long, value_name = "URL", value_parser = address)]
    url: String,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// `acknowledge`.
#[derive(Debug, Args)]
pub(super) struct AcknowledgeArgs {
    /// The reason of health.
    reason: Lasting,
    #[command(flatten)]
    pub(super) order: PruneOrderArgs,
}

/// A reason of health that lasts until somebody has seen to it.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Lasting {
    /// Blocks went with a damaged write-ahead log.
    #[value(name = "log_cut")]
    LogCut,
    /// The journal of events was damaged when the node opened it.
    #[value(name = "events_damaged")]
    EventsDamaged,
}

/// Tells a node that somebody has seen to what it tells.
pub(super) fn acknowledge(AcknowledgeArgs { reason, order }: &AcknowledgeArgs, output: Output) -> ExitCode {
    let word = match reason {
        Lasting::LogCut => "log_cut",
        Lasting::EventsDamaged => "events_damaged",
    };
    let request = Request::post(format!("v1/acknowledge/{word}"), &order.token);
    told(output, request.ask_within(&order.url, PATIENCE), |_: &Value| format!("health tells {word} no more"))
}

/// Asks for a cycle and prints what the node said.
pub(super) fn prune(args: &PruneRunArgs, output: Output) -> ExitCode {
    let id = args.id.as_ref().map_or_else(String::new, |id| format!("?id={id}")); // of characters that stand for themselves
    let request = request(&args.token, Command::Run, &id).advising(args.advice());
    told(output, request.ask_within(&args.url, PATIENCE), |reply: &Reply| human(reply, Command::Run))
}

/// Gives the pruner of a node a command and prints what it said.
pub(super) fn tell(args: &PruneOrderArgs, command: Command, output: Output) -> ExitCode {
    let request = request(&args.token, command, "");
    told(output, request.ask_within(&args.url, PATIENCE), |reply: &Reply| human(reply, command))
}

fn request<'a>(token: &'a TokenArgs, command: Command, query: &str) -> Request<'a> {
    Request::post(format!("v1/prune/{}{query}", command.word()), token)
}

impl PruneRunArgs {
    /// What to do where the node does not answer, which may have taken the request all the same.
    fn advice(&self) -> String {
        match &self.id {
            Some(id) => format!("ask again with --id {id}: no second run begins, and the answer names the one that did"),
            None => "whether a run begins is not known, and its status shows one. Asked with --id ID, the same request can be \
                     repeated until it tells of that run"
                .to_owned(),
        }
    }
}

fn done(command: Command) -> &'static str {
    match command {
        Command::Run => "a cycle begins",
        Command::Pause => "the cycle pauses at its next checkpoint",
        Command::Resume => "the cycle goes on",
        Command::Cancel => "the cycle ends at its next checkpoint; what it deleted is gone, the rest waits",
        Command::Unfreeze => "deletes go on; what is found wrong again freezes them again",
        Command::Disable => "pruning is switched off, also for later starts of the node",
        Command::Enable => "pruning is switched on",
    }
}

fn already(command: Command) -> &'static str {
    match command {
        Command::Pause => "the cycle was told to pause already; prune-resume lets it go on",
        Command::Resume => "the cycle is not paused",
        Command::Disable => "pruning is switched off already",
        Command::Enable => "pruning is switched on already",
        Command::Run | Command::Cancel | Command::Unfreeze => "it is so already",
    }
}

fn human(reply: &Reply, command: Command) -> String {
    match reply {
        Reply::Accepted => done(command).to_owned(),
        Reply::Unchanged => already(command).to_owned(),
        Reply::FollowUp => "a cycle runs; one more follows it".to_owned(),
        Reply::AlreadyRunning => "a request waits already; this one joins it".to_owned(),
        Reply::AlreadyServed { run } => format!("run {run} began for this id; none begins for it again"),
        Reply::NotRunning => "no cycle runs".to_owned(),
        Reply::Ending => "the cycle ends by itself before that".to_owned(),
        Reply::Refused { why } | Reply::Unsaved { why, .. } => why.clone(),
    }
}

/// Prints the status: people read the same object, over several lines.
pub(super) fn status(args: &StatusArgs, output: Output) -> ExitCode {
    told(output, Request::get("v1/status").ask(&args.url), |status: &Value| format!("{status:#}"))
}
