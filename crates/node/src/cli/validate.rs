//! `validate`: every check of the snapshots of a node or a store, answered by the exit code.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{ArgGroup, Args};
use serde_json::json;
use state_pruner::{offline, validate::ValidationReport};

use super::{
    OutputArgs,
    health::CANNOT_TELL,
    render::{Failure, Output},
    request::Request,
    token::TokenArgs,
    values::{address, folder, time},
    work,
};

/// `validate`.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("asked").required(true).args(["url", "db"])))]
pub(super) struct ValidateArgs {
    /// Address of a running node; what its validation comes to is judged by its health from then on.
    #[arg(long, value_name = "URL", value_parser = address)]
    url: Option<String>,
    /// Folder of a database, in use or not; nothing in it is written.
    #[arg(long, value_name = "DIR", conflicts_with = "token_file")]
    db: Option<PathBuf>,
    /// Folder of the records, marks and certificates, if it does not lie beside the database.
    #[arg(long, value_name = "DIR", requires = "db", conflicts_with = "url", value_parser = folder)]
    state_dir: Option<PathBuf>,
    /// Reads every row of the commit journal, root, kept order, mark of a shared node and event, not only the newest or first
    /// few: it takes as long as there are many, and disturbs nobody either.
    #[arg(long)]
    deep: bool,
    /// The longest time that a deep one of a node may take: it ends then, and nothing can be told.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "6h", requires = "deep", conflicts_with = "db")]
    within: Duration,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ValidateArgs {
    pub(super) fn output(&self) -> Output {
        self.output.choice()
    }
}

/// Validates, prints and exits with what it came to.
pub(super) fn validate(args: &ValidateArgs, output: Output) -> ExitCode {
    let told = match (&args.url, &args.db) {
        (Some(url), _) => of_node(url, args),
        (None, Some(db)) => of_store(db, args),
        (None, None) => Err(Failure::new("usage", "give --url or --db")),
    };
    match told {
        Ok(report) => {
            let sound = report.is_sound();
            let answer =
                json!({ "sound": sound, "summary": report.summary(), "at_ms": report.at, "checks": report.checks });
            output.answer(&answer, || report.detailed_report());
            if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            output.fail(&failure);
            ExitCode::from(CANNOT_TELL)
        }
    }
}

fn of_node(url: &str, args: &ValidateArgs) -> Result<ValidationReport, Failure> {
    if args.deep {
        // It reads all rows first, and ends where nobody waits for it any more.
        return Request::post("v1/validate?deep=true", &args.token).ask_while_it_lives(url, args.within);
    }
    Request::post("v1/validate", &args.token).ask(url)
}

fn of_store(db: &Path, args: &ValidateArgs) -> Result<ValidationReport, Failure> {
    let failed = |error: state_pruner::PruneError| Failure::new(error.code(), &error);
    let validator = offline::validator(db, args.state_dir.as_deref()).map_err(failed)?;
    let validator = if args.deep { validator.deep(|| true) } else { validator };
    let runtime = work::runtime().map_err(|error| Failure::new("start", error))?;
    Ok(runtime.block_on(validator.run_comprehensive_validation()))
}
