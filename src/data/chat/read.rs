//! Where checkpoints keep their chat templates.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::renderer::Renderer;
use super::template::{ChatTemplate, DEFAULT};
use crate::{Error, Result, files as reading};

const CONFIG: &str = "tokenizer_config.json";
const FILE: &str = "chat_template.jinja";
/// Largest template that is read, in bytes; real ones have a few ten thousand.
const MAX_BYTES: u64 = 4 << 20;
/// Folder of further templates; the names of the files are those of the templates.
const ADDITIONAL: &str = "additional_chat_templates";

impl ChatTemplate {
    /// Reads the templates of a checkpoint: `chat_template.jinja` and `additional_chat_templates/*.jinja`, or else
    /// `chat_template` in `config`, the content of `tokenizer_config.json`, a string or a list of `{"name", "template"}`.
    /// Templates see `special_tokens`, such as `bos_token`.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] if templates have names, but none is `default`; [`Error::Io`].
    pub(in crate::data) fn read(
        folder: &Path,
        config: &Value,
        special_tokens: Map<String, Value>,
        renderer: &Arc<dyn Renderer>,
    ) -> Result<Option<Self>> {
        let (file, sources) = match from_files(folder)? {
            sources if sources.is_empty() => (folder.join(CONFIG), from_config(&config["chat_template"])),
            sources => (folder.join(FILE), Some(sources)),
        };
        match sources {
            None => Ok(None),
            Some(sources) if !sources.contains_key(DEFAULT) => Err(Error::ModelLoading(format!(
                "{}: no chat template is named \"{DEFAULT}\"",
                file.display()
            ))),
            Some(sources) => Ok(Some(Self::new(file, sources, special_tokens, Arc::clone(renderer)))),
        }
    }
}

fn from_files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = vec![(DEFAULT.to_owned(), folder.join(FILE))];
    let additional = folder.join(ADDITIONAL);
    if additional.is_dir() {
        for entry in fs::read_dir(&additional).map_err(Error::io("read", &additional))? {
            let path: PathBuf = entry.map_err(Error::io("read", &additional))?.path();
            if let (Some(name), Some("jinja")) =
                (path.file_stem().and_then(|name| name.to_str()), path.extension().and_then(|it| it.to_str()))
            {
                files.push((name.to_owned(), path));
            }
        }
    }
    files.retain(|(_, path)| path.exists());
    let read = |(name, path): (String, PathBuf)| {
        reading::read_to_string(&path, MAX_BYTES)
            .map(|source| (name, source))
            .map_err(Error::io("read", &path))
    };
    files.into_iter().map(read).collect()
}

fn from_config(value: &Value) -> Option<BTreeMap<String, String>> {
    match value {
        Value::String(source) => Some(BTreeMap::from([(DEFAULT.to_owned(), source.clone())])),
        Value::Array(named) => {
            let pair = |entry: &Value| {
                Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()))
            };
            Some(named.iter().filter_map(pair).collect())
        }
        _ => None,
    }
}
