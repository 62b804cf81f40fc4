//! Mixtures of datasets: `chat.jsonl=2,facts.csv=0.5`.

use std::path::{Path, PathBuf};

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// Maximum weight of a source.
const MAX_WEIGHT: f64 = 100.0;

/// Stream of the random generator for the rows of a source; those of epochs count up from 0.
const SOURCE_STREAM: u64 = u64::MAX - 1;

/// A file or folder, and how many times its training rows occur per epoch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) weight: f64,
}

/// Parses a path or a comma-separated list of paths, each with an optional suffix `=weight`. If `data` or a part of
/// it exists as a path, it is taken literally.
///
/// # Errors
/// [`Error::Config`] with the part whose path is empty or whose weight is out of range.
pub(super) fn parse(data: &str) -> Result<Vec<Source>> {
    let unweighted = |text: &str| Source { path: PathBuf::from(text), weight: 1.0 };
    if Path::new(data).exists() {
        return Ok(vec![unweighted(data)]);
    }
    let source = |part: &str| {
        let part = part.trim();
        let invalid = |reason: String| Error::Config(format!("data holds \"{part}\", {reason}"));
        if part.is_empty() {
            return Err(invalid("expected paths separated by commas, such as a.jsonl=2,b.csv".into()));
        }
        let Some((path, weight)) = part.rsplit_once('=').filter(|_| !Path::new(part).exists()) else {
            return Ok(unweighted(part));
        };
        match weight.trim().parse::<f64>() {
            Ok(weight) if weight > 0.0 && weight <= MAX_WEIGHT => {
                Ok(Source { path: PathBuf::from(path.trim()), weight })
            }
            _ => Err(invalid(format!("expected a weight above 0 and at most {MAX_WEIGHT} behind the ="))),
        }
    };
    data.split(',').map(source).collect()
}

/// Repeats `rows` `weight` times. The fractional part is a subset drawn with `seed`, the same in every epoch.
/// Returns at least one row, in the original order.
pub(super) fn resample<T: Clone>(rows: Vec<T>, weight: f64, seed: u64, source: u64) -> Vec<T> {
    if (weight - 1.0).abs() < f64::EPSILON {
        return rows;
    }
    let total = ((rows.len() as f64 * weight).round() as usize).max(1);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ source.rotate_left(32));
    rng.set_stream(SOURCE_STREAM);
    order.shuffle(&mut rng);
    let mut times = vec![0_usize; rows.len()];
    for index in 0..total {
        times[order[index % rows.len()]] += 1;
    }
    rows.into_iter().zip(times).flat_map(|(row, times)| std::iter::repeat_n(row, times)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_weights() {
        let source = |path: &str, weight: f64| Source { path: path.into(), weight };
        assert_eq!(parse("a.jsonl").unwrap(), [source("a.jsonl", 1.0)]);
        assert_eq!(
            parse("a.jsonl=2, b.csv = 0.5,c").unwrap(),
            [source("a.jsonl", 2.0), source("b.csv", 0.5), source("c", 1.0)]
        );
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a=1,b.jsonl");
        std::fs::write(&odd, "").unwrap();
        assert_eq!(parse(odd.to_str().unwrap()).unwrap(), [source(odd.to_str().unwrap(), 1.0)]);
    }

    #[test]
    fn wrong_parts_are_named() {
        let weight = "expected a weight above 0 and at most 100 behind the =";
        for (data, part, reason) in [
            ("a,,b", "", "expected paths separated by commas, such as a.jsonl=2,b.csv"),
            ("a,b=x", "b=x", weight),
            ("a=0", "a=0", weight),
            ("a=NaN", "a=NaN", weight),
            ("a=101", "a=101", weight),
        ] {
            let error = parse(data).unwrap_err().to_string();
            assert_eq!(error, format!("data holds \"{part}\", {reason}"));
        }
    }

    #[test]
    fn rows_come_as_often_as_their_weight_says() {
        let rows: Vec<usize> = (0..10).collect();
        assert_eq!(resample(rows.clone(), 1.0, 0, 0), rows);
        let count = |weight: f64| {
            let drawn = resample(rows.clone(), weight, 3, 1);
            assert!(drawn.is_sorted());
            let times = |row: &usize| drawn.iter().filter(|drawn| *drawn == row).count();
            let times: Vec<usize> = rows.iter().map(times).collect();
            let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            (drawn.len(), *least, *most)
        };
        assert_eq!(
            [count(2.0), count(0.5), count(2.5), count(0.001)],
            [(20, 2, 2), (5, 0, 1), (25, 2, 3), (1, 0, 1)]
        );
        assert_eq!(resample(rows.clone(), 0.5, 3, 1), resample(rows.clone(), 0.5, 3, 1));
        assert_ne!(resample(rows.clone(), 0.5, 3, 1), resample(rows, 0.5, 4, 1));
    }
}
