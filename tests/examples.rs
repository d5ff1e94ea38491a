//! The committed data of the examples are what the example programs make.

use std::path::Path;

#[path = "../examples/world.rs"]
#[allow(dead_code, reason = "its `main` writes the files")]
mod world;

#[test]
fn the_quickstart_data_are_the_bytes_that_world_makes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    let made = world::files();
    for (name, content) in &made {
        let committed = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(
            committed == *content,
            "`{name}` differs: `cargo run --release --example world` writes it"
        );
    }
    let others =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let others: Vec<String> = others.filter(|n| !made.iter().any(|(m, _)| m == n)).collect();
    assert!(others.is_empty(), "nothing makes {others:?}");
}
