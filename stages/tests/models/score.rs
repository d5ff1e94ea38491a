//! `score` against the reference log-probabilities, and what must not change its bytes.

use refrain_engine::kind::{Input, MAIN, NodeResult, StageError};
use refrain_lm::model::{LanguageModel, ModelPath};
use refrain_lm::score::score;

use crate::bench::*;

#[test]
fn texts_have_the_reference_log_probabilities() {
    for name in FOLDERS {
        let Some(folder) = shared(&format!("parity/{name}")) else { return };
        let reference = json(&folder.join("reference.json"));
        let expected = reference["texts"].as_array().unwrap();
        let responses: Vec<&str> =
            expected.iter().map(|text| text["text"].as_str().unwrap()).collect();
        let bench = Bench::new();
        let table = bench.table(&texts(&[("response", &responses)]));
        let model = model(&folder.join("model"));
        let scored = bench.made(
            "score",
            "model: m, data: d, of: text",
            &[("model", &model), ("data", &table)],
        );
        assert_eq!(strings(&scored, "text"), responses);
        for (row, expected) in expected.iter().enumerate() {
            assert_eq!(
                int_lists(&scored, "token_ids")[row],
                ids(&expected["input_ids"]),
                "{name} text {row}"
            );
            let logprobs = &float_lists(&scored, "logprobs")[row];
            assert_eq!(logprobs[0], None);
            for (got, want) in
                logprobs.iter().zip(expected["logprobs_f64"].as_array().unwrap()).skip(1)
            {
                let (got, want) = (f64::from(got.unwrap()), want.as_f64().unwrap());
                assert!((got - want).abs() < 1e-4, "{name} text {row}: {got} in place of {want}");
            }
            let perplexity = float64(&scored, "perplexity")[row].unwrap();
            let nll = expected["mean_nll_f64"].as_f64().unwrap();
            assert!(
                (perplexity.ln() - nll).abs() < 2e-5,
                "{name} text {row}: perplexity {perplexity}"
            );
            assert_eq!(int32(&scored, "prompt_tokens")[row], 1);
        }
    }
}

#[test]
fn chats_have_the_reference_tokens_and_the_end_of_turn_counts() {
    for name in FOLDERS {
        let Some(folder) = shared(&format!("parity/{name}")) else { return };
        let (questions, answers) = conversations(&folder);
        let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        let bench = Bench::new();
        let table = bench.table(&texts(&[("prompt", &questions), ("response", &answers)]));
        let model = model(&folder.join("model"));
        let scored =
            bench.made("score", "model: m, data: d", &[("model", &model), ("data", &table)]);
        let rows = json(&folder.join("training/rows.json"));
        for (row, expected) in rows.as_array().unwrap().iter().enumerate() {
            assert_eq!(
                int_lists(&scored, "token_ids")[row],
                ids(&expected["input_ids"]),
                "{name} row {row}"
            );
            let prompt = expected["n_prompt"].as_i64().unwrap();
            assert_eq!(i64::from(int32(&scored, "prompt_tokens")[row]), prompt, "{name} row {row}");
            let response = &float_lists(&scored, "logprobs")[row][prompt as usize..];
            let nll: f64 = response.iter().map(|value| -f64::from(value.unwrap())).sum();
            let perplexity = (nll / response.len() as f64).exp();
            assert!(
                (float64(&scored, "perplexity")[row].unwrap() / perplexity - 1.0).abs() < 1e-12
            );
            assert_eq!(*int_lists(&scored, "token_ids")[row].last().unwrap(), 1);
        }
    }
}

