//! The committed data of examples and miniatures are what the example programs make.

use std::path::Path;

#[path = "../examples/perplexity_world.rs"]
#[allow(dead_code, reason = "its `main` writes the files")]
mod perplexity_world;
#[path = "../examples/topics_world.rs"]
#[allow(dead_code, reason = "its `main` writes the files")]
mod topics_world;
#[path = "../examples/world.rs"]
#[allow(dead_code, reason = "its `main` writes the files")]
mod world;

/// Checks that a folder's tables are those that a program makes, and no others.
fn holds<N: AsRef<str>>(folder: &str, program: &str, made: &[(N, String)]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    for (name, content) in made {
        let name = name.as_ref();
        let committed = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(
            committed == *content,
            "`{name}` differs: `cargo run --release --example {program}` writes it"
        );
    }
    let names =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let others: Vec<String> = names
        .filter(|n| n.ends_with(".jsonl") && !made.iter().any(|(m, _)| m.as_ref() == n))
        .collect();
    assert!(others.is_empty(), "nothing makes {others:?}");
}

#[test]
fn the_quickstart_data_are_the_bytes_that_world_makes() {
    holds("examples/quickstart", "world", &world::files());
}

#[test]
fn the_data_of_the_first_papers_miniature_are_the_bytes_that_its_world_makes() {
    holds("workflows/token-perplexity-mini", "perplexity_world", &perplexity_world::files());
}

#[test]
fn the_data_of_the_second_papers_miniature_are_the_bytes_that_its_world_makes() {
    holds("workflows/diversity-mini", "topics_world", &topics_world::files());
}
