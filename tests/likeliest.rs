//! The option of a question that a model finds likeliest, against sums made from `score` alone.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type};

use crate::artifacts::{table, texts, truths};
use crate::space::Space;

const WORKFLOW: &str = r#"
refrain: 1
data:
  train: { path: train.jsonl }
  questions: { path: questions.jsonl, columns: { reference: key } }
  options: { path: options.jsonl }
  alone: { path: alone.jsonl }
stages:
  base:
    finetune:
      data: train
      full: true
      from:
        config: { hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 128 }
        tokenizer: { vocab_size: 280 }
      steps: 30
      batch_size: 4
      learning_rate: 1e-2
      seed: 1
  likeliest:
    evaluate:
      model: base
      data: questions
      task: choice_logprob
      by: "${by}"
      chat: false
      choices: endings
      continuation: " {{ choice }}"
      prior: "Answer:"
  by_hand: { score: { model: base, data: options, chat: false } }
  by_hand_alone: { score: { model: base, data: alone, chat: false } }
sweep:
  by: [sum, token, byte, prior]
"#;

/// Three questions with options of different lengths; an option's number is the last of its id.
const QUESTIONS: [(&str, [&str; 3]); 3] = [
    ("3 plus 1?", ["it is 4.", "it is surely not to be known by anybody", "9"]),
    ("7 plus 1?", ["no", "it is 8.", "it is 7 or it is 9."]),
    ("12 plus 1?", ["it is 1.", "13", "it is it is it is"]),
];

/// The log-probabilities of a row's response, and the number of its tokens, end of turn left out.
fn sums(scored: &RecordBatch) -> Vec<(f64, usize, usize)> {
    let list = |name: &str| scored.column_by_name(name).unwrap().as_list::<i32>().clone();
    let (logprobs, offsets) = (list("logprobs"), list("offsets"));
    let (whole, responses) = (texts(scored, "text"), texts(scored, "response"));
    let prompts = texts(scored, "prompt");
    (0..scored.num_rows())
        .map(|row| {
            let (prompt, response) =
                (prompts[row].as_ref().unwrap(), responses[row].as_ref().unwrap());
            let begin = whole[row].as_ref().unwrap().find(&format!("{prompt}{response}")).unwrap();
            let (start, end) = (begin + prompt.len(), begin + prompt.len() + response.len());
            let (values, places) = (logprobs.value(row), offsets.value(row));
            let (values, places) =
                (values.as_primitive::<Float32Type>(), places.as_primitive::<Int32Type>());
            let ours: Vec<f64> = (0..values.len())
                .filter(|&at| (start..end).contains(&(places.value(at) as usize)))
                .map(|at| f64::from(values.value(at)))
                .collect();
            (ours.iter().sum(), ours.len(), response.trim().len())
        })
        .collect()
}

#[test]
fn the_likeliest_option_is_that_of_the_sums_made_by_hand() {
    let space = Space::new();
    let train: String = (0..24)
        .map(|i| format!("{{\"prompt\": \"{i} plus 1?\", \"response\": \" it is {}.\"}}\n", i + 1))
        .collect();
    space.write("train.jsonl", &train);
    let (mut questions, mut options, mut alone) = (String::new(), String::new(), String::new());
    for (number, (prompt, endings)) in QUESTIONS.iter().enumerate() {
        let row = serde_json::json!({ "id": format!("q{number}"), "prompt": prompt, "endings": endings, "key": "A" });
        questions += &format!("{row}\n");
        for (option, ending) in endings.iter().enumerate() {
            let response = format!(" {ending}");
            let id = format!("q{number}-{option}");
            let row = serde_json::json!({ "id": id, "prompt": prompt, "response": response });
            options += &format!("{row}\n");
            let row = serde_json::json!({ "id": id, "prompt": "Answer:", "response": response });
            alone += &format!("{row}\n");
        }
    }
    space.write("questions.jsonl", &questions);
    space.write("options.jsonl", &options);
    space.write("alone.jsonl", &alone);
    space.write("w.yaml", WORKFLOW);
    space.report("w.yaml", &[]);

    let by_hand = sums(&table(&space, "by_hand"));
    let alone = sums(&table(&space, "by_hand_alone"));
    let mut different = std::collections::BTreeSet::new();
    for by in ["sum", "token", "byte", "prior"] {
        let scores: Vec<f64> = by_hand
            .iter()
            .zip(&alone)
            .map(|(&(sum, tokens, bytes), (prior, ..))| match by {
                "token" => sum / tokens as f64,
                "byte" => sum / bytes as f64,
                "prior" => sum - prior,
                _ => sum,
            })
            .collect();
        let best = |scores: &[f64]| (0..3).reduce(|a, b| if scores[b] > scores[a] { b } else { a });
        let expected: Vec<Option<String>> = scores
            .chunks(3)
            .map(|scores| Some(["A", "B", "C"][best(scores).unwrap()].to_owned()))
            .collect();
        let chosen = table(&space, &format!("likeliest[by={by}]"));
        assert_eq!(texts(&chosen, "prediction"), expected, "{by}");
        let right: Vec<bool> = expected.iter().map(|label| label.as_deref() == Some("A")).collect();
        assert_eq!(truths(&chosen, "correct"), right);
        assert_eq!(chosen.num_rows(), 3);
        different.insert(expected);
    }
    assert!(different.len() > 1, "each way chooses the same: {different:?}");

    // Another way to choose scores nothing again.
    space.edit("w.yaml", "by: [sum, token, byte, prior]", "by: [sum]");
    assert_eq!(space.ran("w.yaml", &[]).len(), 0);
    // A reference that is no option is not judged as wrong.
    space.edit("questions.jsonl", "\"key\":\"A\"", "\"key\":\"E\"");
    let said = space.fails(&["run", "w.yaml", "--quiet"]);
    assert!(said.contains("`reference` is neither a label nor the text of an option"), "{said}");
}
