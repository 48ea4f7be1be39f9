//! A test that cannot run here says so past the capture of the test runner, which hides what passing tests print.
//!
//! MUST_RUN names, separated by commas, what this machine is known to have: a test that lacks it fails. `scripts/test` and
//! `scripts/long` find that out, so that there no claim passes without having run.

use std::io::{self, Write};

/// What a test may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The right to mount a file system.
    Mounts,
    /// The right to become another user.
    Users,
    /// Data or a setting of the system that nobody promises.
    Other,
}

impl Lack {
    /// The word for it in MUST_RUN, if there is one.
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Mounts => Some("mounts"),
            Self::Users => Some("users"),
            Self::Other => None,
        }
    }

    fn is_promised(self, must_run: &str) -> bool {
        let words: Vec<&str> = must_run.split(',').filter(|word| !word.is_empty()).collect();
        let known = [Self::Mounts, Self::Users].map(Self::word);
        let unknown = words.iter().find(|word| !known.contains(&Some(**word)));
        assert_eq!(unknown, None, "MUST_RUN has a word that nothing is called by");
        words.into_iter().any(|word| Some(word) == self.word())
    }
}

/// Says that a test was skipped, and why; fails it where the machine is known to have what it lacks.
pub fn skipped(test: &str, lack: Lack, why: &str) {
    let must_run = std::env::var("MUST_RUN").unwrap_or_else(|_| String::new());
    assert!(!lack.is_promised(&must_run), "{test} did not run: {why}");
    let mut uncaptured = io::stderr().lock();
    writeln!(uncaptured, "SKIPPED {test}: {why}").unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_is_known_to_have_may_not_be_lacked() {
        let promised = |must_run| [Lack::Mounts, Lack::Users, Lack::Other].map(|lack| lack.is_promised(must_run));
        assert_eq!(promised(""), [false; 3]);
        assert_eq!(promised("mounts"), [true, false, false]);
        assert_eq!(promised("users,mounts"), [true, true, false]);
        assert!(std::panic::catch_unwind(|| promised("mount")).is_err(), "a word that promises nothing");
    }
}
