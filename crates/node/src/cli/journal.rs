//! `journal`: what happened, from a running node or from the file beside a store, in use or not. Nothing is written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};
use state_pruner::{
    Clock, PruneError, SystemClock, When,
    events::{
        Entry, Event, Filter, JournalRead, find_journal, journal_dir, journal_dirs, journal_file, read_journal,
        verify_journal,
    },
};

use super::{
    OutputArgs,
    follow::follow,
    render::{Failure, Output},
    request::Request,
    values::{address, at_most, whole},
};

/// `journal`.
#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    #[command(subcommand)]
    command: JournalCommand,
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// Print the newest events, and with --follow those that come.
    Tail {
        #[command(flatten)]
        source: SourceArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// Events to begin with.
        #[arg(long = "last", visible_alias = "lines", value_name = "N", default_value = "20", value_parser = |text: &str| at_most::<std::num::NonZeroUsize>(text, 10_000))]
        lines: std::num::NonZeroUsize,
        /// Go on until a signal; with --json one object per line.
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print what the journal has, the oldest first, at most the newest 10,000.
    Show {
        #[command(flatten)]
        source: SourceArgs,
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Read every record and tell what is damaged, as `validate` does.
    Verify {
        #[command(flatten)]
        source: SourceArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Whose journal.
#[derive(Debug, Clone, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("journal").required(true).args(["url", "db", "state_dir"])))]
pub(super) struct SourceArgs {
    /// Address of a running node.
    #[arg(long, value_name = "URL", value_parser = address)]
    pub(super) url: Option<String>,
    /// Folder of a database, in use or not: a node's, or one that was pruned at rest.
    #[arg(long, value_name = "DIR")]
    db: Option<PathBuf>,
    /// The folder that was given to `prune`, or the data folder of a node.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Which events.
#[derive(Debug, Clone, Args)]
pub(super) struct FilterArgs {
    /// Only events of this code. May be given again.
    #[arg(long = "code", value_name = "CODE", value_parser = Event::known_code)]
    pub(super) codes: Vec<String>,
    /// Only events since then: a time back such as 2h, or a moment such as 2026-11-26T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Since>,
    /// Only events after this number.
    #[arg(long, value_name = "SEQ", value_parser = whole)]
    pub(super) after: Option<u64>,
}

/// A moment, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Ago(Duration),
    At(SystemTime),
}

fn moment(text: &str) -> Result<Since, String> {
    let ago = humantime::parse_duration(text).map(Since::Ago);
    let wrong = |_| "a time back such as 2h or a moment such as 2026-11-26T12:00:00Z is expected".to_owned();
    ago.or_else(|_| humantime::parse_rfc3339_weak(text).map(Since::At)).map_err(wrong)
}

impl FilterArgs {
    pub(super) fn since_ms(&self) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).map_or(u64::MAX, |ms| ms);
        self.since.map(|since| match since {
            Since::Ago(ago) => SystemClock::new().unix_ms().saturating_sub(millis(ago)),
            Since::At(at) => at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis),
        })
    }

    fn filter(&self, last: usize) -> Filter {
        Filter {
            after: self.after,
            since_ms: self.since_ms(),
            codes: self.codes.clone(),
            first: None,
            last: Some(last),
        }
    }
}

impl JournalArgs {
    pub(super) fn output(&self) -> OutputArgs {
        match &self.command {
            JournalCommand::Tail { output, .. }
            | JournalCommand::Show { output, .. }
            | JournalCommand::Verify { output, .. } => *output,
        }
    }
}

/// The most events that are printed at once.
const MOST: usize = 10_000;

/// Prints or checks a journal.
pub(super) fn journal(args: &JournalArgs, output: Output) -> ExitCode {
    match &args.command {
        JournalCommand::Show { source, filter, .. } => {
            let read = source.read(&filter.filter(MOST));
            let is_cut = read.as_ref().is_ok_and(|read| read.events.len() == MOST);
            let code = shown(read, filter, output);
            if is_cut && matches!(output, Output::Human) {
                output.note("these are the newest 10,000, there may be older ones: choose less, or read pages with GET /v1/events?after=SEQ");
            }
            code
        }
        JournalCommand::Tail { source, filter, lines: newest, follow: false, .. } => {
            shown(source.read(&filter.filter(newest.get())), filter, output)
        }
        JournalCommand::Tail { source, filter, lines: newest, follow: true, .. } => {
            let followed = source.read(&filter.filter(newest.get())).and_then(|read| {
                note(&read, output, || {
                    let JournalRead { damaged, missing, places, .. } = &read;
                    output.text(&json!({ "damaged": damaged, "missing": missing, "places": places }).to_string())
                });
                follow(source, filter, &read, output)?;
                Ok(exit(&read))
            });
            followed.unwrap_or_else(|failure| output.failed(&failure))
        }
        JournalCommand::Verify { source, .. } => verify(source, output),
    }
}

