//! The parameters of the entries of `models` and `data`.

use crate::kind::{ArtifactKind, Param, ServedApi, Type};

use super::format;

const HUB: Param = Param::optional(
    "hub",
    Type::Text,
    "in place of `path`, the name of a repository on the Hugging Face hub, `org/name`; it is fetched \
     once",
);

/// The parameters of an entry of `models`.
pub static MODEL_PARAMS: &[Param] = &[
    Param::optional("path", Type::Text, "a file or folder, relative to the workflow"),
    Param::optional(
        "base",
        Type::Reference(Some(ArtifactKind::Model)),
        "the model that an adapter was trained on, by its name in `models`; where there is one other \
         model, that one",
    ),
    HUB,
    Param::optional(
        "revision",
        Type::Text,
        "on the hub a branch, a tag or a commit, `main` by default: the lock pins its commit, which \
         only `run --update NAME` moves; at a server any text that changes when the weights of that \
         name change",
    ),
    Param::optional(
        "file",
        Type::Text,
        "of a model on the hub its one file, such as a GGUF file; all files that count by default",
    ),
    Param::optional(
        "server",
        Type::Text,
        "in place of `path`, the address of a server that computes the model, such as \
         `http://127.0.0.1:8000/v1`; no key holds it",
    ),
    Param::optional("name", Type::Text, "the name of the model at its server"),
    Param::optional(
        "tokenizer",
        Type::Text,
        "the folder of the tokenizer of a model at a server, relative to the workflow",
    ),
    Param::optional(
        "api",
        Type::Choice(&ServedApi::WORDS),
        "how a server is asked: `completions`, the default, is given what is rendered here; `chat` \
         renders itself, and cannot score",
    ),
    Param::optional(
        "key",
        Type::Secret,
        "the key of a server, as `\"${env:NAME}\"`; it is kept and shown nowhere",
    ),
];

static ROWS: &[Param] = &[
    Param::optional("first", Type::Int { min: 0, max: i64::MAX }, "that many rows from the start"),
    Param::optional(
        "sample",
        Type::Int { min: 0, max: i64::MAX },
        "that many rows drawn at random, in order",
    ),
    Param::default("seed", Type::Int { min: 0, max: i64::MAX }, "0", "seed of the draw"),
    Param::optional(
        "where",
        Type::OneOf(&[Type::Text, Type::Map(&Type::Any)]),
        "keeps, before the others count, the rows in which a column is true, or each column is as \
         given: a value, `not_null`, `null`, or a mapping of `=`, `!=`, `>`, `>=`, `<`, `<=` and `in`",
    ),
];

static REPLACE: &[Param] = &[
    Param::required("column", Type::Text, "the column, by its name in the table"),
    Param::required("pattern", Type::Text, "a regular expression"),
    Param::default(
        "by",
        Type::Text,
        "\"\"",
        "the text in the place of each match, in which `$1` is the first group",
    ),
];

/// The parameters of an entry of `data`.
pub static PARAMS: &[Param] = &[
    Param::optional(
        "path",
        Type::Text,
        "a file, a folder of files, a pattern such as `data/*.jsonl`, or a folder that Hugging Face \
         `datasets` saved, relative to the workflow",
    ),
    HUB,
    Param::optional(
        "revision",
        Type::Text,
        "a branch, a tag or a commit, `main` by default: the lock pins its commit, which only \
         `run --update NAME` moves",
    ),
    Param::optional(
        "file",
        Type::Text,
        "a file, a folder or a pattern such as `data/train-*.parquet` in the `hub` repository",
    ),
    Param::optional(
        "url",
        Type::Text,
        "in place of `path`, the `https://` address of a file; it is fetched once and needs `digest`",
    ),
    Param::optional(
        "digest",
        Type::Text,
        "the digest of the file at `url`: `sha256:…`, or BLAKE3 as `b3sum` prints it",
    ),
    Param::optional(
        "type",
        Type::Choice(&["table", "model", "file", "folder"]),
        "what it is; `table` by default",
    ),
    Param::optional(
        "format",
        Type::Choice(format::WORDS),
        "told from the file's name and first bytes by default",
    ),
    Param::optional("split", Type::Text, "the split of a folder that `datasets` saved"),
    Param::optional(
        "explode",
        Type::Text,
        "a column of lists, by its name in the file, of whose elements each becomes a row",
    ),
    Param::optional("columns", Type::Map(&Type::Text), "renames columns: `new: old`"),
    Param::optional(
        "drop",
        Type::List(&Type::Text),
        "leaves out columns, by their names in the file",
    ),
    Param::optional(
        "replace",
        Type::List(&Type::Record(REPLACE)),
        "replaces what matches a pattern in columns of text, one entry after the other",
    ),
    Param::optional(
        "rows",
        Type::OneOf(&[Type::Text, Type::Record(ROWS)]),
        "`0..2000`, half open, or a mapping",
    ),
];
