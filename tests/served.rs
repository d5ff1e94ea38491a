//! Models that a server computes: faults, identity, keys, what is refused.

mod cost;
mod real;
mod server;
mod started;

use std::collections::BTreeSet;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float32Type, Int32Type};
use serde_json::Value;

use crate::artifacts::shown;
use crate::space::{Space, names, set, small};

use server::{Fault, Scores, Server, Settings};

/// A space with a tokenizer in `tokenizer/` and that many rows.
fn space(rows: usize) -> Space {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &["--only", "base"]);
    let said = space.run(&["show", "w.yaml", "base", "--path"]);
    std::fs::create_dir(space.path("tokenizer")).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let from = std::path::Path::new(said.stdout.trim()).join(name);
        if from.is_file() {
            std::fs::copy(from, space.path("tokenizer").join(name)).unwrap();
        }
    }
    std::fs::remove_dir_all(space.path(".refrain")).unwrap();
    std::fs::remove_file(space.path("w.lock")).unwrap();
    let row = |i: usize| {
        format!(
            "{{\"id\": \"r{i}\", \"prompt\": \"This is row number {i}, a long one: what is {i} plus 1, and \
             what is {i} plus 2?\", \"response\": \"it is {}, and {}.\"}}\n",
            i + 1,
            i + 2
        )
    };
    space.write("rows.jsonl", &(0..rows).map(row).collect::<String>());
    space
}

/// A workflow of one model of a server, with these stages.
fn workflow(space: &Space, server: &Server, model: &str, stages: &str) {
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\nmodels:\n  big: {{ server: \"{}\", name: m, revision: \"1\", {model} }}\n\
             data: {{ rows: {{ path: rows.jsonl }} }}\nstages:\n{stages}",
            server.address
        ),
    );
}

const TOKENIZER: &str = "tokenizer: tokenizer";
const ANSWERS: &str = "  answers: { generate: { model: big, data: rows, max_new_tokens: 6, temperature: 0.7, seed: 3 } }\n";
const SCORED: &str = "  scored: { score: { model: big, data: rows } }\n";

/// Every tenth request for a row fails, each in another way than the one before.
fn every_tenth(number: u64) -> Fault {
    match number % 60 {
        3 => Fault::Status(429, Some(0.05)),
        13 => Fault::Drop,
        23 => Fault::HalfBody,
        33 => Fault::Status(503, None),
        43 => Fault::HalfJson,
        53 => Fault::Status(500, None),
        _ => Fault::None,
    }
}

#[test]
fn a_thousand_rows_survive_a_faulty_server() {
    let server = Server::start(Settings::default());
    let space = space(1000);
    workflow(&space, &server, TOKENIZER, &(ANSWERS.to_owned() + SCORED));
    let sound = space.digests("w.yaml", &[]);
    assert_eq!(server.seen(|seen| seen.answered.len()), 2000);

    server.forget();
    server.change(|settings| settings.fault = every_tenth);
    let faulty = space.digests("w.yaml", &["--cache", "other"]);
    assert_eq!(faulty, sound, "faults change no byte");
    server.seen(|seen| {
        assert_eq!(seen.answered.len(), 2000, "all rows are there");
        let again = seen.answered.values().filter(|&&times| times != 1).count();
        assert_eq!(again, 0, "rows that were asked for again after a whole answer");
        let failed = seen.requests - 2000;
        assert!((200..300).contains(&failed), "{failed} requests failed");
        assert!(seen.most <= 32, "{} requests under way", seen.most);
    });
}

