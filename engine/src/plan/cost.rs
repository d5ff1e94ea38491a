//! The cost of the nodes that would run: hours of graphics cards, and money where there are prices.

use crate::graph::{Node, Work};
use crate::kind::machine::Prices;

use super::Estimate;

const HOUR: f64 = 3600.0;

/// The cost of a node; what is not known is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Seconds.
    pub seconds: Option<f64>,
    /// Graphics cards times hours.
    pub gpu_hours: Option<f64>,
    /// Money, in the currency of the prices.
    pub money: Option<f64>,
}

impl Cost {
    /// The cost of a node that takes so many seconds, where that is known. Sources and gathered
    /// tables, and without cards stages too, cost no money.
    pub fn new(node: &Node, seconds: Option<f64>, prices: &Prices) -> Cost {
        match &node.work {
            Work::Stage { .. } => Cost::of_cards(node.settings.gpus.unwrap_or(0), seconds, prices),
            _ => Cost { seconds: Some(0.0), gpu_hours: Some(0.0), money: Some(0.0) },
        }
    }

    /// The cost of a node by its estimate.
    pub fn estimated(node: &Node, estimate: Option<Estimate>, prices: &Prices) -> Cost {
        Cost::new(node, estimate.map(|estimate| estimate.seconds), prices)
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
        Cost { seconds, gpu_hours, money }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_cost_by_the_hour_and_all_else_is_free() {
        let free = Prices::default();
        let priced = Prices { gpu_hour: Some("2.50USD".parse().unwrap()) };
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
}
