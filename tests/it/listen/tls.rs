//! TLS between clients and narrows.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::process::Command;

use crate::listen::Secure;
use crate::listen::ask;
use crate::listen::secure;
use crate::listen::secure_tunnel;
use crate::listen::with_tls;
use crate::support::Certs;
use crate::support::End;
use crate::support::MIB;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::pattern;
use crate::support::soon;

/// What curl says of these words with no configuration of anybody's.
async fn curl(words: &[&str]) -> (bool, String) {
    let mut command = Command::new("curl");
    command.args(["-q", "-sS"]).args(words).env_remove("no_proxy").env_remove("NO_PROXY");
    let child = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = soon("curl", child).await.expect("curl is needed for this test");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn curl_goes_by_an_https_proxy_for_plain_requests_and_tunnels() {
    let certs = Certs::new();
    let origin = Origin::start();
    let inside = Origin::https(certs.server(&["127.0.0.1"], &[]).0);
    let proxy = with_tls(&certs).start().await;
    let authority = certs.file();
    let authority = authority.to_str().unwrap();
    let by = proxy.url();
    assert!(by.starts_with("https://127.0.0.1:"), "{by}");
    let known = ["--proxy", &by, "--proxy-cacert", authority, "--cacert", authority];
    let plain = curl(&[&known[..], &[&origin.url("/one"), &origin.url("/two")]].concat()).await;
    assert_eq!(plain, (true, "/one/two".to_owned()));
    let url = format!("https://{}/three", inside.authority());
    assert_eq!(curl(&[&known[..], &[&url]].concat()).await, (true, "/three".to_owned()));
    // A client that does not know the authority goes no further.
    let (is_fine, said) = curl(&["--proxy", &by, &origin.url("/four")]).await;
    assert!(!is_fine && said.contains("certificate"), "{said}");
    assert_eq!(origin.hits(), 2);
    proxy.wait_until_metric("narrows_tls_handshakes_total", &[("result", "ok")], 2.0).await;
}

#[tokio::test]
async fn plain_http_to_a_port_for_tls_is_told_so_in_the_clear() {
    let (certs, origin) = (Certs::new(), Origin::start());
    let proxy = with_tls(&certs).start().await;
    let mut client = proxy.client().await;
    let answer = client.get(origin.url("/x")).await;
    answer.assert_refused(400, "http_request_error");
    assert!(answer.text().contains("must begin with https://"), "{}", answer.text());
    proxy.stderr.wait_for(1, "plain HTTP to a port for TLS").await;
    assert_eq!(client.end().await, End::Fin);
    assert_eq!(origin.hits(), 0);
}

#[tokio::test]
async fn tls_to_a_plain_port_is_told_so_in_the_clear() {
    let (certs, proxy) = (Certs::new(), narrows().start().await);
    let error = secure(&proxy, &certs.client(&[])).await.unwrap_err();
    assert!(error.to_string().contains("InvalidContentType"), "HTTP, not TLS: {error}");
    let mut client = proxy.client().await;
    client.send(b"\x16\x03\x01\x02\0\x01").await;
    let answer = client.response("GET").await;
    answer.assert_refused(400, "http_request_error");
    assert!(answer.text().contains("this is TLS"), "{}", answer.text());
    proxy.stderr.wait_for(1, "TLS to a plain port").await;
}

#[tokio::test]
async fn a_connection_by_tls_serves_one_request_after_the_other() {
    let (certs, origin) = (Certs::new(), Origin::start());
    let proxy = with_tls(&certs).start().await;
    let mut client = secure(&proxy, &certs.client(&[])).await.unwrap();
    for path in ["/1", "/2", "/3"] {
        let head = ask(&mut client, "GET", &origin.url(path), "").await;
        assert_eq!(head.status(), 200);
        let (body, _) = client.response_body("GET", &head).await.unwrap();
        assert_eq!(body, path.as_bytes());
    }
    // A large body, both ways at once.
    let sent = pattern(4 * MIB);
    let length = format!("Content-Length: {}\r\n", sent.len());
    let url = origin.url("/echo");
    client.send(format!("POST {url} HTTP/1.1\r\nHost: x\r\n{length}\r\n")).await.unwrap();
    client.send(&sent).await.unwrap();
    let head = client.head().await.unwrap().unwrap();
    let (body, _) = soon("the body", client.response_body("POST", &head)).await.unwrap();
    assert!(body == sent);
}

#[tokio::test]
async fn a_tunnel_by_tls_moves_megabytes_both_ways_and_ends_one_way_at_a_time() {
    let (certs, sent) = (Certs::new(), pattern(8 * MIB));
    let expected = sent.clone();
    // Answers only once its peer has ended.
    let origin = Origin::raw(move |mut connection| {
        let expected = expected.clone();
        async move {
            let got = connection.rest().await.unwrap();
            assert!(got == expected, "{} bytes", got.len());
            connection.send(&got).await.unwrap();
        }
    });
    let proxy = with_tls(&certs).start().await;
    let mut client = secure_tunnel(&proxy, &certs, &origin).await;
    client.send(&sent).await.unwrap();
    client.finish().await.unwrap();
    // Clean only by close_notify: a FIN alone would be an error.
    let back = soon("all that was sent", client.rest()).await.unwrap();
    assert!(back == sent, "{} bytes", back.len());
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_client_by_tls_that_reads_late_gets_the_last_byte() {
    let certs = Certs::new();
    let origin = Origin::raw(|mut connection| async move {
        let asked = connection.exactly(1).await.unwrap();
        assert_eq!(asked, b"?");
        connection.send(pattern(6 * MIB)).await.unwrap();
        // Open until the client has had it all, so that no end pushes the rest.
        connection.exactly(1).await.unwrap();
    });
    let proxy = with_tls(&certs).start().await;
    let mut client = secure_tunnel(&proxy, &certs, &origin).await;
    client.send("?").await.unwrap();
    // Until the proxy can send no more: nothing has been read here.
    let moved = async || proxy.metric("narrows_bytes_total", &[]).await;
    assert!(moved().await < 0.5, "counted at the end");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let got = soon("all of it", client.exactly(6 * MIB)).await.unwrap();
    assert!(got == pattern(6 * MIB));
    client.send("!").await.unwrap();
}

#[tokio::test]
async fn an_end_without_close_notify_is_a_reset_to_the_origin() {
    let certs = Certs::new();
    let (sender, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut connection| {
        let sender = sender.clone();
        async move { sender.send(connection.end().await).unwrap_or_default() }
    });
    let proxy = with_tls(&certs).start().await;
    let mut cut = secure_tunnel(&proxy, &certs, &origin).await;
    cut.send("abc").await.unwrap();
    // Below TLS: a FIN, as anybody on the way could send it.
    let socket = cut.stream().get_ref().0;
    rustix::net::shutdown(socket, rustix::net::Shutdown::Write).unwrap();
    assert_eq!(soon("an end", ends.recv()).await.unwrap().0, End::Reset);
    let mut ended = secure_tunnel(&proxy, &certs, &origin).await;
    ended.send("abc").await.unwrap();
    ended.finish().await.unwrap();
    assert_eq!(soon("an end", ends.recv()).await.unwrap(), (End::Fin, 3));
}

#[tokio::test]
async fn a_client_by_tls_that_leaves_takes_its_waiting_request_with_it() {
    let (certs, origin) = (Certs::new(), Origin::echo());
    let flags = "--max-connections 1 --queue-timeout 60s";
    let proxy = with_tls(&certs).flags(flags).start().await;
    let _holder = secure_tunnel(&proxy, &certs, &origin).await;
    let mut waiting = secure(&proxy, &certs.client(&[])).await.unwrap();
    let authority = origin.authority();
    waiting.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n")).await.unwrap();
    proxy.wait_until_waiting(&authority, 1).await;
    drop(waiting);
    proxy.wait_until_waiting(&authority, 0).await;
}

#[tokio::test]
async fn an_upgraded_connection_by_tls_carries_bytes_both_ways() {
    let (certs, origin) = (Certs::new(), Origin::start());
    let proxy = with_tls(&certs).start().await;
    let mut client = secure(&proxy, &certs.client(&[])).await.unwrap();
    let fields = "Connection: Upgrade\r\nUpgrade: echo\r\nSec-WebSocket-Key: k\r\n";
    let head = ask(&mut client, "GET", &origin.url("/upgrade"), fields).await;
    assert_eq!((head.status(), head.field("upgrade")), (101, Some("echo")));
    assert_eq!(client.exactly(5).await.unwrap(), b"first");
    client.send("two").await.unwrap();
    assert_eq!(client.exactly(3).await.unwrap(), b"two");
}

#[tokio::test]
async fn a_client_that_is_slow_with_tls_is_cut_and_delays_nobody() {
    let (certs, origin) = (Certs::new(), Origin::start());
    let proxy = with_tls(&certs).flags("--threads 1 --handshake-timeout 1s").start().await;
    let mut slow = Vec::new();
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x02\0\x01"] {
        let mut client = proxy.client().await;
        client.send(bytes).await;
        slow.push(client);
    }
    let mut client = secure(&proxy, &certs.client(&[])).await.unwrap();
    assert_eq!(ask(&mut client, "GET", &origin.url("/x"), "").await.status(), 200);
    for mut slow in slow {
        // Closed by FIN, or reset over what was not read.
        slow.end().await;
    }
    let labels = [("bound", "handshake_time")];
    proxy.wait_until_metric("narrows_bounds_met_total", &labels, 3.0).await;
}

/// The certificate that the proxy shows to who comes now.
async fn shown(proxy: &Proxy, certs: &Certs) -> CertificateDer<'static> {
    let mut client = secure(proxy, &certs.client(&[])).await.unwrap();
    let shown = client.stream().get_ref().1.peer_certificates().unwrap();
    shown[0].clone().into_owned()
}

