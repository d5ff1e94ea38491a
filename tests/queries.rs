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
    assert!(said.contains("`task: sql` needs one of `database` and `databases`"), "{said}");
}