#[test]
fn requests_keep_the_server_busy() {
    let delay = Duration::from_millis(10);
    let server = Server::start(Settings { delay, ..Settings::default() });
    let space = space(1000);
    workflow(&space, &server, TOKENIZER, ANSWERS);
    space.report("w.yaml", &[]);
    let (took, most) = server.seen(|seen| {
        let begin = *seen.times.iter().min().unwrap();
        (seen.last.unwrap().duration_since(begin), seen.most)
    });
    let ideal = delay.mul_f64(1000.0 / 32.0);
    let factor = took.as_secs_f64() / ideal.as_secs_f64();
    println!("1000 requests of {delay:?}, 32 at once: {took:?}, {factor:.2} of the ideal");
    assert!((2..=32).contains(&most), "{most} requests under way");
    // Beside other tests the processors are the limit: the server of this test runs on them too.
    match std::env::var_os("REFRAIN_TEST_SPEED") {
        Some(_) => assert!(factor <= 1.25 && most == 32, "{factor}, {most}"),
        None => println!("not compared with the ideal: REFRAIN_TEST_SPEED=1 does, on idle cores"),
    }
}

#[test]
fn the_number_of_requests_is_a_setting() {
    let delay = Duration::from_millis(20);
    let server = Server::start(Settings { delay, ..Settings::default() });
    let space = space(24);
    let stages = ANSWERS.replace("seed: 3 }", "seed: 3 }, resources: { requests: 3 }");
    workflow(&space, &server, TOKENIZER, &stages);
    let first = space.digests("w.yaml", &[]);
    assert_eq!(server.seen(|seen| seen.most), 3);
    workflow(&space, &server, TOKENIZER, ANSWERS);
    assert_eq!(space.digests("w.yaml", &[]), first);
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "no key holds it");
}