fn read(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

async fn wait_until_reloads(proxy: &Proxy, result: &str, count: u32) {
    let labels = [("result", result)];
    proxy.wait_until_metric("narrows_tls_reloads_total", &labels, count.into()).await;
}

#[tokio::test]
async fn a_changed_certificate_is_shown_to_who_comes_and_a_bad_one_to_nobody() {
    let (certs, origin) = (Certs::new(), Origin::start());
    let proxy = with_tls(&certs).start().await;
    let (certificate, key) = certs.files("next", &["127.0.0.1"]);
    let (shown_file, key_file) = (
        certs.file().with_file_name("proxy-cert.pem"),
        certs.file().with_file_name("proxy-key.pem"),
    );
    let first = read(&shown_file);
    assert_eq!(shown(&proxy, &certs).await, first);
    let mut old: Secure = secure(&proxy, &certs.client(&[])).await.unwrap();

    // Half of a change: the key is the old one's.
    fs::copy(&certificate, &shown_file).unwrap();
    wait_until_reloads(&proxy, "failed", 1).await;
    proxy.stderr.wait_for(1, "is not the key of the certificate").await;
    assert_eq!(shown(&proxy, &certs).await, first);

    fs::copy(&key, &key_file).unwrap();
    wait_until_reloads(&proxy, "ok", 1).await;
    assert_eq!(shown(&proxy, &certs).await, read(&certificate));
    assert_eq!(ask(&mut old, "GET", &origin.url("/x"), "").await.status(), 200, "it goes on");

    fs::remove_file(&key_file).unwrap();
    wait_until_reloads(&proxy, "failed", 2).await;
    assert_eq!(shown(&proxy, &certs).await, read(&certificate));
}

#[tokio::test]
async fn a_certificate_behind_a_link_that_is_swapped_is_found() {
    let certs = Certs::new();
    let folder = tempfile::tempdir().unwrap();
    // As Kubernetes mounts a secret: files are links through a link to the folder of a version.
    let version = |name: &str| {
        let (certificate, key) = certs.files(name, &["127.0.0.1"]);
        let version = folder.path().join(name);
        fs::create_dir(&version).unwrap();
        fs::copy(&certificate, version.join("tls.crt")).unwrap();
        fs::copy(key, version.join("tls.key")).unwrap();
        read(&certificate)
    };
    let path = |name: &str| folder.path().join(name);
    let link = |from: &str, to: &str| std::os::unix::fs::symlink(from, path(to)).unwrap();
    let (first, second) = (version("one"), version("two"));
    link("one", "..data");
    link("..data/tls.crt", "tls.crt");
    link("..data/tls.key", "tls.key");
    let files = (path("tls.crt"), path("tls.key"));
    let flags = format!("--tls-cert {} --tls-key {}", files.0.display(), files.1.display());
    let proxy = narrows().flags(flags).start().await;
    assert_eq!(shown(&proxy, &certs).await, first);
    link("two", "..tmp");
    fs::rename(path("..tmp"), path("..data")).unwrap();
    wait_until_reloads(&proxy, "ok", 1).await;
    assert_eq!(shown(&proxy, &certs).await, second);
}

/// Whether a client that connects so gets an answer. With TLS 1.3 it hears only after its own
/// part of the handshake that its certificate will not do.
async fn is_served(proxy: &Proxy, connector: &tokio_rustls::TlsConnector, origin: &Origin) -> bool {
    let Ok(mut client) = secure(proxy, connector).await else { return false };
    let url = origin.url("/x");
    let request = format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.authority());
    if client.send(request).await.is_err() {
        return false;
    }
    matches!(soon("an answer or none", client.head()).await, Ok(Some(head)) if head.status() == 200)
}

