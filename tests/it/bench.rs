//! The bench judges itself: a test is worth what its instruments are.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::Blackhole;
use crate::support::Closed;
use crate::support::Origin;
use crate::support::Redis;
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
