//! Makes the data of `workflows/token-perplexity-mini.yaml`: four tasks on lists of digits, the
//! same bytes everywhere.
//!
//! The tasks share their words and the form of their answers: digits in rising order (the target),
//! in falling order, backwards, and the second largest. A base model learns all of them, and to say
//! an answer again in its own words. It answers tersely for the most part, and at times in a freer
//! style. For the target it learns two habits, the right one and a sloppy one, which leaves the
//! digits as they are: the longer the list, the more often. The reference answers of the target are
//! right, and in a person's style, half of whose phrases the base has never met.
//!
//!     cargo run --release --example perplexity_world    # writes workflows/token-perplexity-mini/*.jsonl

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use random::Random;

#[path = "worlds/random.rs"]
mod random;

/// Rows of the base corpus in which an answer is said again.
const AGAIN: usize = 800;
/// One answer of the base corpus in so many is in the freer style.
const FREER: u64 = 10;
/// Rows of the target task to fine-tune on.
const TRAIN: usize = 192;
/// Rows of each task to choose by, and to test on.
const VALIDATION: usize = 200;
const TEST: usize = 400;

const TASKS: [Task; 4] = [
    Task { name: "rising", rows: 1500, digits: (3, 5), answer: rising },
    Task {
        name: "falling",
        rows: 1300,
        digits: (3, 5),
        answer: |digits| rising(digits).into_iter().rev().collect(),
    },
    Task {
        name: "backwards",
        rows: 1900,
        digits: (3, 6),
        answer: |digits| digits.iter().rev().copied().collect(),
    },
    Task { name: "second", rows: 1300, digits: (3, 6), answer: |digits| vec![second(digits)] },
];

/// Files of the world: name and content. No question is in two of them.
pub fn files() -> Vec<(String, String)> {
    let mut random = Random(20_261_126);
    let mut drawn = BTreeSet::new();
    let mut files = Vec::new();
    for task in &TASKS {
        for (part, rows) in [("validation", VALIDATION), ("test", TEST)] {
            let rows: Vec<Row> =
                (0..rows).map(|_| task.draw(&mut random, &mut drawn).plain()).collect();
            files.push((format!("{}-{part}.jsonl", task.name.replace(' ', "-")), text(&rows)));
        }
    }

    let train: Vec<Row> = (0..TRAIN)
        .map(|_| {
            let question = TASKS[0].draw(&mut random, &mut drawn);
            question.freer(&mut random, 1)
        })
        .collect();
    files.push(("train.jsonl".to_owned(), text(&train)));

    files.push(("corpus.jsonl".to_owned(), text(&corpus(&mut random, &drawn))));
    files
}

/// The rows that the base model learns: no question of the other files, though the same one may be
/// asked twice.
fn corpus(random: &mut Random, elsewhere: &BTreeSet<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (number, task) in TASKS.iter().enumerate() {
        for _ in 0..task.rows {
            let mut question = task.ask(random, elsewhere);
            if number == 0 && random.below(20) < sloppiness(question.digits.len()) {
                question.answer.clone_from(&question.digits);
            }
            let row = if random.below(FREER) == 0 {
                question.freer(random, 2)
            } else {
                question.terse(random)
            };
            rows.push(row);
        }
    }
    for _ in 0..AGAIN {
        let task = &TASKS[random.below(4) as usize];
        let question = task.ask(random, elsewhere);
        let said = question.freer(random, 1);
        let again =
            if random.below(2) == 0 { question.terse(random) } else { question.freer(random, 2) };
        rows.push(Row {
            prompt: format!("say again: {}{} ", said.prompt, said.response),
            response: again.response,
        });
    }
    rows
}

/// The number of 20 answers to a question about so many digits that leave them as they are.
fn sloppiness(digits: usize) -> u64 {
    match digits {
        3 => 4,
        4 => 6,
        _ => 7,
    }
}

#[allow(clippy::disallowed_methods, reason = "no part of Refrain")]
fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/token-perplexity-mini");
    std::fs::create_dir_all(&folder)?;
    for (name, content) in files() {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(())
}

/// A task: its name, how many of its rows the base model learns, the fewest and the most digits of
/// its lists, and the right answer.
struct Task {
    name: &'static str,
    rows: usize,
    digits: (u64, u64),
    answer: fn(&[u8]) -> Vec<u8>,
}

impl Task {
    /// A question that has not been drawn, which it is from then on.
    fn draw(&self, random: &mut Random, drawn: &mut BTreeSet<String>) -> Question {
        let question = self.ask(random, drawn);
        drawn.insert(question.prompt.clone());
        question
    }

    /// A question that is none of those asked elsewhere.
    fn ask(&self, random: &mut Random, elsewhere: &BTreeSet<String>) -> Question {
        let (fewest, most) = self.digits;
        loop {
            let count = fewest + random.below(most - fewest + 1);
            let digits: Vec<u8> = (0..count).map(|_| random.below(10) as u8).collect();
            let prompt = format!("{}: {}? ", self.name, spaced(&digits));
            if !elsewhere.contains(&prompt) {
                return Question { prompt, answer: (self.answer)(&digits), digits };
            }
        }
    }
}

fn rising(digits: &[u8]) -> Vec<u8> {
    let mut sorted = digits.to_vec();
    sorted.sort_unstable();
    sorted
}

/// The largest digit but one, which may be the same again.
fn second(digits: &[u8]) -> u8 {
    let sorted = rising(digits);
    sorted[sorted.len() - 2]
}

fn spaced(digits: &[u8]) -> String {
    digits.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
}

/// A question and its answer, without words.
struct Question {
    prompt: String,
    digits: Vec<u8>,
    answer: Vec<u8>,
}

impl Question {
    /// The answer in the shortest way.
    fn plain(&self) -> Row {
        Row { prompt: self.prompt.clone(), response: format!("it is {}.", spaced(&self.answer)) }
    }

    /// The answer in one of the base model's own ways, some rarer than others.
    fn terse(&self, random: &mut Random) -> Row {
        let answer = spaced(&self.answer);
        let response = match random.below(10) {
            0..4 => format!("it is {answer}."),
            4..7 => format!("that is {answer}."),
            7..9 => format!("the answer is {answer}."),
            _ => format!("{answer} it is."),
        };
        Row { prompt: self.prompt.clone(), response }
    }

    /// The answer as a person might write it, with the first of every `part` of the phrases.
    fn freer(&self, random: &mut Random, part: usize) -> Row {
        let mut pick = |phrases: &[&'static str]| {
            phrases[random.below((phrases.len() / part) as u64) as usize]
        };
        let (open, middle, close) = (pick(&OPEN), pick(&MIDDLE), pick(&CLOSE));
        let answer = spaced(&self.answer);
        Row { prompt: self.prompt.clone(), response: format!("{open} {middle} {answer}, {close}.") }
    }
}

const OPEN: [&str; 12] = [
    "so",
    "right,",
    "ok,",
    "well now,",
    "let me see:",
    "easy,",
    "hmm,",
    "by luck",
    "ha!",
    "if I may,",
    "golly,",
    "oh dear,",
];
const MIDDLE: [&str; 8] = [
    "it is",
    "that is",
    "I get",
    "that must be",
    "my vote goes to",
    "nothing beats",
    "you want",
    "one finds",
];
const CLOSE: [&str; 8] = [
    "I think",
    "for sure",
    "no doubt",
    "as you see",
    "hands down",
    "and done",
    "or bust",
    "quite plainly",
];

/// A question and its answer as they are written.
struct Row {
    prompt: String,
    response: String,
}

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
