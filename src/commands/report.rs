//! `refrain report`: the report of a workflow as a page, as Markdown, or its pictures alone.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use refrain_cache::Digest;
use refrain_cache::write::{create_dir_all, write_atomic};
use refrain_engine::report::page::{Page, PageInput, Tables};
use refrain_page::{Mode, html, markdown, pictures};

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::human;
use crate::output;
use crate::session::Session;

/// Writes the report.
pub fn report(arguments: &cli::ReportArgs, format: Format) -> Result<ExitCode, CommandError> {
    let session = Session::open(&arguments.workflow)?;
    let page = collect(&session, &mut Tables::default())?;
    let text = match format {
        Format::Markdown => markdown(&page),
        _ => html(&page, Mode::File),
    };
    let written = match &arguments.output {
        Some(path) => {
            write(path, text.as_bytes())?;
            Some((path.display().to_string(), text.len()))
        }
        None => {
            if arguments.svg.is_none() && format != Format::Json {
                output::text(&text);
            }
            None
        }
    };
    let drawn = match &arguments.svg {
        Some(folder) => draw(&page, folder)?,
        None => Vec::new(),
    };

    if format == Format::Json {
        let absent = page.absent.iter().map(
            |absence| json!({ "parts": absence.parts, "because": absence.because, "remedy": absence.remedy }),
        );
        output::json(&json!({
            "refrain": 1,
            "output": written.as_ref().map(|(path, _)| path),
            "bytes": written.as_ref().map(|(_, bytes)| bytes),
            "pictures": drawn,
            "absent": absent.collect::<Vec<_>>(),
        }));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some((path, bytes)) = written {
        output::remark(&format!("`{path}`: {}", human::size(bytes as u64)));
    }
    if let Some(folder) = &arguments.svg {
        let count = output::count(drawn.len(), "picture");
        output::remark(&format!("`{}`: {count}", folder.display()));
    }
    for absence in &page.absent {
        output::remark(&format!("absent: {}, since {}", absence.parts, absence.because));
    }
    Ok(ExitCode::SUCCESS)
}

/// Collects the report of a workflow from lock, cache and run log.
pub fn collect(session: &Session, tables: &mut Tables) -> Result<Page, CommandError> {
    let (lock, store) = (session.lock()?, session.existing_store()?);
    let input = PageInput {
        graph: &session.graph,
        expects: &session.expects,
        comparisons: &session.comparisons,
        columns: &session.columns,
        lock: &lock,
        lock_digest: std::fs::read(&session.lock).ok().map(|bytes| Digest::of_bytes(&bytes)),
        store: store.as_ref(),
        course: session.course(),
        last: session.last_runs(),
    };
    Ok(Page::collect(input, tables)?)
}

/// Writes every picture; returns their files.
fn draw(page: &Page, folder: &Path) -> Result<Vec<String>, CommandError> {
    create_dir_all(folder).map_err(|error| CommandError::cannot_write(folder, &error))?;
    let mut files = Vec::new();
    for picture in pictures(page) {
        let path = folder.join(format!("{}.svg", picture.name));
        write(&path, picture.svg().as_bytes())?;
        files.push(path.display().to_string());
    }
    Ok(files)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    write_atomic(path, bytes).map(drop).map_err(|error| CommandError::cannot_write(path, &error))
}
