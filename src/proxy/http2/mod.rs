//! HTTP/2 from clients (RFC 9113).

mod stream;

pub(crate) use self::stream::Stream;
