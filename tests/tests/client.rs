//! The Rust client in a cluster of real nodes: it finds the leaders by itself, and goes on when nodes die.
#![cfg(test)]

use rdb_client::{Client, Expectation, KeyName, NewEvent, ReadOptions};
use rdb_tests::authority::{Authority, Signed};
use rdb_tests::cluster::Cluster;
use rdb_tests::command::{Cli, finish};
use rdb_tests::etcd::{Etcd, free_port};
use rdb_tests::process::Settings;
use rdb_tests::say;
use rdb_tests::time::{Stopwatch, pause, within};
use rustix::process::Signal;
use std::time::Duration;

/// Longest wait for a write when a node dies: far above what a failover takes, far below the timeout of a call.
const PAUSE_MAX: Duration = Duration::from_secs(5);

fn name(key: &str) -> KeyName {
    KeyName::new("default", key).unwrap()
}

/// How many calls the nodes that are there have passed on to another one.
async fn passed_on(cluster: &Cluster, nodes: &[usize]) -> u64 {
    let mut sum = 0;
    for n in nodes {
        let (_, metrics) = cluster.node(*n).get("/metrics").await;
        let count = metrics
            .lines()
            .find_map(|line| line.strip_prefix("rdb_calls_passed_on_total "));
        sum += count.unwrap().parse::<u64>().unwrap();
    }
    sum
}

/// Writes to keys of every seat, and reads them. Returns how many events it wrote, and the longest wait for one.
async fn work(client: &Client, rounds: usize) -> (usize, Duration) {
    let mut longest = Duration::ZERO;
    let mut written = 0;
    for _ in 0..rounds {
        for key in 0..10 {
            let name = name(&format!("k{key}"));
            let watch = Stopwatch::start();
            let event = NewEvent::new("x");
            let id = event.event_id;
            let receipt = client.write(&name, event, Expectation::Any).await.unwrap();
            assert_eq!(receipt.stored.event_id, id);
            longest = longest.max(watch.elapsed());
            written += 1;
            let read = client.read(&name, ReadOptions::default()).await.unwrap();
            assert_eq!(read.event.seq, receipt.stored.seq);
        }
    }
    (written, longest)
}

/// Works until nothing is passed on any more. Returns how many events that wrote.
async fn until_direct(cluster: &Cluster, nodes: &[usize], client: &Client) -> usize {
    let mut written = 0;
    let direct = async {
        loop {
            let before = passed_on(cluster, nodes).await;
            written += work(client, 1).await.0;
            if passed_on(cluster, nodes).await == before {
                return;
            }
            pause().await;
        }
    };
    within(Duration::from_secs(30), "requests to go to the leaders", direct).await;
    written
}

/// One address is enough, also that of a node that leads nothing: once the client has learned who leads what, no
/// request is passed on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_to_the_leader_of_their_key() {
    let cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let leaders = [cluster.leader(0, 0).await, cluster.leader(0, 1).await];
    let other = (0..3).find(|n| !leaders.contains(n)).unwrap();
    let all = [0, 1, 2];
    let client = Client::connect([cluster.addresses()[other].to_string()]).unwrap();
    until_direct(&cluster, &all, &client).await;
    let before = passed_on(&cluster, &all).await;
    let (written, _) = work(&client, 20).await;
    assert_eq!(
        passed_on(&cluster, &all).await,
        before,
        "of {written} writes and as many reads"
    );
    assert!(
        before > 0,
        "the first ones were passed on, or this measures nothing"
    );
}

/// The node that the client was told of dies, then whoever leads; both come back. Every write succeeds, each is stored
/// once, and what is led elsewhere afterwards is found there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_when_nodes_die_also_the_one_it_was_told_of() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let told_of = cluster.leader(0, 0).await;
    let client = Client::connect([cluster.addresses()[told_of].to_string()]).unwrap();
    let mut written = until_direct(&cluster, &[0, 1, 2], &client).await;
    for _ in 0..2 {
        let mut victims = vec![told_of];
        victims.push(cluster.leader(0, 1).await);
        victims.dedup();
        for victim in victims {
            cluster.kill(victim).await;
            let (more, longest) = work(&client, 10).await;
            written += more;
            say(&format!("longest wait for a write after a kill: {longest:?}"));
            assert!(longest < PAUSE_MAX, "{longest:?}");
            let others: Vec<usize> = (0..3).filter(|n| *n != victim).collect();
            written += until_direct(&cluster, &others, &client).await;
            cluster.run(victim).await;
            cluster.until_led(true).await;
        }
    }
    written += until_direct(&cluster, &[0, 1, 2], &client).await;
    let events = cluster.events(0).await;
    assert_eq!(events.len(), written, "every write is stored once");
}

