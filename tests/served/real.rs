//! Real servers on a GGUF file of a parity model: `llama_cpp.server` of llama-cpp-python, and
//! `llama-server` of llama.cpp.
//!
//! `REFRAIN_TEST_PYTHON` names a Python that has `llama-cpp-python[server]`, `gguf`, `numpy` and
//! `safetensors`, `REFRAIN_TEST_LLAMA_SERVER` the program `llama-server`; else `python3` and `PATH`
//! are tried.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type};

use crate::artifacts::{shown, texts};
use crate::space::{Space, shared};

/// Ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait().map(drop));
    }
}

/// A Python with what the server needs, or nothing with a printed reason.
fn python() -> Option<PathBuf> {
    let program = std::env::var_os("REFRAIN_TEST_PYTHON").unwrap_or("python3".into());
    let imports = "import llama_cpp.server.app, gguf, numpy, safetensors, uvicorn";
    let has = Command::new(&program).args(["-c", imports]).stderr(Stdio::null()).status();
    match has {
        Ok(status) if status.success() => Some(program.into()),
        _ => {
            println!(
                "skipped: {} has no llama_cpp.server; REFRAIN_TEST_PYTHON names one that has",
                program.display()
            );
            None
        }
    }
}

/// Options of `llama_cpp.server`. Keys and values are in f32: in f16, the default, scores are off
/// by 1e-2.
const PYTHON: [&str; 12] = [
    "-m",
    "llama_cpp.server",
    "--model_alias",
    "tiny",
    "--logits_all",
    "true",
    "--n_ctx",
    "512",
    "--type_k",
    "0",
    "--type_v",
    "0",
];

/// Options of `llama-server`.
const LLAMA_SERVER: [&str; 10] = [
    "--alias",
    "tiny",
    "--ctx-size",
    "2048",
    "--parallel",
    "4",
    "--cache-type-k",
    "f32",
    "--cache-type-v",
    "f32",
];

