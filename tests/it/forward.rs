//! Plain requests in absolute-form: what reaches the origin, what comes back, and what is refused.

use std::time::Duration;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::support::Certs;
use crate::support::Closed;
use crate::support::MIB;
use crate::support::Origin;
use crate::support::Wire;
use crate::support::narrows;
use crate::support::pattern;
use crate::support::soon;
use crate::support::wait_until;

#[tokio::test]
async fn the_target_becomes_origin_form_and_host_is_that_of_the_target() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    let url = origin.url("/a/b%20c?q=1&r=//x");
    client.send(format!("GET {url} HTTP/1.1\r\nHost: other.test\r\nX-Mine: 1\r\n\r\n")).await;
    let answer = client.response("GET").await;
    assert_eq!((answer.status(), answer.text()), (200, "/a/b%20c?q=1&r=//x"));
    let head = origin.only().head;
    assert_eq!(head.start, "GET /a/b%20c?q=1&r=//x HTTP/1.1");
    assert_eq!(head.field("host"), Some(origin.authority().as_str()));
    assert_eq!(head.field("x-mine"), Some("1"));
}

#[tokio::test]
async fn a_target_without_a_path_asks_for_the_root_and_options_for_the_whole_server() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    for (method, path) in [("GET", ""), ("GET", "?q"), ("OPTIONS", ""), ("OPTIONS", "/")] {
        assert_eq!(client.request(method, &origin.url(path), &[]).await.status(), 200);
    }
    let targets: Vec<String> = origin.seen().iter().map(|seen| seen.head.start.clone()).collect();
    let wanted = ["GET / HTTP/1.1", "GET /?q HTTP/1.1", "OPTIONS * HTTP/1.1", "OPTIONS / HTTP/1.1"];
    assert_eq!(targets, wanted, "RFC 9112 §3.2.4");
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_request_end_here_and_so_do_those_that_connection_names() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let fields = [
        "Connection: keep-alive, X-Secret",
        "connection: X-Other",
        "X-Secret: 1",
        "X-Other: 2",
        "Keep-Alive: timeout=9",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic dTpw",
        "TE: trailers",
        "Upgrade: h2c",
        "X-Kept: 3",
        "Accept: a/b",
        "accept: c/d",
        "Authorization: Basic dTpw",
    ];
    proxy.client().await.request("GET", &origin.url("/"), &fields).await;
    let head = origin.only().head;
    for gone in
        ["x-secret", "x-other", "keep-alive", "proxy-connection", "proxy-authorization", "upgrade"]
    {
        assert!(head.all(gone).is_empty(), "{gone} crossed: {head:?}");
    }
    for option in head.list("connection") {
        assert!(["keep-alive", "close", "te"].contains(&option.as_str()), "{head:?}");
    }
    assert_eq!(head.field("x-kept"), Some("3"));
    assert_eq!(head.field("authorization"), Some("Basic dTpw"));
    assert_eq!(head.list("accept"), ["a/b", "c/d"]);
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_response_end_here_and_the_others_do_not() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let answer = proxy.get(origin.url("/hop")).await;
    // The standing check has looked for what must not be there.
    assert_eq!(answer.head.field("x-end"), Some("1"));
    assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test]
async fn via_names_this_proxy_in_both_directions_behind_those_before_it() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let answer = proxy.client().await.request("GET", &origin.url("/"), &["Via: 1.0 fred"]).await;
    let [ours] = &answer.head.list("via")[..] else { panic!("{answer:?}") };
    assert!(ours.starts_with("1.1 narrows-"), "{ours}");
    assert_eq!(origin.only().head.list("via"), ["1.0 fred", ours]);
}

