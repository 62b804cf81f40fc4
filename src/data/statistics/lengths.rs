//! The distribution of lengths.

use serde::Serialize;

/// Maximum number of bins of a histogram.
const MAX_BINS: usize = 12;

/// Number of tokens per row before truncation; for a pair, of its longer answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LengthStatistics {
    /// Minimum.
    pub min: usize,
    /// Median.
    pub median: usize,
    /// Mean.
    pub mean: f64,
    /// 95th percentile.
    pub p95: usize,
    /// Maximum.
    pub max: usize,
}

/// One bin of a histogram of lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HistogramBin {
    /// Smallest length in this bin.
    pub from: usize,
    /// Largest length in this bin.
    pub to: usize,
    /// Number of rows.
    pub rows: usize,
}

/// Sizes in ascending order.
pub(super) fn sorted(sizes: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut sizes: Vec<usize> = sizes.collect();
    sizes.sort_unstable();
    sizes
}

/// Statistics of sizes in ascending order.
pub(super) fn length_statistics(sorted: &[usize]) -> LengthStatistics {
    let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
        return LengthStatistics::default();
    };
    // The nearest-rank method, so that every percentile is the length of some row.
    let rank = |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).max(1) - 1];
    let mean = sorted.iter().sum::<usize>() as f64 / sorted.len() as f64;
    LengthStatistics { min, median: rank(0.5), mean, p95: rank(0.95), max }
}

/// Histogram of sizes in ascending order: at most [`MAX_BINS`] bins, whose width is 1, 2 or 5 times a power of ten.
pub(super) fn histogram(sorted: &[usize]) -> Vec<HistogramBin> {
    let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Vec::new() };
    let widths = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_usize.pow(power)));
    let fits = |width: &usize| max / width - min / width < MAX_BINS;
    let width = widths.take(30).find(fits).unwrap_or(max);
    let bin = |index: usize| {
        let (from, to) = (index * width, (index + 1) * width - 1);
        let rows = sorted.partition_point(|&size| size <= to) - sorted.partition_point(|&size| size < from);
        HistogramBin { from, to, rows }
    };
    (min / width..=max / width).map(bin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_round_widths_and_hold_every_row() {
        let sizes: Vec<usize> = (3..=217).collect();
        let bins = histogram(&sizes);
        assert_eq!(bins.len(), 11);
        assert_eq!(
            (bins[0], bins[10]),
            (HistogramBin { from: 0, to: 19, rows: 17 }, HistogramBin { from: 200, to: 219, rows: 18 })
        );
        assert_eq!(bins.iter().map(|bin| bin.rows).sum::<usize>(), sizes.len());
        assert_eq!(histogram(&[0]), [HistogramBin { from: 0, to: 0, rows: 1 }]);
    }
}
