//! The cache folder is that of `huggingface_hub`: Python finds what is fetched here, and the other way round.

use std::process::Command;

use super::{DATA, ROWS, World, etag};

/// Python with `huggingface_hub`, or nothing with a printed reason.
fn python() -> Option<String> {
    let Ok(python) = std::env::var("REFRAIN_TEST_PYTHON") else {
        eprintln!("skipped: REFRAIN_TEST_PYTHON names no Python with huggingface_hub");
        return None;
    };
    let found = Command::new(&python).args(["-c", "import huggingface_hub"]).output();
    if !found.is_ok_and(|found| found.status.success()) {
        eprintln!("skipped: `{python}` has no huggingface_hub");
        return None;
    }
    Some(python)
}

fn runs(world: &World, python: &str, script: &str) -> String {
    let output = Command::new(python)
        .args(["-c", script])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", world.space.path("home"))
        .env("HF_HOME", world.space.path("hf"))
        .env("HF_ENDPOINT", &world.server.hub)
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{}", text(output.stderr));
    text(output.stdout).trim().to_owned()
}

const FIND: &str = "from huggingface_hub import snapshot_download as s, hf_hub_download as f
print(s('org/set', repo_type='dataset', local_files_only=True))
print(f('org/set', 'rows.jsonl', repo_type='dataset', local_files_only=True))
from huggingface_hub import scan_cache_dir
cache = scan_cache_dir()
assert not cache.warnings, cache.warnings
print(sorted(r.repo_id for r in cache.repos))";

const FETCH: &str = "from huggingface_hub import snapshot_download
print(snapshot_download('org/set', repo_type='dataset'))";

#[test]
fn python_finds_what_is_fetched() {
    let Some(python) = python() else { return };
    let world = World::new(DATA);
    world.ok(&["run", "w.yaml"]);
    let said = runs(&world, &python, FIND);
    let commit = world.space.read("hf/hub/datasets--org--set/refs/main");
    let snapshot = world.space.path(&format!("hf/hub/datasets--org--set/snapshots/{commit}"));
    let snapshot = snapshot.canonicalize().unwrap().display().to_string();
    let expected = format!("{snapshot}\n{snapshot}/rows.jsonl\n['org/set']");
    assert_eq!(said, expected);
    assert!(world.server.seen().iter().all(|request| request.method == "GET"));
}

#[test]
fn what_python_fetched_is_found() {
    let Some(python) = python() else { return };
    let world = World::new(DATA);
    let commit = world.server.commit(
        "datasets/org/set",
        "main",
        &[("rows.jsonl", ROWS.as_bytes()), ("large.jsonl", ROWS.repeat(100).as_bytes())],
    );
    runs(&world, &python, FETCH);
    world.server.seen();
    // Offline the branch means what Python last saw, and the lock pins it.
    let said = world.run(&["run", "w.yaml"], &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let pin = &world.pins()[0];
    assert_eq!(pin["commit"], commit);
    assert_eq!(pin["files"]["rows.jsonl"], etag(ROWS.as_bytes()));
    // With a network the hub is asked once more, and no file is fetched again.
    std::fs::remove_file(world.space.path("w.lock")).unwrap();
    world.ok(&["run", "w.yaml"]);
    let seen = world.server.seen();
    assert!(seen.iter().all(|request| request.path.contains("/api/")), "{seen:?}");
}
