//! narrows: a distributed HTTP(S) forward proxy that caps connections per destination host.
//!
//! The modules are floors, one paragraph each, lowest first; a module uses lower floors only.

pub mod base;

pub mod listen;
pub mod store;
pub mod telemetry;

pub mod limit;

pub mod upstream;

pub mod admin;
pub mod proxy;

pub mod config;

pub mod app;
