//! The page in a real browser: no error on its console, no fault of accessibility, nothing that a
//! hostile text started.
//!
//! It is driven over a pipe by its own protocol. Without `chromium` the tests say so and return.
//! `REFRAIN_AXE` names axe-core's `axe.min.js`; without it accessibility is not checked.
//! `REFRAIN_SCREENSHOTS` names a folder for pictures of the pages.

use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::{compared, hostile, page};
use crate::space::Space;

/// A browser with one page.
struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    last: u64,
    session: Option<String>,
    /// Events that came in so far.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _code = self.child.wait();
    }
}

impl Browser {
    /// Starts it; `None` where there is none.
    fn start() -> Option<Browser> {
        let program = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
            .into_iter()
            .find(|program| Path::new(program).exists());
        let Some(program) = program else {
            println!("skipped: there is no chromium");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let command = format!(
            "exec {program} --headless=new --no-sandbox --disable-gpu --hide-scrollbars --no-first-run \
             --disable-background-networking --disable-component-update --user-data-dir={} \
             --remote-debugging-pipe 3<&0 4>&1 >/dev/null 2>&1",
            profile.path().display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let from = BufReader::new(from);
        let mut browser = Browser {
            child,
            to,
            from,
            last: 0,
            session: None,
            events: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", target);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.receive();
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    fn receive(&mut self) -> Value {
        let mut bytes = Vec::new();
        let mut byte = [0];
        loop {
            self.from.read_exact(&mut byte).expect("the browser ended");
            if byte[0] == 0 {
                return serde_json::from_slice(&bytes).unwrap();
            }
            bytes.push(byte[0]);
        }
    }

    /// Opens a file at a width, and waits until it is loaded.
    fn open(&mut self, file: &Path, width: u32, scheme: &str) {
        let phone = width < 500;
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": phone });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [scheme] }));
        self.call("Page.navigate", json!({ "url": format!("file://{}", file.display()) }));
        let loaded = |event: &Value| event["method"] == "Page.loadEventFired";
        while !self.events.iter().any(loaded) {
            let event = self.receive();
            self.events.push(event);
        }
        self.events.retain(|event| !loaded(event));
    }

    fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
        });
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The lines of the console, and errors.
    fn complaints(&self) -> Vec<&Value> {
        let methods = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
        let is = |event: &&Value| methods.iter().any(|method| event["method"] == *method);
        self.events.iter().filter(is).collect()
    }

    /// Serious and critical faults of accessibility, with every part opened.
    fn faults(&mut self) -> Value {
        let Some(axe) = std::env::var_os("REFRAIN_AXE") else {
            println!("accessibility is not checked: `REFRAIN_AXE` names no axe.min.js");
            return json!([]);
        };
        let axe = std::fs::read_to_string(PathBuf::from(axe)).unwrap();
        self.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)");
        self.call("Runtime.evaluate", json!({ "expression": axe }));
        self.evaluate(
            "axe.run().then(run => run.violations.filter(v => ['serious', 'critical'].includes(v.impact))\
             .map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))",
        )
    }

    fn screenshot(&mut self, name: &str, width: u32) {
        let Some(folder) = std::env::var_os("REFRAIN_SCREENSHOTS") else { return };
        let height = self.evaluate("document.documentElement.scrollHeight");
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let parameters = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.call("Page.captureScreenshot", parameters);
        let text = picture["data"].as_str().unwrap();
        let path = Path::new(&folder).join(format!("{name}-{width}.png"));
        let mut decode = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(path).unwrap())
            .spawn()
            .unwrap();
        decode.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(decode.wait().unwrap().success());
    }
}

/// Opens the page of a space at the widths of a phone and a screen, dark and light.
fn visit(browser: &mut Browser, space: &Space, name: &str) {
    let file = space.path("report.html").canonicalize().unwrap();
    for width in [375, 1440] {
        for scheme in ["light", "dark"] {
            browser.open(&file, width, scheme);
            assert_eq!(browser.evaluate("document.title.endsWith(': report')"), true);
            let wide = browser.evaluate("document.documentElement.scrollWidth");
            assert!(wide.as_u64().unwrap() <= u64::from(width), "{name} is {wide} wide at {width}");
            if scheme == "light" {
                browser.screenshot(name, width);
            }
            assert_eq!(browser.faults(), json!([]), "{name} at {width}, {scheme}");
        }
    }
    assert_eq!(browser.complaints(), Vec::<&Value>::new(), "{name}");
}

#[test]
fn a_browser_shows_the_page_without_complaint() {
    let Some(mut browser) = Browser::start() else { return };
    let space = compared();
    space.report("w.yaml", &[]);
    page(&space, &[]);
    visit(&mut browser, &space, "compared");

    // The search for nodes finds one by its name and by a digest, and shows what it was made from.
    browser.evaluate("document.getElementById('find').scrollIntoView()");
    let find = |text: &str| {
        format!(
            "(() => {{ const box = document.getElementById('find'); box.value = {}; \
             box.dispatchEvent(new Event('input')); \
             return [...document.querySelectorAll('#found button')].map(b => b.textContent); }})()",
            json!(text)
        )
    };
    let found = browser.evaluate(&find("judged worked seed=3"));
    assert_eq!(found, json!(["judged[arm=worked,seed=3]"]));
    browser.evaluate("document.querySelector('#found button').click()");
    let detail = browser.evaluate("document.getElementById('detail').textContent");
    let detail = detail.as_str().unwrap();
    assert!(
        detail.contains("accuracy1 (n 12") && detail.contains("rows[arm=worked,seed=3]"),
        "{detail}"
    );
    let digest = detail.split("output").nth(1).and_then(|rest| rest.split(": ").nth(1)).unwrap();
    let digest: String = digest.chars().take(10).collect();
    let found = browser.evaluate(&find(&digest));
    assert!(found.as_array().unwrap().contains(&json!("judged[arm=worked,seed=3]")), "{found}");
}

#[test]
fn a_browser_runs_nothing_of_a_hostile_text() {
    let Some(mut browser) = Browser::start() else { return };
    let space = hostile();
    space.report("w.yaml", &[]);
    page(&space, &[]);
    visit(&mut browser, &space, "hostile");
    assert_eq!(browser.evaluate("document.images.length + document.scripts.length"), 2);
    let foreign = browser.evaluate(
        "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length",
    );
    assert_eq!(foreign, 0);
}
