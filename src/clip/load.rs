//! Models with what prepares their inputs.

use std::path::Path;

use mlx_rs::Dtype;

use crate::adapters::{self, StoredAdapter};
use crate::data::{CaptionTokenizer, ImageProcessor};
use crate::models::clip::{self, Clip, Interpolation, Kind, open_clip};
use crate::{Error, Result};

/// Prepares images and texts for a model.
#[derive(Debug, Clone)]
pub struct Processor {
    /// Of images.
    pub images: ImageProcessor,
    /// Of texts.
    pub texts: CaptionTokenizer,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadConfig {
    /// Number format of weights; `None` for that of the checkpoint.
    pub dtype: Option<Dtype>,
    /// Side of images in pixels; `None` for that of the checkpoint.
    pub image_size: Option<i32>,
    /// How position embeddings are interpolated for another size.
    pub interpolation: Interpolation,
}

/// Loads the model in `folder` with its processor.
///
/// # Errors
/// A folder that is not such a model; a file that is missing or not valid, by name; an image size out of range.
pub fn load(folder: &Path, config: &LoadConfig) -> Result<(Clip, Processor)> {
    let mut model = clip::load(folder, config.dtype)?;
    if let Some(image_size) = config.image_size {
        model.set_image_size(image_size, config.interpolation)?;
    }
    let size = model.image_size().unsigned_abs();
    let images = ImageProcessor::from_folder(folder, size, model.kind() == Kind::Siglip)?;
    let context = model.context().unsigned_abs() as usize;
    let texts = CaptionTokenizer::from_folder(folder, context, open_clip::is_folder(folder))?;
    Ok((model, Processor { images, texts }))
}

/// Attaches the adapter in `folder`, in the format of PEFT or mlx-lm.
///
/// # Errors
/// A folder that is no adapter; one that does not fit the model, or is not of low rank.
pub fn load_adapter(folder: &Path, model: &mut Clip) -> Result<()> {
    let adapter = match adapters::read(folder, Some(model))?.0 {
        StoredAdapter::LowRank(adapter) => adapter,
        StoredAdapter::Prompt(_) | StoredAdapter::Full(_) => {
            return Err(Error::ModelLoading(format!(
                "{} holds no low-rank adapter, which is all that image–text models can have",
                folder.display()
            )));
        }
    };
    let misfit =
        |problem| Error::ModelLoading(format!("{} does not fit the model: {problem}", folder.display()));
    adapter.check(model).and_then(|()| adapter.attach(model)).map_err(misfit)
}
