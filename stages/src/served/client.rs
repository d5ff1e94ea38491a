//! Asks a server over HTTP, and asks again where that can help. Connections are kept.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use ureq::Agent;
use ureq::http::{Response, header};

use super::pool::Call;
use super::retry::{self, ATTEMPTS};

/// Limit on the bytes of an answer.
const MAX_BYTES: u64 = 256 << 20;
/// Longest time until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest time before a waiting thread hears that it is to stop.
const NOTICED: Duration = Duration::from_millis(50);
/// Limit on the characters of a server's own words in a message.
const SHOWN: usize = 400;
/// Attempts after answers that mostly mean that the server cannot, not that it is busy.
const FEW: u32 = 4;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum CallError {
    /// The server is busy or broke off; the same request may succeed later.
    #[error("{why}")]
    Temporary {
        why: String,
        /// The time that the server asks for.
        wait: Option<Duration>,
        /// Attempts that make sense.
        attempts: u32,
    },
    /// The server refuses it; it would do so again.
    #[error("{why}")]
    Refused { status: u16, why: String },
    /// The server cannot be reached in this way.
    #[error("{0}")]
    Unreachable(String),
    /// A stop was asked for.
    #[error("interrupted")]
    Stopped,
}

/// A connection to one server; shared by the threads that ask it.
pub(super) struct Client {
    agent: Agent,
    /// The address, up to `/v1`.
    pub address: String,
    /// The `Authorization` header.
    authorization: Option<String>,
    /// The key in it, which no message may hold.
    key: Option<String>,
    /// Limit on the time of a request, all attempts together.
    limit: Duration,
    /// The time before which the server wants no request.
    closed_until: Mutex<Option<Instant>>,
    /// Number of connections that were refused or broke: afterwards it may be another server.
    breaks: AtomicU64,
}

