//! What states below the floor that are still kept may hold: a mark of them all, made by a walk, and what those that were
//! kept since have beside one that was known before.
//!
//! The states do not change, so what is known of them is good for as long as it is looked at; that of more states than are
//! kept by now only keeps more, until the next one is learned. A reader that holds a state for a moment is waited for; only
//! one that stays is read.
//!
//! Costs: one walk of all of them for the first, and where one of them was let go since; otherwise reads of what a state and the
//! known one before it differ in, and about 16 bytes of memory for each node of that.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
    time::Duration,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use state_store::{Head, Held, StoreError};
use state_tree::{Between, NodeHash, Order, StateRoot};

use crate::{
    cycle::{CycleEnv, Renewing},
    error::PruneError,
    files,
    mark::{self, MarkChoice, MarkJob, MarkReader, RehashChoice, difference::Differing},
    phase,
    policy::retained,
    roots::{RetainedRoot, RetainedRoots},
    snapshot::SnapshotGuard,
};

/// How long a state is waited for before it is walked.
const PATIENCE: Duration = Duration::from_secs(10);
/// Memory for the walk: it spills what does not fit.
const WALK_BYTES: u64 = 64 << 20;
/// Nodes that may be known beside the mark, and that are followed to tell what two states differ in, both of them counted:
/// where they are more, a walk needs no memory for them.
const MOST_BESIDE: usize = 1 << 20;

/// A sealed mark, and who looks up in it.
#[derive(Debug)]
struct Mark {
    path: PathBuf,
    reader: Mutex<MarkReader>,
}

/// The states that are covered, and their mark.
#[derive(Debug, Default)]
pub(super) struct HeldStates {
    covered: BTreeSet<StateRoot>,
    /// How often there were others.
    version: u64,
    mark: Option<Mark>,
    /// Fingerprints of what the covered states have beside the mark.
    beside: HashSet<u64>,
    /// Orders that are waited for, each since when.
    waiting: BTreeMap<Order, Duration>,
}

impl Held for HeldStates {
    fn version(&self) -> u64 {
        self.version
    }

    fn covers(&self, root: &StateRoot) -> bool {
        root.node().is_none() || self.covered.contains(root)
    }

    fn holds(&self, hash: &NodeHash) -> Result<bool, StoreError> {
        if self.beside.contains(&hash.fingerprint()) {
            return Ok(true);
        }
        let Some(mark) = &self.mark else { return Ok(false) };
        let what = || "looking up what states below the floor hold".to_owned();
        mark.reader.lock().holds(hash).map_err(|error| StoreError::Io { what: what(), source: io::Error::other(error) })
    }
}

impl HeldStates {
    /// Forgets what could not be looked up, so that the states are walked again.
    pub(super) fn forget_what_failed(&mut self) {
        if self.mark.as_ref().is_some_and(|mark| mark.reader.lock().has_failed()) {
            *self = Self { version: self.version + 1, waiting: std::mem::take(&mut self.waiting), ..Self::default() };
        }
    }

