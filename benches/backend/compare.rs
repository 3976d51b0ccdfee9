//! [`compare`], which measures variants of an operation in this process.

use std::time::Duration;

use criterion::Criterion;

use crate::harness::{is_measured, is_selected};

/// The number of rounds in which the variants take turns.
const ROUNDS: usize = 15;

pub(crate) struct Repeated<'a> {
    pub(crate) name: &'static str,
    /// Repeats the operation, and returns the time that the repetitions took.
    pub(crate) run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl<'a> Repeated<'a> {
    pub(crate) fn new(name: &'static str, run: impl FnMut(u64) -> Duration + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Measures the variants with criterion, and then in short rounds, which yield ratios to the first variant.
pub(crate) fn compare(c: &mut Criterion, group: &str, per_round: u64, mut variants: Vec<Repeated<'_>>) {
    let mut criterion = c.benchmark_group(group);
    for variant in &mut variants {
        criterion.bench_function(variant.name, |b| b.iter_custom(&mut variant.run));
    }
    criterion.finish();
    if !is_measured() || !is_selected(group) {
        return;
    }
    let mut times = vec![Vec::new(); variants.len()];
    for _ in 0..ROUNDS {
        for (variant, times) in variants.iter_mut().zip(&mut times) {
            times.push((variant.run)(per_round).as_secs_f64() / per_round as f64);
        }
    }
    for (variant, own) in variants.iter().zip(&times) {
        println!(
            "{group}/{:<24}: {:>10.2} µs, ratio {:.2} to {}",
            variant.name,
            median(own.iter().copied()) * 1e6,
            median(own.iter().zip(&times[0]).map(|(own, first)| own / first)),
            variants[0].name,
        );
    }
}

/// Returns the median of at least one number.
pub(crate) fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<_> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
