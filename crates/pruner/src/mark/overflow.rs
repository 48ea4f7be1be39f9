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

    /// Moves the youngest block back into memory; a block that reads back otherwise is an error (I6).
    pub(crate) fn take(&mut self, into: &mut Vec<NodeHash>) -> Result<(), PruneError> {
        let Some((at, hashes)) = self.blocks.pop() else {
            return Ok(());
        };
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