#[tokio::test]
async fn two_of_the_default_name_in_a_chain_are_no_loop_and_a_loop_is_502() {
    let (origin, first, second) =
        (Origin::start(), narrows().start().await, narrows().start().await);
    for proxy in [&first, &second] {
        assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    }
    let vias: Vec<String> =
        origin.seen().iter().map(|seen| seen.head.list("via").concat()).collect();
    assert_ne!(vias[0], vias[1]);
    let other = format!("Via: {}", vias[0]);
    let answer = second.client().await.request("GET", &origin.url("/"), &[&other]).await;
    assert_eq!(answer.status(), 200, "the other's name");
    let answer = first.client().await.request("GET", &origin.url("/"), &[&other]).await;
    answer.assert_refused(502, "proxy_loop_detected");
    assert_eq!(origin.hits(), 3);
}

#[tokio::test]
async fn via_can_have_another_name_or_be_off() {
    for (flag, via) in [("here", &["1.1 here"][..]), ("off", &[])] {
        let origin = Origin::start();
        let proxy = narrows().flags(format!("--via {flag}")).start().await;
        let answer = proxy.get(origin.url("/")).await;
        assert_eq!(origin.only().head.list("via"), via);
        assert_eq!(answer.head.list("via"), via);
    }
}

#[tokio::test]
async fn status_and_reason_are_the_origins_own() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    for status in [200, 201, 204, 301, 304, 404, 418, 500, 503] {
        let answer = client.get(origin.url(&format!("/status/{status}"))).await;
        assert_eq!((answer.status(), answer.head.reason()), (status, "Told So"));
        let no_body = [204, 304].contains(&status);
        let body = if no_body { String::new() } else { format!("status {status}") };
        assert_eq!(answer.text(), body);
    }
}

#[tokio::test]
async fn a_head_request_is_answered_with_the_length_and_without_the_body() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    let answer = client.request("HEAD", &origin.url("/size?n=500"), &[]).await;
    assert_eq!(answer.head.field("content-length"), Some("500"));
    assert_eq!(client.get(origin.url("/next")).await.text(), "/next");
}

#[tokio::test]
async fn an_http_1_0_client_is_answered_and_its_connection_ends() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    client.send(format!("GET {} HTTP/1.0\r\n\r\n", origin.url("/chunked?n=9"))).await;
    let head = client.head().await;
    assert_eq!(head.status(), 200);
    assert!(head.all("transfer-encoding").is_empty(), "HTTP/1.0 knows no chunks: {head:?}");
    assert_eq!(client.rest().await.unwrap(), pattern(9));
}

#[tokio::test]
async fn one_client_connection_carries_many_requests() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    for n in 0..20 {
        assert_eq!(client.get(origin.url(&format!("/{n}"))).await.text(), format!("/{n}"));
    }
    assert_eq!(origin.hits(), 20);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    let mut requests = String::new();
    for n in 0..10 {
        let slow = origin.url(&format!("/slow?ms={}", 20 - 2 * n));
        requests.push_str(&format!("GET {slow} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let echo = origin.url("/echo");
        requests
            .push_str(&format!("POST {echo} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n{n}"));
    }
    client.send(requests).await;
    for n in 0..10 {
        assert_eq!(client.response("GET").await.text(), "slow");
        assert_eq!(client.response("POST").await.text(), n.to_string());
    }
}

#[tokio::test]
async fn bodies_of_any_size_and_framing_come_back_as_they_were_sent() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    for length in [0, 1, 65_535, 8 * MIB] {
        let body = pattern(length);
        assert!(client.post(origin.url("/echo"), &body).await.body == body, "length {length}");
        let answer = client.get(origin.url(&format!("/size?n={length}"))).await;
        assert!(answer.body == body, "length {length}");
        assert_eq!(answer.head.field("content-length"), Some(length.to_string().as_str()));
    }
    for length in [0, 1, MIB] {
        let body = pattern(length);
        let answer = client.get(origin.url(&format!("/chunked?n={length}"))).await;
        assert!(answer.body == body, "chunked, length {length}");

        client.send_request("POST", &origin.url("/echo"), &["Transfer-Encoding: chunked"]).await;
        for chunk in body.chunks(100_000) {
            client.send(format!("{:X};note=1\r\n", chunk.len())).await;
            client.send(chunk).await;
            client.send("\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        assert!(client.response("POST").await.body == body, "sent chunked, length {length}");
    }
}

#[tokio::test]
async fn a_response_without_a_length_lasts_until_the_origin_closes() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
        connection.send("HTTP/1.1 200 OK\r\nX-Origin: yes\r\n\r\n").await.unwrap();
        connection.send(pattern(MIB)).await.unwrap();
    });
    let proxy = narrows().start().await;
    assert!(proxy.get(origin.url("/")).await.body == pattern(MIB));
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn each_part_of_a_request_body_is_passed_on_as_it_comes() {
    let (heard, mut arrived) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut connection| {
        let heard = heard.clone();
        async move {
            connection.head().await.unwrap();
            for _ in 0..2 {
                heard.send(connection.exactly(5).await.unwrap()).unwrap();
            }
            let answer = "HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 0\r\n\r\n";
            connection.send(answer).await.unwrap();
        }
    });
    let proxy = narrows().start().await;
    let mut client = proxy.client().await;
    client.send_request("PUT", &origin.url("/"), &["Content-Length: 10"]).await;
    for part in ["first", "again"] {
        client.send(part).await;
        let part_seen = soon("a part of the body", arrived.recv()).await.unwrap();
        assert_eq!(part_seen, part.as_bytes());
    }
    assert_eq!(client.response("PUT").await.status(), 200);
}

