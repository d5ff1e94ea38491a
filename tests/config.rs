//! The machine's configuration: where it is found, when it is refused, what `doctor` shows of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::space::Space;

fn mode(space: &Space, name: &str, mode: u32) {
    fs::set_permissions(space.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

fn doctor(space: &Space, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, Value, String) {
    let arguments = [&["doctor", "--format", "json"], arguments].concat();
    let said = space.command(&arguments).envs(variables.iter().copied()).output().unwrap();
    let json = serde_json::from_slice(&said.stdout).unwrap_or_default();
    (said.status.code().unwrap(), json, String::from_utf8(said.stderr).unwrap())
}

const PYTHON: &str =
    "[python]\npath = \"no/such/python\"\nlauncher = [\"accelerate\", \"launch\"]\n";

#[test]
fn it_is_found_where_the_user_says_and_nowhere_else() {
    let space = Space::new();
    for folder in ["named", "variable", "home/.config/refrain", "xdg/refrain"] {
        space.write(&format!("{folder}/config.toml"), PYTHON);
    }
    // Beside a workflow, and in a cache, nothing is read.
    for name in ["config.toml", "refrain/config.toml", ".refrain/config.toml"] {
        space.write(name, "broken");
    }
    let path = |name: &str| space.path(name).display().to_string();
    let (home, xdg, variable) = (path("home"), path("xdg"), path("variable/config.toml"));
    let all = [
        ("HOME", home.as_str()),
        ("XDG_CONFIG_HOME", xdg.as_str()),
        ("REFRAIN_CONFIG", variable.as_str()),
    ];
    for (arguments, variables, found, by) in [
        (&["--config", "named/config.toml"][..], &all[..], "named/config.toml", "--config"),
        (&[], &all, "variable/config.toml", "REFRAIN_CONFIG"),
        (&[], &all[..2], "xdg/refrain/config.toml", "the user's folder"),
        (&[], &all[..1], "home/.config/refrain/config.toml", "the user's folder"),
    ] {
        let (code, json, stderr) = doctor(&space, arguments, variables);
        assert_eq!(code, 0, "{stderr}");
        let config = &json["config"];
        assert!(config["path"].as_str().unwrap().ends_with(found), "{config}");
        assert_eq!((&config["named_by"], &config["found"]), (&by.into(), &true.into()));
        assert_eq!(json["launcher"][0], "accelerate");
        // A relative path is one from the file's folder.
        let missing = json["trainer"]["missing"].as_str().unwrap();
        let folder = found.trim_end_matches("config.toml");
        assert!(
            missing.contains(&format!("{folder}no/such/python` cannot be started")),
            "{missing}"
        );
    }
    let (code, json, _) = doctor(&space, &[], &[]);
    assert_eq!((code, &json["config"]["found"]), (0, &false.into()));
}

#[test]
fn one_that_others_can_write_is_refused() {
    let space = Space::new();
    space.write("own/config.toml", PYTHON);
    let said = || doctor(&space, &["--config", "own/config.toml"], &[]);
    for (name, bad, good) in [("own/config.toml", 0o620, 0o600), ("own", 0o777, 0o755)] {
        mode(&space, name, bad);
        let (code, _, stderr) = said();
        assert_eq!(code, 4, "{stderr}");
        assert!(stderr.contains("names programs, and others can write"), "{stderr}");
        assert!(stderr.contains("chmod go-w"), "{stderr}");
        mode(&space, name, good);
        assert_eq!(said().0, 0);
    }
    // Nor by way of a link.
    std::os::unix::fs::symlink("own/config.toml", space.path("link.toml")).unwrap();
    mode(&space, "own/config.toml", 0o666);
    assert_eq!(doctor(&space, &["--config", "link.toml"], &[]).0, 4);
}

#[test]
fn what_is_wrong_in_it_is_shown_in_its_place() {
    let space = Space::new();
    for (text, place, words) in [
        ("[pyhton]\n", ":1:2", "unknown field `pyhton`"),
        ("[python]\npath = 3\n", ":2:8", "invalid type"),
        ("[python\n", ":1:8", "unclosed table"),
        ("[[servers]]\nmodel = \"m\"\n", ":1:1", "a server has either an `address` or a `command`"),
        ("[[servers]]\ncommand = [\"x\"]\n", ":1:1", "`command` needs `{model}` and `{port}`"),
        ("[requests]\ntime_limit = \"soon\"\n", ":2:14", "write a whole number"),
    ] {
        space.write("c.toml", text);
        let said = space.run(&["doctor", "--config", "c.toml"]);
        assert_eq!(said.code, 2, "{}", said.stderr);
        let place = format!("c.toml{place}");
        assert!(said.stderr.contains(&place), "`{place}` is not in {}", said.stderr);
        assert!(said.stderr.contains(words), "`{words}` is not in {}", said.stderr);
    }
    let said = space.run(&["doctor", "--config", "absent.toml"]);
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("there is no configuration `absent.toml`"), "{}", said.stderr);
}

#[test]
fn doctor_lists_packages_and_the_line_that_installs_them() {
    let space = Space::new();
    let (code, json, stderr) = doctor(&space, &[], &[]);
    assert_eq!(code, 0, "{stderr}");
    if !json["trainer"]["missing"].is_null() {
        println!("skipped: {}", json["trainer"]["missing"]);
        return;
    }
    let absent: Vec<&str> = ["torch", "transformers", "peft", "accelerate"]
        .into_iter()
        .filter(|name| json["trainer"]["packages"][name].is_null())
        .collect();
    let said = space.run(&["doctor"]);
    match absent.as_slice() {
        [] => assert_eq!(json["trainer"]["remedy"], Value::Null),
        absent => {
            let line = format!("-m pip install {}", absent.join(" "));
            assert!(json["trainer"]["remedy"].as_str().unwrap().ends_with(&line));
            assert!(said.stderr.contains(&line), "{}", said.stderr);
        }
    }
    for row in ["configuration", "instruction set", "trainer: torch", "sandbox: Python"] {
        assert!(said.stdout.contains(row), "`{row}` is not in {}", said.stdout);
    }
}
