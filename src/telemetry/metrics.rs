//! Counters, gauges, histograms: counted where things happen, summed when somebody looks.
//!
//! Each thread that serves has [`Cells`] of its own and nobody else writes them, so counting is a
//! plain load and store on a cache line that stays on the thread's core. `/metrics` adds the cells
//! up. Numbers per host are not here: the limiter has them.
//!
//! Invariant: one thread writes one `Cells`. (A second writer would lose counts, not safety.)

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::MetricEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

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

/// Which way a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// CONNECT: a tunnel.
    Connect,
    /// Absolute-form, forwarded.
    Forward,
    /// Answered by narrows itself: `/health`, origin-form, bad requests.
    Own,
}

impl Route {
    const ALL: [Self; 3] = [Self::Connect, Self::Forward, Self::Own];

    /// The word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Forward => "forward",
            Self::Own => "own",
        }
    }
}

/// How an attempt to reach an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialResult {
    /// The client left first.
    Cancelled,
    /// The name could not be resolved.
    DnsError,
    /// The resolver did not answer in time.
    DnsTimeout,
    /// A connection.
    Ok,
    /// None of the addresses may be dialled.
    Prohibited,
    /// The upstream refused.
    Refused,
    /// The upstream did not answer in time.
    Timeout,
    /// TLS with the upstream failed.
    Tls,
    /// There is no way to the address.
    Unreachable,
}

impl DialResult {
    const ALL: [Self; 9] = [
        Self::Cancelled,
        Self::DnsError,
        Self::DnsTimeout,
        Self::Ok,
        Self::Prohibited,
        Self::Refused,
        Self::Timeout,
        Self::Tls,
        Self::Unreachable,
    ];

    /// The word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::DnsError => "dns_error",
            Self::DnsTimeout => "dns_timeout",
            Self::Ok => "ok",
            Self::Prohibited => "prohibited",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What idled, and was closed for somebody who waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yielded {
    /// A connection kept for the next request.
    Pooled,
    /// A tunnel.
    Tunnel,
}

impl Yielded {
    const ALL: [Self; 2] = [Self::Pooled, Self::Tunnel];

    /// The word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What kept a destination from being gone to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barred {
    /// The ports to which there may be tunnels.
    ConnectPort,
    /// No rule allows it, and what no rule allows is denied.
    Default,
    /// A rule that denies.
    DenyRule,
    /// It is this machine, its link, or a cloud's word to its machines.
    Local,
    /// It is this proxy.
    Loop,
    /// It is not globally reachable.
    NotPublic,
}

impl Barred {
    const ALL: [Self; 6] = [
        Self::ConnectPort,
        Self::Default,
        Self::DenyRule,
        Self::Local,
        Self::Loop,
        Self::NotPublic,
    ];

    /// The word for metrics and the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ConnectPort => "connect_port",
            Self::Default => "default",
            Self::DenyRule => "deny",
            Self::Local => "local",
            Self::Loop => "loop",
            Self::NotPublic => "not_public",
        }
    }
}

