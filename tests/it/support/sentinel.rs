//! A real Redis master with a replica, and a real sentinel that watches them.

use crate::support::Redis;
use crate::support::wait_until;

pub(crate) struct Sentinel {
    sentinel: Redis,
    /// The first master, and its first replica.
    pub(crate) servers: Vec<Redis>,
}

impl Sentinel {
    /// The name of the master.
    pub(crate) const MASTER: &str = "cat";

    pub(crate) async fn start() -> Sentinel {
        Sentinel::with_password("").await
    }

    /// A sentinel that asks for this password; the servers ask for none.
    pub(crate) async fn with_password(password: &str) -> Sentinel {
        let master = Redis::start().await;
        let options = format!("--replicaof 127.0.0.1 {}", master.port());
        let replica = Redis::with_options(&options, "").await;
        let servers = vec![master, replica];
        let (name, port) = (Self::MASTER, servers[0].port());
        let login =
            if password.is_empty() { String::new() } else { format!("requirepass {password}\n") };
        let sentinel = |_| {
            let text = format!(
                "{login}sentinel monitor {name} 127.0.0.1 {port} 1\n\
                 sentinel down-after-milliseconds {name} 500\n\
                 sentinel failover-timeout {name} 2000\n"
            );
            (vec![("sentinel.conf", text)], vec!["sentinel.conf".into(), "--sentinel".into()])
        };
        let sentinel = Redis::on_free_ports(sentinel, password).await;
        let all = Sentinel { sentinel, servers };
        wait_until("the sentinel knows the replica", async || {
            let words = format!("SENTINEL REPLICAS {}", Self::MASTER);
            let replicas: Vec<redis::Value> = all.sentinel.ask(&words).await;
            let info: String = all.servers[1].ask("INFO replication").await;
            replicas.len() == 1 && info.contains("master_link_status:up")
        })
        .await;
        all
    }

    /// For the command line.
    pub(crate) fn flags(&self) -> String {
        let address = self.sentinel.address();
        format!("--redis-sentinels {address} --redis-sentinel-master {}", Self::MASTER)
    }

    /// Which of the servers is the master, as the sentinel says.
    pub(crate) async fn master(&self) -> usize {
        let words = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {}", Self::MASTER);
        let (_, port): (String, u16) = self.sentinel.ask(&words).await;
        self.servers.iter().position(|server| server.port() == port).unwrap()
    }

    /// Lets the sentinel make the replica the master, while all are well.
    pub(crate) async fn failover(&self) {
        let before = self.master().await;
        let words = format!("SENTINEL FAILOVER {}", Self::MASTER);
        self.sentinel.ask::<String>(&words).await;
        self.wait_for_another_than(before).await;
    }

    /// Kills the master, and waits until the sentinel has made the replica the master.
    pub(crate) async fn kill_master(&mut self) {
        let before = self.master().await;
        self.servers[before].kill();
        self.wait_for_another_than(before).await;
    }

    async fn wait_for_another_than(&self, before: usize) {
        wait_until("the sentinel has chosen another master", async || {
            let now = self.master().await;
            let role = self.servers[now].try_ask::<Vec<redis::Value>>(0, "ROLE").await;
            let role =
                role.ok().and_then(|role| redis::from_redis_value::<String>(role[0].clone()).ok());
            now != before && role.as_deref() == Some("master")
        })
        .await;
    }
}
