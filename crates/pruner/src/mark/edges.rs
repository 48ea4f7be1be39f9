//! Where the edges of scanned nodes are kept: in memory, or in a file once they would take more than their share.
//!
//! Nothing read from the file is trusted: every record carries a check that its resolved children must add up to, and a
//! record that fails it is replaced by the node itself, read from the view.

use std::{io::Write, os::unix::fs::FileExt};

use parking_lot::Mutex;
use state_store::{FileCall, ask};

use crate::{
    error::PruneError,
    files::failed,
    mark::disk::{Scratch, TemporaryFile},
};

/// The edges of one segment.
#[derive(Debug)]
pub(crate) enum Edges {
    /// In memory.
    Held(Vec<u8>),
    /// In the edge file.
    Spilled {
        /// Offset in the file.
        at: u64,
        /// Length.
        bytes: usize,
    },
}

impl Edges {
    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> u64 {
        match self {
            Self::Held(edges) => edges.len() as u64,
            Self::Spilled { .. } => 0,
        }
    }
}

/// The file that segments append their edges to.
#[derive(Debug)]
pub(crate) struct EdgeFile {
    file: TemporaryFile,
    end: Mutex<u64>,
}

impl EdgeFile {
    pub(crate) fn create(scratch: &Scratch) -> Result<Self, PruneError> {
        Ok(Self { file: scratch.create()?, end: Mutex::new(0) })
    }

    /// Moves edges from memory to the file.
    pub(crate) fn spill(&self, edges: &[u8]) -> Result<Edges, PruneError> {
        let mut end = self.end.lock();
        let at = *end;
        let path = &self.file.path;
        ask(FileCall::Write, path).and_then(|()| (&self.file.file).write_all(edges)).map_err(failed(path))?;
        *end += edges.len() as u64;
        Ok(Edges::Spilled { at, bytes: edges.len() })
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), PruneError> {
        let path = &self.file.path;
        ask(FileCall::Read, path).and_then(|()| self.file.file.read_exact_at(into, at)).map_err(failed(path))
    }
}

/// Reads the edges of one segment.
pub(crate) struct EdgeReader<'a> {
    source: Source<'a>,
    buffer: Vec<u8>,
}

enum Source<'a> {
    Held(&'a [u8]),
    /// All of the segment is in the buffer.
    Loaded,
    /// Record by record.
    File(&'a EdgeFile, u64),
}

/// How much of a segment is about to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Enough nodes to read all of it at once.
    Much,
    /// A few nodes.
    Little,
}

impl<'a> EdgeReader<'a> {
    pub(crate) fn new(edges: &'a Edges, file: Option<&'a EdgeFile>, demand: Demand) -> Result<Self, PruneError> {
        let mut buffer = Vec::new();
        let source = match (edges, file, demand) {
            (Edges::Held(edges), _, _) => Source::Held(edges),
            (Edges::Spilled { at, .. }, Some(file), Demand::Little) => Source::File(file, *at),
            (Edges::Spilled { at, bytes }, Some(file), Demand::Much) => {
                buffer.resize(*bytes, 0);
                file.read(*at, &mut buffer)?;
                Source::Loaded
            }
            (Edges::Spilled { .. }, None, _) => {
                return Err(PruneError::Invariant("edges were spilled without a file".to_owned()));
            }
        };
        Ok(Self { source, buffer })
    }

    /// The bytes of one record.
    pub(crate) fn record(&mut self, range: std::ops::Range<usize>) -> Result<&[u8], PruneError> {
        let bytes = match self.source {
            Source::Held(edges) => edges.get(range),
            Source::Loaded => self.buffer.get(range),
            Source::File(file, at) => {
                self.buffer.resize(range.len(), 0);
                file.read(at + range.start as u64, &mut self.buffer)?;
                Some(self.buffer.as_slice())
            }
        };
        bytes.ok_or_else(|| PruneError::Invariant("a record of edges lies outside its segment".to_owned()))
    }
}
