//! The hosts of a run: nodes, and the model etcd.

use super::ground::listen;
use super::plan::Plan;
use crate::model_etcd::served::Service;
use clap::Parser as _;
use rdb_server::api::grpc;
use rdb_server::clock;
use rdb_server::limits::{CLOSE_GRACE, HAND_OVER_GRACE, SHUTDOWN_GRACE};
use rdb_server::node;
use rdb_server::settings::Settings;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

/// Name of the host that etcd is on.
pub(super) const ETCD: &str = "etcd";
/// Shortest lease that the model grants, in seconds.
const SHORTEST_LEASE: i64 = 2;

/// See the module.
pub(super) struct Site {
    pub(super) etcd: Service,
    pub(super) nodes: Vec<String>,
    /// What tells the node of this name to stop.
    stops: Rc<RefCell<BTreeMap<String, CancellationToken>>>,
    _data: TempDir,
}

impl Site {
    /// Puts the hosts of a plan into a simulation.
    pub(super) fn raise(sim: &mut Sim<'_>, plan: &Plan) -> Self {
        let data = tempfile::tempdir().unwrap();
        let etcd = Service::new(SHORTEST_LEASE);
        let service = etcd.clone();
        sim.host(ETCD, move || {
            let service = service.clone();
            async move {
                let accepted = listen(2379).await?;
                let passing = service
                    .clone()
                    .let_time_pass(|| turmoil::sim_elapsed().unwrap_or_default());
                tokio::select! {
                    biased;
                    () = service.serve(accepted) => {}
                    () = passing => {}
                }
                Ok(())
            }
        });
        let nodes: Vec<String> = (1..=plan.nodes).map(|n| format!("n{n}")).collect();
        let stops: Rc<RefCell<BTreeMap<String, CancellationToken>>> = Rc::default();
        for name in &nodes {
            let settings = settings(name, data.path(), plan);
            let (stops, own) = (Rc::clone(&stops), name.clone());
            sim.host(name.as_str(), move || {
                let stop = CancellationToken::new();
                stops.borrow_mut().insert(own.clone(), stop.clone());
                serve(settings.clone(), stop)
            });
        }
        Self {
            etcd,
            nodes,
            stops,
            _data: data,
        }
    }

    /// Tells a node to stop, as SIGTERM would.
    pub(super) fn stop(&self, node: &str) {
        if let Some(stop) = self.stops.borrow().get(node) {
            stop.cancel();
        }
    }
}

fn settings(name: &str, data: &Path, plan: &Plan) -> Settings {
    let words = [
        "rdb-server".to_owned(),
        format!("--etcd={ETCD}:2379"),
        format!("--node={name}"),
        format!("--address={name}"),
        "--port=2048".to_owned(),
        format!("--data-dir={}", data.join(name).display()),
        format!("--shard-groups={}", plan.groups),
        "--lease-ttl=2".to_owned(),
        "--refresh-interval=1".to_owned(),
    ];
    let settings = Settings::try_parse_from(words).unwrap();
    settings.check().unwrap();
    settings
}

/// A node, from its start to its stop.
async fn serve(settings: Settings, stop: CancellationToken) -> turmoil::Result {
    let accepted = listen(settings.port).await?;
    let node = tokio::select! {
        biased;
        node = Box::pin(node::start(&settings)) => node?,
        () = stop.cancelled() => return Ok(()),
    };
    let handle = node.handle();
    let closing = CancellationToken::new();
    let ended = grpc::serve(&handle, accepted, closing.clone()).await?;
    stop.cancelled().await;
    clock::within(HAND_OVER_GRACE, node.hand_over()).await;
    handle.tasks().stop();
    closing.cancel();
    clock::within(SHUTDOWN_GRACE, ended.cancelled()).await;
    drop(handle);
    clock::within(CLOSE_GRACE, node.stop()).await.transpose()?;
    Ok(())
}
