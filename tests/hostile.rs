//! Workflows, names and files beside them that were made to break a reader: what is said, within bounds of time and memory.

use std::fs;

use crate::space::Space;

/// A workflow of one stage that reads `rows.jsonl`, and more lines.
fn workflow(more: &str) -> String {
    format!(
        "refrain: 1\ndata: {{ rows: {{ path: rows.jsonl }} }}\nstages:\n  s: {{ diversify: {{ data: rows, dedupe: exact }} }}\n{more}"
    )
}

fn space() -> Space {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    space
}

fn check(name: &str, text: impl AsRef<[u8]>) {
    let space = space();
    fs::write(space.path("w.yaml"), text).unwrap();
    snapshot(name, &space, &["check", "w.yaml"]);
}

fn snapshot(name: &str, space: &Space, arguments: &[&str]) {
    insta::assert_snapshot!(name, space.refuses(arguments));
}

#[test]
fn bombs() {
    let tenfold = |name: &str, first: &str, level: fn(usize) -> String| {
        let mut text = format!("refrain: 1\nparams:\n  {name}0: {first}\n");
        for i in 1..12 {
            text.push_str(&format!("  {name}{i}: {}\n", level(i)));
        }
        text
    };
    let aliases = |i: usize| format!("&a{i} [{}]", vec![format!("*a{}", i - 1); 10].join(", "));
    check("bomb_of_aliases", tenfold("a", "&a0 [1, 1]", aliases));
    let texts = |i: usize| format!("'{}'", format!("${{a{}}}", i - 1).repeat(10));
    let use_it = "stages: { s: { run: { command: [echo, '${a11}'], outputs: { t: table } } } }\n";
    check("bomb_of_texts", tenfold("a", "xxxxxxxxxx", texts) + use_it);
    check("bomb_of_empty_texts", tenfold("a", "''", texts) + use_it);
    let lists = |i: usize| format!("[{}]", vec![format!("'${{a{}}}'", i - 1); 10].join(", "));
    check(
        "bomb_of_lists",
        tenfold("a", "[]", lists) + &use_it.replace("[echo, '${a11}']", "'${a11}'"),
    );
    // Each alias is well within the depth; one inside another is not.
    let mut deep = String::from("refrain: 1\nparams:\n  a0: &a0 1\n");
    for i in 1..400 {
        deep.push_str(&format!("  a{i}: &a{i} {}*a{}{}\n", "[".repeat(50), i - 1, " ]".repeat(50)));
    }
    check("depth_by_aliases", deep);
    check("alias_of_itself", "refrain: 1\nparams: { a: &a [1, *a] }\n");
}

#[test]
fn depth_and_size() {
    check("depth_of_brackets", format!("refrain: 1\nname: {}\n", "[".repeat(1_000_000)));
    check("depth_of_dashes", format!("refrain: 1\nname:\n  {}\n", "- ".repeat(100_000)));
    check("depth_of_questions", format!("refrain: 1\nname:\n  {}\n", "? ".repeat(100_000)));
    // Text as a value, but a document of its own to another parser.
    check(
        "document_in_a_value",
        format!("refrain: 1\nname: --- {}\nstagse: {{}}\n", "[".repeat(300_000)),
    );
    check("number_of_a_million_digits", format!("refrain: {}\n", "9".repeat(1_000_000)));
    check("too_large", workflow(&format!("# {}\n", "x".repeat(16 << 20))));
    check("long_name", workflow(&format!("  {}: 1\n", "x".repeat(100_000))));
    check(
        "long_reference",
        workflow("").replace("data: rows,", &format!("data: {},", "rows".repeat(50_000))),
    );
    let axes = |sizes: &[usize]| -> String {
        let axes = sizes.iter().enumerate().map(|(i, n)| {
            let values: Vec<String> = (0..*n).map(|v| v.to_string()).collect();
            format!("  a{i}: [{}]\n", values.join(", "))
        });
        axes.collect()
    };
    let sweep = |sizes: &[usize], seed: &str| {
        workflow(&format!("sweep:\n{}", axes(sizes)))
            .replace("exact }", &format!("exact, seed: {seed} }}"))
    };
    check("sweep_of_a_billion", sweep(&[1000, 1000, 1000], "'${a0}'"));
    check("sweep_of_a_million_nodes", sweep(&[1000, 3000], "'${a0}${a1}'"));
    check("sweep_of_many_axes", sweep(&[1; 65], "'${a0}'"));
    check(
        "many_problems",
        workflow(
            &(0..20_000)
                .map(|i| format!("  s{i}: {{ mask: {{ data: rwos }} }}\n"))
                .collect::<String>(),
        ),
    );
}

