//! Kernels in the shapes of a small model: products forward and backward, attention, dropout.
//!
//! Criterion's throughput is in multiply-adds (`Kelem/s`), of dropout in values.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use refrain_kernel_benches::kernels::attention::{Attention, Row};
use refrain_kernel_benches::kernels::dropout::Mask;
use refrain_kernel_benches::kernels::matmul::{
    Operand, Put, backward_input, backward_weight, forward,
};
use refrain_kernel_benches::kernels::panels::{Panels, Stored};
use refrain_kernel_benches::random::Stream;

/// Inputs and outputs of the layers: attention, feed-forward, head.
const SHAPES: [(usize, usize); 4] = [(512, 512), (512, 1408), (1408, 512), (512, 8192)];
/// Rows: of decoding alone and in a batch, of a training step.
const ROWS: [usize; 3] = [1, 32, 1200];

fn values(n: usize, seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed, &[]);
    (0..n as u64).map(|i| stream.uniform(i) as f32 - 0.5).collect()
}

fn products(c: &mut Criterion) {
    for (inputs, outputs) in SHAPES {
        let stored = Stored::F32(values(inputs * outputs, 1)).into_panels(outputs, inputs);
        let halves = halved(&stored);
        let mut group = c.benchmark_group(format!("{inputs}x{outputs}"));
        for rows in ROWS {
            group.throughput(Throughput::Elements((rows * inputs * outputs) as u64));
            let (x, dy) = (values(rows * inputs, 2), values(rows * outputs, 3));
            let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
            for (name, stored) in [("forward", &stored), ("forward bf16", &halves)] {
                let w = Panels { outputs, inputs, values: stored };
                group.bench_function(BenchmarkId::new(name, rows), |b| {
                    b.iter(|| forward(&[(&Operand::of_rows(&x, inputs), w)], &mut y, Put::Set));
                });
            }
            if rows < 32 {
                continue;
            }
            for (name, stored) in [("input", &stored), ("input bf16", &halves)] {
                let w = Panels { outputs, inputs, values: stored };
                group.bench_function(BenchmarkId::new(name, rows), |b| {
                    b.iter(|| {
                        backward_input(&[(&Operand::in_lanes(&dy, outputs), w)], &mut dx, Put::Set);
                    });
                });
            }
            let mut dw = vec![0.0; stored.len()];
            group.bench_function(BenchmarkId::new("weight", rows), |b| {
                b.iter(|| {
                    let columns = Operand::of_columns(&x, inputs);
                    backward_weight(&dy, &columns, &mut dw, outputs, 1.0);
                });
            });
        }
    }
}

fn halved(stored: &Stored) -> Stored {
    let values = stored.f32().unwrap_or_default();
    Stored::Bf16(values.iter().map(|value| half::bf16::from_f32(*value)).collect())
}

fn attention(c: &mut Criterion) {
    let attention = Attention {
        heads: 8,
        kv_heads: 4,
        head_dim: 64,
        scale: 0.125,
        cap: None,
        window: None,
        causal: true,
    };
    let mut group = c.benchmark_group("attention");
    for positions in [200, 1500] {
        let (q, k) = (values(positions * 512, 1), values(positions * 256, 2));
        let (v, mut out) = (values(k.len(), 3), vec![0.0; q.len()]);
        group.throughput(Throughput::Elements((positions * positions * 512) as u64));
        group.bench_function(BenchmarkId::new("forward", positions), |b| {
            b.iter(|| {
                let keys = attention.keys(&[0, positions], &k, &v);
                attention.forward(&[Row { queries: &q, keys: &keys[0] }], &mut out);
            });
        });
    }
}

fn dropout(c: &mut Criterion) {
    let (stream, x) = (Stream::new(1, &[]), values(1200 * 1408, 1));
    let mut y = vec![0.0; x.len()];
    let mut group = c.benchmark_group("dropout");
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("draw", |b| b.iter(|| Mask::draw(&stream, 0.05, x.len())));
    let mask = Mask::draw(&stream, 0.05, x.len());
    group.bench_function("put", |b| b.iter(|| mask.put(&x, &mut y, Put::Set)));
}

criterion_group!(benches, products, attention, dropout);
criterion_main!(benches);
