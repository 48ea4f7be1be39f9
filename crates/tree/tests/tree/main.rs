//! The promises of the pure tree, against models that are simpler than it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

mod bad_trees;
mod codec;
mod counted_chain;
mod differences;
mod model;
mod model_histories;
mod one_bit_counts;
mod oracle;
mod proofs;
mod sole;
mod store;
mod updates;
mod walks;
mod worked_examples;
