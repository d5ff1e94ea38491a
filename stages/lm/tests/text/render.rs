//! Chat renderings and training rows against Hugging Face's, and the bounds between prompt and
//! response.

use std::path::Path;

use refrain_lm::chat::{ChatTemplate, Message, message};
use refrain_lm::render::{Begin, Prompt, RenderError, Renderer, RowText};
use refrain_lm::tokenizer::Tokenizer;
use refrain_lm::tokenizer_training::{TokenizerSettings, train_tokenizer};
use serde_json::{Value, json};

use crate::{ids, parity_folders, read_json, shared};

/// Written after the rules in the README of `chat-template-llama3`.
const LLAMA3: &str = "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}\
    <|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}\
    {% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}";

/// A small tokenizer with the given template and more special tokens.
fn tokenizer_with(template: &str, special: &[&str]) -> Tokenizer {
    let settings = TokenizerSettings {
        vocab_size: 300,
        special_tokens: special.iter().map(|&token| token.to_owned()).collect(),
        chat_template: Some(template.to_owned()),
    };
    let files = train_tokenizer(["one two three two one"].iter(), &settings).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), files.tokenizer).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), files.config).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

fn ask<'a>(prompt: &'a str, response: &'a str) -> RowText<'a> {
    RowText {
        prompt: Prompt::Text(prompt),
        system: None,
        tools: None,
        response_fields: None,
        response: Some(response),
    }
}

fn load(folder: &Path) -> Tokenizer {
    Tokenizer::load(&folder.join("model")).unwrap()
}

#[test]
fn conversations_equal_the_references() {
    for folder in parity_folders() {
        let tokenizer = load(&folder);
        let renderer = Renderer::new(&tokenizer, true).unwrap();
        let template =
            ChatTemplate::new(tokenizer.chat_template().unwrap(), tokenizer.named_special_tokens())
                .unwrap();
        let reference = read_json(&folder.join("reference.json"));
        let cases = reference["chat"].as_array().unwrap();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let messages: Vec<Message> = case["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|turn| turn.as_object().unwrap().clone())
                .collect();
            let generation = case["add_generation_prompt"].as_bool().unwrap();
            let text = template.render(&messages, None, generation).unwrap();
            assert_eq!(text, case["rendered"].as_str().unwrap(), "{}", folder.display());
            assert_eq!(
                tokenizer.encode(&text, false).unwrap().ids,
                ids(&case["input_ids"]),
                "{}",
                folder.display()
            );
            if generation {
                let row = RowText {
                    prompt: Prompt::Messages(&messages),
                    system: None,
                    tools: None,
                    response_fields: None,
                    response: None,
                };
                assert_eq!(renderer.prompt_ids(&row).unwrap(), ids(&case["input_ids"]));
                let rendered = renderer.full(&row).unwrap();
                assert_eq!(rendered.prompt_tokens, rendered.token_ids.len());
            }
        }
    }
}

#[test]
fn training_rows_equal_the_references() {
    for folder in parity_folders() {
        let tokenizer = load(&folder);
        let renderer = Renderer::new(&tokenizer, true).unwrap();
        let rows = read_json(&folder.join("training/rows.json"));
        for row in rows.as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let (question, answer) = text
                .strip_prefix("<|bos|><|user|>\n")
                .and_then(|rest| rest.strip_suffix("<|eos|>"))
                .and_then(|rest| rest.split_once("<|eos|>\n<|assistant|>\n"))
                .unwrap();
            let rendered = renderer.full(&ask(question, answer)).unwrap();
            assert_eq!(rendered.text, text);
            assert_eq!(rendered.token_ids, ids(&row["input_ids"]));
            assert_eq!(rendered.prompt_tokens as u64, row["n_prompt"].as_u64().unwrap());
            let row = RowText { response: None, ..ask(question, "") };
            assert_eq!(
                renderer.prompt_ids(&row).unwrap(),
                rendered.token_ids[..rendered.prompt_tokens]
            );
        }
    }
}