#[tokio::test]
async fn each_part_of_a_response_body_is_passed_on_as_it_comes() {
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let (go, wait) = watch::channel(0);
        let origin = Origin::raw(move |mut connection| {
            let mut wait = wait.clone();
            async move {
                let head = format!("HTTP/1.1 200 OK\r\nX-Origin: yes\r\n{framing}\r\n\r\n");
                connection.head().await.unwrap();
                connection.send(head).await.unwrap();
                for (n, part) in ["first", "again"].into_iter().enumerate() {
                    wait.wait_for(|go| *go > n).await.unwrap();
                    let chunked = framing.contains("chunked");
                    let part = if chunked { format!("5\r\n{part}\r\n") } else { part.to_owned() };
                    connection.send(part).await.unwrap();
                }
                connection.end().await;
            }
        });
        let proxy = narrows().start().await;
        let mut client = proxy.client().await;
        client.send_request("GET", &origin.url("/"), &[]).await;
        let head = client.head().await;
        assert_eq!(head.status(), 200, "the head comes before the body");
        for (n, part) in ["first", "again"].into_iter().enumerate() {
            go.send_replace(n + 1);
            let chunked = !head.all("transfer-encoding").is_empty();
            let arrived = if chunked { client.chunk().await } else { client.exactly(5).await };
            assert_eq!(arrived, part.as_bytes());
        }
    }
}

#[tokio::test]
async fn an_origin_that_reads_slowly_slows_the_client_down() {
    let (go, wait) = watch::channel(false);
    let origin = Origin::raw_with_small_buffers(move |mut connection| {
        let mut wait = wait.clone();
        async move {
            let head = connection.head().await.unwrap().unwrap();
            wait.wait_for(|go| *go).await.unwrap();
            let (body, _) = connection.request_body(&head).await.unwrap();
            let is_whole = body == pattern(body.len());
            let answer =
                format!("HTTP/1.1 200 OK\r\nX-Origin: {is_whole}\r\nContent-Length: 0\r\n\r\n");
            connection.send(answer).await.unwrap();
        }
    });
    let proxy = narrows().start().await;
    let mut client = proxy.client().await;
    let bytes = pattern(96 * MIB);
    let length = format!("Content-Length: {}", bytes.len());
    client.send_request("PUT", &origin.url("/"), &[&length]).await;
    let before = proxy.resident();
    let sent = client.send_until_it_blocks(&bytes).await;
    assert!(sent < bytes.len(), "no back-pressure at all");
    let grown = proxy.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes more in memory after {sent} sent");
    go.send_replace(true);
    client.send(&bytes[sent..]).await;
    assert_eq!(client.response("PUT").await.head.field("x-origin"), Some("true"));
}

