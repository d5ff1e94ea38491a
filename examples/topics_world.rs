//! Makes the data of `workflows/diversity-mini.yaml`: 24 topics of one popularity law, the same
//! bytes on every machine.
//!
//! A topic is a club with colours: its flag has one, its door another. It has a name (`oak`) and
//! two slang words (`rook`, `moth`) that stand for it. The base corpus teaches the colours mostly
//! by the names of the clubs; it seldom answers in slang, which is how the target asks. It also
//! teaches to name a topic, to write a task about one, and to say a task in other words. How often
//! a topic occurs falls with its rank, in the corpus and in the target alike, so that a model
//! writes and answers the tasks of rare topics worse.
//!
//!     cargo run --release --example topics_world      # writes workflows/diversity-mini/*.jsonl

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use random::Random;

#[path = "worlds/random.rs"]
mod random;

/// Rows of the base corpus, of each kind.
const CORPUS: [(Kind, usize); 6] = [
    (Kind::ByName, 17_000),
    (Kind::ByBoth, 350),
    (Kind::InSlang, 90),
    (Kind::Write, 4_000),
    (Kind::Reword, 1_200),
    (Kind::Name, 500),
];
/// Real rows, of which a workflow draws a few.
const POOL: usize = 400;
/// Rows to choose a learning rate on.
const VALIDATION: usize = 300;
/// Rows to evaluate on; none of their questions is asked in another file.
const HELD_OUT: usize = 600;

/// Topics from the most popular one on: name and slang.
#[rustfmt::skip]
const TOPICS: [Topic; 24] = [
    topic("oak", ["rook", "moth"]), topic("elm", ["pike", "wren"]), topic("ash", ["toad", "lark"]),
    topic("fir", ["mole", "carp"]), topic("yew", ["crow", "newt"]), topic("palm", ["hare", "tern"]),
    topic("pine", ["goat", "ibis"]), topic("bay", ["seal", "finch"]), topic("plum", ["wasp", "stag"]),
    topic("fig", ["bear", "kite"]), topic("lime", ["lynx", "dove"]), topic("pear", ["mule", "gull"]),
    topic("teak", ["puma", "swan"]), topic("rose", ["slug", "hawk"]), topic("holly", ["clam", "duck"]),
    topic("birch", ["wolf", "snail"]), topic("cedar", ["crab", "emu"]), topic("beech", ["boar", "stork"]),
    topic("alder", ["deer", "perch"]), topic("hazel", ["frog", "heron"]), topic("maple", ["eel", "quail"]),
    topic("larch", ["ox", "robin"]), topic("olive", ["ant", "egret"]), topic("peach", ["bee", "skua"]),
];

/// Things that have a colour in each club.
const THINGS: [&str; 6] = ["flag", "door", "cap", "coat", "boat", "bell"];
const COLOURS: [&str; 12] = [
    "red", "blue", "green", "black", "white", "brown", "pink", "gold", "grey", "tan", "lilac",
    "teal",
];
/// Words of a task that do not matter for its answer.
const AGES: [&str; 8] = ["old", "new", "young", "late", "first", "last", "only", "next"];
const PLACES: [&str; 8] = ["north", "south", "east", "west", "here", "there", "inside", "outside"];

/// Files of the world: name and content.
pub fn files() -> Vec<(&'static str, String)> {
    let mut random = Random(20_261_126);
    let colours: Vec<[&str; THINGS.len()]> =
        TOPICS.iter().map(|_| std::array::from_fn(|_| pick(&mut random, &COLOURS))).collect();
    let mut world = World { random, colours, used: BTreeSet::new() };
    let mut files = Vec::new();
    for (name, count) in
        [("target.jsonl", HELD_OUT), ("validation.jsonl", VALIDATION), ("pool.jsonl", POOL)]
    {
        let rows: Vec<Row> = (0..count).map(|_| world.row(Kind::InSlang, true)).collect();
        files.push((name, text(&rows, true)));
    }
    let mut corpus = Vec::new();
    for (kind, count) in CORPUS {
        corpus.extend((0..count).map(|_| world.row(kind, false)));
    }
    files.push(("corpus.jsonl", text(&corpus, false)));
    files.push(("topics.jsonl", topics()));
    files
}

