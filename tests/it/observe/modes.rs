//! The same requests, to an instance that enforces and to one that observes.

use crate::support::Closed;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::wait_until;

/// A file of settings, there as long as this is.
struct File(tempfile::NamedTempFile);

impl File {
    fn of(origin: &Origin, policies: &str) -> Self {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        let authority = origin.authority();
        let text = format!("api: {{shop: {{hosts: ['{authority}'], {policies}}}}}");
        std::fs::write(file.path(), text).unwrap();
        Self(file)
    }

    async fn start(&self) -> Proxy {
        narrows().flags(format!("--config {}", self.0.path().display())).start().await
    }
}

/// What a rule did: waited, refused, observed.
async fn decided(proxy: &Proxy, api: &str, rule: &str) -> [u64; 3] {
    let mut counts = [0; 3];
    for (count, outcome) in counts.iter_mut().zip(["waited", "refused", "observed"]) {
        let labels = [("api", api), ("rule", rule), ("outcome", outcome)];
        // As it is written, since there are no halves of decisions.
        *count =
            proxy.metric("narrows_decisions_total", &labels).await.to_string().parse().unwrap();
    }
    counts
}

#[tokio::test]
async fn an_observed_breaker_refuses_nothing_and_counts_what_an_enforced_one_refuses() {
    let paths = ["/status/500", "/status/500", "/", "/", "/status/500", "/"];
    let mut refused = Vec::new();
    for mode in ["enforce", "observe"] {
        let origin = Origin::start();
        let breaker = format!("{{failure_threshold: 2, reset_timeout: 1h, mode: {mode}}}");
        let policies = format!("circuit_breaker: {breaker}, cool_down: false");
        let proxy = File::of(&origin, &policies).start().await;
        let mut ours = 0;
        for path in paths {
            let answer = proxy.get(origin.url(path)).await;
            ours += u64::from(answer.head.field("x-origin").is_none());
        }
        assert_eq!(origin.hits() as u64, paths.len() as u64 - ours);
        refused.push((ours, decided(&proxy, "shop", "breaker").await));
        // Successes of attempts that it would have refused do not close it.
        let told = proxy.admin("/circuit-status").await.json();
        assert_eq!(told["circuits"][0]["state"], "OPEN", "{told}");
        assert_eq!(told["circuits"][0]["config"]["mode"], mode, "{told}");
    }
    assert_eq!(refused, [(4, [0, 4, 0]), (0, [0, 0, 4])]);
}

#[tokio::test]
async fn an_observed_breaker_goes_through_the_same_states() {
    let mut states = Vec::new();
    for mode in ["enforce", "observe"] {
        let origin = Origin::start();
        let breaker = format!("{{failure_threshold: 1, reset_timeout: 800ms, mode: {mode}}}");
        let policies = format!("circuit_breaker: {breaker}, cool_down: false");
        let proxy = File::of(&origin, &policies).start().await;
        let mut seen = Vec::new();
        for (path, until) in
            [("/status/500", "OPEN"), ("/", "HALF_OPEN"), ("/", "HALF_OPEN"), ("/", "CLOSED")]
        {
            proxy.get(origin.url(path)).await;
            wait_until(until, async || {
                proxy.admin("/circuit-status").await.json()["circuits"][0]["state"] == until
            })
            .await;
            seen.push(until);
        }
        states.push((seen, decided(&proxy, "shop", "breaker").await.iter().sum::<u64>()));
    }
    assert_eq!(states[0].1, 1);
    assert_eq!(states[0], states[1]);
}

#[tokio::test]
async fn an_observed_breaker_of_tunnels_lets_all_of_them_be_tried() {
    let closed = Closed::new();
    let flags = "--connect-breaker-failures 2 --connect-breaker-mode observe";
    let proxy = narrows().flags(flags).start().await;
    for _ in 0..5 {
        proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");
    }
    assert_eq!(decided(&proxy, "@connect", "breaker").await, [0, 0, 3]);
}

#[tokio::test]
async fn an_observed_cool_down_holds_nobody_up_and_counts_who_would_wait_and_who_be_refused() {
    let mut counted = Vec::new();
    for mode in ["enforce", "observe"] {
        let origin = Origin::start();
        let cool_down = format!("{{scope: host, default: 700ms, ramp: 0, mode: {mode}}}");
        let policies = format!("circuit_breaker: false, cool_down: {cool_down}");
        let proxy = File::of(&origin, &policies).start().await;
        assert_eq!(proxy.get(origin.url("/status/429")).await.status(), 429);
        let start = std::time::Instant::now();
        let (mut one, mut other) = (proxy.client().await, proxy.client().await);
        let hasty = one.request("GET", &origin.url("/"), &["Prefer: wait=0"]).await;
        let patient = other.get(origin.url("/")).await;
        assert_eq!(patient.status(), 200);
        assert_eq!(hasty.head.field("x-origin").is_some(), mode == "observe", "{hasty:?}");
        assert_eq!(start.elapsed().as_millis() < 600, mode == "observe", "{:?}", start.elapsed());
        counted.push(decided(&proxy, "shop", "cool_down").await);
    }
    assert_eq!(counted, [[1, 1, 0], [0, 0, 2]]);
}

#[tokio::test]
async fn the_flags_say_it_too() {
    let origin = Origin::start();
    let flags = "--breaker-failures 1 --breaker-mode observe --cool-down observe";
    let proxy = narrows().flags(flags).start().await;
    for path in ["/status/500", "/status/429", "/"] {
        assert!(proxy.get(origin.url(path)).await.head.field("x-origin").is_some());
    }
    assert_eq!(decided(&proxy, "default", "breaker").await, [0, 0, 2]);
    assert_eq!(decided(&proxy, "default", "cool_down").await, [0, 0, 1]);
}

#[tokio::test]
async fn observed_networks_turn_nobody_away_and_count_whom_they_would() {
    let mut counted = Vec::new();
    for mode in ["enforce", "observe"] {
        let origin = Origin::start();
        let policies = format!("deny_from: [127.0.0.0/8], networks_mode: {mode}");
        let proxy = File::of(&origin, &policies).start().await;
        assert_eq!(proxy.get(origin.url("/")).await.status() == 200, mode == "observe");
        let tunnel = proxy.connect(origin.authority()).await;
        assert_eq!(tunnel.status() == 200, mode == "observe");
        counted.push(decided(&proxy, "shop", "networks").await);
    }
    assert_eq!(counted, [[0, 2, 0], [0, 0, 2]]);
}
