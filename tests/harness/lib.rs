//! What the system tests share: seeded histories, an archive that is never pruned, a rig that runs cycles, copies of
//! the shared Rooch stores, and the real binary as a child.
//!
//! Oracles here are simpler than the code they judge: maps instead of engines, recursion instead of batched walks.

pub mod archive;
pub mod chain;
pub mod check;
pub mod damage;
pub mod device;
pub mod folder;
pub mod hooks;
pub mod nobody;
pub mod node;
pub mod offline;
pub mod power;
pub mod records;
pub mod rig;
pub mod shared;
pub mod skip;
pub mod told;
pub mod waits;
pub mod warnings;
pub mod workload;
