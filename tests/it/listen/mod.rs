//! How clients come in: by TLS, by several listeners, through balancers, and how many of them.

mod balancers;
mod bounds;
mod crowd;
mod tls;

use std::io;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::Certs;
use crate::support::Client;
use crate::support::Head;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Setup;
use crate::support::Wire;
use crate::support::narrows;
use crate::support::soon;

/// A client's connection by TLS.
type Secure = Wire<TlsStream<TcpStream>>;

/// narrows with a certificate for 127.0.0.1.
fn with_tls(certs: &Certs) -> Setup {
    let (certificate, key) = certs.files("proxy", &["127.0.0.1"]);
    narrows().flags(format!("--tls-cert {} --tls-key {}", certificate.display(), key.display()))
}

/// A client that believes in the proxy's certificate, by TLS.
async fn secure(proxy: &Proxy, connector: &TlsConnector) -> io::Result<Secure> {
    let stream = proxy.client().await.into_stream();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    Ok(Wire::new(soon("TLS", connector.connect(name, stream)).await?))
}

/// Sends one request and hears the head of its answer.
async fn ask(client: &mut Secure, method: &str, target: &str, fields: &str) -> Head {
    let host = target.strip_prefix("http://").unwrap_or(target).split('/').next().unwrap();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    soon("TLS to take a head", client.send(head)).await.unwrap();
    soon("a head", client.head()).await.unwrap().expect("an answer")
}

/// An open tunnel by TLS.
async fn secure_tunnel(proxy: &Proxy, certs: &Certs, origin: &Origin) -> Secure {
    let mut client = secure(proxy, &certs.client(&[])).await.unwrap();
    assert_eq!(ask(&mut client, "CONNECT", &origin.authority(), "").await.status(), 200);
    client
}

#[tokio::test]
async fn each_listener_is_named_by_the_ready_line_and_serves() {
    let certs = Certs::new();
    let (certificate, key) = certs.files("proxy", &["127.0.0.1"]);
    let origin = Origin::start();
    let proxy = narrows()
        .bare()
        .flags("--admin-port 0 --listen http://127.0.0.1:0,http://127.0.0.2:0")
        .flags("--listen https://127.0.0.1:0")
        .flags(format!("--tls-cert {} --tls-key {}", certificate.display(), key.display()))
        .start()
        .await;
    let urls = proxy.urls();
    assert_eq!(urls.len(), 3, "{}", proxy.ready);
    for url in &urls[..2] {
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        assert_eq!(Client::to(address).await.get(origin.url("/x")).await.status(), 200, "{url}");
    }
    let address = urls[2].strip_prefix("https://127.0.0.1:").unwrap();
    let stream = TcpStream::connect(("127.0.0.1", address.parse().unwrap())).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = certs.client(&["http/1.1"]).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = ask(&mut Wire::new(stream), "GET", &origin.url("/y"), "").await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let proxy = narrows().start().await;
    let taken = proxy.url();
    let ended = narrows().bare().flags(format!("--listen http://127.0.0.1:0,{taken}")).run().await;
    assert_eq!(ended.code, Some(1));
    let address = taken.strip_prefix("http://").unwrap();
    assert!(ended.stderr.contains(&format!("cannot listen on {address}")), "{}", ended.stderr);
}
