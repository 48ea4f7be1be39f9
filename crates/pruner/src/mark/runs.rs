//! Sorted runs of hashes in files: what an exact set spills to when memory is short.
//!
//! Contract: a run holds sorted, unique hashes in blocks, each with a CRC; a block that does not read back as written
//! is an error, never an absence (I6). In memory a run costs the first eight bytes of every block and a filter that
//! only ever answers "certainly not here" (S1): whatever it does not rule out is looked up in the file, all 32 bytes.

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

const HASH: usize = 32;
const BLOCK_HASHES: usize = 256;
const CRC: usize = 4;
const BLOCK: usize = BLOCK_HASHES * HASH + CRC;
const WRITE_BUFFER: usize = 128 << 10;
/// Blocks that are read without a look at whether anybody still wants them.
const ASK_EVERY: usize = 256;

/// Bytes of memory one open reader of a run needs.
pub(crate) const READER_BYTES: u64 = BLOCK as u64;
/// Bytes of memory one writer of a run needs.
pub(crate) const WRITER_BYTES: u64 = (WRITE_BUFFER + BLOCK) as u64;

/// Rules hashes out: four bits of one 64-byte line per hash. Hashes are uniform, so they select their own bits.
#[derive(Debug)]
struct Filter {
    lines: Vec<[u64; 8]>,
}

impl Filter {
    fn new(bytes: u64) -> Self {
        let lines = usize::try_from(bytes / 64).map_or(0, |lines| lines);
        Self { lines: vec![[0; 8]; lines] }
    }

    /// The line and the four bits of a hash, from bytes that do not decide the sort order.
    fn place(&self, hash: &NodeHash) -> Option<(usize, [u16; 4])> {
        let [.., a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *hash.as_bytes();
        let line = u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize;
        let bits = [[i, j], [k, l], [m, n], [o, p]].map(|pair| u16::from_be_bytes(pair) % 512);
        (!self.lines.is_empty()).then(|| (line % self.lines.len(), bits))
    }

    fn insert(&mut self, hash: &NodeHash) {
        if let Some((line, bits)) = self.place(hash)
            && let Some(words) = self.lines.get_mut(line)
        {
            for bit in bits {
                if let Some(word) = words.get_mut(usize::from(bit / 64)) {
                    *word |= 1 << (bit % 64);
                }
            }
        }
    }

    fn rules_out(&self, hash: &NodeHash) -> bool {
        let Some((line, bits)) = self.place(hash) else {
            return false;
        };
        let Some(words) = self.lines.get(line) else {
            return false;
        };
        bits.iter().any(|bit| {
            let word = words.get(usize::from(bit / 64));
            word.is_some_and(|word| word & (1 << (bit % 64)) == 0)
        })
    }
}

/// Writes a run.
#[derive(Debug)]
pub(crate) struct RunWriter {
    out: BufWriter<std::fs::File>,
    file: TemporaryFile,
    block: Vec<u8>,
    firsts: Vec<u64>,
    filter: Filter,
    last: Option<NodeHash>,
    count: u64,
}

impl RunWriter {
    /// Starts a run whose filter takes `filter_bytes` of memory.
    pub(crate) fn create(scratch: &Scratch, filter_bytes: u64) -> Result<Self, PruneError> {
        let file = scratch.create()?;
        let out = file.file.try_clone().map_err(failed(&file.path))?;
        Ok(Self {
            out: BufWriter::with_capacity(WRITE_BUFFER, out),
            file,
            block: Vec::with_capacity(BLOCK),
            firsts: Vec::new(),
            filter: Filter::new(filter_bytes),
            last: None,
            count: 0,
        })
    }

