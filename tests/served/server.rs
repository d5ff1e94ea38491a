//! A small server of a model that is a function of a salt, with faults on request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

/// The fate of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// A status, and the seconds of `Retry-After`.
    Status(u16, Option<f64>),
    /// The connection ends without an answer.
    Drop,
    /// It ends within the body.
    HalfBody,
    /// The body is whole and half of its JSON.
    HalfJson,
    /// A byte of the body every 50 ms.
    SlowBody,
    /// The answer is for other tokens.
    OtherIds,
}

/// The way in which prompts are scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scores {
    Never,
    PromptLogprobs,
    InputTokenLogprobs,
    /// Its numbers are those of other tokens.
    Wrong,
}

#[derive(Clone)]
pub struct Settings {
    /// The weights.
    pub salt: u64,
    /// Added to every log-probability: what an upgrade moves.
    pub noise: f64,
    pub version: &'static str,
    pub logprobs: bool,
    pub scores: Scores,
    pub key: Option<&'static str>,
    pub context: usize,
    pub delay: Duration,
    /// The fault of a request for a row, by its number from 0.
    pub fault: fn(u64) -> Fault,
    /// Whether it is gone: connections are dropped at once.
    pub gone: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            salt: 1,
            noise: 0.0,
            version: "0.9.1",
            logprobs: true,
            scores: Scores::PromptLogprobs,
            key: None,
            context: 512,
            delay: Duration::ZERO,
            fault: |_| Fault::None,
            gone: false,
        }
    }
}

/// The requests and answers so far.
#[derive(Default)]
pub struct Seen {
    /// Requests for rows so far.
    pub requests: u64,
    /// The number of full answers to each row, by prompt, seed and kind of request.
    pub answered: BTreeMap<String, u64>,
    /// Bodies of requests for rows.
    pub bodies: Vec<Value>,
    /// When requests for rows came.
    pub times: Vec<Instant>,
    /// When the last one was answered.
    pub last: Option<Instant>,
    /// Most requests under way.
    pub most: usize,
    under_way: usize,
}

pub struct Server {
    pub address: String,
    settings: Arc<Mutex<Settings>>,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    pub fn start(settings: Settings) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let server =
            Server { address, settings: Arc::new(Mutex::new(settings)), seen: Arc::default() };
        let (settings, seen) = (server.settings.clone(), server.seen.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (settings, seen) = (settings.clone(), seen.clone());
                thread::spawn(move || {
                    // A client that goes away ends its connection.
                    let _ended = serve(stream, &settings, &seen);
                });
            }
        });
        server
    }

    /// Changes the server, as a restart would.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock().unwrap());
    }

    pub fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap())
    }

    pub fn forget(&self) {
        self.seen(|seen| *seen = Seen::default());
    }
}

fn serve(stream: TcpStream, settings: &Mutex<Settings>, seen: &Mutex<Seen>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        let now = settings.lock().unwrap().clone();
        if now.gone {
            return Ok(());
        }
        let Some(row) = request.row(&now) else {
            let (status, body) = request.answer(&now);
            write(&mut writer, status, None, &body.to_string())?;
            continue;
        };
        let fault = {
            let mut seen = seen.lock().unwrap();
            let number = seen.requests;
            seen.requests += 1;
            seen.bodies.push(request.body.clone());
            seen.times.push(Instant::now());
            seen.under_way += 1;
            seen.most = seen.most.max(seen.under_way);
            (now.fault)(number)
        };
        thread::sleep(now.delay);
        let (status, mut body) = request.answer(&now);
        let mut ended = false;
        match fault {
            Fault::None => write(&mut writer, status, None, &body.to_string())?,
            Fault::OtherIds => {
                body["choices"][0]["prompt_token_ids"] = json!([1, 2, 3]);
                write(&mut writer, status, None, &body.to_string())?;
            }
            Fault::Status(status, after) => {
                let error = json!({ "error": { "message": format!("fault {status}") } });
                write(&mut writer, status, after, &error.to_string())?;
            }
            Fault::Drop => ended = true,
            Fault::HalfBody => {
                let body = body.to_string();
                head(&mut writer, status, None, body.len())?;
                writer.write_all(&body.as_bytes()[..body.len() / 2])?;
                ended = true;
            }
            Fault::HalfJson => {
                let body = body.to_string();
                write(&mut writer, status, None, &body[..body.len() / 2])?;
            }
            Fault::SlowBody => {
                let body = body.to_string();
                head(&mut writer, status, None, body.len())?;
                for byte in body.as_bytes() {
                    writer.write_all(&[*byte])?;
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
        let mut seen = seen.lock().unwrap();
        seen.under_way -= 1;
        seen.last = Some(Instant::now());
        if fault == Fault::None && status == 200 {
            *seen.answered.entry(row).or_default() += 1;
        }
        if ended {
            return Ok(());
        }
    }
    Ok(())
}

struct Request {
    path: String,
    key: Option<String>,
    body: Value,
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut key) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => key = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Some(Request { path, key, body }))
}

