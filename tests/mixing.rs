//! Mixtures of tables, and paraphrases in the place of rows.

use std::collections::BTreeSet;

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;

use crate::artifacts::{figures, table, texts};
use crate::space::Space;

fn rows(prefix: &str, count: usize) -> String {
    let row = |i| {
        format!(
            "{{\"id\": \"{prefix}{i}\", \"prompt\": \"p{i}\", \"response\": \"{prefix} {i}\"}}\n"
        )
    };
    (0..count).map(row).collect()
}

fn space(stages: &str, more: &str) -> Space {
    let space = Space::new();
    space.write("real.jsonl", &rows("r", 40));
    space.write("made.jsonl", &rows("m", 200));
    // Four paraphrases of each of thirty originals, but three of the last one.
    let paraphrase = |i: usize| {
        format!(
            "{{\"id\": \"r{}\", \"sample\": {}, \"response\": \"so to say {i}\", \"note\": {i}}}\n",
            i / 4,
            i % 4
        )
    };
    space.write("said.jsonl", &(0..119).map(paraphrase).collect::<String>());
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata:\n  real: {{ path: real.jsonl }}\n  made: {{ path: made.jsonl }}\n  \
             said: {{ path: said.jsonl }}\nstages:\n{stages}{more}"
        ),
    );
    space
}

fn set(space: &Space, node: &str) -> BTreeSet<String> {
    let table = table(space, node);
    texts(&table, "response").into_iter().flatten().collect()
}

fn ids(space: &Space, node: &str) -> Vec<String> {
    texts(&table(space, node), "id").into_iter().flatten().collect()
}

const SHARES: &str = "  mixed:\n    diversify:\n      mix:\n        - { data: real, share: \"${real}\", name: real }\n        - { data: made, share: \"${share}\" }\n      total: 40\n      seed: 3\n      measure: [distinct_1]\n";

#[test]
fn a_larger_share_holds_the_rows_of_a_smaller_one() {
    let points = "sweep: [{ name: a, share: 0, real: 1 }, { name: b, share: 0.25, real: 0.75 }, { name: c, share: 0.5, real: 0.5 }]\n";
    let space = space(SHARES, points);
    space.report("w.yaml", &[]);
    let at = |point: &str| format!("mixed[point={point}]");
    let parts = |point: &str| {
        let all = set(&space, &at(point));
        let of = |prefix: &str| -> BTreeSet<String> {
            all.iter().filter(|text| text.starts_with(prefix)).cloned().collect()
        };
        (of("r"), of("m"))
    };
    let [(real_a, made_a), (real_b, made_b), (real_c, made_c)] = ["a", "b", "c"].map(parts);
    assert_eq!([real_a.len(), real_b.len(), real_c.len()], [40, 30, 20]);
    assert_eq!([made_a.len(), made_b.len(), made_c.len()], [0, 10, 20]);
    assert!(real_c.is_subset(&real_b) && real_b.is_subset(&real_a));
    assert!(made_b.is_subset(&made_c));
    assert!(real_b != (0..30).map(|i| format!("r {i}")).collect(), "the rows are drawn");

    let origins = texts(&table(&space, &at("c")), "origin");
    let count =
        |name: &str| origins.iter().filter(|origin| origin.as_deref() == Some(name)).count();
    assert_eq!((count("real"), count("mix[1]")), (20, 20));
    let metrics = figures(&space, &format!("{}.metrics", at("c")));
    assert_eq!((metrics("rows_in"), metrics("rows_out")), (240.0, 40.0));
    assert_eq!((metrics("mixed_0"), metrics("mixed_1")), (20.0, 20.0));
    assert!(metrics("distinct_1") > 0.0);

    // Another seed draws other rows, and the same ones again.
    let drawn = set(&space, &at("c"));
    space.edit("w.yaml", "seed: 3", "seed: 4");
    space.report("w.yaml", &[]);
    assert_ne!(set(&space, &at("c")), drawn);
    space.edit("w.yaml", "seed: 4", "seed: 3");
    assert!(space.ran("w.yaml", &[]).is_empty());
}

#[test]
fn the_real_part_stays_where_it_has_a_number_of_rows() {
    let stages = "  mixed: { diversify: { mix: [{ data: real, rows: 10 }, { data: made, share: \"${share}\" }] } }\n";
    let space = space(stages, "sweep: { share: [0, 0.5, 0.8] }\n");
    space.report("w.yaml", &[]);
    let real = |share: &str| -> BTreeSet<String> {
        let all = set(&space, &format!("mixed[share={share}]"));
        all.into_iter().filter(|text| text.starts_with('r')).collect()
    };
    for (share, rows) in [("0", 10), ("0.5", 20), ("0.8", 50)] {
        assert_eq!(ids(&space, &format!("mixed[share={share}]")).len(), rows);
        assert_eq!(real(share), real("0"), "{share}");
    }
}

