//! `journal tail --follow`: events as they come, from the stream of a node or from the end of a file that grows.

use std::{os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use serde_json::Value;
use state_pruner::events::{Entry, Filter, JournalRead, read_journal};

use super::{
    journal::{FilterArgs, SourceArgs, line, missed},
    render::{Failure, Output},
    work,
};
use crate::{load::Client, shutdown::Signals};

/// Time between two looks at a file.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Prints what was read, then what comes, until a signal or until the node ends.
///
/// Errors: a node or a journal that went away.
pub(super) fn follow(
    source: &SourceArgs,
    filter: &FilterArgs,
    read: &JournalRead,
    output: Output,
) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new("internal", error);
    let mut printer = Printer { codes: filter.codes.clone(), since_ms: filter.since_ms(), output };
    read.events.iter().for_each(|entry| printer.print(entry));
    let newest = read.range.map_or(0, |(_, last)| last).max(filter.after.map_or(0, |after| after));
    let runtime = work::runtime().map_err(|error| failed(&error))?;
    runtime.block_on(async {
        let signals = Signals::listen(|| {}).map_err(|error| failed(&error))?;
        let followed = async {
            match &source.url {
                Some(url) => of_node(url, newest, &mut printer).await,
                None => of_file(&source.dir()?, newest, &mut printer).await,
            }
        };
        tokio::select! {
            followed = followed => followed,
            () = signals.told() => Ok(()),
        }
    })
}

/// Prints what was asked for.
struct Printer {
    codes: Vec<String>,
    since_ms: Option<u64>,
    output: Output,
}

impl Printer {
    fn print(&mut self, entry: &Entry) {
        let wanted = self.codes.is_empty() || self.codes.contains(&entry.code);
        if wanted && self.since_ms.is_none_or(|since| entry.at_ms >= since) {
            self.output.answer(entry, || line(entry));
        }
    }

    /// One message of a stream: an event, or how many were missed.
    fn take(&mut self, data: &str) -> Result<(), Failure> {
        let strange = |error| Failure::new("unreachable", format!("not an event of a node: {error}"));
        let value: Value = serde_json::from_str(data).map_err(strange)?;
        if let Some(count) = value.get("missed").and_then(Value::as_u64) {
            missed(count, self.output);
            return Ok(());
        }
        let entry: Entry = serde_json::from_value(value).map_err(strange)?;
        self.print(&entry);
        Ok(())
    }
}

async fn of_node(url: &str, after: u64, printer: &mut Printer) -> Result<(), Failure> {
    let unreachable = |error: &dyn std::fmt::Display| Failure::new("unreachable", error);
    let client = Client::new(url).map_err(|error| unreachable(&error))?;
    let stream = client.stream(&format!("v1/events/stream?after={after}")).await;
    let mut stream = stream.map_err(|error| unreachable(&error))?;
    let mut rest: Vec<u8> = Vec::new();
    let gone = |_| Failure::new("unreachable", format!("the node at {url} went away: follow it again once it serves"));
    while let Some(chunk) = stream.chunk().await.map_err(gone)? {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if let Some(data) = std::str::from_utf8(&line).map_or(None, |line| line.strip_prefix("data:")) {
                printer.take(data.trim())?;
            }
        }
    }
    if printer.output == Output::Human {
        printer.output.text("(the node has ended)");
    }
    Ok(())
}

/// A journal is exchanged when it is made smaller, so each look opens it anew; one that has not changed is not read.
async fn of_file(dir: &Path, mut after: u64, printer: &mut Printer) -> Result<(), Failure> {
    let mut timer = tokio::time::interval(LOOK_EVERY);
    let mut seen = None;
    loop {
        timer.tick().await;
        let journal = state_pruner::events::journal_file(dir);
        let now = journal.metadata().map(|file| (file.ino(), file.len()));
        let now = now.map_err(|error| {
            Failure::new(
                "file",
                format!("the journal {} is no more to be read, so nothing follows: {error}", journal.display()),
            )
        })?;
        if seen == Some(now) {
            continue;
        }
        let filter = Filter { after: Some(after), ..Filter::default() };
        let read = read_journal(dir, &filter).map_err(|error| Failure::new(error.code(), &error))?;
        read.events.iter().for_each(|entry| printer.print(entry));
        after = read.events.last().map_or(after, |last| last.seq);
        seen = Some(now);
    }
}
