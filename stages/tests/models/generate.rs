//! `generate` against the reference continuations, and what a response may depend on.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;

use refrain_engine::kind::MAIN;

use crate::bench::*;

const SAMPLED: &str =
    "model: m, data: d, samples: 3, temperature: 1.0, top_p: 0.9, max_new_tokens: 12, seed: 5";

#[test]
fn greedy_is_the_reference() {
    for name in FOLDERS {
        let Some(folder) = shared(&format!("parity/{name}")) else { return };
        let reference = json(&folder.join("reference.json"));
        let expected = reference["greedy"].as_array().unwrap();
        let prompts: Vec<&str> =
            expected.iter().map(|one| one["prompt"].as_str().unwrap()).collect();
        let bench = Bench::new();
        let table = bench.table(&texts(&[("prompt", &prompts)]));
        let model = model(&folder.join("model"));
        let parameters = "model: m, data: d, chat: false, ignore_eos: true, max_new_tokens: 32";
        let made = bench.made("generate", parameters, &[("model", &model), ("data", &table)]);
        for (row, expected) in expected.iter().enumerate() {
            assert_eq!(
                int_lists(&made, "response_token_ids")[row],
                ids(&expected["new_ids"]),
                "{name} prompt {row}"
            );
            let logprobs = &float_lists(&made, "response_logprobs")[row];
            for (got, want) in
                logprobs.iter().zip(expected["chosen_logprobs_f64"].as_array().unwrap())
            {
                assert!(
                    (f64::from(got.unwrap()) - want.as_f64().unwrap()).abs() < 1e-4,
                    "{name} prompt {row}"
                );
            }
            assert_eq!(strings(&made, "finish_reason")[row], "length");
        }
    }
}

/// The responses of each prompt, in order.
fn by_prompt(made: &RecordBatch) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (prompt, response) in strings(made, "prompt").into_iter().zip(strings(made, "response")) {
        found.entry(prompt).or_default().push(response);
    }
    found
}

#[test]
fn a_sample_depends_on_its_prompt_and_its_number_alone() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let mut bench = Bench::new();
    let prompts = [
        "What is 2 + 2?",
        "Name a bird.",
        "What is 2 + 2?",
        "Hello",
        "Count to ten, slowly, please.",
    ];
    let table = bench.table(&texts(&[("id", &["a", "b", "c", "d", "e"]), ("prompt", &prompts)]));
    let mut digests = Vec::new();
    for (threads, batch) in [(1, None), (1, Some(1)), (2, Some(2)), (1, Some(7)), (2, Some(64))] {
        (bench.threads, bench.batch) = (threads, batch);
        let outputs =
            bench.run("generate", SAMPLED, &[("model", &model), ("data", &table)]).unwrap();
        digests.push(outputs.artifacts[MAIN].digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "the bytes depend on batch or threads");

    let made = bench.made("generate", SAMPLED, &[("model", &model), ("data", &table)]);
    assert_eq!(int32(&made, "sample"), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    let first = by_prompt(&made);
    let repeated = &first["What is 2 + 2?"];
    assert_ne!(repeated[..3], repeated[3..], "equal prompts got equal samples");

    let other = ["Hello", "New here", "What is 2 + 2?", "Name a bird.", "What is 2 + 2?"];
    let table = bench.table(&texts(&[("prompt", &other), ("extra", &["1", "2", "3", "4", "5"])]));
    let second =
        by_prompt(&bench.made("generate", SAMPLED, &[("model", &model), ("data", &table)]));
    for prompt in ["Hello", "What is 2 + 2?", "Name a bird."] {
        assert_eq!(first[prompt], second[prompt], "{prompt}: other rows changed the responses");
    }
    let fewer = by_prompt(&bench.made(
        "generate",
        &SAMPLED.replace("samples: 3", "samples: 2"),
        &[("model", &model), ("data", &table)],
    ));
    assert_eq!(first["Hello"][..2], fewer["Hello"], "the number of samples changed the first ones");
    let seed = by_prompt(&bench.made(
        "generate",
        &SAMPLED.replace("seed: 5", "seed: 6"),
        &[("model", &model), ("data", &table)],
    ));
    assert_ne!(second["Hello"], seed["Hello"], "the seed does nothing");
}

#[test]
fn windows_do_not_show() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = Bench::new();
    // More responses than are made together, of few prompts: what came before must be counted across windows.
    let prompts: Vec<&str> = ["a", "b", "c"].into_iter().cycle().take(600).collect();
    let table = bench.table(&texts(&[("prompt", &prompts)]));
    let inputs = [("model", &model), ("data", &table)];
    let two = bench.made(
        "generate",
        "model: m, data: d, samples: 2, temperature: 1, max_new_tokens: 3",
        &inputs,
    );
    let one = bench.made(
        "generate",
        "model: m, data: d, samples: 1, temperature: 1, max_new_tokens: 3",
        &inputs,
    );
    let every_second: Vec<String> = strings(&two, "response").into_iter().step_by(2).collect();
    assert_eq!(every_second, strings(&one, "response"));
}

