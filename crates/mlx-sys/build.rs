//! Compiles mlx-c against the headers of the installed `mlx` wheel, generates the
//! bindings and links `libmlx`. `README.md` tells the steps and the variables read.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use mlx_wheel::Wheel;

/// A file that is removed when the bindings have to be made again.
const STAMP: &str = "stamp";

fn main() {
    for path in ["build.rs", "shim", "mlx-c/Cargo.toml", "mlx-c/Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in ["LIBCLANG_PATH", "CXX"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let wheel = Wheel::find().unwrap_or_else(|message| fail(&message));
    println!("cargo::rustc-env=MLX_HEADER_VERSION={}", mlx_wheel::VERSION);
    let sources = mlx_c_sources();
    compile(&wheel, &sources);
    link(&wheel);
    bind(&wheel, &sources);
    stamp(&wheel);
}

/// Tells dependents the hash of the headers that everything was compiled with, and which file to remove if they find
/// others: this script does not run again when only the place of the wheel changes.
fn stamp(wheel: &Wheel) {
    let hash = wheel.hash_headers().unwrap_or_else(|message| fail(&message));
    let path = out_dir().join(STAMP);
    // Older than this run, or else cargo would take it for a change.
    fs::File::create(&path)
        .and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH))
        .unwrap_or_else(|e| fail(&format!("cannot write {}: {e}", path.display())));
    println!("cargo::rerun-if-changed={}", path.display());
    println!("cargo::metadata=headers={hash}");
    println!("cargo::metadata=stamp={}", path.display());
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

/// Keeps the library, since that of an isolated build is gone afterwards; `DEP_MLX_LINKED` and `DEP_MLX_INSTALLED` tell
/// dependents both folders, because link arguments do not propagate.
fn link(wheel: &Wheel) {
    let folder = out_dir().join("lib");
    let (from, to) = (wheel.lib.join(mlx_wheel::library()), folder.join(mlx_wheel::library()));
    fs::create_dir_all(&folder)
        .and_then(|()| if to.exists() { fs::remove_file(&to) } else { Ok(()) })
        .and_then(|()| fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(|_| ())))
        .unwrap_or_else(|e| fail(&format!("cannot copy {} to {}: {e}", from.display(), to.display())));
    println!("cargo::rustc-link-lib=dylib=mlx");
    println!("cargo::metadata=linked={}", folder.display());
    println!("cargo::metadata=installed={}", wheel.lib.display());
    mlx_wheel::link_tests(&folder, &wheel.lib);
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
