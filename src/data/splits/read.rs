//! Reads the training, validation and test splits of a dataset.

use std::path::{Path, PathBuf};

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::sources::{self, Source};
use crate::data::formats::read::EXTENSIONS;
use crate::data::formats::read_rows;
use crate::data::rows::{Columns, LocatedRow};
use crate::{Error, Result};

/// Names of the validation split.
const VALIDATION: [&str; 3] = ["valid", "validation", "dev"];

/// Maximum number of rows held out for validation.
const MAX_HELD_OUT_ROWS: usize = 500;

/// Stream of the random generator for the held-out rows; those of epochs count up from 0.
const HOLD_OUT_STREAM: u64 = u64::MAX;

/// The splits of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits<Train = LocatedRow> {
    /// Training rows; never empty.
    pub train: Vec<Train>,
    /// Validation rows; empty only if the dataset is a single row.
    pub valid: Vec<LocatedRow>,
    /// Test rows; may be empty.
    pub test: Vec<LocatedRow>,
}

impl<Train> Default for Splits<Train> {
    fn default() -> Self {
        Self { train: Vec::new(), valid: Vec::new(), test: Vec::new() }
    }
}

/// Reads the datasets that `data` names: a folder with `train.jsonl` and optionally `valid.jsonl` (or
/// `validation.jsonl`, `dev.jsonl`) and `test.jsonl` (or other [formats](crate::data::formats)), a single file, which
/// is the training split, or a comma-separated list of these. Each may have a suffix `=weight`: how many times its
/// training rows occur per epoch.
///
/// Without a validation file, 10 % of the training rows (at least 1, at most 500), drawn with `seed`, are held out
/// for validation. A dataset of a single row keeps it for training.
///
/// # Errors
/// [`Error::Dataset`] with the path if there is no training file; the errors of [`read_rows`].
pub fn read_splits(data: &str, columns: &Columns, seed: u64) -> Result<Splits> {
    read_splits_with(&mut InMemory(columns), data, columns, seed)
}

/// How training rows are read: into memory, or as offsets into files.
pub(in crate::data) trait TrainingRowReader {
    /// What represents a row.
    type Row: Clone;

    /// Reads the rows of a file, in order.
    fn read(&mut self, file: &Path) -> Result<Vec<Self::Row>>;

    /// Loads rows into memory.
    fn load(&mut self, rows: Vec<Self::Row>) -> Result<Vec<LocatedRow>>;
}

/// Reads all rows into memory.
struct InMemory<'a>(&'a Columns);

impl TrainingRowReader for InMemory<'_> {
    type Row = LocatedRow;

    fn read(&mut self, file: &Path) -> Result<Vec<LocatedRow>> {
        read_rows(file, self.0)
    }

    fn load(&mut self, rows: Vec<LocatedRow>) -> Result<Vec<LocatedRow>> {
        Ok(rows)
    }
}

/// Like [`read_splits`], but training rows are read by `training`.
pub(in crate::data) fn read_splits_with<T: TrainingRowReader>(
    training: &mut T,
    data: &str,
    columns: &Columns,
    seed: u64,
) -> Result<Splits<T::Row>> {
    let mut all = Splits::default();
    for (index, Source { path, weight }) in (0..).zip(sources::parse(data)?) {
        let splits = read_source(training, &path, columns, seed)?;
        all.train.extend(sources::resample(splits.train, weight, seed, index));
        all.valid.extend(splits.valid);
        all.test.extend(splits.test);
    }
    Ok(all)
}

fn read_source<T: TrainingRowReader>(
    training: &mut T,
    path: &Path,
    columns: &Columns,
    seed: u64,
) -> Result<Splits<T::Row>> {
    let files = SourceFiles::find(path)?;
    let held_out =
        |file: Option<PathBuf>| file.map_or_else(|| Ok(Vec::new()), |file| read_rows(&file, columns));
    let mut splits = Splits {
        train: training.read(&files.train)?,
        valid: held_out(files.valid)?,
        test: held_out(files.test)?,
    };
    if splits.valid.is_empty() {
        let (train, valid) = hold_out(splits.train, seed);
        (splits.train, splits.valid) = (train, training.load(valid)?);
    }
    Ok(splits)
}

