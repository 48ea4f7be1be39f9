//! The fingerprints of a sealed mark, block by block: read by position and never mapped, so that a disk that fails is an
//! error of a read, and no signal that ends the process.
//!
//! Contract: a block that does not read back as it was when the file was checked is an error, never an absence (I8).
//! Memory: 12 bytes per block of 1024 fingerprints, and one block per reader.

use std::{
    fs::File,
    io::ErrorKind,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use state_store::{FileCall, LiveReader, ask};
use state_tree::NodeHash;

use crate::{error::PruneError, files::failed};

/// Bytes of a block: small, for a look-up out of order reads one.
pub(super) const BLOCK: usize = 8 << 10;
const IN_BLOCK: u64 = BLOCK as u64 / 8;

/// Where blocks begin, and what each of them was.
#[derive(Debug, Default)]
pub(super) struct Index {
    firsts: Vec<u64>,
    checks: Vec<u32>,
}

impl Index {
    /// Adds the next block.
    pub(super) fn add(&mut self, block: &[u8]) {
        let Some(first) = block.first_chunk() else { return };
        self.firsts.push(u64::from_be_bytes(*first));
        self.checks.push(crc32fast::hash(block));
    }
}

/// The fingerprints in a file that was checked.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Where the first fingerprint lies.
    pub(super) begin: u64,
    pub(super) count: u64,
    pub(super) index: Index,
    /// What a compaction met first since somebody asked.
    pub(super) met: Mutex<Option<PruneError>>,
}

impl Blocks {
    /// The only block that may hold the fingerprint.
    fn block_of(&self, fingerprint: u64) -> Option<usize> {
        self.index.firsts.partition_point(|first| *first <= fingerprint).checked_sub(1)
    }

    fn is_in(&self, fingerprint: u64, block: usize) -> bool {
        let first = |block: usize| self.index.firsts.get(block);
        first(block).is_some_and(|first| *first <= fingerprint)
            && first(block + 1).is_none_or(|next| fingerprint < *next)
    }

    fn read(&self, block: usize, into: &mut Vec<u8>) -> Result<(), PruneError> {
        let before = block as u64 * IN_BLOCK;
        let length = self.count.saturating_sub(before).min(IN_BLOCK) * 8;
        into.resize(length as usize, 0);
        let read =
            ask(FileCall::Read, &self.path).and_then(|()| self.file.read_exact_at(into, self.begin + before * 8));
        read.map_err(|error| match error.kind() == ErrorKind::UnexpectedEof {
            true => refused(&self.path, "it was cut after it was opened"),
            false => failed(&self.path)(error),
        })?;
        if self.index.checks.get(block) == Some(&crc32fast::hash(into)) {
            return Ok(());
        }
        Err(refused(&self.path, "it was changed after it was opened"))
    }
}

/// A mark that cannot be used.
pub(super) fn refused(path: &Path, why: &str) -> PruneError {
    PruneError::BadMark { path: path.to_owned(), why: why.to_owned() }
}

/// Looks nodes up in a sealed mark; those that come in ascending order cost one read for each block.
#[derive(Debug)]
pub struct MarkReader {
    blocks: Arc<Blocks>,
    /// The block in the buffer.
    at: Option<usize>,
    buffer: Vec<u8>,
    has_failed: bool,
}

impl MarkReader {
    pub(super) fn new(blocks: Arc<Blocks>) -> Self {
        Self { blocks, at: None, buffer: Vec::new(), has_failed: false }
    }

    /// Whether the mark holds the node.
    ///
    /// Errors: a failed read; [`PruneError::BadMark`] where the file is not what it was when it was opened.
    pub fn holds(&mut self, hash: &NodeHash) -> Result<bool, PruneError> {
        let fingerprint = hash.fingerprint();
        let at = self.at.filter(|at| self.blocks.is_in(fingerprint, *at));
        let Some(block) = at.or_else(|| self.blocks.block_of(fingerprint)) else { return Ok(false) };
        Ok(self.block(block)?.binary_search(&fingerprint.to_be_bytes()).is_ok())
    }

    /// The fingerprint at a position; nothing behind the last.
    ///
    /// Errors: the same.
    pub fn fingerprint(&mut self, position: u64) -> Result<Option<u64>, PruneError> {
        if position >= self.blocks.count {
            return Ok(None);
        }
        let within = (position % IN_BLOCK) as usize;
        let found = self.block((position / IN_BLOCK) as usize)?.get(within);
        Ok(found.map(|bytes| u64::from_be_bytes(*bytes)))
    }

    /// Whether a look-up has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    fn block(&mut self, block: usize) -> Result<&[[u8; 8]], PruneError> {
        if self.at != Some(block) {
            self.at = None; // BEFORE the buffer holds something else
            let read = self.blocks.read(block, &mut self.buffer);
            self.has_failed |= read.is_err();
            read?;
            self.at = Some(block);
        }
        Ok(self.buffer.as_chunks().0)
    }
}

impl LiveReader for MarkReader {
    /// After a look-up that failed everything is kept, without asking a disk that is ill again.
    fn contains(&mut self, hash: &NodeHash) -> bool {
        if self.has_failed {
            return true;
        }
        self.holds(hash).unwrap_or_else(|error| {
            self.blocks.met.lock().get_or_insert(error);
            true // I8
        })
    }
}
