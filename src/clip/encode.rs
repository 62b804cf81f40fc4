//! Features of images and texts, a batch at a time.

use mlx_rs::{Array, Dtype};

use super::load::Processor;
use crate::data::ImageSource;
use crate::models::clip::{Clip, normalized};
use crate::progress::Observer;
use crate::{Error, Result, kernels};

/// Features of images, `[images, dim]`, of unit length if `normalize`.
///
/// # Errors
/// An image that cannot be read, by its path or number; [`Error::Interrupted`].
pub fn encode_images(
    model: &Clip,
    processor: &Processor,
    images: &[ImageSource],
    batch_size: usize,
    normalize: bool,
    observer: &mut dyn Observer,
) -> Result<Vec<f32>> {
    let size = processor.images.size() as i32;
    let mut features = Vec::with_capacity(images.len() * model.dim() as usize);
    for batch in images.chunks(checked(batch_size)?) {
        stop_if_asked(observer)?;
        let pixels =
            Array::from_slice(&processor.images.process(batch)?, &[batch.len() as i32, size, size, 3]);
        features.extend(values(&model.image_features(&pixels)?, normalize)?);
    }
    Ok(features)
}

/// Features of normalized images, `pixels`: `[images, 3, size, size]`, row-major.
///
/// # Errors
/// Images of another size than the model's; [`Error::Interrupted`].
pub fn encode_pixels(
    model: &Clip,
    pixels: &[f32],
    shape: [usize; 4],
    batch_size: usize,
    normalize: bool,
    observer: &mut dyn Observer,
) -> Result<Vec<f32>> {
    let side = model.image_size() as usize;
    let [count, channels, height, width] = shape;
    if [channels, height, width] != [3, side, side] {
        return Err(Error::Config(format!(
            "images have the shape {shape:?}, expected [n, 3, {side}, {side}]; pass paths, PIL images or uint8 arrays \
             [n, height, width, 3] to have them resized, or load the model with image_size"
        )));
    }
    let mut features = Vec::with_capacity(count * model.dim() as usize);
    for batch in pixels.chunks(checked(batch_size)? * 3 * side * side) {
        stop_if_asked(observer)?;
        let side = side as i32;
        let images = Array::from_slice(batch, &[(batch.len() as i32) / (3 * side * side), 3, side, side]);
        let images = images.transpose_axes(&[0, 2, 3, 1])?;
        features.extend(values(&model.image_features(&images)?, normalize)?);
    }
    Ok(features)
}

/// Features of texts, `[rows, dim]`; `ids` are row-major `[rows, length]`.
///
/// # Errors
/// Ids that the model does not have, or rows longer than its context; [`Error::Interrupted`].
pub fn encode_texts(
    model: &Clip,
    ids: &[u32],
    rows: usize,
    batch_size: usize,
    normalize: bool,
    observer: &mut dyn Observer,
) -> Result<Vec<f32>> {
    let mut features = Vec::with_capacity(rows * model.dim() as usize);
    if rows == 0 {
        return Ok(features);
    }
    let length = ids.len() / rows;
    // Says so if the rows are empty.
    model.text_batch(&ids[..length], 1)?;
    for batch in ids.chunks(checked(batch_size)?.saturating_mul(length)) {
        stop_if_asked(observer)?;
        let texts = model.text_batch(batch, batch.len() / length)?;
        features.extend(values(&model.text_features(&texts)?, normalize)?);
    }
    Ok(features)
}

fn checked(batch_size: usize) -> Result<usize> {
    match batch_size {
        0 => Err(Error::Config("batch_size is 0, expected 1 or more".into())),
        size => Ok(size),
    }
}

fn stop_if_asked(observer: &mut dyn Observer) -> Result<()> {
    if observer.poll().is_break() { Err(Error::Interrupted) } else { Ok(()) }
}

fn values(features: &Array, normalize: bool) -> Result<Vec<f32>> {
    let features = if normalize { normalized(features)? } else { features.as_dtype(Dtype::Float32)? };
    let features = features.contiguous()?;
    kernels::eval([&features])?;
    Ok(features.as_slice::<f32>().to_vec())
}
