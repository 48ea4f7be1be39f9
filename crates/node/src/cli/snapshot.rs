//! `snapshot`: the catalog of snapshots, and how they come into it.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use state_pruner::{
    Clock as _, Control, PruneError, SystemClock, Unobserved, When,
    catalog::{
        self, Catalog, CatalogError, CatalogRetention, CreateRequest, Created, Depth, Listed, Listing, Removed,
        Restored, Shown, SnapshotId, Source, Tidied, Unusable, VerifiedSnapshot,
    },
    offline::{Steering, StoreLayout},
};

use super::{
    OutputArgs, USAGE,
    render::{Failure, Output, bytes, number, told},
    request::Request,
    retain::millis,
    token::TokenArgs,
    values::{address, layout, positive, time},
    work,
};

/// `snapshot`.
#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Copy a store into a catalog: through the node that runs on it, or at rest; many may do so at once.
    Create(CreateArgs),
    /// List the snapshots, the oldest first, and those that are damaged or cannot be read.
    List {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Print what a snapshot has, and its files; fails if one is missing or has another length.
    Show {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Hash every file of a snapshot again, open it, and read nodes back.
    Verify {
        #[command(flatten)]
        which: WhichArgs,
        /// Read every node that its states reach, instead of random paths.
        #[arg(long)]
        deep: bool,
    },
    /// Remove a snapshot that nobody reads.
    Delete {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Put the store of a snapshot into a folder; it appears there when it was proved to be what was copied.
    Restore {
        #[command(flatten)]
        which: WhichArgs,
        /// Where: an empty folder, or one that does not exist; folders above it are made.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Remove what is not to be kept, and what commands that were killed have left.
    #[command(group(ArgGroup::new("bound").required(true).multiple(true).args(["keep", "max_age"])))]
    Prune {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        retention: RetentionArgs,
    },
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("asked").required(true).args(["url", "db"])))]
struct CreateArgs {
    /// Address of a running node, which makes the snapshot itself: the catalog is a folder of its machine.
    #[arg(long, value_name = "URL", value_parser = address)]
    url: Option<String>,
    /// Folder of a database that no process has open for writing.
    #[arg(long, value_name = "DIR", requires = "layout", conflicts_with = "token_file")]
    db: Option<PathBuf>,
    /// Whose records it holds: rooch or native.
    #[arg(long, value_parser = layout, requires = "db", conflicts_with = "url")]
    layout: Option<StoreLayout>,
    /// Of a Rooch store: the last so many orders whose states the snapshot answers for, by default 1. Of a node's it is all
    /// that can be read.
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "url")]
    orders: Option<NonZeroU64>,
    /// The longest time that a node is waited for: whether it makes the snapshot cannot be told then.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1day", conflicts_with = "db")]
    within: Duration,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    retention: RetentionArgs,
}

#[derive(Debug, Clone, Args)]
struct PlaceArgs {
    /// Folder of the catalog.
    #[arg(long, value_name = "DIR")]
    catalog: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
struct WhichArgs {
    /// Id of the snapshot, as `snapshot list` shows it.
    id: SnapshotId,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Clone, Copy, Args)]
struct RetentionArgs {
    /// Remove all but the newest so many snapshots.
    #[arg(long, value_name = "N", value_parser = positive)]
    keep: Option<NonZeroU64>,
    /// Remove those that are older, such as 12h or 30d; the newest one stays.
    #[arg(long, value_name = "TIME", value_parser = time)]
    max_age: Option<Duration>,
}

impl From<RetentionArgs> for CatalogRetention {
    fn from(RetentionArgs { keep, max_age }: RetentionArgs) -> Self {
        Self { keep, max_age }
    }
}

