//! `prune-run`, `prune-disable`, `prune-enable`: an operator's request to a running node, and its answer.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde::Deserialize;
use state_pruner::Reply;

use super::{
    OutputArgs,
    render::{Failure, Output},
    token::TokenArgs,
    values::{address, request_id},
    work,
};
use crate::load::{Client, ClientError};

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

/// `prune-disable` and `prune-enable`.
#[derive(Debug, Args)]
pub(super) struct PruneSwitchArgs {
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

/// Which way to switch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Switch {
    Off,
    On,
}

/// Switches the pruner of a node and prints what the node said.
pub(super) fn switch(args: &PruneSwitchArgs, to: Switch, output: Output) -> ExitCode {
    let (word, done) = match to {
        Switch::Off => ("disable", "pruning is switched off, also for later starts of the node"),
        Switch::On => ("enable", "pruning is switched on"),
    };
    match ask_node(&args.url, &args.token, |client| async move { client.switch(word).await }) {
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
        Ok(Err(ClientError::Refused { status, body })) => Err(refused(&body, status)),
        Ok(Err(error)) => Err(unreachable(&error)),
        Err(_) => Err(Failure::late(url, PATIENCE)),
    }
}

#[derive(Deserialize)]
struct Refused {
    error: Told,
}

#[derive(Deserialize)]
struct Told {
    code: String,
    message: String,
}

/// The error of the node under its own code.
fn refused(body: &str, status: impl std::fmt::Display) -> Failure {
    match serde_json::from_str(body) {
        Ok(Refused { error: Told { code, message } }) => Failure::new(&code, message),
        Err(_) => Failure::new("unreachable", format!("the node answered {status}: {body}")),
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
