//! x

mod scripts;
