//! The `rdb-client` binary, and what it answered.

use crate::process::binary;
use crate::time::soon;
use serde_json::Value;
use std::net::SocketAddr;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Runs commands against one server.
#[derive(Debug, Clone)]
pub struct Cli {
    server: String,
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cli {
    /// Commands for the node at this address.
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server: server.to_string(),
        }
    }

    /// The server, as `host:port`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A command with its arguments, ready to run; the environment names the server.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(binary("rdb-client"));
        command.env_clear().env("RDB_SERVER", &self.server);
        command.envs(std::env::var_os("LLVM_PROFILE_FILE").map(|value| ("LLVM_PROFILE_FILE", value)));
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub async fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Answer {
        finish(self.command(arguments)).await
    }

    /// Runs a command, split at spaces, to its end.
    pub async fn line(&self, line: &str) -> Answer {
        self.run(line.split_whitespace()).await
    }

    /// Runs a command with JSON output; it must succeed.
    pub async fn json(&self, line: &str) -> Vec<Value> {
        let answer = self
            .run(["-o", "json"].into_iter().chain(line.split_whitespace()))
            .await;
        answer.succeeded().json_lines()
    }

    /// Runs a command with this standard input.
    pub async fn run_with_input<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
        input: &[u8],
    ) -> Answer {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("rdb-client can be started");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input).await.unwrap();
        drop(stdin);
        Answer::of(
            soon("the end of rdb-client", child.wait_with_output())
                .await
                .unwrap(),
        )
    }
}

/// Runs a command to its end.
pub async fn finish(mut command: Command) -> Answer {
    Answer::of(soon("the end of rdb-client", command.output()).await.unwrap())
}

impl Answer {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("rdb-client prints UTF-8");
        Self {
            code: output.status.code().expect("rdb-client is not ended by a signal"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Demands exit code 0.
    pub fn succeeded(self) -> Self {
        self.exited(0)
    }

    /// Demands an exit code.
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {self:?}");
        self
    }

    /// Standard output as one JSON object a line.
    pub fn json_lines(&self) -> Vec<Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Standard output as exactly one JSON object.
    pub fn json(&self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "one JSON object in {self:?}");
        lines.remove(0)
    }
}
