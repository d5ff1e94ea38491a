//! The page that is served: who may read it, and that it shows a node soon after it ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::compared;
use crate::space::Space;

/// A server under test; it ends with the test.
struct Served {
    child: Child,
    port: u16,
    token: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Served {
    fn start(space: &Space) -> Served {
        let mut command = space.command(&["watch", "w.yaml"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let rest = line.trim_end().strip_prefix("http://127.0.0.1:").expect("an address");
        let (port, token) = rest.split_once('/').unwrap();
        let token = token.trim_end_matches('/').to_owned();
        assert_eq!(token.len(), 32);
        Served { child, port: port.parse().unwrap(), token }
    }

    /// The status of the answer to a request, and the answer.
    fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
        (status.unwrap_or_else(|| panic!("no status: {answer}")), answer)
    }

    fn get(&self, path: &str) -> String {
        let (port, token) = (self.port, &self.token);
        let request = format!("GET /{token}/{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        let (status, answer) = self.raw(&request);
        assert_eq!(status, 200, "{answer}");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Waits for another version than `after`.
    fn changes(&self, after: &str) -> Value {
        serde_json::from_str(&self.get(&format!("changes?after={after}"))).unwrap()
    }
}

#[test]
fn only_who_knows_the_address_reads_the_page() {
    let space = compared();
    let served = Served::start(&space);
    let Served { port, token, .. } = &served;
    let (own, wrong) = (format!("127.0.0.1:{port}"), "0".repeat(32));
    let request = |method: &str, path: &str, headers: &str| {
        let (status, answer) = served.raw(&format!("{method} {path} HTTP/1.1\r\n{headers}\r\n"));
        assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
        assert!(answer.contains("Content-Security-Policy: default-src 'none';"), "{answer}");
        status
    };
    let path = format!("/{token}/");
    let host = format!("Host: {own}\r\n");
    assert_eq!(request("GET", &path, &host), 200);
    assert_eq!(request("GET", &path, &format!("Host: localhost:{port}\r\n")), 200);
    let from_itself = format!("{host}Origin: http://{own}\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(request("GET", &path, &from_itself), 200);

    // Without the token, or with another one.
    for path in ["/", "/page", &format!("/{token}"), &format!("/{wrong}/"), "//", "*"] {
        assert_eq!(request("GET", path, &host), 403, "{path}");
    }
    // Under another name, or from another page.
    for headers in [
        "",
        "Host: example.org\r\n",
        &format!("Host: example.org:{port}\r\n"),
        &format!("{host}Host: example.org\r\n"),
        &format!("{host}Origin: http://example.org\r\n"),
        &format!("{host}Origin: null\r\n"),
        &format!("{host}Origin: https://{own}\r\n"),
        &format!("{host}Sec-Fetch-Site: cross-site\r\n"),
        &format!("{host}Sec-Fetch-Site: same-site\r\n"),
    ] {
        assert_eq!(request("GET", &path, headers), 403, "{headers}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "get"] {
        assert_eq!(request(method, &path, &host), 405, "{method}");
    }
    assert_eq!(request("GET", &format!("/{token}/../../etc/passwd"), &host), 404);
    assert_eq!(served.raw("\r\n\r\n").0, 400);
    assert_eq!(served.raw(&format!("GET {path} FTP/1\r\n\r\n")).0, 400);
    let long = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(20_000));
    assert_eq!(served.raw(&long).0, 400);
}

#[test]
fn a_finished_node_is_shown_within_a_second() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"prompt\": \"p\", \"response\": \"r\", \"reference\": \"r\"}\n");
    let waits = |n: usize, reads: &str| {
        format!(
            "  s{n}: {{ run: {{ inputs: {{ rows: {reads} }}, command: [sh, -c, \"sleep 1.{n}; cp $1 $2\", sh, \
             \"${{in.rows}}\", \"${{out.made}}\"], outputs: {{ made: table }} }} }}\n"
        )
    };
    let stages = [waits(1, "rows"), waits(2, "s1.made"), waits(3, "s2.made")].concat();
    let text = format!("refrain: 1\ndata: {{ rows: {{ path: rows.jsonl }} }}\nstages:\n{stages}");
    space.write("w.yaml", &text);
    let served = Served::start(&space);
    let state = |page: &str, stage: &str| {
        let row = page.split(&format!("<th scope=\"row\">{stage}</th>")).nth(1).unwrap().to_owned();
        let row = row.split("</tr>").next().unwrap().to_owned();
        let state = ["running", "ran", "not run"]
            .into_iter()
            .find(|word| row.contains(&format!(">{word}<")));
        state.unwrap_or_else(|| panic!("{row}"))
    };
    let page = served.get("");
    assert!(page.contains("data-live=\"\"") && state(&page, "s1") == "not run");

    let mut version = served.changes("")["version"].as_str().unwrap().to_owned();
    let mut run = space.command(&["run", "w.yaml", "--quiet"]);
    let mut run = run.stdout(Stdio::null()).spawn().unwrap();
    let (mut seen, mut was_running) = (Vec::new(), false);
    let begin = Instant::now();
    while seen.len() < 3 && begin.elapsed() < Duration::from_secs(60) {
        let change = served.changes(&version);
        version = change["version"].as_str().unwrap().to_owned();
        was_running |= change["running"] == true;
        let page = served.get("page");
        for stage in ["s1", "s2", "s3"] {
            if state(&page, stage) == "ran" && !seen.iter().any(|(known, _)| *known == stage) {
                let artifact = newest(&space);
                seen.push((stage, artifact));
            }
        }
    }
    assert!(run.wait().unwrap().success());
    assert!(was_running, "no run was seen under way");
    assert_eq!(seen.len(), 3, "{seen:?}");
    for (stage, late) in seen {
        println!("{stage} was shown {:.2} s after its record", late.as_secs_f64());
        assert!(late < Duration::from_secs(1), "{stage} was shown {late:?} after its record");
    }
}

/// The time since the records last changed.
fn newest(space: &Space) -> Duration {
    let records = space.path(".refrain/records/records.log");
    records.metadata().unwrap().modified().unwrap().elapsed().unwrap()
}