#[test]
fn llama3_conversations_equal_the_stored_ones() {
    let path = shared("data/chat-template-llama3/cases.jsonl");
    let Ok(cases) = std::fs::read_to_string(&path) else {
        return eprintln!("not tested: `{}` is absent", path.display());
    };
    let special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
    let template = LLAMA3.replace("{{ bos_token }}", "<|begin_of_text|>");
    let tokenizer = tokenizer_with(&template, &special);
    let renderer = Renderer::new(&tokenizer, true).unwrap();
    let mut count = 0;
    for case in cases.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let turns: Vec<Message> = case["conversations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|turn| {
                let role = if turn["from"] == "human" { "user" } else { "assistant" };
                message(role, turn["value"].as_str().unwrap())
            })
            .collect();
        let (last, before) = turns.split_last().unwrap();
        let row = RowText {
            prompt: Prompt::Messages(before),
            system: None,
            tools: None,
            response_fields: None,
            response: last["content"].as_str(),
        };
        let rendered = renderer.full(&row).unwrap();
        assert_eq!(rendered.text, case["text"].as_str().unwrap());
        let prompt = case["prompt_text"].as_str().unwrap();
        assert_eq!(rendered.offsets[rendered.prompt_tokens] as usize, prompt.len());
        let prompt_ids = renderer.prompt_ids(&row).unwrap();
        assert_eq!(prompt_ids, rendered.token_ids[..rendered.prompt_tokens]);
        assert_eq!(tokenizer.decode(&prompt_ids, false), prompt);
        count += 1;
    }
    assert!(count > 40);
}

#[test]
fn the_end_of_turn_is_the_templates_else_eos() {
    // The response holds letters and tokens that also stand in what follows it.
    let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let tokenizer = tokenizer_with(chatml, &["<|im_start|>", "<|im_end|>", "<|im"]);
    let renderer = Renderer::new(&tokenizer, true).unwrap();
    for response in ["m", "\n", "", " 5 \n", "<|im_end|>\n", "a<|im_end|>"] {
        let rendered = renderer.full(&ask("q", response)).unwrap();
        // One that ends with it already gets no second one.
        let end = if response.ends_with("<|im_end|>") { "" } else { "<|im_end|>" };
        assert_eq!(
            rendered.text,
            format!("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n{response}{end}")
        );
        let row = ask("q", response);
        let prompt = renderer.prompt_ids(&row).unwrap();
        assert!(rendered.prompt_tokens <= prompt.len());
        assert_eq!(rendered.token_ids.last(), tokenizer.token_id("<|im_end|>").as_ref());
    }
    // No special token follows: eos does, in the place of what the template writes.
    let plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}\
        {% if add_generation_prompt %}assistant: {% endif %}";
    let tokenizer = tokenizer_with(plain, &[]);
    let rendered = Renderer::new(&tokenizer, true).unwrap().full(&ask("q", "four")).unwrap();
    assert_eq!(rendered.text, "user: q\n\nassistant: four<|eos|>");
    assert_eq!(rendered.token_ids.last(), Some(&1));
}

#[test]
fn a_template_with_another_generation_prompt_splits_before_the_response() {
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|eos|>{% endfor %}\
        {% if add_generation_prompt %}<|assistant|><think>\n{% endif %}";
    let tokenizer = tokenizer_with(template, &[]);
    let rendered = Renderer::new(&tokenizer, true).unwrap().full(&ask("q", "four")).unwrap();
    assert_eq!(rendered.text, "<|user|>q<|eos|><|assistant|>four<|eos|>");
    assert_eq!(
        rendered.offsets[rendered.prompt_tokens] as usize,
        "<|user|>q<|eos|><|assistant|>".len()
    );
}

