//! Writes the selected rows of a source as a table, and gives every row its `id`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::scope;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, filter, take};
use arrow::datatypes::{DataType, Int32Type};
use arrow::error::ArrowError;

use refrain_cache::{Artifact, Cache, CacheError, TableError, TableWriter, contained};

use super::ids::{Ids, Stop};
use super::layout::{INPUT, INSTRUCTION, Layout, OUTPUT, Origin};
use super::messages::{self, Split};
use super::piece::{Opened, Piece, Pieces, Places};
use super::rows::{Pick, RowCursor, Rows};
use super::{SourceError, SourceSpec, convert};

/// Pieces and batches that wait between two threads.
const WAITING: usize = 2;

/// Writes the selected rows as a table.
pub(super) fn import(
    spec: &SourceSpec,
    files: &[PathBuf],
    cache: &Cache,
) -> Result<Artifact, SourceError> {
    let mut suspects = Vec::new();
    loop {
        match attempt(spec, files, cache, &suspects) {
            Ok(artifact) => return Ok(artifact),
            Err(Ended::Failed(error)) => return Err(error),
            Err(Ended::Suspect(id)) => suspects.push(id),
        }
    }
}

/// Why no table was written.
enum Ended {
    Failed(SourceError),
    /// There may be two rows with this id.
    Suspect(u64),
}

impl<E: Into<SourceError>> From<E> for Ended {
    fn from(error: E) -> Ended {
        Ended::Failed(error.into())
    }
}

/// Writes a table; the ids `suspects` are watched for.
fn attempt(
    spec: &SourceSpec,
    files: &[PathBuf],
    cache: &Cache,
    suspects: &[u64],
) -> Result<Artifact, Ended> {
    // Which rows are drawn depends on how many there are.
    let total = match &spec.rows {
        Rows::Sample { .. } if spec.is_reshaped() => Some(count(spec, files)?),
        _ => None,
    };
    let opened = spec.open(files)?;
    let cursor = RowCursor::new(&spec.rows, total.unwrap_or(opened.rows));
    let (mut importer, pieces) = Importer::new(spec, files, opened, cursor)?;
    importer.ids = Ids::watching(suspects);
    let writer = cache.new_table(importer.layout.schema.clone())?;

    // Reading, converting and writing go on at once.
    let written = scope(|scope| {
        let (to_convert, read) = sync_channel(WAITING);
        scope.spawn(move || send(spec, pieces, &to_convert));
        let (to_write, converted) = sync_channel(WAITING);
        let writing = scope.spawn(move || write(writer, &converted));
        let ended = importer.convert(&read, &to_write);
        drop((read, to_write));
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The source is not at fault when the table cannot be written.
        let writer = written.map_err(|error| SourceError::from(CacheError::from(error)))?;
        ended.map(|()| writer)
    })?;
    Ok(cache.store_table(written).map_err(SourceError::from)?)
}

/// Counts the rows that are selected from.
fn count(spec: &SourceSpec, files: &[PathBuf]) -> Result<u64, SourceError> {
    let opened = spec.open(files)?;
    let cursor = RowCursor::new(&Rows::Range(0, u64::MAX), 0);
    let (importer, pieces) = Importer::new(spec, files, opened, cursor)?;
    let mut rows = 0;
    for piece in pieces {
        let piece = piece?;
        let mut columns = importer.columns(&piece)?;
        importer.complete(&mut columns, &piece)?;
        rows += importer.filtered(piece, columns)?.0.batch.num_rows() as u64;
    }
    Ok(rows)
}

fn send(spec: &SourceSpec, mut pieces: Pieces<'_>, to: &SyncSender<Result<Piece, SourceError>>) {
    loop {
        let piece =
            contained(|| pieces.next()).unwrap_or_else(|panic| Some(Err(spec.internal(panic))));
        let Some(piece) = piece else { return };
        let failed = piece.is_err();
        if to.send(piece).is_err() || failed {
            return;
        }
    }
}

fn write(
    mut writer: TableWriter,
    batches: &Receiver<RecordBatch>,
) -> Result<TableWriter, TableError> {
    for batch in batches {
        writer.write(&batch)?;
    }
    Ok(writer)
}

type Columns = Vec<Option<ArrayRef>>;

struct Importer<'a> {
    spec: &'a SourceSpec,
    layout: Layout,
    places: Places<'a>,
    cursor: RowCursor,
    ids: Ids,
}

impl<'a> Importer<'a> {
    fn new(
        spec: &'a SourceSpec,
        files: &'a [PathBuf],
        opened: Opened<'a>,
        cursor: RowCursor,
    ) -> Result<(Importer<'a>, Pieces<'a>), SourceError> {
        let Opened { found, has_lines, pieces, .. } = opened;
        let layout = Layout::new(&found, spec)?;
        let places = Places { files, has_lines };
        Ok((Importer { spec, layout, places, cursor, ids: Ids::default() }, pieces))
    }