#[test]
fn what_is_large_and_right_is_read() {
    let space = space();
    let million = vec!["1"; 1_000_000].join(", ");
    space.write("w.yaml", &workflow(&format!("params: {{ many: [{million}] }}\n")));
    space.accepts(&["plan", "w.yaml"]);
    let names: String = (0..20_000).map(|i| format!("  p{i}: {i}\n")).collect();
    space.write("w.yaml", &workflow(&format!("params:\n{names}")));
    space.accepts(&["plan", "w.yaml"]);
    let name = "x".repeat(100);
    space.write("w.yaml", &workflow("").replace("  s:", &format!("  {name}:")));
    space.accepts(&["run", "w.yaml", "--quiet"]);
    for command in ["plan", "graph", "results", "verify"] {
        space.accepts(&[command, "w.yaml"]);
    }
    space.accepts(&["show", "w.yaml", &name]);
}

#[test]
fn encodings() {
    for (name, bytes) in [
        ("utf8_wrong", b"refrain: 1\nname: \xff\n".to_vec()),
        ("utf16", "\u{feff}refrain: 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("nul", b"refrain: 1\nname: a\0b\n".to_vec()),
        ("escape", b"refrain: 1\nname: a\x1b[31mb\n".to_vec()),
        ("second_byte_order_mark", "\u{feff}\u{feff}refrain: 1\n".into()),
    ] {
        check(name, bytes);
    }
    // A mark at the start and lines as another system ends them change nothing.
    let space = space();
    space.write("w.yaml", &workflow(""));
    space.write("crlf.yaml", &format!("\u{feff}{}", workflow("").replace('\n', "\r\n")));
    assert_eq!(space.digests("w.yaml", &[]), space.digests("crlf.yaml", &[]));
}

/// Characters that drive a terminal, and those that turn the direction of a text round.
const DRIVES: [char; 5] = ['\u{1b}', '\u{7}', '\r', '\u{9b}', '\u{202e}'];

#[test]
fn what_drives_a_terminal_is_shown_escaped() {
    let evil = r"\e[31m\a\r\x9b31m\u202e";
    for (name, text) in [
        ("escape_in_a_stage", workflow(&format!("  \"a{evil}\": {{ mask: {{ data: rows }} }}\n"))),
        ("escape_in_a_kind", workflow("").replace("diversify", &format!("\"d{evil}\""))),
        ("escape_in_a_reference", workflow("").replace("rows,", &format!("\"r{evil}\","))),
        ("escape_in_a_path", workflow("").replace("rows.jsonl", &format!("\"{evil}.jsonl\""))),
        ("escape_in_an_axis", workflow("sweep: { a: [1, \"\\e\\u202e\", \"\\e\\u202e\"] }\n")),
        (
            "escape_in_a_metric",
            workflow(&format!(
                "expect: [{{ stage: s, metric: \"x{evil}\", at_least: 1, source: \"{evil}\" }}]\n"
            )),
        ),
    ] {
        let space = space();
        space.write("w.yaml", &text);
        let said = space.refuses(&["run", "w.yaml", "--quiet"]);
        assert!(!said.contains(DRIVES), "{name}: {said:?}");
        insta::assert_snapshot!(name, said);
    }
    let space = space();
    space.write("w.yaml", "refrain: 1\n");
    let said = space.refuses(&["run", "w.yaml", "--set", "a\u{1b}[31m\u{202e}=1"]);
    assert!(!said.contains(DRIVES), "{said:?}");
    let said = space.refuses(&["check", "\u{1b}[31m\u{202e}.yaml"]);
    assert!(!said.contains(DRIVES), "{said:?}");
}

#[test]
fn what_drives_a_terminal_in_rows_and_labels_is_shown_escaped() {
    let space = Space::new();
    let evil = "\\u001b[31m\\u0007\\r\\u009b\\u202e";
    space.write(
        "rows.jsonl",
        &format!("{{\"prompt\": \"{evil}\", \"re{evil}\": [\"{evil}\"], \"o\": {{\"k{evil}\": \"{evil}\"}}, \"response\": \"{evil}\", \"reference\": \"{evil}\"}}\n"),
    );
    space.write(
        "w.yaml",
        "refrain: 1
data: { rows: { path: rows.jsonl } }
stages:
  s: { evaluate: { data: rows, task: exact_match } }
  t: { diversify: { data: s, dedupe: exact, seed: \"${a.value}\" } }
sweep: { a: [ { name: \"x\\e\\u202e\", value: 1 } ] }
expect: [{ stage: s, metric: accuracy, at_least: 0.1, source: \"\\e[31m\\u202e\" }]
",
    );
    for arguments in [
        &["run", "w.yaml"][..],
        &["run", "w.yaml"],
        &["show", "w.yaml", "rows"],
        &["show", "w.yaml", "t[a=\"x\\u001b\u{202e}\"]"],
        &["results", "w.yaml"],
        &["results", "w.yaml", "--format", "json"],
        &["plan", "w.yaml"],
        &["graph", "w.yaml"],
        &["verify", "w.yaml"],
        &["explain", "w.yaml", "t[a=\"x\\u001b\u{202e}\"]"],
        &["show", "w.yaml", "rows", "--format", "json"],
    ] {
        let said = space.survives(arguments);
        let all = format!("{}{}", said.stdout, said.stderr);
        assert_eq!(said.code, 0, "{arguments:?}: {all}");
        assert!(!all.contains(DRIVES), "{arguments:?}: {all:?}");
    }
    // What a command prints.
    space.write("c.yaml", "refrain: 1\nstages: { s: { run: { command: [printf, '\\033[31m\\r\\302\\233\\342\\200\\256'], outputs: { t: table } } } }\n");
    let said = space.refuses(&["run", "c.yaml", "--quiet"]);
    assert!(!said.contains(DRIVES), "{said:?}");
    space.write("c.yaml", "refrain: 1\nstages: { s: { run: { command: [sh, -c, 'printf \"\\033[31m\\r\\302\\233\\342\\200\\256\"; exit 1'], outputs: { t: table } } } }\n");
    let said = space.refuses(&["run", "c.yaml", "--quiet"]);
    assert!(!said.contains(DRIVES), "{said:?}");
    insta::assert_snapshot!("escape_in_what_a_command_prints", said);
}

#[test]
#[cfg(unix)]
fn what_is_no_plain_file() {
    use std::os::unix::fs::symlink;
    let space = space();
    assert!(
        std::process::Command::new("mkfifo").arg(space.path("pipe")).status().unwrap().success()
    );
    fs::create_dir(space.path("folder")).unwrap();
    symlink("round", space.path("round")).unwrap();
    for (name, path) in
        [("pipe", "pipe"), ("device", "/dev/zero"), ("folder", "folder"), ("circle", "round")]
    {
        snapshot(&format!("workflow_is_a_{name}"), &space, &["check", path]);
        for (kind, entry, stage) in [
            ("table", "format: jsonl", "diversify: { data: x, dedupe: exact }"),
            ("parquet", "format: parquet", "diversify: { data: x, dedupe: exact }"),
            (
                "file",
                "type: file",
                "run: { command: [cat, '${in.x}'], inputs: { x: x }, outputs: { t: file } }",
            ),
            ("model", "type: model", "score: { model: x, data: rows }"),
        ] {
            space.write("w.yaml", &format!("refrain: 1\ndata:\n  rows: {{ path: rows.jsonl }}\n  x: {{ path: {path}, {entry} }}\nstages:\n  s: {{ {stage} }}\n"));
            snapshot(&format!("{kind}_is_a_{name}"), &space, &["run", "w.yaml", "--quiet"]);
        }
    }
    // What lies beside a workflow.
    space.write("w.yaml", &workflow(""));
    assert!(
        std::process::Command::new("mkfifo").arg(space.path("w.lock")).status().unwrap().success()
    );
    snapshot("lock_is_a_pipe", &space, &["run", "w.yaml", "--quiet"]);
    fs::remove_file(space.path("w.lock")).unwrap();
    symlink("/dev/zero", space.path("w.lock")).unwrap();
    snapshot("lock_is_a_device", &space, &["run", "w.yaml", "--quiet"]);
}

#[test]
fn locks_and_what_a_cache_holds() {
    let space = space();
    space.write("w.yaml", &workflow(""));
    space.report("w.yaml", &[]);
    let lock = space.read("w.lock");
    for (name, text) in [
        ("lock_deep", "[".repeat(1_000_000)),
        ("lock_long_line", format!("{{\"node\": \"{}", "x".repeat(1_000_000))),
        ("lock_of_another_type", lock.replace("\"bytes\":", "\"bytes\": -")),
        ("lock_with_a_path_for_a_digest", lock.replace("\"digest\":\"", "\"digest\":\"../../../")),
    ] {
        space.write("w.lock", &text);
        for command in ["verify", "run", "plan"] {
            snapshot(&format!("{name}_{command}"), &space, &[command, "w.yaml"]);
        }
    }
    space.write("w.lock", &lock);
    // Garbage for what is only remembered, and for the records: a run makes everything anew.
    let digests = space.digests("w.yaml", &[]);
    for garbage in [&b"\0\xff\x1b[31m"[..], b"", b"{\"key\": 1}\n", &[b'['; 100_000][..]] {
        let mut files = Vec::new();
        below(&space.path(".refrain"), &mut files);
        for file in files.iter().filter(|f| {
            !f.components().any(|c| c.as_os_str() == "objects") && !f.ends_with("format")
        }) {
            fs::write(file, garbage).unwrap();
        }
        assert_eq!(space.digests("w.yaml", &[]), digests);
        for command in ["plan", "verify", "results", "graph"] {
            space.accepts(&[command, "w.yaml"]);
        }
    }
}

/// All files below a folder.
fn below(folder: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { below(&path, files) } else { files.push(path) }
    }
}

#[test]
#[cfg(unix)]
fn what_a_command_leaves() {
    let space = space();
    let run = |outputs: &str, script: &str| {
        format!(
            "refrain: 1\nstages: {{ s: {{ run: {{ command: [sh, -c, '{script}'], outputs: {outputs} }} }} }}\n"
        )
    };
    let folder =
        "mkdir ${out.m}; cd ${out.m}; echo {} > config.json; printf x > model.safetensors; ";
    for (name, outputs, script) in [
        ("output_leads_out", "{ '../x': file }", "true".to_owned()),
        ("output_is_a_pipe", "{ m: file }", "mkfifo ${out.m}".to_owned()),
        ("output_is_a_link", "{ m: file }", "ln -s /etc/passwd ${out.m}".to_owned()),
        ("output_is_a_link_to_a_folder", "{ m: model }", "ln -s /etc ${out.m}".to_owned()),
        (
            "output_holds_a_link",
            "{ m: model }",
            format!("{folder} ln -s /etc/passwd tokenizer.json"),
        ),
        ("output_holds_a_pipe", "{ m: model }", format!("{folder} mkfifo tokenizer.json")),
        ("output_table_is_a_device", "{ m: table }", "ln -s /dev/zero ${out.m}".to_owned()),
    ] {
        space.write("w.yaml", &run(outputs, &script));
        snapshot(name, &space, &["run", "w.yaml", "--quiet"]);
    }
    // A name may hold anything but what ends it.
    let odd = format!("{folder} printf x > \"$(printf \"a\\nb\\033[31m\")\".safetensors");
    space.write("w.yaml", &run("{ m: model }", &odd));
    space.accepts(&["run", "w.yaml", "--quiet"]);
    space.accepts(&["verify", "w.yaml"]);
    let said = space.survives(&["show", "w.yaml", "s"]);
    assert!(
        !format!("{}{}", said.stdout, said.stderr).contains(DRIVES),
        "{}{}",
        said.stdout,
        said.stderr
    );
}
