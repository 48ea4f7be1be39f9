//! `prune-run`: an operator's request to a running node, and its answer.

use std::{process::ExitCode, time::Duration};

use serde::Deserialize;
use state_pruner::Reply;

use super::{
    PruneRunArgs,
    render::{Failure, Output},
    work,
};
use crate::load::{Client, ClientError};

/// The node answers at once; one that does not within this time is not reached.
const PATIENCE: Duration = Duration::from_secs(5);

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

fn ask(args: &PruneRunArgs) -> Result<Reply, Failure> {
    let unreachable = |error: &dyn std::fmt::Display| Failure::new("unreachable", error);
    let runtime = work::runtime().map_err(|error| unreachable(&error))?;
    let client = Client::new(&args.url).map_err(|error| unreachable(&error))?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, client.prune(args.id.as_deref())).await });
    match answer {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(ClientError::Refused { status, body })) => Err(refused(&body, status)),
        Ok(Err(error)) => Err(unreachable(&error)),
        Err(_) => Err(Failure::new("unreachable", format!("no answer within {PATIENCE:?}"))),
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
