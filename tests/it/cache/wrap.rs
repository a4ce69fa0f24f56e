//! What the cache does around a request: conditions, ranges, HEAD, methods, what answers tell.

use super::*;

const TAGGED: &str = "ETag: \"a\"\r\nCache-Control: max-age=60\r\nContent-Type: text/x\r\n";

#[tokio::test]
async fn answers_tell_what_the_cache_did() {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let stage = Stage::new(move |number, _, _| {
        ok(&format!("Cache-Control: max-age=60\r\nDate: {date}\r\n"), &number.to_string())
    });
    let proxy = stage.proxy("response_headers: {X-Set: 1}").await;
    for route in Route::BOTH {
        let url = proxy.url(route, &format!("/{route:?}"));
        let mut client = proxy.client().await;
        let miss = client.get(&url).await;
        assert_eq!(cache(&miss), "MISS");
        // Its age counts from its Date, which is a moment ago.
        let ttl = status(&miss).strip_prefix("narrows; fwd=uri-miss; stored; ttl=").unwrap();
        assert!((50..=60).contains(&ttl.parse::<u64>().unwrap()), "{ttl}");
        let hit = client.get(&url).await;
        assert_eq!(cache(&hit), "HIT");
        let ttl = status(&hit).strip_prefix("narrows; hit; ttl=").unwrap();
        assert!((50..=60).contains(&ttl.parse::<u64>().unwrap()), "{ttl}");
        assert!(hit.head.field("date").is_some() && hit.head.field("age").is_some());
        for response in [&miss, &hit] {
            assert_eq!(response.head.all("x-set"), ["1"]);
            assert_eq!(response.head.all("via").len(), 1);
            assert_eq!(response.head.all("x-cache").len(), 1);
        }
        assert_eq!(miss.head.all("date"), hit.head.all("date"));
    }
    let delete = proxy.ask("DELETE", "/x", &[]).await;
    assert_eq!((cache(&delete), status(&delete)), ("BYPASS", "narrows; fwd=method"));
    let unkept = proxy.ask("GET", "/y", &["Cache-Control: no-store"]).await;
    assert_eq!((cache(&unkept), status(&unkept)), ("BYPASS", "narrows; fwd=bypass"));
}

#[tokio::test]
async fn a_client_that_has_it_is_told_so_by_what_is_kept() {
    let stage = Stage::new(|_, _, _| ok(TAGGED, "hello"));
    let proxy = stage.proxy("").await;
    proxy.get("/").await;
    for condition in ["If-None-Match: \"b\", \"a\"", "If-None-Match: *"] {
        let response = proxy.ask("GET", "/", &[condition]).await;
        assert_eq!((response.status(), response.text()), (304, ""), "{condition}");
        assert_eq!(response.head.field("etag"), Some("\"a\""));
        assert_eq!(response.head.field("content-type"), None);
    }
    let other = proxy.ask("GET", "/", &["If-None-Match: \"b\""]).await;
    assert_eq!((other.status(), other.text()), (200, "hello"));
    assert_eq!(stage.hits(), 1);
    // What is for the origin to judge goes there.
    proxy.ask("GET", "/", &["If-Match: \"b\""]).await;
    assert_eq!(stage.hits(), 2);
}

#[tokio::test]
async fn a_condition_for_what_is_not_kept_goes_to_the_origin_as_it_is() {
    let stage = Stage::new(|_, head, _| match head.field("if-none-match") {
        Some("\"a\"") => {
            "HTTP/1.1 304 Not Modified\r\nX-Origin: yes\r\nETag: \"a\"\r\n\r\n".to_owned()
        }
        _ => ok(TAGGED, "hello"),
    });
    let proxy = stage.proxy("").await;
    assert_eq!(proxy.ask("GET", "/", &["If-None-Match: \"a\""]).await.status(), 304);
    let range = proxy.ask("GET", "/", &["Range: bytes=0-0"]).await;
    assert_eq!(range.status(), 200);
    assert_eq!(stage.seen()[1].field("range"), Some("bytes=0-0"));
}

#[tokio::test]
async fn parts_are_cut_from_what_is_kept() {
    let stage = Stage::new(|_, _, _| ok(TAGGED, "0123456789"));
    let proxy = stage.proxy("").await;
    proxy.get("/").await;
    for (range, status, body, told) in [
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=8-", 206, "89", Some("bytes 8-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("bytes=0-1,3-4", 200, "0123456789", None),
        ("items=0-1", 200, "0123456789", None),
    ] {
        let response = proxy.ask("GET", "/", &[&format!("Range: {range}")]).await;
        assert_eq!((response.status(), response.text()), (status, body), "{range}");
        assert_eq!(response.head.field("content-range"), told, "{range}");
    }
    let moved = proxy.ask("GET", "/", &["Range: bytes=0-1", "If-Range: \"b\""]).await;
    assert_eq!(moved.status(), 200);
    assert_eq!(stage.hits(), 1);
}

