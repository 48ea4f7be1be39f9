//! `ObjectPath`: the names that lead to an object, outermost first, and the tree keys they stand for.
//!
//! Clients choose names; the tree key of a name is a hash of it that shares no prefix with the hashes of the tree, so
//! nobody can choose a key that passes for the hash of a pair of nodes, or keys that make one tree as deep as a key.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};
use state_tree::{Key, ObjectId};
use thiserror::Error;

use super::bytes::Hex32;

/// The most names in a path, and so the deepest object that a transaction can name.
pub const MAX_PATH: usize = 8;

const KEY_DOMAIN: &[u8] = b"state-node object key 1";

/// The key in its tree of the object with this name.
pub fn key_of(name: &Hex32) -> Key {
    let mut hasher = Sha256::new();
    hasher.update(KEY_DOMAIN);
    hasher.update(name.0);
    Key::new(hasher.finalize().into())
}

/// Text or a list of names that is no path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PathError {
    /// No name, or more than [`MAX_PATH`].
    #[error("an object path has 1 to {MAX_PATH} names, this one has {0}")]
    Length(usize),
    /// A part that is not 64 hex digits.
    #[error("name {} of the path: {why}", index + 1)]
    Name {
        /// Which part, from 0.
        index: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// One to [`MAX_PATH`] names. As text they are hex and joined by dots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(Vec<Hex32>);

impl ObjectPath {
    /// Wraps names, outermost first.
    ///
    /// Errors: none of them, or more than [`MAX_PATH`].
    pub fn new(names: Vec<Hex32>) -> Result<Self, PathError> {
        if (1..=MAX_PATH).contains(&names.len()) { Ok(Self(names)) } else { Err(PathError::Length(names.len())) }
    }

    /// The path of an object of the global tree.
    pub fn top(name: [u8; 32]) -> Self {
        Self(vec![Hex32(name)])
    }

    /// The path of a field of this object.
    ///
    /// Errors: this path has [`MAX_PATH`] names already.
    pub fn child(&self, name: Hex32) -> Result<Self, PathError> {
        Self::new(self.0.iter().copied().chain([name]).collect())
    }

    /// The names.
    pub fn names(&self) -> &[Hex32] {
        &self.0
    }

    /// The keys from the global tree down: what a proof is verified against.
    pub fn keys(&self) -> Vec<Key> {
        self.0.iter().map(key_of).collect()
    }

    /// The identity that an object created here gets, and keeps wherever it moves.
    pub(crate) fn object_id(&self) -> Option<ObjectId> {
        ObjectId::from_components(self.keys().iter().map(|key| *key.as_bytes()).collect())
    }

    /// Whether `other` is this object or lies inside it.
    pub(crate) fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

impl fmt::Debug for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectPath({self})")
    }
}

impl FromStr for ObjectPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let parts: Vec<&str> = text.split('.').take(MAX_PATH + 1).collect();
        let names = parts.iter().enumerate().map(|(index, part)| {
            let named = |why| PathError::Name { index, why };
            Hex32::parse(part).map_err(named)
        });
        Self::new(names.collect::<Result<_, _>>()?)
    }
}

impl Serialize for ObjectPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for ObjectPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            Self::new(Vec::deserialize(deserializer)?).map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_its_text_and_its_canonical_bytes() {
        let path = ObjectPath::new(vec![Hex32([1; 32]), Hex32([2; 32])]).unwrap();
        assert_eq!(path.to_string().parse::<ObjectPath>().unwrap(), path);
        let bytes = bcs::to_bytes(&path).unwrap();
        assert_eq!(bytes.len(), 65);
        assert_eq!(bcs::from_bytes::<ObjectPath>(&bytes).unwrap(), path);
    }

    #[test]
    fn paths_that_are_empty_too_long_or_not_hex_are_refused() {
        assert_eq!(ObjectPath::new(vec![]).unwrap_err(), PathError::Length(0));
        assert!(ObjectPath::new(vec![Hex32([0; 32]); MAX_PATH + 1]).is_err());
        assert!("".parse::<ObjectPath>().is_err());
        assert!("zz".parse::<ObjectPath>().is_err());
        let second = format!("{}.zz", "0".repeat(64)).parse::<ObjectPath>().unwrap_err();
        assert!(second.to_string().starts_with("name 2 of the path: "), "{second}");
        assert!(bcs::from_bytes::<ObjectPath>(&[0]).is_err());
    }
}