impl Client {
    /// Makes a client of the server at an address, which nothing is asked yet.
    pub fn new(address: String, key: Option<String>, limit: Duration, in_flight: usize) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // One that is sent elsewhere would take the key there.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_connect(Some(CONNECT))
            .max_idle_connections(in_flight)
            .max_idle_connections_per_host(in_flight)
            .user_agent(concat!("refrain/", env!("CARGO_PKG_VERSION")))
            .build();
        Client {
            agent: config.into(),
            address,
            authorization: key.as_ref().map(|key| format!("Bearer {key}")),
            key,
            limit,
            closed_until: Mutex::new(None),
            breaks: AtomicU64::new(0),
        }
    }

    /// Returns how many connections were refused or broke so far.
    pub fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::Relaxed)
    }

    /// Returns the address without its last part, where servers answer what is not of the common
    /// interface.
    pub fn root(&self) -> &str {
        self.address.strip_suffix("/v1").unwrap_or(&self.address)
    }

    /// Reads the JSON at a whole address, once.
    pub fn get(&self, url: &str, limit: Duration) -> Result<Value, CallError> {
        let mut request = self.agent.get(url);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let sent = request.config().timeout_global(Some(limit)).build().call();
        self.json(&self.answer(sent, limit)?)
    }

    /// Posts a JSON text whose answer is of no interest, once.
    pub fn tell(&self, url: &str, body: &[u8]) -> Result<(), CallError> {
        self.send(url, body, self.limit).map(drop)
    }

    /// Posts a JSON text, and posts it again while that may help.
    ///
    /// `request` is a number that no other request has, `stop` asks to give up.
    pub fn ask(&self, call: &Call, request: u64, stop: &AtomicBool) -> Result<Value, CallError> {
        let begin = Instant::now();
        let mut attempt = 1;
        loop {
            self.wait_until_open(begin, stop)?;
            let left = self.limit.saturating_sub(begin.elapsed());
            let (why, wait, attempts) = match self.post(&call.url, &call.body, left) {
                Err(CallError::Temporary { why, wait, attempts }) => (why, wait, attempts),
                ended => return ended,
            };
            let pause = retry::pause(attempt, wait, request);
            if wait.is_some() {
                self.close_for(pause);
            }
            let is_late = begin.elapsed() + pause >= self.limit;
            if attempt >= attempts.min(call.attempts) || is_late {
                let seconds = begin.elapsed().as_secs();
                let tried = match (attempt, is_late) {
                    (1, false) => String::new(),
                    (_, false) => format!(", {attempt} times in {seconds} s"),
                    (_, true) => {
                        format!(", and `time_limit` of {} s is over", self.limit.as_secs())
                    }
                };
                return Err(CallError::Temporary { why: format!("{why}{tried}"), wait, attempts });
            }
            sleep(pause, stop)?;
            attempt += 1;
        }
    }

    fn post(&self, url: &str, body: &[u8], limit: Duration) -> Result<Value, CallError> {
        self.json(&self.send(url, body, limit)?)
    }

    fn send(&self, url: &str, body: &[u8], limit: Duration) -> Result<Vec<u8>, CallError> {
        let mut request = self.agent.post(url).header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let sent = request.config().timeout_global(Some(limit)).build().send(body);
        self.answer(sent, limit)
    }

    fn answer(
        &self,
        sent: Result<Response<ureq::Body>, ureq::Error>,
        limit: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let mut response = sent.map_err(|error| self.failure(error, limit))?;
        let status = response.status().as_u16();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let wait =
            header(header::RETRY_AFTER).and_then(|v| retry::retry_after(v, SystemTime::now()));
        let location = header(header::LOCATION).map(str::to_owned);
        let body = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec();
        let body = body.map_err(|error| self.failure(error, limit))?;

        match status {
            200..=299 => Ok(body),
            300..=399 => Err(CallError::Unreachable(format!(
                "it answers {status}, which sends on to `{}`",
                location.as_deref().map_or_else(|| "nowhere".into(), |to| self.shown(to))
            ))),
            408 | 425 | 429 | 502..=504 | 529 => Err(CallError::Temporary {
                why: self.words(status, &body),
                wait,
                attempts: ATTEMPTS,
            }),
            500..=599 => {
                Err(CallError::Temporary { why: self.words(status, &body), wait, attempts: FEW })
            }
            _ => Err(CallError::Refused { status, why: self.words(status, &body) }),
        }
    }

    fn json(&self, body: &[u8]) -> Result<Value, CallError> {
        serde_json::from_slice(body).map_err(|error| CallError::Temporary {
            why: format!(
                "its answer is not whole JSON ({error}): `{}`",
                self.shown(&String::from_utf8_lossy(body))
            ),
            wait: None,
            attempts: FEW,
        })
    }

    fn failure(&self, error: ureq::Error, limit: Duration) -> CallError {
        let temporary = |why: String| CallError::Temporary { why, wait: None, attempts: ATTEMPTS };
        match error {
            ureq::Error::Timeout(_) => {
                temporary(format!("it did not answer within {:.0} s", limit.as_secs_f64()))
            }
            ureq::Error::Io(error) => {
                self.breaks.fetch_add(1, Ordering::Relaxed);
                temporary(format!("the connection failed: {error}"))
            }
            ureq::Error::ConnectionFailed => {
                self.breaks.fetch_add(1, Ordering::Relaxed);
                temporary("the connection failed".into())
            }
            ureq::Error::Protocol(error) => {
                self.breaks.fetch_add(1, Ordering::Relaxed);
                temporary(format!("its answer is not HTTP: {error}"))
            }
            ureq::Error::HostNotFound => {
                CallError::Unreachable("there is no host of that name".into())
            }
            other => CallError::Unreachable(self.shown(&other.to_string())),
        }
    }

    /// The status of an answer, and what the server says.
    fn words(&self, status: u16, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body);
        let said = serde_json::from_str::<Value>(&text).ok().and_then(|value| said(&value));
        match said.unwrap_or_else(|| text.into_owned()).trim() {
            "" => format!("it answers {status}"),
            said => format!("it answers {status}: {}", self.shown(said)),
        }
    }

    /// A text of the server without the key, and not too long.
    fn shown(&self, text: &str) -> String {
        let text = match self.key.as_deref().filter(|key| !key.is_empty()) {
            Some(key) => text.replace(key, "***"),
            None => text.to_owned(),
        };
        let mut characters = text.trim().chars();
        let mut short: String = characters.by_ref().take(SHOWN).collect();
        if characters.next().is_some() {
            short.push('…');
        }
        short
    }

    /// Lets no request begin for a time.
    fn close_for(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut closed = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = Some(closed.map_or(until, |before| before.max(until)));
    }

    fn wait_until_open(&self, begin: Instant, stop: &AtomicBool) -> Result<(), CallError> {
        let until = *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = until.map_or(Duration::ZERO, |until| until.duration_since(Instant::now()));
        sleep(wait.min(self.limit.saturating_sub(begin.elapsed())), stop)
    }
}

fn sleep(time: Duration, stop: &AtomicBool) -> Result<(), CallError> {
    let begin = Instant::now();
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(CallError::Stopped);
        }
        let left = time.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(NOTICED));
    }
}

/// The message in the answer of a server that refuses.
fn said(answer: &Value) -> Option<String> {
    let error = answer.get("error").unwrap_or(answer);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    text(error)
        .or_else(|| ["message", "detail", "error"].iter().find_map(|name| text(error.get(name)?)))
        .or_else(|| {
            // FastAPI lists the faults of a body.
            let faults = answer.get("detail")?.as_array()?;
            let words: Vec<&str> =
                faults.iter().filter_map(|one| one.get("msg")?.as_str()).collect();
            (!words.is_empty()).then(|| words.join("; "))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_words_of_each_server_are_found() {
        for (answer, expected) in [
            (json!({ "error": { "message": "no", "code": 400 } }), Some("no")),
            (json!({ "object": "error", "message": "no" }), Some("no")),
            (json!({ "error": "no" }), Some("no")),
            (json!({ "detail": "no" }), Some("no")),
            (json!({ "detail": [{ "msg": "a" }, { "msg": "b" }] }), Some("a; b")),
            (json!({ "id": 1 }), None),
        ] {
            assert_eq!(said(&answer).as_deref(), expected, "{answer}");
        }
    }

    #[test]
    fn a_message_holds_no_key() {
        let client = Client::new("http://a/v1".into(), Some("hunter2".into()), CONNECT, 1);
        let body = json!({ "error": { "message": "wrong key hunter2" } }).to_string();
        assert_eq!(client.words(401, body.as_bytes()), "it answers 401: wrong key ***");
        assert_eq!(client.root(), "http://a");
    }
}
