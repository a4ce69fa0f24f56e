//! Four instances on one Redis: one request to the origin for all of them, whoever dies.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use std::time::Instant;

use super::*;
use crate::support::wait_until;

/// An origin whose answers stop before the head, and in the middle of the body, until they are let.
struct Stop {
    origin: Origin,
    hits: Arc<AtomicUsize>,
    head: Arc<AtomicBool>,
    rest: Arc<AtomicBool>,
    body: Arc<Vec<u8>>,
}

impl Stop {
    fn new(length: usize, fields: &'static str) -> Stop {
        let hits = Arc::<AtomicUsize>::default();
        let [head, rest] = [(); 2].map(|()| Arc::<AtomicBool>::default());
        let body: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let body = Arc::new(body);
        let all = (Arc::clone(&hits), Arc::clone(&head), Arc::clone(&rest), Arc::clone(&body));
        let origin = Origin::raw(move |mut connection| {
            let (hits, head, rest, body) = all.clone();
            async move {
                while let Ok(Some(_head)) = connection.head().await {
                    hits.fetch_add(1, SeqCst);
                    opened(&head).await;
                    let length = body.len();
                    let front = format!(
                        "HTTP/1.1 200 OK\r\nX-Origin: yes\r\nCache-Control: max-age=60\r\n{fields}\
                         Content-Length: {length}\r\n\r\n"
                    );
                    let (first, last) = body.split_at(length / 2);
                    let first = [front.as_bytes(), first].concat();
                    if connection.send(first).await.is_err() {
                        return;
                    }
                    opened(&rest).await;
                    if connection.send(last).await.is_err() {
                        return;
                    }
                }
            }
        });
        Stop { origin, hits, head, rest, body }
    }

    fn hits(&self) -> usize {
        self.hits.load(SeqCst)
    }

    fn open(&self) {
        self.head.store(true, SeqCst);
        self.rest.store(true, SeqCst);
    }

    async fn instance(&self, redis: &Redis, flags: &str) -> Cached {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("narrows.yaml");
        let text = format!(
            "api:\n  a:\n    target_url: {}\n    enable_cache: true\n",
            self.origin.url("")
        );
        std::fs::write(&path, text).unwrap();
        let setup = narrows().flags(format!("--config {}", path.display()));
        let proxy = setup.shared(redis).flags(flags).start().await;
        proxy.wait_until_up().await;
        let cached = Cached { proxy, _folder: folder, origin: self.origin.url("") };
        wait_until("it speaks to Redis of kept responses", async || cached.is_up().await).await;
        cached
    }

    async fn fleet(&self, redis: &Redis) -> Vec<Cached> {
        let mut fleet = Vec::new();
        for _ in 0..4 {
            fleet.push(self.instance(redis, "--threads 2").await);
        }
        fleet
    }
}

impl Cached {
    async fn is_up(&self) -> bool {
        self.proxy.metric("narrows_cache_redis_up", &[]).await > 0.0
    }
}

