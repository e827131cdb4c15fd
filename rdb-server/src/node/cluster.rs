//! A node of a cluster: joins through etcd, opens what it has members of, and follows what the coordinator decides.

use super::combining;
use super::guarding::{GuardDriver, Memory};
use super::handle::{SeatHandle, Shared, host_and_port};
use super::members::{Members, Rooms, Tuning};
use super::telemetry::Telemetry;
use super::{Handle, Node, StartError, open_index, start_blocking};
use crate::clock;
use crate::coordination::View;
use crate::coordination::etcd::{self, EtcdSettings, EtcdTls};
use crate::limits::ETCD_LOOK_EVERY;
use crate::settings::Settings;
use crate::storage::{DataDir, FreshIds};
use rdb_proto::types::{GroupId, NodeId, SeatId, Side};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Joins the cluster, and opens the logs that are there. Completes when every seat that this node has a member of is
/// running; it may then still have no leader.
pub(super) async fn start(settings: &Settings) -> Result<Node, StartError> {
    let connected = etcd::connect(etcd_settings(settings)).await?;
    let fresh = FreshIds {
        database: connected.database(),
        directory: clock::new_uuid(),
    };
    let path = settings.data_dir.clone();
    let data_dir = start_blocking(move || Ok(DataDir::open(&path, fresh)?)).await?;
    if data_dir.database() != fresh.database {
        return Err(StartError::OtherDatabase {
            path: settings.data_dir.clone(),
            found: data_dir.database(),
            expected: fresh.database,
        });
    }
    let data_dir = Arc::new(data_dir);
    let reading = Arc::clone(&data_dir);
    let memory = start_blocking(move || Ok(Memory::read(&reading)?)).await?;
    let connected = connected.remembering(memory.as_ref().map(|memory| memory.node));
    let coordinator = Arc::new(Box::pin(connected.join(data_dir.directory())).await?);
    let guarded = Arc::clone(&coordinator);
    let telemetry = Arc::new(Telemetry::counting(&coordinator.numbers_stats()));
    let rooms = Rooms::new(
        Arc::clone(&data_dir),
        coordinator,
        telemetry,
        settings.shard_groups,
    );
    let (settings, own) = (settings.clone(), settings.clone());
    let members = start_blocking(move || {
        let index = open_index(&own, &rooms.data_dir)?;
        Ok(Arc::new(Members::new(rooms, Tuning::of(&own), index)))
    })
    .await?;
    // Before the first seat: none may ask for numbers that nobody guards.
    let seen = memory.map(|memory| memory.seen).unwrap_or_default();
    let guard = GuardDriver::new(Arc::clone(&guarded), Arc::clone(&members), seen);
    // After that: others get numbers from here only when the guard lets them.
    combining::connect(&guarded, &members.rooms.transport);
    let view = Arc::clone(&members.rooms.coordinator.view().borrow());
    let on_disk = data_dir.seats()?;
    let mine = seats_of(&view, members.rooms.coordinator.node_id());
    for seat in mine.into_iter().chain(on_disk) {
        open(&members, seat).await?;
    }
    // After the last: what it tells others includes what all logs hold.
    members.spawn(guard.run());
    let handle = Handle::new(Shared::new(&settings, &members, Some(guarded)));
    handle.watch_mark();
    let node = Node { handle, members };
    node.members.spawn(follow(Arc::clone(&node.members)));
    Ok(node)
}

fn etcd_settings(settings: &Settings) -> EtcdSettings {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    EtcdSettings {
        endpoints: settings.endpoints(),
        user: given(&settings.etcd_user),
        password: given(&settings.etcd_password),
        tls: given(&settings.etcd_ca).map(|ca| EtcdTls {
            ca: ca.into(),
            identity: given(&settings.etcd_cert)
                .zip(given(&settings.etcd_key))
                .map(|(certificate, key)| (certificate.into(), key.into())),
        }),
        database: settings.db.clone(),
        counter_key: settings.counter_key(),
        shard_groups: settings.shard_groups,
        group_size: settings.group_size(),
        writes: settings.writes(),
        lease_ttl: Duration::from_secs(settings.lease_ttl),
        refresh_interval: Duration::from_secs(settings.refresh_interval),
        replace_after: settings.replace_after(),
        look_every: ETCD_LOOK_EVERY,
        heartbeat_interval: Duration::from_millis(settings.heartbeat_interval),
        node_name: settings.node.clone(),
        address: host_and_port(&settings.address, settings.port),
        release: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Opens a seat, unless it is open.
async fn open(members: &Arc<Members>, seat: SeatId) -> Result<(), StartError> {
    if members.seats().borrow().contains_key(&seat) || members.rejoin(seat) {
        return Ok(());
    }
    let opening = Arc::clone(members);
    start_blocking(move || opening.open(seat)).await
}

/// Seats that the node is a member of, or is to catch up in.
fn seats_of(view: &View, me: NodeId) -> BTreeSet<SeatId> {
    let is_member = |group: &GroupId| {
        view.groups
            .get(group)
            .is_some_and(|membership| membership.everybody().any(|node| node == me))
    };
    let is_learner = |group: &GroupId| view.learners.get(group).is_some_and(|nodes| nodes.contains(&me));
    let groups: BTreeSet<GroupId> = view.groups.keys().chain(view.learners.keys()).copied().collect();
    groups
        .into_iter()
        .filter(|group| is_member(group) || is_learner(group))
        .flat_map(|group| Side::BOTH.map(|side| SeatId { group, side }))
        .collect()
}

/// Seats that are open here, and that the node is no member of any more, as far as the coordinator and the seat itself
/// know: an etcd that was restored to an older state does not take seats away.
fn left(members: &Members, view: &View, me: NodeId) -> Vec<SeatId> {
    if view.problem.is_some() {
        return Vec::new();
    }
    let mine = seats_of(view, me);
    let seats = members.seats();
    let open = seats.borrow();
    let is_over = |(id, seat): &(&SeatId, &Arc<SeatHandle>)| {
        let membership = view.groups.get(&id.group);
        !mine.contains(id) && membership.is_some_and(|now| now.number >= seat.view.borrow().config)
    };
    open.iter().filter(is_over).map(|(id, _)| *id).collect()
}

/// Opens the seats that the node becomes a member of, takes requests away from those that it leaves, and tells the transport where the
/// others are, until the node stops.
async fn follow(members: Arc<Members>) {
    let me = members.rooms.coordinator.node_id();
    let mut views = members.rooms.coordinator.view();
    let stopping = members.stopping();
    tokio::pin!(stopping);
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        let others = view.nodes.keys().filter(|node| **node != me);
        let peers = others.filter_map(|node| Some((*node, view.address(*node)?.to_owned())));
        members.rooms.transport.set_peers(&peers.collect());
        for seat in seats_of(&view, me) {
            if let Err(error) = open(&members, seat).await {
                tracing::error!(%seat, %error, "a member of this seat cannot be opened here; trying with the next change");
            }
        }
        for seat in left(&members, &view, me) {
            members.leave(seat);
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = &mut stopping => return,
        }
    }
}
