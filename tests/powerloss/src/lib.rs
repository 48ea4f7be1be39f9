//! A device whose power can be cut: what was not synced is lost, whole or in part, as the engine's own tests lose it.
//!
//! The only unsafe code of the tests, confined to this file: five functions of a shim over the engine's
//! `FaultInjectionTestFS`.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "the engine's file systems are C++ and have no safe binding")]

use std::{
    ffi::{CString, c_char},
    path::Path,
};

use librocksdb_sys::rocksdb_env_t;
use rocksdb::Env;

#[repr(C)]
struct Handle {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn powerloss_new() -> *mut Handle;
    fn powerloss_delete(device: *mut Handle);
    fn powerloss_env(device: *mut Handle) -> *mut rocksdb_env_t;
    fn powerloss_cut(device: *mut Handle);
    fn powerloss_restore(device: *mut Handle, folder: *const c_char, seed: u32) -> bool;
}

/// What of the unsynced data the loss takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    All,
    /// The end of the log, of a length that follows from the seed: its last record is torn.
    Tails(std::num::NonZeroU32),
}

/// The device. It outlives every engine that was opened through it.
#[derive(Debug)]
pub struct Device(*mut Handle);

// SAFETY: the shim holds a file system and an environment, which the engine itself uses from all of its threads, and the
// functions that take them by a shared pointer lock inside.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// A device under power.
    #[expect(clippy::new_without_default, reason = "it is made on purpose, never by default")]
    pub fn new() -> Self {
        // SAFETY: no precondition; the result is owned by this value.
        Self(unsafe { powerloss_new() })
    }

    /// What engines are opened through. None of them may outlive the device.
    pub fn env(&self) -> Env {
        // SAFETY: the handle is new and owned by the value returned; it says that its environment is the default one, so
        // the engine deletes the handle and leaves the environment to the device.
        unsafe { Env::from_raw(powerloss_env(self.0)) }
    }

    /// Cuts the power: every write from now on fails.
    pub fn cut(&self) {
        // SAFETY: the pointer is live until drop.
        unsafe { powerloss_cut(self.0) }
    }

    /// Takes what was not synced from the store in a folder, and gives power again. Call AFTER every engine on it was
    /// dropped.
    pub fn restore(&self, store: &Path, loss: Loss) {
        let folder = CString::new(store.as_os_str().as_encoded_bytes());
        let folder = folder.unwrap_or_else(|error| panic!("a path with a zero in it: {error}"));
        let seed = match loss {
            Loss::All => 0,
            Loss::Tails(seed) => seed.get(),
        };
        // SAFETY: both pointers are live for the call.
        let restored = unsafe { powerloss_restore(self.0, folder.as_ptr(), seed) };
        assert!(restored, "the files of the device could not be cut");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: made by `powerloss_new`, and deleted once.
        unsafe { powerloss_delete(self.0) }
    }
}
