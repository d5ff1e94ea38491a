//! Models and data from the hub, and files from the web: fetched once, pinned, verified.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::space::{Said, Space, names, small};

mod compatible;
mod hostile;
pub mod server;

use server::{Reply, Server, etag, git_digest, sha256};

/// The rows of the data sets here.
const ROWS: &str = "{\"id\": \"a\", \"prompt\": \"1 + 1?\", \"response\": \"2\", \"reference\": \"2\"}\n\
                    {\"id\": \"b\", \"prompt\": \"1 + 2?\", \"response\": \"4\", \"reference\": \"3\"}\n";

/// A workflow that reads a data set from the hub.
const DATA: &str = "refrain: 1
data: { rows: { hub: org/set, file: rows.jsonl } }
stages: { judged: { evaluate: { data: rows, task: exact_match } } }
";

/// A space with a server that has the data set.
pub struct World {
    pub space: Space,
    pub server: Server,
}

impl World {
    pub fn new(workflow: &str) -> World {
        let world = World { space: Space::new(), server: Server::start() };
        world.space.write("w.yaml", workflow);
        world.server.commit("datasets/org/set", "main", &[("rows.jsonl", ROWS.as_bytes())]);
        world
    }

    /// Runs the binary within bounds, with the server as the hub.
    pub fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        let mut command = std::process::Command::new("sh");
        let bounded = "ulimit -v 4194304; exec timeout 120 \"$0\" \"$@\"";
        command.args(["-c", bounded, env!("CARGO_BIN_EXE_refrain")]).args(arguments);
        command.current_dir(self.space.path(".")).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HF_HOME", self.space.path("hf")).env("HF_ENDPOINT", &self.server.hub);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let said = Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        for words in ["panicked", "internal error", "memory allocation"] {
            assert!(!said.stderr.contains(words), "{arguments:?}: {}", said.stderr);
        }
        said
    }

    pub fn ok(&self, arguments: &[&str]) -> Said {
        let said = self.run(arguments, &[]);
        assert_eq!(said.code, 0, "{arguments:?}: {}{}", said.stdout, said.stderr);
        said
    }

    /// Runs the workflow; the report.
    fn report(&self, more: &[&str], variables: &[(&str, &str)]) -> Value {
        let arguments = [&["run", "w.yaml", "--quiet", "--format", "json"], more].concat();
        let said = self.run(&arguments, variables);
        assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
        serde_json::from_str(&said.stdout).unwrap()
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.space.path("hf/hub").join(name)
    }

    /// The lines of the lock that pin fetched sources.
    fn pins(&self) -> Vec<Value> {
        let lock = self.space.read("w.lock");
        let pins = lock.lines().filter(|line| line.starts_with("{\"fetched\""));
        pins.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The paths below a folder, links not followed.
pub fn paths(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() && !path.is_symlink() {
                true => folders.push(path),
                false => {
                    found.insert(path.strip_prefix(folder).unwrap().display().to_string());
                }
            }
        }
    }
    found
}

fn node<'r>(report: &'r Value, name: &str) -> &'r Value {
    let nodes = report["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node"] == name).unwrap()
}

/// The files of a model that a node made.
fn made(space: &Space, node: &str) -> Vec<(String, Vec<u8>)> {
    let said = space.run(&["show", "w.yaml", node, "--path"]);
    let folder = PathBuf::from(said.stdout.trim());
    let read = |name: String| (name.clone(), std::fs::read(folder.join(name)).unwrap());
    paths(&folder).into_iter().map(read).collect()
}

/// A small model, as the files of its repository, and others that do not count.
fn model_files(space: &Space) -> Vec<(String, Vec<u8>)> {
    small(space);
    space.report("w.yaml", &["--only", "base"]);
    let mut files = made(space, "base");
    for name in ["README.md", "training_args.bin", "pytorch_model.bin", "onnx/model.onnx"] {
        files.push((name.into(), format!("{name} does not count").into_bytes()));
    }
    files
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect()
}

const WITH_MODEL: &str = "refrain: 1
models: { base: { hub: org/tiny } }
data: { rows: { hub: org/set, file: rows.jsonl } }
stages: { scored: { score: { model: base, data: rows } } }
";

