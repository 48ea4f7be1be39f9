//! `prune-run`, `prune-pause` and the other commands to the pruner of a running node, and its answers.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use state_pruner::{Command, Reply};

use super::{
    OutputArgs,
    render::{Failure, Output},
    token::TokenArgs,
    values::{address, request_id},
    work,
};
use crate::load::{Client, ClientError, Refusal};

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

/// Asks for a cycle and prints what the node said.
pub(super) fn prune(args: &PruneRunArgs, output: Output) -> ExitCode {
    match ask(args) {
        Ok(reply) => {
            output.answer(&reply, || human(&reply));
            ExitCode::SUCCESS
        }
        Err(failure) => output.failed(&failure),
    }
}

/// Gives the pruner of a node a command and prints what it said.
pub(super) fn tell(args: &PruneOrderArgs, command: Command, output: Output) -> ExitCode {
    match ask_node(&args.url, &args.token, |client| async move { client.command(command).await }) {
        Ok(reply) => {
            output.answer(&reply, || done(command).to_owned());
            ExitCode::SUCCESS
        }
        Err(failure) => output.failed(&failure),
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

fn ask(args: &PruneRunArgs) -> Result<Reply, Failure> {
    let id = args.id.clone();
    ask_node(&args.url, &args.token, |client| async move { client.prune(id.as_deref()).await })
}

fn ask_node<Asked>(url: &str, token: &TokenArgs, ask: impl FnOnce(Client) -> Asked) -> Result<Reply, Failure>
where
    Asked: Future<Output = Result<Reply, ClientError>>,
{
    let unreachable = |error: &dyn std::fmt::Display| Failure::new("unreachable", error);
    let runtime = work::runtime().map_err(|error| unreachable(&error))?;
    let client = token.client(url)?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(client)).await });
    match answer {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(ClientError::Refused { refusal: Refusal { code, message }, .. })) => Err(Failure::new(&code, message)),
        Ok(Err(error)) => Err(unreachable(&error)),
        Err(_) => Err(Failure::late(url, PATIENCE)),
    }
}

fn human(reply: &Reply) -> String {
    match reply {
        Reply::Accepted => done(Command::Run).to_owned(),
        Reply::FollowUp => "a cycle runs; one more follows it".to_owned(),
        Reply::AlreadyRunning => "a request waits already; this one joins it".to_owned(),
        Reply::AlreadyServed { run } => format!("run {run} began for this id; none begins for it again"),
        Reply::NotRunning => "no cycle runs".to_owned(),
        Reply::Refused { why } => why.clone(),
    }
}
