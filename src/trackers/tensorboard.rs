//! TensorBoard's log directory: an event file per run, with scalars, hyperparameters and a text.

use std::fmt::Write as _;

use crc_fast::{CrcAlgorithm, checksum};

use refrain_engine::report::export::{Export, ExportedRun, Times};

use super::names::safe_path;
use super::protobuf::Message;
use super::{ExportError, Put, figures, settings, tags};

/// Characters of names beside letters and digits: TensorBoard shows folders as names of runs.
const FOLDER: &str = "_-.[]=,+ ";
/// Version of the event files' format.
const VERSION: &str = "brain.Event:2";
/// `DT_STRING` and `DT_FLOAT` of a tensor.
const STRING: i64 = 7;
const FLOAT: i64 = 1;

/// Writes the directory.
pub fn write(export: &Export, put: &mut Put<'_>) -> Result<(), ExportError> {
    for run in &export.runs {
        // The name of the file begins with a time, which nothing reads.
        let name = format!("{}/events.out.tfevents.0.refrain", safe_path(&run.name, FOLDER));
        put(&name, &events(run)?)?;
    }
    Ok(())
}

/// The event file of a run.
fn events(run: &ExportedRun) -> Result<Vec<u8>, ExportError> {
    let seconds = |time: i64| time as f64 / 1000.0;
    let Times { begin, end } = run.times.unwrap_or(Times { begin: 0, end: 0 });
    let (begin, end) = (seconds(begin), seconds(end));
    let mut file = Vec::new();
    let mut push = |event: &Message| record(&mut file, event.as_bytes());

    push(&Message::new().double(1, begin).text(3, VERSION));
    push(&summary(begin, 0, &hyperparameters(run, begin)));
    push(&summary(begin, 0, &provenance(run)));
    for figure in figures(run)? {
        for (step, value) in figure.points {
            // A scalar is of 32 bits there.
            let scalar = Message::new().text(1, &figure.name).float(2, value as f32);
            push(&summary(end, step, &scalar));
        }
    }
    let ended = Message::new().int(1, 1).double(2, end);
    push(&summary(end, 0, &hyperparameter_event("_hparams_/session_end_info", 4, &ended)));
    Ok(file)
}

/// An event with a value of a summary.
fn summary(wall_time: f64, step: i64, value: &Message) -> Message {
    let summary = Message::new().message(1, value);
    Message::new().double(1, wall_time).int(2, step).message(5, &summary)
}

/// The settings of a run, for the table of hyperparameters.
fn hyperparameters(run: &ExportedRun, begin: f64) -> Message {
    let mut start = Message::new();
    for (name, value) in settings(run) {
        let value = match (value.parse::<f64>(), value) {
            (Ok(number), _) if number.is_finite() => Message::new().double(2, number),
            (_, "true" | "false") => Message::new().int(4, i64::from(value == "true")),
            _ => Message::new().text(3, value),
        };
        start = start.message(1, &Message::new().text(1, &name).message(2, &value));
    }
    let start = start.double(5, begin);
    hyperparameter_event("_hparams_/session_start_info", 3, &start)
}

/// A value of the plugin for hyperparameters, with an empty tensor as that plugin writes it.
fn hyperparameter_event(tag: &str, field: u64, data: &Message) -> Message {
    let content = Message::new().int(1, 0).message(field, data);
    let none = Message::new().message(2, &Message::new().int(1, 0));
    let tensor = Message::new().int(1, FLOAT).message(2, &none);
    value(tag, "hparams", &content, &tensor)
}

/// The key and the digests of a run as a text.
fn provenance(run: &ExportedRun) -> Message {
    let mut text = String::from("| | |\n|---|---|\n");
    for (name, value) in tags(run) {
        let _text = writeln!(text, "| {name} | `{value}` |");
    }
    let one = Message::new().message(2, &Message::new().int(1, 1));
    let tensor = Message::new().int(1, STRING).message(2, &one).text(8, &text);
    value("provenance/text_summary", "text", &Message::new(), &tensor)
}

fn value(tag: &str, plugin: &str, content: &Message, tensor: &Message) -> Message {
    let data = Message::new().text(1, plugin).message(2, content);
    let metadata = Message::new().message(1, &data);
    Message::new().text(1, tag).message(8, tensor).message(9, &metadata)
}

/// Appends a record: its length, its bytes, and a checksum of each.
fn record(file: &mut Vec<u8>, bytes: &[u8]) {
    let length = (bytes.len() as u64).to_le_bytes();
    for part in [&length[..], bytes] {
        file.extend(part);
        file.extend(masked_crc(part).to_le_bytes());
    }
}

/// CRC-32C, masked so that a checksum of bytes with checksums in them is not degenerate.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_framed_by_masked_checksums() {
        // The check value of CRC-32C, and the first record of a file that TensorBoard's writer wrote.
        assert_eq!(checksum(CrcAlgorithm::Crc32Iscsi, b"123456789"), 0xe306_9283);
        let mut file = Vec::new();
        record(&mut file, Message::new().double(1, 1.5).text(3, VERSION).as_bytes());
        let hex: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a32\
                        2a28646c";
        assert_eq!(hex, expected);
    }
}
