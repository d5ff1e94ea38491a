//! How the language reads values, sweeps and names, seen from outside.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::space::Space;

const ROWS: &str = "{\"prompt\": \"a\", \"response\": \"b\", \"reference\": \"b\"}\n";

/// A space with a workflow of this text, behind its version, and one table.
fn space(workflow: &str) -> Space {
    let space = Space::new();
    space.write("rows.jsonl", ROWS);
    space.write("w.yaml", &format!("refrain: 1\n{workflow}"));
    space
}

/// A workflow with one command that writes its arguments to its output, a line each.
fn prints(arguments: &str, more: &str) -> Space {
    let script = "out=$1; shift; printf '%s\\\\n' \"$@\" > \"$out\"";
    let script = script.replace('"', "\\\"");
    space(&format!(
        "stages:\n  s: {{ run: {{ command: [sh, -c, \"{script}\", sh, \"${{out.r}}\", {arguments}], \
         outputs: {{ r: file }} }} }}\n{more}"
    ))
}

/// What the command of a node was given.
fn printed(space: &Space, node: &str, set: &[&str]) -> Vec<String> {
    let said = space.run(&[&["run", "w.yaml"], set].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    let said = space.run(&[&["show", "w.yaml", node, "--path"], set].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    space.read(said.stdout.trim()).lines().map(String::from).collect()
}

fn nodes(space: &Space) -> u64 {
    let said = space.run(&["check", "w.yaml", "--format", "json"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    serde_json::from_str::<Value>(&said.stdout).unwrap()["nodes"].as_u64().unwrap()
}

fn node_names(space: &Space) -> Vec<String> {
    let said = space.run(&["plan", "w.yaml", "--format", "json"]);
    let plan: Value = serde_json::from_str(&said.stdout).unwrap();
    plan["nodes"].as_array().unwrap().iter().map(|n| n["node"].as_str().unwrap().into()).collect()
}

#[test]
fn a_command_gets_scalars_as_they_were_written() {
    let space = prints(
        "3.10, 1.0, 7e10, 1E234, True, \"${version}\", \"v${version}-${flag}\", \"${x}\"",
        "params: { version: 3.10, flag: FALSE }\nsweep: { x: [1, .inf, -.INF, .nan] }\n",
    );
    let fixed = ["3.10", "1.0", "7e10", "1E234", "True", "3.10", "v3.10-FALSE"];
    for (label, written) in [("1", "1"), ("inf", ".inf"), ("-inf", "-.INF"), ("nan", ".nan")] {
        let given = printed(&space, &format!("s[x={label}]"), &[]);
        assert_eq!(given[..7], fixed);
        assert_eq!(given[7..], [written]);
    }
    let given = printed(&space, "s[x=1]", &["--set", "version=4.20", "--set", "x=1.0"]);
    assert_eq!(given[5..7], ["4.20", "v4.20-FALSE"]);
}

#[test]
fn a_file_is_found_by_the_name_that_is_written() {
    let space = space(
        "data: { v: { path: 1.10, type: file } }\nstages:\n  s: { run: { command: [cp, \"${in.v}\", \"${out.r}\"], \
         inputs: { v: v }, outputs: { r: file } } }\n",
    );
    space.write("1.10", "here\n");
    assert_eq!(printed(&space, "s", &[]), ["here"]);
}

#[test]
fn another_spelling_of_a_number_is_the_same_key() {
    let text = "data: { rows: { path: rows.jsonl } }\nstages:\n  \
                judged: { evaluate: { data: rows, task: exact_match, bootstrap: 10 } }\n";
    let space = space(text);
    assert_eq!(space.run(&["run", "w.yaml"]).code, 0);
    let lock = space.read("w.lock");
    for spelling in ["10.0", "1e1", "0xA", "+10"] {
        space.write(
            "w.yaml",
            &format!("refrain: 1\n{}", text.replace("10 }", &format!("{spelling} }}"))),
        );
        assert_eq!(space.run(&["run", "w.yaml"]).code, 0);
        assert_eq!(space.read("w.lock"), lock, "{spelling}");
    }
}

#[test]
fn what_nothing_reads_is_a_problem() {
    let space = space(
        "params: { boot: 10, seed: 1 }\nmodels: { base: { path: nowhere } }\n\
         data: { rows: { path: rows.jsonl }, other: { path: rows.jsonl } }\nstages:\n  \
         judged: { evaluate: { data: rows, task: exact_match, bootstrap: \"${boot}\" } }\nsweep: { BOOT: [10, 20] }\n",
    );
    insta::assert_snapshot!("nothing_reads", space.fails(&["check", "w.yaml"]));
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("warning: nothing reads the axis `BOOT`"), "{}", said.stderr);
    for set in ["seed=2", "BOOT=10"] {
        let said = space.run(&["run", "w.yaml", "--set", set]);
        assert_eq!(said.code, 2, "{set}: {}", said.stdout);
    }
}

#[test]
fn a_param_that_only_a_read_param_reads_is_read() {
    let fine = prints("\"${cfg.word}\"", "params: { word: hello, cfg: { word: \"${word}\" } }\n");
    assert_eq!(nodes(&fine), 1);
    let unread = prints("x", "params: { word: hello, cfg: { word: \"${word}\" } }\n");
    let said = unread.fails(&["check", "w.yaml"]);
    assert!(said.contains("the param `word`") && said.contains("the param `cfg`"), "{said}");
    let dollar = prints("\"$word\"", "params: { word: hello }\n");
    let said = dollar.fails(&["check", "w.yaml"]);
    assert!(said.contains("write `${word}` for its value"), "{said}");
}

#[test]
fn a_point_whose_entry_nothing_reads_is_a_problem() {
    let more = "sweep: [{ name: a, word: x, wrod: y }, { name: b, word: z }]\n";
    let space = prints("\"${word}\"", more);
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("nothing reads the entry of the sweep's points `wrod`"), "{said}");
}

#[test]
fn set_keeps_the_named_points_that_have_the_value() {
    let more = "params: { word: none }\n\
                sweep: [{ name: a, word: x }, { name: b, word: y }, { name: c }, { name: d, word: y }]\n";
    let space = prints("\"${word}\"", more);
    for (value, points) in [("y", vec!["s[point=b]", "s[point=d]"]), ("none", vec!["s[point=c]"])] {
        let set = format!("word={value}");
        let said = space.run(&["plan", "w.yaml", "--format", "json", "--set", &set]);
        let plan: Value = serde_json::from_str(&said.stdout).unwrap();
        let names: Vec<&str> =
            plan["nodes"].as_array().unwrap().iter().map(|n| n["node"].as_str().unwrap()).collect();
        assert_eq!(names, points);
    }
    let said = space.fails(&["plan", "w.yaml", "--set", "word=q"]);
    assert!(said.contains("no point of the sweep has this value"), "{said}");
    assert!(said.contains("its values are `x`, `y`, `none`"), "{said}");
}

#[test]
fn a_field_depends_on_its_own_axes_alone() {
    let more = "params: { cfg: { word: hello, lr: \"${lr}\" }, copy: \"${cfg}\" }\nsweep: { lr: [1, 2, 3] }\n";
    assert_eq!(node_names(&prints("\"${lr}\", \"${cfg.lr}\"", more)).len(), 3);
    let both = prints("\"${cfg.word}\", \"${copy.word}\"", more);
    assert_eq!(node_names(&both), ["s"]);
}

#[test]
fn a_placeholder_in_a_param_stays_until_the_node_runs() {
    let space = space(
        "params: { read: \"cat ${in.d}\" }\ndata: { d: { path: rows.jsonl, type: file } }\nstages:\n  \
         s: { run: { command: [sh, -c, \"set -e; ${read} > ${out.r}\"], inputs: { d: d }, outputs: { r: file } } }\n",
    );
    assert_eq!(printed(&space, "s", &[]), [ROWS.trim()]);
    // Where it has no meaning it is refused, and what only looks like one is text.
    space.edit("w.yaml", "path: rows.jsonl", "path: \"x${read}\"");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("`path` may not hold `${in.…}`"), "{said}");
    let escaped = prints("\"a ${text} b ${out.r}\"", "params: { text: \"$${in.d}\" }\n");
    assert_eq!(printed(&escaped, "s", &[]), ["a ${in.d} b out.r"]);
}

#[test]
fn null_in_an_arm_leaves_the_parameter_out() {
    let space = space(
        "data: { rows: { path: rows.jsonl } }\nstages:\n  judged: { evaluate: { data: rows, task: exact_match, \
         bootstrap: \"${arm.n}\" } }\n  plain: { evaluate: { data: rows, task: exact_match } }\n\
         sweep: { arm: [{ name: a, n: null }, { name: b, n: 10 }] }\n",
    );
    assert_eq!(space.run(&["run", "w.yaml"]).code, 0);
    let lock = space.read("w.lock");
    let key = |node: &str| {
        let line = lock.lines().find(|line| line.contains(&format!("\"{node}\""))).unwrap();
        serde_json::from_str::<Value>(line).unwrap()["key"].clone()
    };
    assert_eq!(key("judged[arm=a]"), key("plain"));
    assert_ne!(key("judged[arm=b]"), key("plain"));

    space.edit("w.yaml", "\"${arm.n}\"", "");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("`bootstrap` must be"), "{said}");
}

