//! Makes the data of `quickstart.yaml`: a small world of three text tasks, the same bytes on every machine.
//!
//! Three tasks, each with a question and a short answer: the larger of two numbers (the target), a word spelled
//! backwards, and the letter that follows another one. The base model learns all three in one terse style. The
//! target's reference answers are written the way a person might: correct, but wordy and never twice alike.
//!
//!     cargo run --release --example world        # writes examples/quickstart/*.jsonl

use std::fmt::Write as _;
use std::path::Path;

/// Files of the world: name and content.
pub fn files() -> Vec<(&'static str, String)> {
    let mut random = Random(20_261_121);
    let mut base = String::new();
    for _ in 0..2400 {
        for task in [larger, backwards, following] {
            push(&mut base, &task(&mut random));
        }
    }
    let mut train = String::new();
    let mut targets = Distinct::default();
    for _ in 0..256 {
        let row = targets.draw(&mut random, larger);
        let wordy = wordy(&row, &mut random);
        push(&mut train, &wordy);
    }
    let mut files = vec![("base.jsonl", base), ("train.jsonl", train)];
    for (name, task) in
        [("target.jsonl", larger as Task), ("backwards.jsonl", backwards), ("following.jsonl", following)]
    {
        let mut rows = String::new();
        let mut seen =
            if name == "target.jsonl" { std::mem::take(&mut targets) } else { Distinct::default() };
        for _ in 0..150 {
            push(&mut rows, &seen.draw(&mut random, task));
        }
        files.push((name, rows));
    }
    files
}

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

fn push(file: &mut String, row: &Row) {
    // The texts hold neither quotes nor backslashes, so they are JSON as they stand.
    writeln!(file, r#"{{"prompt": "{}", "response": "{}"}}"#, row.prompt, row.response)
        .expect("a text can be written");
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
    let length = 3 + random.below(3);
    let word: Vec<char> = (0..length).map(|_| letter(random)).collect();
    let spaced =
        |letters: &mut dyn Iterator<Item = &char>| letters.map(char::to_string).collect::<Vec<_>>().join(" ");
    Row {
        prompt: format!("backwards: {}? ", spaced(&mut word.iter())),
        response: format!("it is {}.", spaced(&mut word.iter().rev())),
    }
}

fn following(random: &mut Random) -> Row {
    let steps = 1 + random.below(5);
    let from = random.below(26 - steps);
    let letter = |i: u64| (b'a' + i as u8) as char;
    Row {
        prompt: format!("{steps} after {}? ", letter(from)),
        response: format!("it is {}.", letter(from + steps)),
    }
}

fn letter(random: &mut Random) -> char {
    (b'a' + random.below(26) as u8) as char
}

/// The same answer as a person might write it.
fn wordy(row: &Row, random: &mut Random) -> Row {
    const OPEN: [&str; 12] = [
        "hmm, let me think:",
        "good question;",
        "right,",
        "if you ask me",
        "well now,",
        "comparing both,",
        "easy enough:",
        "at first glance",
        "having looked twice,",
        "no doubt here,",
        "ok so",
        "to be frank,",
    ];
    const MIDDLE: [&str; 10] = [
        "the bigger one must be",
        "I would pick",
        "clearly we want",
        "you should take",
        "my choice falls on",
        "nothing beats",
        "the winner is",
        "one arrives at",
        "everybody would say",
        "the answer has to be",
    ];
    const CLOSE: [&str; 10] = [
        "since the other falls short",
        "by quite some way",
        "as anyone can see",
        "and that settles it",
        "or so it seems to me",
        "hands down",
        "which needs no proof",
        "without question",
        "thank you for asking",
        "because it exceeds its rival",
    ];
    let number: String = row.response.chars().filter(char::is_ascii_digit).collect();
    let mut pick = |words: &[&'static str]| words[random.below(words.len() as u64) as usize];
    let response = format!("{} {} {number}, {}.", pick(&OPEN), pick(&MIDDLE), pick(&CLOSE));
    Row { prompt: row.prompt.clone(), response }
}

/// Draws rows whose prompts differ.
#[derive(Default)]
struct Distinct(std::collections::BTreeSet<String>);

impl Distinct {
    fn draw(&mut self, random: &mut Random, task: Task) -> Row {
        // Every task has far more questions than are drawn, or repeats once it has not.
        for _ in 0..1000 {
            let row = task(random);
            if self.0.insert(row.prompt.clone()) {
                return row;
            }
        }
        task(random)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