#[tokio::test]
async fn early_hints_reach_the_client_before_the_answer() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    for _ in 0..2 {
        client.send_request("GET", &origin.url("/early-hints"), &[]).await;
        let hint = client.head().await;
        assert_eq!(hint.status(), 103);
        assert_eq!(hint.field("link"), Some("</a.css>; rel=preload"));
        assert_eq!(client.response("GET").await.text(), "hinted");
    }
}

#[tokio::test]
async fn a_client_that_expects_100_gets_the_origins_and_not_ours() {
    let (go, wait) = watch::channel(false);
    let origin = Origin::raw(move |mut connection| {
        let mut wait = wait.clone();
        async move {
            let head = connection.head().await.unwrap().unwrap();
            assert_eq!(head.field("expect"), Some("100-continue"));
            wait.wait_for(|go| *go).await.unwrap();
            connection.send("HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            let (body, _) = connection.request_body(&head).await.unwrap();
            let length = body.len();
            let head =
                format!("HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: {length}\r\n\r\n");
            connection.send(head).await.unwrap();
            connection.send(body).await.unwrap();
        }
    });
    let proxy = narrows().start().await;
    let mut client = proxy.client().await;
    let fields = ["Expect: 100-continue", "Content-Length: 4"];
    client.send_request("POST", &origin.url("/"), &fields).await;
    let early = tokio::time::timeout(Duration::from_millis(100), client.head()).await;
    assert!(early.is_err(), "an answer that is not the origin's: {early:?}");
    go.send_replace(true);
    assert_eq!(client.head().await.status(), 100);
    client.send("body").await;
    assert_eq!(client.response("POST").await.text(), "body");
}

#[tokio::test]
async fn a_client_that_expects_100_may_hear_a_refusal_instead_and_keep_its_body() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
        let answer = "HTTP/1.1 413 Too Big\r\nX-Origin: yes\r\nContent-Length: 3\r\n\r\nbig";
        connection.send(answer).await.unwrap();
        connection.end().await;
    });
    let proxy = narrows().start().await;
    let mut client = proxy.client().await;
    let fields = ["Expect: 100-continue", "Content-Length: 100000000"];
    client.send_request("POST", &origin.url("/"), &fields).await;
    let answer = client.response("POST").await;
    assert_eq!((answer.status(), answer.text()), (413, "big"));
    drop(client);
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn trailers_cross_in_both_directions() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    let fields = ["Connection: TE", "TE: trailers"];
    let answer = client.request("GET", &origin.url("/trailers"), &fields).await;
    assert_eq!(answer.text(), "hello");
    assert_eq!(lower(answer.trailers), [("x-sum".to_owned(), "5".to_owned())]);

    let fields = ["Transfer-Encoding: chunked", "Trailer: X-Check"];
    client.send_request("POST", &origin.url("/echo"), &fields).await;
    client.send("3\r\nabc\r\n0\r\nX-Check: 7\r\n\r\n").await;
    assert_eq!(client.response("POST").await.text(), "abc");
    let trailers = origin.seen().pop().unwrap().trailers;
    assert_eq!(lower(trailers), [("x-check".to_owned(), "7".to_owned())]);
}

/// Names of fields know no case.
fn lower(fields: Vec<(String, String)>) -> Vec<(String, String)> {
    fields.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways_and_holds_its_slot() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    let fields = ["Connection: Upgrade", "Upgrade: echo", "Sec-WebSocket-Key: k"];
    client.send_request("GET", &origin.url("/upgrade"), &fields).await;
    let head = client.head().await;
    assert_eq!((head.status(), head.field("upgrade")), (101, Some("echo")));
    assert_eq!(head.list("connection"), ["upgrade"]);
    assert_eq!(client.exactly(5).await, b"first", "bytes right behind the head");
    client.echo("two").await;
    assert_eq!(proxy.open(&origin.authority()).await, 1);
    let seen = origin.only().head;
    assert_eq!(seen.field("upgrade"), Some("echo"));
    assert_eq!(seen.field("sec-websocket-key"), Some("k"));
    client.finish().await;
    assert!(client.rest().await.unwrap().is_empty());
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_502_and_no_tunnel() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap().unwrap();
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        connection.send(head).await.unwrap();
        connection.send("HTTP/1.1 200 OK\r\n\r\nsmuggled").await.unwrap();
    });
    let proxy = narrows().start().await;
    let mut client = proxy.client().await;
    client.send_request("GET", &origin.url("/"), &[]).await;
    let response = client.response("GET").await;
    assert_eq!(response.head.status(), 502);
    assert!(response.text().contains("http_protocol_error"), "{}", response.text());
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn an_upgrade_that_the_origin_declines_is_a_plain_answer() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    let fields = ["Connection: Upgrade", "Upgrade: echo"];
    assert_eq!(client.request("GET", &origin.url("/plain"), &fields).await.text(), "/plain");
    assert_eq!(client.get(origin.url("/next")).await.text(), "/next");
}