#[test]
fn a_template_that_rewrites_the_response_is_refused() {
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|eos|>{% endfor %}";
    let tokenizer = tokenizer_with(template, &[]);
    let renderer = Renderer::new(&tokenizer, true).unwrap();
    renderer.full(&ask("q", "four")).unwrap();
    let error = renderer.full(&ask("q", "hm</think>four")).unwrap_err();
    assert!(matches!(error, RenderError::ResponseChanged { .. }));
    assert!(error.to_string().contains("`hm</think>four`"), "{error}");
    let dropped = tokenizer_with("{{ messages[0].content }}", &[]);
    let error = Renderer::new(&dropped, true).unwrap().full(&ask("q", "four")).unwrap_err();
    assert!(matches!(error, RenderError::ResponseChanged { .. }));
}

#[test]
fn system_turns_come_first_once() {
    let tokenizer = tokenizer_with(LLAMA3, &[]);
    let renderer = Renderer::new(&tokenizer, true).unwrap();
    let text = |prompt| {
        let ids = renderer
            .prompt_ids(&RowText {
                prompt,
                system: Some("S"),
                tools: None,
                response_fields: None,
                response: None,
            })
            .unwrap();
        tokenizer.decode(&ids, false)
    };
    assert!(
        text(Prompt::Text("q"))
            .contains("system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user")
    );
    let own = [("system", "mine"), ("user", "q")].map(|(role, text)| message(role, text));
    assert!(
        text(Prompt::Messages(&own)).contains("mine")
            && !text(Prompt::Messages(&own)).contains("\n\nS<")
    );
}

#[test]
fn plain_rows_are_bos_prompt_response_eos() {
    for folder in parity_folders() {
        let tokenizer = load(&folder);
        let renderer = Renderer::new(&tokenizer, false).unwrap();
        let row = ask("What is 2 + 2?", " It is 4.");
        let rendered = renderer.full(&row).unwrap();
        assert_eq!(rendered.text, "What is 2 + 2? It is 4.<|eos|>");
        assert_eq!((rendered.token_ids[0], rendered.token_ids.last()), (0, Some(&1)));
        assert_eq!(rendered.offsets[rendered.prompt_tokens] as usize, "What is 2 + 2?".len());
        let prompt = renderer.prompt_ids(&row).unwrap();
        assert_eq!(prompt, rendered.token_ids[..rendered.prompt_tokens]);
        assert_eq!(prompt, tokenizer.encode("What is 2 + 2?", true).unwrap().ids);
        let alone = renderer.text_only("It is 4.").unwrap();
        assert_eq!(
            (alone.text.as_str(), alone.prompt_tokens, alone.token_ids[0]),
            ("It is 4.", 1, 0)
        );
        assert_eq!(alone.token_ids, tokenizer.encode("It is 4.", true).unwrap().ids);
        // A token that reaches from the prompt into the response belongs to the response.
        let merged = renderer.full(&ask("The c", "at sat")).unwrap();
        let boundary = merged.offsets[merged.prompt_tokens] as usize;
        assert!(boundary <= "The c".len());
        assert!(
            merged
                .offsets
                .get(merged.prompt_tokens + 1)
                .is_some_and(|&end| end as usize > "The c".len())
        );
        let messages = [("user", "one"), ("assistant", "two"), ("user", "three")]
            .map(|(role, text)| message(role, text));
        let row = RowText {
            prompt: Prompt::Messages(&messages),
            system: Some("zero"),
            tools: None,
            response_fields: None,
            response: None,
        };
        assert_eq!(renderer.full(&row).unwrap().text, "zero\n\none\n\ntwo\n\nthree");
    }
}

