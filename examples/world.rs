//! Makes the data of `quickstart.yaml`: a small world of three text tasks, the same bytes on every machine.
//!
//! Three tasks, each with a question and a short answer: the larger of two numbers (the target), a word spelled
//! backwards, and letters in the order of the alphabet. The base model learns all three, nearly always in one
//! terse style. The target's reference answers are written the way a person might: correct, but wordy, never twice
//! alike, and in part with phrases that the base model has not met.
//!
//!     cargo run --release --example world        # writes examples/quickstart/*.jsonl

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use random::Random;

#[path = "worlds/random.rs"]
mod random;

/// Rows of each task that the base model learns.
const BASE: usize = 2400;
/// One row of the base corpus in so many is answered in the freer style.
const FREER: u64 = 12;
/// Rows of the target task to fine-tune on.
const TRAIN: usize = 256;
/// Rows of each task to evaluate on; none of their questions is in the base corpus or among those to train on.
const HELD_OUT: usize = 150;

/// Files of the world: name and content.
pub fn files() -> Vec<(&'static str, String)> {
    let mut random = Random(20_261_121);
    let mut drawn = BTreeSet::new();
    let mut files = Vec::new();
    for (name, task) in TASKS {
        let rows: Vec<Row> = (0..HELD_OUT).map(|_| draw(&mut random, task, &mut drawn)).collect();
        files.push((name, text(&rows)));
    }
    let train: Vec<Row> = (0..TRAIN)
        .map(|_| {
            let row = draw(&mut random, larger, &mut drawn);
            freer(row, &mut random, 1)
        })
        .collect();
    files.push(("train.jsonl", text(&train)));
    let mut base = Vec::new();
    for _ in 0..BASE {
        for (_, task) in TASKS {
            // The same question may be asked again here, but none that is asked elsewhere.
            let row = draw(&mut random, task, &mut drawn.clone());
            base.push(if random.below(FREER) == 0 { freer(row, &mut random, 2) } else { row });
        }
    }
    files.push(("base.jsonl", text(&base)));
    files
}

const TASKS: [(&str, Task); 3] =
    [("target.jsonl", larger), ("backwards.jsonl", backwards), ("in_order.jsonl", in_order)];

#[allow(clippy::disallowed_methods, reason = "no part of Refrain")]
fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    std::fs::create_dir_all(&folder)?;
    for (name, content) in files() {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(())
}

/// A question and its answer.
#[derive(Clone)]
struct Row {
    prompt: String,
    response: String,
}

type Task = fn(&mut Random) -> Row;

/// The rows as JSON Lines.
fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for Row { prompt, response } in rows {
        // The texts hold neither quotes nor backslashes, so they are JSON as they stand.
        writeln!(text, r#"{{"prompt": "{prompt}", "response": "{response}"}}"#)
            .expect("a text can be written");
    }
    text
}

/// A row whose question has not been drawn, which it is from then on.
fn draw(random: &mut Random, task: Task, drawn: &mut BTreeSet<String>) -> Row {
    loop {
        let row = task(random);
        if drawn.insert(row.prompt.clone()) {
            return row;
        }
    }
}

fn larger(random: &mut Random) -> Row {
    let a = 10 + random.below(90);
    let mut b = 10 + random.below(90);
    if a == b {
        b = 10 + (b - 9) % 90;
    }
    Row { prompt: format!("larger: {a} or {b}? "), response: format!("it is {}.", a.max(b)) }
}

fn backwards(random: &mut Random) -> Row {
    let letters = letters(random, 4, 8);
    let reversed: Vec<char> = letters.iter().rev().copied().collect();
    Row {
        prompt: format!("backwards: {}? ", spaced(&letters)),
        response: format!("it is {}.", spaced(&reversed)),
    }
}

fn in_order(random: &mut Random) -> Row {
    let letters = letters(random, 3, 5);
    let mut sorted = letters.clone();
    sorted.sort_unstable();
    Row {
        prompt: format!("in order: {}? ", spaced(&letters)),
        response: format!("it is {}.", spaced(&sorted)),
    }
}

fn letters(random: &mut Random, fewest: u64, most: u64) -> Vec<char> {
    let count = fewest + random.below(most - fewest + 1);
    (0..count).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
}

fn spaced(letters: &[char]) -> String {
    letters.iter().map(char::to_string).collect::<Vec<_>>().join(" ")
}

/// The same answer as a person might write it, with the first of every `part` of the phrases.
fn freer(row: Row, random: &mut Random, part: usize) -> Row {
    const OPEN: [&str; 12] = [
        "hmm, let me think:",
        "good question;",
        "right,",
        "if you ask me",
        "well now,",
        "having seen this before,",
        "easy enough:",
        "at first glance",
        "having looked twice,",
        "no doubt here,",
        "ok so",
        "to be frank,",
    ];
    const MIDDLE: [&str; 10] = [
        "the answer must be",
        "I would pick",
        "clearly we want",
        "you should take",
        "my choice falls on",
        "nothing beats",
        "what we look for is",
        "one arrives at",
        "everybody would say",
        "it has to be",
    ];
    const CLOSE: [&str; 10] = [
        "or I am much mistaken",
        "by quite some way",
        "as anyone can see",
        "and that settles it",
        "or so it seems to me",
        "hands down",
        "which needs no proof",
        "without question",
        "thank you for asking",
        "and nothing else will do",
    ];
    let answer = row.response.trim_start_matches("it is ").trim_end_matches('.');
    let mut pick =
        |phrases: &[&'static str]| phrases[random.below((phrases.len() / part) as u64) as usize];
    let response = format!("{} {} {answer}, {}.", pick(&OPEN), pick(&MIDDLE), pick(&CLOSE));
    Row { prompt: row.prompt, response }
}
