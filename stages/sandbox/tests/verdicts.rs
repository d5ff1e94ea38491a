//! Verdicts on honest programs, right and wrong, and how fast they come.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use refrain_sandbox::{
    Judge, JudgeError, Layer, Limits, Sandbox, SandboxError, Strictness, Verdict,
};
use serde_json::Value;

use crate::world::{describe, judge, launch, tight, verdict};

const TESTS: &str = "assert f(1) == 2\nassert f(5) == 6\n";

#[test]
fn reasons_are_told_apart() {
    let Some(mut judge) = judge(tight()) else { return };
    let exception = |name: &str| Verdict::Exception(name.into());
    let cases = [
        ("def f(x): return x + 1", Verdict::Passed),
        ("f = lambda x: x + 1\n\nif __name__ == '__main__':\n    f = None", Verdict::Passed),
        ("def f(x): return x", Verdict::Wrong),
        ("def f(x): return x +", Verdict::Syntax),
        ("def f(x):\n\treturn x + 1\n        pass", Verdict::Syntax),
        ("def f(x): return '\0'", Verdict::Syntax),
        ("def g(x): return x + 1", exception("NameError")),
        ("def f(x): return x + '1'", exception("TypeError")),
        ("raise KeyError(1)", exception("KeyError")),
        ("def f(x): return f(x)", exception("RecursionError")),
        ("def f(x):\n    while True: pass", Verdict::TimedOut),
        ("import time\ndef f(x): time.sleep(60)", Verdict::TimedOut),
        ("def f(x): return [0] * 10**9", Verdict::Memory),
        ("def f(x): return input()", exception("EOFError")),
        ("exit()", exception("NameError")),
        ("import sys\nsys.exit()", Verdict::Ended),
        // Bytes that are not text never come from a response; text of every language does.
        ("größe = 1\ndef f(x): return x + größe", Verdict::Passed),
    ];
    for (program, expected) in cases {
        assert_eq!(verdict(&mut judge, program, TESTS), expected, "{program}");
    }
}

#[test]
fn values_of_every_plain_kind_are_confirmed() {
    let Some(mut judge) = judge(tight()) else { return };
    let values = [
        "None",
        "True",
        "-3",
        "10**5000",
        "2.5",
        "1e999",
        "-1e999",
        "1j",
        "'a\\n\"\\'é'",
        "b'\\0x'",
        "[]",
        "[1, [2]]",
        "()",
        "(1,)",
        "(1, 2)",
        "set()",
        "{1, 2}",
        "frozenset({1})",
        "frozenset()",
        "{}",
        "{'a': [1], 2: None}",
        "...",
    ];
    for value in values {
        let program = format!("def f(): return {value}");
        let tests = format!("assert f() == {value}\n");
        assert_eq!(verdict(&mut judge, &program, &tests), Verdict::Passed, "{value}");
    }
    let programs = [
        ("from collections import OrderedDict as D\ndef f(): return D(a=1)", "f() == {'a': 1}"),
        (
            "from collections import Counter\ndef f(): return Counter('aab')",
            "f() == {'a': 2, 'b': 1}",
        ),
        (
            "from collections import namedtuple\ndef f(): return namedtuple('P', 'x y')(1, 2)",
            "f() == (1, 2)",
        ),
        ("def f(): return (x for x in 'ab')", "list(f()) == ['a', 'b']"),
        ("def f(): return map(str, [1])", "list(f()) == ['1']"),
        ("def f(): return dict(a=1).items()", "list(f()) == [('a', 1)]"),
        ("def f(): return range(3)", "list(f()) == [0, 1, 2]"),
        ("def f(*a, **k): return a, k", "f(1, b=[2]) == ((1,), {'b': [2]})"),
        ("def sum(a, b): return a * b", "sum(3, 4) == 12"),
        ("import math\ndef f(x): return math.sqrt(x)", "math.isclose(f(4), 2)"),
        (
            "count = 0\ndef f():\n    global count\n    count += 1\n    return count",
            "f() + f() == 3",
        ),
    ];
    for (program, test) in programs {
        let tests = format!("assert {test}\n");
        assert_eq!(verdict(&mut judge, program, &tests), Verdict::Passed, "{program}");
    }
    let raises = "try:\n    f()\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError\n";
    let program = "def f(): raise ValueError('no')";
    assert_eq!(verdict(&mut judge, program, raises), Verdict::Passed);
}

