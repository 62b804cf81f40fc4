//! Where the installed `mlx` Python wheel lies, for build scripts, and how to link to its library.
//!
//! An isolated build has an interpreter in a temporary folder of its own. What is compiled against the wheel therefore
//! depends on [`VERSION`] and on the [hash of the headers](Wheel::hash_headers), never on where they lie.

#![expect(clippy::print_stdout, reason = "build scripts speak to cargo so")]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// mlx-c 0.7.0 is written for this version of MLX; another one has another C++ ABI.
pub const VERSION: &str = "0.32.2";

/// The environment that uv makes for the workspace.
const ENVIRONMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv");

/// Minor versions of Python 3 that the project supports.
const MINOR_VERSIONS: std::ops::Range<u8> = 11..15;

/// Prints the environment variables that [`Wheel::find`] reads, for build scripts that have to run again when one changes.
pub fn rerun_if_interpreter_changes() {
    for variable in ["PYO3_PYTHON", "VIRTUAL_ENV"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
}

/// The `mlx` package of one Python environment.
#[derive(Debug, Clone)]
pub struct Wheel {
    /// Folder of the C++ headers.
    pub include: PathBuf,
    /// Folder of `libmlx`.
    pub lib: PathBuf,
    /// Folder of `PyPI`'s `libclang` shared library, if that wheel is installed beside it.
    pub libclang: Option<PathBuf>,
}

impl Wheel {
    /// The wheel of the interpreter that `PYO3_PYTHON` names (maturin sets it), else of the active virtual
    /// environment, else of the workspace's, else of `python3`.
    ///
    /// # Errors
    /// No interpreter; no `mlx`, one of another version, or one without a backend.
    pub fn find() -> Result<Self, String> {
        let python = interpreter();
        // Reads metadata only: importing MLX would need a device on the build machine.
        let script = "import importlib.util as u, importlib.metadata as m, pathlib\n\
            home = lambda name: next(iter((s := u.find_spec(name)) and s.submodule_search_locations or []), '')\n\
            print(home('mlx')); print(m.version('mlx')); print(home('clang'))";
        let output = Command::new(&python).args(["-c", script]).output();
        let output =
            output.map_err(|e| format!("cannot run the Python interpreter {}: {e}", python.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let (Some(package), Some(version)) = (lines.next(), lines.next()) else {
            return Err(format!(
                "the Python interpreter {} has no `mlx` package; install it with \
                 `pip install \"mlx[cpu]=={VERSION}\" libclang` (on a Mac plain `mlx=={VERSION}`), \
                 or name another interpreter in PYO3_PYTHON",
                python.display()
            ));
        };
        if version != VERSION {
            return Err(format!(
                "{} has mlx {version}, but the bindings are written for {VERSION}; \
                 install it with `pip install mlx=={VERSION}`",
                python.display()
            ));
        }
        let package = PathBuf::from(package);
        let (include, lib) = (package.join("include"), package.join("lib"));
        if !lib.join(library()).exists() {
            return Err(format!(
                "{} is missing: install a backend beside mlx, such as `pip install \"mlx[cpu]=={VERSION}\"`",
                lib.join(library()).display()
            ));
        }
        let clang = lines.next().unwrap_or_default();
        let libclang = Some(Path::new(clang).join("native")).filter(|folder| folder.is_dir());
        Ok(Self { include, lib, libclang })
    }

    /// A hash of names and contents of all headers.
    ///
    /// # Errors
    /// A header that cannot be read.
    pub fn hash_headers(&self) -> Result<String, String> {
        let mut paths = Vec::new();
        collect(&self.include, &mut paths).map_err(|e| format!("{}: {e}", self.include.display()))?;
        paths.sort();
        let mut hasher = DefaultHasher::new();
        for path in paths {
            let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            path.strip_prefix(&self.include).unwrap_or(&path).hash(&mut hasher);
            bytes.hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }
}

/// File name of MLX's library.
#[must_use]
pub const fn library() -> &'static str {
    if cfg!(target_os = "macos") { "libmlx.dylib" } else { "libmlx.so" }
}

/// Links the test binaries of the package whose build script calls this: against the library in the folder `linked`, and
/// so that they find it, when they run, in the environment of the workspace or in the folder `installed`.
pub fn link_tests(linked: &Path, installed: &Path) {
    let argument = |argument: &str| println!("cargo::rustc-link-arg={argument}");
    argument(&format!("-L{}", linked.display()));
    for minor in MINOR_VERSIONS {
        argument(&format!("-Wl,-rpath,{ENVIRONMENT}/lib/python3.{minor}/site-packages/mlx/lib"));
    }
    argument(&format!("-Wl,-rpath,{}", installed.display()));
    if cfg!(target_os = "linux") {
        // What libmlx itself needs lies beside the installed library, not beside the linked one.
        argument("-Wl,--allow-shlib-undefined");
    }
}

/// As [`link_tests`], in a package that depends on `mlx-sys` directly.
///
/// # Errors
/// A package that does not.
pub fn link_tests_of_dependent() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    let folder = |name: &str| env::var_os(name).ok_or_else(|| format!("{name} is not set by mlx-sys"));
    link_tests(Path::new(&folder("DEP_MLX_LINKED")?), Path::new(&folder("DEP_MLX_INSTALLED")?));
    Ok(())
}

fn interpreter() -> PathBuf {
    if let Some(python) = env::var_os("PYO3_PYTHON") {
        return python.into();
    }
    [env::var_os("VIRTUAL_ENV"), Some(ENVIRONMENT.into())]
        .into_iter()
        .flatten()
        .map(|environment| Path::new(&environment).join("bin/python"))
        .find(|python| python.exists())
        .unwrap_or_else(|| "python3".into())
}

/// Every header below `folder`.
fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension() == Some(OsStr::new("h")) {
            paths.push(path);
        }
    }
    Ok(())
}
