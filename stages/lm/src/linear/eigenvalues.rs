//! Eigenvalues of symmetric matrices: reduced to a tridiagonal one, then by implicit QL steps
//! (Dubrulle, Martin and Wilkinson 1968).

use super::tridiagonal::tridiagonal;

/// Steps after which an eigenvalue counts as found: two or three suffice, and what is left beside
/// the diagonal is below rounding long before.
const STEPS: usize = 60;

/// Returns the eigenvalues of a symmetric matrix in ascending order.
///
/// matrix `[n, n]`, of which the lower triangle is read and overwritten. Each value is right to some
/// units in the last place of the largest one; values that are not finite give NaN.
pub fn eigenvalues(matrix: &mut [f64], n: usize) -> Vec<f64> {
    let lower = || (0..n).flat_map(|i| &matrix[i * n..][..=i]);
    if !lower().all(|value| value.is_finite()) {
        return vec![f64::NAN; n];
    }
    let largest = lower().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    if largest == 0.0 {
        return vec![0.0; n];
    }

    // Scaled, no square overflows, and none of what matters underflows.
    matrix.iter_mut().for_each(|value| *value /= largest);
    let (mut values, beside) = tridiagonal(matrix, n);
    of_tridiagonal(&mut values, beside);
    values.iter_mut().for_each(|value| *value *= largest);
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// Turns the diagonal of a tridiagonal matrix into its eigenvalues.
fn of_tridiagonal(d: &mut [f64], mut e: Vec<f64>) {
    e.push(0.0);
    for l in 0..d.len() {
        for _ in 0..STEPS {
            // The block that begins at l ends where nothing is left beside the diagonal.
            let small = |m: usize| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs());
            let m = (l..d.len() - 1).find(|m| small(*m)).unwrap_or(d.len() - 1);
            if m == l {
                break;
            }
            step(d, &mut e, l, m);
        }
    }
}

/// One QL step with Wilkinson's shift on the block from l to m.
fn step(d: &mut [f64], e: &mut [f64], l: usize, m: usize) {
    let g = (d[l + 1] - d[l]) / (2.0 * e[l]);
    let r = (g * g + 1.0).sqrt().copysign(g);
    let mut g = d[m] - d[l] + e[l] / (g + r);
    let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
    for i in (l..m).rev() {
        let (f, b) = (s * e[i], c * e[i]);
        let r = (f * f + g * g).sqrt();
        e[i + 1] = r;
        if r == 0.0 {
            d[i + 1] -= p;
            e[m] = 0.0;
            return;
        }
        (s, c) = (f / r, g / r);
        g = d[i + 1] - p;
        let t = (d[i] - g) * s + 2.0 * c * b;
        p = s * t;
        d[i + 1] = g + p;
        g = c * t - b;
    }
    d[l] -= p;
    e[l] = g;
    e[m] = 0.0;
}