#[test]
fn a_check_function_is_run_as_tests_are() {
    let Some(mut judge) = judge(tight()) else { return };
    let tests = "METADATA = {}\n\n\ndef check(candidate):\n    for x in range(40):\n        \
                 assert candidate(x) == x + 1\n    assert abs(candidate(1.5) - 2.5) < 1e-6\n\n\
                 check(add_one)\n";
    let right = "def add_one(x):\n    return x + 1";
    assert_eq!(verdict(&mut judge, right, tests), Verdict::Passed);
    assert_eq!(verdict(&mut judge, "def add_one(x): return 1", tests), Verdict::Wrong);
}

#[test]
fn tests_that_are_not_python_are_an_error() {
    let Some(mut judge) = judge(tight()) else { return };
    let error = judge.judge("f = 1", "assert (", &|| false).unwrap_err();
    assert!(matches!(&error, JudgeError::Tests(_)), "{error}");
    assert_eq!(verdict(&mut judge, "def f(x): return x + 1", TESTS), Verdict::Passed);
}

#[test]
fn a_stop_is_noticed_at_once() {
    let Some(mut judge) = judge(Limits::default()) else { return };
    let begin = Instant::now();
    let stop = || begin.elapsed().as_millis() > 200;
    let error = judge.judge("while True: pass", TESTS, &stop).unwrap_err();
    assert!(matches!(error, JudgeError::Stopped), "{error}");
    assert!(begin.elapsed().as_secs() < 5);
    assert_eq!(verdict(&mut judge, "def f(x): return x + 1", TESTS), Verdict::Passed);
}

#[test]
fn an_interpreter_that_cannot_be_used_is_named() {
    let Some(mut launch) = launch(tight()) else { return };
    launch.interpreter.executable = "/nowhere/python".into();
    let error = Judge::start(&launch).unwrap_err();
    assert!(matches!(error, SandboxError::Interpreter(_) | SandboxError::Refused(_)), "{error}");
}

#[test]
fn a_probe_tells_every_layer() {
    let supervisor = env!("CARGO_BIN_EXE_refrain-sandbox-supervisor").into();
    let layers = Sandbox::probe(supervisor).unwrap();
    assert_eq!(layers.iter().map(|state| state.layer).collect::<Vec<_>>(), Layer::ALL);
    println!("{}", describe(&layers));
}

/// The recorded samples of the shared folder, two programs at once.
#[test]
fn recorded_samples_get_their_recorded_verdicts() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/eval-mbpp/samples.jsonl");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("skipped: `{}` is absent", path.display());
        return;
    };
    let Some(mut launch) = launch(Limits::default()) else { return };
    if let Err(error @ SandboxError::Refused(_)) = Judge::start(&launch) {
        println!("not with every layer: {error}");
        launch.strictness = Strictness::Weaker;
    }
    let samples: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let next = Mutex::new(samples.iter().enumerate());
    let begin = Mutex::new(None);
    let work = || {
        let Ok(mut judge) = Judge::start(&launch) else { return (Vec::new(), String::new()) };
        begin.lock().unwrap().get_or_insert_with(Instant::now);
        let mut verdicts = Vec::new();
        loop {
            let Some((row, sample)) = next.lock().unwrap().next() else { break };
            let tests: Vec<&str> =
                sample["tests"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let tests = tests.join("\n") + "\n";
            let program = sample["code"].as_str().unwrap();
            verdicts.push((row, verdict(&mut judge, program, &tests)));
        }
        (verdicts, describe(judge.layers()))
    };
    let (mut verdicts, layers) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        let mut all = (Vec::new(), String::new());
        for worker in workers {
            let (verdicts, layers) = worker.join().unwrap();
            all.0.extend(verdicts);
            all.1 = layers;
        }
        all
    });
    let seconds = begin.lock().unwrap().unwrap().elapsed().as_secs_f64();
    let rate = verdicts.len() as f64 / seconds;
    println!("{} programs, {rate:.0} per second on two threads; {layers}", verdicts.len());

    verdicts.sort_by_key(|(row, _)| *row);
    assert_eq!(verdicts.len(), samples.len());
    for ((row, verdict), sample) in verdicts.iter().zip(&samples) {
        let passed = matches!(verdict, Verdict::Passed | Verdict::Suspicious);
        assert_eq!(passed, sample["passed"] == true, "row {row}: {verdict:?}");
        assert_ne!(*verdict, Verdict::Suspicious, "row {row}");
    }
}
