//! Writes the selected rows of a source as a table, and gives every row its `id`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::Int32Type;

use refrain_cache::{Artifact, Cache, CacheError};

use super::error::Fault;
use super::ids::Ids;
use super::layout::{Found, Layout, Origin};
use super::messages::{self, Split};
use super::rows::{LineNumbers, RowCursor, Selected};
use super::{SourceError, SourceSpec, convert};

/// The batches of a source as they come from its file.
pub(super) type Batches<'a> = Box<dyn Iterator<Item = Result<RecordBatch, SourceError>> + 'a>;

/// A file that is ready to be read: its columns, its number of rows, and its batches.
pub(super) struct Opened<'a> {
    pub found: Found,
    pub rows: u64,
    /// The lines of the rows, where the file has lines.
    pub lines: Option<LineNumbers>,
    pub batches: Batches<'a>,
}

/// Writes the selected rows as a table.
pub(super) fn import(
    spec: &SourceSpec,
    cache: &Cache,
    opened: Opened<'_>,
) -> Result<Artifact, SourceError> {
    let Opened { found, rows, lines, batches } = opened;
    let layout = Layout::new(&found, spec)?;
    let mut cursor = RowCursor::new(&spec.rows, rows);
    let mut importer = Importer { spec, layout, lines, ids: Ids::default() };
    let mut writer = cache.new_table(importer.layout.schema.clone())?;
    for batch in batches {
        let Some(selected) = cursor.take(batch?) else {
            if cursor.finished() {
                break;
            }
            continue;
        };
        let batch = importer.table_batch(&selected)?;
        // The source is not at fault when the table cannot be written.
        writer.write(&batch).map_err(CacheError::from)?;
    }
    Ok(cache.store_table(writer)?)
}

struct Importer<'a> {
    spec: &'a SourceSpec,
    layout: Layout,
    lines: Option<LineNumbers>,
    ids: Ids,
}

impl Importer<'_> {
    fn table_batch(&mut self, selected: &Selected) -> Result<RecordBatch, SourceError> {
        let schema = self.layout.schema.clone();
        let mut columns: Vec<Option<ArrayRef>> = Vec::with_capacity(schema.fields().len());
        for (field, origin) in schema.fields().iter().zip(&self.layout.origins) {
            let Origin::File(place) = *origin else {
                columns.push(None);
                continue;
            };
            let found = selected.batch.column(place);
            let column = convert::column(field.name(), found, field.data_type());
            columns.push(Some(column.map_err(|(row, fault)| self.at(selected, row, fault))?));
        }

        if self.layout.split {
            self.split(&mut columns);
        }
        self.fill_ids(&mut columns, selected)?;
        let columns = columns.into_iter().map(|c| c.expect("every column was made")).collect();
        RecordBatch::try_new(schema, columns).map_err(|error| self.spec.content(error.to_string()))
    }

    /// Takes the responses off the conversations.
    fn split(&self, columns: &mut [Option<ArrayRef>]) {
        let place = |name: &str| self.layout.place(name);
        let Some((at, found)) = place("messages").and_then(|at| Some((at, columns[at].take()?)))
        else {
            return;
        };
        let Split { messages, responses, fields } = messages::split_last_turn(found.as_list());
        columns[at] = Some(Arc::new(messages));
        if let Some(at) = place("response") {
            columns[at] = Some(Arc::new(responses));
        }
        if let (Some(at), Some(fields)) = (place("response_fields"), fields) {
            columns[at] = Some(Arc::new(fields));
        }
    }

    fn fill_ids(
        &mut self,
        columns: &mut [Option<ArrayRef>],
        selected: &Selected,
    ) -> Result<(), SourceError> {
        let at = self.layout.place("id").expect("every table has an id");
        let named = |name: &str| self.layout.place(name).and_then(|i| columns[i].clone());
        if let Some(given) = &columns[at] {
            let samples = named("sample");
            let samples = samples.as_ref().and_then(|s| s.as_primitive_opt::<Int32Type>());
            let (lines, number) = (self.lines.as_ref(), |row| selected.number(row));
            let place = |row: u64| match lines {
                Some(lines) => format!("line {}", lines.of(row)),
                None => format!("row {row}"),
            };
            let checked = self.ids.check(given.as_string(), samples, number, place);
            return checked.map_err(|(row, fault)| self.at(selected, row, fault));
        }
        let content: Vec<ArrayRef> =
            ["prompt", "messages", "response"].into_iter().filter_map(named).collect();
        let content = match content.is_empty() {
            true => columns.iter().flatten().cloned().collect(),
            false => content,
        };
        let ids = self.ids.make(&content, selected.batch.num_rows());
        columns[at] = Some(Arc::new(ids.map_err(|error| self.spec.content(error.to_string()))?));
        Ok(())
    }

    /// The error of a row of the batch, with its place in the file.
    fn at(&self, selected: &Selected, row: usize, fault: Fault) -> SourceError {
        let (path, Fault { message, hint }) = (self.spec.path.clone(), fault);
        let row = selected.number(row);
        match &self.lines {
            Some(lines) => {
                let line = lines.of(row) as usize;
                SourceError::Line { path, line, column: 1, message, hint }
            }
            None => SourceError::Row { path, row, message, hint },
        }
    }
}
