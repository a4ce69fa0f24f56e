//! HTTP/2 from clients: plain requests, tunnels, and what a connection is bounded by (RFC 9113).

mod access;
mod bounds;
mod frames;
mod requests;
mod tls;
mod tunnels;
pub(crate) mod websocket;
