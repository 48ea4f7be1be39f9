//! The bytes of a journal: a header, then records that can be found again behind damage.
//!
//! Each record begins with a marker that no text contains, because it is no UTF-8, and a length with a checksum of its
//! own: a spoilt length is recognised, and what follows is found by its marker. A second checksum covers the whole record.

use std::io::{self, Read};

use super::{
    event::{Event, Happened},
    places::{DamagedPlace, MOST},
};
use crate::error::PruneError;

const MAGIC: [u8; 8] = *b"SPRNEVTS";
pub(super) const VERSION: u32 = 1;
/// Bytes of the header: magic, version, id, time, checksum.
pub(super) const HEADER: usize = 40;
const MARKER: [u8; 4] = [0xE5, b'E', b'V', 0xF8];
/// Marker, length, checksum of both.
const HEAD: usize = 12;
/// Checksum of everything before it.
const TAIL: usize = 4;
/// Number and time, which every version of a payload begins with.
const STAMP: usize = 16;
/// The longest payload of a record, in bytes: a length beyond it is damage.
pub(super) const LONGEST: usize = 64 << 10;
const LONGEST_FRAME: usize = HEAD + LONGEST + TAIL;

/// What a journal says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalHeader {
    pub(super) id: [u8; 16],
    pub(super) created_ms: u64,
}

/// What the first bytes of a file turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    Whole(JournalHeader),
    /// A journal of a newer program.
    Newer(u32),
    /// Torn, spoilt, or no journal at all.
    Unusable,
}

impl JournalHeader {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let parts: [&[u8]; 4] = [&MAGIC, &VERSION.to_le_bytes(), &self.id, &self.created_ms.to_le_bytes()];
        let sum = crc32fast::hash(&parts.concat()).to_le_bytes();
        let all = parts.into_iter().flatten().chain(&sum);
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// Reads the first bytes of a file.
    pub(super) fn decode(bytes: &[u8]) -> Beginning {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Beginning::Unusable };
        let (Some((body, sum)), Some((magic, rest))) =
            (header.split_last_chunk::<4>(), header.split_first_chunk::<8>())
        else {
            return Beginning::Unusable;
        };
        if *magic != MAGIC || crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Beginning::Unusable;
        }
        let Some((version, rest)) = rest.split_first_chunk::<4>() else { return Beginning::Unusable };
        let version = u32::from_le_bytes(*version);
        let fields = rest.split_first_chunk::<16>().and_then(|(id, rest)| Some((id, rest.first_chunk::<8>()?)));
        match fields {
            Some((id, at)) if version == VERSION => {
                Beginning::Whole(Self { id: *id, created_ms: u64::from_le_bytes(*at) })
            }
            Some(_) if version > VERSION => Beginning::Newer(version),
            Some(_) | None => Beginning::Unusable,
        }
    }
}

/// Appends the record of an event.
///
/// Errors: an event that does not encode or is too long, which is a fault of ours.
pub(super) fn encode(happened: &Happened, into: &mut Vec<u8>) -> Result<(), PruneError> {
    let Happened { seq, at_ms, event } = happened;
    let wrong = |why: String| PruneError::Invariant(format!("event {}: {why}", event.code()));
    let payload = bcs::to_bytes(&(seq, at_ms, event)).map_err(|error| wrong(error.to_string()))?;
    let length = u32::try_from(payload.len()).map_or(u32::MAX, |length| length);
    if payload.len() > LONGEST {
        return Err(wrong(format!("{length} bytes are too many")));
    }
    let begin = into.len();
    into.extend_from_slice(&MARKER);
    into.extend_from_slice(&length.to_le_bytes());
    let sum = crc32fast::hash(into.get(begin..).map_or(&[], |head| head));
    into.extend_from_slice(&sum.to_le_bytes());
    into.extend_from_slice(&payload);
    let sum = crc32fast::hash(into.get(begin..).map_or(&[], |frame| frame));
    into.extend_from_slice(&sum.to_le_bytes());
    Ok(())
}

/// One whole record, as it lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) seq: u64,
    pub(super) at_ms: u64,
    /// Where it begins in the file.
    pub(super) at: u64,
    /// All of it.
    pub(super) bytes: Vec<u8>,
    /// Whether damage between it and the one before took records.
    pub(super) follows_loss: bool,
}

impl Frame {
    /// The event, unless a newer program wrote it.
    pub(super) fn event(&self) -> Option<Event> {
        let end = self.bytes.len().checked_sub(TAIL)?;
        match bcs::from_bytes::<(u64, u64, Event)>(self.bytes.get(HEAD..end)?) {
            Ok((_, _, event)) => Some(event),
            Err(_) => None,
        }
    }
}

/// What was met while reading.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) records: u64,
    /// Places where bytes are neither records nor the beginning of one at the end. A header that cannot be read is in the
    /// first of them.
    pub(super) damaged: u64,
    /// Bytes after the last record.
    pub(super) torn_bytes: u64,
    /// Numbers between two records that no record has.
    pub(super) missing: u64,
    /// The first of the damaged places.
    pub(super) places: Vec<DamagedPlace>,
}

impl Counts {
    fn damage(&mut self, place: DamagedPlace) {
        self.damaged += 1;
        if self.places.len() < MOST {
            self.places.push(place);
        }
    }
}

