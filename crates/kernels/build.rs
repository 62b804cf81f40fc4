//! Links the test binaries to `libmlx`.

fn main() {
    if let Err(message) = mlx_wheel::link_tests_of_dependent() {
        println!("cargo::error={message}");
    }
}
