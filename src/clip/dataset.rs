//! Image–text pairs of a run.

use std::path::Path;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::config::ClipConfig;
use super::load::Processor;
use crate::data::{ImageTexts, read_image_texts};
use crate::rng::digest;
use crate::{Error, Result};

/// Images with the token ids of their texts.
#[derive(Debug, Clone)]
pub(super) struct Example {
    pub image: std::path::PathBuf,
    /// One row of token ids for each text.
    pub texts: Vec<Vec<u32>>,
}

/// Training and validation examples.
#[derive(Debug)]
pub(super) struct Dataset {
    pub train: Vec<Example>,
    pub valid: Vec<Example>,
    /// Texts that lost tokens.
    pub truncated: usize,
}

/// Numbers of a data set.
#[derive(Debug, Clone, Serialize)]
pub struct DataReport {
    /// Images to train on.
    pub train_images: usize,
    /// Texts of them.
    pub train_texts: usize,
    /// Images for validation.
    pub valid_images: usize,
    /// Texts of them.
    pub valid_texts: usize,
    /// Texts that are longer than the context and lose tokens.
    pub truncated_texts: usize,
    /// Texts of different training images that are equal, which count as negatives of each other.
    pub repeated_texts: usize,
}

impl Dataset {
    /// Reads the data that `config` names.
    ///
    /// # Errors
    /// Pairs that cannot be read, with file and position; fewer than two images to train on.
    pub(super) fn read(processor: &Processor, config: &ClipConfig) -> Result<Self> {
        let path = config.data.as_deref().ok_or_else(|| {
            Error::Config("data is missing: give a table of images and texts, or a folder of images".into())
        })?;
        let mut truncated = 0;
        let mut encode = |pairs: Vec<ImageTexts>| -> Result<Vec<Example>> {
            let example = |ImageTexts { image, texts }: ImageTexts| {
                let rows: Result<Vec<Vec<u32>>> = texts
                    .iter()
                    .map(|text| {
                        processor.texts.encode(text, false).or_else(|_| {
                            truncated += 1;
                            processor.texts.encode(text, true)
                        })
                    })
                    .collect();
                Ok(Example { image, texts: rows? })
            };
            pairs.into_iter().map(example).collect()
        };
        let mut train = encode(read_image_texts(Path::new(path))?)?;
        let valid = if let Some(path) = &config.validation_data {
            encode(read_image_texts(Path::new(path))?)?
        } else {
            train.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed));
            let count = (train.len() as f64 * config.validation_ratio).round() as usize;
            train.split_off(train.len() - count.min(train.len()))
        };
        if train.len() < 2 {
            return Err(Error::Dataset(format!(
                "{path}: {} images are left to train on, but each needs another one as a negative; lower \
                 validation_ratio or add images",
                train.len()
            )));
        }
        Ok(Self { train, valid, truncated })
    }

    pub(super) fn report(&self) -> DataReport {
        let texts = |examples: &[Example]| examples.iter().map(|example| example.texts.len()).sum();
        let mut all: Vec<&Vec<u32>> = self.train.iter().flat_map(|example| &example.texts).collect();
        all.sort_unstable();
        let repeated = all.windows(2).filter(|pair| pair[0] == pair[1]).count();
        DataReport {
            train_images: self.train.len(),
            train_texts: texts(&self.train),
            valid_images: self.valid.len(),
            valid_texts: texts(&self.valid),
            truncated_texts: self.truncated,
            repeated_texts: repeated,
        }
    }

    /// Identifies the training examples: their files by name and size, and their texts.
    pub(super) fn fingerprint(&self) -> String {
        let numbers = self.train.iter().flat_map(|Example { image, texts }| {
            let name =
                image.file_name().unwrap_or_default().as_encoded_bytes().iter().map(|byte| u64::from(*byte));
            let size = std::fs::metadata(image).map_or(0, |metadata| metadata.len());
            let ids = texts.iter().flatten().map(|id| u64::from(*id));
            name.chain([size]).chain(ids).collect::<Vec<_>>()
        });
        format!("{:016x}", digest(numbers))
    }
}
