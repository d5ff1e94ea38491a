//! Queries that a model wrote, judged by their results: they can only read, and each fault has its reason.

use rusqlite::Connection;
use serde_json::json;

use crate::artifacts::{table, texts, truths};
use crate::space::Space;

const WORKFLOW: &str = r#"
refrain: 1
data:
  shop: { path: shop.sqlite, type: file }
  rows: { path: rows.jsonl }
stages:
  judged:
    evaluate: { data: rows, task: sql, database: shop, as: "${as}", limits: { steps: 2000000, rows: 100 } }
sweep:
  as: [multiset, set]
"#;

/// A space with a database of three items, one of them twice.
fn shop() -> Space {
    let space = Space::new();
    let shop = Connection::open(space.path("shop.sqlite")).unwrap();
    shop.execute_batch(
        "CREATE TABLE item (name TEXT, price REAL, sold INTEGER);
         INSERT INTO item VALUES ('pen', 2.0, 3), ('ink', 5.5, NULL), ('pen', 2.0, 3);",
    )
    .unwrap();
    space.write("w.yaml", WORKFLOW);
    space
}

fn judge(space: &Space, rows: &[(&str, &str)]) {
    let line = |(response, reference): &(&str, &str)| {
        format!("{}\n", json!({ "response": response, "reference": reference }))
    };
    space.write("rows.jsonl", &rows.iter().map(line).collect::<String>());
    space.report("w.yaml", &[]);
}

fn reasons(space: &Space, node: &str) -> Vec<String> {
    texts(&table(space, node), "reason").into_iter().flatten().collect()
}

#[test]
fn results_are_compared_as_multisets_or_sets() {
    let space = shop();
    let all = "SELECT name, price FROM item";
    judge(
        &space,
        &[
            ("So:\n```sql\nSELECT name, price FROM item ORDER BY price DESC;\n```", all),
            ("SELECT DISTINCT name, price FROM item", all),
            // A whole number is equal to a float, null to null, and the names of columns do not count.
            (
                "SELECT 2, 3 UNION ALL SELECT 5.5, NULL",
                "SELECT DISTINCT price, sold AS n FROM item",
            ),
            ("SELECT price, name FROM item", all),
            ("SELECT '2'", "SELECT 2"),
            ("SELECT name FROM item WHERE price > 10", "SELECT name FROM item WHERE sold > 10"),
        ],
    );
    let verdicts = |set| truths(&table(&space, &format!("judged[as={set}]")), "correct");
    assert_eq!(verdicts("multiset"), [true, false, true, false, false, true]);
    assert_eq!(verdicts("set"), [true, true, true, false, false, true]);
    let found = texts(&table(&space, "judged[as=set]"), "prediction");
    assert_eq!(found[0].as_deref(), Some("SELECT name, price FROM item ORDER BY price DESC;"));
}

#[test]
fn hostile_queries_change_nothing_and_end() {
    let space = shop();
    let before = std::fs::read(space.path("shop.sqlite")).unwrap();
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    let rows = [
        ("", "no query"),
        ("```sql\n-- nothing\n```", "no query"),
        ("I cannot say.", "syntax error"),
        ("SELECT name FROM", "syntax error"),
        ("SELECT colour FROM item", "query failed"),
        ("SELECT name FROM items", "query failed"),
        ("SELECT ?", "query failed"),
        ("DELETE FROM item", "not allowed"),
        ("INSERT INTO item VALUES ('x', 1, 1) RETURNING name", "not allowed"),
        ("DROP TABLE item", "not allowed"),
        ("CREATE TEMP TABLE t (x)", "not allowed"),
        ("PRAGMA writable_schema = ON", "not allowed"),
        ("PRAGMA database_list", "not allowed"),
        ("ATTACH 'other.sqlite' AS other", "not allowed"),
        ("VACUUM INTO 'copy.sqlite'", "not allowed"),
        ("SELECT load_extension('libc.so.6')", "not allowed"),
        ("SELECT random()", "not allowed"),
        ("SELECT 1; DROP TABLE item", "not allowed"),
        ("SELECT writefile('out', 'x')", "query failed"),
        ("SELECT readfile('/etc/passwd')", "query failed"),
        (&format!("{endless} SELECT count(*) FROM c"), "time-out"),
        (&format!("{endless} SELECT x FROM c"), "too many rows"),
        (
            &format!("{endless}, d AS (SELECT x FROM c LIMIT 5000) SELECT count(*) FROM (SELECT DISTINCT hex(zeroblob(100000)) || x FROM d)"),
            "out of memory",
        ),
        ("SELECT zeroblob(1000000000)", "out of memory"),
        (&format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000)), "query failed"),
        ("SELECT name FROM item", "equal"),
    ]
    .map(|(query, reason)| (query.to_owned(), reason));
    let asked: Vec<(&str, &str)> =
        rows.iter().map(|(query, _)| (query.as_str(), "SELECT name FROM item")).collect();
    judge(&space, &asked);
    let found = reasons(&space, "judged[as=multiset]");
    for ((query, reason), found) in rows.iter().zip(&found) {
        assert_eq!(found, reason, "{query}");
    }
    assert_eq!(found.len(), rows.len());
    assert_eq!(std::fs::read(space.path("shop.sqlite")).unwrap(), before);
    let mut files: Vec<String> = std::fs::read_dir(space.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, [".refrain", "rows.jsonl", "shop.sqlite", "w.lock", "w.yaml"]);
}