#[test]
fn a_model_and_data_are_fetched_once_and_then_need_no_network() {
    let files = model_files(&Space::new());
    let world = World::new(WITH_MODEL);
    let commit = world.server.commit("models/org/tiny", "main", &borrowed(&files));

    // Nothing but `run` and `fetch` asks the hub.
    let said = world.ok(&["check", "w.yaml"]);
    assert!(
        said.stderr.contains("columns of `base`, `rows` are not known until fetched"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("refrain fetch w.yaml"), "{}", said.stderr);
    let said = world.ok(&["plan", "w.yaml"]);
    assert!(said.stdout.contains("its content is not known until fetched"), "{}", said.stdout);
    assert!(world.server.seen().is_empty());

    let report = world.report(&[], &[]);
    assert_eq!(names(&report, "ran"), ["rows", "scored"].map(String::from).into());
    let seen = world.server.seen();
    assert!(
        seen.iter()
            .all(|request| !request.path.contains(".bin") && !request.path.contains("README"))
    );

    // Each file lies under its digest, and a snapshot points to it, as Python expects.
    let repository = world.repository("models--org--tiny");
    assert_eq!(world.space.read("hf/hub/models--org--tiny/refs/main"), commit);
    let counted: Vec<&(String, Vec<u8>)> = files
        .iter()
        .filter(|(name, _)| !name.ends_with(".bin") && name != "README.md" && !name.contains('/'))
        .collect();
    let mut expected: BTreeSet<String> = BTreeSet::from(["refs/main".to_owned()]);
    for (name, bytes) in &counted {
        let link = repository.join("snapshots").join(&commit).join(name);
        let target = PathBuf::from("../../blobs").join(etag(bytes));
        assert_eq!(std::fs::read_link(&link).unwrap(), target, "{name}");
        assert_eq!(std::fs::read(&link).unwrap(), *bytes, "{name}");
        expected.insert(format!("blobs/{}", etag(bytes)));
        expected.insert(format!("snapshots/{commit}/{name}"));
    }
    assert_eq!(paths(&repository), expected);

    // The lock has the commit and the digests of the files.
    let pins = world.pins();
    assert_eq!(pins.len(), 2);
    assert_eq!((&pins[0]["fetched"], &pins[0]["hub"]), (&"base".into(), &"org/tiny".into()));
    assert_eq!((&pins[0]["type"], &pins[0]["revision"]), (&"model".into(), &"main".into()));
    assert_eq!(pins[0]["commit"], commit);
    assert_eq!(pins[0]["files"].as_object().unwrap().len(), counted.len());
    assert_eq!(
        pins[0]["files"]["config.json"],
        etag(&counted.iter().find(|(name, _)| name == "config.json").unwrap().1)
    );
    assert_eq!(pins[1]["files"]["rows.jsonl"], git_digest(ROWS.as_bytes()));

    // From now on nothing is asked, forced or not, by whatever command.
    let nowhere = [("HF_ENDPOINT", "http://127.0.0.1:1")];
    let again = world.report(&["--force", "scored"], &nowhere);
    assert_eq!(names(&again, "ran"), ["scored".to_owned()].into());
    assert_eq!(node(&again, "scored")["outputs"], node(&report, "scored")["outputs"]);
    for command in ["check", "plan", "verify", "fetch", "explain", "results"] {
        let said = world.run(&[command, "w.yaml"], &nowhere);
        assert_eq!(said.code, 0, "{command}: {}{}", said.stdout, said.stderr);
        assert!(!said.stderr.contains("until fetched"), "{}", said.stderr);
    }
    let said = world.run(&["run", "w.yaml", "--locked"], &[("HF_HUB_OFFLINE", "1")]);
    assert!(said.code == 0 && said.stderr.contains("0 nodes run"), "{}", said.stderr);
    assert!(world.server.seen().is_empty());

    // The same bytes in a folder have the same keys: neither name nor commit is in them.
    let local = Space::new();
    local.write(
        "w.yaml",
        &WITH_MODEL
            .replace("hub: org/tiny", "path: tiny")
            .replace("hub: org/set, file: rows.jsonl", "path: other.jsonl"),
    );
    local.write("other.jsonl", ROWS);
    for (name, bytes) in counted {
        local.write(&format!("tiny/{name}"), "");
        std::fs::write(local.path(&format!("tiny/{name}")), bytes).unwrap();
    }
    let there = local.report("w.yaml", &[]);
    for name in ["base", "rows", "scored"] {
        assert_eq!(node(&there, name)["key"], node(&report, name)["key"], "{name}");
    }
}

#[test]
fn a_clone_fetches_what_the_lock_pins() {
    let world = World::new(DATA);
    let about = "refrain: 1\nlicense: CC-BY-4.0\nauthors: [Ann]\ndate: 2026-11-26";
    world.space.edit("w.yaml", "refrain: 1", about);
    let first = world.ok(&["run", "w.yaml"]);
    assert!(first.stderr.contains("2 nodes run"), "{}", first.stderr);
    let lock = world.space.read("w.lock");
    let more = ROWS.replace("\"4\"", "\"3\"");
    world.server.commit("datasets/org/set", "main", &[("rows.jsonl", more.as_bytes())]);

    // Without the files, `verify` says so, and what the lock says of them is taken.
    std::fs::remove_dir_all(world.space.path("hf")).unwrap();
    let said = world.run(&["verify", "w.yaml"], &[]);
    assert_eq!(said.code, 3, "{}", said.stdout);
    assert!(said.stdout.contains("`org/set/rows.jsonl` is not fetched"), "{}", said.stdout);
    assert!(said.stdout.contains("`refrain fetch w.yaml` fetches it"), "{}", said.stdout);
    world.ok(&["verify", "w.yaml", "--no-data"]);
    let said = world.ok(&["plan", "w.yaml"]);
    assert!(said.stdout.contains("2 cached"), "{}", said.stdout);

    // A bundle has the lock, and no file of the caches.
    let bundled = world.run(&["bundle", "w.yaml", "-o", "w.zip", "--with-sources"], &[]);
    assert_eq!(bundled.code, 3, "{}", bundled.stderr);
    world.ok(&["bundle", "w.yaml", "-o", "w.zip"]);
    world.ok(&["verify", "w.zip", "--no-data"]);

    // The branch has moved, and the commit of the lock is fetched.
    let said = world.ok(&["fetch", "w.yaml"]);
    assert!(said.stdout.contains("(main), 1 file, "), "{}", said.stdout);
    assert_eq!(world.space.read("w.lock"), lock);
    world.ok(&["run", "w.yaml", "--locked"]);
    assert_eq!(world.space.read("w.lock"), lock);
    world.ok(&["bundle", "w.yaml", "-o", "whole.zip", "--with-sources"]);
    world.ok(&["verify", "whole.zip"]);
    // What a branch means now is not for a pin to say.
    assert!(!world.repository("datasets--org--set/refs/main").exists());
}

#[test]
fn a_branch_moves_only_when_it_is_asked_to() {
    let world = World::new(DATA);
    let before = world.report(&[], &[]);
    let first = world.pins()[0]["commit"].clone();
    let more = ROWS.replace("\"4\"", "\"3\"");
    let second =
        world.server.commit("datasets/org/set", "main", &[("rows.jsonl", more.as_bytes())]);
    world.server.seen();

    for _ in 0..2 {
        assert_eq!(
            names(&world.report(&["--force", "judged"], &[]), "ran"),
            ["judged".to_owned()].into()
        );
        world.ok(&["fetch", "w.yaml"]);
    }
    assert!(world.server.seen().is_empty());
    assert_eq!(world.pins()[0]["commit"], first);

    let wrong = world.run(&["run", "w.yaml", "--update", "row"], &[]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("did you mean `rows`?"), "{}", wrong.stderr);
    let offline = world.run(&["run", "w.yaml", "--update", "rows"], &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(offline.code, 4, "{}", offline.stderr);
    assert!(offline.stderr.contains("HF_HUB_OFFLINE"), "{}", offline.stderr);
    assert_eq!(world.pins()[0]["commit"], first);

    let after = world.report(&["--update", "rows"], &[]);
    assert_eq!(names(&after, "ran"), ["judged", "rows"].map(String::from).into());
    assert_eq!(world.pins()[0]["commit"], second);
    assert_eq!(world.pins().len(), 1);
    assert_ne!(node(&after, "rows")["outputs"], node(&before, "rows")["outputs"]);

    // `fetch` moves too; a run with `--set` leaves the lock alone.
    world.server.commit("datasets/org/set", "main", &[("rows.jsonl", ROWS.as_bytes())]);
    let said = world.ok(&["fetch", "w.yaml", "--update", "rows"]);
    assert!(said.stdout.contains("`rows`: org/set/rows.jsonl at "), "{}", said.stdout);
    assert_ne!(world.pins()[0]["commit"], second);
    assert_eq!(node(&world.report(&[], &[]), "rows")["outputs"], node(&before, "rows")["outputs"]);
}

#[test]
fn another_file_of_a_repository_is_of_the_commit_that_is_pinned() {
    let world = World::new(DATA);
    let commit = world.server.commit(
        "datasets/org/set",
        "main",
        &[
            ("rows.jsonl", ROWS.as_bytes()),
            ("more/a.jsonl", ROWS.as_bytes()),
            ("more/b.jsonl", ROWS.replace("\"a\"", "\"c\"").replace("\"b\"", "\"d\"").as_bytes()),
        ],
    );
    world.ok(&["run", "w.yaml"]);
    world.server.commit("datasets/org/set", "main", &[("rows.jsonl", b"{}")]);
    for file in ["more/*.jsonl", "more", "more/a.jsonl"] {
        world.space.write("w.yaml", &DATA.replace("rows.jsonl", file));
        let locked = world.run(&["run", "w.yaml", "--locked"], &[]);
        assert_eq!(locked.code, 3, "{}", locked.stderr);
        assert!(locked.stderr.contains("the lock does not pin `rows`"), "{}", locked.stderr);
        let stale = world.run(&["verify", "w.yaml"], &[]);
        assert_eq!(stale.code, 3, "{}", stale.stdout);

        let report = world.report(&[], &[]);
        let rows = &node(&report, "rows")["outputs"]["main"]["rows"];
        assert_eq!(*rows, if file == "more/a.jsonl" { 2 } else { 4 }, "{file}: {report}");
        let pins = world.pins();
        assert_eq!((pins.len(), &pins[0]["commit"]), (1, &commit.clone().into()), "{file}");
        world.ok(&["verify", "w.yaml"]);
    }
    // A link in a snapshot leads to its blob from whatever depth.
    let link =
        world.repository("datasets--org--set").join(format!("snapshots/{commit}/more/a.jsonl"));
    assert!(std::fs::read_link(link).unwrap().starts_with("../../../blobs"));
}

/// A table larger than what the hub sends itself.
fn large() -> String {
    let row = |i: usize| {
        format!(
            "{{\"id\": \"r{i}\", \"prompt\": \"{i}?\", \"response\": \"{i}\", \"reference\": \"{i}\"}}\n"
        )
    };
    (0..5000).map(row).collect()
}

#[test]
fn a_transfer_that_breaks_off_is_resumed() {
    for is_large in [false, true] {
        let world = World::new(DATA);
        let text = if is_large { large() } else { ROWS.to_owned() };
        world.server.commit("datasets/org/set", "main", &[("rows.jsonl", text.as_bytes())]);
        let piece = text.len() / 4 + 1;
        world.server.fault(move |request, reply| {
            match request.path.contains("rows.jsonl") || request.host == "cdn" {
                true if request.method == "GET" && reply.status < 300 => reply.cut(piece),
                _ => reply,
            }
        });
        world.ok(&["fetch", "w.yaml"]);
        let ranges: Vec<String> = world
            .server
            .seen()
            .iter()
            .filter(|request| {
                !request.path.contains("/api/") && (request.host == "cdn") == is_large
            })
            .map(|request| request.header("range").unwrap_or("whole").to_owned())
            .collect();
        let expected: Vec<String> = ["whole".to_owned()]
            .into_iter()
            .chain((1..4).map(|i| format!("bytes={}-", i * piece)))
            .collect();
        assert_eq!(ranges, expected);
        world.ok(&["run", "w.yaml"]);
    }
}

#[test]
fn a_killed_fetch_goes_on_where_it_ended() {
    let text = large();
    let digest = sha256(text.as_bytes());
    for (begin, first_range) in [
        (&text[..1000], Some("bytes=1000-")),
        // What was left is of another file: the digest tells, and it is fetched anew.
        ("another file", Some("bytes=12-")),
        // It is as long as the file, and is another one.
        (&"x".repeat(text.len()), None),
        (&"x".repeat(text.len() + 1), None),
    ] {
        let world = World::new(DATA);
        world.server.commit("datasets/org/set", "main", &[("rows.jsonl", text.as_bytes())]);
        let partial = format!("hf/hub/datasets--org--set/blobs/{digest}.incomplete");
        world.space.write(&partial, begin);
        world.ok(&["run", "w.yaml"]);
        let seen = world.server.seen();
        let first = seen.iter().find(|request| request.host == "cdn").unwrap();
        assert_eq!(first.header("range"), first_range);
        assert!(!world.space.path(&partial).exists());
        assert_eq!(world.space.read(&format!("hf/hub/datasets--org--set/blobs/{digest}")), text);
    }
}

#[test]
fn two_processes_fetch_a_file_once() {
    let world = World::new(DATA);
    let text = large();
    world.server.commit("datasets/org/set", "main", &[("rows.jsonl", text.as_bytes())]);
    world.server.fault(|request, reply| {
        let slow = if request.host == "cdn" { 1000 } else { 0 };
        std::thread::sleep(std::time::Duration::from_millis(slow));
        reply
    });
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| world.ok(&["fetch", "w.yaml"])));
        both.into_iter().for_each(|one| drop(one.join().unwrap()));
    });
    let seen = world.server.seen();
    assert_eq!(seen.iter().filter(|request| request.host == "cdn").count(), 1);

    // A blob that is shorter than its file is fetched anew.
    let blob = format!("hf/hub/datasets--org--set/blobs/{}", sha256(text.as_bytes()));
    world.space.write(&blob, "cut");
    world.ok(&["fetch", "w.yaml", "--update", "rows"]);
    assert_eq!(world.space.read(&blob), text);
}

