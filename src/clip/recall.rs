//! Retrieval: how often a match is among the nearest.

use std::ops::Range;

use rayon::prelude::*;
use serde::Serialize;

use super::search::similarities;
use crate::progress::Observer;
use crate::{Error, Result, threads};

/// Share of queries with a match among the `k` nearest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recall {
    /// The `k`s.
    pub k: Vec<usize>,
    /// Of images, whose matches are their texts; one number for each `k`.
    pub image_to_text: Vec<f64>,
    /// Of texts.
    pub text_to_image: Vec<f64>,
    /// Median place of the first match of an image, from 1.
    pub image_to_text_median_rank: f64,
    /// Median place of the first match of a text, from 1.
    pub text_to_image_median_rank: f64,
}

/// Computes recall at each of `k` of `images`, `[n, dim]`, and `texts`, `[m, dim]`, both of unit length. `owners` tells
/// which image each text belongs to.
///
/// Of equal similarities a match counts as the last, so that features that are all the same find nothing.
///
/// # Errors
/// Numbers of images that are not there, or images without text; features that cannot be compared.
pub fn recall(
    [images, texts]: [&[f32]; 2],
    dim: usize,
    owners: &[usize],
    k: &[usize],
    observer: &mut dyn Observer,
) -> Result<Recall> {
    let [n, m] = [images, texts].map(|features| features.len() / dim.max(1));
    check(owners, n, m)?;
    if k.is_empty() || k.contains(&0) {
        return Err(Error::Config(format!("k is {k:?}, expected numbers of 1 and more")));
    }
    let mut of_image: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (text, &image) in owners.iter().enumerate() {
        of_image[image].push(text);
    }
    let owned: Vec<Vec<usize>> = owners.iter().map(|&image| vec![image]).collect();
    let image_ranks = ranks(images, texts, dim, &of_image, observer)?;
    let text_ranks = ranks(texts, images, dim, &owned, observer)?;
    let shares = |ranks: &[usize]| -> Vec<f64> {
        let share = |&k: &usize| ranks.iter().filter(|&&rank| rank <= k).count() as f64 / ranks.len() as f64;
        k.iter().map(share).collect()
    };
    Ok(Recall {
        k: k.to_vec(),
        image_to_text: shares(&image_ranks),
        text_to_image: shares(&text_ranks),
        image_to_text_median_rank: median(image_ranks),
        text_to_image_median_rank: median(text_ranks),
    })
}

fn check(owners: &[usize], images: usize, texts: usize) -> Result<()> {
    if owners.len() != texts || texts == 0 {
        return Err(Error::Config(format!(
            "{texts} texts belong to {} images: expected one number of an image for each text, and at least one text",
            owners.len()
        )));
    }
    let mut has_text = vec![false; images];
    for (text, &image) in owners.iter().enumerate() {
        match has_text.get_mut(image) {
            Some(has) => *has = true,
            None => {
                return Err(Error::Config(format!(
                    "text number {text} belongs to image number {image}, but there are {images} images"
                )));
            }
        }
    }
    match has_text.iter().position(|has| !has) {
        Some(image) => Err(Error::Config(format!("image number {image} has no text"))),
        None => Ok(()),
    }
}

/// Place of the first match of each query, from 1.
fn ranks(
    queries: &[f32],
    index: &[f32],
    dim: usize,
    matches: &[Vec<usize>],
    observer: &mut dyn Observer,
) -> Result<Vec<usize>> {
    threads::start()?;
    let rows = index.len() / dim;
    let mut ranks = Vec::with_capacity(matches.len());
    similarities(queries, index, dim, observer, |first, scores| {
        let of_part: Range<usize> = first..first + scores.len() / rows;
        let rank = |(own, scores): (&Vec<usize>, &[f32])| {
            let best = own.iter().map(|&i| scores[i]).fold(f32::NEG_INFINITY, f32::max);
            let at_least = scores.iter().filter(|score| **score >= best).count();
            let own_at_least = own.iter().filter(|&&i| scores[i] >= best).count();
            at_least - own_at_least + 1
        };
        ranks.par_extend(matches[of_part].par_iter().zip(scores.par_chunks(rows)).map(rank));
    })?;
    Ok(ranks)
}

fn median(mut ranks: Vec<usize>) -> f64 {
    ranks.sort_unstable();
    let middle = ranks.len() / 2;
    if ranks.len().is_multiple_of(2) {
        (ranks[middle - 1] + ranks[middle]) as f64 / 2.0
    } else {
        ranks[middle] as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    const AXES: [f32; 9] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];

    fn run(images: &[f32], texts: &[f32], owners: &[usize], k: &[usize]) -> Result<Recall> {
        recall([images, texts], 3, owners, k, &mut Silent)
    }

    #[test]
    fn the_first_match_counts_in_both_directions() {
        // The text of image 0 looks like image 1.
        let texts = [0.1, 1.0, 0.0, 0.0, 0.9, 0.2, 0.0, 0.0, 1.0];
        let recall = run(&AXES, &texts, &[0, 1, 2], &[1, 2]).unwrap();
        assert_eq!(recall.text_to_image, [2.0 / 3.0, 1.0]);
        assert_eq!(recall.image_to_text, [2.0 / 3.0, 1.0]);
        assert_eq!(recall.text_to_image_median_rank.to_bits(), 1.0_f64.to_bits());
    }

    #[test]
    fn several_texts_of_an_image_do_not_compete() {
        let texts = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let recall = run(&AXES, &texts, &[0, 0, 1, 2], &[1]).unwrap();
        assert_eq!((recall.image_to_text[0], recall.text_to_image[0]), (1.0, 1.0));
    }

    #[test]
    fn equal_features_find_nothing() {
        let same = [1.0, 0.0, 0.0].repeat(3);
        let recall = run(&same, &same, &[0, 1, 2], &[1, 3]).unwrap();
        assert_eq!((recall.image_to_text, recall.text_to_image), (vec![0.0, 1.0], vec![0.0, 1.0]));
    }

    #[test]
    fn misfits_are_refused() {
        let error = |owners: &[usize], k: &[usize]| run(&AXES, &AXES, owners, k).unwrap_err().to_string();
        assert!(error(&[0, 1], &[1]).contains("one number of an image for each text"));
        assert!(error(&[0, 1, 3], &[1]).contains("image number 3, but there are 3"));
        assert!(error(&[0, 1, 1], &[1]).contains("image number 2 has no text"));
        assert!(error(&[0, 1, 2], &[0]).contains("k is [0]"));
    }
}