async fn opened(gate: &AtomicBool) {
    while !gate.load(SeqCst) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn asking(proxy: &Cached, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = proxy.client().await;
        client.send_request("GET", "/api/a/", &[]).await;
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn four_hundred_who_ask_four_instances_at_once_make_one_request_to_the_origin() {
    let redis = Redis::start().await;
    let stop = Stop::new(20_000, "");
    let fleet = stop.fleet(&redis).await;
    let mut clients = Vec::new();
    for instance in &fleet {
        clients.extend(asking(instance, 100).await);
    }
    wait_until("somebody asks", async || stop.hits() > 0).await;
    stop.open();
    for client in &mut clients {
        let response = client.response("GET").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.body, *stop.body);
    }
    assert_eq!(stop.hits(), 1);
}

#[tokio::test]
async fn a_leader_that_is_killed_in_the_middle_makes_one_request_more_and_all_get_all() {
    let redis = Redis::start().await;
    let stop = Stop::new(200_000, "ETag: \"a\"\r\n");
    let fleet = stop.fleet(&redis).await;
    let leading = asking(&fleet[0], 1).await;
    wait_until("the first asks", async || stop.hits() == 1).await;
    let mut clients = Vec::new();
    for instance in &fleet[1..] {
        clients.extend(asking(instance, 10).await);
    }
    stop.head.store(true, SeqCst);
    let mut begun = Vec::new();
    for client in &mut clients {
        let head = client.head().await;
        assert_eq!(head.field("etag"), Some("\"a\""));
        // It has something of the body when the leader dies.
        begun.push(client.exactly(1).await);
    }
    let killed = Instant::now();
    fleet[0].proxy.kill();
    wait_until("another asks", async || stop.hits() == 2).await;
    stop.rest.store(true, SeqCst);
    for (client, mut body) in clients.iter_mut().zip(begun) {
        body.extend(client.exactly(stop.body.len() - 1).await);
        assert!(body == *stop.body, "not a byte is another");
    }
    println!("killed: all had all after {:?}", killed.elapsed());
    assert_eq!(stop.hits(), 2);
    drop(leading);
}

#[tokio::test]
async fn a_leader_that_is_killed_before_there_is_a_head_makes_one_request_more() {
    let redis = Redis::start().await;
    let stop = Stop::new(1000, "");
    let fleet = stop.fleet(&redis).await;
    let leading = asking(&fleet[0], 1).await;
    wait_until("the first asks", async || stop.hits() == 1).await;
    let mut clients = Vec::new();
    for instance in &fleet[1..] {
        clients.extend(asking(instance, 10).await);
    }
    fleet[0].proxy.kill();
    wait_until("another asks", async || stop.hits() == 2).await;
    stop.open();
    for client in &mut clients {
        assert_eq!(client.response("GET").await.body, *stop.body);
    }
    assert_eq!(stop.hits(), 2);
    drop(leading);
}

#[tokio::test]
async fn halves_of_two_responses_are_never_put_together() {
    let redis = Redis::start().await;
    // Nothing says that what comes next is the same.
    let stop = Stop::new(200_000, "");
    let fleet = stop.fleet(&redis).await;
    let leading = asking(&fleet[0], 1).await;
    wait_until("the first asks", async || stop.hits() == 1).await;
    let mut clients = asking(&fleet[1], 5).await;
    stop.head.store(true, SeqCst);
    for client in &mut clients {
        client.head().await;
        client.exactly(1).await;
    }
    fleet[0].proxy.kill();
    stop.rest.store(true, SeqCst);
    for client in &mut clients {
        let rest = client.rest().await;
        let length = rest.map_or(0, |rest| rest.len());
        assert!(length < stop.body.len() - 1, "it is cut, and looks it");
    }
    drop(leading);
}

#[tokio::test]
async fn what_one_has_fetched_is_a_hit_at_the_others_and_after_a_restart() {
    let redis = Redis::start().await;
    let stop = Stop::new(200_000, "");
    stop.open();
    let fleet = stop.fleet(&redis).await;
    assert_eq!(cache(&fleet[0].get("/").await), "MISS");
    for instance in &fleet[1..] {
        wait_until("it is there", async || {
            let response = instance.get("/").await;
            assert_eq!(response.body, *stop.body);
            cache(&response) == "HIT"
        })
        .await;
    }
    for mut instance in fleet {
        instance.proxy.terminate();
        instance.proxy.ended().await;
    }
    let again = stop.instance(&redis, "").await;
    let response = again.get("/").await;
    assert_eq!((cache(&response), &response.body), ("HIT", &*stop.body));
    assert_eq!(stop.hits(), 1);
}

#[tokio::test]
async fn without_the_tier_in_redis_each_instance_has_its_own() {
    let redis = Redis::start().await;
    let stop = Stop::new(100, "");
    stop.open();
    for hits in 1..3 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("narrows.yaml");
        let url = stop.origin.url("");
        let text = format!("api:\n  a:\n    target_url: {url}\n    enable_cache: true\n");
        std::fs::write(&path, text).unwrap();
        let flags = format!("--config {} --cache-redis off", path.display());
        let proxy = narrows().flags(flags).shared(&redis).start().await;
        proxy.wait_until_up().await;
        let instance = Cached { proxy, _folder: folder, origin: url };
        assert_eq!(cache(&instance.get("/").await), "MISS");
        wait_until("it is kept", async || cache(&instance.get("/").await) == "HIT").await;
        assert_eq!(stop.hits(), hits);
    }
    let keys: Vec<String> = redis.ask("KEYS *@c:*").await;
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn an_unsafe_request_at_one_is_heard_by_all() {
    let redis = Redis::start().await;
    let stop = Stop::new(100, "");
    stop.open();
    let fleet = stop.fleet(&redis).await;
    for instance in &fleet {
        wait_until("it is there", async || cache(&instance.get("/").await) == "HIT").await;
    }
    let hits = stop.hits();
    assert_eq!(fleet[3].post("/", "new").await.status(), 200);
    assert_eq!(stop.hits(), hits + 1);
    for instance in &fleet {
        wait_until("it has heard", async || {
            instance.get("/").await;
            stop.hits() > hits + 1
        })
        .await;
    }
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_time_out_once_and_each_fetches_for_itself() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    const SLACK: Duration = Duration::from_millis(250);
    let redis = Redis::start().await;
    let stop = Stop::new(1000, "");
    stop.open();
    let flags = "--redis-failure open --redis-timeout 300ms";
    let mut fleet = Vec::new();
    for _ in 0..2 {
        fleet.push(stop.instance(&redis, flags).await);
    }
    for instance in &fleet {
        instance.get("/warm").await;
        wait_until("it is there", async || cache(&instance.get("/warm").await) == "HIT").await;
    }
    redis.freeze();
    for instance in &fleet {
        let mut client = instance.client().await;
        let mut slow = 0;
        for number in 0..40 {
            let asked = Instant::now();
            let path = format!("/api/a/cold{number}");
            assert_eq!(client.get(&path).await.status(), 200);
            let took = asked.elapsed();
            assert!(took < TIMEOUT * 2 + SLACK, "{number}: {took:?}");
            slow += usize::from(took >= TIMEOUT);
            let asked = Instant::now();
            assert_eq!(cache(&client.get("/api/a/warm").await), "HIT");
            assert!(asked.elapsed() < TIMEOUT, "what memory has asks nobody");
        }
        // Limiter and cache have a connection each, and find out each for itself.
        assert!(slow <= 2, "{slow}");
    }
    redis.thaw();
    for instance in &fleet {
        wait_until("it is back", async || instance.is_up().await).await;
    }
    fleet[0].get("/new").await;
    wait_until("it is shared again", async || cache(&fleet[1].get("/new").await) == "HIT").await;
}

#[tokio::test]
async fn a_redis_that_dies_in_the_middle_leaves_nobody_hanging() {
    let mut redis = Redis::start().await;
    let stop = Stop::new(200_000, "ETag: \"a\"\r\n");
    let mut fleet = Vec::new();
    for _ in 0..2 {
        fleet.push(stop.instance(&redis, "--redis-failure open").await);
    }
    let mut clients = asking(&fleet[0], 1).await;
    wait_until("the first asks", async || stop.hits() == 1).await;
    clients.extend(asking(&fleet[1], 10).await);
    stop.head.store(true, SeqCst);
    let mut begun = Vec::new();
    for client in &mut clients {
        client.head().await;
        begun.push(client.exactly(1).await);
    }
    redis.kill();
    wait_until("the other asks for itself", async || stop.hits() == 2).await;
    stop.rest.store(true, SeqCst);
    for (client, mut body) in clients.iter_mut().zip(begun) {
        body.extend(client.exactly(stop.body.len() - 1).await);
        assert!(body == *stop.body);
    }
    assert_eq!(stop.hits(), 2);
}
