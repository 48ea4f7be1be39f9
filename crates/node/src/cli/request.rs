//! `prune-run`, `prune-pause` and the other commands to the pruner of a running node, and its answers.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use state_pruner::Reply;

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

/// What the pruner of a node is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    Pause,
    Resume,
    Cancel,
    Unfreeze,
    Disable,
    Enable,
}

impl Told {
    /// The word of the command, and what is said once the node has taken it.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Pause => ("pause", "the cycle pauses at its next checkpoint"),
            Self::Resume => ("resume", "the cycle goes on"),
            Self::Cancel => {
                ("cancel", "the cycle ends at its next checkpoint; what it deleted is gone, the rest waits")
            }
            Self::Unfreeze => ("unfreeze", "deletes go on; what is found wrong again freezes them again"),
            Self::Disable => ("disable", "pruning is switched off, also for later starts of the node"),
            Self::Enable => ("enable", "pruning is switched on"),
        }
    }
}

/// Tells the pruner of a node and prints what it said.
pub(super) fn tell(args: &PruneOrderArgs, told: Told, output: Output) -> ExitCode {
    let (word, done) = told.words();
    match ask_node(&args.url, &args.token, |client| async move { client.command(word).await }) {
        Ok(reply) => {
            output.answer(&reply, || done.to_owned());
            ExitCode::SUCCESS
        }
        Err(failure) => output.failed(&failure),
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
        Reply::Accepted => "a cycle begins".to_owned(),
        Reply::FollowUp => "a cycle runs; one more follows it".to_owned(),
        Reply::AlreadyRunning => "a request waits already; this one joins it".to_owned(),
        Reply::AlreadyServed { run } => format!("run {run} began for this id; none begins for it again"),
        Reply::NotRunning => "no cycle runs".to_owned(),
        Reply::Refused { why } => why.clone(),
    }
}
