//! Images with texts, from files and folders.
//!
//! | source | pairs |
//! |---|---|
//! | `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` | a path under `image`, `file_name`, `filepath` or `path`, relative to the file, and one or several texts under `text`, `caption`, `captions` or `title` |
//! | a folder with `metadata.jsonl` or `metadata.csv` | those of that file |
//! | a folder with `cat.png` and `cat.txt` | the text beside each image |
//! | a folder of folders | the name of the folder of each image |

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::formats::read::read_objects;
use crate::data::rows::Position;
use crate::data::rows::located::error_at;
use crate::{Error, Result, files};

const IMAGE_KEYS: [&str; 5] = ["image", "file_name", "filepath", "path", "image_path"];
const TEXT_KEYS: [&str; 4] = ["text", "caption", "captions", "title"];

/// Descriptions of a folder, as in Hugging Face's `imagefolder`.
const METADATA: [&str; 5] =
    ["metadata.jsonl", "metadata.csv", "metadata.parquet", "captions.jsonl", "captions.csv"];

const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// Longest text beside an image, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// Folders within folders.
const MAX_DEPTH: usize = 16;

/// An image with its texts, of which there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTexts {
    /// The file.
    pub image: PathBuf,
    /// Descriptions of it.
    pub texts: Vec<String>,
}

/// Reads the image–text pairs at `path`.
///
/// # Errors
/// [`Error::Dataset`] with file and position: a row without image or text, an image without text, or no image at all.
pub fn read_image_texts(path: &Path) -> Result<Vec<ImageTexts>> {
    if !path.is_dir() {
        return read_table(path);
    }
    if let Some(metadata) = METADATA.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return read_table(&metadata);
    }
    let mut images = Vec::new();
    collect_images(path, 0, &mut images)?;
    if images.is_empty() {
        return Err(Error::Dataset(format!(
            "{}: there is no image (png, jpg, jpeg or webp) and no metadata.jsonl",
            path.display()
        )));
    }
    images.sort();
    images.into_iter().map(|image| beside(path, image)).collect()
}

fn read_table(path: &Path) -> Result<Vec<ImageTexts>> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let pairs = read_objects(path)?.into_iter().map(|(position, row)| parse(path, folder, position, &row));
    pairs.collect()
}

fn parse(path: &Path, folder: &Path, position: Position, row: &Value) -> Result<ImageTexts> {
    let wrong = |reason: String| error_at(path, position, &reason);
    let image = IMAGE_KEYS.iter().find_map(|key| row[*key].as_str()).filter(|image| !image.is_empty());
    let image = image
        .ok_or_else(|| wrong(format!("the row has no path of an image under {}", IMAGE_KEYS.join(", "))))?;
    let texts: Vec<String> = match TEXT_KEYS.iter().map(|key| &row[*key]).find(|value| !value.is_null()) {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => list.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    };
    let texts: Vec<String> = texts.into_iter().filter(|text| !text.trim().is_empty()).collect();
    if texts.is_empty() {
        return Err(wrong(format!("the image {image} has no text under {}", TEXT_KEYS.join(", "))));
    }
    Ok(ImageTexts { image: folder.join(image), texts })
}

fn collect_images(folder: &Path, depth: usize, images: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::Dataset(format!(
            "{}: folders are nested more than {MAX_DEPTH} times",
            folder.display()
        )));
    }
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.is_dir() {
            collect_images(&path, depth + 1, images)?;
        } else if is_image(&path) {
            images.push(path);
        }
    }
    Ok(())
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The text beside `image`, or else the name of its folder within `root`.
fn beside(root: &Path, image: PathBuf) -> Result<ImageTexts> {
    let file = image.with_extension("txt");
    if file.is_file() {
        let named = |why: &dyn std::fmt::Display| Error::Dataset(format!("{}: {why}", file.display()));
        let text = files::read_to_string(&file, MAX_TEXT).map_err(|error| named(&error))?;
        let text = text.trim();
        if text.is_empty() {
            return Err(named(&"the file is empty, but it is the text of an image"));
        }
        return Ok(ImageTexts { image, texts: vec![text.to_owned()] });
    }
    let class = image.parent().filter(|folder| *folder != root).and_then(Path::file_name);
    match class.and_then(|name| name.to_str()) {
        Some(class) => Ok(ImageTexts { texts: vec![class.replace('_', " ")], image }),
        None => Err(Error::Dataset(format!(
            "{}: the image has no text: put it into {}, or name it in metadata.jsonl",
            image.display(),
            file.file_name().unwrap_or_default().to_string_lossy()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn touch(folder: &Path, name: &str, text: &str) {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::write(folder.join(name), text).unwrap();
    }

    fn names(pairs: &[ImageTexts], folder: &Path) -> Vec<(String, Vec<String>)> {
        let relative = |image: &Path| image.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        pairs.iter().map(|pair| (relative(&pair.image), pair.texts.clone())).collect()
    }

    #[test]
    fn every_source_gives_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        touch(root, "a/x.jsonl", "{\"image\": \"1.png\", \"caption\": [\"one\", \"uno\"]}\n");
        touch(root, "a/y.csv", "file_name,text\n2.jpg,two\n");
        touch(root, "b/1.png", "");
        touch(root, "b/1.txt", " one \n");
        touch(root, "c/big_cat/1.PNG", "");
        touch(root, "c/dog/2.webp", "");
        touch(root, "d/metadata.csv", "file_name,text\n1.png,from the table\n");
        touch(root, "d/2.png", "");
        let read = |name: &str| names(&read_image_texts(&root.join(name)).unwrap(), root);
        let pair =
            |image: &str, texts: &[&str]| (image.to_owned(), texts.iter().map(|t| (*t).to_owned()).collect());
        assert_eq!(read("a/x.jsonl"), [pair("a/1.png", &["one", "uno"])]);
        assert_eq!(read("a/y.csv"), [pair("a/2.jpg", &["two"])]);
        assert_eq!(read("b"), [pair("b/1.png", &["one"])]);
        assert_eq!(read("c"), [pair("c/big_cat/1.PNG", &["big cat"]), pair("c/dog/2.webp", &["dog"])]);
        assert_eq!(read("d"), [pair("d/1.png", &["from the table"])]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        touch(root, "a.jsonl", "{\"image\": \"1.png\", \"text\": \" \"}\n");
        touch(root, "b.jsonl", "{\"text\": \"x\"}\n");
        touch(root, "c/1.png", "");
        touch(root, "d/notes.md", "");
        touch(root, "e/1.png", "");
        touch(root, "e/1.txt", " ");
        for (name, reason) in [
            ("a.jsonl", "a.jsonl:1: the image 1.png has no text"),
            ("b.jsonl", "no path of an image under image, file_name"),
            ("c", "1.png: the image has no text: put it into 1.txt"),
            ("d", "there is no image"),
            ("e", "the file is empty"),
            ("none.jsonl", "none.jsonl"),
        ] {
            let error = read_image_texts(&root.join(name)).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
