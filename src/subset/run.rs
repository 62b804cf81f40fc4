//! Choosing and storing a subset.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::config::{RowFormat, SubsetConfig};
use crate::calibrate::embed_rows;
use crate::data::{
    Labels, Sample, SourceFiles, Tokenizer, coverage, encode_rows, facility_location, read_rows_and_json,
    tokens_file,
};
use crate::io::atomic;
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder, required};
use crate::models::Model;
use crate::progress::Observer;
use crate::{Error, Result, files};

/// Files of the chosen rows, by format.
const RESULTS: [&str; 2] = ["train.jsonl", "train.safetensors"];

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Number of rows of the data.
    pub rows: usize,
    /// Number of rows that were chosen.
    pub chosen: usize,
    /// Number of tokens of the data.
    pub tokens: usize,
    /// Number of tokens of the chosen rows.
    pub chosen_tokens: usize,
    /// Mean over all rows of the cosine similarity to the chosen row that is most similar.
    pub coverage: f64,
    /// Seconds it took.
    pub seconds: f64,
    /// File of the chosen rows.
    pub output: PathBuf,
}

/// Chooses rows as `config` says, with the hidden states of `model`, and stores them in the order they had; held-out
/// splits of a folder are copied.
///
/// # Errors
/// Invalid settings; data that cannot be read or used, or are too few; an output folder that cannot be written;
/// [`Error::Interrupted`].
pub fn run(
    model: &Model,
    tokenizer: &Tokenizer,
    config: &SubsetConfig,
    observer: &mut dyn Observer,
) -> Result<Report> {
    config.validate()?;
    let begin = Instant::now();
    let data = config.data.as_deref().ok_or_else(|| Error::Config("data is not set".into()))?;
    let folder = required(config.output.as_deref())?;
    check_output(config)?;
    let source = SourceFiles::find(Path::new(data))?;
    let (rows, json) = read_rows_and_json(&source.train, &config.parsed_columns()?)?;
    if json.is_empty() && config.format == RowFormat::Jsonl {
        return Err(Error::Config(format!(
            "{} holds token ids, which cannot be stored as jsonl: set format tokens (--format tokens)",
            source.train.display()
        )));
    }
    let count = (rows.len() as f64 * config.fraction).round() as usize;
    if count == 0 {
        return Err(Error::Dataset(format!(
            "{} has {} rows, too few for a fraction of {}: not one row would be chosen",
            source.train.display(),
            rows.len(),
            config.fraction
        )));
    }
    let samples = encode_rows(&rows, tokenizer, Labels::Completions)?;
    let ids: Vec<&[u32]> = samples.iter().map(|sample| sample.ids.as_slice()).collect();
    let embeddings = embed_rows(model, &ids, observer)?;
    let mut chosen = facility_location(&embeddings, count, config.seed)?;
    let coverage = coverage(&embeddings, &chosen);
    chosen.sort_unstable();
    let held_out = [source.valid, source.test].into_iter().flatten();
    let held_out: Vec<(PathBuf, String)> = held_out
        .filter_map(|file| {
            let name = file.file_name()?.to_str()?.to_owned();
            Some((file, name))
        })
        .collect();
    let results: Vec<&str> =
        RESULTS.into_iter().chain(held_out.iter().map(|(_, name)| name.as_str())).collect();
    let output = OutputFolder::open(folder, &results, CHECKPOINTS, if_exists(config))?;
    for (file, name) in &held_out {
        let to = output.folder().join(name);
        let mut from = files::open(file).map_err(Error::io("read", file))?;
        atomic::write(&to, |file| io::copy(&mut from, file).map(drop))?;
    }
    let [jsonl, packed] = RESULTS.map(|name| output.folder().join(name));
    let path = match config.format {
        RowFormat::Jsonl => {
            let lines = chosen.iter().map(|&row| format!("{}\n", json[row]));
            atomic::write_text(&jsonl, &lines.collect::<String>())?;
            jsonl
        }
        RowFormat::Tokens => {
            let chosen: Vec<Sample> = chosen.iter().map(|&row| samples[row].clone()).collect();
            let bytes = tokens_file(&chosen, tokenizer)?;
            atomic::write(&packed, |file| io::Write::write_all(file, &bytes))?;
            packed
        }
    };
    Ok(Report {
        rows: rows.len(),
        chosen: chosen.len(),
        tokens: samples.iter().map(Sample::len).sum(),
        chosen_tokens: chosen.iter().map(|&row| samples[row].len()).sum(),
        coverage,
        seconds: begin.elapsed().as_secs_f64(),
        output: path,
    })
}

/// Checks whether the output folder is free, before a model is loaded.
///
/// # Errors
/// A folder that holds training rows or a run, unless `overwrite` is set; the folder of the data.
pub fn check_output(config: &SubsetConfig) -> Result<()> {
    let folder = required(config.output.as_deref())?;
    let same = |data: &str| {
        let data = fs::canonicalize(data);
        let parent = data.as_ref().ok().and_then(|data| data.parent().map(Path::to_owned));
        fs::canonicalize(folder).is_ok_and(|folder| [data.ok(), parent].contains(&Some(folder)))
    };
    if config.data.as_deref().is_some_and(same) {
        return Err(Error::Config(format!("output is the folder of the data, {}", folder.display())));
    }
    OutputFolder::check(folder, &RESULTS, CHECKPOINTS, if_exists(config))
}

fn if_exists(config: &SubsetConfig) -> IfExists {
    IfExists::from_settings(false, config.overwrite)
}
