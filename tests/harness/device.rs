//! A small device of its own: a file system in memory, where the test may mount one.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::skip::{Lack, skipped};

/// A mounted file system; unmounted when it goes out of scope.
pub struct Device(TempDir);

impl Device {
    /// A device of so many mebibytes; nothing, and a loud line, where the test may not mount.
    pub fn mount(test: &str, mebibytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        skipped(test, Lack::Mounts, "it needs the right to mount a file system in memory");
        None
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Bytes free.
    pub fn free(&self) -> u64 {
        let device = rustix::fs::statvfs(self.path()).unwrap();
        device.f_bavail * device.f_frsize
    }

    /// Takes all but so many bytes.
    pub fn fill_to(&self, left: u64) {
        let mut file = File::options().append(true).create(true).open(self.ballast()).unwrap();
        let block = [1; 4096];
        while self.free() > left {
            if file.write_all(&block).is_err() {
                return; // somebody else took the last of it
            }
        }
    }

    /// Gives back what [`Device::fill_to`] took, if it took anything.
    pub fn empty(&self) {
        if self.ballast().exists() {
            fs::remove_file(self.ballast()).unwrap();
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the file system stays mounted");
    }
}
