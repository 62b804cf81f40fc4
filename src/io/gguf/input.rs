//! Numbers and strings of a file that nobody vouches for: what the file claims is compared with what is left of it before
//! anything is allocated.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufReader, Read as _};

use super::value::{Array, Strings, Value};

/// Largest header in bytes; vocabularies of a quarter million tokens take some ten million.
const MAX_HEADER: u64 = 1 << 28;

/// What is wrong, without the name of the file.
pub(super) type Outcome<T> = Result<T, String>;

/// The beginning of a file, read from front to back.
pub(super) struct Input {
    file: BufReader<File>,
    /// Bytes that have been read.
    position: u64,
    /// Bytes that may be read.
    limit: u64,
}

impl Input {
    /// The beginning of `file` of `length` bytes.
    pub(super) fn new(file: File, length: u64) -> Self {
        Self { file: BufReader::with_capacity(1 << 16, file), position: 0, limit: length.min(MAX_HEADER) }
    }

    /// Bytes that have been read.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// Checks that `count` things of at least `size` bytes can follow.
    pub(super) fn room(&self, what: impl Display, count: u64, size: u64) -> Outcome<usize> {
        let left = self.limit - self.position;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= left => Ok(count as usize),
            _ => Err(format!("{what} claims {count} entries, but only {left} bytes follow")),
        }
    }

    fn bytes<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        self.room("a number", N as u64, 1).map_err(|_| "it ends within its header".to_owned())?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        self.position += N as u64;
        Ok(bytes)
    }

    /// A number of 32 bits.
    pub(super) fn u32(&mut self) -> Outcome<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    /// A number of 64 bits.
    pub(super) fn u64(&mut self) -> Outcome<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A string of at most `max` bytes.
    pub(super) fn string(&mut self, max: u64) -> Outcome<String> {
        let length = self.u64()?;
        if length > max {
            return Err(format!("a string of {length} bytes, expected at most {max}"));
        }
        let length = self.room("a string", length, 1)?;
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        self.position += length as u64;
        String::from_utf8(bytes).map_err(|_| "a string that is not UTF-8".to_owned())
    }

    /// A value of the type with the id `kind`.
    pub(super) fn value(&mut self, kind: u32) -> Outcome<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.bytes()?)),
            1 => Value::I8(i8::from_le_bytes(self.bytes()?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes()?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes()?)),
            4 => Value::U32(u32::from_le_bytes(self.bytes()?)),
            5 => Value::I32(i32::from_le_bytes(self.bytes()?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes()?)),
            7 => Value::Bool(self.flag()?),
            8 => Value::String(self.string(MAX_HEADER)?),
            9 => Value::Array(self.array()?),
            10 => Value::U64(u64::from_le_bytes(self.bytes()?)),
            11 => Value::I64(i64::from_le_bytes(self.bytes()?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes()?)),
            other => return Err(format!("has the unknown type {other}")),
        })
    }

    fn flag(&mut self) -> Outcome<bool> {
        match self.bytes::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("is a flag of {other}, expected 0 or 1")),
        }
    }

    fn array(&mut self) -> Outcome<Array> {
        let (kind, length) = (self.u32()?, self.u64()?);
        Ok(match kind {
            0 => Array::U8(self.many(length, |input| input.bytes().map(u8::from_le_bytes))?),
            1 => Array::I8(self.many(length, |input| input.bytes().map(i8::from_le_bytes))?),
            2 => Array::U16(self.many(length, |input| input.bytes().map(u16::from_le_bytes))?),
            3 => Array::I16(self.many(length, |input| input.bytes().map(i16::from_le_bytes))?),
            4 => Array::U32(self.many(length, |input| input.bytes().map(u32::from_le_bytes))?),
            5 => Array::I32(self.many(length, |input| input.bytes().map(i32::from_le_bytes))?),
            6 => Array::F32(self.many(length, |input| input.bytes().map(f32::from_le_bytes))?),
            7 => Array::Bool(self.many(length, Self::flag)?),
            8 => Array::String(self.strings(length)?),
            9 => return Err("is a list of lists, which no model needs".to_owned()),
            10 => Array::U64(self.many(length, |input| input.bytes().map(u64::from_le_bytes))?),
            11 => Array::I64(self.many(length, |input| input.bytes().map(i64::from_le_bytes))?),
            12 => Array::F64(self.many(length, |input| input.bytes().map(f64::from_le_bytes))?),
            other => return Err(format!("is a list of the unknown type {other}")),
        })
    }

    fn many<T>(&mut self, length: u64, read: impl Fn(&mut Self) -> Outcome<T>) -> Outcome<Vec<T>> {
        let length = self.room("its list", length, size_of::<T>() as u64)?;
        (0..length).map(|_| read(self)).collect()
    }

    fn strings(&mut self, length: u64) -> Outcome<Strings> {
        let length = self.room("its list", length, size_of::<u64>() as u64)?;
        let mut strings = Strings::default();
        for _ in 0..length {
            strings.push(&self.string(MAX_HEADER)?).map_err(|error| error.to_string())?;
        }
        Ok(strings)
    }
}