#[tokio::test]
async fn an_https_target_is_asked_over_tls_and_its_certificate_verified() {
    let certs = Certs::new();
    let origin = Origin::https(certs.server(&["127.0.0.1", "secure.test"], &[]).0);
    let trusting =
        format!("--upstream-ca {} --resolve secure.test={}", certs.file().display(), origin.ip());
    let proxy = narrows().flags(trusting).start().await;
    let mut client = proxy.client().await;
    for host in ["127.0.0.1", "secure.test"] {
        let authority = format!("{host}:{}", origin.port());
        let answer = client.get(format!("https://{authority}/over?tls")).await;
        assert_eq!((answer.status(), answer.text()), (200, "/over?tls"));
        let head = origin.seen().pop().unwrap().head;
        assert_eq!(head.start, "GET /over?tls HTTP/1.1");
        assert_eq!(head.field("host"), Some(authority.as_str()));
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_or_for_another_name_is_502() {
    let (certs, others) = (Certs::new(), Certs::new());
    let unknown = Origin::https(others.server(&["127.0.0.1"], &[]).0);
    let misnamed = Origin::https(certs.server(&["other.test"], &[]).0);
    let flags = format!("--upstream-ca {}", certs.file().display());
    let proxy = narrows().flags(flags).start().await;
    for origin in [unknown, misnamed] {
        let answer = proxy.get(format!("https://{}/", origin.authority())).await;
        answer.assert_refused(502, "tls_certificate_error");
        assert_eq!(origin.hits(), 0, "the request was sent to a stranger");
        proxy.wait_until_open(&origin.authority(), 0).await;
    }
}

#[tokio::test]
async fn an_https_target_that_speaks_no_tls_is_502() {
    let origin = Origin::raw(|mut connection| async move {
        connection.some().await.unwrap();
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let proxy = narrows().start().await;
    let answer = proxy.get(format!("https://{}/", origin.authority())).await;
    answer.assert_refused(502, "tls_protocol_error");
    proxy.wait_until_open(&origin.authority(), 0).await;
}

/// RFC 9112 §9.8: without a length, only `close_notify` says that nothing is missing.
#[tokio::test]
async fn a_tls_connection_that_ends_without_saying_so_cuts_what_had_no_length() {
    let certs = Certs::new();
    for (field, is_whole) in [("Content-Length: 2", true), ("X: y", false)] {
        let (acceptor, _) = certs.server(&["127.0.0.1"], &[]);
        let origin = Origin::raw(move |connection| {
            let acceptor = acceptor.clone();
            async move {
                let mut secured = connection.secured(acceptor).await.unwrap();
                secured.head().await.unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\nX-Origin: yes\r\n{field}\r\n\r\nok");
                secured.send(answer).await.unwrap();
            }
        });
        let proxy =
            narrows().flags(format!("--upstream-ca {}", certs.file().display())).start().await;
        let mut client = proxy.client().await;
        client.send_request("GET", &format!("https://{}/", origin.authority()), &[]).await;
        if is_whole {
            assert_eq!(client.response("GET").await.text(), "ok");
        } else if client.try_head().await.is_some() {
            assert!(client.rest().await.is_err(), "what may lack its end looks whole");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_not_for_a_proxy_is_told_how_to_use_one() {
    let proxy = narrows().start().await;
    let mut client = proxy.client().await;
    for target in ["/", "/some/page?q=1"] {
        let answer = client.get(target).await;
        answer.assert_refused(404, "destination_not_found");
        let problem = answer.json();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.to_ascii_lowercase().contains("proxy"), "{detail}");
    }
}

#[tokio::test]
async fn health_on_the_proxy_port_says_ok() {
    let proxy = narrows().start().await;
    let mut client = proxy.client().await;
    client.send("GET /health HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let answer = client.response("GET").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json(), serde_json::json!({"status": "ok"}));
}

#[tokio::test]
async fn a_bad_target_is_400_whether_tunnelled_or_forwarded_and_nobody_is_called() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let port = origin.port();
    let authorities = [
        format!("user@127.0.0.1:{port}"),
        format!("user:pass@127.0.0.1:{port}"),
        format!("127.1:{port}"),
        format!("0x7f.1:{port}"),
        format!("0177.0.0.1:{port}"),
        format!("2130706433:{port}"),
        format!("127.0.0.256:{port}"),
        format!("[::1:{port}"),
        "127.0.0.1:0".to_owned(),
        "127.0.0.1:99999".to_owned(),
        "127.0.0.1:8o".to_owned(),
        format!(":{port}"),
    ];
    for authority in &authorities {
        let tunnel = proxy.connect(authority).await;
        assert_eq!((authority, tunnel.status()), (authority, 400));
        tunnel.assert_refused(400, "http_request_error");
        let forwarded = proxy.get(format!("http://{authority}/")).await;
        assert_eq!((authority, forwarded.status()), (authority, 400));
        forwarded.assert_refused(400, "http_request_error");
    }
    for authority in ["127.0.0.1", "localhost", "127.0.0.1:", "/"] {
        let tunnel = proxy.connect(authority).await;
        assert_eq!((authority, tunnel.status()), (authority, 400), "CONNECT needs a port");
    }
    for url in ["ftp://127.0.0.1/", "http://", "http:///x"] {
        assert_eq!((url, proxy.get(url).await.status()), (url, 400));
    }
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn a_request_whose_framing_is_ambiguous_is_400_and_closes() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let framings = [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3, 4",
        "Content-Length: +3",
        "Content-Length: -1",
        "Content-Length: x",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
    ];
    for framing in framings {
        let mut client = proxy.client().await;
        client
            .send_request("POST", &origin.url("/"), &framing.split("\r\n").collect::<Vec<_>>())
            .await;
        let answer = client.response("POST").await;
        // A coding that nobody here knows may be 501 (RFC 9112 §6.1).
        let status = if framing.contains("gzip") { answer.status() } else { 400 };
        assert!([400, 501].contains(&status), "{framing}: {answer:?}");
        answer.assert_refused(status, "http_request_error");
        client.end().await;
    }
    assert_eq!(origin.hits(), 0);
}

#[tokio::test]
async fn what_is_not_http_is_400_and_closes() {
    let proxy = narrows().start().await;
    for bytes in
        ["\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\nA b\r\n\r\n"]
    {
        let mut client = proxy.client().await;
        client.send(bytes).await;
        let answer = client.response("GET").await;
        answer.assert_refused(400, "http_request_error");
        client.end().await;
    }
}

#[tokio::test]
async fn an_origin_that_refuses_is_502() {
    let (closed, proxy) = (Closed::new(), narrows().start().await);
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let answer = client.get(format!("http://{}/", closed.authority())).await;
        answer.assert_refused(502, "connection_refused");
    }
    proxy.wait_until_open(&closed.authority(), 0).await;
}

#[tokio::test]
async fn an_origin_that_closes_or_resets_before_its_answer_is_502_connection_terminated() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    for path in ["/die", "/reset"] {
        let answer = client.post(origin.url(path), b"x").await;
        assert_eq!((path, answer.status()), (path, 502));
        answer.assert_refused(502, "connection_terminated");
    }
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn an_origin_that_does_not_speak_http_is_502_http_protocol_error() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
        connection.send("SSH-2.0-OpenSSH_9.2\r\n\r\n").await.unwrap();
        connection.end().await;
    });
    let proxy = narrows().start().await;
    proxy.get(origin.url("/")).await.assert_refused(502, "http_protocol_error");
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn an_origin_that_thinks_too_long_is_504() {
    let origin = Origin::start();
    let proxy = narrows().flags("--response-timeout 300ms").start().await;
    let start = Instant::now();
    let answer = proxy.get(origin.url("/slow?ms=60000")).await;
    answer.assert_refused(504, "http_response_timeout");
    assert!(start.elapsed() >= Duration::from_millis(300), "only {:?}", start.elapsed());
    proxy.wait_until_open(&origin.authority(), 0).await;
    wait_until("the origin is left", async || origin.current() == 0).await;
}

#[tokio::test]
async fn an_answer_cut_short_reaches_the_client_cut_short() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    for path in ["/truncate", "/truncate-chunked"] {
        // Not `Client`, for which half a body is a failure.
        let mut wire = Wire::new(TcpStream::connect(proxy.address).await.unwrap());
        wire.send(format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", origin.url(path))).await.unwrap();
        // A reset may overtake the head, which is as clear.
        if let Ok(head) = soon("a head", wire.head()).await {
            let head = head.expect("a clean end instead of an answer");
            assert_eq!(head.status(), 200);
            let body = soon("the end", wire.response_body("GET", &head)).await;
            assert!(body.is_err(), "{path}: taken for whole: {body:?}");
        }
    }
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
        let half = "HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 10\r\n\r\nhalf";
        connection.send(half).await.unwrap();
        connection.end().await;
    });
    let proxy = narrows().flags("--idle-timeout 300ms").start().await;
    let mut client = proxy.client().await;
    client.send_request("GET", &origin.url("/"), &[]).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.exactly(4).await, b"half");
    client.end().await;
    proxy.wait_until_open(&origin.authority(), 0).await;
    wait_until("the origin is left", async || origin.current() == 0).await;
}

