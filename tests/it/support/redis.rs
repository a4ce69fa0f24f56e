//! A private Redis server: real, on a port of its own below the ephemeral range, gone with the test.

use std::net::TcpListener;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use redis::FromRedisValue;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

use crate::support::wait_until;

pub(crate) struct Redis {
    server: Child,
    port: u16,
    second: u16,
    options: Vec<String>,
    password: String,
    folder: tempfile::TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Redis {
        Redis::with_password("").await
    }

    pub(crate) async fn with_password(password: &str) -> Redis {
        let options = if password.is_empty() { "" } else { "--requirepass {}" };
        Redis::with_options(&options.replace("{}", password), password).await
    }

    /// With these words on its command line; its tests log in by `password`.
    pub(crate) async fn with_options(options: &str, password: &str) -> Redis {
        let options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        Redis::on_free_ports(|_| (Vec::new(), options.clone()), password).await
    }

    /// Tries ports until it has one; `words` are the files and the options that go with a port.
    /// SECOND in an option is a second port that is free too.
    pub(crate) async fn on_free_ports(
        words: impl Fn(u16) -> (Vec<(&'static str, String)>, Vec<String>),
        password: &str,
    ) -> Redis {
        for _ in 0..20 {
            let (port, second) = (fastrand::u16(10_000..32_000), fastrand::u16(10_000..32_000));
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if port == second || !is_free(port) || !is_free(second) {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let (files, options) = words(port);
            for (name, text) in files {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
            let put = |option: &String| option.replace("SECOND", &second.to_string());
            let options: Vec<String> = options.iter().map(put).collect();
            let server = run(port, &options, &folder);
            let password = password.to_owned();
            let mut redis = Redis { server, port, second, options, password, folder };
            if redis.is_up().await {
                return redis;
            }
        }
        panic!("no port for redis-server");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The port for what SECOND stood for.
    pub(crate) fn second_port(&self) -> u16 {
        self.second
    }

    /// For `--redis-addr`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The reply to a command whose words have no spaces.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        self.ask_in(0, command).await
    }

    /// The same in another database than the first.
    pub(crate) async fn ask_in<T: FromRedisValue>(&self, database: u8, command: &str) -> T {
        let reply = self.try_ask(database, command).await;
        reply.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub(crate) async fn try_ask<T: FromRedisValue>(
        &self,
        database: u8,
        command: &str,
    ) -> redis::RedisResult<T> {
        let (address, password) = (self.address(), &self.password);
        let client = redis::Client::open(format!("redis://:{password}@{address}/{database}"))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap_or_default());
        for word in words {
            cmd.arg(word);
        }
        cmd.query_async(&mut connection).await
    }

    /// Keys of hosts: all but the few that belong to the fleet (`@w`, `@lease`).
    pub(crate) async fn host_keys(&self) -> Vec<String> {
        let keys: Vec<String> = self.ask("KEYS *").await;
        keys.into_iter().filter(|key| !key.contains(":@")).collect()
    }

    /// Kills it at once; nothing is saved.
    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Empty, on the same port, after [`Redis::kill`].
    pub(crate) async fn restart(&mut self) {
        self.server = run(self.port, &self.options, &self.folder);
        assert!(self.is_up().await, "redis-server did not start again on port {}", self.port);
    }

    /// Stops its clock: connections stay, nothing is answered.
    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.server)
    }

    /// Waits until it, and no other test's, answers on the port; false if it ended instead.
    async fn is_up(&mut self) -> bool {
        let itself = format!("process_id:{}\r", self.server.id());
        let mut has_ended = false;
        wait_until("redis-server answers", async || {
            has_ended = self.server.try_wait().unwrap().is_some();
            let info = self.try_ask::<String>(0, "INFO server").await;
            has_ended || info.is_ok_and(|info| info.contains(&itself))
        })
        .await;
        !has_ended
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Already gone is as good.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn run(port: u16, options: &[String], folder: &tempfile::TempDir) -> Child {
    // A file to be read, if there is one, must come first; a sentinel knows no data.
    let is_sentinel = options.iter().any(|option| option == "--sentinel");
    let data: &[&str] = if is_sentinel { &[] } else { &["--save", "", "--appendonly", "no"] };
    let file = options.iter().take_while(|option| !option.starts_with("--"));
    let rest = options.iter().skip_while(|option| !option.starts_with("--"));
    Command::new("redis-server")
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(data)
        .args(rest)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("redis-server cannot be started ({error}): run scripts/test, which installs it")
        })
}
