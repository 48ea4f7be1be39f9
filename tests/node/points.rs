//! Life cycle row 3, the real binary: killed by itself at named points while it serves and prunes under load, it loses nothing
//! that it acknowledged, keeps every retained root, and its next life finishes what it can and leaves nothing behind.
//!
//! A plain run takes one point of each kind of step; `KILL_POINTS=all` takes all of them.

use std::{os::unix::process::ExitStatusExt as _, path::Path, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};
use state_pruner::{Clock, SystemClock};
use state_store::Point;
use state_tests::node::{Load, Node};

use crate::kill::{Acknowledged, SETTINGS, verified};

/// The longest wait for a point.
const PATIENCE: Duration = Duration::from_secs(120);

/// One of each kind of step: commit, floor, snapshot, walk, mark, seal, change of phase, batch with its cursor, range, slice.
const FEW: [Point; 10] = [
    Point::CommitRecorded,
    Point::FloorMoved,
    Point::SnapshotSaved,
    Point::WalkNoted,
    Point::MarkWritten,
    Point::MarkSealed,
    Point::SweepBegins,
    Point::BatchWritten,
    Point::RangeRewritten,
    Point::SliceWritten,
];

/// How its cycles sweep, so that they come to the point.
fn sweep(point: Point) -> &'static str {
    match point {
        Point::BatchJudged | Point::BatchWritten | Point::RangeReclaimed => "pruner.sweep=delete",
        Point::CommitRecorded
        | Point::CommitWritten
        | Point::FloorMoved
        | Point::RunBegins
        | Point::SnapshotSaved
        | Point::MarkBegins
        | Point::WalkNoted
        | Point::MarkWalked
        | Point::MarkWritten
        | Point::MarkNamed
        | Point::MarkSealed
        | Point::JournalSettled
        | Point::MarksWritten
        | Point::SweepPlanned
        | Point::SweepBegins
        | Point::RangeRewritten
        | Point::RangePassed
        | Point::SweepEnds
        | Point::CountsConfirmed
        | Point::BarrierLetGo
        | Point::Certified
        | Point::CycleEnded
        | Point::OutcomeSaved
        | Point::SliceJudged
        | Point::SliceWritten
        | Point::SetAside => "pruner.sweep=filter",
    }
}

/// Every node passes its first commits before it serves.
fn passes(point: Point) -> u64 {
    if matches!(point, Point::CommitRecorded | Point::CommitWritten) { 60 } else { 0 }
}

/// Runs a node under load, with cycles unless slices are waited for, until it is dead.
fn die_at(data: &Path, point: Point, settings: &[&str]) -> Acknowledged {
    let mut node = Node::killed_at(data, settings, (point, passes(point)));
    let load = Load::on(&node, "tables", "11");
    let (clock, mut last, mut submitted) = (SystemClock::new(), None, 0u64);
    let ended = loop {
        if let Some(ended) = node.ended() {
            break ended;
        }
        assert!(clock.monotonic() < PATIENCE, "{}: never reached\n{}", point.name(), node.log());
        let (id, value) = (hex::encode([[7; 24].as_slice(), &submitted.to_be_bytes()].concat()), hex::encode([9]));
        submitted += 1;
        let create = json!({ "create_object": { "id": id, "owner": "00".repeat(32), "value": value } });
        let answer = node.try_post("/v1/transactions", &create);
        if let Some(order) = answer.map_or(None, |answer| answer["order"].as_u64()) {
            last = Some(Acknowledged { order, id, value });
            if !matches!(point, Point::SliceJudged | Point::SliceWritten) && order >= 40 {
                drop(node.try_post("/v1/prune/run", &Value::Null)); // it may be dead by now
            }
        }
    };
    drop(load);
    assert_eq!(ended.signal(), Some(9), "{}: {ended}\n{}", point.name(), node.log());
    last.unwrap_or_else(|| panic!("{}: nothing was acknowledged", point.name()))
}

fn survives(point: Point) {
    let (name, data) = (point.name(), tempfile::tempdir().unwrap());
    let settings = SETTINGS.into_iter().filter(|setting| *setting != "pruner.incremental=off");
    let walks = ["pruner.mark=walk", "pruner.note_every=1ns"];
    let settings: Vec<&str> = settings.chain([sweep(point)]).chain(walks).collect();
    let acknowledged = die_at(data.path(), point, &settings);
    let report = verified(data.path());
    assert!(report["roots"].as_u64().unwrap() > 0, "{name}: {report}");

    let node = Node::start(data.path(), &settings);
    acknowledged.is_there(&node);
    let status = node.cycle();
    let told = (status["verdict"].as_str(), status["pruner"]["cycles_failed"].as_u64());
    assert_eq!(told, (Some("healthy"), Some(0)), "{name}: {status:#}");
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{name}: {log}");
    assert_eq!(verified(data.path())["leaked_nodes"], 0, "{name}: a cycle without commits leaves nothing behind");
}

#[test]
fn the_real_node_killed_at_named_points_keeps_every_retained_root() {
    let all = std::env::var_os("KILL_POINTS").is_some_and(|points| points == "all");
    let points = if all { Point::ALL } else { &FEW };
    // What is set aside is spoilt before: `killed_between_quarantine_and_passing_over`.
    points.iter().copied().filter(|point| *point != Point::SetAside).for_each(survives);
}
