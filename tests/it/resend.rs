//! When a request is sent again (RFC 9110 §9.2.2, RFC 9112 §9.3.1), at each moment at which an origin
//! may close a kept connection.

use std::sync::Arc;
use std::sync::Mutex;

use crate::support::Client;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Response;
use crate::support::narrows;
use crate::support::wait_until;

const OK: &str = "HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 2\r\n\r\nok";

/// When the origin closes, counted on the second request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Once its first byte is there.
    FirstByte,
    /// Once its head is there.
    Head,
    /// Once all of it is there.
    Whole,
    /// Behind the first byte of the answer.
    AnswerBegun,
    /// Behind the first line of the answer.
    StatusLine,
    /// Behind the answer's head.
    AnswerHead,
}

/// How it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Ends,
    Resets,
}

/// The methods of the requests whose first byte the origin saw behind the first one of all, in order,
/// as far as it read them.
type Seen = Arc<Mutex<Vec<String>>>;

/// Answers the first request of the first connection, and closes at this moment of each further
/// request; those on other connections are answered, unless `always`.
fn origin(moment: Moment, how: How, always: bool) -> (Origin, Seen) {
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let first = Arc::new(Mutex::new(true));
    let origin = Origin::raw(move |mut connection| {
        let (notes, first) = (Arc::clone(&notes), Arc::clone(&first));
        async move {
            let is_first = std::mem::take(&mut *first.lock().unwrap());
            if is_first {
                connection.head().await.unwrap();
                connection.send(OK).await.unwrap();
            }
            loop {
                let Ok(begun) = connection.exactly(1).await else { return };
                let fails = is_first || always;
                let mut method = String::from_utf8(begun).unwrap();
                if fails && moment == Moment::FirstByte {
                    notes.lock().unwrap().push(method);
                    break;
                }
                let Ok(Some(head)) = connection.head().await else { return };
                method.push_str(head.method());
                notes.lock().unwrap().push(method);
                if fails && moment == Moment::Head {
                    break;
                }
                connection.request_body(&head).await.unwrap();
                let said = match moment {
                    _ if !fails => OK,
                    Moment::FirstByte | Moment::Head | Moment::Whole => "",
                    Moment::AnswerBegun => "H",
                    Moment::StatusLine => "HTTP/1.1 200 OK\r\n",
                    Moment::AnswerHead => OK.strip_suffix("ok").unwrap(),
                };
                connection.send(said).await.unwrap();
                if fails {
                    break;
                }
            }
            if how == How::Resets {
                connection.reset();
            }
        }
    });
    (origin, seen)
}

/// A proxy with a kept connection to the origin.
async fn kept(origin: &Origin) -> (Proxy, Client) {
    let proxy = narrows().flags("--threads 1").start().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get(origin.url("/")).await.text(), "ok");
    wait_until("it is kept", async || proxy.host(&origin.authority()).await.idle == 1).await;
    (proxy, client)
}

async fn ask(client: &mut Client, origin: &Origin, method: &str, body: &str) -> Response {
    let length = format!("Content-Length: {}", body.len());
    let fields: &[&str] = if body.is_empty() { &[] } else { &[&length] };
    client.send_request(method, &origin.url("/"), fields).await;
    client.send(body).await;
    client.response(method).await
}

const SILENT: [Moment; 3] = [Moment::FirstByte, Moment::Head, Moment::Whole];

#[tokio::test]
async fn an_idempotent_request_is_sent_again_if_no_byte_of_an_answer_came() {
    for moment in SILENT {
        for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PUT", "TRACE"] {
            let (origin, seen) = origin(moment, How::Ends, false);
            let (_proxy, mut client) = kept(&origin).await;
            let answer = ask(&mut client, &origin, method, "").await;
            assert_eq!(answer.status(), 200, "{method} {moment:?}: {answer:?}");
            assert_eq!(seen.lock().unwrap().len(), 2, "{method} {moment:?}");
            assert_eq!(origin.accepted(), 2);
        }
    }
}

#[tokio::test]
async fn a_request_that_is_not_idempotent_or_has_a_body_is_not_sent_again() {
    for moment in SILENT {
        for how in [How::Ends, How::Resets] {
            for (method, body) in
                [("POST", "once"), ("POST", ""), ("PATCH", "once"), ("PUT", "once")]
            {
                let (origin, seen) = origin(moment, how, false);
                let (_proxy, mut client) = kept(&origin).await;
                let answer = ask(&mut client, &origin, method, body).await;
                answer.assert_refused(502, "connection_terminated");
                assert_eq!(seen.lock().unwrap().len(), 1, "{method} {body:?} {moment:?} {how:?}");
                assert_eq!(origin.accepted(), 1, "{method} {body:?} {moment:?} {how:?}");
            }
        }
    }
}

#[tokio::test]
async fn no_request_is_sent_again_after_a_byte_of_an_answer() {
    for moment in [Moment::AnswerBegun, Moment::StatusLine] {
        let (origin, seen) = origin(moment, How::Ends, false);
        let (_proxy, mut client) = kept(&origin).await;
        let answer = ask(&mut client, &origin, "GET", "").await;
        answer.assert_refused(502, "http_response_incomplete");
        assert_eq!((seen.lock().unwrap().len(), origin.accepted()), (1, 1), "{moment:?}");
    }
    let (origin, seen) = origin(Moment::AnswerHead, How::Ends, false);
    let (_proxy, mut client) = kept(&origin).await;
    client.send_request("GET", &origin.url("/"), &[]).await;
    // The end may be known before the head is out.
    if client.try_head().await.is_some() {
        assert!(client.rest().await.is_err(), "an answer without its body looks whole");
    }
    assert_eq!((seen.lock().unwrap().len(), origin.accepted()), (1, 1));
}

#[tokio::test]
async fn no_request_is_sent_a_third_time() {
    for how in [How::Ends, How::Resets] {
        let (origin, seen) = origin(Moment::Whole, how, true);
        let (_proxy, mut client) = kept(&origin).await;
        ask(&mut client, &origin, "GET", "").await.assert_refused(502, "connection_terminated");
        assert_eq!((seen.lock().unwrap().len(), origin.accepted()), (2, 2));
    }
}

#[tokio::test]
async fn a_request_on_a_connection_of_its_own_is_not_sent_again() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
    });
    let proxy = narrows().start().await;
    proxy.get(origin.url("/")).await.assert_refused(502, "connection_terminated");
    assert_eq!(origin.accepted(), 1);
}

/// What was never written may be, whatever it is: the bytes nobody asked for were there before it.
#[tokio::test]
async fn a_post_that_was_not_written_yet_goes_on_another_connection() {
    let origin = Origin::raw(|mut connection| async move {
        while let Ok(Some(head)) = connection.head().await {
            connection.request_body(&head).await.unwrap();
            connection.send(format!("{OK}{OK}")).await.unwrap();
        }
    });
    let proxy = narrows().flags("--threads 1").start().await;
    let mut client = proxy.client().await;
    for _ in 0..5 {
        assert_eq!(client.post(origin.url("/"), b"once").await.text(), "ok");
    }
    assert_eq!(origin.accepted(), 5);
}
