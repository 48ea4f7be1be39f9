//! What a check comes to, and what all of them come to together.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::health::Validated;

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

    fn told(&self) -> String {
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

/// One check and what it came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// What was asked.
    pub check: Check,
    /// What it came to.
    #[serde(flatten)]
    pub result: ValidationResult,
}

/// What a validation came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidationReport {
    /// Milliseconds since 1970 when it ended.
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

    /// What health keeps of it.
    pub fn validated(&self) -> Validated {
        let count = |word| self.checks.iter().filter(|checked| checked.result.word() == word).count() as u64;
        let failed = self.checks.iter().filter(|checked| matches!(checked.result, ValidationResult::Failed { .. }));
        let failed = failed.map(|checked| format!("{}: {}", checked.check.label(), checked.result.told()));
        Validated { at: self.at, passed: count("passed"), skipped: count("skipped"), failed: failed.collect() }
    }

    /// One line: how many checks passed, failed and were skipped.
    pub fn summary(&self) -> String {
        let Validated { passed, skipped, failed, .. } = self.validated();
        let word = if failed.is_empty() { "sound as far as it was looked at" } else { "NOT SOUND" };
        format!("{word}: {passed} checks passed, {} failed, {skipped} were skipped", failed.len())
    }

    /// A line for each check with what it saw, below the summary.
    pub fn detailed_report(&self) -> String {
        let mut report = self.summary();
        for Checked { check, result } in &self.checks {
            // A String takes whatever is written to it.
            let (Ok(()) | Err(_)) = write!(report, "\n{:<12}{:<9}{}", check.label(), result.word(), result.told());
        }
        report
    }
}