    /// Brings pieces into the form of the table, up to the last selected row.
    fn convert(
        &mut self,
        read: &Receiver<Result<Piece, SourceError>>,
        to: &SyncSender<RecordBatch>,
    ) -> Result<(), Ended> {
        for piece in read {
            if let Some(batch) = self.table_batch(piece?)?
                && to.send(batch).is_err()
            {
                // The error of the writer is told where it is joined.
                return Ok(());
            }
            if self.cursor.finished() {
                break;
            }
        }
        Ok(())
    }

    fn table_batch(&mut self, piece: Piece) -> Result<Option<RecordBatch>, Ended> {
        let is_filtered = !self.spec.filter.is_empty();
        // A row that is not selected is not looked at, where its number tells that.
        let piece = if is_filtered { Some(piece) } else { self.picked(piece)? };
        let Some(piece) = piece else { return Ok(None) };
        let mut columns = self.columns(&piece)?;
        let mut piece = piece;
        self.complete(&mut columns, &piece)?;
        if is_filtered {
            (piece, columns) = self.filtered(piece, columns)?;
            match self.cursor.pick(piece.batch.num_rows()) {
                Pick::None => return Ok(None),
                Pick::Range(first, rows) => {
                    let part = |column: &ArrayRef| Ok(column.slice(first, rows));
                    columns = each(columns, part)?;
                    piece = piece.slice(first, rows);
                }
                Pick::Places(places) => {
                    let places = UInt32Array::from(places);
                    columns = each(columns, |column| take(column, &places, None))?;
                    piece = piece.take(&places).map_err(TableError::from)?;
                }
            }
        }

        self.fill_ids(&mut columns, &piece)?;
        let columns = columns.into_iter().map(|c| c.expect("every column was made")).collect();
        let batch = RecordBatch::try_new(self.layout.schema.clone(), columns);
        Ok(Some(batch.map_err(|error| self.spec.content(error.to_string()))?))
    }

    fn picked(&mut self, piece: Piece) -> Result<Option<Piece>, SourceError> {
        Ok(match self.cursor.pick(piece.batch.num_rows()) {
            Pick::None => None,
            Pick::Range(0, rows) if rows == piece.batch.num_rows() => Some(piece),
            Pick::Range(first, rows) => Some(piece.slice(first, rows)),
            Pick::Places(places) => {
                Some(piece.take(&UInt32Array::from(places)).map_err(TableError::from)?)
            }
        })
    }

    /// The table's columns that come from the files.
    fn columns(&self, piece: &Piece) -> Result<Columns, SourceError> {
        let schema = &self.layout.schema;
        let mut columns: Columns = Vec::with_capacity(schema.fields().len());
        for (field, origin) in schema.fields().iter().zip(&self.layout.origins) {
            let Origin::File(place) = *origin else {
                columns.push(None);
                continue;
            };
            let found = piece.batch.column(place);
            let column = convert::column(field.name(), found, field.data_type());
            columns.push(Some(column.map_err(|(row, fault)| self.places.at(piece, row, fault))?));
        }
        Ok(columns)
    }

    /// Makes the columns that come from others of the same row.
    fn complete(&self, columns: &mut Columns, piece: &Piece) -> Result<(), SourceError> {
        self.fill_samples(columns, piece);
        if self.layout.alpaca {
            self.join_instructions(columns)?;
        }
        if self.layout.split {
            self.split(columns);
        }
        for replacement in &self.spec.replace {
            let place = self.layout.place(replacement.column());
            if let Some(column) = place.and_then(|at| columns[at].as_mut()) {
                *column = replacement.apply(column);
            }
        }
        Ok(())
    }

    /// Makes prompt and response of `instruction`, `input` and `output`.
    fn join_instructions(&self, columns: &mut Columns) -> Result<(), SourceError> {
        let text = |name: &str| -> Result<Option<ArrayRef>, ArrowError> {
            let column = self.layout.place(name).and_then(|at| columns[at].as_ref());
            column.map(|column| cast(column, &DataType::Utf8)).transpose()
        };
        let failed = |error: ArrowError| self.spec.content(error.to_string());
        let (instruction, input) =
            (text(INSTRUCTION).map_err(failed)?, text(INPUT).map_err(failed)?);
        let output = text(OUTPUT).map_err(failed)?;
        let Some(instructions) = instruction.as_ref().map(|column| column.as_string::<i32>())
        else {
            return Ok(());
        };
        let inputs = input.as_ref().map(|column| column.as_string::<i32>());
        let prompts = (0..instructions.len()).map(|row| {
            let instruction = instructions.is_valid(row).then(|| instructions.value(row))?;
            let input =
                inputs.filter(|inputs| inputs.is_valid(row)).map(|inputs| inputs.value(row));
            Some(match input {
                None | Some("") => instruction.to_owned(),
                Some(input) => format!("{instruction}\n{input}"),
            })
        });
        let prompts: StringArray = prompts.collect();
        for (name, column) in
            [("prompt", Some(Arc::new(prompts) as ArrayRef)), ("response", output)]
        {
            if let Some(at) = self.layout.place(name) {
                columns[at] = column;
            }
        }
        Ok(())
    }

