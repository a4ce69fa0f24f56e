//! Policies that only observe: they stop nobody, and count what they would have done.

mod log;
mod modes;
mod quotas;
mod replay;
