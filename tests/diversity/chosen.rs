//! Rows that are selected or dropped, and bounds that hold.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::json;

use crate::artifacts::{table, texts};
use crate::space::Space;

/// Twelve points in three directions, three of them far out.
fn directions(space: &Space) {
    let mut rows = String::new();
    for i in 0..12 {
        let mut vector = [0.05 * f64::from(i % 4); 3];
        vector[i as usize % 3] = 2.0;
        let row = json!({ "id": format!("r{:02}", 11 - i), "response": "x", "embedding": vector });
        writeln!(rows, "{row}").unwrap();
    }
    space.write("d.jsonl", &rows);
}

#[test]
fn each_method_selects_its_rows_whatever_their_order() {
    let space = Space::new();
    directions(&space);
    let stage = |method: &str| {
        format!(
            "  {method}: {{ diversify: {{ data: d, select: {{ method: {method}, count: 3 }} }} }}\n"
        )
    };
    let methods = ["k_center", "facility_location", "dpp", "cluster", "random"];
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata: {{ d: {{ path: d.jsonl }} }}\nstages:\n{}",
            methods.map(stage).concat()
        ),
    );
    space.report("w.yaml", &[]);
    let ids = |method: &str| texts(&table(&space, method), "id");
    for method in &methods[..4] {
        let directions: BTreeSet<u32> = ids(method)
            .iter()
            .map(|id| id.as_ref().unwrap()[1..].parse::<u32>().unwrap() % 3)
            .collect();
        assert!(directions.len() == 3, "{method}: {:?}", ids(method));
    }
    assert_eq!(ids("k_center").len(), 3);
    let rows = space.read("d.jsonl");
    let before = methods.map(|method| ids(method).into_iter().collect::<BTreeSet<_>>());
    let reversed: Vec<&str> = rows.lines().rev().collect();
    space.write("d.jsonl", &format!("{}\n", reversed.join("\n")));
    space.report("w.yaml", &[]);
    for (method, before) in methods.iter().zip(before) {
        assert_eq!(ids(method).into_iter().collect::<BTreeSet<_>>(), before, "{method}");
    }
    // All of them, and more than there are.
    space.edit("w.yaml", "method: dpp, count: 3", "method: dpp, count: 12");
    space.edit("w.yaml", "method: random, count: 3", "method: random, count: 12");
    space.report("w.yaml", &[]);
    assert_eq!([ids("dpp").len(), ids("random").len()], [12, 12]);
    space.edit("w.yaml", "method: dpp, count: 12", "method: dpp, count: 13");
    let said = space.refuses(&["run", "w.yaml"]);
    let words =
        "stage `dpp` failed: `select` takes 13 rows, and the table has 12 with an embedding";
    assert!(said.contains(words), "{said}");
    space.edit("w.yaml", "method: random, count: 12", "method: random, count: 99");
    let said = space.refuses(&["run", "w.yaml", "--only", "random"]);
    assert!(said.contains("`select` takes 99 rows, and the table has 12\n"), "{said}");
}

/// What asks for more rows than there are and goes on with fewer says so.
#[test]
fn fewer_rows_than_asked_for_are_told() {
    let space = Space::new();
    directions(&space);
    space.write(
        "w.yaml",
        "refrain: 1\ndata:\n  d: { path: d.jsonl, rows: { first: 20 } }\n  part: { path: d.jsonl, \
         rows: { sample: 13 } }\n  open: { path: d.jsonl, rows: \"3..\" }\nstages:\n  k: { \
         diversify: { data: d, keep: { random: true, count: 15 } } }\n  g: { diversify: { data: \
         part, keep: { per: id, random: true, count: 15 } } }\n  n: { diversify: { data: open, \
         neighbours: 9 } }\n  p: { diversify: { data: n, against: n, measure: \
         [neighbour_precision, neighbour_recall], neighbourhood: 9 } }\n",
    );
    let said = space.accepts(&["run", "w.yaml"]).stderr;
    let mut notes: Vec<&str> = said.lines().filter(|line| line.starts_with("note: ")).collect();
    notes.sort_unstable();
    assert_eq!(
        notes,
        [
            "note: `d`: `rows` asks for 20 rows, and there are 12",
            "note: `k`: `keep` takes 15 rows, and 12 can be kept",
            "note: `n`: `neighbours` asks for 9 others of each row, and there are 8",
            "note: `p`: `neighbour_precision` has no value: `neighbourhood` is 9, and `against` has 9 rows",
            "note: `p`: `neighbour_recall` has no value: `neighbourhood` is 9, and the table has 9 rows",
            "note: `part`: `rows` asks for 13 rows, and there are 12",
        ]
    );
}

