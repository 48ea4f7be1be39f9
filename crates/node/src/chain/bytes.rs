//! Byte strings that are hex for people and raw for hashing: the same value has one text and one canonical encoding.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// 32 bytes: a name, an account or a hash. Hex in JSON, 32 raw bytes in BCS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex32(pub [u8; 32]);

impl Hex32 {
    /// Parses 64 hex digits, with or without `0x`.
    ///
    /// Errors: anything else, with what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x").map_or(text, |rest| rest);
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|error| format!("64 hex digits are expected: {error}"))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Hex32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Hex32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

/// Any number of bytes. Hex in JSON, length and raw bytes in BCS.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HexBytes(pub Vec<u8>);

impl fmt::Debug for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(&self.0))
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            let bytes = hex::decode(&text).map_err(|error| D::Error::custom(format!("hex is expected: {error}")))?;
            Ok(Self(bytes))
        } else {
            Vec::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_hex_for_people_and_raw_for_hashing() {
        let name = Hex32([0xab; 32]);
        let json = serde_json::to_string(&name).unwrap();
        assert_eq!(json, format!("\"{}\"", "ab".repeat(32)));
        assert_eq!(serde_json::from_str::<Hex32>(&json).unwrap(), name);
        assert_eq!(bcs::to_bytes(&name).unwrap(), [0xab; 32]);
        let value = HexBytes(vec![1, 2]);
        assert_eq!(serde_json::to_string(&value).unwrap(), "\"0102\"");
        assert_eq!(bcs::to_bytes(&value).unwrap(), [2, 1, 2]);
        assert_eq!(bcs::from_bytes::<HexBytes>(&[2, 1, 2]).unwrap(), value);
    }
}
