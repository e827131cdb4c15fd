//! Generated gRPC code of `proto/rdb/v1/member.proto`: messages between nodes, apart from the public services.
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

tonic::include_proto!("rdb.v1.member");
