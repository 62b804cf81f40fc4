//! `preprocessor_config.json` of Hugging Face and `preprocess_cfg` of `open_clip`.

use serde_json::Value;

use super::resample::Filter;
use crate::{Error, Result};

/// Mean and standard deviation of CLIP's training images.
const CLIP: [[f32; 3]; 2] =
    [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]];

/// Those of `SigLIP`, which map to -1 … 1.
const SIGLIP: [[f32; 3]; 2] = [[0.5; 3], [0.5; 3]];

/// The size that images are resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resize {
    /// Of the shorter side; the middle is cropped then.
    Shortest(u32),
    /// Of both sides.
    Square(u32),
}

/// How images are preprocessed.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) resize: Resize,
    pub(super) filter: Filter,
    /// Side of the result.
    pub(super) size: u32,
    /// Factor of bytes.
    pub(super) rescale: f32,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
    /// Whether the corner of the crop is rounded to the nearest even pixel, as in torchvision, and not down.
    pub(super) rounds_crop: bool,
}

impl Settings {
    /// Settings of a folder without any. `is_siglip` tells the architecture.
    pub(super) fn default_for(size: u32, is_siglip: bool) -> Self {
        let [mean, std] = if is_siglip { SIGLIP } else { CLIP };
        let resize = if is_siglip { Resize::Square(size) } else { Resize::Shortest(size) };
        Self { resize, filter: Filter::Bicubic, size, rescale: 1.0 / 255.0, mean, std, rounds_crop: false }
    }

    /// Reads a `preprocessor_config.json`, for images of `size`.
    ///
    /// # Errors
    /// A value of the wrong type or out of range, by key.
    pub(super) fn hugging_face(json: &Value, size: u32, is_siglip: bool) -> Result<Self> {
        let mut settings = Self::default_for(size, is_siglip);
        let resized = side(json, "size")?;
        let cropped = if json["do_center_crop"] == false { None } else { side(json, "crop_size")? };
        settings.resize = match resized {
            Some(Resize::Square(_)) => Resize::Square(size),
            // The same proportion where the model takes another size.
            Some(Resize::Shortest(shortest)) => {
                let cropped =
                    cropped.map_or(shortest, |(Resize::Shortest(side) | Resize::Square(side))| side);
                if shortest < cropped {
                    return Err(Error::ModelLoading(format!(
                        "\"crop_size\" is {cropped}, which is larger than the resized image, {shortest}"
                    )));
                }
                let scaled = u64::from(shortest) * u64::from(size) / u64::from(cropped);
                Resize::Shortest(u32::try_from(scaled).unwrap_or(u32::MAX).min(1 << 15))
            }
            None => settings.resize,
        };
        settings.filter = match json["resample"].as_i64() {
            None | Some(3) => Filter::Bicubic,
            Some(2) => Filter::Bilinear,
            Some(1) => Filter::Lanczos,
            Some(other) => {
                return Err(Error::ModelLoading(format!(
                    "\"resample\" is {other}, expected 1 (Lanczos), 2 (bilinear) or 3 (bicubic)"
                )));
            }
        };
        if let Some(factor) = json["rescale_factor"].as_f64() {
            settings.rescale = factor as f32;
        }
        if json["do_rescale"] == false {
            settings.rescale = 1.0;
        }
        settings.mean = triple(json, "image_mean")?.unwrap_or(settings.mean);
        settings.std = triple(json, "image_std")?.unwrap_or(settings.std);
        if json["do_normalize"] == false {
            (settings.mean, settings.std) = ([0.0; 3], [1.0; 3]);
        }
        settings.check()
    }

    /// Reads the `preprocess_cfg` of an `open_clip_config.json`, for images of `size`.
    ///
    /// # Errors
    /// A value of the wrong type or out of range, by key.
    pub(super) fn open_clip(json: &Value, size: u32) -> Result<Self> {
        let mut settings = Self::default_for(size, false);
        settings.rounds_crop = true;
        settings.resize = match json["resize_mode"].as_str() {
            None | Some("shortest") => Resize::Shortest(size),
            Some("squash") => Resize::Square(size),
            Some(other) => {
                return Err(Error::ModelLoading(format!(
                    "\"resize_mode\" is \"{other}\", expected \"shortest\" or \"squash\""
                )));
            }
        };
        settings.filter = match json["interpolation"].as_str() {
            None | Some("bicubic" | "random") => Filter::Bicubic,
            Some("bilinear") => Filter::Bilinear,
            Some(other) => {
                return Err(Error::ModelLoading(format!(
                    "\"interpolation\" is \"{other}\", expected \"bicubic\" or \"bilinear\""
                )));
            }
        };
        settings.mean = triple(json, "mean")?.unwrap_or(settings.mean);
        settings.std = triple(json, "std")?.unwrap_or(settings.std);
        settings.check()
    }

    fn check(self) -> Result<Self> {
        let positive = |x: &f32| x.is_finite() && *x > 0.0;
        if !(self.std.iter().all(positive)
            && positive(&self.rescale)
            && self.mean.iter().all(|x| x.is_finite()))
        {
            return Err(Error::ModelLoading(format!(
                "images are normalized by the mean {:?}, the standard deviation {:?} and the factor {}: expected finite \
                 numbers, the latter two above 0",
                self.mean, self.std, self.rescale
            )));
        }
        Ok(self)
    }
}

/// The size under `key`: a number, `{"shortest_edge": …}` or `{"height": …, "width": …}`.
fn side(json: &Value, key: &str) -> Result<Option<Resize>> {
    let value = &json[key];
    let wrong = || {
        Error::ModelLoading(format!(
            "\"{key}\" is {value}, expected a number, {{\"shortest_edge\": …}} or a square of {{\"height\": …, \"width\": …}}"
        ))
    };
    let number = |value: &Value| {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.filter(|number| (1..=1 << 15).contains(number)).ok_or_else(wrong)
    };
    match value {
        Value::Null => Ok(None),
        Value::Number(_) => Ok(Some(Resize::Shortest(number(value)?))),
        Value::Object(fields) if fields.contains_key("shortest_edge") => {
            Ok(Some(Resize::Shortest(number(&value["shortest_edge"])?)))
        }
        Value::Object(_) if value["height"] == value["width"] => {
            Ok(Some(Resize::Square(number(&value["height"])?)))
        }
        _ => Err(wrong()),
    }
}

/// Three numbers under `key`.
fn triple(json: &Value, key: &str) -> Result<Option<[f32; 3]>> {
    let value = &json[key];
    if value.is_null() {
        return Ok(None);
    }
    let numbers: Option<Vec<f32>> =
        value.as_array().and_then(|list| list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
    let triple = numbers.and_then(|numbers| numbers.try_into().ok());
    triple
        .map(Some)
        .ok_or_else(|| Error::ModelLoading(format!("\"{key}\" is {value}, expected three numbers")))
}
