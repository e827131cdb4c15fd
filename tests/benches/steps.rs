//! How long each step takes that a server makes for every event: `cargo bench -p rdb-tests --bench steps`. Elements are events.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rdb_tests::steps::STEPS;

fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("steps");
    for step in STEPS {
        group.throughput(Throughput::Elements(step.events.try_into().unwrap_or(u64::MAX)));
        let mut run = step.prepare();
        group.bench_function(step.name, |bencher| bencher.iter(&mut run));
    }
    group.finish();
}

criterion_group!(steps, all);
criterion_main!(steps);
