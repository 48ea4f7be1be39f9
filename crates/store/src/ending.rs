//! Reading much, as long as somebody wants it: a scan asks between its rows whether it goes on.

use crate::error::StoreError;

/// Says whether a scan goes on. Asked often: nearly every time it must answer at once.
pub type GoesOn<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// Rows between two questions.
const ROWS: u32 = 32;

/// The rows of a scan that may be told to end.
pub(crate) struct Ending<'a> {
    goes_on: GoesOn<'a>,
    rows: u32,
}

impl<'a> Ending<'a> {
    pub(crate) fn new(goes_on: GoesOn<'a>) -> Self {
        Self { goes_on, rows: 0 }
    }

    /// Call before each row.
    ///
    /// Errors: [`StoreError::Cancelled`] once the scan is to end.
    pub(crate) fn go_on(&mut self) -> Result<(), StoreError> {
        if self.rows == 0 && !(self.goes_on)() {
            return Err(StoreError::Cancelled);
        }
        self.rows = (self.rows + 1) % ROWS;
        Ok(())
    }
}
