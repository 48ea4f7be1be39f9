//! The few rules of BCS that nodes need, read strictly: canonical lengths, lower-case hex, every byte accounted for.

use crate::error::NodeError;

/// The longest sequence BCS allows.
pub(crate) const MAX_SEQUENCE: usize = (1 << 31) - 1;

/// The text form of a hash: its length prefix and `0x`.
const HASH_PREFIX: &[u8; 3] = b"\x420x";

/// Bytes of the text form of a hash, length prefix included.
pub(crate) const HASH_TEXT: usize = 67;

/// Reads fields from the front of a byte string; every error says which field and where.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, length: bytes.len() }
    }

    /// Offset of the next byte.
    fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    fn malformed(&self, field: &'static str) -> NodeError {
        NodeError::Field { field, at: self.at() }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], NodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(NodeError::Short { need: self.at().saturating_add(count), got: self.length });
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], NodeError> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(NodeError::Short { need: self.at() + N, got: self.length });
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, NodeError> {
        self.array::<1>().map(|[byte]| *byte)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, NodeError> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// A ULEB128 length: shortest form only, at most [`MAX_SEQUENCE`].
    pub(crate) fn length(&mut self, field: &'static str) -> Result<usize, NodeError> {
        let malformed = self.malformed(field);
        let mut value = 0usize;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let shortest = shift == 0 || byte != 0;
                return if shortest && value <= MAX_SEQUENCE { Ok(value) } else { Err(malformed) };
            }
        }
        Err(malformed)
    }

    pub(crate) fn sized(&mut self, field: &'static str) -> Result<&'a [u8], NodeError> {
        let length = self.length(field)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, NodeError> {
        let malformed = self.malformed(field);
        std::str::from_utf8(self.sized(field)?).map_err(|_| malformed)
    }

    /// The option byte: whether a value follows.
    pub(crate) fn option(&mut self, field: &'static str) -> Result<Presence, NodeError> {
        let malformed = self.malformed(field);
        match self.byte()? {
            0 => Ok(Presence::Absent),
            1 => Ok(Presence::Present),
            _ => Err(malformed),
        }
    }

    /// A hash in its text form: `42`, "0x", 64 lower-case hex digits.
    pub(crate) fn hash_text(&mut self, field: &'static str) -> Result<[u8; 32], NodeError> {
        let malformed = self.malformed(field);
        let [length, zero, x, digits @ ..] = self.array::<HASH_TEXT>()?;
        if [*length, *zero, *x] != *HASH_PREFIX {
            return Err(malformed);
        }
        decode_hex(digits).ok_or(malformed)
    }

    /// How a variant index or tag that nobody defined is reported: at the byte just read.
    pub(crate) fn unknown(&self, field: &'static str) -> NodeError {
        NodeError::Field { field, at: self.at().saturating_sub(1) }
    }

    /// Ends the reading; bytes left over are an error.
    pub(crate) fn finish(self) -> Result<(), NodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(NodeError::Trailing(self.rest.len())) }
    }
}

/// Whether an optional value is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// `00`.
    Absent,
    /// `01`, and the value follows.
    Present,
}

/// Decodes lower-case hex digits and accepts nothing else. Two loops without a branch or a table, because every leaf has
/// one or two of these texts and the compiler turns such loops into a few vector instructions.
fn decode_hex(digits: &[u8; 64]) -> Option<[u8; 32]> {
    let (mut values, mut all_valid) = ([0u8; 64], true);
    for (value, digit) in values.iter_mut().zip(digits) {
        let (number, letter) = (digit.wrapping_sub(b'0'), digit.wrapping_sub(b'a'));
        *value = if number < 10 { number } else { letter.wrapping_add(10) };
        all_valid &= (number < 10) | (letter < 6);
    }
    let mut bytes = [0u8; 32];
    for (byte, [high, low]) in bytes.iter_mut().zip(values.as_chunks::<2>().0) {
        *byte = (high << 4) | (low & 0x0f);
    }
    all_valid.then_some(bytes)
}

/// Appends a ULEB128 length.
///
/// Errors: more than BCS can express, reported for `field`.
pub(crate) fn put_length(out: &mut Vec<u8>, length: usize, field: &'static str) -> Result<(), NodeError> {
    if length > MAX_SEQUENCE {
        return Err(NodeError::Field { field, at: out.len() });
    }
    let mut rest = length;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    Ok(())
}

/// Appends a length and the bytes.
pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8], field: &'static str) -> Result<(), NodeError> {
    put_length(out, bytes.len(), field)?;
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a hash in its text form.
pub(crate) fn put_hash_text(out: &mut Vec<u8>, hash: &[u8; 32]) {
    out.extend_from_slice(HASH_PREFIX);
    out.extend_from_slice(hex::encode(hash).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_hex_digits_are_taken_at_every_position() {
        let honest: [u8; 32] = std::array::from_fn(|at| (at * 37 + 11) as u8);
        let text: [u8; 64] = hex::encode(honest).into_bytes().try_into().unwrap();
        for (at, digit) in (0..64).flat_map(|at| (0..=u8::MAX).map(move |digit| (at, digit))) {
            let mut changed = text;
            changed[at] = digit;
            let mut expected = [0; 32];
            let hex = hex::decode_to_slice(changed, &mut expected).is_ok() && !digit.is_ascii_uppercase();
            assert_eq!(decode_hex(&changed), hex.then_some(expected), "byte {digit:#04x} at {at}");
        }
    }
}
