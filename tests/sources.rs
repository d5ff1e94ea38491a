//! Sources that change: during a run, without their time, or in a file that few know.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::space::{Space, set, small};

/// Older than this a file's digest is remembered.
const SETTLED: Duration = Duration::from_millis(2100);

const SCRIPT: &str = "refrain: 1\n\
    data: { tool: { path: tool.sh, type: file } }\n\
    stages:\n  s:\n    run: { command: [sh, \"${in.tool}\", \"${out.o}\"], inputs: { tool: tool }, outputs: { o: file } }\n";

/// A run in the background, which has started the node of that name.
fn started(space: &Space, node: &str) -> Child {
    let mut command = space.command(&["run", "w.yaml"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    let line = format!("\"event\":\"started\",\"node\":\"{node}\"");
    let has_started = || {
        let logs = std::fs::read_dir(space.path(".refrain/runs")).into_iter().flatten().flatten();
        let texts = logs.filter_map(|log| std::fs::read_to_string(log.path()).ok());
        texts.into_iter().any(|text| text.contains(&line))
    };
    while !has_started() {
        assert!(begin.elapsed() < Duration::from_secs(60), "`{node}` does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Ends a run that must name a file that changed; and the next one must take the file as it is.
fn refuses(space: &Space, child: Child, node: &str, file: &str) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let path = space.path(file).canonicalize().unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(&format!("{name}` changed during the run")), "{said}");
    assert!(said.contains("run again"), "{said}");
    assert!(space.ran("w.yaml", &[]).contains(node));
}

#[test]
fn a_script_that_is_edited_while_its_command_runs() {
    let space = Space::new();
    space.write("tool.sh", "sleep 1; echo before > $1\n");
    space.write("w.yaml", SCRIPT);
    let child = started(&space, "s");
    space.write("tool.sh", "echo after > $1\n");
    refuses(&space, child, "s", "tool.sh");
    let path = space.run(&["show", "w.yaml", "s", "--path"]).stdout;
    assert_eq!(std::fs::read_to_string(path.trim()).unwrap(), "after\n");
    // Put back, it is computed under its own key, which nothing was recorded under.
    space.write("tool.sh", "sleep 1; echo before > $1\n");
    assert_eq!(space.ran("w.yaml", &[]), set(&["s"]));
}

#[test]
fn rows_that_are_added_while_their_file_is_imported() {
    let space = Space::new();
    let row =
        |i: usize| format!("{{\"prompt\": \"p{i}\", \"response\": \"{}\"}}\n", "x".repeat(200));
    let rows: String = (0..120_000).map(row).collect();
    space.write("rows.jsonl", &rows);
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n  \
         d: { diversify: { data: rows, measure: [distinct_1] } }\n",
    );
    let child = started(&space, "rows");
    space.write("rows.jsonl", &format!("{rows}{}", row(120_000)));
    refuses(&space, child, "rows", "rows.jsonl");
    let shown = space.run(&["show", "w.yaml", "rows"]).stdout;
    assert!(shown.contains("120001 rows"), "{shown}");
}

#[test]
fn a_model_folder_that_is_edited_while_its_command_runs() {
    let space = Space::new();
    model_folder(&space);
    space.write(
        "w.yaml",
        "refrain: 1\nmodels: { m: { path: model } }\nstages:\n  s:\n    \
         run: { command: [sh, -c, \"sleep 1; cat ${in.m}/1_Pooling/config.json > ${out.o}\"], inputs: { m: m }, outputs: { o: file } }\n",
    );
    let child = started(&space, "s");
    space.write("model/1_Pooling/config.json", "{\"pooling_mode_mean_tokens\": true}");
    refuses(&space, child, "s", "model/1_Pooling/config.json");
    let path = space.run(&["show", "w.yaml", "s", "--path"]).stdout;
    let text = std::fs::read_to_string(path.trim()).unwrap();
    assert_eq!(text, "{\"pooling_mode_mean_tokens\": true}", "what pools is copied to commands");
}

/// A folder in which an embedding model could be.
fn model_folder(space: &Space) {
    space.write("model/config.json", "{}");
    space.write("model/model.safetensors", "weights");
    space.write("model/modules.json", "[]");
    space.write("model/1_Pooling/config.json", "{\"pooling_mode_cls_token\": true}");
}

/// `run`, which need not even plan, and `plan` ask for the same files.
#[test]
fn every_file_of_a_model_that_counts_is_noticed_by_a_run_that_does_nothing() {
    let space = Space::new();
    model_folder(&space);
    space.write(
        "w.yaml",
        "refrain: 1\nmodels: { m: { path: model } }\nstages:\n  s:\n    \
         run: { command: [sh, -c, \"cat ${in.m}/1_Pooling/config.json > ${out.o}\"], inputs: { m: m }, outputs: { o: file } }\n",
    );
    for edit in ["1_Pooling/config.json", "modules.json", "chat_template.jinja"] {
        std::thread::sleep(SETTLED);
        space.run(&["run", "w.yaml"]);
        let said = space.run(&["run", "w.yaml"]);
        assert!(said.stderr.contains("0 nodes run"), "{}", said.stderr);
        space.write(&format!("model/{edit}"), "{\"edited\": true}");
        let said = space.run(&["run", "w.yaml"]);
        assert!(said.stderr.contains("1 node run"), "{edit}: {}", said.stderr);
    }
}

/// As `cp -p` and `shutil.copy2` do: another content of the same size, under the same time.
fn replace_quietly(path: &Path, text: &str) {
    let before = path.metadata().unwrap();
    assert_eq!(before.len(), text.len() as u64);
    std::fs::write(path, text).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = path.metadata().unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
}

#[test]
fn a_file_of_equal_size_and_time_is_noticed() {
    let space = Space::new();
    space.write("tool.sh", "echo before > $1\n");
    space.write("w.yaml", SCRIPT);
    std::thread::sleep(SETTLED);
    assert_eq!(space.ran("w.yaml", &[]), set(&["s"]));
    assert_eq!(space.run(&["run", "w.yaml"]).code, 0);
    replace_quietly(&space.path("tool.sh"), "echo 4fter! > $1\n");
    let said = space.run(&["verify", "w.yaml"]);
    assert_eq!(said.code, 3, "{}", said.stdout);
    assert!(said.stdout.contains("tool.sh"), "{}", said.stdout);
    let said = space.run(&["run", "w.yaml"]);
    assert!(said.stderr.contains("1 node run"), "{}", said.stderr);
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 0);
}

/// No name that a user gave is in an artifact's bytes.
#[test]
fn a_model_by_another_name_gives_the_same_adapter() {
    let space = Space::new();
    small(&space);
    let first = space.digests("w.yaml", &[]);
    let text = space.read("w.yaml").replace("base", "grundmodell");
    let other = Space::new();
    small(&other);
    other.write("w.yaml", &text);
    let second = other.digests("w.yaml", &[]);
    assert_eq!(first["tuned[threshold=40]"], second["tuned[threshold=40]"]);
    let adapter = other.run(&["show", "w.yaml", "tuned[threshold=40]", "--path"]).stdout;
    let config = Path::new(adapter.trim()).join("adapter_config.json");
    let config = std::fs::read_to_string(config).unwrap();
    assert!(!config.contains("grundmodell"), "{config}");
}