#[test]
fn every_parameter_and_a_seed_for_each_row_are_sent() {
    let server = Server::start(Settings::default());
    let space = space(4);
    let stages = ANSWERS.replace("seed: 3", "seed: 3, samples: 2, top_p: 0.5, stop: [\"###\"]");
    workflow(&space, &server, TOKENIZER, &stages);
    space.report("w.yaml", &[]);
    let bodies = server.seen(|seen| seen.bodies.clone());
    assert_eq!(bodies.len(), 8);
    let seeds: BTreeSet<u64> = bodies.iter().map(|body| body["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds.len(), 8);
    assert!(seeds.iter().all(|seed| *seed < 1 << 31), "{seeds:?}");
    for body in &bodies {
        let number = |name: &str| body[name].as_f64().unwrap();
        assert_eq!((number("temperature"), number("top_p"), number("min_p")), (0.7, 0.5, 0.0));
        assert_eq!((number("repeat_penalty"), number("repetition_penalty")), (1.0, 1.0));
        assert_eq!((number("presence_penalty"), number("frequency_penalty")), (0.0, 0.0));
        assert!(number("top_k") > 1e6);
        assert_eq!((&body["stop"][0], &body["stream"]), (&"###".into(), &false.into()));
        assert!(body["prompt"].as_array().unwrap().iter().all(Value::is_u64), "ids are sent");
    }

    let table = shown(&space, &["w.yaml", "answers"]);
    let ids = table["response_token_ids"].as_list::<i32>().value(0);
    let logprobs = table["response_logprobs"].as_list::<i32>().value(0);
    assert!(!ids.is_empty() && ids.len() == logprobs.len());
    assert!(ids.as_primitive::<Int32Type>().values().iter().all(|id| *id >= 40));
    assert!(logprobs.as_primitive::<Float32Type>().values().iter().all(|value| *value < 0.0));
}

#[test]
fn what_identifies_a_served_model_is_in_the_key_and_nothing_else() {
    let server = Server::start(Settings::default());
    let space = space(3);
    workflow(&space, &server, TOKENIZER, &(ANSWERS.to_owned() + SCORED));
    space.report("w.yaml", &[]);
    let ran = |edit: (&str, &str)| {
        let text = space.read("w.yaml");
        space.edit("w.yaml", edit.0, edit.1);
        let plan = space.run(&["plan", "w.yaml", "--format", "json"]);
        space.write("w.yaml", &text);
        let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
        let nodes = plan["nodes"].as_array().unwrap().iter();
        nodes.filter(|node| node["step"] != "cached").count()
    };
    assert_eq!(ran((&server.address, "http://127.0.0.1:9/v1")), 0, "the address");
    assert_eq!(ran(("name: m,", "name: m, key: \"${env:K}\",")), 0, "the key of the server");
    assert_eq!(ran(("name: m,", "name: m, api: completions,")), 0, "a default, written out");
    assert_eq!(ran(("seed: 3", "seed: 3, backend: server")), 0, "what a served model implies");
    assert!(ran(("name: m,", "name: other,")) > 0, "the name");
    assert!(ran(("revision: \"1\"", "revision: \"2\"")) > 0, "the revision");

    let moved = Server::start(Settings::default());
    workflow(&space, &moved, TOKENIZER, &(ANSWERS.to_owned() + SCORED));
    assert_eq!(space.ran("w.yaml", &[]), set(&[]));
    // Without the tokenizer the lock tells.
    std::fs::rename(space.path("tokenizer"), space.path("away")).unwrap();
    let said = space.run(&["verify", "w.yaml", "--no-data"]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    std::fs::rename(space.path("away"), space.path("tokenizer")).unwrap();
    space.edit("tokenizer/tokenizer.json", "{", "{ ");
    assert!(space.ran("w.yaml", &[]).contains("scored"), "the tokenizer");
}

#[test]
fn other_weights_under_the_same_name_stop_a_run() {
    let server = Server::start(Settings::default());
    let space = space(6);
    workflow(&space, &server, TOKENIZER, ANSWERS);
    space.report("w.yaml", &[]);
    let lock = space.read("w.lock");
    assert!(lock.contains("\"pinned\"") && lock.contains("\"fingerprint\""), "{lock}");
    assert!(lock.contains("\"profile\":\"server vllm 0.9.1\""), "{lock}");

    // A restart of the same weights, and an upgrade that moves the last digits.
    server.forget();
    server.change(|settings| (settings.version, settings.noise) = ("0.10.0", 0.02));
    let forced = space.report("w.yaml", &["--force", "answers"]);
    assert_eq!(names(&forced, "ran"), set(&["answers"]));
    assert_eq!(space.read("w.lock").matches("\"pinned\"").count(), 1);
    let more =
        space.read("rows.jsonl").replace("\"r0\"", "\"r0b\"").replace("row number 0", "row zero");
    space.write("rows.jsonl", &more);
    server.forget();
    space.report("w.yaml", &[]);
    assert_eq!(server.seen(|seen| seen.requests), 1, "the other rows are known");
    assert!(space.read("w.lock").contains("server vllm 0.10.0"));

    // Swapped weights.
    server.change(|settings| settings.salt = 2);
    space.edit("w.yaml", "seed: 3", "seed: 4");
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 4, "{}", said.stderr);
    for words in ["is not the model that was pinned", "differ by", "another `revision`"] {
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
    // A lock that lacks it has it from the cache.
    let lock = space.read("w.lock");
    std::fs::remove_file(space.path("w.lock")).unwrap();
    space.edit("w.yaml", "seed: 4", "seed: 3");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]));
    assert_eq!(space.read("w.lock"), lock);
    space.edit("w.yaml", "seed: 3", "seed: 4");
    // Nor does another cache forget it: the lock knows.
    let said = space.run(&["run", "w.yaml", "--cache", "other"]);
    assert!(said.stderr.contains("is not the model that was pinned"), "{}", said.stderr);
    space.edit("w.yaml", "revision: \"1\"", "revision: \"2\"");
    space.report("w.yaml", &[]);
}

