//! `measure`: figures of a table's responses, for the whole and for each group; alone, and against
//! a second table.

use std::cell::RefCell;
use std::path::Path;

use arrow::array::StringArray;

use refrain_cache::columns::column;
use refrain_cache::{Metric, TableReader};
use refrain_engine::kind::{Context, StageError, choices};

use crate::models;
use crate::tables::{self, metric, share};

use super::between::{self, vocabulary_shift};
use super::dcscore::DcscoreParams;
use super::distinct::Distinct;
use super::embedded::{self, Embedded};
use super::lexical;
use super::masks::{Agreement, MaskRows, Masks};
use super::sample::{Sampler, draws};
use super::spectrum::Order;
use super::words::Words;

/// Points of a set whose distances from all others are held together.
const DISTANCES: usize = 4000;
/// Points of a set that are compared with all others.
const PAIRS: usize = 20_000;

/// The k of `neighbour_precision` where it is not given.
pub(super) const NEIGHBOURHOOD: usize = 3;

choices! {
    /// A measure of diversity.
    pub(super) enum Measure {
        Distinct1 = "distinct_1",
        Distinct2 = "distinct_2",
        Distinct3 = "distinct_3",
        Distinct4 = "distinct_4",
        Vendi = "vendi",
        Dcscore = "dcscore",
        CosineDistance = "cosine_distance",
        VendiQ2 = "vendi_q2",
        VendiQinf = "vendi_qinf",
        SelfBleu4 = "self_bleu_4",
        SelfBleu4Exp = "self_bleu_4_exp",
        VendiNgram = "vendi_ngram",
        VendiNgramQ2 = "vendi_ngram_q2",
        VendiNgramQinf = "vendi_ngram_qinf",
        VendiUnigram = "vendi_unigram",
        NgramDistance = "ngram_distance",
        JaccardDistance = "jaccard_distance",
        NgramDiversity = "ngram_diversity",
        CompressionRatio = "compression_ratio",
        Frechet = "frechet",
        Mmd = "mmd",
        NeighbourPrecision = "neighbour_precision",
        NeighbourRecall = "neighbour_recall",
        VocabularyShift = "vocabulary_shift",
        NewWords = "new_words",
        MaskAgreement = "mask_agreement",
        MaskJaccard = "mask_jaccard",
    }
}

impl Measure {
    /// Returns the length of the n-grams of which it is the share of different ones.
    pub(super) fn length(self) -> Option<usize> {
        match self {
            Measure::Distinct1 => Some(1),
            Measure::Distinct2 => Some(2),
            Measure::Distinct3 => Some(3),
            Measure::Distinct4 => Some(4),
            _ => None,
        }
    }

    /// Whether it is of embeddings.
    pub(super) fn is_embedded(self) -> bool {
        use Measure::*;
        matches!(
            self,
            Vendi
                | VendiQ2
                | VendiQinf
                | Dcscore
                | CosineDistance
                | Frechet
                | Mmd
                | NeighbourPrecision
                | NeighbourRecall
        )
    }

    /// Whether it compares two tables.
    pub(super) fn is_between(self) -> bool {
        use Measure::*;
        matches!(
            self,
            Frechet | Mmd | NeighbourPrecision | NeighbourRecall | VocabularyShift | NewWords
        ) || self.is_of_masks()
    }

    /// Whether it compares the masks of two tables.
    pub(super) fn is_of_masks(self) -> bool {
        matches!(self, Measure::MaskAgreement | Measure::MaskJaccard)
    }

    /// Whether it is of the responses' texts.
    pub(super) fn is_of_texts(self) -> bool {
        !self.is_embedded() && !self.is_of_masks()
    }
}

/// A figure of a set of rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub n: u64,
}

/// The measures of a stage, each with its settings.
pub(super) struct Measures {
    /// Those of one table's texts.
    pub of_texts: Vec<Measure>,
    /// Those of embeddings, or of two tables.
    others: Vec<Measure>,
    pub words: Words,
    dcscore: DcscoreParams,
    /// Rows to draw where all pairs are compared.
    sample: Option<usize>,
    seed: u64,
    /// The neighbours of `neighbour_precision`.
    ball: usize,
}

impl Measures {
    pub(super) fn new(measures: &[Measure], params: &super::DiversifyParams) -> Measures {
        let (others, of_texts) = measures
            .iter()
            .copied()
            .partition(|measure| measure.is_embedded() || measure.is_between());
        Measures {
            of_texts,
            others,
            words: params.words.unwrap_or(Words::Whitespace),
            dcscore: params.dcscore.clone().unwrap_or_default(),
            sample: params.sample,
            seed: params.seed,
            ball: params.neighbourhood.unwrap_or(NEIGHBOURHOOD),
        }
    }

    fn any(&self, wanted: impl Fn(Measure) -> bool) -> bool {
        self.of_texts.iter().chain(&self.others).any(|measure| wanted(*measure))
    }
}