#[test]
fn an_interrupted_fetch_keeps_what_it_has() {
    let world = World::new(DATA);
    world.server.commit("datasets/org/set", "main", &[("rows.jsonl", large().as_bytes())]);
    world.server.fault(|request, reply| match request.host {
        // A promise that is not kept: the connection stays open without bytes.
        "cdn" => {
            std::thread::sleep(std::time::Duration::from_secs(2));
            reply.cut(1000)
        }
        _ => reply,
    });
    let mut child = world
        .space
        .command(&["fetch", "w.yaml"])
        .env("HF_HOME", world.space.path("hf"))
        .env("HF_ENDPOINT", &world.server.hub)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !world.server.seen().iter().any(|request| request.host == "cdn") {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut stderr = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr}");
    assert!(stderr.contains("what was fetched is kept"), "{stderr}");
    world.server.heal();
    world.ok(&["run", "w.yaml"]);
}

#[test]
fn a_changed_file_under_one_commit_is_noticed() {
    let world = World::new(DATA);
    world.ok(&["run", "w.yaml"]);
    let (lock, commit) = (world.space.read("w.lock"), world.pins()[0]["commit"].clone());
    let commit = commit.as_str().unwrap();
    world.server.rewrite("datasets/org/set", commit, "rows.jsonl", b"{\"prompt\": \"x\"}\n");
    std::fs::remove_dir_all(world.space.path("hf")).unwrap();
    let said = world.run(&["run", "w.yaml"], &[]);
    assert_eq!(said.code, 3, "{}", said.stderr);
    let words =
        format!("`org/set/rows.jsonl` is another file than before under the commit {commit}");
    assert!(said.stderr.contains(&words), "{}", said.stderr);
    assert!(said.stderr.contains("--update NAME"), "{}", said.stderr);
    assert_eq!(world.space.read("w.lock"), lock);
    assert_eq!(paths(&world.space.path("hf")), BTreeSet::new());

    // One that is gone is another one too.
    world.server.commit("datasets/org/set", "main", &[("x", b"x")]);
    world.server.fault(|request, reply| match request.path.contains("/revision/") {
        true => {
            let server::Body::Bytes(bytes) = &reply.body else { return reply };
            Reply::new(
                200,
                String::from_utf8(bytes.clone()).unwrap().replace("rows.jsonl", "gone.jsonl"),
            )
        }
        false => reply,
    });
    let said = world.run(&["run", "w.yaml"], &[]);
    assert!(said.code == 3 && said.stderr.contains("it is gone"), "{}", said.stderr);
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let world = World::new(DATA);
    world.server.commit("datasets/org/set", "main", &[("rows.jsonl", large().as_bytes())]);
    world.space.write("hf/token", " from-the-file\n");
    for (variables, expected) in [
        (&[("HF_TOKEN", "from-the-variable")][..], Some("Bearer from-the-variable")),
        (&[], Some("Bearer from-the-file")),
        (&[("HF_TOKEN_PATH", "/nowhere")], None),
        (&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
    ] {
        let said = world.run(&["fetch", "w.yaml"], variables);
        assert_eq!(said.code, 0, "{}", said.stderr);
        let seen = world.server.seen();
        assert!(seen.iter().any(|request| request.host == "cdn"));
        for request in seen {
            let token = request.header("authorization");
            assert_eq!(token, expected.filter(|_| request.host == "hub"), "{}", request.path);
        }
        std::fs::remove_dir_all(world.space.path("hf/hub")).unwrap();
    }
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let world = World::new(DATA);
    world.server.commit("datasets/org/set", "develop", &[("rows.jsonl", ROWS.as_bytes())]);
    let says = |workflow: &str, code: i32, words: &[&str]| {
        world.space.write("w.yaml", workflow);
        let said = world.run(&["fetch", "w.yaml"], &[]);
        assert_eq!(said.code, code, "{}", said.stderr);
        for words in words {
            assert!(said.stderr.contains(words), "`{words}`: {}", said.stderr);
        }
    };
    let revision = DATA.replace("file:", "revision: devlop, file:");
    says(
        &revision,
        2,
        &["w.yaml:2:9", "`org/set` has no such revision", "did you mean `develop`?"],
    );
    let file = DATA.replace("rows.jsonl", "row.jsonl");
    says(
        &file,
        2,
        &["w.yaml:2:9", "has no file `row.jsonl` at `main`", "did you mean `rows.jsonl`?"],
    );
    let repository = DATA.replace("org/set", "org/other");
    says(
        &repository,
        4,
        &[
            "access to `org/other` is denied (401)",
            "it is private, or its name is wrong",
            "hf auth login",
        ],
    );
    world.server.gate("datasets/org/set");
    let page = format!("ask for access at {}/datasets/org/set; set HF_TOKEN", world.server.hub);
    says(DATA, 4, &["`org/set` is gated", &page]);
    let said = world.run(&["run", "w.yaml"], &[("HF_TOKEN", "granted")]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let nowhere = [("HF_ENDPOINT", "http://127.0.0.1:1"), ("HF_HOME", "elsewhere")];
    let said = world.run(&["fetch", "w.yaml"], &nowhere);
    assert_eq!(said.code, 4);
    assert!(said.stderr.contains("cannot be fetched: the connection failed"), "{}", said.stderr);
}

#[test]
fn wrong_declarations_are_told_where_they_stand() {
    let space = Space::new();
    let says = |data: &str, words: &str| {
        space.write("w.yaml", &DATA.replace("{ hub: org/set, file: rows.jsonl }", data));
        let said = space.run(&["check", "w.yaml"]);
        assert_eq!(said.code, 2, "{data}: {}", said.stderr);
        assert!(
            said.stderr.contains(words) && said.stderr.contains("w.yaml:2:"),
            "{data}: {}",
            said.stderr
        );
    };
    says("{ hub: org/set }", "data on the hub need `file`");
    says("{ hub: ../set, file: x }", "`../set` is not a name of the hub");
    says("{ hub: org/set, file: ../x }", "`../x` is not a path inside of a repository");
    says("{ hub: org/set, file: x, path: y }", "`path` stands beside `hub`");
    says("{ hub: org/set, file: x, revision: a..b/../c }", "is not a revision");
    says("{ path: x, revision: y }", "`revision` is for a source with `hub`");
    says("{ url: 'https://a/b' }", "a file from the web needs `digest`");
    says("{ url: 'http://a/b', digest: x }", "an address with `http://` is not fetched");
    says("{ url: 'https://a:b@c/d', digest: x }", "the address holds a password");
    says("{ url: 'https://a/b', digest: x }", "`x` is not a digest");
    says("{ format: csv }", "a source needs `path`, `hub` or `url`");
}

/// A workflow that reads a file from the web.
pub fn web(url: &str, digest: &str) -> String {
    let file = format!("url: '{url}', digest: '{digest}'");
    DATA.replace("hub: org/set, file: rows.jsonl", &file)
}

#[test]
fn a_file_of_the_web_is_fetched_once_and_is_the_one_that_is_meant() {
    let world = World::new(DATA);
    let url = world.server.put("/x/rows.jsonl", ROWS.as_bytes());
    let url = format!("{url}?key=hunter2");
    let sha = format!("sha256:{}", sha256(ROWS.as_bytes()));
    world.space.write("w.yaml", &web(&url, &sha));
    let said = world.ok(&["check", "w.yaml"]);
    assert!(said.stderr.contains("not known until fetched"), "{}", said.stderr);
    let report = world.report(&[], &[("HF_TOKEN", "secret")]);
    let seen = world.server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
    let kept = format!("hf/assets/refrain/web/{}/rows.jsonl", sha.replace(':', "-"));
    assert_eq!(world.space.read(&kept), ROWS);
    assert_eq!(world.pins()[0]["digest"], sha);
    assert!(!world.space.read("w.lock").contains("127.0.0.1"));

    // The digest names the file: another address of it, or another spelling, fetches nothing or the
    // same bytes, and no key holds them.
    world.ok(&["run", "w.yaml", "--force", "judged"]);
    assert!(world.server.seen().is_empty());
    let blake3 = refrain_cache::Digest::of_bytes(ROWS.as_bytes()).to_string();
    for digest in [&blake3, &format!("blake3:{blake3}")] {
        world.space.write("w.yaml", &web(&url, digest));
        let again = world.report(&[], &[]);
        assert_eq!(node(&again, "rows")["key"], node(&report, "rows")["key"]);
        assert!(names(&again, "ran").is_empty());
    }

    let other = format!("sha256:{}", sha256(b"other"));
    world.space.write("w.yaml", &web(&url, &other));
    let stale = world.run(&["verify", "w.yaml"], &[]);
    assert_eq!(stale.code, 3, "{}", stale.stdout);
    let said = world.run(&["run", "w.yaml"], &[]);
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert!(said.stderr.contains(&format!("arrived with the digest {sha}")), "{}", said.stderr);
    assert!(
        said.stderr.contains("check `digest`") && !said.stderr.contains("hunter2"),
        "{}",
        said.stderr
    );
    assert_eq!(
        paths(&world.space.path("hf/assets"))
            .iter()
            .filter(|path| path.contains(&sha256(b"other")) && !path.ends_with(".lock"))
            .count(),
        0
    );
}

#[test]
fn what_the_cache_holds_of_a_branch_is_enough_offline() {
    let world = World::new(DATA);
    world.ok(&["fetch", "w.yaml"]);
    std::fs::remove_file(world.space.path("w.lock")).unwrap();
    world.server.seen();
    // Without a pin, what the cache has of the branch is shown, and a run asks the hub.
    assert!(!world.ok(&["check", "w.yaml"]).stderr.contains("until fetched"));
    assert!(world.server.seen().is_empty());
    let report = world.report(&[], &[("HF_HUB_OFFLINE", "1")]);
    assert!(world.server.seen().is_empty());
    let pin = world.pins()[0].clone();
    std::fs::remove_file(world.space.path("w.lock")).unwrap();
    let again = world.report(&[], &[]);
    assert!(!world.server.seen().is_empty());
    assert_eq!(node(&again, "rows")["key"], node(&report, "rows")["key"]);
    assert_eq!(world.pins()[0], pin);

    let said = world.run(&["run", "w.yaml"], &[("HF_HUB_OFFLINE", "1"), ("HF_HOME", "elsewhere")]);
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert!(said.stderr.contains("HF_HUB_OFFLINE forbids to fetch it"), "{}", said.stderr);
    assert!(said.stderr.contains("refrain fetch"), "{}", said.stderr);
}

#[test]
fn an_adapter_finds_its_base_on_the_hub() {
    let local = Space::new();
    small(&local);
    local.report("w.yaml", &["--only", "tuned[threshold=40]"]);
    let world = World::new(
        "refrain: 1
models: { base: { hub: org/tiny }, adapter: { hub: org/adapter } }
data: { rows: { hub: org/set, file: rows.jsonl } }
stages: { scored: { score: { model: adapter, data: rows } } }
",
    );
    world.server.commit("models/org/tiny", "main", &borrowed(&made(&local, "base")));
    let adapter = made(&local, "tuned[threshold=40]");
    world.server.commit("models/org/adapter", "main", &borrowed(&adapter));
    // That it is an adapter is known when it is fetched, and then its base is fetched too.
    let report = world.report(&[], &[]);
    assert_eq!(names(&report, "ran"), ["rows", "scored"].map(String::from).into());
    assert_eq!(world.pins().len(), 3);
    let base = &node(&report, "base")["outputs"]["main"]["digest"];
    assert_eq!(node(&report, "adapter")["outputs"]["main"]["base"], *base);
    world.ok(&["run", "w.yaml", "--locked"]);
    world.ok(&["verify", "w.yaml"]);
    // The lock knows it where the files are absent.
    std::fs::remove_dir_all(world.space.path("hf")).unwrap();
    world.ok(&["verify", "w.yaml", "--no-data"]);
    assert!(world.ok(&["plan", "w.yaml"]).stdout.contains("4 cached"));
}

#[test]
fn files_and_folders_are_passed_on_and_a_sweep_may_name_revisions() {
    let world = World::new(
        "refrain: 1
data:
  script: { hub: org/tools, file: count.sh, type: file }
  folder: { hub: org/tools, file: rows, type: folder, revision: \"${revision}\" }
stages:
  counted:
    run:
      command: [sh, \"${in.script}\", \"${in.folder}\", \"${out.n}\"]
      inputs: { script: script, folder: folder }
      outputs: { n: file }
sweep: { revision: [v1, v2] }
",
    );
    let script = b"ls $1 | wc -l > $2";
    let files: [(&str, &[u8]); 4] =
        [("count.sh", script), ("rows/a", b"a"), ("rows/b", b"b"), ("rows/c", b"c")];
    world.server.commit("datasets/org/tools", "v2", &files);
    world.server.commit("datasets/org/tools", "v1", &files[..2]);
    world.server.commit("datasets/org/tools", "main", &files);
    let report = world.report(&[], &[]);
    assert_eq!(names(&report, "ran").len(), 2);
    let shown = |revision: &str| {
        let node = format!("counted[revision={revision}]");
        let said = world.ok(&["show", "w.yaml", &node, "--path"]);
        std::fs::read_to_string(said.stdout.trim()).unwrap().trim().to_owned()
    };
    assert_eq!((shown("v1"), shown("v2")), ("1".into(), "3".into()));
    let pins = world.pins();
    let of = |name: &str| pins.iter().filter(|pin| pin["fetched"] == name).count();
    assert_eq!((of("folder"), of("script")), (2, 1));
    world.ok(&["run", "w.yaml", "--update", "folder"]);
    world.ok(&["verify", "w.yaml"]);
}

#[test]
fn a_fetch_emits_its_progress() {
    let world = World::new(DATA);
    let text = large();
    world.server.commit("datasets/org/set", "main", &[("rows.jsonl", text.as_bytes())]);
    let said = world.ok(&["run", "w.yaml", "--log", "debug", "--log-format", "json"]);
    let lines: Vec<Value> =
        said.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let event = |name: &str| lines.iter().find(|line| line["event"] == name).unwrap();
    let bytes = text.len();
    let progress = event("progress");
    assert_eq!(
        (&progress["done"], &progress["total"], &progress["unit"]),
        (&bytes.into(), &bytes.into(), &"bytes".into())
    );
    let fetched = event("fetched");
    assert_eq!((&fetched["source"], &fetched["files"]), (&"rows".into(), &1.into()));
    assert_eq!(
        (&fetched["from"], &fetched["bytes"]),
        (&"org/set/rows.jsonl".into(), &bytes.into())
    );
}

#[test]
fn a_mistake_is_told_before_anything_is_fetched() {
    let world = World::new(&DATA.replace("task: exact_match", "task: exact"));
    let said = world.run(&["run", "w.yaml"], &[]);
    assert_eq!(said.code, 2);
    assert!(world.server.seen().is_empty());
    // Only what is wanted is fetched.
    world.space.write(
        "w.yaml",
        "refrain: 1
data:
  rows: { hub: org/set, file: rows.jsonl }
  other: { hub: org/absent, file: rows.jsonl }
stages:
  judged: { evaluate: { data: rows, task: exact_match } }
  others: { evaluate: { data: other, task: exact_match } }
",
    );
    let report = world.report(&["--only", "judged"], &[]);
    assert_eq!(names(&report, "ran"), ["judged", "rows"].map(String::from).into());
    assert_eq!(world.run(&["run", "w.yaml"], &[]).code, 4);
    // What was fetched beside a failure stays pinned.
    assert_eq!(world.pins().len(), 1);
}

#[test]
fn the_example_of_the_document_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/hub.md")).unwrap();
    let example = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let world = World::new(DATA);
    let files = model_files(&Space::new());
    world.server.commit("models/org/tiny", "main", &borrowed(&files));
    let rows = ROWS.replace("prompt", "question").replace("response", "answer");
    world.server.commit("datasets/org/set", "v1", &[("data/train-0.jsonl", rows.as_bytes())]);
    let words = "prompt,response\n1 + 1?,2\n";
    let url = world.server.put("/words.csv", words.as_bytes());
    let digest = example.split("sha256:").nth(1).unwrap().split('"').next().unwrap();
    let example = example
        .replace("https://example.org/words.csv", &url)
        .replace(digest, &sha256(words.as_bytes()));
    let stages = "stages:
  scored: { score: { model: base, data: train } }
  others: { score: { model: base, data: words } }
";
    world.space.write("w.yaml", &format!("refrain: 1\n{example}{stages}"));
    assert_eq!(names(&world.report(&[], &[]), "ran").len(), 4);
    let said = world.ok(&["fetch", "w.yaml"]);
    assert_eq!(said.stdout.matches("nothing to fetch").count(), 3, "{}", said.stdout);
}