#[test]
fn values_of_an_axis_may_be_sentences() {
    let values =
        "[\"Answer briefly, please.\", \"[INST] think [/INST]\", \"a=b\", plain, \"two\\nlines\"]";
    let space = prints("\"${x}\"", &format!("sweep: {{ x: {values} }}\n"));
    let names = node_names(&space);
    let labels = [
        "\"Answer briefly, please.\"",
        "\"[INST] think [/INST]\"",
        "\"a=b\"",
        "plain",
        "\"two\\nlines\"",
    ];
    assert_eq!(names, labels.map(|label| format!("s[x={label}]")));
    assert_eq!(printed(&space, &names[0], &[]), ["Answer briefly, please."]);
    assert_eq!(printed(&space, &names[4], &[]), ["two", "lines"]);
    for set in ["x=[INST] think [/INST]", "x=\"[INST] think [/INST]\""] {
        assert_eq!(printed(&space, &names[1], &["--set", set]), ["[INST] think [/INST]"]);
    }
}

#[test]
fn an_axis_never_replaces_a_column_where_tables_are_gathered() {
    let stages = "stages:\n  judged: { evaluate: { data: rows, task: exact_match, bootstrap: \"${id}\" } }\n  \
                  all: { diversify: { data: \"judged[*]\", dedupe: exact } }\n";
    let data = "data: { rows: { path: rows.jsonl } }\n";
    let known = space(&format!("{data}{stages}sweep: {{ id: [10, 20] }}\n"));
    insta::assert_snapshot!("gather_over_a_column", known.fails(&["check", "w.yaml"]));

    // The columns of what a command makes are known only when it has run.
    let unknown = space(
        "data: { rows: { path: rows.parquet, type: file } }\nstages:\n  \
         made: { run: { command: [cp, \"${in.d}\", \"${out.t}\", \"${id}\"], inputs: { d: rows }, \
         outputs: { t: table } } }\n  all: { diversify: { data: \"made.t[*]\", dedupe: exact } }\n\
         sweep: { id: [-f, -p] }\n",
    );
    let source =
        space(&format!("{data}stages:\n  d: {{ diversify: {{ data: rows, dedupe: exact }} }}\n"));
    assert_eq!(source.run(&["run", "w.yaml"]).code, 0);
    let table = source.run(&["show", "w.yaml", "d", "--path"]).stdout;
    std::fs::copy(source.path(table.trim()), unknown.path("rows.parquet")).unwrap();
    assert_eq!(unknown.run(&["check", "w.yaml"]).code, 0);
    let said = unknown.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("the tables have a column `id`"), "{}", said.stderr);
}

