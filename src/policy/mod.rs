//! Who may do what: decisions about a request before it costs anything. Nothing here answers,
//! counts connections, or knows how requests are written.

pub mod access;
