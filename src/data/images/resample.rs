//! Resizing as Pillow up to version 12 and torchvision do: antialiased, rows before columns, with bytes in between, so
//! that what the first pass overshoots is cut off before the second. Pillow 13 begins with the columns where that is less
//! work.

use super::decode::Pixels;
use crate::Result;

/// Rows that are resized together, so that vectors run along them.
const ROWS: usize = 16;

/// Numbers of a pixel.
const CHANNELS: usize = 3;

/// Interpolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Bilinear,
    /// The kernel of Keys with a = -1/2.
    Bicubic,
    /// With three lobes.
    Lanczos,
}

impl Filter {
    const fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn value(self, x: f64) -> f64 {
        let x = x.abs();
        if x >= self.support() {
            return 0.0;
        }
        match self {
            Self::Bilinear => 1.0 - x,
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Lanczos => sinc(x) * sinc(x / 3.0),
        }
    }

    /// Weights of the numbers that each of `to` numbers is a mean of.
    fn taps(self, from: usize, to: usize) -> Vec<Taps> {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let reach = self.support() * stretch;
        let taps = |i: usize| {
            let center = (i as f64 + 0.5) * scale;
            let first = (center - reach + 0.5).max(0.0) as usize;
            let end = ((center + reach + 0.5) as usize).min(from);
            let weights: Vec<f64> =
                (first..end).map(|j| self.value((j as f64 - center + 0.5) / stretch)).collect();
            let sum: f64 = weights.iter().sum();
            Taps { first, weights: weights.iter().map(|weight| (weight / sum) as f32).collect() }
        };
        (0..to).map(taps).collect()
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// Resizes `pixels` to `width` by `height`.
///
/// # Errors
/// An empty size.
pub(super) fn resize(pixels: &Pixels, width: u32, height: u32, filter: Filter) -> Result<Pixels> {
    let mut data = None;
    if width != pixels.width {
        let taps = filter.taps(pixels.width as usize, width as usize);
        data = Some(resize_rows(&pixels.data, pixels.width as usize, &taps));
    }
    if height != pixels.height {
        let taps = filter.taps(pixels.height as usize, height as usize);
        let rows = data.as_deref().unwrap_or(&pixels.data);
        data = Some(resize_columns(rows, width as usize * CHANNELS, &taps));
    }
    Pixels::new(width, height, data.unwrap_or_else(|| pixels.data.clone()))
}

fn resize_rows(data: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    const LANES: usize = ROWS * CHANNELS;
    let (row, new_row) = (width * CHANNELS, taps.len() * CHANNELS);
    let mut resized = vec![0; data.len() / row * new_row];
    // Pixels of the same column side by side.
    let mut columns = vec![[0.0_f32; LANES]; width];
    for (rows, resized) in data.chunks(ROWS * row).zip(resized.chunks_mut(ROWS * new_row)) {
        for (i, row) in rows.chunks_exact(row).enumerate() {
            for (column, pixel) in columns.iter_mut().zip(row.chunks_exact(CHANNELS)) {
                for (number, byte) in column[i * CHANNELS..].iter_mut().zip(pixel) {
                    *number = f32::from(*byte);
                }
            }
        }
        for (x, Taps { first, weights }) in taps.iter().enumerate() {
            let mut sums = [0.0_f32; LANES];
            for (column, weight) in columns[*first..].iter().zip(weights) {
                for (sum, number) in sums.iter_mut().zip(column) {
                    *sum += number * weight;
                }
            }
            for (resized, sums) in resized.chunks_exact_mut(new_row).zip(sums.chunks_exact(CHANNELS)) {
                round(sums, &mut resized[x * CHANNELS..][..CHANNELS]);
            }
        }
    }
    resized
}

fn resize_columns(data: &[u8], row: usize, taps: &[Taps]) -> Vec<u8> {
    let mut resized = vec![0; taps.len() * row];
    let mut sums = vec![0.0_f32; row];
    for (Taps { first, weights }, resized) in taps.iter().zip(resized.chunks_exact_mut(row)) {
        sums.fill(0.0);
        for (source, weight) in data[first * row..].chunks_exact(row).zip(weights) {
            for (sum, byte) in sums.iter_mut().zip(source) {
                *sum += f32::from(*byte) * weight;
            }
        }
        round(&sums, resized);
    }
    resized
}

/// The nearest bytes.
fn round(sums: &[f32], bytes: &mut [u8]) {
    for (byte, sum) in bytes.iter_mut().zip(sums) {
        *byte = (sum + 0.5) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `PIL.Image.fromarray(row).resize((to, 1), filter)` of Pillow 12.3.
    #[test]
    fn rows_are_those_of_pillow() {
        let row: [u8; 7] = [0, 255, 40, 40, 200, 10, 90];
        let pixels = Pixels::new(7, 1, row.iter().flat_map(|&x| [x, 255 - x, 7]).collect()).unwrap();
        for (filter, to, expected) in EXPECTED {
            let resized = resize(&pixels, to, 1, filter).unwrap();
            let found: Vec<u8> = resized.data.iter().step_by(3).copied().collect();
            assert_eq!(found, expected, "{filter:?} {to}");
            assert!(resized.data[2..].iter().step_by(3).all(|&x| x == 7));
        }
    }

    const EXPECTED: [(Filter, u32, &[u8]); 6] = [
        (Filter::Bilinear, 4, &[111, 83, 117, 61]),
        (Filter::Bilinear, 10, &[0, 140, 201, 51, 40, 96, 191, 58, 46, 90]),
        (Filter::Bicubic, 4, &[117, 84, 116, 58]),
        (Filter::Bicubic, 10, &[0, 150, 229, 46, 20, 98, 198, 47, 35, 95]),
        (Filter::Lanczos, 4, &[120, 91, 106, 62]),
        (Filter::Lanczos, 10, &[0, 152, 245, 51, 0, 115, 197, 50, 25, 102]),
    ];
}
