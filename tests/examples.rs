//! The committed data of the examples are what the example programs make.

use std::path::Path;

#[path = "../examples/topics_world.rs"]
#[allow(dead_code, reason = "its `main` writes the files")]
mod topics_world;
#[path = "../examples/world.rs"]
#[allow(dead_code, reason = "its `main` writes the files")]
mod world;

#[test]
fn the_quickstart_data_are_the_bytes_that_world_makes() {
    are_made("examples/quickstart", "world", &world::files());
}

#[test]
fn the_data_of_diversity_mini_are_the_bytes_that_topics_world_makes() {
    are_made("workflows/diversity-mini", "topics_world", &topics_world::files());
}

/// Compares the files of a folder with those that an example program makes.
fn are_made(folder: &str, program: &str, made: &[(&str, String)]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    for (name, content) in made {
        let committed = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(
            committed == *content,
            "`{name}` differs: `cargo run --release --example {program}` writes it"
        );
    }
    let others =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let others: Vec<String> = others.filter(|n| !made.iter().any(|(m, _)| m == n)).collect();
    assert!(others.is_empty(), "nothing makes {others:?}");
}
