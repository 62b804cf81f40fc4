//! Readers that bound what one row takes in.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use super::collector::MAX_ROW_BYTES;

/// A reader that fails with [`io::ErrorKind::FileTooLarge`] once a row has more than [`MAX_ROW_BYTES`] bytes: a quote
/// left open would otherwise make one row of the rest of the file.
pub(super) struct Bounded<R> {
    file: R,
    left: Rc<Cell<usize>>,
}

/// The bytes that may still be read for a row.
pub(super) struct Budget(Rc<Cell<usize>>);

impl Budget {
    /// Starts the next row.
    pub(super) fn renew(&self) {
        self.0.set(MAX_ROW_BYTES);
    }
}

impl<R: Read> Bounded<R> {
    /// A reader of `file` with the budget of its first row.
    pub(super) fn new(file: R) -> (Self, Budget) {
        let left = Rc::new(Cell::new(MAX_ROW_BYTES));
        (Self { file, left: Rc::clone(&left) }, Budget(left))
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let read = self.file.read(buffer)?;
        self.left.set(self.left.get().saturating_sub(read));
        Ok(read)
    }
}
