//! Damaged seeds of the fuzz targets: a short walk of each, the same every time. `fuzz/README.md` has longer ones.

// Helpers of tests may unwrap and print as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

#[path = "../../../fuzz/reads.rs"]
mod reads;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Damaged files of each target; `REFRAIN_DAMAGED_FILES` asks for a longer walk.
const FILES: u64 = 1000;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(fuzz().join("seeds").join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// What readers stumble over.
const WORDS: [&[u8]; 16] = [
    b"0",
    b"-1",
    b"9223372036854775807",
    b"1e999",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    b"[*]",
    b"${",
    b"}",
    b"\n",
    b"\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xe2\x80\xae",
    b": ",
];

/// A seed with one to four changes, each local or a piece of another seed.
fn damaged(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let most = 1 << random.below(8);
        let end = (at + 1 + random.below(most)).min(bytes.len());
        let insert = match random.below(7) {
            0 => vec![bytes.get(at).copied().unwrap_or(0) ^ (1 << random.below(8))],
            1 => vec![random.next() as u8],
            2 => WORDS[random.below(WORDS.len())].to_vec(),
            3 => bytes[at..end].repeat(1 + random.below(3)),
            4 => Vec::new(),
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                other[from..(from + end - at).min(other.len())].to_vec()
            }
            _ => random.next().to_le_bytes()[..1 + random.below(8)].to_vec(),
        };
        // Half of them in place, so that what lies behind stays where it is said to lie.
        let until = if random.below(2) == 0 { (at + insert.len()).min(bytes.len()) } else { end };
        bytes.splice(at..until, insert);
    }
    bytes
}

fn walk(target: &str, read: impl Fn(&[u8])) {
    std::panic::set_hook(Box::new(|_| {}));
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| read(seed));
    let files =
        std::env::var("REFRAIN_DAMAGED_FILES").ok().and_then(|n| n.parse().ok()).unwrap_or(FILES);
    for n in 0..files {
        let bytes = damaged(&seeds, &mut Random(n));
        if catch_unwind(AssertUnwindSafe(|| read(&bytes))).is_err() {
            let path = std::env::temp_dir().join(format!("refrain-damaged-{target}-{n}"));
            fs::write(&path, &bytes).unwrap();
            panic!("`{target}` panicked on file {n}, kept as `{}`", path.display());
        }
    }
}

#[test]
fn workflows() {
    let world = fuzz().join("world");
    walk("workflow", |bytes| reads::workflow(bytes, &world));
}

#[test]
fn tables() {
    walk("table", reads::table);
}

#[test]
fn models() {
    walk("model", reads::model);
}
