//! Chat templates: Jinja as Hugging Face's `apply_chat_template` runs it, with limits.

use std::collections::BTreeMap;
use std::io;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use serde::Serialize;

/// Instructions that one rendering may take: a thousand times what a long conversation needs, about a second.
const FUEL: u64 = 10_000_000;
/// Bytes that one rendering may write.
const OUTPUT_LIMIT: usize = 64 << 20;

/// Largest width or count that a filter takes.
const LARGEST: i64 = 99_999;

/// A turn of a conversation: role and content.
pub type Turn<'a> = (&'a str, &'a str);

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: BTreeMap<String, String>,
}

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is no valid Jinja.
    #[error("the chat template cannot be parsed: {0}")]
    Syntax(String),
    /// The template refuses the conversation by `raise_exception`.
    #[error("the chat template refuses the conversation: {}", .0.escape_debug())]
    Refused(String),
    /// The template asks for the time.
    #[error(
        "the chat template asks for the current time by `strftime_now`, which would change results from day to \
         day; write a fixed date into the template"
    )]
    Time,
    /// The template runs or writes without end.
    #[error("the chat template exceeds the limit of {FUEL} instructions or {OUTPUT_LIMIT} bytes")]
    Limit,
    /// Anything else that goes wrong while the template runs.
    #[error("the chat template fails: {0}")]
    Failed(String),
}

impl ChatTemplate {
    /// Compiles a template. `special` holds the special tokens under the names that templates use (`bos_token`, …).
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn new(
        source: &str,
        special: &BTreeMap<String, String>,
    ) -> Result<ChatTemplate, ChatError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_formatter(write_as_python);
        environment.set_unknown_method_callback(method);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        bound_filters(&mut environment);
        environment
            .add_template_owned("chat_template", without_generation_blocks(source))
            .map_err(|error| ChatError::Syntax(describe(&error)))?;
        Ok(ChatTemplate { environment, special: special.clone() })
    }

    /// Renders a conversation, with the header of the assistant's next turn where `add_generation_prompt` is set.
    ///
    /// The time is no variable of a result, so `strftime_now` is not defined: templates that test for it take their
    /// fixed date, others fail with [`ChatError::Time`].
    ///
    /// # Errors
    /// What the template raises, a limit, or a fault in the template.
    pub fn render(
        &self,
        turns: &[Turn<'_>],
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let messages: Vec<Message<'_>> =
            turns.iter().map(|&(role, content)| Message { role, content }).collect();
        let mut variables: BTreeMap<&str, Value> = self
            .special
            .iter()
            .map(|(name, text)| (name.as_str(), Value::from(text.as_str())))
            .collect();
        variables.insert("messages", Value::from_serialize(&messages));
        variables.insert("add_generation_prompt", Value::from(add_generation_prompt));
        // Hugging Face passes these two as None rather than leaving them undefined.
        variables.insert("tools", Value::from(()));
        variables.insert("documents", Value::from(()));
        let template =
            self.environment.get_template("chat_template").map_err(|error| classify(&error))?;
        let mut output = Bounded(Vec::new());
        template.render_captured_to(variables, &mut output).map_err(|error| classify(&error))?;
        String::from_utf8(output.0).map_err(|error| ChatError::Failed(error.to_string()))
    }
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
}

/// A buffer that refuses to grow beyond the limit.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > OUTPUT_LIMIT - self.0.len() {
            return Err(io::Error::other(OverLimit));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("output limit")]
struct OverLimit;

/// The message of `raise_exception`, carried as an error's source so that it is told from other failures.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
}

fn classify(error: &Error) -> ChatError {
    if error.kind() == ErrorKind::OutOfFuel {
        return ChatError::Limit;
    }
    if error.kind() == ErrorKind::UnknownFunction
        && error.detail().is_some_and(|detail| detail.contains("strftime_now"))
    {
        return ChatError::Time;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return ChatError::Refused(message.clone());
        }
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && io.get_ref().is_some_and(|inner| inner.is::<OverLimit>())
        {
            return ChatError::Limit;
        }
        if let Some(wrapped) =
            inner.downcast_ref::<Error>().filter(|wrapped| wrapped.kind() == ErrorKind::OutOfFuel)
        {
            return classify(wrapped);
        }
        cause = inner.source();
    }
    ChatError::Failed(describe(error))
}

