//! Generated gRPC code of `proto/rdb/member/v1`: what nodes say to each other.
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

tonic::include_proto!("rdb.member.v1");
