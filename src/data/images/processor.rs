//! Resizing, cropping and normalizing.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use super::decode::{Pixels, read};
use super::resample::resize;
use super::settings::{Resize, Settings};
use crate::{Error, Result, files, threads};

/// Files that describe preprocessing, and the key within; the first that is there counts.
const FILES: [(&str, Option<&str>); 2] =
    [("preprocessor_config.json", None), ("processor_config.json", Some("image_processor"))];

const OPEN_CLIP: (&str, &str) = ("open_clip_config.json", "preprocess_cfg");

/// Makes the inputs of a vision model from images.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    pub(super) settings: Settings,
}

/// Where an image comes from.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// A file.
    File(PathBuf),
    /// Decoded pixels.
    Pixels(Pixels),
}

impl ImageProcessor {
    /// Reads the preprocessing of the model in `folder`, which takes images of `size` pixels. A folder that does not
    /// describe it has that of its architecture.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] with the file and the key that is wrong.
    pub fn from_folder(folder: &Path, size: u32, is_siglip: bool) -> Result<Self> {
        let parse = |name: &str, read: &dyn Fn(&Value) -> Result<Settings>| {
            let path = folder.join(name);
            let named = |why: String| Error::ModelLoading(format!("{}: {why}", path.display()));
            let text =
                files::read_to_string(&path, files::MAX_JSON).map_err(|error| named(error.to_string()))?;
            let json: Value =
                serde_json::from_str(&text).map_err(|error| named(format!("not valid JSON: {error}")))?;
            read(&json).map(|settings| Self { settings }).map_err(|error| named(error.to_string()))
        };
        for (name, key) in FILES {
            if folder.join(name).is_file() {
                return parse(name, &|json| {
                    let json = key.map_or(json, |key| &json[key]);
                    Settings::hugging_face(json, size, is_siglip)
                });
            }
        }
        let (name, key) = OPEN_CLIP;
        if folder.join(name).is_file() {
            return parse(name, &|json| Settings::open_clip(&json[key], size));
        }
        Ok(Self { settings: Settings::default_for(size, is_siglip) })
    }

