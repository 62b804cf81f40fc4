//! The house rules that a compiler does not check: who may import whom, where unsafe code
//! and pyo3 may stand, and how long a file may be.

mod circles;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 400;

/// Room → rooms it may name. Capability rooms never name each other, but for `distill`, which is a fine-tuning with samples of the
/// model; `python` may name all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("error", &["kernels"]),
    ("files", &["error"]),
    ("progress", &[]),
    ("rng", &["error"]),
    ("threads", &["error"]),
    ("hardware", &["error", "kernels"]),
    ("params", &["error", "kernels"]),
    ("nn", &["error", "rng", "kernels", "params"]),
    ("data", &["error", "files", "progress", "rng", "threads"]),
    ("io", &["error", "files", "rng", "threads", "kernels", "params", "nn"]),
    ("models", &["error", "files", "rng", "kernels", "params", "nn", "io"]),
    ("adapters", &["error", "files", "rng", "kernels", "params", "nn", "io", "models"]),
    (
        "calibrate",
        &["error", "files", "progress", "rng", "threads", "kernels", "params", "nn", "data", "io", "models"],
    ),
    (
        "train",
        &["error", "files", "progress", "rng", "kernels", "params", "nn", "data", "io", "models", "adapters"],
    ),
    // Capability rooms.
    ("evaluate", &["error", "progress", "kernels", "data", "models"]),
    (
        "exports",
        &[
            "error",
            "progress",
            "threads",
            "kernels",
            "params",
            "nn",
            "data",
            "io",
            "models",
            "adapters",
            "calibrate",
        ],
    ),
    ("generate", &["error", "files", "kernels", "params", "nn", "data", "io", "models"]),
    (
        "quantize",
        &[
            "error",
            "files",
            "progress",
            "rng",
            "kernels",
            "params",
            "nn",
            "data",
            "io",
            "models",
            "calibrate",
            "train",
        ],
    ),
    (
        "prune",
        &[
            "error",
            "files",
            "progress",
            "rng",
            "kernels",
            "params",
            "nn",
            "data",
            "io",
            "models",
            "calibrate",
            "train",
        ],
    ),
    ("subset", &["error", "files", "progress", "data", "io", "models", "calibrate"]),
    (
        "lora",
        &["error", "progress", "rng", "kernels", "params", "nn", "data", "io", "models", "adapters", "train"],
    ),
    (
        "distill",
        &[
            "error", "files", "progress", "rng", "kernels", "nn", "data", "io", "models", "train",
            "generate", "lora",
        ],
    ),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of a folder below the root with its text, sorted.
fn files(folder: &str) -> BTreeMap<PathBuf, String> {
    fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.insert(path, text);
            }
        }
    }
    let folder = root().join(folder);
    let mut files = BTreeMap::new();
    collect(&folder, &mut files);
    assert!(files.len() > 5, "there are no sources in {}", folder.display());
    let relative = |(path, text): (PathBuf, String)| (path.strip_prefix(&folder).unwrap().to_owned(), text);
    files.into_iter().map(relative).collect()
}

/// Every Rust file with its text, as if all crates were rooms of one.
fn sources() -> BTreeMap<PathBuf, String> {
    let mut sources = files("src");
    for room in ["kernels", "python"] {
        let inside = format!("crate::{room}::");
        for (path, text) in files(&format!("crates/{room}/src")) {
            let text = text.replace("crate::", &inside).replace("efficientai_toolkit::", "crate::");
            let path = if path.ends_with("lib.rs") { path.with_file_name("mod.rs") } else { path };
            sources.insert(Path::new(room).join(path), text);
        }
    }
    sources
}

/// `lora/run.rs` → `lora`, `rng.rs` → `rng`
fn room(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Rooms named by `crate::…` in `text`, in single paths and in braces.
fn imports(text: &str) -> Vec<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    let mut rooms = Vec::new();
    for path in code.split("crate::").skip(1) {
        let names = match path.strip_prefix('{') {
            Some(list) => top_level(list.split_once(';').map_or(list, |(list, _)| list)),
            None => vec![path],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            rooms.push(name);
        }
    }
    rooms
}

/// Items of a brace list that stand outside inner braces.
fn top_level(list: &str) -> Vec<&str> {
    let (mut items, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&list[start..i]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&list[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn rooms_import_only_what_they_may() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    for (file, text) in sources() {
        let room = room(&file);
        if room == "lib" || room == "python" {
            continue;
        }
        let allowed = table.get(room.as_str()).unwrap_or_else(|| panic!("room {room} is not in the table"));
        for import in imports(&text) {
            // `Error` and `Result` are re-exported at the root; `data::test` names are the room's own.
            let known = table.contains_key(import.as_str());
            assert!(
                !known || import == room || allowed.contains(&import.as_str()),
                "{}: room {room} must not import {import}",
                file.display()
            );
        }
    }
}

#[test]
fn the_parser_of_imports_sees_braces() {
    let text = "use crate::data::{Batch, io};\nuse crate::{Error, io::{atomic, lora}, rng};\n// crate::py";
    assert_eq!(imports(text), ["data", "Error", "io", "rng"]);
}

#[test]
fn unsafe_code_stands_in_kernels_only() {
    for (file, text) in sources() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let found = code.into_iter().any(|line| line.split_whitespace().any(|word| word == "unsafe"));
        assert!(!found || room(&file) == "kernels", "{} holds unsafe code", file.display());
    }
}

#[test]
fn foreign_types_stay_in_their_rooms() {
    for (file, text) in sources() {
        let room = room(&file);
        let names =
            |word: &str| text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word));
        assert!(!names("pyo3") || room == "python", "{} names pyo3", file.display());
        assert!(!names("mlx_rs") || room != "data", "{} names mlx_rs", file.display());
        let enter = file.ends_with("python/enter.rs");
        assert!(!names(".detach(") || enter || room != "python", "{} releases the GIL", file.display());
    }
}

#[test]
fn files_are_short() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines, more than {MAX_LINES}", file.display());
    }
}
