//! Writing settings down in both formats.

use serde_json::{Value, json};

use super::processor::ImageProcessor;
use super::resample::Filter;
use super::settings::Resize;

impl ImageProcessor {
    /// The `preprocessor_config.json` of Hugging Face.
    #[must_use]
    pub fn to_hugging_face(&self, is_siglip: bool) -> Value {
        let settings = &self.settings;
        let size = match settings.resize {
            Resize::Shortest(side) => json!({ "shortest_edge": side }),
            Resize::Square(side) => json!({ "height": side, "width": side }),
        };
        let resample = match settings.filter {
            Filter::Bilinear => 2,
            Filter::Lanczos => 1,
            Filter::Bicubic => 3,
        };
        let name = if is_siglip { "SiglipImageProcessor" } else { "CLIPImageProcessor" };
        let crops = matches!(settings.resize, Resize::Shortest(_));
        json!({
            "image_processor_type": name,
            "do_convert_rgb": true,
            "do_resize": true,
            "size": size,
            "resample": resample,
            "do_center_crop": crops,
            "crop_size": {"height": settings.size, "width": settings.size},
            "do_rescale": true,
            "rescale_factor": settings.rescale,
            "do_normalize": true,
            "image_mean": settings.mean,
            "image_std": settings.std,
        })
    }

    /// The `preprocess_cfg` of `open_clip`.
    #[must_use]
    pub fn to_open_clip(&self) -> Value {
        let settings = &self.settings;
        let interpolation = if settings.filter == Filter::Bilinear { "bilinear" } else { "bicubic" };
        let mode = if matches!(settings.resize, Resize::Square(_)) { "squash" } else { "shortest" };
        json!({
            "mean": settings.mean, "std": settings.std, "interpolation": interpolation, "resize_mode": mode,
        })
    }
}
