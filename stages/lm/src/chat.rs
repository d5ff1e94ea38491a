//! Chat templates: Jinja as Hugging Face's `apply_chat_template` runs it, with limits.

mod environment;
mod python;
mod source;
mod values;

use std::collections::BTreeMap;
use std::io;

use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as JsonValue};

pub use environment::python as python_environment;
pub use python::str_of;
pub use source::translate;
pub use values::from_json as to_template;

/// Instructions that one rendering may take: a thousand times what a long conversation needs, about
/// a second.
const FUEL: u64 = 10_000_000;
/// Bytes that one rendering may write.
const OUTPUT_LIMIT: usize = 64 << 20;

/// A message of a conversation: `role`, `content` (a text, a list of parts, or null), and what else
/// it holds, such as `tool_calls` and `reasoning_content`.
pub type Message = Map<String, JsonValue>;

/// Makes a message of a role and a text.
pub fn message(role: &str, content: &str) -> Message {
    Map::from_iter([("role".into(), role.into()), ("content".into(), content.into())])
}

/// Returns the text of a message: that of `content`, of parts one after another; `None` where it is
/// null or absent.
///
/// # Errors
/// [`ChatError::Content`] for parts that are not text.
pub fn content(message: &Message) -> Result<Option<String>, ChatError> {
    let wrong = |found: String| ChatError::Content { role: role(message).to_owned(), found };
    let part = |part: &JsonValue| match (part.as_str(), part["text"].as_str()) {
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(text)) if part["type"].is_null() || part["type"] == "text" => Ok(text.into()),
        _ => Err(wrong(match part["type"].as_str() {
            Some(kind) => format!("a part of type `{kind}`"),
            None => "a part that is not text".to_owned(),
        })),
    };
    match message.get("content") {
        None | Some(JsonValue::Null) => Ok(None),
        Some(JsonValue::String(text)) => Ok(Some(text.clone())),
        Some(JsonValue::Array(parts)) => parts.iter().map(part).collect::<Result<_, _>>().map(Some),
        Some(_) => Err(wrong("neither a text nor a list of parts".to_owned())),
    }
}

/// Returns the role of a message; empty where it has none.
pub fn role(message: &Message) -> &str {
    message.get("role").and_then(JsonValue::as_str).unwrap_or_default()
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    special: BTreeMap<String, String>,
}

/// An error of rendering a conversation.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is not valid Jinja.
    #[error("the chat template cannot be parsed: {0}")]
    Syntax(String),
    /// The template refuses the conversation by `raise_exception`.
    #[error("the chat template refuses the conversation: {}", .0.escape_debug())]
    Refused(String),
    /// A message's content is not text.
    #[error("the content of the turn of `{}` holds {}", role.escape_debug(), found.escape_debug())]
    Content {
        /// The message's role.
        role: String,
        /// The content found.
        found: String,
    },
    /// A message says nothing but in a field that the template does not write.
    #[error(
        "a turn of `{}` has no text, and the chat template does not write its `{field}`",
        role.escape_debug()
    )]
    Unwritten {
        /// The message's role.
        role: String,
        /// The field.
        field: String,
    },
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
    /// Compiles a template. `special` holds the special tokens under the names that templates use
    /// (`bos_token`, …).
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn new(
        source: &str,
        special: &BTreeMap<String, String>,
    ) -> Result<ChatTemplate, ChatError> {
        let mut environment = environment::python();
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", raise_exception);
        let translated = source::translate(source);
        environment
            .add_template_owned("chat_template", translated.clone())
            .map_err(|error| ChatError::Syntax(describe(&error)))?;
        Ok(ChatTemplate { environment, source: translated, special: special.clone() })
    }

    /// Renders a conversation, with the header of the assistant's next turn where
    /// `add_generation_prompt` is set.
    ///
    /// Content in parts is joined. The time is not a variable of a result, so `strftime_now` is not
    /// defined: templates that test for it take their fixed date, others fail with
    /// [`ChatError::Time`].
    ///
    /// # Errors
    /// An exception raised by the template, a limit, a fault in the template, and messages that it
    /// would leave out.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&JsonValue>,
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let messages: Vec<Value> =
            messages.iter().map(|message| self.value_of(message)).collect::<Result<_, _>>()?;
        let mut variables: BTreeMap<&str, Value> = self
            .special
            .iter()
            .map(|(name, text)| (name.as_str(), Value::from(text.as_str())))
            .collect();
        variables.insert("messages", values::list(messages));
        variables.insert("add_generation_prompt", Value::from(add_generation_prompt));
        // Hugging Face passes these two as None rather than leaving them undefined.
        variables.insert("tools", tools.map_or(Value::from(()), values::from_json));
        variables.insert("documents", Value::from(()));

        let template =
            self.environment.get_template("chat_template").map_err(|error| classify(&error))?;
        let mut output = Bounded(Vec::new());
        template.render_captured_to(variables, &mut output).map_err(|error| classify(&error))?;
        String::from_utf8(output.0).map_err(|error| ChatError::Failed(error.to_string()))
    }

    /// Whether the template's source mentions a field of messages, or a variable.
    pub fn mentions(&self, name: &str) -> bool {
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        self.source.match_indices(name).any(|(at, found)| {
            let (before, after) = (&self.source[..at], &self.source[at + found.len()..]);
            !is_part(before.chars().next_back()) && !is_part(after.chars().next())
        })
    }

    /// A message as the template sees it: its text whole, and its reasoning under the names that
    /// templates look for.
    fn value_of(&self, message: &Message) -> Result<Value, ChatError> {
        let mut message = message.clone();
        let text = content(&message)?;
        let empty = text.as_ref().is_none_or(String::is_empty);
        let said = |field: &&&str| !message.get(**field).is_none_or(is_empty);
        if let Some(field) = SPEAKING.iter().find(said).filter(|_| empty)
            && !self.mentions(field)
        {
            let role = role(&message).to_owned();
            return Err(ChatError::Unwritten { role, field: (*field).to_owned() });
        }
        if message.get("content").is_some_and(JsonValue::is_array) {
            message.insert("content".into(), text.into());
        }

        // As transformers does: the newest name is filled from older ones, and `thinking` for
        // templates that read that.
        let reasoning =
            REASONING.iter().find_map(|name| message.get(*name).filter(|v| !v.is_null()));
        if let Some(reasoning) = reasoning.cloned() {
            let mut renamed = Map::from_iter([("thinking".to_owned(), reasoning.clone())]);
            renamed.extend(message);
            renamed.insert("reasoning_content".into(), reasoning);
            message = renamed;
        }
        Ok(values::from_json(&JsonValue::Object(message)))
    }
}

