//! Near-duplicate rows, by [MinHash](https://doi.org/10.1109/SEQUEN.1997.666900) and
//! [banding](http://infolab.stanford.edu/~ullman/mmds/ch3n.pdf).

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Number of consecutive tokens per shingle.
const SHINGLE_TOKENS: usize = 5;
/// Minimum Jaccard similarity of near-duplicates.
const JACCARD_THRESHOLD: f64 = 0.8;
/// Rows are compared if all hashes of one band agree; 99.98 % of the pairs at the [`JACCARD_THRESHOLD`] do.
const BANDS: usize = 16;
const HASHES_PER_BAND: usize = 4;
/// Maximum number of rows per band that a row is compared with.
const MAX_BUCKET_ROWS: usize = 16;
/// A Mersenne prime: `h → (a·h + b) mod p` is a random permutation.
const PRIME: u64 = (1 << 61) - 1;

/// Number of rows with a [Jaccard similarity](https://en.wikipedia.org/wiki/Jaccard_index) of at least 0.8 to an
/// earlier row, exact duplicates included.
pub(super) fn count_near_duplicates(rows: &[Vec<u32>]) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut draw = || rng.next_u64() % (PRIME - 1) + 1;
    let permutations: Vec<(u64, u64)> = (0..BANDS * HASHES_PER_BAND).map(|_| (draw(), draw())).collect();
    let signed_rows: Vec<(HashSet<u64>, Vec<u64>)> = rows
        .par_iter()
        .map(|row| {
            let shingles = shingles(row);
            let signature = signature(&shingles, &permutations);
            (shingles, signature)
        })
        .collect();
    let mut buckets: HashMap<(usize, &[u64]), Vec<usize>> = HashMap::new();
    let mut found = 0;
    for (row, (own, signature)) in signed_rows.iter().enumerate() {
        let bands = || signature.chunks_exact(HASHES_PER_BAND).enumerate();
        let earlier: HashSet<usize> =
            bands().filter_map(|band| buckets.get(&band)).flatten().copied().collect();
        if earlier.iter().any(|&other| is_similar(own, &signed_rows[other].0)) {
            found += 1;
            continue;
        }
        for band in bands() {
            let bucket = buckets.entry(band).or_default();
            if bucket.len() < MAX_BUCKET_ROWS {
                bucket.push(row);
            }
        }
    }
    found
}

/// Hashes of the shingles, below [`PRIME`]; a row shorter than a shingle has one.
fn shingles(row: &[u32]) -> HashSet<u64> {
    let hash = |tokens: &[u32]| {
        let mut hasher = DefaultHasher::new();
        tokens.hash(&mut hasher);
        hasher.finish() % PRIME
    };
    if row.len() < SHINGLE_TOKENS {
        HashSet::from([hash(row)])
    } else {
        row.windows(SHINGLE_TOKENS).map(hash).collect()
    }
}

/// The signature: the minimum hash under each permutation.
fn signature(shingles: &HashSet<u64>, permutations: &[(u64, u64)]) -> Vec<u64> {
    let permute = |(a, b): (u64, u64), h: u64| {
        ((u128::from(a) * u128::from(h) + u128::from(b)) % u128::from(PRIME)) as u64
    };
    let smallest = |&pair: &(u64, u64)| shingles.iter().map(|&h| permute(pair, h)).min().unwrap_or(PRIME);
    permutations.iter().map(smallest).collect()
}

fn is_similar(a: &HashSet<u64>, b: &HashSet<u64>) -> bool {
    let both = a.intersection(b).count();
    both as f64 >= JACCARD_THRESHOLD * (a.len() + b.len() - both) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_four_fifths_in_common_are_found() {
        let row: Vec<u32> = (0..200).collect();
        // Each changed token is in five of the 196 shingles of both rows: 176/216 are common, then 171/221.
        let changed = |places: &[usize]| {
            let mut row = row.clone();
            for &place in places {
                row[place] += 1000;
            }
            row
        };
        let near = changed(&[20, 60, 100, 140]);
        let far = changed(&[20, 60, 100, 140, 180]);
        assert_eq!(count_near_duplicates(&[row.clone(), near.clone()]), 1);
        assert_eq!(count_near_duplicates(&[row.clone(), far]), 0);
        let short = [[7, 8], [7, 9], [7, 8]].map(Vec::from);
        let rows = [vec![row.clone(), row, near], short.to_vec(), vec![vec![], vec![]]].concat();
        assert_eq!(count_near_duplicates(&rows), 4);
    }

    #[test]
    fn many_equal_rows_take_no_time() {
        let row: Vec<u32> = (0..50).collect();
        assert_eq!(count_near_duplicates(&vec![row; 20_000]), 19_999);
    }
}
