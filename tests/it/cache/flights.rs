//! One request to the origin for many who ask for the same.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::*;
use crate::support::wait_until;

/// An origin that holds its answers back: the head, or the second half of the body, until it is let.
struct Gate {
    origin: Origin,
    hits: Arc<Mutex<usize>>,
    head: Arc<AtomicBool>,
    rest: Arc<AtomicBool>,
}

impl Gate {
    fn new(fields: &'static str) -> Gate {
        let hits = Arc::<Mutex<usize>>::default();
        let [head, rest] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let all = (Arc::clone(&hits), Arc::clone(&head), Arc::clone(&rest));
        let origin = Origin::raw(move |mut connection| {
            let (hits, head, rest) = all.clone();
            async move {
                while let Ok(Some(_head)) = connection.head().await {
                    *hits.lock().unwrap() += 1;
                    opened(&head).await;
                    let text = ok(fields, "onetwo");
                    let (first, last) = text.split_at(text.len() - 3);
                    if connection.send(first).await.is_err() {
                        return;
                    }
                    opened(&rest).await;
                    if connection.send(last).await.is_err() {
                        return;
                    }
                }
            }
        });
        Gate { origin, hits, head, rest }
    }

    fn hits(&self) -> usize {
        *self.hits.lock().unwrap()
    }

    async fn proxy(&self) -> Cached {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("narrows.yaml");
        let text = format!(
            "api:\n  a:\n    target_url: {}\n    enable_cache: true\n",
            self.origin.url("")
        );
        std::fs::write(&path, text).unwrap();
        let proxy =
            narrows().flags(format!("--config {} --threads 2", path.display())).start().await;
        Cached { proxy, _folder: folder, origin: self.origin.url("") }
    }
}

async fn opened(gate: &Arc<AtomicBool>) {
    let gate = Arc::clone(gate);
    while !gate.load(SeqCst) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn asking(proxy: &Cached, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = proxy.client().await;
        client.send_request("GET", "/api/a/", &[]).await;
        clients.push(client);
    }
    clients
}

///
#[tokio::test]
async fn many_who_ask_at_once_make_one_request_to_the_origin() {
    let gate = Gate::new("");
    let proxy = gate.proxy().await;
    let mut clients = asking(&proxy, 40).await;
    wait_until("the first asks", async || gate.hits() == 1).await;
    gate.head.store(true, SeqCst);
    gate.rest.store(true, SeqCst);
    let mut collapsed = 0;
    for client in &mut clients {
        let response = client.response("GET").await;
        assert_eq!(response.text(), "onetwo");
        collapsed += usize::from(status(&response).ends_with("; collapsed"));
    }
    assert!(collapsed > 0);
    assert_eq!(gate.hits(), 1);
}

#[tokio::test]
async fn a_leader_that_leaves_before_there_is_an_answer_is_followed_by_another() {
    let gate = Gate::new("");
    let proxy = gate.proxy().await;
    let mut clients = asking(&proxy, 1).await;
    wait_until("the first asks", async || gate.hits() == 1).await;
    clients.extend(asking(&proxy, 3).await);
    clients.remove(0).reset();
    wait_until("another asks", async || gate.hits() == 2).await;
    gate.head.store(true, SeqCst);
    gate.rest.store(true, SeqCst);
    for client in &mut clients {
        assert_eq!(client.response("GET").await.text(), "onetwo");
    }
    assert_eq!(gate.hits(), 2);
}

#[tokio::test]
async fn a_leader_that_leaves_in_the_middle_cuts_nobody() {
    let gate = Gate::new("");
    let proxy = gate.proxy().await;
    let mut clients = asking(&proxy, 1).await;
    wait_until("the first asks", async || gate.hits() == 1).await;
    clients.extend(asking(&proxy, 3).await);
    gate.head.store(true, SeqCst);
    for client in &mut clients {
        client.head().await;
    }
    clients.remove(0).reset();
    gate.rest.store(true, SeqCst);
    for client in &mut clients {
        assert_eq!(client.exactly(6).await, b"onetwo");
    }
    wait_until("it is kept", async || cache(&proxy.get("/").await) == "HIT").await;
    assert_eq!(gate.hits(), 1);
}

#[tokio::test]
async fn what_is_for_one_goes_to_each_by_a_request_of_its_own() {
    let gate = Gate::new("Cache-Control: private\r\n");
    let proxy = gate.proxy().await;
    let mut clients = asking(&proxy, 4).await;
    wait_until("the first asks", async || gate.hits() == 1).await;
    gate.head.store(true, SeqCst);
    gate.rest.store(true, SeqCst);
    for client in &mut clients {
        let response = client.response("GET").await;
        assert_eq!((response.text(), cache(&response)), ("onetwo", "MISS"));
    }
    assert_eq!(gate.hits(), 4);
}
