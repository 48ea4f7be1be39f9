//! Bytes of memory that marking accounts for, against its budget (P10).

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts bytes held now and at most.
#[derive(Debug)]
pub(crate) struct Ledger {
    held: AtomicU64,
    peak: AtomicU64,
    budget: u64,
}

impl Ledger {
    /// A ledger that may reach `budget` bytes.
    pub(crate) fn new(budget: u64) -> Self {
        Self { held: AtomicU64::new(0), peak: AtomicU64::new(0), budget }
    }

    /// Accounts for `bytes` more.
    pub(crate) fn take(&self, bytes: u64) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(held, Ordering::Relaxed);
    }

    /// Accounts for `bytes` given back.
    pub(crate) fn give(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Replaces an earlier amount by a new one.
    pub(crate) fn change(&self, from: u64, to: u64) {
        if to >= from {
            self.take(to - from);
        } else {
            self.give(from - to);
        }
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Most bytes held at once.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The bytes that may be held.
    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    /// Whether more is held than may be.
    pub(crate) fn is_over(&self) -> bool {
        self.held() > self.budget
    }
}