    /// Adds a hash; they come in ascending order, and equal ones merge.
    pub(crate) fn push(&mut self, hash: &NodeHash) -> Result<(), PruneError> {
        if self.last.as_ref() == Some(hash) {
            return Ok(());
        }
        if self.last.as_ref().is_some_and(|last| last > hash) {
            return Err(PruneError::Invariant("a run was written out of order".to_owned()));
        }
        if self.block.is_empty() {
            self.firsts.push(hash.fingerprint());
        }
        self.block.extend_from_slice(hash.as_bytes());
        self.filter.insert(hash);
        self.last = Some(*hash);
        self.count += 1;
        if self.block.len() == BLOCK_HASHES * HASH {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), PruneError> {
        let check = crc32fast::hash(&self.block);
        self.block.extend_from_slice(&check.to_le_bytes());
        let path = &self.file.path;
        ask(FileCall::Write, path).and_then(|()| self.out.write_all(&self.block)).map_err(failed(path))?;
        self.block.clear();
        Ok(())
    }

    /// Ends the run.
    pub(crate) fn finish(mut self) -> Result<Run, PruneError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let path = &self.file.path;
        ask(FileCall::Write, path).and_then(|()| self.out.flush()).map_err(failed(path))?;
        self.firsts.shrink_to_fit();
        let Self { file, firsts, filter, count, .. } = self;
        Ok(Run { file, firsts, filter, count, is_synced: false })
    }
}

/// Sorted, unique hashes in a file.
#[derive(Debug)]
pub(crate) struct Run {
    file: TemporaryFile,
    firsts: Vec<u64>,
    filter: Filter,
    count: u64,
    is_synced: bool,
}

impl Run {
    /// What an earlier process left in a file, read once from its beginning to its end.
    ///
    /// Errors: it is not so many hashes in ascending order, each block as it was written.
    ///
    /// `alive` is asked again and again, and its error ends it.
    pub(crate) fn take_up(
        file: TemporaryFile,
        (count, filter_bytes): (u64, u64),
        alive: &dyn Fn() -> Result<(), PruneError>,
    ) -> Result<Self, PruneError> {
        let named = failed(&file.path);
        let blocks = count.div_ceil(BLOCK_HASHES as u64);
        let bytes = count.checked_mul(HASH as u64).and_then(|bytes| bytes.checked_add(blocks * CRC as u64));
        if Some(file.file.metadata().map_err(&named)?.len()) != bytes {
            return Err(named(damaged()));
        }
        let mut run = Self { file, firsts: Vec::new(), filter: Filter::new(filter_bytes), count, is_synced: true };
        let (mut block, mut last) = (Block::default(), None);
        for index in 0..usize::try_from(blocks).map_or(usize::MAX, |blocks| blocks) {
            if index.is_multiple_of(ASK_EVERY) {
                alive()?;
            }
            run.read(index, &mut block)?;
            for hash in block.hashes().iter().copied().map(NodeHash::new) {
                if last.is_some_and(|last| last >= hash) {
                    return Err(named(damaged()));
                }
                run.filter.insert(&hash);
                last = Some(hash);
            }
            run.firsts.extend(block.hashes().first().map(|first| NodeHash::new(*first).fingerprint()));
        }
        run.firsts.shrink_to_fit();
        Ok(run)
    }

    /// Makes it durable, once; its name is with its folder.
    pub(crate) fn sync(&mut self) -> Result<(), PruneError> {
        if !self.is_synced {
            self.file.sync()?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// The number of its file.
    pub(crate) fn number(&self) -> u64 {
        self.file.number
    }

    /// Hashes in the run.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of memory the run holds while it exists.
    pub(crate) fn memory(&self) -> u64 {
        (self.firsts.len() * 8 + self.filter.lines.len() * 64) as u64
    }

    /// Removes from `wanted`, which is sorted, every hash that the run holds.
    pub(crate) fn subtract_from(&self, wanted: &mut Vec<NodeHash>) -> Result<(), PruneError> {
        let mut block = Block::default();
        let mut fault = None;
        wanted.retain(|hash| {
            if fault.is_some() || self.filter.rules_out(hash) {
                return true;
            }
            match self.holds(hash, &mut block) {
                Ok(holds) => !holds,
                Err(error) => {
                    fault = Some(error);
                    true
                }
            }
        });
        fault.map_or(Ok(()), Err)
    }

    /// Looks in every block that the first eight bytes of the hash may lie in.
    fn holds(&self, hash: &NodeHash, block: &mut Block) -> Result<bool, PruneError> {
        let fingerprint = hash.fingerprint();
        let end = self.firsts.partition_point(|first| *first <= fingerprint);
        for index in (0..end).rev() {
            self.read(index, block)?;
            if block.hashes().binary_search(hash.as_bytes()).is_ok() {
                return Ok(true);
            }
            // Hashes with the same first eight bytes may continue from the block before.
            if self.firsts.get(index).is_some_and(|first| *first < fingerprint) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn read(&self, index: usize, block: &mut Block) -> Result<(), PruneError> {
        if block.index == Some(index) {
            return Ok(());
        }
        let before = (index * BLOCK_HASHES) as u64;
        let hashes = (self.count.saturating_sub(before) as usize).min(BLOCK_HASHES);
        block.index = None;
        block.bytes.resize(hashes * HASH + CRC, 0);
        let named = failed(&self.file.path);
        let at = (index * BLOCK) as u64;
        let read = |bytes: &mut Vec<u8>| self.file.file.read_exact_at(bytes, at);
        ask(FileCall::Read, &self.file.path).and_then(|()| read(&mut block.bytes)).map_err(&named)?;
        let Some((payload, check)) = block.bytes.split_last_chunk::<CRC>() else {
            return Err(named(damaged()));
        };
        if crc32fast::hash(payload) != u32::from_le_bytes(*check) {
            return Err(named(damaged()));
        }
        block.index = Some(index);
        Ok(())
    }

    /// Reads the run from its first hash on.
    pub(crate) fn reader(&self) -> RunReader<'_> {
        RunReader { run: self, block: Block::default(), next: 0 }
    }
}

fn damaged() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "a spilled block does not match its checksum")
}

#[derive(Debug, Default)]
struct Block {
    index: Option<usize>,
    bytes: Vec<u8>,
}

impl Block {
    fn hashes(&self) -> &[[u8; HASH]] {
        let payload = self.bytes.split_last_chunk::<CRC>().map_or(&[] as &[u8], |(payload, _)| payload);
        payload.as_chunks().0
    }
}

/// Reads one run in order.
#[derive(Debug)]
pub(crate) struct RunReader<'a> {
    run: &'a Run,
    block: Block,
    next: u64,
}

impl RunReader<'_> {
    /// The next hash, or nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<NodeHash>, PruneError> {
        if self.next >= self.run.count {
            return Ok(None);
        }
        let (index, within) = (self.next as usize / BLOCK_HASHES, self.next as usize % BLOCK_HASHES);
        self.run.read(index, &mut self.block)?;
        self.next += 1;
        match self.block.hashes().get(within) {
            Some(bytes) => Ok(Some(NodeHash::new(*bytes))),
            None => Err(failed(&self.run.file.path)(damaged())),
        }
    }
}

