//! Tables as Parquet files whose bytes depend on schema and rows alone.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use thiserror::Error;

pub mod columns;

mod encoder;
mod footer;
mod pages;
mod reader;
mod size;
mod thrift;
mod types;
mod writer;

pub(crate) use reader::missing;
pub use reader::{Batches, TableReader};
pub use types::{normal_batch, normal_schema, type_name};
pub use writer::{ROW_GROUP_ROWS, SLICE_ROWS, TableInfo, TableWriter};

/// An error of writing or reading a table.
#[derive(Debug, Error)]
pub enum TableError {
    /// An I/O error.
    #[error("the table `{}` could not be {action}: {source}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// `created`, `opened` or `written`.
        action: &'static str,
        /// The error of the file system.
        source: io::Error,
    },
    /// The file is not a readable table.
    #[error("`{}` is no readable Parquet file: {reason}", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A table cannot hold the type of a column.
    #[error("the column `{column}` is of type {found}, which a table cannot hold")]
    Unsupported {
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// Two columns have one name.
    #[error("the column `{column}` appears twice")]
    Duplicate {
        /// The column.
        column: String,
    },
    /// A column is missing.
    #[error("the column `{column}` is missing; there are {}", Listed(there))]
    Missing {
        /// The column.
        column: String,
        /// The existing columns.
        there: Vec<String>,
    },
    /// A column has another type.
    #[error("the column `{column}` is {found}, expected {expected}")]
    Type {
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// The type that is needed.
        expected: &'static str,
    },
    /// An error of Arrow or Parquet while a batch is built or encoded.
    #[error("the rows could not be put into a table: {reason}")]
    Rows {
        /// Their reason.
        reason: String,
    },
}

impl From<ArrowError> for TableError {
    fn from(error: ArrowError) -> Self {
        Self::Rows { reason: error.to_string() }
    }
}

/// Names in backticks, joined by commas.
struct Listed<'a>(&'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, name) in self.0.iter().enumerate() {
            write!(f, "{}`{name}`", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> TableError {
    TableError::Io { path: path.into(), action, source }
}
