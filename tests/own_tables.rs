//! Tables of one's own: conversations with tools, samples, large numbers, columns left out.

use arrow::array::AsArray;

use crate::artifacts::{shown, texts};
use crate::space::{Space, small};

/// The texts of a column of a node's table.
fn column(space: &Space, workflow: &str, node: &str, name: &str) -> Vec<String> {
    let table = shown(space, &[workflow, node]);
    texts(&table, name).into_iter().map(|text| text.unwrap_or("null".into())).collect()
}

/// A space with the model folder `model`, whose chat template writes what it says of tools and
/// calls.
fn with_chat_model(template: &str) -> Space {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &["--only", "base"]);
    let from = space.run(&["show", "w.yaml", "base", "--path"]).stdout;
    std::fs::create_dir(space.path("model")).unwrap();
    for entry in std::fs::read_dir(space.path(from.trim())).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        std::fs::write(space.path("model").join(entry.file_name()), bytes).unwrap();
    }
    space.write("model/chat_template.jinja", template);
    space.write(
        "c.yaml",
        "refrain: 1\nmodels: { base: { path: model } }\ndata: { rows: { path: rows.jsonl } }\n\
         stages: { scored: { score: { model: base, data: rows, max_tokens: 127 } } }\n",
    );
    space
}

const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% endfor %}\
                     {% if add_generation_prompt %}<assistant>{% endif %}";

