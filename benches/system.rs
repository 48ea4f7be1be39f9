//! What the system tells: time, memory, and its page cache.

use std::{fs, path::Path, time::Duration};

use state_pruner::{Clock, SystemClock};

use crate::Error;

/// How long some work took: by the clock, and by the processors. On a busy machine only the second compares.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// Wall time.
    pub wall: Duration,
    /// Time of all threads of this process on a processor.
    pub cpu: Duration,
}

/// Measures time.
#[derive(Debug, Default)]
pub struct Stopwatch(SystemClock);

impl Stopwatch {
    /// How long the work took.
    pub fn time<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<(Took, T), Error> {
        let (start, busy) = (self.0.monotonic(), on_processor()?);
        let done = work()?;
        Ok((Took { wall: self.0.monotonic() - start, cpu: on_processor()? - busy }, done))
    }
}

/// User and system time of the process so far.
fn on_processor() -> Result<Duration, Error> {
    read(rustix::time::ClockId::ProcessCPUTime)
}

/// User and system time of the calling thread so far.
pub fn thread_on_processor() -> Result<Duration, Error> {
    read(rustix::time::ClockId::ThreadCPUTime)
}

fn read(clock: rustix::time::ClockId) -> Result<Duration, Error> {
    let time = rustix::time::clock_gettime(clock);
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}

/// Most resident bytes of memory during the work, above what was resident before it.
pub fn resident_peak<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<(u64, T), Error> {
    let before = status("VmRSS:")?;
    fs::write("/proc/self/clear_refs", "5")?; // the peak starts again from here
    let done = work()?;
    Ok((status("VmHWM:")?.saturating_sub(before), done))
}

/// Resident bytes of memory now.
pub fn resident() -> Result<u64, Error> {
    status("VmRSS:")
}

fn status(field: &str) -> Result<u64, Error> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Asks the system to forget the cached pages of every file in the folder, and of no other file.
pub fn drop_from_page_cache(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let file = fs::File::open(entry.path())?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}
