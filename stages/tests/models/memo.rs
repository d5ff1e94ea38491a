//! The row memo of `generate` and `score`: only what changed is computed, and nothing of it shows in the bytes.

use refrain_cache::{Cache, Digest};
use refrain_engine::kind::{Input, MAIN};

use crate::bench::*;

const PROMPTS: [&str; 6] =
    ["What is 2 + 2?", "Name a bird.", "Hello", "What is 2 + 2?", "Count", "Why?"];

/// Responses end at the first `e`, or at the most tokens.
const SAMPLED: &str =
    "model: m, data: d, samples: 2, temperature: 1.0, max_new_tokens: 6, stop: [e], seed: 5";

/// A node's digest from what the memo of `warm` holds, and how many rows of it were known. It must be the digest that a
/// cache without memo gives.
fn run(
    warm: &Bench,
    kind: &str,
    parameters: &str,
    model: &Input,
    columns: &[(&str, &[&str])],
) -> (Digest, usize) {
    let of = |bench: &Bench| {
        let table = bench.table(&texts(columns));
        bench.run(kind, parameters, &[("model", model), ("data", &table)]).unwrap().artifacts[MAIN]
            .digest
    };
    let before = warm.notes().len();
    let digest = of(warm);
    assert_eq!(
        digest,
        of(&Bench::new()),
        "the memo shows in the bytes of `{kind}` with `{parameters}`"
    );
    let notes = warm.notes();
    let of_memo = notes[before..].iter().find(|note| note.ends_with("by earlier runs"));
    let known = of_memo.and_then(|note| note.split(' ').next()?.parse().ok());
    (digest, known.unwrap_or(0))
}

/// A bench that takes from its memo what it can.
fn warm() -> Bench {
    let mut bench = Bench::new();
    bench.fresh = false;
    bench
}

#[test]
fn only_new_responses_are_made() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = warm();
    let known = |parameters: &str, columns: &[(&str, &[&str])]| {
        run(&bench, "generate", parameters, &model, columns).1
    };
    assert_eq!(known(SAMPLED, &[("prompt", &PROMPTS)]), 0);
    assert_eq!(known(SAMPLED, &[("prompt", &PROMPTS)]), 12, "the same");
    let mut rows = PROMPTS;
    rows.reverse();
    assert_eq!(known(SAMPLED, &[("prompt", &rows)]), 12, "another order");
    assert_eq!(known(SAMPLED, &[("prompt", &rows[2..])]), 8, "fewer rows");
    rows[1] = "Who?";
    assert_eq!(known(SAMPLED, &[("prompt", &rows)]), 10, "a changed row");
    let more = [&PROMPTS[..], &["New", "Count"]].concat();
    assert_eq!(
        known(SAMPLED, &[("prompt", &more)]),
        12,
        "new rows, one with a prompt that is there"
    );
    assert_eq!(
        known(SAMPLED, &[("prompt", &PROMPTS), ("reference", &["1", "2", "3", "4", "5", "6"])]),
        12,
        "another reference"
    );
    assert_eq!(known(&SAMPLED.replace("samples: 2", "samples: 3"), &[("prompt", &PROMPTS)]), 12);
    assert_eq!(known(&SAMPLED.replace("seed: 5", "seed: 6"), &[("prompt", &PROMPTS)]), 0);
    assert_eq!(known(&SAMPLED.replace("stop: [e]", "stop: [a]"), &[("prompt", &PROMPTS)]), 0);
    assert_eq!(known(&SAMPLED.replace("1.0", "0.9"), &[("prompt", &PROMPTS)]), 0);
}

#[test]
fn a_response_that_ended_by_itself_holds_for_more_tokens() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = warm();
    let table = bench.table(&texts(&[("prompt", &PROMPTS)]));
    let made = bench.made("generate", SAMPLED, &[("model", &model), ("data", &table)]);
    let ended = strings(&made, "finish_reason").iter().filter(|reason| *reason == "stop").count();
    assert!(0 < ended && ended < 12, "{ended} of 12 responses ended by themselves");
    let known = |most: usize| {
        let parameters = SAMPLED.replace("max_new_tokens: 6", &format!("max_new_tokens: {most}"));
        run(&bench, "generate", &parameters, &model, &[("prompt", &PROMPTS)]).1
    };
    assert_eq!(known(20), ended, "more tokens");
    for fewer in [20, 19, 6, 3, 1] {
        assert_eq!(known(fewer), 12, "{fewer} tokens");
    }
}

#[test]
fn only_new_rows_are_scored() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let bench = warm();
    let responses = ["4", "A wren.", "", "four", "1 2 3", "Because."];
    let known = |parameters: &str, columns: &[(&str, &[&str])]| {
        run(&bench, "score", parameters, &model, columns).1
    };
    let whole = "model: m, data: d";
    assert_eq!(known(whole, &[("prompt", &PROMPTS), ("response", &responses)]), 0);
    assert_eq!(known(whole, &[("prompt", &PROMPTS), ("response", &responses)]), 6);
    let mut changed = responses;
    changed[1] = "A finch.";
    assert_eq!(known(whole, &[("prompt", &PROMPTS), ("response", &changed)]), 5);
    assert_eq!(known(whole, &[("prompt", &PROMPTS[3..]), ("response", &changed[3..])]), 3);
    let short = "model: m, data: d, max_tokens: 7";
    assert_eq!(known(short, &[("prompt", &PROMPTS), ("response", &responses)]), 0, "other tokens");
    let alone = "model: m, data: d, of: text";
    // The empty response has one token at most, so there is nothing to be known of it.
    assert_eq!(known(alone, &[("response", &responses)]), 0);
    assert!(known(alone, &[("response", &responses)]) >= 4);
}

#[test]
fn a_stopped_run_goes_on_where_it_was() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let prompts: Vec<String> = (0..90).map(|number| format!("Count to {number}.")).collect();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let generate = "model: m, data: d, max_new_tokens: 4, temperature: 1.0";
    for (kind, parameters, reports) in
        [("generate", generate, 20), ("score", "model: m, data: d", 5)]
    {
        let columns: [(&str, &[&str]); 2] = [("prompt", &prompts), ("response", &prompts)];
        let mut bench = warm();
        bench.batch = Some(8);
        let table = bench.table(&texts(&columns));
        bench.cancel_after = Some(reports);
        assert!(bench.run(kind, parameters, &[("model", &model), ("data", &table)]).is_err());
        bench.cancel_after = None;
        let (_, known) = run(&bench, kind, parameters, &model, &columns);
        assert!((8..90).contains(&known), "{kind}: {known} rows were kept");
    }
}

#[test]
fn what_is_forced_is_computed_and_kept() {
    let Some(folder) = shared("parity/llama") else { return };
    let model = model(&folder.join("model"));
    let mut bench = warm();
    run(&bench, "generate", SAMPLED, &model, &[("prompt", &PROMPTS)]);
    bench.fresh = true;
    assert_eq!(run(&bench, "generate", SAMPLED, &model, &[("prompt", &PROMPTS)]).1, 0);
    bench.fresh = false;
    // Another cache object on the same folder is another process.
    bench.cache = Cache::open(bench.cache.root()).unwrap();
    assert_eq!(run(&bench, "generate", SAMPLED, &model, &[("prompt", &PROMPTS)]).1, 12);
}
