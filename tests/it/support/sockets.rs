//! What the kernel knows of a process's sockets, whatever the process says, or does not say while
//! it is stopped.

use std::collections::HashSet;

/// Local ports of a process's connections (IPv4) to this port.
pub(crate) fn ports_between(process: u32, port: u16) -> HashSet<u16> {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let names = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let names: HashSet<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let hex = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let local = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_ours = names.contains(&format!("socket:[{}]", columns.get(9)?));
        (is_ours && hex(columns[2])? == port).then(|| hex(columns[1])).flatten()
    };
    table.lines().skip(1).filter_map(local).collect()
}
