//! Counters, gauges, histograms: counted where things happen, summed when somebody looks.
//!
//! Each thread that serves has [`Cells`] of its own and nobody else writes them, so counting is a
//! plain load and store on a cache line that stays on the thread's core. `/metrics` adds the cells
//! up. Numbers per host are not here: the limiter has them.
//!
//! Invariant: one thread writes one `Cells`. (A second writer would lose counts, not safety.)

mod words;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::MetricEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

pub(crate) use self::words::Barred;
pub(crate) use self::words::Bound;
pub(crate) use self::words::DialResult;
pub(crate) use self::words::Route;
pub(crate) use self::words::Yielded;
use crate::base::clock;

/// A number that one thread writes and any thread reads.
///
/// PERF: load and store instead of `fetch_add`: without a second writer the locked
/// read-modify-write (some 20 cycles on x86) buys nothing.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets of dial times, in microseconds: 1 ms to 60 s.
const DIAL_BOUNDS: [u64; 15] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// Upper bounds of the buckets of Redis calls, in microseconds: 0.1 ms to 1 s.
const CALL_BOUNDS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

fn bucket(bounds: &[u64], took: Duration) -> (usize, u64) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    (bounds.partition_point(|bound| *bound < micros), micros)
}

/// Names that one thread counts by; the rest is [`OTHERS`].
const NAMES: usize = 1000;
const OTHERS: &str = "(other)";

/// The classes `1xx` to `5xx`.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What one thread counts. Aligned so that no two threads' cells share a cache line (or the pair
/// of lines that the prefetcher fetches).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Cells {
    clients_opened: Cell,
    clients_closed: Cell,
    requests: [[Cell; CLASSES.len()]; Route::ALL.len()],
    sent: Cell,
    received: Cell,
    reused: Cell,
    parked: Cell,
    unparked: Cell,
    yielded: [Cell; Yielded::ALL.len()],
    bounded: [Cell; Bound::ALL.len()],
    barred: [Cell; Barred::ALL.len()],
    handshakes: [Cell; 2],
    dials: [Cell; DialResult::ALL.len()],
    dial_micros: Cell,
    dial_buckets: [Cell; DIAL_BOUNDS.len() + 1],
    /// By name. PERF: locked by this thread alone, but for when somebody looks.
    identities: Mutex<HashMap<Arc<str>, u64>>,
}

impl Cells {
    /// A client's connection was accepted.
    pub(crate) fn client_opened(&self) {
        self.clients_opened.add(1);
    }

    /// A client's connection is closed.
    pub(crate) fn client_closed(&self) {
        self.clients_closed.add(1);
    }

    /// A request got its final answer; a `status` outside 100 to 599 counts as the nearest class.
    pub(crate) fn answered(&self, route: Route, status: u16) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[route as usize][class].add(1);
    }

    /// Bytes went to an upstream.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.add(bytes);
    }

    /// Bytes of an upstream went to a client.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.add(bytes);
    }

    /// An attempt to connect ended after `took`, from the slot to the result.
    pub(crate) fn dialled(&self, result: DialResult, took: Duration) {
        self.dials[result as usize].add(1);
        let (bucket, micros) = bucket(&DIAL_BOUNDS, took);
        self.dial_buckets[bucket].add(1);
        self.dial_micros.add(micros);
    }

    /// A request went out on a connection that had served another before.
    pub(crate) fn reused(&self) {
        self.reused.add(1);
    }

    /// A connection began to idle in the pool.
    pub(crate) fn parked(&self) {
        self.parked.add(1);
    }

    /// A connection left the pool, to serve or to close.
    pub(crate) fn unparked(&self) {
        self.unparked.add(1);
    }

    /// Something idle was closed for somebody who waited.
    pub(crate) fn yielded(&self, what: Yielded) {
        self.yielded[what as usize].add(1);
    }

    /// Somebody who is known by name asked for something.
    pub(crate) fn asked_by(&self, name: &Arc<str>) {
        let mut names = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = names.get_mut(name) {
            *count += 1;
            return;
        }
        let name = if names.len() < NAMES { Arc::clone(name) } else { OTHERS.into() };
        *names.entry(name).or_default() += 1;
    }

    /// A destination was not gone to.
    pub(crate) fn barred(&self, what: Barred) {
        self.barred[what as usize].add(1);
    }

    /// A client's TLS handshake has ended, well or not.
    pub(crate) fn shook_hands(&self, well: bool) {
        self.handshakes[usize::from(well)].add(1);
    }

    /// Somebody met a bound, and what went beyond it was refused or cut.
    pub(crate) fn bounded(&self, what: Bound) {
        self.bounded[what as usize].add(1);
    }
}

