//! A server for one reader on this machine: GET alone, under a secret path, to its own name alone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use refrain_engine::language::explain::ErrorClass;
use refrain_page::{Mode, content_security_policy};

use crate::command_error::CommandError;

use super::state::Watched;

/// Bytes of the head of a request that are read.
const HEAD: u64 = 16 << 10;
/// Bytes behind a request that are read away.
const DRAIN: u64 = 1 << 20;
/// The longest that a request takes to arrive, and an answer to leave.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that are answered at once.
const CONNECTIONS: usize = 32;

/// The server.
pub struct Server {
    listener: TcpListener,
    port: u16,
    token: String,
}

/// The status of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Failed,
    Busy,
}

/// The head of a request.
#[derive(Debug, Default)]
struct Request {
    method: String,
    path: String,
    hosts: Vec<String>,
    origin: Option<String>,
    site: Option<String>,
}

/// An answer.
struct Answer {
    status: Status,
    kind: &'static str,
    body: String,
}

impl Server {
    /// Listens on a port of 127.0.0.1; 0 is any that is free.
    pub fn bind(port: u16) -> Result<Server, CommandError> {
        let refused = |error: std::io::Error| {
            let message = format!("cannot listen on port {port} of 127.0.0.1: {error}");
            CommandError::with_hint(
                ErrorClass::Environment,
                message,
                "leave `--port` out for a free one",
            )
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(refused)?;
        let port = listener.local_addr().map_err(refused)?.port();
        Ok(Server { listener, port, token: token().map_err(refused)? })
    }

    /// Returns the address of the page.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/{}/", self.port, self.token)
    }

    /// Answers requests, each on a thread of its own.
    pub fn serve(&self, watched: &Watched) -> Result<ExitCode, CommandError> {
        let open = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for stream in self.listener.incoming() {
                // A connection that broke before it began concerns nobody.
                let Ok(stream) = stream else { continue };
                if open.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
                    send(&stream, &Answer::plain(Status::Busy));
                    open.fetch_sub(1, Ordering::AcqRel);
                    continue;
                }
                let open = &open;
                scope.spawn(move || {
                    self.answer(&stream, watched);
                    open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Ok(ExitCode::SUCCESS)
    }

    fn answer(&self, stream: &TcpStream, watched: &Watched) {
        // Without a limit of time a silent reader would hold its thread for ever.
        let limited = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        if limited.is_err() {
            return;
        }
        let answer = match read(stream) {
            Some(request) => self.respond(&request, watched),
            None => Answer::plain(Status::BadRequest),
        };
        send(stream, &answer);
    }

    fn respond(&self, request: &Request, watched: &Watched) -> Answer {
        if let Err(status) = self.admit(request) {
            return Answer::plain(status);
        }
        let path = request.path.get(self.token.len() + 2..).unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        match path {
            "" | "page" => match watched.page() {
                Ok(body) => Answer { status: Status::Ok, kind: "text/html; charset=utf-8", body },
                Err(_) => Answer::plain(Status::Failed),
            },
            "changes" => {
                let change = watched.changes(query.strip_prefix("after=").unwrap_or_default());
                let body = json!({ "version": change.version, "running": change.running });
                Answer { status: Status::Ok, kind: "application/json", body: body.to_string() }
            }
            _ => Answer::plain(Status::NotFound),
        }
    }

    /// Lets in who reads from this machine, by the server's own name, and knows the token.
    fn admit(&self, request: &Request) -> Result<(), Status> {
        let names = [format!("127.0.0.1:{}", self.port), format!("localhost:{}", self.port)];
        // A page of somewhere else may ask under a name that leads here.
        let [host] = request.hosts.as_slice() else { return Err(Status::Forbidden) };
        if !names.contains(host) {
            return Err(Status::Forbidden);
        }
        let own = |origin: &String| names.iter().any(|name| *origin == format!("http://{name}"));
        if !request.origin.as_ref().is_none_or(own) {
            return Err(Status::Forbidden);
        }
        let near = |site: &String| site == "same-origin" || site == "none";
        if !request.site.as_ref().is_none_or(near) {
            return Err(Status::Forbidden);
        }
        let rest = request.path.strip_prefix('/').unwrap_or_default();
        let (token, _) = rest.split_once('/').ok_or(Status::Forbidden)?;
        if !same(token, &self.token) {
            return Err(Status::Forbidden);
        }
        if request.method != "GET" {
            return Err(Status::MethodNotAllowed);
        }
        Ok(())
    }
}

/// Compares two texts in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// 128 random bits.
fn token() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads the head of a request; `None` where it is not one.
fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream.take(HEAD));
    let mut next = || {
        let mut line = String::new();
        let read = lines.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    };
    let first = next()?;
    let mut words = first.split(' ');
    let (method, path, version) = (words.next()?, words.next()?, words.next()?);
    if !version.starts_with("HTTP/1.") || words.next().is_some() {
        return None;
    }
    let mut request =
        Request { method: method.to_owned(), path: path.to_owned(), ..Request::default() };
    loop {
        let line = next()?;
        if line.is_empty() {
            return Some(request);
        }
        let (name, value) = line.split_once(':')?;
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "host" => request.hosts.push(value),
            "origin" => request.origin = Some(value),
            "sec-fetch-site" => request.site = Some(value),
            _ => {}
        }
    }
}

impl Answer {
    fn plain(status: Status) -> Answer {
        let body = format!("{}\n", status.line());
        Answer { status, kind: "text/plain; charset=utf-8", body }
    }
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::Forbidden => "403 Forbidden",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::Failed => "500 Internal Server Error",
            Status::Busy => "503 Service Unavailable",
        }
    }
}

fn send(mut stream: &TcpStream, answer: &Answer) {
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\nCross-Origin-Opener-Policy: same-origin\r\n\
         X-Frame-Options: DENY\r\nContent-Security-Policy: {}; frame-ancestors 'none'\r\n\r\n",
        answer.status.line(),
        answer.kind,
        answer.body.len(),
        content_security_policy(Mode::Live),
    );
    // A reader that went away needs no answer.
    let _gone =
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(answer.body.as_bytes()));
    // The rest of a request is read away: a connection that is closed before loses the answer too.
    let _closed = stream.shutdown(Shutdown::Write);
    let _rest = std::io::copy(&mut stream.take(DRAIN), &mut std::io::sink());
}
