//! Records: BCS behind a header with magic, version, length and checksum, so that a torn, foreign or newer one is
//! recognised before it is believed (C5, C17).
//!
//! Layout: `SPR1` | kind (4 ASCII bytes) | version u16 LE | length u32 LE | payload | CRC-32 LE of all before it.

use serde::{Serialize, de::DeserializeOwned};

use crate::error::StoreError;

const MAGIC: &[u8; 4] = b"SPR1";
const HEADER: usize = 14;
const TRAILER: usize = 4;

/// A value that is persisted under a kind and a version.
pub trait Record: Serialize + DeserializeOwned {
    /// Four ASCII bytes that name the kind.
    const KIND: [u8; 4];
    /// The version this code writes and the only one it reads.
    const VERSION: u16;
}

/// Encodes a record.
///
/// Errors: a value that BCS cannot express, which is a fault of ours.
pub fn encode<R: Record>(record: &R) -> Result<Vec<u8>, StoreError> {
    let inexpressible = |e| StoreError::Invariant(format!("record does not encode: {e}"));
    let payload = bcs::serialized_size(record).map_err(inexpressible)?;
    let length = u32::try_from(payload).map_err(|_| StoreError::Invariant("record over 4 GiB".to_owned()))?;
    let mut bytes = Vec::with_capacity(HEADER + payload + TRAILER); // as long as it gets: the row of a commit is long
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&R::KIND);
    bytes.extend_from_slice(&R::VERSION.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bcs::serialize_into(&mut bytes, record).map_err(inexpressible)?;
    if bytes.len() != HEADER + payload {
        return Err(StoreError::Invariant("a record does not have the length that it tells".to_owned()));
    }
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// Decodes a record of exactly this kind and version; `name` is for the message.
///
/// Errors: [`StoreError::Newer`] for a later version of it, [`StoreError::Record`] for anything else, with what is wrong.
pub fn decode<R: Record>(name: &str, bytes: &[u8]) -> Result<R, StoreError> {
    let bad = |why: String| StoreError::Record { name: name.to_owned(), why };
    let (body, sum) = bytes.split_last_chunk::<TRAILER>().ok_or_else(|| bad("it is too short".to_owned()))?;
    let (header, payload) = body.split_first_chunk::<HEADER>().ok_or_else(|| bad("it is too short".to_owned()))?;
    let [a, b, c, d, k0, k1, k2, k3, v0, v1, l0, l1, l2, l3] = *header;
    if &[a, b, c, d] != MAGIC {
        return Err(bad("it does not start with SPR1".to_owned()));
    }
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return Err(bad("its checksum does not match".to_owned()));
    }
    if [k0, k1, k2, k3] != R::KIND {
        return Err(bad("it is a record of another kind".to_owned()));
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version > R::VERSION {
        let (name, version, reads) = (name.to_owned(), version.into(), R::VERSION.into());
        return Err(StoreError::Newer { name, version, reads });
    }
    if version < R::VERSION {
        return Err(bad(format!("it has version {version}, this program reads version {}", R::VERSION)));
    }
    if u32::from_le_bytes([l0, l1, l2, l3]) as usize != payload.len() {
        return Err(bad("its length does not match".to_owned()));
    }
    bcs::from_bytes(payload).map_err(|e| bad(format!("its payload does not decode: {e}")))
}

/// Whether bytes begin as a record of this kind does, of whatever version.
pub(crate) fn is_of<R: Record>(bytes: &[u8]) -> bool {
    bytes.strip_prefix(MAGIC).is_some_and(|rest| rest.starts_with(&R::KIND))
}

/// Nothing for a record that is unusable, which the log is told of.
///
/// Errors: a record of a newer program (C17), a failed read.
pub(crate) fn if_usable<R>(record: Result<R, StoreError>) -> Result<Option<R>, StoreError> {
    match record {
        Err(error @ StoreError::Record { .. }) => {
            tracing::warn!(%error, "a record is passed over");
            Ok(None)
        }
        record => record.map(Some),
    }
}

/// Passes over a record that is unusable for any other reason: whoever needs it tells.
///
/// Errors: [`StoreError::Newer`].
pub(crate) fn refuse_newer<R: Record>(name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    match decode::<R>(name, bytes) {
        Err(error @ StoreError::Newer { .. }) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Sample {
        number: u64,
        text: String,
    }
    impl Record for Sample {
        const KIND: [u8; 4] = *b"TEST";
        const VERSION: u16 = 3;
    }

    #[test]
    fn a_torn_record_is_detected() {
        let bytes = encode(&Sample { number: 7, text: "seven".to_owned() }).unwrap();
        for cut in 0..bytes.len() {
            assert!(decode::<Sample>("sample", &bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Sample>("sample", &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_bytes_of_a_record_are_pinned() {
        let bytes = encode(&Sample { number: 7, text: "seven".to_owned() }).unwrap();
        let payload = [&[7u8, 0, 0, 0, 0, 0, 0, 0, 5][..], b"seven"].concat();
        let mut expected = [&b"SPR1TEST"[..], &[3, 0, 14, 0, 0, 0], &payload].concat();
        let sum = crc32fast::hash(&expected);
        expected.extend_from_slice(&sum.to_le_bytes());
        assert_eq!(bytes, expected);
        assert_eq!(decode::<Sample>("sample", &bytes).unwrap(), Sample { number: 7, text: "seven".to_owned() });
    }
}
