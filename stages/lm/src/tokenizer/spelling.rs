//! The bytes that each token of a vocabulary stands for.

use serde_json::Value;
use tokenizers::tokenizer::Tokenizer as Inner;

/// The bytes of all tokens, one after another in the order of their ids.
#[derive(Debug)]
pub(super) struct Spelling {
    bytes: Vec<u8>,
    /// Token i is `bytes[ends[i - 1]..ends[i]]`.
    ends: Vec<usize>,
    special: Vec<(u32, String)>,
    strips_first_space: bool,
}

/// Spelling of bytes in a vocabulary.
enum Alphabet {
    /// GPT-2's: a character for each byte.
    ByteLevel,
    /// SentencePiece's: `▁` for a space, and where `fallback` is set `<0x0A>` for a byte.
    SentencePiece { fallback: bool },
    /// Tokens are text.
    Plain,
}

/// The vocabulary is dense in practice; ids far above its size (of a hostile file) get no bytes.
const ID_LIMIT: usize = 1 << 24;

impl Spelling {
    pub(super) fn new(inner: &Inner) -> Spelling {
        let decoder =
            inner.get_decoder().map(|decoder| serde_json::to_value(decoder).unwrap_or_default());
        let mut steps = Vec::new();
        collect_steps(decoder.as_ref().unwrap_or(&Value::Null), &mut steps);
        let alphabet = alphabet_of(&steps);
        let vocabulary = inner.get_vocab(true);
        let size =
            vocabulary.values().map(|&id| id as usize + 1).filter(|&size| size <= ID_LIMIT).max();
        let mut tokens = vec![None; size.unwrap_or(0)];
        for (token, &id) in &vocabulary {
            if let Some(slot) = tokens.get_mut(id as usize) {
                // Two spellings of one id do not occur in good files; the smaller one wins whatever
                // the map's order.
                *slot = Some(slot.map_or(token.as_str(), |other: &str| other.min(token)));
            }
        }
        let added = inner.get_added_tokens_decoder();
        let mut spelling = Spelling {
            bytes: Vec::new(),
            ends: Vec::with_capacity(tokens.len()),
            special: added
                .iter()
                .filter(|(_, token)| token.special)
                .map(|(&id, token)| (id, token.content.clone()))
                .collect(),
            strips_first_space: steps.iter().any(|step| strips(step)),
        };
        spelling.special.sort();
        for (id, token) in tokens.iter().enumerate() {
            match (added.get(&(id as u32)), token) {
                (Some(added), _) => spelling.bytes.extend_from_slice(added.content.as_bytes()),
                (None, Some(token)) => alphabet.spell(token, &mut spelling.bytes),
                (None, None) => {}
            }
            spelling.ends.push(spelling.bytes.len());
        }
        spelling
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends.get(id - 1).copied().unwrap_or(0) };
        self.ends.get(id).map_or(&[], |&end| &self.bytes[start..end])
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn special(&self) -> &[(u32, String)] {
        &self.special
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.binary_search_by_key(&id, |(id, _)| *id).is_ok()
    }

    /// Whether decoding removes the space that encoding put before the text.
    pub(super) fn strips_first_space(&self) -> bool {
        self.strips_first_space
    }
}

impl Alphabet {
    fn spell(&self, token: &str, bytes: &mut Vec<u8>) {
        match self {
            Alphabet::Plain => bytes.extend_from_slice(token.as_bytes()),
            Alphabet::ByteLevel => {
                let start = bytes.len();
                for character in token.chars() {
                    match byte_of(character) {
                        Some(byte) => bytes.push(byte),
                        // Not written in the alphabet, so it stands for itself.
                        None => {
                            bytes.truncate(start);
                            return bytes.extend_from_slice(token.as_bytes());
                        }
                    }
                }
            }
            Alphabet::SentencePiece { fallback } => match byte_token(token).filter(|_| *fallback) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend_from_slice(token.replace('▁', " ").as_bytes()),
            },
        }
    }
}

/// The byte that a character of GPT-2's alphabet stands for: itself where it is printable Latin-1,
/// and the others, in ascending order, by the characters from U+0100 on.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let code = character as u32;
    let shifted = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => return Some(code as u8),
        0x100..=0x143 => code - 0x100,
        _ => return None,
    };
    Some(match shifted {
        0..=0x20 => shifted as u8,
        0x21..=0x42 => (shifted - 0x21 + 0x7F) as u8,
        _ => 0xAD,
    })
}

/// The byte of `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    // Parsing alone would take a sign too.
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| hexadecimal)
}

fn collect_steps<'a>(decoder: &'a Value, steps: &mut Vec<&'a Value>) {
    match decoder.get("decoders").and_then(Value::as_array) {
        Some(decoders) => decoders.iter().for_each(|decoder| collect_steps(decoder, steps)),
        None => steps.push(decoder),
    }
}

fn alphabet_of(steps: &[&Value]) -> Alphabet {
    let has = |kind: &str| steps.iter().any(|step| step["type"] == kind);
    let replaces = |step: &&Value| step["type"] == "Replace" && step["pattern"]["String"] == "▁";
    if has("ByteLevel") {
        Alphabet::ByteLevel
    } else if has("Metaspace") || steps.iter().any(replaces) {
        Alphabet::SentencePiece { fallback: has("ByteFallback") }
    } else {
        Alphabet::Plain
    }
}

fn strips(step: &Value) -> bool {
    match step["type"].as_str() {
        Some("Strip") => step["content"] == " " && step["start"] == 1,
        Some("Metaspace") => step["prepend_scheme"] != "never",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_covers_each_byte_once() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(|code| byte_of(char::from_u32(code)?)).collect();
        assert_eq!(bytes.len(), 256);
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), 256);
        // The characters that everybody knows: space, line feed, and the soft hyphen at the end.
        assert_eq!(
            [byte_of('Ġ'), byte_of('Ċ'), byte_of('Ń')],
            [Some(b' '), Some(b'\n'), Some(0xAD)]
        );
    }

    #[test]
    fn sentencepiece_spellings() {
        let spell = |token: &str, fallback| {
            let mut bytes = Vec::new();
            Alphabet::SentencePiece { fallback }.spell(token, &mut bytes);
            bytes
        };
        assert_eq!(spell("▁the▁", true), b" the ");
        assert_eq!(spell("<0xE2>", true), [0xE2]);
        assert_eq!(spell("<0xE2>", false), b"<0xE2>");
        assert_eq!(spell("<0x+1>", true), b"<0x+1>");
    }
}
