//! Hubs and servers of the web that were made to break a fetch: each is refused in clear words, and
//! nothing is written outside of the cache.

use std::sync::Arc;

use serde_json::{Value, json};

use super::server::{Body, Fault, Reply, Request, git_digest, sha256};
use super::{DATA, ROWS, World, large, paths, web};

/// A hostile answer, and the words by which it is refused.
struct Case {
    name: &'static str,
    fault: Fault,
    code: i32,
    words: &'static str,
}

fn case(
    name: &'static str,
    code: i32,
    words: &'static str,
    fault: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Case {
    Case { name, fault: Arc::new(fault), code, words }
}

/// Changes the listing of a revision.
fn listed(
    name: &'static str,
    words: &'static str,
    change: impl Fn(&mut Value) + Send + Sync + 'static,
) -> Case {
    case(name, 4, words, move |request, reply| {
        if !request.path.contains("/revision/") {
            return reply;
        }
        let Body::Bytes(bytes) = &reply.body else { panic!("no listing") };
        let mut listing = serde_json::from_slice(bytes).unwrap();
        change(&mut listing);
        Reply::json(&listing)
    })
}

/// Adds a file to the listing.
fn named(name: &'static str, file: &'static str) -> Case {
    listed(name, "is refused", move |listing| {
        let file = json!({ "rfilename": file, "size": 3, "blobId": git_digest(b"x") });
        listing["siblings"].as_array_mut().unwrap().push(file);
    })
}

/// Changes the answers for the file itself.
fn sent(
    name: &'static str,
    code: i32,
    words: &'static str,
    change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Case {
    case(name, code, words, move |request, reply| match request.path.contains("/api/") {
        true => reply,
        false => change(request, reply),
    })
}

fn cases() -> Vec<Case> {
    let evil = |bytes: &'static [u8]| {
        move |_: &Request, _: Reply| Reply::of(200, Body::Raw(bytes.to_vec()))
    };
    vec![
        named("a name that leads out", "../../../../outside"),
        named("a name that leads out within", "a/../../../outside"),
        named("an absolute name", "/tmp/refrain-outside"),
        named("a name with NUL", "rows\0.jsonl"),
        named("a name with a backslash", "..\\outside"),
        named("a name with an empty part", "a//b"),
        named("a name of this folder", "./rows.jsonl"),
        named("a name that drives a terminal", "\u{1b}[2Jrows"),
        named("a name twice", "rows.jsonl"),
        named("no name", ""),
        listed("a name that no file system takes", "is refused", |listing| {
            listing["siblings"][0]["rfilename"] = "x".repeat(300).into();
        }),
        listed("more files than any repository has", "the limit is 100000", |listing| {
            let file = |i: usize| json!({ "rfilename": format!("f{i}") });
            listing["siblings"] = (0..100_001).map(file).collect();
        }),
        listed("a commit that leads out", "is not a commit", |listing| {
            listing["sha"] = "../../../../outside".into();
        }),
        listed("a digest that leads out", "the digest of `rows.jsonl`", |listing| {
            listing["siblings"][0]["blobId"] = "../../../../../../outside".into();
        }),
        listed("a digest of other bytes", "arrived with the digest git:", |listing| {
            listing["siblings"][0]["blobId"] = git_digest(b"other").into();
        })
        .also(|_, reply| reply.with("ETag", format!("\"{}\"", git_digest(b"other")))),
        listed("another size", "bytes, and more came", |listing| {
            listing["siblings"][0]["size"] = 10.into();
        }),
        listed("a size beyond the limit", "the limit is 1000000", |listing| {
            listing["siblings"][0]["size"] = 5_000_000_000_000u64.into();
        }),
        listed("a size less than none", "not what a hub says", |listing| {
            listing["siblings"][0]["size"] = (-1).into();
        }),
        listed("files that are no list", "not what a hub says", |listing| {
            listing["siblings"] = "rows.jsonl".into();
        }),
        case("half of its JSON", 4, "not what a hub says", |request, reply| match &reply.body {
            Body::Bytes(bytes) if request.path.contains("/revision/") => {
                Reply::new(200, &bytes[..bytes.len() / 2])
            }
            _ => reply,
        }),
        case("JSON without end", 4, "the answer is larger than 64 MB", |request, reply| {
            match request.path.contains("/revision/") {
                true => Reply::of(200, Body::Endless),
                false => reply,
            }
        }),
        case("JSON that is deep", 4, "not what a hub says", |request, reply| {
            match request.path.contains("/revision/") {
                true => Reply::new(200, "[".repeat(1 << 20)),
                false => reply,
            }
        }),
        sent("bytes of another file", 4, "arrived with the digest git:", |_, reply| {
            match reply.body {
                Body::Bytes(bytes) => {
                    let bytes: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
                    Reply { body: Body::Bytes(bytes), ..reply }
                }
                _ => reply,
            }
        }),
        sent("a body without end", 4, "bytes, and more came", |_, reply| Reply {
            body: Body::Endless,
            ..reply
        }),
        sent("a longer body than is said", 4, "bytes, and more came", |_, reply| {
            reply.with("Content-Length", "99999999999")
        }),
        sent(
            "a commit of its own",
            4,
            "and 0000000000000000000000000000000000000bad came",
            |_, reply| reply.with("X-Repo-Commit", format!("{:0>40}", "bad")),
        ),
        sent("a digest of its own", 3, "is another file than before", |_, reply| {
            reply.with("ETag", format!("\"{}\"", git_digest(b"other")))
        }),
        sent("a part of its own choice", 4, "bytes from 10 on were asked for", |request, reply| {
            match request.header("range") {
                Some(_) => reply.with("Content-Range", "bytes 0-9/10"),
                None => reply.cut(10),
            }
        }),
        sent("a part without a range", 4, "`no range` came", |request, mut reply| {
            match request.header("range") {
                Some(_) => {
                    reply.headers.retain(|(name, _)| name != "Content-Range");
                    reply
                }
                None => reply.cut(10),
            }
        }),
        sent("a byte at a time and then none", 4, "cannot be fetched", |request, reply| {
            match request.header("range") {
                Some(_) => reply.cut(0),
                None => reply.cut(1),
            }
        }),
        sent("redirects in a circle", 4, "redirected more than 5 times", |request, _| {
            Reply::new(302, "").with("Location", request.path.clone())
        }),
        sent("a redirect to http", 4, "which is not https", |_, _| {
            Reply::new(302, "").with("Location", "http://outside.example/rows?key=hunter2")
        }),
        sent("a redirect to a file", 4, "which is not https", |_, _| {
            Reply::new(302, "").with("Location", "file:///etc/passwd")
        }),
        sent("a redirect with a password", 4, "an address with a password", |_, _| {
            Reply::new(302, "").with("Location", "https://me:hunter2@outside.example/rows")
        }),
        sent("a redirect to nowhere", 4, "redirected to no address", |_, _| Reply::new(302, "")),
        sent("what is not HTTP", 4, "cannot be fetched", evil(b"\x00\xffSSH-2.0-hunter\r\n")),
        sent("headers without end", 4, "cannot be fetched", |_, _| {
            let headers = format!("HTTP/1.1 200 OK\r\n{}", "X-A: b\r\n".repeat(1 << 18));
            Reply::of(200, Body::Raw(headers.into_bytes()))
        }),
        sent("no answer", 4, "cannot be fetched", evil(b"")),
        sent("an error again and again", 4, "the server answers 503", |_, _| Reply::new(503, "")),
        sent("a status of its own", 4, "the server answers 418", |_, _| Reply::new(418, "")),
    ]
}

impl Case {
    /// Changes the answers for the file itself too.
    fn also(self, change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Case {
        let first = self.fault;
        let fault = move |request: &Request, reply: Reply| {
            let reply = first(request, reply);
            if request.path.contains("/api/") { reply } else { change(request, reply) }
        };
        Case { fault: Arc::new(fault), ..self }
    }
}

const LIMIT: &str = "[fetch]\nmax_size = \"1MB\"\n";

/// Fails unless the workflow was refused and left alone.
fn refused(world: &World, name: &str, code: i32, words: &str) {
    let before = paths(&world.space.path("."));
    let said = world.run(&["run", "w.yaml", "--config", "config.toml"], &[("HF_TOKEN", "hunter2")]);
    assert_eq!(said.code, code, "{name}: {}", said.stderr);
    assert!(said.stderr.contains(words), "{name}: {}", said.stderr);
    assert!(
        !said.stderr.contains("hunter2") && !said.stderr.contains('\u{1b}'),
        "{name}: {}",
        said.stderr
    );
    let written: Vec<String> = paths(&world.space.path(".")).difference(&before).cloned().collect();
    let is_inside = |path: &String| {
        ["hf/hub/", "hf/assets/refrain/", ".refrain/"].iter().any(|folder| path.starts_with(folder))
    };
    assert!(written.iter().all(is_inside), "{name}: {written:?}");
    // Neither a link nor a whole file is there that could be taken for the source.
    let is_taken = |path: &&String| path.contains("/snapshots/") || path.ends_with("rows.jsonl");
    assert_eq!(written.iter().find(is_taken), None, "{name}");
    assert!(!std::path::Path::new("/tmp/refrain-outside").exists());
}

#[test]
fn a_hostile_hub_is_refused() {
    let cases = cases();
    assert!(cases.len() >= 15);
    println!("{} hostile hubs", cases.len());
    for Case { name, fault, code, words } in cases {
        let world = World::new(DATA);
        world.space.write("config.toml", LIMIT);
        world.server.fault(move |request, reply| fault(request, reply));
        refused(&world, name, code, words);
        // Once the server is itself again, the same workflow runs.
        world.server.heal();
        world.ok(&["run", "w.yaml"]);
    }
}

#[test]
fn a_hostile_server_of_large_files_is_refused() {
    let text = large();
    let other = text.replace("\"7\"", "\"8\"");
    let cdn = |name, code, words, change: fn(&Request, Reply) -> Reply| {
        case(name, code, words, move |request: &Request, reply| match request.host {
            "cdn" => change(request, reply),
            _ => reply,
        })
    };
    let mut cases = vec![
        cdn("a body without end", 4, "bytes, and more came", |_, reply| Reply {
            body: Body::Endless,
            ..reply
        }),
        cdn("bytes of another file", 4, "arrived with the digest sha256:", |_, reply| match reply
            .body
        {
            Body::Bytes(bytes) => Reply { body: Body::Bytes(vec![b'x'; bytes.len()]), ..reply },
            _ => reply,
        }),
        cdn("a redirect back and forth", 4, "redirected more than 5 times", |request, _| {
            Reply::new(307, "").with("Location", request.path.clone())
        }),
        cdn("a redirect to http", 4, "which is not https", |_, _| {
            Reply::new(307, "").with("Location", "http://169.254.169.254/latest/meta-data")
        }),
        cdn("denied", 4, "is denied (403)", |_, _| Reply::new(403, "hunter2")),
        cdn("parts of two files", 4, "cannot be fetched", |request, reply| {
            // It has changed after each part, and says so.
            let number = request.header("range").map_or(0, str::len);
            reply.with("ETag", format!("\"{number}\"")).cut(0)
        }),
    ];
    let (before, after) = (text.clone(), other);
    cases.push(case(
        "parts of two files that claim to be one",
        4,
        "sha256:",
        move |request, reply| match (request.host, request.header("range")) {
            ("cdn", None) => Reply { body: Body::Bytes(after.clone().into_bytes()), ..reply }
                .with("Content-Length", before.len().to_string())
                .cut(100_000),
            _ => reply,
        },
    ));
    for Case { name, fault, code, words } in cases {
        let world = World::new(DATA);
        world.space.write("config.toml", LIMIT);
        world.server.commit("datasets/org/set", "main", &[("rows.jsonl", text.as_bytes())]);
        world.server.fault(move |request, reply| fault(request, reply));
        refused(&world, name, code, words);
        world.server.heal();
        world.ok(&["run", "w.yaml"]);
    }
}

#[test]
fn a_hostile_server_of_the_web_is_refused() {
    let sha = format!("sha256:{}", sha256(ROWS.as_bytes()));
    let cases = vec![
        case("a body without end", 4, "the limit is 1000000", |_, reply| Reply {
            body: Body::Endless,
            ..reply
        }),
        case("a length beyond the limit", 4, "the limit is 1000000", |_, reply| {
            reply.with("Content-Length", "1000000000000")
        }),
        case("redirects in a circle", 4, "redirected more than 5 times", |request, _| {
            Reply::new(302, "").with("Location", request.path.clone())
        }),
        case("a redirect to http", 4, "which is not https", |_, _| {
            Reply::new(302, "").with("Location", "http://outside.example/?key=hunter2")
        }),
        case("another file", 2, "arrived with the digest", |_, _| Reply::new(200, "other")),
        case("an empty file", 2, "arrived with the digest", |_, _| Reply::new(200, "")),
        case("a page in its place", 2, "there is no `http://127.0.0.1", |_, _| {
            Reply::new(404, "<html>")
        }),
        case("denied", 4, "is denied (401)", |_, _| Reply::new(401, "hunter2")),
        case("parts of what nobody asked for", 4, "the server answers 206", |_, _| {
            Reply::new(206, "x").with("Content-Range", "bytes 5-6/7")
        }),
    ];
    for Case { name, fault, code, words } in cases {
        let world = World::new(DATA);
        world.space.write("config.toml", LIMIT);
        let url = world.server.put("/rows.jsonl", ROWS.as_bytes());
        world.space.write("w.yaml", &web(&format!("{url}?key=hunter2"), &sha));
        world.server.fault(move |request, reply| fault(request, reply));
        refused(&world, name, code, words);
        world.server.heal();
        world.ok(&["run", "w.yaml"]);
    }
}

#[test]
fn links_that_somebody_laid_into_the_cache_are_not_followed() {
    let world = World::new(DATA);
    let commit =
        world.server.commit("datasets/org/set", "main", &[("a/rows.jsonl", ROWS.as_bytes())]);
    world.space.write("w.yaml", &DATA.replace("rows.jsonl", "a/rows.jsonl"));
    world.space.write("outside/other", "mine");
    let snapshot = world.space.path(&format!("hf/hub/datasets--org--set/snapshots/{commit}"));
    std::fs::create_dir_all(&snapshot).unwrap();

    // A folder that leads out is not written into.
    std::os::unix::fs::symlink(world.space.path("outside"), snapshot.join("a")).unwrap();
    let said = world.run(&["run", "w.yaml"], &[]);
    assert!(said.code == 4 && said.stderr.contains("it is not a folder"), "{}", said.stderr);
    assert_eq!(paths(&world.space.path("outside")), ["other".to_owned()].into());
    std::fs::remove_file(snapshot.join("a")).unwrap();

    // A link to another file is not taken for the one that the lock pins, nor is an incomplete one
    // written through.
    world.ok(&["run", "w.yaml"]);
    let link = snapshot.join("a/rows.jsonl");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(world.space.path("outside/other"), &link).unwrap();
    world.ok(&["run", "w.yaml", "--force", "judged"]);
    assert_eq!(std::fs::read(&link).unwrap(), ROWS.as_bytes());
    assert_eq!(world.space.read("outside/other"), "mine");

    std::fs::remove_dir_all(world.space.path("hf")).unwrap();
    let blobs = world.space.path("hf/hub/datasets--org--set/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.incomplete", git_digest(ROWS.as_bytes())));
    std::os::unix::fs::symlink(world.space.path("outside/other"), partial).unwrap();
    let said = world.run(&["run", "w.yaml"], &[]);
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert_eq!(world.space.read("outside/other"), "mine");
}
