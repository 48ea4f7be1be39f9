//! What is asked of the system for a file of ours beside the engine: the seam at which a test makes a disk fail.
//!
//! Nothing of it is in a release build: without debug assertions, or without the feature `test-util`, [`ask`] always agrees.

use std::{io, path::Path};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileCall {
    /// A new file, or a folder.
    Create,
    /// A file that should be there, or what the system says of it.
    Open,
    /// Bytes of a file.
    Read,
    /// Bytes to a file.
    Write,
    /// That a file or the entries of a folder are durable.
    Sync,
    /// Another name; the path is the new one.
    Rename,
    /// The end of a file.
    Remove,
    /// The entries of a folder.
    List,
}

/// Called before the system is asked.
///
/// Errors: those that a test injected.
#[inline]
pub fn ask(call: FileCall, path: &Path) -> io::Result<()> {
    #[cfg(all(feature = "test-util", debug_assertions))]
    return armed::ask(call, path);
    #[cfg(not(all(feature = "test-util", debug_assertions)))]
    {
        let _: (FileCall, &Path) = (call, path);
        Ok(())
    }
}

#[cfg(all(feature = "test-util", debug_assertions))]
pub use armed::FaultyDisk;

#[cfg(all(feature = "test-util", debug_assertions))]
mod armed {
    use std::{
        collections::BTreeMap,
        io,
        path::{Path, PathBuf},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use parking_lot::Mutex;
    use rustix::io::Errno;

    use super::FileCall;
    use crate::backend::Lasting;

    /// Kind of a file and what is asked of it.
    type Asked = (String, FileCall);

    #[derive(Debug)]
    struct Fault {
        asked: Asked,
        passing: u64,
        lasting: Lasting,
        error: Errno,
    }

    /// Is told of each call before it, and may refuse it.
    type Listener = Box<dyn FnMut(FileCall, &Path) -> io::Result<()> + Send>;

    #[derive(Default)]
    struct State {
        listener: Option<Listener>,
        calls: BTreeMap<Asked, u64>,
        fault: Option<Fault>,
        met: u64,
    }

    struct Disk {
        folder: PathBuf,
        state: Mutex<State>,
    }

    static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());
    /// How many there are: most processes have none, and wait for no lock.
    static WATCHED: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn ask(call: FileCall, path: &Path) -> io::Result<()> {
        if WATCHED.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let disk = DISKS.lock().iter().find(|disk| path.starts_with(&disk.folder)).map(Arc::clone);
        disk.map_or(Ok(()), |disk| disk.ask(call, path))
    }

    /// The name of a file without its numbers.
    fn kind(path: &Path) -> String {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let Some((stem, _)) = name.split_once(|letter: char| letter.is_ascii_digit()) else { return name };
        let numbers = name.get(stem.len()..).map_or("", |rest| rest);
        let ending = numbers.find('.').and_then(|dot| numbers.get(dot..));
        format!("{stem}*{}", ending.map_or("", |ending| ending))
    }

    impl Disk {
        fn ask(&self, call: FileCall, path: &Path) -> io::Result<()> {
            let asked = (kind(path), call);
            let mut state = self.state.lock();
            if let Some(listener) = &mut state.listener {
                listener(call, path)?;
            }
            *state.calls.entry(asked.clone()).or_insert(0) += 1;
            let Some(fault) = state.fault.as_mut().filter(|fault| fault.asked == asked) else { return Ok(()) };
            if fault.passing > 0 {
                fault.passing -= 1;
                return Ok(());
            }
            let error = fault.error;
            if fault.lasting == Lasting::Once {
                state.fault = None;
            }
            state.met += 1;
            Err(error.into())
        }
    }

    /// A disk under everything in a folder, which fails where it is told to with the system's error, and counts what it is
    /// asked. Gone when it is dropped.
    pub struct FaultyDisk(Arc<Disk>);

    impl std::fmt::Debug for FaultyDisk {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_tuple("FaultyDisk").field(&self.0.folder).finish()
        }
    }

    impl FaultyDisk {
        /// Under this folder.
        pub fn under(folder: &Path) -> Self {
            Self::watched(Disk { folder: folder.to_owned(), state: Mutex::default() })
        }

        /// Under this folder, with somebody who is told of each call before it, one at a time, and whose error is its error.
        pub fn heard(folder: &Path, listener: impl FnMut(FileCall, &Path) -> io::Result<()> + Send + 'static) -> Self {
            let state = State { listener: Some(Box::new(listener)), ..State::default() };
            Self::watched(Disk { folder: folder.to_owned(), state: Mutex::new(state) })
        }

        fn watched(disk: Disk) -> Self {
            let disk = Arc::new(disk);
            DISKS.lock().push(Arc::clone(&disk));
            WATCHED.fetch_add(1, Ordering::AcqRel);
            Self(disk)
        }

        /// What it was asked so far, by kind of file and call, and how often.
        pub fn calls(&self) -> BTreeMap<(String, FileCall), u64> {
            self.0.state.lock().calls.clone()
        }

        /// Fails this call on files of this kind after so many have passed.
        pub fn inject(&self, kind: &str, call: FileCall, passing: u64, lasting: Lasting) {
            self.fail(Fault { asked: (kind.to_owned(), call), passing, lasting, error: Errno::IO });
        }

        /// The same with the error of a device that is full.
        pub fn fill(&self, kind: &str, call: FileCall, passing: u64, lasting: Lasting) {
            self.fail(Fault { asked: (kind.to_owned(), call), passing, lasting, error: Errno::NOSPC });
        }

        fn fail(&self, fault: Fault) {
            self.0.state.lock().fault = Some(fault);
        }

        /// Fails nothing any more.
        pub fn heal(&self) {
            self.0.state.lock().fault = None;
        }

        /// Failures so far.
        pub fn met(&self) -> u64 {
            self.0.state.lock().met
        }
    }

    impl Drop for FaultyDisk {
        fn drop(&mut self) {
            WATCHED.fetch_sub(1, Ordering::AcqRel);
            DISKS.lock().retain(|disk| !Arc::ptr_eq(disk, &self.0));
        }
    }
}