const CALLS: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>\
                     {{ m.content or '' }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}\
                     {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

const CALL: &str =
    "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"name\": \"w\"}]}";

#[test]
fn conversations_reach_the_template_whole() {
    let space = with_chat_model(CALLS);
    let asked = "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"So\"}, {\"type\": \"text\", \"text\": \"?\"}]}";
    let rows = format!(
        "{{\"id\": \"a\", \"messages\": [{asked}, {CALL}, {{\"role\": \"tool\", \"content\": \"7\", \"weight\": 0}}, \
         {{\"role\": \"model\", \"content\": \"it is 7\"}}], \"tools\": [{{\"name\": \"w\"}}]}}\n\
         {{\"id\": \"b\", \"messages\": [{asked}, {CALL}]}}\n"
    );
    space.write("rows.jsonl", &rows);
    let said = space.run(&["run", "c.yaml"]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let all = format!("{}{}", said.stdout, said.stderr);
    assert!(all.contains("`weight` (1 rows)") && !all.contains("`tool_calls` ("), "{all}");
    let texts = column(&space, "c.yaml", "scored", "text");
    let call = "[{\"name\": \"w\"}]";
    let first = format!("{call}<user>So?<assistant>{call}<tool>7<assistant>it is 7");
    assert!(texts[0].starts_with(&first), "{texts:?}");
    assert!(texts[1].starts_with(&format!("<user>So?<assistant>{call}")), "{texts:?}");
    assert_eq!(column(&space, "c.yaml", "scored", "response"), ["it is 7", ""]);
}

#[test]
fn a_call_that_the_template_does_not_write_is_refused() {
    let space = with_chat_model(PLAIN);
    let row = format!(
        "{{\"id\": \"a\", \"messages\": [{{\"role\": \"user\", \"content\": \"?\"}}, {CALL}, \
         {{\"role\": \"assistant\", \"content\": \"7\"}}]}}\n"
    );
    space.write("rows.jsonl", &row);
    let said = space.fails(&["run", "c.yaml", "--quiet"]);
    assert!(said.contains("`a`") && said.contains("`tool_calls`"), "{said}");
}

const ENDS: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}\
                    {% if add_generation_prompt %}<assistant>{% endif %}";

/// Scored and masked, or rendered for training: the same tokens are trained.
#[test]
fn every_turn_of_the_assistant_is_trained_on_request() {
    let space = with_chat_model(ENDS);
    let turns = |words: [&str; 4]| {
        let roles = ["human", "gpt", "human", "gpt"];
        let turns: Vec<String> = roles
            .iter()
            .zip(words)
            .map(|(role, text)| format!("{{\"from\": \"{role}\", \"value\": \"{text}\"}}"))
            .collect();
        format!("{{\"conversations\": [{}]}}\n", turns.join(", "))
    };
    space.write(
        "rows.jsonl",
        &(turns(["a?", "it is b.", "c?", "d"]) + &turns(["x", "y", "z", "1 2"])),
    );
    let tuned = |data: &str, more: &str| {
        format!(
            "{{ finetune: {{ model: base, data: {data}, lora: {{ rank: 2 }}, steps: 2, seed: 3{more} }} }}"
        )
    };
    space.write(
        "c.yaml",
        &format!(
            "refrain: 1\nmodels: {{ base: {{ path: model }} }}\n\
             data: {{ rows: {{ path: rows.jsonl, columns: {{ messages: conversations }} }} }}\nstages:\n  \
             scored: {{ score: {{ model: base, data: rows, of: turns }} }}\n  \
             masked: {{ mask: {{ data: scored, above: 1000000 }} }}\n  \
             some: {{ mask: {{ data: scored, quantile: 0.5 }} }}\n  \
             of_mask: {}\n  of_some: {}\n  of_rows: {}\n  last: {}\n",
            tuned("masked", ""),
            tuned("some", ""),
            tuned("rows", ", train_on: all"),
            tuned("rows", ""),
        ),
    );
    let report = space.report("c.yaml", &[]);
    let node = |name: &str| {
        let nodes = report["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["node"] == name).unwrap().clone()
    };
    let figure = |name: &str, metric: &str| {
        let metrics = node(name)["metrics"].as_array().unwrap().clone();
        let found = metrics.iter().find(|found| found["metric"] == metric);
        found.unwrap_or_else(|| panic!("{metrics:?}"))["value"].as_f64().unwrap()
    };
    let digest = |name: &str| node(name)["outputs"]["main"].clone();
    assert_eq!(digest("of_mask"), digest("of_rows"));
    assert_ne!(digest("of_rows"), digest("last"));
    assert_eq!(figure("of_mask", "active_tokens"), figure("scored", "response_tokens"));
    assert!(figure("of_rows", "active_tokens") > figure("last", "active_tokens"));
    assert!(figure("of_some", "active_tokens") < figure("of_mask", "active_tokens"));
    assert_eq!(figure("of_mask", "masked_share"), 0.0);

    // The assistant's turns are trained, with the ends of its turns.
    let batch = shown(&space, &["c.yaml", "scored"]);
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let text = column("text").as_string::<i32>().value(0);
    let (offsets, turns) = (
        column("offsets").as_list::<i32>().value(0),
        column("response_mask").as_list::<i32>().value(0),
    );
    let offsets: Vec<usize> = offsets
        .as_primitive::<arrow::datatypes::Int32Type>()
        .values()
        .iter()
        .map(|at| *at as usize)
        .chain([text.len()])
        .collect();
    let trained: String = (0..turns.len())
        .filter(|token| turns.as_boolean().value(*token))
        .map(|token| &text[offsets[token]..offsets[token + 1]])
        .collect();
    let end = trained.split("it is b.").nth(1).unwrap().split('d').next().unwrap();
    assert!(!end.is_empty() && trained == format!("it is b.{end}d{end}"), "{trained}");
}

#[test]
fn own_samples_are_judged_by_pass_at_k() {
    let space = Space::new();
    let row = |id: &str, sample: u8, response: &str| {
        format!(
            "{{\"id\": \"{id}\", \"sample\": {sample}, \"response\": \"{response}\", \"reference\": 18}}\n"
        )
    };
    let rows = [row("a", 0, "18"), row("a", 1, "17"), row("b", 0, "17"), row("b", 1, "17")];
    space.write("rows.jsonl", &rows.concat());
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\n\
         stages: { j: { evaluate: { data: rows, task: exact_match, pass_at: [1, 2] } } }\n",
    );
    space.report("w.yaml", &[]);
    let results = space.run(&["results", "w.yaml", "--format", "json"]).stdout;
    let compact = results.replace([' ', '\n'], "");
    assert!(compact.contains("0.25") && compact.contains("0.5"), "{results}");
}

/// Both rows are read, their ids as they stand, and 2^64 is judged equal to its text.
#[test]
fn whole_numbers_keep_their_digits() {
    let space = Space::new();
    space.write(
        "rows.jsonl",
        "{\"id\":18446744073709551615,\"prompt\":\"a\",\"response\":\"1\",\"reference\":1}\n\
         {\"id\":18446744073709551614,\"prompt\":\"b\",\"response\":\"18446744073709551616\",\"reference\":18446744073709551616}\n\
         {\"id\":\"c\",\"prompt\":\"c\",\"response\":\"18\",\"reference\":18}\n\
         {\"id\":\"d\",\"prompt\":\"d\",\"response\":\"2.5\",\"reference\":2.5}\n",
    );
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { rows: { path: rows.jsonl } }\n\
         stages: { j: { evaluate: { data: rows, task: exact_match } } }\n\
         expect: [{ stage: j, metric: accuracy, value: 1.0, within: 0.0 }]\n",
    );
    space.report("w.yaml", &[]);
    let ids = column(&space, "w.yaml", "j", "id");
    assert_eq!(ids, ["18446744073709551615", "18446744073709551614", "c", "d"]);
}

#[test]
fn a_column_that_no_table_holds_is_left_out_on_request() {
    let space = Space::new();
    let workflow = |options: &str| {
        format!(
            "refrain: 1\ndata:\n  rows: {{ path: rows.jsonl{options} }}\n\
             stages: {{ s: {{ diversify: {{ data: rows, dedupe: exact }} }} }}\n"
        )
    };
    space.write(
        "rows.jsonl",
        "{\"prompt\": \"a\", \"response\": \"b\", \"odd\": [1, [2]], \"new\": \"c\"}\n",
    );
    space.write("w.yaml", &workflow(""));
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("`drop: [odd]`"), "{said}");
    space.write("w.yaml", &workflow(", drop: [odd]"));
    space.report("w.yaml", &[]);
    // A renamed column never replaces another one; the problem stands at the name.
    space.write("w.yaml", &workflow(", drop: [odd], columns: { response: new }"));
    let said = space.fails(&["check", "w.yaml"]);
    assert!(said.contains("has a column `response` already"), "{said}");
    assert!(said.contains("w.yaml:3:"), "{said}");
}
