//! Workflows that are run from nothing in a millisecond a node, what a clean run of them leaves,
//! and what must hold after a fault.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use refrain_cache::{AppendLog, digest_file, digest_listing};

use crate::space::{Said, Space};

/// A workflow, and what a clean run of it leaves.
pub struct World {
    files: Vec<(&'static str, String)>,
    /// The files, written once: no plan is kept that rests on a file younger than two seconds.
    template: Space,
    written: Instant,
    /// A change to the workflow between a complete run and the one that meets a fault.
    edit: Option<(&'static str, &'static str)>,
    /// The lock after a clean run.
    lock: String,
    /// The lock before it, where there was one.
    earlier: String,
    /// Records in the cache after a clean run.
    records: usize,
}

impl World {
    pub fn new(
        files: Vec<(&'static str, String)>,
        edit: Option<(&'static str, &'static str)>,
    ) -> World {
        let template = Space::in_memory();
        files.iter().for_each(|(name, text)| template.write(name, text));
        let mut world = World {
            files,
            template,
            written: Instant::now(),
            edit,
            lock: String::new(),
            earlier: String::new(),
            records: 0,
        };
        let space = world.space();
        world.earlier = fs::read_to_string(space.path("w.lock")).unwrap_or_default();
        plain(&space);
        world.lock = space.read("w.lock");
        world.records = recorded(&space);
        world
    }

    /// A space in which everything is ready for the run that is to meet a fault.
    pub fn space(&self) -> Space {
        thread::sleep(Duration::from_millis(2_100).saturating_sub(self.written.elapsed()));
        let space = Space::in_memory();
        for (name, text) in &self.files {
            match *name {
                "w.yaml" => space.write(name, text),
                _ => symlink(self.template.path(name), space.path(name)).unwrap(),
            }
        }
        if let Some((from, to)) = self.edit {
            plain(&space);
            space.edit("w.yaml", from, to);
        }
        space
    }

    /// A space after a clean run.
    pub fn finished(&self) -> Space {
        let space = self.space();
        plain(&space);
        space
    }

    /// What must hold when a run was killed or refused: nothing is half written.
    pub fn holds_nothing_half(&self, space: &Space, what: &str) {
        all_objects_are_sound(space, what);
        let known: BTreeSet<&str> = self.lock.lines().chain(self.earlier.lines()).collect();
        let lock = fs::read_to_string(space.path("w.lock")).unwrap_or_default();
        assert!(lock.is_empty() || lock.ends_with('\n'), "{what}: the lock is cut off");
        for line in lock.lines() {
            assert!(known.contains(line), "{what}: the lock has the line {line}");
        }
    }

    /// Runs the workflow once more: it ends as a clean run, and makes nothing that is recorded
    /// already. What it says.
    pub fn recovers(&self, space: &Space, what: &str) -> Said {
        let before = recorded(space);
        let said = space.run(&["run", "w.yaml"]);
        assert_eq!(said.code, 0, "{what}: {}", said.stderr);
        assert_eq!(space.read("w.lock"), self.lock, "{what}: {}", said.stderr);
        let ran = nodes_run(&said);
        assert!(
            ran + before <= self.records,
            "{what}: {ran} nodes are made again, of which {before} were there"
        );
        all_objects_are_sound(space, what);
        names_all_damage(space, what);
        said
    }

    /// Runs the workflow in a damaged cache: it ends as a clean run, and leaves nothing to do. What
    /// it says.
    pub fn heals(&self, space: &Space, what: &str) -> Said {
        let said = space.run(&["run", "w.yaml"]);
        assert_eq!(said.code, 0, "{what}: {}", said.stderr);
        assert_eq!(space.read("w.lock"), self.lock, "{what}: {}", said.stderr);
        all_objects_are_sound(space, what);
        names_all_damage(space, what);
        assert_eq!(planned_again(space), Ok(0), "{what}");
        said
    }
}

/// What `cache verify` finds it names and sets aside, so that it finds nothing more.
fn names_all_damage(space: &Space, what: &str) {
    let first = space.run(&["cache", "verify", "w.yaml"]);
    let damaged: Vec<&str> =
        first.stdout.lines().filter(|line| line.starts_with("damaged")).collect();
    assert_eq!(
        first.code,
        if damaged.is_empty() { 0 } else { 3 },
        "{what}: {}{}",
        first.stdout,
        first.stderr
    );
    let aside = |line: &&str| line.contains("; set aside as `tmp/corrupt/");
    assert!(damaged.iter().all(aside), "{what}: {}", first.stdout);
    let second = space.run(&["cache", "verify", "w.yaml"]);
    assert_eq!(second.code, 0, "{what}: {}{}", second.stdout, second.stderr);
}

/// How many nodes a run makes that cannot rest on a plan that was kept, or its error.
pub fn planned_again(space: &Space) -> Result<usize, String> {
    space.write("w.yaml", &format!("{}# again\n", space.read("w.yaml")));
    let said = space.run(&["run", "w.yaml"]);
    if said.code == 0 { Ok(nodes_run(&said)) } else { Err(said.stderr) }
}

/// A run without faults.
fn plain(space: &Space) {
    let said = space.run(&["run", "w.yaml", "--quiet"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
}

/// The first number of `12 nodes run, 3 cached, 40 ms`.
fn nodes_run(said: &Said) -> usize {
    let summary = said.stderr.lines().find(|line| line.contains(" run, ")).unwrap_or_default();
    summary.split(' ').next().and_then(|count| count.parse().ok()).expect("a run counts its nodes")
}

/// The keys that have a record, read without touching the cache.
fn recorded(space: &Space) -> usize {
    let (lines, _torn) = AppendLog::read(&space.path(".refrain/records/records.log")).unwrap();
    let keys: BTreeSet<&str> =
        lines.iter().filter(|line| line.contains(" {")).map(|line| &line[..64]).collect();
    keys.len()
}

/// Every object has the digest that is its name, whether a record names it or not.
fn all_objects_are_sound(space: &Space, what: &str) {
    let objects = space.path(".refrain/objects");
    for folder in entries(&objects) {
        for object in entries(&folder) {
            let digest = match object.is_dir() {
                true => {
                    let mut listed: Vec<_> = files(&object)
                        .into_iter()
                        .map(|file| {
                            (file.display().to_string(), digest_file(&object.join(file)).unwrap().0)
                        })
                        .collect();
                    listed.sort();
                    digest_listing(&listed)
                }
                false => digest_file(&object).unwrap().0,
            };
            let name =
                object.strip_prefix(&objects).unwrap().display().to_string().replace('/', "");
            assert_eq!(digest.to_string(), name, "{what}: an object is not what its name says");
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// All files below a folder, relative to it and sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in entries(folder) {
        let name = PathBuf::from(path.file_name().unwrap());
        match path.is_dir() {
            true => found.extend(files(&path).into_iter().map(|file| name.join(file))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

/// Every kind that needs no model, commands that make a file and a folder, a sweep and what gathers
/// it.
pub fn rich() -> Vec<(&'static str, String)> {
    let rows = (0..12).map(|i| {
        format!(
            "{{\"id\": \"r{i}\", \"prompt\": \"{i} plus 1?\", \"response\": \"it is {}.\", \"reference\": \"it is {}.\"}}\n",
            i + i % 3,
            i + 1
        )
    });
    let scored = (0..12).map(|i| {
        format!(
            "{{\"id\": \"r{i}\", \"response\": \"a b c\", \"token_ids\": [1, 2, 3, 4], \"prompt_tokens\": 1, \
             \"logprobs\": [null, -0.{i}, -1.0, -2.0]}}\n"
        )
    });
    vec![
        ("rows.jsonl", rows.collect()),
        ("scored.jsonl", scored.collect()),
        ("tool.sh", TOOL.into()),
        ("w.yaml", RICH.into()),
    ]
}

/// Makes a page and a folder of a table.
const TOOL: &str = r#"mkdir "$3"
{ echo "threshold $4"; wc -c < "$1"; } > "$2"
cat "$1" > "$3/model.safetensors"
echo '{}' > "$3/config.json"
"#;

const RICH: &str = r#"refrain: 1
data:
  rows: { path: rows.jsonl }
  scored: { path: scored.jsonl }
  tool: { path: tool.sh, type: file }
stages:
  judged: { evaluate: { data: rows, task: exact_match } }
  kept: { diversify: { data: judged, dedupe: exact, measure: [distinct_1] } }
  masked: { mask: { data: scored, above: "${threshold}" } }
  made:
    run:
      command: [sh, "${in.tool}", "${in.table}", "${out.page}", "${out.model}", "${threshold}"]
      inputs: { tool: tool, table: masked }
      outputs: { page: file, model: model }
  seen:
    run: { command: [cp, "${in.page}", "${out.copy}"], inputs: { page: made.page, model: made.model }, outputs: { copy: file } }
  all: { diversify: { data: "masked[*]", measure: [distinct_1] } }
sweep:
  threshold: [2, 4, 8]
expect:
  - { stage: judged, metric: accuracy, value: 0.33, within: 1 }
"#;

/// The edit of the rich workflow that a warm cache meets.
pub const EDIT: (&str, &str) = ("[2, 4, 8]", "[2, 3, 8]");

/// A tiny model, trained with its state kept as often as it may, that answers and scores.
pub fn tiny() -> Vec<(&'static str, String)> {
    let rows = (0..6).map(|i| {
        format!(
            "{{\"id\": \"r{i}\", \"prompt\": \"{i} plus 1?\", \"response\": \"it is {}.\"}}\n",
            i + 1
        )
    });
    vec![("rows.jsonl", rows.collect()), ("w.yaml", TINY.into())]
}

const TINY: &str = r#"refrain: 1
data: { rows: { path: rows.jsonl } }
stages:
  base:
    finetune:
      data: rows
      from:
        config: { hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64 }
        tokenizer: { vocab_size: 270 }
      steps: 40
      batch_size: 2
      checkpoint_every: 0
  tuned:
    finetune: { model: base, data: rows, lora: { rank: 2 }, steps: 2, batch_size: 2, checkpoint_every: 0 }
  answers:
    generate: { model: tuned, data: rows, max_new_tokens: 3 }
  scored:
    score: { model: base, data: rows }
"#;