/// The length of the payload, of a record with this head.
fn payload_length(head: &[u8; HEAD]) -> Option<usize> {
    let (body, sum) = head.split_last_chunk::<4>()?;
    let (marker, length) = body.split_first_chunk::<4>()?;
    if *marker != MARKER || crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let length = u32::from_le_bytes(length.first_chunk::<4>().copied()?) as usize;
    (STAMP..=LONGEST).contains(&length).then_some(length)
}

/// Whether a record begins here and the bytes end before it does: what a write leaves of which only the first bytes came.
fn is_cut_short(bytes: &[u8]) -> bool {
    match bytes.first_chunk::<HEAD>() {
        Some(head) => payload_length(head).is_some_and(|length| bytes.len() < HEAD + length + TAIL),
        None => bytes.iter().zip(&MARKER).all(|(byte, of_marker)| byte == of_marker),
    }
}

/// The length of the record that begins here, with its number and time, if it is whole.
fn whole(bytes: &[u8]) -> Option<(usize, u64, u64)> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let length = payload_length(head)?;
    if rest.len() < length + TAIL {
        return None;
    }
    let frame = bytes.get(..HEAD + length)?;
    let sum = bytes.get(HEAD + length..)?.first_chunk::<TAIL>()?;
    let (seq, stamp) = rest.split_first_chunk::<8>()?;
    let seen = crc32fast::hash(frame) == u32::from_le_bytes(*sum);
    seen.then_some((HEAD + length + TAIL, u64::from_le_bytes(*seq), u64::from_le_bytes(*stamp.first_chunk::<8>()?)))
}

/// A damaged place as short as it can be: no record begins with it.
pub(super) const DAMAGED: u8 = 0;

/// Reads records one after another, in bounded memory, past whatever is damaged. At the end it may be asked again, and
/// goes on with what was appended since, unless that began in the middle of a record.
pub(super) struct Scanner<R> {
    from: R,
    window: Vec<u8>,
    /// What of the window is behind it.
    passed: usize,
    /// Where the window begins in the file.
    at: u64,
    last: Option<u64>,
    /// Bytes since the last record that are none.
    stray: u64,
    /// Whether they are the beginning of one that the file ends in.
    is_torn: bool,
    /// Where it began: at the first byte of the file where no header could be read.
    began: u64,
    counts: Counts,
}

impl<R: Read> Scanner<R> {
    /// Reads from here on; `at` is where that is in the file. Whoever begins at its first byte could not read its header.
    pub(super) fn new(from: R, at: u64) -> Self {
        Self {
            from,
            window: Vec::new(),
            passed: 0,
            at,
            last: None,
            stray: 0,
            is_torn: false,
            began: at,
            counts: Counts::default(),
        }
    }

    /// What was met so far.
    pub(super) fn counts(&self) -> Counts {
        let is_damaged = self.stray > 0 && !self.is_torn;
        let mut counts = Counts { torn_bytes: self.stray, ..self.counts.clone() };
        if is_damaged || self.lacks_header() {
            counts.damage(self.stray_before(self.at + self.passed as u64, None));
        }
        counts
    }

    /// The number of the last record.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    /// What lies between the last record and this byte, where a record begins or the file ends.
    fn stray_before(&self, end: u64, before: Option<u64>) -> DamagedPlace {
        DamagedPlace { from: end.saturating_sub(self.stray), length: self.stray, after: self.last, before }
    }

    /// Whether the place where the header should be was not counted yet.
    fn lacks_header(&self) -> bool {
        self.began == 0 && self.last.is_none()
    }

    /// The next record, or nothing at the end.
    ///
    /// Errors: a failed read.
    pub(super) fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            self.fill()?;
            let rest = self.window.get(self.passed..).map_or(&[][..], |rest| rest);
            if rest.is_empty() {
                return Ok(None);
            }
            // A number that does not rise is of no record that was written here.
            let found = whole(rest).filter(|(_, seq, _)| self.last.is_none_or(|last| *seq > last));
            let Some((length, seq, at_ms)) = found else {
                if self.stray == 0 {
                    self.is_torn = is_cut_short(rest);
                }
                self.stray += 1;
                self.passed += 1;
                continue;
            };
            let bytes = rest.get(..length).map_or(&[][..], |frame| frame).to_vec();
            let before = self.last.or((self.began > 0).then_some(0)); // numbers begin at 1 behind a header
            let follows_loss = self.stray > 0 && before.is_some_and(|before| seq - before > 1);
            let frame = Frame { seq, at_ms, at: self.at + self.passed as u64, bytes, follows_loss };
            self.count(&frame);
            self.passed += length;
            return Ok(Some(frame));
        }
    }

    fn count(&mut self, frame: &Frame) {
        self.counts.records += 1;
        if self.stray > 0 || self.lacks_header() {
            self.counts.damage(self.stray_before(frame.at, Some(frame.seq)));
        }
        self.counts.missing += self.last.map_or(0, |last| frame.seq - last - 1);
        (self.stray, self.last) = (0, Some(frame.seq));
    }

    /// Makes the longest record fit into what is at hand, or everything there is.
    fn fill(&mut self) -> io::Result<()> {
        if self.window.len() - self.passed >= LONGEST_FRAME {
            return Ok(());
        }
        if self.passed >= LONGEST_FRAME {
            self.window.drain(..self.passed);
            (self.at, self.passed) = (self.at + self.passed as u64, 0);
        }
        let wanted = (4 * LONGEST_FRAME).saturating_sub(self.window.len()) as u64;
        self.from.by_ref().take(wanted).read_to_end(&mut self.window)?;
        Ok(())
    }
}
