//! What a file tells of the model besides its sizes: name, licence, origin.

use super::config::Card;
use crate::Result;
use crate::io::gguf::{Array, Metadata, Strings, Value};

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
