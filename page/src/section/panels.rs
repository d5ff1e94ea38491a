//! Sections of pictures: training curves, distributions, diversity against accuracy.

use refrain_engine::report::page::Page;

use crate::escape::Html;
use crate::picture;

use super::figures;

/// Writes the training curves.
pub fn training(page: &Page) -> Option<Html> {
    let pictures = picture::curves(page);
    (!pictures.is_empty()).then(|| figures(&pictures, "training", None))
}

/// Writes the distributions.
pub fn distributions(page: &Page) -> Option<Html> {
    let note = "Perplexities are those of the response's tokens, on a logarithmic axis; a table that \
                passes its input's values on is not shown again.";
    let pictures = picture::histograms(page);
    (!pictures.is_empty()).then(|| figures(&pictures, "distributions", Some(note)))
}

/// Writes diversity against accuracy.
pub fn tradeoffs(page: &Page) -> Option<Html> {
    let note = "Each point is an accuracy beside the diversity of the table at the same point of the sweep.";
    let pictures = picture::scatters(page);
    (!pictures.is_empty()).then(|| figures(&pictures, "diversity", Some(note)))
}
