//! Products and eigenvalues against plain sums and known matrices, at several numbers of threads.

use super::vectors::dot;
use super::*;

/// Numbers without a pattern in [-1, 1).
fn some(count: usize, seed: u64) -> Vec<f64> {
    let number = |i: usize| {
        let mut z = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(number).collect()
}

fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn plain(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn products_are_those_of_plain_sums() {
    for (rows, others, terms) in [(1, 1, 1), (17, 5, 3), (40, 33, 300), (16, 200, 513), (3, 2, 0)] {
        let (a, b) = (some(rows * terms, 1), some(others * terms, 2));
        let (left, right) = (Packed::of_rows(&a, terms), Packed::of_rows(&b, terms));
        let found = map_panels(&left, &right, |_, rows| rows.to_vec()).concat();
        if terms == 0 {
            continue;
        }
        let expected: Vec<f64> = a
            .chunks(terms)
            .flat_map(|a| b.chunks(terms).map(|b| plain(a, b)).collect::<Vec<_>>())
            .collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-12 * terms as f64, "{rows} {others} {terms}");
        }
        let turned: Vec<f64> =
            (0..terms).flat_map(|t| a.chunks(terms).map(move |row| row[t])).collect();
        let turned = Packed::of_columns(&turned, rows);
        let again = map_panels(&turned, &right, |_, rows| rows.to_vec());
        assert_eq!(again.concat(), found);

        let own = map_panels(&left, &left, |_, rows| rows.to_vec()).concat();
        let lower = map_lower(&left, 0..left.panels(), |_, rows| rows.to_vec()).concat();
        let mut added = vec![0.0; rows * rows];
        add_lower(&left, &left, 1.0, &mut added, rows);
        for i in 0..rows {
            assert_eq!(lower[i * rows..][..=i], own[i * rows..][..=i]);
            assert_eq!(added[i * rows..][..=i], own[i * rows..][..=i]);
            assert!(added[i * rows..][i + 1..rows].iter().all(|value| *value == 0.0));
        }
    }
}

#[test]
fn vectors_are_summed_whatever_their_length() {
    for n in 0..40 {
        let (a, b) = (some(n, 3), some(n, 4));
        assert!((dot(&a, &b) - plain(&a, &b)).abs() < 1e-14);
        let sum: f64 = a.iter().map(|a| libm::exp((a - 0.5) * 2.0)).sum();
        assert!((sum_exp(&a, 0.5, 2.0) - sum).abs() < 1e-13);
        let mut all = a.clone();
        exp_all(&mut all, 0.5, 2.0);
        add(&mut all, &b);
        let both = sum + b.iter().sum::<f64>();
        assert!((all.iter().sum::<f64>() - both).abs() < 1e-13);
        let narrow: Vec<f32> = a.iter().map(|v| *v as f32).collect();
        if n > 0 {
            let squares: f64 = narrow.iter().map(|v| f64::from(*v).powi(2)).sum();
            assert!((dots(&narrow, &narrow)[0] - squares).abs() < 1e-14);
        }
    }
}

/// A symmetric matrix with these eigenvalues: reflected by several vectors in turn.
fn with(values: &[f64]) -> Vec<f64> {
    let n = values.len();
    let mut matrix = vec![0.0; n * n];
    (0..n).for_each(|i| matrix[i * n + i] = values[i]);
    for seed in 0..3 {
        let mut v = some(n, 10 + seed);
        let length = plain(&v, &v).sqrt();
        v.iter_mut().for_each(|v| *v /= length);
        let u: Vec<f64> = (0..n).map(|i| plain(&matrix[i * n..][..n], &v)).collect();
        let uv = plain(&u, &v);
        for i in 0..n {
            for j in 0..n {
                matrix[i * n + j] += 4.0 * uv * v[i] * v[j] - 2.0 * (u[i] * v[j] + v[i] * u[j]);
            }
        }
    }
    matrix
}

#[test]
fn eigenvalues_are_found_whatever_the_size_and_the_threads() {
    for n in [1usize, 2, 3, 5, 31, 32, 33, 64, 65, 100, 150] {
        let mut expected: Vec<f64> = some(n, 5);
        if n > 10 {
            // Equal ones, and some that are nothing.
            expected[3..8].fill(0.25);
            expected[8..].iter_mut().step_by(2).for_each(|value| *value = 0.0);
        }
        let matrix = with(&expected);
        expected.sort_by(f64::total_cmp);
        let found = on(1, || eigenvalues(&mut matrix.clone(), n));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-13, "{n}: {found}, not {expected}");
        }
        let again = on(3, || eigenvalues(&mut matrix.clone(), n));
        assert_eq!(found, again, "{n}: bits depend on threads");
    }
}

/// More rows than one thread is left with.
#[test]
fn a_large_matrix_has_the_same_bits_on_any_number_of_threads() {
    let n = 600;
    let values: Vec<f64> = (0..n).map(|i| i as f64 / n as f64).collect();
    let matrix = with(&values);
    let found = on(1, || eigenvalues(&mut matrix.clone(), n));
    assert!(found.iter().zip(&values).all(|(found, value)| (found - value).abs() < 1e-12));
    assert_eq!(found, on(4, || eigenvalues(&mut matrix.clone(), n)));
}

#[test]
fn extreme_matrices_have_eigenvalues() {
    assert_eq!(eigenvalues(&mut [0.0; 9], 3), [0.0; 3]);
    assert!(eigenvalues(&mut [1.0, 0.0, f64::NAN, 1.0], 2).iter().all(|v| v.is_nan()));
    assert_eq!(eigenvalues(&mut [], 0), Vec::<f64>::new());
    let scaled = |factor: f64| eigenvalues(&mut [2.0, 0.0, 1.0, 2.0].map(|v| v * factor), 2);
    for factor in [1e-300, 1.0, 1e300] {
        for (found, expected) in scaled(factor).iter().zip([1.0, 3.0]) {
            assert!((found / factor - expected).abs() < 1e-14);
        }
    }
}
