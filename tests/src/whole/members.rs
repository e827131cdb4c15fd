//! Whether the members of each seat hold the same at the end, on disk and whole.

use rdb_client::{Client, Error, FindingKind, VerifiedBlock, VerifyEnd, VerifySeat};
use rdb_server::clock;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two looks at a member that is behind.
const LOOKS_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A run of entries: group, seat, first and last.
type Place = (u32, u32, u64, u64);

/// Reads every member's logs up to what is committed, once they have come so far, and compares them.
pub(super) async fn compare(nodes: Vec<String>) -> turmoil::Result {
    let client = Client::connect(&nodes)?;
    let status = client.status().await?;
    let seats = status.groups.iter().flat_map(|group| {
        group.seats.iter().map(|seat| VerifySeat {
            group: group.group,
            seat: seat.seat,
            up_to: seat.commit,
        })
    });
    let seats: Vec<VerifySeat> = seats.collect();
    let mut known: BTreeMap<Place, (String, Vec<u8>)> = BTreeMap::new();
    for node in &nodes {
        for seat in &seats {
            for block in whole(&client, node, *seat).await? {
                let place = (seat.group, seat.seat, block.first, block.last);
                let (other, digest) = known
                    .entry(place)
                    .or_insert_with(|| (node.clone(), block.digest.clone()));
                if *digest != block.digest {
                    return Err(format!("{node} and {other} differ at {place:?}").into());
                }
            }
        }
    }
    Ok(())
}

/// What a node has of a seat, once that is everything; nothing where it has no member. A connection that messages were lost
/// on may break only now: then it is asked again.
async fn whole(client: &Client, node: &str, seat: VerifySeat) -> turmoil::Result<Vec<VerifiedBlock>> {
    loop {
        match read(client, node, seat).await {
            Ok(Some(Ok(blocks))) => return Ok(blocks),
            Ok(Some(Err(damage))) => return Err(format!("{node}: {damage}").into()),
            Ok(None) | Err(_) => clock::sleep(LOOKS_AGAIN_AFTER).await,
        }
    }
}

/// Everything, or what is damaged; `None` when the member is behind.
async fn read(
    client: &Client,
    node: &str,
    seat: VerifySeat,
) -> Result<Option<Result<Vec<VerifiedBlock>, String>>, Error> {
    let mut findings = client.verify(node, &[seat], 0).await?;
    let mut blocks = Vec::new();
    while let Some(finding) = findings.next().await? {
        match finding.found {
            FindingKind::Block(block) => blocks.push(block),
            FindingKind::End {
                reason: VerifyEnd::Done | VerifyEnd::NotHere,
                ..
            } => return Ok(Some(Ok(blocks))),
            FindingKind::End { .. } => {}
            FindingKind::Damage { index, what, .. } => {
                return Ok(Some(Err(format!("entry {index} of {seat:?}: {what}"))));
            }
        }
    }
    Ok(None)
}