/// The files of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFiles {
    /// Training rows.
    pub train: PathBuf,
    /// Validation rows.
    pub valid: Option<PathBuf>,
    /// Test rows.
    pub test: Option<PathBuf>,
}

impl SourceFiles {
    /// The files of the folder `path`, or of a dataset that is the file `path`.
    ///
    /// # Errors
    /// [`Error::Dataset`] with the path if there is no training file, or two files of one split.
    pub fn find(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let missing = || {
                Error::Dataset(format!(
                    "{}: no train.jsonl; a data folder holds train.jsonl and, if you like, valid.jsonl and test.jsonl \
                     (or {})",
                    path.display(),
                    EXTENSIONS[1..].join(", ")
                ))
            };
            let train = split_file(path, &["train"])?.ok_or_else(missing)?;
            return Ok(Self {
                train,
                valid: split_file(path, &VALIDATION)?,
                test: split_file(path, &["test"])?,
            });
        }
        if !path.exists() {
            return Err(Error::Dataset(format!("{}: no such file or folder", path.display())));
        }
        Ok(Self { train: path.to_owned(), valid: None, test: None })
    }
}

/// The file of the split with one of `names`, in any format.
fn split_file(folder: &Path, names: &[&str]) -> Result<Option<PathBuf>> {
    let mut files = names
        .iter()
        .flat_map(|name| EXTENSIONS.map(|extension| folder.join(format!("{name}.{extension}"))))
        .filter(|file| file.exists());
    match (files.next(), files.next()) {
        (Some(one), Some(other)) => Err(Error::Dataset(format!(
            "{} and {} are both there; which one holds the rows?",
            one.display(),
            other.display()
        ))),
        (file, _) => Ok(file),
    }
}

