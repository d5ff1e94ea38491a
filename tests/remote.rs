//! A remote cache: what a lock names is sent and received, and nothing else is taken.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::space::{Said, Space, small};

/// A space in which the small workflow has run, and its results are pushed to `remote`.
fn pushed() -> Space {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &[]);
    std::fs::create_dir(space.path("remote")).unwrap();
    let said = space.accepts(&["cache", "push", "w.yaml", "--remote", "remote"]);
    assert!(said.stdout.contains("sent"), "{}", said.stdout);
    space
}

/// A clean clone: workflow, data and lock, without a cache.
fn clone(space: &Space) -> Space {
    let clone = Space::new();
    for name in ["train.jsonl", "w.yaml", "w.lock"] {
        clone.write(name, &space.read(name));
    }
    clone
}

fn remote(space: &Space) -> String {
    space.path("remote").display().to_string()
}

/// All files below a folder, by their paths in it.
fn files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, path);
            }
        }
    }
    found
}

fn outcome(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap()
}

fn pull(clone: &Space, remote: &str) -> (i32, Value) {
    let said = clone.survives(&["cache", "pull", "w.yaml", "--remote", remote, "--format", "json"]);
    (said.code, outcome(&said))
}

#[test]
fn after_a_pull_a_clean_clone_runs_nothing() {
    let space = pushed();
    let clone = clone(&space);
    let (code, pulled) = pull(&clone, &remote(&space));
    assert_eq!(
        (code, &pulled["faults"], &pulled["absent"]),
        (0, &Value::from(vec![0; 0]), &Value::from(vec![0; 0]))
    );
    assert!(pulled["received"].as_u64().unwrap() > 5, "{pulled}");
    assert!(clone.ran("w.yaml", &[]).is_empty());
    assert_eq!(clone.read("w.lock"), space.read("w.lock"));
    let said = clone.accepts(&["verify", "w.yaml", "--complete", "--remote", &remote(&space)]);
    assert!(said.stdout.contains("at the remote"), "{}", said.stdout);

    // A second pull takes nothing.
    let (_, again) = pull(&clone, &remote(&space));
    assert_eq!((&again["received"], &again["bytes"]), (&Value::from(0), &Value::from(0)));
}

#[test]
fn a_run_takes_what_it_lacks_and_computes_the_rest() {
    let space = pushed();
    let there = clone(&space);
    assert!(there.ran("w.yaml", &["--remote", &remote(&space)]).is_empty());

    // A changed stage is computed; what it reads is taken.
    let changed = clone(&space);
    changed.edit("w.yaml", "threshold: [40, 1000]", "threshold: [40, 50]");
    let ran = changed.ran("w.yaml", &["--remote", &remote(&space)]);
    let changed = |name: &String| name.contains("threshold=50");
    assert!(!ran.is_empty() && ran.iter().all(changed), "{ran:?}");

    // What is forced is computed.
    let forced = clone(&space);
    let ran = forced.ran("w.yaml", &["--remote", &remote(&space), "--force", "scored"]);
    assert_eq!(ran, ["scored".to_string()].into());
}

#[test]
fn a_trusted_remote_gives_what_no_lock_names() {
    let space = pushed();
    let configured = |trust: bool| {
        let clone = clone(&space);
        std::fs::remove_file(clone.path("w.lock")).unwrap();
        let text = format!("[[remotes]]\naddress = \"{}\"\ntrust = {trust}\n", remote(&space));
        clone.write("config/config.toml", &text);
        for (name, mode) in [("config", 0o755), ("config/config.toml", 0o644)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(clone.path(name), permissions).unwrap();
        }
        let arguments = ["--config", "config/config.toml", "--remote", &remote(&space)];
        let ran = clone.ran("w.yaml", &arguments);
        assert_eq!(clone.read("w.lock"), space.read("w.lock"));
        ran.len()
    };
    assert_eq!(configured(true), 0);
    assert!(configured(false) > 5);

    // What its records name and its objects are not is refused all the same.
    for (name, path) in files(&space.path("remote")) {
        if name.contains("objects") {
            std::fs::write(path, b"x").unwrap();
        }
    }
    assert!(configured(true) > 5);
}