#[test]
fn bytes_depend_neither_on_batch_nor_on_threads() {
    let Some(folder) = shared("parity/llama") else { return };
    let (questions, answers) = conversations(&folder);
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let model = model(&folder.join("model"));
    let mut bench = Bench::new();
    let table = bench.table(&texts(&[("prompt", &questions), ("response", &answers)]));
    let mut digests = Vec::new();
    for (threads, batch) in [(1, None), (1, Some(1)), (2, Some(3)), (2, Some(64))] {
        (bench.threads, bench.batch) = (threads, batch);
        let outputs = bench
            .run("score", "model: m, data: d", &[("model", &model), ("data", &table)])
            .unwrap();
        digests.push(outputs.artifacts[MAIN].digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "the bytes differ");
}

#[test]
fn cut_empty_and_long_rows() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = Bench::new();
    let long = "one two three ".repeat(400);
    let rows = texts(&[
        ("id", &["a", "b", "c"]),
        ("prompt", &["Hi", "Hi", "Hi"]),
        ("response", &["", "Good 🌍 morning", &long]),
        ("loss_mask", &["x", "y", "z"]),
    ]);
    let table = bench.table(&rows);
    let inputs = [("model", &model), ("data", &table)];
    let scored = bench.made("score", "model: m, data: d, max_tokens: 14", &inputs);
    assert!(scored.column_by_name("loss_mask").is_none(), "a mask of other tokens stayed");
    let perplexities = float64(&scored, "perplexity");
    assert!(perplexities[0].is_some() && perplexities[1].is_some());
    let notes = bench.notes();
    assert!(notes.iter().any(|note| note.contains("rows are cut to `max_tokens`")), "{notes:?}");
    for (row, text) in strings(&scored, "text").iter().enumerate() {
        let offsets = &int_lists(&scored, "offsets")[row];
        assert!(offsets.len() <= 14 && offsets.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(*offsets.last().unwrap() <= text.len() as i64);
    }
    let error = bench.run("score", "model: m, data: d", &inputs).unwrap_err();
    let StageError::Failed { message, hint } = error else { panic!("{error}") };
    assert!(message.starts_with("row 2 (`c`) is too long: it has "), "{message}");
    assert!(hint.unwrap().contains("max_tokens"));
}

/// The end of turn is a token of the response: the only one of an empty response, which `finetune` trains on.
#[test]
fn score_and_finetune_agree_on_an_empty_response() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = Bench::new();
    let rows = texts(&[("prompt", &["Hi", "Hi", "Hi"]), ("response", &["", " ", "ok"])]);
    let table = bench.table(&rows);
    let inputs = [("model", &model), ("data", &table)];
    let metric = |outputs: &NodeResult, name: &str| {
        outputs.metrics.iter().find(|metric| metric.metric == name).unwrap().value
    };

    let scored = bench.run("score", "model: m, data: d", &inputs).unwrap();
    let table = bench.read(&scored.artifacts[MAIN]);
    let (ids, perplexities) = (int_lists(&table, "token_ids"), float64(&table, "perplexity"));
    assert!(perplexities.iter().all(Option::is_some), "{perplexities:?}");
    assert!(ids[0] != ids[1] || perplexities[0] == perplexities[1], "{perplexities:?}");
    let notes = bench.notes();
    assert!(notes.iter().any(|note| note.starts_with("the response is empty in ")), "{notes:?}");

    let parameters = "model: m, data: d, lora: { rank: 2 }, steps: 1, batch_size: 3";
    let trained = bench.run("finetune", parameters, &inputs).unwrap();
    assert_eq!(metric(&trained, "active_tokens"), metric(&scored, "response_tokens"));
}

#[test]
fn a_long_row_is_seen_through_windows() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = Bench::new();
    let long = "one two three ".repeat(400);
    let table = bench.table(&texts(&[("response", &["short", &long])]));
    let inputs = [("model", &model), ("data", &table)];
    let whole = bench.made("score", "model: m, data: d, of: text, max_tokens: 500", &inputs);
    let through = |window: &str| {
        let parameters = format!("model: m, data: d, of: text, window: {window}");
        float_lists(&bench.made("score", &parameters, &inputs), "logprobs")
    };
    let windows = through("{ length: 500, stride: 200 }");
    assert!(windows[1].len() > 1000, "nothing is cut");
    assert_eq!(windows[0], float_lists(&whole, "logprobs")[0], "a short row is seen whole");
    assert_eq!(
        windows[1][..500],
        float_lists(&whole, "logprobs")[1][..500],
        "the first window begins the row"
    );
    assert!(windows[1][1..].iter().all(Option::is_some));
    // Of the second window the last 200 tokens count: those of a row that begins 200 tokens later.
    let Input::Model { folder, .. } = &model else { panic!() };
    let loaded =
        LanguageModel::load(&ModelPath { folder: folder.clone(), adapters: Vec::new() }).unwrap();
    let ids: Vec<u32> = int_lists(
        &bench.made(
            "score",
            "model: m, data: d, of: text, window: { length: 500, stride: 200 }",
            &inputs,
        ),
        "token_ids",
    )[1]
    .iter()
    .map(|id| *id as u32)
    .collect();
    let mut alone = Vec::new();
    score(&loaded, &[&ids[200..700]], None, &mut |_, values| alone = values.to_vec()).unwrap();
    let expected: Vec<Option<f32>> = alone[299..].iter().copied().map(Some).collect();
    assert_eq!(windows[1][500..700], expected);
    let error = message(bench.run(
        "score",
        "model: m, data: d, window: { length: 513, stride: 2 }",
        &inputs,
    ));
    assert_eq!(error, "`window.length` is 513, and the model's context ends at 512");
    let (problems, _) = check("score", "model: m, data: d, window: { length: 8, stride: 8 }", &[]);
    assert_eq!(
        problems,
        ["window.stride: a stride of 8 leaves no token before the first of a window of 8"]
    );
}

#[test]
fn plain_rows_stand_one_after_another() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = Bench::new();
    let table = bench.table(&texts(&[("question", &["2+2"]), ("response", &["4"])]));
    let parameters = "model: m, data: d, chat: false, system: Add., prompt: \"{{ question }}=\"";
    let scored = bench.made("score", parameters, &[("model", &model), ("data", &table)]);
    assert_eq!(strings(&scored, "text"), ["Add.\n\n2+2=4<|eos|>"]);
}

#[test]
fn a_stop_is_heard() {
    let Some(folder) = shared("parity/llama") else { return };
    let bench = Bench::new();
    bench.cancel.cancel();
    let table = bench.table(&texts(&[("prompt", &["a"]), ("response", &["b"])]));
    let model = model(&folder.join("model"));
    for (kind, parameters) in [("score", ""), ("generate", ""), ("finetune", ", full: true")] {
        let parameters = format!("model: m, data: d{parameters}");
        let result = bench.run(kind, &parameters, &[("model", &model), ("data", &table)]);
        assert!(matches!(result, Err(StageError::Cancelled)), "{kind}");
    }
}
