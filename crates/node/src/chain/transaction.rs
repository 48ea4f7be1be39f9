//! Transactions over objects and the receipts they get. No signatures: the chain is a reference, not a ledger.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{
    bytes::{Hex32, HexBytes},
    path::{MAX_PATH, ObjectPath},
};

/// The longest value of one object, in bytes.
pub const MAX_VALUE: usize = 64 * 1024;
/// The most fields that one transaction puts and removes together.
pub const MAX_FIELDS: usize = 256;

/// One change, applied whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transaction {
    /// Makes an object where there is none; the object around it must exist.
    CreateObject {
        /// Where.
        id: ObjectPath,
        /// The account that owns it.
        owner: Hex32,
        /// Its value.
        value: HexBytes,
    },
    /// Replaces the value of an object.
    SetValue {
        /// Which object.
        id: ObjectPath,
        /// The new value.
        value: HexBytes,
    },
    /// Puts and removes fields of an object. A field is an object below it: a new one gets the owner of the object
    /// around it, an existing one gets a new value and keeps its own fields. Removing an absent field changes nothing.
    SetFields {
        /// Which object.
        id: ObjectPath,
        /// Names and values to put.
        put: Vec<(Hex32, HexBytes)>,
        /// Names to remove.
        remove: Vec<Hex32>,
    },
    /// Deletes an object with everything below it.
    DeleteObject {
        /// Which object.
        id: ObjectPath,
    },
    /// Moves an object with everything below it to a place where there is none.
    MoveObject {
        /// Where it is.
        from: ObjectPath,
        /// Where it will be.
        to: ObjectPath,
    },
    /// Replaces the fields of one object by a copy of those of another, with everything below them.
    CloneFields {
        /// Whose fields.
        from: ObjectPath,
        /// The object that takes the copy.
        to: ObjectPath,
    },
}

/// A transaction that no state could accept: it never enters the mempool.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Malformed {
    /// A value longer than [`MAX_VALUE`].
    #[error("a value has {0} bytes, at most {MAX_VALUE} are allowed")]
    Value(usize),
    /// More fields than [`MAX_FIELDS`].
    #[error("{0} fields are put and removed, at most {MAX_FIELDS} are allowed")]
    Fields(usize),
    /// A field that is named twice.
    #[error("field {0} is named twice")]
    FieldTwice(Hex32),
    /// Fields of an object so deep that no path could name them.
    #[error("fields of an object {MAX_PATH} names deep cannot be named")]
    TooDeep,
}

impl Transaction {
    /// Refuses what no state could accept.
    pub fn check(&self) -> Result<(), Malformed> {
        let value = |value: &HexBytes| {
            if value.0.len() > MAX_VALUE { Err(Malformed::Value(value.0.len())) } else { Ok(()) }
        };
        match self {
            Self::CreateObject { value: bytes, .. } | Self::SetValue { value: bytes, .. } => value(bytes),
            Self::SetFields { id, put, remove } => {
                put.iter().try_for_each(|(_, bytes)| value(bytes))?;
                check_fields(id, put, remove)
            }
            Self::DeleteObject { .. } | Self::MoveObject { .. } | Self::CloneFields { .. } => Ok(()),
        }
    }

    /// The hash that names the transaction: equal transactions have equal ids.
    ///
    /// Errors: the encoding refused a value, which a checked transaction does not cause.
    pub fn id(&self) -> Result<Hex32, bcs::Error> {
        self.identify().map(|(id, _)| id)
    }

    /// The id, and the length of the encoding that it is a hash of: what the transaction weighs.
    pub(crate) fn identify(&self) -> Result<(Hex32, usize), bcs::Error> {
        let encoded = bcs::to_bytes(self)?;
        let mut hasher = Sha256::new();
        hasher.update(b"state-node transaction 1");
        hasher.update(&encoded);
        Ok((Hex32(hasher.finalize().into()), encoded.len()))
    }
}

fn check_fields(id: &ObjectPath, put: &[(Hex32, HexBytes)], remove: &[Hex32]) -> Result<(), Malformed> {
    let count = put.len() + remove.len();
    if count > MAX_FIELDS {
        return Err(Malformed::Fields(count));
    }
    if id.names().len() == MAX_PATH {
        return Err(Malformed::TooDeep);
    }
    let mut names: Vec<Hex32> = put.iter().map(|(name, _)| *name).chain(remove.iter().copied()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair.first() == pair.last()) {
        Some([twice, ..]) => Err(Malformed::FieldTwice(*twice)),
        Some([]) | None => Ok(()),
    }
}

/// Why a transaction changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is an object where one would be made.
    AlreadyExists,
    /// There is no object of that name.
    NoSuchObject,
    /// The object around the place does not exist.
    NoParent,
    /// An object would move onto or into itself.
    IntoItself,
    /// An object would take a copy of its own fields.
    OntoItself,
    /// The copy is larger than one block may hold.
    TooLarge,
}

/// What a transaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All of it.
    Applied,
    /// Nothing, for this reason.
    Failed(Reason),
}

/// The record of one transaction in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The id of the transaction.
    pub id: Hex32,
    /// What it did.
    pub outcome: Outcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(put: Vec<u8>, remove: Vec<u8>) -> Transaction {
        Transaction::SetFields {
            id: ObjectPath::top([1; 32]),
            put: put.into_iter().map(|name| (Hex32([name; 32]), HexBytes(vec![]))).collect(),
            remove: remove.into_iter().map(|name| Hex32([name; 32])).collect(),
        }
    }

    #[test]
    fn a_transaction_is_plain_json_and_canonical_bytes() {
        let text = format!(r#"{{"set_value":{{"id":"{}","value":"0102"}}}}"#, "05".repeat(32));
        let parsed: Transaction = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), text);
        let bytes = bcs::to_bytes(&parsed).unwrap();
        assert_eq!(bcs::from_bytes::<Transaction>(&bytes).unwrap(), parsed);
        assert_eq!(parsed.id().unwrap(), parsed.clone().id().unwrap());
        assert_ne!(parsed.id().unwrap(), fields(vec![], vec![]).id().unwrap());
    }

    #[test]
    fn what_no_state_could_accept_is_refused_before_the_mempool() {
        let value = HexBytes(vec![0; MAX_VALUE + 1]);
        let id = ObjectPath::top([1; 32]);
        assert!(matches!(Transaction::SetValue { id, value }.check(), Err(Malformed::Value(_))));
        assert!(matches!(fields(vec![1, 2], vec![2]).check(), Err(Malformed::FieldTwice(_))));
        assert!(matches!(fields(vec![0; MAX_FIELDS + 1], vec![]).check(), Err(Malformed::Fields(_))));
        fields(vec![1, 2], vec![3]).check().unwrap();
        let deep = Transaction::SetFields {
            id: ObjectPath::new(vec![Hex32([1; 32]); MAX_PATH]).unwrap(),
            put: vec![],
            remove: vec![],
        };
        assert_eq!(deep.check(), Err(Malformed::TooDeep));
    }
}