/// What there is of the events is printed.
fn shown(read: Result<JournalRead, Failure>, filter: &FilterArgs, output: Output) -> ExitCode {
    let read = match read {
        Ok(read) => read,
        Err(failure) => return output.failed(&failure),
    };
    output.answer(&read, || lines(&read, filter));
    note(&read, output, || {}); // the object has it
    exit(&read)
}

/// Tells whoever reads the events what the journal lacks: people on stderr, others as objects.
fn note(read: &JournalRead, output: Output, object: impl FnOnce()) {
    match (lacks(read), output) {
        (Some(lacks), Output::Human) => output.note(&lacks),
        (Some(_), Output::Json) => object(),
        (None, Output::Human | Output::Json) => {}
    }
}

/// Damage is no success, for what it took may be what was asked for. Numbers that are missing without it are: the journal tells
/// itself what it could not take, and is as it was written.
fn exit(read: &JournalRead) -> ExitCode {
    if read.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verify(source: &SourceArgs, output: Output) -> ExitCode {
    let read = match source.verify() {
        Ok(read) => read,
        Err(failure) => return output.failed(&failure),
    };
    output.answer(&read, || read.told());
    exit(&read)
}

impl SourceArgs {
    /// The folder of the journal, where no node is asked.
    pub(super) fn dir(&self) -> Result<PathBuf, Failure> {
        match (&self.db, &self.state_dir) {
            (Some(db), _) => find_journal(db).ok_or_else(|| absent(db)),
            (None, Some(dir)) => Ok(journal_dir(dir)),
            (None, None) => Err(Failure::new("usage", "give --url, --db or --state-dir")),
        }
    }

    fn read(&self, filter: &Filter) -> Result<JournalRead, Failure> {
        match &self.url {
            Some(url) => Request::get(format!("v1/events?{}", query(filter))).ask(url),
            None => read_journal(&self.dir()?, filter).map_err(|error| unread(&error)),
        }
    }

    fn verify(&self) -> Result<JournalRead, Failure> {
        match &self.url {
            Some(url) => Request::get("v1/events/verify").ask(url),
            None => verify_journal(&self.dir()?).map_err(|error| unread(&error)),
        }
    }
}

/// A journal that is there, or may be, says nothing about what is in it while it cannot be read.
fn unread(error: &PruneError) -> Failure {
    if let PruneError::File { path, source } = error
        && source.kind() != io::ErrorKind::NotFound
    {
        let (path, what) = (path.display(), "the event journal cannot be read");
        let advice = "look at that path and its disk, or give another folder with --state-dir";
        return Failure::new(error.code(), format!("{path}: {source}: {what}: {advice}"));
    }
    Failure::new(error.code(), error)
}

/// Says where it was looked for, and what else the folder may be.
fn absent(db: &Path) -> Failure {
    let (looked, shown) = (journal_dirs(db).into_iter().map(|dir| journal_file(&dir)), db.display());
    let looked: Vec<String> = looked.map(|file| file.display().to_string()).collect();
    let is_gone = fs::metadata(db).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let none = match is_gone {
        true => format!("there is no folder {shown}, and no event journal beside it"),
        false => format!("there is no event journal beside {shown}"),
    };
    let advice = match fs::metadata(journal_file(&journal_dir(db))) {
        Ok(_) => format!("the folder itself has one, so give it with --state-dir {shown}"),
        Err(_) => "give the data folder of its node, or the folder in which its prune keeps records, with --state-dir"
            .to_owned(),
    };
    let message = format!("{none}: no {}; {advice}", looked.join(" and no "));
    Failure::new("file", message)
}

fn query(filter: &Filter) -> String {
    let Filter { after, since_ms, codes, first, last } = filter;
    let mut parts = Vec::new();
    parts.extend(after.map(|after| format!("after={after}")));
    parts.extend(since_ms.map(|since| format!("since_ms={since}")));
    parts.extend(first.map(|first| format!("limit={first}")));
    parts.extend(last.map(|last| format!("last={last}")));
    if !codes.is_empty() {
        parts.push(format!("code={}", codes.join(",")));
    }
    parts.join("&")
}

/// What the journal itself lacks, whatever of it was asked for, and where.
fn lacks(read: &JournalRead) -> Option<String> {
    let JournalRead { path, damaged, missing, .. } = read;
    (*damaged > 0 || *missing > 0).then(|| {
        let anew = if read.id.is_none() { "; the next start writes it anew, with a header" } else { "" };
        format!(
            "the journal {} has {}{anew}: `journal verify` counts what is whole, and the log of the process tells what happened",
            path.display(),
            read.lack_told()
        )
    })
}

/// The events, with the numbers that are missing between them where all are shown.
fn lines(read: &JournalRead, filter: &FilterArgs) -> String {
    let (mut lines, mut last) = (Vec::new(), None);
    for event in &read.events {
        let next = last.map_or(event.seq, |last: u64| last.saturating_add(1));
        if filter.codes.is_empty() && event.seq > next {
            lines.push(format!("(events {next} to {} are missing)", event.seq - 1));
        }
        lines.push(line(event));
        last = Some(event.seq);
    }
    if read.events.is_empty() {
        lines.push("no events".to_owned());
    }
    lines.join("\n")
}

/// One event for people.
pub(super) fn line(entry: &Entry) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let field = |(name, value): (&String, &Value)| format!("  {name}={}", text(value));
    let known = entry.data.iter().filter(|(_, value)| !value.is_null());
    let fields: String = known.map(field).collect();
    format!("{}  {}  {}{fields}", entry.seq, When(entry.at_ms), entry.code)
}

