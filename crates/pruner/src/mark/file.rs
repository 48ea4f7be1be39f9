//! The mark file: the sorted fingerprints of every live node, and the evidence that there are no more.
//!
//! Promises: an [`OpenMark`] becomes a [`SealedMark`] only against [`AllRootsWalked`], which only the two strategies
//! can make, each from a traversal that reached its end without a fault (I7). A sealed mark is written aside, synced,
//! renamed, and its folder synced; opening one checks every bit of it, the cycle and the roots it belongs to (S19,
//! C5). A lookup is exact in the fingerprint, so it can only keep more than the truth (I6).
//!
//! Costs: eight bytes per live node and a header. Of those a look-up reads one block, and none if it is that of the look-up
//! before; in memory is what `blocks` says.
//!
//! On disk, integers little-endian: magic 8, version u32, zero u32, cycle u64, count u64, digest of the roots 32,
//! SHA-256 of the fingerprints 32, CRC-32 of all that u32, zero u32; then the fingerprints, big-endian, ascending.

use std::{
    fs::File,
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use state_store::{FileCall, LiveReader, LiveSet, Point, ask, reached};

use crate::{
    error::PruneError,
    files::{failed, rename, sync_folder},
    mark::{
        blocks::{BLOCK, Blocks, Index, MarkReader, refused},
        disk::{self, Scratch, TemporaryFile},
        evidence::AllRootsWalked,
    },
};

const MAGIC: [u8; 8] = *b"SPRNMARK";
const VERSION: u32 = 1;
const HEADER: usize = 104;
const CHECKED: usize = HEADER - 8;
const WRITE_BUFFER: usize = 1 << 20;

/// What a mark belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkIdentity {
    /// The cycle that made it.
    pub cycle: u64,
    /// Digest of the roots it was made from.
    pub roots: [u8; 32],
}

/// A mark in the making. Nothing that deletes takes one (I7):
/// ```compile_fail,E0277
/// fn sweep(_: std::sync::Arc<dyn state_store::LiveSet>) {}
/// fn with_an_open_mark(open: state_pruner::mark::OpenMark) {
///     sweep(std::sync::Arc::new(open));
/// }
/// ```
/// A sealed one is what it takes:
/// ```
/// fn sweep(_: std::sync::Arc<dyn state_store::LiveSet>) {}
/// fn with_a_sealed_mark(sealed: state_pruner::mark::SealedMark) {
///     sweep(std::sync::Arc::new(sealed));
/// }
/// ```
#[derive(Debug)]
pub struct OpenMark {
    out: BufWriter<File>,
    aside: TemporaryFile,
    dir: PathBuf,
    identity: MarkIdentity,
    digest: Sha256,
    last: Option<u64>,
    count: u64,
}

impl OpenMark {
    /// Starts a mark file beside its final name.
    pub(crate) fn create(scratch: &Scratch, dir: &Path, identity: MarkIdentity) -> Result<Self, PruneError> {
        let aside = scratch.create()?;
        let file = aside.file.try_clone().map_err(failed(&aside.path))?;
        let mut out = BufWriter::with_capacity(WRITE_BUFFER, file);
        ask(FileCall::Write, &aside.path).and_then(|()| out.write_all(&[0; HEADER])).map_err(failed(&aside.path))?;
        Ok(Self { out, aside, dir: dir.to_owned(), identity, digest: Sha256::new(), last: None, count: 0 })
    }

    /// Adds a fingerprint; they come in ascending order, and equal ones merge.
    pub(crate) fn push(&mut self, fingerprint: u64) -> Result<(), PruneError> {
        if self.last == Some(fingerprint) {
            return Ok(());
        }
        if self.last.is_some_and(|last| last > fingerprint) {
            return Err(PruneError::Invariant("a mark was written out of order".to_owned()));
        }
        let bytes = fingerprint.to_be_bytes();
        self.digest.update(bytes);
        self.out.write_all(&bytes).map_err(failed(&self.aside.path))?;
        self.last = Some(fingerprint);
        self.count += 1;
        Ok(())
    }