#[test]
fn ids_stay_unique_and_columns_are_joined() {
    let stages = "  mixed: { diversify: { mix: [{ data: real, rows: 40 }, { data: said, rows: 119 }, { data: real, rows: 5 }] } }\n";
    let space = space(stages, "");
    space.report("w.yaml", &[]);
    let table = table(&space, "mixed");
    let names: Vec<String> =
        table.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "prompt", "response", "sample", "note", "origin"]);
    let all = ids(&space, "mixed");
    assert_eq!(all.len(), 164);
    assert!(
        all.contains(&"r3".into()) && all.contains(&"r3-1".into()),
        "sample 0 of another table"
    );
    let samples = table.column_by_name("sample").unwrap().as_primitive::<Int32Type>();
    let keys: BTreeSet<(String, i32)> =
        all.iter().zip(samples).map(|(id, sample)| (id.clone(), sample.unwrap_or(0))).collect();
    assert_eq!(keys.len(), 164, "(`id`, `sample`) is unique");
    assert!(all[159..].iter().all(|id| id.ends_with("-2")), "{:?}", &all[159..]);
}

#[test]
fn paraphrases_take_the_place_of_as_many_rows() {
    let stages = "  replaced: { diversify: { data: made, replace: { with: said, share: \"${share}\", each: 4 }, seed: 1 } }\n";
    let space = space(stages, "sweep: { share: [0, 0.1, 0.13, 0.5] }\n");
    space.report("w.yaml", &[]);
    let at = |share: &str| format!("replaced[share={share}]");
    let split = |share: &str| {
        let all = set(&space, &at(share));
        let (said, made): (BTreeSet<String>, BTreeSet<String>) =
            all.into_iter().partition(|text| text.starts_with("so"));
        (made, said)
    };
    for (share, originals) in [("0", 0), ("0.1", 5), ("0.13", 6), ("0.5", 25)] {
        let (made, said) = split(share);
        assert_eq!((made.len(), said.len()), (200 - 4 * originals, 4 * originals), "{share}");
        let metrics = figures(&space, &format!("{}.metrics", at(share)));
        assert_eq!(metrics("replaced"), 4.0 * originals as f64);
        assert_eq!(metrics("originals"), originals as f64);
        assert_eq!(metrics("rows_out"), 200.0);
    }
    let (made_less, said_less) = split("0.1");
    let (made_more, said_more) = split("0.5");
    assert!(said_less.is_subset(&said_more) && made_more.is_subset(&made_less));
    let originals: BTreeSet<String> =
        ids(&space, &at("0.5"))[100..].iter().map(|id| id.trim_end_matches("-1").into()).collect();
    assert_eq!(originals.len(), 25);
    assert!(!originals.contains("r29"), "it has three paraphrases");
}

#[test]
fn a_mixture_without_enough_rows_fails() {
    let few =
        space("  mixed: { diversify: { mix: [{ data: real, rows: 41, name: gold }] } }\n", "");
    let said = few.fails(&["run", "w.yaml"]);
    assert!(said.contains("the mixture takes 41 rows of `gold`, which has 40"), "{said}");
    let few = space(
        "  r: { diversify: { data: made, replace: { with: said, share: 0.6, each: 4 } } }\n",
        "",
    );
    let said = few.fails(&["run", "w.yaml"]);
    assert!(
        said.contains("30 originals with 4 paraphrases each are wanted, and `with` has 29"),
        "{said}"
    );
}

#[test]
fn wrong_mixtures_are_refused_before_anything_runs() {
    let mut said = Vec::new();
    for stage in [
        "{ mix: [] }",
        "{ mix: [{ data: real }] }",
        "{ mix: [{ data: real, share: 0.5 }, { data: made, share: 0.5 }] }",
        "{ mix: [{ data: real, share: 0.5 }, { data: made, share: 0.4 }], total: 10 }",
        "{ mix: [{ data: real, rows: 3 }, { data: made, share: 1 }] }",
        "{ mix: [{ data: real, rows: 3 }, { data: made, share: 0.5 }], total: 10 }",
        "{ data: made, mix: [{ data: real, rows: 3 }] }",
        "{ mix: [{ data: real, rows: 3, name: a }, { data: made, rows: 3, name: a }] }",
        "{ mix: [{ data: real, rows: 3 }], dedupe: exact }",
        "{ dedupe: exact }",
        "{ data: made, dedupe: exact, total: 3 }",
        "{ data: made, replace: { with: said, share: 1.5, each: 4 } }",
        "{ data: made, replace: { with: said, share: 0.5, each: 4, per: note } }",
        "{ mix: [{ data: real, rows: 3 }, { data: nope, rows: 3 }] }",
    ] {
        let space = space(&format!("  s: {{ diversify: {stage} }}\n"), "");
        let text = space.fails(&["check", "w.yaml"]);
        let kept = text.lines().filter(|line| line.starts_with("error:") || line.contains("help:"));
        said.push(format!("{stage}\n{}", kept.collect::<Vec<_>>().join("\n")));
    }
    let types = space(
        "  s: { diversify: { mix: [{ data: said, rows: 1 }, { data: odd, rows: 1 }] } }\n",
        "",
    );
    types.write("odd.jsonl", "{\"id\": \"o\", \"note\": \"x\"}\n");
    types.edit("w.yaml", "stages", "  odd: { path: odd.jsonl }\nstages");
    said.push(types.fails(&["check", "w.yaml"]));
    insta::assert_snapshot!("wrong_mixtures", said.join("\n\n"));
}
