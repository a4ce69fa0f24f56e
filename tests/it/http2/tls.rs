//! HTTP/2 with a proxy over TLS, by ALPN and no other way (RFC 9113 §3.2).

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::Certs;
use crate::support::Http2;
use crate::support::MIB;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Wire;
use crate::support::narrows;
use crate::support::pattern;
use crate::support::soon;

async fn secure_proxy(certs: &Certs) -> Proxy {
    let (cert, key) = certs.files("proxy", &["localhost"]);
    let flags = format!(
        "--listen https://127.0.0.1:0 --tls-cert {} --tls-key {}",
        cert.display(),
        key.display()
    );
    narrows().bare().flags("--admin-port 0").flags(flags).start().await
}

async fn connect(certs: &Certs, proxy: &Proxy, alpn: &[&str]) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon("a handshake", certs.client(alpn).connect(name, stream)).await.unwrap()
}

#[tokio::test]
async fn a_client_that_offers_h2_by_alpn_gets_it() {
    let certs = Certs::new();
    let (origin, echo, proxy) = (Origin::start(), Origin::echo(), secure_proxy(&certs).await);
    let stream = connect(&certs, &proxy, &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = Http2::over(stream).await;
    let answer = client.get(&origin.url("/size?n=3000000")).await;
    assert!(answer.body == pattern(3_000_000), "{} bytes", answer.body.len());
    let mut tunnel = client.tunnel(&echo.authority()).await;
    tunnel.echo("through").await;
    tunnel.finish();
    assert_eq!(tunnel.rest().await.unwrap(), b"");
    let post = http::Request::post(origin.url("/echo")).body(()).unwrap();
    let body = pattern(MIB);
    assert!(client.request(post, &body).await.body == body);
}

#[tokio::test]
async fn a_client_that_does_not_offer_it_speaks_http_1() {
    let certs = Certs::new();
    let (origin, proxy) = (Origin::start(), secure_proxy(&certs).await);
    for alpn in [&["http/1.1"][..], &[]] {
        let mut wire = Wire::new(connect(&certs, &proxy, alpn).await);
        let (url, host) = (origin.url("/"), origin.authority());
        wire.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.unwrap();
        let head = soon("an answer", wire.head()).await.unwrap().unwrap();
        assert_eq!(head.status(), 200);
    }
    let mut wire = Wire::new(connect(&certs, &proxy, &[]).await);
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let head = soon("an answer", wire.head()).await.unwrap().unwrap();
    assert_eq!(head.status(), 505, "nobody agreed on HTTP/2");
}