    /// Side of the result in pixels.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.settings.size
    }

    /// → normalized pixels, `[images, size, size, 3]`.
    ///
    /// # Errors
    /// The first image that cannot be read, by its path or its number.
    pub fn process(&self, sources: &[ImageSource]) -> Result<Vec<f32>> {
        threads::start()?;
        let len = self.settings.size as usize * self.settings.size as usize * 3;
        let mut values = vec![0.0; sources.len() * len];
        let images = sources.par_iter().zip(values.par_chunks_exact_mut(len)).enumerate();
        images.try_for_each(|(i, (source, values))| match source {
            ImageSource::File(path) => self.process_one(&read(path)?, values),
            ImageSource::Pixels(pixels) => self
                .process_one(pixels, values)
                .map_err(|error| Error::Dataset(format!("image number {i}: {error}"))),
        })?;
        Ok(values)
    }

    /// Fills `values`, `[size, size, 3]`.
    fn process_one(&self, pixels: &Pixels, values: &mut [f32]) -> Result<()> {
        let size = self.settings.size;
        let resized = self.resize(pixels)?;
        let corner = |side: u32| {
            let spare = side - size;
            // Half of an odd number is rounded to an even one.
            if self.settings.rounds_crop { spare / 2 + (spare % 4) / 3 } else { spare / 2 }
        };
        let (left, top) = (corner(resized.width) as usize, corner(resized.height) as usize);
        let Settings { rescale, mean, std, .. } = self.settings;
        let scale = std.map(|std| rescale / std);
        let shift: [f32; 3] = std::array::from_fn(|c| -mean[c] / std[c]);
        let (width, row) = (resized.width as usize * 3, size as usize * 3);
        for (y, values) in values.chunks_exact_mut(row).enumerate() {
            let pixels = &resized.data[(top + y) * width + left * 3..][..row];
            for (values, pixel) in values.chunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
                for c in 0..3 {
                    values[c] = f32::from(pixel[c]).mul_add(scale[c], shift[c]);
                }
            }
        }
        Ok(())
    }

    fn resize(&self, pixels: &Pixels) -> Result<Pixels> {
        let (width, height) = match self.settings.resize {
            Resize::Square(side) => (side, side),
            Resize::Shortest(side) => {
                let (short, long) = (pixels.width.min(pixels.height), pixels.width.max(pixels.height));
                let long = u64::from(side) * u64::from(long) / u64::from(short);
                let long = u32::try_from(long).ok().filter(|long| *long <= 1 << 20).ok_or_else(|| {
                    Error::Dataset(format!(
                        "an image of {}×{} pixels is too narrow to be resized; crop it",
                        pixels.width, pixels.height
                    ))
                })?;
                if pixels.width <= pixels.height { (side, long) } else { (long, side) }
            }
        };
        resize(pixels, width, height, self.settings.filter)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gray(width: u32, height: u32, value: u8) -> ImageSource {
        ImageSource::Pixels(Pixels::new(width, height, vec![value; (width * height * 3) as usize]).unwrap())
    }

    #[test]
    fn constant_images_keep_their_value_in_every_shape() {
        let processor = ImageProcessor { settings: Settings::default_for(8, true) };
        for (width, height) in [(8, 8), (5, 31), (64, 9)] {
            let values = processor.process(&[gray(width, height, 255)]).unwrap();
            assert!(values.len() == 192 && values.iter().all(|x| (x - 1.0).abs() < 1e-6));
        }
    }

    #[test]
    fn corners_of_the_crop_are_those_of_each_library() {
        // A ramp along x, of which the middle of eight columns is taken.
        for (width, rounds, first) in
            [(9, false, 0), (9, true, 0), (11, false, 1), (11, true, 2), (10, true, 1)]
        {
            let settings = Settings {
                rounds_crop: rounds,
                rescale: 1.0,
                mean: [0.0; 3],
                std: [1.0; 3],
                ..Settings::default_for(8, false)
            };
            let data = (0..8 * width).flat_map(|i| [(i % width) as u8; 3]).collect();
            let ramp = ImageSource::Pixels(Pixels::new(width, 8, data).unwrap());
            let values = ImageProcessor { settings }.process(&[ramp]).unwrap();
            assert_eq!(values[0].to_bits(), (first as f32).to_bits(), "{width} {rounds}");
        }
    }

    #[test]
    fn settings_come_from_the_files_of_both_formats() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str, json: &Value| {
            let path = folder.path().join(name);
            std::fs::write(&path, json.to_string()).unwrap();
            let outcome = ImageProcessor::from_folder(folder.path(), 32, false);
            std::fs::remove_file(path).unwrap();
            outcome.map(|processor| processor.settings).map_err(|error| error.to_string())
        };
        let old =
            read("preprocessor_config.json", &json!({"size": 64, "crop_size": 32, "resample": 2})).unwrap();
        assert_eq!((old.resize, old.size, old.rounds_crop), (Resize::Shortest(64), 32, false));
        let new = json!({"image_processor": {"size": {"height": 9, "width": 9}, "image_mean": [0, 0, 1]}});
        let new = read("processor_config.json", &new).unwrap();
        assert_eq!((new.resize, new.mean), (Resize::Square(32), [0.0, 0.0, 1.0]));
        let open = json!({"preprocess_cfg": {"std": [1, 2, 3]}});
        let open = read("open_clip_config.json", &open).unwrap();
        assert_eq!((open.resize, open.std, open.rounds_crop), (Resize::Shortest(32), [1.0, 2.0, 3.0], true));
        for (json, reason) in [
            (json!({"size": {"height": 9, "width": 8}}), "\"size\" is"),
            (json!({"size": 8, "crop_size": 9}), "larger than the resized image"),
            (json!({"image_std": [0, 1, 1]}), "above 0"),
            (json!({"image_mean": [1, 1]}), "expected three numbers"),
            (json!({"resample": 7}), "\"resample\" is 7"),
        ] {
            let error = read("preprocessor_config.json", &json).unwrap_err();
            assert!(error.contains("preprocessor_config.json") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let processor = ImageProcessor { settings: Settings::default_for(8, true) };
        let sources = [gray(8, 8, 0), ImageSource::File("nowhere/cat.png".into())];
        let error = processor.process(&sources).unwrap_err().to_string();
        assert!(error.contains("nowhere/cat.png"), "{error}");
        let narrow = processor_of_shortest().process(&[gray(1, 60_000, 0)]).unwrap_err().to_string();
        assert!(narrow.contains("image number 0") && narrow.contains("too narrow"), "{narrow}");
    }

    fn processor_of_shortest() -> ImageProcessor {
        ImageProcessor { settings: Settings::default_for(64, false) }
    }
}
