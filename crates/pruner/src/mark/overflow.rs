//! Waiting hashes on disk: a stack of blocks in one file, each with a CRC.

use std::{
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
};

use state_store::{FileCall, ask};
use state_tree::NodeHash;

use crate::{
    error::PruneError,
    files::failed,
    mark::disk::{Scratch, TemporaryFile},
};

const HASH: u64 = 32;
/// Hashes in a block of what lay in memory.
const TOP: usize = 4096;

/// Waiting hashes that do not fit into memory: blocks in a file, last in, first out.
#[derive(Debug)]
pub(crate) struct Overflow {
    file: TemporaryFile,
    blocks: Vec<(u64, usize)>,
}

impl Overflow {
    /// An empty stack.
    pub(crate) fn create(scratch: &Scratch) -> Result<Self, PruneError> {
        Ok(Self { file: scratch.create()?, blocks: Vec::new() })
    }

    /// A copy in a file of its own, with further hashes on top. Costs the memory of the largest block.
    ///
    /// `alive` is asked before each block, and its error ends it.
    pub(crate) fn copy_of(
        original: Option<&Self>,
        top: &[NodeHash],
        (scratch, alive): (&Scratch, &dyn Fn() -> Result<(), PruneError>),
    ) -> Result<Self, PruneError> {
        let (mut copy, mut hashes) = (Self::create(scratch)?, Vec::new());
        if let Some(original) = original {
            for block in &original.blocks {
                alive()?;
                hashes.clear();
                original.read(*block, &mut hashes)?;
                copy.put(&hashes)?;
            }
        }
        for part in top.chunks(TOP) {
            copy.put(part)?; // a later process may have less memory
        }
        Ok(copy)
    }

    /// What an earlier process left in a file: so many hashes in each block.
    pub(crate) fn of(file: TemporaryFile, blocks: &[u64]) -> Self {
        let mut at = 0;
        let blocks = blocks.iter().map(|hashes| {
            let block = (at, usize::try_from(*hashes).map_or(usize::MAX, |hashes| hashes));
            at += hashes.saturating_mul(HASH).saturating_add(4);
            block
        });
        Self { blocks: blocks.collect(), file }
    }

    /// How many hashes each block has.
    pub(crate) fn blocks(&self) -> Vec<u64> {
        self.blocks.iter().map(|(_, hashes)| *hashes as u64).collect()
    }

    pub(crate) fn file(&self) -> &TemporaryFile {
        &self.file
    }

    fn end(&self) -> u64 {
        self.blocks.last().map_or(0, |(at, hashes)| at + *hashes as u64 * HASH + 4)
    }

    /// Puts hashes on top.
    pub(crate) fn put(&mut self, hashes: &[NodeHash]) -> Result<(), PruneError> {
        let at = self.end();
        let named = failed(&self.file.path);
        let mut check = crc32fast::Hasher::new();
        ask(FileCall::Write, &self.file.path).map_err(&named)?;
        std::io::Seek::seek(&mut &self.file.file, std::io::SeekFrom::Start(at)).map_err(&named)?;
        let mut out = BufWriter::new(&self.file.file);
        for hash in hashes {
            check.update(hash.as_bytes());
            out.write_all(hash.as_bytes()).map_err(&named)?;
        }
        out.write_all(&check.finalize().to_le_bytes()).map_err(&named)?;
        out.flush().map_err(&named)?;
        drop(out);
        self.blocks.push((at, hashes.len()));
        Ok(())
    }

    /// Moves the youngest block back into memory.
    pub(crate) fn take(&mut self, into: &mut Vec<NodeHash>) -> Result<(), PruneError> {
        self.blocks.pop().map_or(Ok(()), |block| self.read(block, into))
    }

    /// A block that reads back otherwise is an error (I6).
    fn read(&self, (at, hashes): (u64, usize), into: &mut Vec<NodeHash>) -> Result<(), PruneError> {
        let named = failed(&self.file.path);
        let mut check = crc32fast::Hasher::new();
        ask(FileCall::Read, &self.file.path).map_err(&named)?;
        let mut hash = [0; HASH as usize];
        let mut source = std::io::BufReader::new(Positioned { file: &self.file, at });
        for _ in 0..hashes {
            std::io::Read::read_exact(&mut source, &mut hash).map_err(&named)?;
            check.update(&hash);
            into.push(NodeHash::new(hash));
        }
        let mut expected = [0; 4];
        std::io::Read::read_exact(&mut source, &mut expected).map_err(&named)?;
        if check.finalize() == u32::from_le_bytes(expected) {
            return Ok(());
        }
        let why = "spilled work does not match its checksum";
        Err(named(std::io::Error::new(std::io::ErrorKind::InvalidData, why)))
    }
}

struct Positioned<'a> {
    file: &'a TemporaryFile,
    at: u64,
}

impl std::io::Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
