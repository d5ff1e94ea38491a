//! What wrong workflows, command lines and sources are told: exit code and words, as snapshots.

use crate::space::Space;

const ROWS: &str = "{\"prompt\": \"a\", \"response\": \"b\"}\n";
const SCORED: &str = "{\"prompt\": \"a\", \"response\": \"b\", \"token_ids\": [1, 2], \"prompt_tokens\": 1, \"logprobs\": [null, -0.5]}\n";

/// A workflow whose stages are given; the sources are called `rows` and `scored`.
fn with_stages(stages: &str) -> String {
    format!(
        "refrain: 1\nname: wrong\ndata:\n  rows: {{ path: rows.jsonl }}\n  scored: {{ path: scored.jsonl }}\nstages:\n{stages}"
    )
}

fn check(name: &str, workflow: &str) {
    said(name, workflow, &["check", "w.yaml"]);
}

fn said(name: &str, workflow: &str, arguments: &[&str]) {
    let space = Space::new();
    space.write("rows.jsonl", ROWS);
    space.write("scored.jsonl", SCORED);
    space.write("w.yaml", workflow);
    snapshot(name, &space, arguments);
}

fn snapshot(name: &str, space: &Space, arguments: &[&str]) {
    insta::assert_snapshot!(name, space.fails(arguments));
}

#[test]
fn the_file() {
    check("not_yaml", "refrain: [1\n");
    check("empty", "");
    check("two_documents", "refrain: 1\n---\nrefrain: 1\n");
    check("duplicate_key", "refrain: 1\nname: a\nname: b\n");
    check("merge_key", "refrain: 1\nx: &x { a: 1 }\nstages:\n  <<: *x\n");
    check("too_deep", &format!("refrain: 1\nname: {}1{}\n", "[".repeat(80), "]".repeat(80)));
    check("newer_language", "refrain: 2\nname: a\nstages: { s: { diversify: { data: x } } }\n");
    check("unknown_section", "refrain: 1\nstage: {}\n");
    check("a_list", "- refrain\n");
    said("no_such_file", "refrain: 1\n", &["check", "missing.yaml"]);
}

#[test]
fn names_and_references() {
    check("unknown_kind", &with_stages("  s:\n    generat: { data: rows }\n"));
    check(
        "two_kinds",
        &with_stages(
            "  s:\n    mask: { data: rows, above: 1 }\n    diversify: { data: rows, dedupe: exact }\n",
        ),
    );
    check(
        "unknown_reference",
        &with_stages("  s:\n    diversify: { data: rosw, dedupe: exact }\n"),
    );
    check(
        "unknown_parameter",
        &with_stages("  s:\n    diversify: { data: rows, keeep: { per: id } }\n"),
    );
    check("missing_parameter", &with_stages("  s:\n    diversify: {}\n"));
    check(
        "duplicate_name",
        &with_stages("  rows:\n    diversify: { data: rows, dedupe: exact }\n"),
    );
    check("reserved_name", &with_stages("  in:\n    diversify: { data: rows, dedupe: exact }\n"));
    check(
        "cycle",
        &with_stages(
            "  a:\n    diversify: { data: b, dedupe: exact }\n  b:\n    diversify: { data: c, dedupe: exact }\n  c:\n    diversify: { data: a, dedupe: exact }\n",
        ),
    );
    check("no_model_at_all", &with_stages("  s:\n    score: { model: base, data: rows }\n"));
    check("table_for_a_model", &with_stages("  s:\n    score: { model: rows, data: rows }\n"));
    check(
        "unknown_output",
        &with_stages(
            "  s:\n    diversify: { data: rows, dedupe: exact }\n  t:\n    diversify: { data: s.lgo, dedupe: exact }\n",
        ),
    );
    check(
        "param_out_of_range",
        &format!(
            "params: {{ share: 7 }}\n{}",
            with_stages("  s:\n    mask: { data: scored, budget: \"${share}\" }\n")
        ),
    );
    check(
        "unknown_param",
        &with_stages("  s:\n    mask: { data: scored, above: \"${treshold}\" }\n"),
    );
    check(
        "stage_as_param",
        &with_stages("  s:\n    diversify: { data: \"${rows}\", dedupe: exact }\n"),
    );
    check(
        "open_placeholder",
        &with_stages("  s:\n    diversify: { data: \"${rows\", dedupe: exact }\n"),
    );
}

#[test]
fn values() {
    check("wrong_type", &with_stages("  s:\n    mask: { data: scored, above: high }\n"));
    check("out_of_range", &with_stages("  s:\n    mask: { data: scored, quantile: 1.5 }\n"));
    check("several_ways", &with_stages("  s:\n    mask: { data: scored, above: 2, below: 1 }\n"));
    check(
        "missing_column",
        &with_stages("  s:\n    evaluate: { data: rows, task: exact_match }\n"),
    );
    check("missing_columns", &with_stages("  s:\n    mask: { data: rows, above: 2 }\n"));
    check(
        "secret_outside",
        &with_stages(
            "  s:\n    run: { command: [\"echo\", \"${env:KEY}\"], outputs: { t: table } }\n",
        ),
    );
    check(
        "several_at_once",
        &with_stages(
            "  s:\n    mask: { data: rosw, abve: 2 }\n  t:\n    evaluate: { data: rows, task: exct_match }\n",
        ),
    );
    let sweep =
        with_stages("  s:\n    diversify: { data: rows, dedupe: exact, seed: \"${seed}\" }\n");
    check("sweep_not_a_list", &format!("{sweep}sweep: {{ seed: 1 }}\n"));
    check("sweep_without_name", &format!("{sweep}sweep: {{ seed: [{{ value: 1 }}] }}\n"));
    check("sweep_twice", &format!("{sweep}sweep: {{ seed: [1, 1.0] }}\n"));
    check(
        "expect_nothing",
        &format!("{sweep}params: {{ seed: 1 }}\nexpect: [{{ stage: s, metric: rows_out }}]\n"),
    );
    check(
        "expect_unknown_stage",
        &format!(
            "{sweep}params: {{ seed: 1 }}\nexpect: [{{ stage: q, metric: x, at_least: 1 }}]\n"
        ),
    );
    said(
        "set_unknown",
        &format!("{sweep}params: {{ seed: 1 }}\n"),
        &["check", "w.yaml", "--set", "sed=1"],
    );
    said("set_where_nothing_can_be_set", &sweep, &["check", "w.yaml", "--set", "sed=1"]);
    said("set_without_value", &sweep, &["check", "w.yaml", "--set", "seed"]);
}

