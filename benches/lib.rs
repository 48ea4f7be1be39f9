//! What the benches share: arguments, the store they measure on, stopwatch, memory, and the table at the end.
//!
//! Each bench builds (or reopens) one store and measures everything side by side on it in one process, so that its
//! ratios mean something on a busy machine too; `steady` takes two stores through one history. Arguments: `--nodes N` (default 200,000), `--live PERCENT` (default
//! 25), `--rounds N` (default 3), `--dir DIR` to keep the store for the next run, `--check` to fail where a figure breaks
//! its bound.

pub mod args;
pub mod chain;
pub mod fresh;
mod history;
pub mod plan;
pub mod plot;
mod report;
pub mod samples;
pub mod side;
mod system;
pub mod workload;
mod yardstick;

use std::path::{Path, PathBuf};

pub use history::{Built, Error, build};
pub use report::{Bound, Least, Table};
pub use system::{Stopwatch, Took, drop_from_page_cache, resident, resident_peak, thread_on_processor};
use tikv_jemallocator::Jemalloc;
pub use yardstick::{Strokes, Yardstick};

/// That of the node.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What the command line asked for.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Nodes in the store.
    pub nodes: u64,
    /// Percent of them that the newest states reach, within a point.
    pub live: u64,
    /// How often each thing is measured.
    pub rounds: usize,
    /// Where the store is kept; absent means a temporary folder.
    pub dir: Option<PathBuf>,
}

impl Arguments {
    /// Reads the command line. Arguments it does not know are cargo's and are passed over.
    ///
    /// Errors: a number that is none.
    pub fn from_command_line() -> Result<Self, Error> {
        let mut arguments = Self { nodes: 200_000, live: 25, rounds: 3, dir: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--nodes" => arguments.nodes = value()?.parse()?,
                "--live" => arguments.live = value()?.parse()?,
                "--rounds" => arguments.rounds = value()?.parse()?,
                "--dir" => arguments.dir = Some(PathBuf::from(value()?)),
                _ => {}
            }
        }
        Ok(arguments)
    }
}

/// A folder that lives as long as the bench, or longer if one was named.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Folder {
    /// Makes the folder.
    pub fn open(named: Option<&Path>) -> Result<Self, Error> {
        if let Some(path) = named {
            std::fs::create_dir_all(path)?;
            return Ok(Self { path: path.to_owned(), _temporary: None });
        }
        let temporary = tempfile::tempdir()?;
        Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
