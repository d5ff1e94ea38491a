//! Continuous batching: a place that a finished row leaves is taken at once, and the context's end
//! ends a row.

use std::ops::ControlFlow;

use refrain_lm::generate::{
    Decoding, Finish, Generated, KeyPrecision, Limits, Progress, Request, generate,
};
use refrain_lm::model::LanguageModel;
use refrain_lm::sampling::{Sampler, SamplingParams};
use refrain_lm::tokenizer::Tokenizer;

use crate::*;

/// The longest row of the tiny models.
const CONTEXT: usize = 64;

fn sampler() -> Sampler {
    Sampler::new(SamplingParams { temperature: 1.0, ..Default::default() }, 3).unwrap()
}

/// A prompt that leaves room for so many tokens.
fn request(room: usize, number: u64, samples: u64) -> Request {
    let stream = Stream::new(8, &[number]);
    let prompt =
        (0..(CONTEXT - room) as u64).map(|i| (stream.uniform(i) * VOCAB as f64) as u32).collect();
    Request {
        prompt,
        samples: (0..samples).map(|sample| sampler().stream(&[number, sample])).collect(),
    }
}

/// What is generated, and in how many steps.
fn run(requests: &[Request], decoding: impl Into<Decoding>) -> (Vec<Vec<Generated>>, usize) {
    let model = LanguageModel::random(&config("llama"), 3);
    let folder = tempfile::tempdir().unwrap();
    write_tokenizer(folder.path());
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let limits = Limits { max_new_tokens: 1000, ignore_eos: true, ..Limits::default() };
    let mut steps = 0;
    let count = &mut |progress: Progress<'_>| {
        steps += usize::from(matches!(progress, Progress::Tokens(_)));
        ControlFlow::Continue(())
    };
    let made =
        generate(&model, &tokenizer, requests, &sampler(), &limits, decoding, count).unwrap();
    (made, steps)
}

#[test]
fn a_place_that_is_free_is_taken_at_once() {
    // One long row beside many short ones: in turn, each pair would wait for its longer row.
    let rooms = [30, 4, 5, 4, 5, 4, 8];
    let requests: Vec<Request> =
        rooms.iter().enumerate().map(|(number, room)| request(*room, number as u64, 1)).collect();
    let (alone, one_by_one) = run(&requests, Some(1));
    // The first token of a row comes with its prompt.
    assert_eq!(one_by_one, rooms.iter().map(|room| room - 1).sum::<usize>());
    let (made, steps) = run(&requests, Some(2));
    assert_eq!(made, alone);
    assert_eq!(steps, 29, "the short rows run beside the long one");
}

#[test]
fn the_contexts_end_ends_a_row() {
    for room in [0, 1, 2, 17] {
        let (made, _) = run(&[request(room, 1, 3)], Some(2));
        for sample in &made[0] {
            assert_eq!((sample.token_ids.len(), sample.finish), (room, Finish::Length));
        }
    }
}

#[test]
fn samples_of_one_prompt_are_those_that_it_has_alone() {
    // More samples than places, so that later ones begin from the kept prompt.
    let together = [request(20, 1, 7), request(25, 2, 1), request(20, 3, 5)];
    let (made, _) = run(&together, Some(3));
    for (request, made) in together.iter().zip(&made) {
        for (stream, sample) in request.samples.iter().zip(made) {
            let alone = Request { prompt: request.prompt.clone(), samples: vec![*stream] };
            assert_eq!(run(&[alone], Some(1)).0[0][0], *sample);
        }
    }
    let mut texts: Vec<&[u32]> = made[0].iter().map(|sample| sample.token_ids.as_slice()).collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 7, "samples of one prompt are equal");
}

#[test]
fn half_keys_move_probabilities_by_little_and_no_row_by_its_neighbours() {
    let requests: Vec<Request> = (0..5).map(|number| request(20, number, 2)).collect();
    let half = |batch| Decoding { batch: Some(batch), keys: KeyPrecision::Bf16 };
    let (made, _) = run(&requests, half(1));
    for batch in [2, 3, 10] {
        assert_eq!(run(&requests, half(batch)).0, made, "batch {batch}");
    }

    let (wide, _) = run(&requests, Some(4));
    let mut largest = 0.0f32;
    for (half, wide) in made.iter().flatten().zip(wide.iter().flatten()) {
        let both = half
            .token_ids
            .iter()
            .zip(&wide.token_ids)
            .zip(half.logprobs.iter().zip(&wide.logprobs));
        let same = both.take_while(|((half, wide), _)| half == wide);
        largest = same.fold(largest, |most, (_, (half, wide))| most.max((half - wide).abs()));
    }
    assert!(largest > 0.0 && largest < 0.04, "{largest}");
}
