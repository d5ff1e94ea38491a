//! Byte offsets of tokens in their text, which the tokens tile.

use super::spelling::Spelling;

/// The offsets where the tokens' bytes, one after another, are the text: exact even where a token
/// ends within a character. `None` where they are not, because the tokenizer changed the text.
pub(super) fn exact(ids: &[u32], spelling: &Spelling, text: &str) -> Option<Vec<u32>> {
    let mut rest = text.as_bytes();
    let mut offsets = Vec::with_capacity(ids.len());
    for &id in ids {
        offsets.push((text.len() - rest.len()) as u32);
        rest = rest.strip_prefix(spelling.bytes(id))?;
    }
    rest.is_empty().then_some(offsets)
}

/// The offsets from the `spans` [first byte, end) that the tokenizer gives: these count whole
/// characters, overlap where a character is split, and leave out white space that it trims. Where a
/// token's own bytes stand at the point reached, they are taken; elsewhere its span is, moved on
/// where it overlaps. A gap belongs to the token before it.
pub(super) fn aligned(
    ids: &[u32],
    spelling: &Spelling,
    spans: &[(usize, usize)],
    text: &str,
) -> Vec<u32> {
    let mut reached = 0;
    let mut offsets = Vec::with_capacity(ids.len());
    for (&id, &(first, end)) in ids.iter().zip(spans) {
        let bytes = spelling.bytes(id);
        let here = text.as_bytes()[reached..].starts_with(bytes);
        let (start, next) = if here && reached < end && first < reached + bytes.len() {
            (reached, reached + bytes.len())
        } else {
            let start = first.clamp(reached, text.len());
            (start, end.clamp(start, text.len()))
        };
        offsets.push(if offsets.is_empty() { 0 } else { start as u32 });
        reached = next;
    }
    offsets
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::super::spelling::byte_of;
    use super::*;

    fn numbers(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
    }

    /// A byte-level vocabulary of the given tokens.
    fn spelling_of(tokens: &BTreeMap<u32, Vec<u8>>) -> Spelling {
        let alphabet: BTreeMap<u8, char> =
            (0..0x200).filter_map(char::from_u32).filter_map(|c| Some((byte_of(c)?, c))).collect();
        let spell = |bytes: &Vec<u8>| bytes.iter().map(|byte| alphabet[byte]).collect::<String>();
        let vocabulary: BTreeMap<String, u32> =
            tokens.iter().map(|(&id, bytes)| (spell(bytes), id)).collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null,
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
        });
        Spelling::new(&tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap())
    }

    #[test]
    fn llama3_tokens_begin_where_the_data_says() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/data/tokenize-llama3/cases.jsonl"
        );
        let Ok(cases) = std::fs::read_to_string(path) else {
            return eprintln!("not tested: `{path}` is absent");
        };
        // The tokenizer's file may not be passed on; the cases show the bytes of those of its
        // tokens that they use.
        let cases: Vec<Value> =
            cases.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut tokens = BTreeMap::new();
        for case in &cases {
            let text = case["text"].as_str().unwrap().as_bytes();
            let starts = numbers(&case["byte_start"]);
            let ends = starts[1..].iter().copied().chain([text.len() as u32]);
            for ((id, &start), end) in
                numbers(&case["input_ids"]).into_iter().zip(&starts).zip(ends)
            {
                let bytes = text[start as usize..end as usize].to_vec();
                assert_eq!(tokens.entry(id).or_insert_with(|| bytes.clone()), &bytes);
            }
        }
        let spelling = spelling_of(&tokens);
        for case in &cases {
            let (ids, text) = (numbers(&case["input_ids"]), case["text"].as_str().unwrap());
            assert_eq!(exact(&ids, &spelling, text).unwrap(), numbers(&case["byte_start"]));
        }
    }

    #[test]
    fn spans_are_made_to_tile() {
        let tokens = [
            (0, b"ab".to_vec()),
            (1, vec![0xC3]),
            (2, vec![0xA9]),
            (3, b" c".to_vec()),
            (4, b"x".to_vec()),
        ];
        let spelling = spelling_of(&tokens.into());
        // The halves of a character share its span, and the span of ` c` was trimmed.
        let spans = [(0, 2), (2, 4), (2, 4), (5, 6)];
        assert_eq!(aligned(&[0, 1, 2, 3], &spelling, &spans, "abé c"), [0, 2, 3, 4]);
        // The text had two characters where the token `x` stands, and one more that became nothing.
        assert_eq!(aligned(&[0, 4, 3], &spelling, &[(0, 2), (2, 4), (5, 7)], "abZZ! c"), [0, 2, 5]);
        // Spans that leave the text or go back are held within it.
        assert_eq!(aligned(&[4, 4, 4], &spelling, &[(3, 2), (0, 1), (9, 99)], "abc"), [0, 3, 3]);
        assert_eq!(aligned(&[], &spelling, &[], "abc"), [0u32; 0]);
    }
}
