//! What answers say of how they came about, and what they keep to themselves.

use http::Request;

use crate::support::Closed;
use crate::support::Head;
use crate::support::Http2;
use crate::support::Names;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::soon;
use crate::support::wait_until;

fn told(head: &Head) -> Vec<&str> {
    head.all("proxy-status")
}

#[tokio::test]
async fn an_explained_response_says_how_it_came_about_behind_what_others_said() {
    let origin = Origin::raw(|mut connection| async move {
        while let Ok(Some(_)) = connection.head().await {
            let head = "HTTP/1.1 200 OK\r\nX-Origin: 1\r\nProxy-Status: cdn; hit\r\n\
                        Proxy-Status: \"b, c\"; fwd=miss\r\nContent-Length: 0\r\n\r\n";
            connection.send(head).await.unwrap();
        }
    });
    let proxy = narrows().flags("--explain on --pool-idle 60s").start().await;
    let mut client = proxy.client().await;
    let first = client.get(origin.url("/")).await;
    let ours = "narrows; narrows-wait=0; narrows-attempts=1";
    assert_eq!(told(&first.head), ["cdn; hit", "\"b, c\"; fwd=miss", ours]);
    wait_until("it is kept", async || proxy.host(&origin.authority()).await.idle == 1).await;
    let second = client.get(origin.url("/")).await;
    assert_eq!(*told(&second.head).last().unwrap(), format!("{ours}; narrows-reused"));

    let proxy = narrows().start().await;
    let answer = proxy.get(origin.url("/")).await;
    assert_eq!(told(&answer.head), ["cdn; hit", "\"b, c\"; fwd=miss"], "unless asked to");
}

#[tokio::test]
async fn an_explained_tunnel_says_how_many_addresses_were_tried() {
    let origin = Origin::at("127.0.0.3");
    let port = origin.port();
    let names = Names::of(&[("two.test", &["127.0.0.2", "127.0.0.3"])]).await;
    let flags = format!("--explain on --resolver {}", names.address());
    let proxy = narrows().flags(flags).start().await;
    let answer = proxy.connect(format!("two.test:{port}")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(told(&answer.head), ["narrows; narrows-wait=0; narrows-attempts=2"]);
    let answer = proxy.connect(origin.authority()).await;
    assert_eq!(told(&answer.head), ["narrows; narrows-wait=0; narrows-attempts=1"]);
    let answer = narrows().start().await.connect(origin.authority()).await;
    assert!(told(&answer.head).is_empty());
}

#[tokio::test]
async fn an_explained_refusal_says_how_long_it_waited() {
    let origin = Origin::echo();
    let flags = "--explain on --max-connections 1 --queue-timeout 300ms";
    let proxy = narrows().flags(flags).start().await;
    let _holder = proxy.tunnel(origin.authority()).await;
    let answer = proxy.connect(origin.authority()).await;
    answer.assert_refused(503, "connection_limit_reached");
    let told = told(&answer.head)[0];
    let wait = told.split("narrows-wait=").nth(1).unwrap_or_else(|| panic!("{told}"));
    assert!((300..5000).contains(&wait.parse::<u32>().unwrap()), "{told}");
}

#[tokio::test]
async fn over_http_2_the_same_is_explained() {
    let (origin, echo) = (Origin::start(), Origin::echo());
    let flags = "--explain on --max-connections 1 --queue-timeout 300ms";
    let proxy = narrows().flags(flags).start().await;
    let mut client = Http2::to(proxy.address).await;
    let ours = "narrows; narrows-wait=0; narrows-attempts=1";
    let answer = client.get(&origin.url("/")).await;
    assert_eq!(answer.field("proxy-status"), Some(ours));

    let connect = || Request::connect(echo.authority()).body(()).unwrap();
    let (answer, _sending) = client.begin(connect(), false).await;
    let opened = soon("a tunnel", answer).await.unwrap();
    assert_eq!(opened.status(), 200);
    assert_eq!(opened.headers()["proxy-status"], ours);
    let refused = client.open(connect()).await.unwrap_err();
    assert_eq!(refused.status, 503);
    let told = refused.field("proxy-status").unwrap();
    assert!(told.starts_with("narrows; error=connection_limit_reached; "), "{told}");
    let wait = told.split("narrows-wait=").nth(1).unwrap_or_else(|| panic!("{told}"));
    assert!((300..5000).contains(&wait.parse::<u32>().unwrap()), "{told}");
    drop(opened);

    let proxy = narrows().start().await;
    let mut client = Http2::to(proxy.address).await;
    let (answer, _sending) = client.begin(connect(), false).await;
    let opened = soon("a tunnel", answer).await.unwrap();
    assert_eq!(opened.headers().get("proxy-status"), None, "unless asked to");
}

#[tokio::test]
async fn an_answer_has_no_address_unless_details_are_asked_for() {
    let closed = Closed::new();
    let names = Names::of(&[("inner.test", &["127.0.0.1"])]).await;
    let url = format!("http://inner.test:{}/", closed.authority().rsplit(':').next().unwrap());
    let setup = narrows().flags(format!("--resolver {}", names.address()));
    let proxy = setup.clone().flags("--log-level debug").start().await;
    let answer = proxy.get(&url).await;
    answer.assert_refused(502, "connection_refused");
    assert!(!format!("{answer:?}").contains("127.0.0.1"), "{answer:?}");
    let line = &proxy.stderr.wait_for(1, "connection failed").await[0];
    assert!(line.contains("127.0.0.1"), "the log tells: {line}");

    let proxy = setup.flags("--error-details on").start().await;
    let answer = proxy.get(&url).await;
    answer.assert_refused(502, "connection_refused");
    assert!(answer.json()["detail"].as_str().unwrap().contains("127.0.0.1"), "{answer:?}");
    assert!(told(&answer.head)[0].contains("; details=\"127.0.0.1:"), "{answer:?}");
}