#[test]
fn another_server_in_the_midst_of_a_run_is_noticed() {
    let server =
        Server::start(Settings { delay: Duration::from_millis(20), ..Settings::default() });
    let space = space(200);
    let stages = ANSWERS.replace("seed: 3 }", "seed: 3 }, resources: { requests: 2 }");
    workflow(&space, &server, TOKENIZER, &stages);
    let run =
        space.command(&["run", "w.yaml"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while server.seen(|seen| seen.requests) < 40 {
        std::thread::sleep(Duration::from_millis(5));
    }
    server.change(|settings| settings.gone = true);
    std::thread::sleep(Duration::from_millis(300));
    server.change(|settings| (settings.gone, settings.salt) = (false, 2));
    let said = run.wait_with_output().unwrap();
    let stderr = String::from_utf8(said.stderr).unwrap();
    assert!(stderr.contains("is not the model that was pinned"), "{stderr}");
}

#[test]
fn an_interrupted_run_loses_no_row() {
    let server = Server::start(Settings {
        fault: |number| if number >= 300 { Fault::Status(400, None) } else { Fault::None },
        ..Settings::default()
    });
    let space = space(500);
    workflow(&space, &server, TOKENIZER, ANSWERS);
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains(": row ") && said.stderr.contains("fault 400"), "{}", said.stderr);
    let answered = server.seen(|seen| seen.answered.len());
    assert!(answered >= 300, "{answered}");

    server.change(|settings| settings.fault = |_| Fault::None);
    space.report("w.yaml", &[]);
    server.seen(|seen| {
        assert_eq!(seen.answered.len(), 500);
        assert!(seen.answered.values().all(|&times| times == 1), "a row was asked for again");
    });
}

#[test]
fn retry_after_is_obeyed() {
    let server = Server::start(Settings {
        fault: |number| if number == 0 { Fault::Status(429, Some(1.0)) } else { Fault::None },
        ..Settings::default()
    });
    let space = space(1);
    workflow(&space, &server, TOKENIZER, ANSWERS);
    space.report("w.yaml", &[]);
    let times = server.seen(|seen| seen.times.clone());
    assert_eq!(times.len(), 2);
    assert!(times[1].duration_since(times[0]) >= Duration::from_secs(1));
}

/// Runs a workflow that must fail, and gives its exit code and words.
fn refused(space: &Space, arguments: &[&str]) -> (i32, String) {
    let said = space.command(arguments).env("TOKEN", "hunter2-hunter2").output().unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(!text.contains("panicked") && !text.contains("internal error"), "{text}");
    (said.status.code().unwrap(), text)
}

#[test]
fn every_refusal_says_what_to_do() {
    let space = space(3);
    let check = |settings: Settings, edit: (&str, &str), code: i32, words: &[&str]| {
        let server = Server::start(settings);
        workflow(&space, &server, TOKENIZER, ANSWERS);
        if !edit.0.is_empty() {
            space.edit("w.yaml", edit.0, edit.1);
        }
        let (found, text) = refused(&space, &["run", "w.yaml", "--cache", "fresh"]);
        std::fs::remove_dir_all(space.path("fresh")).unwrap();
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
        assert_eq!(found, code, "{text}");
    };
    let secret = Settings { key: Some("sesame"), ..Settings::default() };
    let key = ("name: m,", "name: m, key: \"${env:TOKEN}\",");
    check(secret.clone(), key, 4, &["refuses the key", "it answers 401: wrong key ***"]);
    check(secret, ("", ""), 4, &["refuses the key", "key: \"${env:NAME}\""]);
    let unset = ("name: m,", "name: m, key: \"${env:NOWHERE}\",");
    check(Settings::default(), unset, 4, &["the server's key is in `NOWHERE`, which is not set"]);
    let name = ("name: m,", "name: large,");
    let words = ["`large` at", "does not exist", "it offers `m`, `other`"];
    check(Settings::default(), name, 4, &words);
    let short = Settings { context: 50, ..Settings::default() };
    check(short, ("", ""), 1, &["row 0", "is too long for `m`", "maximum context length is 50"]);
    let other = Settings { fault: |_| Fault::OtherIds, ..Settings::default() };
    check(other, ("", ""), 1, &["row 0", "other token ids than were sent, from token 0 on"]);
    let half = Settings { fault: |_| Fault::HalfJson, ..Settings::default() };
    check(half, ("", ""), 4, &["its answer is not whole JSON", "4 times"]);
    let gone = ("/v1\"", "/nothing\"");
    check(Settings::default(), gone, 4, &["is not there: it answers 404", "mostly ends in `/v1`"]);
}

#[test]
fn nobody_at_the_address_is_said_at_once() {
    let space = space(1);
    let server = Server::start(Settings::default());
    workflow(&space, &server, TOKENIZER, ANSWERS);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    space.edit("w.yaml", &server.address, &format!("http://127.0.0.1:{port}/v1"));
    let (code, text) = refused(&space, &["run", "w.yaml"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("does not answer: the connection failed"), "{text}");
}

#[test]
fn a_row_has_a_time_limit() {
    let server = Server::start(Settings { fault: |_| Fault::SlowBody, ..Settings::default() });
    let space = space(1);
    workflow(&space, &server, TOKENIZER, ANSWERS);
    space.write("config.toml", "[requests]\ntime_limit = \"1s\"\n");
    let (code, text) = refused(&space, &["run", "w.yaml", "--config", "config.toml"]);
    assert_eq!(code, 4, "{text}");
    assert!(
        text.contains("did not answer within") && text.contains("`time_limit` of 1 s"),
        "{text}"
    );
}

#[test]
fn scores_are_those_of_the_server() {
    let space = space(5);
    let mut tables = Vec::new();
    for scores in [Scores::PromptLogprobs, Scores::InputTokenLogprobs] {
        let server = Server::start(Settings { scores, ..Settings::default() });
        workflow(&space, &server, TOKENIZER, SCORED);
        std::fs::remove_dir_all(space.path(".refrain")).unwrap_or_default();
        space.report("w.yaml", &[]);
        tables.push(space.read("w.lock").lines().last().unwrap().to_owned());
        let table = shown(&space, &["w.yaml", "scored"]);
        let logprobs = table["logprobs"].as_list::<i32>().value(0);
        let ids = table["token_ids"].as_list::<i32>().value(0);
        assert_eq!(logprobs.len(), ids.len());
        assert_eq!(logprobs.null_count(), 1, "nothing is before the first token");
    }
    assert_eq!(tables[0], tables[1], "the way of asking moves nothing");

    for (scores, words) in [
        (Scores::Never, "it knows neither `prompt_logprobs` nor `echo`"),
        (Scores::Wrong, "when it generates it"),
    ] {
        let server = Server::start(Settings { scores, ..Settings::default() });
        workflow(&space, &server, TOKENIZER, SCORED);
        let (code, text) = refused(&space, &["run", "w.yaml", "--cache", "fresh"]);
        assert_eq!(code, 4, "{text}");
        assert!(text.contains("cannot score") && text.contains(words), "{text}");
    }
}

#[test]
fn a_chat_needs_no_tokenizer() {
    let server = Server::start(Settings::default());
    let space = space(4);
    let stages = "  judged: { evaluate: { model: big, data: rows, task: exact_match, max_new_tokens: 6 } }\n";
    workflow(&space, &server, "api: chat", stages);
    let rows = space.read("rows.jsonl").replace("\"response\"", "\"reference\"");
    space.write("rows.jsonl", &rows);
    space.report("w.yaml", &[]);
    let table = shown(&space, &["w.yaml", "judged/answers"]);
    assert!(table["response"].as_string::<i32>().value(0).starts_with('w'));
    assert!(table["response_token_ids"].is_null(0), "a server did not say them");
    assert!(table["response_logprobs"].is_valid(0));
    let bodies = server.seen(|seen| seen.bodies.clone());
    assert_eq!(bodies[0]["messages"][0]["role"], "user");

    let silent = Server::start(Settings { logprobs: false, ..Settings::default() });
    workflow(&space, &silent, "api: chat", stages);
    space.edit("w.yaml", "revision: \"1\"", "revision: \"2\"");
    space.report("w.yaml", &[]);
    assert!(space.read("w.lock").contains("\"texts\""), "greedy texts are the fingerprint");
}

#[test]
fn the_example_is_answered_by_a_server() {
    let space = Space::new();
    for file in ["examples/served.yaml", "examples/served/sums.jsonl"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        space.write(file, &std::fs::read_to_string(path).unwrap());
    }
    let server = Server::start(Settings::default());
    let address = format!("server={}", server.address);
    let set = ["--set", &address, "--set", "name=m"];
    let said = space.run(&[&["run", "examples/served.yaml", "--quiet"][..], &set].concat());
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("answered.accuracy"), "{}", said.stdout);
    let table = shown(&space, &[&["examples/served.yaml", "answered"][..], &set].concat());
    let responses = table["response"].as_string::<i32>();
    assert_eq!(responses.len(), 12);
    assert!(responses.iter().all(|response| response.unwrap().starts_with('w')), "{responses:?}");
}

#[test]
fn check_refuses_what_a_server_cannot_do() {
    let server = Server::start(Settings::default());
    let space = space(2);
    for (model, stages, words) in [
        (
            TOKENIZER,
            "  tuned: { finetune: { model: big, data: rows, lora: { rank: 2 }, steps: 1 } }\n",
            "it needs the weights of `big`, which a server holds",
        ),
        (
            TOKENIZER,
            "  copied: { run: { command: [cp, -r, \"${in.m}\", \"${out.o}\"], inputs: { m: big }, outputs: { o: model } } }\n",
            "it needs the weights of `big`",
        ),
        ("api: chat", SCORED, "`api: chat` cannot score"),
        (
            "api: chat",
            "  a: { generate: { model: big, data: rows, chat: false } }\n",
            "`chat: false` beside `api: chat`",
        ),
        (
            TOKENIZER,
            "  a: { generate: { model: big, data: rows, backend: native } }\n",
            "`native` needs weights",
        ),
        ("api: completions", ANSWERS, "`api: completions` needs `tokenizer`"),
        ("path: x, tokenizer: tokenizer", ANSWERS, "`path` stands beside `server`"),
        ("tokenizer: nowhere", ANSWERS, "holds no `tokenizer.json`"),
        ("tokenizer: tokenizer, api: talk", ANSWERS, "`api` cannot be `talk`"),
    ] {
        workflow(&space, &server, model, stages);
        let (code, text) = refused(&space, &["check", "w.yaml"]);
        assert!(code == 2 && text.contains(words), "{words}: {text}");
    }
    for (from, to, words) in [
        (server.address.as_str(), "127.0.0.1:8000", "is not an address"),
        (", revision: \"1\"", "", "a served model needs `revision`"),
        ("name: m, ", "", "a served model needs `name`"),
        ("server: ", "address: ", "has no parameter `address`"),
    ] {
        workflow(&space, &server, TOKENIZER, ANSWERS);
        space.edit("w.yaml", from, to);
        let (code, text) = refused(&space, &["check", "w.yaml"]);
        assert!(code == 2 && text.contains(words), "{words}: {text}");
    }
    assert_eq!(server.seen(|seen| seen.requests), 0, "nothing was asked");
}

#[test]
fn a_second_computation_is_compared_within_a_tolerance() {
    let server = Server::start(Settings::default());
    let space = space(3);
    workflow(&space, &server, TOKENIZER, &(ANSWERS.to_owned() + SCORED));
    space.report("w.yaml", &[]);
    server.change(|settings| settings.noise = 0.0004);
    let said = space.run(&["verify", "w.yaml", "--recompute", "all"]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("does not compute the same bits each time"), "{}", said.stdout);
}

#[test]
fn a_key_is_in_nothing_that_is_written() {
    let server = Server::start(Settings { key: Some("hunter2-hunter2"), ..Settings::default() });
    let space = space(3);
    workflow(&space, &server, &format!("{TOKENIZER}, key: \"${{env:TOKEN}}\""), ANSWERS);
    for arguments in [
        &["run", "w.yaml", "--log", "trace", "--trace", "trace.json"][..],
        &["run", "w.yaml", "--force", "answers", "--log", "trace", "--log-format", "json"],
        &["plan", "w.yaml"],
        &["explain", "w.yaml"],
        &["show", "w.yaml", "big"],
        &["verify", "w.yaml"],
    ] {
        let said = space.command(arguments).env("TOKEN", "hunter2-hunter2").output().unwrap();
        assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
        crate::secrets::clean("stdout", &said.stdout);
        crate::secrets::clean("stderr", &said.stderr);
    }
    crate::secrets::clean_folder(&space.path("."));
}
