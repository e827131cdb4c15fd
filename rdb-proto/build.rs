//! Generates the gRPC code from `proto/`, without a `protoc` on the machine.

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use std::path::PathBuf;

const FILES: [&str; 6] = [
    "rdb/v1/event.proto",
    "rdb/v1/data.proto",
    "rdb/v1/changes.proto",
    "rdb/v1/subscriptions.proto",
    "rdb/v1/cluster.proto",
    "rdb/v1/admin.proto",
];

/// What nodes say to each other. Generated apart, and left out of the description that reflection serves.
const INTERNAL: [&str; 1] = ["rdb/v1/member.proto"];

/// Message fields that carry events on their way out.
///
/// A sub-message and a `bytes` field look the same on the wire. The log already holds events in wire form, so
/// the generated Rust treats these as bytes: the server passes them on without decoding. Other languages see
/// the typed message of the `.proto`.
const PASSED_THROUGH: [(&str, &str); 4] = [
    ("SubscribeResponse", "changes"),
    ("HistoryResponse", "events"),
    ("ReadResponse", "event"),
    ("SnapshotAnswer", "event"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let public = protox::compile(FILES, ["proto"])?;
    #[expect(
        clippy::disallowed_methods,
        reason = "cargo hands the output folder over in the environment"
    )]
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("rdb_v1.bin"), public.encode_to_vec())?;

    for set in [
        with_events_as_bytes(public),
        protox::compile(INTERNAL, ["proto"])?,
    ] {
        tonic_prost_build::configure()
            .bytes(".")
            .btree_map(".")
            .compile_fds(set)?;
    }
    Ok(())
}

fn with_events_as_bytes(mut set: FileDescriptorSet) -> FileDescriptorSet {
    for (message, field) in PASSED_THROUGH {
        let found = set
            .file
            .iter_mut()
            .find_map(|file| field_of(file, message, field));
        let field = found.unwrap_or_else(|| unreachable!("{message}.{field} stands in proto/"));
        field.set_type(Type::Bytes);
        field.type_name = None;
    }
    set
}

fn field_of<'a>(
    file: &'a mut FileDescriptorProto,
    message: &str,
    field: &str,
) -> Option<&'a mut prost_types::FieldDescriptorProto> {
    let message = file.message_type.iter_mut().find(|m| m.name() == message)?;
    message.field.iter_mut().find(|f| f.name() == field)
}
