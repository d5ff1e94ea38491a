//! SQLite databases as bytes: made in memory, so that equal content has equal bytes.

use rusqlite::{Connection, MAIN_DB};

use super::ExportError;

/// Makes a database of a schema and what `fill` adds to it.
pub fn bytes(
    schema: &str,
    fill: impl FnOnce(&Connection) -> Result<(), ExportError>,
) -> Result<Vec<u8>, ExportError> {
    let mut connection = Connection::open_in_memory()?;
    connection.execute_batch(schema)?;
    connection.execute_batch("BEGIN")?;
    fill(&connection)?;
    connection.execute_batch("COMMIT")?;
    Ok(connection.serialize(MAIN_DB)?.to_vec())
}
