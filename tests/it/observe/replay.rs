//! `narrows replay`: a log is decided again, by the same settings and by others.

use std::path::Path;
use std::path::PathBuf;

use futures_util::future::join_all;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::Closed;
use crate::support::Ended;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::wait_until;

/// A folder with files of settings and logs.
pub(super) struct Desk {
    folder: TempDir,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A file of settings with one API.
    pub(super) fn file(&self, name: &str, origin: &str, policies: &str) -> PathBuf {
        let path = self.folder.path().join(name).with_extension("yaml");
        let text = format!("api: {{shop: {{hosts: ['{origin}'], {policies}}}}}");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).with_extension("log")
    }

    /// An instance with these settings, which writes down what it decides. With one thread, so that
    /// there is one order in which everything was decided.
    pub(super) async fn start(&self, file: &Path, log: &Path, flags: &str) -> Proxy {
        let (file, log) = (file.display(), log.display());
        let logged = format!("--threads 1 --config {file} --decision-log {log} {flags}");
        narrows().flags(logged).start().await
    }

    /// What is said of a log, when so many requests are over in it.
    pub(super) async fn replay(&self, log: &Path, done: usize, settings: &str) -> Value {
        wait_until(&format!("{done} requests are done"), async || {
            let text = std::fs::read_to_string(log).unwrap();
            text.matches("\"kind\":\"done\"").count() >= done
        })
        .await;
        let ended = replay(&format!("{} --json {settings}", log.display())).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        serde_json::from_str(&ended.stdout).unwrap()
    }
}

async fn replay(words: &str) -> Ended {
    narrows().bare().flags(format!("replay {words}")).run().await
}

pub(super) fn config(path: &Path) -> String {
    format!("--config {}", path.display())
}

/// Waited, refused, observed, of one rule: recorded, and replayed.
pub(super) fn counts(told: &Value, rule: &str) -> ([u64; 3], [u64; 3]) {
    let row = told["rules"].as_array().unwrap().iter().find(|row| row["rule"] == rule);
    let of = |when: &str| {
        ["waited", "refused", "observed"]
            .map(|word| row.map_or(0, |row| row[when][word].as_u64().unwrap()))
    };
    (of("recorded"), of("replayed"))
}

pub(super) fn assert_same(told: &Value) {
    assert_eq!((&told["otherwise"], &told["bad_lines"]), (&0.into(), &0.into()), "{told:#}");
    for row in told["rules"].as_array().unwrap() {
        assert_eq!(row["recorded"], row["replayed"], "{told:#}");
    }
}

/// Eight clients at once, each with some requests of which some fail, some ask for a pause, and some
/// are well: the same each time.
async fn crowd(proxy: &Proxy, origin: &Origin) -> usize {
    const EACH: usize = 30;
    let one = async |client: usize| {
        let mut random = fastrand::Rng::with_seed(client as u64);
        let mut connection = proxy.client().await;
        for _ in 0..EACH {
            let path = match random.u8(..10) {
                0..5 => "/status/500",
                5 => "/status/429",
                6 => "/slow?ms=20",
                _ => "/",
            };
            let prefers = if random.bool() { &["Prefer: wait=0"][..] } else { &[] };
            connection.request("GET", &origin.url(path), prefers).await;
            tokio::time::sleep(std::time::Duration::from_millis(random.u64(..8))).await;
        }
    };
    join_all((0..8).map(one)).await;
    8 * EACH
}

/// Whether each decision that can be made in this mode was made.
async fn has_met_all(proxy: &Proxy, mode: &str) -> bool {
    let wanted = match mode {
        "enforce" => {
            &[("breaker", "refused"), ("cool_down", "waited"), ("cool_down", "refused")][..]
        }
        _ => &[("breaker", "observed"), ("cool_down", "observed")],
    };
    for (rule, outcome) in wanted {
        let labels = [("api", "shop"), ("rule", *rule), ("outcome", *outcome)];
        if proxy.metric("narrows_decisions_total", &labels).await < 1.0 {
            return false;
        }
    }
    true
}

const CROWDED: &str = "circuit_breaker: {failure_threshold: 2, reset_timeout: 60ms, mode: MODE}, \
                       cool_down: {scope: host, default: 40ms, wait: 100ms, ramp: 100, mode: MODE}";

