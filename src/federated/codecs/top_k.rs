//! The numbers of largest magnitude, and where they stand.

use super::bits::{Reader, Writer};

/// How many of `count` numbers are sent.
pub(super) fn kept(count: usize, fraction: f64) -> usize {
    ((fraction * count as f64).round() as usize).clamp(1, count)
}

/// Bits of an index below `count`.
pub(super) fn index_bits(count: usize) -> u32 {
    count.next_power_of_two().ilog2()
}

pub(super) fn encode(values: &[f64], fraction: f64, message: &mut Vec<u8>) {
    let kept = kept(values.len(), fraction);
    let mut order: Vec<usize> = (0..values.len()).collect();
    if kept < order.len() {
        // Of equal magnitudes the first.
        order.select_nth_unstable_by(kept, |&a, &b| {
            values[b].abs().total_cmp(&values[a].abs()).then(a.cmp(&b))
        });
    }
    order.truncate(kept);
    order.sort_unstable();
    let width = index_bits(values.len());
    let mut bits = Writer::new(message);
    for index in order {
        bits.write(index as u64, width);
        bits.write(u64::from((values[index] as f32).to_bits()), 32);
    }
    bits.finish();
}

pub(super) fn decode(body: &[u8], fraction: f64, count: usize) -> Result<Vec<f32>, &'static str> {
    let width = index_bits(count);
    let mut values = vec![0.0; count];
    let mut bits = Reader::new(body);
    let mut next = 0;
    for _ in 0..kept(count, fraction) {
        let index = bits.read(width) as usize;
        if index < next || index >= count {
            return Err("its indices do not ascend within the tensor");
        }
        values[index] = f32::from_bits(bits.read(32) as u32);
        next = index + 1;
    }
    bits.finish()?;
    Ok(values)
}
