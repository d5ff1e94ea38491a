//! The cost of a run, and budgets that end it.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::space::{Said, Space, names, set};

/// Two stages that sleep; the second reads the first and takes cards.
fn space() -> Space {
    let space = Space::new();
    let stage = |name: &str, more: &str| {
        format!(
            "  {name}:\n    run: {{ command: [sh, -c, \"sleep 0.2; echo ${{{name}_value}} > $1\", sh, '${{out.file}}'], \
             outputs: {{ file: file }}{more} }}\n"
        )
    };
    space.write(
        "w.yaml",
        &format!(
            "refrain: 1\nparams: {{ first_value: 1, second_value: 1 }}\nstages:\n{}{}    resources: {{ gpus: 2 }}\n",
            stage("first", ""),
            stage("second", ", inputs: { a: first }"),
        ),
    );
    space.write("config/config.toml", "[prices]\ngpu_hour = \"3600USD\"\n");
    let mode = |name: &str, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(space.path(name), permissions).unwrap();
    };
    mode("config", 0o755);
    mode("config/config.toml", 0o644);
    space
}

fn run(space: &Space, more: &[&str]) -> (Said, Value) {
    let arguments =
        ["run", "w.yaml", "--format", "json", "--quiet", "--config", "config/config.toml"];
    let said = space.run(&[&arguments, more].concat());
    let report = serde_json::from_str(&said.stdout).unwrap_or_default();
    (said, report)
}

#[test]
fn a_plan_tells_hours_of_cards_and_money() {
    let space = space();
    let plan = |more: &[&str]| {
        let said =
            space.run(&[&["plan", "w.yaml", "--config", "config/config.toml"], more].concat());
        assert_eq!(said.code, 0, "{}", said.stderr);
        said.stdout
    };
    assert!(!plan(&[]).contains("graphics cards"), "nothing has run yet");
    run(&space, &[]);
    let all: Value = serde_json::from_str(&plan(&["--format", "json"])).unwrap();
    assert_eq!(all["total"]["gpu_hours"], Value::Null, "all is cached");
    space.edit("w.yaml", "second_value: 1", "second_value: 2");
    let text = plan(&[]);
    let line =
        text.lines().find(|line| line.starts_with("graphics cards: about 0.00 hours")).unwrap();
    // Two cards for a fifth of a second and more, at one a second.
    let money: f64 = line.split(' ').rev().nth(1).unwrap().parse().unwrap();
    assert!(line.ends_with(" USD") && (0.4..60.0).contains(&money), "{line}");
    let all: Value = serde_json::from_str(&plan(&["--format", "json"])).unwrap();
    assert_eq!(all["total"]["currency"], "USD");
    let hours = all["total"]["gpu_hours"].as_f64().unwrap();
    assert!((hours * 3600.0 - money).abs() < 0.01, "{hours} hours, {money} USD");
}

#[test]
fn a_run_ends_before_the_node_that_would_pass_its_budget() {
    let space = space();
    // What nothing is known of counts as over.
    let (said, report) = run(&space, &["--budget", "1h"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert_eq!(report["over_budget"]["node"], "first");
    assert_eq!(report["over_budget"]["cost"], Value::Null);
    let (said, report) = run(&space, &["--budget", "1h", "--budget-unknown=allow"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(
        (names(&report, "ran"), &report["over_budget"]),
        (set(&["first", "second"]), &Value::Null)
    );
    // All is cached: nothing costs anything.
    let (said, _) = run(&space, &["--budget", "0.01USD"]);
    assert_eq!(said.code, 0, "{}", said.stderr);

    // What takes no card is free; what takes cards is not.
    space.edit("w.yaml", "first_value: 1, second_value: 1", "first_value: 2, second_value: 2");
    let lock = space.read("w.lock");
    let (said, report) = run(&space, &["--budget", "0.01USD"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert_eq!(names(&report, "ran"), set(&["first"]));
    assert_eq!(report["over_budget"]["node"], "second");
    let cost = report["over_budget"]["cost"].as_f64().unwrap();
    assert!((0.4..60.0).contains(&cost), "{cost}");
    // The lock has what ended, and keeps the rest.
    let now = space.read("w.lock");
    let line = |lock: &str, node: &str| {
        lock.lines().find(|line| line.contains(&format!("\"{node}\""))).unwrap().to_owned()
    };
    assert_ne!(line(&lock, "first"), line(&now, "first"));
    assert_eq!(line(&lock, "second"), line(&now, "second"));
    let (said, _) = run(&space, &["--budget", "100USD"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
}

#[test]
fn a_budget_says_why_it_ended_the_run() {
    let space = space();
    let fails = |more: &[&str]| {
        space.fails(
            &[&["run", "w.yaml", "--quiet", "--config", "config/config.toml"], more].concat(),
        )
    };
    let said = fails(&["--budget", "1h"]);
    assert!(
        said.contains("error: `first` may pass the budget: no earlier run tells how long it takes"),
        "{said}"
    );
    assert!(said.contains("= help: `--budget-unknown=allow` runs it anyway"), "{said}");
    run(&space, &[]);
    space.edit("w.yaml", "second_value: 1", "second_value: 2");
    let said = fails(&["--budget", "0.01USD"]);
    assert!(said.contains("error: `second` would cost about "), "{said}");
    assert!(said.contains(" USD, and 0.01 USD of the budget are left"), "{said}");
    let said = fails(&["--budget", "5EUR"]);
    assert!(said.contains("exit code 2\n"), "{said}");
    assert!(said.contains("the budget is in EUR, the prices are in USD"), "{said}");
    // The price of tokens tells the currency as well as that of cards.
    space.write("tokens.toml", "[[prices.tokens]]\noutput = \"0.4USD\"\n");
    let of_tokens = ["--config", "tokens.toml", "run", "w.yaml", "--budget", "5EUR"];
    let said = space.refuses(&of_tokens);
    assert!(said.contains("the budget is in EUR, the prices are in USD"), "{said}");
    let said = fails(&["--budget", "a lot"]);
    assert!(said.contains("write money or a time, such as `20USD` or `3h`"), "{said}");
    let said = fails(&["--budget-unknown", "allow"]);
    assert!(said.contains("--budget <LIMIT>"), "{said}");
    // Without a price the cost of cards is not known.
    space.write("config/config.toml", "");
    let said = fails(&["--budget", "5USD"]);
    assert!(said.contains("or no price in the configuration, tells its cost"), "{said}");
}
