//! The tagged hash T(m) = SHA256(tag || tag || m) with tag = SHA256("SMTNode").
//!
//! The two tags fill exactly one block, so every hash starts from one constant state. There is one tag for values,
//! leaves and pairs; callers must decode by the tag byte of a node before they hash it.

use sha2::{compress256, digest::generic_array::GenericArray};

/// One SHA-256 input block.
const BLOCK: usize = 64;

/// The state of SHA-256 after the tag block; a test recomputes it.
const MIDSTATE: [u32; 8] =
    [0xc35ab54a, 0x328064b8, 0x8e1c438c, 0x45cf86f3, 0xa29acff1, 0xe3fd1cf8, 0xd4f6cf6c, 0x8275fa9e];

/// The padding block of a message that is one block long after the tag block.
const PAIR_PADDING: [u8; BLOCK] = {
    let mut block = [0; BLOCK];
    block[0] = 0x80;
    block[BLOCK - 2] = 0x04; // 1024 bits: the tag block and the message block
    block
};

/// T(left || right).
pub(crate) fn pair(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    let (front, back) = block.split_at_mut(32);
    front.copy_from_slice(left);
    back.copy_from_slice(right);
    let mut state = MIDSTATE;
    compress256(&mut state, &[GenericArray::from(block), GenericArray::from(PAIR_PADDING)]);
    to_bytes(state)
}

/// T(message).
pub(crate) fn tagged(message: &[u8]) -> [u8; 32] {
    let mut state = MIDSTATE;
    let (blocks, rest) = message.as_chunks::<BLOCK>();
    for block in blocks {
        compress256(&mut state, &[GenericArray::from(*block)]);
    }
    finish(state, rest, message.len())
}

/// Hashes the last, incomplete block together with the padding.
fn finish(mut state: [u32; 8], rest: &[u8], length: usize) -> [u8; 32] {
    let bits = (length as u64 + BLOCK as u64) * 8;
    let mut tail = [[0u8; BLOCK]; 2];
    let flat = tail.as_flattened_mut();
    for (slot, byte) in flat.iter_mut().zip(rest.iter().chain([&0x80])) {
        *slot = *byte;
    }
    let blocks = if rest.len() + 9 <= BLOCK { 1 } else { 2 };
    for (slot, byte) in flat.iter_mut().take(blocks * BLOCK).rev().zip(bits.to_le_bytes()) {
        *slot = byte;
    }
    for block in tail.iter().take(blocks) {
        compress256(&mut state, &[GenericArray::from(*block)]);
    }
    to_bytes(state)
}

fn to_bytes(state: [u32; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (chunk, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *chunk = word.to_be_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// The definition, by the ordinary interface of the library.
    fn by_definition(message: &[u8]) -> [u8; 32] {
        let tag = Sha256::digest(b"SMTNode");
        Sha256::new().chain_update(tag).chain_update(tag).chain_update(message).finalize().into()
    }

    #[test]
    fn the_midstate_is_the_state_after_the_two_tags() {
        let tag: [u8; 32] = Sha256::digest(b"SMTNode").into();
        let mut block = [0; BLOCK];
        block[..32].copy_from_slice(&tag);
        block[32..].copy_from_slice(&tag);
        let mut state =
            [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
        compress256(&mut state, &[GenericArray::from(block)]);
        assert_eq!(state, MIDSTATE, "{state:#010x?}");
    }

    #[test]
    fn the_tagged_hash_follows_its_definition_at_every_length() {
        let message: Vec<u8> = (0..400u32).map(|i| (i * 7) as u8).collect();
        for length in 0..=message.len() {
            assert_eq!(tagged(&message[..length]), by_definition(&message[..length]), "length {length}");
        }
    }

    #[test]
    fn a_pair_is_the_tagged_hash_of_both_halves() {
        let (left, right) = ([3; 32], [250; 32]);
        assert_eq!(pair(&left, &right), by_definition(&[left, right].concat()));
    }

    #[test]
    fn the_hash_of_nothing_is_the_published_one() {
        assert_eq!(hex::encode(tagged(b"")), "14dac625db5746f54f1b30b92fcfd249abbec0ed7c5da8e2e8ef7b053c2ab0d9");
    }
}
