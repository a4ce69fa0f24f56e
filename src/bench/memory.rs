//! What the limiter costs within one process: a slot taken and given back, and a place in the queue.

use std::sync::Barrier;
use std::time::Duration;

use futures_util::FutureExt;

use super::Rounds;
use super::report::Report;
use super::report::Row;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::limit::Limiter;
use crate::limit::Patience;
use crate::limit::Settings;
use crate::limit::queue::Queue;

const PART: &str = "in memory";
const IDENTITIES: usize = 1000;

/// Measures what needs no Redis.
pub fn in_memory(is_quick: bool) -> Report {
    let (millis, times) = if is_quick { (200, 2_000) } else { (2000, 20_000) };
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let limiter = |limit| Limiter::local(Settings { default_limit: limit, ..Settings::default() });
    let (free, full) = (limiter(1_000_000), limiter(1));
    let hosts: Vec<HostKey> = (0..threads).map(super::host).collect();
    let taken = full.acquire(&hosts[0], Patience::None).now_or_never();
    let identities: Vec<Identity> =
        (0..IDENTITIES).map(|number| Identity::Name(number.to_string().into())).collect();

    let (mut alone, mut refused) = (f64::INFINITY, f64::INFINITY);
    let (mut together, mut apart, mut queue) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    let mut rounds = Rounds::new(Duration::from_millis(millis));
    while rounds.next() {
        alone = alone.min(nanos(times, || cycle(&free, &hosts[0], times)));
        refused = refused.min(nanos(times, || cycle(&full, &hosts[0], times)));
        together = together.min(on_threads(threads, times, |_| cycle(&free, &hosts[0], times)));
        apart = apart.min(on_threads(threads, times, |own| cycle(&free, &hosts[own], times)));
        queue = queue.min(nanos(times, || queue_up(&identities, times)));
    }
    drop(taken);

    let named = "acquire and release, one thread";
    let row = |name: String, figure| Row::new(PART, name, figure, "ns");
    let rows = vec![
        row(named.to_owned(), alone),
        row(format!("the same, {threads} threads on one host, each"), together)
            .beside(named, alone),
        row(format!("the same, {threads} threads on a host each"), apart).beside(named, alone),
        row("refused by a full host".to_owned(), refused).beside(named, alone),
        row(format!("into the queue and out, {IDENTITIES} identities wait"), queue)
            .beside(named, alone),
    ];
    Report { redis: None, is_quick, rows }
}

/// A slot taken and given back, or asked for in vain.
fn cycle(limiter: &Limiter, host: &HostKey, times: u32) {
    for _ in 0..times {
        // It never waits, so there is an answer at once.
        drop(std::hint::black_box(limiter.acquire(host, Patience::None).now_or_never()));
    }
}

fn queue_up(identities: &[Identity], times: u32) {
    let mut queue = Queue::default();
    for identity in identities {
        queue.push(identity, 1, ());
    }
    for identity in identities.iter().cycle().zip(0..times).map(|(identity, _)| identity) {
        queue.push(identity, 1, ());
        std::hint::black_box(queue.pop());
    }
}

/// Nanoseconds for one of so many.
fn nanos(times: u32, work: impl FnOnce()) -> f64 {
    let start = clock::now();
    work();
    (clock::now() - start).as_secs_f64() * 1e9 / f64::from(times)
}

/// The same on several threads at once: what the slowest needed.
fn on_threads(threads: usize, times: u32, work: impl Fn(usize) + Sync) -> f64 {
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        let (start, work) = (&start, &work);
        let run = |own| {
            scope.spawn(move || {
                start.wait();
                nanos(times, || work(own))
            })
        };
        let all: Vec<_> = (0..threads).map(run).collect();
        // A thread that panicked has no figure; there is nothing in it that could.
        all.into_iter().filter_map(|thread| thread.join().ok()).fold(0.0, f64::max)
    })
}