fn head(
    writer: &mut TcpStream,
    status: u16,
    after: Option<f64>,
    length: usize,
) -> std::io::Result<()> {
    let after = after.map(|after| format!("Retry-After: {after}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{after}Content-Length: {length}\r\n\r\n"
    );
    writer.write_all(head.as_bytes())
}

fn write(
    writer: &mut TcpStream,
    status: u16,
    after: Option<f64>,
    body: &str,
) -> std::io::Result<()> {
    head(writer, status, after, body.len())?;
    writer.write_all(body.as_bytes())
}

impl Request {
    /// The name of the row that is asked for; nothing of a probe, which is of other texts.
    fn row(&self, settings: &Settings) -> Option<String> {
        if settings.key.is_some_and(|key| self.key.as_deref() != Some(key)) {
            return None;
        }
        let prompt = self.body.get("prompt").or(self.body.get("messages"));
        let prompt = prompt.or(self.body.get("input_ids"))?;
        // Rows of the tests are longer than the probes, or say so.
        let is_row = match prompt.as_array() {
            Some(ids) if ids.first().is_some_and(Value::is_number) => ids.len() > PROBE_TOKENS,
            _ => prompt.to_string().contains("row"),
        };
        let asked = [prompt, &self.body["seed"], &self.body["prompt_logprobs"]];
        is_row.then(|| asked.map(Value::to_string).join(" "))
    }

    fn answer(&self, settings: &Settings) -> (u16, Value) {
        if settings.key.is_some_and(|key| self.key.as_deref() != Some(key)) {
            let said = format!("wrong key {}", self.key.as_deref().unwrap_or("none"));
            return (401, json!({ "error": { "message": said } }));
        }
        let body = &self.body;
        match self.path.as_str() {
            "/v1/models" => (
                200,
                json!({ "object": "list", "data": [
                    { "id": "m", "owned_by": "vllm", "max_model_len": 4096 },
                    { "id": "other", "owned_by": "vllm" },
                ] }),
            ),
            "/version" => (200, json!({ "version": settings.version })),
            _ if body["model"] != "m" && self.path != "/generate" => {
                let said = format!("The model `{}` does not exist.", body["model"]);
                (404, json!({ "object": "error", "message": said, "code": 404 }))
            }
            "/v1/completions" => self.completion(settings),
            "/v1/chat/completions" => self.chat(settings),
            "/generate" if settings.scores == Scores::InputTokenLogprobs => {
                let ids = ids(&body["input_ids"]);
                let value = |at: usize| match at {
                    0 => json!([null, ids[0], null]),
                    at => json!([logprob(settings, &ids[..at], ids[at]), ids[at], null]),
                };
                let values: Vec<Value> = (0..ids.len()).map(value).collect();
                (200, json!({ "text": "", "meta_info": { "input_token_logprobs": values } }))
            }
            _ => (404, json!({ "detail": "Not Found" })),
        }
    }

    fn completion(&self, settings: &Settings) -> (u16, Value) {
        let prompt = ids(&self.body["prompt"]);
        let most = self.body["max_tokens"].as_u64().unwrap() as usize;
        if prompt.len() + most > settings.context {
            let said = format!(
                "This model's maximum context length is {} tokens. However, you requested {} tokens.",
                settings.context,
                prompt.len() + most
            );
            return (400, json!({ "object": "error", "message": said, "code": 400 }));
        }
        let (made, finish) = self.made(settings, &prompt, most);
        let mut seen = prompt.clone();
        let mut values = Vec::new();
        for id in &made {
            values.push(logprob(settings, &seen, *id));
            seen.push(*id);
        }
        let mut choice = json!({
            "index": 0, "text": "", "finish_reason": finish, "token_ids": made,
            "prompt_token_ids": prompt, "logprobs": null,
        });
        if settings.logprobs && self.body.get("logprobs").is_some() {
            let pieces: Vec<&str> = made.iter().map(|_| "").collect();
            choice["logprobs"] = json!({ "tokens": pieces, "token_logprobs": values });
        }
        let asked = self.body.get("prompt_logprobs").is_some();
        if asked && matches!(settings.scores, Scores::PromptLogprobs | Scores::Wrong) {
            let off = if settings.scores == Scores::Wrong { -1.0 } else { 0.0 };
            let value = |at: usize| match at {
                0 => Value::Null,
                at => {
                    let mut of: Map<String, Value> = Map::new();
                    let value = off + logprob(settings, &prompt[..at], prompt[at]);
                    of.insert(
                        prompt[at].to_string(),
                        json!({ "logprob": value, "rank": 2, "decoded_token": "x" }),
                    );
                    of.insert("9999".into(), json!({ "logprob": -0.5, "rank": 1 }));
                    Value::Object(of)
                }
            };
            choice["prompt_logprobs"] = (0..prompt.len()).map(value).collect();
        }
        let usage = json!({ "prompt_tokens": prompt.len(), "completion_tokens": made.len() });
        (200, json!({ "id": "cmpl", "choices": [choice], "usage": usage }))
    }

    fn chat(&self, settings: &Settings) -> (u16, Value) {
        let prompt: Vec<u64> = self.body["messages"].to_string().bytes().map(u64::from).collect();
        let most = self.body["max_tokens"].as_u64().unwrap() as usize;
        let (made, finish) = self.made(settings, &prompt, most);
        let text: Vec<String> = made.iter().map(|id| format!("w{id}")).collect();
        let mut choice = json!({
            "index": 0, "finish_reason": finish, "logprobs": null,
            "message": { "role": "assistant", "content": text.join(" ") },
        });
        if settings.logprobs {
            let token = |id: &u64| json!({ "token": format!("w{id}"), "logprob": logprob(settings, &prompt, *id) });
            let tokens: Vec<Value> = made.iter().map(token).collect();
            choice["logprobs"] = json!({ "content": tokens });
        }
        (200, json!({ "choices": [choice], "usage": { "completion_tokens": made.len() } }))
    }

    /// The tokens that the model makes, which depend on the seed unless it is greedy.
    fn made(&self, settings: &Settings, prompt: &[u64], most: usize) -> (Vec<u64>, &'static str) {
        let seed = match self.body["temperature"].as_f64().unwrap() {
            0.0 => 0,
            _ => self.body["seed"].as_u64().unwrap() + 1,
        };
        let own = 1 + hash(settings.salt, seed, prompt) % 8;
        let count = (own as usize).min(most);
        let token = |at: usize| 40 + hash(settings.salt, seed + 7 * at as u64, prompt) % 200;
        let finish = if own as usize <= most { "stop" } else { "length" };
        ((0..count).map(token).collect(), finish)
    }
}

/// Tokens of the longest probe with the small tokenizer of the tests.
pub const PROBE_TOKENS: usize = 40;

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

fn hash(salt: u64, seed: u64, ids: &[u64]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for word in ids.iter().chain([&seed]) {
        hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
    hash ^ (hash >> 29)
}

/// The log-probability of a token behind others.
fn logprob(settings: &Settings, before: &[u64], id: u64) -> f64 {
    -((hash(settings.salt, id, before) % 4000) as f64) / 1000.0 - 0.1 + settings.noise
}
