//! Quantiles as numpy computes them by default.

pub use refrain_engine::statistics::quantile;
