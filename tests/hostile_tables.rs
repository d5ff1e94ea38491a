//! Tables that lie: JSON Lines and Parquet files made to break a reader, within bounds of time and memory.

use std::fs;

use crate::space::Space;
use crate::thrift::{Column, File, endless_lists, hidden};

/// A workflow that reads a file as a table.
fn reads(file: &str, more: &str) -> String {
    format!(
        "refrain: 1\ndata: {{ rows: {{ path: {file}{more} }} }}\nstages: {{ s: {{ diversify: {{ data: rows, dedupe: {{ exact: [id] }} }} }} }}\n"
    )
}

fn space(file: &str, bytes: impl AsRef<[u8]>) -> Space {
    let space = Space::new();
    space.write("w.yaml", &reads(file, ""));
    fs::write(space.path(file), bytes).unwrap();
    space
}

/// What a run says of the file: nearly always why it is refused.
fn refused(name: &str, file: &str, bytes: impl AsRef<[u8]>) {
    let space = space(file, bytes);
    insta::assert_snapshot!(name, space.said(space.survives(&["run", "w.yaml", "--quiet"])));
}

/// The first cells of a table that is right, however odd.
fn read(name: &str, bytes: impl AsRef<[u8]>) {
    let space = space("rows.jsonl", bytes);
    space.accepts(&["run", "w.yaml", "--quiet"]);
    insta::assert_snapshot!(name, space.accepts(&["show", "w.yaml", "rows"]).stdout);
}

#[test]
fn lines() {
    let refused = |name: &str, bytes: &[u8]| refused(name, "rows.jsonl", bytes);
    refused("line_without_end", &[b'x'; 100_000_000]);
    refused(
        "line_of_a_long_text",
        format!("{{\"prompt\": \"{}\"}}\n", "x".repeat(100_000_000)).as_bytes(),
    );
    refused("line_of_zeros", &[0; 1000]);
    refused(
        "line_deep",
        format!("{{\"a\": {}1{}}}\n", "[".repeat(100_000), "]".repeat(100_000)).as_bytes(),
    );
    refused(
        "line_deep_as_allowed",
        format!("{{\"a\": {}1{}}}\n", "[".repeat(100), "]".repeat(100)).as_bytes(),
    );
    refused("line_of_number_too_large", b"{\"prompt\": \"a\", \"x\": 1e999}\n");
    refused("line_of_long_number", format!("{{\"x\": 1{}}}\n", "0".repeat(1_000_000)).as_bytes());
    refused("line_of_half_a_pair", b"{\"prompt\": \"\\ud800\"}\n");
    refused("line_of_control_characters", b"{\"prompt\": \"a\x1b[31m\"}\n");
    refused("line_after_another_mark", b"\xef\xbb\xbf\xef\xbb\xbf{\"prompt\": \"a\"}\n");
    refused("line_of_empty_mappings", b"{\"prompt\": \"a\", \"x\": {}, \"y\": []}\n");
    let many: Vec<String> = (0..20_000).map(|i| format!("\"c{i}\": 1")).collect();
    refused("line_of_many_columns", format!("{{{}}}\n", many.join(", ")).as_bytes());
    let many: Vec<String> =
        (0..20_000).map(|i| format!("{{\"prompt\": \"a\", \"a\": {{\"c{i}\": 1}}}}\n")).collect();
    refused("lines_of_many_columns", many.concat().as_bytes());
}

#[test]
fn lines_that_are_odd_and_right() {
    read(
        "read_duplicate_key",
        "{\"prompt\": \"first\", \"prompt\": \"second\"}\n{\"prompt\": \"b\"}\n",
    );
    read(
        "read_nul_and_long_names",
        format!("{{\"prompt\": \"a\\u0000b\", \"{}\": \"\"}}\n", "n".repeat(300)),
    );
    read("read_crlf_and_mark", "\u{feff}{\"prompt\": \"a\"}\r\n\r\n{\"prompt\": \"b\"}");
    read(
        "read_numbers",
        "{\"id\": 1, \"x\": 9223372036854775807, \"y\": 0.1, \"z\": -0.0}\n{\"id\": 2, \"x\": -9223372036854775808, \"y\": 1e308, \"z\": 1e-400}\n",
    );
    read("read_large_numbers", "{\"id\": 1, \"x\": 18446744073709551615}\n{\"id\": 2, \"x\": 1}\n");
    read(
        "read_larger_numbers",
        "{\"id\": 1, \"x\": 123456789012345678901234567890}\n{\"id\": 2, \"x\": 1}\n",
    );
    read("read_empty_mapping", "{\"id\": 1, \"x\": {}}\n{\"id\": 2, \"x\": {\"y\": 1}}\n");
    read("read_empty_names", "{\"id\": 1, \"\": 1, \" \": 2, \"a.b\": {\"c.d\": 3}}\n");
}