#[test]
fn an_older_response_becomes_the_reference() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = Bench::new();
    let table =
        bench.table(&texts(&[("prompt", &["Hi"]), ("response", &["gold"]), ("topic", &["t"])]));
    let inputs = [("model", &model), ("data", &table)];
    let made = bench.made("generate", "model: m, data: d, max_new_tokens: 4", &inputs);
    assert_eq!(
        (strings(&made, "reference"), strings(&made, "topic")),
        (vec!["gold".into()], vec!["t".into()])
    );
    let again = bench.table(&made);
    let again = bench.made(
        "generate",
        "model: m, data: d, max_new_tokens: 2",
        &[("model", &model), ("data", &again)],
    );
    assert_eq!(strings(&again, "reference"), ["gold"]);
    assert!(strings(&made, "response")[0].starts_with(&strings(&again, "response")[0]));
}

#[test]
fn a_stop_text_is_cut_off() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = Bench::new();
    let table = bench.table(&texts(&[("prompt", &["The"])]));
    let inputs = [("model", &model), ("data", &table)];
    let parameters = "model: m, data: d, chat: false, ignore_eos: true, max_new_tokens: 32";
    let whole = strings(&bench.made("generate", parameters, &inputs), "response").remove(0);
    let stopped = bench.made("generate", &format!("{parameters}, stop: [zzz, ow]"), &inputs);
    assert_eq!(strings(&stopped, "response")[0], whole[..whole.find("ow").unwrap()]);
    assert_eq!(strings(&stopped, "finish_reason"), ["stop"]);
}

#[test]
fn shots_stand_before_the_prompt() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = Bench::new();
    let data = bench.table(&texts(&[("prompt", &["3+3="])]));
    let shots = bench.table(&texts(&[("prompt", &["1+1="]), ("response", &["2"])]));
    let with_shots = bench
        .run(
            "generate",
            "model: m, data: d, chat: false, max_new_tokens: 5, shots: { data: s, count: 1 }",
            &[("model", &model), ("data", &data), ("shots.data", &shots)],
        )
        .unwrap();
    let written_out = bench.table(&texts(&[("prompt", &["1+1=2\n\n3+3="])]));
    let parameters = "model: m, data: d, chat: false, max_new_tokens: 5";
    let by_hand = bench.made("generate", parameters, &[("model", &model), ("data", &written_out)]);
    let with_shots = bench.read(&with_shots.artifacts[MAIN]);
    assert_eq!(
        int_lists(&with_shots, "response_token_ids"),
        int_lists(&by_hand, "response_token_ids")
    );
    assert_eq!(strings(&with_shots, "prompt"), ["3+3="]);
}

#[test]
fn rows_that_cannot_be_continued_are_named() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = Bench::new();
    let long = "one two three ".repeat(400);
    let table = bench.table(&texts(&[("prompt", &["a", &long])]));
    let error =
        message(bench.run("generate", "model: m, data: d", &[("model", &model), ("data", &table)]));
    assert!(
        error.starts_with("row 1 is too long: it has ") && error.ends_with("context ends at 512"),
        "{error}"
    );
    let shots = bench.table(&texts(&[("prompt", &["a"]), ("response", &["b"])]));
    let error = message(bench.run(
        "generate",
        "model: m, data: d, shots: { data: s, count: 2 }",
        &[("model", &model), ("data", &table), ("shots.data", &shots)],
    ));
    assert_eq!(error, "`shots.count` is 2, but the table of examples has 1 rows");
    let error = message(bench.run(
        "generate",
        "model: m, data: d, prompt: \"{{ prompt.text }}\"",
        &[("model", &model), ("data", &table)],
    ));
    assert!(error.starts_with("row 0: the template `prompt` fails: "), "{error}");
}
