//! Continuations that grow beyond the length at which rotary frequencies change.

use super::*;

/// A folder, the text whose first 50 tokens are the prompt, and what transformers generates greedily
/// from a batch of one; the length at which frequencies begin to change is 56.
const CASES: [(&str, usize, [u32; 24], [f32; 24]); 2] = [
    (
        "llama-dynamic",
        1,
        [
            278, 244, 215, 335, 316, 215, 92, 351, 44, 192, 91, 312, 404, 401, 31, 121, 158, 373,
            140, 321, 148, 468, 373, 26,
        ],
        [
            -2.4796, -3.05372, -3.12847, -2.48039, -2.06112, -2.90468, -3.12677, -2.23487,
            -3.13962, -3.09987, -2.55156, -2.69773, -2.68694, -3.34589, -3.48096, -3.0692,
            -2.11985, -3.37548, -2.62492, -2.33981, -2.86296, -2.15868, -3.04894, -2.24415,
        ],
    ),
    (
        "phi3-longrope",
        3,
        [
            412, 268, 506, 306, 179, 184, 72, 66, 260, 368, 298, 101, 371, 310, 85, 64, 371, 280,
            386, 372, 511, 412, 179, 328,
        ],
        [
            -3.61486, -2.31645, -1.96571, -2.99569, -3.38664, -3.21935, -2.83325, -3.25975,
            -2.69714, -2.57941, -3.16186, -3.51389, -1.57336, -3.60542, -3.62324, -3.23985,
            -3.23232, -3.34266, -3.18484, -3.84356, -2.93108, -3.62947, -3.58266, -2.92486,
        ],
    ),
];

/// Tokens of prompt and continuation up to which all frequencies are the same.
const CONTEXT: usize = 56;

fn prompts(folder: &Path, text: usize) -> Vec<Vec<u32>> {
    let reference = json(folder.join("reference.json"));
    let row = ids(&reference["texts"][text]["input_ids"]);
    // Shorter and longer ones beside it switch at other steps, or from the beginning.
    [50, 55, 56, 57, 12].into_iter().map(|length| row[..length].to_vec()).collect()
}

fn continued(
    folder: &Path,
    prompts: &[Vec<u32>],
    samples: u64,
    temperature: f64,
    batch: usize,
) -> Vec<Vec<(Vec<u32>, Vec<f32>)>> {
    let (model, tokenizer) = (load(folder), Tokenizer::load(&folder.join("model")).unwrap());
    let sampler = Sampler::new(SamplingParams { temperature, ..Default::default() }, 3).unwrap();
    let streams = |row: usize| (0..samples).map(move |s| [row as u64, s]);
    let requests: Vec<Request> = prompts
        .iter()
        .enumerate()
        .map(|(row, prompt)| Request {
            prompt: prompt.clone(),
            samples: streams(row).map(|place| sampler.stream(&place)).collect(),
        })
        .collect();
    let limits = Limits { max_new_tokens: 24, ignore_eos: true, ..Limits::default() };
    let go = &mut |_: Progress<'_>| ControlFlow::Continue(());
    let made = generate(&model, &tokenizer, &requests, &sampler, &limits, Some(batch), go).unwrap();
    let whole = |row: Vec<refrain_lm::generate::Generated>| {
        row.into_iter().map(|made| (made.token_ids, made.logprobs)).collect()
    };
    made.into_iter().map(whole).collect()
}

/// The cases whose folders are there.
fn cases() -> impl Iterator<Item = (PathBuf, usize, [u32; 24], [f32; 24])> {
    let folders = folders();
    CASES.into_iter().filter_map(move |(name, text, ids, logprobs)| {
        let folder = folders.iter().find(|folder| folder.ends_with(name))?;
        Some((folder.clone(), text, ids, logprobs))
    })
}

#[test]
fn a_continuation_grows_beyond_the_first_context_as_in_transformers() {
    for (folder, text, ids, logprobs) in cases() {
        let prompts = prompts(&folder, text);
        let alone = continued(&folder, &prompts, 1, 0.0, 1);
        let (ours, ours_logprobs) = &alone[0][0];
        assert_eq!(ours, &ids, "{}", folder.display());
        for (a, b) in ours_logprobs.iter().zip(logprobs) {
            assert!((a - b).abs() < 1e-4, "{}: {a} {b}", folder.display());
        }
        for batch in [2, 3, 8] {
            assert_eq!(alone, continued(&folder, &prompts, 1, 0.0, batch));
        }
    }
}

#[test]
fn samples_that_switch_do_not_depend_on_their_neighbours() {
    for (folder, text, ..) in cases() {
        let prompts = prompts(&folder, text);
        let alone = continued(&folder, &prompts, 3, 0.9, 1);
        for batch in [2, 8, 64] {
            assert_eq!(alone, continued(&folder, &prompts, 3, 0.9, batch));
        }
    }
}

/// With `longrope` the row is computed anew when it switches, so that each token has the probability
/// of a text that ends there; with `dynamic` cached keys stay.
#[test]
fn a_longrope_continuation_has_the_scores_of_its_prefixes() {
    for (folder, text, ..) in cases() {
        let (model, prompt) = (load(&folder), prompts(&folder, text).remove(0));
        let (ids, logprobs) =
            continued(&folder, std::slice::from_ref(&prompt), 1, 0.0, 1).remove(0).remove(0);
        let mut equal = Vec::new();
        for end in 1..=ids.len() {
            // The row before the token, and any token after it.
            let row = [&prompt, &ids[..end - 1]].concat();
            let hidden = model.forward(&Packed::new([row.as_slice()]));
            let logits = model.logits(&hidden[hidden.len() - model.config.hidden..]);
            let scored = refrain_lm::score::logprob(&logits, ids[end - 1]);
            equal.push(scored == logprobs[end - 1]);
        }
        let within = CONTEXT - prompt.len() + 1;
        assert!(equal[..within].iter().all(|equal| *equal), "{}: {equal:?}", folder.display());
        let beyond = &equal[within..];
        if folder.ends_with("phi3-longrope") {
            assert!(beyond.iter().all(|equal| *equal), "{equal:?}");
        } else {
            assert!(beyond.iter().all(|equal| !*equal), "{equal:?}");
        }
    }
}