#[test]
fn a_column_names_the_database_of_each_row() {
    let space = shop();
    let empty = Connection::open(space.path("empty.sqlite")).unwrap();
    empty.execute_batch("CREATE TABLE item (name TEXT)").unwrap();
    space.edit("w.yaml", "  rows:", "  empty: { path: empty.sqlite, type: file }\n  rows:");
    let named = "databases: { files: { shop: shop, none: empty } }";
    space.edit("w.yaml", "database: shop", named);
    let row = |db: &str, n: u8| {
        format!(
            "{}\n",
            json!({ "db_id": db, "response": "SELECT count(*) FROM item", "reference": format!("SELECT {n}") })
        )
    };
    space.write("rows.jsonl", &[row("shop", 3), row("none", 0)].concat());
    space.report("w.yaml", &[]);
    assert_eq!(truths(&table(&space, "judged[as=set]"), "correct"), [true, true]);

    // A row that cannot be judged is named.
    space.write("rows.jsonl", &row("bank", 0));
    let said = space.fails(&["run", "w.yaml", "--quiet"]);
    assert!(said.contains("row 0 (`") && said.contains("there is no database `bank`"), "{said}");
    space.write("rows.jsonl", &row("shop", 3).replace("SELECT 3", "SELECT colour"));
    let said = space.fails(&["run", "w.yaml", "--quiet"]);
    assert!(
        said.contains("its reference query fails") && said.contains("no such column"),
        "{said}"
    );
    space.write("empty.sqlite", &"not a database ".repeat(100));
    space.write("rows.jsonl", &row("none", 0));
    let said = space.fails(&["run", "w.yaml", "--quiet"]);
    assert!(said.contains("not a database"), "{said}");
    space.edit("w.yaml", named, "trim: true");
    let said = space.fails(&["check", "w.yaml"]);
    assert!(
        said.contains(
            "`task: sql` needs one of `database`, `databases.files` and `databases.folder`"
        ),
        "{said}"
    );
}

/// A folder of two databases as BIRD lays them out, and a row about each.
fn bird() -> Space {
    let space = shop();
    for (name, count) in [("shop", 3), ("bank", 0)] {
        space.write(&format!("dbs/{name}/database_description/item.csv"), "name\n");
        let path = space.path(&format!("dbs/{name}/{name}.sqlite"));
        let database = Connection::open(path).unwrap();
        database.execute_batch("CREATE TABLE item (name TEXT)").unwrap();
        for _ in 0..count {
            database.execute_batch("INSERT INTO item VALUES ('pen')").unwrap();
        }
    }
    space.write("dbs/.DS_Store", "hidden");
    space.edit("w.yaml", "  rows:", "  dbs: { path: dbs, type: folder }\n  rows:");
    space.edit("w.yaml", "database: shop", "databases: { folder: dbs }");
    space.write("rows.jsonl", &[named("shop", 3), named("bank", 0)].concat());
    space
}

/// A row about a database whose table has so many rows.
fn named(database: &str, rows: u8) -> String {
    let reference = format!("SELECT {rows}");
    let row = json!({
        "db_id": database, "response": "SELECT count(*) FROM item", "reference": reference,
    });
    format!("{row}\n")
}