#[test]
fn names_of_files() {
    let space = space("rows.jsonl", "{\"prompt\": \"a\"}\n");
    let odd = "a\nb\u{1b}[31m\u{202e}.jsonl";
    fs::copy(space.path("rows.jsonl"), space.path(odd)).unwrap();
    space.write("w.yaml", &reads("\"a\\nb\\e[31m\\u202e.jsonl\"", ""));
    space.accepts(&["run", "w.yaml", "--quiet"]);
    fs::write(space.path(odd), "[1]\n").unwrap();
    insta::assert_snapshot!("file_with_an_odd_name", space.refuses(&["run", "w.yaml", "--quiet"]));
    insta::assert_snapshot!("verify_file_with_an_odd_name", space.refuses(&["verify", "w.yaml"]));
}

#[test]
fn parquet_headers() {
    let refused = |name: &str, file: File| refused(name, "rows.parquet", file.bytes());
    let one = || File::of(vec![Column::texts("prompt", &["a", "b"])]);
    let sound = space("rows.parquet", one().bytes());
    sound.accepts(&["run", "w.yaml", "--quiet"]);
    refused(
        "parquet_rows_of_billions",
        File { group_rows: 4_000_000_000_000, rows: 4_000_000_000_000, ..one() },
    );
    refused("parquet_rows_less_than_none", File { group_rows: -1, rows: -1, ..one() });
    refused("parquet_rows_too_few", File { group_rows: 1, rows: 1, ..one() });
    let values = |edit: fn(&mut Column)| {
        let mut column = Column::texts("prompt", &["a", "b"]);
        edit(&mut column);
        File::of(vec![column])
    };
    refused("parquet_values_of_billions", values(|c| c.values = 1 << 40));
    refused("parquet_values_less_than_none", values(|c| c.values = -5));
    refused("parquet_page_values_of_billions", values(|c| c.page_values = i32::MAX));
    refused("parquet_page_size_of_billions", values(|c| c.page_size = i32::MAX));
    refused("parquet_page_size_less_than_none", values(|c| c.page_size = -1));
    refused("parquet_page_with_endless_lists", values(|c| c.more = endless_lists()));
    refused("parquet_page_that_hides_endless_lists", values(|c| c.more = hidden(&endless_lists())));
    refused("parquet_page_with_a_field_beyond_all", values(|c| c.more = vec![5, 0x86, 0x80, 8, 0]));
    refused("parquet_offset_of_billions", values(|c| c.offset = Some(1 << 50)));
    refused("parquet_offset_less_than_none", values(|c| c.offset = Some(-1)));
    refused("parquet_offset_into_the_footer", values(|c| c.offset = Some(60)));
    refused("parquet_chunk_of_billions", values(|c| c.chunk_size = Some(1 << 60)));
    refused("parquet_text_of_billions", values(|c| c.data[0..4].copy_from_slice(&[0xff; 4])));
    refused("parquet_type_unknown", values(|c| c.physical = 77));
    refused("parquet_codec_unknown", values(|c| c.codec = 77));
    refused("parquet_column_elsewhere", values(|c| c.path = Some("other".into())));
    refused("parquet_deep", File { deep: 100_000, ..one() });
    refused("parquet_deep_as_read", File { deep: 100, ..one() });
    refused("parquet_children_of_billions", File { children: i32::MAX, ..one() });
    refused("parquet_children_less_than_none", File { children: -1, ..one() });
    refused(
        "parquet_columns_twice",
        File::of(vec![Column::texts("prompt", &["a"]), Column::texts("prompt", &["b"])]),
    );
    let columns = (0..20_000).map(|i| Column::texts(&format!("c{i}"), &["a"]));
    refused("parquet_many_columns", File::of(columns.collect()));
    refused("parquet_columns_of_other_lengths", {
        let mut file =
            File::of(vec![Column::texts("prompt", &["a", "b"]), Column::texts("response", &["b"])]);
        file.rows = 2;
        file.group_rows = 2;
        file
    });
    refused(
        "parquet_name_drives_a_terminal",
        File::of(vec![
            Column::texts("a\u{1b}[31m\u{202e}", &["a"]),
            Column::texts("a\u{1b}[31m\u{202e}", &["a"]),
        ]),
    );
    // A draw goes over all rows that the header promises.
    let space =
        space_of_sample(File { group_rows: 4_000_000_000_000, rows: 4_000_000_000_000, ..one() });
    insta::assert_snapshot!(
        "parquet_sample_of_billions",
        space.refuses(&["run", "w.yaml", "--quiet"])
    );
}

fn space_of_sample(file: File) -> Space {
    let space = space("rows.parquet", file.bytes());
    space.write("w.yaml", &reads("rows.parquet", ", rows: { sample: 10 }"));
    space
}