#[test]
fn chat_without_a_template_is_refused() {
    let Some(folder) = parity_folders().into_iter().next() else { return };
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("model/tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::load(copy.path()).unwrap();
    assert!(matches!(Renderer::new(&tokenizer, true), Err(RenderError::NoTemplate)));
}

fn conversation(json: Value) -> Vec<Message> {
    let turns = json.as_array().unwrap().iter();
    turns.map(|turn| turn.as_object().unwrap().clone()).collect()
}

const PLAIN: &str = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|eos|>{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";

#[test]
fn parts_of_text_are_joined_and_others_refused_by_name() {
    let tokenizer = tokenizer_with(PLAIN, &[]);
    for chat in [true, false] {
        let renderer = Renderer::new(&tokenizer, chat).unwrap();
        let text = |content: Value| {
            let messages = conversation(json!([{ "role": "user", "content": content }]));
            let row = RowText { prompt: Prompt::Messages(&messages), ..ask("", "Hi there") };
            renderer.full(&row).map(|rendered| rendered.text)
        };
        let parts = json!([{ "type": "text", "text": "Hel" }, { "type": "text", "text": "lo" }]);
        assert_eq!(text(parts).unwrap(), text(json!("Hello")).unwrap());
        let image = json!([{ "type": "image", "url": "x" }]);
        let error = text(image).unwrap_err().to_string();
        assert!(error.contains("`user`") && error.contains("`image`"), "{error}");
    }
}

#[test]
fn what_a_message_holds_beside_its_text_reaches_the_template_or_is_named() {
    let calls = json!([
        { "role": "user", "content": "Weather?" },
        { "role": "assistant", "content": null, "tool_calls": [{ "function": { "name": "w" } }] },
        { "role": "tool", "content": "sunny", "name": "w", "weight": 0 },
    ]);
    let messages = conversation(calls);
    let tools = json!([{ "type": "function", "function": { "name": "w" } }]);
    let row = RowText {
        prompt: Prompt::Messages(&messages),
        tools: Some(&tools),
        ..ask("", "It is sunny")
    };

    let tokenizer = tokenizer_with(PLAIN, &[]);
    let error = Renderer::new(&tokenizer, true).unwrap().full(&row).unwrap_err().to_string();
    assert!(error.contains("`assistant`") && error.contains("`tool_calls`"), "{error}");
    let error = Renderer::new(&tokenizer, false).unwrap().full(&row).unwrap_err().to_string();
    assert!(error.contains("`assistant` has no text"), "{error}");

    let template = "{{ tools | tojson }}{% for m in messages %}<|{{ m.role }}|>{{ m.content or m.tool_calls }}\
                    {{ m.reasoning_content or '' }}<|eos|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let tokenizer = tokenizer_with(template, &[]);
    let renderer = Renderer::new(&tokenizer, true).unwrap();
    assert_eq!(
        renderer.full(&row).unwrap().text,
        "[{\"type\": \"function\", \"function\": {\"name\": \"w\"}}]<|user|>Weather?<|eos|><|assistant|>\
         [{'function': {'name': 'w'}}]<|eos|><|tool|>sunny<|eos|><|assistant|>It is sunny<|eos|>"
    );
    assert_eq!(renderer.left_out(&row), ["name", "weight"]);
    // Older names of the reasoning are filled in, as transformers does.
    let thought = conversation(json!([{ "role": "user", "content": "q", "thinking": "hm" }]));
    let row = RowText { prompt: Prompt::Messages(&thought), ..ask("", "a") };
    assert!(renderer.full(&row).unwrap().text.contains("<|user|>qhm<|eos|>"));
}

#[test]
fn a_call_of_a_tool_is_the_response_where_the_template_writes_it() {
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}{% for c in m.tool_calls or [] %}\
                    <|call|>{{ c | tojson }}{% endfor %}<|eos|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let tokenizer = tokenizer_with(template, &["<|call|>"]);
    let fields = json!({ "tool_calls": [{ "name": "w" }], "weight": 1 });
    let fields = fields.as_object().unwrap();
    let rendered = |renderer: &Renderer<'_>, response| {
        renderer.full(&RowText { response_fields: Some(fields), ..ask("q", response) })
    };
    let chat = Renderer::new(&tokenizer, true).unwrap();
    for response in ["", "so"] {
        let row = rendered(&chat, response).unwrap();
        assert_eq!(
            row.text,
            format!("<|user|>q<|eos|>\n<|assistant|>{response}<|call|>{{\"name\": \"w\"}}<|eos|>")
        );
        let prompt = tokenizer.decode(&row.token_ids[..row.prompt_tokens], false);
        assert_eq!((prompt.as_str(), row.empty), ("<|user|>q<|eos|>\n<|assistant|>", false));
    }
    let row = RowText { response_fields: Some(fields), ..ask("q", "") };
    assert_eq!(chat.left_out(&row), ["weight"]);
    let error = rendered(&Renderer::new(&tokenizer, false).unwrap(), "").unwrap_err();
    assert!(error.to_string().contains("`assistant` has no text"), "{error}");
    let silent = tokenizer_with(PLAIN, &[]);
    let error = rendered(&Renderer::new(&silent, true).unwrap(), "").unwrap_err();
    assert!(error.to_string().contains("`tool_calls`"), "{error}");
}

