//! A name server: answers for the names it was given, NXDOMAIN for others, or nothing at all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

pub(crate) struct Names {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    answering: JoinHandle<()>,
}

impl Names {
    /// `names` and their addresses; NXDOMAIN for all others.
    pub(crate) async fn of(names: &[(&str, &[&str])]) -> Names {
        let parse = |address: &&str| address.parse::<IpAddr>().unwrap();
        let names = names
            .iter()
            .map(|(name, ips)| ((*name).to_owned(), ips.iter().map(parse).collect()))
            .collect();
        Names::start(Some(names)).await
    }

    /// Hears each question and never answers.
    pub(crate) async fn silent() -> Names {
        Names::start(None).await
    }

    async fn start(names: Option<HashMap<String, Vec<IpAddr>>>) -> Names {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                if let Some(names) = &names {
                    socket.send_to(&reply(&buffer[..length], names), from).await.unwrap();
                }
            }
        });
        Names { address, asked, answering }
    }

    /// For `--resolver`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many questions came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// RFC 1035 §4: the question repeated, and an address record for each address of its kind.
fn reply(question: &[u8], names: &HashMap<String, Vec<IpAddr>>) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = 12;
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let kind = question[at + 2];
    let question_end = at + 5;
    let known = names.get(&labels.join("."));
    let records: Vec<Vec<u8>> = known
        .into_iter()
        .flatten()
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) if kind == 1 => Some(ip.octets().to_vec()),
            IpAddr::V6(ip) if kind == 28 => Some(ip.octets().to_vec()),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
        .collect();

    let count = u8::try_from(records.len()).unwrap();
    let no_such_name = if known.is_some() { 0 } else { 3 };
    let mut reply = question[..2].to_vec();
    reply.extend([0x85, 0x80 | no_such_name, 0, 1, 0, count, 0, 0, 0, 0]);
    reply.extend(&question[12..question_end]);
    for data in records {
        let length = u8::try_from(data.len()).unwrap();
        reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, length]);
        reply.extend(data);
    }
    reply
}