    /// Learns what the states below the floor hold, once `order` has been in the way for long enough; false until then.
    ///
    /// Errors: a state that cannot be read, a cancel or stop; what is known by then stays true.
    pub(super) fn learn(
        &mut self,
        (env, dir): (&CycleEnv, &Path),
        (guard, order): (&SnapshotGuard<'_>, Order),
    ) -> Result<bool, PruneError> {
        let now = env.parts.clock.monotonic();
        let since = *self.waiting.entry(order).or_insert(now);
        let below = retained(&*env.parts.policy, &env.parts.store)?.pins;
        let floor = env.parts.store.floor();
        let below: Vec<RetainedRoot> = below.into_iter().filter(|pin| Some(pin.order) < floor).collect();
        self.waiting.retain(|at, _| below.iter().any(|pin| pin.order == *at));
        let is_reader = !env.parts.store.kept().iter().any(|(kept, _)| *kept == order);
        if is_reader && now.saturating_sub(since) < PATIENCE {
            return Ok(false);
        }
        let new = below.iter().filter(|kept| !self.covers(&kept.root));
        env.observer.walks(new.count() as u64, below.last().map_or(order, |last| last.order).get());
        if !self.extend(env, guard, &below)? {
            self.walk((env, dir), guard, below)?;
        }
        self.waiting.clear();
        Ok(true)
    }

    /// Learns of each state that is not covered what it has beside the covered one before it; false where there is none, where
    /// they differ in too much, or where what is known is of states that are kept no more.
    ///
    /// Errors: a failed read, a cancel or stop; what was learned until then is known.
    fn extend(
        &mut self,
        env: &CycleEnv,
        guard: &SnapshotGuard<'_>,
        below: &[RetainedRoot],
    ) -> Result<bool, PruneError> {
        let kept: BTreeSet<StateRoot> = below.iter().map(|kept| kept.root).collect();
        if !self.covered.is_subset(&kept) {
            return Ok(false);
        }
        let observer = Renewing { guard, observer: &*env.observer };
        let view = env.parts.store.view()?;
        let (control, read) = (&env.control, AtomicU64::new(0));
        let differing = Differing { view: &*view, layout: &*env.layout, control, observer: &observer, read };
        let mut before = None;
        for RetainedRoot { order, root, .. } in below {
            if !self.covers(root) {
                let Some(old) = before else { return Ok(false) };
                let told = differing.between(Between { old, new: *root }, MOST_BESIDE)?;
                let has_room = |told: &HashSet<NodeHash>| self.beside.len() + told.len() <= MOST_BESIDE;
                let Some(told) = told.filter(has_room) else { return Ok(false) };
                tracing::info!(order = order.get(), nodes = told.len(), "what a state below the floor holds is known");
                self.beside.extend(told.iter().map(NodeHash::fingerprint));
                self.covered.insert(*root); // AFTER what it has
                self.version += 1;
            }
            before = Some(*root);
        }
        Ok(true)
    }

    /// The lock is renewed by progress, and a cancel ends the walk between two batches of nodes (P4, P12).
    fn walk(
        &mut self,
        (env, dir): (&CycleEnv, &Path),
        guard: &SnapshotGuard<'_>,
        below: Vec<RetainedRoot>,
    ) -> Result<(), PruneError> {
        let Some(last) = below.last() else { return Ok(()) };
        let covered: BTreeSet<StateRoot> = below.iter().map(|kept| kept.root).collect();
        tracing::info!(states = covered.len(), newest = last.order.get(), "states below the floor are walked");
        let head = Head { order: last.order, root: last.root, timestamp_ms: None, block_hash: None };
        let roots = RetainedRoots {
            head,
            first: last.order,
            digest: digest_of(&covered),
            roots: below,
            holes: Vec::new(),
            unexecuted: 0,
            shorter_than_asked: false,
        };
        files::create_dir(dir)?;
        let store = &env.parts.store;
        let (sealed, report) = mark::build_reach(&MarkJob {
            view: &*store.view()?,
            layout: &*env.layout,
            roots: &roots,
            traced: None,
            cycle: phase::new_cycle(&*env.parts.records)?,
            dir: dir.to_owned(),
            choice: MarkChoice::Walk,
            rehash: RehashChoice::Sample,
            memory_budget: WALK_BYTES,
            rows_hint: store.backend().node_rows_hint()?,
            threads: 1,
            notes: None,
            from: None,
            clock: &*env.parts.clock,
            control: &env.control,
            observer: &Renewing { guard, observer: &*env.observer },
        })?;
        tracing::info!(nodes = report.live_nodes, seconds = report.seconds, "what they hold is known");
        (self.covered, self.version) = (covered, self.version + 1);
        self.beside.clear();
        let mark = Mark { path: sealed.path().to_owned(), reader: Mutex::new(sealed.reader()) };
        self.mark = Some(mark); // the file of the one before goes with it
        Ok(())
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Err(error) = files::remove(&self.path) {
            tracing::warn!(%error, "a mark that nobody needs any more could not be removed; the next cycle does it");
        }
    }
}

/// What the mark file belongs to; nobody opens it again.
fn digest_of(roots: &BTreeSet<StateRoot>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    roots.iter().for_each(|root| hasher.update(root.hash().as_bytes()));
    hasher.finalize().into()
}
