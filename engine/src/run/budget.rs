//! The budget of a run: no node starts that would pass it.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::graph::{Graph, NodeId};
use crate::kind::machine::Prices;
use crate::language::units::{self, Money};
use crate::plan::Cost;

/// The limit of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// Time from its beginning to its end.
    Time(Duration),
    /// Money that its nodes cost together.
    Money(Money),
}

impl FromStr for Limit {
    type Err = String;

    /// Reads `20USD` or `3h`.
    fn from_str(text: &str) -> Result<Limit, String> {
        let money: Result<Money, String> = text.parse();
        match (units::duration(text), money) {
            (Ok(time), _) => Ok(Limit::Time(time)),
            (_, Ok(money)) => Ok(Limit::Money(money)),
            _ => Err("write money or a time, such as `20USD` or `3h`".into()),
        }
    }
}

/// A limit, with what the nodes are expected to cost.
#[derive(Debug, Clone)]
pub struct Budget {
    /// The limit.
    pub limit: Limit,
    /// Whether nodes whose cost is not known run.
    pub unknown_runs: bool,
    /// The expected cost of each node, by number.
    pub costs: Vec<Cost>,
    /// The prices that they were made with.
    pub prices: Prices,
}

/// A node that did not start because of the budget.
#[derive(Debug, Clone, PartialEq)]
pub struct OverBudget {
    /// The node.
    pub node: NodeId,
    /// Its estimated cost; `None` where that is not known. Seconds or money, as the limit is.
    pub cost: Option<f64>,
    /// The rest of the limit.
    pub left: f64,
}

/// The budget of a run under way.
pub(super) struct Spending<'o> {
    budget: &'o Budget,
    begin: Instant,
    /// Money of the nodes that ended.
    spent: f64,
    /// Money that running nodes are expected to cost.
    running: BTreeMap<NodeId, f64>,
}

impl<'o> Spending<'o> {
    pub fn new(budget: &'o Budget) -> Spending<'o> {
        Spending { budget, begin: Instant::now(), spent: 0.0, running: BTreeMap::new() }
    }

    /// Takes the expected cost of a node that is about to start.
    ///
    /// # Errors
    /// [`OverBudget`] where the limit would be passed.
    pub fn admit(&mut self, node: NodeId) -> Result<(), OverBudget> {
        let cost = self.budget.costs[node.index()];
        let (cost, left) = match &self.budget.limit {
            Limit::Time(time) => {
                (cost.seconds, time.as_secs_f64() - self.begin.elapsed().as_secs_f64())
            }
            Limit::Money(money) => {
                let running: f64 = self.running.values().sum();
                (cost.money, money.amount() - self.spent - running)
            }
        };
        let is_within = cost.map_or(self.budget.unknown_runs, |cost| cost <= left);
        if !is_within {
            return Err(OverBudget { node, cost, left: left.max(0.0) });
        }
        self.running.insert(node, self.budget.costs[node.index()].money.unwrap_or(0.0));
        Ok(())
    }

    /// Gives back the cost of a node that did not start after all.
    pub fn forget(&mut self, node: NodeId) {
        self.running.remove(&node);
    }

    /// Counts the cost of a node that ended after so long.
    pub fn ended(&mut self, graph: &Graph, node: NodeId, elapsed: Duration) {
        self.running.remove(&node);
        let seconds = Some(elapsed.as_secs_f64());
        let cost = Cost::new(graph.node(node), seconds, &self.budget.prices);
        // Tokens count as they were expected.
        let tokens = self.budget.costs[node.index()].tokens;
        self.spent += cost.money.unwrap_or(0.0) + tokens.unwrap_or(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(money: Option<f64>) -> Cost {
        let seconds = money.map(|money| money * 10.0);
        Cost { seconds, money, ..Cost::default() }
    }

    fn budget(limit: &str, unknown_runs: bool) -> Budget {
        let costs = [Some(3.0), Some(4.0), Some(3.5), None, Some(0.0)].map(cost).into();
        Budget { limit: limit.parse().unwrap(), unknown_runs, costs, prices: Prices::default() }
    }

    #[test]
    fn limits_are_read() {
        assert_eq!("3h".parse(), Ok(Limit::Time(Duration::from_secs(10_800))));
        let Ok(Limit::Money(money)) = "20.5USD".parse() else { panic!("it is money") };
        assert_eq!(money.to_string(), "20.5 USD");
        for wrong in ["", "20", "3 weeks", "USD", "0h", "20 dollars"] {
            assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn money_is_kept_for_running_nodes_and_given_back() {
        let budget = budget("7.5USD", false);
        let mut spending = Spending::new(&budget);
        let [a, b, c, unknown, free] = [0, 1, 2, 3, 4].map(NodeId);
        assert_eq!(spending.admit(a), Ok(()));
        assert_eq!(spending.admit(b), Ok(()));
        let over = OverBudget { node: c, cost: Some(3.5), left: 0.5 };
        assert_eq!(spending.admit(c), Err(over));
        assert_eq!(spending.admit(free), Ok(()), "what is free passes nothing");
        let over = OverBudget { node: unknown, cost: None, left: 0.5 };
        assert_eq!(spending.admit(unknown), Err(over));
        spending.forget(b);
        assert_eq!(spending.admit(c), Ok(()));
    }

    #[test]
    fn what_is_not_known_runs_where_that_is_allowed() {
        let budget = budget("40s", true);
        let mut spending = Spending::new(&budget);
        assert_eq!(spending.admit(NodeId(3)), Ok(()));
        assert_eq!(spending.admit(NodeId(0)), Ok(()));
        assert!(spending.admit(NodeId(1)).is_err(), "40 s of the 40 s that began a moment ago");
    }
}
