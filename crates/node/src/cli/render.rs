//! Answers: one JSON object or text for people on stdout; failures as an object on stdout or text on stderr.

use std::{
    fmt::Display,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};
use state_store::{Space, StoreError};

use super::health::CANNOT_TELL;

/// The exit code of a failure.
const FAILED: u8 = 1;
/// What to do about a node that does not answer.
pub(super) const ASK_AGAIN: &str = "ask again";

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    code: String,
    message: String,
    /// What stands before the message for people.
    #[serde(skip)]
    prefix: &'static str,
    /// The code that a command exits with.
    #[serde(skip)]
    exit: u8,
}

impl Failure {
    pub(super) fn new(code: &str, message: impl Display) -> Self {
        Self { code: code.to_owned(), message: message.to_string(), prefix: "error: ", exit: FAILED }
    }

    /// The same with another exit code.
    pub(super) fn exiting(self, exit: u8) -> Self {
        Self { exit, ..self }
    }

    /// A node that did not answer within a time, and what to do then.
    pub(super) fn late(url: &str, patience: Duration, advice: &str) -> Self {
        let patience = humantime::format_duration(patience);
        let message = format!(
            "the node at {url} does not answer within {patience}: see its log (too many open connections?) and its disk \
             for what holds it; {advice}"
        );
        Self::new("unreachable", message)
    }

    /// A node that answers, and has not ended what it was asked for within a time: whether it ever will cannot be told.
    pub(super) fn unfinished(url: &str, within: Duration, advice: &str) -> Self {
        let within = humantime::format_duration(within);
        let message = format!(
            "the node at {url} lives, and has not ended what it was asked for within {within}: its disk is slow, or does not \
             answer. Look at the disk and at the log of the node, and if it is only slow, give more time with --within; {advice}"
        );
        Self { exit: CANNOT_TELL, ..Self::new("unfinished", message) }
    }

    /// A failure whose message says by itself what it is.
    pub(super) fn whole(code: &str, message: impl Display) -> Self {
        Self { prefix: "", ..Self::new(code, message) }
    }
}

/// Where and how a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// One object on stdout.
    Json,
    /// Text for people.
    Human,
}

impl Output {
    /// Prints the answer.
    pub(super) fn answer<T: Serialize>(self, answer: &T, human: impl FnOnce() -> String) {
        match self {
            Self::Human => self.text(&human()),
            Self::Json => match serde_json::to_value(answer) {
                Ok(value) => object(&value),
                Err(error) => self.fail(&Failure::new("internal", error)),
            },
        }
    }

    /// Prints text on stdout.
    pub(super) fn text(self, text: &str) {
        write_line(&mut std::io::stdout(), text);
    }

    /// Prints on stderr what whoever reads the answer has to know beside it.
    pub(super) fn note(self, text: &str) {
        write_line(&mut std::io::stderr(), text);
    }

    /// Prints a failure.
    pub(super) fn fail(self, failure: &Failure) {
        match self {
            Self::Human => write_line(&mut std::io::stderr(), &format!("{}{}", failure.prefix, failure.message)),
            Self::Json => object(&json!({ "error": failure })),
        }
    }

    /// Prints a failure and gives the exit code of one.
    pub(super) fn failed(self, failure: &Failure) -> ExitCode {
        self.fail(failure);
        ExitCode::from(failure.exit)
    }
}

/// Prints what came of a command.
pub(super) fn told<T: serde::Serialize>(
    output: Output,
    answer: Result<T, Failure>,
    human: impl FnOnce(&T) -> String,
) -> ExitCode {
    match answer {
        Ok(answer) => {
            output.answer(&answer, || human(&answer));
            ExitCode::SUCCESS
        }
        Err(failure) => output.failed(&failure),
    }
}

fn object(value: &Value) {
    write_line(&mut std::io::stdout(), &value.to_string());
}

/// Whether a program reads what the command says: stderr then has its log and nothing else.
static FOR_PROGRAMS: AtomicBool = AtomicBool::new(false);

/// From here on the command speaks to people, or to a program.
pub(super) fn speak(output: Output) {
    FOR_PROGRAMS.store(output == Output::Json, Ordering::Release);
}

/// Tells people on stderr, before there is an answer, what the command does.
pub(super) fn meanwhile(text: &str) {
    if !FOR_PROGRAMS.load(Ordering::Acquire) {
        write_line(&mut std::io::stderr(), text);
    }
}

/// Whether an answer could not be printed.
static UNPRINTED: AtomicBool = AtomicBool::new(false);

/// The exit code of a command: `unprinted`, whatever it did, where its answer could not be printed.
pub(super) fn printed(code: ExitCode, unprinted: ExitCode) -> ExitCode {
    if UNPRINTED.load(Ordering::Acquire) { unprinted } else { code }
}

/// A reader that went away is no failure of the command.
fn write_line(to: &mut dyn std::io::Write, text: &str) {
    match writeln!(to, "{text}").and_then(|()| to.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            if !UNPRINTED.swap(true, Ordering::AcqRel) {
                let text = format!("error: the answer could not be printed: {error}. Print it where there is room");
                write_line(&mut std::io::stderr(), &text);
            }
        }
        Ok(()) | Err(_) => {}
    }
}

/// A number of bytes as people read it.
pub(super) fn bytes(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// What a store takes up: its tables and blobs, and beside them its write-ahead log, which comes and goes whatever the state.
pub(super) fn size(space: &Result<Space, StoreError>) -> String {
    match space {
        Ok(space) => format!("{} + log {}", bytes(space.tables + space.blobs), bytes(space.logs)),
        Err(error) => format!("size unknown ({error})"),
    }
}

/// So many of what a noun names, whose plural ends in an s.
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", number(count), if count == 1 { "" } else { "s" })
}

/// A number with separators between thousands.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators_and_sizes_have_units() {
        for (given, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(given), shown);
        }
        assert_eq!(bytes(1536), "1.5 KiB");
        let counts = [0, 1, 2000].map(|count| counted(count, "order"));
        assert_eq!(counts, ["0 orders", "1 order", "2,000 orders"]);
    }

    #[test]
    fn a_store_is_told_without_its_log_and_the_log_apart() {
        let space = Space { tables: 1024, blobs: 512, logs: 256 << 20, other: 7 };
        assert_eq!(size(&Ok(space)), "1.5 KiB + log 256.0 MiB");
    }
}
