//! Templates against Jinja for Python in the environment that transformers makes of it: the texts
//! on the right are its.

use std::collections::BTreeMap;

use refrain_lm::chat::{ChatTemplate, message};

/// Templates over two messages, and what Jinja 3.1.6 renders of them.
const CASES: &[(&str, &str)] = &[
    (
        r##"{{ ['a', 1, true, none, 1.5, {'k': 'v'}] }}"##,
        r##"['a', 1, True, None, 1.5, {'k': 'v'}]"##,
    ),
    (r##"{{ messages[1] }}"##, r##"{'role': 'assistant', 'content': 'b'}"##),
    (r##"{{ 'm: ' ~ messages[1] }}"##, r##"m: {'role': 'assistant', 'content': 'b'}"##),
    (
        r##"{{ ["it's", 'say "x"', '\'"', 'a\nb\\é\u200b'] }}"##,
        r##"["it's", 'say "x"', '\'"', 'a\nb\\é\u200b']"##,
    ),
    (r##"{{ '%s|%s' % (messages[1].role, messages[1].content) }}"##, r##"assistant|b"##),
    (r##"{{ '%s' % messages[1].content }}{{ '%05.1f' % 2.25 }}"##, r##"b002.2"##),
    (r##"{{ '%s' % [1, 'a'] if false else '%s' | format(['a']) }}"##, r##"['a']"##),
    (r##"{{ '{} {}'.format('a', ['b']) }}"##, r##"a ['b']"##),
    (r##"{{ [['a'], 'b', 1] | join(', ') }}{{ ['a'] | string }}"##, r##"['a'], b, 1['a']"##),
    (
        r##"{{ [1e16, 1e-5, 0.1, 2.0, 1e15] }}"##,
        r##"[1e+16, 1e-05, 0.1, 2.0, 1000000000000000.0]"##,
    ),
    (
        r##"{% for k, v in messages[1].items() %}{{ k }}={{ v }};{% endfor %}"##,
        r##"role=assistant;content=b;"##,
    ),
    (r##"{% for k in messages[1] %}{{ k }};{% endfor %}"##, r##"role;content;"##),
    (
        r##"{{ messages[1].get('x', 'no') }}{{ messages[1] is mapping }}{{ messages is iterable }}"##,
        r##"noTrueTrue"##,
    ),
    (
        r##"{{ messages[-1].role }}{{ messages[:1] | length }}{{ 'role' in messages[0] }}"##,
        r##"assistant1True"##,
    ),
    (
        r##"{{ (messages + [1]) | length }}{{ messages[1] == {'role': 'assistant', 'content': 'b'} }}"##,
        r##"3True"##,
    ),
    (
        r##"{{ {'b': 'é', 'a': 1e16} | tojson(sort_keys=true, ensure_ascii=true) }}"##,
        r##"{"a": 1e+16, "b": "\u00e9"}"##,
    ),
    (r##"{{ {'b': []} | tojson(separators=[',', ':']) }}"##, r##"{"b":[]}"##),
    (
        r##"{{ [[], {}, [1]] | tojson(indent=1) }}"##,
        r##"[
 [],
 {},
 [
  1
 ]
]"##,
    ),
    (r##"{{ dict(a=1) }}{{ (1, 'a') | list }}"##, r##"{'a': 1}[1, 'a']"##),
    (r##"{{ '%s' % (1,) }}"##, r##"1"##),
    (r##"{{ 'a' ~ true ~ none ~ 1.0 }}"##, r##"aTrueNone1.0"##),
    (r##"{{ messages | map(attribute='role') | list }}"##, r##"['user', 'assistant']"##),
    (r##"{{ 7 // 2 }}{{ 7 / 2 }}{{ -7 % 3 }}{{ 2 ** 3 }}"##, r##"33.528"##),
    (r##"{{ 'abc'[::-1] }}{{ 'x,y'.split(',') }}"##, r##"cba['x', 'y']"##),
    (r##"{{ messages[0].content.removeprefix(' a') }}"##, r##"<"é" "##),
    (r##"{{ namespace(a=[1,'x']).a }}"##, r##"[1, 'x']"##),
    (r##"{{ 'ab' * 2 }}{{ [1]*2 }}"##, r##"abab[1, 1]"##),
    (r##"{{ 'a' in 'abc' }}{{ undefined_x is defined }}{{ undefined_x }}"##, r##"TrueFalse"##),
    (r##"{{ 3.0 | int }}{{ '3' | int + 1 }}{{ 10 | float }}"##, r##"3410.0"##),
    (r##"{{ true and 'x' }}{{ none or 'y' }}"##, r##"xy"##),
    (r##"{{ messages[0]['content'] | replace('a', 'z') | upper }}"##, r##" Z<"É" "##),
    (r##"{{ 1 if false }}"##, r##""##),
    (
        r##"{{ [3,1,2]|sort }}{{ [1,2]|first }}{{ [1,2,3]|last }}{{ ['b','a']|unique|list }}"##,
        r##"[1, 2, 3]13['b', 'a']"##,
    ),
    (r##"{{ messages|selectattr('role','equalto','user')|list|length }}"##, r##"1"##),
    (
        r##"{{ messages|rejectattr('role','equalto','user')|list }}"##,
        r##"[{'role': 'assistant', 'content': 'b'}]"##,
    ),
    (
        r##"{{ messages|tojson }}"##,
        r##"[{"role": "user", "content": " a<\"é\" "}, {"role": "assistant", "content": "b"}]"##,
    ),
    (r##"{{ 'x'|indent(2, true) }}"##, r##"  x"##),
    (r##"{{ '  x '|trim }}{{ ' a '.strip() }}{{ 'aab'.lstrip('a') }}"##, r##"xab"##),
    (r##"{{ 'a\nb'.splitlines() }}"##, r##"['a', 'b']"##),
    (r##"{{ {'a': none}.get('a') is none }}"##, r##"True"##),
    (r##"{{ (messages|length) is odd }}"##, r##"False"##),
    (r##"{{ 'abc'|list }}"##, r##"['a', 'b', 'c']"##),
    (r##"{{ 'abc'|batch(2)|list }}"##, r##"[['a', 'b'], ['c']]"##),
    (r##"{{ messages[0].content|tojson|tojson }}"##, r##""\" a<\\\"é\\\" \"""##),
];

#[test]
fn templates_render_as_in_python() {
    let messages = [message("user", " a<\"é\" "), message("assistant", "b")];
    let mut wrong = Vec::new();
    for (source, expected) in CASES {
        let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap();
        match template.render(&messages, None, false) {
            Ok(text) if text == *expected => {}
            other => wrong.push(format!("{source}: {other:?}, expected {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