/// The group of each row, and the number of groups.
pub(super) struct GroupOf<'a> {
    pub of_rows: &'a [u32],
    pub count: usize,
}

/// Figures of the whole, and of each group.
pub(super) struct Measured {
    pub metrics: Vec<Metric>,
    pub of_groups: Vec<Vec<Figure>>,
}

/// Measures a table's responses; rows without one do not count.
pub(super) fn measure(
    ctx: &Context<'_>,
    measures: &Measures,
    table: &Path,
    groups: Option<GroupOf<'_>>,
) -> Result<Measured, StageError> {
    if !measures.any(|_| true) {
        return Ok(Measured { metrics: Vec::new(), of_groups: Vec::new() });
    }
    if groups.is_none() && !measures.any(|measure| measure.length().is_none()) {
        return Ok(Measured { metrics: distinct(ctx, measures, table)?, of_groups: Vec::new() });
    }
    models::on_threads(ctx.resources.threads, || {
        let data = Material::read(ctx, measures, table)?;
        let against = match measures.any(Measure::is_between) {
            true => Some(Material::read(ctx, measures, ctx.table("against")?)?),
            false => None,
        };
        let width = |material: &Material| {
            let embedded = material.embedded.as_ref().filter(|known| !known.rows.is_empty());
            embedded.map(Embedded::width)
        };
        if let Some(against) = &against
            && let (Some(own), Some(other)) = (width(&data), width(against))
            && own != other
        {
            let message = format!(
                "the embeddings of `data` have the length {own}, those of `against` {other}"
            );
            return Err(StageError::failed(message));
        }
        if let Some((own, other)) =
            against.as_ref().and_then(|other| data.masks.as_ref().zip(other.masks.as_ref()))
        {
            own.check(other)?;
        }
        let notes = RefCell::default();
        let against = against.as_ref().map(|against| against.set(|_| true, measures, &notes));
        let figures = |wanted: &dyn Fn(u64) -> bool| -> Result<Vec<Figure>, StageError> {
            ctx.cancel.check()?;
            Ok(data.set(wanted, measures, &notes).figures(measures, against.as_ref()))
        };
        let whole = figures(&|_| true)?;
        let metrics = whole.iter().map(|one| metric(one.name, one.value, one.n)).collect();
        let of_groups: Result<Vec<_>, StageError> = match &groups {
            Some(groups) => (0..groups.count as u32)
                .map(|group| figures(&|row| groups.of_rows[row as usize] == group))
                .collect(),
            None => Ok(Vec::new()),
        };
        notes.into_inner().into_iter().for_each(|note| ctx.progress.note(note));
        Ok(Measured { metrics, of_groups: of_groups? })
    })
}

/// Shares of different n-grams alone: texts need not be held for them.
fn distinct(
    ctx: &Context<'_>,
    measures: &Measures,
    table: &Path,
) -> Result<Vec<Metric>, StageError> {
    let lengths = measures.of_texts.iter().filter_map(|measure| measure.length());
    let mut distinct = Distinct::new(measures.words, lengths);
    for batch in TableReader::open(table)?.batches(Some(&["response"]), tables::BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        let texts = column::<StringArray>(&batch, "response")?;
        texts.iter().flatten().for_each(|text| distinct.add(text));
    }
    let counts = distinct.counts();
    Ok(counts
        .map(|(n, different, all)| metric(&format!("distinct_{n}"), share(different, all), all))
        .collect())
}

/// A table as the measures need it.
struct Material {
    responses: Vec<StringArray>,
    masks: Option<Masks>,
    embedded: Option<Embedded>,
    draws: Vec<u64>,
}

impl Material {
    fn read(ctx: &Context<'_>, measures: &Measures, table: &Path) -> Result<Material, StageError> {
        let mut responses = Vec::new();
        if measures.any(Measure::is_of_texts) {
            let reader = TableReader::open(table)?;
            for batch in reader.batches(Some(&["response"]), tables::BATCH_ROWS)? {
                ctx.cancel.check()?;
                responses.push(column::<StringArray>(&batch?, "response")?.clone());
            }
        }
        let embedded = measures.any(Measure::is_embedded).then(|| embedded::embed(ctx, table));
        let masks = measures.any(Measure::is_of_masks).then(|| Masks::read(ctx, table));
        Ok(Material {
            responses,
            masks: masks.transpose()?,
            embedded: embedded.transpose()?,
            draws: draws(ctx, table, "sample", measures.seed)?,
        })
    }

