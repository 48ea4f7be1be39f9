//! `config`: the shipped configuration, and what is wrong with a file.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    OutputArgs, USAGE,
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
            Ok(config) => {
                let (file, doubts) = (file.display(), config.doubts());
                let lines: Vec<String> = doubts.iter().map(|doubt| format!("\n  in doubt: {doubt}")).collect();
                let told = || format!("{file}: no problem found{}", lines.concat());
                output.answer(&serde_json::json!({ "ok": true, "doubts": doubts }), told);
                ExitCode::SUCCESS
            }
            Err(problems) => output.failed(&bad_config(&problems)),
        },
    }
}

/// Where the keys are told of.
const KEYS: &str = "every key, its default and what it means: `state-node config print-default`";

/// Every problem of a configuration as one failure: a line for each, below a heading if there are several. Where all of them
/// were given on the command line, that is bad usage.
pub(super) fn bad_config(problems: &[Problem]) -> Failure {
    let is_usage = problems.iter().all(|problem| problem.is_of_the_command_line());
    let failure = Failure::new("config", told(problems));
    if is_usage { failure.exiting(USAGE) } else { failure }
}

fn told(problems: &[Problem]) -> String {
    if let [problem] = problems {
        return format!("{problem}\n({KEYS})");
    }
    let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    format!("{} problems in the configuration{}\n({KEYS})", problems.len(), lines.concat())
}