    /// Keeps the rows that meet the conditions.
    fn filtered(&self, piece: Piece, columns: Columns) -> Result<(Piece, Columns), SourceError> {
        if self.spec.filter.is_empty() {
            return Ok((piece, columns));
        }
        let named = |name: &str| self.layout.place(name).and_then(|at| columns[at].as_ref());
        let mask = self.spec.filter.mask(piece.batch.num_rows(), named);
        let kept = (0..mask.len() as u32).filter(|row| mask.value(*row as usize));
        let kept = UInt32Array::from_iter_values(kept);
        let columns = each(columns, |column| filter(column, &mask))?;
        Ok((piece.take(&kept).map_err(TableError::from)?, columns))
    }

    /// Numbers the elements of an exploded list, where the source does not.
    fn fill_samples(&self, columns: &mut Columns, piece: &Piece) {
        let at = self.layout.place("sample").filter(|at| columns[*at].is_none());
        if let (Some(at), Some(elements)) = (at, &piece.elements) {
            let samples = elements.iter().map(|element| element.at);
            columns[at] = Some(Arc::new(Int32Array::from_iter_values(samples)));
        }
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

    fn fill_ids(&mut self, columns: &mut Columns, piece: &Piece) -> Result<(), Ended> {
        let at = self.layout.place("id").expect("every table has an id");
        let named = |name: &str| self.layout.place(name).and_then(|i| columns[i].clone());
        let Some(given) = &columns[at] else {
            let ids = self.made_ids(columns, piece)?;
            columns[at] = Some(Arc::new(ids));
            return Ok(());
        };
        let samples = named("sample");
        let samples = samples.as_ref().and_then(|s| s.as_primitive_opt::<Int32Type>());
        let checked =
            self.ids.check(given.as_string(), samples, |row| self.places.name(piece, row));
        checked.map_err(|stop| match stop {
            Stop::Suspect(id) => Ended::Suspect(id),
            Stop::Fault(row, fault) => Ended::Failed(self.places.at(piece, row, fault)),
        })
    }

    /// Makes an id of each row's content; rows of one list have one id.
    fn made_ids(&mut self, columns: &Columns, piece: &Piece) -> Result<StringArray, SourceError> {
        let own = |at: &usize| self.layout.is_own(*at);
        let places: Vec<usize> =
            (0..columns.len()).filter(own).filter(|at| columns[*at].is_some()).collect();
        let main: Vec<usize> = ["prompt", "messages", "response"]
            .into_iter()
            .filter_map(|name| self.layout.place(name))
            .filter(|at| places.contains(at))
            .collect();
        let used = if main.is_empty() { places } else { main };
        let content: Vec<ArrayRef> = used.iter().filter_map(|at| columns[*at].clone()).collect();

        let failed = |error: ArrowError| self.spec.content(error.to_string());
        let Some(elements) = &piece.elements else {
            let ids = self.ids.make(&content, piece.batch.num_rows()).map_err(failed)?;
            return Ok(StringArray::from_iter_values(ids));
        };
        // The first element of each row stands for it.
        let is_first = |row: &usize| *row == 0 || elements[*row].row != elements[*row - 1].row;
        let firsts: Vec<usize> = (0..elements.len()).filter(is_first).collect();
        let rows = UInt32Array::from_iter_values(firsts.iter().map(|row| *row as u32));
        let content: Result<Vec<ArrayRef>, ArrowError> =
            content.iter().map(|column| take(column, &rows, None)).collect();
        let ids = self.ids.make(&content.map_err(failed)?, firsts.len()).map_err(failed)?;
        let of = |row: usize| &ids[firsts.partition_point(|first| *first <= row) - 1];
        Ok(StringArray::from_iter_values((0..elements.len()).map(of)))
    }
}

/// Changes each column that is there.
fn each(
    columns: Columns,
    change: impl Fn(&ArrayRef) -> Result<ArrayRef, ArrowError>,
) -> Result<Columns, SourceError> {
    let changed = columns.iter().map(|column| column.as_ref().map(&change).transpose());
    Ok(changed.collect::<Result<Columns, ArrowError>>().map_err(TableError::from)?)
}
