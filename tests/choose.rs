//! The best of what was made at the values of an axis, and the models that a training keeps on the
//! way.

use serde_json::Value;

use crate::artifacts::figures;
use crate::space::{Space, names, set, small};

/// Three tables, of which the second and third are equally right, judged and chosen from.
const TABLES: &str = r#"refrain: 1
data: { rows: { path: rows.jsonl } }
stages:
  made:
    diversify: { data: rows, keep: { where: { n: { "<=": "${n}" } } } }
  judged: { evaluate: { data: made, task: exact_match, bootstrap: 0 } }
  best: { choose: { data: made, over: n, highest: judged.accuracy } }
  worst: { choose: { data: made, over: n, lowest: judged.accuracy } }
  read: { diversify: { data: best, measure: [distinct_1] } }
sweep: { n: [1, 2, 3, 4] }
"#;

fn tables() -> Space {
    let space = Space::new();
    let row = |n: i32, response: &str| {
        format!(
            "{{\"id\": \"r{n}\", \"n\": {n}, \"prompt\": \"p\", \"response\": \"{response}\", \"reference\": \"yes\"}}\n"
        )
    };
    // Right of those up to n: 0 of 1, 1 of 2, 1 of 3, 2 of 4.
    let rows = [row(1, "no"), row(2, "yes"), row(3, "no"), row(4, "yes")];
    space.write("rows.jsonl", &rows.concat());
    space.write("w.yaml", TABLES);
    space
}

fn line(space: &Space, node: &str) -> Value {
    let lock = space.read("w.lock");
    let lines = lock.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut lines = lines.filter(|line| line["node"] == node);
    lines.next().unwrap_or_else(|| panic!("`{node}` is not in the lock"))
}

#[test]
fn the_first_of_the_best_is_passed_on_and_no_byte_is_copied() {
    let space = tables();
    let ran = space.ran("w.yaml", &[]);
    assert!(ran.contains("best") && ran.contains("read") && ran.contains("worst"), "{ran:?}");
    let main = |node: &str| line(&space, node)["outputs"]["main"].clone();
    assert_eq!(main("best"), main("made[n=2]"), "of 0, 1/2, 1/3 and 1/2 the first 1/2");
    assert_eq!(main("worst"), main("made[n=1]"));
    let metrics = figures(&space, "best.metrics");
    assert_eq!((metrics("chosen"), metrics("accuracy")), (2.0, 0.5));
    assert_eq!(space.run(&["verify", "w.yaml", "--complete", "--recompute", "all"]).code, 0);

    // A row that changes the order of the figures changes what is chosen, and what reads it.
    space.edit(
        "rows.jsonl",
        "\"n\": 3, \"prompt\": \"p\", \"response\": \"no\"",
        "\"n\": 3, \"prompt\": \"p\", \"response\": \"yes\"",
    );
    let ran = space.ran("w.yaml", &[]);
    assert!(ran.contains("best") && ran.contains("read"), "{ran:?}");
    assert_eq!(main("best"), main("made[n=4]"), "of 0, 1/2, 2/3 and 3/4");
    // One that does not runs nothing below.
    space.edit("w.yaml", "[1, 2, 3, 4]", "[2, 3, 4]");
    assert_eq!(space.ran("w.yaml", &[]), set(&["best", "worst"]));
    assert_eq!(figures(&space, "best.metrics")("chosen"), 3.0);
}

#[test]
fn an_axis_and_a_stage_may_have_other_names() {
    let space = tables();
    space.ran("w.yaml", &[]);
    let text = space.read("w.yaml");
    let text = text
        .replace("{ n: [1", "{ size: [1")
        .replace("${n}", "${size}")
        .replace("over: n", "over: size");
    space.write("w.yaml", &text.replace("judged", "weighed"));
    assert_eq!(space.ran("w.yaml", &[]), set(&[]));
    let one = space.ran("w.yaml", &["--set", "size=3"]);
    assert_eq!(one, set(&["best", "worst", "read"]), "the choice of one");
}

#[test]
fn other_axes_stay() {
    let space = tables();
    space.edit(
        "w.yaml",
        "task: exact_match, bootstrap: 0",
        "task: exact_match, bootstrap: \"${b}\"",
    );
    space.edit("w.yaml", "sweep: {", "sweep: { b: [5, 6],");
    let nodes = names(&space.report("w.yaml", &[]), "ran");
    assert!(nodes.contains("best[b=5]") && nodes.contains("best[b=6]"), "{nodes:?}");
    assert!(!nodes.iter().any(|node| node.starts_with("best") && node.contains("n=")), "{nodes:?}");
}