/// Several sorted sources as one, without duplicates.
pub(crate) struct Merged<'a> {
    readers: Vec<(Option<NodeHash>, RunReader<'a>)>,
}

impl<'a> Merged<'a> {
    /// Merges runs; the caller bounds how many.
    pub(crate) fn new(runs: &'a [Run]) -> Result<Self, PruneError> {
        let mut readers = Vec::with_capacity(runs.len());
        for run in runs {
            let mut reader = run.reader();
            readers.push((reader.next()?, reader));
        }
        Ok(Self { readers })
    }

    /// The next hash, or nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<NodeHash>, PruneError> {
        let least = self.readers.iter().filter_map(|(head, _)| *head).min();
        if least.is_some() {
            for (head, reader) in &mut self.readers {
                if *head == least {
                    *head = reader.next()?;
                }
            }
        }
        Ok(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::testing::{Random, hash_of};

    #[test]
    fn a_run_answers_for_exactly_the_hashes_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::open(dir.path(), 1).unwrap();
        let mut hashes: Vec<NodeHash> = (0..3000u64).map(hash_of).collect();
        // Many hashes with equal first eight bytes, so that they cross blocks.
        hashes.extend((0..700u64).map(|n| {
            let mut bytes = [7; 32];
            bytes[24..].copy_from_slice(&n.to_be_bytes());
            NodeHash::new(bytes)
        }));
        hashes.sort_unstable();
        for filter_bytes in [0, 64, 8192] {
            let (inside, outside): (Vec<_>, Vec<_>) = hashes.iter().enumerate().partition(|(index, _)| index % 3 != 0);
            let mut writer = RunWriter::create(&scratch, filter_bytes).unwrap();
            inside.iter().for_each(|(_, hash)| writer.push(hash).unwrap());
            let run = writer.finish().unwrap();
            let mut left = hashes.clone();
            run.subtract_from(&mut left).unwrap();
            assert_eq!(left, outside.iter().map(|(_, hash)| **hash).collect::<Vec<_>>());
            let (mut reader, mut read) = (run.reader(), Vec::new());
            while let Some(hash) = reader.next().unwrap() {
                read.push(hash);
            }
            assert_eq!(read, inside.iter().map(|(_, hash)| **hash).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_flipped_bit_in_a_spilled_block_is_an_error_and_no_absence() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::open(dir.path(), 1).unwrap();
        let mut hashes: Vec<NodeHash> = (0..600u64).map(hash_of).collect();
        hashes.sort_unstable();
        let mut writer = RunWriter::create(&scratch, 0).unwrap();
        hashes.iter().for_each(|hash| writer.push(hash).unwrap());
        let run = writer.finish().unwrap();
        let mut random = Random::new(11);
        for _ in 0..200 {
            let at = random.below(run.file.file.metadata().unwrap().len());
            let mut byte = [0];
            run.file.file.read_exact_at(&mut byte, at).unwrap();
            let flipped = [byte[0] ^ (1 << random.below(8))];
            run.file.file.write_all_at(&flipped, at).unwrap();
            assert!(run.subtract_from(&mut hashes.clone()).is_err(), "bit at byte {at}");
            run.file.file.write_all_at(&byte, at).unwrap();
        }
        run.subtract_from(&mut hashes).unwrap();
        assert!(hashes.is_empty());
    }
}
