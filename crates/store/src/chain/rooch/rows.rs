//! Strict readers of the rows of a Rooch database that lead from an order to a root.
//!
//! A hash in these rows is text: a length byte 66, then `0x` and 64 lower-case digits. Integers are little-endian.
//! Every reader takes the whole row and says what is wrong with one that it does not recognise.

/// A hash as these rows spell it, length byte included.
pub(super) const HASH_BYTES: usize = 67;
const HASH_TEXT: u8 = 66;
/// Most entries of a list in a row that is read here: the frozen roots of an accumulator, one per level.
const MAX_LIST: u64 = 64;

/// The rest of a row that is being read.
pub(super) struct Row<'a>(&'a [u8]);

impl<'a> Row<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| format!("it ends before its {what}"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.take(what).map(u64::from_le_bytes)
    }

    pub(super) fn hash(&mut self, what: &str) -> Result<[u8; 32], String> {
        let text: [u8; HASH_BYTES] = self.take(what)?;
        let [HASH_TEXT, b'0', b'x', digits @ ..] = text else {
            return Err(format!("its {what} is not the text of a hash"));
        };
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair.map(digit);
            *byte = high
                .zip(low)
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(|| format!("its {what} has a digit that is not lower-case hexadecimal"))?;
        }
        Ok(hash)
    }

    fn length(&mut self, what: &str) -> Result<u64, String> {
        let mut length = 0u64;
        for shift in [0u32, 7, 14, 21] {
            let [byte] = self.take(what)?;
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(length);
            }
        }
        Err(format!("its {what} is longer than any known one"))
    }

    fn hashes(&mut self, what: &str) -> Result<(), String> {
        let count = self.length(what)?;
        if count > MAX_LIST {
            return Err(format!("its {what} has {count} entries"));
        }
        (0..count).try_for_each(|_| self.hash(what).map(|_| ()))
    }

    fn skip_bytes(&mut self, what: &str) -> Result<(), String> {
        let length = self.length(what)?;
        let length = usize::try_from(length).map_err(|_| format!("its {what} is too long"))?;
        self.0 = self.0.get(length..).ok_or_else(|| format!("it ends inside its {what}"))?;
        Ok(())
    }

    fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("it has {} bytes too many", self.0.len())) }
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// `config_startup_info`: the root of the head, and the size of its tree.
pub(super) fn startup_root(bytes: &[u8]) -> Result<[u8; 32], String> {
    let mut row = Row::of(bytes);
    let root = row.hash("state root")?;
    row.u64("size")?;
    row.end()?;
    Ok(root)
}

/// `meta_sequencer_info`: the newest sequenced order, and the accumulator.
pub(super) fn last_order(bytes: &[u8]) -> Result<u64, String> {
    let mut row = Row::of(bytes);
    let order = row.u64("last order")?;
    row.hash("accumulator root")?;
    row.hashes("frozen subtree roots")?;
    row.u64("number of leaves")?;
    row.u64("number of nodes")?;
    row.end()?;
    Ok(order)
}

/// `state_change_set`: the root comes first; what follows is the change itself and is not read here.
pub(super) fn change_set_root(bytes: &[u8]) -> Result<[u8; 32], String> {
    Row::of(bytes).hash("state root")
}

/// `tx_sequence_info_mapping`: the hash of the transaction; the row itself is the key in other families.
pub(super) fn transaction_hash(bytes: &[u8]) -> Result<[u8; 32], String> {
    let mut row = Row::of(bytes);
    let hash = row.hash("transaction hash")?;
    row.end()?;
    Ok(hash)
}

/// `transaction_execution_info` of this transaction: the root after it.
pub(super) fn execution_root(bytes: &[u8], transaction: &[u8; 32]) -> Result<[u8; 32], String> {
    let mut row = Row::of(bytes);
    if row.hash("transaction hash")? != *transaction {
        return Err("it belongs to another transaction".to_owned());
    }
    let root = row.hash("state root")?;
    row.u64("size")?;
    row.hash("event root")?;
    row.u64("gas")?;
    let [status] = row.take("status")?;
    match status {
        0 | 1 | 4 => row.end()?,
        2 | 3 => {} // an abort or failure names its place, in a form that is not needed here
        other => return Err(format!("its status {other} is unknown")),
    }
    Ok(root)
}

/// `transaction`: when it was sequenced, read from the end of the row. Nothing unless the rest of the sequence info,
/// its order included, is found exactly where it must be for one and only one length of the lists.
pub(super) fn sequenced_at(bytes: &[u8], order: u64) -> Option<u64> {
    let wanted = order.to_le_bytes();
    let infos = (0..bytes.len()).filter_map(|start| bytes.get(start..)).filter(|rest| rest.starts_with(&wanted));
    let mut found = infos.flat_map(|rest| sequence_info(rest, order)); // one start of many is right
    let (timestamp, another) = (found.next()?, found.next());
    another.is_none().then_some(timestamp)
}

fn sequence_info(bytes: &[u8], order: u64) -> Result<u64, String> {
    let mut row = Row::of(bytes);
    if row.u64("order")? != order {
        return Err("it has another order".to_owned());
    }
    row.skip_bytes("signature")?;
    row.hash("accumulator root")?;
    let timestamp = row.u64("timestamp")?;
    row.hashes("frozen subtree roots")?;
    row.u64("number of leaves")?;
    row.u64("number of nodes")?;
    row.end()?;
    Ok(timestamp)
}
