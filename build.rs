//! Tells the linker where `libmlx` will lie when the module is loaded.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_PYTHON").is_some() {
        // Installed, the module lies in `site-packages/efficientai_toolkit`, beside `mlx`.
        let origin = if cfg!(target_os = "macos") { "@loader_path" } else { "$ORIGIN" };
        println!("cargo::rustc-link-arg=-Wl,-rpath,{origin}/../mlx/lib");
    } else if let Ok(lib) = env::var("DEP_MLX_LIB") {
        // Test binaries and benches run from the target folder.
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
