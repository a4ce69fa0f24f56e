//! `lua/breaker.lua` alone, against a real Redis.

use redis::Script;
use redis::aio::MultiplexedConnection;

use crate::support::Redis;
use crate::support::wait_until;

const KEY: &str = "p:{0}:@p:breaker:shop";

/// What an instance's mirror shows beside the generation.
const CLOSED: [&str; 3] = ["c", "0", "0"];
const OPEN: [&str; 3] = ["o", "2", "0"];

struct Circuit {
    _redis: Redis,
    connection: MultiplexedConnection,
    script: Script,
}

#[derive(Debug, PartialEq)]
struct Said {
    granted: bool,
    version: u64,
    generation: u64,
    state: String,
    failures: u32,
    successes: u32,
    left: u64,
}

impl Circuit {
    async fn new() -> Circuit {
        let redis = Redis::start().await;
        let client = redis::Client::open(format!("redis://{}/", redis.address())).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let script = Script::new(include_str!("../../../lua/breaker.lua"));
        Circuit { _redis: redis, connection, script }
    }

    /// Opened by 2 failures for 200 ms, closed by 2 successes, one place to probe, kept for 400 ms.
    async fn say(&mut self, verb: &str, generation: u64, token: &str, mirror: [&str; 3]) -> Said {
        let mut call = self.script.key(KEY);
        call.key("p:{0}:@p:breaker").arg("p:{0}:@p").arg("PUBLISH").arg("breaker\nshop\n");
        call.arg(verb).arg(generation).arg(token).arg(&mirror[..]);
        call.arg(&["2", "200", "2", "1", "400"][..]);
        let words: Vec<String> = call.invoke_async(&mut self.connection).await.unwrap();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        Said {
            granted: words[0] == "1",
            version: number(1),
            generation: number(2),
            state: words[3].clone(),
            failures: u32::try_from(number(4)).unwrap(),
            successes: u32::try_from(number(5)).unwrap(),
            left: number(6),
        }
    }

    async fn open(&mut self) -> u64 {
        self.say("bad", 0, "", CLOSED).await;
        let said = self.say("bad", 0, "", CLOSED).await;
        assert_eq!((said.state.as_str(), said.failures), ("o", 2));
        said.generation
    }

    /// Asks for a place until there is one.
    async fn probe(&mut self, generation: u64, token: &str) -> Said {
        let mut said = None;
        wait_until("a place to probe", async || {
            said = Some(self.say("try", generation, token, OPEN).await);
            said.as_ref().unwrap().granted
        })
        .await;
        said.unwrap()
    }
}

#[tokio::test]
async fn failures_are_counted_until_they_open_it_and_a_success_forgets_them() {
    let mut circuit = Circuit::new().await;
    assert_eq!(circuit.say("bad", 0, "", CLOSED).await.failures, 1);
    assert_eq!(circuit.say("good", 0, "", CLOSED).await.failures, 0);
    circuit.open().await;
    let ends: i64 = redis::cmd("PTTL").arg(KEY).query_async(&mut circuit.connection).await.unwrap();
    assert!(ends > 0, "{ends}");
}

#[tokio::test]
async fn a_place_is_given_once_when_the_time_has_passed_and_again_when_its_lease_has() {
    let mut circuit = Circuit::new().await;
    let open = circuit.open().await;
    let early = circuit.say("try", open, "a", OPEN).await;
    assert!(!early.granted && early.state == "o" && early.left > 0, "{early:?}");
    let first = circuit.probe(open, "a").await;
    assert_eq!(first.state, "h");
    assert!(first.left > 300, "{first:?}");
    assert!(!circuit.say("try", first.generation, "b", OPEN).await.granted);
    assert!(circuit.probe(first.generation, "c").await.version > first.version);
}

#[tokio::test]
async fn a_place_that_is_given_back_is_the_next_ones() {
    let mut circuit = Circuit::new().await;
    let open = circuit.open().await;
    let probing = circuit.probe(open, "a").await.generation;
    let other = circuit.say("free", probing, "b", OPEN).await;
    assert!(other.left > 0, "another's: {other:?}");
    assert_eq!(circuit.say("free", probing, "a", OPEN).await.left, 0);
    assert!(circuit.say("try", probing, "b", OPEN).await.granted);
}

#[tokio::test]
async fn two_successes_close_it_and_a_failure_opens_it_again() {
    let mut circuit = Circuit::new().await;
    let open = circuit.open().await;
    let probing = circuit.probe(open, "a").await.generation;
    let failed = circuit.say("bad", probing, "a", OPEN).await;
    assert_eq!(failed.state, "o");
    assert!(failed.left > 100, "{failed:?}");
    let probing = circuit.probe(failed.generation, "b").await.generation;
    let well = circuit.say("good", probing, "b", OPEN).await;
    assert_eq!((well.state.as_str(), well.successes, well.left), ("h", 1, 0));
    assert!(circuit.say("try", probing, "c", OPEN).await.granted);
    let closed = circuit.say("good", probing, "c", OPEN).await;
    assert_eq!((closed.state.as_str(), closed.failures), ("c", 0));
    assert!(closed.generation > probing);
}

#[tokio::test]
async fn a_report_of_an_older_state_changes_nothing() {
    let mut circuit = Circuit::new().await;
    let open = circuit.open().await;
    let probing = circuit.probe(open, "a").await;
    for verb in ["good", "bad"] {
        assert_eq!(circuit.say(verb, open, "", OPEN).await.version, probing.version, "{verb}");
    }
    circuit.say("reset", 0, "", CLOSED).await;
    let closed = circuit.say("sync", 0, "", CLOSED).await;
    let late = circuit.say("bad", probing.generation, "a", OPEN).await;
    assert_eq!((late.version, late.failures), (closed.version, 0));
}

#[tokio::test]
async fn what_was_lost_is_taken_from_the_first_who_knows_it() {
    let mut circuit = Circuit::new().await;
    let open = circuit.open().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut circuit.connection).await.unwrap();
    let unknown = circuit.say("sync", 0, "", CLOSED).await;
    assert_eq!((unknown.state.as_str(), unknown.generation), ("c", 0));
    let said = circuit.say("sync", open, "", ["o", "2", "5000"]).await;
    assert_eq!((said.state.as_str(), said.generation, said.failures), ("o", open, 2));
    assert!((4000..=5000).contains(&said.left), "{said:?}");
    // Of failures that were counted before too.
    let _: () = redis::cmd("FLUSHALL").query_async(&mut circuit.connection).await.unwrap();
    let said = circuit.say("bad", open, "", ["c", "1", "0"]).await;
    assert_eq!((said.state.as_str(), said.failures), ("o", 2));
}