#[test]
fn forty_thousand_problems_are_told_in_linear_time() {
    // In one line each, and all in one line: places are found in one pass over either.
    for (separator, begin, end) in [("\n  ", "stages:\n  ", "\n"), (", ", "stages: { ", " }\n")] {
        let stages: Vec<String> = (0..40_000)
            .map(|i| format!("s{i}: {{ diversify: {{ data: d{i}, dedupe: \"${{u{i}}}\" }} }}"))
            .collect();
        let space = space(&format!("{begin}{}{end}", stages.join(separator)));
        let begin = Instant::now();
        let said = space.run(&["check", "w.yaml", "--format", "json"]);
        let took = begin.elapsed();
        let errors: Value = serde_json::from_str(&said.stderr).unwrap();
        assert_eq!(errors["errors"].as_array().unwrap().len(), 80_000);
        let last = &errors["errors"][79_999];
        assert!(last["line"].is_u64() && last["column"].is_u64());
        // Not optimised and beside other tests; where it is quadratic it takes minutes.
        assert!(took < Duration::from_secs(30), "{took:?}");
    }
}

#[test]
fn a_chain_of_gathered_stages_may_be_long() {
    let stages: Vec<String> = (0..20_000)
        .map(|i| {
            let data = if i == 19_999 { "rows".into() } else { format!("\"s{}[*]\"", i + 1) };
            format!("  s{i}: {{ diversify: {{ data: {data}, dedupe: exact }} }}\n")
        })
        .collect();
    let space =
        space(&format!("data: {{ rows: {{ path: rows.jsonl }} }}\nstages:\n{}", stages.concat()));
    assert_eq!(nodes(&space), 40_000);
}