#[tokio::test]
async fn a_head_is_answered_by_what_a_get_brought_and_may_say_that_it_is_no_more() {
    let stage = Stage::new(|number, head, _| {
        let fields = format!("ETag: \"{number}\"\r\nCache-Control: max-age=60\r\n");
        let text = ok(&fields, "hello");
        if head.method() == "HEAD" { text.trim_end_matches("hello").to_owned() } else { text }
    });
    let proxy = stage.proxy("").await;
    let miss = proxy.ask("HEAD", "/", &[]).await;
    assert_eq!((cache(&miss), miss.head.field("content-length")), ("MISS", Some("5")));
    proxy.get("/").await;
    let hit = proxy.ask("HEAD", "/", &[]).await;
    assert_eq!((cache(&hit), hit.head.field("content-length")), ("HIT", Some("5")));
    assert_eq!((stage.hits(), hit.text()), (2, ""));
    // RFC 9111 §4.3.5: one with another tag is about another response.
    assert_eq!(cache(&proxy.ask("HEAD", "/", &["Cache-Control: no-cache"]).await), "MISS");
    assert_eq!(cache(&proxy.get("/").await), "MISS");
    assert_eq!(stage.hits(), 4);
}

#[tokio::test]
async fn who_wants_nothing_but_what_is_kept_gets_that_or_504() {
    let stage = Stage::numbered("Cache-Control: max-age=60\r\n");
    let proxy = stage.proxy("").await;
    let only = &["Cache-Control: only-if-cached"];
    proxy.ask("GET", "/", only).await.assert_refused(504, "http_request_error");
    assert_eq!(stage.hits(), 0);
    proxy.get("/").await;
    assert_eq!(proxy.ask("GET", "/", only).await.text(), "1");
    assert_eq!(stage.hits(), 1);
}

#[tokio::test]
async fn an_unsafe_request_that_succeeds_has_what_is_kept_forgotten() {
    let stage = Stage::new(|number, head, _| match (head.method(), head.target()) {
        ("DELETE", "/refused") => answer("409 Conflict", "", "no"),
        ("POST", _) => answer("303 See Other", "Location: /made\r\n", ""),
        _ => ok("Cache-Control: max-age=60\r\n", &number.to_string()),
    });
    let proxy = stage.proxy("").await;
    let is_kept = async |path: &str| cache(&proxy.get(path).await) == "HIT";
    for path in ["/a", "/refused", "/made", "/other"] {
        proxy.get(path).await;
        assert!(is_kept(path).await, "{path}");
    }
    proxy.ask("PUT", "/a", &[]).await;
    proxy.ask("DELETE", "/refused", &[]).await;
    proxy.post("/other", "x").await;
    assert!(!is_kept("/a").await && !is_kept("/made").await && !is_kept("/other").await);
    assert!(is_kept("/refused").await);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_kept_and_its_client_sees_that() {
    let stage = Stage::new(|number, _, _| {
        match number {
        1 => "HTTP/1.1 200 OK\r\nX-Origin: yes\r\nConnection: close\r\nContent-Length: 100\r\n\r\nonly this".to_owned(),
        2 => String::new(),
        _ => ok("", "whole"),
    }
    });
    let proxy = stage.proxy("circuit_breaker: false").await;
    let mut client = proxy.client().await;
    client.send_request("GET", "/api/a/", &[]).await;
    client.head().await;
    client.rest().await.unwrap_err();
    let second = proxy.get("/").await;
    assert_ne!(cache(&second), "HIT", "{second:?}");
}

#[tokio::test]
async fn a_body_in_chunks_and_one_that_is_too_long_reach_the_client_whole() {
    let stage = Stage::new(|number, head, _| {
        match head.target() {
        "/chunked" => "HTTP/1.1 200 OK\r\nX-Origin: yes\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                       5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"
            .to_owned(),
        _ => ok("", &format!("{number}{}", "x".repeat(4000))),
    }
    });
    let proxy = stage.proxy("cache_max_object: 1000").await;
    assert_eq!(proxy.get("/chunked").await.text(), "hello");
    let kept = proxy.get("/chunked").await;
    assert_eq!((kept.text(), cache(&kept)), ("hello", "HIT"));
    assert_eq!(kept.head.field("content-length"), Some("5"));
    for hits in 2..=3 {
        let long = proxy.get("/long").await;
        assert_eq!((long.body.len(), cache(&long)), (4001, "MISS"));
        assert_eq!(stage.hits(), hits);
    }
}

#[tokio::test]
async fn a_post_that_is_longer_than_what_is_read_goes_on_as_it_came() {
    let stage = Stage::new(|number, _, body| ok("", &format!("{number} {}", body.len())));
    let proxy = stage.proxy("cache_post: 10").await;
    for wanted in ["1 11", "2 11"] {
        let response = proxy.post("/", "hello world").await;
        assert_eq!((response.text(), cache(&response)), (wanted, "BYPASS"));
    }
    for wanted in ["MISS", "HIT"] {
        let response = proxy.post("/", "hello").await;
        assert_eq!((response.text(), cache(&response)), ("3 5", wanted));
    }
}
