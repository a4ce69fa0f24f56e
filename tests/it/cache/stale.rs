//! What is done with what is stale: validated, served meanwhile, served where asking fails.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::support::wait_until;

/// Fields of a response that is stale as soon as it comes.
fn stale(more: &str) -> String {
    format!("ETag: \"a\"\r\nAge: 5\r\nCache-Control: max-age=5{more}\r\n")
}

#[tokio::test]
async fn what_is_stale_is_asked_about_and_goes_on_answering_if_it_still_holds() {
    let stage = Stage::new(|number, head, _| match head.field("if-none-match") {
        Some("\"a\"") if number < 4 => {
            "HTTP/1.1 304 Not Modified\r\nX-Origin: yes\r\nETag: \"a\"\r\nX-New: 1\r\nAge: 5\r\n\
             Cache-Control: max-age=5\r\n\r\n"
                .to_owned()
        }
        Some("\"a\"") => ok("ETag: \"b\"\r\n", "other"),
        _ => ok(&stale(""), "hello"),
    });
    let proxy = stage.proxy("").await;
    proxy.get("/").await;
    for number in 2..=3 {
        let again = proxy.get("/").await;
        assert_eq!((again.status(), again.text()), (200, "hello"), "{again:?}");
        assert_eq!(cache(&again), "REVALIDATED");
        assert!(status(&again).starts_with("narrows; fwd=stale; fwd-status=304; stored"));
        assert_eq!(again.head.field("x-new"), Some("1"));
        assert_eq!(stage.hits(), number);
    }
    // A client's own condition is answered by what came of ours.
    let known = proxy.ask("GET", "/", &["If-None-Match: \"b\""]).await;
    assert_eq!((known.status(), stage.seen()[3].field("if-none-match")), (304, Some("\"a\"")));
    // It is kept while the client has its answer already.
    wait_until("it is kept", async || cache(&proxy.get("/").await) == "HIT").await;
    assert_eq!((proxy.get("/").await.text(), stage.hits()), ("other", 4));
}

#[tokio::test]
async fn a_304_about_another_response_has_it_asked_for_without_conditions() {
    let stage = Stage::new(|number, head, _| match head.field("if-none-match") {
        Some(_) => {
            "HTTP/1.1 304 Not Modified\r\nX-Origin: yes\r\nETag: \"other\"\r\n\r\n".to_owned()
        }
        None => ok(&stale(""), &number.to_string()),
    });
    let proxy = stage.proxy("").await;
    assert_eq!(proxy.get("/").await.text(), "1");
    let again = proxy.get("/").await;
    assert_eq!((again.status(), again.text()), (200, "3"));
}

#[tokio::test]
async fn what_is_stale_is_served_while_it_is_asked_for_anew() {
    for keys in ["", "cache_stale_while_revalidate: 60"] {
        let more = if keys.is_empty() { ", stale-while-revalidate=60" } else { "" };
        let stage = Stage::new(move |number, _, _| match number {
            1 => ok(&stale(more), "old"),
            _ => ok("Cache-Control: max-age=60\r\n", "new"),
        });
        let proxy = stage.proxy(keys).await;
        for route in Route::BOTH {
            let hits = stage.hits();
            let url = proxy.url(route, "/");
            let mut client = proxy.client().await;
            if hits == 0 {
                client.get(&url).await;
                let response = client.get(&url).await;
                assert_eq!((response.text(), cache(&response)), ("old", "STALE"), "{keys}");
                wait_until("it is new", async || {
                    proxy.client().await.get(&url).await.text() == "new"
                })
                .await;
            }
            assert_eq!(cache(&client.get(&url).await), "HIT");
            assert_eq!(stage.hits(), 2);
        }
        let labels = [("api", "a"), ("outcome", "success")];
        let asked = proxy.proxy.metric("narrows_api_requests_total", &labels).await;
        assert_eq!(asked.to_string(), "1", "what no client asked for is no request");
    }
}

#[tokio::test]
async fn what_is_stale_stands_in_where_asking_fails() {
    let how = Arc::new(AtomicUsize::new(0));
    let origins = Arc::clone(&how);
    let stage = Stage::new(move |_, _, _| match origins.load(SeqCst) {
        0 => ok(&stale(", stale-if-error=60"), "old"),
        1 => answer("503 Service Unavailable", "", "sorry"),
        2 => String::new(),
        _ => answer("404 Not Found", "", "gone"),
    });
    let proxy = stage.proxy("circuit_breaker: false").await;
    proxy.get("/").await;
    for failure in 1..=2 {
        how.store(failure, SeqCst);
        let response = proxy.get("/").await;
        assert_eq!((response.status(), response.text()), (200, "old"), "{failure}: {response:?}");
        assert_eq!(cache(&response), "STALE");
    }
    how.store(3, SeqCst);
    assert_eq!(proxy.get("/").await.status(), 404, "that is an answer");
}

#[tokio::test]
async fn what_is_stale_stands_in_while_the_circuit_is_open_and_nobody_is_asked() {
    let stage = Stage::new(|number, _, _| match number {
        1 => ok(&stale(""), "old"),
        _ => answer("500 Internal Server Error", "", "bad"),
    });
    let keys =
        "cache_stale_if_error: 60\ncircuit_breaker: {failure_threshold: 1, reset_timeout: 30}";
    let proxy = stage.proxy(keys).await;
    proxy.get("/").await;
    assert_eq!(proxy.get("/other").await.status(), 500);
    for route in Route::BOTH {
        let response = proxy.client().await.get(proxy.url(route, "/")).await;
        assert_eq!((response.status(), cache(&response)), (200, "STALE"), "{route:?}");
    }
    assert_eq!(stage.hits(), 2);
}

#[tokio::test]
async fn nothing_is_served_stale_against_the_word_of_its_origin() {
    for more in [", must-revalidate", ", proxy-revalidate", ", s-maxage=5", ", no-cache"] {
        let stage = Stage::new(move |number, _, _| match number {
            1 => ok(&stale(more), "old"),
            _ => answer("503 Service Unavailable", "", "sorry"),
        });
        let keys =
            "circuit_breaker: false\ncache_stale_if_error: 60\ncache_stale_while_revalidate: 60";
        let proxy = stage.proxy(keys).await;
        proxy.get("/").await;
        let response = proxy.ask("GET", "/", &["Cache-Control: max-stale"]).await;
        assert_eq!(response.status(), 503, "{more}");
    }
}
