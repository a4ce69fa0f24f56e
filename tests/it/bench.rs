//! The bench judges itself: a test is worth what its instruments are. And `narrows bench`, for users.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::Blackhole;
use crate::support::Closed;
use crate::support::Origin;
use crate::support::Redis;
use crate::support::narrows;
use crate::support::wait_until;

#[tokio::test]
async fn a_connection_counts_until_its_peer_has_sent_fin_or_rst() {
    let origin = Origin::raw(|connection| async move {
        let _held = connection;
        std::future::pending::<()>().await;
    });
    let open = async || TcpStream::connect(origin.authority()).await.unwrap();
    let (first, second, third) = (open().await, open().await, open().await);
    wait_until("all are accepted", async || origin.current() == 3).await;

    drop(first);
    assert_eq!(origin.current(), 2, "a FIN nobody has read");
    second.set_zero_linger().unwrap();
    drop(second);
    assert_eq!(origin.current(), 1, "an RST nobody has read");

    let fourth = open().await;
    wait_until("the fourth is accepted", async || origin.accepted() == 4).await;
    assert_eq!(origin.current(), 2);
    assert_eq!(origin.peak(), 3);
    drop((third, fourth));
    assert_eq!(origin.current(), 0);
}

#[tokio::test]
async fn a_closed_port_refuses_and_a_blackhole_stays_silent() {
    let closed = TcpStream::connect(Closed::new().authority()).await;
    assert_eq!(closed.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);

    let blackhole = Blackhole::new();
    let silent = TcpStream::connect(blackhole.authority());
    assert!(tokio::time::timeout(Duration::from_millis(200), silent).await.is_err());
}

#[tokio::test]
async fn each_redis_is_empty_and_its_own() {
    let (first, second) = (Redis::start().await, Redis::start().await);
    first.ask::<()>("SET proxy_rate_limiter:{0}:a.test 1").await;
    first.ask::<()>("SET proxy_rate_limiter:{0}:@w 1").await;
    assert_eq!(first.host_keys().await, ["proxy_rate_limiter:{0}:a.test"]);
    assert!(second.host_keys().await.is_empty());
}

/// `narrows bench limiter` with these words, whose temporary files are in `folder`.
fn bench(folder: &TempDir, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_narrows"));
    command.args(["bench", "limiter"]).args(words.split_whitespace()).kill_on_drop(true);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("TMPDIR", folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A short run that must succeed.
async fn report(folder: &TempDir, words: &str) -> Value {
    let run = bench(folder, &format!("--quick --json {words}")).output();
    let ended = tokio::time::timeout(Duration::from_mins(1), run).await.unwrap().unwrap();
    let error = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), error.as_str()), (Some(0), ""));
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// Processes with this folder on their command line.
fn processes_in(folder: &Path) -> usize {
    let folder = folder.to_str().unwrap();
    let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
        // A process may have ended meanwhile.
        fs::read(process.path().join("cmdline")).ok()
    });
    lines.filter(|line| String::from_utf8_lossy(line).contains(folder)).count()
}

fn is_empty(folder: &TempDir) -> bool {
    fs::read_dir(folder.path()).unwrap().count() == 0 && processes_in(folder.path()) == 0
}

fn figure(report: &Value, name: &str) -> f64 {
    let rows = report["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no {name} in {report}"))["figure"].as_f64().unwrap()
}

#[tokio::test]
async fn the_limiter_is_measured_on_a_redis_of_its_own_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let report = report(&folder, "").await;
    assert!(is_empty(&folder));
    assert_eq!(report["quick"], true);
    assert!(report["redis"].as_str().unwrap().contains('.'), "{report}");

    let rows = report["rows"].as_array().unwrap();
    for row in rows {
        let figure = row["figure"].as_f64().unwrap();
        // Who came last may still be in the queue when a quick run is over.
        let may_be_none = row["name"].as_str().unwrap().ends_with("of the limiter that had fewest");
        assert!(figure > 0.0 || row["unit"] == "%" || may_be_none, "{row}");
        assert_eq!(row["baseline"].is_null(), row["ratio"].is_null(), "{row}");
        assert_eq!(row["target"].is_null(), row["met"].is_null(), "{row}");
    }
    assert!(rows.iter().filter(|row| row["met"].is_boolean()).count() > 10, "{report}");

    let figure = |name: &str| figure(&report, name);
    let (bare, pair) = (figure("bare INCR and DECR"), figure("1 instance on the host"));
    assert!(bare < pair && pair < figure("a refused message that sweeps 1000 instances"));
    let one = figure("1 acquire of a host in a message");
    assert!(figure("10 acquires of a host in a message") < one / 2.0);
    let used = figure("10 times the limit, slack 8: the limit in use");
    assert!((50.0..=100.5).contains(&used), "{used}");
    assert!(figure("60 % load, slack 8: messages to Redis") < 2.0);
    assert!(figure("from the release to the slot, p50") < 900_000.0, "not by the safety poll");
}

#[tokio::test]
async fn a_named_redis_is_as_it_was_afterwards() {
    let redis = Redis::start().await;
    redis.ask::<()>("SET proxy_rate_limiter:{0}:a.test mine").await;
    redis.ask::<()>("CONFIG RESETSTAT").await;
    let before: Vec<String> = redis.ask("CONFIG GET *").await;
    let folder = tempfile::tempdir().unwrap();
    let report = report(&folder, &format!("--redis-addr {}", redis.address())).await;
    assert!(is_empty(&folder));
    assert!(figure(&report, "1 instance on the host") > 0.0);
    assert_eq!(redis.ask::<Vec<String>>("KEYS *").await, ["proxy_rate_limiter:{0}:a.test"]);
    assert_eq!(redis.ask::<String>("GET proxy_rate_limiter:{0}:a.test").await, "mine");
    assert_eq!(redis.ask::<Vec<String>>("CONFIG GET *").await, before);
    let stats: String = redis.ask("INFO commandstats").await;
    assert!(stats.contains("cmdstat_evalsha:"), "it was this Redis that was asked: {stats}");
}

#[tokio::test]
async fn a_run_that_is_stopped_leaves_nothing_either() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = bench(&folder, "").spawn().unwrap();
    wait_until("its redis-server runs", async || processes_in(folder.path()) == 1).await;
    let pid = Pid::from_raw(run.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(15), run.wait()).await.unwrap();
    assert_eq!(ended.unwrap().code(), Some(1));
    assert!(is_empty(&folder));
}

#[tokio::test]
async fn what_keeps_it_from_measuring_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let setup = || narrows().bare().env("TMPDIR", folder.path().display());
    let closed = Closed::new();
    for (words, variable, told) in [
        ("", ("PATH", folder.path().to_str().unwrap()), "cannot start redis-server: install it"),
        ("", ("TMPDIR", "/nowhere"), "cannot make the folder /nowhere/"),
        (&format!("--redis-addr {}", closed.authority()), ("A", "a"), "redis failed"),
    ] {
        let setup = setup().env(variable.0, variable.1);
        let ended = setup.flags(format!("bench limiter --quick {words}")).run().await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{words}");
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
    }
    assert!(is_empty(&folder));
}
