//! The hash-addressed tree as values: no disk, no time, no threads.
//!
//! Bytes are understood by a [`NodeLayout`]; [`RoochLayout`] is the first. [`update`] turns changes to a state into a
//! [`Delta`]; [`get`] and [`prove`] read one object; [`walk`] is the only traversal that marks, verifies or counts,
//! [`difference`] tells what one state has beside another, and [`find_path`], which searches for the way to one node to name a fault, proves nothing. [`count`] says which nodes a
//! delta leaves without a place, and [`Expiry`] which of those go, and what below them. Whatever is missing, malformed
//! or out of place is a typed error, never an empty answer.

mod change;
mod counting;
mod delta;
mod difference;
mod error;
mod expiry;
mod find;
mod hash;
mod layout;
mod proof;
mod read;
mod rooch;
mod update;
mod walk;
mod work;

pub use change::{Change, Changes, FieldsBase, Object, Put};
pub use counting::{Counted, Expiring, Gained, Known, Questions, Standing, count, count_places};
pub use delta::{Created, Delta, Dropped, Replaced};
pub use difference::{Between, difference};
pub use error::{HexError, NodeError, TreeError};
pub use expiry::{Expiry, ExpiryStep, Found, Judge, Left, Taken};
pub use find::{Search, find_path};
pub use hash::{NodeHash, Order, PLACEHOLDER, StateRoot};
pub use layout::NodeLayout;
pub use proof::{Proof, ProofError, prove};
pub use read::{NodeReader, get};
pub use rooch::{
    RoochLayout,
    key::{Key, NIBBLES},
    node::{ARITY, Child, ChildKind, Internal, InternalView, Joined, Leaf, LeafView, Node, NodeView},
    object::{ObjectId, ObjectMeta, ObjectState, embedded_root},
    type_tag::{MAX_TYPE_DEPTH, StructTag, TypeTag},
};
pub use update::{MAX_NESTING, update};
pub use walk::{CompleteWalk, Counts, NodeSource, Reading, Rehash, Step, Visitor, Walked, WorkList, walk};
pub use work::MemoryWorkList;
