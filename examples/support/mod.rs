//! What the examples share: an upstream, and a client that asks a proxy for tunnels.
//!
//! A real program needs none of this. It gives [`App::proxy_url`] to its HTTP client.

use std::error::Error;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::thread;

use narrows::app::App;

/// An open tunnel, or the line in which the proxy says why there is none.
pub(crate) type Asked = Result<TcpStream, String>;

/// Stands for the API that is to be spared: it accepts, says nothing, and closes when the client
/// does.
pub(crate) fn upstream() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &connection, &mut io::sink()));
        }
    });
    Ok(address)
}

/// Asks the proxy for a tunnel (CONNECT). It lives until the socket is dropped.
pub(crate) fn tunnel(app: &App, to: SocketAddr) -> Result<Asked, Box<dyn Error>> {
    let proxy = app.proxy_addr().ok_or("the proxy does not run")?;
    #[expect(clippy::disallowed_methods, reason = "a client of the proxy, not a second dialer")]
    let mut socket = TcpStream::connect(proxy)?;
    write!(socket, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(&socket).read_line(&mut status)?;
    let status = status.trim_end().to_owned();
    Ok(if status.starts_with("HTTP/1.1 200 ") { Ok(socket) } else { Err(status) })
}