#[test]
fn a_folder_holds_the_database_of_each_row() {
    let space = bird();
    let verdicts = || truths(&table(&space, "judged[as=set]"), "correct");
    space.report("w.yaml", &[]);
    assert_eq!(verdicts(), [true, true]);
    let folder: Vec<_> = std::fs::read_dir(space.path("dbs/shop")).unwrap().collect();
    assert_eq!(folder.len(), 2, "nothing is written beside a database");
    let shown = space.run(&["show", "w.yaml", "dbs"]).stdout;
    assert!(shown.starts_with("path    dbs\n"), "{shown}");

    // The content of a database is in the key; a hidden file is not.
    space.write("dbs/.DS_Store", "changed");
    assert!(space.ran("w.yaml", &[]).is_empty());
    let bank = Connection::open(space.path("dbs/bank/bank.sqlite")).unwrap();
    bank.execute_batch("INSERT INTO item VALUES ('ink')").unwrap();
    assert_eq!(space.run(&["verify", "w.yaml"]).code, 3);
    assert_eq!(space.ran("w.yaml", &[]).len(), 2);
    assert_eq!(verdicts(), [true, false]);
    assert_eq!(space.run(&["verify", "w.yaml", "--recompute", "all"]).code, 0);
    std::fs::remove_dir_all(space.path("dbs")).unwrap();
    assert_eq!(space.run(&["verify", "w.yaml", "--no-data"]).code, 0);
}

#[test]
fn a_name_reaches_no_file_outside_of_the_folder() {
    let space = bird();
    space.write("elsewhere/shop/shop.sqlite", "");
    std::os::unix::fs::symlink(space.path("elsewhere/shop"), space.path("dbs/link")).unwrap();
    for name in ["../elsewhere/shop", "shop/../shop", "link", "database_description", ""] {
        space.write("rows.jsonl", &named(name, 0));
        let said = space.fails(&["run", "w.yaml", "--quiet"]);
        assert!(said.contains(&format!("there is no database `{name}`")), "{said}");
        assert!(said.contains("`bank`, `shop`") || said.contains("did you mean"), "{said}");
    }
    for (from, to, expected) in [
        ("databases: { folder: dbs }", "database: dbs", "`dbs` is a folder"),
        ("databases: { folder: dbs }", "databases: { folder: rows }", "`rows` is a table"),
        (
            "databases: { folder: dbs }",
            "databases: { folder: dbs, files: { a: dbs } }",
            "`dbs` is a folder",
        ),
        (
            "databases: { folder: dbs }",
            "databases: { folder: dbs }, database: shop",
            "needs one of",
        ),
        ("path: dbs,", "path: rows.jsonl,", "is a file, not a folder"),
        ("type: folder", "type: file", "is a folder, not a file"),
        ("path: dbs,", "path: none,", "there is no `"),
    ] {
        let space = bird();
        space.edit("w.yaml", from, to);
        let said = space.fails(&["check", "w.yaml"]);
        assert!(said.contains(expected), "{said}");
    }
    std::fs::create_dir(space.path("empty")).unwrap();
    space.write("other/a.txt", "no database");
    for (folder, expected) in [("empty", "holds no files"), ("other", "holds no databases")] {
        space.edit(
            "w.yaml",
            "dbs: { path: ",
            &format!("dbs: {{ path: {folder}, type: folder }} #"),
        );
        let said = space.fails(&["run", "w.yaml", "--quiet"]);
        assert!(said.contains(expected), "{said}");
        space.edit("w.yaml", &format!("{folder}, type: folder }} #"), "");
    }
}

/// A command gets a copy of the files that are in its key.
#[test]
fn a_folder_is_an_input_of_a_command() {
    let space = bird();
    space.write(
        "w.yaml",
        "refrain: 1\ndata: { dbs: { path: dbs, type: folder } }\nstages:\n  s:\n    run:\n      \
         command: [sh, -c, 'cd \"$0\" && find . -type f | sort > \"../$1\"', '${in.dbs}', '${out.list}']\n      \
         inputs: { dbs: dbs }\n      outputs: { list: file }\n",
    );
    space.report("w.yaml", &[]);
    let path = space.run(&["show", "w.yaml", "s", "--path"]).stdout;
    let listed = std::fs::read_to_string(space.path(path.trim())).unwrap();
    let expected = "./bank/bank.sqlite\n./bank/database_description/item.csv\n\
                    ./shop/database_description/item.csv\n./shop/shop.sqlite\n";
    assert_eq!(listed, expected);
}
