//! Generated gRPC code of `proto/rdb/v1`, and its descriptor for the reflection service.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    let_underscore_drop,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    reason = "generated code"
)]

tonic::include_proto!("rdb.v1");

/// Encoded `FileDescriptorSet` of the public `.proto` files.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rdb_v1.bin"));
