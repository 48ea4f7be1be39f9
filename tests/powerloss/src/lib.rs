//! A device under the engine that fails: its power can be cut, and then what was not synced is lost, whole or in part, as the
//! engine's own tests lose it; and its calls can fail, those of one kind on one kind of file.
//!
//! The only unsafe code of the tests, confined to this file: nine functions of a shim over the engine's
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

/// A [`Fault`] as the shim takes it.
#[repr(C)]
struct RawFault {
    files: Files,
    call: Call,
    job: Job,
    passing: u64,
    times: u64,
    error: i32,
}

unsafe extern "C" {
    fn powerloss_new(loses_unsynced: bool) -> *mut Handle;
    fn powerloss_delete(device: *mut Handle);
    fn powerloss_env(device: *mut Handle) -> *mut rocksdb_env_t;
    fn powerloss_cut(device: *mut Handle);
    fn powerloss_fail(device: *mut Handle, fault: RawFault);
    fn powerloss_mend(device: *mut Handle);
    fn powerloss_hold_tables(device: *mut Handle, held: bool);
    fn powerloss_met(device: *mut Handle) -> u64;
    fn powerloss_calls(device: *mut Handle, files: Files, call: Call) -> u64;
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

/// A kind of file of the engine.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Files {
    /// Write-ahead logs.
    Log,
    /// Tables.
    Table,
    /// Blob files.
    Blob,
    /// Lists of files.
    List,
    /// The file that names the list in force.
    Current,
    /// Options, as they were when the store was opened.
    Options,
    /// The folder itself.
    Folder,
}

impl Files {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Log, Self::Table, Self::Blob, Self::List, Self::Current, Self::Options, Self::Folder];
}

/// A kind of call.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Makes the file.
    Make,
    /// Appends to it. One that fails has appended a part.
    Write,
    /// Syncs it. One that fails has synced nothing.
    Sync,
    /// Reads it.
    Read,
    /// Removes it.
    Remove,
    /// Gives it its name.
    Rename,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Make, Self::Write, Self::Sync, Self::Read, Self::Remove, Self::Rename];
}

/// Whose calls.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Everybody's.
    Any,
    /// Writes and syncs of a compaction.
    Compaction,
}

/// How long calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// So many calls; it passes by itself.
    Times(u64),
    /// Every call until [`Device::mend`].
    UntilMended,
}

/// What the system says of a call that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// `EIO`.
    Failed,
    /// `EROFS`, as of a file system that its system has mounted for reading only after a failure.
    ReadOnly,
    /// `ENOSPC`.
    Full,
    /// `EDQUOT`, as of a user who may have no more of the device.
    Quota,
}

impl Fault {
    /// The first call of a kind fails, whoever makes it, and so long.
    pub fn first(files: Files, call: Call, lasting: Lasting) -> Self {
        Self { files, call, job: Job::Any, passing: 0, lasting, cause: Cause::Failed }
    }

    /// The same for another cause.
    pub fn by(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }
}

impl Cause {
    fn number(self) -> i32 {
        match self {
            Self::Failed => 5,
            Self::ReadOnly => 30,
            Self::Full => 28,
            Self::Quota => 122,
        }
    }
}

/// Calls that fail, on whichever thread of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// On which files.
    pub files: Files,
    /// Which calls.
    pub call: Call,
    /// Whose.
    pub job: Job,
    /// Calls that still pass.
    pub passing: u64,
    /// How long.
    pub lasting: Lasting,
    /// Why.
    pub cause: Cause,
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
    /// A device under power. What is not synced before an engine closes its file is lost.
    #[expect(clippy::new_without_default, reason = "it is made on purpose, never by default")]
    pub fn new() -> Self {
        // SAFETY: no precondition; the result is owned by this value.
        Self(unsafe { powerloss_new(true) })
    }

    /// One whose power never fails: what is written is there, synced or not.
    pub fn keeping() -> Self {
        // SAFETY: as above.
        Self(unsafe { powerloss_new(false) })
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

    /// Lets calls fail from now on, these and no others.
    pub fn fail(&self, fault: Fault) {
        let times = match fault.lasting {
            Lasting::Times(times) => times,
            Lasting::UntilMended => u64::MAX,
        };
        let (passing, error) = (fault.passing, fault.cause.number());
        let (files, call, job) = (fault.files, fault.call, fault.job);
        let fault = RawFault { files, call, job, passing, times, error };
        // SAFETY: the pointer is live until drop; the fault has the layout that the shim knows.
        unsafe { powerloss_fail(self.0, fault) }
    }

    /// Lets no call fail any more.
    pub fn mend(&self) {
        // SAFETY: the pointer is live until drop.
        unsafe { powerloss_mend(self.0) }
    }

    /// Lets writes of tables wait.
    pub fn hold_tables(&self) {
        // SAFETY: the pointer is live until drop.
        unsafe { powerloss_hold_tables(self.0, true) }
    }

    /// Lets them go on.
    pub fn let_tables_go(&self) {
        // SAFETY: the pointer is live until drop.
        unsafe { powerloss_hold_tables(self.0, false) }
    }

    /// Calls that failed since the last [`Device::fail`].
    pub fn met(&self) -> u64 {
        // SAFETY: the pointer is live until drop.
        unsafe { powerloss_met(self.0) }
    }

    /// Calls of a kind so far.
    pub fn calls(&self, files: Files, call: Call) -> u64 {
        // SAFETY: the pointer is live until drop; the shim numbers both alike.
        unsafe { powerloss_calls(self.0, files, call) }
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
