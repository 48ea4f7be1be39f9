//! Words that a configuration chooses among.

use serde::{Deserialize, Serialize};

/// When an acknowledged transaction survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DurabilityChoice {
    /// A power loss.
    Synced,
    /// A crash of the process.
    Logged,
}

/// Whether the commit journal is swept between cycles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncrementalChoice {
    /// It is: cycles are rare.
    On,
    /// It is not: only cycles delete.
    Off,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}
