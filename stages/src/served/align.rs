//! Tokens that a server names by texts and offsets, matched with ours.

use refrain_lm::tokenizer::Tokenizer;

/// Returns the text of tokens as a server that tokenises itself is given it: without the begin
/// token, which it adds.
pub(super) fn text_of(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    tokenizer.decode(&ids[begins(tokenizer, ids)..], false)
}

/// Counts the begin tokens at the front: one or none.
fn begins(tokenizer: &Tokenizer, ids: &[u32]) -> usize {
    usize::from(ids.first().is_some_and(|first| tokenizer.bos() == Some(*first)))
}

/// The echoed tokens of a server.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Echoed<'a> {
    /// First character of each token in the echoed text.
    pub offsets: &'a [u64],
    /// The log-probability of each; none where the server has none.
    pub logprobs: &'a [Option<f32>],
    /// Characters of the whole echoed text.
    pub characters: u64,
}

/// Returns the log-probabilities of `ids` after the first one, not-a-number where the server gives
/// none, when its tokens have the same bounds as ours.
///
/// A server may leave the begin token out. Behind the prompt may stand what it generated.
///
/// # Errors
/// The fault, as a fragment.
pub(super) fn echoed(
    tokenizer: &Tokenizer,
    ids: &[u32],
    echoed: &Echoed<'_>,
) -> Result<Vec<f32>, String> {
    let widths = widths(tokenizer, ids);
    let begin = begins(tokenizer, ids);
    let whole = tile(&widths, echoed).map(|()| 0);
    let skipped = match whole {
        Err(_) if begin == 1 => tile(&widths[1..], echoed).map(|()| 1),
        whole => whole,
    }?;
    let of_server = echoed.logprobs.iter().copied();
    let of_ids = std::iter::repeat_n(None, skipped).chain(of_server).take(ids.len());
    let of_ids: Vec<Option<f32>> = of_ids.collect();
    // The first token that a server lists has nothing before it, as far as the server shows.
    let unknown = of_ids.iter().skip(skipped + 1).position(Option::is_none);
    if let Some(at) = unknown {
        return Err(format!("its token {} has no log-probability", at + skipped + 1));
    }
    Ok(of_ids.into_iter().skip(1).map(|value| value.unwrap_or(f32::NAN)).collect())
}

/// The width of a token in characters.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Width {
    characters: u64,
    /// Another width that it may have: nothing where it is special, and without the space that a
    /// text loses at its start.
    other: u64,
}

