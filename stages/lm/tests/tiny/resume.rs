//! A training that is interrupted at any point and goes on later ends with the same bits.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::Duration;

use refrain_cache::{Cache, Digest, Key, Unfinished};
use refrain_lm::model::LanguageModel;
use refrain_lm::train::{
    CheckpointOptions, EarlyStopping, Evaluation, TrainError, TrainOptions, TrainRow, Trained,
    Training, train,
};

use crate::*;

const NEVER: Duration = Duration::from_secs(1_000_000);

struct Bench {
    cache: Cache,
    notes: RefCell<Vec<String>>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join(".refrain")).unwrap();
        Bench { cache, notes: RefCell::default(), _folder: folder }
    }

    fn unfinished(&self) -> Unfinished<'_> {
        self.cache.unfinished(&Key::new(Digest::of_bytes(b"a training")))
    }

    fn file(&self) -> std::path::PathBuf {
        let key = Key::new(Digest::of_bytes(b"a training"));
        self.cache.root().join("unfinished").join(key.to_string()).join("training")
    }

    /// Trains until `progress` was told `calls` times how far it is.
    fn train(
        &self,
        model: &mut LanguageModel,
        training: &Training<'_>,
        every: Duration,
        calls: usize,
    ) -> Result<Trained, TrainError> {
        let unfinished = self.unfinished();
        let note = |text: String| self.notes.borrow_mut().push(text);
        let keep =
            CheckpointOptions { unfinished: &unfinished, every, profile: "test", note: &note };
        let training = Training { keep: Some(keep), ..*training };
        let mut left = calls;
        train(model, &training, &mut |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }
}

/// Trainings that keep everything there is to keep.
fn trainings<'a>(
    options: &'a TrainOptions,
    data: &'a [TrainRow],
    watched: &'a [TrainRow],
) -> [Training<'a>; 2] {
    let plain = Training { rows: data, options, evaluation: None, keep: None, snapshots: None };
    let early_stopping = Some(EarlyStopping { patience: 3, min_delta: 1e-3 });
    let evaluation = Some(Evaluation { rows: watched, every: Some(2), early_stopping });
    [plain, Training { evaluation, ..plain }]
}

fn prepared(config: &ModelConfig, lora: bool) -> LanguageModel {
    let mut model = LanguageModel::random(config, 3);
    if lora {
        model.add_lora(&settings(true), 5).unwrap()
    } else {
        model.train_all()
    }
    model
}

#[test]
fn interrupted_anywhere_it_ends_with_the_same_bits() {
    let (data, watched) = (rows(11, 1), rows(40, 2));
    let options = TrainOptions { kl_weight: Some(0.1), ..options() };
    for (config, lora) in [(config("gemma2"), true), (config("qwen2"), false)] {
        for training in trainings(&options, &data, &watched) {
            let mut whole = prepared(&config, lora);
            let expected = trained(&mut whole, &training);
            for calls in 1.. {
                let bench = Bench::new();
                match bench.train(&mut prepared(&config, lora), &training, NEVER, calls) {
                    // It was not interrupted any more.
                    Ok(_) => break,
                    Err(error) => assert!(matches!(error, TrainError::Interrupted), "{error}"),
                }
                let mut model = prepared(&config, lora);
                let got = bench.train(&mut model, &training, NEVER, usize::MAX).unwrap();
                assert_eq!(got, expected, "interrupted at call {calls}");
                assert_eq!(bits(&model), bits(&whole), "interrupted at call {calls}");
            }
        }
    }
}

#[test]
fn interrupted_again_and_again_it_ends_with_the_same_bits() {
    let (data, watched, options) = (rows(11, 1), rows(5, 2), options());
    let training = trainings(&options, &data, &watched)[1];
    let mut whole = prepared(&config("llama"), true);
    let expected = trained(&mut whole, &training);
    let bench = Bench::new();
    for _ in 0..100 {
        let mut model = prepared(&config("llama"), true);
        if let Ok(got) = bench.train(&mut model, &training, NEVER, 3) {
            assert_eq!(got, expected);
            assert_eq!(bits(&model), bits(&whole));
            assert!(bench.notes.borrow().len() > 2);
            return;
        }
    }
    panic!("it never ends");
}