impl SnapshotArgs {
    pub(super) fn output(&self) -> OutputArgs {
        match &self.command {
            SnapshotCommand::Create(CreateArgs { place, .. })
            | SnapshotCommand::List { place }
            | SnapshotCommand::Prune { place, .. } => place.output,
            SnapshotCommand::Show { which }
            | SnapshotCommand::Verify { which, .. }
            | SnapshotCommand::Delete { which }
            | SnapshotCommand::Restore { which, .. } => which.place.output,
        }
    }
}

/// Makes, lists, shows, verifies, removes or restores snapshots.
pub(super) fn snapshot(args: &SnapshotArgs, output: Output) -> ExitCode {
    match &args.command {
        SnapshotCommand::Create(args) => create(args, output),
        SnapshotCommand::List { place } => {
            told(output, opened(&place.catalog).and_then(|catalog| catalog.list().map_err(failure)), listed)
        }
        SnapshotCommand::Show { which } => {
            shown(output, opened(&which.place.catalog).and_then(|catalog| catalog.inspect(which.id).map_err(failure)))
        }
        SnapshotCommand::Verify { which, deep } => {
            let depth = if *deep { Depth::Deep } else { Depth::Sampled };
            let WhichArgs { id, place } = which.clone();
            let verify = move |steering: &Steering| Catalog::open(&place.catalog)?.verify(id, depth, steering);
            steered(output, verify, verified)
        }
        SnapshotCommand::Delete { which } => {
            let delete = |catalog: Catalog| catalog.delete(which.id, &SystemClock::new()).map_err(failure);
            told(output, opened(&which.place.catalog).and_then(delete), tidied)
        }
        SnapshotCommand::Restore { which, to } => {
            let (WhichArgs { id, place }, to) = (which.clone(), to.clone());
            let restore = move |steering: &Steering| Catalog::open(&place.catalog)?.restore(id, &to, steering);
            steered(output, restore, restored)
        }
        SnapshotCommand::Prune { place, retention } => {
            let prune = |catalog: Catalog| catalog.prune((*retention).into(), &SystemClock::new()).map_err(failure);
            pruned(output, opened(&place.catalog).and_then(prune))
        }
    }
}

fn create(args: &CreateArgs, output: Output) -> ExitCode {
    let RetentionArgs { keep, max_age } = args.retention;
    match (&args.url, &args.db, args.layout) {
        (Some(url), _, _) => {
            // The node may run in another folder.
            let catalog = std::path::absolute(&args.place.catalog).unwrap_or_else(|_| args.place.catalog.clone());
            let Some(catalog) = catalog.to_str() else {
                let why = "the name of --catalog is no text, as a request to a node needs it: give another, or --db";
                return output.failed(&Failure::new("usage", why).exiting(USAGE));
            };
            let body = json!({ "catalog": catalog, "keep": keep, "max_age_ms": millis(max_age) });
            let request = Request::post("v1/snapshots", &args.token).with(&body);
            let advice = "it may make the snapshot all the same: look at `snapshot list` before you ask again";
            let request = request.advising(advice);
            told(output, request.ask_while_it_lives(url, args.within), created) // it hashes every byte of its store
        }
        (None, Some(_), Some(StoreLayout::Native)) if args.orders.is_some() => {
            let why = "--orders is of a Rooch store: the snapshot of a node's store has all that can be read in it";
            output.failed(&Failure::new("usage", why).exiting(USAGE))
        }
        (None, Some(db), Some(layout)) => {
            let (db, catalog) = (db.clone(), args.place.catalog.clone());
            let orders = args.orders.map_or(NonZeroU64::MIN, |orders| orders);
            let make = move |steering: &Steering| {
                let id = SnapshotId::draw(&*steering.clock);
                let request = CreateRequest { catalog: &catalog, id, retention: CatalogRetention { keep, max_age } };
                catalog::create(&request, &Source::Rest { db: &db, layout, orders }, steering)
            };
            steered(output, make, created)
        }
        (None, _, _) => output.failed(&Failure::new("usage", "give --url, or --db with --layout")),
    }
}

