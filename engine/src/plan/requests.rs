//! The requests to servers of models that the nodes of a plan would make, and their tokens.

use refrain_cache::Usage;

use crate::graph::{Graph, NodeId, Work};
use crate::kind::{RequestContext, Requests};

use super::{NodeEstimate, Step};

/// The requests that a node would make to a server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// The name of its model at the server, where the workflow gives it.
    pub model: Option<String>,
    /// Requests at most, since rows that are known are not asked for again; `None` where the rows
    /// are not known yet.
    pub requests: Option<f64>,
    /// Tokens that are sent, by earlier runs.
    pub tokens_in: Option<f64>,
    /// Tokens that are generated.
    pub tokens_out: Option<f64>,
    /// Whether the tokens that are generated are the limit, not what earlier runs tell.
    pub is_limit: bool,
}

/// The requests of all nodes of a plan that would run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AskedTotal {
    /// Nodes that ask a server.
    pub nodes: usize,
    /// The nodes among them whose requests are not known, which count as nothing.
    pub unknown: usize,
    /// Requests.
    pub requests: f64,
    /// Tokens that are sent; `None` where those of a node are not known.
    pub tokens_in: Option<f64>,
    /// Tokens that are generated.
    pub tokens_out: f64,
    /// Whether some of them are a limit.
    pub is_limit: bool,
}

/// Estimates the requests of a node; `None` of one that asks no server. `earlier` is what nodes
/// like it asked for.
pub(super) fn asked(
    graph: &Graph,
    id: NodeId,
    rows: &dyn Fn(&str) -> Option<u64>,
    earlier: &[Usage],
) -> Option<Asked> {
    let node = graph.node(id);
    let Work::Stage { kind, params } = &node.work else { return None };
    let tell = kind.requests?;
    let served = node.inputs.iter().filter(|edge| kind.served.contains(&edge.path.as_str()));
    let spec = served.filter_map(|edge| match &graph.node(edge.node).work {
        Work::Served(spec) => Some(spec),
        _ => None,
    });
    let spec = spec.into_iter().next();
    let params = params.to_map();
    let requests = tell(&RequestContext { params: &params, is_served: spec.is_some(), rows });
    let model = spec.map(|spec| spec.name.clone());
    let (requests, limit) = match requests {
        Requests::None => return None,
        Requests::Unknown => return Some(Asked { model, ..Asked::default() }),
        Requests::AtMost { requests, tokens_out } => (requests as f64, tokens_out as f64),
    };

    let made = earlier.iter().map(|usage| usage.requests).sum::<u64>() as f64;
    let of_each = |tokens: fn(&Usage) -> Option<u64>| {
        let sum = earlier.iter().map(tokens).sum::<Option<u64>>().filter(|_| made > 0.0)?;
        Some(sum as f64 / made * requests)
    };
    // A limit that was lowered since then holds for what earlier runs tell too.
    let tokens_out = of_each(|usage| usage.tokens_out).map(|tokens| tokens.min(limit));
    Some(Asked {
        model,
        requests: Some(requests),
        tokens_in: of_each(|usage| usage.tokens_in),
        tokens_out: Some(tokens_out.unwrap_or(limit)),
        is_limit: tokens_out.is_none(),
    })
}

/// Sums the requests of all nodes that would run.
pub fn asked_total(steps: &[Step], estimates: &[NodeEstimate]) -> AskedTotal {
    let mut total = AskedTotal { tokens_in: Some(0.0), ..AskedTotal::default() };
    let runs = |step: &Step| !matches!(step, Step::Cached(_));
    let of_nodes = steps.iter().zip(estimates).filter(|(step, _)| runs(step));
    for asked in of_nodes.filter_map(|(_, estimate)| estimate.asked.as_ref()) {
        total.nodes += 1;
        let Some(requests) = asked.requests else {
            total.unknown += 1;
            continue;
        };
        total.requests += requests;
        total.tokens_in = total.tokens_in.zip(asked.tokens_in).map(|(sum, tokens)| sum + tokens);
        total.tokens_out += asked.tokens_out.unwrap_or(0.0);
        total.is_limit |= asked.is_limit;
    }
    total
}
