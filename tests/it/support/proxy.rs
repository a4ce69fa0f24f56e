//! The real binary as a child process: its flags and environment are exactly those of the test, its
//! ports are picked by the system, and it is killed with the test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Value;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncRead;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::process::Command;

use crate::support::Client;
use crate::support::Redis;
use crate::support::Response;
use crate::support::soon;
use crate::support::wait_until;

/// A command line under construction.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    words: Vec<String>,
    environment: Vec<(String, String)>,
    /// The most files that it may have open.
    files: Option<u32>,
}

/// narrows with ports of its own and nothing in its environment.
pub(crate) fn narrows() -> Setup {
    let setup = Setup { words: Vec::new(), environment: Vec::new(), files: None };
    setup.flags("--port 0 --admin-port 0")
}

#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    /// The line on stdout.
    pub(crate) ready: String,
    /// Addresses where clients come in; `https://` before those that speak TLS.
    pub(crate) listeners: Vec<String>,
    /// The first of them.
    pub(crate) address: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

/// What a process has written so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output(Arc<Mutex<String>>);

/// How a process ended that was left to run to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A row of `/hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) key: String,
    pub(crate) open: u64,
    pub(crate) fleet_open: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) waiting: u64,
    pub(crate) idle: u64,
    pub(crate) holders: BTreeMap<String, u64>,
}

/// A line of `/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

impl Setup {
    /// No flag at all, not even the two for the ports.
    pub(crate) fn bare(mut self) -> Setup {
        self.words.clear();
        self
    }

    /// Words separated by spaces.
    pub(crate) fn flags(mut self, words: impl AsRef<str>) -> Setup {
        self.words.extend(words.as_ref().split_whitespace().map(str::to_owned));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Setup {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn files(mut self, limit: u32) -> Setup {
        self.files = Some(limit);
        self
    }

    /// A member of the fleet on `redis`, with a lease short enough for a test, and patient enough with
    /// Redis for a machine that stalls under its tests; the last of two equal flags counts.
    pub(crate) fn shared(self, redis: &Redis) -> Setup {
        self.shared_by(&format!("--redis-addr {}", redis.address()))
    }

    /// The same, by the flags that say where Redis is.
    pub(crate) fn shared_by(self, place: &str) -> Setup {
        self.flags(place).flags("--lease 2s --heartbeat 400ms --redis-timeout 1s")
    }

    pub(crate) async fn start(self) -> Proxy {
        let mut child = self.spawn();
        let stderr = Output::of(child.stderr.take().unwrap());
        let stdout = Output::of(child.stdout.take().unwrap());
        let mut status = None;
        wait_until("narrows is ready", async || {
            status = child.try_wait().unwrap();
            status.is_some() || stdout.text().contains('\n')
        })
        .await;
        assert!(status.is_none(), "ended at once: {status:?}\n{}", stderr.text());

        let ready = stdout.text().lines().next().unwrap_or_default().to_owned();
        let words: Vec<&str> = ready.split(' ').collect();
        let [name, is_ready, proxy, admin] = words[..] else { panic!("{ready:?}") };
        assert_eq!((name, is_ready), ("narrows", "ready"), "{ready:?}");
        let listeners: Vec<String> =
            proxy.strip_prefix("proxy=").unwrap().split(',').map(str::to_owned).collect();
        let address = listeners[0].trim_start_matches("https://").parse().unwrap();
        let admin = match admin.strip_prefix("admin=").unwrap() {
            "off" => None,
            address => Some(address.parse().unwrap()),
        };
        Proxy { child, ready, listeners, address, admin, stdout, stderr }
    }

    /// Runs it to its own end.
    pub(crate) async fn run(self) -> Ended {
        let what = format!("narrows to end by itself: {self:?}");
        let output = soon(&what, self.spawn().wait_with_output()).await.unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn spawn(&self) -> Child {
        let program = env!("CARGO_BIN_EXE_narrows");
        let mut command = match self.files {
            None => Command::new(program),
            Some(limit) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\"")).arg(program);
                shell
            }
        };
        command
            .args(&self.words)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }
}

impl Proxy {
    pub(crate) fn url(&self) -> String {
        self.urls().swap_remove(0)
    }

    /// Of each listener, in the order of the settings.
    pub(crate) fn urls(&self) -> Vec<String> {
        let url = |listener: &String| {
            if listener.contains("://") { listener.clone() } else { format!("http://{listener}") }
        };
        self.listeners.iter().map(url).collect()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::to(self.address).await
    }

    /// One GET on a connection of its own.
    pub(crate) async fn get(&self, url: impl std::fmt::Display) -> Response {
        self.client().await.get(url).await
    }

    /// The answer to one CONNECT on a connection of its own.
    pub(crate) async fn connect(&self, authority: impl std::fmt::Display) -> Response {
        self.client().await.connect(authority).await
    }

    /// A tunnel that is open.
    pub(crate) async fn tunnel(&self, authority: impl std::fmt::Display) -> Client {
        let mut client = self.client().await;
        let answer = client.connect(authority).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        client
    }

    pub(crate) async fn admin(&self, path: &str) -> Response {
        let mut client = Client::to(self.admin.expect("the admin port is on")).await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        client.send(head).await;
        client.unchecked_response().await
    }

    /// The answer of the admin port to a request that is no plain GET.
    pub(crate) async fn admin_request(
        &self,
        method: &str,
        path: &str,
        fields: &[&str],
        body: &str,
    ) -> Response {
        let mut client = Client::to(self.admin.expect("the admin port is on")).await;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
        client.unchecked_response().await
    }

