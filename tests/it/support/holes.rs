//! Ports that do not answer: one that refuses, one that stays silent.

use std::net::SocketAddr;
use std::net::TcpListener;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::support::Wire;

/// A port that refuses: bound, so that nobody else gets it, but not listening.
pub(crate) struct Closed {
    socket: Socket,
}

impl Closed {
    pub(crate) fn new() -> Closed {
        Closed { socket: bound("127.0.0.1:0") }
    }

    pub(crate) fn authority(&self) -> String {
        address(&self.socket).to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        address(&self.socket).port()
    }

    /// Refuses no more, and answers the first request that comes with "ok"; its body.
    pub(crate) async fn answer_one(&self) -> Vec<u8> {
        self.socket.listen(16).unwrap();
        let listener = TcpListener::from(self.socket.try_clone().unwrap());
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut wire = Wire::new(listener.accept().await.unwrap().0);
        let head = wire.head().await.unwrap().unwrap();
        let (body, _) = wire.request_body(&head).await.unwrap();
        let said = "HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 2\r\n\r\nok";
        wire.send(said).await.unwrap();
        body
    }
}

/// A port that never answers: its accept queue is full, so the kernel drops each SYN.
pub(crate) struct Blackhole {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl Blackhole {
    pub(crate) fn new() -> Blackhole {
        Blackhole::at("127.0.0.1:0")
    }

    pub(crate) fn at(at: &str) -> Blackhole {
        let listener = bound(at);
        listener.listen(0).unwrap();
        let to = address(&listener).into();
        // One is queued, the others are dropped; they make sure of it.
        let fill = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_nonblocking(true).unwrap();
            assert!(socket.connect(&to).is_err(), "a connect that does not wait is under way");
            socket
        };
        let queued = (0..3).map(fill).collect();
        Blackhole { listener, _queued: queued }
    }

    pub(crate) fn authority(&self) -> String {
        address(&self.listener).to_string()
    }
}

fn bound(at: &str) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    let at: SocketAddr = at.parse().unwrap();
    socket.bind(&at.into()).unwrap();
    socket
}

fn address(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}
