//! All of it, built from a Config and running.
