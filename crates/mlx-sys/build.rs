//! Compiles mlx-c against the headers of the installed `mlx` wheel, generates the
//! bindings and links `libmlx`. `README.md` tells the steps and the variables read.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// mlx-c 0.7.0 is written for this version; another one has another C++ ABI.
const MLX_VERSION: &str = "0.32.2";

fn main() {
    for path in ["build.rs", "shim", "mlx-c/Cargo.toml", "mlx-c/Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in ["PYO3_PYTHON", "VIRTUAL_ENV", "LIBCLANG_PATH", "CXX"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let wheel = Wheel::find();
    let sources = mlx_c_sources();
    compile(&wheel, &sources);
    link(&wheel);
    bind(&wheel, &sources);
}

/// The `mlx` package of one Python environment.
struct Wheel {
    include: PathBuf,
    lib: PathBuf,
    /// Folder of PyPI's `libclang` shared library, if that wheel is installed.
    libclang: Option<PathBuf>,
}

impl Wheel {
    fn find() -> Self {
        let python = python();
        // Reads metadata only: importing MLX would need a device on the build machine.
        let script = "import importlib.util as u, importlib.metadata as m, pathlib\n\
            home = lambda name: next(iter((s := u.find_spec(name)) and s.submodule_search_locations or []), '')\n\
            print(home('mlx')); print(m.version('mlx')); print(home('clang'))";
        let output = Command::new(&python)
            .args(["-c", script])
            .output()
            .unwrap_or_else(|e| fail(&format!("cannot run the Python interpreter {python:?}: {e}")));
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let (Some(package), Some(version)) = (lines.next(), lines.next()) else {
            fail(&format!(
                "the Python interpreter {python:?} has no `mlx` package; install it with \
                 `pip install \"mlx[cpu]=={MLX_VERSION}\" libclang` (on a Mac plain `mlx=={MLX_VERSION}`), \
                 or name another interpreter in PYO3_PYTHON"
            ))
        };
        if version != MLX_VERSION {
            fail(&format!(
                "{python:?} has mlx {version}, but the bindings are written for {MLX_VERSION}; \
                 install it with `pip install mlx=={MLX_VERSION}`"
            ));
        }
        let package = PathBuf::from(package);
        let (include, lib) = (package.join("include"), package.join("lib"));
        let library = lib.join(if cfg!(target_os = "macos") { "libmlx.dylib" } else { "libmlx.so" });
        if !library.exists() {
            fail(&format!(
                "{} is missing: install a backend beside mlx, such as `pip install \"mlx[cpu]=={MLX_VERSION}\"`",
                library.display()
            ));
        }
        println!("cargo::rerun-if-changed={}", include.join("mlx/version.h").display());
        println!("cargo::rustc-env=MLX_HEADER_VERSION={version}");
        let clang = lines.next().unwrap_or_default();
        let libclang = Some(Path::new(clang).join("native")).filter(|folder| folder.is_dir());
        Self { include, lib, libclang }
    }
}

/// The interpreter maturin names, else the active virtual environment's, else `python3`.
fn python() -> PathBuf {
    if let Some(python) = env::var_os("PYO3_PYTHON") {
        return python.into();
    }
    env::var_os("VIRTUAL_ENV")
        .map(|venv| Path::new(&venv).join("bin/python"))
        .filter(|python| python.exists())
        .unwrap_or_else(|| "python3".into())
}

/// Where cargo unpacked the `mlx-c` folder of the published `mlx-sys` crate.
fn mlx_c_sources() -> PathBuf {
    let manifest = manifest_dir().join("mlx-c/Cargo.toml");
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--locked", "--format-version=1", "--manifest-path"])
        .arg(&manifest)
        .output()
        .unwrap_or_else(|e| fail(&format!("cannot run cargo: {e}")));
    if !output.status.success() {
        fail(&format!(
            "cargo could not fetch the mlx-c sources: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| fail(&format!("cargo metadata: {e}")));
    let root = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "mlx-sys")
        .and_then(|package| package["manifest_path"].as_str())
        .map(|path| Path::new(path).with_file_name("src").join("mlx-c"));
    match root {
        Some(root) if root.is_dir() => root,
        _ => fail("the mlx-sys crate in cargo's registry has no src/mlx-c folder"),
    }
}

fn compile(wheel: &Wheel, sources: &Path) {
    let shim = manifest_dir().join("shim");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .include(sources)
        .include(&shim)
        .include(&wheel.include)
        .files(files(&sources.join("mlx/c"), "cpp"))
        .files(files(&shim, "cpp"));
    if needs_format_header(&build) {
        build.include(shim.join("compat")).flag("-include").flag("format");
    }
    build.compile("mlxc");
}

/// Whether the C++ compiler lacks `<format>` (GCC before 13).
fn needs_format_header(build: &cc::Build) -> bool {
    let mut command = build.get_compiler().to_command();
    let probe = out_dir().join("format_probe.cpp");
    fs::write(&probe, "#include <format>\nint main() { return std::format(\"{}\", 1).size(); }\n")
        .unwrap_or_else(|e| fail(&format!("cannot write {}: {e}", probe.display())));
    let output = command.arg("-fsyntax-only").arg(&probe).output();
    !output.is_ok_and(|output| output.status.success())
}

fn link(wheel: &Wheel) {
    let lib = wheel.lib.display();
    println!("cargo::rustc-link-search=native={lib}");
    println!("cargo::rustc-link-lib=dylib=mlx");
    // Dependents put the folder into their rpath (`DEP_MLX_LIB`): link arguments do not propagate.
    println!("cargo::metadata=lib={lib}");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}

fn bind(wheel: &Wheel, sources: &Path) {
    if let (None, Some(folder)) = (env::var_os("LIBCLANG_PATH"), &wheel.libclang) {
        // SAFETY: the build script has one thread, and bindgen reads the variable later.
        unsafe { env::set_var("LIBCLANG_PATH", folder) };
    }
    let mut headers = files(&sources.join("mlx/c"), "h");
    headers.push(manifest_dir().join("shim/host_op.h"));
    let mut builder = bindgen::Builder::default()
        .rust_target(bindgen::RustTarget::stable(89, 0).unwrap_or_else(|_| fail("bindgen rejects Rust 1.89")))
        .clang_arg(format!("-I{}", sources.display()))
        .allowlist_function("_?mlx_.*|eat_.*")
        .allowlist_type("_?mlx_.*|eat_.*|b?float16_t")
        .allowlist_var("mlx_.*|MLX_.*")
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new().rerun_on_header_files(false)));
    if let Some(include) = compiler_headers() {
        builder = builder.clang_arg("-isystem").clang_arg(include);
    }
    for header in headers {
        builder = builder.header(header.to_string_lossy());
    }
    builder
        .generate()
        .unwrap_or_else(|e| fail(&format!("bindgen: {e}; `pip install libclang` provides libclang")))
        .write_to_file(out_dir().join("bindings.rs"))
        .unwrap_or_else(|e| fail(&format!("cannot write the bindings: {e}")));
}

/// PyPI's libclang has no builtin headers (`stddef.h`, …): borrow the C compiler's.
fn compiler_headers() -> Option<String> {
    let output = Command::new("cc").arg("-print-file-name=include").output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new(&path).is_dir().then_some(path)
}

/// The files of `folder` with `extension`, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|e| fail(&format!("cannot read {}: {e}", folder.display())));
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new(extension)))
        .collect();
    files.sort();
    files
}

fn manifest_dir() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| fail("run by cargo only"), PathBuf::from)
}

fn out_dir() -> PathBuf {
    env::var_os("OUT_DIR").map_or_else(|| fail("run by cargo only"), PathBuf::from)
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1)
}