#[tokio::test]
async fn a_client_shows_a_certificate_of_the_authority_or_is_not_served() {
    let (certs, others, origin) = (Certs::new(), Certs::new(), Origin::start());
    let ca = certs.file();
    let setup = with_tls(&certs).flags(format!("--tls-client-ca {}", ca.display()));
    let with = certs.client_with(&certs.files("worker", &["worker.test"]));
    // Believes the proxy, shows what another authority has signed.
    let with_other = certs.client_with(&others.files("worker", &["worker.test"]));
    let without = certs.client(&[]);

    let proxy = setup.clone().start().await;
    assert!(is_served(&proxy, &with, &origin).await);
    assert!(!is_served(&proxy, &without, &origin).await);
    assert!(!is_served(&proxy, &with_other, &origin).await);
    proxy.wait_until_metric("narrows_tls_handshakes_total", &[("result", "failed")], 2.0).await;

    let proxy = setup.flags("--tls-client-auth optional").start().await;
    assert!(is_served(&proxy, &with, &origin).await);
    assert!(is_served(&proxy, &without, &origin).await);
    assert!(!is_served(&proxy, &with_other, &origin).await);
}

#[tokio::test]
async fn http_2_is_spoken_by_tls_with_who_names_it() {
    let certs = Certs::new();
    let proxy = with_tls(&certs).start().await;
    let mut client = secure(&proxy, &certs.client(&["h2", "http/1.1"])).await.unwrap();
    assert_eq!(client.stream().get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    client.send([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat()).await.unwrap();
    let frame = soon("the proxy's settings", client.exactly(9)).await.unwrap();
    assert_eq!(frame[3], 4, "SETTINGS: {frame:?}");
    assert!(secure(&proxy, &certs.client(&["h3"])).await.is_err());
}

#[tokio::test]
async fn who_shows_a_certificate_is_known_by_its_name() {
    let (certs, origin) = (Certs::new(), Origin::start());
    let setup = with_tls(&certs).flags(format!("--tls-client-ca {}", certs.file().display()));
    let with = certs.client_with(&certs.files("worker", &["worker.test"]));
    let labels = [("identity", "worker")];
    for more in ["", "--allow-from 127.0.0.1"] {
        let proxy = setup.clone().flags(more).start().await;
        assert!(is_served(&proxy, &with, &origin).await);
        proxy.wait_until_metric("narrows_identity_requests_total", &labels, 1.0).await;
    }
}

#[tokio::test]
async fn a_stop_lets_a_tunnel_by_tls_end_and_ends_idle_connections() {
    let (certs, origin) = (Certs::new(), Origin::echo());
    let mut proxy = with_tls(&certs).start().await;
    let mut idle = secure(&proxy, &certs.client(&[])).await.unwrap();
    let mut tunnel = secure_tunnel(&proxy, &certs, &origin).await;
    let half = proxy.client().await;
    proxy.terminate();
    // Whether by close_notify or not: it has nothing to say.
    drop(soon("an end", idle.rest()).await);
    tunnel.send("still here").await.unwrap();
    assert_eq!(tunnel.exactly(10).await.unwrap(), b"still here");
    tunnel.finish().await.unwrap();
    soon("an end", tunnel.rest()).await.unwrap();
    assert!(proxy.ended().await.success());
    drop(half);
}
