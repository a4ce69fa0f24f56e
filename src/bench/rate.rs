//! How many pairs Redis does in a second: of acquire and release, against INCR and DECR.
//!
//! As `redis-benchmark` does it: connections that each keep so many commands under way and count
//! the answers. They do nothing else, so that Redis and not this side is what is measured.

use std::time::Duration;

use memchr::memchr2;
use redis::Cmd;
use redis::ConnectionAddr;
use redis::ConnectionInfo;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::Failure;
use super::Rounds;
use super::cost;
use super::cost::Ground;
use super::place::Place;
use super::report::Row;
use crate::base::clock;
use crate::store::scripts;

const PART: &str = "pairs of acquire and release in a second";
/// How long the others may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections, and commands that each has under way.
const LOADS: [(usize, usize); 6] = [(1, 1), (4, 1), (50, 1), (1, 16), (4, 16), (50, 16)];

pub(super) async fn measure(place: &Place, is_quick: bool) -> Result<Vec<Row>, Failure> {
    let (all, each) = if is_quick { (0, 25) } else { (6000, 200) };
    let lasting = Duration::from_millis(each);
    let info = place.info().await?;
    if !is_plain(&info) {
        tracing::warn!("the rate is not measured through TLS");
        return Ok(Vec::new());
    }
    let mut meter = place.meter().await?;
    meter.all(scripts::loads().collect()).await?;
    let most = LOADS.iter().map(|(connections, _)| *connections).max().unwrap_or(1);
    let mut ground = Ground::new(place, &mut meter, "rate", most).await?;
    let host = &ground.hosts(1)[0];
    let grants: Vec<[Cmd; 2]> = (0..most).map(|own| ground.pair(host, own, 1)).collect();
    let bare = vec![cost::bare_pair(place, &mut meter).await?; most];

    let mut best = [[0.0_f64; 2]; LOADS.len()];
    let mut rounds = Rounds::new(Duration::from_millis(all));
    while rounds.next() {
        for ((connections, depth), best) in LOADS.iter().zip(&mut best) {
            for (pairs, best) in [&grants, &bare].into_iter().zip(best) {
                let rate = rate(&info, &pairs[..*connections], *depth, lasting).await?;
                *best = best.max(rate);
            }
        }
    }
    let rows = LOADS.iter().zip(best).map(|((connections, depth), [grant, bare])| {
        let name = match (connections, depth) {
            (1, 1) => "1 connection, 1 command under way".to_owned(),
            (1, depth) => format!("1 connection, {depth} commands under way"),
            (connections, 1) => format!("{connections} connections, 1 command under way each"),
            _ => format!("{connections} connections, {depth} commands under way each"),
        };
        let row = Row::new(PART, name, grant, "/s");
        let row = row.beside(format!("INCR and DECR ({bare:.0} /s)"), bare);
        match (connections, depth) {
            (_, 1) => row.beyond(0.7),
            (4, 16) => row.beyond(0.2),
            _ => row,
        }
    });
    Ok(rows.collect())
}

fn is_plain(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_))
}

/// Pairs in a second of all connections together.
async fn rate(
    info: &ConnectionInfo,
    pairs: &[[Cmd; 2]],
    depth: usize,
    lasting: Duration,
) -> Result<f64, Failure> {
    let mut wires = Vec::with_capacity(pairs.len());
    for _ in pairs {
        wires.push(within(Wire::connect(info)).await?);
    }
    let start = clock::now();
    let end = start + lasting;
    let drive = wires.iter_mut().zip(pairs).map(|(wire, pair)| wire.drive(pair, depth, end));
    let all = within(futures_util::future::try_join_all(drive)).await?;
    let pairs = u32::try_from(all.iter().sum::<usize>()).unwrap_or(u32::MAX);
    Ok(f64::from(pairs) / (clock::now() - start).as_secs_f64())
}

async fn within<T>(call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_elapsed| Failure::Answer("none in time".to_owned());
    tokio::time::timeout(PATIENCE, call).await.map_err(late)?
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A connection that counts answers and reads none.
struct Wire {
    stream: Box<dyn Stream>,
    buffer: Box<[u8]>,
}

impl Wire {
    #[expect(clippy::disallowed_methods, reason = "Redis is no upstream, and nothing is limited")]
    async fn connect(info: &ConnectionInfo) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::Redis(error.into());
        let stream: Box<dyn Stream> = match info.addr() {
            ConnectionAddr::Unix(path) => {
                Box::new(UnixStream::connect(path).await.map_err(failed)?)
            }
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Box::new(stream)
            }
            other @ (ConnectionAddr::TcpTls { .. } | _) => {
                return Err(Failure::Answer(format!("cannot speak to {other}")));
            }
        };
        let mut wire = Self { stream, buffer: vec![0; 16 * 1024].into() };
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            let mut login = redis::cmd("AUTH");
            login.arg(settings.username()).arg(password);
            wire.exchange(&login.get_packed_command(), 1).await?;
        }
        if settings.db() != 0 {
            let mut select = redis::cmd("SELECT");
            select.arg(settings.db());
            wire.exchange(&select.get_packed_command(), 1).await?;
        }
        Ok(wire)
    }

    /// How many pairs were done before `end`.
    async fn drive(
        &mut self,
        pair: &[Cmd; 2],
        depth: usize,
        end: Instant,
    ) -> Result<usize, Failure> {
        let packed = [0, 1].map(|half| pair[half].get_packed_command());
        let mut done = 0;
        let all = packed.concat().repeat(depth.div_ceil(2));
        while clock::now() < end {
            if depth == 1 {
                self.exchange(&packed[0], 1).await?;
                self.exchange(&packed[1], 1).await?;
                done += 1;
            } else {
                self.exchange(&all, depth).await?;
                done += depth / 2;
            }
        }
        Ok(done)
    }

    /// Writes commands whose answers are one line each, and waits for so many.
    async fn exchange(&mut self, commands: &[u8], answers: usize) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::Redis(error.into());
        self.stream.write_all(commands).await.map_err(failed)?;
        let mut heard = 0;
        while heard < answers {
            let count = self.stream.read(&mut self.buffer).await.map_err(failed)?;
            let read = &self.buffer[..count];
            // An error, and whoever is fenced or goes short, would make a fine figure of nothing.
            if count == 0 || memchr2(b'-', b'*', read).is_some() {
                let text = String::from_utf8_lossy(read).trim_end().to_owned();
                return Err(Failure::Answer(text));
            }
            heard += memchr::memchr_iter(b'\n', read).count();
        }
        Ok(())
    }
}