/// What is known of the calls to Redis. Few writers and thousands a second at most, so plain
/// shared atomics.
#[derive(Debug, Default)]
struct Redis {
    errors: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; CALL_BOUNDS.len() + 1],
}

/// All cells of one narrows.
#[derive(Debug)]
pub struct Metrics {
    threads: Box<[Arc<Cells>]>,
    /// Reloads of the TLS files: those that failed, and the others.
    tls_reloads: [AtomicU64; 2],
    redis: Option<Redis>,
    /// The same of the users file.
    users_reloads: [AtomicU64; 2],
    /// The same of the settings.
    config_reloads: [AtomicU64; 2],
    /// Whether the last of those failed.
    config_is_bad: AtomicBool,
    /// When settings were last taken over, in seconds since 1970.
    config_since: AtomicU64,
}

impl Metrics {
    /// Cells for `threads` threads, at least one; `shared` is whether there is a Redis to tell of.
    pub fn new(threads: usize, shared: bool) -> Self {
        Self {
            threads: (0..threads.max(1)).map(|_| Arc::default()).collect(),
            tls_reloads: Default::default(),
            redis: shared.then(Redis::default),
            users_reloads: Default::default(),
            config_reloads: Default::default(),
            config_is_bad: AtomicBool::new(false),
            config_since: AtomicU64::new(seconds()),
        }
    }

    /// The cells of the thread with this number; a number too large gets the last thread's.
    pub(crate) fn thread(&self, number: usize) -> Arc<Cells> {
        Arc::clone(&self.threads[number.min(self.threads.len() - 1)])
    }

    /// The TLS files had changed and were read again, well or not.
    pub(crate) fn tls_reloaded(&self, well: bool) {
        self.tls_reloads[usize::from(well)].fetch_add(1, Relaxed);
    }

    /// A call to Redis was answered after `took`.
    pub(crate) fn redis_called(&self, took: Duration) {
        if let Some(redis) = &self.redis {
            let (bucket, micros) = bucket(&CALL_BOUNDS, took);
            redis.buckets[bucket].fetch_add(1, Relaxed);
            redis.micros.fetch_add(micros, Relaxed);
        }
    }

    /// A call to Redis failed, or took too long.
    pub(crate) fn redis_failed(&self) {
        if let Some(redis) = &self.redis {
            redis.errors.fetch_add(1, Relaxed);
        }
    }

    /// The users file had changed, and was taken over if it was `good`.
    pub(crate) fn users_reloaded(&self, good: bool) {
        self.users_reloads[usize::from(good)].fetch_add(1, Relaxed);
    }

    /// The settings were read again, and taken over if they were `good`.
    pub(crate) fn config_reloaded(&self, good: bool) {
        self.config_reloads[usize::from(good)].fetch_add(1, Relaxed);
        self.config_is_bad.store(!good, Relaxed);
        if good {
            self.config_since.store(seconds(), Relaxed);
        }
    }

    /// Whether the settings in force are those that were read last; and when they were taken over,
    /// in seconds since 1970.
    pub(crate) fn config(&self) -> (bool, u64) {
        (!self.config_is_bad.load(Relaxed), self.config_since.load(Relaxed))
    }