    /// Completes the file and gives it its name, against the evidence that every root was walked to its end.
    ///
    /// Ordering: bytes, header, sync, rename, sync of the folder; a crash in between leaves no sealed mark (C3).
    pub(crate) fn seal(self, walked: &AllRootsWalked) -> Result<SealedMark, PruneError> {
        if self.count > walked.live_nodes() {
            return Err(PruneError::Invariant(format!(
                "a mark of {} nodes was sealed with evidence for {}",
                self.count,
                walked.live_nodes()
            )));
        }
        reached(Point::MarkWalked);
        let Self { out, aside, dir, identity, digest, count, .. } = self;
        let header = Header { identity, count, payload: digest.finalize().into() };
        let named = failed(&aside.path);
        ask(FileCall::Write, &aside.path).map_err(&named)?;
        let mut file = out.into_inner().map_err(|error| named(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(&named)?;
        file.write_all(&header.encode()).map_err(&named)?;
        ask(FileCall::Sync, &aside.path).and_then(|()| file.sync_all()).map_err(&named)?;
        reached(Point::MarkWritten);
        let path = disk::sealed_path(&dir, identity.cycle);
        rename(&aside.path, &path)?;
        reached(Point::MarkNamed);
        sync_folder(&dir)?;
        reached(Point::MarkSealed);
        SealedMark::open(&dir, identity)
    }
}

struct Header {
    identity: MarkIdentity,
    count: u64,
    payload: [u8; 32],
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut fields = Vec::with_capacity(HEADER);
        fields.extend_from_slice(&MAGIC);
        fields.extend_from_slice(&VERSION.to_le_bytes());
        fields.extend_from_slice(&[0; 4]);
        fields.extend_from_slice(&self.identity.cycle.to_le_bytes());
        fields.extend_from_slice(&self.count.to_le_bytes());
        fields.extend_from_slice(&self.identity.roots);
        fields.extend_from_slice(&self.payload);
        let check = crc32fast::hash(&fields);
        fields.extend_from_slice(&check.to_le_bytes());
        fields.extend_from_slice(&[0; 4]);
        let mut bytes = [0; HEADER];
        bytes.iter_mut().zip(fields).for_each(|(slot, byte)| *slot = byte);
        bytes
    }

    /// Decodes that of a mark which has to belong to somebody (S19).
    fn of(identity: MarkIdentity, bytes: &[u8]) -> Result<Self, &'static str> {
        let header = Self::decode(bytes)?;
        if header.identity == identity { Ok(header) } else { Err("it belongs to another cycle or to other roots") }
    }

    /// Accepts exactly what `encode` produces.
    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (head, _) = bytes.split_first_chunk::<HEADER>().ok_or("it is shorter than a header")?;
        let mut at = 16;
        let cycle = u64::from_le_bytes(field(head, &mut at)?);
        let count = u64::from_le_bytes(field(head, &mut at)?);
        let (roots, payload) = (field(head, &mut at)?, field(head, &mut at)?);
        let identity = MarkIdentity { cycle, roots };
        let header = Self { identity, count, payload };
        let (checked, expected) = (head.first_chunk::<CHECKED>(), header.encode());
        if head.first_chunk::<8>() != Some(&MAGIC) {
            return Err("it is not a mark file");
        }
        if checked.is_none() || *head != expected {
            return Err("its header is damaged or of another version");
        }
        Ok(header)
    }
}

fn field<const N: usize>(head: &[u8; HEADER], at: &mut usize) -> Result<[u8; N], &'static str> {
    let rest = head.get(*at..).ok_or("its header is cut")?;
    *at += N;
    rest.first_chunk::<N>().copied().ok_or("its header is cut")
}

/// A mark file as it is checked.
struct Asked<'a> {
    file: &'a File,
    path: &'a Path,
}

impl Read for Asked<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        ask(FileCall::Read, self.path)?;
        self.file.read(into)
    }
}

/// Fingerprints as they are read, piece by piece.
#[derive(Default)]
struct Payload {
    digest: Sha256,
    index: Index,
    count: u64,
    last: Option<[u8; 8]>,
    faults: Faults,
}

/// What pieces alone tell.
#[derive(Default)]
struct Faults {
    descends: bool,
    stray_bytes: usize,
}

impl Payload {
    /// Reads to the end; a piece is a multiple of a fingerprint.
    fn read(from: &mut impl Read, piece: usize) -> std::io::Result<Self> {
        let (mut payload, mut bytes) = (Self::default(), Vec::with_capacity(piece));
        loop {
            bytes.clear();
            if from.by_ref().take(piece as u64).read_to_end(&mut bytes)? == 0 {
                return Ok(payload);
            }
            payload.add(&bytes);
        }
    }

