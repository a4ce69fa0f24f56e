//! HTTP/1.1 as bytes, for both ends of the bench: reads heads and bodies from a socket, keeps what was
//! read too much, and never interprets more than it is asked to.

use std::io;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;

/// A start line and its fields, as they came.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Head> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut fields = Vec::new();
        for line in lines {
            let bad = || io::Error::other(format!("not a field: {line:?}"));
            let (name, value) = line.split_once(':').ok_or_else(bad)?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Head { start, fields })
    }

    /// The value of a field that is there at most once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} more than once: {:?}", self.fields);
        all.first().copied()
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let same = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|field| field.1.as_str()).collect()
    }

    /// The members of a list field, in lower case, from all its lines.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let members = self.all(name).into_iter().flat_map(|value| value.split(','));
        members.map(|member| member.trim().to_ascii_lowercase()).filter(|m| !m.is_empty()).collect()
    }

    pub(crate) fn status(&self) -> u16 {
        let code = self.start.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("no status line: {:?}", self.start))
    }

    pub(crate) fn reason(&self) -> &str {
        self.start.splitn(3, ' ').nth(2).unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    fn length(&self) -> Option<usize> {
        self.field("content-length").map(|n| n.parse().expect("Content-Length is a number"))
    }

    fn is_chunked(&self) -> bool {
        self.list("transfer-encoding").last().is_some_and(|coding| coding == "chunked")
    }
}

/// A socket and the bytes already read from it.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    stream: S,
    unread: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Wire<S> {
        Wire { stream, unread: Vec::new() }
    }

    pub(crate) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The socket itself; nothing may be left that only we have read.
    pub(crate) fn into_stream(self) -> S {
        assert!(self.unread.is_empty(), "bytes nobody read: {:?}", self.unread);
        self.stream
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Ends our direction; the other one stays open.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Some bytes, none at the end.
    pub(crate) async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.unread))
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            self.more().await?;
        }
        let rest = self.unread.split_off(length);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    pub(crate) async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill().await? > 0 {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// The next head, or none if the peer ended before it began one.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.unread[seen..].windows(4).position(|four| four == b"\r\n\r\n") {
                let bytes = self.exactly(seen + at + 4).await?;
                return Head::parse(&bytes).map(Some);
            }
            seen = self.unread.len().saturating_sub(3);
            if self.fill().await? == 0 {
                return if self.unread.is_empty() { Ok(None) } else { Err(cut_short()) };
            }
        }
    }

    /// The body of a request with this head, and its trailers.
    pub(crate) async fn request_body(&mut self, head: &Head) -> io::Result<(Vec<u8>, Trailers)> {
        if head.is_chunked() {
            return self.chunked().await;
        }
        Ok((self.exactly(head.length().unwrap_or(0)).await?, Vec::new()))
    }

    /// The body of a response with this head to a request of `method`, and its trailers.
    pub(crate) async fn response_body(
        &mut self,
        method: &str,
        head: &Head,
    ) -> io::Result<(Vec<u8>, Trailers)> {
        if method == "HEAD" || matches!(head.status(), 100..200 | 204 | 304) {
            return Ok((Vec::new(), Vec::new()));
        }
        if head.is_chunked() {
            return self.chunked().await;
        }
        match head.length() {
            Some(length) => Ok((self.exactly(length).await?, Vec::new())),
            None => Ok((self.rest().await?, Vec::new())),
        }
    }

    /// A chunk, empty for the last one (whose trailers are still to be read).
    pub(crate) async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut chunk = self.exactly(size + 2).await?;
        if chunk.split_off(size) != b"\r\n" {
            return Err(io::Error::other("a chunk longer than its size"));
        }
        Ok(chunk)
    }

    async fn chunked(&mut self) -> io::Result<(Vec<u8>, Trailers)> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk().await?;
            if chunk.is_empty() {
                break;
            }
            body.extend(chunk);
        }
        let mut section = b"trailers\r\n".to_vec();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok((body, Head::parse(&section)?.fields));
            }
            section.extend(line.as_bytes());
            section.extend(b"\r\n");
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|two| two == b"\r\n") {
                let line = self.exactly(at + 2).await?;
                return String::from_utf8(line[..at].to_vec()).map_err(io::Error::other);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.fill().await? == 0 { Err(cut_short()) } else { Ok(()) }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.unread.reserve(64 * 1024);
        self.stream.read_buf(&mut self.unread).await
    }
}

pub(crate) type Trailers = Vec<(String, String)>;

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "ended in the middle of a message")
}
