//! `TypeTag`: the Move type of an object, in full. Decoding recurses, so its depth is bounded.

use crate::{
    error::NodeError,
    rooch::bcs::{self, Reader},
};

/// Nesting at which decoding and encoding stop: the container depth at which BCS itself does, so that nothing the
/// reference can write is refused.
pub const MAX_TYPE_DEPTH: usize = 500;

const FIELD: &str = "object_type";

/// The type of an object as the chain wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the type names of Move")]
pub enum TypeTag {
    Bool,
    U8,
    U64,
    U128,
    Address,
    Signer,
    Vector(Box<TypeTag>),
    Struct(Box<StructTag>),
    U16,
    U32,
    U256,
}

/// The name of a struct type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructTag {
    /// The account that published the module.
    pub address: [u8; 32],
    /// The module.
    pub module: String,
    /// The struct.
    pub name: String,
    /// What the struct is applied to.
    pub type_params: Vec<TypeTag>,
}

impl TypeTag {
    pub(crate) fn read(reader: &mut Reader<'_>, depth: usize) -> Result<Self, NodeError> {
        let variant = variant(reader, depth)?;
        Ok(match variant {
            Variant::Plain(tag) => tag,
            Variant::Vector => Self::Vector(Box::new(Self::read(reader, depth + 1)?)),
            Variant::Struct => Self::Struct(Box::new(StructTag::read(reader, depth)?)),
        })
    }

    /// Passes over a type without building it; accepts exactly what [`TypeTag::read`] accepts.
    pub(crate) fn skip(reader: &mut Reader<'_>, depth: usize) -> Result<(), NodeError> {
        match variant(reader, depth)? {
            Variant::Plain(_) => Ok(()),
            Variant::Vector => Self::skip(reader, depth + 1),
            Variant::Struct => {
                reader.array::<32>()?;
                reader.text(FIELD)?;
                reader.text(FIELD)?;
                let params = reader.length(FIELD)?;
                (0..params).try_for_each(|_| Self::skip(reader, depth + 1))
            }
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>, depth: usize) -> Result<(), NodeError> {
        check_depth(depth, out.len())?;
        out.push(self.index());
        match self {
            Self::Vector(inner) => inner.write(out, depth + 1),
            Self::Struct(tag) => tag.write(out, depth),
            Self::Bool | Self::U8 | Self::U16 | Self::U32 | Self::U64 | Self::U128 | Self::U256 => Ok(()),
            Self::Address | Self::Signer => Ok(()),
        }
    }

    /// The variant index of BCS.
    fn index(&self) -> u8 {
        match self {
            Self::Bool => 0,
            Self::U8 => 1,
            Self::U64 => 2,
            Self::U128 => 3,
            Self::Address => 4,
            Self::Signer => 5,
            Self::Vector(_) => 6,
            Self::Struct(_) => 7,
            Self::U16 => 8,
            Self::U32 => 9,
            Self::U256 => 10,
        }
    }
}

impl StructTag {
    fn read(reader: &mut Reader<'_>, depth: usize) -> Result<Self, NodeError> {
        let address = *reader.array::<32>()?;
        let module = reader.text(FIELD)?.to_owned();
        let name = reader.text(FIELD)?.to_owned();
        let params = reader.length(FIELD)?;
        let type_params = (0..params).map(|_| TypeTag::read(reader, depth + 1)).collect::<Result<_, _>>()?;
        Ok(Self { address, module, name, type_params })
    }

    fn write(&self, out: &mut Vec<u8>, depth: usize) -> Result<(), NodeError> {
        out.extend_from_slice(&self.address);
        bcs::put_sized(out, self.module.as_bytes(), FIELD)?;
        bcs::put_sized(out, self.name.as_bytes(), FIELD)?;
        bcs::put_length(out, self.type_params.len(), FIELD)?;
        self.type_params.iter().try_for_each(|tag| tag.write(out, depth + 1))
    }
}

/// What a variant index announces.
enum Variant {
    Plain(TypeTag),
    Vector,
    Struct,
}

fn variant(reader: &mut Reader<'_>, depth: usize) -> Result<Variant, NodeError> {
    let index = reader.byte()?;
    let unknown = reader.unknown(FIELD);
    if depth >= MAX_TYPE_DEPTH {
        return Err(unknown);
    }
    Ok(match index {
        0 => Variant::Plain(TypeTag::Bool),
        1 => Variant::Plain(TypeTag::U8),
        2 => Variant::Plain(TypeTag::U64),
        3 => Variant::Plain(TypeTag::U128),
        4 => Variant::Plain(TypeTag::Address),
        5 => Variant::Plain(TypeTag::Signer),
        6 => Variant::Vector,
        7 => Variant::Struct,
        8 => Variant::Plain(TypeTag::U16),
        9 => Variant::Plain(TypeTag::U32),
        10 => Variant::Plain(TypeTag::U256),
        _ => return Err(unknown),
    })
}

fn check_depth(depth: usize, at: usize) -> Result<(), NodeError> {
    if depth < MAX_TYPE_DEPTH { Ok(()) } else { Err(NodeError::Field { field: FIELD, at }) }
}
