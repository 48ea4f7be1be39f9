//! `config`: the shipped configuration, and what is wrong with a file.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    OutputArgs,
    render::{Failure, Output},
};
use crate::config::{Config, Problem, SHIPPED};

/// `config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the shipped configuration: every key with its default.
    PrintDefault {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List everything that is wrong with a file.
    Check {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
}

impl ConfigArgs {
    pub(super) fn output(&self) -> OutputArgs {
        match &self.command {
            ConfigCommand::PrintDefault { output } | ConfigCommand::Check { output, .. } => *output,
        }
    }
}

/// Prints or checks.
pub(super) fn config(args: &ConfigArgs, output: Output) -> ExitCode {
    match &args.command {
        ConfigCommand::PrintDefault { .. } => {
            output.answer(&serde_json::json!({ "config": SHIPPED }), || SHIPPED.trim_end().to_owned());
            ExitCode::SUCCESS
        }
        ConfigCommand::Check { file, .. } => match Config::load(file, &[]) {
            Ok(_) => {
                let file = file.display();
                output.answer(&serde_json::json!({ "ok": true }), || format!("{file}: no problem found"));
                ExitCode::SUCCESS
            }
            Err(problems) => output.failed(&bad_config(&problems)),
        },
    }
}

/// Every problem of a configuration as one failure: a line for each, below a heading if there are several.
pub(super) fn bad_config(problems: &[Problem]) -> Failure {
    if let [problem] = problems {
        return Failure::new("config", problem);
    }
    let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    Failure::new("config", format!("{} problems in the configuration{}", problems.len(), lines.concat()))
}
