//! Asks the hub and other hosts over HTTP, and decides which redirects are followed.

use std::io::Read;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Response, header};
use ureq::{Agent, Body, Proxy};
use url::Url;

use refrain_engine::kind::Cancel;
use refrain_engine::source::upstream::{has_password, is_allowed, is_this_machine, shown};

use crate::error::FetchError;
use crate::etag::Etag;
use crate::settings::Settings;

/// Longest time until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest time without a byte.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest time of an answer that is read whole.
const WHOLE: Duration = Duration::from_secs(120);
/// Limit on the redirects of a request.
const REDIRECTS: usize = 5;
/// Limit on the bytes of an answer that is read whole.
const MAX_JSON: u64 = 64 << 20;
/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;
/// Requests for an answer that is read whole, before it counts as failed.
const ATTEMPTS: u32 = 4;
/// First pause before a request is made again; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause, also where a server asks for more.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A client of the hub and of the web.
pub(crate) struct Client {
    settings: Settings,
    direct: Agent,
    proxied: Option<Agent>,
}

/// A request.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub url: &'a Url,
    /// The first byte that is wanted.
    pub from: u64,
    /// The validator of the answer that the bytes before it came from.
    pub validator: Option<&'a str>,
    /// Whether the headers alone are wanted.
    pub is_head: bool,
}

/// An answer, of whatever status.
pub(crate) struct Answer {
    pub status: u16,
    /// The headers of the hub itself, whoever sent the body.
    pub hub: HubHeaders,
    pub response: Response<Body>,
}

/// What the hub says of a file.
#[derive(Debug, Default)]
pub(crate) struct HubHeaders {
    pub commit: Option<String>,
    pub etag: Option<Etag>,
    pub size: Option<u64>,
    pub error: Option<String>,
}

/// Why there is no answer.
pub(crate) enum NoAnswer {
    /// The same request may have one later.
    Temporary {
        reason: String,
        wait: Option<Duration>,
    },
    Final(FetchError),
}