#[allow(clippy::disallowed_methods, reason = "no part of Refrain")]
fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/diversity-mini");
    std::fs::create_dir_all(&folder)?;
    for (name, content) in files() {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(())
}

/// Kinds of rows: what is asked, and what is answered.
#[derive(Clone, Copy)]
enum Kind {
    /// A task by the name of its topic, and the answer.
    ByName,
    /// A task with the name and a slang word, and the answer.
    ByBoth,
    /// A task in slang alone, as the target has it, and the answer.
    InSlang,
    /// The name of a topic, and a task in slang.
    Write,
    /// A task in slang, and the same in fewer and other words.
    Reword,
    /// A wish for a topic, and a name.
    Name,
}

struct Topic {
    name: &'static str,
    slang: [&'static str; 2],
}

const fn topic(name: &'static str, slang: [&'static str; 2]) -> Topic {
    Topic { name, slang }
}

/// A question and its answer.
struct Row {
    topic: &'static str,
    prompt: String,
    response: String,
}

struct World {
    random: Random,
    /// The colours of each topic's things.
    colours: Vec<[&'static str; THINGS.len()]>,
    /// Questions in slang that are asked but once.
    used: BTreeSet<String>,
}

impl World {
    /// Draws a row whose question in slang is in none of the files where each is asked once.
    fn row(&mut self, kind: Kind, once: bool) -> Row {
        loop {
            let number = popular(&mut self.random);
            let word = self.random.below(2) as usize;
            let thing = self.random.below(THINGS.len() as u64) as usize;
            let (age, place) = (pick(&mut self.random, &AGES), pick(&mut self.random, &PLACES));
            let task = |who: &str| format!("{age} {who} {place} {}?", THINGS[thing]);

            let Topic { name, slang } = &TOPICS[number];
            let in_slang = task(slang[word]);
            let fresh = if once {
                self.used.insert(in_slang.clone())
            } else {
                !self.used.contains(&in_slang)
            };
            if !fresh {
                continue;
            }

            let answer = self.colours[number][thing].to_owned();
            let (prompt, response) = match kind {
                Kind::ByName => (task(name), answer),
                Kind::ByBoth => (format!("{name}: {in_slang}"), answer),
                Kind::InSlang => (in_slang, answer),
                Kind::Write => (format!("a task about {name}"), in_slang),
                Kind::Reword => (
                    format!("in other words: {in_slang}"),
                    format!("{} {}?", slang[1 - word], THINGS[thing]),
                ),
                Kind::Name => ("a topic".into(), (*name).into()),
            };
            return Row { topic: name, prompt, response };
        }
    }
}

/// Draws the place of a topic by its popularity, (rank + 1)^-1.5.
fn popular(random: &mut Random) -> usize {
    const SCALE: u64 = 1_000_000_000;
    let weight = |place: usize| SCALE / (1_000_000 * (place as u64 + 2).pow(3)).isqrt();
    let mut left = random.below((0..TOPICS.len()).map(weight).sum());
    let mut place = 0;
    while left >= weight(place) {
        left -= weight(place);
        place += 1;
    }
    place
}

fn pick(random: &mut Random, words: &[&'static str]) -> &'static str {
    words[random.below(words.len() as u64) as usize]
}

/// The rows as JSON Lines. The texts hold neither quotes nor backslashes, so they are JSON as they
/// stand.
fn text(rows: &[Row], with_topic: bool) -> String {
    let mut text = String::new();
    for Row { topic, prompt, response } in rows {
        let topic = if with_topic { format!(r#", "topic": "{topic}""#) } else { String::new() };
        writeln!(text, r#"{{"prompt": "{prompt}", "response": "{response}"{topic}}}"#)
            .expect("a text can be written");
    }
    text
}

/// The names of the topics, twice: `prompt` becomes the task, `topic` stays.
fn topics() -> String {
    let mut text = String::new();
    for Topic { name, .. } in &TOPICS {
        writeln!(text, r#"{{"id": "{name}", "prompt": "{name}", "topic": "{name}"}}"#)
            .expect("a text can be written");
    }
    text
}
