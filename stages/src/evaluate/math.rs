//! The normal form of an answer of the MATH data set (Hendrycks and others 2021).
//!
//! The steps and their order are those of the data set's own comparison, odd ones included: a
//! stricter or a kinder form would give other verdicts than the published ones.

/// Returns the normal form; `None` of a malformed answer, which is compared as it is.
pub(super) fn normal_form(answer: &str) -> Option<String> {
    let mut text = without_delimiters(answer).replace('\n', "").replace("\\!", "");
    text = text.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac");
    for removed in ["\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"] {
        text = text.replace(removed, "");
    }
    // A `\text` that begins with a space is a unit.
    if let Some(unit) = text.find("\\text{ ") {
        text.truncate(unit);
    }
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.");
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    text = value_of_variable(&text).to_owned();
    text = braced_roots(&text)?.replace(' ', "");
    text = braced_fractions(&text)?;
    if text == "0.5" {
        text = "\\frac{1}{2}".into();
    }
    Some(slash_fraction(&text).unwrap_or(text))
}

/// The answer without the signs of a formula around it.
fn without_delimiters(answer: &str) -> &str {
    let mut text = answer.trim();
    for (open, close) in [("\\(", "\\)"), ("\\[", "\\]")] {
        if let Some(inner) = text.strip_prefix(open).and_then(|text| text.strip_suffix(close)) {
            text = inner.trim();
        }
    }
    text = text.trim_start_matches('$');
    // `\$` at the end is money.
    while let Some(inner) = text.strip_suffix('$').filter(|inner| !inner.ends_with('\\')) {
        text = inner;
    }
    text
}

/// Returns the text behind the only `=`, where a name of two characters at most is before it.
fn value_of_variable(text: &str) -> &str {
    match text.split_once('=') {
        Some((name, value)) if !value.contains('=') && name.chars().count() <= 2 => value,
        _ => text,
    }
}

/// Puts braces around what directly follows `\sqrt`; `None` where nothing does.
fn braced_roots(text: &str) -> Option<String> {
    let mut parts = text.split("\\sqrt");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("\\sqrt");
        out.push_str(&braced(part)?);
    }
    Some(out)
}

/// Puts braces around the two terms that directly follow `\frac`. Text behind which a second term
/// is missing stays as it was as a whole; `None` where the first one is.
fn braced_fractions(text: &str) -> Option<String> {
    let mut parts = text.split("\\frac");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("\\frac");
        let mut rest = part.chars();
        match (rest.next()?, rest.next()) {
            ('{', _) => out.push_str(part),
            (_, None) => return Some(text.to_owned()),
            (first, Some('{')) => out.push_str(&format!("{{{first}}}{{{}", rest.as_str())),
            (first, Some(second)) => {
                out.push_str(&format!("{{{first}}}{{{second}}}{}", rest.as_str()));
            }
        }
    }
    Some(out)
}

/// The text with its first character in braces, unless it begins with one.
fn braced(text: &str) -> Option<String> {
    let mut rest = text.chars();
    match rest.next()? {
        '{' => Some(text.to_owned()),
        first => Some(format!("{{{first}}}{}", rest.as_str())),
    }
}

/// `a/b` of two whole numbers as a fraction.
fn slash_fraction(text: &str) -> Option<String> {
    let (above, below) = text.split_once('/')?;
    let whole = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = digits == "0" && text == digits || !digits.starts_with('0');
        plain && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    (whole(above) && whole(below)).then(|| format!("\\frac{{{above}}}{{{below}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_follow_the_steps_of_the_data_set() {
        for (answer, form) in [
            (r"\dfrac{1}{8}", r"\frac{1}{8}"),
            (r"\left( -\frac{16}{5}, 2 \right)", r"(-\frac{16}{5},2)"),
            (r"83^\circ", "83"),
            (r"96,\!569", "96,569"),
            (r"10\text{ units}", "10"),
            (r"125\textnormal{ miles}", r"125\textnormal{miles}"),
            (r"10\%", "10"),
            (r"\$.25", "0.25"),
            ("x=5", "5"),
            ("xyz=5", "xyz=5"),
            ("a=b=c", "a=b=c"),
            (r"\sqrt3+\sqrt{2}", r"\sqrt{3}+\sqrt{2}"),
            (r"\frac34i", r"\frac{3}{4}i"),
            (r"\frac1{72}", r"\frac{1}{72}"),
            ("0.5", r"\frac{1}{2}"),
            (".5", r"\frac{1}{2}"),
            ("-1/2", r"\frac{-1}{2}"),
            ("01/2", "01/2"),
            ("1/2/3", "1/2/3"),
            ("x/2", "x/2"),
            (r"1 \\ 2", r"1\2"),
            (r"$\frac12$", r"\frac{1}{2}"),
            (r"\(2\)", "2"),
            (r"5\$", "5"),
            ("", ""),
        ] {
            assert_eq!(normal_form(answer).as_deref(), Some(form), "{answer}");
        }
        assert_eq!(normal_form(r"\sqrt"), None);
        assert_eq!(normal_form(r"1+\frac"), None);
        assert_eq!(normal_form(r"\frac2").as_deref(), Some(r"\frac2"));
    }
}
