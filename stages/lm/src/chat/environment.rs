//! The environment in which templates run: Python's filters and methods, each with a bound on what
//! it makes.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, FormatStyle, State, Value, format_filter,
};

use super::python::{self, Json};
use super::source;

/// Largest width or count that a filter takes.
const LARGEST: i64 = 99_999;

/// Largest indentation of `tojson`.
const LARGEST_INDENT: usize = 32;

/// Makes an environment in which templates write what Jinja for Python writes, as transformers sets
/// it up.
pub fn python() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(write_as_python);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| python::str_of(value));
    environment.add_filter("join", |values: &Value, joiner: Option<String>| {
        join(values, joiner.as_deref().unwrap_or_default())
    });
    environment.add_filter(source::PERCENT, percent);
    bound_filters(&mut environment);
    environment
}

/// Writes values as Python's `str` does.
fn write_as_python(
    out: &mut minijinja::Output<'_>,
    _: &State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::str_of(value)?),
    };
    written.map_err(|_| Error::new(ErrorKind::WriteFailure, "cannot write"))
}

/// Puts a bound on the filters that make as much at once as a number in the template says.
fn bound_filters(environment: &mut Environment<'static>) {
    use minijinja::filters;
    // No template can call a filter whose name holds a space.
    environment.add_filter("plain indent", filters::indent);
    environment.add_filter("plain batch", filters::batch);
    environment.add_filter("plain slice", filters::slice);
    environment.add_filter("plain format", filters::format);
    for name in ["indent", "batch", "slice", "format"] {
        environment.add_filter(name, move |state: &State<'_, '_>, values: Rest<Value>| {
            refuse_large(&values)?;
            let plain = format!("plain {name}");
            if name != "format" {
                return state.apply_filter(&plain, &values);
            }
            refuse_wide(values.first().and_then(Value::as_str).unwrap_or_default())?;
            state.apply_filter(&plain, &printed(&values)?)
        });
    }
}

/// Python's methods, bound in the same way.
fn method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    values: &[Value],
) -> Result<Value, Error> {
    match (name, value.as_str()) {
        ("format", Some(format)) => {
            refuse_large(values)?;
            refuse_wide(format)?;
            let values = printed(values)?;
            return minijinja_contrib::pycompat::unknown_method_callback(
                state, value, name, &values,
            );
        }
        ("removeprefix" | "removesuffix", Some(text)) if values.len() == 1 => {
            let part = values[0].as_str().unwrap_or_default();
            let rest = match name {
                "removeprefix" => text.strip_prefix(part),
                _ => text.strip_suffix(part),
            };
            return Ok(Value::from(rest.unwrap_or(text)));
        }
        ("index", None) if values.len() == 1 && value.kind() == ValueKind::Seq => {
            let at = value.try_iter()?.position(|item| item == values[0]);
            return at.map(Value::from).ok_or_else(|| {
                let what = python::str_of(&values[0]).unwrap_or_default();
                Error::new(ErrorKind::InvalidOperation, format!("`{what}` is not in the list"))
            });
        }
        ("join", Some(joiner)) if values.len() == 1 => {
            return join(&values[0], joiner).map(Value::from);
        }
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, values)
}

fn refuse_large(values: &[Value]) -> Result<(), Error> {
    let large = |value: &Value| {
        value.as_i64().is_some_and(|n| n > LARGEST)
            || value.is_integer() && value.as_i64().is_none()
    };
    for value in values {
        let named = Kwargs::try_from(value.clone()).ok();
        let within = named
            .iter()
            .flat_map(|named| named.args().filter_map(|name| named.peek::<Value>(name).ok()));
        if large(value) || within.collect::<Vec<_>>().iter().any(large) {
            return Err(too_large());
        }
    }
    Ok(())
}

/// A format may hold a width, as in `%9s`.
fn refuse_wide(format: &str) -> Result<(), Error> {
    let longest = format.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
    if longest.is_some_and(|digits| digits > 5) { Err(too_large()) } else { Ok(()) }
}

fn too_large() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a width or count is larger than {LARGEST}"))
}

/// Hugging Face's `tojson`: Python's `json.dumps` without escapes beyond ASCII or for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(width) if width.is_none() => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(width) => Some(" ".repeat(width.as_usize().unwrap_or(0).min(LARGEST_INDENT))),
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let (comma, colon) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([comma, colon]) => (comma.as_str(), colon.as_str()),
        Some(_) => {
            let message = "`separators` of `tojson` must be two texts";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    };
    let flag = |name| options.get::<Option<bool>>(name).map(|flag| flag.unwrap_or(false));
    let json = Json {
        ensure_ascii: flag("ensure_ascii")?,
        sort_keys: flag("sort_keys")?,
        comma: comma.to_owned(),
        colon: colon.to_owned(),
        indent,
    };
    options.assert_all_used()?;
    json.dump(value)
}

/// Formats as Python's percent operator does: `text % (a, b)`, `text % a`, `text % mapping`.
fn percent(format: &str, values: Rest<Value>) -> Result<String, Error> {
    refuse_large(&values)?;
    refuse_wide(format)?;
    format_filter(FormatStyle::Printf, format, &printed(&values)?)
}

/// Arguments of a format, in which lists and mappings are texts already.
fn printed(values: &[Value]) -> Result<Vec<Value>, Error> {
    let print = |value: &Value| match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => python::str_of(value).map(Value::from),
        _ => Ok(value.clone()),
    };
    values.iter().map(print).collect()
}

/// Joins the texts of values, as Python's Jinja writes them.
fn join(values: &Value, joiner: &str) -> Result<String, Error> {
    let texts: Result<Vec<String>, Error> =
        values.try_iter()?.map(|value| python::str_of(&value)).collect();
    Ok(texts?.join(joiner))
}