#[test]
fn spellings_of_other_tools_get_the_one_of_the_language() {
    let told = |name: &str, workflow: &str| {
        insta::assert_snapshot!(name, space(workflow).fails(&["check", "w.yaml"]));
    };
    let data = "data: { rows: { path: rows.jsonl } }\n";
    told(
        "kind_as_value",
        &format!("{data}stages:\n  s: {{ kind: diversify, data: rows, dedupe: exact }}\n"),
    );
    told(
        "source_as_path",
        "models: { mine: ./llama }\nstages:\n  s: { score: { model: mine, data: mine } }\n",
    );
    told(
        "dollar_without_braces",
        &format!(
            "{data}params: {{ n: 1, name: rows }}\nstages:\n  \
             s: {{ evaluate: {{ data: rows, task: exact_match, bootstrap: $n }} }}\n  \
             t: {{ diversify: {{ data: $name, dedupe: exact }} }}\n"
        ),
    );
    told(
        "truth_values_of_yaml_1_1",
        &format!(
            "models: {{ m: {{ path: . }} }}\n{data}stages:\n  a: {{ score: {{ model: m, data: rows, chat: yes }} }}\n  \
             b: {{ score: {{ model: m, data: rows, chat: Off }} }}\n  \
             c: {{ score: {{ model: m, data: rows, chat: atuo }} }}\n"
        ),
    );
}

#[test]
fn what_only_other_points_read_is_no_problem_of_one_point() {
    let space = Space::new();
    for name in ["x.jsonl", "y.jsonl"] {
        space.write(name, "{\"prompt\": \"p\", \"response\": \"r\"}\n");
    }
    space.write(
        "w.yaml",
        "refrain: 1
params: { a: x.jsonl, b: y.jsonl }
data: { left: { path: \"${a}\" }, right: { path: \"${b}\" } }
stages: { kept: { diversify: { data: \"${arm.data}\", measure: [distinct_1] } } }
sweep: { arm: [{ name: p, data: left }, { name: q, data: right }] }
",
    );
    for command in ["check", "plan", "run"] {
        let said = space.accepts(&[command, "w.yaml", "--set", "arm=p"]);
        assert!(!said.stderr.contains("nothing reads"), "{command}: {}", said.stderr);
    }
    let said = space.refuses(&["check", "w.yaml", "--set", "arm=p", "--set", "c=1"]);
    assert!(said.contains("`c`"), "{said}");
}

#[test]
fn the_reference_is_generated_from_the_declarations() {
    let space = Space::new();
    let said = space.run(&["kind", "--all", "--format", "markdown"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let written = include_str!("../docs/language.md");
    assert!(
        said.stdout == written,
        "docs/language.md is not the generated text: \
         refrain kind --all --format markdown > docs/language.md"
    );

    // Every parameter of every kind is in the reference, and on the page of the kind.
    let kinds: Value =
        serde_json::from_str(&space.run(&["kind", "--format", "json"]).stdout).unwrap();
    for kind in kinds["kinds"].as_array().unwrap() {
        let name = kind["name"].as_str().unwrap();
        let (_, page) = written.split_once(&format!("\n### {name}\n")).unwrap();
        let page = page.split("\n### ").next().unwrap();
        let json = space.run(&["kind", name, "--format", "json"]).stdout;
        let json: Value = serde_json::from_str(&json).unwrap();
        let human = space.run(&["kind", name]).stdout;
        for parameter in json["kind"]["parameters"].as_array().unwrap() {
            let path = parameter["path"].as_str().unwrap();
            assert!(page.contains(&format!("| `{path}` |")), "{name}: {path}");
            assert!(human.contains(path), "{name}: {path}");
        }
    }
    let said = space.fails(&["kind", "mas"]);
    assert!(said.contains("there is no kind `mas`") && said.contains("`mask`"), "{said}");
}