#[test]
fn near_duplicates_are_dropped_by_their_words() {
    let space = Space::new();
    let base: Vec<String> = (0..60).map(|i| format!("w{}", i * 7 % 60)).collect();
    let mut near = base.clone();
    near[59] = "other".into();
    let mut far = base.clone();
    far.iter_mut().step_by(4).for_each(|word| *word = "other".into());
    let mut rows = String::new();
    for words in [&base, &near, &far, &base] {
        writeln!(rows, "{}", json!({ "response": words.join(" ") })).unwrap();
    }
    rows += "{\"response\": null}\n{\"response\": \"short\"}\n{\"response\": \"short\"}\n";
    space.write("d.jsonl", &rows);
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { d: { path: d.jsonl } }\nstages:\n  m: { diversify: { data: d, dedupe: \
         minhash } }\n  same: { diversify: { data: d, dedupe: { minhash: 0.8, shingle: 5 } } }\n  \
         strict: { diversify: { data: d, dedupe: { minhash: 1.0 } } }\n",
    );
    let report = space.report("w.yaml", &[]);
    let kept = |node: &str| table(&space, node).num_rows();
    assert_eq!((kept("m"), kept("strict")), (4, 5));
    let key = |node: &str| {
        let nodes = report["nodes"].as_array().unwrap();
        nodes.iter().find(|known| known["node"] == node).unwrap()["key"].clone()
    };
    assert!(key("m").is_string());
    assert_eq!(key("m"), key("same"), "the word and the record are one key");
}

#[test]
fn bounds_that_do_not_hold_name_the_figure_and_the_rows() {
    let space = Space::new();
    space.write(
        "d.jsonl",
        "{\"id\": \"x\", \"response\": \"one two three\", \"p\": 1.0}\n{\"id\": \"y\", \"response\": \
         \"a b c d\", \"p\": 9.0}\n{\"id\": \"z\", \"response\": \"one two three\", \"p\": 2.0}\n",
    );
    let write = |require: &str| {
        space.write(
            "w.yaml",
            &format!(
                "refrain: 1\ndata: {{ d: {{ path: d.jsonl }} }}\nstages:\n  m: {{ diversify: {{ \
                 data: d, measure: [distinct_2, {{ column: p, of: [mean] }}], require: {{ {require} \
                 }} }} }}\n"
            ),
        );
    };
    write("distinct_2: { min: 0.5, max: 0.9 }, rows_out: { min: 3 }");
    space.report("w.yaml", &[]);
    write("distinct_2: { min: 0.8 }");
    let said = space.fails(&["run", "w.yaml"]);
    assert!(said.starts_with("exit code 1"), "{said}");
    for words in [
        "`distinct_2` is 0.714286, below the minimum 0.8",
        "row 0 (`x`) (100 % of its n-grams are in other rows too)",
        "row 2 (`z`)",
    ] {
        assert!(said.contains(words), "{said}");
    }
    write("p_mean: { max: 3 }");
    let said = space.fails(&["run", "w.yaml"]);
    assert!(
        said.contains("`p_mean` is 4.000000, above the maximum 3; most by row 1 (`y`) (9)"),
        "{said}"
    );

    write("vendi: { min: 2 }");
    let said = space.refuses(&["check", "w.yaml"]);
    assert!(said.contains("the stage has no metric `vendi`"), "{said}");
    write("distinct_2: {}");
    assert!(space.refuses(&["check", "w.yaml"]).contains("it gives no bound"));
    write("distinct_2: { min: 1, max: 0 }");
    assert!(space.refuses(&["check", "w.yaml"]).contains("`min` is above `max`"));
}
