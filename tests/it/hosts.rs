//! Hosts that a client makes up: by the hundred thousand they cost what they use, and afterwards
//! nothing is left of them.
//!
//! Most are addresses of loopback's own /8, where nobody listens; the rest are names, half of which
//! have an address. `MADE_UP_HOSTS` says how many (`scripts/soak` takes a million).

use std::time::Duration;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::support::Client;
use crate::support::Closed;
use crate::support::Names;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::narrows;
use crate::support::wait_at_most;
use crate::support::wait_until;

/// Clients at once.
const CLIENTS: usize = 32;
/// Of so many made-up hosts one is a name; looking one up costs as much as all the rest of a request.
const NAMES: usize = 40;
/// So many come first: what is filled once stays, such as tables that are bounded, arenas, answers of
/// the name server.
const WARM: usize = 30_000;
/// What may be left of all others: a quarter of a kilobyte of each would be more.
const LEFT: usize = 16 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_thousand_hosts_that_are_made_up_nothing_is_left() {
    leave_nothing(100_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "for scripts/soak"]
async fn soak() {
    let count = std::env::var("MADE_UP_HOSTS").ok().map(|text| text.parse().unwrap());
    leave_nothing(count.unwrap_or(1_000_000)).await;
}

async fn leave_nothing(count: usize) {
    let names = Names::made_up().await;
    let flags = format!(
        "--max-connections 2 --host-idle 500ms --pool-idle 200ms --threads 2 --resolver {}",
        names.address()
    );
    let proxy = narrows().flags(flags).start().await;
    let flood = Flood::new();
    flood.hosts(&proxy, 0..WARM).await;
    forgotten(&proxy).await;
    let warm = proxy.resident();

    let start = Instant::now();
    flood.hosts(&proxy, WARM..count).await;
    let took = start.elapsed();
    wait_until("all is closed", async || {
        proxy.metric("narrows_client_connections", &[]).await < 1.0
            && proxy.metric("narrows_connections", &[]).await < 1.0
    })
    .await;
    forgotten(&proxy).await;
    let left = proxy.resident().saturating_sub(warm);
    eprintln!("{count} hosts in {took:?}; warm {} KiB, then {} KiB more", warm >> 10, left >> 10);
    assert!(left < LEFT, "{left} bytes are left of {count} hosts, after {warm}");
    assert!(flood.origin.accepted() > count / NAMES / 4, "some of them were reached");

    let samples = proxy.metrics().await;
    let hosts = samples.iter().filter(|sample| sample.name == "narrows_admitted_total").count();
    assert!(hosts <= 101, "{hosts} names in metrics");
    assert_eq!(proxy.get(format!("http://yes.test:{}/", flood.origin.port())).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_are_made_up_leave_nothing_in_redis_either() {
    let redis = Redis::start().await;
    let flags = "--max-connections 2 --host-idle 500ms --pool-idle 200ms";
    let proxy = narrows().flags(flags).shared(&redis).start().await;
    proxy.wait_until_up().await;
    let flood = Flood::new();
    flood.hosts(&proxy, (0..4_000).filter(|number| number % NAMES != 0)).await;
    forgotten(&proxy).await;
    wait_until("no host is left in Redis", async || redis.host_keys().await.is_empty()).await;
}

async fn forgotten(proxy: &Proxy) {
    let what = "no host is remembered";
    let is_so = async || proxy.metric("narrows_hosts", &[]).await < 1.0;
    wait_at_most(Duration::from_secs(30), what, is_so).await;
    assert_eq!(proxy.hosts().await, []);
}

/// Requests to hosts that are all different.
struct Flood {
    closed: Closed,
    origin: Origin,
}

impl Flood {
    fn new() -> Flood {
        let origin = Origin::raw(|mut connection| async move {
            while let Ok(Some(_)) = connection.head().await {
                let answer = "HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 0\r\n\r\n";
                if connection.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Flood { closed: Closed::new(), origin }
    }

    async fn hosts(&self, proxy: &Proxy, numbers: impl Iterator<Item = usize>) {
        let numbers: Vec<usize> = numbers.collect();
        let mut clients = JoinSet::new();
        for part in numbers.chunks(numbers.len().div_ceil(CLIENTS)) {
            let (part, address) = (part.to_vec(), proxy.address);
            let (closed, open) = (self.closed.port(), self.origin.port());
            clients.spawn(async move {
                let mut client = Client::to(address).await;
                for number in part {
                    let (host, status) = match number % NAMES {
                        0 if number % (2 * NAMES) == 0 => {
                            (format!("yes-{number}.test:{open}"), 200)
                        }
                        0 => (format!("no-{number}.test:{open}"), 502),
                        _ => {
                            let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
                            (format!("127.{}.{b}.{c}:{closed}", a + 1), 502)
                        }
                    };
                    // One in a few hundred is a tunnel; after one that failed the connection ends.
                    let answer = if (number / NAMES).is_multiple_of(8) && number % NAMES < 2 {
                        let answer = client.connect(host).await;
                        client = Client::to(address).await;
                        answer
                    } else {
                        client.get(format!("http://{host}/")).await
                    };
                    assert_eq!(answer.status(), status, "{number}: {answer:?}");
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
    }
}
