//! The examples run and print what docs/examples.md says; their committed data, and those of the miniatures,
//! are what the example programs make.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::space::Space;

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

/// A file of the repository.
fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(repository(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Copies the examples into a space: workflows, data and the lock.
fn examples() -> Space {
    fn copy(space: &Space, folder: &str) {
        for entry in std::fs::read_dir(repository(folder)).unwrap() {
            let name = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
            match repository(&name).is_dir() {
                true => copy(space, &name),
                false => space.write(&name, &read(&name)),
            }
        }
    }
    let space = Space::new();
    for folder in ["ci", "comparison", "include", "numbers", "run"] {
        copy(&space, &format!("examples/{folder}"));
    }
    for name in NAMES {
        space.write(&format!("examples/{name}.yaml"), &read(&format!("examples/{name}.yaml")));
    }
    space.write("examples/ci.lock", &read("examples/ci.lock"));
    space
}

/// The examples that run without a server.
const NAMES: [&str; 8] =
    ["mask", "self-output", "diversity", "sweep", "comparison", "run", "include", "ci"];

/// The section of an example in the document.
fn section(document: &str, name: &str) -> String {
    let heading = format!("`examples/{name}.yaml`\n");
    let section = document.split("## ").find(|section| section.starts_with(&heading));
    section.unwrap_or_else(|| panic!("docs/examples.md has no section on {name}")).to_owned()
}

/// The text of the first block of a language.
fn block<'s>(section: &'s str, language: &str) -> Option<&'s str> {
    let text = section.split_once(&format!("```{language}\n"))?.1;
    text.split_once("```").map(|(text, _)| text)
}

#[test]
fn the_document_shows_every_example_as_it_is() {
    let document = read("docs/examples.md");
    let entries = std::fs::read_dir(repository("examples")).unwrap();
    let files = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<String> = files
        .filter_map(|file| file.strip_suffix(".yaml").map(str::to_owned))
        .filter(|name| name != "quickstart")
        .collect();
    assert_eq!(there, NAMES.into_iter().chain(["served"]).map(String::from).collect());
    for name in there {
        let text = read(&format!("examples/{name}.yaml"));
        assert!(text.lines().count() <= 55, "{name} does not fit a screen");
        assert_eq!(block(&section(&document, &name), "yaml"), Some(text.as_str()), "{name}");
        assert!(text.contains(&format!("refrain run examples/{name}.yaml")), "{name}");
    }
    let judge = section(&document, "include");
    let judge = judge.split_once("`examples/include/judge.yaml`:").unwrap().1;
    assert_eq!(block(judge, "yaml"), Some(read("examples/include/judge.yaml").as_str()));
    let program = section(&document, "run");
    assert_eq!(block(&program, "awk"), Some(read("examples/run/longer.awk").as_str()));
}

/// Runs an example, which must print what the document shows.
fn prints(name: &str) -> Space {
    let space = examples();
    let workflow = format!("examples/{name}.yaml");
    let said = space.run(&["run", &workflow, "--quiet"]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let document = read("docs/examples.md");
    assert_eq!(Some(said.stdout.as_str()), block(&section(&document, name), "text"), "{name}");
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    space
}

#[test]
fn mask_runs() {
    prints("mask");
}

#[test]
fn self_output_runs() {
    prints("self-output");
}

#[test]
fn diversity_runs() {
    prints("diversity");
}

#[test]
fn sweep_runs_and_another_value_runs_its_own_nodes() {
    let space = prints("sweep");
    space.edit("examples/sweep.yaml", "rank: [2, 8]", "rank: [2, 8, 4]");
    let ran = space.ran("examples/sweep.yaml", &[]);
    assert!(ran.iter().all(|node| node.contains("rank=4")), "{ran:?}");
    assert_eq!(ran.iter().filter(|node| node.starts_with("tuned[")).count(), 4);
}

#[test]
fn comparison_runs() {
    prints("comparison");
}

#[test]
fn run_runs_again_when_the_program_changes() {
    let space = prints("run");
    space.edit("examples/run/longer.awk", "length($0) > limit", "length($0) >= limit");
    assert_eq!(space.ran("examples/run.yaml", &[]).len(), 3, "one per limit");
}

#[test]
fn include_runs() {
    prints("include");
}

#[test]
fn ci_holds_and_says_what_does_not() {
    let space = examples();
    assert_eq!(space.run(&["verify", "examples/ci.yaml", "--no-data"]).code, 0);
    let space = prints("ci");
    assert_eq!(space.read("examples/ci.lock"), read("examples/ci.lock"), "the lock is up to date");
    assert_eq!(space.run(&["run", "examples/ci.yaml", "--locked"]).code, 0);
    space.edit("examples/ci.yaml", "task: number", "task: number, trim: false");
    assert_eq!(space.run(&["verify", "examples/ci.yaml", "--no-data"]).code, 3);
}

#[test]
fn the_data_of_the_examples_are_those_that_init_writes() {
    for (idea, folder, files) in [
        ("mask", "numbers", &["base.jsonl", "train.jsonl", "heldout.jsonl"][..]),
        ("ci", "ci", &["answers.jsonl"]),
    ] {
        let space = Space::new();
        assert_eq!(space.run(&["init", "first", "--with", idea]).code, 0);
        for file in files {
            let made = space.read(&format!("first/data/{file}"));
            assert!(made == read(&format!("examples/{folder}/{file}")), "{file}");
        }
    }
    // No pair of numbers is in two tables.
    let tables =
        ["base", "train", "heldout"].map(|name| read(&format!("examples/numbers/{name}.jsonl")));
    let prompt = |row: &str| row.split("\"response\"").next().unwrap().to_owned();
    let prompts: BTreeSet<String> =
        tables.iter().flat_map(|table| table.lines()).map(prompt).collect();
    assert_eq!(prompts.len(), 320 + 80 + 60);
}