impl Client {
    pub fn new(settings: Settings) -> Result<Client, FetchError> {
        let agent = |proxy: Option<Proxy>| -> Agent {
            let config = Agent::config_builder()
                .http_status_as_error(false)
                // Each redirect is looked at before it is followed.
                .max_redirects(0)
                .max_redirects_will_error(false)
                .proxy(proxy)
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(SILENCE))
                .timeout_per_read(Some(SILENCE))
                .user_agent(concat!("refrain/", env!("CARGO_PKG_VERSION")))
                .build();
            config.into()
        };
        let proxy = settings.proxy.as_deref().map(Proxy::new).transpose();
        let proxy = proxy.map_err(|_| FetchError::Unreachable {
            url: "the proxy".into(),
            reason: "its address, in HTTPS_PROXY, is wrong".into(),
        })?;
        let proxied = proxy.map(|proxy| agent(Some(proxy)));
        Ok(Client { direct: agent(None), proxied, settings })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether an address is of the hub, which alone is sent the token.
    pub fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.settings.endpoint.origin()
    }

    fn agent(&self, url: &Url) -> &Agent {
        let is_direct =
            is_this_machine(url) || self.settings.is_direct(url.host_str().unwrap_or_default());
        self.proxied.as_ref().filter(|_| !is_direct).unwrap_or(&self.direct)
    }

    /// Sends a request, and follows redirects to allowed addresses; `with_token` says whether the
    /// hub is sent the token.
    pub fn ask(&self, ask: Ask<'_>, with_token: bool) -> Result<Answer, NoAnswer> {
        let mut url = ask.url.clone();
        let mut hub = HubHeaders::default();
        for _ in 0..=REDIRECTS {
            let response = self.send(&url, ask, with_token)?;
            let status = response.status().as_u16();
            if self.is_hub(&url) {
                hub.add(response.headers());
            }
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { status, hub, response });
            }
            url = redirect(ask.url, &url, response.headers()).map_err(NoAnswer::Final)?;
        }
        let reason = format!("it is redirected more than {REDIRECTS} times");
        Err(NoAnswer::Final(FetchError::Answer { url: shown(ask.url), reason }))
    }

    fn send(&self, url: &Url, ask: Ask<'_>, with_token: bool) -> Result<Response<Body>, NoAnswer> {
        let agent = self.agent(url);
        let mut request =
            if ask.is_head { agent.head(url.as_str()) } else { agent.get(url.as_str()) };
        // As it is: sizes and digests are those of the bytes.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = self.settings.token.as_ref().filter(|_| with_token && self.is_hub(url))
        {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        if ask.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", ask.from));
            if let Some(validator) = ask.validator {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        request.call().map_err(|error| self.failure(url, &error))
    }

    fn failure(&self, url: &Url, error: &ureq::Error) -> NoAnswer {
        let temporary = |reason: String| NoAnswer::Temporary { reason, wait: None };
        match error {
            ureq::Error::Timeout(_) => temporary("nothing came for too long".into()),
            ureq::Error::Io(error) => temporary(format!("the connection failed: {error}")),
            ureq::Error::ConnectionFailed => temporary("the connection failed".into()),
            ureq::Error::Protocol(error) => temporary(format!("the answer is not HTTP: {error}")),
            ureq::Error::HostNotFound => {
                temporary(format!("no host `{}` is known", url.host_str().unwrap_or_default()))
            }
            other => {
                let reason = self.without_token(&other.to_string());
                NoAnswer::Final(FetchError::Unreachable { url: shown(url), reason })
            }
        }
    }

    /// Reads the JSON at an address of the hub; asks again while that can help.
    pub fn json<T: DeserializeOwned>(
        &self,
        url: &Url,
        what: &str,
        cancel: &Cancel,
    ) -> Result<T, FetchError> {
        let mut attempt = 1;
        loop {
            let (reason, wait) = match self.json_once(url, what) {
                Ok(found) => return Ok(found),
                Err(NoAnswer::Final(error)) => return Err(error),
                Err(NoAnswer::Temporary { reason, wait }) => (reason, wait),
            };
            if attempt == ATTEMPTS {
                return Err(FetchError::Unreachable { url: shown(url), reason });
            }
            cancel.pause(pause(attempt, wait)).map_err(|_| FetchError::Interrupted)?;
            attempt += 1;
        }
    }

    fn json_once<T: DeserializeOwned>(&self, url: &Url, what: &str) -> Result<T, NoAnswer> {
        let ask = Ask { url, from: 0, validator: None, is_head: false };
        let mut answer = self.ask(ask, true)?;
        if answer.status != 200 {
            return Err(self.refusal(&answer, url, what));
        }
        let wrong =
            |reason: String| NoAnswer::Final(FetchError::Answer { url: shown(url), reason });
        let begin = Instant::now();
        let mut reader = answer.response.body_mut().as_reader();
        let (mut body, mut buffer) = (Vec::new(), vec![0; BUFFER]);
        loop {
            let read = reader.read(&mut buffer).map_err(|error| NoAnswer::Temporary {
                reason: format!("the connection failed: {error}"),
                wait: None,
            })?;
            if read == 0 {
                break;
            }
            body.extend_from_slice(&buffer[..read]);
            if body.len() as u64 > MAX_JSON {
                return Err(wrong(format!("the answer is larger than {} MB", MAX_JSON >> 20)));
            }
            if begin.elapsed() > WHOLE {
                return Err(wrong(format!("the answer takes longer than {} s", WHOLE.as_secs())));
            }
        }
        serde_json::from_slice(&body)
            .map_err(|error| wrong(format!("the answer is not what a hub says: {error}")))
    }

    /// The error of an answer that refuses.
    pub fn refusal(&self, answer: &Answer, url: &Url, what: &str) -> NoAnswer {
        let (status, error) = (answer.status, answer.hub.error.as_deref());
        let is_hub = self.is_hub(url);
        let has_token = is_hub && self.settings.token.is_some();
        let what = what.to_owned();
        let absent = |message: String| FetchError::Absent { message, hint: None };
        NoAnswer::Final(match (status, error) {
            (401 | 403, Some("GatedRepo")) => {
                let mut page = self.settings.endpoint.clone();
                let root = page.path().trim_end_matches('/');
                let kind = if url.path().contains("/datasets/") { "datasets/" } else { "" };
                page.set_path(&format!("{root}/{kind}{what}"));
                FetchError::Gated { what, page: page.to_string(), has_token }
            }
            (_, Some("RepoNotFound")) | (401 | 403, _) => {
                FetchError::Denied { what, status, is_hub, has_token }
            }
            (404, Some("RevisionNotFound")) => absent(format!("`{what}` has no such revision")),
            (404 | 410, _) => absent(format!("there is no `{}`", shown(url))),
            (408 | 425 | 429 | 500..=599, _) => {
                let wait = number(answer.response.headers(), header::RETRY_AFTER.as_str());
                let wait = wait.map(Duration::from_secs);
                return NoAnswer::Temporary {
                    reason: format!("the server answers {status}"),
                    wait,
                };
            }
            _ => {
                let reason = format!("the server answers {status}");
                FetchError::Answer { url: shown(url), reason }
            }
        })
    }

    fn without_token(&self, text: &str) -> String {
        self.settings.token.as_ref().map_or_else(|| text.to_owned(), |token| token.hide(text))
    }
}

impl HubHeaders {
    /// Takes over what a further answer of the hub says.
    fn add(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let etag = text("x-linked-etag").or_else(|| text("etag")).and_then(Etag::parse);
        let size = number(headers, "x-linked-size");
        self.commit = text("x-repo-commit").map(str::to_owned).or(self.commit.take());
        self.etag = etag.or(self.etag.take());
        self.size = size.or(self.size.take());
        self.error = text("x-error-code").map(str::to_owned).or(self.error.take());
    }
}

/// Returns the pause before a request is made again.
pub(crate) fn pause(attempt: u32, wait: Option<Duration>) -> Duration {
    wait.unwrap_or(PAUSE * 2u32.saturating_pow(attempt.min(8) - 1)).min(MAX_PAUSE)
}

/// Reads a header that is a number.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Returns the address to which an answer redirects, if it is allowed.
fn redirect(first: &Url, from: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
    let wrong = |reason: String| FetchError::Answer { url: shown(first), reason };
    let to = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let to = to.and_then(|to| from.join(to).ok());
    let to = to.ok_or_else(|| wrong("it is redirected to no address".into()))?;
    let shown = shown(&to);
    if has_password(&to) {
        return Err(wrong("it is redirected to an address with a password".into()));
    }
    if !is_allowed(&to) || from.scheme() == "https" && to.scheme() != "https" {
        return Err(wrong(format!("it is redirected to `{shown}`, which is not https")));
    }
    // Nobody outside may have this machine ask its own services.
    if is_this_machine(&to) && !is_this_machine(from) {
        return Err(wrong(format!("it is redirected to `{shown}`, which is this machine")));
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(from: &str, to: &str) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, to.parse().unwrap());
        let from = Url::parse(from).unwrap();
        let found = redirect(&from, &from, &headers);
        found.map(|url| url.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn only_redirects_to_https_are_followed() {
        let from = "https://hub.org/a/b";
        assert_eq!(redirected(from, "/c").unwrap(), "https://hub.org/c");
        assert_eq!(redirected(from, "https://cdn.org/x?key=1").unwrap(), "https://cdn.org/x?key=1");
        for to in [
            "http://cdn.org/x",
            "http://127.0.0.1/x",
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://localhost/x",
            "file:///etc/passwd",
            "https://a:hunter2@cdn.org/x",
            "//",
        ] {
            let error = redirected(from, to).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(redirected("http://127.0.0.1:1/a", "http://127.0.0.1:2/b").is_ok());
        assert!(redirected("http://127.0.0.1:1/a", "http://cdn.org/b").is_err());
        let hidden = redirected(from, "http://cdn.org/x?key=hunter2").unwrap_err();
        assert!(!hidden.contains("hunter2"), "{hidden}");
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(pause(1, None), PAUSE);
        assert_eq!(pause(3, None), PAUSE * 4);
        assert_eq!(pause(u32::MAX, None), MAX_PAUSE.min(PAUSE * 128));
        assert_eq!(pause(1, Some(Duration::from_secs(1 << 40))), MAX_PAUSE);
    }
}