#[test]
fn a_second_push_sends_nothing_and_an_interrupted_one_goes_on() {
    let space = pushed();
    let push = |more: &[&str]| {
        let mut arguments =
            vec!["cache", "push", "w.yaml", "--remote", "remote", "--format", "json"];
        arguments.extend(more);
        outcome(&space.accepts(&arguments))
    };
    assert_eq!(push(&[])["objects"], 0);

    // As if it had been killed after some objects, one of them cut.
    let before = files(&space.path("remote"));
    for (number, (name, path)) in before.iter().enumerate() {
        if name.contains("pages") || number % 3 == 0 {
            std::fs::remove_file(path).unwrap();
        } else if number % 3 == 1 {
            std::fs::write(path, b"cut").unwrap();
        }
    }
    push(&[]);
    let bytes = |path: &PathBuf| std::fs::read(path).unwrap();
    let after = files(&space.path("remote"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, path) in after.iter().filter(|(name, _)| name.contains("objects")) {
        let digest = name.trim_start_matches("v1/objects/").replace('/', "");
        assert_eq!(blake3(&bytes(path)), digest);
    }
    assert_eq!(pull(&clone(&space), &remote(&space)).0, 0);
}

fn blake3(bytes: &[u8]) -> String {
    refrain_cache::Digest::of_bytes(bytes).to_string()
}

#[test]
fn nothing_is_pushed_that_the_cache_does_not_hold() {
    let space = pushed();
    let elsewhere = clone(&space);
    std::fs::create_dir(elsewhere.path("remote")).unwrap();
    let said = elsewhere.refuses(&["cache", "push", "w.yaml", "--remote", "remote"]);
    assert!(said.contains("exit code 3") && said.contains("not in this cache"), "{said}");
    assert!(files(&elsewhere.path("remote")).is_empty());

    // Nor what is damaged.
    let other = clone(&space);
    other.report("w.yaml", &[]);
    std::fs::create_dir(other.path("remote")).unwrap();
    for (name, path) in files(&other.path(".refrain/objects")) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.is_empty(), "{name}");
        let mut permissions = path.metadata().unwrap().permissions();
        #[expect(clippy::permissions_set_readonly_false, reason = "a file of this test")]
        permissions.set_readonly(false);
        std::fs::set_permissions(&path, permissions).unwrap();
        std::fs::write(&path, vec![b'x'; bytes.len()]).unwrap();
    }
    let said = other.refuses(&["cache", "push", "w.yaml", "--remote", "remote"]);
    assert!(said.contains("damaged"), "{said}");
    assert!(!files(&other.path("remote")).keys().any(|name| name.contains("pages")));
}

/// Damages something at the remote; a pull must refuse that, take the rest, and leave nothing
/// outside the objects of the cache.
fn refused(what: &str, damage: impl Fn(&Path, &BTreeMap<String, PathBuf>)) {
    let space = pushed();
    damage(&space.path("remote"), &files(&space.path("remote")));
    let clone = clone(&space);
    let (code, pulled) = pull(&clone, &remote(&space));
    let faults = pulled["faults"].as_array().unwrap();
    assert!(code == 3 && !faults.is_empty(), "{what}: {code} {pulled}");
    for name in files(&clone.path("")).keys() {
        let known = ["train.jsonl", "w.yaml", "w.lock"].contains(&name.as_str());
        assert!(known || name.starts_with(".refrain/"), "{what}: `{name}` was written");
    }
    for (name, path) in files(&clone.path(".refrain/objects")) {
        if path.parent().unwrap().parent().unwrap().ends_with("objects") {
            let digest = name.replace('/', "");
            assert_eq!(blake3(&std::fs::read(path).unwrap()), digest, "{what}");
        }
    }
    let verified = clone.survives(&["verify", "w.yaml", "--remote", &remote(&space)]);
    assert_eq!(verified.code, 3, "{what}: verify --remote finds nothing: {}", verified.stdout);

    // A run computes what was refused, to the same digests.
    clone.report("w.yaml", &["--remote", &remote(&space)]);
    assert_eq!(clone.read("w.lock"), space.read("w.lock"), "{what}");
}