    fn names(&self) -> BTreeMap<Arc<str>, u64> {
        let mut all = BTreeMap::new();
        for cells in &self.threads {
            let names = cells.identities.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, count) in &*names {
                *all.entry(Arc::clone(name)).or_default() += count;
            }
        }
        all
    }

    fn sum(&self, cell: impl Fn(&Cells) -> &Cell) -> u64 {
        self.threads.iter().map(|cells| cell(cells).get()).fold(0, u64::wrapping_add)
    }

    /// What opened less what closed. Read in this order, or a pair that came between the reads
    /// would count as less than nothing; the rest of that race is cut off at zero.
    fn gauge(&self, up: impl Fn(&Cells) -> &Cell, down: impl Fn(&Cells) -> &Cell) -> u64 {
        let down = self.sum(down);
        self.sum(up).saturating_sub(down)
    }
}

/// Since 1970.
fn seconds() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Writes one gauge without labels.
fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

/// Writes one counter of a family, or the only one.
fn counter(encoder: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, n: u64) -> fmt::Result {
    encoder.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&n, None)
}

#[expect(clippy::cast_precision_loss, reason = "times and bounds, far below 2^52 microseconds")]
fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    bounds: &[u64],
    counts: &[u64],
    micros: u64,
) -> fmt::Result {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let bounds = bounds.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
    let count = counts.iter().sum();
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(seconds(micros), count, &buckets, None)
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;

        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        let help = "The version that runs";
        encoder
            .encode_descriptor("narrows_build_info", help, None, MetricType::Gauge)?
            .encode_family(&labels)?
            .encode_gauge(&1_u64)?;

        let value = self.gauge(|cells| &cells.clients_opened, |cells| &cells.clients_closed);
        gauge(encoder, "narrows_client_connections", "Open connections of clients", value)?;

        let help = "Requests by route and class of the answer's status";
        let mut family =
            encoder.encode_descriptor("narrows_requests", help, None, MetricType::Counter)?;
        for route in Route::ALL {
            for (class, word) in CLASSES.into_iter().enumerate() {
                let labels = [("route", route.as_str()), ("status_class", word)];
                let n = self.sum(|cells| &cells.requests[route as usize][class]);
                counter(&mut family, &labels, n)?;
            }
        }

        let help = "Bytes relayed, of tunnels and bodies";
        let mut family =
            encoder.encode_descriptor("narrows_bytes", help, None, MetricType::Counter)?;
        let sent = self.sum(|cells| &cells.sent);
        counter(&mut family, &[("direction", "to_upstream")], sent)?;
        let received = self.sum(|cells| &cells.received);
        counter(&mut family, &[("direction", "to_client")], received)?;

        let help = "Attempts to connect to upstreams by result";
        let mut family =
            encoder.encode_descriptor("narrows_dials", help, None, MetricType::Counter)?;
        for result in DialResult::ALL {
            let n = self.sum(|cells| &cells.dials[result as usize]);
            counter(&mut family, &[("result", result.as_str())], n)?;
        }

        let bucket = |at: usize| self.sum(|cells| &cells.dial_buckets[at]);
        let counts: Vec<u64> = (0..=DIAL_BOUNDS.len()).map(bucket).collect();
        let micros = self.sum(|cells| &cells.dial_micros);
        let what = ("narrows_dial_duration_seconds", "Time from a slot to a connection or failure");
        histogram(encoder, what, &DIAL_BOUNDS, &counts, micros)?;

        let value = self.gauge(|cells| &cells.parked, |cells| &cells.unparked);
        gauge(encoder, "narrows_pool_idle", "Upstream connections idle in the pools", value)?;

        let help = "Requests sent on a kept connection";
        let mut family =
            encoder.encode_descriptor("narrows_reused", help, None, MetricType::Counter)?;
        let reused = self.sum(|cells| &cells.reused);
        family.encode_counter::<NoLabelSet, _, u64>(&reused, None)?;

        let help = "Idle connections closed because somebody waited for their host";
        let mut family =
            encoder.encode_descriptor("narrows_idle_reclaimed", help, None, MetricType::Counter)?;
        for what in Yielded::ALL {
            let n = self.sum(|cells| &cells.yielded[what as usize]);
            counter(&mut family, &[("kind", what.as_str())], n)?;
        }

        let help =
            "Bounds that a client or an upstream met, and what went beyond was refused or cut";
        let mut family =
            encoder.encode_descriptor("narrows_bounds_met", help, None, MetricType::Counter)?;
        for what in Bound::ALL {
            let n = self.sum(|cells| &cells.bounded[*what as usize]);
            counter(&mut family, &[("bound", what.as_str())], n)?;
        }

        let help = "Destinations that were not gone to, by what forbids it";
        let mut family =
            encoder.encode_descriptor("narrows_egress_denied", help, None, MetricType::Counter)?;
        for what in Barred::ALL {
            let n = self.sum(|cells| &cells.barred[what as usize]);
            counter(&mut family, &[("rule", what.as_str())], n)?;
        }

        let help = "Requests of those who are known by name";
        let mut family = encoder.encode_descriptor(
            "narrows_identity_requests",
            help,
            None,
            MetricType::Counter,
        )?;
        for (name, n) in self.names() {
            counter(&mut family, &[("identity", &*name)], n)?;
        }

        let help = "Changes of the users file: taken over, or wrong and without effect";
        let mut family =
            encoder.encode_descriptor("narrows_users_reloads", help, None, MetricType::Counter)?;
        for (result, n) in [("failed", &self.users_reloads[0]), ("ok", &self.users_reloads[1])] {
            counter(&mut family, &[("result", result)], n.load(Relaxed))?;
        }

        let results = ["failed", "ok"];
        let help = "Whether the settings that were read last are in force, 1 or 0";
        let (is_good, since) = self.config();
        gauge(encoder, "narrows_config_last_reload_successful", help, is_good.into())?;
        let help = "When the settings in force were taken over, in seconds since 1970";
        gauge(encoder, "narrows_config_last_reload_success_timestamp_seconds", help, since)?;
        let help =
            "Times that the settings were read again: taken over, or wrong and without effect";
        let mut family =
            encoder.encode_descriptor("narrows_config_reloads", help, None, MetricType::Counter)?;
        for (reloads, result) in self.config_reloads.iter().zip(results) {
            counter(&mut family, &[("result", result)], reloads.load(Relaxed))?;
        }

        let help = "TLS handshakes with clients by result";
        let mut family =
            encoder.encode_descriptor("narrows_tls_handshakes", help, None, MetricType::Counter)?;
        for (well, result) in results.into_iter().enumerate() {
            let n = self.sum(|cells| &cells.handshakes[well]);
            counter(&mut family, &[("result", result)], n)?;
        }
        let help = "Reloads of the TLS files that had changed, by result";
        let mut family =
            encoder.encode_descriptor("narrows_tls_reloads", help, None, MetricType::Counter)?;
        for (reloads, result) in self.tls_reloads.iter().zip(results) {
            counter(&mut family, &[("result", result)], reloads.load(Relaxed))?;
        }

        let Some(redis) = &self.redis else { return Ok(()) };
        let counts: Vec<u64> = redis.buckets.iter().map(|count| count.load(Relaxed)).collect();
        let micros = redis.micros.load(Relaxed);
        let what = ("narrows_redis_call_duration_seconds", "Time of answered calls to Redis");
        histogram(encoder, what, &CALL_BOUNDS, &counts, micros)?;

        let help = "Calls to Redis that failed or took too long";
        let mut family =
            encoder.encode_descriptor("narrows_redis_errors", help, None, MetricType::Counter)?;
        let errors = redis.errors.load(Relaxed);
        family.encode_counter::<NoLabelSet, _, u64>(&errors, None)
    }
}

#[cfg(test)]
mod tests;
