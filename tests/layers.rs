//! Imports go one way: cache, engine, stages, mistralrs, binary; the language models see the cache alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

mod files;

#[test]
fn crates_import_only_those_to_their_left() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut edges = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        for dependency in dependencies.filter(|dependency| dependency["kind"] != "dev") {
            let (from, to) =
                (package["name"].as_str().unwrap(), dependency["name"].as_str().unwrap());
            if to.starts_with("refrain") {
                edges.insert(format!("{from} -> {to}"));
            }
        }
    }
    let allowed: BTreeSet<String> = [
        "refrain-engine -> refrain-cache",
        "refrain-hub -> refrain-cache",
        "refrain-hub -> refrain-engine",
        "refrain-remote -> refrain-cache",
        "refrain-lm -> refrain-cache",
        "refrain-page -> refrain-cache",
        "refrain-page -> refrain-engine",
        "refrain-stages -> refrain-cache",
        "refrain-stages -> refrain-engine",
        "refrain-stages -> refrain-lm",
        "refrain-stages -> refrain-sandbox",
        "refrain-mistralrs -> refrain-engine",
        "refrain-mistralrs -> refrain-lm",
        "refrain-mistralrs -> refrain-stages",
        "refrain -> refrain-cache",
        "refrain -> refrain-engine",
        "refrain -> refrain-hub",
        "refrain -> refrain-mistralrs",
        "refrain -> refrain-page",
        "refrain -> refrain-remote",
        "refrain -> refrain-sandbox",
        "refrain -> refrain-stages",
    ]
    .map(String::from)
    .into();
    let wrong: Vec<&String> = edges.difference(&allowed).collect();
    assert!(wrong.is_empty(), "these imports go the wrong way: {wrong:?}");
}

#[test]
fn no_circle_of_files_runs_outside_one_folder() {
    for source in [
        "cache",
        "cache/remote",
        "engine",
        "hub",
        "page",
        "stages",
        "stages/lm",
        "stages/mistralrs",
        "stages/sandbox",
        ".",
    ] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source).join("src");
        let imports = files::Imports::read(&source);
        let circles = imports.circles();
        assert!(circles.is_empty(), "`{}`: {circles:?}", source.display());
        println!("{}: {} imports between files, no circle", source.display(), imports.count());
    }
}

#[test]
fn the_engine_exports_at_most_ten_modules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/src/lib.rs");
    let text = std::fs::read_to_string(root).unwrap();
    let modules = text.lines().filter(|line| line.starts_with("pub mod ")).count();
    assert!((1..=10).contains(&modules), "{modules} modules");
}