#[test]
fn wrong_choices_are_refused() {
    let mut said = Vec::new();
    for (from, to) in [
        ("data: made, over: n, highest", "data: made, over: m, highest"),
        ("data: made, over: n, highest", "data: rows, over: n, highest"),
        ("highest: judged.accuracy", "highest: judged.acuracy"),
        ("highest: judged.accuracy", "highest: accuracy"),
        ("highest: judged.accuracy", "highest: jugded.accuracy"),
        ("highest: judged.accuracy", "highest: judged.accuracy, lowest: judged.accuracy"),
        (", highest: judged.accuracy", ""),
        ("{ data: made, over: n, highest", "{ over: n, highest"),
        ("{ data: made, over: n, highest", "{ model: made, over: n, highest"),
        ("over: n, highest", "over: \"${n}\", highest"),
    ] {
        let space = tables();
        space.edit("w.yaml", from, to);
        let text = space.fails(&["check", "w.yaml"]);
        let kept = text.lines().filter(|line| line.starts_with("error") || line.contains("help:"));
        said.push(format!("{to}\n{}", kept.collect::<Vec<_>>().join("\n")));
    }
    insta::assert_snapshot!("wrong_choices", said.join("\n\n"));
}

#[test]
fn a_figure_that_is_not_defined_is_never_the_best() {
    let space = tables();
    space.edit("w.yaml", "[1, 2, 3, 4]", "[0, 1, 2]");
    space.ran("w.yaml", &[]);
    assert_eq!(figures(&space, "worst.metrics")("chosen"), 2.0, "of no rows there is no share");
    space.edit("w.yaml", "[0, 1, 2]", "[0, -1]");
    let said = space.fails(&["run", "w.yaml"]);
    assert!(said.contains("`accuracy` has no value at any value of `n`"), "{said}");
}

/// The best among those within bounds: right of those up to n are 0 of 1, 1 of 2, 1 of 3, 2 of 4.
#[test]
fn only_what_meets_the_bounds_may_win() {
    let space = tables();
    space.ran("w.yaml", &[]);
    let key = line(&space, "best")["key"].clone();
    let require = |demands: &str| {
        space.write("w.yaml", TABLES);
        let to = format!("highest: judged.accuracy, require: {demands} }}");
        space.edit("w.yaml", "highest: judged.accuracy }", &to);
    };
    require("[{ metric: made.rows_out, min: 3 }]");
    space.ran("w.yaml", &[]);
    let metrics = figures(&space, "best.metrics");
    assert_eq!((metrics("chosen"), metrics("eligible"), metrics("accuracy")), (4.0, 2.0, 0.5));
    assert_ne!(line(&space, "best")["key"], key);
    require("[{ metric: made.rows_out, min: 3 }, { metric: judged.accuracy, max: 0.4 }]");
    space.ran("w.yaml", &[]);
    assert_eq!(figures(&space, "best.metrics")("chosen"), 3.0);
    // An edge belongs to what is allowed.
    require("[{ metric: made.rows_out, min: 2, max: 2 }]");
    space.ran("w.yaml", &[]);
    assert_eq!(figures(&space, "best.metrics")("chosen"), 2.0);
    assert_eq!(space.run(&["verify", "w.yaml", "--recompute", "all"]).code, 0);

    for (demands, words) in [
        (
            "[{ metric: judged.accuracy, min: 0.6 }]",
            "at no value of `n` is `accuracy` at least 0.6: it is 0, 0.5, 0.3333333333333333, 0.5",
        ),
        (
            "[{ metric: judged.accuracy, min: 0.5 }, { metric: made.rows_out, max: 1 }]",
            "no value of `n` meets all of `require`",
        ),
        ("[]", "`require` names no metric"),
        ("[{ metric: judged.accuracy }]", "it has no bound"),
        ("[{ metric: judged.accuracy, min: 1, max: 0 }]", "`min` is above `max`"),
        ("[{ metric: judged.acuracy, min: 1 }]", "stage `judged` has no metric `acuracy`"),
        ("[{ metric: rows.n, min: 1 }]", "w.yaml:7:"),
    ] {
        require(demands);
        let said = space.fails(&["run", "w.yaml"]);
        assert!(said.contains(words), "{demands}: {said}");
    }
}

/// A base, and an adapter of which every epoch is kept; chosen by another table.
const EPOCHS: &str = r#"refrain: 1
data: { train: { path: train.jsonl } }
stages:
  base:
    finetune:
      data: train
      from:
        config: { hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 128 }
        tokenizer: { vocab_size: 280 }
      steps: 20
      batch_size: 4
      learning_rate: 1e-2
      keep: [10, 5]
  tuned:
    finetune: { model: base, data: train, lora: { rank: 2 }, epochs: 3, batch_size: 8, learning_rate: 1e-2, keep: each_epoch }
  validated: { score: { model: "tuned.epoch_${epoch}", data: train } }
  best: { choose: { model: "tuned.epoch_${epoch}", over: epoch, lowest: validated.perplexity } }
  scored: { score: { model: best, data: train } }
  early: { score: { model: base.step_5, data: train } }
