//! Clients of a fleet, all kinds at once: tunnels and plain requests, short and long, patient and
//! not, some that leave while they wait. They go to whichever instances there are, without end, and
//! take what comes: a fault may end any of their connections.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::Wire;

/// Where the instances listen.
pub(super) type Roster = Arc<Mutex<Vec<SocketAddr>>>;

/// No visit is longer: a stopped instance keeps its clients, and the others are to have some.
const LONGEST: Duration = Duration::from_secs(4);

/// What came of all visits.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(super) served: AtomicUsize,
    refused: AtomicUsize,
    left: AtomicUsize,
    failed: AtomicUsize,
    /// Answers that no fault explains.
    pub(super) odd: Mutex<Vec<String>>,
}

/// Clients at work; they all go when it is dropped.
pub(crate) struct Load {
    pub(super) tally: Arc<Tally>,
    _clients: JoinSet<()>,
}

#[derive(Clone)]
struct Visitor {
    roster: Roster,
    to: String,
    /// How long a connection is used, ms.
    hold: Range<u64>,
    tally: Arc<Tally>,
}

impl Load {
    /// So many clients, each of which holds a slot for that many milliseconds when it gets one.
    pub(super) fn start(
        roster: &Roster,
        to: String,
        clients: usize,
        hold: Range<u64>,
        rng: &mut fastrand::Rng,
    ) -> Load {
        let tally = Arc::new(Tally::default());
        let roster = Arc::clone(roster);
        let visitor = Visitor { roster, to, hold, tally: Arc::clone(&tally) };
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(visitor.clone().come_again_and_again(rng.fork()));
        }
        Load { tally, _clients: tasks }
    }

    /// As many tunnels as `cap` that are left idle, and two clients that try for one more.
    pub(super) fn idle(roster: &Roster, to: &str, cap: usize, rng: &mut fastrand::Rng) -> Load {
        let mut tasks = JoinSet::new();
        for number in 0..cap + 2 {
            let (roster, to, rng) = (Arc::clone(roster), to.to_owned(), rng.fork());
            tasks.spawn(keep_one(roster, to, number < cap, rng));
        }
        Load { tally: Arc::default(), _clients: tasks }
    }
}

impl Tally {
    pub(super) fn text(&self) -> String {
        let [served, refused, left, failed] =
            [&self.served, &self.refused, &self.left, &self.failed]
                .map(|count| count.load(Ordering::Relaxed));
        format!("{served} served, {refused} refused, {left} left, {failed} failed")
    }
}

impl Visitor {
    async fn come_again_and_again(self, mut rng: fastrand::Rng) {
        loop {
            let visit = timeout(LONGEST, self.visit(&mut rng)).await;
            let (count, rest) = match visit {
                Ok(Ok(true)) => (&self.tally.served, 0),
                Ok(Ok(false)) => (&self.tally.refused, rng.u64(20..80)),
                Ok(Err(_)) => (&self.tally.failed, rng.u64(20..80)),
                Err(_) => (&self.tally.left, 0),
            };
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
    }

    /// Whether it was served.
    async fn visit(&self, rng: &mut fastrand::Rng) -> io::Result<bool> {
        let hold = rng.u64(self.hold.clone());
        // One in five lives long.
        let hold = if rng.u8(..5) == 0 { 3 * hold } else { hold };
        let prefer = match rng.u8(..10) {
            0 | 1 => "",
            2 => "Prefer: wait=1\r\n",
            _ => "Prefer: wait=10\r\n",
        };
        let patience = if rng.u8(..10) == 0 { rng.u64(5..300) } else { 10_000 };
        let patience = Duration::from_millis(patience);
        let to = &self.to;
        let mut wire = call(&self.roster, rng).await?;
        if rng.bool() {
            let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{prefer}\r\n");
            let Ok(status) = timeout(patience, self.ask(&mut wire, &head, "CONNECT")).await else {
                return Ok(false); // it leaves
            };
            if status? != 200 {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(hold)).await;
            if rng.bool() {
                let head = format!("GET /alive HTTP/1.1\r\nHost: {to}\r\n\r\n");
                return Ok(self.ask(&mut wire, &head, "GET").await? == 200);
            }
            return Ok(true);
        }
        for _ in 0..rng.usize(1..4) {
            let url = format!("http://{to}/slow?ms={hold}");
            let head = format!("GET {url} HTTP/1.1\r\nHost: {to}\r\n{prefer}\r\n");
            let Ok(status) = timeout(patience, self.ask(&mut wire, &head, "GET")).await else {
                return Ok(false);
            };
            if status? != 200 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn ask(&self, wire: &mut Wire<TcpStream>, head: &str, method: &str) -> io::Result<u16> {
        wire.send(head).await?;
        let answer = wire.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = answer.status();
        if !(method == "CONNECT" && status == 200) {
            wire.response_body(method, &answer).await?;
        }
        if ![200, 503].contains(&status) {
            self.tally.odd.lock().unwrap().push(format!("{answer:?}"));
        }
        Ok(status)
    }
}

/// A connection to one of the instances.
async fn call(roster: &Roster, rng: &mut fastrand::Rng) -> io::Result<Wire<TcpStream>> {
    let address = rng.choice(roster.lock().unwrap().iter().copied()).unwrap();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Wire::new(stream))
}

/// A tunnel, kept for as long as it lives or closed at once; then another.
async fn keep_one(roster: Roster, to: String, keep: bool, mut rng: fastrand::Rng) {
    let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    loop {
        let tunnel = async {
            let mut wire = call(&roster, &mut rng).await.ok()?;
            wire.send(&head).await.ok()?;
            (wire.head().await.ok()??.status() == 200).then_some(wire)
        };
        // None if a stopped instance does not answer.
        if let Ok(Some(mut tunnel)) = timeout(LONGEST, tunnel).await
            && keep
        {
            // The end, in either way.
            drop(tunnel.some().await);
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(50..150))).await;
    }
}
