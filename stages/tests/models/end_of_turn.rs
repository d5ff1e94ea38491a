//! `generate` stops where training taught the model to, also when only the chat template knows that token.

use refrain_engine::kind::MAIN;

use crate::bench::*;

const NEW: &str = "data: d, from: { config: { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, \
    num_attention_heads: 4 }, tokenizer: { vocab_size: 300, special_tokens: [<end>], chat_template: \
    \"{{ bos_token }}{% for m in messages %}{{ m.content }}<end>{% endfor %}\" } }, steps: 60, batch_size: 2, \
    learning_rate: 1e-2, seed: 1";

#[test]
fn the_templates_end_of_turn_ends_a_response() {
    let bench = Bench::new();
    let rows =
        bench.table(&texts(&[("prompt", &["left", "up"]), ("response", &["right", "down"])]));
    let outputs = bench.run("finetune", NEW, &[("data", &rows)]).unwrap();
    let model = bench.input(outputs.artifacts[MAIN].clone());
    let inputs = [("model", &model), ("data", &rows)];
    let end = *int_lists(&bench.made("score", "model: m, data: d", &inputs), "token_ids")[0]
        .last()
        .unwrap();

    let made = bench.made("generate", "model: m, data: d, max_new_tokens: 24", &inputs);
    assert_eq!(strings(&made, "response"), ["right", "down"], "the rows are not learnt by heart");
    assert_eq!(strings(&made, "finish_reason"), ["stop", "stop"]);
    for ids in int_lists(&made, "response_token_ids") {
        assert_eq!(ids.iter().position(|id| *id == end), Some(ids.len() - 1));
    }
    let on =
        bench.made("generate", "model: m, data: d, max_new_tokens: 24, ignore_eos: true", &inputs);
    assert_eq!(strings(&on, "finish_reason"), ["length", "length"]);
}
