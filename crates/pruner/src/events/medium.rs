//! What a journal asks of its file: the seam at which tests make a disk fail.

use std::{fs::File, io, io::Write as _, sync::Arc};

/// A file that grows.
pub(super) trait Medium: Send + Sync {
    /// Writes at the end, all or an error.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Takes back what a failed write left beyond this length.
    fn cut(&self, bytes: u64) -> io::Result<()>;
    /// How long it is.
    fn length(&self) -> io::Result<u64>;
}

impl Medium for File {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self;
        file.write_all(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Makes a medium of a file that was opened for appending.
pub(super) type Mount = Arc<dyn Fn(File) -> Arc<dyn Medium> + Send + Sync>;

/// The file itself.
pub(super) fn plain() -> Mount {
    Arc::new(|file| Arc::new(file))
}
