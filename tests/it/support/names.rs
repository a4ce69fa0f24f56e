//! A name server: answers for the names it was given, NXDOMAIN for others, or nothing at all; or for
//! any names that begin with "yes".

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
        let names: HashMap<String, Vec<IpAddr>> = names;
        Names::start(move |name| Some(names.get(name).cloned())).await
    }

    /// 127.0.0.1 for this name once so many questions have been answered by that it does not exist.
    pub(crate) async fn late(questions: usize, name: &'static str) -> Names {
        let left = AtomicUsize::new(questions);
        Names::start(move |asked| {
            let less = |left: usize| left.checked_sub(1);
            let is_late = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err();
            Some((is_late && asked.starts_with(name)).then(|| vec![[127, 0, 0, 1].into()]))
        })
        .await
    }

    /// Names that begin with `yes` have the address 127.0.0.1; all others do not exist.
    pub(crate) async fn made_up() -> Names {
        Names::start(|name| Some(name.starts_with("yes").then(|| vec![[127, 0, 0, 1].into()])))
            .await
    }

    /// Hears each question and never answers.
    pub(crate) async fn silent() -> Names {
        Names::start(|_| None).await
    }

    /// `find` says what addresses a name has, if it exists, if there is to be an answer.
    async fn start(find: impl Fn(&str) -> Option<Option<Vec<IpAddr>>> + Send + 'static) -> Names {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let (name, kind, end) = question(&buffer[..length]);
                if let Some(known) = find(&name) {
                    let reply = reply(&buffer[..end], kind, known.as_deref());
                    socket.send_to(&reply, from).await.unwrap();
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

/// RFC 1035 §4.1.2: the name asked for, the type, and where the question ends.
fn question(message: &[u8]) -> (String, u8, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    (labels.join("."), message[at + 2], at + 5)
}

/// RFC 1035 §4: the question repeated, and an address record for each address of its kind.
fn reply(question: &[u8], kind: u8, known: Option<&[IpAddr]>) -> Vec<u8> {
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
    reply.extend(&question[12..]);
    for data in records {
        let length = u8::try_from(data.len()).unwrap();
        reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, length]);
        reply.extend(data);
    }
    reply
}
