//! Renames, selects and completes the columns of a source, and gives every row its `id`.

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use refrain_cache::{Artifact, Cache, CacheError, Digest, normal_schema};

use super::{Rows, SourceError, SourceSpec, convert};

/// Columns of ours in their order; all others follow by name.
const FIRST: [&str; 6] = ["id", "sample", "prompt", "messages", "response", "reference"];

/// Most columns of a source, where a mapping counts as many as it has entries: each costs a writer's buffers.
const MAX_COLUMNS: usize = 10_000;
/// Deepest nesting of a column.
const MAX_DEPTH: usize = 64;

/// The table's columns, given those of the file.
pub(super) fn schema(found: &SchemaRef, spec: &SourceSpec) -> Result<SchemaRef, SourceError> {
    Ok(Layout::new(found, spec)?.schema)
}

/// How the columns of a file become those of the table.
struct Layout {
    schema: SchemaRef,
    /// For each column of the table the place of the file's, or `None` where it is made here.
    from: Vec<Option<usize>>,
    /// Whether trailing assistant turns become `response`.
    split: bool,
}

impl Layout {
    fn new(found: &SchemaRef, spec: &SourceSpec) -> Result<Layout, SourceError> {
        check_size(found).map_err(|message| SourceError::content(&spec.path, message))?;
        let mut named: Vec<(String, usize)> = Vec::new();
        for (ours, theirs) in &spec.columns {
            let place =
                found.index_of(theirs).map_err(|_| unknown_column(found, spec, ours, theirs))?;
            named.push((ours.clone(), place));
        }
        for (place, field) in found.fields().iter().enumerate() {
            let renamed = named.iter().any(|(_, p)| *p == place);
            if !renamed && !named.iter().any(|(name, _)| name == field.name()) {
                named.push((field.name().clone(), place));
            }
        }
        let has = |name: &str| named.iter().any(|(n, _)| n == name);
        let split = has("messages") && !has("response");
        let mut columns: Vec<(String, Option<usize>)> =
            named.iter().map(|(n, p)| (n.clone(), Some(*p))).collect();
        if !has("id") {
            columns.push(("id".into(), None));
        }
        if split {
            columns.push(("response".into(), None));
        }
        columns.sort_by_key(|(name, _)| {
            (FIRST.iter().position(|f| f == name).unwrap_or(FIRST.len()), name.clone())
        });
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, place)| {
                let found = place.map_or(&DataType::Utf8, |p| found.field(p).data_type());
                Field::new(name, convert::target(name, found), name != "id")
            })
            .collect();
        for ((name, place), field) in columns.iter().zip(&fields) {
            if let Some(place) = place {
                convert::check(name, found.field(*place).data_type(), field.data_type())
                    .map_err(|message| SourceError::content(&spec.path, message))?;
            }
        }
        let from = columns.into_iter().map(|(_, place)| place).collect();
        Ok(Layout { schema: Arc::new(Schema::new(fields)), from, split })
    }
}

/// Refuses a table with more columns, or deeper ones, than can be written in bounded memory.
pub(super) fn check_size(schema: &Schema) -> Result<(), String> {
    normal_schema(schema).map_err(|error| error.to_string())?;
    let mut single = 0;
    for field in schema.fields() {
        let (columns, depth) = convert::size(field.data_type());
        single += columns;
        if depth > MAX_DEPTH {
            return Err(format!(
                "the column `{}` is nested deeper than {MAX_DEPTH} levels",
                field.name()
            ));
        }
    }
    if single > MAX_COLUMNS {
        return Err(format!(
            "it has {single} columns, those inside of others counted; the most are {MAX_COLUMNS}"
        ));
    }
    Ok(())
}

fn unknown_column(found: &SchemaRef, spec: &SourceSpec, ours: &str, theirs: &str) -> SourceError {
    let names: Vec<&str> = found.fields().iter().map(|f| f.name().as_str()).collect();
    SourceError::Column {
        path: spec.path.clone(),
        ours: ours.into(),
        theirs: theirs.into(),
        hint: crate::language::diagnostic::suggest(theirs, names, "its columns are"),
    }
}

/// Writes the selected rows as a table.
pub(super) fn import(
    spec: &SourceSpec,
    cache: &Cache,
    found: SchemaRef,
    rows: u64,
    batches: impl Iterator<Item = Result<RecordBatch, SourceError>>,
) -> Result<Artifact, SourceError> {
    let layout = Layout::new(&found, spec)?;
    let mut selection = Selection::new(&spec.rows, rows);
    let mut ids = Ids::default();
    let mut writer = cache.new_table(layout.schema.clone())?;
    for batch in batches {
        let Some(batch) = selection.take(batch?) else {
            if selection.finished() {
                break;
            }
            continue;
        };
        let batch = table_batch(spec, &layout, &batch, &mut ids)?;
        // It is not the source that is wrong when it cannot be written.
        writer.write(&batch).map_err(CacheError::from)?;
    }
    Ok(cache.store_table(writer)?)
}

