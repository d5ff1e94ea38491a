//! Model folders on servers: of an address of the configuration, and of one that is started.

use std::path::Path;

use super::server::{Server, Settings};
use super::{refused, space};
use crate::space::{Space, set};

/// A server in Python that says one thing, and dies with its folder.
const PROGRAM: &str = r#"
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

model, port, key = sys.argv[1], int(sys.argv[2]), os.environ.get("SERVED_KEY")
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "started"), "a") as log:
    log.write(f"{os.getpid()} {model}\n")
if os.path.exists(os.path.join(model, "broken")):
    sys.exit("no memory for this model")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, value):
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.say({"data": [{"id": model, "owned_by": "test"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("load_lora_adapter"):
            return self.say("loaded")
        adapted = body["model"] != model
        ids = [60 + len(body["prompt"]) % 50 + adapted]
        self.say({"choices": [{"text": "", "finish_reason": "length", "token_ids": ids,
                               "logprobs": {"tokens": [""], "token_logprobs": [-1.0 - adapted]}}],
                  "usage": {"prompt_tokens": len(body["prompt"])}})


ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"#;

const FOLDER: &str = "refrain: 1\nmodels:\n  small: { path: model }\n\
    data: { rows: { path: rows.jsonl } }\nstages:\n  \
    a: { generate: { model: small, data: rows, backend: server, max_new_tokens: 1 } }\n  \
    b: { generate: { model: small, data: rows, backend: server, max_new_tokens: 1, seed: 1, temperature: 0.5 } }\n";

/// A space with a model folder.
fn folder() -> Space {
    let space = space(3);
    std::fs::rename(space.path("tokenizer"), space.path("model")).unwrap();
    space.write(
        "model/config.json",
        r#"{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 280,
            "num_hidden_layers": 1, "intermediate_size": 16}"#,
    );
    space.write("model/model.safetensors", "weights");
    space.write("w.yaml", FOLDER);
    space
}

fn has_python(space: &Space) -> bool {
    let python = ["/usr/bin/python3", "/bin/python3"].iter().any(|path| Path::new(path).exists());
    if !python {
        println!("skipped: there is no python3");
    }
    space.write("server/serve.py", PROGRAM);
    python
}

#[test]
fn a_server_of_a_folder_is_started_probed_and_ended() {
    let space = folder();
    if !has_python(&space) {
        return;
    }
    space.write(
        "config.toml",
        "[[servers]]\ncommand = [\"python3\", \"server/serve.py\", \"{model}\", \"{port}\"]\nkey_variable = \"SERVED_KEY\"\n",
    );
    let run = |arguments: &[&str]| {
        let arguments = [&["run", "w.yaml", "--config", "config.toml"], arguments].concat();
        space.command(&arguments).env("SERVED_KEY", "hunter2-hunter2").output().unwrap()
    };
    let said = run(&[]);
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    let started = space.read("server/started");
    assert_eq!(started.lines().count(), 1, "one server for both stages: {started}");
    let process = started.split(' ').next().unwrap();
    assert!(!Path::new("/proc").join(process).exists(), "it has ended");
    crate::secrets::clean_folder(&space.path("."));

    // The key holds the content and the word; where it is served is the machine's.
    let lock = space.read("w.lock");
    assert!(lock.contains("\"profile\":\"server test\"") && lock.contains("\"pinned\""), "{lock}");
    assert_eq!(space.ran("w.yaml", &[]), set(&[]), "no configuration is needed for what is known");
    space.write("model/broken", "");
    space.edit("w.yaml", "max_new_tokens: 1 } }", "max_new_tokens: 2 } }");
    let said = String::from_utf8(run(&[]).stderr).unwrap();
    assert!(said.contains("the server `python3` ended; the end of what it printed:"), "{said}");
    assert!(said.contains("no memory for this model"), "{said}");
}

#[test]
fn an_adapter_is_loaded_into_the_server_of_its_base() {
    let space = Space::new();
    crate::space::small(&space);
    if !has_python(&space) {
        return;
    }
    let stages = "  answers:\n    generate: { model: tuned, data: train, backend: server, max_new_tokens: 1 }\n  \
                  before:\n    generate: { model: base, data: train, backend: server, max_new_tokens: 1 }\n";
    let text = space.read("w.yaml");
    let begin = text.find("  target:").unwrap();
    space.write("w.yaml", &(text[..begin].to_owned() + stages + "sweep:\n  threshold: [40]\n"));
    space.write(
        "config.toml",
        "[[servers]]\ncommand = [\"python3\", \"server/serve.py\", \"{model}\", \"{port}\"]\n",
    );
    space.report("w.yaml", &["--config", "config.toml"]);
    assert_eq!(space.read("server/started").lines().count(), 1, "one server for base and adapter");
    assert_eq!(space.read("w.lock").matches("\"pinned\"").count(), 2, "each has its fingerprint");
    let digests = space.digests("w.yaml", &[]);
    assert_ne!(digests["answers[threshold=40]"], digests["before"]);
}

#[test]
fn a_folder_needs_an_address_or_a_command() {
    let space = folder();
    let (code, text) = refused(&space, &["run", "w.yaml"]);
    assert!(code == 4 && text.contains("the configuration names none"), "{text}");

    let server = Server::start(Settings::default());
    let config = |more: &str| {
        let text = format!("[[servers]]\naddress = \"{}\"\n{more}", server.address);
        space.write("config.toml", &text);
    };
    config("");
    let (code, text) = refused(&space, &["run", "w.yaml", "--config", "config.toml"]);
    assert!(code == 4 && text.contains("offers 2 models"), "{text}");
    assert!(text.contains("give the server's `name` for it: `m`, `other`"), "{text}");
    config("name = \"m\"\n");
    space.report("w.yaml", &["--config", "config.toml"]);
    config("name = \"m\"\nmodel = \"another\"\n");
    space.edit("w.yaml", "max_new_tokens: 1 } }", "max_new_tokens: 2 } }");
    let (code, text) = refused(&space, &["run", "w.yaml", "--config", "config.toml"]);
    assert!(code == 4 && text.contains("the configuration names none"), "{text}");
}

#[test]
fn the_fingerprint_of_a_folder_is_pinned_and_compared() {
    let space = folder();
    let server = Server::start(Settings::default());
    let config = format!("[[servers]]\naddress = \"{}\"\nname = \"m\"\n", server.address);
    space.write("config.toml", &config);
    let run = |more: &[&str]| {
        refused(&space, &[&["run", "w.yaml", "--config", "config.toml"], more].concat())
    };
    assert_eq!(run(&[]).0, 0);
    let lock = space.read("w.lock");
    let line = lock.lines().find(|line| line.contains("\"node\":\"small\"")).unwrap();
    assert!(line.contains("\"pinned\"") && line.contains("\"fingerprint\""), "{lock}");

    // A restart moves the last digits; both stages see the one pinned fingerprint.
    server.forget();
    server.change(|settings| settings.noise = 0.02);
    assert_eq!(run(&["--force", "a"]).0, 0);
    assert!(space.read("w.lock").contains(line), "it stays as it was pinned");

    // Other weights, of the folder's line in the lock, and of what the cache keeps.
    server.change(|settings| settings.salt = 2);
    space.edit("w.yaml", "max_new_tokens: 1 } }", "max_new_tokens: 2 } }");
    let remedy = "serve the weights of the folder with the settings of before";
    for (lock, cache) in [(true, ".refrain"), (true, "other"), (false, ".refrain")] {
        if !lock {
            std::fs::remove_file(space.path("w.lock")).unwrap();
        }
        let (code, text) = run(&["--cache", cache]);
        assert!(code == 4 && text.contains("is not the model that was pinned"), "{text}");
        assert!(text.contains(remedy) && !text.contains("revision"), "{text}");
    }
    std::fs::remove_file(space.path("w.lock")).unwrap();
    assert_eq!(run(&["--cache", "another"]).0, 0, "as the remedy says");
}
