//! Numbers of a few bits each, lowest first.

/// Appends numbers to bytes.
pub(super) struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    pending: u128,
    count: u32,
}

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes, pending: 0, count: 0 }
    }

    /// Appends the lowest `width` bits, at most 64.
    pub(super) fn write(&mut self, number: u64, width: u32) {
        self.pending |= u128::from(number) << self.count;
        self.count += width;
        while self.count >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    /// Fills the last byte with zeros.
    pub(super) fn finish(self) {
        if self.count > 0 {
            self.bytes.push(self.pending as u8);
        }
    }
}

/// Reads numbers from bytes, which are enough for them.
pub(super) struct Reader<'a> {
    bytes: std::slice::Iter<'a, u8>,
    pending: u128,
    count: u32,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter(), pending: 0, count: 0 }
    }

    /// The next `width` bits, at most 64.
    pub(super) fn read(&mut self, width: u32) -> u64 {
        while self.count < width {
            self.pending |= u128::from(self.bytes.next().copied().unwrap_or(0)) << self.count;
            self.count += 8;
        }
        let number = self.pending & ((1 << width) - 1);
        self.pending >>= width;
        self.count -= width;
        number as u64
    }

    /// Whether the bits behind the last number are zeros, as an encoder leaves them.
    pub(super) fn finish(self) -> Result<(), &'static str> {
        if self.pending == 0 && self.bytes.len() == 0 {
            Ok(())
        } else {
            Err("there is something behind its end")
        }
    }
}