/// Names of a message's reasoning.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Fields by which a message without text may say something.
const SPEAKING: [&str; 3] = ["tool_calls", "function_call", "reasoning_content"];

fn is_empty(value: &JsonValue) -> bool {
    match value {
        JsonValue::Null => true,
        JsonValue::Array(items) => items.is_empty(),
        JsonValue::Object(entries) => entries.is_empty(),
        JsonValue::String(text) => text.is_empty(),
        _ => false,
    }
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

/// The message of `raise_exception`, carried as an error's source so that it is told from other
/// failures.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, ChatError> {
        let special = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
        ChatTemplate::new(source, &special)?.render(
            &[message("user", " a<\"é\" "), message("assistant", "b")],
            None,
            true,
        )
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
                "{{ ['a', 1, true, none, 1.5, {'k': 'v'}] }}",
                "['a', 1, True, None, 1.5, {'k': 'v'}]",
            ),
            ("{{ messages[1] }}", "{'role': 'assistant', 'content': 'b'}"),
            ("{{ 'm: ' ~ messages[1] }}", "m: {'role': 'assistant', 'content': 'b'}"),
            (
                r#"{{ ["it's", 'say "x"', "'\"", 'a\nb\\é\u200b'] }}"#,
                r#"["it's", 'say "x"', '\'"', 'a\nb\\é\u200b']"#,
            ),
            ("{{ '%s|%s' % (messages[1].role, messages[1].content) }}", "assistant|b"),
            ("{{ '%s' % messages[1].content }}{{ '%05.1f' % 2.25 }}", "b002.2"),
            ("{{ '%s' % [1, 'a'] if false else '%s' | format(['a']) }}", "['a']"),
            ("{{ '{} {}'.format('a', ['b']) }}", "a ['b']"),
            ("{{ [['a'], 'b', 1] | join(', ') }}{{ ['a'] | string }}", "['a'], b, 1['a']"),
            ("{{ [1e16, 1e-5, 0.1, 2.0, 1e15] }}", "[1e+16, 1e-05, 0.1, 2.0, 1000000000000000.0]"),
            (
                "{% for k, v in messages[1].items() %}{{ k }}={{ v }};{% endfor %}",
                "role=assistant;content=b;",
            ),
            ("{% for k in messages[1] %}{{ k }};{% endfor %}", "role;content;"),
            (
                "{{ messages[1].get('x', 'no') }}{{ messages[1] is mapping }}{{ messages is iterable }}",
                "noTrueTrue",
            ),
            (
                "{{ messages[-1].role }}{{ messages[:1] | length }}{{ 'role' in messages[0] }}",
                "assistant1True",
            ),
            (
                "{{ (messages + [1]) | length }}{{ messages[1] == {'role': 'assistant', 'content': 'b'} }}",
                "3True",
            ),
            (
                "{{ {'b': 'é', 'a': 1e16} | tojson(sort_keys=true, ensure_ascii=true) }}",
                r#"{"a": 1e+16, "b": "\u00e9"}"#,
            ),
            ("{{ {'b': []} | tojson(separators=[',', ':']) }}", r#"{"b":[]}"#),
            ("{{ [[], {}, [1]] | tojson(indent=1) }}", "[\n [],\n {},\n [\n  1\n ]\n]"),
            ("{{ dict(a=1) }}{{ (1, 'a') | list }}", "{'a': 1}[1, 'a']"),
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
