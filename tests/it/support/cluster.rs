//! A real Redis cluster: three masters that share the slots.

use redis::FromRedisValue;

use crate::support::Redis;
use crate::support::wait_until;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

/// The last slot of each node.
const LAST: [u16; 3] = [5460, 10922, 16383];

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        let mut nodes = Vec::new();
        for _ in LAST {
            let options = "--cluster-enabled yes --cluster-config-file nodes.conf \
                           --cluster-port SECOND --cluster-node-timeout 1000";
            nodes.push(Redis::with_options(options, "").await);
        }
        let mut first = 0;
        for (number, node) in nodes.iter().enumerate() {
            let last = LAST[number];
            node.ask::<String>(&format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await;
            node.ask::<String>(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1)).await;
            first = last + 1;
        }
        for node in &nodes[1..] {
            let (port, bus) = (node.port(), node.second_port());
            nodes[0].ask::<String>(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}")).await;
        }
        let cluster = Cluster { nodes };
        cluster.wait_until_whole().await;
        cluster
    }

    /// For the command line: one node of them is told.
    pub(crate) fn flags(&self) -> String {
        format!("--redis-cluster {}", self.nodes[0].address())
    }

    /// The answer of each node to a command.
    pub(crate) async fn ask_all<T: FromRedisValue>(&self, command: &str) -> Vec<T> {
        let mut answers = Vec::new();
        for node in &self.nodes {
            answers.push(node.ask(command).await);
        }
        answers
    }

    /// Keys of hosts, of all nodes.
    pub(crate) async fn host_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for node in &self.nodes {
            keys.extend(node.host_keys().await);
        }
        keys
    }

    /// Which node had this slot at the start.
    pub(crate) fn node_of(slot: u16) -> usize {
        LAST.iter().position(|last| slot <= *last).unwrap()
    }

    /// Moves a slot with all its keys to another node, as a resharding does.
    pub(crate) async fn move_slot(&self, slot: u16, to: usize) {
        let from = Self::node_of(slot);
        assert_ne!(from, to, "the slot is there already");
        let ids: Vec<String> = self.ask_all("CLUSTER MYID").await;
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let set = |what: &str| format!("CLUSTER SETSLOT {slot} {what}");
        target.ask::<String>(&set(&format!("IMPORTING {}", ids[from]))).await;
        source.ask::<String>(&set(&format!("MIGRATING {}", ids[to]))).await;
        wait_until("all keys have moved", async || {
            let keys: Vec<String> = source.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 100")).await;
            if !keys.is_empty() {
                let (port, keys) = (target.port(), keys.join(" "));
                // Two spaces: an empty word, which says that the keys come behind.
                let migrate = format!("MIGRATE 127.0.0.1 {port}  0 1000 KEYS {keys}");
                source.ask::<String>(&migrate).await;
            }
            keys.is_empty()
        })
        .await;
        for node in [target, source] {
            node.ask::<String>(&set(&format!("NODE {}", ids[to]))).await;
        }
    }

    async fn wait_until_whole(&self) {
        wait_until("the cluster is whole", async || {
            let infos: Vec<String> = self.ask_all("CLUSTER INFO").await;
            infos.iter().all(|info| {
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            })
        })
        .await;
    }
}
