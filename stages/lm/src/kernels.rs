//! The arithmetic: functions over slices, each with one fixed order of summation.
//!
//! Tensors are row-major `f32` slices. No function lets one row's bits depend on another row, on
//! the number of rows, or on the number of threads; sums over rows (gradients of weights) run in
//! the order of the rows.

/// Defines a function that runs `body` compiled for the widest instructions of the processor,
/// chosen at run time.
///
/// A closure given to `Arch::dispatch` may end up outside the function that has those instructions,
/// when it is too large to be inlined: nothing warns, and the loop is eight times slower. The
/// method of a struct, always inlined like the body itself, cannot.
macro_rules! vectorized {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident<$($life:lifetime),+>($($argument:ident: $type:ty),+ $(,)?)
        -> $result:ty = $body:path) => {
        $(#[$doc])*
        $visibility fn $name<$($life),+>($($argument: $type),+) -> $result {
            struct Run<$($life),+> { $($argument: $type),+ }
            impl<$($life),+> pulp::WithSimd for Run<$($life),+> {
                type Output = $result;
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $result {
                    $body($(self.$argument),+)
                }
            }
            pulp::Arch::new().dispatch(Run { $($argument),+ })
        }
    };
}

pub mod attention;
pub mod buffer;
pub mod dropout;
pub mod encoder;
pub mod matmul;
pub mod panels;
pub mod pointwise;
pub mod rows;
pub mod tile;

/// Lanes of a reduction. Sixteen independent sums fill one AVX-512 or two AVX2 registers, and since
/// their number is fixed the result is the same whatever the registers of the machine are.
pub const LANES: usize = 16;

/// Names the instruction set that the kernels use on this processor.
pub fn instruction_set() -> &'static str {
    match pulp::Arch::new() {
        pulp::Arch::Scalar => "scalar",
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V3(_) => "AVX2",
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V4(_) => "AVX-512",
        _ => "vectors",
    }
}

/// The dot product of two slices of equal length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks_a, chunks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (rest_a, rest_b) = (chunks_a.remainder(), chunks_b.remainder());
    for (x, y) in chunks_a.zip(chunks_b) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    for (i, (x, y)) in rest_a.iter().zip(rest_b).enumerate() {
        lanes[i] += x * y;
    }
    sum_lanes(lanes)
}

/// The sum of a slice.
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] += x[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    sum_lanes(lanes)
}

/// The largest value; negative infinity for none.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    let best = rest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    lanes.into_iter().fold(best, f32::max)
}

#[inline(always)]
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// e^x, within 2 units in the last place; the argument is held to [-87, 88].
///
/// Range reduction by powers of two and a polynomial of degree six (Cephes `expf`), without
/// branches, so that loops over it are vectorised.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    // The low bits of `shifted` hold n; moved to the exponent they scale by 2^n.
    f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// 1 / 12!, 1 / 11!, … 1 / 1!: the series of e^x in double precision behind its highest term.
pub const INVERSE_FACTORIALS: [f64; 12] = [
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
];
/// 1 / 13!, its highest term: below half a unit in the last place where |x| is at most ln 2 / 2.
pub const LAST_FACTORIAL: f64 = 1.0 / 6_227_020_800.0;

/// The hyperbolic tangent, to about 1e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // Near zero the quotient cancels; the series is exact to the last bits there.
    let small = x * (1.0 - x * x * (1.0 / 3.0 - x * x * (2.0 / 15.0)));
    let e = exp(2.0 * x.abs().min(20.0));
    let large = (1.0 - 2.0 / (e + 1.0)).copysign(x);
    if x.abs() < 0.05 { small } else { large }
}

/// The complementary error function of a value of at least 0, to 2.5e-7: `t exp(-z² + p(t))`, t = 1
/// / (1 + z / 2), where the polynomial p is our own Chebyshev fit. Without branches, so that loops
/// over it are vectorised.
#[inline(always)]
pub fn erfc(z: f32) -> f32 {
    const P: [f32; 10] = [
        -1.265_448,
        0.998_632_8,
        0.386_640_4,
        0.034_602_8,
        1.267_588_1e-3,
        -0.080_280_44,
        -0.696_251_9,
        1.156_733_8,
        -0.680_827_2,
        0.144_930_2,
    ];
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut p = P[9];
    for c in P[..9].iter().rev() {
        p = p * t + c;
    }
    t * exp(p - z * z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_tanh_are_close_to_the_library() {
        for i in -8600..8700 {
            let x = i as f32 * 0.01 + 0.003;
            let truth = libm::exp(f64::from(x));
            assert!((f64::from(exp(x)) / truth - 1.0).abs() < 2.5e-7, "exp({x})");
            let t = x * 0.1;
            assert!((f64::from(tanh(t)) - libm::tanh(f64::from(t))).abs() < 2e-7, "tanh({t})");
        }
    }

    #[test]
    fn reductions_cover_every_length() {
        for n in 0..50usize {
            let a: Vec<f32> = (0..n).map(|i| (i * i % 7) as f32 - 3.0).collect();
            let exact: f32 = a.iter().map(|x| x * x).sum();
            assert_eq!(dot(&a, &a), exact);
            assert_eq!(sum(&a), a.iter().sum::<f32>());
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
