//! What a file tells of the model besides its sizes: name, licence, origin.

use std::path::Path;

use super::config::Card;
use crate::io::gguf::{Array, Metadata, Reader, Strings, Value};
use crate::{Error, Result};

/// What the GGUF file `path` tells of its model.
///
/// # Errors
/// A file that cannot be read; keys of another type.
pub fn read_card(path: &Path) -> Result<Card> {
    let reader = Reader::open(path)?;
    let metadata = reader.metadata();
    let text = |key: &str| Ok::<_, Error>(metadata.string(&format!("general.{key}"))?.map(str::to_owned));
    let texts = |key: &str| {
        let list = metadata.strings(&format!("general.{key}"))?;
        Ok::<Vec<String>, Error>(list.into_iter().flat_map(Strings::iter).map(str::to_owned).collect())
    };
    let mut base_models = Vec::new();
    while let Some(name) = text(&format!("base_model.{}.name", base_models.len()))? {
        let organization = text(&format!("base_model.{}.organization", base_models.len()))?;
        base_models.push(organization.map_or(name.clone(), |organization| format!("{organization}/{name}")));
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Card {
        name: text("name")?.unwrap_or(stem),
        license: text("license")?,
        license_name: text("license.name")?,
        license_link: text("license.link")?,
        base_models,
        tags: texts("tags")?,
        languages: texts("languages")?,
    })
}

/// Adds the keys `general.*` of `card`.
///
/// # Errors
/// Texts of more than 4 GB.
pub(super) fn describe(card: &Card, metadata: &mut Metadata) -> Result<()> {
    let mut put = |key: &str, text: &str| {
        metadata.insert(format!("general.{key}"), Value::String(text.to_owned()));
    };
    put("name", &card.name);
    let licence = [
        ("license", &card.license),
        ("license.name", &card.license_name),
        ("license.link", &card.license_link),
    ];
    for (key, text) in licence {
        if let Some(text) = text {
            put(key, text);
        }
    }
    for (number, id) in card.base_models.iter().enumerate() {
        let (organization, name) = id.split_once('/').unwrap_or(("", id));
        put(&format!("base_model.{number}.name"), name);
        if !organization.is_empty() {
            put(&format!("base_model.{number}.organization"), organization);
            put(&format!("base_model.{number}.repo_url"), &format!("https://huggingface.co/{id}"));
        }
    }
    if !card.base_models.is_empty() {
        metadata.insert("general.base_model.count", Value::U32(card.base_models.len() as u32));
    }
    for (key, texts) in [("tags", &card.tags), ("languages", &card.languages)] {
        if !texts.is_empty() {
            let mut list = Strings::default();
            texts.iter().try_for_each(|text| list.push(text))?;
            metadata.insert(format!("general.{key}"), Value::Array(Array::String(list)));
        }
    }
    Ok(())
}
