//! What is read of a run again and again while it goes on, and the table of it.

use std::{fmt::Write as _, path::Path, time::Duration};

use state_store::{Backend, Space};

use crate::Error;

/// What a store needs of disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Bytes by kind of file, those included that a compaction is writing and those it has not removed yet.
    pub space: Space,
    /// Bytes of the node family's files, as the engine counts them: without either.
    pub node_bytes: u64,
}

impl Size {
    /// Measures it.
    pub fn of(backend: &dyn Backend) -> Result<Self, Error> {
        let tables: u64 = backend.node_files()?.iter().map(|file| file.bytes).sum();
        Ok(Self { space: backend.space()?, node_bytes: tables + backend.node_blob_bytes()? })
    }

    /// Tables and blobs. Logs are bounded by themselves and told apart.
    pub fn bytes(&self) -> u64 {
        self.space.tables + self.space.blobs
    }
}

/// What the pruning between two major cycles has done, if there is any.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Incremental {
    /// Orders below the window that wait for it.
    pub lag_orders: u64,
    /// Nodes it deleted.
    pub deleted: u64,
    /// How long its thread worked: without what it waited for, such as the commit gate.
    pub busy: Duration,
    /// Nodes that a whole round is good for in a second, with all that it waits for, where it was measured.
    pub whole: Option<f64>,
    /// The longest time for which a slice held the commit gate.
    pub longest: Duration,
    /// The longest time for which one was on a processor meanwhile.
    pub longest_work: Duration,
    /// Slices.
    pub slices: u64,
    /// Those that held it for longer than 5 ms.
    pub over: u64,
    /// Those that were on a processor for longer than 5 ms meanwhile.
    pub overworked: u64,
}

impl Incremental {
    /// Nodes per second of one core. What it can do beside commits is the `capacity_per_second` of the status.
    pub fn capacity(&self) -> f64 {
        self.deleted as f64 / self.busy.as_secs_f64()
    }
}

/// One instant of one run, and the commits since the instant before.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Commits since the state was filled.
    pub commits: u64,
    /// How often the state was overwritten by them.
    pub overwritten: f64,
    /// The newest order.
    pub order: u64,
    /// Bytes on disk.
    pub size: Size,
    /// Nodes ever put.
    pub nodes_put: u64,
    /// Commits per second since the instant before.
    pub per_second: f64,
    /// Half of the commits since then were not slower.
    pub p50: Duration,
    /// Ninety-nine in a hundred were not slower.
    pub p99: Duration,
    /// Major cycles finished.
    pub cycles: u64,
    /// What was done between them.
    pub incremental: Option<Incremental>,
}

const HEADER: &str = "profile,side,commits,overwritten,order,bytes,tables,blobs,logs,other,node_bytes,nodes_put,\
                      commits_per_second,p50_ms,p99_ms,cycles,lag_orders,incremental_deleted,incremental_per_second";

/// The samples of all runs as text, one row per sample, and one per store that was measured at the end.
#[derive(Debug)]
pub struct Csv(String);

impl Default for Csv {
    fn default() -> Self {
        Self(format!("{HEADER}\n"))
    }
}

impl Csv {
    /// Adds the samples of one side.
    pub fn add(&mut self, profile: &str, side: &str, samples: &[Sample]) -> Result<(), Error> {
        for sample in samples {
            let Sample { commits, overwritten, order, size, nodes_put, per_second, cycles, .. } = sample;
            let (bytes, p50, p99) = (size.bytes(), millis(sample.p50), millis(sample.p99));
            let Size { space: Space { tables, blobs, logs, other }, node_bytes } = size;
            write!(
                self.0,
                "{profile},{side},{commits},{overwritten:.3},{order},{bytes},{tables},{blobs},{logs},{other},"
            )?;
            write!(self.0, "{node_bytes},{nodes_put},{per_second:.1},{p50:.3},{p99:.3},{cycles},")?;
            match &sample.incremental {
                Some(it) => writeln!(self.0, "{},{},{:.0}", it.lag_orders, it.deleted, it.capacity())?,
                None => writeln!(self.0, ",,")?,
            }
        }
        Ok(())
    }

    /// Adds a store at rest.
    pub fn add_at_rest(&mut self, profile: &str, what: &str, size: Size) -> Result<(), Error> {
        let Size { space: Space { tables, blobs, logs, other }, node_bytes } = size;
        write!(self.0, "{profile},{what},,,,{},{tables},{blobs},{logs},{other},{node_bytes}", size.bytes())?;
        Ok(writeln!(self.0, ",,,,,,,,")?)
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        Ok(std::fs::write(path, &self.0)?)
    }
}

/// As figures are printed.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_value_or_an_empty_place_for_each_column() {
        let size = Size { space: Space { tables: 3, blobs: 2, logs: 1, other: 0 }, node_bytes: 4 };
        let sample = Sample {
            commits: 10,
            overwritten: 0.5,
            order: 12,
            size,
            nodes_put: 100,
            per_second: 50.0,
            p50: Duration::from_millis(2),
            p99: Duration::from_millis(3),
            cycles: 1,
            incremental: None,
        };
        let done = Incremental {
            lag_orders: 1,
            deleted: 20,
            busy: Duration::from_secs(2),
            whole: None,
            longest: Duration::ZERO,
            longest_work: Duration::ZERO,
            slices: 0,
            over: 0,
            overworked: 0,
        };
        let mut csv = Csv::default();
        csv.add("uniform", "with", &[sample.clone(), Sample { incremental: Some(done), ..sample }]).unwrap();
        csv.add_at_rest("uniform", "fresh copy", size).unwrap();
        let rows: Vec<Vec<&str>> = csv.0.lines().map(|row| row.split(',').collect()).collect();
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{}", csv.0);
        let value = |row: usize, column: &str| rows[row][rows[0].iter().position(|name| *name == column).unwrap()];
        assert_eq!((value(1, "bytes"), value(1, "cycles"), value(1, "lag_orders")), ("5", "1", ""));
        assert_eq!((value(2, "lag_orders"), value(2, "incremental_per_second")), ("1", "10"));
        assert_eq!((value(3, "bytes"), value(3, "node_bytes"), value(3, "nodes_put")), ("5", "4", ""));
    }
}