/// A snapshot of which something is missing is shown, and a failure.
fn shown(output: Output, shown: Result<Shown, Failure>) -> ExitCode {
    let is_whole = shown.as_ref().is_ok_and(|shown| shown.damaged.is_none());
    let code = told(output, shown, shown_whole);
    if is_whole { code } else { ExitCode::FAILURE }
}

/// A retention that was not carried out whole is a failure, whatever went.
fn pruned(output: Output, pruned: Result<Tidied, Failure>) -> ExitCode {
    let is_whole = pruned.as_ref().is_ok_and(|tidied| tidied.removed.failures.is_empty());
    let code = told(output, pruned, tidied);
    if is_whole { code } else { ExitCode::FAILURE }
}

fn failure(error: CatalogError) -> Failure {
    Failure::new(error.code(), &error)
}

fn opened(catalog: &Path) -> Result<Catalog, Failure> {
    Catalog::open(catalog).map_err(failure)
}

/// Runs work on files that a signal may stop; it leaves nothing then.
fn steered<T: Serialize + Send + 'static>(
    output: Output,
    work: impl FnOnce(&Steering) -> Result<T, CatalogError> + Send + 'static,
    human: impl FnOnce(&T) -> String,
) -> ExitCode {
    let control = Arc::new(Control::default());
    let clock = Arc::new(SystemClock::new());
    let steering = Steering { control: Arc::clone(&control), observer: Arc::new(Unobserved), clock };
    match work::steered(output, &control, move || work(&steering), || {}) {
        Ok(Err(error @ CatalogError::Prune(PruneError::Cancelled | PruneError::Stopped))) => {
            output.fail(&Failure::whole(error.code(), "stopped; nothing is left of it"));
            ExitCode::from(work::STOPPED)
        }
        Ok(done) => told(output, done.map_err(failure), human),
        Err(code) => code,
    }
}

fn created(created: &Created) -> String {
    let Created { id, path, manifest, removed, .. } = created;
    let state = &manifest.state;
    let (files, size) = (manifest.files.len(), bytes(manifest.total_bytes));
    let mut lines = vec![
        format!("snapshot {id}: orders {} to {}", state.first_order, state.head_order),
        format!("{files} files, {size}, {} of them linked, in {path}", manifest.linked_files),
    ];
    if created.links_refused {
        lines.push("every file was copied: the system does not let this user link files of another owner".to_owned());
    }
    lines.extend(
        manifest.doubt.iter().map(|doubt| format!("{doubt}. The copy has what the store has: keep an older one")),
    );
    lines.extend(went(removed));
    lines.join("\n")
}

fn listed(listing: &Listing) -> String {
    let clock = SystemClock::new();
    let row = |listed: &Listed| {
        let age = clock.unix_ms().checked_sub(listed.created_at_ms).map(|age| Duration::from_secs(age / 1000));
        let age = age
            .map_or_else(|| "dated in the future".to_owned(), |age| format!("{} ago", humantime::format_duration(age)));
        let (state, size) = (&listed.state, bytes(listed.total_bytes));
        let doubt = listed.doubt.as_ref().map_or_else(String::new, |doubt| format!("  {doubt}"));
        format!("{}  orders {} to {}  {size}  {age}{doubt}", listed.id, state.first_order, state.head_order)
    };
    let damaged = |damaged: &Unusable| format!("{}  DAMAGED: {}", damaged.id, damaged.message);
    let unreadable = |unread: &Unusable| format!("{}  UNREADABLE: {}", unread.id, unread.message);
    let unusable = listing.damaged.iter().map(damaged).chain(listing.unreadable.iter().map(unreadable));
    let rows: Vec<String> = listing.snapshots.iter().map(row).chain(unusable).collect();
    if rows.is_empty() { "no snapshots".to_owned() } else { rows.join("\n") }
}