/// A leader that is stopped keeps its connections open: the client asks others, and goes to the next leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_does_not_wait_for_a_leader_that_hangs() {
    let cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let told_of = cluster.leader(0, 0).await;
    let client = Client::connect([cluster.addresses()[told_of].to_string()]).unwrap();
    let mut written = until_direct(&cluster, &[0, 1, 2], &client).await;
    cluster.node(told_of).signal(Signal::STOP);
    let (more, longest) = work(&client, 10).await;
    written += more;
    say(&format!("longest wait for a write after SIGSTOP: {longest:?}"));
    cluster.node(told_of).signal(Signal::CONT);
    assert!(longest < PAUSE_MAX, "{longest:?}");
    cluster.until_led(true).await;
    let events = cluster.events(0).await;
    assert_eq!(events.len(), written, "every write is stored once");
}

/// ETCD alone is enough for the command line, also when one of its endpoints is down; a database that nobody serves is
/// told as such.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_finds_the_nodes_through_etcd() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let etcd = format!("127.0.0.1:{},{}", free_port(), cluster.etcd.endpoint());
    let cli = Cli::new(cluster.addresses()[0]);
    let command = |arguments: &str| {
        let mut command = cli.command(arguments.split_whitespace());
        command.env_remove("RDB_SERVER").env("ETCD", &etcd);
        finish(command)
    };
    command("-k Deep -p first write").await.succeeded();
    // A node that is gone is known for as long as its lease lasts: the others are there.
    cluster.kill(0).await;
    let read = command("-k Deep -o json read").await.succeeded().json_lines();
    assert_eq!(read[0]["payload"], "first");
    let other = command("--db other -k Deep read").await.exited(5);
    assert!(
        other.stderr.contains("knows no live node of database `other`"),
        "{other:?}"
    );
}

/// Whoever starts a cluster may ask for its health at once, before etcd knows any node of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_health_awaits_the_nodes_too() {
    let etcd = Etcd::start().await;
    let data = tempfile::tempdir().unwrap();
    let settings = Settings::new(data.path())
        .with("ETCD", &etcd.endpoint())
        .with("GROUP_SIZE", "1");
    let command = |arguments: &str| {
        // Etcd is asked only where no server is named.
        let mut command = Cli::new("127.0.0.1:1".parse().unwrap()).command(arguments.split_whitespace());
        command.env_remove("RDB_SERVER").env("ETCD", etcd.endpoint());
        finish(command)
    };
    let late = command("--timeout 1s status --until-healthy").await.exited(5);
    assert!(
        late.stderr.contains("knows no live node of database `rdb`"),
        "{late:?}"
    );
    let waiting = command("--timeout 1m status --until-healthy");
    let (status, _node) = tokio::join!(waiting, settings.start());
    assert!(status.succeeded().stdout.contains("healthy"));
}

/// Through etcd too, when it speaks TLS and asks for a certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_reaches_etcd_by_tls() {
    let authority = Authority::new().await;
    let etcd = Etcd::start_with_tls(&authority).await;
    let Signed { certificate, key } = authority.sign("n1").await;
    let ca = authority.certificate();
    let files = [("ETCD_CA", ca), ("ETCD_CERT", certificate), ("ETCD_KEY", key)];
    let data = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(data.path())
        .with("ETCD", &etcd.endpoint())
        .with("GROUP_SIZE", "1");
    for (name, file) in &files {
        settings = settings.with(name, &file.to_string_lossy());
    }
    let node = settings.start().await;
    let mut command = Cli::new(node.grpc).command(["-k", "Deep", "-p", "first", "write"]);
    command
        .env_remove("RDB_SERVER")
        .env("ETCD", etcd.endpoint())
        .envs(files);
    finish(command).await.succeeded();
}
