//! Measures scoring, generation and training of two random models; prints tokens a second.

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::time::Instant;

use refrain_lm::config::ModelConfig;
use refrain_lm::generate::{Limits, Progress, Request, generate};
use refrain_lm::model::{LanguageModel, LoraSettings};
use refrain_lm::random::Stream;
use refrain_lm::sampling::{Sampler, SamplingParams};
use refrain_lm::score::score;
use refrain_lm::tokenizer::Tokenizer;
use refrain_lm::tokenizer_training::{TokenizerSettings, train_tokenizer};
use refrain_lm::train::{Length, Order, Schedule, TrainOptions, TrainRow, Training, train};

fn main() {
    for (hidden, layers, heads, intermediate, vocab) in
        [(256, 4, 4, 688, 512), (96, 3, 4, 256, 256)]
    {
        let config = ModelConfig::from_json(&serde_json::json!({
            "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": intermediate, "vocab_size": vocab,
            "max_position_embeddings": 2048,
        }));
        let model = LanguageModel::random(&config.unwrap(), 1);
        println!("hidden {hidden}, {layers} layers, vocabulary {vocab}");
        scoring(&model, vocab);
        generating(&model, vocab);
        training(&model, vocab);
    }
}

fn rows(count: usize, length: usize, vocab: u64) -> Vec<Vec<u32>> {
    let stream = Stream::new(7, &[]);
    let token = |i: u64| (stream.bits(i) % vocab) as u32;
    (0..count).map(|r| (0..length).map(|i| token((r * length + i) as u64)).collect()).collect()
}

fn report(what: &str, tokens: usize, mut run: impl FnMut()) {
    let best = (0..5).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    println!("  {what}: {:.0} tokens a second", tokens as f64 / best.fold(f64::MAX, f64::min));
}

fn scoring(model: &LanguageModel, vocab: u64) {
    let rows = rows(64, 256, vocab);
    let slices: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    report("score, 64 rows of 256", 64 * 256, || {
        score(model, &slices, None, &mut |_, _| ()).unwrap()
    });
}

fn generating(model: &LanguageModel, vocab: u64) {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        TokenizerSettings { vocab_size: 300, special_tokens: vec![], chat_template: None };
    let files = train_tokenizer(["a quick brown fox"].into_iter(), &settings).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), files.tokenizer).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), files.config).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let sampler =
        Sampler::new(SamplingParams { temperature: 1.0, ..Default::default() }, 1).unwrap();
    let limits = Limits { max_new_tokens: 64, ignore_eos: true, ..Limits::default() };
    for batch in [1, 8, 32] {
        let requests: Vec<Request> = (rows(2 * batch, 32, vocab).into_iter().enumerate())
            .map(|(row, prompt)| Request { prompt, samples: vec![sampler.stream(&[row as u64])] })
            .collect();
        report(&format!("generate, batch {batch}"), 2 * batch * 64, || {
            let go = &mut |_: Progress<'_>| ControlFlow::Continue(());
            generate(model, &tokenizer, &requests, &sampler, &limits, Some(batch), go).unwrap();
        });
    }
}

fn training(model: &LanguageModel, vocab: u64) {
    let rows: Vec<TrainRow> = rows(8, 256, vocab)
        .into_iter()
        .map(|ids| TrainRow { active: vec![true; ids.len()], ids })
        .collect();
    let options = TrainOptions {
        length: Length::Steps(4),
        batch_size: 8,
        accumulate: 1,
        order: Order::Given,
        learning_rate: 1e-4,
        schedule: Schedule::Constant,
        warmup: 0,
        betas: (0.9, 0.999),
        eps: 1e-8,
        weight_decay: 0.0,
        clip: None,
        seed: 1,
        kl_weight: None,
        recompute: false,
    };
    let lora = |dora| LoraSettings {
        rank: 8,
        alpha: 16.0,
        dropout: 0.0,
        targets: vec![],
        dora,
        rslora: false,
    };
    for (what, settings) in
        [("full", None), ("lora", Some(lora(false))), ("dora", Some(lora(true)))]
    {
        let mut model = model.clone();
        match &settings {
            Some(settings) => model.add_lora(settings, 1).unwrap(),
            None => model.train_all(),
        }
        report(&format!("train {what}, 4 steps of 8 rows of 256"), 4 * 8 * 256, || {
            let training = Training {
                rows: &rows,
                options: &options,
                evaluation: None,
                keep: None,
                snapshots: None,
            };
            train(&mut model, &training, &mut |_| ControlFlow::Continue(())).unwrap();
        });
    }
}
