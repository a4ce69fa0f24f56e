//! `narrows passwd`: a password from standard input, a line for a users file out.
//!
//! SECURITY: the password is never an argument, which others could read, and is not shown while it is typed.

use std::io;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Read;
use std::io::Write;

use anyhow::Context;
use anyhow::ensure;
use narrows::config::Passwd;
use narrows::policy::access::hash_password;
use rustix::termios;
use rustix::termios::LocalModes;
use rustix::termios::OptionalActions;

/// The longest password that is read, in bytes.
const LONGEST: u64 = 512;

pub(crate) fn line(passwd: &Passwd) -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() { ask()? } else { read()? };
    ensure!(!password.is_empty(), "the password is empty");
    // RFC 7617 §2: a client could not send it.
    ensure!(!password.chars().any(char::is_control), "the password has a control character");
    let hash = hash_password(password.as_bytes()).context("cannot make a hash")?;
    Ok(match &passwd.name {
        Some(name) => format!("{name}:{hash}"),
        None => hash,
    })
}

fn ask() -> anyhow::Result<String> {
    let terminal = io::stdin();
    let before = termios::tcgetattr(&terminal)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    write!(io::stderr(), "Password: ")?;
    termios::tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let password = read();
    termios::tcsetattr(&terminal, OptionalActions::Now, &before)?;
    writeln!(io::stderr())?;
    password
}

/// The first line.
fn read() -> anyhow::Result<String> {
    let mut text = String::new();
    let read = io::stdin().lock().take(LONGEST + 1).read_line(&mut text);
    read.context("cannot read the password")?;
    let password = text.trim_end_matches(['\r', '\n']);
    ensure!(password.len() as u64 <= LONGEST, "the password is longer than {LONGEST} bytes");
    Ok(password.to_owned())
}