fn describe(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

/// Python writes True, False and None; Jinja for Rust writes true, false and none.
fn write_as_python(
    out: &mut minijinja::Output<'_>,
    state: &State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Bool => {
            if value.is_true() {
                "True"
            } else {
                "False"
            }
        }
        ValueKind::None => "None",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(|_| Error::new(ErrorKind::WriteFailure, "cannot write"))
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
            let digits = values.first().and_then(Value::as_str).filter(|_| name == "format");
            refuse_wide(digits.unwrap_or_default())?;
            state.apply_filter(&format!("plain {name}"), &values)
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
    if name == "format" {
        refuse_large(values)?;
        refuse_wide(value.as_str().unwrap_or_default())?;
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

/// Hugging Face's `tojson`: Python's `json.dumps` with `ensure_ascii=False`, and no escaping for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let fail =
        |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "`tojson` cannot do `ensure_ascii=True`",
        ));
    }
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    match indent {
        None => value
            .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Spaced))
            .map_err(fail)?,
        Some(width) => {
            let spaces = vec![b' '; width.min(32)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
                .map_err(fail)?;
        }
    }
    String::from_utf8(bytes)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// JSON on one line with a space after each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// Hugging Face's `{% generation %}` marks the assistant's tokens and writes nothing. Jinja knows no such block, so
/// it becomes one that is always taken; markers that trim white space stay.
fn without_generation_blocks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let inside = &rest[at + 2..];
        let body = inside.trim_start_matches(['-', '+']).trim_start();
        let (name, replacement) = if body.starts_with("endgeneration") {
            ("endgeneration", "endif")
        } else if body.starts_with("generation") {
            ("generation", "if true")
        } else {
            result.push_str(&rest[..at + 2]);
            rest = inside;
            continue;
        };
        let after = &body[name.len()..];
        let closes = after.trim_start().trim_start_matches(['-', '+']).starts_with("%}");
        result.push_str(&rest[..rest.len() - body.len()]);
        result.push_str(if closes { replacement } else { name });
        rest = after;
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, ChatError> {
        let special = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
        ChatTemplate::new(source, &special)?
            .render(&[("user", " a<\"é\" "), ("assistant", "b")], true)
    }

    #[test]
    fn follows_python_where_jinja_for_rust_differs() {
        let cases = [
            ("{{ bos_token }}{{ eos_token }}{{ tools is none }}|{{ tools }}", "<s>True|None"),
            ("{{ messages[0] | tojson }}", r#"{"role": "user", "content": " a<\"é\" "}"#),
            ("{{ [1, [], none] | tojson }}", "[1, [], null]"),
            ("{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}"),
            ("{{ messages[0]['content'].strip().startswith('a<') }}", "True"),
            (
                "{% for m in messages[1:] %}\n  {% if loop.first %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\n",
                "assistant\n",
            ),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            ("a {%- generation -%} b {% endgeneration %}c", "ab c"),
            ("{% set generation = 3 %}{{ generation }}", "3"),
            (
                "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024{% endif %}",
                "2024",
            ),
            (
                "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
                "user",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn errors_say_what_happened() {
        let fail = |source| render(source).unwrap_err().to_string();
        assert_eq!(
            fail("\n{{ raise_exception('roles must\nalternate') }}"),
            r"the chat template refuses the conversation: roles must\nalternate"
        );
        assert_eq!(
            fail("{% macro f() %}{{ raise_exception('inside') }}{% endmacro %}{{ f() }}"),
            "the chat template refuses the conversation: inside"
        );
        assert!(matches!(render("{{ strftime_now('%Y') }}"), Err(ChatError::Time)));
        assert!(matches!(render("{% if %}"), Err(ChatError::Syntax(_))));
        assert!(fail("\n\n{{ messages.x.y }}").starts_with("the chat template fails: line 3: "));
        assert!(fail("{{ 1 | nothing }}").contains("nothing"));
    }

    #[test]
    fn widths_and_counts_have_a_limit() {
        for source in [
            "{{ 'a\\nb' | indent(100000000000) }}",
            "{{ 'a\\nb' | indent(width=100000000000) }}",
            "{{ [1] | batch(100000000000, 'x') | list }}",
            "{{ [1] | slice(100000000000) | list }}",
            "{{ '%100000000000s' | format('a') }}",
            "{{ '{:>100000000000}'.format('a') }}",
        ] {
            let said = render(source).unwrap_err().to_string();
            assert!(said.contains("larger than 99999"), "{source}: {said}");
        }
        assert_eq!(render("{{ 'a\\nb' | indent(2, first=true) }}").unwrap(), "  a\n  b");
        assert_eq!(render("{{ '%3s' | format('a') }}{{ '{:>3}'.format('b') }}").unwrap(), "  a  b");
        assert_eq!(render("{{ [1, 2, 3] | batch(2) | list | tojson }}").unwrap(), "[[1, 2], [3]]");
    }

    #[test]
    fn templates_without_end_are_stopped() {
        let looping = "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = 1 %}{% endfor %}{% endfor %}";
        assert!(matches!(render(looping), Err(ChatError::Limit)));
        let within = format!("{{% macro f() %}}{looping}{{% endmacro %}}{{{{ f() }}}}");
        assert!(matches!(render(&within), Err(ChatError::Limit)));
        let flood =
            "{% set x = 'abcdefgh' * 10000 %}{% for a in range(99999) %}{{ x }}{% endfor %}";
        assert!(matches!(render(flood), Err(ChatError::Limit)));
    }
}
