//! The functions of expressions. What is not finite is an error at once, so that nothing behind it hides it.

use std::sync::LazyLock;

use minijinja::value::Rest;
use minijinja::{Environment, Error, ErrorKind};

/// The functions, and whether each takes one number alone.
pub(super) const FUNCTIONS: [(&str, bool); 7] = [
    ("mean", false),
    ("min", false),
    ("max", false),
    ("abs", true),
    ("sqrt", true),
    ("log", true),
    ("exp", true),
];

/// The function around every parenthesis that only groups: without it `1 / (1 / 0)` would be 0.
pub(super) const GROUP: &str = "group";

/// The environment of all expressions: these functions and no others.
pub(super) static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::empty();
    environment.add_function("mean", |Rest(all): Rest<f64>| {
        many("mean", &all, |all| all.iter().sum::<f64>() / all.len() as f64)
    });
    environment.add_function("min", |Rest(all): Rest<f64>| {
        many("min", &all, |all| all.iter().copied().fold(f64::INFINITY, f64::min))
    });
    environment.add_function("max", |Rest(all): Rest<f64>| {
        many("max", &all, |all| all.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    });
    environment.add_function("abs", |x: f64| one("abs", x, f64::abs));
    environment.add_function("sqrt", |x: f64| one("sqrt", x, f64::sqrt));
    environment.add_function("log", |x: f64| one("log", x, f64::ln));
    environment.add_function("exp", |x: f64| one("exp", x, f64::exp));
    environment.add_function(GROUP, |x: f64| one("the value in parentheses", x, |x| x));
    environment
});

fn one(name: &str, x: f64, of: fn(f64) -> f64) -> Result<f64, Error> {
    many(name, &[x], |all| of(all[0]))
}

fn many(name: &str, all: &[f64], of: impl Fn(&[f64]) -> f64) -> Result<f64, Error> {
    let value = of(all);
    if all.iter().all(|x| x.is_finite()) && value.is_finite() {
        return Ok(value);
    }
    Err(Error::new(ErrorKind::InvalidOperation, format!("`{name}` is not finite")))
}
