//! Encoding of the predictions at one position: at most 160 bytes for 50 tokens of any vocabulary.
//!
//! | part | bits |
//! |---|---|
//! | tokens in ascending order: low bits ([Elias](https://doi.org/10.1145/321812.321820)–Fano) | `k·l`, `l = ⌊log₂(vocab/k)⌋` |
//! | their high bits, in unary | `k + ⌊(vocab-1)/2ˡ⌋ + 1` |
//! | log-probabilities `-32·(c/2047)²` | `11·k` |

use crate::{Error, Result};

/// Bits per log-probability.
const VALUE_BITS: usize = 11;
const MAX_CODE: f32 = 2047.0;
/// Lowest log-probability, in nats.
const LOWEST: f32 = -32.0;

/// Sizes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Codec {
    vocab: usize,
    top_k: usize,
    low_bits: usize,
}

impl Codec {
    /// For the `top_k` most likely of `vocab` tokens, of which there are at least as many.
    pub(super) fn new(vocab: usize, top_k: usize) -> Self {
        Self { vocab, top_k, low_bits: (vocab / top_k).max(1).ilog2() as usize }
    }

    /// Number of tokens of a record.
    pub(super) const fn top_k(&self) -> usize {
        self.top_k
    }

    /// Bytes per record.
    pub(super) const fn record_bytes(&self) -> usize {
        (self.values() + self.top_k * VALUE_BITS).div_ceil(8)
    }

    /// First bit of the log-probabilities.
    const fn values(&self) -> usize {
        let high = self.top_k + ((self.vocab - 1) >> self.low_bits) + 1;
        self.top_k * self.low_bits + high
    }

    /// Appends the record of `predictions`, distinct tokens with their log-probabilities, which are sorted.
    pub(super) fn encode(&self, predictions: &mut [(u32, f32)], out: &mut Vec<u8>) {
        predictions.sort_unstable_by_key(|&(token, _)| token);
        let start = out.len();
        out.resize(start + self.record_bytes(), 0);
        let record = &mut out[start..];
        for (i, &(token, log_prob)) in predictions.iter().enumerate() {
            let token = token as usize;
            write(record, i * self.low_bits, self.low_bits, token & ((1 << self.low_bits) - 1));
            write(record, self.top_k * self.low_bits + i + (token >> self.low_bits), 1, 1);
            let code = (log_prob.max(LOWEST) / LOWEST).max(0.0).sqrt() * MAX_CODE;
            write(record, self.values() + i * VALUE_BITS, VALUE_BITS, code.round() as usize);
        }
    }

    /// Reads a record into `tokens` and `log_probs`.
    ///
    /// # Errors
    /// A record that [`encode`](Self::encode) does not write.
    pub(super) fn decode(
        &self,
        record: &[u8],
        tokens: &mut Vec<u32>,
        log_probs: &mut Vec<f32>,
    ) -> Result<()> {
        let damaged = || Error::Training("a stored prediction of the teacher is damaged".into());
        let high = self.top_k * self.low_bits;
        let (mut bit, end) = (high, self.values());
        for i in 0..self.top_k {
            while bit < end && read(record, bit, 1) == 0 {
                bit += 1;
            }
            let token = (bit - high).checked_sub(i).map(|high| high << self.low_bits);
            let token = token.map(|high| high | read(record, i * self.low_bits, self.low_bits));
            let token = token.filter(|&token| bit < end && token < self.vocab).ok_or_else(damaged)?;
            bit += 1;
            tokens.push(token as u32);
            let code = read(record, self.values() + i * VALUE_BITS, VALUE_BITS) as f32 / MAX_CODE;
            log_probs.push(LOWEST * code * code);
        }
        Ok(())
    }
}

/// Sets `count` bits from bit `first` on, which are 0, to those of `value`.
fn write(bytes: &mut [u8], first: usize, count: usize, value: usize) {
    let (mut bit, mut rest, mut left) = (first, value, count);
    while left > 0 {
        let taken = left.min(8 - bit % 8);
        bytes[bit / 8] |= ((rest & ((1 << taken) - 1)) << (bit % 8)) as u8;
        (bit, rest, left) = (bit + taken, rest >> taken, left - taken);
    }
}

/// The `count` bits from bit `first` on.
fn read(bytes: &[u8], first: usize, count: usize) -> usize {
    let (mut value, mut done) = (0, 0);
    while done < count {
        let bit = first + done;
        let taken = (count - done).min(8 - bit % 8);
        let part = usize::from(bytes[bit / 8]) >> (bit % 8) & ((1 << taken) - 1);
        (value, done) = (value | part << done, done + taken);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_tokens_of_any_vocabulary_take_at_most_160_bytes() {
        for vocab in [50, 64, 512, 32_000, 49_152, 128_256, 151_936, 200_064, 262_144, 262_208] {
            assert!(Codec::new(vocab, 50).record_bytes() <= 160, "{vocab}");
        }
    }

    #[test]
    fn predictions_come_back() {
        for (vocab, top_k) in [(5, 5), (64, 1), (1000, 7), (262_144, 50), (50, 50)] {
            let codec = Codec::new(vocab, top_k);
            let spread = |i: usize| ((i * vocab / top_k + i % (vocab / top_k).max(1)).min(vocab - 1)) as u32;
            let mut given: Vec<(u32, f32)> =
                (0..top_k).rev().map(|i| (spread(i), -0.003 * (i * i) as f32)).collect();
            given[0].1 = -100.0;
            let mut bytes = Vec::new();
            codec.encode(&mut given, &mut bytes);
            codec.encode(&mut given, &mut bytes);
            assert_eq!(bytes.len(), 2 * codec.record_bytes());
            let (mut tokens, mut log_probs) = (Vec::new(), Vec::new());
            codec.decode(&bytes[codec.record_bytes()..], &mut tokens, &mut log_probs).unwrap();
            assert_eq!(tokens, given.iter().map(|&(token, _)| token).collect::<Vec<_>>());
            for (&(_, given), found) in given.iter().zip(log_probs) {
                let given = given.max(LOWEST);
                assert!(
                    (given - found).abs() <= 0.003 * (0.01 + given.abs()).sqrt() + 1e-6,
                    "{given}, {found}"
                );
            }
        }
    }

    #[test]
    fn damage_is_an_error_or_other_tokens_of_the_vocabulary() {
        let codec = Codec::new(1000, 7);
        let (mut tokens, mut log_probs) = (Vec::new(), Vec::new());
        let zeros = vec![0; codec.record_bytes()];
        assert!(codec.decode(&zeros, &mut tokens, &mut log_probs).is_err());
        tokens.clear();
        let ones = vec![255; codec.record_bytes()];
        let _ = codec.decode(&ones, &mut tokens, &mut log_probs);
        assert!(tokens.iter().all(|&token| token < 1000));
    }
}