fn shown_whole(Shown { manifest, damaged }: &Shown) -> String {
    let (state, creator) = (&manifest.state, &manifest.creator);
    let at = When(manifest.created_at_ms);
    let mut lines = vec![
        format!("snapshot  {}", manifest.id),
        format!("made      {at}, by process {} of version {}", creator.pid, creator.version),
        format!("head      order {}, root {}", state.head_order, state.head_root),
        format!("states    {}: those from order {} on, and {} below", state.roots, state.first_order, state.kept_below),
        format!("files     {}, {}", manifest.files.len(), bytes(manifest.total_bytes)),
    ];
    lines.extend(manifest.doubt.iter().map(|doubt| format!("doubt     {doubt}")));
    lines.extend(damaged.iter().map(|damaged| format!("DAMAGED   {}", damaged.message)));
    lines.extend(manifest.files.iter().map(|file| format!("  {}  {}  {}", file.name, file.bytes, file.sha256)));
    lines.join("\n")
}

fn verified(report: &VerifiedSnapshot) -> String {
    let what = match report.depth {
        Depth::Sampled => "on random paths",
        Depth::Deep => "from every root",
    };
    let (files, nodes) = (number(report.files), number(report.nodes_read));
    format!("sound: {files} files are what was written, {nodes} nodes were read {what}, in {:.1} s", report.seconds)
}

fn tidied(tidied: &Tidied) -> String {
    let lines: Vec<String> = went(&tidied.removed).collect();
    if lines.is_empty() { "nothing to remove".to_owned() } else { lines.join("\n") }
}

fn went(removed: &Removed) -> impl Iterator<Item = String> {
    let Removed { snapshots, in_use, unreadable, unfinished, failures, left } = removed;
    let snapshots = snapshots.iter().map(|id| format!("removed {id}"));
    let in_use = in_use.iter().map(|id| format!("not removed, because it is being read: {id}"));
    let unreadable =
        unreadable.iter().map(|unread| format!("kept and not counted: {} ({})", unread.id, unread.message));
    let unfinished = unfinished.iter().map(|id| format!("removed {id}, which was not finished"));
    let failures = failures.iter().map(|failed| format!("failed: {}", failed.message));
    let left = left.iter().map(|failed| {
        let why = &failed.message;
        format!("removed, but files are left: {why}; the next create, delete or prune on this catalog removes them")
    });
    snapshots.chain(in_use).chain(unreadable).chain(unfinished).chain(failures).chain(left)
}

fn restored(restored: &Restored) -> String {
    let state = &restored.state;
    let (first, head, size) = (state.first_order, state.head_order, bytes(restored.bytes));
    format!("{}: orders {first} to {head}, {size}, as they were copied", restored.path)
}

#[cfg(test)]
mod tests {
    use state_pruner::catalog::{Failed, LockTimes};

    use super::*;

    #[test]
    fn people_are_told_what_is_unusable_and_why_and_what_is_left_and_until_when() {
        let id = SnapshotId::draw(&SystemClock::new());
        let unusable = |message: &str| Unusable { id, code: "file".to_owned(), message: message.to_owned() };
        let (damaged, unreadable) = (vec![unusable("a bit")], vec![unusable("a disk")]);
        let list = listed(&Listing { snapshots: Vec::new(), damaged, unreadable });
        assert_eq!(list, format!("{id}  DAMAGED: a bit\n{id}  UNREADABLE: a disk"));

        let failed = |message: &str| vec![Failed { code: "file".to_owned(), message: message.to_owned() }];
        let removed = Removed {
            snapshots: vec![id],
            unreadable: vec![unusable("a disk")],
            failures: failed("a lock"),
            left: failed("a trash"),
            ..Removed::default()
        };
        let told = tidied(&Tidied { removed, lock: LockTimes::default() });
        let expected = [
            format!("removed {id}"),
            format!("kept and not counted: {id} (a disk)"),
            "failed: a lock".to_owned(),
            "removed, but files are left: a trash; the next create, delete or prune on this catalog removes them"
                .to_owned(),
        ];
        assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    }
}
