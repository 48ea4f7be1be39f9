//! `rollback`: going back to an older order, asked of a running node or done to its store at rest.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{ArgGroup, Args};
use serde::{Deserialize, Serialize};
use state_pruner::{SystemClock, offline};
use state_tree::Order;

use super::{
    OutputArgs,
    render::{Failure, Output, told},
    request::Request,
    token::TokenArgs,
    values::{address, whole},
};
use crate::chain::rows_above;

/// `rollback`.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("asked").required(true).args(["url", "db"])))]
pub(super) struct RollbackArgs {
    /// The order that is the newest one afterwards.
    #[arg(long, value_name = "ORDER", value_parser = whole)]
    to: u64,
    /// Address of a running node.
    #[arg(long, value_name = "URL", value_parser = address)]
    url: Option<String>,
    /// Folder of a node's database that nobody has open.
    #[arg(long, value_name = "DIR", conflicts_with = "token_file")]
    db: Option<PathBuf>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl RollbackArgs {
    pub(super) fn output(&self) -> OutputArgs {
        self.output
    }
}

/// What it did.
#[derive(Serialize, Deserialize)]
struct Rolled {
    to: u64,
    from: u64,
}

/// Goes back.
pub(super) fn rollback(args: &RollbackArgs, output: Output) -> ExitCode {
    let rolled = match (&args.url, &args.db) {
        (Some(url), _) => Request::post(format!("v1/rollback?to={}", args.to), &args.token).ask(url),
        (None, Some(db)) => {
            let to = Order::new(args.to);
            let rolled = offline::rollback(db, to, rows_above(to), Arc::new(SystemClock::new()));
            let rolled = rolled.map(|rolled| Rolled { to: rolled.to.get(), from: rolled.from.get() });
            rolled.map_err(|error| Failure::new(error.code(), &error))
        }
        (None, None) => Err(Failure::new("usage", "give --url or --db")),
    };
    told(output, rolled, |Rolled { to, from }| match from.saturating_sub(*to) {
        0 => format!("order {to} is the newest one already"),
        gone => format!("order {to} is the newest one; {gone} after it are gone"),
    })
}