/// The bounds on what a client or an upstream may do, each with its word for metrics.
macro_rules! bounds {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        /// A bound on what a client or an upstream may do, and that one of them met.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Bound { $($(#[$doc])* $name,)* }

        impl Bound {
            const ALL: &[Self] = &[$(Self::$name),*];

            /// The word for metrics.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

bounds! {
    /// Passwords that wait to be verified.
    AuthQueue = "auth_queue";
    /// The silence within a body, be it the upstream that sends nothing or the client that takes
    /// nothing.
    BodyIdle = "body_idle";
    /// The chunk extensions in a request's body.
    ChunkExtensions = "chunk_extensions";
    /// Connections of clients in all.
    Clients = "clients";
    /// Connections of clients from one address.
    ClientsPerAddress = "clients_per_address";
    /// The time that connecting took.
    ConnectTime = "connect_time";
    /// The number of addresses of a name.
    DnsAddresses = "dns_addresses";
    /// The time that a look-up took.
    DnsTime = "dns_time";
    /// The number of fields in a request's head.
    Fields = "fields";
    /// The time that TLS with a client took, and the header of the PROXY protocol before it.
    HandshakeTime = "handshake_time";
    /// The size of a request's head.
    HeadSize = "head_size";
    /// The time that a request's head took.
    HeadTime = "head_time";
    /// What a client may do to streams of HTTP/2, resets most of all.
    Http2Calm = "http2_calm";
    /// The interim responses (1xx) to one request.
    Interim = "interim";
    /// Open files.
    OpenFiles = "open_files";
    /// The length of a request line.
    RequestLine = "request_line";
    /// The chunk extensions in a response's body.
    ResponseExtensions = "response_chunk_extensions";
    /// The number of fields in a response's head.
    ResponseFields = "response_fields";
    /// The size of a response's head.
    ResponseHead = "response_head";
    /// The time that a response's head took.
    ResponseTime = "response_time";
    /// The size of a response's trailer section.
    ResponseTrailers = "response_trailers";
    /// The time that a TLS handshake with an upstream took.
    TlsTime = "tls_time";
    /// The size of a request's trailer section.
    Trailers = "trailers";
    /// The silence within a tunnel.
    TunnelIdle = "tunnel_idle";
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
}

impl Metrics {
    /// Cells for `threads` threads, at least one; `shared` is whether there is a Redis to tell of.
    pub fn new(threads: usize, shared: bool) -> Self {
        Self {
            threads: (0..threads.max(1)).map(|_| Arc::default()).collect(),
            tls_reloads: Default::default(),
            redis: shared.then(Redis::default),
            users_reloads: Default::default(),
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
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn text(metrics: &Arc<Metrics>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(metrics)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn the_cells_of_all_threads_are_added_up() {
        let metrics = Arc::new(Metrics::new(2, false));
        for thread in 0..2 {
            let cells = metrics.thread(thread);
            cells.client_opened();
            cells.answered(Route::Connect, 200);
            cells.answered(Route::Own, 404);
            cells.sent(10);
            cells.received(1000);
            cells.dialled(DialResult::Ok, Duration::from_millis(2));
            cells.parked();
            cells.reused();
            cells.yielded(Yielded::Tunnel);
        }
        metrics.thread(0).client_closed();
        metrics.thread(1).unparked();
        metrics.thread(1).dialled(DialResult::Refused, Duration::from_secs(100));
        let text = text(&metrics);
        for line in [
            "narrows_client_connections 1",
            "narrows_requests_total{route=\"connect\",status_class=\"2xx\"} 2",
            "narrows_requests_total{route=\"own\",status_class=\"4xx\"} 2",
            "narrows_requests_total{route=\"forward\",status_class=\"2xx\"} 0",
            "narrows_bytes_total{direction=\"to_upstream\"} 20",
            "narrows_bytes_total{direction=\"to_client\"} 2000",
            "narrows_dials_total{result=\"ok\"} 2",
            "narrows_dials_total{result=\"refused\"} 1",
            "narrows_dial_duration_seconds_count 3",
            "narrows_dial_duration_seconds_sum 100.004",
            "narrows_dial_duration_seconds_bucket{le=\"0.001\"} 0",
            "narrows_dial_duration_seconds_bucket{le=\"0.0025\"} 2",
            "narrows_dial_duration_seconds_bucket{le=\"60.0\"} 2",
            "narrows_dial_duration_seconds_bucket{le=\"+Inf\"} 3",
            "narrows_pool_idle 1",
            "narrows_reused_total 2",
            "narrows_idle_reclaimed_total{kind=\"tunnel\"} 2",
            "narrows_idle_reclaimed_total{kind=\"pooled\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.contains("narrows_build_info{version=\""), "{text}");
        assert!(!text.contains("redis"), "no Redis, nothing to say of it:\n{text}");
    }

    #[test]
    fn a_time_on_a_bound_belongs_to_its_bucket() {
        assert_eq!(bucket(&DIAL_BOUNDS, Duration::from_millis(1)).0, 0);
        assert_eq!(bucket(&DIAL_BOUNDS, Duration::from_micros(1001)).0, 1);
        assert_eq!(bucket(&DIAL_BOUNDS, Duration::MAX).0, DIAL_BOUNDS.len());
    }

    #[test]
    fn a_shared_narrows_tells_of_its_redis() {
        let metrics = Arc::new(Metrics::new(1, true));
        metrics.redis_called(Duration::from_micros(300));
        metrics.redis_failed();
        let text = text(&metrics);
        for line in [
            "narrows_redis_errors_total 1",
            "narrows_redis_call_duration_seconds_count 1",
            "narrows_redis_call_duration_seconds_bucket{le=\"0.00025\"} 0",
            "narrows_redis_call_duration_seconds_bucket{le=\"0.0005\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn an_odd_status_counts_in_the_nearest_class() {
        let metrics = Arc::new(Metrics::new(1, false));
        metrics.thread(0).answered(Route::Forward, 799);
        metrics.thread(7).answered(Route::Forward, 0);
        let text = text(&metrics);
        assert!(text.contains("{route=\"forward\",status_class=\"5xx\"} 1"), "{text}");
        assert!(text.contains("{route=\"forward\",status_class=\"1xx\"} 1"), "{text}");
    }

    #[test]
    fn names_are_counted_up_to_a_bound() {
        let metrics = Arc::new(Metrics::new(2, false));
        for thread in 0..2 {
            metrics.thread(thread).asked_by(&"a \"b\"\n".into());
        }
        for number in 0..NAMES + 4 {
            metrics.thread(0).asked_by(&number.to_string().into());
        }
        metrics.users_reloaded(false);
        let text = text(&metrics);
        for line in [
            r#"narrows_identity_requests_total{identity="a \"b\"\n"} 2"#,
            r#"narrows_identity_requests_total{identity="(other)"} 5"#,
            r#"narrows_users_reloads_total{result="failed"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let names = text.lines().filter(|line| line.starts_with("narrows_identity_requests_total"));
        assert_eq!(names.count(), NAMES + 1);
    }

    #[test]
    fn every_variant_has_its_own_cell() {
        for (index, result) in DialResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, index);
        }
        for (index, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index);
        }
        for (index, what) in Barred::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, index);
        }
        for (index, what) in Bound::ALL.iter().enumerate() {
            assert_eq!(*what as usize, index);
        }
        for (index, what) in Yielded::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, index);
        }
    }
}
