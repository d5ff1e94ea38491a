//! Eigenvalues of symmetric matrices: reduced to a tridiagonal one, then by rational QL steps
//! (Reinsch 1971).

use super::tridiagonal::tridiagonal;

/// Steps after which an eigenvalue counts as found: two or three suffice, and what is left beside
/// the diagonal is below rounding long before.
const STEPS: usize = 60;

/// Returns the eigenvalues of a symmetric matrix in ascending order.
///
/// matrix `[n, n]`, of which the lower triangle is read and overwritten. Each value is right to
/// some units in the last place of the largest one; values that are not finite give NaN.
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
    of_tridiagonal(&mut values, &beside);
    values.iter_mut().for_each(|value| *value *= largest);
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// Turns the diagonal of a tridiagonal matrix into its eigenvalues.
///
/// The steps are rational: they need the squares of the entries beside the diagonal alone, and no
/// root (Reinsch 1971).
fn of_tridiagonal(d: &mut [f64], beside: &[f64]) {
    let n = d.len();
    let mut squares: Vec<f64> = beside.iter().map(|value| value * value).chain([0.0]).collect();
    let (mut shifted, mut scale, mut tiny) = (0.0, 0.0, 0.0);
    for l in 0..n {
        // A value beside the diagonal counts as nothing where it is below rounding of the largest
        // values met so far.
        let size = d[l].abs() + squares[l].sqrt();
        if size > scale {
            scale = size;
            tiny = f64::EPSILON * scale;
        }
        let nothing = tiny * tiny;
        // The block that begins at l ends where nothing is left beside the diagonal.
        let m = (l..n - 1).find(|m| squares[*m] <= nothing).unwrap_or(n - 1);
        for _ in 0..STEPS {
            if m == l || squares[l] <= nothing {
                break;
            }
            let shift = shift(d[l], d[l + 1], squares[l].sqrt());
            d[l..n].iter_mut().for_each(|value| *value -= shift);
            shifted += shift;
            step(&mut d[l..=m], &mut squares[l..=m], (tiny, nothing));
        }
        d[l] += shifted;
    }
}

/// The eigenvalue of the first two rows that is nearer the first.
fn shift(first: f64, second: f64, beside: f64) -> f64 {
    let p = (second - first) / (2.0 * beside);
    first - beside / (p + (p * p + 1.0).sqrt().copysign(p))
}

/// One step on a block: d its diagonal, squares those of the entries behind each.
fn step(d: &mut [f64], squares: &mut [f64], (tiny, nothing): (f64, f64)) {
    let last = d.len() - 1;
    let not_zero = |value: f64| if value == 0.0 { tiny } else { value };
    let mut g = not_zero(d[last]);
    let (mut h, mut s) = (g, 0.0);
    for i in (0..last).rev() {
        let p = g * h;
        let r = p + squares[i];
        squares[i + 1] = s * r;
        s = squares[i] / r;
        d[i + 1] = h + s * (h + d[i]);
        g = not_zero(d[i] - squares[i] / g);
        h = g * p / r;
    }
    squares[0] = s * g;
    d[0] = h;
    // `squares[0]` is still to be multiplied with h, unless that underflows what counts.
    if h == 0.0 || squares[0].abs() <= (nothing / h).abs() {
        squares[0] = 0.0;
    } else {
        squares[0] *= h;
    }
}