/// The objects of the remote, the largest first.
fn objects(files: &BTreeMap<String, PathBuf>) -> Vec<&PathBuf> {
    let objects = files.iter().filter(|(name, _)| name.contains("objects"));
    let mut objects: Vec<&PathBuf> = objects.map(|(_, path)| path).collect();
    objects.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
    objects
}

#[test]
fn what_is_not_as_the_lock_says_is_refused() {
    refused("cut objects", |_, files| {
        for path in objects(files) {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }
    });
    refused("objects of the right size and other bytes", |_, files| {
        for path in objects(files) {
            let size = path.metadata().unwrap().len() as usize;
            std::fs::write(path, vec![b' '; size]).unwrap();
        }
    });
    refused("objects that are too large", |_, files| {
        for path in objects(files) {
            let mut bytes = std::fs::read(path).unwrap();
            bytes.resize(bytes.len() + 10_000, 0);
            std::fs::write(path, bytes).unwrap();
        }
    });
    refused("objects that changed places", |_, files| {
        let objects = objects(files);
        for pair in objects.chunks_exact(2) {
            let (one, other) = (std::fs::read(pair[0]).unwrap(), std::fs::read(pair[1]).unwrap());
            std::fs::write(pair[0], other).unwrap();
            std::fs::write(pair[1], one).unwrap();
        }
    });
    refused("an object that is gone", |_, files| {
        std::fs::remove_file(objects(files)[0]).unwrap();
    });
}

/// Changes every record of the remote.
fn records(files: &BTreeMap<String, PathBuf>, change: impl Fn(&mut Value)) {
    for path in files.iter().filter(|(name, _)| name.contains("pages")).map(|(_, path)| path) {
        let text = std::fs::read_to_string(path).unwrap();
        let mut changed = String::new();
        for line in text.lines() {
            let mut record: Value = serde_json::from_str(line).unwrap();
            change(&mut record);
            changed.push_str(&format!("{record}\n"));
        }
        std::fs::write(path, changed).unwrap();
    }
}

#[test]
fn each_object_alone_is_refused_where_its_bytes_are_others() {
    let space = pushed();
    let there = files(&space.path("remote"));
    for path in objects(&there) {
        let sound = std::fs::read(path).unwrap();
        let mut changed = sound.clone();
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(path, changed).unwrap();

        let clone = clone(&space);
        let (code, pulled) = pull(&clone, &remote(&space));
        let faults = pulled["faults"].as_array().unwrap();
        assert!(code == 3 && !faults.is_empty(), "`{}`: {pulled}", path.display());
        assert!(pulled["received"].as_u64().unwrap() > 0, "the others are taken");
        for (name, file) in files(&clone.path(".refrain/objects")) {
            if name.matches('/').count() == 1 {
                assert_eq!(blake3(&std::fs::read(file).unwrap()), name.replace('/', ""));
            }
        }
        std::fs::write(path, sound).unwrap();
    }
    assert_eq!(pull(&clone(&space), &remote(&space)).0, 0);
}

#[test]
fn records_that_the_lock_does_not_name_are_refused() {
    refused("other outputs", |_, files| {
        records(files, |record| {
            for (_, output) in record["outputs"].as_object_mut().unwrap() {
                output["digest"] = Value::from("0".repeat(64));
            }
        });
    });
    refused("other sizes", |_, files| {
        records(files, |record| {
            for (_, output) in record["outputs"].as_object_mut().unwrap() {
                output["bytes"] = Value::from(u64::MAX);
            }
        });
    });
    refused("other metrics", |_, files| {
        records(files, |record| {
            record["metrics"] = serde_json::json!([{ "metric": "accuracy", "value": 1.0, "n": 9 }]);
        });
    });
    refused("another profile", |_, files| {
        records(files, |record| record["profile"] = Value::from("a better machine"));
    });
    refused("a manifest of another key", |_, files| {
        records(files, |record| record["manifest"]["kind"] = Value::from("other"));
    });
    refused("a page that is too large", |_, files| {
        for path in files.iter().filter(|(name, _)| name.contains("pages")).map(|(_, p)| p) {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(1 << 40).unwrap();
        }
    });
}

