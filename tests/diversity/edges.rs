//! Tables that do not fit, and tables of few rows.

use arrow::array::{Array, AsArray};

use crate::artifacts::{column, table, texts};
use crate::space::Space;

#[test]
fn tables_that_do_not_fit_are_refused() {
    let space = Space::new();
    space.write(
        "d.jsonl",
        "{\"id\": \"x\", \"embedding\": [1, 2]}\n{\"id\": \"y\", \"embedding\": [1]}\n",
    );
    space.write("e.jsonl", "{\"id\": \"x\", \"response\": \"a\"}\n");
    space.write(
        "f.jsonl",
        "{\"id\": \"x\", \"embedding\": [1.5, 2]}\n{\"id\": \"y\", \"embedding\": [2, 1]}\n",
    );
    space.write(
        "g.jsonl",
        "{\"id\": \"x\", \"embedding\": [1.5]}\n{\"id\": \"y\", \"embedding\": [2]}\n",
    );
    let write = |stage: &str| {
        space.write(
            "w.yaml",
            &format!(
                "refrain: 1\ndata: {{ d: {{ path: d.jsonl }}, e: {{ path: e.jsonl }}, f: {{ path: \
                 f.jsonl }}, g: {{ path: g.jsonl }} }}\nstages:\n  m: {{ diversify: {{ {stage} }} }}\n"
            ),
        );
    };
    for (stage, words) in [
        ("data: e, measure: [vendi]", "it needs a model for `embeddings`"),
        ("data: e, neighbours: 2", "it needs a model for `embeddings`"),
        ("data: e, select: { method: dpp, count: 2 }", "it needs a model for `embeddings`"),
        ("data: f, embed: true", "it needs a model for `embeddings`"),
        ("data: f, measure: [frechet]", "`frechet` compares two tables"),
        ("data: e, against: e, measure: [distinct_1]", "nothing here compares two tables"),
        ("data: f, against: e, measure: [mmd]", "it needs a model for `embeddings`"),
        ("data: e, per: [id]", "`per` needs a measure"),
        (
            "data: e, dedupe: { minhash: 0.8, semantic: 0.9 }",
            "`semantic` cannot stand beside `minhash`",
        ),
        ("data: e, dedupe: { exact: id, shingle: 2 }", "only `minhash` has shingles"),
        ("data: e, select: { method: random, count: 0 }", "0"),
    ] {
        write(stage);
        let said = space.refuses(&["check", "w.yaml"]);
        assert!(said.contains(words), "{stage}: {said}");
    }
    for (stage, words) in [
        (
            "data: d, measure: [vendi]",
            "row 1 (`y`): `embedding` has the length 1, and those before it have 2",
        ),
        ("data: f, against: g, measure: [mmd]", "`data` have the length 2, those of `against` 1"),
    ] {
        write(stage);
        let said = space.fails(&["run", "w.yaml"]);
        assert!(said.contains(words), "{stage}: {said}");
    }
}

/// No row, one row, and rows without a response: every measure has a value or none, and nothing
/// breaks.
#[test]
fn tables_of_few_rows_are_measured() {
    let space = Space::new();
    let measures = "distinct_1, self_bleu_4, self_bleu_4_exp, vendi_ngram, vendi_unigram, \
                    ngram_distance, jaccard_distance, ngram_diversity, compression_ratio, vendi, \
                    vendi_q2, vendi_qinf, dcscore, cosine_distance, frechet, mmd, \
                    neighbour_precision, neighbour_recall, vocabulary_shift, new_words";
    let row = |id: &str, response: &str, embedding: &str| {
        format!(
            "{{\"id\": \"{id}\", \"response\": {response}, \"embedding\": {embedding}, \"n\": 1}}\n"
        )
    };
    let none = row("z", "null", "null");
    space.write("one.jsonl", &format!("{}{none}", row("a", "\"\"", "[0.0, 0.0]")));
    space.write(
        "two.jsonl",
        &format!("{}{}", row("a", "\"x y\"", "[1.5, 2.0]"), row("b", "\"x\"", "[1.5, 2.0]")),
    );
    let stages = ["one", "two", "empty", "nothing"].map(|data| {
        let against = if data == "one" { "two" } else { "one" };
        let select = match data {
            "empty" | "nothing" => String::new(),
            _ => ["dpp", "cluster"].map(|method| format!("  {data}_{method}: {{ diversify: {{ \
                data: {data}, select: {{ method: {method}, count: 1 }} }} }}\n")).concat(),
        };
        format!(
            "  {data}_m: {{ diversify: {{ data: {data}, against: {against}, per: [n], neighbours: 2, \
             measure: [{measures}] }} }}\n{select}  {data}_d: {{ diversify: {{ data: {data}, dedupe: \
             minhash }} }}\n"
        )
    });
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\ndata: {{ one: {{ path: one.jsonl }}, two: {{ path: two.jsonl }} }}\nstages:\n  \
             empty: {{ diversify: {{ data: two, keep: {{ where: {{ id: none }} }} }} }}\n  nothing: {{ \
             diversify: {{ data: one, keep: {{ where: {{ id: z }} }} }} }}\n{}",
            stages.concat()
        ),
    );
    space.report("w.yaml", &[]);
    let value = |node: &str, name: &str| {
        let metrics = table(&space, &format!("{node}.metrics"));
        let names = texts(&metrics, "metric");
        let row = names.iter().position(|known| known.as_deref() == Some(name)).unwrap();
        let values = column(&space, &format!("{node}.metrics"), "value");
        let value = values.as_primitive::<arrow::datatypes::Float64Type>();
        value.is_valid(row).then(|| value.value(row)).filter(|value| !value.is_nan())
    };
    assert!(
        (value("two_m", "vendi").unwrap() - 1.0).abs() < 1e-6 && value("two_m", "mmd").is_none()
    );
    assert_eq!((value("one_m", "self_bleu_4"), value("empty_m", "dcscore")), (None, None));
    assert!(value("two_m", "cosine_distance").unwrap().abs() < 1e-6);
    assert_eq!(value("nothing_m", "vendi"), None);
    assert_eq!(table(&space, "two_m.neighbours").num_rows(), 2);
    assert_eq!(
        ["two_dpp", "one_dpp", "two_cluster", "one_cluster", "one_d"]
            .map(|node| table(&space, node).num_rows()),
        [1, 1, 1, 1, 2]
    );
}
