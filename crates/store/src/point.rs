//! Named points between the steps whose order must survive a crash. A test arms one: the process is killed there, or the
//! thread that comes there hangs as on a disk that does not answer, or the test is told on the same thread.
//!
//! Nothing of it is in a release build: without debug assertions, or without the feature `test-util`, [`reached`] is
//! empty. Only the environment arms a kill or a hang, so no input of a node can.

/// Declares the points and lists them, so that a new one is in every test that goes through the list.
macro_rules! points {
    ($(#[$about:meta])* $points:ident: $($(#[$doc:meta])* $point:ident => $name:literal,)*) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $points {
            $($(#[$doc])* $point,)*
        }

        impl $points {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// What a test calls it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// A point of commits and of pruning.
    Point:
    /// A commit is in the barrier and not written.
    CommitRecorded => "commit::recorded",
    /// A commit is written and not visible.
    CommitWritten => "commit::written",
    /// The floor has moved on disk and not in memory.
    FloorMoved => "floor::moved",
    /// The run is in the ledger; its cycle has done nothing.
    RunBegins => "run::begins",
    /// The snapshot is persisted; no phase record names it.
    SnapshotSaved => "snapshot::saved",
    /// The phase record says that marking goes on.
    MarkBegins => "mark::begins",
    /// A walk is written down; what was written down before is still there.
    WalkNoted => "walk::noted",
    /// Every root is walked; the mark file is not complete.
    MarkWalked => "mark::walked",
    /// The mark file is complete under its temporary name.
    MarkWritten => "mark::written",
    /// The mark file has its name; its folder is not synced.
    MarkNamed => "mark::named",
    /// The mark is sealed; its cycle does not say so.
    MarkSealed => "mark::sealed",
    /// The journal entries of the window are settled.
    JournalSettled => "journal::settled",
    /// A batch of marks is written.
    MarksWritten => "marks::written",
    /// The phase record is about to name the mark.
    SweepPlanned => "sweep::planned",
    /// The phase record names the mark; nothing is deleted.
    SweepBegins => "sweep::begins",
    /// A delete batch is judged and not written.
    BatchJudged => "batch::judged",
    /// A delete batch is written with its cursor.
    BatchWritten => "batch::written",
    /// A range is rewritten; the cursor does not say so.
    RangeRewritten => "range::rewritten",
    /// The cursor is behind the range.
    RangePassed => "range::passed",
    /// The space of a range of tombstones is given back.
    RangeReclaimed => "range::reclaimed",
    /// Everything is swept; entries may not expire yet, if this is the first cycle that counts.
    SweepEnds => "sweep::ends",
    /// What counts are is told on disk and not in memory.
    CountsConfirmed => "counts::confirmed",
    /// The barrier is let go; nothing is verified.
    BarrierLetGo => "barrier::let_go",
    /// The certificate is written; the phase record is still there.
    Certified => "cycle::certified",
    /// The phase record is gone; the outcome is not saved.
    CycleEnded => "cycle::ended",
    /// The outcome is saved; the status does not show it.
    OutcomeSaved => "outcome::saved",
    /// A slice of the journal is judged and not written.
    SliceJudged => "slice::judged",
    /// A slice of the journal is written with its cursor.
    SliceWritten => "slice::written",
    /// What is about to be passed over is in quarantine; nobody has passed it over.
    SetAside => "quarantine::written",
}

points! {
    /// A point of a command on a snapshot catalog.
    CatalogPoint:
    /// The staging folder is made; it has no lock.
    StagingMade => "catalog::staging_made",
    /// The staging folder is held; nothing is copied.
    CaptureBegun => "catalog::capture_begun",
    /// The files are copied; there is no manifest.
    CaptureCopied => "catalog::capture_copied",
    /// The manifest is durable; the snapshot has no name.
    CaptureSealed => "catalog::capture_sealed",
    /// The snapshot has its name; the folder of the catalog is not synced.
    CaptureNamed => "catalog::capture_named",
    /// The snapshot is made, durably; the retention has taken nothing.
    CapturePublished => "catalog::capture_published",
    /// A snapshot is held alone by whoever removes it.
    RemovalBegun => "catalog::removal_begun",
    /// A snapshot is in the trash; the folder of the catalog is not synced.
    RemovalNamed => "catalog::removal_named",
    /// A snapshot is in the trash, durably; its files are there.
    RemovalSynced => "catalog::removal_synced",
    /// What a dead process has left is in the trash; the lock of the catalog is held.
    LeftoverBuried => "catalog::leftover_buried",
    /// The trash was looked for; what is in it is there.
    TrashFound => "catalog::trash_found",
    /// The folder of a restore is held; nothing is copied.
    RestoreBegun => "catalog::restore_begun",
    /// The files are copied; nothing is proved.
    RestoreCopied => "catalog::restore_copied",
    /// The restored store is proved and durable; it has no name.
    RestoreProved => "catalog::restore_proved",
    /// The restored store has its name; the folder above is not synced.
    RestoreNamed => "catalog::restore_named",
    /// What a dead restore has left is held; it is there.
    RestoreLeftoverFound => "catalog::restore_leftover_found",
}

/// Tells whoever armed the point that it is reached.
#[inline]
pub fn reached(point: Point) {
    #[cfg(all(feature = "test-util", debug_assertions))]
    armed::reached(point);
    #[cfg(not(all(feature = "test-util", debug_assertions)))]
    let _: Point = point;
}

/// The same for the catalog, whose points are armed by the environment only.
#[inline]
pub fn catalog_reached(point: CatalogPoint) {
    #[cfg(all(feature = "test-util", debug_assertions))]
    armed::passed(point.name());
    #[cfg(not(all(feature = "test-util", debug_assertions)))]
    let _: CatalogPoint = point;
}

#[cfg(all(feature = "test-util", debug_assertions))]
pub use armed::{HANG_AT, KILL_AT, Watching, watch};

#[cfg(all(feature = "test-util", debug_assertions))]
mod armed {
    use std::{
        cell::RefCell,
        rc::Rc,
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    use super::Point;

    /// The variable that arms a kill: the name of a point, and after a space how many times it is passed before.
    pub const KILL_AT: &str = "STATE_KILL_AT";

    /// The variable that arms a hang in the same way.
    pub const HANG_AT: &str = "STATE_HANG_AT";

    /// What happens at a point.
    #[derive(Clone, Copy)]
    enum Act {
        Kill,
        Hang,
    }

    struct Armed {
        act: Act,
        name: String,
        passed: AtomicU64,
        allowed: u64,
    }

    impl Armed {
        fn all() -> &'static [Self] {
            static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();
            let by = |(variable, act)| std::env::var_os(variable).map(|text| Self::at(&text.to_string_lossy(), act));
            ARMED.get_or_init(|| [(KILL_AT, Act::Kill), (HANG_AT, Act::Hang)].into_iter().filter_map(by).collect())
        }

        fn at(text: &str, act: Act) -> Self {
            let (name, allowed) = text.split_once(' ').map_or((text, "0"), |parts| parts);
            let allowed = allowed.parse().map_or(0, |allowed| allowed);
            Self { act, name: name.to_owned(), passed: AtomicU64::new(0), allowed }
        }

        fn reached(&self, name: &str) {
            if self.name == name && self.passed.fetch_add(1, Ordering::AcqRel) == self.allowed {
                match self.act {
                    Act::Kill => kill(),
                    Act::Hang => tracing::warn!("hangs at {name}"),
                }
                loop {
                    std::thread::park(); // for ever, or until the signal is delivered
                }
            }
        }
    }

    fn kill() {
        let process = rustix::process::getpid();
        let killed = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        assert!(killed.is_ok(), "the process cannot kill itself: {killed:?}");
    }

    type Watcher = Rc<dyn Fn(Point)>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    /// While it lives, its thread tells of each point.
    pub struct Watching(());

    impl std::fmt::Debug for Watching {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Watching")
        }
    }

    impl Drop for Watching {
        fn drop(&mut self) {
            WATCHER.set(None);
        }
    }

    /// Calls `watcher` at every point that this thread reaches.
    #[must_use]
    pub fn watch(watcher: impl Fn(Point) + 'static) -> Watching {
        WATCHER.set(Some(Rc::new(watcher)));
        Watching(())
    }

    pub(super) fn passed(name: &str) {
        Armed::all().iter().for_each(|armed| armed.reached(name));
    }

    pub(super) fn reached(point: Point) {
        passed(point.name());
        let watcher = WATCHER.with_borrow(Clone::clone);
        if let Some(watcher) = watcher {
            watcher(point);
        }
    }
}
