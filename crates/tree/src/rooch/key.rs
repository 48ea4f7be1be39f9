//! `Key`: the 32-byte path of an object in one tree, high nibble first. It is never hashed again.

use std::fmt;

/// How many nibbles a key has, and so how deep a tree can be.
pub const NIBBLES: usize = 64;

/// The key of one object in the tree that holds it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// Wraps 32 raw bytes, most significant first.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The nibble that selects the child at `depth`; nothing below the last one.
    pub fn nibble(&self, depth: usize) -> Option<u8> {
        let byte = self.0.get(depth / 2)?;
        Some(if depth.is_multiple_of(2) { byte >> 4 } else { byte & 0x0f })
    }

    /// How many leading bits two keys share: 256 when they are equal.
    pub fn common_bits(&self, other: &Self) -> usize {
        let pairs = self.0.iter().zip(other.0);
        let mut bits = 0;
        for (mine, theirs) in pairs {
            let differing = mine ^ theirs;
            bits += differing.leading_zeros() as usize;
            if differing != 0 {
                break;
            }
        }
        bits
    }

    /// The bit that selects a half at binary depth `at`; nothing below the last one.
    pub(crate) fn bit(&self, at: usize) -> Option<u8> {
        self.0.get(at / 8).map(|byte| (byte >> (7 - at % 8)) & 1)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// The keys from the global tree down, in hex, separated by `/`: how errors name an object.
pub(crate) fn path_text(path: &[Key]) -> String {
    let keys: Vec<String> = path.iter().map(Key::to_string).collect();
    keys.join("/")
}
