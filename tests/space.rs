//! A folder of its own for a test, and the binary run in it with a cleared environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A temporary folder.
pub struct Space {
    folder: tempfile::TempDir,
}

/// Address space that hostile input may make the binary take, in KiB: what it asks for, not what it touches.
const MEMORY: u64 = 3 << 20;
/// Time that it may take, far more than it does where other programs run beside it.
const SECONDS: u64 = 60;

/// What a command said.
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Space {
    pub fn new() -> Space {
        Space { folder: tempfile::tempdir().unwrap() }
    }

    /// A space in a file system in memory, where there is one: for what must be done a thousand times.
    pub fn in_memory() -> Space {
        let memory = Path::new("/dev/shm");
        let new = tempfile::Builder::new();
        let folder = if memory.is_dir() { new.tempdir_in(memory) } else { new.tempdir() };
        Space { folder: folder.unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces a text that must be there.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "`{name}` holds no `{from}`");
        self.write(name, &text.replacen(from, to, 1));
    }

    /// The binary with these arguments, in this folder and with a cleared environment; not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refrain"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    /// Runs a command that must fail; its exit code and all that it says, times left out.
    pub fn fails(&self, arguments: &[&str]) -> String {
        self.failed(self.run(arguments))
    }

    fn failed(&self, said: Said) -> String {
        assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
        assert_ne!(said.code, 0, "it did not fail: {}", said.stdout);
        self.said(said)
    }

    /// The exit code and all that was said, times and the place of the folder left out.
    pub fn said(&self, said: Said) -> String {
        let timeless = |line: &str| match line.rsplit_once(", ") {
            Some((words, time)) if time.ends_with(" s") || time.ends_with(" ms") => {
                format!("{words}, TIME")
            }
            _ => line.to_string(),
        };
        let stderr: Vec<String> = said.stderr.lines().map(timeless).collect();
        let folder = self.folder.path().canonicalize().unwrap().display().to_string();
        format!("exit code {}\n{}{}", said.code, said.stdout, stderr.join("\n"))
            .replace(&folder, "FOLDER")
    }

    /// Runs the binary within bounds of time and memory; what it must not do, whatever its input, fails the test.
    pub fn survives(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new("sh");
        let bounded = format!("ulimit -v {MEMORY}; exec timeout {SECONDS} \"$0\" \"$@\"");
        command.args(["-c", &bounded, env!("CARGO_BIN_EXE_refrain")]).args(arguments);
        command.current_dir(self.folder.path()).env_clear().env("PATH", "/usr/bin:/bin");
        let said = said(command.output().unwrap());
        assert!(
            [0, 1, 2, 3, 4].contains(&said.code),
            "{arguments:?} ended with {}: {}",
            said.code,
            said.stderr
        );
        for words in ["panicked", "internal error", "please report", "memory allocation"] {
            assert!(!said.stderr.contains(words), "{arguments:?}: {}", said.stderr);
        }
        said
    }

    /// As [`Space::fails`], within bounds of time and memory.
    pub fn refuses(&self, arguments: &[&str]) -> String {
        self.failed(self.survives(arguments))
    }

    /// Runs a command that must succeed within bounds of time and memory.
    pub fn accepts(&self, arguments: &[&str]) -> Said {
        let said = self.survives(arguments);
        assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
        said
    }

    /// Runs a workflow that must succeed, and gives its report.
    pub fn report(&self, workflow: &str, more: &[&str]) -> Value {
        let mut arguments = vec!["run", workflow, "--quiet", "--format", "json"];
        arguments.extend(more);
        let said = self.run(&arguments);
        assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
        serde_json::from_str(&said.stdout).unwrap()
    }

    /// Runs a workflow and gives the names of the nodes that were computed.
    pub fn ran(&self, workflow: &str, more: &[&str]) -> BTreeSet<String> {
        names(&self.report(workflow, more), "ran")
    }

    /// Runs a workflow and gives every node's output digests.
    pub fn digests(&self, workflow: &str, more: &[&str]) -> BTreeMap<String, Value> {
        let report = self.report(workflow, more);
        let nodes = report["nodes"].as_array().unwrap().iter();
        nodes.map(|n| (n["node"].as_str().unwrap().to_string(), n["outputs"].clone())).collect()
    }
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The nodes of a report with an outcome.
pub fn names(report: &Value, outcome: &str) -> BTreeSet<String> {
    let nodes = report["nodes"].as_array().unwrap().iter().filter(|n| n["outcome"] == outcome);
    nodes.map(|n| n["node"].as_str().unwrap().to_string()).collect()
}

/// A set of names.
pub fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| n.to_string()).collect()
}

/// The shared folder with real data, or nothing with a printed reason.
pub fn shared() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if shared.join("data").is_dir() {
        return Some(shared.canonicalize().unwrap());
    }
    eprintln!("skipped: the shared folder with real data is absent");
    None
}

/// A small workflow of every kind that uses a model, with its data.
pub fn small(space: &Space) {
    let rows: String = (0..24)
        .map(|i| {
            format!(
                "{{\"id\": \"r{i}\", \"prompt\": \"{i} plus 1?\", \"response\": \"it is {}.\"}}\n",
                i + 1
            )
        })
        .collect();
    space.write("train.jsonl", &rows);
    space.write("w.yaml", SMALL);
}

const SMALL: &str = r#"refrain: 1
name: small
data:
  train: { path: train.jsonl }
stages:
  base:
    finetune:
      data: train
      full: true
      from:
        config: { hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 128 }
        tokenizer: { vocab_size: 280 }
      steps: 20
      batch_size: 4
      learning_rate: 1e-2
      seed: 1
  scored:
    score: { model: base, data: train }
  masked:
    mask: { data: scored, above: "${threshold}" }
  tuned:
    finetune: { model: base, data: masked, lora: { rank: 2, alpha: 4 }, steps: 2, batch_size: 4, seed: 3 }
  target:
    evaluate: { model: tuned, data: train, task: exact_match, max_new_tokens: 6 }
  answers:
    generate: { model: base, data: train, samples: 2, temperature: 0.9, max_new_tokens: 6, seed: 5 }
sweep:
  threshold: [40, 1000]
"#;
