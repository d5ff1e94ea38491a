//! Command lines that are wrong: exit code 2, in the format that they ask for.

use serde_json::Value;

use crate::space::Space;

const WORKFLOW: &str = "refrain: 1\nstages:\n  made: { run: { command: [sh, -c, 'echo > ${out.o}'], \
                        outputs: { o: file } } }\n";

#[test]
fn a_format_that_a_command_does_not_have_is_refused() {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    for format in ["csv", "markdown"] {
        for arguments in [
            &["plan", "w.yaml"][..],
            &["run", "-n", "w.yaml"],
            &["check", "w.yaml"],
            &["export", "w.yaml", "--to", "csv", "tables"],
            &["explain", "w.yaml"],
            &["show", "w.yaml", "made"],
            &["graph", "w.yaml"],
            &["verify", "w.yaml"],
            &["cache", "stat", "w.yaml"],
            &["cache", "verify", "w.yaml"],
            &["cache", "gc", "w.yaml"],
            &["schema"],
            &["doctor"],
            &["completions", "bash"],
            &["man"],
        ] {
            let said = space.run(&[arguments, &["--format", format]].concat());
            assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{arguments:?}");
            let words = format!("`--format {format}` works only with `refrain results`");
            assert!(said.stderr.contains(&words), "{arguments:?}: {}", said.stderr);
        }
        assert_eq!(space.run(&["run", "w.yaml", "--format", format]).code, 0);
        assert_eq!(space.run(&["results", "w.yaml", "--format", format]).code, 0);
    }
}

#[test]
fn an_error_of_usage_is_json_where_json_is_asked_for() {
    let space = Space::new();
    for (arguments, words) in [
        (&["plan", "w.yaml", "--summry", "--format", "json"][..], "unexpected argument '--summry'"),
        (&["--format=json", "plan"], "required arguments were not provided"),
        (&["--format", "json", "plna"], "unrecognized subcommand 'plna'"),
        (&["--format", "json"], "a command is missing"),
        (&["cache", "gc", "--older-than", "soon", "--format", "json"], "invalid value 'soon'"),
    ] {
        let said = space.run(arguments);
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{arguments:?}: {}", said.stderr);
        let error: Value = serde_json::from_str(&said.stderr).unwrap();
        assert_eq!(error["exit_code"], 2, "{error}");
        let [one] = error["errors"].as_array().unwrap().as_slice() else { panic!("{error}") };
        let message = one["message"].as_str().unwrap();
        assert!(message.contains(words) && !message.starts_with("error"), "{message}");
        assert!(one["hints"].is_array() && one["line"].is_null(), "{error}");
    }
    let said = space.run(&["plan", "w.yaml", "--summry"]);
    assert!(said.code == 2 && said.stderr.starts_with("error: unexpected"), "{}", said.stderr);
}

#[test]
fn every_command_shows_an_example() {
    let space = Space::new();
    let text = space.run(&["--help"]).stdout;
    let commands = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    let below = ["stat", "verify", "gc"].map(|name| vec!["cache", name, "--help"]);
    for arguments in commands.iter().map(|name| vec![*name, "--help"]).chain(below) {
        let page = space.run(&arguments).stdout;
        assert!(page.contains("Example"), "{arguments:?}: {page}");
        assert!(page.contains("\n  refrain "), "{arguments:?}: {page}");
    }
}