/// Splits rows into training and held-out rows, both in the order of the file.
fn hold_out<T>(rows: Vec<T>, seed: u64) -> (Vec<T>, Vec<T>) {
    let count = (rows.len() / 10).clamp(1, MAX_HELD_OUT_ROWS).min(rows.len().saturating_sub(1));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(HOLD_OUT_STREAM);
    let mut is_held_out = vec![false; rows.len()];
    is_held_out[..count].fill(true);
    is_held_out.shuffle(&mut rng);

    let mut held_out = is_held_out.into_iter();
    let (valid, train) = rows.into_iter().partition(|_| held_out.next() == Some(true));
    (train, valid)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::Row;
    use crate::data::rows::Position;

    fn read(path: &Path, seed: u64) -> Result<Splits> {
        read_splits(path.to_str().unwrap(), &Columns::default(), seed)
    }

    fn write(folder: &Path, name: &str, texts: &[&str]) {
        let lines: Vec<_> = texts.iter().map(|text| format!("{{\"text\":\"{text}\"}}\n")).collect();
        fs::write(folder.join(name), lines.concat()).unwrap();
    }

    fn texts(rows: &[LocatedRow]) -> Vec<&str> {
        rows.iter()
            .map(|row| match &row.row {
                Row::Text(text) => text.as_str(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_folder_gives_its_three_files() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "train.jsonl", &["a", "b"]);
        write(folder.path(), "valid.jsonl", &["c"]);
        write(folder.path(), "test.jsonl", &["d"]);
        let splits = read(folder.path(), 0).unwrap();
        assert_eq!(texts(&splits.train), ["a", "b"]);
        assert_eq!(texts(&splits.valid), ["c"]);
        assert_eq!(texts(&splits.test), ["d"]);
        assert_eq!(splits.train[1].position, Position::Line(2));
        assert_eq!(&*splits.train[1].path, folder.path().join("train.jsonl"));
    }

    #[test]
    fn a_file_is_the_training_set_and_gives_rows_to_validation() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "notes.jsonl", &["a", "b", "c"]);
        let splits = read(&folder.path().join("notes.jsonl"), 1).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (2, 1, 0));
    }

    #[test]
    fn several_sources_are_mixed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.jsonl", &["a"]);
        fs::write(folder.path().join("b.csv"), "body\nb\nb\n").unwrap();
        fs::create_dir(folder.path().join("c")).unwrap();
        write(&folder.path().join("c"), "train.jsonl", &["c", "d"]);
        write(&folder.path().join("c"), "valid.jsonl", &["e"]);
        let at = |name: &str| folder.path().join(name).display().to_string();
        let data = format!("{}=3,{}", at("a.jsonl"), at("c"));
        let splits = read_splits(&data, &Columns::default(), 0).unwrap();
        assert_eq!((texts(&splits.train), texts(&splits.valid)), (vec!["a", "a", "a", "c", "d"], vec!["e"]));
        let columns = Columns::parse(&["text=body".to_owned()]).unwrap();
        assert_eq!(read_splits(&at("b.csv"), &columns, 0).unwrap().train.len(), 1);
        let error = read_splits(&format!("{},nowhere", at("a.jsonl")), &Columns::default(), 0).unwrap_err();
        assert_eq!(error.to_string(), "nowhere: no such file or folder");
    }

    #[test]
    fn a_split_in_two_formats_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("train.csv"), "text\na\nb\n").unwrap();
        assert_eq!(texts(&read(folder.path(), 0).unwrap().train).len(), 1);
        write(folder.path(), "train.jsonl", &["a"]);
        let error = read(folder.path(), 0).unwrap_err().to_string();
        assert!(error.ends_with("train.csv are both there; which one holds the rows?"), "{error}");
    }

    #[test]
    fn the_validation_split_has_three_names() {
        for name in VALIDATION {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), "train.jsonl", &["a", "b"]);
            write(folder.path(), &format!("{name}.jsonl"), &["c"]);
            let splits = read(folder.path(), 0).unwrap();
            assert_eq!((splits.train.len(), texts(&splits.valid)), (2, vec!["c"]), "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "train.jsonl", &["a", "b"]);
        write(folder.path(), "dev.jsonl", &["c"]);
        fs::write(folder.path().join("validation.csv"), "text\nd\n").unwrap();
        let error = read(folder.path(), 0).unwrap_err().to_string();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let expected = format!(
            "{} and {} are both there; which one holds the rows?",
            path("validation.csv"),
            path("dev.jsonl")
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn a_tenth_is_held_out_in_order_and_by_seed() {
        for (rows, expected) in [(0, 0), (1, 0), (2, 1), (19, 1), (20, 2), (1000, 100), (9000, 500)] {
            let (train, valid) = hold_out((0..rows).collect(), 3);
            assert_eq!(valid.len(), expected, "of {rows}");
            assert!(train.is_sorted() && valid.is_sorted());
            let mut all = [train, valid].concat();
            all.sort_unstable();
            assert_eq!(all, (0..rows).collect::<Vec<_>>());
        }
        let drawn = |seed| hold_out((0..100).collect::<Vec<u8>>(), seed).1;
        assert_eq!(drawn(5), drawn(5));
        assert_ne!(drawn(5), drawn(6));
    }

    #[test]
    fn missing_files_and_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "test.jsonl", &["d"]);
        let error = read(folder.path(), 0).unwrap_err();
        let start = format!("{}: no train.jsonl; a data folder holds", folder.path().display());
        assert!(error.to_string().starts_with(&start), "{error}");
        let error = read(Path::new("/no/where"), 0).unwrap_err();
        assert_eq!(error.to_string(), "/no/where: no such file or folder");
    }

    #[test]
    fn an_empty_split_is_an_error_not_an_absent_one() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "train.jsonl", &["a"]);
        write(folder.path(), "valid.jsonl", &[]);
        let error = read(folder.path(), 0).unwrap_err();
        let expected = format!("{}: the file holds no rows", folder.path().join("valid.jsonl").display());
        assert_eq!(error.to_string(), expected);
    }
}