sweep: { epoch: [1, 2, 3] }
"#;

fn epochs() -> Space {
    let space = Space::new();
    small(&space);
    space.write("w.yaml", EPOCHS);
    space
}

#[test]
fn every_epoch_of_one_training_is_an_output() {
    let space = epochs();
    let ran = space.ran("w.yaml", &[]);
    assert!(ran.contains("tuned") && ran.contains("validated[epoch=2]"), "{ran:?}");
    assert!(!ran.contains("scored"), "it has the key of an epoch's scores: {ran:?}");
    let outputs = line(&space, "tuned")["outputs"].clone();
    let digest = |name: &str| outputs[name]["digest"].as_str().unwrap().to_string();
    assert_eq!(digest("main"), digest("epoch_3"), "the last epoch is the result");
    assert_ne!(digest("epoch_1"), digest("epoch_2"));
    assert_eq!(outputs["epoch_1"]["base"], outputs["main"]["base"]);
    let base = line(&space, "base")["outputs"].clone();
    assert!(
        base["step_5"]["digest"].is_string() && base["step_10"]["digest"].is_string(),
        "{base}"
    );

    let losses: Vec<f64> = (1..=3)
        .map(|e| figures(&space, &format!("validated[epoch={e}].metrics"))("perplexity"))
        .collect();
    let best = (0..3).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap() + 1;
    assert_eq!(figures(&space, "best.metrics")("chosen"), best as f64);
    let chosen = line(&space, "best")["outputs"]["main"].clone();
    assert_eq!(chosen, outputs[format!("epoch_{best}")]);
    // A reader of the choice reads the very adapter: the same key as of the epoch itself.
    assert_eq!(
        line(&space, "scored")["key"],
        line(&space, &format!("validated[epoch={best}]"))["key"]
    );
    assert_eq!(space.run(&["show", "w.yaml", "best"]).code, 0);
    assert_eq!(space.run(&["verify", "w.yaml", "--recompute", "all"]).code, 0);

    // The schedule is that of the whole training: an epoch alone is another model.
    space.edit("w.yaml", "epochs: 3, batch_size: 8", "epochs: 1, batch_size: 8");
    space.edit("w.yaml", "[1, 2, 3]", "[1]");
    space.ran("w.yaml", &[]);
    assert_ne!(line(&space, "tuned")["outputs"]["epoch_1"]["digest"], digest("epoch_1"));
    assert_eq!(line(&space, "base")["outputs"], base);
}

#[test]
fn a_training_that_keeps_nothing_has_the_key_that_it_had() {
    let space = epochs();
    space.edit("w.yaml", ", keep: each_epoch", "");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("`tuned` has no output `epoch_1`"), "{said}");
    let plain = epochs();
    plain.write(
        "w.yaml",
        &EPOCHS.replace(", keep: each_epoch", "").replace("tuned.epoch_${epoch}", "tuned"),
    );
    let said = plain.fails(&["check", "w.yaml"]);
    assert!(said.contains("`model` is the same at all values of `epoch`"), "{said}");
}

#[test]
fn wrong_keeps_are_refused() {
    for (from, to, words) in [
        ("keep: each_epoch", "keep: [1, 99]", "`keep` names step 99, but the training has 9"),
        ("keep: [10, 5]", "keep: [21]", "step 21 is behind the last one, 20"),
        ("keep: [10, 5]", "keep: each_epoch", "needs `epochs` in place of `steps`"),
        ("keep: [10, 5]", "keep: []", "`keep` names no step"),
        ("keep: each_epoch", "keep: each", "`keep` must be one of `each_epoch`, or a list"),
        (
            "keep: each_epoch",
            "keep: each_epoch, evaluate_on: train, early_stopping: { patience: 1 }",
            "cannot stand beside `early_stopping`",
        ),
    ] {
        let space = epochs();
        space.edit("w.yaml", from, to);
        if to.contains("99") {
            space.write(
                "w.yaml",
                &space
                    .read("w.yaml")
                    .replace("tuned.epoch_${epoch}", "tuned.step_${epoch}")
                    .replace("[1, 2, 3]", "[1, 99]"),
            );
        }
        space.write("w.yaml", &space.read("w.yaml").replace("base.step_5", "base"));
        let said = space.fails(&["run", "w.yaml"]);
        assert!(said.contains(words), "{to}: {said}");
    }
}
