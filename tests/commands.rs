//! Drawings, completions and manual pages.

use crate::space::Space;

#[test]
fn every_first_workflow_runs() {
    for idea in ["sweep", "mask", "diversity", "ci"] {
        let space = Space::new();
        let said = space.run(&["init", "first", "--with", idea]);
        assert!(said.stdout.starts_with("first/workflow.yaml\n"), "{}", said.stdout);
        let said = space.run(&["run", "first/workflow.yaml", "--quiet"]);
        assert_eq!(said.code, 0, "{idea}: {}{}", said.stdout, said.stderr);
        assert!(!said.stderr.contains("warning"), "{idea}: {}", said.stderr);
        let said = space.fails(&["init", "first", "--with", idea]);
        assert!(said.contains("`first/workflow.yaml` is there already"), "{said}");
    }
}

#[test]
fn a_graph_is_drawn_for_graphviz() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"p\", \"response\": \"r\", \"reference\": \"r\"}\n");
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\nstages:\n  judged: { evaluate: { data: rows, \
         task: exact_match, ignore_case: '${fold}' } }\nsweep: { fold: [false, true] }\n",
    );
    let drawn = space.run(&["graph", "w.yaml", "--as", "dot"]).stdout;
    let expected = "digraph refrain {\n    rankdir=LR;\n    node [fontname=\"sans-serif\"];\n    \
                    n0 [shape=cylinder, label=\"rows\\nsource\"];\n    \
                    n1 [shape=box, label=\"judged\\nevaluate ×2\"];\n    n0 -> n1;\n}\n";
    assert_eq!(drawn, expected);
    assert!(space.run(&["graph", "w.yaml"]).stdout.starts_with("flowchart LR\n"));
}

#[test]
fn every_shell_gets_completions_that_know_the_commands() {
    let space = Space::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = space.run(&["completions", shell]);
        assert_eq!(said.code, 0);
        assert!(said.stdout.contains("older-than") && said.stdout.contains("results"), "{shell}");
    }
    assert!(space.fails(&["completions", "csh"]).contains("possible values: bash"));
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let space = Space::new();
    let page = space.run(&["man"]).stdout;
    assert!(page.contains(".TH refrain 1") && page.contains("Exit codes: 0 success"), "{page}");
    let said = space.run(&["man", "--dir", "pages"]);
    assert_eq!(said.stdout, "30 pages in `pages`\n");
    let page = space.read("pages/refrain-cache-gc.1");
    assert!(page.contains("\\-\\-older\\-than") && page.contains("Example:"), "{page}");
}
