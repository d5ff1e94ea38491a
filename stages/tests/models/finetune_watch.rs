//! `finetune` with `evaluate_on`, `early_stopping` and `kl`, and what an interruption leaves behind.

use refrain_engine::kind::{Input, MAIN, NodeResult, StageError};

use crate::bench::*;

const LEARN: &str = "model: m, data: d, batch_size: 2, learning_rate: 1e-2, seed: 3";

struct Desk {
    bench: Bench,
    base: Input,
    data: Input,
    watched: Input,
}

impl Desk {
    fn new() -> Option<Desk> {
        let folder = shared("parity/llama")?;
        let (questions, answers) = conversations(&folder);
        let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        let bench = Bench::new();
        let table = |rows: std::ops::Range<usize>| {
            bench.table(&texts(&[
                ("prompt", &questions[rows.clone()]),
                ("response", &answers[rows]),
            ]))
        };
        let (data, watched) = (table(0..5), table(5..8));
        Some(Desk { base: model(&folder.join("model")), data, watched, bench })
    }

    fn run(&self, parameters: &str) -> Result<NodeResult, StageError> {
        let mut inputs = vec![("model", &self.base), ("data", &self.data)];
        inputs.extend(parameters.contains("evaluate_on").then_some(("evaluate_on", &self.watched)));
        self.bench.run("finetune", &format!("{LEARN}, {parameters}"), &inputs)
    }

    /// The mean of -log p over the responses' tokens of the held-out rows.
    fn loss(&self, outputs: &NodeResult) -> f64 {
        let model = self.bench.adapted(&self.base, &outputs.artifacts[MAIN]);
        let scored = self.bench.made(
            "score",
            "model: m, data: d",
            &[("model", &model), ("data", &self.watched)],
        );
        let logprobs = float_lists(&scored, "logprobs");
        let responses = logprobs.iter().zip(int32(&scored, "prompt_tokens"));
        let all: Vec<f64> = responses
            .flat_map(|(row, prompt)| row[prompt as usize..].iter().map(|l| -f64::from(l.unwrap())))
            .collect();
        all.iter().sum::<f64>() / all.len() as f64
    }
}

fn figure(outputs: &NodeResult, name: &str) -> Option<f64> {
    outputs.metrics.iter().find(|metric| metric.metric == name).map(|metric| metric.value)
}

#[test]
fn the_held_out_loss_is_that_of_score() {
    let Some(desk) = Desk::new() else { return };
    let outputs = desk.run("lora: { rank: 4 }, epochs: 2, evaluate_on: e").unwrap();
    let log = desk.bench.read(&outputs.artifacts["log"]);
    let losses = float64(&log, "eval_loss");
    // Five rows are three steps.
    let measured: Vec<bool> = losses.iter().map(Option::is_some).collect();
    assert_eq!(measured, [false, false, true, false, false, true]);
    assert_eq!(figure(&outputs, "eval_loss"), losses[5]);
    assert!(
        (losses[5].unwrap() - desk.loss(&outputs)).abs() < 1e-5,
        "it is not the loss that `score` gives"
    );
    // Watching changes nothing.
    let blind = desk.run("lora: { rank: 4 }, epochs: 2").unwrap();
    assert_eq!(blind.artifacts[MAIN], outputs.artifacts[MAIN]);
    let log = desk.bench.read(&blind.artifacts["log"]);
    let names: Vec<&str> =
        log.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
    let plain = ["step", "epoch", "learning_rate", "loss", "grad_norm", "active_tokens", "tokens"];
    assert_eq!(names, plain);
}

#[test]
fn early_stopping_keeps_the_best_adapter() {
    let Some(desk) = Desk::new() else { return };
    let parameters = "lora: { rank: 8 }, steps: 200, schedule: constant, evaluate_on: e, evaluate_every: 2, \
        early_stopping: { patience: 2 }";
    let outputs = desk.run(parameters).unwrap();
    let log = desk.bench.read(&outputs.artifacts["log"]);
    let losses: Vec<f64> = float64(&log, "eval_loss").into_iter().flatten().collect();
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(log.num_rows() < 200, "it was not stopped");
    assert_eq!(figure(&outputs, "eval_loss"), Some(lowest));
    let best = figure(&outputs, "best_step").unwrap();
    assert_eq!(float64(&log, "eval_loss")[best as usize], Some(lowest));
    assert!((lowest - desk.loss(&outputs)).abs() < 1e-5, "the adapter is not the best one");
}

#[test]
fn the_divergence_is_logged_and_held_down() {
    let Some(desk) = Desk::new() else { return };
    let kl = |weight: &str| {
        let outputs = desk
            .run(&format!("lora: {{ rank: 4 }}, steps: 12, kl: {{ weight: {weight} }}"))
            .unwrap();
        let log = desk.bench.read(&outputs.artifacts["log"]);
        let kl = float64(&log, "kl");
        assert_eq!(kl[0], Some(0.0));
        assert_eq!(figure(&outputs, "final_kl"), kl[11]);
        (kl[11].unwrap(), outputs.artifacts[MAIN].digest)
    };
    let ((free, without), (held, _)) = (kl("0"), kl("5"));
    assert!(held < free / 2.0, "{held} with a weight, {free} without");
    assert_eq!(without, desk.run("lora: { rank: 4 }, steps: 12").unwrap().artifacts[MAIN].digest);
}

#[test]
fn knobs_change_no_bytes() {
    let Some(desk) = Desk::new() else { return };
    for method in ["lora: { rank: 4, dropout: 0.2 }", "full: true"] {
        let digests = ["false", "true", "auto"].map(|knob| {
            let parameters =
                format!("{method}, steps: 4, gradient_checkpointing: {knob}, checkpoint_every: 0");
            desk.run(&parameters).unwrap().artifacts
        });
        assert!(digests.iter().all(|other| *other == digests[0]));
    }
}

#[test]
fn a_cancelled_training_goes_on() {
    let Some(mut desk) = Desk::new() else { return };
    let parameters = "lora: { rank: 4 }, steps: 30, evaluate_on: e";
    let expected = desk.run(parameters).unwrap().artifacts;
    let mut interrupted = 0;
    desk.bench.cancel_after = Some(7);
    loop {
        match desk.run(parameters) {
            Err(StageError::Cancelled) => interrupted += 1,
            other => {
                assert_eq!(other.unwrap().artifacts, expected);
                break;
            }
        }
    }
    assert!(interrupted > 3, "it was interrupted {interrupted} times");
    let notes = desk.bench.notes();
    assert!(notes[0].starts_with("goes on after step "), "{notes:?}");
}

#[test]
fn errors_say_which_table() {
    let Some(mut desk) = Desk::new() else { return };
    desk.watched =
        desk.bench.table(&texts(&[("prompt", &["a"]), ("response", &[&"one two ".repeat(900)])]));
    let error = message(desk.run("lora: { rank: 4 }, evaluate_on: e"));
    assert!(error.starts_with("`evaluate_on`: row 0 is too long"), "{error}");
}
