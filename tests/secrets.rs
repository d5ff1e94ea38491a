//! No value of `${env:NAME}` is in anything that Refrain writes: the cache, the lock, what any command prints.

use std::path::Path;

use crate::hub::World;
use crate::hub::server::{Reply, sha256};
use crate::space::Space;

/// The value, whose base64 has no padding.
const VALUE: &str = "hunter2-hunter2";
const BASE64: &str = "aHVudGVyMi1odW50ZXIy";

const WORKFLOW: &str = r#"refrain: 1
stages:
  good:
    run:
      command: [sh, -c, 'echo out $KEY; echo err $MIXED >&2; echo fine > ${out.o}']
      environment: { KEY: "${env:TOKEN}", MIXED: "a${env:TOKEN}b" }
      outputs: { o: file }
  bad:
    run:
      command: [sh, -c, 'echo out $KEY; env >&2; printf %s%s "$KEY" "$KEY"; exit 3']
      environment: { KEY: "${env:TOKEN}", MIXED: "a${env:TOKEN}b" }
      outputs: { o: file }
    retry: { times: 1, wait: 1ms }
  late:
    run:
      command: [sh, -c, 'echo out $KEY; exec sleep 60']
      environment: { KEY: "${env:TOKEN}" }
      outputs: { o: file }
    timeout: 300ms
"#;

/// Fails when bytes hold any of a secret.
pub fn clean(place: &str, bytes: &[u8]) {
    for secret in ["hunter2", BASE64] {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{place}: {}", String::from_utf8_lossy(bytes));
    }
}

pub fn clean_folder(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        clean("a name", path.to_string_lossy().as_bytes());
        match path.is_dir() {
            true => clean_folder(&path),
            false => clean(&path.display().to_string(), &std::fs::read(&path).unwrap()),
        }
    }
}

/// Runs a command in both formats with the secret in its environment; its exit code.
fn says(space: &Space, arguments: &[&str]) -> i32 {
    let mut code = 0;
    for format in ["human", "json"] {
        let arguments = [arguments, &["--format", format]].concat();
        let output = space.command(&arguments).env("TOKEN", VALUE).output().unwrap();
        let place = arguments.join(" ");
        clean(&place, &output.stdout);
        clean(&place, &output.stderr);
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty(), "{place}: it says nothing");
        code = output.status.code().unwrap();
    }
    clean_folder(&space.path("."));
    code
}

#[test]
fn no_command_keeps_or_shows_a_secret() {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    assert_eq!(says(&space, &["check", "w.yaml"]), 0);
    assert_eq!(says(&space, &["plan", "w.yaml"]), 0);
    assert_eq!(says(&space, &["run", "w.yaml", "--keep-going", "--jobs", "1"]), 1);
    // What failed did see the value, and what it printed is shown without it.
    let said =
        space.command(&["run", "w.yaml", "--keep-going"]).env("TOKEN", VALUE).output().unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(text.contains("out ***") && text.contains("MIXED=a***b"), "{text}");
    assert!(text.contains("attempt 1 of 2") && text.contains("its `timeout` of 300ms"), "{text}");
    // Nor do logs and traces hold it, whatever is in them.
    says(&space, &["run", "w.yaml", "--keep-going", "--log", "trace", "--trace", "trace.json"]);
    let json = &["run", "w.yaml", "--keep-going", "--log", "trace", "--log-format", "json"];
    says(&space, json);
    for command in ["plan", "explain", "results", "graph", "verify"] {
        says(&space, &[command, "w.yaml"]);
    }
    says(&space, &["explain", "w.yaml", "bad"]);
    says(&space, &["show", "w.yaml", "bad"]);
    // What only fails goes; the rest is run, found again, and looked at from all sides.
    let text = space.read("w.yaml");
    space.write("w.yaml", &text[..text.find("  bad:").unwrap()]);
    for arguments in [
        &["run", "w.yaml"][..],
        &["run", "w.yaml"],
        &["run", "w.yaml", "--force", "good"],
        &["run", "w.yaml", "--locked"],
        &["plan", "w.yaml"],
        &["plan", "w.yaml", "--summary"],
        &["explain", "w.yaml"],
        &["explain", "w.yaml", "good"],
        &["results", "w.yaml"],
        &["graph", "w.yaml"],
        &["show", "w.yaml", "good"],
        &["show", "w.yaml", "good", "--path"],
        &["verify", "w.yaml"],
        &["verify", "w.yaml", "--complete", "--recompute", "all"],
        &["graph", "w.yaml", "--as", "dot"],
        &["cache", "stat", "w.yaml"],
        &["cache", "verify", "w.yaml"],
        &["cache", "gc", "w.yaml", "--dry-run"],
        &["cache", "gc", "w.yaml"],
    ] {
        assert_eq!(says(&space, arguments), 0, "{arguments:?}");
    }
    // The key knows the variable's name alone: with another value nothing runs.
    let said = space.command(&["run", "w.yaml"]).env("TOKEN", "another").output().unwrap();
    assert!(String::from_utf8(said.stderr).unwrap().contains("0 nodes run"));
}

