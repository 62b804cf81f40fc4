//! Codecs of single numbers.

use half::f16;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::bits::{Reader, Writer};
use super::float;

type Decoded = Result<Vec<f32>, &'static str>;

/// Steps of int8 on each side of zero.
const INT8: f64 = 127.0;

/// Numbers beyond the range become its ends: what is lost stays in the residual.
pub(super) fn encode_fp16(values: &[f64], message: &mut Vec<u8>) {
    let (low, high) = (f64::from(f16::MIN.to_f32()), f64::from(f16::MAX.to_f32()));
    message.extend(values.iter().flat_map(|x| f16::from_f64(x.clamp(low, high)).to_le_bytes()));
}

pub(super) fn decode_fp16(body: &[u8]) -> Vec<f32> {
    body.as_chunks::<2>().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect()
}

pub(super) fn encode_int8(values: &[f64], seed: u64, message: &mut Vec<u8>) {
    let scale = at_least(values.iter().fold(0.0, |largest: f64, x| largest.max(x.abs())) / INT8);
    message.extend(scale.to_le_bytes());
    let mut round = Rounding::new(seed, scale, INT8);
    message.extend(values.iter().map(|&x| round.step(x) as i8 as u8));
}

pub(super) fn decode_int8(body: &[u8]) -> Decoded {
    let scale = scale(body)?;
    Ok(body[4..].iter().map(|&byte| f32::from(byte as i8) * scale).collect())
}

/// Bits of a number of `2·levels + 1` steps.
pub(super) fn width(levels: u8) -> u32 {
    (2 * u32::from(levels)).ilog2() + 1
}

pub(super) fn encode_qsgd(values: &[f64], levels: u8, seed: u64, message: &mut Vec<u8>) {
    let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let steps = f64::from(levels);
    let scale = at_least(norm / steps);
    message.extend(scale.to_le_bytes());
    let mut round = Rounding::new(seed, scale, steps);
    let mut bits = Writer::new(message);
    for &x in values {
        bits.write((round.step(x) + steps) as u64, width(levels));
    }
    bits.finish();
}

pub(super) fn decode_qsgd(body: &[u8], levels: u8, count: usize) -> Decoded {
    let scale = scale(body)?;
    let mut bits = Reader::new(&body[4..]);
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let step = bits.read(width(levels));
        if step > 2 * u64::from(levels) {
            return Err("a step is out of range");
        }
        values.push((step as f32 - f32::from(levels)) * scale);
    }
    bits.finish()?;
    Ok(values)
}

pub(super) fn encode_sign(values: &[f64], message: &mut Vec<u8>) {
    let scale = (values.iter().map(|x| x.abs()).sum::<f64>() / values.len() as f64) as f32;
    message.extend(scale.to_le_bytes());
    let mut bits = Writer::new(message);
    for x in values {
        bits.write(u64::from(x.is_sign_negative()), 1);
    }
    bits.finish();
}

pub(super) fn decode_sign(body: &[u8], count: usize) -> Decoded {
    let scale = scale(body)?;
    let mut bits = Reader::new(&body[4..]);
    let values = (0..count).map(|_| if bits.read(1) == 1 { -scale } else { scale }).collect();
    bits.finish()?;
    Ok(values)
}

/// The scale that a message begins with.
fn scale(body: &[u8]) -> Result<f32, &'static str> {
    let scale = float(body, 0);
    if scale.is_finite() && scale.is_sign_positive() {
        Ok(scale)
    } else {
        Err("the scale is no positive number")
    }
}

/// The smallest float32 that is not below `x`, so that no number is beyond the last step.
fn at_least(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) < x { near.next_up().min(f32::MAX) } else { near }
}

/// Rounds to a step below or above by chance, so that the mean is the number itself.
struct Rounding {
    rng: ChaCha8Rng,
    scale: f64,
    steps: f64,
}

impl Rounding {
    fn new(seed: u64, scale: f32, steps: f64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), scale: f64::from(scale), steps }
    }

    fn step(&mut self, x: f64) -> f64 {
        if self.scale == 0.0 {
            return 0.0;
        }
        (x / self.scale + self.rng.random::<f64>()).floor().clamp(-self.steps, self.steps)
    }
}
