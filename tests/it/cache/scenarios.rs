//! C0.11 of the scenarios, line by line, with and without Redis.

use super::*;
use crate::support::wait_until;

/// Runs a test alone, and with a Redis.
macro_rules! on_both {
    ($($name:ident ($stage:ident, $proxy:ident) $origin:expr, $keys:expr => $body:block)*) => {$(
        mod $name {
            use super::*;

            async fn run($stage: &Stage, $proxy: &Cached) $body

            #[tokio::test]
            async fn alone() {
                let stage = $origin;
                let proxy = stage.proxy($keys).await;
                run(&stage, &proxy).await;
            }

            #[tokio::test]
            async fn with_redis() {
                let (stage, redis) = ($origin, Redis::start().await);
                let proxy = stage.shared(&redis, $keys).await;
                run(&stage, &proxy).await;
            }
        }
    )*};
}

on_both! {
    the_order_of_arguments_makes_no_other_request(stage, proxy) Stage::numbered(""), "" => {
        for route in Route::BOTH {
            let path = format!("/{route:?}");
            let mut client = proxy.client().await;
            let first = client.get(proxy.url(route, &format!("{path}?a=1&b=2"))).await;
            let second = client.get(proxy.url(route, &format!("{path}?b=2&a=1"))).await;
            assert_eq!((cache(&first), cache(&second)), ("MISS", "HIT"), "{route:?}");
            assert_eq!(first.body, second.body);
        }
        assert_eq!(stage.hits(), 2);
    }

    without_a_strategy_fields_make_no_other_request(stage, proxy)
    Stage::numbered(""), "cache_header_strategy: none" => {
        for key in ["1", "2", "3"] {
            proxy.ask("GET", "/", &[&format!("X-API-KEY: {key}")]).await;
        }
        assert_eq!(stage.hits(), 1);
    }

    with_the_strategy_all_every_field_makes_another_request(stage, proxy)
    Stage::numbered(""), "cache_header_strategy: all" => {
        for _ in 0..2 {
            for field in ["X-API-KEY: 1", "X-API-KEY: 2", "X-Any: 1", "X-Any: 2"] {
                proxy.ask("GET", "/", &[field]).await;
            }
        }
        assert_eq!(stage.hits(), 4);
    }

    fields_that_are_listed_make_another_request(stage, proxy)
    Stage::numbered(""), "cache_header_strategy: listed\ncache_headers: [X-API-KEY]" => {
        for (key, any) in [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2"), ("1", "3")] {
            proxy.ask("GET", "/", &[&format!("X-API-KEY: {key}"), &format!("X-Any: {any}")]).await;
        }
        assert_eq!(stage.hits(), 2);
    }

    answers_to_post_are_kept_for_their_bodies(stage, proxy)
    Stage::new(|number, _, body| {
        ok("", &format!("{number} {}", String::from_utf8_lossy(body)))
    }), "cache_post: true" => {
        let bodies = ["{\"a\":1}", "{\"a\":2}", "{\"a\":1}", "{\"a\":2}", ""];
        let mut answers = Vec::new();
        for body in bodies {
            answers.push(proxy.post("/info", body).await.text().to_owned());
        }
        assert_eq!(answers, ["1 {\"a\":1}", "2 {\"a\":2}", "1 {\"a\":1}", "2 {\"a\":2}", "3 "]);
        assert_eq!(stage.hits(), 3);
    }

    an_answer_404_is_not_kept(stage, proxy)
    Stage::new(|_, _, _| answer("404 Not Found", "", "no")), "" => {
        for hits in 1..=3 {
            let response = proxy.get("/").await;
            assert_eq!((response.status(), cache(&response)), (404, "MISS"));
            assert_eq!(stage.hits(), hits);
        }
    }

    what_is_kept_is_asked_for_again_after_its_time(stage, proxy)
    Stage::numbered(""), "cache_ttl: 1" => {
        assert_eq!(proxy.get("/").await.text(), "1");
        assert_eq!(proxy.get("/").await.text(), "1");
        wait_until("it expires", async || proxy.get("/").await.text() == "2").await;
        assert_eq!(stage.hits(), 2);
    }

    status_and_fields_are_kept_as_they_came(_stage, proxy)
    Stage::new(|number, _, _| {
        let fields = "Content-Type: text/x; charset=utf-8\r\nETag: \"v1\"\r\n\
                      Cache-Control: max-age=60, x-y=\"z\"\r\nX-Two: 1\r\nX-Two: 2\r\n\
                      Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        answer("203 Non-Authoritative Information", fields, &number.to_string())
    }), "" => {
        let first = proxy.get("/").await;
        let second = proxy.get("/").await;
        assert_eq!((cache(&second), second.status(), second.text()), ("HIT", 203, "1"));
        for name in ["content-type", "etag", "cache-control", "last-modified", "x-two", "via"] {
            assert!(!second.head.all(name).is_empty(), "{name}");
            assert_eq!(second.head.all(name), first.head.all(name), "{name}");
        }
    }
}

#[tokio::test]
async fn a_second_and_a_restarted_instance_answer_with_what_redis_has() {
    let (stage, redis) = (Stage::numbered("ETag: \"a\"\r\n"), Redis::start().await);
    let first = stage.shared(&redis, "").await;
    assert_eq!(first.get("/").await.text(), "1");
    let second = stage.shared(&redis, "").await;
    // What is kept is written to Redis while its first client has it already.
    wait_until("the entry is in Redis", async || cache(&second.get("/").await) == "HIT").await;
    assert_eq!(second.get("/").await.text(), "1");
    assert_eq!(stage.hits(), 1);
    for number in 0..100 {
        second.get(&format!("/{number}")).await;
    }
    drop((first, second));
    let restarted = stage.shared(&redis, "").await;
    let mut number = 0;
    wait_until("it has heard of Redis", async || {
        number += 1;
        cache(&restarted.get(&format!("/{number}")).await) == "HIT"
    })
    .await;
    let hits = stage.hits();
    let response = restarted.get("/").await;
    assert_eq!((cache(&response), response.text()), ("HIT", "1"), "{response:?}");
    assert_eq!(stage.hits(), hits);
}