    /// The counts of one host.
    pub(crate) async fn host(&self, key: &str) -> Host {
        let all = self.admin(&format!("/hosts?host={key}")).await.json();
        let rows = all["hosts"].as_array().unwrap_or_else(|| panic!("no rows: {all}"));
        assert_eq!(rows.len(), 1, "{all}");
        Host::parse(&rows[0])
    }

    /// The counts of all hosts that it knows.
    pub(crate) async fn hosts(&self) -> Vec<Host> {
        let all = self.admin("/hosts").await.json();
        all["hosts"].as_array().unwrap().iter().map(Host::parse).collect()
    }

    /// Connections that it has open to one host.
    pub(crate) async fn open(&self, key: &str) -> u64 {
        self.host(key).await.open
    }

    pub(crate) async fn wait_until_open(&self, key: &str, open: u64) {
        wait_until(&format!("{open} open to {key}"), async || self.open(key).await == open).await;
    }

    /// Until Redis has admitted it to the fleet: a Redis that has just started is learned from first.
    pub(crate) async fn wait_until_up(&self) {
        self.wait_until_redis_is("up").await;
    }

    pub(crate) async fn wait_until_redis_is(&self, state: &str) {
        let what = format!("Redis is {state}");
        wait_until(&what, async || self.readiness().await["redis"] == state).await;
    }

    /// Until it has found Redis, though it may still be learning.
    pub(crate) async fn wait_until_connected(&self) {
        let what = "Redis is found";
        wait_until(what, async || self.readiness().await["redis"] != "away").await;
    }

    /// `/readyz?verbose`
    pub(crate) async fn readiness(&self) -> Value {
        self.admin("/readyz?verbose").await.json()
    }

    pub(crate) async fn wait_until_waiting(&self, key: &str, waiting: u64) {
        let what = format!("{waiting} waiting for {key}");
        wait_until(&what, async || self.host(key).await.waiting == waiting).await;
    }

    /// The samples of this name that carry all these labels, summed; zero if there is none.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |sample: &Sample| {
            let has = |&(label, value): &(&str, &str)| {
                sample
                    .labels
                    .iter()
                    .any(|(name, is)| (name.as_str(), is.as_str()) == (label, value))
            };
            sample.name == name && labels.iter().all(has)
        };
        self.metrics().await.iter().filter(|sample| carries(sample)).map(|s| s.value).sum()
    }

    /// Waits until a metric has this value: counters may be summed a moment late.
    pub(crate) async fn wait_until_metric(&self, name: &str, labels: &[(&str, &str)], is: f64) {
        let what = format!("{name}{labels:?} is {is}");
        let reached = async || (self.metric(name, labels).await - is).abs() < 1e-9;
        wait_until(&what, reached).await;
    }

    /// All samples of `/metrics`; a line that is not Prometheus text fails the test.
    pub(crate) async fn metrics(&self) -> Vec<Sample> {
        let metrics = self.admin("/metrics").await;
        assert_eq!(metrics.status(), 200);
        let samples = metrics.text().lines().filter(|line| !line.starts_with('#'));
        samples.map(Sample::parse).collect()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> usize {
        let file = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(file).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// Descriptors that it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process())).unwrap().count()
    }

    /// Processor time that it has used, in user and kernel mode.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        let per_second = rustix::param::clock_ticks_per_second();
        Duration::from_millis((ticks(11) + ticks(12)) * 1000 / per_second)
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// kill -9.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Stops its clock: sockets stay open, nothing is done.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id().unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon("narrows to end", self.child.wait()).await.unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- narrows at {} said:\n{}---", self.address, self.stderr.text());
        }
    }
}

impl Host {
    fn parse(row: &Value) -> Host {
        let count = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{name}: {row}"));
        let holder = |(worker, slots): (&String, &Value)| (worker.clone(), slots.as_u64().unwrap());
        assert!(row["granted"].is_u64(), "granted: {row}");
        Host {
            key: row["host"].as_str().unwrap().to_owned(),
            open: count("open"),
            fleet_open: count("fleet_open"),
            limit: if row["limit"].is_null() { None } else { Some(count("limit")) },
            waiting: count("waiting"),
            idle: count("idle"),
            // Null while nobody can tell.
            holders: row["holders"].as_object().into_iter().flatten().map(holder).collect(),
        }
    }
}

impl Sample {
    /// `name{label="value",…} number`; no value of ours contains a quote.
    fn parse(line: &str) -> Sample {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line:?}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line:?}"));
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        assert!(!name.is_empty() && name.chars().all(good), "not a name: {line:?}");
        let pair = |pair: &str| {
            let (label, rest) = pair.split_once("=\"").unwrap_or_else(|| panic!("{line:?}"));
            assert!(label.chars().all(good), "not a label: {line:?}");
            (label.to_owned(), rest.to_owned())
        };
        let pairs = labels.strip_suffix('"').into_iter().flat_map(|labels| labels.split("\","));
        Sample { name: name.to_owned(), labels: pairs.map(pair).collect(), value }
    }
}

impl Output {
    fn of(pipe: impl AsyncRead + Send + Unpin + 'static) -> Output {
        let output = Output::default();
        let written = output.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(pipe);
            let mut line = String::new();
            while lines.read_line(&mut line).await.is_ok_and(|length| length > 0) {
                written.0.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        output
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// The lines that contain `part`.
    pub(crate) fn lines_with(&self, part: &str) -> Vec<String> {
        self.text().lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    /// The first lines that contain `part`, once there are `count`.
    pub(crate) async fn wait_for(&self, count: usize, part: &str) -> Vec<String> {
        let what = format!("{count} lines with {part:?}");
        wait_until(&what, async || self.lines_with(part).len() >= count).await;
        self.lines_with(part)
    }
}