    fn add(&mut self, piece: &[u8]) {
        let (fingerprints, rest) = piece.as_chunks::<8>();
        self.digest.update(piece);
        self.index.add(piece);
        self.count += fingerprints.len() as u64;
        let joined = self.last.iter().chain(fingerprints);
        self.faults.descends |= !joined.is_sorted_by(|a, b| a < b);
        self.faults.stray_bytes += rest.len();
        self.last = fingerprints.last().copied().or(self.last);
    }

    /// Where its blocks are, if it is what the header says.
    fn check(self, header: &Header) -> Result<Index, &'static str> {
        if self.faults.stray_bytes > 0 || self.count != header.count {
            return Err("its length differs from its header");
        }
        if <[u8; 32]>::from(self.digest.finalize()) != header.payload {
            return Err("its digest differs from its header");
        }
        if self.faults.descends {
            return Err("its fingerprints are not ascending");
        }
        Ok(self.index)
    }
}

/// A mark that is complete; only marking makes one, and only a whole file of the right cycle opens as one (I7).
/// ```compile_fail,E0451
/// fn forge(like: state_pruner::mark::SealedMark) -> state_pruner::mark::SealedMark {
///     state_pruner::mark::SealedMark { ..like }
/// }
/// ```
#[derive(Debug)]
pub struct SealedMark {
    blocks: Arc<Blocks>,
    digest: [u8; 32],
    /// Not in the file.
    shared: Option<Vec<u64>>,
}

impl SealedMark {
    pub(crate) fn with_shared(self, shared: Option<Vec<u64>>) -> Self {
        Self { shared, ..self }
    }

    /// Hands over, once, the fingerprints, ascending, of the nodes that two references of the traced state lead to; nothing
    /// where none was traced, and of a mark that an earlier process made.
    pub fn take_shared(&mut self) -> Option<Vec<u64>> {
        self.shared.take()
    }

    /// Opens the sealed mark of a cycle and checks all of it, in the memory of one block and what is kept of each.
    ///
    /// Errors: [`PruneError::BadMark`] when it is absent, of another cycle, of other roots, or differs by one bit from
    /// what was sealed (S18, S19, C5); a failed read.
    pub fn open(dir: &Path, identity: MarkIdentity) -> Result<Self, PruneError> {
        let path = disk::sealed_path(dir, identity.cycle);
        let refuse = |why: &str| refused(&path, why);
        let file = match ask(FileCall::Open, &path).and_then(|()| File::open(&path)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(refuse("it does not exist")),
            Err(error) => return Err(failed(&path)(error)),
        };
        let (mut asked, mut head) = (Asked { file: &file, path: &path }, Vec::with_capacity(HEADER));
        asked.by_ref().take(HEADER as u64).read_to_end(&mut head).map_err(failed(&path))?;
        let header = Header::of(identity, &head).map_err(refuse)?;
        let payload = Payload::read(&mut asked, BLOCK).map_err(failed(&path))?;
        let index = payload.check(&header).map_err(refuse)?;
        let (begin, count) = (HEADER as u64, header.count);
        let blocks = Blocks { file, path, begin, count, index, met: Mutex::new(None) };
        Ok(Self { blocks: Arc::new(blocks), digest: header.payload, shared: None })
    }

    /// Checks all of a mark.
    ///
    /// Errors: those of [`SealedMark::open`]; a mark that is not the one whose digest its cycle has recorded.
    pub(crate) fn verify(dir: &Path, identity: MarkIdentity, sealed: Option<[u8; 32]>) -> Result<(), PruneError> {
        let mark = Self::open(dir, identity)?;
        let is_other = sealed != Some(mark.digest);
        if is_other { Err(refused(mark.path(), "it is not the one that its cycle sealed")) } else { Ok(()) }
    }

    /// Nodes in the mark; equal fingerprints count once.
    pub fn live_nodes(&self) -> u64 {
        self.blocks.count
    }

    /// SHA-256 over the fingerprints, as the file holds them.
    pub fn live_digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.blocks.path
    }

    /// Somebody who looks nodes up.
    pub fn reader(&self) -> MarkReader {
        MarkReader::new(Arc::clone(&self.blocks))
    }

    /// Whether compactions could look up every node that they judged since this was asked last. Those that they could not
    /// were kept, so nothing that they passed counts as swept.
    ///
    /// Errors: the first look-up that failed.
    pub fn was_read(&self) -> Result<(), PruneError> {
        self.blocks.met.lock().take().map_or(Ok(()), Err)
    }
}

impl LiveSet for SealedMark {
    fn reader(&self) -> Box<dyn LiveReader> {
        Box::new(Self::reader(self))
    }
}

#[cfg(test)]
mod tests;
