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
    }

    #[derive(Debug, Default)]
    struct State {
        calls: BTreeMap<Asked, u64>,
        fault: Option<Fault>,
        met: u64,
    }

    #[derive(Debug)]
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
        disk.map_or(Ok(()), |disk| disk.ask((kind(path), call)))
    }

    /// The name of a file without its numbers.
    fn kind(path: &Path) -> String {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        match (name.find(|letter: char| letter.is_ascii_digit()), name.find('.')) {
            (Some(number), Some(ending)) if number < ending => {
                let (stem, ending) = (name.get(..number), name.get(ending..));
                format!("{}*{}", stem.map_or("", |stem| stem), ending.map_or("", |ending| ending))
            }
            _ => name,
        }
    }

    impl Disk {
        fn ask(&self, asked: Asked) -> io::Result<()> {
            let mut state = self.state.lock();
            *state.calls.entry(asked.clone()).or_insert(0) += 1;
            let Some(fault) = state.fault.as_mut().filter(|fault| fault.asked == asked) else { return Ok(()) };
            if fault.passing > 0 {
                fault.passing -= 1;
                return Ok(());
            }
            if fault.lasting == Lasting::Once {
                state.fault = None;
            }
            state.met += 1;
            Err(Errno::IO.into())
        }
    }

    /// A disk under everything in a folder, which fails where it is told to with the system's error of input and output, and
    /// counts what it is asked. Gone when it is dropped.
    #[derive(Debug)]
    pub struct FaultyDisk(Arc<Disk>);

    impl FaultyDisk {
        /// Under this folder.
        pub fn under(folder: &Path) -> Self {
            let disk = Arc::new(Disk { folder: folder.to_owned(), state: Mutex::default() });
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
            self.0.state.lock().fault = Some(Fault { asked: (kind.to_owned(), call), passing, lasting });
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
