//! Decoding PNG, JPEG and WebP. Files are not trusted: sizes are checked before pixels are decoded.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits};

use crate::{Error, Result, files};

/// Largest file, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// Most pixels of an image, as many as Pillow decodes without a warning.
const MAX_PIXELS: u64 = 89_478_485;

/// Most bytes that a decoder may allocate: of pixels with four numbers of 16 bits, twice.
const MAX_ALLOCATION: u64 = MAX_PIXELS * 16;

/// An image of three bytes per pixel (RGB).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[height, width, 3]`.
    pub data: Vec<u8>,
}

impl Pixels {
    /// Checks that `data` are `[height, width, 3]`.
    ///
    /// # Errors
    /// Another number of bytes, or an empty image.
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Result<Self> {
        let expected = u64::from(width) * u64::from(height) * 3;
        if expected == 0 || data.len() as u64 != expected {
            return Err(Error::Dataset(format!(
                "an image of {width}×{height} pixels has {} bytes, expected {expected} (RGB)",
                data.len()
            )));
        }
        Ok(Self { width, height, data })
    }
}

/// Reads the image at `path`, turned as its EXIF orientation says; an alpha channel is dropped, as in Pillow.
///
/// # Errors
/// [`Error::Dataset`] with the path: a file that cannot be read, is truncated, damaged or of another format, or has too
/// many pixels.
pub(super) fn read(path: &Path) -> Result<Pixels> {
    files::guard(path, Error::Dataset, || {
        let named = |why: &dyn std::fmt::Display| Error::Dataset(format!("{}: {why}", path.display()));
        let bytes = files::read(path, MAX_BYTES).map_err(|error| named(&error))?;
        decode(&bytes).map_err(|error| named(&error))
    })
}

/// Decodes the contents of an image file; see [`read`].
///
/// # Errors
/// [`Error::Dataset`] without a name.
pub(super) fn decode(bytes: &[u8]) -> Result<Pixels> {
    let broken =
        |error: &dyn std::fmt::Display| Error::Dataset(format!("the image cannot be decoded ({error})"));
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| broken(&error))?;
    let format = reader.format();
    if !matches!(format, Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) {
        return Err(Error::Dataset("not an image in PNG, JPEG or WebP format".into()));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOCATION);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| broken(&error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Error::Dataset(format!(
            "the image has {width}×{height} pixels, more than {MAX_PIXELS}; make it smaller"
        )));
    }
    if format == Some(ImageFormat::Jpeg) && is_truncated_jpeg(bytes) {
        return Err(Error::Dataset("the JPEG file is truncated: it has no end marker".into()));
    }
    let orientation = decoder.orientation().map_err(|error| broken(&error))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| broken(&error))?;
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    Pixels::new(image.width(), image.height(), image.into_raw())
}

/// Whether the last scan has no end marker: the decoder fills what is missing with gray.
fn is_truncated_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    match (last(0xda), last(0xd9)) {
        (Some(scan), Some(end)) => end < scan,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageEncoder as _, RgbImage, RgbaImage};

    use super::*;

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let image = RgbImage::from_fn(7, 5, |x, y| image::Rgb([x as u8 * 30, y as u8 * 40, 90]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn formats_are_told_by_content() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let pixels = decode(&encoded(format)).unwrap();
            assert_eq!((pixels.width, pixels.height, pixels.data.len()), (7, 5, 105));
            assert!(pixels.data[2].abs_diff(90) < 8, "{format:?}: {}", pixels.data[2]);
        }
        assert!(decode(b"BM not one of them").unwrap_err().to_string().contains("PNG, JPEG or WebP"));
    }

    #[test]
    fn alpha_is_dropped_without_blending() {
        let image = RgbaImage::from_pixel(2, 2, image::Rgba([10, 20, 30, 0]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        assert_eq!(decode(&bytes.into_inner()).unwrap().data[..3], [10, 20, 30]);
    }

    #[test]
    fn truncated_files_are_refused() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let bytes = encoded(format);
            let error = decode(&bytes[..bytes.len() / 2]).unwrap_err();
            assert!(matches!(error, Error::Dataset(_)), "{format:?}: {error:?}");
        }
    }

    #[test]
    fn bombs_are_refused_before_they_are_decoded() {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder.write_image(&[0; 4], 2, 2, image::ExtendedColorType::L8).unwrap();
        // Width and height in the header, and its checksum.
        bytes[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        let error = decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("30000×30000 pixels"), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            (0..8)
                .fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1)))
        };
        !bytes.iter().fold(!0, step)
    }
}