/// The widths of tokens; a character that several tokens share is the last one's.
fn widths(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Width> {
    let bytes: Vec<&[u8]> = ids.iter().map(|id| tokenizer.token_bytes(*id)).collect();
    let text = String::from_utf8_lossy(&bytes.concat()).into_owned();
    let first = ids.iter().position(|id| !tokenizer.is_special(*id));
    let (mut end, mut before) = (0, 0);
    let mut widths = Vec::with_capacity(ids.len());
    for (at, (id, bytes)) in ids.iter().zip(&bytes).enumerate() {
        end += bytes.len();
        let bound = (0..=end.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        let characters = text[..bound.unwrap_or(0)].chars().count() as u64;
        let width = characters - before;
        let other = match (tokenizer.is_special(*id), first == Some(at)) {
            (true, _) => 0,
            (false, true) if bytes.first() == Some(&b' ') => width.saturating_sub(1),
            _ => width,
        };
        widths.push(Width { characters: width, other });
        before = characters;
    }
    widths
}

/// Whether the server's tokens, from the first on, have these widths.
fn tile(widths: &[Width], echoed: &Echoed<'_>) -> Result<(), String> {
    let Echoed { offsets, logprobs, characters } = *echoed;
    if offsets.len() < widths.len() || logprobs.len() < widths.len() {
        return Err(format!("it echoes {} tokens of {}", offsets.len(), widths.len()));
    }
    let ends = offsets.iter().copied().skip(1).chain([characters]);
    for (at, (width, (start, end))) in widths.iter().zip(offsets.iter().zip(ends)).enumerate() {
        let theirs = end.checked_sub(*start);
        if theirs != Some(width.characters) && theirs != Some(width.other) {
            return Err(format!(
                "its tokens do not tile the text as ours do: its token {at} is at character {start}, \
                 the next one at {end}"
            ));
        }
    }
    Ok(())
}

/// Finds the ids of a continuation of which a server gives the text and the texts of its tokens.
///
/// The ids are those that the whole text is tokenised to, when they have the same texts; else each
/// token is looked up by its text. `None` where neither tells them.
pub(super) fn ids_of_pieces(
    tokenizer: &Tokenizer,
    prompt: &[u32],
    pieces: &[String],
) -> Option<Vec<u32>> {
    let text = text_of(tokenizer, prompt) + &pieces.concat();
    let own = &prompt[begins(tokenizer, prompt)..];
    if let Ok(encoding) = tokenizer.encode(&text, false)
        && let Some(ids) = encoding.ids.strip_prefix(own)
        && same_texts(tokenizer, ids, pieces)
    {
        return Some(ids.to_vec());
    }
    let of_piece = |piece: &String| {
        let whole = tokenizer.encode(piece, false).ok()?.ids;
        match whole[..] {
            [id] if tokenizer.token_bytes(id) == piece.as_bytes() => Some(id),
            _ => None,
        }
    };
    pieces.iter().map(of_piece).collect()
}

/// Whether tokens have these texts; of a character that several tokens share a server shows
/// nothing, or that it is incomplete.
fn same_texts(tokenizer: &Tokenizer, ids: &[u32], pieces: &[String]) -> bool {
    ids.len() == pieces.len()
        && ids.iter().zip(pieces).all(|(id, piece)| {
            let bytes = tokenizer.token_bytes(*id);
            bytes == piece.as_bytes()
                || std::str::from_utf8(bytes).is_err()
                    && (piece.is_empty() || piece.contains('\u{FFFD}') || !piece.is_ascii())
        })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use refrain_lm::tokenizer_training::{TokenizerSettings, train_tokenizer};

    use super::*;

    /// A tokenizer of bytes and few merges, with a begin token.
    fn tokenizer() -> Tokenizer {
        let texts = ["the ant and the other ants"; 4];
        let settings =
            TokenizerSettings { vocab_size: 280, special_tokens: Vec::new(), chat_template: None };
        let files = train_tokenizer(texts.iter(), &settings).unwrap();
        let config = serde_json::from_slice(&files.config).unwrap();
        Tokenizer::from_parts(Path::new("t"), &files.tokenizer, &config).unwrap()
    }

    /// The echo of these tokens by a server that leaves the begin token out: of a character that
    /// several of them share nothing until the last one.
    fn offsets(tokenizer: &Tokenizer, ids: &[u32]) -> (Vec<u64>, u64) {
        let mut bytes = Vec::new();
        let mut at = Vec::new();
        let whole = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => text.chars().count() as u64,
            Err(error) => {
                std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap().chars().count() as u64
            }
        };
        for id in ids {
            at.push(whole(&bytes));
            if !tokenizer.is_special(*id) {
                bytes.extend_from_slice(tokenizer.token_bytes(*id));
            }
        }
        (at, whole(&bytes))
    }

    #[test]
    fn tokens_that_tile_are_taken_and_others_refused() {
        let tokenizer = tokenizer();
        let bos = tokenizer.bos().unwrap();
        let ids = [&[bos], &tokenizer.encode("the ant é", false).unwrap().ids[..]].concat();
        let (own, end) = offsets(&tokenizer, &ids[1..]);
        let values: Vec<Option<f32>> =
            (0..own.len()).map(|at| (at > 0).then_some(-(at as f32))).collect();
        let read = |offsets: &[u64], values: &[Option<f32>], characters| {
            echoed(&tokenizer, &ids, &Echoed { offsets, logprobs: values, characters })
        };
        let found = read(&own, &values, end).unwrap();
        assert_eq!(found.len(), ids.len() - 1);
        assert!(
            found[0].is_nan()
                && found[1..].iter().enumerate().all(|(i, v)| *v == -(i as f32) - 1.0)
        );

        // Behind the prompt may be what was generated.
        let (more, with) = ([&own[..], &[end]].concat(), [&values[..], &[Some(-9.0)]].concat());
        assert_eq!(read(&more, &with, end + 3).unwrap()[1..], found[1..]);
        // With the begin token in it.
        let (all, with) = ([&[0], &own[..]].concat(), [&[None, Some(-0.5)], &values[1..]].concat());
        assert_eq!(read(&all, &with, end).unwrap()[..2], [-0.5, -1.0]);

        let mut shifted = own.clone();
        shifted[2] += 1;
        let error = read(&shifted, &values, end).unwrap_err();
        assert!(error.starts_with("its tokens do not tile the text as ours do"), "{error}");
        let error = read(&own[..2], &values[..2], end).unwrap_err();
        assert!(error.starts_with("it echoes 2 tokens of"), "{error}");
        let mut unknown = values.clone();
        unknown[2] = None;
        assert_eq!(read(&own, &unknown, end).unwrap_err(), "its token 3 has no log-probability");
    }

    proptest! {
        #[test]
        fn every_text_aligns_with_its_own_tokens(text in "[a-z éß漢🦙]{1,24}") {
            let tokenizer = tokenizer();
            let ids = tokenizer.encode(&text, true).unwrap().ids;
            let own = &ids[begins(&tokenizer, &ids)..];
            let (offsets, characters) = offsets(&tokenizer, own);
            let logprobs = vec![Some(-1.0); own.len()];
            let read = echoed(&tokenizer, &ids, &Echoed { offsets: &offsets, logprobs: &logprobs, characters });
            prop_assert_eq!(read.unwrap().len(), ids.len() - 1);

            let pieces: Vec<String> = own
                .iter()
                .map(|id| String::from_utf8_lossy(tokenizer.token_bytes(*id)).into_owned())
                .collect();
            if std::str::from_utf8(&own.iter().flat_map(|id| tokenizer.token_bytes(*id).to_vec()).collect::<Vec<u8>>()).is_ok()
                && !pieces.iter().any(|piece| piece.contains('\u{FFFD}'))
            {
                prop_assert_eq!(ids_of_pieces(&tokenizer, &ids[..ids.len() - own.len()], &pieces), Some(own.to_vec()));
            }
        }
    }
}
