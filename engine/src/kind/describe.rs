//! Describes the types of parameters in words.

use refrain_cache::ArtifactKind;

use super::Type;

/// Describes the values that a type admits.
pub fn describe(ty: &Type) -> String {
    let list =
        |words: &[&str]| words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
    match ty {
        Type::Bool => "`true` or `false`".into(),
        Type::Int { min, max: i64::MAX } => format!("a whole number of at least {min}"),
        Type::Int { min: i64::MIN, max } => format!("a whole number of at most {max}"),
        Type::Int { min, max } => format!("a whole number from {min} to {max}"),
        Type::Float { min, max, open } => match (min.is_finite(), max.is_finite(), open) {
            (true, true, true) => format!("a number above {min} and at most {max}"),
            (true, true, false) => format!("a number from {min} to {max}"),
            (true, false, true) => format!("a number above {min}"),
            (true, false, false) => format!("a number of at least {min}"),
            (false, true, _) => format!("a number of at most {max}"),
            (false, false, _) => "a number".into(),
        },
        Type::Text | Type::Command | Type::Secret => "text".into(),
        Type::Choice(words) => format!("one of {}", list(words)),
        Type::Reference(Some(ArtifactKind::Table)) => "the name of a table".into(),
        Type::Reference(Some(ArtifactKind::Model)) => "the name of a model".into(),
        Type::Reference(Some(ArtifactKind::File)) => "the name of a file".into(),
        Type::Metric => "a metric, `STAGE.METRIC`".into(),
        Type::Reference(Some(ArtifactKind::Folder)) => "the name of a folder".into(),
        Type::Reference(None) => "the name of a stage or source".into(),
        Type::List(item) => format!("a list (each {})", describe(item)),
        Type::Record(params) => {
            let names: Vec<_> = params.iter().map(|p| p.name).collect();
            format!("a mapping with {}", list(&names))
        }
        Type::Map(item) => format!("a mapping (each value {})", describe(item)),
        Type::OneOf(types) => types.iter().map(describe).collect::<Vec<_>>().join(", or "),
        Type::YamlFile { .. } => "the path of a YAML file".into(),
        Type::Any => "any value".into(),
    }
}