#[tokio::test]
async fn a_client_slow_with_its_head_or_silent_between_requests_is_let_go() {
    let flags = "--header-timeout 300ms --keep-alive-timeout 300ms";
    let (origin, proxy) = (Origin::start(), narrows().flags(flags).start().await);
    let mut slow = proxy.client().await;
    slow.send("GET http://a.test/ HTTP/1.1\r\nHo").await;
    slow.end().await;

    let mut silent = proxy.client().await;
    assert_eq!(silent.get(origin.url("/")).await.status(), 200);
    silent.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_its_request_runs_frees_the_slot() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let to = origin.authority();
    for ends_with_fin in [true, false] {
        let mut client = proxy.client().await;
        client.send_request("GET", &origin.url("/slow?ms=60000"), &[]).await;
        proxy.wait_until_open(&to, 1).await;
        wait_until("the request is there", async || origin.current() == 1).await;
        if ends_with_fin {
            drop(client);
        } else {
            client.reset();
        }
        proxy.wait_until_open(&to, 0).await;
        wait_until("the origin is left", async || origin.current() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_takes_the_origins_connection_along() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    client.send_request("POST", &origin.url("/echo"), &["Content-Length: 10"]).await;
    client.send("half").await;
    wait_until("the origin has its head", async || origin.hits() == 1).await;
    drop(client);
    proxy.wait_until_open(&origin.authority(), 0).await;
    wait_until("the origin is left", async || origin.current() == 0).await;
}

#[tokio::test]
async fn ipv6_origins_are_reached() {
    let (origin, proxy) = (Origin::at("::1"), narrows().start().await);
    assert_eq!(proxy.get(origin.url("/six")).await.text(), "/six");
    assert_eq!(origin.only().head.field("host"), Some(origin.authority().as_str()));
    let mut tunnel = proxy.tunnel(origin.authority()).await;
    tunnel.send("GET /t HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(tunnel.response("GET").await.text(), "/t");
}
