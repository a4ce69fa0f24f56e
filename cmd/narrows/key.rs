//! `narrows key`: a key, and its line for a file of keys.
//!
//! SECURITY: the line goes to standard output, so that it can be put behind a file; the key itself goes to
//! standard error, and is to be had once. One that there is already is never an argument, which others could read.

use std::io;
use std::io::Read;
use std::io::Write;

use anyhow::Context;
use narrows::config::KeyLine;
use narrows::policy::access::keys;

/// The longest key that is read, in bytes.
const LONGEST: u64 = 1024;

pub(crate) fn line(wanted: &KeyLine) -> anyhow::Result<String> {
    let key = if wanted.is_there { read()? } else { keys::fresh().context("cannot make a key")? };
    let line = keys::line(&wanted.name, &key, &wanted.attributes).context("cannot make a line")?;
    if !wanted.is_there {
        writeln!(io::stderr(), "{key}")?;
    }
    Ok(line)
}

fn read() -> anyhow::Result<String> {
    let mut text = String::new();
    io::stdin().lock().take(LONGEST).read_to_string(&mut text).context("cannot read the key")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
