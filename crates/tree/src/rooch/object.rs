//! `ObjectState`: the value of a leaf, and the one edge that leaves it, the root of the object's fields tree.
//!
//! Contract: [`embedded_root`] accepts exactly the bytes that [`ObjectState::decode`] accepts and reports the same
//! root, without building anything. Bytes that neither recognises are an error, never "no edge" (S4).

use crate::{
    error::NodeError,
    hash::{NodeHash, StateRoot},
    rooch::{
        bcs::{self, Presence, Reader},
        key::Key,
        type_tag::TypeTag,
    },
};

/// The identity of an object: one component per object from the outermost down, at least one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId(Vec<[u8; 32]>);

impl ObjectId {
    /// The identity of an object of the global tree.
    pub fn single(component: [u8; 32]) -> Self {
        Self(vec![component])
    }

    /// The identity of a field of this object.
    pub fn child(&self, key: &Key) -> Self {
        let mut components = self.0.clone();
        components.push(*key.as_bytes());
        Self(components)
    }

    /// Wraps components, or nothing when there are none: the root object has no leaf.
    pub fn from_components(components: Vec<[u8; 32]>) -> Option<Self> {
        (!components.is_empty()).then_some(Self(components))
    }

    /// The components, outermost first.
    pub fn components(&self) -> &[[u8; 32]] {
        &self.0
    }
}

/// Everything about an object except its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Who the object is.
    pub id: ObjectId,
    /// The account that owns it.
    pub owner: [u8; 32],
    /// 1: shared, 2: frozen.
    pub flag: u8,
    /// The root of its fields; absent and the placeholder both mean that it has none.
    pub state_root: Option<StateRoot>,
    /// How many fields lie directly below it.
    pub size: u64,
    /// When it was created, as the chain counts time.
    pub created_at: u64,
    /// When it was last changed.
    pub updated_at: u64,
    /// Its Move type.
    pub object_type: TypeTag,
}

/// One object as its leaf holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectState {
    /// Everything except the value.
    pub metadata: ObjectMeta,
    /// The value, opaque to the tree.
    pub value: Vec<u8>,
}

impl ObjectState {
    /// Decodes exactly one object state.
    ///
    /// Errors: anything that is not one, with the field and the offset.
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeError> {
        let mut reader = Reader::new(bytes);
        let id = ObjectId(read_id(&mut reader)?.to_vec());
        let owner = *reader.array()?;
        let flag = reader.byte()?;
        let state_root = read_state_root(&mut reader)?;
        let (size, created_at, updated_at) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let object_type = TypeTag::read(&mut reader, 0)?;
        let value = reader.sized("object_value")?.to_vec();
        reader.finish()?;
        let metadata = ObjectMeta { id, owner, flag, state_root, size, created_at, updated_at, object_type };
        Ok(Self { metadata, value })
    }

    /// The bytes of a leaf value.
    ///
    /// Errors: a sequence longer than BCS can express, a type nested deeper than it can.
    pub fn encode(&self) -> Result<Vec<u8>, NodeError> {
        let meta = &self.metadata;
        let mut out = Vec::with_capacity(192 + self.value.len());
        bcs::put_length(&mut out, meta.id.0.len(), "id")?;
        out.extend_from_slice(meta.id.0.as_flattened());
        out.extend_from_slice(&meta.owner);
        out.push(meta.flag);
        match meta.state_root {
            None => out.push(0),
            Some(root) => {
                out.push(1);
                bcs::put_hash_text(&mut out, root.hash().as_bytes());
            }
        }
        for number in [meta.size, meta.created_at, meta.updated_at] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        meta.object_type.write(&mut out, 0)?;
        bcs::put_sized(&mut out, &self.value, "object_value")?;
        Ok(out)
    }

    /// The root of the object's fields tree, empty when it has none.
    pub fn fields(&self) -> StateRoot {
        self.metadata.state_root.unwrap_or(StateRoot::EMPTY)
    }
}

/// The outgoing edge of a leaf value: the root of the object's fields, if it has any.
///
/// Errors: whatever [`ObjectState::decode`] would refuse.
pub fn embedded_root(value: &[u8]) -> Result<Option<NodeHash>, NodeError> {
    let mut reader = Reader::new(value);
    read_id(&mut reader)?;
    reader.array::<32>()?; // the owner
    reader.byte()?; // the flag
    let root = read_state_root(&mut reader)?;
    for _size_and_times in 0..3 {
        reader.u64()?;
    }
    TypeTag::skip(&mut reader, 0)?;
    reader.sized("object_value")?;
    reader.finish()?;
    Ok(root.and_then(|root| root.node()))
}

fn read_id<'a>(reader: &mut Reader<'a>) -> Result<&'a [[u8; 32]], NodeError> {
    let components = reader.length("id")?;
    if components == 0 {
        return Err(reader.unknown("id"));
    }
    let bytes = reader.take(components.saturating_mul(32))?;
    Ok(bytes.as_chunks().0)
}

fn read_state_root(reader: &mut Reader<'_>) -> Result<Option<StateRoot>, NodeError> {
    match reader.option("state_root")? {
        Presence::Absent => Ok(None),
        Presence::Present => reader.hash_text("state_root").map(|bytes| Some(StateRoot::new(NodeHash::new(bytes)))),
    }
}