#[tokio::test]
async fn the_same_settings_decide_a_crowd_as_they_did_whether_enforced_or_observed() {
    for mode in ["enforce", "observe"] {
        let (desk, origin) = (Desk::new(), Origin::start());
        let file = desk.file("same", &origin.authority(), &CROWDED.replace("MODE", mode));
        let log = desk.log(mode);
        let proxy = desk.start(&file, &log, "").await;
        let mut count = crowd(&proxy, &origin).await;
        // What becomes of whom is chance: until each kind of decision has been met.
        for _ in 0..20 {
            if has_met_all(&proxy, mode).await {
                break;
            }
            count += crowd(&proxy, &origin).await;
        }
        let told = desk.replay(&log, count, &config(&file)).await;
        assert_same(&told);
        assert_eq!(told["requests"], count);
        let ((breaker, _), (cool_down, _)) = (counts(&told, "breaker"), counts(&told, "cool_down"));
        if mode == "enforce" {
            assert!(breaker[1] > 0 && cool_down[0] > 0 && cool_down[1] > 0, "{told:#}");
            assert!(breaker[2] == 0 && cool_down[2] == 0, "{told:#}");
        } else {
            assert!(breaker[2] > 0 && cool_down[2] > 0, "{told:#}");
            assert_eq!(origin.hits(), count, "nobody was refused");
        }
    }
}

#[tokio::test]
async fn what_was_observed_is_what_an_enforcing_instance_would_have_refused() {
    let paths = ["/", "/status/500", "/status/500", "/status/500", "/", "/", "/status/500"];
    let mut refused = Vec::new();
    for mode in ["enforce", "observe"] {
        let (desk, origin) = (Desk::new(), Origin::start());
        let policies = |mode: &str| {
            format!(
                "circuit_breaker: {{failure_threshold: 3, reset_timeout: 1h, mode: {mode}}}, cool_down: false"
            )
        };
        let file = desk.file("then", &origin.authority(), &policies(mode));
        let enforced = desk.file("now", &origin.authority(), &policies("enforce"));
        let log = desk.log("decided");
        let proxy = desk.start(&file, &log, "").await;
        for path in paths {
            proxy.get(origin.url(path)).await;
        }
        let told = desk.replay(&log, paths.len(), &config(&enforced)).await;
        assert_eq!(told["otherwise"], 0, "{told:#}");
        let (recorded, replayed) = counts(&told, "breaker");
        refused.push((recorded.iter().sum::<u64>(), replayed));
    }
    assert_eq!(refused, [(3, [0, 3, 0]), (3, [0, 3, 0])]);
}

#[tokio::test]
async fn other_settings_say_whom_they_would_have_stopped_and_when() {
    let (desk, origin) = (Desk::new(), Origin::start());
    let policies = "circuit_breaker: {failure_threshold: 5}, cool_down: {scope: host}";
    let file = desk.file("then", &origin.authority(), policies);
    let log = desk.log("decided");
    let proxy = desk.start(&file, &log, "").await;
    for _ in 0..4 {
        proxy.get(origin.url("/status/500")).await;
    }
    let stricter = "--set api.shop.circuit_breaker.failure_threshold=2";
    let told = desk.replay(&log, 4, &format!("{} {stricter}", config(&file))).await;
    assert_eq!(counts(&told, "breaker"), ([0, 0, 0], [0, 2, 0]), "{told:#}");
    assert_eq!((&told["as_recorded"], &told["otherwise"]), (&2.into(), &2.into()));
    assert_eq!((&told["stops_added"], &told["stops_removed"]), (&2.into(), &0.into()));
    let whom = &told["whom"][0];
    assert_eq!(
        (&whom["rule"], &whom["api"], &whom["key"], &whom["who"], &whom["refused"]),
        (
            &"breaker".into(),
            &"shop".into(),
            &origin.authority().into(),
            &"127.0.0.1".into(),
            &2.into()
        )
    );
    assert!(whom["first"].as_str() < whom["last"].as_str(), "{whom}");
    assert!(whom["longest_wait_ms"].as_f64().unwrap() > 29_000.0, "{whom}");

    let denied = format!("{} --set api.shop.deny_from=127.0.0.1", config(&file));
    let told = desk.replay(&log, 4, &denied).await;
    assert_eq!(counts(&told, "networks").1, [0, 4, 0], "{told:#}");

    // And people can read it.
    let text = replay(&format!("{} {} {stricter}", log.display(), config(&file))).await.stdout;
    assert!(text.contains("4 requests: 2 are stopped as they were, 2 otherwise"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("breaker  shop")), "{text}");
}