#[test]
fn a_value_in_the_workflow_itself_is_refused_outside_its_place() {
    let space = Space::new();
    space.write("w.yaml", &WORKFLOW.replacen("echo out $KEY", "echo ${env:TOKEN}", 1));
    assert_eq!(says(&space, &["check", "w.yaml"]), 2);
    assert_eq!(says(&space, &["run", "w.yaml"]), 2);
}

const FETCHED: &str = "refrain: 1
data:
  rows: { hub: org/set, file: rows.jsonl }
  more: { url: URL, digest: DIGEST }
stages:
  judged: { evaluate: { data: rows, task: exact_match } }
  others: { evaluate: { data: more, task: exact_match } }
";

/// Neither the token of the hub nor the query of an address, whatever servers make of them.
#[test]
fn no_fetch_keeps_or_shows_a_token() {
    let world = World::new("");
    let row = "{\"id\": \"c\", \"response\": \"2\", \"reference\": \"2\"}\n";
    let rows = format!("{row}{}", " ".repeat(3000));
    world.server.commit("datasets/org/set", "main", &[("rows.jsonl", rows.as_bytes())]);
    let url = world.server.put("/more.jsonl", rows.as_bytes());
    let digest = format!("sha256:{}", sha256(rows.as_bytes()));
    // The workflow is the user's own, and holds an address with a secret of its own.
    let workflow =
        FETCHED.replace("URL", &format!("'{url}?key={VALUE}'")).replace("DIGEST", &digest);
    let says = |arguments: &[&str], code: i32| {
        world.space.write("w.yaml", &workflow);
        for log in [
            &[][..],
            &["--log", "trace"],
            &["--log", "trace", "--log-format", "json", "--trace", "t.json"],
        ] {
            let arguments = [arguments, log].concat();
            let said = world.run(&arguments, &[("HF_TOKEN", VALUE)]);
            assert_eq!(said.code, code, "{arguments:?}: {}", said.stderr);
            clean(&arguments.join(" "), said.stdout.as_bytes());
            clean(&arguments.join(" "), said.stderr.as_bytes());
        }
        std::fs::remove_file(world.space.path("w.yaml")).unwrap();
        clean_folder(&world.space.path("."));
    };
    // Servers that send back what they were sent.
    world.server.fault(|request, reply| {
        let token = request.header("authorization").unwrap_or("none").to_owned();
        match request.host {
            "hub" => Reply::new(403, format!("denied to {token}"))
                .with("X-Error-Message", token.clone())
                .with("X-Error-Code", token),
            _ => reply,
        }
    });
    says(&["fetch", "w.yaml"], 4);
    world.server.fault(|request, reply| match request.host {
        "hub" => {
            let token = request.header("authorization").unwrap_or("none").replace(' ', "");
            Reply::new(302, "").with("Location", format!("http://outside.example/x?{token}"))
        }
        _ => reply,
    });
    says(&["run", "w.yaml"], 4);
    world.server.fault(|request, reply| match request.host {
        "cdn" => Reply::new(404, format!("no {}", request.path)),
        _ => reply,
    });
    says(&["run", "w.yaml"], 2);
    world.server.heal();
    for command in ["fetch", "run", "plan", "verify", "explain", "graph"] {
        says(&[command, "w.yaml"], 0);
    }
    // The token was sent, and to the hub alone.
    let seen = world.server.seen();
    assert!(seen.iter().any(|request| request.header("authorization").is_some()));
    assert!(
        seen.iter()
            .all(|request| request.host == "hub" || request.header("authorization").is_none())
    );
}
