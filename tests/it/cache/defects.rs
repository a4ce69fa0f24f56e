//! What was wrong with the caches before this one (A-8 to of docs/defects.md).

use super::*;
use crate::support::wait_until;

///
#[tokio::test]
async fn no_user_gets_the_answer_to_another() {
    let stage = Stage::new(|_, head, _| {
        let user = head.field("authorization").or(head.field("x-api-key")).unwrap_or("nobody");
        ok("", user)
    });
    // As coinbase and birdeye were set up: all fields go on, and the strategy says none.
    let proxy = stage.proxy("cache_header_strategy: none\ncache_headers: [X-API-KEY]").await;
    for route in Route::BOTH {
        for _ in 0..2 {
            for who in [
                "Authorization: Bearer alice",
                "Authorization: Bearer bob",
                "X-API-KEY: k1",
                "X-API-KEY: k2",
            ] {
                let url = proxy.url(route, &format!("/{route:?}"));
                let response = proxy.client().await.request("GET", &url, &[who]).await;
                assert_eq!(
                    response.text(),
                    who.split_once(": ").unwrap().1,
                    "{route:?} {response:?}"
                );
            }
        }
    }
    // Who says nothing gets nothing of theirs, and they nothing of that.
    assert_eq!(proxy.get("/Gateway").await.text(), "nobody");
    let alice = proxy.ask("GET", "/Gateway", &["Authorization: Bearer alice"]).await;
    assert_eq!(alice.text(), "Bearer alice");
}

///
#[tokio::test]
async fn what_an_origin_says_of_keeping_is_obeyed_and_no_unsafe_method_is_answered_for_it() {
    for fields in
        ["Cache-Control: no-store\r\n", "Cache-Control: private\r\n", "Set-Cookie: a=b\r\n"]
    {
        let stage = Stage::numbered(fields);
        let proxy = stage.proxy("").await;
        for hits in 1..=2 {
            assert_eq!(proxy.get("/").await.text(), hits.to_string(), "{fields}");
        }
    }
    let stage = Stage::new(|_, head, _| {
        ok("Vary: Accept-Language\r\n", head.field("accept-language").unwrap_or("none"))
    });
    let proxy = stage.proxy("").await;
    for _ in 0..2 {
        for language in ["en", "fr"] {
            let field = format!("Accept-Language: {language}");
            assert_eq!(proxy.ask("GET", "/", &[&field]).await.text(), language);
        }
        assert_eq!(proxy.get("/").await.text(), "none");
    }
    assert_eq!(stage.hits(), 3);
    let stage = Stage::numbered("Cache-Control: max-age=60\r\n");
    let proxy = stage.proxy("").await;
    for method in ["DELETE", "PUT", "PATCH"] {
        for _ in 0..2 {
            proxy.ask(method, "/", &[]).await;
        }
    }
    proxy.post("/", "x").await;
    proxy.post("/", "x").await;
    assert_eq!(stage.hits(), 8);
}

///
#[tokio::test]
async fn arguments_that_look_alike_are_others_and_repeated_ones_are_kept() {
    let stage = Stage::numbered("");
    let proxy = stage.proxy("").await;
    let queries = ["a=1&b=2", "a=1:b=2", "a=1%26b=2", "x=1&x=2", "x=2&x=1", "x=1,2"];
    for _ in 0..2 {
        for (at, query) in queries.iter().enumerate() {
            assert_eq!(proxy.get(&format!("/?{query}")).await.text(), (at + 1).to_string());
        }
    }
    assert_eq!(stage.hits(), queries.len());
}

///
#[tokio::test]
async fn a_repeated_field_is_part_of_what_is_asked_and_no_error() {
    let stage = Stage::numbered("");
    let proxy = stage.proxy("cache_header_strategy: all").await;
    for (fields, wanted) in [
        (&["X-A: 1", "X-A: 2"][..], "1"),
        (&["X-A: 1", "X-A: 2"], "1"),
        (&["X-A: 2", "X-A: 1"], "2"),
        (&["X-A: 1"], "3"),
    ] {
        let response = proxy.ask("GET", "/", fields).await;
        assert_eq!((response.status(), response.text()), (200, wanted), "{fields:?}");
    }
}

