//! What a check comes to, and what all of them come to together.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What a check came to. There is no way to pass without saying what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ValidationResult {
    /// What it asks for holds.
    Passed {
        /// What it saw.
        evidence: String,
    },
    /// It does not.
    Failed {
        /// Each thing that is wrong.
        reasons: Vec<String>,
    },
    /// It could not be asked, which says nothing about the node.
    Skipped {
        /// Why not.
        reason: String,
    },
}

impl ValidationResult {
    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { reasons: vec![reason.into()] }
    }

    pub(super) fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped { reason: reason.into() }
    }

    /// Passes with the evidence unless something is wrong.
    pub(super) fn unless(reasons: Vec<String>, evidence: impl FnOnce() -> String) -> Self {
        if reasons.is_empty() { Self::Passed { evidence: evidence() } } else { Self::Failed { reasons } }
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Passed { .. } => "passed",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
        }
    }

    pub(super) fn told(&self) -> String {
        match self {
            Self::Passed { evidence } => evidence.clone(),
            Self::Failed { reasons } => reasons.join("; "),
            Self::Skipped { reason } => reason.clone(),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// A snapshot can be taken, and states one instant.
    Creation,
    /// The snapshot in memory is the one that a restart would find.
    Reload,
    /// The lock is held by one at a time, and its permit dies with it.
    Locking,
    /// Every phase of the cycle under way saw the same snapshot, and it is an ancestor of the chain.
    Phases,
    /// What failed is over.
    Recovery,
    /// Every persisted artefact is what was written.
    Integrity,
    /// The journal of events is what was written.
    Events,
    /// Many who ask at once get one lock, and snapshots that are whole.
    Concurrency,
    /// Captures, locks and records take no longer than they may.
    Performance,
    /// There is room for the next cycle, and nothing holds bytes for nothing.
    Resources,
}

impl Check {
    /// Every check, in the order in which they run.
    pub const ALL: [Self; 10] = [
        Self::Creation,
        Self::Reload,
        Self::Locking,
        Self::Phases,
        Self::Recovery,
        Self::Integrity,
        Self::Events,
        Self::Concurrency,
        Self::Performance,
        Self::Resources,
    ];

    /// Its word in reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Creation => "creation",
            Self::Reload => "reload",
            Self::Locking => "locking",
            Self::Phases => "phases",
            Self::Recovery => "recovery",
            Self::Integrity => "integrity",
            Self::Events => "events",
            Self::Concurrency => "concurrency",
            Self::Performance => "performance",
            Self::Resources => "resources",
        }
    }
}

/// How much a check reads of what there is many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// What is the newest, or the first few.
    #[default]
    Newest,
    /// All of it.
    All,
}

/// One check and what it came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// What was asked.
    pub check: Check,
    /// How much it reads, where it can be asked.
    #[serde(default)]
    pub depth: Depth,
    /// How much it has to read so that what it found is over when it passes.
    #[serde(default)]
    pub needs: Depth,
    /// What it came to.
    #[serde(flatten)]
    pub result: ValidationResult,
}

impl Checked {
    /// A check that reads all that it asks for, whoever asks.
    pub(super) fn whole(check: Check, result: ValidationResult) -> Self {
        Self { check, depth: Depth::All, needs: Depth::Newest, result }
    }
}

/// What a validation came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidationReport {
    /// Milliseconds since 1970 when it ended.
    #[serde(rename = "at_ms")]
    pub at: u64,
    /// Every check, each once.
    pub checks: Vec<Checked>,
}

impl ValidationReport {
    /// What a check came to; nothing if it is not among them.
    pub fn of(&self, check: Check) -> Option<&ValidationResult> {
        self.checks.iter().find(|checked| checked.check == check).map(|checked| &checked.result)
    }

    /// Whether no check failed; those that were skipped say nothing.
    pub fn is_sound(&self) -> bool {
        !self.checks.iter().any(|checked| matches!(checked.result, ValidationResult::Failed { .. }))
    }

    /// How many checks came to a result.
    pub(super) fn count(&self, word: &str) -> u64 {
        self.checks.iter().filter(|checked| checked.result.word() == word).count() as u64
    }

    /// One line: how many checks passed, failed and were skipped.
    pub fn summary(&self) -> String {
        let [passed, failed, skipped] = ["passed", "failed", "skipped"].map(|word| self.count(word));
        let word = if failed == 0 { "sound as far as it was looked at" } else { "NOT SOUND" };
        format!("{word}: {passed} checks passed, {failed} failed, {skipped} skipped")
    }

    /// A line for each check with what it saw, below the summary.
    pub fn detailed_report(&self) -> String {
        let mut report = self.summary();
        for Checked { check, result, .. } in &self.checks {
            // A String takes whatever is written to it.
            let (Ok(()) | Err(_)) = write!(report, "\n{:<12}{:<9}{}", check.label(), result.word(), result.told());
        }
        report
    }
}