#[test]
fn tokens_that_the_data_holds_are_not_added_again() {
    let tokenizer = tokenizer_with(PLAIN, &[]);
    let plain = Renderer::new(&tokenizer, false).unwrap();
    let once = plain.full(&ask("a", "b")).unwrap();
    assert_eq!((once.had_begin, once.had_end), (false, false));
    for (prompt, response, flags) in [
        ("a", "b<|eos|>", (false, true)),
        ("<|bos|>a", "b", (true, false)),
        ("<|bos|>a", "b<|eos|>", (true, true)),
    ] {
        let held = plain.full(&ask(prompt, response)).unwrap();
        assert_eq!(held.token_ids, once.token_ids, "{prompt} {response}");
        assert_eq!(held.prompt_tokens, once.prompt_tokens);
        assert_eq!((held.had_begin, held.had_end), flags);
    }
    let text = plain.text_only("<|bos|>b").unwrap();
    let (ids, prompt) = (text.token_ids, text.prompt_tokens);
    assert_eq!((ids, prompt), (plain.text_only("b").unwrap().token_ids, 1));
    let ids = |prompt| plain.prompt_ids(&ask(prompt, "")).unwrap();
    assert_eq!(ids("<|bos|>a"), ids("a"));

    let chat = Renderer::new(&tokenizer, true).unwrap();
    let (once, held) = (chat.full(&ask("a", "b")), chat.full(&ask("a", "b<|eos|>")));
    let (once, held) = (once.unwrap(), held.unwrap());
    assert_eq!((held.token_ids, held.had_end), (once.token_ids, true));
    assert!(!once.had_end);
}

