//! The state of a training on disk: taken up by the next run of the same key, ignored where it does
//! not fit.
//!
//! One file: a line of JSON, then for each trainable tensor its values, its two moments and, with
//! early stopping, its best values, as they lie in memory, 32-bit floats, little-endian.

use std::io;
use std::io::{BufRead, Read, Write};
use std::time::{Duration, Instant};

use refrain_cache::Unfinished;
use serde::{Deserialize, Serialize};

use super::evaluation::Best;
use super::{StepLog, TrainError, Trainer};

const FILE: &str = "training";
/// The version of the file's format.
const FORMAT: u32 = 2;
/// Values that are converted at once.
const CHUNK: usize = 1 << 14;
/// Writing takes at most about one part in so many of the time.
const SHARE: u32 = 20;

/// Place and pace of checkpoints. Nothing here can change a result.
#[derive(Clone, Copy)]
pub struct CheckpointOptions<'a> {
    /// The folder of the training's key.
    pub unfinished: &'a Unfinished<'a>,
    /// Shortest time between two writes, beside the one when training is interrupted.
    pub every: Duration,
    /// Profile of the machine and build: a state of another one is not resumed.
    pub profile: &'a str,
    /// Hears what became of an earlier state, and of one that could not be written.
    pub note: &'a dyn Fn(String),
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    profile: String,
    step: u64,
    optimizer_steps: u64,
    /// Names and sizes of the trainable tensors.
    tensors: Vec<(String, usize)>,
    best: Option<BestHeader>,
    log: Vec<StepLog>,
}

#[derive(Serialize, Deserialize)]
struct BestHeader {
    step: u64,
    loss: f64,
    stale: u64,
}

/// Writes the state now and then.
pub(super) struct Checkpointer<'a> {
    keep: CheckpointOptions<'a>,
    last: Instant,
    pause: Duration,
    /// Whether it was said that the state cannot be written.
    refused: bool,
}

impl<'a> Checkpointer<'a> {
    pub fn new(keep: CheckpointOptions<'a>) -> Checkpointer<'a> {
        Checkpointer { keep, last: Instant::now(), pause: keep.every, refused: false }
    }

    pub fn is_due(&self) -> bool {
        self.last.elapsed() >= self.pause
    }

    /// Writes the state. A disk that refuses costs the state alone: training goes on.
    pub fn save(&mut self, trainer: &Trainer<'_>) {
        let begin = Instant::now();
        if let Err(error) =
            self.keep.unfinished.write(FILE, |out| write(out, trainer, self.keep.profile))
        {
            if !self.refused {
                (self.keep.note)(format!("the state of the training could not be kept: {error}"));
            }
            self.refused = true;
        }
        self.last = Instant::now();
        self.pause = self.keep.every.max(SHARE * begin.elapsed());
    }

    /// Takes up the state of an earlier run where there is one that fits.
    pub fn restore(&self, trainer: &mut Trainer<'_>) -> Result<(), TrainError> {
        let note =
            |reason: &str| (self.keep.note)(format!("begins anew, for an earlier state {reason}"));
        let mut file = match self.keep.unfinished.read(FILE) {
            Ok(None) => return Ok(()),
            Ok(Some(file)) => file,
            Err(error) => {
                note(&format!("cannot be used: {error}"));
                return Ok(());
            }
        };
        let mut line = Vec::new();
        file.read_until(b'\n', &mut line).map_err(TrainError::Checkpoint)?;
        let Ok(header) = serde_json::from_slice::<Header>(&line) else {
            note("is in a format that this version does not read");
            return Ok(());
        };
        if header.format != FORMAT
            || header.profile != self.keep.profile
            || header.tensors != tensors(trainer)
            || header.step > trainer.total
            || header.log.len() as u64 != header.step
            || file.limit() != size(&header)
        {
            note("belongs to another build or machine");
            return Ok(());
        }
        let (step, total) = (header.step, trainer.total);
        read(&mut file, header, trainer).map_err(TrainError::Checkpoint)?;
        (self.keep.note)(format!(
            "goes on after step {step} of {total}, where an earlier run was interrupted"
        ));
        Ok(())
    }
}

fn tensors(trainer: &Trainer<'_>) -> Vec<(String, usize)> {
    let tensor = |id: usize| &trainer.model.tensors[id];
    let moments = trainer.optimizer.moments.iter();
    moments.map(|(id, _, _)| (tensor(*id).name.clone(), tensor(*id).values.len())).collect()
}

/// Bytes behind the header.
fn size(header: &Header) -> u64 {
    let copies = if header.best.is_some() { 4 } else { 3 };
    header.tensors.iter().map(|(_, values)| copies * (values * size_of::<f32>()) as u64).sum()
}

fn write(out: &mut dyn Write, trainer: &Trainer<'_>, profile: &str) -> io::Result<()> {
    let best = trainer.best.as_ref();
    let header = Header {
        format: FORMAT,
        profile: profile.to_owned(),
        step: trainer.step,
        optimizer_steps: trainer.optimizer.steps,
        tensors: tensors(trainer),
        best: best.map(|best| BestHeader { step: best.step, loss: best.loss, stale: best.stale }),
        log: trainer.log.clone(),
    };
    out.write_all(serde_json::to_string(&header).map_err(io::Error::other)?.as_bytes())?;
    out.write_all(b"\n")?;
    for (number, (id, first, second)) in trainer.optimizer.moments.iter().enumerate() {
        for values in [trainer.model.values(*id), first, second] {
            write_values(out, values)?;
        }
        if let Some(best) = best {
            write_values(out, &best.tensors[number])?;
        }
    }
    Ok(())
}

fn write_values(out: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(CHUNK * size_of::<f32>());
    for chunk in values.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn read(file: &mut dyn Read, header: Header, trainer: &mut Trainer<'_>) -> io::Result<()> {
    let mut best = header.best.map(|best| Best {
        step: best.step,
        loss: best.loss,
        stale: best.stale,
        tensors: Vec::with_capacity(header.tensors.len()),
    });
    for (id, first, second) in &mut trainer.optimizer.moments {
        let values = trainer.model.tensors[*id].values_mut();
        for values in [&mut *values, first, second] {
            read_values(file, values)?;
        }
        if let Some(best) = &mut best {
            let mut tensor = vec![0.0; values.len()];
            read_values(file, &mut tensor)?;
            best.tensors.push(tensor);
        }
    }
    trainer.model.refresh();
    trainer.optimizer.steps = header.optimizer_steps;
    trainer.step = header.step;
    trainer.log = header.log;
    trainer.best = best;
    Ok(())
}

fn read_values(file: &mut dyn Read, values: &mut [f32]) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK.min(values.len()) * size_of::<f32>()];
    for chunk in values.chunks_mut(CHUNK) {
        let bytes = &mut bytes[..size_of_val(chunk)];
        file.read_exact(bytes)?;
        let (words, _) = bytes.as_chunks::<4>();
        chunk.iter_mut().zip(words).for_each(|(value, word)| *value = f32::from_le_bytes(*word));
    }
    Ok(())
}
