//! Requests and tokens of a plan, their price, and budgets of them.

use serde_json::{Value, json};

use super::server::{Server, Settings};
use super::{TOKENIZER, refused, space, workflow};
use crate::artifacts::figures;
use crate::space::Space;

const STAGES: &str = "  answers: { generate: { model: big, data: rows, samples: 2, max_new_tokens: 6, temperature: 0.7, seed: 3 } }\n  \
    scored: { score: { model: big, data: answers } }\n";
const PRICES: &str =
    "[[prices.tokens]]\nmodel = \"m\"\ninput = \"1000USD\"\noutput = \"10000USD\"\n";

fn plan(space: &Space) -> Value {
    let arguments = ["plan", "w.yaml", "--config", "config.toml", "--format", "json"];
    let said = space.run(&arguments);
    assert_eq!(said.code, 0, "{}", said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

fn words(space: &Space) -> String {
    let said = space.run(&["plan", "w.yaml", "--config", "config.toml"]);
    let line = said.stdout.lines().find(|line| line.starts_with("served models: "));
    line.unwrap_or_else(|| panic!("{}", said.stdout)).to_owned()
}

/// The part `served` of a node.
fn served(plan: &Value, node: &str) -> Value {
    let nodes = plan["nodes"].as_array().unwrap();
    nodes.iter().find(|found| found["node"] == node).unwrap()["served"].clone()
}

#[test]
fn a_plan_tells_requests_tokens_and_their_price() {
    let server = Server::start(Settings::default());
    let space = space(10);
    workflow(&space, &server, TOKENIZER, STAGES);
    space.write("config.toml", PRICES);
    // The rows of the source are known when it is in the cache.
    space.report("w.yaml", &["--only", "rows"]);
    let first = plan(&space);
    assert_eq!(
        served(&first, "answers"),
        json!({ "model": "m", "requests": 20.0, "tokens_in": null, "tokens_out": 120.0,
                "limit": true, "money": null })
    );
    assert_eq!(served(&first, "scored")["requests"], Value::Null);
    assert_eq!(
        (&first["total"]["served"]["unknown"], served(&first, "rows")),
        (&json!(1), Value::Null)
    );
    let told = words(&space);
    for part in [
        "at most 20 requests; at most 120 tokens generated",
        "the number of rows of 1 node is not known",
        "the price of 2 nodes is not known",
    ] {
        assert!(told.contains(part), "no `{part}`: {told}");
    }

    // What is not known is over a budget of money.
    let budget = |limit: &str| {
        refused(&space, &["run", "w.yaml", "--config", "config.toml", "--budget", limit])
    };
    let (code, text) = budget("1000USD");
    assert!(code == 1 && text.contains("`answers` may pass the budget"), "{text}");

    // By the tokens of the earlier run.
    space.report("w.yaml", &["--config", "config.toml"]);
    assert_eq!(plan(&space)["total"]["served"], Value::Null, "all is cached");
    let of_body = |body: &Value| body["prompt"].as_array().unwrap().len() as f64;
    let sent: f64 = server.seen(|seen| seen.bodies.iter().map(of_body).sum());
    let made = figures(&space, "answers.metrics")("generated_tokens");
    space.edit("w.yaml", "seed: 3", "seed: 4");
    let second = plan(&space);
    let answers = served(&second, "answers");
    assert_eq!((&answers["requests"], &answers["limit"]), (&json!(20.0), &json!(false)));
    let scored = served(&second, "scored");
    let sum = |name: &str| answers[name].as_f64().unwrap() + scored[name].as_f64().unwrap();
    assert!((sum("tokens_in") - sent).abs() < 1e-6, "{answers} {scored} {sent}");
    assert_eq!(answers["tokens_out"].as_f64(), Some(made));
    let money = sum("tokens_in") / 1e3 + sum("tokens_out") / 1e2;
    assert!((sum("money") - money).abs() < 1e-9, "{answers} {scored}");
    assert!((second["total"]["money"].as_f64().unwrap() - money).abs() < 1e-9);
    assert_eq!(second["total"]["currency"], "USD");
    assert!(words(&space).ends_with(&format!("; about {money:.2} USD")), "{}", words(&space));
    space.edit("w.yaml", "samples: 2", "samples: 4");
    assert_eq!(served(&plan(&space), "answers")["requests"], 40.0);
    space.edit("w.yaml", "samples: 4", "samples: 2");

    let (code, text) = budget("0.01USD");
    assert!(code == 1 && text.contains("error: `answers` would cost about "), "{text}");
    assert_eq!(budget(&format!("{:.2}USD", money + 0.1)).0, 0);
}

#[test]
fn prices_are_of_one_currency() {
    let space = space(1);
    space.write("config.toml", &format!("[prices]\ngpu_hour = \"1EUR\"\n{PRICES}"));
    let (code, text) = refused(&space, &["doctor", "--config", "config.toml"]);
    assert!(code != 0 && text.contains("these are in EUR and USD"), "{text}");
}