#[test]
fn every_turn_of_the_assistant_is_told_from_the_others() {
    let tokenizer =
        tokenizer_with(LLAMA3, &["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]);
    let renderer = Renderer::new(&tokenizer, true).unwrap();
    let conversation = [
        message("system", "Be brief."),
        message("user", "one"),
        message("assistant", " two\n"),
        message("user", "two"),
        message("assistant", "two"),
        message("user", "three"),
    ];
    let row = |turns: usize, response| RowText {
        prompt: Prompt::Messages(&conversation[..turns]),
        ..ask("", response)
    };
    let rendered = renderer.full_turns(&row(6, "four")).unwrap();
    let plain = renderer.full(&row(6, "four")).unwrap();
    assert_eq!((&rendered.text, &rendered.token_ids), (&plain.text, &plain.token_ids));
    let turns = rendered.in_turns.unwrap();
    let trained = |from: usize| -> Vec<u32> {
        let tokens = rendered.token_ids.iter().zip(&turns).skip(from);
        tokens.filter(|(_, turn)| **turn).map(|(id, _)| *id).collect()
    };
    assert_eq!(tokenizer.decode(&trained(0), false), "two<|eot_id|>two<|eot_id|>four<|eot_id|>");
    // Each turn has the tokens that it has as the last one.
    let mut last = Vec::new();
    for (turns, response) in [(2, " two\n"), (4, "two"), (6, "four")] {
        let one = renderer.full(&row(turns, response)).unwrap();
        last.extend_from_slice(&one.token_ids[one.prompt_tokens..]);
    }
    assert_eq!(trained(0), last);
    let first = renderer.full(&row(2, " two\n")).unwrap();
    assert_eq!(rendered.prompt_tokens, first.prompt_tokens);

    // One turn alone is the response.
    let one = renderer.full_turns(&ask("q", "a")).unwrap();
    let plain = renderer.full(&ask("q", "a")).unwrap();
    assert_eq!((one.prompt_tokens, one.token_ids), (plain.prompt_tokens, plain.token_ids));

    // A template that drops something of an earlier turn is refused, and so is none at all.
    let forgets = LLAMA3.replace(
        "message['content'] | trim",
        "(message['content'] if loop.last else message['content'][1:]) | trim",
    );
    let forgetful = tokenizer_with(&forgets, &["<|eot_id|>"]);
    let error = Renderer::new(&forgetful, true).unwrap().full_turns(&row(6, "four")).unwrap_err();
    assert!(matches!(error, RenderError::TurnChanged { .. }), "{error}");
    let error = Renderer::new(&tokenizer, false).unwrap().full_turns(&row(6, "four")).unwrap_err();
    assert!(matches!(error, RenderError::NoTurns), "{error}");
}

#[test]
fn the_begin_token_is_put_where_it_is_asked_for() {
    let tokenizer = tokenizer_with(PLAIN, &[]);
    let begin = tokenizer.bos().unwrap();
    let renderer = |begin| Renderer::new(&tokenizer, false).unwrap().with_begin(begin).unwrap();
    let begins = |how, text: &str| {
        let rendered = renderer(how).text_only(text).unwrap();
        let full = renderer(how).full(&ask(text, "")).unwrap().token_ids;
        assert_eq!(full[..full.len() - 1], rendered.token_ids, "{how:?} {text}");
        let found = rendered.token_ids.iter().take_while(|id| **id == begin).count();
        (found, rendered.prompt_tokens, rendered.had_begin)
    };
    for (text, auto, always, never) in [
        ("b", (1, 1, false), (1, 1, false), (0, 0, false)),
        ("<|bos|>b", (1, 1, true), (2, 1, false), (1, 0, false)),
    ] {
        assert_eq!(begins(Begin::Auto, text), auto, "{text}");
        assert_eq!(begins(Begin::Always, text), always, "{text}");
        assert_eq!(begins(Begin::Never, text), never, "{text}");
    }
    // A template alone decides.
    let chat = |how| Renderer::new(&tokenizer, true).unwrap().with_begin(how).unwrap();
    let ids = |how| chat(how).full(&ask("a", "b")).unwrap().token_ids;
    assert_eq!(ids(Begin::Always), ids(Begin::Never));
}

#[test]
fn a_response_that_is_trimmed_away_is_an_empty_one() {
    let tokenizer = tokenizer_with(PLAIN, &[]);
    let chat = Renderer::new(&tokenizer, true).unwrap();
    let (none, blank) = (chat.full(&ask("a", "")).unwrap(), chat.full(&ask("a", " \n")).unwrap());
    assert_eq!(none, blank);
    assert!(none.empty);
    assert_eq!(none.token_ids.len() - none.prompt_tokens, 1, "the end of turn alone");
    assert!(!chat.full(&ask("a", "b")).unwrap().empty);
    // Without a template white space is a response.
    let plain = Renderer::new(&tokenizer, false).unwrap();
    assert!(plain.full(&ask("a", "")).unwrap().empty && !plain.full(&ask("a", " ")).unwrap().empty);
}

#[test]
fn line_ends_of_a_template_are_line_feeds() {
    let text = |template: &str| {
        let tokenizer = tokenizer_with(template, &[]);
        Renderer::new(&tokenizer, true).unwrap().full(&ask("a", "b")).unwrap().text
    };
    let template = "{% for m in messages %}\n{{ m.role }}:\n{{ m.content }}\n{% endfor %}\n";
    assert_eq!(text(&template.replace('\n', "\r\n")), text(template));
    assert_eq!(text(&template.replace('\n', "\r")), text(template));
}