#[test]
fn sources() {
    let source = |line: &str| {
        format!(
            "refrain: 1\ndata:\n  rows: {line}\nstages:\n  s:\n    diversify: {{ data: rows, dedupe: exact }}\n"
        )
    };
    check("source_missing", &source("{ path: nowhere.jsonl }"));
    check("source_unknown_format", &source("{ path: w.yaml }"));
    check("source_unknown_column", &source("{ path: rows.jsonl, columns: { prompt: question } }"));
    check("source_bad_range", &source("{ path: rows.jsonl, rows: 9..3 }"));
    check(
        "model_not_a_folder",
        "refrain: 1\nmodels: { m: { path: rows.jsonl } }\ndata: { rows: { path: rows.jsonl } }\nstages:\n  s: { score: { model: m, data: rows } }\n",
    );
    for (name, rows) in [
        ("jsonl_not_json", "{\"prompt\": \"a\"}\n{\"prompt\": \n"),
        ("jsonl_not_an_object", "{\"prompt\": \"a\"}\n[1]\n"),
        ("jsonl_mixed", "{\"prompt\": \"a\", \"x\": 1}\n{\"prompt\": \"a\", \"x\": {\"y\": 1}}\n"),
        ("jsonl_id_is_a_list", "{\"id\": [1], \"prompt\": \"a\"}\n"),
        (
            "messages_without_roles",
            "{\"messages\": [{\"speaker\": \"user\", \"content\": \"a\"}]}\n",
        ),
        ("messages_as_text", "{\"messages\": \"user: a\"}\n"),
        ("jsonl_not_utf8", "{\"prompt\": \"\u{0}"),
    ] {
        let space = Space::new();
        space.write("w.yaml", &source("{ path: rows.jsonl }"));
        space.write("rows.jsonl", rows);
        if name == "jsonl_not_utf8" {
            std::fs::write(space.path("rows.jsonl"), b"{\"prompt\": \"\xff\"}\n").unwrap();
        }
        snapshot(name, &space, &["check", "w.yaml"]);
    }
    for (name, rows) in [
        (
            "duplicate_id",
            "{\"id\": \"a\", \"response\": \"x\"}\n{\"id\": \"a\", \"response\": \"y\"}\n",
        ),
        ("null_id", "{\"id\": \"a\", \"response\": \"x\"}\n{\"id\": null, \"response\": \"y\"}\n"),
    ] {
        let space = Space::new();
        space.write("w.yaml", &source("{ path: rows.jsonl }"));
        space.write("rows.jsonl", rows);
        snapshot(name, &space, &["run", "w.yaml"]);
    }
    let space = Space::new();
    space.write("w.yaml", &source("{ path: rows.parquet }"));
    space.write("rows.parquet", "PAR1 this is no Parquet file PAR1");
    snapshot("parquet_corrupt", &space, &["check", "w.yaml"]);
}

/// The Parquet reader panics on some damaged pages; people see an error all the same.
#[test]
fn a_damaged_parquet_file_never_shows_a_panic() {
    let workflow = |path: &str| {
        format!(
            "refrain: 1\ndata: {{ rows: {{ path: {path} }} }}\nstages: {{ s: {{ diversify: {{ data: rows, dedupe: exact }} }} }}\n"
        )
    };
    let space = Space::new();
    space.write("w.yaml", &workflow("rows.jsonl"));
    space.write(
        "rows.jsonl",
        "{\"prompt\": \"a\", \"response\": null}\n{\"prompt\": \"b\", \"response\": \"c\"}\n",
    );
    space.report("w.yaml", &[]);
    let table = space.run(&["show", "w.yaml", "rows", "--path"]).stdout;
    let sound = std::fs::read(table.trim()).unwrap();
    space.write("w.yaml", &workflow("rows.parquet"));
    let mut refused = 0;
    for position in 4..160 {
        let mut damaged = sound.clone();
        damaged[position] ^= 0xff;
        std::fs::write(space.path("rows.parquet"), damaged).unwrap();
        let said = space.run(&["run", "w.yaml", "--quiet"]);
        let quiet = !said.stderr.contains("panicked") && !said.stderr.contains("internal error");
        assert!(
            quiet && [0, 2].contains(&said.code),
            "byte {position}: {} {}",
            said.code,
            said.stderr
        );
        refused += usize::from(said.code == 2);
    }
    assert!(refused > 50, "{refused} files were refused");
}