#[test]
fn pages_that_are_no_pages_are_as_if_they_were_absent() {
    for text in
        ["", "\n\n", "{}", "null\n[]\n", "{\"key\": \"../../../etc/passwd\"}\n", "\u{0}\u{1}"]
    {
        let space = pushed();
        for (name, path) in files(&space.path("remote")) {
            if name.contains("pages") {
                std::fs::write(path, text).unwrap();
            }
        }
        let clone = clone(&space);
        let (code, pulled) = pull(&clone, &remote(&space));
        assert_eq!(code, 0);
        assert!(!pulled["absent"].as_array().unwrap().is_empty(), "{text:?}: {pulled}");
    }
}

#[test]
fn two_pushers_and_two_pullers_do_not_disturb_each_other() {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &[]);
    std::fs::create_dir(space.path("remote")).unwrap();
    let start = |arguments: &[&str], space: &Space| space.command(arguments).spawn().unwrap();
    let push = ["cache", "push", "w.yaml", "--remote", "remote"];
    let mut both = [start(&push, &space), start(&push, &space)];
    both.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));

    let clone = clone(&space);
    let address = remote(&space);
    let pull = ["cache", "pull", "w.yaml", "--remote", &address];
    let mut both = [start(&pull, &clone), start(&pull, &clone)];
    both.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    assert!(clone.ran("w.yaml", &[]).is_empty());
}

#[test]
fn addresses_that_are_none_are_refused_with_what_is_possible() {
    let space = pushed();
    for (address, words) in [
        ("nowhere", "there is no such folder"),
        ("file:///no/such/folder", "there is no such folder"),
        ("ftp://host/x", "is none of"),
        ("s3://", "no address"),
        ("https://host/x?token=abc", "a query"),
        ("://", "no address"),
    ] {
        for command in ["push", "pull"] {
            let said = space.refuses(&["cache", command, "w.yaml", "--remote", address]);
            let is_input = said.starts_with("exit code 2") || address == "s3://";
            assert!(is_input && said.contains(words), "{address}: {said}");
        }
    }
    let said = space.refuses(&["cache", "push", "w.yaml", "--remote", "http://127.0.0.1:9/x"]);
    assert!(said.contains("can only be read"), "{said}");
    let said = space.refuses(&["cache", "pull", "nothing.yaml", "--remote", "remote"]);
    assert!(said.contains("there is no lock"), "{said}");
}

/// Serves the files of a folder over HTTP, in a thread that ends with the process.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/cache", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let folder = folder.clone();
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                    let words: Vec<String> = line.split(' ').map(String::from).collect();
                    loop {
                        line.clear();
                        reader.read_line(&mut line).unwrap();
                        if line == "\r\n" {
                            break;
                        }
                    }
                    line.clear();
                    let path = words[1].trim_start_matches("/cache/");
                    let body = std::fs::read(folder.join(path));
                    let (status, body) =
                        body.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
                    let modified = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT";
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{modified}\r\n\r\n",
                        body.len()
                    );
                    stream.write_all(head.as_bytes()).unwrap();
                    if words[0] == "GET" {
                        stream.write_all(&body).unwrap();
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_page_of_the_web_is_read() {
    let space = pushed();
    let clone = clone(&space);
    let address = serve(space.path("remote"));
    let (code, pulled) = pull(&clone, &address);
    assert_eq!(code, 0, "{pulled}");
    assert!(clone.ran("w.yaml", &[]).is_empty());
    clone.accepts(&["verify", "w.yaml", "--remote", &address]);
}

#[test]
fn a_server_that_is_not_there_is_an_error_of_the_environment() {
    let space = pushed();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let elsewhere = clone(&space);
    let mut command =
        elsewhere.command(&["cache", "pull", "w.yaml", "--remote", "s3://bucket/prefix"]);
    let secret = "a-secret-of-the-lab";
    command.env("AWS_ENDPOINT_URL", format!("http://{address}"));
    command.env("AWS_ACCESS_KEY_ID", "someone").env("AWS_SECRET_ACCESS_KEY", secret);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("s3://bucket/prefix") && !said.contains(secret), "{said}");
}