///
#[tokio::test]
async fn a_hit_asks_redis_nothing_and_tells_its_age() {
    let (stage, redis) = (Stage::numbered("ETag: \"a\"\r\nAge: 7\r\n"), Redis::start().await);
    let proxy = stage.shared(&redis, "").await;
    let gets = async || -> String { redis.ask("INFO commandstats").await };
    proxy.get("/").await;
    wait_until("it is kept", async || cache(&proxy.get("/").await) == "HIT").await;
    let count = |stats: &str| -> u64 {
        let calls =
            stats.lines().filter(|line| line.contains("get:") || line.contains("getrange:"));
        let calls = calls.filter_map(|line| line.split("calls=").nth(1)?.split(',').next());
        calls.map(|calls| calls.parse::<u64>().unwrap()).sum()
    };
    let before = count(&gets().await);
    for _ in 0..50 {
        let response = proxy.get("/").await;
        assert_eq!(cache(&response), "HIT");
        assert!(response.head.field("age").unwrap().parse::<u64>().unwrap() >= 7);
    }
    // What others ask in that time is not fifty times.
    assert!(count(&gets().await) - before < 25);
    let known = proxy.ask("GET", "/", &["If-None-Match: \"a\""]).await;
    assert_eq!((known.status(), known.text()), (304, ""));
    assert_eq!(stage.hits(), 1);
}

///
#[tokio::test]
async fn an_answer_that_was_kept_is_no_success_of_the_upstream() {
    let stage = Stage::new(|_, head, _| match head.target() {
        "/good" => ok("", "good"),
        _ => answer("500 Internal Server Error", "", "bad"),
    });
    let proxy = stage.proxy("circuit_breaker: {failure_threshold: 3, reset_timeout: 30}").await;
    proxy.get("/good").await;
    for number in 0..3 {
        assert_eq!(proxy.get(&format!("/bad{number}")).await.status(), 500);
        assert_eq!(cache(&proxy.get("/good").await), "HIT");
    }
    assert_eq!(proxy.get("/bad").await.status(), 503, "the circuit is open");
    let requests = |outcome| {
        let labels = [("api", "a"), ("outcome", outcome)];
        let proxy = &proxy.proxy;
        async move { proxy.metric("narrows_api_requests_total", &labels).await.to_string() }
    };
    assert_eq!(requests("cached").await, "3");
    assert_eq!(requests("success").await, "1");
    assert_eq!(requests("failure").await, "3");
    assert_eq!(requests("breaker_open").await, "1");
}

///
#[tokio::test]
async fn what_is_kept_answers_while_the_circuit_is_open() {
    let stage = Stage::new(|number, _, _| match number {
        1 | 2 => ok("", "good"),
        _ => answer("500 Internal Server Error", "", "bad"),
    });
    let keys = "circuit_breaker: {failure_threshold: 1, reset_timeout: 30}";
    let proxy = stage.proxy(keys).await;
    for route in Route::BOTH {
        let url = proxy.url(route, &format!("/{route:?}"));
        assert_eq!(proxy.client().await.get(&url).await.text(), "good");
    }
    assert_eq!(proxy.get("/other").await.status(), 500);
    for route in Route::BOTH {
        let url = proxy.url(route, &format!("/{route:?}"));
        let response = proxy.client().await.get(&url).await;
        assert_eq!((response.status(), cache(&response)), (200, "HIT"), "{route:?}");
        let url = proxy.url(route, "/another");
        let response = proxy.client().await.get(&url).await;
        response.assert_refused(503, "destination_unavailable");
    }
    assert_eq!(stage.hits(), 3);
}
