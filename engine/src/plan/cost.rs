//! The cost of the nodes that would run: hours of graphics cards, tokens of served models, and money
//! where there are prices.

use crate::graph::{Node, Work};
use crate::kind::machine::Prices;
use crate::language::units::Money;

use super::{Asked, NodeEstimate};

const HOUR: f64 = 3600.0;
/// Tokens that a price is of.
const PRICED: f64 = 1e6;

/// The cost of a node; what is not known is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Seconds.
    pub seconds: Option<f64>,
    /// Graphics cards times hours.
    pub gpu_hours: Option<f64>,
    /// Money, in the currency of the prices.
    pub money: Option<f64>,
    /// The part of the money that is for tokens at a server.
    pub tokens: Option<f64>,
}

impl Cost {
    /// The cost of a node that takes so many seconds, where that is known, and asks no server.
    /// Sources and gathered tables, and without cards stages too, cost no money.
    pub fn new(node: &Node, seconds: Option<f64>, prices: &Prices) -> Cost {
        match &node.work {
            Work::Stage { .. } => Cost::of_cards(node.settings.gpus.unwrap_or(0), seconds, prices),
            _ => Cost::of_cards(0, Some(0.0), prices),
        }
    }

    /// The cost of a node by its estimates.
    pub fn estimated(node: &Node, estimate: NodeEstimate, prices: &Prices) -> Cost {
        let seconds = estimate.took.map(|estimate| estimate.seconds);
        let mut cost = Cost::new(node, seconds, prices);
        if let Some(asked) = &estimate.asked {
            cost.tokens = of_tokens(asked, prices);
            cost.money = cost.money.zip(cost.tokens).map(|(cards, tokens)| cards + tokens);
        }
        cost
    }

    fn of_cards(cards: usize, seconds: Option<f64>, prices: &Prices) -> Cost {
        let gpu_hours = match cards {
            0 => Some(0.0),
            cards => seconds.map(|seconds| seconds * cards as f64 / HOUR),
        };
        let money = match &prices.gpu_hour {
            Some(price) => gpu_hours.map(|hours| hours * price.amount()),
            None => gpu_hours.filter(|_| cards == 0),
        };
        Cost { seconds, gpu_hours, money, tokens: Some(0.0) }
    }
}

/// The price of the tokens of requests; those of a model without a price are free.
fn of_tokens(asked: &Asked, prices: &Prices) -> Option<f64> {
    let Some(price) = prices.of_tokens(asked.model.as_deref()) else { return Some(0.0) };
    let part = |tokens: Option<f64>, price: &Option<Money>| match price {
        Some(price) => tokens.map(|tokens| tokens / PRICED * price.amount()),
        None => Some(0.0),
    };
    Some(part(asked.tokens_in, &price.input)? + part(asked.tokens_out, &price.output)?)
}

#[cfg(test)]
mod tests {
    use crate::kind::machine::TokenPrice;

    use super::*;

    #[test]
    fn cards_cost_by_the_hour_and_all_else_is_free() {
        let free = Prices::default();
        let priced = Prices { gpu_hour: Some("2.50USD".parse().unwrap()), ..Prices::default() };
        let cost = |cards, seconds, prices| {
            let cost = Cost::of_cards(cards, seconds, prices);
            (cost.gpu_hours, cost.money)
        };
        assert_eq!(cost(4, Some(1800.0), &priced), (Some(2.0), Some(5.0)));
        assert_eq!(cost(4, Some(1800.0), &free), (Some(2.0), None));
        assert_eq!(cost(4, None, &priced), (None, None));
        assert_eq!(cost(0, Some(1800.0), &free), (Some(0.0), Some(0.0)));
        assert_eq!(cost(0, None, &priced), (Some(0.0), Some(0.0)));
    }

    #[test]
    fn tokens_cost_by_the_million_and_what_is_not_known_has_no_price() {
        let price = |model: Option<&str>, input: &str, output: &str| TokenPrice {
            model: model.map(Into::into),
            input: input.parse().ok(),
            output: output.parse().ok(),
        };
        let tokens = vec![price(Some("large"), "2USD", "8USD"), price(Some("out"), "", "4USD")];
        let prices = Prices { tokens, ..Prices::default() };
        let of = |model: &str, tokens_in, tokens_out| {
            let model = Some(model.to_owned());
            of_tokens(&Asked { model, tokens_in, tokens_out, ..Asked::default() }, &prices)
        };
        assert_eq!(of("large", Some(1e6), Some(5e5)), Some(6.0));
        assert_eq!(of("large", None, Some(5e5)), None);
        assert_eq!(of("out", None, Some(5e5)), Some(2.0));
        assert_eq!(of("out", None, None), None);
        assert_eq!(of("free", None, None), Some(0.0));
    }
}
