//! A device that is really full: a small file system in memory, where the test may mount one.

// The crate of the system tests stands above this one; the rule by which a test may skip is the same file in both.
#[path = "../../../../tests/harness/skip.rs"]
#[expect(unreachable_pub, reason = "it is public in the library that it is written for")]
mod skip;

use std::{path::Path, process::Command, sync::Arc};

use state_store::{Backend, KeyRange, RocksBackend, Store, StoreError};

use self::skip::{Lack, skipped};
use crate::support::{CONFIG, SMALL, commit, nodes, present, sweep};

/// A mounted file system of a few megabytes; unmounted when dropped.
struct Device(tempfile::TempDir);

impl Device {
    /// Nothing, and a loud line, where the test may not mount and nobody promised that it may.
    fn mount(test: &str, mebibytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        skipped(test, Lack::Mounts, "it needs the right to mount a file system in memory");
        None
    }

    fn remount(&self, option: &str) {
        let status = Command::new("mount").args(["-o", option]).arg(self.0.path()).status();
        assert!(status.unwrap().success());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the file system stays mounted");
    }
}

#[test]
fn a_full_device_is_told_apart_and_nothing_acknowledged_is_lost() {
    let Some(device) = Device::mount("a full device", 24) else { return };
    let path = device.path().join("store");
    let store = Store::open(Arc::new(RocksBackend::open(&path, &SMALL).unwrap()), CONFIG).unwrap();
    let failed = (0..1_000).find_map(|n| commit(&store, nodes(n * 100, 100, 1_000)).err());
    assert!(matches!(failed, Some(StoreError::DiskFull { .. })), "{failed:?}");
    let acknowledged = store.head().unwrap();
    assert!(present(&store).len() as u64 >= acknowledged.nodes_put, "reading goes on");
    device.remount("remount,size=64m");
    let (_open, never) = std::sync::mpsc::channel::<()>();
    let went_on = (0..2_000).any(|n| {
        let done = commit(&store, nodes(1_000_000 + n, 1, 10)).is_ok();
        done || never.recv_timeout(std::time::Duration::from_millis(10)).is_ok()
    });
    assert!(went_on, "room was made, and the engine never wrote again");
    drop(store);
    let store = Store::open(Arc::new(RocksBackend::open(&path, &SMALL).unwrap()), CONFIG).unwrap();
    assert!(store.head().unwrap().order >= acknowledged.order);
    assert!(present(&store).len() as u64 >= acknowledged.nodes_put);
    drop(store);
}

#[test]
fn a_rewrite_that_finds_no_room_says_so_and_loses_nothing() {
    let Some(device) = Device::mount("a rewrite without room", 96) else { return };
    let path = device.path().join("store");
    let backend = Arc::new(RocksBackend::open(&path, &SMALL).unwrap());
    let store = Store::open(backend.clone(), CONFIG).unwrap();
    for part in 0..9 {
        commit(&store, nodes(part * 3_000, 3_000, 700)).unwrap();
    }
    backend.rewrite_nodes(&KeyRange::ALL).unwrap();
    let free = backend.free_bytes().unwrap().unwrap();
    std::fs::write(device.path().join("ballast"), vec![1; free as usize - (2 << 20)]).unwrap();
    let before = present(&store);
    let capture = store.capture().unwrap();
    let error = sweep(&store, &capture, before.iter().copied()).rewrite(&KeyRange::ALL).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
    assert_eq!(present(&store), before);
    std::fs::remove_file(device.path().join("ballast")).unwrap();
    drop((capture, store, backend));
    let backend = Arc::new(RocksBackend::open(&path, &SMALL).unwrap());
    let store = Store::open(backend.clone(), CONFIG).unwrap();
    backend.rewrite_nodes(&KeyRange::ALL).unwrap();
    assert_eq!(present(&store), before);
}

#[test]
fn a_folder_that_may_not_be_written_is_refused_as_such() {
    let Some(device) = Device::mount("a folder that may not be written", 16) else { return };
    let path = device.path().join("store");
    drop(RocksBackend::open(&path, &SMALL).unwrap());
    device.remount("remount,ro");
    for opener in [RocksBackend::open, RocksBackend::open_rooch] {
        let Err(error) = opener(&path, &SMALL) else { panic!("it opened for writing") };
        assert!(matches!(error, StoreError::Permission { .. }), "{error:?}");
    }
    assert!(RocksBackend::open_read_only(&path, &SMALL).is_ok());
    device.remount("remount,rw");
}
