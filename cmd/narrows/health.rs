//! `narrows health`: asks the admin port of a narrows that runs, as a container's health check.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use anyhow::Context;
use anyhow::bail;
use narrows::config::Health;

/// Fine if `/healthz` answers 200.
pub(crate) fn ask(health: &Health) -> anyhow::Result<()> {
    let Health { address, timeout } = *health;
    #[expect(clippy::disallowed_methods, reason = "our own admin port, on behalf of no client")]
    let connected = TcpStream::connect_timeout(&address, timeout);
    let mut stream =
        connected.with_context(|| format!("no narrows answers at {address} (its admin port)"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    // "HTTP/1.1 200"
    let mut status = [0; 12];
    stream
        .read_exact(&mut status)
        .with_context(|| format!("{address} gave no answer within {timeout:?}"))?;
    if !status.starts_with(b"HTTP/1.") || !status.ends_with(b" 200") {
        bail!("{address} answered {:?}", String::from_utf8_lossy(&status));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    fn told(answer: &'static str) -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            // Until the one who asked is done with it.
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest));
        });
        let timeout = Duration::from_millis(200);
        let told = ask(&Health { address, timeout });
        server.join().unwrap();
        told
    }

    #[test]
    fn only_a_200_in_time_is_well() {
        told("HTTP/1.1 200 OK\r\n\r\n").unwrap();
        told("HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap_err();
        told("SSH-2.0-OpenSSH_9").unwrap_err();
        told("").unwrap_err();
    }

    #[test]
    fn nobody_there_is_not_well() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let timeout = Duration::from_millis(200);
        let error = ask(&Health { address, timeout }).unwrap_err();
        assert!(error.to_string().contains("no narrows answers at 127.0.0.1:"), "{error}");
    }
}