/// Starts the server of a GGUF file, and waits until it answers.
fn start(program: &Path, options: &[&str], gguf: &Path) -> (Running, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(program)
        .args(options)
        .arg("--model")
        .arg(gguf)
        .args(["--port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let running = Running(child);
    let begin = Instant::now();
    while !answers(port) {
        assert!(begin.elapsed() < Duration::from_secs(300), "the server does not start");
        thread::sleep(Duration::from_millis(100));
    }
    (running, format!("http://127.0.0.1:{port}/v1"))
}

/// Whether a server lists its models.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let request = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// A space with the parity model as GGUF, rows, and a workflow that computes it here.
fn space(shared: &Path, python: &Path) -> Space {
    let model = shared.join("parity/llama/model");
    let space = Space::new();
    let made = Command::new(python)
        .arg(shared.join("bench/make_gguf.py"))
        .args([&model, &space.path("tiny.gguf")])
        .status()
        .unwrap();
    assert!(made.success());
    let rows: String = (0..40)
        .map(|i| {
            format!(
                "{{\"prompt\": \"There were {i} birds\", \"response\": \" in the tree, and {} in the house.\"}}\n",
                i * 7
            )
        })
        .collect();
    space.write("rows.jsonl", &rows);
    space.write(
        "native.yaml",
        &format!("refrain: 1\nmodels: {{ big: {{ path: \"{}\" }} }}\n{STAGES}", model.display()),
    );
    space.report("native.yaml", &[]);
    space
}

/// Writes the workflow that asks a server.
fn ask(space: &Space, shared: &Path, address: &str) {
    let tokenizer = shared.join("parity/llama/model");
    space.write(
        "served.yaml",
        &format!(
            "refrain: 1\nmodels: {{ big: {{ server: \"{address}\", name: tiny, revision: \"1\", tokenizer: \"{}\" }} }}\n{STAGES}",
            tokenizer.display()
        ),
    );
}

const STAGES: &str = "\
data: { rows: { path: rows.jsonl } }
stages:
  scored: { score: { model: big, data: rows, chat: false } }
  answers: { generate: { model: big, data: rows, chat: false, max_new_tokens: 12 } }
  next: { generate: { model: big, data: rows, chat: false, max_new_tokens: 1 } }
";

/// Log-probabilities of each row, not-a-number where there is none.
fn logprobs(table: &RecordBatch, column: &str) -> Vec<Vec<f32>> {
    let lists = table[column].as_list::<i32>();
    let row = |row: usize| {
        let values = lists.value(row);
        values.as_primitive::<Float32Type>().iter().map(|v| v.unwrap_or(f32::NAN)).collect()
    };
    (0..lists.len()).map(row).collect()
}

#[test]
fn llama_cpp_scores_and_continues_as_our_module_does() {
    let (Some(shared), Some(python)) = (shared(), python()) else { return };
    let space = space(&shared, &python);
    let (_server, address) = start(&python, &PYTHON, &space.path("tiny.gguf"));
    ask(&space, &shared, &address);
    space.report("served.yaml", &[]);
    assert!(space.read("served.lock").contains("\"profile\":\"server llama-cpp-python "));

    let table = |workflow: &str, node: &str| shown(&space, &[workflow, node]);
    let (ours, theirs) = (table("native.yaml", "scored"), table("served.yaml", "scored"));
    assert_eq!(texts(&ours, "text"), texts(&theirs, "text"));
    let (mut largest, mut compared) = (0f32, 0);
    for (ours, theirs) in logprobs(&ours, "logprobs").iter().zip(&logprobs(&theirs, "logprobs")) {
        assert_eq!(ours.len(), theirs.len());
        let unknown = theirs.iter().filter(|value| value.is_nan()).count();
        assert_eq!(unknown, 2, "the begin token and the one behind it");
        for (a, b) in ours.iter().zip(theirs).filter(|(_, b)| !b.is_nan()) {
            largest = largest.max((a - b).abs());
            compared += 1;
        }
    }
    println!("llama_cpp.server: {compared} log-probabilities, largest difference {largest:.2e}");
    assert!(largest <= 1e-3 && compared > 100, "{largest} of {compared}");

    // The model is random: of characters that are not whole this server shows nothing, and counts
    // them less.
    let plain = |workflow: &str| -> Vec<String> {
        let responses = texts(&table(workflow, "answers"), "response").into_iter().flatten();
        responses.map(|text| text.chars().filter(char::is_ascii).collect()).collect()
    };
    for (ours, theirs) in plain("native.yaml").iter().zip(&plain("served.yaml")) {
        assert!(theirs.starts_with(ours), "greedy texts: `{ours}` and `{theirs}`");
    }
    let (ours, theirs) = (table("native.yaml", "next"), table("served.yaml", "next"));
    let (ours, theirs) = (&ours["response_token_ids"], &theirs["response_token_ids"]);
    let (ours, theirs) = (ours.as_list::<i32>(), theirs.as_list::<i32>());
    let mut equal = 0;
    for row in (0..theirs.len()).filter(|row| theirs.is_valid(*row)) {
        let (ours, theirs) = (ours.value(row), theirs.value(row));
        let ours = ours.as_primitive::<Int32Type>().values();
        let theirs = theirs.as_primitive::<Int32Type>().values();
        // The server leaves the token out that ends a text.
        assert!(ours.starts_with(theirs) && ours.len() - theirs.len() <= 1, "row {row}");
        equal += theirs.len();
    }
    assert!(equal > 10, "{equal}");
    println!("llama_cpp.server: {equal} greedy ids are equal");
}

/// The program `llama-server`, or nothing with a printed reason.
fn llama_server() -> Option<PathBuf> {
    let program = std::env::var_os("REFRAIN_TEST_LLAMA_SERVER").unwrap_or("llama-server".into());
    let runs = Command::new(&program).arg("--version").stderr(Stdio::null()).output();
    if runs.is_ok_and(|output| output.status.success()) {
        return Some(program.into());
    }
    println!("skipped: there is no llama-server; REFRAIN_TEST_LLAMA_SERVER names one");
    None
}

#[test]
fn llama_server_continues_token_ids_as_our_module_does() {
    let (Some(shared), Some(python), Some(program)) = (shared(), python(), llama_server()) else {
        return;
    };
    let space = space(&shared, &python);
    let (_server, address) = start(&program, &LLAMA_SERVER, &space.path("tiny.gguf"));
    ask(&space, &shared, &address);
    let (code, text) = super::refused(&space, &["run", "served.yaml", "--only", "scored"]);
    assert!(code == 4 && text.contains("cannot score"), "{text}");
    space.report("served.yaml", &["--only", "answers"]);
    assert!(space.read("served.lock").contains("\"profile\":\"server llama.cpp "));

    let (ours, theirs) =
        (shown(&space, &["native.yaml", "answers"]), shown(&space, &["served.yaml", "answers"]));
    let ids = |table: &RecordBatch, row: usize| -> Vec<i32> {
        let lists = table["response_token_ids"].as_list::<i32>();
        assert!(lists.is_valid(row), "the server says its ids");
        lists.value(row).as_primitive::<Int32Type>().values().to_vec()
    };
    let (mut equal, mut largest) = (0, 0f32);
    let column = "response_logprobs";
    for (row, (a, b)) in logprobs(&ours, column).iter().zip(&logprobs(&theirs, column)).enumerate()
    {
        let (ours, theirs) = (ids(&ours, row), ids(&theirs, row));
        // The server leaves the token out that ends a text.
        assert!(ours.starts_with(&theirs) && ours.len() - theirs.len() <= 1, "row {row}");
        equal += theirs.len();
        largest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
    }
    println!("llama-server: {equal} greedy ids are equal, log-probabilities within {largest:.2e}");
    assert!(equal > 100 && largest <= 1e-3, "{equal}, {largest}");
}