fn table_batch(
    spec: &SourceSpec,
    layout: &Layout,
    batch: &RecordBatch,
    ids: &mut Ids,
) -> Result<RecordBatch, SourceError> {
    let wrong = |message: String| SourceError::content(&spec.path, message);
    let mut columns: Vec<Option<ArrayRef>> = Vec::with_capacity(layout.from.len());
    for (field, place) in layout.schema.fields().iter().zip(&layout.from) {
        let column =
            place.map(|p| convert::column(field.name(), batch.column(p), field.data_type()));
        columns.push(column.transpose().map_err(wrong)?);
    }
    let at = |name: &str| layout.schema.index_of(name).ok();
    if layout.split
        && let (Some(messages), Some(response)) = (at("messages"), at("response"))
        && let Some(turns) = &columns[messages]
    {
        let (shorter, texts) = convert::split_last_turn(turns.as_list::<i32>());
        columns[messages] = Some(Arc::new(shorter));
        columns[response] = Some(Arc::new(texts));
    }
    let id = at("id").expect("every table has an id");
    let given = columns[id].take();
    let named = |name: &str| at(name).and_then(|i| columns[i].clone());
    columns[id] = Some(Arc::new(match given {
        Some(given) => ids.given(given.as_string::<i32>()).map_err(|message| {
            SourceError::Content { path: spec.path.clone(), message, hint: Some(OWN_IDS.into()) }
        })?,
        None => {
            let content: Vec<ArrayRef> =
                ["prompt", "messages", "response"].into_iter().filter_map(named).collect();
            let content = if content.is_empty() {
                columns.iter().flatten().cloned().collect()
            } else {
                content
            };
            ids.made(&content, batch.num_rows()).map_err(wrong)?
        }
    }));
    let columns = columns.into_iter().map(|c| c.expect("every column was made")).collect();
    RecordBatch::try_new(layout.schema.clone(), columns).map_err(|e| wrong(e.to_string()))
}

/// What to do about ids that are none.
const OWN_IDS: &str =
    "rows without a column `id` are given ids: `columns: { old_id: id }` sets this one aside";

/// The ids of the rows so far.
#[derive(Default)]
struct Ids {
    rows: u64,
    seen: HashSet<String>,
    repeats: HashMap<Digest, u32>,
}

impl Ids {
    /// The source's own: never null, never twice.
    fn given(&mut self, ids: &StringArray) -> Result<StringArray, String> {
        for id in ids.iter() {
            self.rows += 1;
            let Some(id) = id else { return Err(format!("row {} has no `id`", self.rows)) };
            if !self.seen.insert(id.to_string()) {
                return Err(format!(
                    "the id `{id}` stands twice, the second time in row {}",
                    self.rows
                ));
            }
        }
        Ok(ids.clone())
    }

    /// The hex digest of the row's content; repeats are numbered.
    fn made(&mut self, columns: &[ArrayRef], rows: usize) -> Result<StringArray, String> {
        let options = FormatOptions::default().with_null("\u{0}");
        let formatters: Vec<ArrayFormatter> = columns
            .iter()
            .map(|c| ArrayFormatter::try_new(c, &options))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let mut content = String::new();
        let ids = (0..rows).map(|row| {
            content.clear();
            for formatter in &formatters {
                let text = formatter.value(row).to_string();
                content.push_str(&format!("{}:{text}", text.len()));
            }
            let digest = Digest::of_bytes(content.as_bytes());
            let repeat = self.repeats.entry(digest).and_modify(|n| *n += 1).or_insert(0);
            if *repeat == 0 { digest.to_string() } else { format!("{digest}-{repeat}") }
        });
        Ok(StringArray::from_iter_values(ids))
    }
}

/// Which rows are still to come.
enum Selection {
    Range { start: u64, end: u64, at: u64 },
    Chosen { rows: Vec<u64>, next: usize, at: u64 },
}

impl Selection {
    fn new(rows: &Rows, total: u64) -> Selection {
        match rows {
            Rows::Range(start, end) => Selection::Range { start: *start, end: *end, at: 0 },
            Rows::Sample { count, .. } if *count >= total => {
                Selection::Range { start: 0, end: total, at: 0 }
            }
            Rows::Sample { count, seed } => {
                Selection::Chosen { rows: sample(*count, *seed, total), next: 0, at: 0 }
            }
        }
    }

    fn finished(&self) -> bool {
        match self {
            Selection::Range { end, at, .. } => at >= end,
            Selection::Chosen { rows, next, .. } => *next >= rows.len(),
        }
    }

    /// The selected rows of the next batch.
    fn take(&mut self, batch: RecordBatch) -> Option<RecordBatch> {
        let rows = batch.num_rows() as u64;
        match self {
            Selection::Range { start, end, at } => {
                let (first, last) =
                    ((*start).clamp(*at, *at + rows), (*end).clamp(*at, *at + rows));
                let from = first - *at;
                *at += rows;
                (last > first).then(|| batch.slice(from as usize, (last - first) as usize))
            }
            Selection::Chosen { rows: chosen, next, at } => {
                let begin = *next;
                while *next < chosen.len() && chosen[*next] < *at + rows {
                    *next += 1;
                }
                let places: UInt32Array =
                    chosen[begin..*next].iter().map(|r| Some((r - *at) as u32)).collect();
                *at += rows;
                if places.is_empty() {
                    return None;
                }
                Some(take_record_batch(&batch, &places).expect("the places are rows of the batch"))
            }
        }
    }
}

/// A seeded draw without replacement, ascending: the rows with the smallest digests of (seed, row).
fn sample(count: u64, seed: u64, total: u64) -> Vec<u64> {
    let mut drawn: BinaryHeap<(Digest, u64)> = BinaryHeap::new();
    for row in 0..total {
        drawn.push((Digest::of_bytes(format!("refrain sample 1 {seed} {row}").as_bytes()), row));
        if drawn.len() as u64 > count {
            drawn.pop();
        }
    }
    let mut rows: Vec<u64> = drawn.into_iter().map(|(_, row)| row).collect();
    rows.sort_unstable();
    rows
}
