//! Tells the linker where `libmlx` will lie when the module is loaded, and checks that the bindings fit the installed one.

use std::{env, fs};

use mlx_wheel::Wheel;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    mlx_wheel::rerun_if_interpreter_changes();
    // Installed, the module lies in `site-packages/efficientai_toolkit`, beside `mlx`.
    let origin = if cfg!(target_os = "macos") { "@loader_path" } else { "$ORIGIN" };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{origin}/../mlx/lib");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    println!("cargo::rustc-link-arg=-L{}", variable("DEP_MLX_LINKED"));
    match Wheel::find().and_then(|wheel| wheel.hash_headers()) {
        Ok(hash) if hash == variable("DEP_MLX_HEADERS") => {}
        Ok(_) => {
            // Without its stamp mlx-sys is compiled again in the next build.
            let _ = fs::remove_file(variable("DEP_MLX_STAMP"));
            println!(
                "cargo::error=the headers of the installed mlx changed since the bindings were compiled; build again"
            );
        }
        Err(message) => println!("cargo::error={message}"),
    }
}