/// What a killed process leaves is some earlier checkpoint, not one of the moment when it was
/// stopped.
#[test]
fn a_killed_training_goes_on_from_its_last_checkpoint() {
    let (data, watched, options) = (rows(11, 1), rows(5, 2), options());
    let training = trainings(&options, &data, &watched)[0];
    let mut whole = prepared(&config("llama"), false);
    let expected = trained(&mut whole, &training);
    for step in 1..9 {
        let bench = Bench::new();
        let killed = bench.train(&mut prepared(&config("llama"), false), &training, NEVER, step);
        assert!(killed.is_err());
        let kept = std::fs::read(bench.file()).unwrap();
        // It went two steps further before it was killed.
        let _killed = bench.train(&mut prepared(&config("llama"), false), &training, NEVER, 2);
        std::fs::write(bench.file(), kept).unwrap();
        bench.notes.take();
        let mut model = prepared(&config("llama"), false);
        assert_eq!(bench.train(&mut model, &training, NEVER, usize::MAX).unwrap(), expected);
        assert_eq!(bits(&model), bits(&whole));
        let expected =
            format!("goes on after step {step} of 9, where an earlier run was interrupted");
        assert_eq!(bench.notes.take(), [expected]);
    }
}

#[test]
fn the_state_is_written_by_time() {
    let (data, options) = (rows(11, 1), options());
    let training = trainings(&options, &data, &[])[0];
    let bench = Bench::new();
    bench.train(&mut prepared(&config("llama"), true), &training, NEVER, usize::MAX).unwrap();
    assert!(!bench.file().exists(), "a short training writes nothing");
    bench
        .train(&mut prepared(&config("llama"), true), &training, Duration::ZERO, usize::MAX)
        .unwrap();
    assert!(bench.file().exists());
}

#[test]
fn a_state_that_does_not_fit_is_ignored_and_said() {
    let (data, options) = (rows(11, 1), options());
    let training = trainings(&options, &data, &[])[0];
    let mut whole = prepared(&config("llama"), true);
    let expected = trained(&mut whole, &training);
    let bench = Bench::new();
    let again = |content: &[u8], why: &str| {
        std::fs::write(bench.file(), content).unwrap();
        bench.notes.take();
        let mut model = prepared(&config("llama"), true);
        assert_eq!(
            bench.train(&mut model, &training, NEVER, usize::MAX).unwrap(),
            expected,
            "{why}"
        );
        assert_eq!(bits(&model), bits(&whole), "{why}");
        let notes = bench.notes.take();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with("begins anew") && notes[0].contains(why), "{notes:?}");
    };
    let mut other = LanguageModel::random(&config("llama"), 3);
    other.add_lora(&settings(false), 5).unwrap();
    bench.train(&mut other, &training, NEVER, 4).unwrap_err();
    let of_another = std::fs::read(bench.file()).unwrap();
    again(&of_another, "belongs to another build or machine");
    std::fs::remove_file(bench.file()).unwrap();
    bench.train(&mut prepared(&config("llama"), true), &training, NEVER, 4).unwrap_err();
    let kept = std::fs::read(bench.file()).unwrap();
    for length in [0, 31, 32, 100, kept.len() / 2, kept.len() - 1] {
        again(&kept[..length], "checksum");
    }
    let mut changed = kept.clone();
    changed[kept.len() - 100] ^= 1;
    again(&changed, "checksum");
    bench.unfinished().write("training", |out| out.write_all(b"{}\n")).unwrap();
    let foreign = std::fs::read(bench.file()).unwrap();
    again(&foreign, "a format that this version does not read");
}

#[test]
fn a_disk_that_refuses_the_state_costs_no_result() {
    let (data, options) = (rows(11, 1), options());
    let training = trainings(&options, &data, &[])[0];
    let mut whole = prepared(&config("llama"), true);
    let expected = trained(&mut whole, &training);
    let bench = Bench::new();
    // A file in the place of the folder: nothing can be written below it.
    std::fs::write(bench.file().parent().unwrap(), "").unwrap();
    let mut model = prepared(&config("llama"), true);
    assert_eq!(bench.train(&mut model, &training, Duration::ZERO, usize::MAX).unwrap(), expected);
    assert_eq!(bits(&model), bits(&whole));
    assert!(
        bench
            .notes
            .borrow()
            .iter()
            .any(|note| note.starts_with("the state of the training could not be kept"))
    );
}
