//! Choices against plain computations over all pairs.

use refrain_cache::{Cache, Manifest};
use refrain_engine::kind::{Cancel, Progress, Resources};
use serde_json::Map;

use super::*;

/// Vectors without a pattern, the last ones equal.
fn some(rows: usize, width: usize) -> Vectors {
    let mut values: Vec<f32> =
        (0..rows * width).map(|i| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0).collect();
    let first = values[..width].to_vec();
    values[(rows - 1) * width..].copy_from_slice(&first);
    Vectors::new(&values, width)
}

fn cosine(vectors: &Vectors, i: usize, j: usize) -> f64 {
    let pairs = vectors.row(i).iter().zip(vectors.row(j));
    pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Calls `test` with a context of no stage.
fn with_context(test: impl FnOnce(&Context<'_>)) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(&folder.path().join("cache")).unwrap();
    test(&Context {
        params: &Map::new(),
        inputs: &Default::default(),
        cache: &cache,
        unfinished: cache.unfinished(&Manifest::new("test").key()),
        fresh: false,
        resources: Resources {
            threads: 1,
            batch: None,
            requests: None,
            memory: None,
            memory_limit: u64::MAX,
        },
        progress: &Progress::default(),
        cancel: &Cancel::default(),
        environment: &|_| None,
        own_program: None,
        machine: refrain_engine::kind::machine::Machine::empty(),
        pins: &refrain_engine::kind::Pins::default(),
    });
}

#[test]
fn each_greedy_choice_is_the_best_of_all() {
    let vectors = some(30, 6);
    let n = vectors.rows();
    let best = |chosen: &[usize], value: &dyn Fn(usize) -> f64| {
        let left = (0..n).filter(|place| !chosen.contains(place));
        left.map(value).fold(f64::NEG_INFINITY, f64::max)
    };
    with_context(|ctx| {
        let chosen = k_center(&vectors, 8, ctx).unwrap();
        assert_eq!(chosen[0], 0);
        for step in 1..8 {
            let before = &chosen[..step];
            let far = |place: usize| {
                before.iter().map(|c| 1.0 - cosine(&vectors, place, *c)).fold(3.0, f64::min)
            };
            assert!((best(before, &far) - far(chosen[step])).abs() < 1e-12);
        }

        let chosen = facility_location(&vectors, 8, ctx).unwrap();
        for step in 0..8 {
            let covered = |with: &[usize]| -> f64 {
                let near = |i| with.iter().map(|c| cosine(&vectors, i, *c)).fold(0.0, f64::max);
                (0..n).map(near).sum()
            };
            let before = &chosen[..step];
            let with = |place: usize| covered(&[before, &[place]].concat());
            assert!((best(before, &with) - with(chosen[step])).abs() < 1e-9);
        }

        // The determinant is the product of the squares of what each row adds to those before.
        let chosen = dpp(&vectors, 8, ctx).unwrap();
        assert_eq!(chosen.len(), 6, "six directions have no volume in a seventh");
        for step in 1..6 {
            let before = &chosen[..step];
            let volume = |place: usize| determinant(&vectors, &[before, &[place]].concat());
            assert!((best(before, &volume) / volume(chosen[step]) - 1.0).abs() < 1e-6);
        }
    });
}

fn determinant(vectors: &Vectors, rows: &[usize]) -> f64 {
    let n = rows.len();
    let mut m: Vec<Vec<f64>> =
        rows.iter().map(|i| rows.iter().map(|j| cosine(vectors, *i, *j)).collect()).collect();
    let mut product = 1.0;
    for k in 0..n {
        product *= m[k][k];
        let pivot = m[k].clone();
        for row in &mut m[k + 1..] {
            let by = row[k] / pivot[k];
            row.iter_mut().zip(&pivot).for_each(|(value, pivot)| *value -= by * pivot);
        }
    }
    product
}

#[test]
fn of_separate_clusters_one_row_each_is_chosen() {
    let mut values = Vec::new();
    for row in 0..40 {
        let mut vector = [0.01 * (row % 7) as f32; 4];
        vector[row % 4] = 5.0;
        values.extend(vector);
    }
    let vectors = Vectors::new(&values, 4);
    with_context(|ctx| {
        for seed in 0..5 {
            let mut of: Vec<usize> =
                clusters(&vectors, 4, seed, ctx).unwrap().iter().map(|place| place % 4).collect();
            of.sort_unstable();
            of.dedup();
            // k-means may end with two centres in one cluster, but not with fewer than three.
            assert!(of.len() >= 3, "seed {seed}: {of:?}");
        }
        let all = clusters(&vectors, 40, 0, ctx).unwrap();
        assert!(all.len() <= 40);
        let mut chosen = vec![3, 1];
        fill(&mut chosen, 4, 6);
        assert_eq!(chosen, [3, 1, 0, 2]);
    });
}
