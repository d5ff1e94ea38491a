//! The metrics of `diversify`.

use serde_json::Value;

use refrain_engine::kind::{MetricContext, MetricDecl};

use super::column_statistics::of_measure;

/// Declares a metric that is written where `measure` names it.
macro_rules! measured {
    ($name:literal, $about:literal) => {
        MetricDecl::given($name, $about, |context| measured(context, |name| name == $name))
            .diversity()
    };
}

/// All metrics.
pub(super) const METRICS: &[MetricDecl] = &[
    MetricDecl::always("rows_in", "Rows of the input"),
    MetricDecl::always("rows_out", "Rows kept"),
    MetricDecl::given("groups", "Groups of `keep`", |context| with_keep(context, "groups")),
    MetricDecl::given("groups_kept", "Groups of which a row is kept", |context| {
        with_keep(context, "groups_kept")
    }),
    MetricDecl::given("from_reference", "Rows whose response is the reference", |context| {
        let keep = context.params.get("keep");
        let fallback = keep.is_some_and(|keep| keep.get("fallback").is_some());
        fallback.then(|| "from_reference".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("unmatched", "Rows that the second table has not", |context| {
        context.params.get("join").map(|_| "unmatched".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("mixed_N", "Rows of the entries of `mix`, by place", |context| {
        let parts = context.params.get("mix").and_then(Value::as_array).map_or(0, Vec::len);
        (0..parts).map(|place| format!("mixed_{place}")).collect()
    }),
    MetricDecl::given("replaced", "Rows that paraphrases took the place of", |context| {
        context.params.get("replace").map(|_| "replaced".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("originals", "Originals whose paraphrases were taken", |context| {
        context.params.get("replace").map(|_| "originals".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("COLUMN_STATISTIC", "Statistics of columns", |context| {
        let columns = of_measure(context.params.get("measure"));
        columns.iter().flat_map(|(_, column)| column.metric_names()).collect()
    }),
    MetricDecl::given("distinct_N", "Distinct n-grams of the responses per n-gram", |context| {
        measured(context, |name| name.starts_with("distinct_"))
    })
    .diversity(),
    measured!("vendi", "Vendi score of the responses' embeddings"),
    measured!("vendi_q2", "The same of order 2"),
    measured!("vendi_qinf", "The same of order infinity"),
    measured!("dcscore", "DCScore of the responses' embeddings"),
    measured!("cosine_distance", "Mean distance of two responses' embeddings"),
    measured!("self_bleu_4", "Mean BLEU of each response against all others"),
    measured!("self_bleu_4_exp", "The same, smoothed by halves"),
    measured!("vendi_ngram", "Vendi score of the responses by their n-grams"),
    measured!("vendi_ngram_q2", "The same of order 2"),
    measured!("vendi_ngram_qinf", "The same of order infinity"),
    measured!("vendi_unigram", "Vendi score of the responses by their words"),
    measured!("ngram_distance", "Mean distance of two responses by their n-grams"),
    measured!("jaccard_distance", "Mean distance of two responses by their words"),
    measured!("ngram_diversity", "Sum over n from 1 to 4 of distinct n-grams per n-gram"),
    measured!("compression_ratio", "Bytes of the responses per byte of their gzip"),
    measured!("frechet", "Fréchet distance of the embeddings from those of `against`"),
    measured!("mmd", "Maximum mean discrepancy of the embeddings from those of `against`"),
    measured!("neighbour_precision", "Responses within the neighbourhoods of those of `against`"),
    measured!("neighbour_recall", "Responses of `against` within the neighbourhoods of these"),
    measured!("vocabulary_shift", "Divergence of the words' frequencies from those of `against`"),
    measured!("new_words", "Words that `against` has not, per word"),
    measured!("mask_agreement", "Response tokens on which the masks of both tables say the same"),
    measured!("mask_jaccard", "Tokens that both masks leave out per token that either does"),
];

fn with_keep(context: MetricContext<'_>, name: &str) -> Vec<String> {
    context.params.get("keep").map(|_| name.to_owned()).into_iter().collect()
}

fn measured(context: MetricContext<'_>, wanted: fn(&str) -> bool) -> Vec<String> {
    let measures = context.params.get("measure").and_then(Value::as_array).into_iter().flatten();
    measures.filter_map(Value::as_str).filter(|name| wanted(name)).map(str::to_owned).collect()
}