/// What a watcher missed.
pub(super) fn missed(count: u64, output: Output) {
    match output {
        Output::Human => output.text(&format!("({count} events were missed)")),
        Output::Json => output.text(&json!({ "missed": count }).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_among_the_events_and_a_choice_of_them_has_no_gaps() {
        let entry = |seq| Entry { seq, at_ms: 0, code: "stopped".to_owned(), data: serde_json::Map::new() };
        let read = |seqs: &[u64], damaged, missing| JournalRead {
            path: PathBuf::from("journal"),
            id: Some(String::new()),
            records: 9,
            unknown: 0,
            damaged,
            torn_bytes: 0,
            missing,
            places: Vec::new(),
            range: None,
            events: seqs.iter().map(|seq| entry(*seq)).collect(),
        };
        let filter = |codes: &[&str]| FilterArgs {
            codes: codes.iter().map(|code| (*code).to_owned()).collect(),
            since: None,
            after: None,
        };
        let told = |read: &JournalRead, codes: &[&str]| -> Vec<String> {
            lines(read, &filter(codes)).lines().map(|line| line.split("  ").next().unwrap().to_owned()).collect()
        };
        assert_eq!(
            (told(&read(&[7, 8], 0, 0), &[]), lacks(&read(&[7, 8], 0, 0))),
            (vec!["7".to_owned(), "8".to_owned()], None)
        );
        let gap = read(&[8, 11], 1, 2);
        assert_eq!(told(&gap, &[]), ["8", "(events 9 to 10 are missing)", "11"]);
        assert_eq!(told(&gap, &["stopped"]), ["8", "11"]);
        assert_eq!(told(&read(&[], 1, 2), &[]), ["no events"]);
        let of_no_calendar = line(&Entry { at_ms: u64::MAX, ..entry(7) });
        assert_eq!(of_no_calendar, "7  18446744073709551615 ms after 1970  stopped");
        let whole = "the journal journal has 1 damaged place, 2 numbers missing: `journal verify`";
        assert!(lacks(&gap).is_some_and(|told| told.starts_with(whole)));
        assert!(lacks(&read(&[8, 11], 0, 2)).is_some_and(|told| told.contains("has 0 damaged places, 2 numbers")));
    }
}
