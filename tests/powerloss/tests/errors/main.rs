//! S6, S14, C4, O10 inside the real engine: calls on its files fail, once or until the device is mended, in each phase and while
//! a store is opened. What stopped the work is told by its type, reads go on, nothing is half done, and once the device is
//! mended, and the store open again where the engine asks for that, every retained root is whole and the next cycle leaves nothing
//! behind.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod commits;
mod full;
mod names;
mod opening;
mod phases;
mod support;
mod worker;