    /// The rows that are wanted.
    fn set<'s>(
        &'s self,
        wanted: impl Fn(u64) -> bool,
        measures: &Measures,
        notes: &'s RefCell<Vec<String>>,
    ) -> Set<'s> {
        let (mut texts, mut of_texts) = (Vec::new(), Vec::new());
        let responses = (0..).zip(self.responses.iter().flatten());
        for (row, text) in responses.filter(|(row, _)| wanted(*row)) {
            if let Some(text) = text {
                texts.push(text);
                of_texts.push(self.draws[row as usize]);
            }
        }
        let embedded = self.embedded.as_ref().map(|embedded| {
            let places = 0..embedded.rows.len();
            let places: Vec<usize> = places.filter(|at| wanted(embedded.rows[*at])).collect();
            let draws = places.iter().map(|at| self.draws[embedded.rows[*at] as usize]).collect();
            (embedded.some(&places), Sampler::new(draws, measures.sample, notes))
        });
        let sampler = Sampler::new(of_texts, measures.sample, notes);
        Set { texts, sampler, embedded, masks: self.masks.as_ref().map(|masks| masks.of(wanted)) }
    }
}

/// Some rows of a table.
struct Set<'a> {
    masks: Option<MaskRows<'a>>,
    texts: Vec<&'a str>,
    sampler: Sampler<'a>,
    embedded: Option<(Embedded, Sampler<'a>)>,
}

impl Set<'_> {
    fn figures(&self, measures: &Measures, against: Option<&Set<'_>>) -> Vec<Figure> {
        let mut figures = lexical::figures(&self.texts, measures, &self.sampler);
        let spectrum = measures
            .any(|one| matches!(one, Measure::Vendi | Measure::VendiQ2 | Measure::VendiQinf))
            .then(|| self.embedded.as_ref().map(|(embedded, _)| embedded.vectors().spectrum()))
            .flatten();
        for measure in &measures.others {
            let vendi = |order| {
                let value = spectrum.as_ref().map_or(f64::NAN, |spectrum| spectrum.vendi(order));
                (value, self.embedded.as_ref().map_or(0, |(embedded, _)| embedded.rows.len()))
            };
            let (value, n) = match measure {
                Measure::Vendi => vendi(Order::One),
                Measure::VendiQ2 => vendi(Order::Two),
                Measure::VendiQinf => vendi(Order::Infinite),
                _ => match (&self.embedded, against) {
                    (Some(own), _) if measure.is_embedded() && !measure.is_between() => {
                        self.of_embeddings(*measure, own, measures)
                    }
                    (_, Some(against)) => self.between(*measure, against, measures),
                    _ => (f64::NAN, 0),
                },
            };
            figures.push(Figure { name: measure.word(), value, n: n as u64 });
        }
        figures
    }

    fn of_embeddings(
        &self,
        measure: Measure,
        (embedded, sampler): &(Embedded, Sampler<'_>),
        measures: &Measures,
    ) -> (f64, usize) {
        match measure {
            Measure::CosineDistance => (embedded.vectors().mean_distance(), embedded.rows.len()),
            _ => {
                // Exact whatever the size, unless a sample is asked for.
                let places = sampler.places(usize::MAX, measure.word());
                let value = embedded.some(&places).vectors().dcscore(&measures.dcscore);
                (value, places.len())
            }
        }
    }

    fn between(&self, measure: Measure, against: &Set<'_>, measures: &Measures) -> (f64, usize) {
        if measure.is_of_masks() {
            let masks = self.masks.as_ref().zip(against.masks.as_ref());
            let found = masks.map_or_else(Agreement::default, |(own, other)| own.agreement(other));
            let value = match measure {
                Measure::MaskAgreement => found.share(),
                _ => found.jaccard(),
            };
            return (value, found.tokens as usize);
        }
        if let Measure::VocabularyShift | Measure::NewWords = measure {
            let shift = vocabulary_shift(&self.texts, &against.texts, measures.words);
            let value = match measure {
                Measure::VocabularyShift => shift.divergence,
                _ => shift.new_words,
            };
            return (value, shift.words as usize);
        }
        let (Some((a, of_a)), Some((b, of_b))) = (&self.embedded, &against.embedded) else {
            return (f64::NAN, 0);
        };
        if measure == Measure::Frechet {
            return (between::frechet(a.points(), b.points()), a.rows.len());
        }
        let limit = if measure == Measure::Mmd { DISTANCES } else { PAIRS };
        let a = a.some(&of_a.places(limit, measure.word()));
        let b = b.some(&of_b.places(limit, measure.word()));
        let (points, others) = (a.points(), b.points());
        if let Measure::NeighbourPrecision | Measure::NeighbourRecall = measure {
            let (of, rows) = match measure {
                Measure::NeighbourPrecision => ("`against`", b.rows.len()),
                _ => ("the table", a.rows.len()),
            };
            if rows <= measures.ball {
                let (word, ball) = (measure.word(), measures.ball);
                of_a.note(format!(
                    "`{word}` has no value: `neighbourhood` is {ball}, and {of} has {rows} rows"
                ));
            }
        }
        let value = match measure {
            Measure::Mmd => between::mmd(points, others),
            Measure::NeighbourPrecision => between::share_within(points, others, measures.ball),
            _ => between::share_within(others, points, measures.ball),
        };
        (value, a.rows.len())
    }
}