#[tokio::test]
async fn tunnels_are_replayed_too() {
    let (desk, closed) = (Desk::new(), Closed::new());
    let file = desk.file("any", "unused.test", "circuit_breaker: false");
    let log = desk.log("decided");
    let proxy = desk.start(&file, &log, "--connect-breaker-failures 3").await;
    for _ in 0..5 {
        proxy.connect(closed.authority()).await;
    }
    let same = format!("{} --connect-breaker-failures 3", config(&file));
    let told = desk.replay(&log, 5, &same).await;
    assert_same(&told);
    assert_eq!(counts(&told, "breaker").1, [0, 2, 0]);
    let other = format!("{} --connect-breaker-failures 1", config(&file));
    let told = desk.replay(&log, 5, &other).await;
    assert_eq!(counts(&told, "breaker").1, [0, 4, 0], "{told:#}");
}

#[tokio::test]
async fn what_the_log_does_not_say_is_not_guessed() {
    let (desk, origin) = (Desk::new(), Origin::start());
    let policies = "circuit_breaker: {failure_threshold: 1}";
    let file = desk.file("then", &origin.authority(), policies);
    let log = desk.log("decided");
    let proxy = desk.start(&file, &log, "").await;
    proxy.get(origin.url("/status/500")).await;
    proxy.get(origin.url("/")).await;
    let laxer = "--set api.shop.circuit_breaker=false";
    let told = desk.replay(&log, 2, &format!("{} {laxer}", config(&file))).await;
    assert_eq!((&told["otherwise"], &told["stops_removed"]), (&1.into(), &1.into()), "{told:#}");
    let notes = told["not_replayed"].as_array().unwrap();
    assert!(
        notes
            .iter()
            .any(|note| note["what"].as_str().unwrap().contains("refused then")
                && note["count"] == 1),
        "{told:#}"
    );
}

#[tokio::test]
async fn logs_of_several_instances_are_one_story_in_the_order_of_time() {
    let (desk, origin) = (Desk::new(), Origin::start());
    let file = desk.file("then", &origin.authority(), "circuit_breaker: {failure_threshold: 3}");
    let (one, other) = (desk.log("one"), desk.log("other"));
    let first = desk.start(&file, &one, "").await;
    let second = desk.start(&file, &other, "").await;
    // Neither has three failures in a row, and both together have.
    for proxy in [&first, &second, &first, &second] {
        proxy.get(origin.url("/status/500")).await;
    }
    let alone = desk.replay(&one, 2, &config(&file)).await;
    assert_same(&alone);
    let both = format!("{} {}", other.display(), config(&file));
    let told = desk.replay(&one, 2, &both).await;
    assert_eq!((&told["instances"], &told["requests"]), (&2.into(), &4.into()));
    assert_eq!(counts(&told, "breaker").1, [0, 1, 0], "{told:#}");
}

#[tokio::test]
async fn bad_lines_are_told_by_their_number_and_counted_and_do_not_matter_unless_all_are() {
    let (desk, origin) = (Desk::new(), Origin::start());
    let file = desk.file("then", &origin.authority(), "circuit_breaker: true");
    let log = desk.log("decided");
    let proxy = desk.start(&file, &log, "").await;
    proxy.get(origin.url("/")).await;
    desk.replay(&log, 1, &config(&file)).await;
    drop(proxy);
    let good = std::fs::read_to_string(&log).unwrap();
    let endless = "x".repeat(100_000);
    std::fs::write(&log, format!("nonsense\n\n{good}{{\"kind\":\"done\"}}\n{endless}\n")).unwrap();
    let ended = replay(&format!("{} --json {}", log.display(), config(&file))).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&told["bad_lines"], &told["requests"]), (&3.into(), &1.into()));
    let places: Vec<&str> = ended.stderr.lines().collect();
    let last = good.lines().count() + 3;
    for (line, number) in places.iter().zip([1, last, last + 1]) {
        assert!(line.starts_with(&format!("{}:{number}: ", log.display())), "{line}");
    }

    std::fs::write(&log, "nothing\nof the kind\n").unwrap();
    let ended = replay(&format!("{} {}", log.display(), config(&file))).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no line of a decision log: 2 others"), "{ended:?}");
}

#[tokio::test]
async fn it_ends_as_others_do() {
    let (desk, origin) = (Desk::new(), Origin::start());
    let file = desk.file("then", &origin.authority(), "circuit_breaker: true");
    let nowhere = desk.log("nowhere");
    let ended = replay(&format!("{} {}", nowhere.display(), config(&file))).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("cannot read"), "{ended:?}");
    let bad = desk.file("bad", &origin.authority(), "circuit_breaker: {failures: 1}");
    let ended = replay(&format!("{} {}", nowhere.display(), config(&bad))).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(replay("").await.code, Some(2));
}
